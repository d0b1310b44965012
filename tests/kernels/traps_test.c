/* What ports of this model got wrong, one case each, at the level of the ops. The oracle's stored
 * cases and the twins hold much of it too; here it has a name and a number one can check by hand.
 */
#include "check.h"
#include "bed.h"
#include "twin.h"

typedef void (*table_test)(const tarnk_ops *ops);

static void with_every_table(table_test test)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        test(tables[t]);
        bed_end();
    }
}

/* ---- KDA ------------------------------------------------------------------------------------- */

#define HEADS 2

/* Runs the recurrence over these log decays, keys and betas, and compares with the twin. */
static void check_recurrence(const tarnk_ops *ops, float *g, float *k, float *beta, uint32_t dim,
                             uint32_t v_dim, uint32_t n_rows, const char *what)
{
    const size_t rows = (size_t)n_rows * HEADS, state = (size_t)HEADS * dim * v_dim;
    float *initial = bed_floats(state, 5, 1), *out = bed_alloc(rows * v_dim * 4);
    double *want_state = bed_alloc(state * 8), *want = bed_alloc(rows * v_dim * 8);
    for (size_t i = 0; i < state; i++)
        want_state[i] = (double)initial[i];
    tarnk_seq seq = {
        .n_rows = n_rows, .state_read = (uint8_t *)initial, .state_write = (uint8_t *)initial};
    float *q = bed_floats(rows * dim, 1, 0.1F), *v = bed_floats(rows * v_dim, 6, 1);
    tarnk_kda_args a = {q, k, v, g, beta, out, &seq, 1, HEADS, dim, v_dim, 0};
    twin_kda(&a, want_state, want);
    CHECK_EQ(ops->kda(&a, bed_context(2)), 0);
    double out_error = bed_error(out, want, rows * v_dim);
    double state_error = bed_error(initial, want_state, state);
    if (!(out_error <= 1e-5 && state_error <= 1e-5))
        CHECK_FAIL("%s: %s, %u rows: out is off by %.3g, state by %.3g", ops->name, what, n_rows,
                   out_error, state_error);
}

static const uint32_t LENGTHS[] = {1, 2, 3, 15, 16, 17, 63, 64, 65, 200};

static void unbounded_gate(const tarnk_ops *ops)
{
    const uint32_t dim = 100, v_dim = 60;
    for (size_t i = 0; i < sizeof LENGTHS / sizeof LENGTHS[0]; i++) {
        size_t rows = (size_t)LENGTHS[i] * HEADS, n = rows * dim;
        /* exp(ln 16) * softplus(5.0) is 80.1: published weights come there. */
        tarnk_kda_gate_args gate = {.q = bed_floats(n, 1, 1),
                                    .k = bed_floats(n, 2, 1),
                                    .f = bed_filled(n, 4),
                                    .b = bed_filled(rows, 30),
                                    .a_log = bed_filled(HEADS, 2.7725887F),
                                    .dt_bias = bed_filled((size_t)HEADS * dim, 1),
                                    .n_rows = LENGTHS[i],
                                    .n_heads = HEADS,
                                    .head_dim = dim};
        for (size_t k = 0; k < n; k += 3)
            gate.f[k] = -100; /* and some channels do not forget at all */
        CHECK_EQ(ops->kda_gate(&gate, bed_context(1)), 0);
        CHECK(fabs((double)gate.f[1] + 80.10744) < 1e-3);
        CHECK(gate.f[0] <= 0 && gate.f[0] > -1e-30F);
        CHECK(gate.b[0] == 1);
        check_recurrence(ops, gate.f, gate.k, gate.b, dim, v_dim, LENGTHS[i], "gates of -80 and 0");
    }
}

CASE(the_gate_is_unbounded_to_minus_80_a_token)
{
    with_every_table(unbounded_gate);
}

/* The state's only key is told again and again with beta 1 and no decay: chunked forms cancel. */
static void collinear_keys(const tarnk_ops *ops)
{
    const uint32_t dim = 20, v_dim = 24;
    for (size_t i = 0; i < sizeof LENGTHS / sizeof LENGTHS[0]; i++) {
        size_t rows = (size_t)LENGTHS[i] * HEADS;
        float *k = bed_filled(rows * dim, 0.2236068F); /* of length 1 */
        check_recurrence(ops, bed_filled(rows * dim, 0), k, bed_filled(rows, 1), dim, v_dim,
                         LENGTHS[i], "collinear keys");
    }
}

CASE(keys_may_all_be_the_same)
{
    with_every_table(collinear_keys);
}

/* K 1, V 1: S = e^g S; then S += beta k (v - k S); out = q S. By hand. */
static void order_of_decay(const tarnk_ops *ops)
{
    float state = 8, q = 3, k = 0.5F, v = 10, g = -0.6931472F, beta = 0.5F, out = 0;
    tarnk_seq seq = {
        .n_rows = 1, .state_read = (uint8_t *)&state, .state_write = (uint8_t *)&state};
    tarnk_kda_args a = {&q, &k, &v, &g, &beta, &out, &seq, 1, 1, 1, 1, 0};
    CHECK_EQ(ops->kda(&a, bed_context(1)), 0);
    CHECK(fabs((double)state - 6.0) < 1e-5); /* 4 + 0.5 * 0.5 * (10 - 0.5 * 4) */
    CHECK(fabs((double)out - 18.0) < 2e-5);  /* the state after the correction */
}

CASE(decay_comes_before_the_correction_and_the_output_after)
{
    with_every_table(order_of_decay);
}

/* Two keys, one value: only the key that decays is forgotten. The state is [K][V]. */
static void decay_axis(const tarnk_ops *ops)
{
    float state[6] = {1, 2, 3, 4, 5, 6}, q[2] = {0, 0}, k[2] = {0, 0}, v[3] = {9, 9, 9};
    float g[2] = {-0.6931472F, 0}, beta = 1, out[3];
    tarnk_seq seq = {.n_rows = 1, .state_read = (uint8_t *)state, .state_write = (uint8_t *)state};
    tarnk_kda_args a = {q, k, v, g, &beta, out, &seq, 1, 1, 2, 3, 0};
    const float want[6] = {0.5F, 1, 1.5F, 4, 5, 6};
    CHECK_EQ(ops->kda(&a, bed_context(1)), 0);
    CHECK_CLOSE(state, want, 6, 1e-6);
}

CASE(decay_is_along_the_keys_and_not_the_values)
{
    with_every_table(decay_axis);
}

/* x / sqrt(sum + 1e-6), and q again by the root of the head size: 1e-6 counts for tiny heads. */
static void tiny_norms(const tarnk_ops *ops)
{
    float q[4] = {1e-3F, 0, 0, 0}, k[4] = {0, 3, 0, 4}, f[4] = {0}, b = 0, a_log = 0;
    float dt_bias[4] = {0};
    tarnk_kda_gate_args a = {.q = q,
                             .k = k,
                             .f = f,
                             .b = &b,
                             .a_log = &a_log,
                             .dt_bias = dt_bias,
                             .n_rows = 1,
                             .n_heads = 1,
                             .head_dim = 4};
    CHECK_EQ(ops->kda_gate(&a, bed_context(1)), 0);
    CHECK(fabs((double)q[0] - 0.5 * 0.70710678) < 1e-6);
    CHECK(fabs((double)k[1] - 0.6) < 1e-6 && fabs((double)k[3] - 0.8) < 1e-6);
    CHECK(fabs((double)f[0] + 0.69314718) < 1e-6 && b == 0.5F);
}

CASE(norms_of_heads_have_their_epsilon_inside)
{
    with_every_table(tiny_norms);
}

/* ---- MLA ------------------------------------------------------------------------------------- */

#define NOPE   5
#define ROPE   3
#define V_DIM  7
#define RANK   6
#define LATENT (RANK + ROPE)

/* Attention of one row over these latents, in pages that are NaN behind the last of them. */
static void attend(const tarnk_ops *ops, const float *latents, uint32_t n, float *out)
{
    uint32_t n_pages = (n + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
    uint8_t **pages = bed_alloc(n_pages * sizeof *pages);
    for (uint32_t i = 0; i < n_pages; i++) {
        uint32_t rows = n - i * TARNK_PAGE_TOKENS;
        rows = rows < TARNK_PAGE_TOKENS ? rows : TARNK_PAGE_TOKENS;
        pages[i] = bed_alloc((size_t)TARNK_PAGE_TOKENS * LATENT * 4);
        memcpy(pages[i], latents + (size_t)i * TARNK_PAGE_TOKENS * LATENT,
               (size_t)rows * LATENT * 4);
    }
    tarnk_seq seq = {.n_rows = 1, .position = n - 1, .pages = pages};
    tarnk_mla_args a = {.q = bed_floats(2 * (NOPE + ROPE), 3, 3),
                        .kv_b = bed_matrix(2 * (NOPE + V_DIM), RANK, TARNK_F32, 0, 4),
                        .out = out,
                        .seqs = &seq,
                        .n_seqs = 1,
                        .n_rows = 1,
                        .n_heads = 2,
                        .nope = NOPE,
                        .rope = ROPE,
                        .v_dim = V_DIM,
                        .rank = RANK,
                        .latent_dtype = TARNK_F32};
    a.workspace = bed_alloc(4 * tarnk_mla_workspace(1, 2, NOPE, ROPE, V_DIM, RANK));
    CHECK_EQ(ops->mla(&a, bed_context(2)), 0);
}

/* The part that other models rotate is taken as it is: the order of the keys changes nothing but
 * the last bits. */
static void no_positions(const tarnk_ops *ops)
{
    enum { N = 100 };
    float *latents = bed_floats(N * LATENT, 7, 1), *turned = bed_alloc(N * LATENT * 4);
    float out[2 * V_DIM], again[2 * V_DIM];
    for (size_t i = 0; i < N; i++)
        memcpy(turned + i * LATENT, latents + (N - 1 - i) * LATENT, LATENT * 4);
    attend(ops, latents, N, out);
    attend(ops, turned, N, again);
    CHECK_CLOSE(again, out, 2 * V_DIM, 1e-5);
    /* but it does count: another one in that part of the keys, another result */
    for (size_t i = 0; i < N; i += 2)
        turned[i * LATENT + RANK] += 1;
    attend(ops, turned, N, again);
    CHECK(check_rel(again, out, 2 * V_DIM) > 1e-3);
}

CASE(attention_knows_no_positions)
{
    with_every_table(no_positions);
}

/* Twice the same latents: the same mean. So the length of a page's tail, which is NaN, never shows.
 */
static void nan_tails(const tarnk_ops *ops)
{
    float one[LATENT], out[2 * V_DIM], again[2 * V_DIM];
    memcpy(one, bed_floats(LATENT, 8, 1), sizeof one);
    attend(ops, one, 1, out);
    for (uint32_t n = 2; n <= 130; n++) {
        float *latents = bed_alloc((size_t)n * LATENT * 4);
        for (uint32_t i = 0; i < n; i++)
            memcpy(latents + (size_t)i * LATENT, one, sizeof one);
        attend(ops, latents, n, again);
        if (!(check_rel(again, out, 2 * V_DIM) < 1e-5)) {
            CHECK_FAIL("%s: %u latents: not what one gives", ops->name, n);
            return;
        }
    }
}

CASE(nan_behind_the_last_latent_does_not_show)
{
    with_every_table(nan_tails);
}

/* nope 3, rope 1: the scale is 1/2, over both parts, and not 1/sqrt(3). By hand: scores 0 and
 * 0.5 * 2 ln 3 = ln 3, hence weights 1/4 and 3/4. */
static void scale(const tarnk_ops *ops)
{
    float q[4] = {0, 0, 0, 2.1972246F}, out = 0;
    float kv_b[4] = {1, 1, 1, 1}; /* [nope 3 + v 1][rank 1] */
    uint8_t *page = bed_alloc((size_t)TARNK_PAGE_TOKENS * 2 * 4);
    const float latents[4] = {8, 0, 16, 1}; /* [2][rank 1 + rope 1] */
    memcpy(page, latents, sizeof latents);
    tarnk_seq seq = {.n_rows = 1, .position = 1, .pages = &page};
    tarnk_mla_args a = {.q = q,
                        .kv_b = bed_matrix_of(kv_b, 4, 1, TARNK_F32),
                        .out = &out,
                        .seqs = &seq,
                        .n_seqs = 1,
                        .n_rows = 1,
                        .n_heads = 1,
                        .nope = 3,
                        .rope = 1,
                        .v_dim = 1,
                        .rank = 1,
                        .latent_dtype = TARNK_F32};
    a.workspace = bed_alloc(4 * tarnk_mla_workspace(1, 1, 3, 1, 1, 1));
    CHECK_EQ(ops->mla(&a, bed_context(1)), 0);
    CHECK(fabs((double)out - 14.0) < 1e-4);
}

CASE(scores_are_scaled_by_both_parts_of_the_key)
{
    with_every_table(scale);
}

/* ---- the router ------------------------------------------------------------------------------ */

static void router(const tarnk_ops *ops)
{
    enum { EXPERTS = 6 };
    float logits[EXPERTS] = {0, 1, 2, 2, -3, 2}, none[EXPERTS] = {0};
    float bias[EXPERTS] = {0, 0, 0, 0, 9, 0}; /* lifts the worst above all */
    uint32_t experts[2];
    float weights[2];
    tarnk_moe_route_args a = {.logits = logits,
                              .bias = none,
                              .experts = experts,
                              .weights = weights,
                              .n_rows = 1,
                              .n_experts = EXPERTS,
                              .top_k = 2,
                              .n_groups = 1,
                              .groups_kept = 1,
                              .kind = TARNK_ROUTER_SIGMOID,
                              .renormalize = true,
                              .scale = 2.446F};
    CHECK_EQ(ops->moe_route(&a, bed_context(1)), 0);
    CHECK(experts[0] == 2 && experts[1] == 3); /* of three equals the lower two */
    CHECK(fabs((double)weights[0] - 1.223) < 1e-5 && fabs((double)weights[1] - 1.223) < 1e-5);
    a.bias = bias;
    CHECK_EQ(ops->moe_route(&a, bed_context(1)), 0);
    CHECK(experts[0] == 2 && experts[1] == 4); /* told in the order of their numbers */
    const double chosen = 1 / (1 + exp(3.0)), second = 1 / (1 + exp(-2.0)), all = chosen + second;
    CHECK(fabs((double)weights[1] - 2.446 * chosen / all) < 1e-6); /* as if there were no bias */
    CHECK(fabs((double)weights[0] + (double)weights[1] - 2.446) < 1e-5);
    a.renormalize = false;
    CHECK_EQ(ops->moe_route(&a, bed_context(1)), 0);
    CHECK(fabs((double)weights[1] - 2.446 * chosen) < 1e-6);
}

CASE(the_bias_chooses_experts_and_weighs_none)
{
    with_every_table(router);
}

/* ---- the output norm ------------------------------------------------------------------------- */

/* Normed, weighed, and then the gate's sigmoid (not its SiLU); one weight for all heads. */
static void output_norm(const tarnk_ops *ops)
{
    float x[4] = {3, 4, 6, 8}, gate[4] = {0, 0, 2, 2}, weight[2] = {1, 2}, out[4];
    tarnk_norm_gated_args a = {.x = x,
                               .gate = gate,
                               .weight = weight,
                               .out = out,
                               .n_rows = 1,
                               .n_heads = 2,
                               .n = 2,
                               .eps = 1e-5F};
    const double root = sqrt(12.5 + 1e-5), sigmoid = 1 / (1 + exp(-2.0));
    CHECK_EQ(ops->norm_gated(&a, bed_context(1)), 0);
    CHECK(fabs((double)out[0] - 0.5 * 3 / root) < 1e-6);
    CHECK(fabs((double)out[1] - 0.5 * 8 / root) < 1e-6);
    CHECK(fabs((double)out[3] - sigmoid * 2 * 8 / sqrt(50 + 1e-5)) < 1e-5);
}

CASE(the_output_is_normed_first_and_gated_by_a_sigmoid)
{
    with_every_table(output_norm);
}

CHECK_MAIN(ENTRY(the_gate_is_unbounded_to_minus_80_a_token), ENTRY(keys_may_all_be_the_same),
           ENTRY(decay_comes_before_the_correction_and_the_output_after),
           ENTRY(decay_is_along_the_keys_and_not_the_values),
           ENTRY(norms_of_heads_have_their_epsilon_inside), ENTRY(attention_knows_no_positions),
           ENTRY(nan_behind_the_last_latent_does_not_show),
           ENTRY(scores_are_scaled_by_both_parts_of_the_key),
           ENTRY(the_bias_chooses_experts_and_weighs_none),
           ENTRY(the_output_is_normed_first_and_gated_by_a_sigmoid))
