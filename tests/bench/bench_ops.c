/* bench_ops.c - how near the CPU ops come to what this machine can do, at the shapes of a 48B model
 * (hidden 2304, 32 heads of 128, latents of 512 + 64, experts of 1024).
 *
 *     bench_ops [threads] [generic|avx2|avx512|avx512bf16]
 *
 * Percentages are of the read bandwidth and of the fp32 multiply-add rate measured in the same run.
 * Weights and states are rotated through more memory than the caches hold. */
#include "bench.h"
#include "ops.h"
#include "threads.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HIDDEN       2304U
#define HEADS        32U
#define HEAD_DIM     128U
#define RANK         512U
#define ROPE         64U
#define KEYS         2048U  /* before an append */
#define KEYS_MAX     16384U /* before a decoded token */
#define EXPERTS      24U    /* of 256: enough to be out of cache */
#define EXPERT_WIDTH 1024U
#define TOP_K        8U
#define ROWS_MAX     512U
#define RUNS_MAX     41U
#define POOL_BYTES   ((size_t)768 << 20)

typedef struct bench {
    const tarnk_ops *ops;
    const tarnk_context *context;
    bench_peaks peaks;
    uint8_t *pool; /* random bf16 values; weights, states and pages are cut from it */
    float *in;     /* random fp32 values */
    float *out;
    double times[RUNS_MAX];
} bench;

static void *must_alloc(size_t n_bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, n_bytes) != 0) {
        printf("no memory for %zu bytes\n", n_bytes);
        exit(1);
    }
    return memory;
}

/* The run-th matrix of this size; consecutive ones lie apart. */
static tarnk_matrix weights(const bench *b, uint32_t n_out, uint32_t n_in, uint32_t run)
{
    size_t n_bytes = (size_t)n_out * n_in * 2, count = POOL_BYTES / n_bytes;
    return (tarnk_matrix){b->pool + run % count * n_bytes, TARNK_BF16, n_out, n_in};
}

static void bench_matmul(bench *b, uint32_t n_rows)
{
    const uint32_t n_out = 4608, n = n_rows >= 64 ? 9 : RUNS_MAX;
    void *workspace = must_alloc(tarnk_matmul_workspace(n_rows, HIDDEN));
    char shape[64];
    for (uint32_t run = 0; run < n; run++) {
        tarnk_matmul_args a = {.x = b->in,
                               .x_stride = HIDDEN,
                               .out = b->out,
                               .out_stride = n_out,
                               .n_rows = n_rows,
                               .workspace = workspace,
                               .w = weights(b, n_out, HIDDEN, run)};
        double start = bench_now_s();
        b->ops->matmul(&a, 1, b->context);
        b->times[run] = bench_now_s() - start;
    }
    snprintf(shape, sizeof shape, "M %u K %u N %u bf16", n_rows, HIDDEN, n_out);
    double bytes = 2.0 * HIDDEN * n_out + 4.0 * n_rows * (HIDDEN + n_out);
    bench_line("matmul", shape, b->times, n, bytes, 2.0 * n_rows * n_out * HIDDEN, &b->peaks);
    free(workspace);
}

static void bench_kda(bench *b, uint32_t n_rows)
{
    const size_t state_bytes = (size_t)HEADS * HEAD_DIM * HEAD_DIM * 4;
    const size_t qk = (size_t)n_rows * HEADS * HEAD_DIM;
    const uint32_t n = n_rows > 1 ? 9 : RUNS_MAX;
    uint8_t *states = must_alloc(state_bytes * RUNS_MAX);
    memset(states, 0, state_bytes * RUNS_MAX);
    float *g = must_alloc(qk * 4), *q = must_alloc(qk * 4);
    for (size_t i = 0; i < qk; i++) {
        g[i] = -0.05F;
        q[i] = b->in[i] * 0.088F;
    }
    char shape[64];
    for (uint32_t run = 0; run < n; run++) {
        uint8_t *state = states + run * state_bytes;
        tarnk_seq seq = {.n_rows = n_rows, .state_read = state, .state_write = state};
        tarnk_kda_args a = {.q = q,
                            .k = q,
                            .v = b->in,
                            .g = g,
                            .beta = b->in,
                            .out = b->out,
                            .seqs = &seq,
                            .n_seqs = 1,
                            .n_heads = HEADS,
                            .k_dim = HEAD_DIM,
                            .v_dim = HEAD_DIM};
        double start = bench_now_s();
        b->ops->kda(&a, b->context);
        b->times[run] = bench_now_s() - start;
    }
    snprintf(shape, sizeof shape, "T %u heads %u x %u x %u", n_rows, HEADS, HEAD_DIM, HEAD_DIM);
    bench_line("kda", shape, b->times, n, 2.0 * (double)state_bytes + 20.0 * (double)qk,
               7.0 * (double)qk * HEAD_DIM, &b->peaks);
    free(states);
    free(g);
    free(q);
}

static void bench_mla(bench *b, uint32_t n_rows, uint32_t keys)
{
    const size_t page_bytes = (size_t)TARNK_PAGE_TOKENS * (RANK + ROPE) * 2;
    const uint32_t n_pages = keys / TARNK_PAGE_TOKENS, n = n_rows > 1 ? 5 : RUNS_MAX;
    const size_t set_bytes = n_pages * page_bytes;
    uint8_t *pages[KEYS_MAX / TARNK_PAGE_TOKENS];
    float *workspace =
        must_alloc(4 * tarnk_mla_workspace(n_rows, HEADS, HEAD_DIM, ROPE, HEAD_DIM, RANK));
    char shape[64];
    for (uint32_t run = 0; run < n; run++) {
        for (uint32_t p = 0; p < n_pages; p++)
            pages[p] = b->pool + run % (POOL_BYTES / set_bytes) * set_bytes + p * page_bytes;
        tarnk_seq seq = {.n_rows = n_rows, .position = keys - n_rows, .pages = pages};
        tarnk_mla_args a = {.q = b->in,
                            .kv_b = weights(b, HEADS * 2 * HEAD_DIM, RANK, 70 + run),
                            .out = b->out,
                            .seqs = &seq,
                            .n_seqs = 1,
                            .n_rows = n_rows,
                            .n_heads = HEADS,
                            .nope = HEAD_DIM,
                            .rope = ROPE,
                            .v_dim = HEAD_DIM,
                            .rank = RANK,
                            .latent_dtype = TARNK_BF16,
                            .workspace = workspace};
        double start = bench_now_s();
        b->ops->mla(&a, b->context);
        b->times[run] = bench_now_s() - start;
    }
    snprintf(shape, sizeof shape, "T %u heads %u keys %u, %u + %u", n_rows, HEADS, keys, RANK,
             ROPE);
    double flops =
        2.0 * HEADS * n_rows * ((double)keys * (2 * RANK + ROPE) + 2.0 * HEAD_DIM * RANK);
    bench_line("mla", shape, b->times, n, (double)set_bytes + 4.0 * HEADS * HEAD_DIM * RANK, flops,
               &b->peaks);
    free(workspace);
}

static void bench_moe(bench *b, uint32_t n_rows)
{
    tarnk_matrix w1[EXPERTS], w3[EXPERTS], w2[EXPERTS];
    uint32_t *experts = must_alloc((size_t)n_rows * TOP_K * 4), n = n_rows >= 64 ? 9 : RUNS_MAX;
    float *route_weights = must_alloc((size_t)n_rows * TOP_K * 4);
    void *workspace = must_alloc(tarnk_moe_workspace(n_rows, HIDDEN, EXPERT_WIDTH, EXPERTS, TOP_K));
    uint32_t used = 0;
    char shape[64];
    for (uint32_t e = 0; e < EXPERTS; e++) {
        w1[e] = weights(b, EXPERT_WIDTH, HIDDEN, 3 * e);
        w3[e] = weights(b, EXPERT_WIDTH, HIDDEN, 3 * e + 1);
        w2[e] = weights(b, HIDDEN, EXPERT_WIDTH, 3 * e + 2);
    }
    for (uint32_t run = 0; run < n; run++) {
        for (uint32_t i = 0; i < n_rows * TOP_K; i++) {
            /* each row a window of every third expert, shifted by row and run */
            experts[i] = (i % TOP_K) * 3 + (i / TOP_K + run) % 3;
            route_weights[i] = 0.3F;
        }
        used = (n_rows < 3 ? n_rows : 3) * TOP_K;
        tarnk_moe_args a = {.x = b->in,
                            .w1 = w1,
                            .w3 = w3,
                            .w2 = w2,
                            .experts = experts,
                            .weights = route_weights,
                            .out = b->out,
                            .n_rows = n_rows,
                            .n = HIDDEN,
                            .width = EXPERT_WIDTH,
                            .n_experts = EXPERTS,
                            .top_k = TOP_K,
                            .workspace = workspace};
        double start = bench_now_s();
        b->ops->moe(&a, b->context);
        b->times[run] = bench_now_s() - start;
    }
    snprintf(shape, sizeof shape, "M %u top %u of %u, %u x %u", n_rows, TOP_K, EXPERTS, HIDDEN,
             EXPERT_WIDTH);
    double weight_bytes = 6.0 * HIDDEN * EXPERT_WIDTH;
    bench_line("moe", shape, b->times, n, weight_bytes * used,
               6.0 * n_rows * TOP_K * HIDDEN * EXPERT_WIDTH, &b->peaks);
    free(experts);
    free(route_weights);
    free(workspace);
}

static void fill(bench *b)
{
    const size_t n_in = (size_t)ROWS_MAX * HEADS * (HEAD_DIM + ROPE);
    b->pool = must_alloc(POOL_BYTES);
    b->in = must_alloc(n_in * 4);
    b->out = must_alloc(n_in * 4);
    uint32_t state = 1;
    for (size_t i = 0; i < POOL_BYTES / 2; i++) {
        state = state * 1664525U + 1013904223U;
        uint16_t half = (uint16_t)((state >> 16 & 0x807fU) | 0x3c80U); /* +-0.015 to 0.03 */
        memcpy(b->pool + 2 * i, &half, sizeof half);
    }
    for (size_t i = 0; i < n_in; i++) {
        state = state * 1664525U + 1013904223U;
        b->in[i] = (float)(state >> 8) / 16777216.0F;
        b->out[i] = 0;
    }
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"best", "generic", "avx2", "avx512", "avx512bf16"};
    uint32_t n_threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    int isa = argc > 2 ? 4 : 0;
    while (isa > 0 && strcmp(argv[2], names[isa]) != 0)
        isa--;
    tarni_pool *threads;
    tarn_error err;
    bench b = {.ops = tarnk_cpu_ops(isa > 0 ? (tarnk_isa)isa : TARNK_ISA_BEST_BF16)};
    if (!b.ops || tarni_pool_create(n_threads, &tarni_heap, &threads, &err) != TARN_OK) {
        printf("%s\n", b.ops ? err.detail : "this processor cannot run that");
        return 1;
    }
    tarnk_context context = {tarni_pool_run, threads, tarni_pool_threads(threads), NULL};
    b.context = &context;
    fill(&b);
    b.peaks = bench_measure_peaks(&context, b.pool, POOL_BYTES);
    printf("%s, %u threads; measured peaks: read %.1f GB/s, fp32 multiply-add %.1f GFLOP/s\n",
           b.ops->name, context.n_threads, b.peaks.read_gbps, b.peaks.fma_gflops);
    static const uint32_t rows[] = {1, 4, 16, 64, 512};
    for (int i = 0; i < 5; i++)
        bench_matmul(&b, rows[i]);
    bench_kda(&b, 1);
    bench_kda(&b, 256);
    bench_mla(&b, 1, KEYS);
    bench_mla(&b, 1, KEYS_MAX);
    bench_mla(&b, 64, KEYS);
    for (int i = 0; i < 4; i++)
        bench_moe(&b, rows[i]);
    tarni_pool_free(threads);
    free(b.pool);
    free(b.in);
    free(b.out);
    return 0;
}
