/* cpu_table.c - the table of one ISA. */
#include "isa.h"

#include "simd.h"

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

const tarnk_ops TARNK(table) = {
    .name = "cpu-" TEXT(TARNK_SUFFIX),
    .numerics = SIMD_NUMERICS,
    .embed = TARNK(embed),
    .silu_mul = TARNK(silu_mul),
    .norm_rms = TARNK(norm_rms),
    .norm_gated = TARNK(norm_gated),
    .matmul = TARNK(matmul),
    .conv1d = TARNK(conv1d),
    .kda_gate = TARNK(kda_gate),
    .kda = TARNK(kda),
    .mla_latent = TARNK(mla_latent),
    .mla = TARNK(mla),
    .moe_route = TARNK(moe_route),
    .moe = TARNK(moe),
};
