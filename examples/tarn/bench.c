/* bench.c - tarn bench model: rates of a checkpoint beside what this machine allows.
 *
 * The peaks are measured before and after each metric and averaged, because on a shared machine
 * they drift by more than the engine is ever short of them. A floor is the time that is left if
 * nothing but the product itself is counted:
 *   decode   the weights touched once (with uniform routing), states in and out, at the read rate,
 *            or the arithmetic at its rate, whichever takes longer; then the latents or the
 *            arithmetic over them in the same way
 *   prefill, append   the same for that many rows, the logits' weights for one of them; on the CPU
 *            the last layer's too, but for its latents
 *   first token       one decode step
 * Arithmetic counts at the rate of the instruction the engine uses: bf16 products or fp32
 * multiply-add; the recurrence always at the latter.
 *
 * Of a device the rates are not measured here: they are those of --machine, which bench_ops_cuda
 * has written, the recurrence at the rate of products too; without there are no floors.
 *
 * Sessions are fed ids that any vocabulary has, one a step for decoding: nothing stops it. The
 * first tokens are those of `tarn eval`, started as a process of its own. */
#include "open.h"
#include "peaks.h"
#include "print.h"
#include "result.h"
#include "rows.h"
#include "verbs.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SESSIONS_MAX   64
#define STEPS          24
#define REPEATS        3
#define LONG_CONTEXT   16384
#define BRIEF_TOKENS   96 /* no more with --quick on a device, and fewer repetitions */
#define BRIEF_SESSIONS 16
#define PIECE_HOST     512 /* tokens of a step while a context is filled */
#define PIECE_DEVICE   4096

#define QUICK_TOKENS 16384 /* of all sessions with --quick */

extern char **environ;

typedef struct bench {
    const arguments *args;
    opened o;
    tarn_model_info info;
    peaks_bench *machine;
    peaks peaks; /* around the last metric */
    uint32_t n_threads;
    rows *rows;
    tarn_error err;
} bench;

/* ---- floors ---------------------------------------------------------------------------------- */

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static bool on_host(const bench *b)
{
    return strncmp(tarn_engine_device(b->o.engine), "cpu", 3) == 0;
}

static bool has_bf16_products(const bench *b)
{
    return strstr(tarn_engine_device(b->o.engine), "bf16") != NULL || !on_host(b);
}

/* Of a layer, that n rows choose if each is as likely. */
static double distinct_experts(const tarn_model_info *m, double n_rows)
{
    return m->n_experts * (1 - pow(1 - (double)m->experts_per_token / m->n_experts, n_rows));
}

/* Seconds of a step of n_rows rows in n_seqs sessions, each with `context` keys before it; endless
 * where the machine's rates are not known. */
static double floor_s(const bench *b, uint32_t n_rows, uint32_t n_seqs, double context)
{
    const tarn_model_info *m = &b->info;
    const double read = b->peaks.read_gbps * 1e9, fma = b->peaks.fma_gflops * 1e9;
    const double products = has_bf16_products(b) ? b->peaks.bf16_gflops * 1e9 : fma;
    if (!(read > 0 && fma > 0))
        return INFINITY;
    const double per_weight = (double)m->weights_bytes / (double)m->n_parameters;
    const bool leaves_out = on_host(b) && m->tail_weight_bytes > 0;
    const double late = leaves_out ? n_seqs : n_rows; /* rows of the last layer */
    const double chosen = (double)m->expert_bytes * m->experts_per_token;
    const double moe_rows = m->n_moe_layers > 0 ? n_rows * (m->n_moe_layers - 1.0) + late : 0;
    double experts = 0; /* read at least once */
    if (m->n_moe_layers > 0)
        experts = (double)m->expert_bytes * ((m->n_moe_layers - 1.0) * distinct_experts(m, n_rows) +
                                             distinct_experts(m, late));
    double bytes = (double)m->step_weight_bytes + experts +
                   2.0 * n_seqs * (double)(m->state_bytes + m->conv_bytes);
    double body = (double)(m->step_weight_bytes - m->logits_weight_bytes - m->tail_weight_bytes);
    double flops = 2 / per_weight *
                   (n_rows * body + late * (double)m->tail_weight_bytes + moe_rows * chosen +
                    n_seqs * (double)m->logits_weight_bytes);
    double work = flops / products + n_rows * (double)m->recurrence_flops_per_token / fma;
    double keys = n_rows * (context + (double)n_rows / n_seqs / 2); /* of all rows together */
    double late_keys = leaves_out ? n_seqs * context + n_rows : keys;
    double latents = n_seqs * context * (double)m->latent_bytes_per_token / read;
    double attention = (double)m->attention_flops_per_key / products *
                       (keys * (m->n_mla_layers - 1.0) + late_keys) / m->n_mla_layers;
    return larger(bytes / read, work) + larger(latents, attention);
}

static const rows_peer peers[] = {{"decode_tok_s", {{"decode1.at64", 0}}},
                                  {"decode_tok_s_b8", {{"decode8.at64", 0}}},
                                  {"prefill_tok_s_512", {{"prefill512", 0}}},
                                  {"append_tok_s_64", {{"append64.at1024", 0}}},
                                  {NULL, {{NULL, 0}}}};

/* ---- sessions -------------------------------------------------------------------------------- */

typedef struct bed {
    tarn_session *sessions[SESSIONS_MAX];
    uint32_t n;
    uint32_t next_id;
} bed;

static tarn_status feed(bench *b, bed *d, uint32_t n_tokens)
{
    uint32_t *ids = malloc(n_tokens * sizeof *ids);
    tarn_status status = ids ? TARN_OK : TARN_E_NO_MEMORY;
    for (uint32_t s = 0; status == TARN_OK && s < d->n; s++) {
        for (uint32_t i = 0; i < n_tokens; i++) {
            d->next_id = d->next_id * 1664525U + 1013904223U;
            ids[i] = (d->next_id >> 8) % b->info.vocab;
        }
        status = tarn_session_append_tokens(d->sessions[s], ids, n_tokens, &b->err);
    }
    free(ids);
    tarn_step step = {.size = sizeof step, .n_rows = 1};
    while (status == TARN_OK && step.n_rows > 0)
        status = tarn_engine_step(b->o.engine, &step, &b->err);
    tarn_event event;
    while (tarn_engine_poll(b->o.engine, &event))
        continue;
    for (uint32_t s = 0; status == TARN_OK && s < d->n; s++) {
        tarn_session_info info = {.size = sizeof info};
        tarn_session_get_info(d->sessions[s], &info);
        if (info.state == TARN_SESSION_POISONED) {
            tarn_session_failure(d->sessions[s], &b->err);
            status = b->err.status;
        }
    }
    return status;
}

static void close_bed(bed *d)
{
    for (uint32_t s = 0; s < d->n; s++)
        tarn_session_close(d->sessions[s]);
    d->n = 0;
}

static tarn_status open_bed(bench *b, bed *d, uint32_t n, uint32_t context)
{
    *d = (bed){.next_id = 7};
    tarn_status status = TARN_OK;
    while (status == TARN_OK && d->n < n) {
        status =
            tarn_session_open(b->o.engine, NULL, "bench", NULL, &d->sessions[d->n], NULL, &b->err);
        d->n += status == TARN_OK;
    }
    for (uint32_t at = 0, piece; status == TARN_OK && at < context; at += piece) {
        piece = on_host(b) ? PIECE_HOST : PIECE_DEVICE;
        piece = context - at < piece ? context - at : piece;
        status = feed(b, d, piece);
        if (context > 4096)
            print_progress("filling the context", "tokens", at + piece, context);
    }
    return status;
}

static void measure_peaks(bench *b, bool again)
{
    if (!on_host(b))
        return;
    peaks now = peaks_measure(b->machine), before = again ? b->peaks : now;
    b->peaks =
        (peaks){(now.read_gbps + before.read_gbps) / 2, (now.fma_gflops + before.fma_gflops) / 2,
                (now.bf16_gflops + before.bf16_gflops) / 2};
}

/* ---- metrics --------------------------------------------------------------------------------- */

/* Of what takes microseconds on a GPU, and minutes on one that is only emulated. */
static bool is_brief(const bench *b)
{
    return given(b->args, OPTION_QUICK) && !on_host(b);
}

/* Median seconds of a step of one token in each of n sessions. */
static tarn_status time_decode(bench *b, uint32_t n, uint32_t context, double *out_s)
{
    bed d;
    double times[STEPS];
    const uint32_t n_steps = is_brief(b) ? 3 : STEPS;
    tarn_status status = open_bed(b, &d, n, context);
    for (uint32_t i = 0; status == TARN_OK && i < n_steps; i++) {
        double start = peaks_now();
        status = feed(b, &d, 1);
        times[i] = peaks_now() - start;
    }
    close_bed(&d);
    *out_s = status == TARN_OK ? rows_median(times, n_steps) : 0;
    return status;
}

static tarn_status decode(bench *b, const char *metric, uint32_t n, uint32_t context)
{
    double took;
    measure_peaks(b, false);
    tarn_status status = time_decode(b, n, context, &took);
    measure_peaks(b, true);
    if (status == TARN_OK)
        rows_add(b->rows, metric, n / took, "tok/s", n / floor_s(b, n, n, context));
    return status;
}

/* Median seconds of an append to a session of its own. */
static tarn_status time_append(bench *b, uint32_t n_tokens, uint32_t context, double *out_s)
{
    double times[REPEATS];
    const uint32_t n_repeats = is_brief(b) ? 1 : REPEATS;
    tarn_status status = TARN_OK;
    for (uint32_t i = 0; status == TARN_OK && i < n_repeats; i++) {
        bed d;
        status = open_bed(b, &d, 1, context);
        double start = peaks_now();
        if (status == TARN_OK)
            status = feed(b, &d, n_tokens);
        times[i] = peaks_now() - start;
        close_bed(&d);
    }
    *out_s = status == TARN_OK ? rows_median(times, n_repeats) : 0;
    return status;
}

static tarn_status append(bench *b, const char *metric, uint32_t n_tokens, uint32_t context)
{
    double took;
    measure_peaks(b, false);
    tarn_status status = time_append(b, n_tokens, context, &took);
    measure_peaks(b, true);
    if (status == TARN_OK)
        rows_add(b->rows, metric, n_tokens / took, "tok/s",
                 n_tokens / floor_s(b, n_tokens, 1, context));
    return status;
}

/* Decoding while a process that never sleeps runs on every core. */
static tarn_status decode_beside_others(bench *b)
{
    pid_t others[256];
    uint32_t n = 0;
    double alone, beside;
    tarn_status status = time_decode(b, 1, 16, &alone);
    for (; n < b->n_threads && n < 256; n++) {
        others[n] = fork();
        if (others[n] == 0)
            for (;;)
                __asm__ volatile("");
        if (others[n] < 0)
            break;
    }
    if (status == TARN_OK)
        status = time_decode(b, 1, 16, &beside);
    for (uint32_t i = 0; i < n; i++) {
        kill(others[i], SIGKILL);
        waitpid(others[i], NULL, 0);
    }
    if (status == TARN_OK)
        rows_add(b->rows, "decode_tok_s_busy", 1 / beside, "tok/s", 0.5 / alone);
    return status;
}

/* ---- first token ----------------------------------------------------------------------------- */

/* Asks the system to drop the model's files from memory; it may decline. */
static void forget_files(const char *dir)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;
    while (folder && (entry = readdir(folder)) != NULL) {
        int fd = openat(dirfd(folder), entry->d_name, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    if (folder)
        closedir(folder);
}

/* Seconds from the start of a process to the end of its first token; negative: it failed. */
static double time_process(const arguments *args)
{
    char threads[16], text[8][16] = {"tarn",   "eval",       "--tokens", "1",
                                     "--json", "--numerics", "--model",  "--threads"};
    snprintf(threads, sizeof threads, "%" PRIu64, args->options[OPTION_THREADS].number);
    const char *numerics = args->options[OPTION_NUMERICS].text;
    char *dir = strdup(args->options[OPTION_MODEL].text);
    char *kind = strdup(numerics ? numerics : "native");
    char *argv[] = {text[0], text[1], text[2], text[3], text[4], text[5],
                    kind,    text[6], dir,     text[7], threads, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int state = 1;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    double start = peaks_now();
    bool ran = dir && kind &&
               posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ) == 0 &&
               waitpid(pid, &state, 0) == pid && state == 0;
    double took = peaks_now() - start;
    posix_spawn_file_actions_destroy(&actions);
    free(dir);
    free(kind);
    return ran ? took : -1;
}

/* Before the model is opened here: what is mapped stays in memory. */
static void first_tokens(const arguments *args, double out_s[2])
{
    double warm[REPEATS];
    forget_files(args->options[OPTION_MODEL].text);
    out_s[0] = time_process(args);
    for (int i = 0; i < REPEATS; i++)
        warm[i] = time_process(args);
    out_s[1] = rows_median(warm, REPEATS);
}

/* ---- the verb -------------------------------------------------------------------------------- */

static tarn_status run_all(bench *b, const double first_s[2])
{
    static const char *const first_names[] = {"first_token_ms_cold", "first_token_ms_warm"};
    tarn_status status = TARN_OK;
    measure_peaks(b, false);
    rows_add(b->rows, "machine_read_gb_s", b->peaks.read_gbps, "GB/s", 0);
    rows_add(b->rows, "machine_fma_gflop_s", b->peaks.fma_gflops, "GFLOP/s", 0);
    rows_add(b->rows, "machine_bf16_gflop_s", b->peaks.bf16_gflops, "GFLOP/s", 0);
    for (int i = 0; i < 2; i++)
        if (first_s[i] > 0)
            rows_add(b->rows, first_names[i], 1e3 * first_s[i], "ms",
                     on_host(b) ? 1e3 * floor_s(b, 1, 1, 0) : 0);
    status = decode(b, "decode_tok_s", 1, 64);
    if (status == TARN_OK)
        status = decode(b, "decode_tok_s_b8", 8, 64);
    if (status == TARN_OK)
        status = decode(b, "decode_tok_s_b16", 16, 64);
    if (status == TARN_OK)
        status = append(b, "prefill_tok_s_512", 512, 0);
    if (status == TARN_OK)
        status = append(b, "append_tok_s_64", 64, 1024);
    if (status == TARN_OK)
        status = decode_beside_others(b);
    if (status == TARN_OK && !given(b->args, OPTION_QUICK) &&
        b->info.context > LONG_CONTEXT + STEPS)
        status = decode(b, "decode_tok_s_ctx16k", 1, LONG_CONTEXT);
    return status;
}

/* What a device that reads its weights in milliseconds is asked. */
static const struct device_metric {
    const char *metric;
    uint32_t n_sessions, n_tokens; /* n_tokens 0: decode */
    uint32_t context;
    bool is_rate; /* else milliseconds */
    const char *part;
} device_metrics[] = {{"decode_ms_b1", 1, 0, 64, false, "decode"},
                      {"decode_ms_b8", 8, 0, 64, false, "decode"},
                      {"decode_ms_b64", 64, 0, 64, false, "decode"},
                      {"append_ms_100", 1, 100, 0, false, "append"},
                      {"prefill_tok_s_512", 1, 512, 0, true, "append"},
                      {"prefill_tok_s_8k", 1, 8192, 0, true, "append"},
                      {"append_ms_2k_ctx100k", 1, 2048, 100000, false, "long"},
                      {"decode_ms_b1_ctx128k", 1, 0, 131072, false, "long"}};

static const char *const device_parts[] = {"decode", "append", "long", NULL};

/* Lengths that a device which is only emulated can do. */
static struct device_metric in_brief(struct device_metric m)
{
    m.n_sessions = m.n_sessions > BRIEF_SESSIONS ? BRIEF_SESSIONS : m.n_sessions;
    m.n_tokens = m.n_tokens > BRIEF_TOKENS ? BRIEF_TOKENS : m.n_tokens;
    m.context = m.context > BRIEF_TOKENS ? BRIEF_TOKENS : m.context;
    return m;
}

static tarn_status run_device(bench *b)
{
    tarn_status status = TARN_OK;
    for (size_t i = 0; status == TARN_OK && i < sizeof device_metrics / sizeof device_metrics[0];
         i++) {
        const struct device_metric whole = device_metrics[i];
        const struct device_metric shorter = is_brief(b) ? in_brief(whole) : whole, *m = &shorter;
        uint32_t n = m->n_tokens > 0 ? m->n_tokens : STEPS;
        double took;
        if (!options_part(b->args, m->part) || m->context + n > b->info.context)
            continue;
        status = m->n_tokens > 0 ? time_append(b, m->n_tokens, m->context, &took)
                                 : time_decode(b, m->n_sessions, m->context, &took);
        if (status != TARN_OK)
            break;
        double floor = m->n_tokens > 0 ? floor_s(b, n, 1, m->context)
                                       : floor_s(b, m->n_sessions, m->n_sessions, m->context);
        bool known = isfinite(floor);
        if (m->is_rate)
            rows_add(b->rows, m->metric, n / took, "tok/s", known ? n / floor : 0);
        else
            rows_add(b->rows, m->metric, 1e3 * took, "ms", known ? 1e3 * floor : 0);
    }
    return status;
}

/* The last rates that bench_ops_cuda has written there. */
static int read_machine(bench *b)
{
    const char *path = b->args->options[OPTION_MACHINE].text;
    char line[512], name[64];
    double value, copy = 0, products = 0;
    if (!path)
        return 0;
    FILE *f = fopen(path, "r");
    if (!f)
        return options_wrong(b->args, "%s: cannot be read", path);
    while (fgets(line, sizeof line, f)) {
        const char *tab = strchr(line, '\t');
        if (!tab || (size_t)(tab - line) >= sizeof name)
            continue;
        memcpy(name, line, (size_t)(tab - line));
        name[tab - line] = 0;
        value = strtod(tab + 1, NULL);
        if (strcmp(name, "copy_gbps") == 0)
            copy = value;
        else if (strcmp(name, "library_matmul_tflops") == 0)
            products = 1e3 * value;
    }
    fclose(f);
    if (copy <= 0 || products <= 0)
        return options_wrong(b->args, "%s: no rows copy_gbps and library_matmul_tflops", path);
    b->peaks = (peaks){.read_gbps = copy, .fma_gflops = products, .bf16_gflops = products};
    return 0;
}

int verb_bench_model(const arguments *args)
{
    bench b = {.args = args, .info = {.size = sizeof b.info}};
    double first_s[2] = {0, 0};
    bool is_shape = given(args, OPTION_SHAPE);
    if (!is_shape && !args->options[OPTION_MODEL].text)
        return options_wrong(args, "no model: give --model DIR or set TARN_MODEL");
    if (options_parts(args, device_parts) != 0)
        return 2;
    if (!is_shape)
        first_tokens(args, first_s);
    const tarn_engine_options ceilings = {.tokens_max =
                                              given(args, OPTION_QUICK) ? QUICK_TOKENS : 0};
    int code = open_engine_with(args, &ceilings, &b.o);
    if (code == 0 &&
        tarn_model_describe(b.o.model, open_numerics(args), &b.info, &b.err) != TARN_OK)
        code = result_error(args, &b.err);
    if (code == 0)
        b.n_threads = tarn_engine_threads(b.o.engine);
    if (code == 0 && (b.machine = peaks_begin(b.n_threads)) == NULL) {
        fprintf(stderr, "tarn: no memory to measure with\n");
        code = 1;
    }
    if (code == 0 && !on_host(&b))
        code = read_machine(&b);
    if (code == 0 && (b.rows = rows_begin(args, b.o.engine, peers)) == NULL)
        code = 1;
    if (code == 0 && (on_host(&b) ? run_all(&b, first_s) : run_device(&b)) != TARN_OK)
        code = result_error(args, &b.err);
    code = rows_end(b.rows, code);
    peaks_end(b.machine);
    open_close(&b.o);
    return code;
}
