/* bench_ops_cuda.c - how near the CUDA ops come to what this device can do, at the shapes of a 48B
 * model (hidden 2304, 32 heads of 128, latents of 512 + 64, 256 experts of 1024, top 8).
 *
 *     bench_ops_cuda [--tsv FILE] [--commit TEXT] [--driver TEXT] [--json] [--small]
 *
 * Every op is captured in a graph, several times over memory that the caches do not hold; a time is
 * the median of 21 replays by the number of ops in it. floor: what the copy bandwidth, or for
 * products of many rows the rate of the maker's library, both measured in the same run, allows.
 * Weights and latents are random; nothing is timed on zeros. --small: toy shapes, which show that
 * it runs and measure nothing. Exit 77 where there is no device. */
#include "cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* FLOP/s of the maker's library in a product n x n x n of what lies in `memory`. */
double bench_cuda_peak_flops(void *memory, int n);

#define DIM         128U
#define RANK        512U
#define ROPE        64U
#define EXPERTS_MAX 256U
#define TOP_K       8U
#define RUNS        21
#define PAGE_BYTES  ((size_t)TARNK_PAGE_TOKENS * (RANK + ROPE) * 2)
#define STATE_BYTES ((size_t)size.heads * DIM * DIM * 4)

typedef struct shapes {
    uint32_t hidden, heads, experts, expert_width, vocab, in_proj, rows, keys, peak, runs, warm,
        ops;
    size_t pool_bytes;
    const char *name;
} shapes;

static const shapes of_48b = {2304, 32,   256, 1024, 163840,           12576,       8192, 32768,
                              8192, RUNS, 2,   64,   (size_t)24 << 30, "48b shapes"};
static const shapes of_a_toy = {
    256, 2, 16, 64, 1000, 520, 192, 256, 256, 1, 0, 1, (size_t)48 << 20, "toy"};
static shapes size;

/* What others reported, and the H200's own limit; for eyes. */
static const struct figure {
    const char *metric, *text;
} figures[] = {
    {"kda_step_us_b1", "target 5; limit 1; fused with conv and norm, GB200, 24 heads: 8.3"},
    {"kda_step_us_b8", "target 11; limit 8; as above: 10.3"},
    {"kda_step_us_b64", "target 75; limit 62; as above: 40.8; H20-3e, 128 heads, 16: 112"},
    {"kda_append_ms_layer_8k",
     "target 0.40; limit 0.08 to 0.22; 64 heads, H200: cuLA 1.28, FLA 1.78"},
    {"mla_decode_bw_pct_32k", "target 75; FlashMLA on an H100, 128 x 4096 keys: 84"},
    {"moe_gate_up_us_b1", "target 24; limit 17.6"},
    {"moe_down_us_b1", "target 13; limit 8.8"},
    {"lm_head_us", "target 200; limit 176"},
    {"mla_append_tflops", "target 450; FA3 on an H100, 128 dims: about 740"},
};

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

/* n_bytes and flops of one op, where value is its time: for eyes. */
static void report(const bench *b, const char *metric, double value, const char *unit, double floor,
                   double n_bytes, double flops)
{
    bool more_is_better = strchr(unit, '/') != NULL || strchr(unit, '%') != NULL;
    double ratio = more_is_better ? value / floor : floor / value;
    double seconds = value * (strcmp(unit, "ms") == 0 ? 1e-3 : 1e-6);
    if (b->json) {
        printf("{\"metric\":\"%s\",\"value\":%.6g,\"unit\":\"%s\",\"floor\":%.6g,\"ratio\":%.4f,"
               "\"model\":\"%s\",\"numerics\":\"native\",\"threads\":1,\"device\":\"%s\"}\n",
               metric, value, unit, floor, ratio, size.name, b->cuda.name);
    } else {
        printf("%-26s %10.4g %-8s floor %10.4g  ratio %.3f", metric, value, unit, floor, ratio);
        if (n_bytes > 0)
            printf("  %6.0f GB/s, %3.0f %% of copies", n_bytes / seconds / 1e9,
                   100 * n_bytes / seconds / 1e9 / b->copy_gbps);
        if (flops > 0)
            printf("  %6.1f TFLOP/s", flops / seconds / 1e12);
        for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++)
            if (strcmp(metric, figures[i].metric) == 0)
                printf("  (%s)", figures[i].text);
        printf("\n");
    }
    fflush(stdout);
    if (b->tsv)
        fprintf(b->tsv, "%s\t%.6g\t%s\t%.6g\t%.4f\t%s\tnative\t1\t%s, driver %s\t%s\n", metric,
                value, unit, floor, ratio, size.name, b->cuda.name, b->driver, b->commit);
    if (b->tsv)
        fflush(b->tsv);
}

/* Median seconds of one fn(b, user, i), of n in a graph. */
static double time_ops(bench *b, uint32_t n, int (*fn)(bench *b, void *user, uint32_t i),
                       void *user)
{
    void *graph, *begin, *end, *stream = b->context.stream;
    double times[RUNS];
    n = n < size.ops ? n : size.ops;
    must(fn(b, user, 0), "first run");
    must(tarnk_cuda_wait(stream), "first run");
    must(tarnk_cuda_record_begin(stream), "capture");
    for (uint32_t i = 0; i < n; i++)
        must(fn(b, user, i), "capture");
    must(tarnk_cuda_record_end(stream, &graph), "capture");
    must(tarnk_cuda_event_create(&begin), "event");
    must(tarnk_cuda_event_create(&end), "event");
    for (int run = -(int)size.warm; run < (int)size.runs; run++) {
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
    qsort(times, size.runs, sizeof times[0], compare);
    return times[size.runs / 2];
}

static int copy_op(bench *b, void *user, uint32_t i)
{
    (void)user;
    const size_t each = size.pool_bytes / 12; /* 2 GiB */
    return tarnk_cuda_copy(b->pool + 4 * each, b->pool + i % 4 * each, each, b->context.stream);
}

/* ---- products -------------------------------------------------------------------------------- */

typedef struct product_job {
    uint32_t n_out, n_in, n_rows;
} product_job;

static int product_op(bench *b, void *user, uint32_t i)
{
    const product_job *j = user;
    size_t n_bytes = (size_t)j->n_out * j->n_in * 2, n = size.pool_bytes / n_bytes;
    tarnk_matmul_args a = {.x = b->in,
                           .x_stride = j->n_in,
                           .w = {b->pool + i % n * n_bytes, TARNK_BF16, j->n_out, j->n_in},
                           .out = b->out,
                           .out_stride = j->n_out,
                           .n_rows = j->n_rows};
    b->cuda.step.n_rows = j->n_rows;
    return tarnk_cuda_ops()->matmul(&a, 1, &b->context);
}

static void bench_product(bench *b, const char *name, uint32_t n_out, uint32_t n_rows)
{
    product_job j = {n_out, size.hidden, n_rows};
    double flops = 2.0 * n_rows * n_out * size.hidden;
    double bytes = 2.0 * n_out * size.hidden + 4.0 * n_rows * (n_out + size.hidden);
    double floor = bytes / b->copy_gbps / 1e9;
    floor = flops / b->peak_flops > floor ? flops / b->peak_flops : floor;
    double seconds = time_ops(b, n_rows > 64 ? 2 : 16, product_op, &j);
    report(b, name, 1e6 * seconds, "us", 1e6 * floor, bytes, flops);
}

static void bench_products(bench *b)
{
    static const uint32_t rows[] = {1, 8, 16, 64, 128, 512, 8192};
    bench_product(b, "lm_head_us", size.vocab, 1);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "kda_in_proj_us_m%u", rows[i]);
        bench_product(b, name, size.in_proj, rows[i] < size.rows ? rows[i] : size.rows);
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
    static tarnk_matrix w[3][EXPERTS_MAX];
    const size_t each = (size_t)size.expert_width * size.hidden * 2;
    uint32_t *experts = malloc((size_t)8 * n_rows * TOP_K * sizeof *experts), used = 0;
    bool seen[EXPERTS_MAX] = {false};
    if (!experts)
        exit(1);
    for (uint32_t m = 0; m < 3; m++)
        for (uint32_t e = 0; e < size.experts; e++)
            w[m][e] = (tarnk_matrix){b->pool + (e * 3 + m) * each, TARNK_BF16,
                                     m == 2 ? size.hidden : size.expert_width,
                                     m == 2 ? size.expert_width : size.hidden};
    uint64_t state = 1;
    for (uint32_t r = 0; r < 8 * n_rows; r++)
        for (uint32_t s = 0; s < TOP_K; s++) { /* ascending: one of each eighth */
            state = state * 6364136223846793005U + 1442695040888963407U;
            uint32_t part = size.experts / TOP_K, e = s * part + (uint32_t)(state >> 59) % part;
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
                       .n = size.hidden,
                       .width = size.expert_width,
                       .n_experts = size.experts,
                       .top_k = TOP_K,
                       .round = true}};
    size_t n_bytes =
        tarnk_cuda_moe_workspace(n_rows, size.hidden, size.expert_width, size.experts, TOP_K);
    j.a.workspace = must_alloc(n_bytes);
    j.experts = up(b, experts, (size_t)8 * n_rows * TOP_K * sizeof *experts);
    char name[64];
    double bytes = (double)used * 2 * (double)each,
           flops = 6.0 * n_rows * TOP_K * size.hidden * size.expert_width;
    double floor = 1.5 * bytes / b->copy_gbps / 1e9;
    floor = flops / b->peak_flops > floor ? flops / b->peak_flops : floor;
    j.part = TARNK_MOE_PLAN;
    snprintf(name, sizeof name, "moe_us_b%u", n_rows);
    report(b, name, 1e6 * time_ops(b, n_rows > 64 ? 2 : 8, moe_op, &j), "us", 1e6 * floor,
           1.5 * bytes, flops);
    if (n_rows == 1) { /* one row needs no plan: each op has a choice of its own */
        j.part = TARNK_MOE_GATE_UP;
        report(b, "moe_gate_up_us_b1", 1e6 * time_ops(b, 8, moe_op, &j), "us",
               1e6 * bytes / b->copy_gbps / 1e9, bytes, 0);
        j.part = TARNK_MOE_DOWN;
        report(b, "moe_down_us_b1", 1e6 * time_ops(b, 8, moe_op, &j), "us",
               0.5e6 * bytes / b->copy_gbps / 1e9, 0.5 * bytes, 0);
    }
    tarnk_cuda_free(j.a.workspace);
    tarnk_cuda_free(j.experts);
    tarnk_cuda_free((void *)(uintptr_t)j.a.w1);
    tarnk_cuda_free((void *)(uintptr_t)j.a.w3);
    tarnk_cuda_free((void *)(uintptr_t)j.a.w2);
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
    const size_t most = size.pool_bytes / STATE_BYTES / 2 / n_seqs;
    const uint32_t sets = n_seqs >= 64 ? 4 : 64, n_sets = most < sets ? (uint32_t)most : sets;
    const size_t n = (size_t)n_seqs * n_rows * size.heads;
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
    for (size_t i = 0; i < n; i++)
        small[i] = 0.5F;
    float *beta = up(b, small, n * 4);
    kda_job j = {.a = {.q = q,
                       .k = q,
                       .v = b->in,
                       .g = g,
                       .beta = beta,
                       .out = b->out,
                       .n_seqs = n_seqs,
                       .n_heads = size.heads,
                       .k_dim = DIM,
                       .v_dim = DIM},
                 .seqs = up(b, seqs, (size_t)n_sets * n_seqs * sizeof *seqs),
                 .n_sets = n_sets};
    b->cuda.step = (tarnk_cuda_step){.n_rows = n_seqs * n_rows, .rows_max = n_rows};
    double bytes = 2.0 * n_seqs * (double)STATE_BYTES + 20.0 * (double)n * DIM;
    double seconds = time_ops(b, n_rows > 1 ? 4 : n_sets, kda_op, &j);
    char name[64];
    snprintf(name, sizeof name, "kda_step_us_b%u", n_seqs);
    if (n_rows == 1)
        report(b, name, 1e6 * seconds, "us", 1e6 * bytes / b->copy_gbps / 1e9, bytes, 0);
    else
        report(b, "kda_append_ms_layer_8k", 1e3 * seconds, "ms", 1e3 * bytes / b->copy_gbps / 1e9,
               bytes, 0);
    tarnk_cuda_free(q);
    tarnk_cuda_free(g);
    tarnk_cuda_free(beta);
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
        pages[p] = b->pool + p % (size.pool_bytes / PAGE_BYTES) * PAGE_BYTES;
    uint8_t **on_device = up(b, pages, (size_t)n * n_pages * sizeof *pages);
    for (uint32_t s = 0; s < n; s++)
        seqs[s] = (tarnk_seq){.row_begin = s % n_seqs * n_rows,
                              .n_rows = n_rows,
                              .position = keys - n_rows,
                              .pages = on_device + (size_t)s * n_pages};
    mla_job j = {
        .a = {.q = b->in,
              .kv_b = {b->pool + size.pool_bytes / 4 * 3, TARNK_BF16, size.heads * 256, RANK},
              .out = b->out,
              .n_seqs = n_seqs,
              .n_rows = n_seqs * n_rows,
              .n_heads = size.heads,
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
    j.a.workspace = must_alloc(
        4 * tarnk_cuda_mla_workspace(n_seqs * n_rows, size.heads, RANK, ROPE, DIM, keys));
    double seconds = time_ops(b, n_rows > 1 ? 1 : n_sets * 2, mla_op, &j);
    tarnk_cuda_free(j.a.workspace);
    tarnk_cuda_free(j.seqs);
    tarnk_cuda_free(on_device);
    free(pages);
    free(seqs);
    return seconds;
}

static void bench_append(bench *b, const char *name, uint32_t n_rows)
{
    double pairs = (double)n_rows * ((double)size.keys - 0.5 * n_rows) * size.heads;
    report(b, name, 2 * pairs * 320 / time_mla(b, 1, n_rows, size.keys) / 1e12, "TFLOP/s",
           b->peak_flops / 1e12, 0, 0);
}

static void bench_mla(bench *b)
{
    static const uint32_t batches[] = {8, 1, 64};
    for (int i = 0; i < 3; i++) {
        double bytes =
            (double)batches[i] * size.keys * (RANK + ROPE) * 2 + 2.0 * size.heads * 256 * RANK;
        double gbps = bytes / time_mla(b, batches[i], 1, size.keys) / 1e9;
        char name[64] = "mla_decode_bw_pct_32k";
        if (i > 0)
            snprintf(name, sizeof name, "mla_decode_bw_pct_32k_b%u", batches[i]);
        report(b, name, 100 * gbps / b->copy_gbps, "%", 100, 0, 0);
    }
    double bytes = 4.0 * size.keys * (RANK + ROPE) * 2;
    report(b, "mla_decode_bw_pct_128k_b1",
           100 * bytes / time_mla(b, 1, 1, 4 * size.keys) / 1e9 / b->copy_gbps, "%", 100, 0, 0);
    bench_append(b, "mla_append_tflops", size.rows);
    bench_append(b, "mla_append_tflops_2k", size.rows / 4);
}

static void fill_random(bench *b, size_t n_values)
{
    tarnk_random_args a = {
        .to = b->pool, .dtype = TARNK_BF16, .n = n_values, .key = n_values, .scale = 0.02F};
    must(tarnk_cuda_random(&a, &b->context), "fill");
}

static void fill(bench *b)
{
    const uint32_t widest = size.in_proj > size.heads * 192 ? size.in_proj : size.heads * 192;
    const size_t n = (size_t)size.rows * widest;
    b->pool = must_alloc(size.pool_bytes);
    fill_random(b, size.pool_bytes / 2);
    must(tarnk_cuda_wait(b->context.stream), "fill");
    b->peak_flops = bench_cuda_peak_flops(b->pool, (int)size.peak);
    fill_random(b, (size_t)3 * size.peak * size.peak);
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
    b->copy_gbps = 2.0 * (double)(size.pool_bytes / 12) / time_ops(b, 4, copy_op, NULL) / 1e9;
}

int main(int argc, char **argv)
{
    static bench b;
    char why[256];
    b.commit = b.driver = "unknown";
    size = of_48b;
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
        else if (strcmp(argv[i], "--small") == 0)
            size = of_a_toy;
        else
            return printf("usage: bench_ops_cuda [--tsv FILE] [--commit TEXT] [--driver TEXT] "
                          "[--json] [--small]\n"),
                   2;
    }
    if (tarnk_cuda_open(&b.cuda, 0, size.pool_bytes / 24, why, sizeof why) != 0) {
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
    report(&b, "copy_gbps", b.copy_gbps, "GB/s", b.copy_gbps, 0, 0);
    report(&b, "library_matmul_tflops", b.peak_flops / 1e12, "TFLOP/s", b.peak_flops / 1e12, 0, 0);
    bench_kda(&b, 1, 1);
    bench_kda(&b, 8, 1);
    bench_kda(&b, 64, 1);
    bench_kda(&b, 1, size.rows);
    bench_mla(&b);
    bench_products(&b);
    static const uint32_t rows[] = {1, 8, 64, 2048, 8192};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && rows[i] <= size.rows; i++)
        bench_experts(&b, rows[i]);
    return b.tsv && fclose(b.tsv) != 0;
}
