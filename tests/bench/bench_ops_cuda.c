/* bench_ops_cuda.c - how near the CUDA ops come to what this device can do, at the shapes of a 48B
 * model (hidden 2304, 32 heads of 128, latents of 512 + 64, 256 experts of 1024, top 8).
 *
 *     bench_ops_cuda [--tsv FILE] [--commit TEXT] [--driver TEXT] [--json]
 *
 * Every op is captured in a graph, several times over memory that the caches do not hold; a time is
 * the median of 21 replays by the number of ops in it. floor: what the copy bandwidth, or for
 * products of many rows the rate of the maker's library, both measured in the same run, allows.
 * Weights and latents are random; nothing is timed on zeros. Exit 77 where there is no device. */
#include "cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int bench_cuda_fill(void *memory, size_t n_values, uint32_t seed);
double bench_cuda_peak_flops(void *memory, int n);

#define HIDDEN       2304U
#define HEADS        32U
#define DIM          128U
#define RANK         512U
#define ROPE         64U
#define EXPERTS      256U
#define EXPERT_WIDTH 1024U
#define TOP_K        8U
#define VOCAB        163840U
#define RUNS         21
#define PAGE_BYTES   ((size_t)TARNK_PAGE_TOKENS * (RANK + ROPE) * 2)
#define STATE_BYTES  ((size_t)HEADS * DIM * DIM * 4)
#define POOL_BYTES   ((size_t)24 << 30)
#define ROWS_MAX     8192U

typedef struct bench {
    tarnk_cuda cuda;
    tarnk_context context;
    uint8_t *pool; /* random bf16 values; also fine as small fp32 ones */
    float *in;     /* fp32, rounded to bf16, about 1 */
    float *out;
    double copy_gbps, peak_flops;
    FILE *tsv;
    const char *commit, *driver;
    bool json;
} bench;

static void must(int error, const char *what)
{
    if (error != 0) {
        printf("%s: %s\n", what, tarnk_cuda_error(error));
        exit(1);
    }
}

static void *must_alloc(size_t n_bytes)
{
    void *memory;
    must(tarnk_cuda_alloc(&memory, n_bytes), "allocation");
    return memory;
}

static void *up(const bench *b, const void *from, size_t n_bytes)
{
    void *to = must_alloc(n_bytes);
    must(tarnk_cuda_upload(to, from, n_bytes, b->context.stream), "upload");
    must(tarnk_cuda_wait(b->context.stream), "upload");
    return to;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const bench *b, const char *metric, double value, const char *unit, double floor)
{
    bool more_is_better = strchr(unit, '/') != NULL || strchr(unit, '%') != NULL;
    double ratio = more_is_better ? value / floor : floor / value;
    printf(b->json ? "{\"metric\":\"%s\",\"value\":%.4g,\"unit\":\"%s\",\"floor\":%.4g,"
                     "\"ratio\":%.3f,\"model\":\"48b shapes\",\"numerics\":\"native\","
                     "\"threads\":1,\"device\":\"%s\"}\n"
                   : "%-26s %10.4g %-8s floor %10.4g  ratio %.3f\n",
           metric, value, unit, floor, ratio, b->cuda.name);
    fflush(stdout);
    if (b->tsv)
        fprintf(b->tsv, "%s\t%.6g\t%s\t%.6g\t%.4f\t48b shapes\tnative\t1\t%s, driver %s\t%s\n",
                metric, value, unit, floor, ratio, b->cuda.name, b->driver, b->commit);
}

/* Median seconds of one fn(b, user, i), of n in a graph. */
static double time_ops(bench *b, uint32_t n, int (*fn)(bench *b, void *user, uint32_t i),
                       void *user)
{
    void *graph, *begin, *end, *stream = b->context.stream;
    double times[RUNS];
    must(fn(b, user, 0), "first run");
    must(tarnk_cuda_wait(stream), "first run");
    must(tarnk_cuda_record_begin(stream), "capture");
    for (uint32_t i = 0; i < n; i++)
        must(fn(b, user, i), "capture");
    must(tarnk_cuda_record_end(stream, &graph), "capture");
    must(tarnk_cuda_event_create(&begin), "event");
    must(tarnk_cuda_event_create(&end), "event");
    for (int run = -2; run < RUNS; run++) {
        float ms = 0;
        must(tarnk_cuda_event_mark(begin, stream), "event");
        must(tarnk_cuda_graph_run(graph, stream), "replay");
        must(tarnk_cuda_event_mark(end, stream), "event");
        must(tarnk_cuda_event_ms(begin, end, &ms), "replay");
        if (run >= 0)
            times[run] = 1e-3 * (double)ms / n;
    }
    tarnk_cuda_graph_free(graph);
    tarnk_cuda_event_free(begin);
    tarnk_cuda_event_free(end);
    qsort(times, RUNS, sizeof times[0], compare);
    return times[RUNS / 2];
}

static int copy_op(bench *b, void *user, uint32_t i)
{
    (void)user;
    return tarnk_cuda_copy(b->pool + ((size_t)8 << 30), b->pool + ((size_t)i << 31),
                           (size_t)2 << 30, b->context.stream);
}

/* ---- products -------------------------------------------------------------------------------- */

typedef struct product_job {
    uint32_t n_out, n_in, n_rows;
} product_job;

static int product_op(bench *b, void *user, uint32_t i)
{
    const product_job *j = user;
    size_t n_bytes = (size_t)j->n_out * j->n_in * 2, n = POOL_BYTES / n_bytes;
    tarnk_matmul_args a = {.x = b->in,
                           .x_stride = j->n_in,
                           .w = {b->pool + i % n * n_bytes, TARNK_BF16, j->n_out, j->n_in},
                           .out = b->out,
                           .out_stride = j->n_out,
                           .n_rows = j->n_rows};
    b->cuda.step.n_rows = j->n_rows;
    return tarnk_cuda_ops()->matmul(&a, 1, &b->context);
}

static void bench_products(bench *b)
{
    static const uint32_t rows[] = {1, 8, 16, 64, 512, 8192};
    product_job head = {VOCAB, HIDDEN, 1};
    double bytes = 2.0 * VOCAB * HIDDEN;
    report(b, "lm_head_us", 1e6 * time_ops(b, 8, product_op, &head), "us",
           1e6 * bytes / b->copy_gbps / 1e9);
    for (int i = 0; i < 6; i++) {
        product_job in = {12576, HIDDEN, rows[i]};
        char name[64];
        double flops = 2.0 * rows[i] * 12576 * HIDDEN;
        bytes = 2.0 * 12576 * HIDDEN + 4.0 * rows[i] * (12576 + HIDDEN);
        double floor = bytes / b->copy_gbps / 1e9;
        floor = flops / b->peak_flops > floor ? flops / b->peak_flops : floor;
        snprintf(name, sizeof name, "kda_in_proj_us_m%u", rows[i]);
        report(b, name, 1e6 * time_ops(b, rows[i] > 64 ? 2 : 16, product_op, &in), "us",
               1e6 * floor);
    }
}

/* ---- experts --------------------------------------------------------------------------------- */

typedef struct moe_job {
    tarnk_moe_args a;
    uint32_t *experts; /* several choices, n_rows * TOP_K each */
    tarnk_moe_part part;
} moe_job;

static int moe_op(bench *b, void *user, uint32_t i)
{
    moe_job *j = user;
    tarnk_moe_args a = j->a;
    a.experts = j->experts + (size_t)(i % 8) * a.n_rows * TOP_K;
    if (j->part == TARNK_MOE_PLAN)
        return tarnk_cuda_ops()->moe(&a, &b->context);
    return tarnk_cuda_moe_part(&a, j->part, &b->context); /* after the plan of another choice */
}

static void bench_experts(bench *b, uint32_t n_rows)
{
    static tarnk_matrix w[3][EXPERTS];
    const size_t each = (size_t)EXPERT_WIDTH * HIDDEN * 2;
    uint32_t *experts = malloc((size_t)8 * n_rows * TOP_K * sizeof *experts), used = 0;
    bool seen[EXPERTS] = {false};
    if (!experts)
        exit(1);
    for (uint32_t m = 0; m < 3; m++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            w[m][e] =
                (tarnk_matrix){b->pool + (e * 3 + m) * each, TARNK_BF16,
                               m == 2 ? HIDDEN : EXPERT_WIDTH, m == 2 ? EXPERT_WIDTH : HIDDEN};
    uint64_t state = 1;
    for (uint32_t r = 0; r < 8 * n_rows; r++)
        for (uint32_t s = 0; s < TOP_K; s++) { /* ascending: one of each 32 */
            state = state * 6364136223846793005U + 1442695040888963407U;
            uint32_t e = s * 32 + (uint32_t)(state >> 59);
            experts[r * TOP_K + s] = e;
            used += r < n_rows && !seen[e];
            seen[e] = seen[e] || r < n_rows;
        }
    float *weights = b->in;
    moe_job j = {.a = {.x = b->in,
                       .w1 = up(b, w[0], sizeof w[0]),
                       .w3 = up(b, w[1], sizeof w[1]),
                       .w2 = up(b, w[2], sizeof w[2]),
                       .weights = weights,
                       .out = b->out,
                       .n_rows = n_rows,
                       .n = HIDDEN,
                       .width = EXPERT_WIDTH,
                       .n_experts = EXPERTS,
                       .top_k = TOP_K,
                       .round = true}};
    size_t n_bytes = tarnk_cuda_moe_workspace(n_rows, HIDDEN, EXPERT_WIDTH, EXPERTS, TOP_K);
    j.a.workspace = must_alloc(n_bytes);
    j.experts = up(b, experts, (size_t)8 * n_rows * TOP_K * sizeof *experts);
    char name[64];
    double bytes = (double)used * 2 * (double)each, flops = 6.0 * n_rows * TOP_K * HIDDEN * 1024;
    double floor = 1.5 * bytes / b->copy_gbps / 1e9;
    floor = flops / b->peak_flops > floor ? flops / b->peak_flops : floor;
    j.part = TARNK_MOE_PLAN;
    snprintf(name, sizeof name, "moe_us_b%u", n_rows);
    report(b, name, 1e6 * time_ops(b, 8, moe_op, &j), "us", 1e6 * floor);
    if (n_rows == 1) { /* one choice again and again: 75 MB, more than the cache */
        j.part = TARNK_MOE_GATE_UP;
        report(b, "moe_gate_up_us_b1", 1e6 * time_ops(b, 8, moe_op, &j), "us",
               1e6 * bytes / b->copy_gbps / 1e9);
        j.part = TARNK_MOE_DOWN;
        report(b, "moe_down_us_b1", 1e6 * time_ops(b, 8, moe_op, &j), "us",
               0.5e6 * bytes / b->copy_gbps / 1e9);
    }
    tarnk_cuda_free(j.a.workspace);
    tarnk_cuda_free(j.experts);
    free(experts);
}

/* ---- recurrence ------------------------------------------------------------------------------ */

typedef struct kda_job {
    tarnk_kda_args a;
    tarnk_seq *seqs; /* n_sets of n_seqs */
    uint32_t n_sets;
} kda_job;

static int kda_op(bench *b, void *user, uint32_t i)
{
    kda_job *j = user;
    tarnk_kda_args a = j->a;
    a.seqs = j->seqs + (size_t)(i % j->n_sets) * a.n_seqs;
    return tarnk_cuda_ops()->kda(&a, &b->context);
}

static void bench_kda(bench *b, uint32_t n_seqs, uint32_t n_rows)
{
    const uint32_t n_sets = n_seqs >= 64 ? 4 : 64;
    const size_t n = (size_t)n_seqs * n_rows * HEADS;
    tarnk_seq *seqs = calloc((size_t)n_sets * n_seqs, sizeof *seqs);
    float *small = calloc(n * DIM, 4);
    if (!seqs || !small)
        exit(1);
    for (uint32_t s = 0; s < n_sets * n_seqs; s++)
        seqs[s] = (tarnk_seq){.row_begin = s % n_seqs * n_rows,
                              .n_rows = n_rows,
                              .state_read = b->pool + 2 * s * STATE_BYTES,
                              .state_write = b->pool + (2 * s + 1) * STATE_BYTES};
    for (size_t i = 0; i < n * DIM; i++)
        small[i] = (float)((int)(i * 2654435761U >> 16 & 255) - 128) * 0.0007F;
    float *q = up(b, small, n * DIM * 4);
    for (size_t i = 0; i < n * DIM; i++)
        small[i] = -0.02F - small[i] * small[i];
    float *g = up(b, small, n * DIM * 4);
    kda_job j = {.a = {.q = q,
                       .k = q,
                       .v = b->in,
                       .g = g,
                       .beta = b->in,
                       .out = b->out,
                       .n_seqs = n_seqs,
                       .n_heads = HEADS,
                       .k_dim = DIM,
                       .v_dim = DIM},
                 .seqs = up(b, seqs, (size_t)n_sets * n_seqs * sizeof *seqs),
                 .n_sets = n_sets};
    b->cuda.step = (tarnk_cuda_step){.n_rows = n_seqs * n_rows, .rows_max = n_rows};
    double bytes = 2.0 * n_seqs * (double)STATE_BYTES + 20.0 * (double)n * DIM;
    double seconds = time_ops(b, n_rows > 1 ? 4 : 16, kda_op, &j);
    char name[64];
    snprintf(name, sizeof name, "kda_step_us_b%u", n_seqs);
    if (n_rows == 1)
        report(b, name, 1e6 * seconds, "us", 1e6 * bytes / b->copy_gbps / 1e9);
    else
        report(b, "kda_append_ms_layer_8k", 1e3 * seconds, "ms", 1e3 * bytes / b->copy_gbps / 1e9);
    tarnk_cuda_free(q);
    tarnk_cuda_free(g);
    tarnk_cuda_free(j.seqs);
    free(seqs);
    free(small);
}

/* ---- attention ------------------------------------------------------------------------------- */

typedef struct mla_job {
    tarnk_mla_args a;
    tarnk_seq *seqs;
    uint32_t n_sets;
} mla_job;

static int mla_op(bench *b, void *user, uint32_t i)
{
    mla_job *j = user;
    tarnk_mla_args a = j->a;
    a.seqs = j->seqs + (size_t)(i % j->n_sets) * a.n_seqs;
    return tarnk_cuda_ops()->mla(&a, &b->context);
}

/* Seconds for n_seqs sessions of n_rows rows behind `keys` keys. */
static double time_mla(bench *b, uint32_t n_seqs, uint32_t n_rows, uint32_t keys)
{
    const uint32_t n_pages = (keys + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
    const uint32_t n_sets = n_seqs >= 8 ? 2 : 8, n = n_sets * n_seqs;
    uint8_t **pages = malloc((size_t)n * n_pages * sizeof *pages);
    tarnk_seq *seqs = calloc(n, sizeof *seqs);
    if (!pages || !seqs)
        exit(1);
    for (size_t p = 0; p < (size_t)n * n_pages; p++)
        pages[p] = b->pool + p * PAGE_BYTES;
    uint8_t **on_device = up(b, pages, (size_t)n * n_pages * sizeof *pages);
    for (uint32_t s = 0; s < n; s++)
        seqs[s] = (tarnk_seq){.row_begin = s % n_seqs * n_rows,
                              .n_rows = n_rows,
                              .position = keys - n_rows,
                              .pages = on_device + (size_t)s * n_pages};
    mla_job j = {.a = {.q = b->in,
                       .kv_b = {b->pool + ((size_t)20 << 30), TARNK_BF16, HEADS * 256, RANK},
                       .out = b->out,
                       .n_seqs = n_seqs,
                       .n_rows = n_seqs * n_rows,
                       .n_heads = HEADS,
                       .nope = DIM,
                       .rope = ROPE,
                       .v_dim = DIM,
                       .rank = RANK,
                       .latent_dtype = TARNK_BF16,
                       .round = true},
                 .seqs = up(b, seqs, n * sizeof *seqs),
                 .n_sets = n_sets};
    b->cuda.step =
        (tarnk_cuda_step){.n_rows = n_seqs * n_rows, .rows_max = n_rows, .keys_max = keys};
    j.a.workspace =
        must_alloc(4 * tarnk_cuda_mla_workspace(n_seqs * n_rows, HEADS, RANK, ROPE, DIM, keys));
    double seconds = time_ops(b, n_rows > 1 ? 1 : n_sets * 2, mla_op, &j);
    tarnk_cuda_free(j.a.workspace);
    tarnk_cuda_free(j.seqs);
    tarnk_cuda_free(on_device);
    free(pages);
    free(seqs);
    return seconds;
}

static void bench_mla(bench *b)
{
    static const uint32_t batches[] = {8, 1, 64};
    for (int i = 0; i < 3; i++) {
        double bytes = batches[i] * 32768.0 * (RANK + ROPE) * 2 + 2.0 * HEADS * 256 * RANK;
        double gbps = bytes / time_mla(b, batches[i], 1, 32768) / 1e9;
        char name[64] = "mla_decode_bw_pct_32k";
        if (i > 0)
            snprintf(name, sizeof name, "mla_decode_bw_pct_32k_b%u", batches[i]);
        report(b, name, 100 * gbps / b->copy_gbps, "%", 100);
    }
    const double keys = 32768, rows = 2048;
    double pairs = rows * (keys - rows / 2) * HEADS;
    report(b, "mla_append_tflops", 2 * pairs * 320 / time_mla(b, 1, 2048, 32768) / 1e12, "TFLOP/s",
           b->peak_flops / 1e12);
}

static void fill(bench *b)
{
    const size_t n = (size_t)ROWS_MAX * 12576;
    b->pool = must_alloc(POOL_BYTES);
    must(bench_cuda_fill(b->pool, POOL_BYTES / 2, 7), "fill");
    b->peak_flops = bench_cuda_peak_flops(b->pool, 8192);
    must(bench_cuda_fill(b->pool, (size_t)3 * 8192 * 8192, 11), "fill");
    b->in = must_alloc(n * 4);
    b->out = must_alloc(n * 4);
    must(tarnk_cuda_fill(b->out, 0, n * 4, b->context.stream), "fill");
    float *host = malloc(n * 4);
    if (!host)
        exit(1);
    for (size_t i = 0; i < n; i++)
        host[i] = (float)((int)(i * 2654435761U >> 13 & 255) - 127) / 128; /* bf16 values */
    must(tarnk_cuda_upload(b->in, host, n * 4, b->context.stream), "upload");
    must(tarnk_cuda_wait(b->context.stream), "upload");
    free(host);
    b->copy_gbps = 4.0 * (1U << 30) / time_ops(b, 4, copy_op, NULL) / 1e9;
}

int main(int argc, char **argv)
{
    static bench b;
    char why[256];
    b.commit = b.driver = "unknown";
    const char *file = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            b.json = true;
        else if (strcmp(argv[i], "--tsv") == 0 && i + 1 < argc)
            file = argv[++i];
        else if (strcmp(argv[i], "--commit") == 0 && i + 1 < argc)
            b.commit = argv[++i];
        else if (strcmp(argv[i], "--driver") == 0 && i + 1 < argc)
            b.driver = argv[++i];
        else
            return printf("usage: bench_ops_cuda [--tsv FILE] [--commit TEXT] [--driver TEXT] "
                          "[--json]\n"),
                   2;
    }
    if (tarnk_cuda_open(&b.cuda, 0, (size_t)1 << 30, why, sizeof why) != 0) {
        printf("skip: %s\n", why);
        return 77;
    }
    must(tarnk_cuda_stream_create(&b.context.stream), "stream");
    b.context.pool = &b.cuda;
    b.cuda.native = true;
    b.cuda.expert_dtype = TARNK_BF16;
    if (file && !(b.tsv = fopen(file, "w"))) {
        printf("%s cannot be written\n", file);
        return 1;
    }
    if (b.tsv)
        fprintf(b.tsv, "metric\tvalue\tunit\tfloor\tratio\tmodel\tnumerics\tthreads\tdevice\t"
                       "commit\n");
    fill(&b);
    report(&b, "copy_gbps", b.copy_gbps, "GB/s", b.copy_gbps);
    report(&b, "library_matmul_tflops", b.peak_flops / 1e12, "TFLOP/s", b.peak_flops / 1e12);
    bench_kda(&b, 1, 1);
    bench_kda(&b, 8, 1);
    bench_kda(&b, 64, 1);
    bench_kda(&b, 1, 8192);
    bench_mla(&b);
    bench_experts(&b, 1);
    bench_experts(&b, 8);
    bench_experts(&b, 64);
    bench_experts(&b, 2048);
    bench_products(&b);
    return b.tsv && fclose(b.tsv) != 0;
}
