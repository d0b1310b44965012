#include "check.h"
#include "bed.h"
#include "oracle.h"
#include "twin.h"

/* Pages with `offset` bytes before their latents; everything not written is NaN. */
static uint8_t **make_pages(uint32_t n_tokens, size_t offset, size_t latent_bytes)
{
    uint32_t n = (n_tokens + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
    uint8_t **pages = bed_alloc(n * sizeof *pages);
    for (uint32_t i = 0; i < n; i++)
        pages[i] = bed_alloc(offset + TARNK_PAGE_TOKENS * latent_bytes);
    return pages;
}

static void set_workspace(tarnk_mla_args *a)
{
    a->workspace = bed_alloc(
        4 * tarnk_mla_workspace(a->n_rows, a->n_heads, a->nope, a->rope, a->v_dim, a->rank));
}

static void check_stored(const oracle *o, const char *name, void *user)
{
    const tarnk_ops *ops = user;
    const int32_t *dims = oracle_i32(o, name, "dims");
    const uint32_t n_rows = oracle_dim(o, name, "q", 0), n_heads = (uint32_t)dims[0];
    tarnk_mla_args a = {.q = oracle_f32(o, name, "q"),
                        .n_seqs = 1,
                        .n_rows = n_rows,
                        .n_heads = n_heads,
                        .nope = (uint32_t)dims[1],
                        .rope = (uint32_t)dims[2],
                        .v_dim = (uint32_t)dims[3],
                        .rank = (uint32_t)dims[4],
                        .latent_offset = 12};
    const size_t latent_bytes = 4 * (size_t)(a.rank + a.rope);
    uint8_t **pages = make_pages(n_rows, a.latent_offset, latent_bytes);
    for (uint32_t t = 0; t < n_rows; t++)
        memcpy(pages[t / 64] + a.latent_offset + t % 64 * latent_bytes,
               oracle_f32(o, name, "latent") + t * (latent_bytes / 4), latent_bytes);
    a.kv_b = (tarnk_matrix){oracle_f32(o, name, "kv_b"), TARNK_F32, n_heads * (a.nope + a.v_dim),
                            a.rank};
    tarnk_seq seq = {.n_rows = n_rows, .pages = pages};
    a.seqs = &seq;
    size_t all = (size_t)n_rows * n_heads * a.v_dim;
    a.out = bed_alloc(all * 4);
    set_workspace(&a);
    CHECK_EQ(ops->mla(&a, bed_context(2)), 0);
    CHECK_CLOSE(a.out, oracle_f32(o, name, "out"), all,
                strcmp(name, "sharp_t70") == 0 ? 2e-5 : 5e-6);
}

CASE(stored_cases)
{
    oracle o;
    REQUIRE(oracle_open(&o, "mla"));
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        CHECK(oracle_each(&o, "out", check_stored, (void *)(uintptr_t)tables[t]) >= 3);
        bed_end();
    }
    oracle_close(&o);
}

/* Latents written by mla_latent, then rows attended at a position in the middle of a page. */
static void check_twin(const tarnk_ops *ops, tarnk_dtype latents, tarnk_dtype weights,
                       uint32_t position, uint32_t n_rows, uint32_t n_heads)
{
    const uint32_t nope = 20, rope = 12, v_dim = 28, rank = 40, n = position + n_rows;
    const size_t offset = 8, latent_bytes = (latents == TARNK_BF16 ? 2 : 4) * (size_t)(rank + rope);
    uint8_t **pages = make_pages(n, offset, latent_bytes);
    float *kv = bed_floats((size_t)n * (rank + rope), 1, 1), *weight = bed_floats(rank, 2, 1);
    tarnk_seq all = {.n_rows = n, .pages = pages};
    tarnk_mla_latent_args l = {kv, weight, &all, 1, rank, rope, 1e-6F, offset, latents};
    CHECK_EQ(ops->mla_latent(&l, bed_context(2)), 0);
    tarnk_seq seq = {.row_begin = 0, .n_rows = n_rows, .position = position, .pages = pages};
    tarnk_mla_args a = {.q = bed_floats((size_t)n_rows * n_heads * (nope + rope), 3, 2),
                        .kv_b = bed_matrix(n_heads * (nope + v_dim), rank, weights, 1, 4),
                        .seqs = &seq,
                        .n_seqs = 1,
                        .n_rows = n_rows,
                        .n_heads = n_heads,
                        .nope = nope,
                        .rope = rope,
                        .v_dim = v_dim,
                        .rank = rank,
                        .latent_offset = offset,
                        .latent_dtype = latents};
    size_t n_out = (size_t)n_rows * n_heads * v_dim;
    a.out = bed_alloc(n_out * 4);
    set_workspace(&a);
    double *want = bed_alloc(n_out * sizeof *want);
    CHECK_EQ(ops->mla(&a, bed_context(3)), 0);
    twin_mla(&a, want);
    double error = bed_error(a.out, want, n_out);
    const bool rounds = bed_rounds(ops) && (latents == TARNK_BF16 || weights == TARNK_BF16);
    if (!(error <= (rounds ? 1e-2 : 5e-6)))
        CHECK_FAIL("%s: position %u, %u rows, %u heads: off by %.3g", ops->name, position, n_rows,
                   n_heads, error);
    float *plain = a.out;
    a.out = bed_alloc(n_out * 4);
    a.round = true;
    CHECK_EQ(ops->mla(&a, bed_context(1)), 0);
    bed_round_all(plain, n_out);
    CHECK_BYTES(a.out, plain, n_out * 4);
}

CASE(dtypes_positions_and_head_counts_match_the_twin)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    const uint32_t shapes[][3] = {{0, 1, 1},   {0, 66, 3},  {63, 1, 2},   {64, 1, 32}, {63, 3, 5},
                                  {200, 9, 4}, {5, 150, 1}, {127, 2, 17}, {1023, 2, 3}};
    for (int t = 0; t < n_tables; t++)
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            check_twin(tables[t], s % 2, s / 2 % 2, shapes[s][0], shapes[s][1], shapes[s][2]);
            bed_end();
        }
}

/* The last 12 tokens of a long session, `apart` rows a call: one way a part of the keys is a task,
 * the other way a task walks them all. */
static float *attend_long(const tarnk_ops *ops, uint32_t apart, uint32_t n_threads)
{
    enum { KEYS = 1500, ROWS = 12, HEADS = 5, NOPE = 20, ROPE = 12, V_DIM = 28, RANK = 40 };
    uint8_t **pages = make_pages(KEYS, 0, 2 * (RANK + ROPE));
    float *kv = bed_floats(KEYS * (RANK + ROPE), 1, 1), *weight = bed_floats(RANK, 2, 1);
    float *q = bed_floats(ROWS * HEADS * (NOPE + ROPE), 3, 2),
          *out = bed_alloc(4 * ROWS * HEADS * V_DIM);
    tarnk_seq all = {.n_rows = KEYS, .pages = pages};
    tarnk_mla_latent_args l = {kv, weight, &all, 1, RANK, ROPE, 1e-6F, 0, TARNK_BF16};
    CHECK_EQ(ops->mla_latent(&l, bed_context(2)), 0);
    const size_t q_floats = HEADS * (NOPE + ROPE), out_floats = HEADS * V_DIM;
    for (uint32_t row = 0; row < ROWS; row += apart) {
        tarnk_seq seq = {.n_rows = apart, .position = KEYS - ROWS + row, .pages = pages};
        float *rows = bed_alloc(4 * apart * q_floats);
        memcpy(rows, q + row * q_floats, 4 * apart * q_floats);
        tarnk_mla_args a = {.q = rows,
                            .kv_b = bed_matrix(HEADS * (NOPE + V_DIM), RANK, TARNK_BF16, 1, 4),
                            .out = bed_alloc(4 * apart * out_floats),
                            .seqs = &seq,
                            .n_seqs = 1,
                            .n_rows = apart,
                            .n_heads = HEADS,
                            .nope = NOPE,
                            .rope = ROPE,
                            .v_dim = V_DIM,
                            .rank = RANK,
                            .latent_dtype = TARNK_BF16};
        set_workspace(&a);
        CHECK_EQ(ops->mla(&a, bed_context(n_threads)), 0);
        memcpy(out + row * out_floats, a.out, 4 * apart * out_floats);
    }
    return out;
}

CASE(how_the_keys_are_shared_among_tasks_does_not_show)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        const float *together = attend_long(tables[t], 12, 2);
        for (uint32_t apart = 1; apart <= 6; apart += apart) /* 1, 2, 4 */
            CHECK_BYTES(attend_long(tables[t], apart, 1 + apart % 3), together, 4 * 12 * 5 * 28);
        bed_end();
    }
}

CASE(latents_are_normed_and_stored_in_their_dtype)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    const uint32_t rank = 40, rope = 12, n = 3, len = rank + rope;
    float *kv = bed_floats((size_t)n * len, 1, 0.01F), *weight = bed_floats(rank, 2, 1);
    for (int t = 0; t < n_tables; t++) {
        float *f32[3] = {0};
        for (int dtype = 0; dtype < 2; dtype++) {
            uint8_t **pages = make_pages(128, 0, 4 * len);
            tarnk_seq seq = {.n_rows = n, .position = 62, .pages = pages}; /* over a page's end */
            tarnk_mla_latent_args a = {
                kv, weight, &seq, 1, rank, rope, 1e-6F, 0, (tarnk_dtype)dtype};
            CHECK_EQ(tables[t]->mla_latent(&a, bed_context(2)), 0);
            for (uint32_t r = 0; r < n; r++) {
                uint32_t token = 62 + r;
                uint8_t *at = pages[token / 64] + token % 64 * len * (dtype ? 2U : 4U);
                if (dtype == TARNK_F32) {
                    f32[r] = (float *)(void *)at;
                    double want[40];
                    tarnk_norm_rms_args norm = {kv + r * len, len,   weight, NULL, 1,
                                                rank,         1e-6F, false};
                    twin_norm_rms(&norm, want);
                    CHECK(bed_error(f32[r], want, rank) <= 1e-6);
                    CHECK_BYTES(f32[r] + rank, kv + r * len + rank, rope * 4);
                } else {
                    for (uint32_t i = 0; i < len; i++) {
                        uint16_t half;
                        memcpy(&half, at + 2 * i, sizeof half);
                        CHECK(twin_bf16(half) == (double)bed_round_bf16(f32[r][i]));
                    }
                }
            }
            uint32_t untouched; /* nothing before or after was written */
            memcpy(&untouched, pages[0] + 62 * len * (dtype ? 2U : 4U) - 4, 4);
            CHECK(untouched == 0xffffffffU);
            memcpy(&untouched, pages[1] + len * (dtype ? 2U : 4U), 4);
            CHECK(untouched == 0xffffffffU);
        }
    }
    bed_end();
}

CASE(workspace_does_not_grow_without_bound)
{
    CHECK(tarnk_mla_workspace(1, 32, 128, 64, 128, 512) == 32 * (512 + 64 + 8 * (512 + 2)));
    for (uint32_t n = 1; n < 100; n++) /* a smaller step never needs more */
        CHECK(tarnk_mla_workspace(n, 32, 128, 64, 128, 512) <=
              tarnk_mla_workspace(n + 1, 32, 128, 64, 128, 512));
    CHECK(tarnk_mla_workspace(100000, 32, 128, 64, 128, 512) ==
          tarnk_mla_workspace(64, 32, 128, 64, 128, 512));
}

CHECK_MAIN(ENTRY(stored_cases), ENTRY(dtypes_positions_and_head_counts_match_the_twin),
           ENTRY(how_the_keys_are_shared_among_tasks_does_not_show),
           ENTRY(latents_are_normed_and_stored_in_their_dtype),
           ENTRY(workspace_does_not_grow_without_bound))
