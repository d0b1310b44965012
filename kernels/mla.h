/* mla.h - multi-head latent attention over paged latents. */
#ifndef TARNK_MLA_H
#define TARNK_MLA_H

#include "kernel.h"

/* Writes the latents of this step into their pages.
 * Math         the first `rank` of a row: RMS norm with weight; the last `rope` as they are
 * Shapes       kv [n_rows][rank + rope], weight [rank] fp32; a page's part at latent_offset is
 *              [64][rank + rope] in latent_dtype
 * Layout       dense; latent_offset in bytes from the start of the page
 * Alignment    none
 * Range        stored rounded to latent_dtype, nearest even
 * Aliasing     none; only the rows of this step are written
 * Workspace    none
 * Determinism  16 lane sums, then a fixed tree; a row by itself
 * Limits       rank at least 1, rope may be 0
 * Moved        n_rows (rank + rope) (4 + latent element) bytes; 4 FLOPs an element */
typedef struct tarnk_mla_latent_args {
    const float *kv;
    const float *weight;
    const tarnk_seq *seqs;
    uint32_t n_seqs;
    uint32_t rank;
    uint32_t rope;
    float eps;
    size_t latent_offset;
    tarnk_dtype latent_dtype;
} tarnk_mla_latent_args;

/* Causal attention in the absorbed form, no positions.
 * Math         qa_h = Wk_h^T q_h[:nope];  score = (qa_h . c + q_h[nope:] . p) (nope + rope)^-0.5
 *              over the keys c|p up to the row's own;  o_h = Wv_h sum softmax(score) c
 * Shapes       q [n_rows][n_heads][nope + rope], out [n_rows][n_heads][v_dim] fp32; kv_b
 *              [n_heads][nope + v_dim][rank] fp32 or bf16: Wk_h its first nope rows, Wv_h the
 *              v_dim after; latents as tarnk_mla_latent_args leaves them
 * Layout       dense; latent_offset in bytes from the start of the page
 * Alignment    workspace 4 bytes, else none
 * Range        `round`: out is rounded to bf16; probabilities stay fp32 but in a table of bf16
 *              products (ops.h), which multiplies them rounded, and sums them as they were
 * Aliasing     out overlaps no q
 * Workspace    tarnk_mla_workspace floats, at most those of 64 rows
 * Determinism  keys in blocks of 64 aligned to absolute position, dealt to eight parts (block b to
 *              part b mod 8), each with a running maximum, then merged in order; a row and head by
 *              itself. Rows of a page beyond the own position are never read
 * Limits       all sizes at least 1 but rope, which may be 0
 * Moved        the latents once for each group of up to 4 rows and 16 heads, kv_b once for each 64
 *              rows; 2 n_heads (keys (2 rank + rope) + rank (nope + v_dim)) FLOPs a row */
typedef struct tarnk_mla_args {
    const float *q;
    tarnk_matrix kv_b;
    float *out;
    const tarnk_seq *seqs;
    uint32_t n_seqs;
    uint32_t n_rows;
    uint32_t n_heads;
    uint32_t nope;
    uint32_t rope;
    uint32_t v_dim;
    uint32_t rank;
    size_t latent_offset;
    tarnk_dtype latent_dtype;
    bool round;
    float *workspace;
} tarnk_mla_args;

/* Workspace of one call with up to n_rows rows; never grows with context length. In floats. */
size_t tarnk_mla_workspace(uint32_t n_rows, uint32_t n_heads, uint32_t nope, uint32_t rope,
                           uint32_t v_dim, uint32_t rank);

#endif
