#include "check.h"
#include "bed.h"
#include "oracle.h"
#include "twin.h"

/* ---- gates ---------------------------------------------------------------------------------- */

static void check_gates(const char *what, const float *got, const double *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= 5e-6 * fmax(1, fabs(want[i])))) {
            CHECK_FAIL("%s: g %zu is %.9g, should be %.9g", what, i, (double)got[i], want[i]);
            return;
        }
}

static void check_stored_gate(const oracle *o, const char *name, void *user)
{
    const tarnk_ops *ops = user;
    const uint32_t n_heads = oracle_dim(o, name, "A_log", 0), n_rows = oracle_dim(o, name, "f", 0);
    const uint32_t dim = oracle_dim(o, name, "f", 1) / n_heads;
    const size_t all = (size_t)n_rows * n_heads * dim;
    for (int kind = 0; kind < 2; kind++) {
        const float *stored = oracle_f32(o, name, kind ? "g_bounded" : "g");
        double *want = bed_alloc(all * sizeof *want);
        for (size_t i = 0; i < all; i++)
            want[i] = (double)stored[i];
        tarnk_kda_gate_args a = {.q = bed_filled(all, 1),
                                 .k = bed_filled(all, 1),
                                 .f = bed_copy(oracle_f32(o, name, "f"), all * 4),
                                 .b = bed_filled((size_t)n_rows * n_heads, 0),
                                 .a_log = oracle_f32(o, name, "A_log"),
                                 .dt_bias = oracle_f32(o, name, "dt_bias"),
                                 .n_rows = n_rows,
                                 .n_heads = n_heads,
                                 .head_dim = dim,
                                 .gate_kind = (tarnk_gate_kind)kind,
                                 .lower_bound = -5};
        CHECK_EQ(ops->kda_gate(&a, bed_context(2)), 0);
        check_gates(name, a.f, want, all);
        for (size_t i = 0; i < (size_t)n_rows * n_heads; i++)
            CHECK(a.b[i] == 0.5F);
    }
}

CASE(stored_gates)
{
    oracle o;
    REQUIRE(oracle_open(&o, "gate"));
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++)
        CHECK_EQ(oracle_each(&o, "g", check_stored_gate, (void *)(uintptr_t)tables[t]), 4);
    oracle_close(&o);
    bed_end();
}

CASE(gates_match_the_twin_and_norms_survive_tiny_heads)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++)
        for (uint32_t dim = 24; dim <= 100; dim += 38) {
            const uint32_t n_rows = 3, n_heads = 5;
            const size_t heads = (size_t)n_rows * n_heads, all = heads * dim;
            tarnk_kda_gate_args a = {.q = bed_floats(all, 1, 1),
                                     .k = bed_floats(all, 2, 1),
                                     .f = bed_floats(all, 3, 10),
                                     .b = bed_floats(heads, 4, 8),
                                     .a_log = bed_floats(n_heads, 5, 1),
                                     .dt_bias = bed_floats((size_t)n_heads * dim, 6, 3),
                                     .n_rows = n_rows,
                                     .n_heads = n_heads,
                                     .head_dim = dim};
            for (uint32_t i = 0; i < dim; i++) {
                a.q[i] = 0;
                a.k[dim + i] *= 1e-5F; /* far below the epsilon under the root */
                a.q[2 * dim + i] *= 1e6F;
            }
            double *q = bed_alloc(all * 8), *k = bed_alloc(all * 8), *g = bed_alloc(all * 8);
            double *beta = bed_alloc(heads * 8);
            twin_kda_gate(&a, q, k, g, beta);
            CHECK_EQ(tables[t]->kda_gate(&a, bed_context(2)), 0);
            for (size_t h = 0; h < heads; h++) {
                CHECK(bed_error(a.q + h * dim, q + h * dim, dim) <= 1e-6);
                CHECK(bed_error(a.k + h * dim, k + h * dim, dim) <= 1e-6);
            }
            check_gates(tables[t]->name, a.f, g, all);
            CHECK(bed_error(a.b, beta, heads) <= 1e-6);
        }
    bed_end();
}

/* ---- recurrence ----------------------------------------------------------------------------- */

/* Head by head: rows of `width` belonging to `head` out of [n][n_heads][width]. */
static double head_error(const float *got, const float *want, size_t n, size_t n_heads, size_t head,
                         size_t width)
{
    double worst = 0, top = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < width; j++) {
            size_t at = (i * n_heads + head) * width + j;
            if (!isfinite(got[at]))
                return INFINITY;
            worst = fmax(worst, fabs((double)got[at] - (double)want[at]));
            top = fmax(top, fabs((double)want[at]));
        }
    return top > 0 ? worst / top : worst > 0 ? INFINITY : 0;
}

static void check_stored_kda(const oracle *o, const char *name, void *user)
{
    const tarnk_ops *ops = user;
    const uint32_t n_rows = oracle_dim(o, name, "q", 0), n_heads = oracle_dim(o, name, "q", 1);
    const uint32_t k_dim = oracle_dim(o, name, "q", 2), v_dim = oracle_dim(o, name, "v", 2);
    const size_t state = (size_t)n_heads * k_dim * v_dim, n_q = (size_t)n_rows * n_heads * k_dim;
    float *q = bed_copy(oracle_f32(o, name, "q"), n_q * 4);
    for (size_t i = 0; i < n_q; i++)
        q[i] *= 1.0F / sqrtf((float)k_dim);
    float *slot = bed_copy(oracle_f32(o, name, "initial_state"), state * 4);
    tarnk_seq seq = {
        .n_rows = n_rows, .state_read = (uint8_t *)slot, .state_write = (uint8_t *)slot};
    float *out = bed_alloc((size_t)n_rows * n_heads * v_dim * 4);
    tarnk_kda_args a = {q,
                        oracle_f32(o, name, "k"),
                        oracle_f32(o, name, "v"),
                        oracle_f32(o, name, "g"),
                        oracle_f32(o, name, "beta"),
                        out,
                        &seq,
                        1,
                        n_heads,
                        k_dim,
                        v_dim,
                        0};
    CHECK_EQ(ops->kda(&a, bed_context(2)), 0);
    for (uint32_t h = 0; h < n_heads; h++) {
        double out_error = head_error(out, oracle_f32(o, name, "out"), n_rows, n_heads, h, v_dim);
        size_t at = (size_t)h * k_dim * v_dim;
        double state_error = head_error(slot + at, oracle_f32(o, name, "final_state") + at, 1, 1, 0,
                                        (size_t)k_dim * v_dim);
        if (!(out_error <= 2e-6 && state_error <= 2e-6))
            CHECK_FAIL("%s: %s head %u: out is off by %.3g, state by %.3g", ops->name, name, h,
                       out_error, state_error);
    }
}

CASE(stored_recurrences)
{
    oracle o;
    REQUIRE(oracle_open(&o, "kda"));
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        CHECK_EQ(oracle_each(&o, "q", check_stored_kda, (void *)(uintptr_t)tables[t]), 29);
        bed_end();
    }
    oracle_close(&o);
}

/* K and V differ, neither a multiple of anything; read and write slots differ; the write slot is
 * NaN before. */
static void check_shape(const tarnk_ops *ops, uint32_t k_dim, uint32_t v_dim, uint32_t n_rows)
{
    const uint32_t n_heads = 2;
    const size_t rows = (size_t)n_rows * n_heads, state = (size_t)n_heads * k_dim * v_dim;
    const size_t offset = 64, slot_bytes = offset + state * 4;
    tarnk_kda_gate_args gate = {.q = bed_floats(rows * k_dim, 1, 1),
                                .k = bed_floats(rows * k_dim, 2, 1),
                                .f = bed_floats(rows * k_dim, 3, 4),
                                .b = bed_floats(rows, 4, 2),
                                .a_log = bed_filled(n_heads, 0.5F),
                                .dt_bias = bed_filled((size_t)n_heads * k_dim, -2),
                                .n_rows = n_rows,
                                .n_heads = n_heads,
                                .head_dim = k_dim};
    CHECK_EQ(ops->kda_gate(&gate, bed_context(1)), 0);
    uint8_t *read = bed_alloc(slot_bytes), *write = bed_alloc(slot_bytes);
    float *initial = bed_floats(state, 5, 1);
    double *want_state = bed_alloc(state * 8), *want = bed_alloc(rows * v_dim * 8);
    for (size_t i = 0; i < state; i++)
        want_state[i] = (double)initial[i];
    memcpy(read + offset, initial, state * 4);
    uint8_t *before = bed_copy(read, slot_bytes);
    float *v = bed_floats(rows * v_dim, 6, 1), *out = bed_alloc(rows * v_dim * 4);
    tarnk_seq seq = {.n_rows = n_rows, .state_read = read, .state_write = write};
    tarnk_kda_args a = {gate.q, gate.k, v,       gate.f, gate.b, out,
                        &seq,   1,      n_heads, k_dim,  v_dim,  offset};
    CHECK_EQ(ops->kda(&a, bed_context(3)), 0);
    twin_kda(&a, want_state, want);
    double out_error = bed_error(out, want, rows * v_dim);
    double state_error = bed_error((float *)(void *)(write + offset), want_state, state);
    if (!(out_error <= 2e-6 && state_error <= 2e-6))
        CHECK_FAIL("%s: K %u V %u T %u: out is off by %.3g, state by %.3g", ops->name, k_dim, v_dim,
                   n_rows, out_error, state_error);
    CHECK_BYTES(read, before, slot_bytes);
    a.out = v; /* out may be v */
    CHECK_EQ(ops->kda(&a, bed_context(1)), 0);
    CHECK_BYTES(v, out, rows * v_dim * 4);
}

CASE(any_head_sizes_match_the_twin)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    const uint32_t sizes[][3] = {{24, 24, 17},  {60, 60, 40},   {100, 100, 33}, {24, 60, 5},
                                 {60, 100, 18}, {7, 1, 3},      {1, 5, 2},      {128, 48, 100},
                                 {33, 128, 65}, {2048, 20, 18}, {1000, 33, 5}};
    for (int t = 0; t < n_tables; t++)
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            check_shape(tables[t], sizes[s][0], sizes[s][1], sizes[s][2]);
            bed_end();
        }
}

/* Strong decay on a large state: forgotten exactly, without a NaN. */
CASE(a_decay_of_minus_1000_forgets)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        const uint32_t dim = 20;
        float *state = bed_filled(dim * dim, 1e30F), *g = bed_filled(dim, -1000);
        float *q = bed_filled(dim, 1), *k = bed_filled(dim, 0), *v = bed_filled(dim, 3);
        float beta = 1, *out = bed_alloc(dim * 4);
        tarnk_seq seq = {
            .n_rows = 1, .state_read = (uint8_t *)state, .state_write = (uint8_t *)state};
        tarnk_kda_args a = {q, k, v, g, &beta, out, &seq, 1, 1, dim, dim, 0};
        CHECK_EQ(tables[t]->kda(&a, bed_context(1)), 0);
        for (uint32_t i = 0; i < dim; i++)
            CHECK(out[i] == 0 && state[i] == 0);
    }
    bed_end();
}

CHECK_MAIN(ENTRY(stored_gates), ENTRY(gates_match_the_twin_and_norms_survive_tiny_heads),
           ENTRY(stored_recurrences), ENTRY(any_head_sizes_match_the_twin),
           ENTRY(a_decay_of_minus_1000_forgets))
