/* mla_append.cuh - attention of long appends; see mla_append.cu, and mla_hopper.cu for 9.0. */
#ifndef TARNK_MLA_APPEND_CUH
#define TARNK_MLA_APPEND_CUH

#include "launch.cuh"

/* Whether sequences of at least TARNK_MLA_APPEND_MIN rows are computed here: shapes, numerics,
 * room. */
bool mla_append_can(const tarnk_mla_args *a, const tarnk_cuda *cuda);

/* All such sequences; others are left alone. */
int mla_append_run(const tarnk_mla_args *a, const tarnk_context *context);

/* The i-th sequence of at least that many rows; n_seqs if there are not so many. */
TARNK_DEVICE uint32_t long_append(const tarnk_seq *seqs, uint32_t n_seqs, uint32_t i)
{
    for (uint32_t s = 0; s < n_seqs; s++)
        if (seqs[s].n_rows >= TARNK_MLA_APPEND_MIN && i-- == 0)
            return s;
    return n_seqs;
}

#define APPEND_NOPE   128u
#define APPEND_ROPE   64u
#define APPEND_QK     (APPEND_NOPE + APPEND_ROPE)
#define APPEND_V      128u
#define APPEND_RANK   512u
#define APPEND_LATENT (APPEND_RANK + APPEND_ROPE)
#define APPEND_KEYS   128u /* of a tile of expanded keys */
#define APPEND_LOG2_E 1.44269504088896340736f

/* 64 elements of each key of a tile: rows of 128 bytes whose 16-byte pieces are exchanged as
 * wgmma_tile wants them, so that a tile is copied to shared memory as it is. */
struct append_block {
    uint16_t row[APPEND_KEYS * 64];
};

/* Element `at` (of 64) of key r. */
TARNK_DEVICE uint32_t append_place(uint32_t r, uint32_t at)
{
    return r * 64 + ((at / 8 ^ r % 8) * 8 + at % 8);
}

/* A head's keys and values of a tile. */
struct append_tile {
    append_block k[APPEND_NOPE / 64];
    append_block v[APPEND_V / 64];
};

/* A chunk of a sequence's keys, expanded; what is behind the last key is 0. */
struct append_chunk {
    append_tile *tiles;  /* [tile][n_heads] */
    append_block *ropes; /* [tile]: the shared part of the keys */
    float *limits;       /* [rows of the step][n_heads][2]: largest score, sum */
    uint32_t key, n_keys;
    uint32_t which; /* of the long sequences */
};

/* attend on 9.0, for steps whose longest append has rows_max rows. */
size_t mla_hopper_shared();
int mla_hopper_attend(const tarnk_mla_args *a, const append_chunk *c, uint32_t rows_max,
                      const tarnk_context *context);

/* A row's softmax so far, of rows g and g + 8 of the warp. */
struct row_state {
    float top[2], sum[2];
};

/* Where the thread's two rows and their O stand; out[n * 8 + 0 or 1]. */
struct row_place {
    float *out[2];
    float *limits[2];
    bool there[2];
};

TARNK_DEVICE row_place place_rows(const tarnk_mla_args &a, const append_chunk &c,
                                  const tarnk_seq &s, uint32_t head, uint32_t row, uint32_t t)
{
    row_place p;
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        const size_t r = min_u32(row + 8 * h, s.n_rows - 1); /* one that is there, in any case */
        const size_t at = (s.row_begin + r) * a.n_heads + head;
        p.there[h] = row + 8 * h < s.n_rows;
        p.out[h] = a.out + at * APPEND_V + 2 * t;
        p.limits[h] = c.limits + at * 2;
    }
    return p;
}

TARNK_DEVICE void store_rows(const row_place &p, bool last, bool round, const float o[16][4],
                             const row_state &state, uint32_t t)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (!p.there[h])
            continue;
        const float factor = last ? 1.0f / state.sum[h] : 1.0f;
        if (!last && t == 0) {
            p.limits[h][0] = state.top[h];
            p.limits[h][1] = state.sum[h];
        }
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const float y = o[n][2 * h + c] * factor;
                p.out[h][n * 8 + c] = last && round ? bf16_round(y) : y;
            }
    }
}

#endif
