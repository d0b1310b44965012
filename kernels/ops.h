/* ops.h - the maths of the model as a table of functions, one table for each device and ISA.
 *
 * This folder knows pointers, shapes and strides; it allocates nothing, checks nothing its caller
 * has checked, and on the CPU cannot fail. All sizes are in elements unless the name says bytes.
 * Matrices are row-major and dense unless a stride is given. The contract of each op stands beside
 * its arguments in its family's header.
 *
 * Ragged batches. A step computes `n_rows` token rows of several sessions at once: row r of every
 * activation belongs to one token. `tarnk_seq` says which rows are whose, where they stand in their
 * session and where that session's memory is. Rows of one session are consecutive and in order.
 *
 * Determinism, for every op of a CPU table: the bits of a row depend on the tokens of its own
 * session alone; not on the other rows, the number of rows, how an append was cut, nor on the
 * number of threads. */
#ifndef TARNK_OPS_H
#define TARNK_OPS_H

#include "kernel.h"
#include "pointwise.h"
#include "norm.h"
#include "matmul.h"
#include "conv1d.h"
#include "kda.h"
#include "mla.h"
#include "moe.h"

/* Every function returns 0, or on a device the device's error number. Work is cut over
 * context->run; a function returns when its outputs are written (CUDA: enqueued). */
typedef struct tarnk_ops {
    const char *name;     /* "cpu-avx512", for people */
    const char *numerics; /* tables with the same text give the same bits */
    int (*embed)(const tarnk_embed_args *, const tarnk_context *);
    int (*silu_mul)(const tarnk_silu_mul_args *, const tarnk_context *);
    int (*norm_rms)(const tarnk_norm_rms_args *, const tarnk_context *);
    int (*norm_gated)(const tarnk_norm_gated_args *, const tarnk_context *);
    /* n_parts products in one go, such as all projections of one normed input. */
    int (*matmul)(const tarnk_matmul_args *parts, uint32_t n_parts, const tarnk_context *);
    int (*conv1d)(const tarnk_conv1d_args *, const tarnk_context *);
    int (*kda_gate)(const tarnk_kda_gate_args *, const tarnk_context *);
    int (*kda)(const tarnk_kda_args *, const tarnk_context *);
    int (*mla_latent)(const tarnk_mla_latent_args *, const tarnk_context *);
    int (*mla)(const tarnk_mla_args *, const tarnk_context *);
    int (*moe_route)(const tarnk_moe_route_args *, const tarnk_context *);
    int (*moe)(const tarnk_moe_args *, const tarnk_context *);
} tarnk_ops;

typedef enum tarnk_isa {
    TARNK_ISA_BEST = 0,       /* the best this processor has that widens bf16 weights exactly */
    TARNK_ISA_GENERIC = 1,    /* plain C, any processor */
    TARNK_ISA_AVX2 = 2,       /* AVX2 + FMA */
    TARNK_ISA_AVX512 = 3,     /* AVX-512 F, BW, DQ, VL */
    TARNK_ISA_AVX512BF16 = 4, /* the same and bf16 products */
    TARNK_ISA_BEST_BF16 = 5   /* the best this processor has, bf16 products allowed */
} tarnk_isa;

/* The CPU's table; NULL where the processor lacks the ISA. AVX2 and AVX512 give the same bits.
 *
 * A table of bf16 products (AVX512BF16) multiplies bf16 weights and latents with vdpbf16ps, so what
 * meets them is rounded to bf16: x of matmul and moe, which native numerics have rounded anyway;
 * and in mla the query, the absorbed query, the probabilities and the mixed latents. It is for
 * numerics that ask for bf16 operands, not for f32. Matrices and latents of fp32 are computed as by
 * AVX512, and the other ops are the same. Twice the products a second: prefill, batches and long
 * contexts gain, a single session's decode reads memory as fast either way. */
const tarnk_ops *tarnk_cpu_ops(tarnk_isa isa);

#endif
