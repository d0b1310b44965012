/* The promise of ops.h: a row's bits depend on the tokens of its own session alone. Three sessions
 * with fixed inputs for each of their tokens go through all ops in different cuts, batches and
 * thread counts, and everything they leave - outputs, state slot, latent pages - must be the same
 * bytes. What AVX2 and AVX-512 leave must be the same too, and equal to a hash kept here, so that
 * every compiler and processor is held to the same bits. */
#include "check.h"
#include "bed.h"

#define SESSIONS      3
#define HIDDEN        90
#define HEADS         3 /* of KDA */
#define K_DIM         24
#define V_DIM         20
#define CHANNELS      50
#define WIDTH         4
#define MLA_HEADS     7
#define NOPE          20
#define ROPE          12
#define MLA_V         28
#define RANK          40
#define EXPERTS       12
#define TOP_K         3
#define EXPERT_WIDTH  20
#define STATE_OFFSET  1856 /* behind the conv tail, 64-byte aligned */
#define SLOT_BYTES    (STATE_OFFSET + HEADS * K_DIM * V_DIM * 4)
#define LATENT_OFFSET 24

/* What a token brings and what comes out of it: columns of a row. */
enum {
    IN_X,
    IN_GATE,
    IN_Q,
    IN_K,
    IN_V,
    IN_F,
    IN_B,
    IN_C0,
    IN_C1,
    IN_C2,
    IN_KV,
    IN_MQ,
    IN_LOGITS,
    IN_COUNT
};
enum {
    OUT_WIDE,
    OUT_SMALL,
    OUT_RMS,
    OUT_GATED,
    OUT_SILU,
    OUT_C0,
    OUT_C1,
    OUT_C2,
    OUT_KDA,
    OUT_MLA,
    OUT_ROUTE,
    OUT_MOE,
    OUT_COUNT
};

static const uint32_t in_width[IN_COUNT] = {
    HIDDEN, HIDDEN,   HEADS *K_DIM, HEADS *K_DIM, HEADS *V_DIM, HEADS *K_DIM,
    HEADS,  CHANNELS, CHANNELS,     CHANNELS,     RANK + ROPE,  MLA_HEADS *(NOPE + ROPE),
    EXPERTS};
static const uint32_t out_width[OUT_COUNT] = {
    53,       17,       HIDDEN,       HIDDEN,           HIDDEN, CHANNELS,
    CHANNELS, CHANNELS, HEADS *V_DIM, MLA_HEADS *MLA_V, TOP_K,  HIDDEN};
static const uint32_t n_tokens[SESSIONS] = {150, 70, 9};

typedef struct session {
    float *in[IN_COUNT];   /* [n_tokens][width] */
    float *out[OUT_COUNT]; /* [n_tokens][width] */
    uint8_t *slot;
    uint8_t *other_slot;
    uint8_t **pages;
    uint32_t position;
} session;

typedef struct model {
    tarnk_matrix wide, small, kv_b, w1[EXPERTS], w3[EXPERTS], w2[EXPERTS];
    float *norm, *head_norm, *latent_norm, *a_log, *dt_bias, *conv[3], *bias;
    tarnk_dtype dtype;
} model;

typedef struct world {
    const tarnk_ops *ops;
    const tarnk_context *context;
    model m;
    session s[SESSIONS];
    uint32_t n_steps; /* so far */
} world;

static void make_model(model *m, tarnk_dtype dtype)
{
    m->dtype = dtype;
    m->wide = bed_matrix(53, HIDDEN, TARNK_BF16, 1, 1);
    m->small = bed_matrix(17, HIDDEN, TARNK_F32, 5, 2);
    m->kv_b = bed_matrix(MLA_HEADS * (NOPE + MLA_V), RANK, dtype, 0, 3);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        m->w1[e] = bed_matrix(EXPERT_WIDTH, HIDDEN, dtype, 0, 10 + e);
        m->w3[e] = bed_matrix(EXPERT_WIDTH, HIDDEN, dtype, 0, 30 + e);
        m->w2[e] = bed_matrix(HIDDEN, EXPERT_WIDTH, dtype, 0, 50 + e);
    }
    m->norm = bed_floats(HIDDEN, 4, 1);
    m->head_norm = bed_floats(HIDDEN / 3, 5, 1);
    m->latent_norm = bed_floats(RANK, 6, 1);
    m->a_log = bed_floats(HEADS, 7, 1);
    m->dt_bias = bed_floats(HEADS * K_DIM, 8, 2);
    m->bias = bed_floats(EXPERTS, 9, 0.2F);
    for (uint32_t p = 0; p < 3; p++)
        m->conv[p] = bed_floats(CHANNELS * WIDTH, 90 + p, 1);
}

static size_t latent_bytes(const model *m)
{
    return (RANK + ROPE) * (m->dtype == TARNK_BF16 ? 2U : 4U);
}

static void make_world(world *w, const tarnk_ops *ops, tarnk_dtype dtype)
{
    *w = (world){.ops = ops};
    make_model(&w->m, dtype);
    for (uint32_t i = 0; i < SESSIONS; i++) {
        session *s = &w->s[i];
        for (uint32_t f = 0; f < IN_COUNT; f++) {
            size_t n = (size_t)n_tokens[i] * in_width[f];
            s->in[f] = bed_floats(n, 1000 * i + f, 2);
            if (dtype == TARNK_BF16)
                bed_round_all(s->in[f], n);
        }
        for (uint32_t f = 0; f < OUT_COUNT; f++)
            s->out[f] = bed_alloc((size_t)n_tokens[i] * out_width[f] * 4);
        s->slot = memset(bed_alloc(SLOT_BYTES), 0, SLOT_BYTES);
        s->other_slot = bed_alloc(SLOT_BYTES);
        s->pages = bed_alloc(3 * sizeof *s->pages);
        for (uint32_t p = 0; p < 3; p++)
            s->pages[p] = bed_alloc(LATENT_OFFSET + TARNK_PAGE_TOKENS * latent_bytes(&w->m));
    }
}

/* One step of a batch: `take[i]` tokens of session order[i]. */
typedef struct step {
    world *w;
    tarnk_seq seqs[SESSIONS];
    session *session_of[SESSIONS];
    uint32_t n_seqs;
    uint32_t n_rows;
} step;

static float *gather(const step *st, uint32_t field)
{
    uint32_t width = in_width[field];
    float *rows = bed_alloc((size_t)st->n_rows * width * 4);
    for (uint32_t i = 0; i < st->n_seqs; i++)
        memcpy(rows + (size_t)st->seqs[i].row_begin * width,
               st->session_of[i]->in[field] + (size_t)st->seqs[i].position * width,
               (size_t)st->seqs[i].n_rows * width * 4);
    return rows;
}

static float *result(const step *st, uint32_t field)
{
    return bed_alloc((size_t)st->n_rows * out_width[field] * 4);
}

static void scatter(const step *st, uint32_t field, const float *rows)
{
    uint32_t width = out_width[field];
    for (uint32_t i = 0; i < st->n_seqs; i++)
        memcpy(st->session_of[i]->out[field] + (size_t)st->seqs[i].position * width,
               rows + (size_t)st->seqs[i].row_begin * width,
               (size_t)st->seqs[i].n_rows * width * 4);
}

static void run_rows(const step *st)
{
    const world *w = st->w;
    const model *m = &w->m;
    const uint32_t n = st->n_rows;
    float *x = gather(st, IN_X), *gate = gather(st, IN_GATE);
    float *wide = result(st, OUT_WIDE), *small = result(st, OUT_SMALL), *rms = result(st, OUT_RMS);
    float *gated = result(st, OUT_GATED), *silu = result(st, OUT_SILU);
    memset(small, 0, (size_t)n * 17 * 4);
    tarnk_matmul_args parts[2] = {
        {x, HIDDEN, m->wide, wide, 53, n, false, m->dtype == TARNK_BF16, bed_workspace(n, HIDDEN)},
        {gate, HIDDEN, m->small, small, 17, n, true, false, NULL}};
    CHECK_EQ(w->ops->matmul(parts, 2, w->context), 0);
    tarnk_norm_rms_args norm = {x, HIDDEN, m->norm, rms, n, HIDDEN, 1e-5F, false};
    CHECK_EQ(w->ops->norm_rms(&norm, w->context), 0);
    tarnk_norm_gated_args heads = {x, gate, m->head_norm, gated, n, 3, HIDDEN / 3, 1e-5F, false};
    CHECK_EQ(w->ops->norm_gated(&heads, w->context), 0);
    tarnk_silu_mul_args act = {gate, x, silu, n, HIDDEN, false};
    CHECK_EQ(w->ops->silu_mul(&act, w->context), 0);
    scatter(st, OUT_WIDE, wide);
    scatter(st, OUT_SMALL, small);
    scatter(st, OUT_RMS, rms);
    scatter(st, OUT_GATED, gated);
    scatter(st, OUT_SILU, silu);
}

static void run_kda(const step *st)
{
    const world *w = st->w;
    const model *m = &w->m;
    tarnk_conv1d_args conv = {.seqs = st->seqs,
                              .n_seqs = st->n_seqs,
                              .n = CHANNELS,
                              .width = WIDTH,
                              .conv_dtype = m->dtype};
    for (uint32_t p = 0; p < 3; p++) {
        conv.x[p] = gather(st, IN_C0 + p);
        conv.weight[p] = m->conv[p];
        conv.out[p] = result(st, OUT_C0 + p);
    }
    CHECK_EQ(w->ops->conv1d(&conv, w->context), 0);
    for (uint32_t p = 0; p < 3; p++)
        scatter(st, OUT_C0 + p, conv.out[p]);
    tarnk_kda_gate_args gate = {.q = gather(st, IN_Q),
                                .k = gather(st, IN_K),
                                .f = gather(st, IN_F),
                                .b = gather(st, IN_B),
                                .a_log = m->a_log,
                                .dt_bias = m->dt_bias,
                                .n_rows = st->n_rows,
                                .n_heads = HEADS,
                                .head_dim = K_DIM};
    CHECK_EQ(w->ops->kda_gate(&gate, w->context), 0);
    tarnk_kda_args kda = {gate.q,   gate.k,     gather(st, IN_V),
                          gate.f,   gate.b,     result(st, OUT_KDA),
                          st->seqs, st->n_seqs, HEADS,
                          K_DIM,    V_DIM,      STATE_OFFSET};
    CHECK_EQ(w->ops->kda(&kda, w->context), 0);
    scatter(st, OUT_KDA, kda.out);
}

static void run_mla(const step *st)
{
    const world *w = st->w;
    const model *m = &w->m;
    tarnk_mla_latent_args latent = {
        gather(st, IN_KV), m->latent_norm, st->seqs, st->n_seqs, RANK, ROPE, 1e-6F,
        LATENT_OFFSET,     m->dtype};
    CHECK_EQ(w->ops->mla_latent(&latent, w->context), 0);
    tarnk_mla_args mla = {.q = gather(st, IN_MQ),
                          .kv_b = m->kv_b,
                          .out = result(st, OUT_MLA),
                          .seqs = st->seqs,
                          .n_seqs = st->n_seqs,
                          .n_rows = st->n_rows,
                          .n_heads = MLA_HEADS,
                          .nope = NOPE,
                          .rope = ROPE,
                          .v_dim = MLA_V,
                          .rank = RANK,
                          .latent_offset = LATENT_OFFSET,
                          .latent_dtype = m->dtype};
    mla.workspace =
        bed_alloc(4 * tarnk_mla_workspace(st->n_rows, MLA_HEADS, NOPE, ROPE, MLA_V, RANK));
    CHECK_EQ(w->ops->mla(&mla, w->context), 0);
    scatter(st, OUT_MLA, mla.out);
}

static void run_moe(const step *st)
{
    const world *w = st->w;
    const model *m = &w->m;
    const uint32_t n = st->n_rows;
    tarnk_moe_route_args route = {.logits = gather(st, IN_LOGITS),
                                  .bias = m->bias,
                                  .experts = bed_alloc((size_t)n * TOP_K * 4),
                                  .weights = result(st, OUT_ROUTE),
                                  .n_rows = n,
                                  .n_experts = EXPERTS,
                                  .top_k = TOP_K,
                                  .n_groups = 4,
                                  .groups_kept = 3,
                                  .renormalize = true,
                                  .scale = 2.446F};
    CHECK_EQ(w->ops->moe_route(&route, w->context), 0);
    tarnk_moe_args moe = {.x = gather(st, IN_X),
                          .w1 = m->w1,
                          .w3 = m->w3,
                          .w2 = m->w2,
                          .experts = route.experts,
                          .weights = route.weights,
                          .out = gather(st, IN_GATE),
                          .n_rows = n,
                          .n = HIDDEN,
                          .width = EXPERT_WIDTH,
                          .n_experts = EXPERTS,
                          .top_k = TOP_K,
                          .round = m->dtype == TARNK_BF16};
    moe.workspace = bed_alloc(tarnk_moe_workspace(n, HIDDEN, EXPERT_WIDTH, EXPERTS, TOP_K));
    CHECK_EQ(w->ops->moe(&moe, w->context), 0);
    scatter(st, OUT_ROUTE, route.weights);
    scatter(st, OUT_MOE, moe.out);
}

/* take[i] tokens of session i, or what is left; sessions begin with `first`. Every second step
 * writes to another slot than it reads, and the one read must stay as it was. */
static void run_step(world *w, const uint32_t *take, uint32_t first, uint32_t n_threads)
{
    step st = {.w = w};
    uint8_t *before[SESSIONS] = {0};
    bool swap = w->n_steps++ % 2 == 0;
    w->context = bed_context(n_threads);
    for (uint32_t i = 0; i < SESSIONS; i++) {
        uint32_t idx = (first + i) % SESSIONS, left = n_tokens[idx] - w->s[idx].position;
        session *s = &w->s[idx];
        uint32_t n = take[idx] < left ? take[idx] : left;
        if (n == 0)
            continue;
        before[st.n_seqs] = bed_copy(s->slot, SLOT_BYTES);
        st.session_of[st.n_seqs] = s;
        st.seqs[st.n_seqs++] = (tarnk_seq){
            st.n_rows, n, s->position, s->slot, swap ? s->other_slot : s->slot, s->pages};
        st.n_rows += n;
    }
    if (st.n_rows == 0)
        return;
    run_rows(&st);
    run_kda(&st);
    run_mla(&st);
    run_moe(&st);
    for (uint32_t i = 0; i < st.n_seqs; i++) {
        session *s = st.session_of[i];
        s->position += st.seqs[i].n_rows;
        if (!swap)
            continue;
        CHECK_BYTES(s->slot, before[i], SLOT_BYTES);
        uint8_t *read = s->slot;
        s->slot = s->other_slot;
        s->other_slot = memset(read, 0xff, SLOT_BYTES); /* nobody may look at it again */
    }
}

/* Everything a session left; latents up to its last token, as the rest was never written. */
static uint64_t session_hash(const world *w, uint32_t i)
{
    const session *s = &w->s[i];
    const size_t row = latent_bytes(&w->m);
    uint64_t hash = 0xcbf29ce484222325U;
    CHECK_EQ(s->position, n_tokens[i]);
    for (uint32_t f = 0; f < OUT_COUNT; f++)
        hash = bed_hash(hash, s->out[f], (size_t)n_tokens[i] * out_width[f] * 4);
    size_t tail = 3 * (WIDTH - 1) * CHANNELS * (w->m.dtype == TARNK_BF16 ? 2U : 4U);
    hash = bed_hash(hash, s->slot, tail);
    hash = bed_hash(hash, s->slot + STATE_OFFSET, SLOT_BYTES - STATE_OFFSET);
    for (uint32_t t = 0; t < n_tokens[i]; t++)
        hash = bed_hash(hash, s->pages[t / 64] + LATENT_OFFSET + t % 64 * row, row);
    return hash;
}

static void check_finite(const world *w)
{
    for (uint32_t i = 0; i < SESSIONS; i++)
        for (uint32_t f = 0; f < OUT_COUNT; f++)
            for (size_t n = 0; n < (size_t)n_tokens[i] * out_width[f]; n++)
                if (!isfinite(w->s[i].out[f][n])) {
                    CHECK_FAIL("%s: output %u of session %u is not finite", w->ops->name, f, i);
                    return;
                }
}

/* Each session alone, in one append, on one thread. */
static void reference(const tarnk_ops *ops, tarnk_dtype dtype, uint64_t *hashes)
{
    world w;
    make_world(&w, ops, dtype);
    for (uint32_t i = 0; i < SESSIONS; i++) {
        uint32_t take[SESSIONS] = {0};
        take[i] = n_tokens[i];
        run_step(&w, take, i, 1);
    }
    check_finite(&w);
    for (uint32_t i = 0; i < SESSIONS; i++)
        hashes[i] = session_hash(&w, i);
    bed_end();
}

/* Steps of `steps[n % n_steps]` tokens a session until all are through. */
static void check_cut(const tarnk_ops *ops, tarnk_dtype dtype, const uint32_t (*steps)[SESSIONS],
                      uint32_t n_steps, uint32_t n_threads, const char *what)
{
    uint64_t want[SESSIONS];
    reference(ops, dtype, want);
    world w;
    make_world(&w, ops, dtype);
    for (uint32_t n = 0; n < 1000; n++)
        run_step(&w, steps[n % n_steps], n, n_threads);
    for (uint32_t i = 0; i < SESSIONS; i++)
        if (session_hash(&w, i) != want[i])
            CHECK_FAIL("%s, dtype %d: session %u came out different: %s", ops->name, dtype, i,
                       what);
    bed_end();
}

static void check_all(const uint32_t (*steps)[SESSIONS], uint32_t n_steps, uint32_t n_threads,
                      const char *what)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++)
        for (int dtype = 0; dtype < 2; dtype++)
            check_cut(tables[t], (tarnk_dtype)dtype, steps, n_steps, n_threads, what);
}

CASE(one_batch_of_all_sessions)
{
    const uint32_t steps[][SESSIONS] = {{150, 70, 9}};
    check_all(steps, 1, 1, "one batch");
    check_all(steps, 1, 2, "one batch, two threads");
    check_all(steps, 1, 3, "one batch, three threads");
}

CASE(first_token_then_the_rest)
{
    const uint32_t steps[][SESSIONS] = {{1, 1, 1}, {150, 70, 9}};
    check_all(steps, 2, 2, "1 + rest");
}

CASE(token_by_token)
{
    const uint32_t steps[][SESSIONS] = {{1, 1, 1}};
    check_all(steps, 1, 1, "token by token, batched");
    const uint32_t turns[][SESSIONS] = {{1, 0, 0}, {1, 1, 0}, {1, 0, 1}};
    check_all(turns, 3, 2, "token by token, sessions come and go");
}

CASE(ragged_appends_beside_decode_rows)
{
    const uint32_t steps[][SESSIONS] = {{7, 5, 1}, {64, 1, 0}, {1, 17, 2}, {3, 0, 1}, {31, 2, 1}};
    check_all(steps, 5, 3, "ragged");
}

CASE(cuts_at_page_and_tail_boundaries)
{
    const uint32_t steps[][SESSIONS] = {{63, 64, 2}, {1, 1, 1}, {1, 5, 2}, {2, 0, 1}, {61, 0, 3}};
    check_all(steps, 5, 2, "63 64 65");
}

/* A change of these numbers is a change of numerics: give simd_*.h a new SIMD_NUMERICS with it. */
CASE(bits_are_those_of_every_other_build)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    static const struct {
        const char *numerics;
        uint64_t hash[2];
    } known[] = {{"cpu-fma16.2", {0x006de82296366935, 0x136420648b0d6417}},
                 {"cpu-plain16.2", {0x67f2fe0bc7d7d181, 0x3df4ae3ce45e9cb1}},
                 {"cpu-pair16.2", {0xe79fa4117cff0cfc, 0xc19c39ba0ca35c9c}}};
#if defined(TARN_BED_CUDA)
    SKIP("of CPU tables");
#endif
    for (int t = 0; t < n_tables; t++)
        for (int dtype = 0; dtype < 2; dtype++) {
            uint64_t hashes[SESSIONS], hash;
            reference(tables[t], (tarnk_dtype)dtype, hashes);
            hash = bed_hash(0, hashes, sizeof hashes);
            size_t k = 0;
            while (k < 3 && strcmp(known[k].numerics, tables[t]->numerics) != 0)
                k++;
            REQUIRE(k < 3);
            if (hash != known[k].hash[dtype])
                CHECK_FAIL("%s (%s), dtype %d: the hash is 0x%016" PRIx64, tables[t]->name,
                           tables[t]->numerics, dtype, hash);
        }
}

CHECK_MAIN(ENTRY(one_batch_of_all_sessions), ENTRY(first_token_then_the_rest),
           ENTRY(token_by_token), ENTRY(ragged_appends_beside_decode_rows),
           ENTRY(cuts_at_page_and_tail_boundaries), ENTRY(bits_are_those_of_every_other_build))
