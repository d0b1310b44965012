/* isa.h - how one source becomes four sets of functions.
 *
 * Every family is compiled once for each ISA with TARNK_SUFFIX set to generic, avx2, avx512 or
 * avx512bf16; TARNK(kda) then names tarnk_kda_avx512. All but the tables stay inside this folder.
 */
#ifndef TARNK_ISA_H
#define TARNK_ISA_H

#include "ops.h"

#define TARNK_JOIN_(name, suffix) tarnk_##name##_##suffix
#define TARNK_JOIN(name, suffix)  TARNK_JOIN_(name, suffix)
#define TARNK(name)               TARNK_JOIN(name, TARNK_SUFFIX)

int TARNK(embed)(const tarnk_embed_args *, const tarnk_context *);
int TARNK(silu_mul)(const tarnk_silu_mul_args *, const tarnk_context *);
int TARNK(norm_rms)(const tarnk_norm_rms_args *, const tarnk_context *);
int TARNK(norm_gated)(const tarnk_norm_gated_args *, const tarnk_context *);
int TARNK(matmul)(const tarnk_matmul_args *, uint32_t n_parts, const tarnk_context *);
int TARNK(conv1d)(const tarnk_conv1d_args *, const tarnk_context *);
int TARNK(kda_gate)(const tarnk_kda_gate_args *, const tarnk_context *);
int TARNK(kda)(const tarnk_kda_args *, const tarnk_context *);
int TARNK(mla_latent)(const tarnk_mla_latent_args *, const tarnk_context *);
int TARNK(mla)(const tarnk_mla_args *, const tarnk_context *);
int TARNK(moe_route)(const tarnk_moe_route_args *, const tarnk_context *);
int TARNK(moe)(const tarnk_moe_args *, const tarnk_context *);

extern const tarnk_ops TARNK(table);

static inline uint32_t div_up(uint32_t a, uint32_t b)
{
    return a / b + (a % b != 0);
}

static inline uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline size_t dtype_bytes(tarnk_dtype dtype)
{
    return dtype == TARNK_BF16 ? 2 : 4;
}

/* Into how many pieces a loop is cut so that threads of unequal speed finish together. */
static inline uint32_t tasks_wanted(const tarnk_context *context)
{
    return (context->n_threads > 0 ? context->n_threads : 1) * 8;
}

/* The size of a piece of `n` things, a multiple of `unit` between unit and most, if `times` such
 * loops run side by side. */
static inline uint32_t piece_size(const tarnk_context *context, uint32_t n, uint32_t times,
                                  uint32_t unit, uint32_t most)
{
    uint64_t size = (uint64_t)n * times / tasks_wanted(context) / unit * unit;
    return size < unit ? unit : size > most ? most : (uint32_t)size;
}

#endif
