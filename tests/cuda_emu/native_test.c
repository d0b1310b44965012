/* What the CUDA table does in the native numerics, bf16 operands on tensor cores, against the
 * double precision twins within what bf16 costs, and against itself bit by bit: a row alone, in
 * batches of any size, beside any neighbours, with any bounds. Runs on the emulator and on a
 * device. */
#include "check.h"
#include "bed.h"
#include "mirror.h"
#include "twin.h"

#define BF16_ERROR 1e-2 /* of the largest value; what is met is mostly a third of it */

/* ---- products -------------------------------------------------------------------------------- */

static float *rounded_floats(size_t n, uint64_t seed, float scale)
{
    float *x = bed_floats(n, seed, scale);
    bed_round_all(x, n);
    return x;
}

/* The first n_rows of x, in order, through one product; every element must be what `want` has. */
static void check_rows(const tarnk_ops *ops, tarnk_matmul_args a, uint32_t n_rows,
                       const float *want)
{
    const size_t n = (size_t)n_rows * a.w.n_out;
    a.out = bed_alloc(n * 4);
    a.out_stride = a.w.n_out;
    a.n_rows = n_rows;
    CHECK_EQ(ops->matmul(&a, 1, mirror_context()), 0);
    if (memcmp(a.out, want, n * 4) != 0)
        CHECK_FAIL("K %u N %u: bits change with %u rows", a.w.n_in, a.w.n_out, n_rows);
}

CASE(products_match_the_twin_and_rows_keep_their_bits)
{
    const tarnk_ops *ops = mirror_ops(true, 0);
    REQUIRE(ops);
    const uint32_t shapes[][2] = {{8, 5}, {40, 17}, {128, 33}, {264, 150}, {600, 3}, {2304, 24}};
    const uint32_t batches[] = {1, 2, 7, 8, 9, 16, 17, 33, 64, 65, 100, 128, 129};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const uint32_t n_in = shapes[s][0], n_out = shapes[s][1], n_rows = 140;
        const size_t all = (size_t)n_rows * n_out;
        tarnk_matmul_args a = {.x = rounded_floats((size_t)n_rows * n_in, s, 1),
                               .x_stride = n_in,
                               .w = bed_matrix(n_out, n_in, TARNK_BF16, 0, 50 + s),
                               .out = bed_alloc(all * 4),
                               .out_stride = n_out,
                               .n_rows = n_rows};
        double *want = bed_alloc(all * 8), *sizes = bed_alloc(all * 8);
        CHECK_EQ(ops->matmul(&a, 1, mirror_context()), 0);
        twin_matmul(&a, want, sizes);
        for (size_t i = 0; i < all; i++)
            if (!(fabs((double)a.out[i] - want[i]) <= 3e-6 * sizes[i] + 1e-9)) {
                CHECK_FAIL("K %u N %u: element %zu is %.9g, should be %.9g", n_in, n_out, i,
                           (double)a.out[i], want[i]);
                break;
            }
        for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++)
            check_rows(ops, a, batches[b], a.out);
        bed_end();
    }
}

CASE(parts_of_one_call_share_inputs_add_and_round)
{
    const tarnk_ops *ops = mirror_ops(true, 0);
    REQUIRE(ops);
    const uint32_t n_rows = 40, n_in = 64, outs[] = {16, 3, 70};
    float *x = rounded_floats(n_rows * n_in, 1, 1);
    tarnk_matmul_args a[3], one;
    for (uint32_t i = 0; i < 3; i++)
        a[i] = (tarnk_matmul_args){
            .x = x,
            .x_stride = n_in,
            .w = bed_matrix(outs[i], n_in, i == 1 ? TARNK_F32 : TARNK_BF16, 0, 10 + i),
            .out = bed_filled((size_t)n_rows * outs[i], 2),
            .out_stride = outs[i],
            .n_rows = n_rows,
            .accumulate = i == 0,
            .round = i == 2};
    CHECK_EQ(ops->matmul(a, 3, mirror_context()), 0);
    for (uint32_t i = 0; i < 3; i++) {
        size_t n = (size_t)n_rows * outs[i];
        one = a[i];
        one.accumulate = one.round = false;
        one.out = bed_alloc(n * 4);
        CHECK_EQ(ops->matmul(&one, 1, mirror_context()), 0);
        for (size_t e = 0; e < n; e++) {
            float want = i == 0 ? 2 + one.out[e] : i == 2 ? bed_round_bf16(one.out[e]) : one.out[e];
            if (a[i].out[e] != want) {
                CHECK_FAIL("part %u element %zu is %.9g, should be %.9g", i, e, (double)a[i].out[e],
                           (double)want);
                break;
            }
        }
    }
    /* A workspace too small for the inputs as bf16: another kernel, the same bits. */
    ops = mirror_ops(true, 256);
    for (uint32_t i = 0; i < 3; i++) {
        size_t n = (size_t)n_rows * outs[i];
        one = a[i];
        one.out = bed_filled(n, 2);
        CHECK_EQ(ops->matmul(&one, 1, mirror_context()), 0);
        CHECK_BYTES(one.out, a[i].out, n * 4);
    }
    bed_end();
}

#define EXPERTS 12
#define TOP_K   3

static void run_moe(const tarnk_ops *ops, tarnk_moe_args a, uint32_t row, uint32_t n_rows,
                    float *out)
{
    a.x += (size_t)row * a.n;
    a.experts += row * TOP_K;
    a.weights += row * TOP_K;
    a.out = memset(out, 0, (size_t)n_rows * a.n * 4);
    a.n_rows = n_rows;
    CHECK_EQ(ops->moe(&a, mirror_context()), 0);
}

CASE(experts_match_the_twin_and_rows_keep_their_bits)
{
    const tarnk_ops *ops = mirror_ops(true, 0);
    REQUIRE(ops);
    const uint32_t n = 136, width = 88, n_rows = 140;
    tarnk_matrix w1[EXPERTS], w3[EXPERTS], w2[EXPERTS];
    uint32_t experts[140 * TOP_K];
    for (uint32_t e = 0; e < EXPERTS; e++) {
        w1[e] = bed_matrix(width, n, TARNK_BF16, 0, e);
        w3[e] = bed_matrix(width, n, TARNK_BF16, 0, 100 + e);
        w2[e] = bed_matrix(n, width, TARNK_BF16, 0, 200 + e);
    }
    for (uint32_t r = 0; r < n_rows; r++) { /* one expert gets nearly all rows, some get none */
        experts[r * TOP_K] = r % 9 == 5 ? 1 : 2;
        experts[r * TOP_K + 1] = 3 + r % 3;
        experts[r * TOP_K + 2] = 7 + r % 4;
    }
    const size_t all = (size_t)n_rows * n;
    tarnk_moe_args a = {.x = rounded_floats(all, 7, 1),
                        .w1 = w1,
                        .w3 = w3,
                        .w2 = w2,
                        .experts = experts,
                        .weights = bed_floats(n_rows * TOP_K, 9, 1),
                        .n_rows = n_rows,
                        .n = n,
                        .width = width,
                        .n_experts = EXPERTS,
                        .top_k = TOP_K,
                        .round = true};
    float *out = bed_alloc(all * 4), *part = bed_alloc(all * 4);
    double *want = bed_alloc(all * 8);
    twin_moe(&a, want);
    run_moe(ops, a, 0, n_rows, out);
    CHECK(bed_error(out, want, all) <= BF16_ERROR);
    const uint32_t batches[][2] = {{0, 1},  {5, 2},   {3, 7},   {10, 8},
                                   {40, 9}, {11, 64}, {30, 90}, {8, 132}};
    for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
        run_moe(ops, a, batches[b][0], batches[b][1], part);
        if (memcmp(part, out + (size_t)batches[b][0] * n, (size_t)batches[b][1] * n * 4) != 0)
            CHECK_FAIL("bits change for %u rows from %u on", batches[b][1], batches[b][0]);
    }
    bed_end();
}

/* ---- recurrence ------------------------------------------------------------------------------ */

#define HEADS       2
#define DIM         128
#define STATE_BYTES ((size_t)HEADS * DIM * DIM * 4)

typedef struct kda_case {
    const char *name;
    float gate;   /* of a mild token, nats */
    float strong; /* of every third token, nats; 0: none */
    float beta;   /* below 0: random */
    bool
        collinear; /* all keys nearly the same: each v' is a difference of two v and its rounding to
                      bf16 stays until the next chunk corrects it, which costs some digits more */
} kda_case;

static void unit(float *x, uint32_t n, float scale)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    for (uint32_t i = 0; i < n; i++)
        x[i] = (float)((double)x[i] / sqrt(sum + 1e-6)) * scale;
}

static tarnk_kda_args kda_inputs(const kda_case *c, uint32_t n_rows, uint64_t seed)
{
    const size_t heads = (size_t)n_rows * HEADS;
    float *q = bed_floats(heads * DIM, seed, 1), *k = bed_floats(heads * DIM, seed + 1, 1);
    float *g = bed_floats(heads * DIM, seed + 2, 1), *beta = bed_floats(heads, seed + 3, 1);
    for (size_t h = 0; h < heads; h++) {
        for (uint32_t i = 0; i < DIM && c->collinear; i++)
            k[h * DIM + i] = k[h % HEADS * DIM + i] + 0.01F * k[h * DIM + i];
        unit(q + h * DIM, DIM, 0.088388F);
        unit(k + h * DIM, DIM, 1);
        for (uint32_t i = 0; i < DIM; i++) {
            float size = c->strong < 0 && h / HEADS % 3 == 2 ? c->strong : c->gate;
            g[h * DIM + i] = size * (1 + 0.5F * tanhf(g[h * DIM + i]));
        }
        beta[h] = c->beta < 0 ? 1 / (1 + expf(-beta[h])) : c->beta;
    }
    bed_round_all(q, heads * DIM); /* as an operand it is in any case; keys that are alike differ */
    bed_round_all(k, heads * DIM); /* in their last digits, and the twin is to see the same ones */
    return (tarnk_kda_args){.q = q,
                            .k = k,
                            .v = rounded_floats(heads * DIM, seed + 4, 1),
                            .g = g,
                            .beta = beta,
                            .out = bed_alloc(heads * DIM * 4),
                            .n_heads = HEADS,
                            .k_dim = DIM,
                            .v_dim = DIM,
                            .n_seqs = 1,
                            .state_offset = 64};
}

static uint8_t *random_slot(uint64_t seed)
{
    uint8_t *slot = bed_alloc(64 + STATE_BYTES);
    memcpy(slot + 64, bed_floats(STATE_BYTES / 4, seed, 0.3F), STATE_BYTES);
    return slot;
}

static void check_chunks(const tarnk_ops *ops, const kda_case *c, uint32_t n_rows)
{
    tarnk_kda_args a = kda_inputs(c, n_rows, n_rows);
    const size_t n_out = (size_t)n_rows * HEADS * DIM, n_state = STATE_BYTES / 4;
    uint8_t *read = random_slot(9), *write = bed_alloc(64 + STATE_BYTES);
    double *state = bed_alloc(n_state * 8), *want = bed_alloc(n_out * 8);
    float initial[4];
    for (size_t i = 0; i < n_state; i++) {
        memcpy(initial, read + 64 + i * 4, 4);
        state[i] = (double)initial[0];
    }
    tarnk_seq seq = {.n_rows = n_rows, .state_read = read, .state_write = write};
    a.seqs = &seq;
    CHECK_EQ(ops->kda(&a, mirror_context()), 0);
    twin_kda(&a, state, want);
    double out_error = bed_error(a.out, want, n_out);
    double state_error = bed_error((float *)(void *)(write + 64), state, n_state);
    double bound = c->collinear ? 3 * BF16_ERROR : BF16_ERROR;
    if (!(out_error <= bound && state_error <= bound))
        CHECK_FAIL("%s, %u rows: out is off by %.3g, state by %.3g", c->name, n_rows, out_error,
                   state_error);
    if (getenv("TARN_TEST_PRINT"))
        printf("%s, %u rows: out %.3g, state %.3g\n", c->name, n_rows, out_error, state_error);
}

CASE(chunks_match_the_recurrence_at_any_gate)
{
    const tarnk_ops *ops = mirror_ops(true, 0);
    REQUIRE(ops);
    const kda_case cases[] = {{"mild", -0.05F, 0, -1, false},
                              {"typical", -1.5F, 0, -1, false},
                              {"strong", -80, 0, -1, false},
                              {"mild and strong", -0.1F, -80, -1, false},
                              {"mild and boundless", -0.1F, -1e6F, -1, false},
                              {"no decay, beta 1, alike", 0, 0, 1, true},
                              {"mild, beta 1, alike", -0.02F, 0, 1, true},
                              {"beta 0", -0.5F, 0, 0, false},
                              {"bounded", -5, -0.01F, -1, false}};
    const uint32_t lengths[] = {64, 65, 100, 127, 130, 77, 640, 81, 64};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_chunks(ops, &cases[i], lengths[i]);
        bed_end();
    }
}

CASE(short_appends_take_the_recurrence)
{
    const tarnk_ops *ops = mirror_ops(true, 0);
    REQUIRE(ops);
    const kda_case c = {"typical", -1.5F, 0, -1, false};
    const uint32_t lengths[] = {1, 3, 63};
    for (size_t i = 0; i < 3; i++) {
        tarnk_kda_args a = kda_inputs(&c, lengths[i], 3);
        const size_t n_out = (size_t)lengths[i] * HEADS * DIM, n_state = STATE_BYTES / 4;
        float *slot = bed_filled(n_state + 16, 0);
        double *state = bed_alloc(n_state * 8), *want = bed_alloc(n_out * 8);
        for (size_t s = 0; s < n_state; s++)
            state[s] = 0;
        tarnk_seq seq = {
            .n_rows = lengths[i], .state_read = (uint8_t *)slot, .state_write = (uint8_t *)slot};
        a.seqs = &seq;
        CHECK_EQ(ops->kda(&a, mirror_context()), 0);
        twin_kda(&a, state, want);
        CHECK(bed_error(a.out, want, n_out) <= 2e-6);
        CHECK(bed_error(slot + 16, state, n_state) <= 2e-6);
        bed_end();
    }
}

/* Four sessions, two of them long, alone and together, with room for all chunks or for one. */
CASE(sessions_keep_their_bits_beside_others)
{
    const kda_case c = {"typical", -1, 0, -1, false};
    const uint32_t lengths[] = {70, 1, 130, 5};
    uint32_t begin = 0;
    tarnk_seq seqs[4];
    const tarnk_ops *ops = mirror_ops(true, 0);
    REQUIRE(ops);
    tarnk_kda_args a = kda_inputs(&c, 206, 3);
    for (uint32_t i = 0; i < 4; i++) {
        seqs[i] = (tarnk_seq){.row_begin = begin,
                              .n_rows = lengths[i],
                              .state_read = random_slot(20 + i),
                              .state_write = bed_alloc(64 + STATE_BYTES)};
        begin += lengths[i];
    }
    a.seqs = seqs;
    a.n_seqs = 4;
    CHECK_EQ(ops->kda(&a, mirror_context()), 0);
    for (int room = 0; room < 2; room++) {
        ops = mirror_ops(true, room ? (size_t)74240 * HEADS : 0);
        for (uint32_t i = 0; i < 4; i++) {
            const size_t at = (size_t)seqs[i].row_begin * HEADS;
            tarnk_kda_args one = a;
            tarnk_seq seq = seqs[i];
            one.q += at * DIM;
            one.k += at * DIM;
            one.v += at * DIM;
            one.g += at * DIM;
            one.beta += at;
            one.out = bed_alloc((size_t)lengths[i] * HEADS * DIM * 4);
            one.seqs = &seq;
            one.n_seqs = 1;
            seq.row_begin = 0;
            seq.state_write = bed_alloc(64 + STATE_BYTES);
            CHECK_EQ(ops->kda(&one, mirror_context()), 0);
            CHECK_BYTES(one.out, a.out + at * DIM, (size_t)lengths[i] * HEADS * DIM * 4);
            CHECK_BYTES(seq.state_write + 64, seqs[i].state_write + 64, STATE_BYTES);
        }
    }
    bed_end();
}

/* ---- attention ------------------------------------------------------------------------------- */

#define RANK  512
#define ROPE  64
#define NOPE  24
#define MLA_V 20

static uint8_t **latent_pages(uint32_t n_tokens, uint64_t seed)
{
    const uint32_t n = (n_tokens + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS, len = RANK + ROPE;
    uint8_t **pages = bed_alloc(n * sizeof *pages);
    float *rows = bed_floats((size_t)n_tokens * len, seed, 1);
    for (uint32_t p = 0; p < n; p++)
        pages[p] = bed_alloc(16 + (size_t)TARNK_PAGE_TOKENS * len * 2); /* NaN where no token is */
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t i = 0; i < len; i++) {
            float x = bed_round_bf16(rows[(size_t)t * len + i]);
            uint32_t bits;
            memcpy(&bits, &x, 4);
            uint16_t half = (uint16_t)(bits >> 16);
            memcpy(pages[t / 64] + 16 + ((size_t)(t % 64) * len + i) * 2, &half, 2);
        }
    return pages;
}

static tarnk_mla_args attention(uint32_t n_rows, uint32_t n_heads)
{
    return (tarnk_mla_args){.q = rounded_floats((size_t)n_rows * n_heads * (NOPE + ROPE), 5, 1),
                            .kv_b = bed_matrix(n_heads * (NOPE + MLA_V), RANK, TARNK_BF16, 0, 6),
                            .out = bed_alloc((size_t)n_rows * n_heads * MLA_V * 4),
                            .n_rows = n_rows,
                            .n_heads = n_heads,
                            .nope = NOPE,
                            .rope = ROPE,
                            .v_dim = MLA_V,
                            .rank = RANK,
                            .latent_offset = 16,
                            .latent_dtype = TARNK_BF16};
}

CASE(attention_matches_the_twin_and_rows_keep_their_bits)
{
    const tarnk_ops *ops = mirror_ops(true, 0);
    REQUIRE(ops);
    const uint32_t shapes[][3] = {{0, 1, 5}, {63, 2, 32}, {300, 1, 40}, {520, 3, 7}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const uint32_t position = shapes[s][0], n_rows = shapes[s][1], n_heads = shapes[s][2];
        const size_t each = (size_t)n_heads * MLA_V, q_each = (size_t)n_heads * (NOPE + ROPE);
        tarnk_mla_args a = attention(n_rows, n_heads);
        tarnk_seq seq = {
            .n_rows = n_rows, .position = position, .pages = latent_pages(position + n_rows, s)};
        a.seqs = &seq;
        a.n_seqs = 1;
        double *want = bed_alloc(n_rows * each * 8);
        CHECK_EQ(ops->mla(&a, mirror_context()), 0);
        twin_mla(&a, want);
        double error = bed_error(a.out, want, n_rows * each);
        if (!(error <= BF16_ERROR))
            CHECK_FAIL("position %u, %u rows, %u heads: off by %.3g", position, n_rows, n_heads,
                       error);
        /* The last row again, alone, as the second of two sessions. */
        tarnk_mla_args b = a;
        tarnk_seq two[2] = {
            {.n_rows = 1, .position = 70, .pages = latent_pages(71, 99)},
            {.row_begin = 1, .n_rows = 1, .position = position + n_rows - 1, .pages = seq.pages}};
        float *q = rounded_floats(2 * q_each, 77, 1);
        memcpy(q + q_each, a.q + (n_rows - 1) * q_each, q_each * 4);
        b.q = q;
        b.seqs = two;
        b.n_seqs = b.n_rows = 2;
        b.out = bed_alloc(2 * each * 4);
        CHECK_EQ(ops->mla(&b, mirror_context()), 0);
        CHECK_BYTES(b.out + each, a.out + (n_rows - 1) * each, each * 4);
        bed_end();
    }
}

/* A long append, expanded, beside a decode row and a short one; its bits alone, with room for all
 * keys or for one tile of them. `arch`: as if the device were of that one. */
static void check_long_appends(uint32_t arch)
{
    enum { LONG = 200, BEFORE = 70, HEADS_HERE = 2, Q = HEADS_HERE * 192, V = HEADS_HERE * 128 };
    const uint32_t n_rows = LONG + 4;
    const tarnk_ops *ops = mirror_ops(true, 0);
    tarnk_mla_args a = {.q = rounded_floats((size_t)n_rows * Q, 5, 2),
                        .kv_b = bed_matrix(HEADS_HERE * 256, RANK, TARNK_BF16, 0, 6),
                        .out = bed_alloc((size_t)n_rows * V * 4),
                        .n_rows = n_rows,
                        .n_heads = HEADS_HERE,
                        .nope = 128,
                        .rope = ROPE,
                        .v_dim = 128,
                        .rank = RANK,
                        .latent_offset = 16,
                        .latent_dtype = TARNK_BF16,
                        .n_seqs = 3};
    tarnk_seq seqs[3] = {{.n_rows = 1, .position = 30, .pages = latent_pages(31, 1)},
                         {.row_begin = 1,
                          .n_rows = LONG,
                          .position = BEFORE,
                          .pages = latent_pages(BEFORE + LONG, 2)},
                         {.row_begin = 1 + LONG, .n_rows = 3, .pages = latent_pages(3, 3)}};
    a.seqs = seqs;
    mirror_cuda()->arch = arch;
    CHECK_EQ(ops->mla(&a, mirror_context()), 0);
    for (int i = 0; i < 3; i++) {
        const size_t n = (size_t)seqs[i].n_rows * V, at = seqs[i].row_begin;
        double *want = bed_alloc(n * 8);
        tarnk_mla_args one = a;
        tarnk_seq seq = seqs[i];
        seq.row_begin = 0;
        one.q += at * Q;
        one.n_rows = seq.n_rows;
        one.seqs = &seq;
        one.n_seqs = 1;
        one.out = bed_alloc(n * 4);
        twin_mla(&one, want);
        double error = bed_error(a.out + at * V, want, n);
        if (!(error <= BF16_ERROR))
            CHECK_FAIL("arch %u: session %d is off by %.3g", arch, i, error);
        for (int room = 0; room < 2; room++) {
            ops = mirror_ops(true, room ? 5000 + 128 * (HEADS_HERE * 512 + 128) : 0);
            mirror_cuda()->arch = arch;
            memset(one.out, 0xff, n * 4);
            CHECK_EQ(ops->mla(&one, mirror_context()), 0);
            CHECK_BYTES(one.out, a.out + at * V, n * 4);
        }
    }
    bed_end();
}

CASE(long_appends_match_the_twin_whatever_the_room)
{
    REQUIRE(mirror_ops(true, 0));
    check_long_appends(mirror_cuda()->arch);
}

CASE(long_appends_match_the_twin_without_wgmma)
{
    REQUIRE(mirror_ops(true, 0));
    check_long_appends(80);
}

/* ---- sampling -------------------------------------------------------------------------------- */

static const float *sort_by;

static int by_logit(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return sort_by[x] != sort_by[y] ? (sort_by[x] < sort_by[y] ? 1 : -1) : (x > y) - (x < y);
}

/* By sorting, as cuda.h words it. */
static uint32_t sample_twin(const float *logits, uint32_t vocab, const tarnk_sample_params *p,
                            double u)
{
    uint32_t *order = bed_alloc(vocab * 4), kept = 0;
    double *weight = bed_alloc(vocab * 8), sum = 0, running = 0, total = 0;
    for (uint32_t i = 0; i < vocab; i++)
        order[i] = i;
    sort_by = logits;
    qsort(order, vocab, sizeof *order, by_logit);
    if (p->temperature == 0)
        return order[0];
    for (uint32_t i = 0; i < vocab; i++)
        weight[i] = exp(((double)logits[i] - (double)logits[order[0]]) / (double)p->temperature);
    uint32_t limit = p->top_k > 0 && p->top_k < vocab ? p->top_k : vocab;
    for (uint32_t i = 0; i < limit; i++)
        sum += weight[order[i]];
    while (kept < limit && (kept == 0 || p->top_p >= 1 || running < (double)p->top_p * sum) &&
           weight[order[kept]] >= (double)p->min_p)
        running += weight[order[kept++]];
    bool *in = bed_alloc(vocab * sizeof *in);
    memset(in, 0, vocab * sizeof *in);
    for (uint32_t i = 0; i < kept; i++)
        in[order[i]] = true;
    for (uint32_t i = 0; i < vocab; i++)
        total += in[i] ? weight[i] : 0;
    running = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (in[i] && (running += weight[i]) > u * total)
            return i;
    return order[0];
}

CASE(samples_are_those_of_a_sorted_vocabulary)
{
    REQUIRE(mirror_ops(true, 0));
    enum { VOCAB = 1500, ROWS = 12 };
    float *logits = bed_floats((size_t)ROWS * VOCAB, 4, 3);
    for (int i = 0; i < VOCAB; i++)
        logits[3 * VOCAB + i] = floorf(logits[3 * VOCAB + i]); /* many ties */
    memcpy(logits + 4 * VOCAB, logits + 3 * VOCAB, VOCAB * 4);
    logits[5 * VOCAB + 7] = NAN;
    logits[6 * VOCAB + 1499] = INFINITY;
    logits[7 * VOCAB + 3] = -INFINITY;
    const tarnk_sample_params params[ROWS] = {
        {0, 1, 0, 0},     {1, 1, 0, 0},     {0.7F, 0.9F, 0, 0}, {1, 1, 0, 40},
        {1, 0.5F, 0, 40}, {1, 1, 0, 0},     {0, 1, 0, 0},       {2, 0.95F, 0.01F, 100},
        {1, 1, 0.1F, 0},  {1, 0.01F, 0, 0}, {1, 1, 0, 1},       {5, 0.8F, 0.3F, 700}};
    /* Row 0 alone asks for the largest, which ends a turn by being asked for twice; rows 5 and 6
     * are no ids. */
    uint32_t stop_ids[VOCAB + 4];
    tarnk_stop_range stops[ROWS];
    uint32_t greedy = sample_twin(logits, VOCAB, &params[0], 0);
    const uint32_t first[] = {VOCAB + 1, greedy, greedy, TARNK_ID_NONE - 1};
    memcpy(stop_ids, first, sizeof first);
    for (uint32_t i = 0; i < VOCAB; i++)
        stop_ids[4 + i] = i;
    for (uint32_t r = 0; r < ROWS; r++) /* most look at hundreds of ids, from places of their own */
        stops[r] = (tarnk_stop_range){4 + 40 * r, 40 + 80 * (r % 12), r % 3 ? 10 * r : 0};
    stops[0] = (tarnk_stop_range){0, 4, 2};
    stops[1] = (tarnk_stop_range){4, 0, 0};
    stops[2] = (tarnk_stop_range){4, TARNK_STOPS_MAX, TARNK_STOPS_MAX};
    int seen[3] = {0};
    for (int round = 0; round < 3; round++) {
        double u[ROWS];
        uint32_t ids[ROWS];
        tarnk_row_result results[ROWS];
        for (int r = 0; r < ROWS; r++)
            u[r] = (double)((r * 37 + round * 61) % 100) / 100 + 0.003;
        tarnk_sample_args a = {.logits = mirror_up(logits, (size_t)ROWS * VOCAB * 4),
                               .stride = VOCAB,
                               .params = mirror_up(params, sizeof params),
                               .u = mirror_up(u, sizeof u),
                               .n_rows = ROWS,
                               .vocab = VOCAB,
                               .stop_ids = mirror_up(stop_ids, sizeof stop_ids),
                               .stops = mirror_up(stops, sizeof stops)};
        a.ids = mirror_up(ids, sizeof ids);
        mirror_down(ids, sizeof ids);
        memset(results, 0, sizeof results);
        a.results = mirror_up(results, sizeof results);
        mirror_down(results, sizeof results);
        CHECK_EQ(mirror_end(tarnk_cuda_sample(&a, mirror_context())), 0);
        for (int r = 0; r < ROWS; r++) {
            uint32_t want = r == 5 || r == 6
                                ? TARNK_ID_NONE
                                : sample_twin(logits + r * VOCAB, VOCAB, &params[r], u[r]);
            if (ids[r] != want)
                CHECK_FAIL("row %d round %d: id %u, should be %u", r, round, ids[r], want);
            const tarnk_stops list = {stop_ids + stops[r].begin, stops[r].n, stops[r].n_turn_ends};
            CHECK_EQ(results[r].id, want);
            CHECK_EQ(results[r].stop, tarnk_stop_of(&list, want));
            seen[results[r].stop]++;
        }
    }
    CHECK(seen[TARNK_STOP_NONE] > 3 && seen[TARNK_STOP_TURN] > 3 && seen[TARNK_STOP_ID] > 3);
    bed_end();
}

CHECK_MAIN(ENTRY(products_match_the_twin_and_rows_keep_their_bits),
           ENTRY(parts_of_one_call_share_inputs_add_and_round),
           ENTRY(experts_match_the_twin_and_rows_keep_their_bits),
           ENTRY(chunks_match_the_recurrence_at_any_gate), ENTRY(short_appends_take_the_recurrence),
           ENTRY(sessions_keep_their_bits_beside_others),
           ENTRY(attention_matches_the_twin_and_rows_keep_their_bits),
           ENTRY(long_appends_match_the_twin_whatever_the_room),
           ENTRY(long_appends_match_the_twin_without_wgmma),
           ENTRY(samples_are_those_of_a_sorted_vocabulary))
