#include "bed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "threads.h"
#if defined(TARN_BED_CUDA)
#    include "mirror.h"
#endif

#define THREADS_MAX 3

typedef struct block {
    struct block *next;
    void *memory;
} block;

static block *blocks;

#if defined(TARN_BED_CUDA)
/* The same tests for the CUDA table, in its fp32 numerics. */
int bed_tables(const tarnk_ops *tables[BED_TABLES_MAX])
{
    tables[0] = mirror_ops(false, 0);
    return tables[0] ? 1 : 0;
}
#else
int bed_tables(const tarnk_ops *tables[BED_TABLES_MAX])
{
    static const tarnk_isa isas[] = {TARNK_ISA_GENERIC, TARNK_ISA_AVX2, TARNK_ISA_AVX512,
                                     TARNK_ISA_AVX512BF16};
    int n = 0;
    for (int i = 0; i < BED_TABLES_MAX; i++) {
        const tarnk_ops *ops = tarnk_cpu_ops(isas[i]);
        if (ops)
            tables[n++] = ops;
    }
    return n;
}
#endif

bool bed_rounds(const tarnk_ops *ops)
{
    return strcmp(ops->numerics, "cpu-pair16.2") == 0;
}

const tarnk_context *bed_context(uint32_t n_threads)
{
    static tarnk_context contexts[THREADS_MAX + 1];
    if (n_threads > THREADS_MAX) {
        printf("%u threads, more than %d\n", n_threads, THREADS_MAX);
        exit(1);
    }
    tarnk_context *c = &contexts[n_threads];
    if (!c->pool) {
        tarn_error err;
        tarni_pool *pool;
        if (tarni_pool_create(n_threads, &tarni_heap, &pool, &err) != TARN_OK) {
            printf("cannot start %u threads: %s\n", n_threads, err.detail);
            exit(1);
        }
        *c = (tarnk_context){tarni_pool_run, pool, n_threads, NULL};
    }
    return c;
}

void *bed_alloc(size_t n_bytes)
{
    block *b = malloc(sizeof *b);
    if (!b || posix_memalign(&b->memory, 64, n_bytes > 0 ? n_bytes : 1) != 0) {
        printf("no memory for %zu bytes\n", n_bytes);
        exit(1);
    }
    b->next = blocks;
    blocks = b;
    memset(b->memory, 0xff, n_bytes);
    return b->memory;
}

void *bed_workspace(uint32_t n_rows, uint32_t n_in)
{
    return bed_alloc(tarnk_matmul_workspace(n_rows, n_in));
}

void bed_end(void)
{
    while (blocks) {
        block *next = blocks->next;
        free(blocks->memory);
        free(blocks);
        blocks = next;
    }
}

uint64_t bed_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
}

float *bed_floats(size_t n, uint64_t seed, float scale)
{
    float *x = bed_alloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        uint64_t r = bed_random(&seed);
        /* The sum of four uniform values; exact, so that every compiler makes the same inputs. */
        int sum =
            (int)(r & 0xffff) + (int)(r >> 16 & 0xffff) + (int)(r >> 32 & 0xffff) + (int)(r >> 48);
        x[i] = scale * ((float)(sum - 2 * 0xffff) / 32768.0F);
    }
    return x;
}

void *bed_copy(const void *from, size_t n_bytes)
{
    return memcpy(bed_alloc(n_bytes), from, n_bytes);
}

float *bed_filled(size_t n, float value)
{
    float *x = bed_alloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = value;
    return x;
}

float bed_round_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x))
        bits |= 0x00400000U;
    else
        bits += 0x7fffU + (bits >> 16 & 1U);
    bits &= 0xffff0000U;
    memcpy(&x, &bits, sizeof x);
    return x;
}

void bed_round_all(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = bed_round_bf16(x[i]);
}

static tarnk_matrix matrix_of(const float *values, uint32_t n_out, uint32_t n_in, tarnk_dtype dtype,
                              size_t misaligned)
{
    size_t n = (size_t)n_out * n_in, width = dtype == TARNK_BF16 ? 2 : 4;
    uint8_t *data = (uint8_t *)bed_alloc(n * width + misaligned) + misaligned;
    for (size_t i = 0; i < n; i++) {
        float value = dtype == TARNK_BF16 ? bed_round_bf16(values[i]) : values[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint16_t half = (uint16_t)(bits >> 16);
        memcpy(data + i * width, dtype == TARNK_BF16 ? (void *)&half : (void *)&bits, width);
    }
    return (tarnk_matrix){data, dtype, n_out, n_in};
}

tarnk_matrix bed_matrix_of(const float *values, uint32_t n_out, uint32_t n_in, tarnk_dtype dtype)
{
    return matrix_of(values, n_out, n_in, dtype, 0);
}

tarnk_matrix bed_matrix(uint32_t n_out, uint32_t n_in, tarnk_dtype dtype, size_t misaligned,
                        uint64_t seed)
{
    float *values = bed_floats((size_t)n_out * n_in, seed, 1.0F / sqrtf((float)n_in));
    return matrix_of(values, n_out, n_in, dtype, misaligned);
}

double bed_error(const float *got, const double *want, size_t n)
{
    double worst = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i]))
            return INFINITY;
        worst = fmax(worst, fabs((double)got[i] - want[i]));
        top = fmax(top, fabs(want[i]));
    }
    return top > 0 ? worst / top : worst > 0 ? INFINITY : 0;
}

uint64_t bed_hash(uint64_t hash, const void *bytes, size_t n_bytes)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n_bytes; i++)
        hash = (hash ^ p[i]) * 0x100000001b3U; /* FNV-1a */
    return hash;
}
