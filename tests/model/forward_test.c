/* The same bits whatever the cut, the neighbours and the threads; errors pass through. */
#include "check.h"
#include "model_run.h"
#include "scratch.h"

#define ODD    TEST_DATA "/oracle/odd-bf16/model"
#define TOKENS 130 /* more than two latent pages */
#define N_ROWS 256

static void make_ids(uint32_t *ids, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        ids[i] = (seed >> 8) % 190;
    }
}

/* Everything one run leaves behind. */
typedef struct result {
    float *logits; /* [TOKENS][vocab] */
    session_memory memory;
} result;

static void result_init(result *r, const model_run *m)
{
    r->logits = calloc((size_t)TOKENS * m->spec.vocab, sizeof *r->logits);
    session_memory_init(&r->memory, &m->layout, TOKENS);
}

static void result_fini(result *r)
{
    session_memory_fini(&r->memory);
    free(r->logits);
}

static void check_same(const model_run *m, const result *got, const result *want, const char *what)
{
    size_t n_logits = (size_t)TOKENS * m->spec.vocab;
    if (memcmp(got->logits, want->logits, n_logits * sizeof(float)) != 0)
        CHECK_FAIL("%s: other logits", what);
    if (memcmp(got->memory.slot, want->memory.slot, m->layout.slot_bytes) != 0)
        CHECK_FAIL("%s: another state", what);
    for (uint32_t i = 0; i < want->memory.n_pages; i++)
        if (memcmp(got->memory.pages[i], want->memory.pages[i], m->layout.page_bytes) != 0)
            CHECK_FAIL("%s: other latents in page %u", what, i);
}

/* The whole sequence in one step by one thread: what every other way must equal. */
static bool reference(result *r, const uint32_t *ids, tarni_numerics numerics, const tarnk_ops *ops)
{
    model_run m;
    if (!model_run_open(&m, ODD, numerics, ops, 1, N_ROWS))
        return false;
    result_init(r, &m);
    int error = model_run_feed(&m, &r->memory, ids, TOKENS, r->logits);
    model_run_close(&m);
    return error == 0;
}

static void check_cuts(model_run *m, const uint32_t *ids, const result *want,
                       const uint32_t *lengths, uint32_t n_lengths, const char *what)
{
    result got;
    result_init(&got, m);
    for (uint32_t at = 0, i = 0; at < TOKENS; i++) {
        uint32_t n = lengths[i % n_lengths];
        n = n < TOKENS - at ? n : TOKENS - at;
        CHECK_EQ(
            model_run_feed(m, &got.memory, ids + at, n, got.logits + (size_t)at * m->spec.vocab),
            0);
        at += n;
    }
    check_same(m, &got, want, what);
    result_fini(&got);
}

/* Two sessions whose rows share each step: this one has 1, 2, 3, ... rows a step, the other 5. */
static void check_mixed(model_run *m, const uint32_t *ids, const result *want, bool other_first)
{
    result got;
    session_memory other;
    uint32_t other_ids[400], mixed[N_ROWS], rows[N_ROWS];
    float *at[N_ROWS];
    make_ids(other_ids, 400, 99);
    result_init(&got, m);
    session_memory_init(&other, &m->layout, 400);
    for (uint32_t begin = 0, step = 1; begin < TOKENS; step++) {
        uint32_t n = step < TOKENS - begin ? step : TOKENS - begin;
        uint32_t own = other_first ? 5 : 0, others = other_first ? 0 : n;
        memcpy(mixed + own, ids + begin, n * sizeof *ids);
        memcpy(mixed + others, other_ids + other.position, 5 * sizeof *ids);
        tarnk_seq own_seq = session_memory_seq(&got.memory, own, n);
        tarnk_seq other_seq = session_memory_seq(&other, others, 5);
        tarnk_seq seqs[2] = {other_first ? other_seq : own_seq, other_first ? own_seq : other_seq};
        for (uint32_t i = 0; i < n; i++) {
            rows[i] = own + i;
            at[i] = got.logits + (size_t)(begin + i) * m->spec.vocab;
        }
        tarni_batch batch = {mixed, n + 5, seqs, 2, rows, at, n, NULL, NULL, 0};
        CHECK_EQ(tarni_forward_run(m->forward, &batch), 0);
        got.memory.position = begin += n;
        other.position += 5;
    }
    check_same(m, &got, want, other_first ? "behind another session" : "before another session");
    session_memory_fini(&other);
    result_fini(&got);
}

static void check_exactness(tarni_numerics numerics, const tarnk_ops *ops)
{
    static const uint32_t cuts[] = {5, 4, 55, 66}, one[] = {1}, sizes[] = {5, 9, 64},
                          all[] = {TOKENS};
    uint32_t ids[TOKENS];
    result want;
    make_ids(ids, TOKENS, 1);
    REQUIRE(reference(&want, ids, numerics, ops));
    for (uint32_t n_threads = 1; n_threads <= 2; n_threads++) {
        model_run m;
        REQUIRE(model_run_open(&m, ODD, numerics, ops, n_threads, N_ROWS));
        check_cuts(&m, ids, &want, all, 1, "in one step");
        check_cuts(&m, ids, &want, cuts, 4, "cut at 5, 9, 64");
        check_cuts(&m, ids, &want, sizes, 3, "in steps of 5, 9, 64");
        check_cuts(&m, ids, &want, one, 1, "token by token");
        check_mixed(&m, ids, &want, false);
        check_mixed(&m, ids, &want, true);
        model_run_close(&m);
    }
    result_fini(&want);
}

CASE(bits_are_a_function_of_the_tokens_generic)
{
    check_exactness(TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_GENERIC));
    check_exactness(TARNI_NUMERICS_F32, tarnk_cpu_ops(TARNK_ISA_GENERIC));
}

CASE(bits_are_a_function_of_the_tokens_avx2)
{
    if (!tarnk_cpu_ops(TARNK_ISA_AVX2))
        SKIP("no AVX2");
    check_exactness(TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_AVX2));
    check_exactness(TARNI_NUMERICS_F32, tarnk_cpu_ops(TARNK_ISA_AVX2));
}

CASE(bits_are_a_function_of_the_tokens_avx512)
{
    if (!tarnk_cpu_ops(TARNK_ISA_AVX512))
        SKIP("no AVX-512");
    check_exactness(TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_AVX512));
    check_exactness(TARNI_NUMERICS_F32, tarnk_cpu_ops(TARNK_ISA_AVX512));
}

CASE(reads_one_slot_and_writes_another)
{
    uint32_t ids[TOKENS];
    model_run m;
    result want, got;
    make_ids(ids, TOKENS, 1);
    REQUIRE(reference(&want, ids, TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_BEST)));
    REQUIRE(
        model_run_open(&m, ODD, TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_BEST), 1, N_ROWS));
    result_init(&got, &m);
    session_memory next;
    session_memory_init(&next, &m.layout, 1);
    CHECK_EQ(model_run_feed(&m, &got.memory, ids, 70, got.logits), 0);
    uint8_t *before = malloc(m.layout.slot_bytes);
    memcpy(before, got.memory.slot, m.layout.slot_bytes);
    memset(next.slot, 0xFF, m.layout.slot_bytes);
    tarnk_seq seq = session_memory_seq(&got.memory, 0, TOKENS - 70);
    seq.state_write = next.slot;
    uint32_t rows[TOKENS];
    float *at[TOKENS];
    for (uint32_t i = 0; i < TOKENS - 70; i++) {
        rows[i] = i;
        at[i] = got.logits + (size_t)(70 + i) * m.spec.vocab;
    }
    tarni_batch batch = {ids + 70, TOKENS - 70, &seq, 1, rows, at, TOKENS - 70, NULL, NULL, 0};
    CHECK_EQ(tarni_forward_run(m.forward, &batch), 0);
    CHECK_BYTES(got.memory.slot, before, m.layout.slot_bytes);
    /* Alignment gaps of a slot are not part of the state: take them from the reference. */
    for (uint32_t i = 0; i < m.layout.n_kda; i++) {
        size_t state = i * m.layout.state_stride;
        size_t conv = m.layout.conv_begin + i * m.layout.conv_stride;
        memcpy(got.memory.slot + state, next.slot + state, m.layout.state_bytes);
        memcpy(got.memory.slot + conv, next.slot + conv, m.layout.conv_bytes);
    }
    check_same(&m, &got, &want, "from slot to slot");
    free(before);
    session_memory_fini(&next);
    result_fini(&got);
    result_fini(&want);
    model_run_close(&m);
}

CASE(chosen_logits_may_lie_anywhere)
{
    static const uint32_t rows[] = {0, 1, 7, 64, 65, 66, 129};
    enum { N = sizeof rows / sizeof rows[0] };
    uint32_t ids[TOKENS];
    model_run m;
    result want, got;
    float *scattered[N], *spread[N];
    make_ids(ids, TOKENS, 1);
    REQUIRE(reference(&want, ids, TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_BEST)));
    REQUIRE(
        model_run_open(&m, ODD, TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_BEST), 2, N_ROWS));
    size_t vocab = m.spec.vocab;
    float *wide = malloc(N * (vocab + 8) * sizeof *wide);
    for (int i = 0; i < N; i++) {
        scattered[i] = malloc(vocab * sizeof(float)); /* rows of their own, in any order */
        spread[i] = wide + (size_t)i * (vocab + 8);
    }
    float *first = scattered[0];
    scattered[0] = scattered[3];
    scattered[3] = first;
    float *const *const places[] = {scattered, spread};
    for (int p = 0; p < 2; p++) {
        result_init(&got, &m);
        tarnk_seq seq = session_memory_seq(&got.memory, 0, TOKENS);
        tarni_batch batch = {ids, TOKENS, &seq, 1, rows, places[p], N, NULL, NULL, 0};
        CHECK_EQ(tarni_forward_run(m.forward, &batch), 0);
        for (int i = 0; i < N; i++)
            CHECK_BYTES(places[p][i], want.logits + rows[i] * vocab, vocab * sizeof(float));
        result_fini(&got);
    }
    for (int i = 0; i < N; i++)
        free(scattered[i]);
    free(wide);
    result_fini(&want);
    model_run_close(&m);
}

/* How many rows the last call of experts had. */
static uint32_t last_moe_rows;
static const tarnk_ops *counted_ops;

static int counting_moe(const tarnk_moe_args *args, const tarnk_context *context)
{
    last_moe_rows = args->n_rows;
    return counted_ops->moe(args, context);
}

/* Two sessions: steps without logits, then one where some rows of both are wanted. */
static void check_few_logits(tarni_numerics numerics, const tarnk_ops *counted)
{
    enum { BEFORE = 60, N = TOKENS - BEFORE, N_WANTED = 5 };
    static const uint32_t rows[N_WANTED] = {N - 2, N - 1, N, N + 3, 2 * N - 1};
    tarnk_ops ops = *counted;
    uint32_t ids[TOKENS], both[2 * N];
    model_run m;
    result want, got[2];
    ops.moe = counting_moe;
    counted_ops = counted;
    make_ids(ids, TOKENS, 1);
    REQUIRE(reference(&want, ids, numerics, counted));
    REQUIRE(model_run_open(&m, ODD, numerics, &ops, 2, N_ROWS));
    const size_t vocab = m.spec.vocab;
    float *at[N_WANTED];
    tarnk_seq seqs[2];
    for (uint32_t i = 0; i < 2; i++) {
        result_init(&got[i], &m);
        CHECK_EQ(model_run_feed(&m, &got[i].memory, ids, BEFORE, NULL), 0);
        CHECK_EQ(last_moe_rows, BEFORE); /* in the layer before the last */
        seqs[i] = session_memory_seq(&got[i].memory, i * N, N);
        memcpy(both + (size_t)i * N, ids + BEFORE, N * sizeof *ids);
    }
    for (uint32_t i = 0; i < N_WANTED; i++)
        at[i] = got[rows[i] / N].logits + (BEFORE + rows[i] % N) * vocab;
    tarni_batch batch = {both, 2 * N, seqs, 2, rows, at, N_WANTED, NULL, NULL, 0};
    CHECK_EQ(tarni_forward_run(m.forward, &batch), 0);
    CHECK_EQ(last_moe_rows, N_WANTED);
    for (uint32_t i = 0; i < N_WANTED; i++)
        CHECK_BYTES(at[i], want.logits + (BEFORE + rows[i] % N) * vocab, vocab * sizeof(float));
    for (uint32_t i = 0; i < 2; i++) {
        memcpy(got[i].logits, want.logits, TOKENS * vocab * sizeof(float));
        check_same(&m, &got[i], &want, "after a step with few logits");
        result_fini(&got[i]);
    }
    result_fini(&want);
    model_run_close(&m);
}

CASE(rows_nobody_wants_end_with_their_latents)
{
    check_few_logits(TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_BEST));
    check_few_logits(TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_BEST_BF16));
    check_few_logits(TARNI_NUMERICS_F32, tarnk_cpu_ops(TARNK_ISA_BEST));
}

/* ---- strips of a larger vocabulary ----------------------------------------------------------- */

CASE(scattered_logits_come_in_strips)
{
    model_run m;
    session_memory a, b;
    REQUIRE(model_run_open(&m, TEST_EXAMPLES "/model", TARNI_NUMERICS_F32,
                           tarnk_cpu_ops(TARNK_ISA_BEST), 1, 4));
    /* The embedding four times over stands for lm_head: 5,120 rows, more than two strips. */
    tarnk_matrix lm_head = m.weights.lm_head;
    size_t n_bytes = (size_t)lm_head.n_out * lm_head.n_in * 2;
    uint8_t *rows4 = malloc(4 * n_bytes);
    for (size_t i = 0; i < 4; i++)
        memcpy(rows4 + i * n_bytes, lm_head.data, n_bytes);
    m.weights.lm_head.data = rows4;
    m.weights.lm_head.n_out = m.spec.vocab = 4 * lm_head.n_out;
    size_t vocab = m.spec.vocab;
    float *whole = malloc(2 * vocab * sizeof *whole);
    float *parts[2] = {malloc(vocab * sizeof(float)), malloc(vocab * sizeof(float))};
    float *upside_down[2] = {parts[0] > parts[1] ? parts[0] : parts[1],
                             parts[0] > parts[1] ? parts[1] : parts[0]};
    const uint32_t ids[2] = {3, 4}, rows[2] = {0, 1};
    session_memory_init(&a, &m.layout, 2);
    session_memory_init(&b, &m.layout, 2);
    CHECK_EQ(model_run_feed(&m, &a, ids, 2, whole), 0);
    tarnk_seq seq = session_memory_seq(&b, 0, 2);
    tarni_batch batch = {ids, 2, &seq, 1, rows, upside_down, 2, NULL, NULL, 0};
    CHECK_EQ(tarni_forward_run(m.forward, &batch), 0);
    CHECK_BYTES(upside_down[0], whole, vocab * sizeof(float));
    CHECK_BYTES(upside_down[1], whole + vocab, vocab * sizeof(float));
    CHECK_BYTES(whole, whole + 3 * lm_head.n_out, lm_head.n_out * sizeof(float));
    session_memory_fini(&a);
    session_memory_fini(&b);
    free(parts[0]);
    free(parts[1]);
    free(whole);
    free(rows4);
    model_run_close(&m);
}

/* ---- errors ---------------------------------------------------------------------------------- */

#define FAILING(op, number)                                                                        \
    static int failing_##op(const tarnk_##op##_args *args, const tarnk_context *context)           \
    {                                                                                              \
        (void)args;                                                                                \
        (void)context;                                                                             \
        return (number);                                                                           \
    }

FAILING(embed, 1)
FAILING(silu_mul, 2)
FAILING(norm_rms, 3)
FAILING(norm_gated, 4)
FAILING(conv1d, 6)
FAILING(kda_gate, 7)
FAILING(kda, 8)
FAILING(mla_latent, 9)
FAILING(mla, 10)
FAILING(moe_route, 11)
FAILING(moe, 12)

static int matmuls_left;

static int counting_matmul(const tarnk_matmul_args *parts, uint32_t n_parts,
                           const tarnk_context *context)
{
    if (matmuls_left-- == 0)
        return 5;
    return tarnk_cpu_ops(TARNK_ISA_BEST)->matmul(parts, n_parts, context);
}

static int latents_left;

static int failing_last_latent(const tarnk_mla_latent_args *args, const tarnk_context *context)
{
    if (latents_left-- == 0)
        return 9;
    return tarnk_cpu_ops(TARNK_ISA_BEST)->mla_latent(args, context);
}

/* Three rows, the last of them or all with logits. */
static int run_with(const tarnk_ops *ops, bool last_alone)
{
    model_run m;
    session_memory s;
    const uint32_t ids[3] = {1, 2, 3};
    if (!model_run_open(&m, ODD, TARNI_NUMERICS_NATIVE, ops, 1, 4))
        return -1;
    float *logits = malloc(3 * (size_t)m.spec.vocab * sizeof *logits);
    session_memory_init(&s, &m.layout, 3);
    int error = last_alone ? model_run_append(&m, &s, ids, 3, 4, logits)
                           : model_run_feed(&m, &s, ids, 3, logits);
    session_memory_fini(&s);
    free(logits);
    model_run_close(&m);
    return error;
}

static tarnk_kda_gate_args seen_gate;
static tarnk_moe_route_args seen_route;

static int seeing_gate(const tarnk_kda_gate_args *args, const tarnk_context *context)
{
    seen_gate = *args;
    return tarnk_cpu_ops(TARNK_ISA_BEST)->kda_gate(args, context);
}

static int seeing_route(const tarnk_moe_route_args *args, const tarnk_context *context)
{
    seen_route = *args;
    return tarnk_cpu_ops(TARNK_ISA_BEST)->moe_route(args, context);
}

/* No oracle has these variants; the ops are tested on their own, here only that they are told. */
CASE(variants_of_the_spec_reach_the_ops)
{
    tarnk_ops ops = *tarnk_cpu_ops(TARNK_ISA_BEST);
    model_run m;
    session_memory s;
    const uint32_t id = 3;
    ops.kda_gate = seeing_gate;
    ops.moe_route = seeing_route;
    REQUIRE(model_run_open(&m, ODD, TARNI_NUMERICS_NATIVE, &ops, 1, 4));
    m.spec.gate_kind = TARNK_GATE_BOUNDED;
    m.spec.gate_lower_bound = -5;
    m.spec.router_kind = TARNK_ROUTER_SOFTMAX;
    m.spec.renormalize = false;
    m.spec.n_groups = 4;
    m.spec.groups_kept = 2;
    session_memory_init(&s, &m.layout, 1);
    CHECK_EQ(model_run_feed(&m, &s, &id, 1, NULL), 0);
    CHECK(seen_gate.gate_kind == TARNK_GATE_BOUNDED && seen_gate.lower_bound == -5);
    CHECK(seen_route.kind == TARNK_ROUTER_SOFTMAX && !seen_route.renormalize);
    CHECK(seen_route.n_groups == 4 && seen_route.groups_kept == 2);
    CHECK(seen_route.scale == m.spec.routed_scale && seen_route.top_k == 3);
    session_memory_fini(&s);
    model_run_close(&m);
}

#define CHECK_FAILING(op, number)                                                                  \
    do {                                                                                           \
        tarnk_ops ops = *tarnk_cpu_ops(TARNK_ISA_BEST);                                            \
        ops.op = failing_##op;                                                                     \
        CHECK_EQ(run_with(&ops, false), number);                                                   \
    } while (0)

CASE(errors_of_ops_are_returned)
{
    CHECK_FAILING(embed, 1);
    CHECK_FAILING(silu_mul, 2);
    CHECK_FAILING(norm_rms, 3);
    CHECK_FAILING(norm_gated, 4);
    CHECK_FAILING(conv1d, 6);
    CHECK_FAILING(kda_gate, 7);
    CHECK_FAILING(kda, 8);
    CHECK_FAILING(mla_latent, 9);
    CHECK_FAILING(mla, 10);
    CHECK_FAILING(moe_route, 11);
    CHECK_FAILING(moe, 12);
    tarnk_ops ops = *tarnk_cpu_ops(TARNK_ISA_BEST);
    ops.matmul = counting_matmul;
    /* 4 KDA layers of 3 products, 3 MLA of 2, 1 dense and 6 MoE blocks of 2, then lm_head. */
    for (int n = 0; n < 33; n++) {
        matmuls_left = n;
        CHECK_EQ(run_with(&ops, false), 5);
    }
    matmuls_left = 33;
    CHECK_EQ(run_with(&ops, false), 0);
    /* With few logits the last MLA layer has 3. */
    for (int n = 0; n < 34; n++) {
        matmuls_left = n;
        CHECK_EQ(run_with(&ops, true), 5);
    }
    matmuls_left = 34;
    CHECK_EQ(run_with(&ops, true), 0);
    ops = *tarnk_cpu_ops(TARNK_ISA_BEST);
    ops.mla_latent = failing_last_latent;
    latents_left = 2;
    CHECK_EQ(run_with(&ops, true), 9);
}

CASE(creation_survives_missing_memory)
{
    model_run m;
    tarn_error err;
    tarn_status status = TARN_E_NO_MEMORY;
    REQUIRE(model_run_open(&m, ODD, TARNI_NUMERICS_NATIVE, tarnk_cpu_ops(TARNK_ISA_BEST), 1, 4));
    for (long n = 0; n < 10 && status != TARN_OK; n++) {
        failing fail = {n, 0};
        tarn_allocator a = failing_allocator(&fail);
        tarni_forward *f;
        status = tarni_forward_create(&m.spec, &m.layout, &m.device, 8, 8, &a, &f, &err);
        CHECK((f == NULL) == (status != TARN_OK));
        if (status != TARN_OK)
            CHECK_STATUS(status, TARN_E_NO_MEMORY);
        tarni_forward_free(f);
        CHECK_EQ(fail.blocks, 0);
    }
    CHECK_STATUS(status, TARN_OK);
    CHECK(tarni_forward_bytes(&tarni_cpu_class, &m.spec, 64, 0) >
          tarni_forward_bytes(&tarni_cpu_class, &m.spec, 8, 0));
    model_run_close(&m);
}

CASE(absurd_workspaces_are_refused_not_wrapped)
{
    tarni_spec spec;
    tarni_forward *f;
    tarn_error err;
    REQUIRE_OK(tarni_spec_load(ODD, &tarni_heap, &spec, &err), &err);
    spec.dense_width = UINT32_MAX;
    spec.hidden = UINT32_MAX;
    tarni_device device;
    tarni_device_of_ops(&device, tarnk_cpu_ops(TARNK_ISA_BEST), &(tarnk_context){0}, NULL);
    CHECK_STATUS(tarni_forward_create(&spec, NULL, &device, UINT32_MAX, 8, &tarni_heap, &f, &err),
                 TARN_E_NO_MEMORY);
    CHECK(f == NULL);
}

CHECK_MAIN(ENTRY(bits_are_a_function_of_the_tokens_generic),
           ENTRY(bits_are_a_function_of_the_tokens_avx2),
           ENTRY(bits_are_a_function_of_the_tokens_avx512),
           ENTRY(reads_one_slot_and_writes_another), ENTRY(chosen_logits_may_lie_anywhere),
           ENTRY(rows_nobody_wants_end_with_their_latents), ENTRY(scattered_logits_come_in_strips),
           ENTRY(variants_of_the_spec_reach_the_ops), ENTRY(errors_of_ops_are_returned),
           ENTRY(creation_survives_missing_memory),
           ENTRY(absurd_workspaces_are_refused_not_wrapped))
