/* cpu.c - which table this processor runs, and workspace sizes, which are the same for all. */
#include "ops.h"

#include "workspace.h"

extern const tarnk_ops tarnk_table_generic;
#if defined(TARNK_X86_64)
extern const tarnk_ops tarnk_table_avx2;
extern const tarnk_ops tarnk_table_avx512;
extern const tarnk_ops tarnk_table_avx512bf16;

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx512bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

const tarnk_ops *tarnk_cpu_ops(tarnk_isa isa)
{
#if defined(TARNK_X86_64)
    const bool best = isa == TARNK_ISA_BEST || isa == TARNK_ISA_BEST_BF16;
    if ((isa == TARNK_ISA_BEST_BF16 || isa == TARNK_ISA_AVX512BF16) && has_avx512bf16())
        return &tarnk_table_avx512bf16;
    if ((best || isa == TARNK_ISA_AVX512) && has_avx512())
        return &tarnk_table_avx512;
    if ((best || isa == TARNK_ISA_AVX2) && has_avx2())
        return &tarnk_table_avx2;
    return best || isa == TARNK_ISA_GENERIC ? &tarnk_table_generic : NULL;
#else
    return isa == TARNK_ISA_BEST || isa == TARNK_ISA_BEST_BF16 || isa == TARNK_ISA_GENERIC
               ? &tarnk_table_generic
               : NULL;
#endif
}

size_t tarnk_mla_workspace(uint32_t n_rows, uint32_t n_heads, uint32_t nope, uint32_t rope,
                           uint32_t v_dim, uint32_t rank)
{
    (void)nope; /* a CUDA implementation may need these */
    (void)v_dim;
    size_t rows = n_rows < MLA_BLOCK_ROWS ? n_rows : MLA_BLOCK_ROWS;
    return n_heads *
           (rows * row_floats(rank + rope) + mla_result_rows((uint32_t)rows) * ((size_t)rank + 2));
}

size_t tarnk_matmul_workspace(uint32_t n_rows, uint32_t n_in)
{
    return n_rows * packed_stride(n_in) * sizeof(uint16_t);
}

size_t tarnk_moe_workspace(uint32_t n_rows, uint32_t n, uint32_t width, uint32_t n_experts,
                           uint32_t top_k)
{
    size_t n_pairs = (size_t)n_rows * top_k;
    return n_pairs * ((row_floats(width) + n) * sizeof(float) + 2 * sizeof(uint32_t)) +
           n_experts * sizeof(moe_active) + n_rows * packed_stride(n) * sizeof(uint16_t);
}
