/* bench_sessions.c - tarn bench sessions: what resuming, forking, keeping and sharing an engine
 * cost.
 *
 * Works in a store of its own in a temporary folder. What is compared is measured in turns, because
 * the rates of a shared machine drift. Floors, where there are any:
 *   resume_first_token_ms   a decode step of the same session
 *   fork_us                 one small synced write to the same folder: its record is durable
 *   append_16x64_over_1x1024   1: sixteen short appends are as much work as one long one
 * Rows ending in _appending have one more session that appends 64 tokens at a time. */
#include "open.h"
#include "result.h"
#include "verbs.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SESSIONS = 16,
    PROMPT = 64,
    REPEATS = 5,
    FORKS = 32,
    LONG = 1024,
    TURN = 96,
    TURNS = 9,
    PIECE = 64
};

typedef struct bench {
    const arguments *args;
    opened o; /* its store is the temporary one */
    char dir[64];
    uint32_t vocab;
    uint32_t random;
    double step_ms; /* a decode step of one session */
    FILE *tsv;
    tarn_error err;
} bench;

#define TRY(call)                                                                                  \
    do {                                                                                           \
        tarn_status try_status = (call);                                                           \
        if (try_status != TARN_OK)                                                                 \
            return try_status;                                                                     \
    } while (0)

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* floor 0: none. Rates reach value / floor of it, all else floor / value. */
static void row(const bench *b, const char *metric, double value, const char *unit, double floor)
{
    bool is_rate = strcmp(unit, "tok/s") == 0;
    double ratio = floor > 0 && value > 0 ? (is_rate ? value / floor : floor / value) : 0;
    const char *model = b->args->options[OPTION_MODEL].text;
    const char *numerics = tarn_engine_numerics(b->o.engine);
    const char *device = tarn_engine_device(b->o.engine);
    int threads = (int)b->args->options[OPTION_THREADS].number;
    if (given(b->args, OPTION_JSON))
        result_print(json_pack("{s:s, s:f, s:s, s:o, s:o, s:s, s:s, s:i, s:s}", "metric", metric,
                               "value", value, "unit", unit, "floor",
                               floor > 0 ? json_real(floor) : json_null(), "ratio",
                               floor > 0 ? json_real(ratio) : json_null(), "model", model,
                               "numerics", numerics, "threads", threads, "device", device),
                     0);
    else if (floor > 0)
        printf("%-28s %12.5g %-8s floor %10.4g  ratio %.2f\n", metric, value, unit, floor, ratio);
    else
        printf("%-28s %12.5g %s\n", metric, value, unit);
    fflush(stdout);
    if (b->tsv && floor > 0)
        fprintf(b->tsv, "%s\t%.6g\t%s\t%.6g\t%.4f\t%s\t%s\t%d\t%s\n", metric, value, unit, floor,
                ratio, model, numerics, threads, device);
    else if (b->tsv)
        fprintf(b->tsv, "%s\t%.6g\t%s\t\t\t%s\t%s\t%d\t%s\n", metric, value, unit, model, numerics,
                threads, device);
}

/* ---- moves ----------------------------------------------------------------------------------- */

static tarn_status open_kept(bench *b, const char *name, tarn_session **out)
{
    tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_CREATE};
    return tarn_session_open(b->o.engine, b->o.store, name, &o, out, NULL, &b->err);
}

static tarn_status append(bench *b, tarn_session *s, uint32_t n)
{
    uint32_t ids[LONG];
    for (uint32_t i = 0; i < n; i++) {
        b->random = b->random * 1664525U + 1013904223U;
        ids[i] = (b->random >> 8) % b->vocab;
    }
    return tarn_session_append_tokens(s, ids, n, &b->err);
}

static uint64_t position(const tarn_session *s)
{
    tarn_session_info info = {.size = sizeof info};
    tarn_session_get_info(s, &info);
    return info.at.position;
}

static tarn_status step(bench *b, uint32_t *n_rows)
{
    tarn_step done = {.size = sizeof done};
    tarn_event event;
    TRY(tarn_engine_step(b->o.engine, &done, &b->err));
    while (tarn_engine_poll(b->o.engine, &event))
        if (event.kind == TARN_EVENT_STOP && event.stop == TARN_STOP_FAILED) {
            tarn_session_failure(event.session, &b->err);
            return b->err.status;
        }
    if (n_rows)
        *n_rows = done.n_rows;
    return TARN_OK;
}

static tarn_status drain(bench *b)
{
    uint32_t n_rows = 1;
    while (n_rows > 0)
        TRY(step(b, &n_rows));
    return TARN_OK;
}

/* Steps until every one of n sessions has generated `wanted` tokens more; a stop id stops nobody.
 * `reader`, if not NULL, appends a piece whenever it has nothing waiting. */
static tarn_status talk(bench *b, tarn_session **s, uint32_t n, uint32_t wanted,
                        tarn_session *reader)
{
    uint64_t ends[SESSIONS];
    for (uint32_t i = 0; i < n; i++)
        ends[i] = position(s[i]) + wanted;
    for (bool any = true; any;) {
        any = false;
        for (uint32_t i = 0; i < n; i++) {
            tarn_session_info info = {.size = sizeof info};
            tarn_session_get_info(s[i], &info);
            any = any || info.at.position < ends[i];
            tarn_generate_options o = {.size = sizeof o,
                                       .n_tokens_max = (uint32_t)(ends[i] - info.at.position)};
            if (info.state == TARN_SESSION_IDLE && info.at.position < ends[i])
                TRY(tarn_session_generate(s[i], &o, &b->err));
        }
        tarn_session_info reading = {.size = sizeof reading};
        if (reader)
            tarn_session_get_info(reader, &reading);
        if (reader && any && reading.tokens_waiting == 0)
            TRY(append(b, reader, PIECE));
        if (any)
            TRY(step(b, NULL));
    }
    return TARN_OK;
}

static void close_all(tarn_session **s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        tarn_session_close(s[i]);
        s[i] = NULL;
    }
}

/* ---- metrics --------------------------------------------------------------------------------- */

static tarn_status rates_with(bench *b, tarn_session **s, uint32_t n, tarn_session *reader)
{
    char metric[32];
    for (uint32_t i = 0; i < n; i++) {
        TRY(tarn_session_open(b->o.engine, NULL, "talks", NULL, &s[i], NULL, &b->err));
        TRY(append(b, s[i], PROMPT));
    }
    TRY(drain(b));
    TRY(talk(b, s, n, 4, NULL));
    double alone = now_ms();
    TRY(talk(b, s, n, TURN / 4, NULL));
    alone = (now_ms() - alone) / (TURN / 4);
    if (n == 1)
        b->step_ms = alone;
    double beside = now_ms();
    TRY(talk(b, s, n, TURN / 4, reader));
    beside = (now_ms() - beside) / (TURN / 4);
    TRY(drain(b));
    snprintf(metric, sizeof metric, "tok_s_%u", n);
    row(b, metric, n * 1e3 / alone, "tok/s", 0);
    snprintf(metric, sizeof metric, "tok_s_%u_appending", n);
    row(b, metric, n * 1e3 / beside, "tok/s", 0);
    return TARN_OK;
}

static tarn_status rates(bench *b)
{
    static const uint32_t counts[] = {1, 4, 16};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        tarn_session *s[SESSIONS + 1] = {NULL};
        tarn_status status =
            tarn_session_open(b->o.engine, NULL, "reads", NULL, &s[SESSIONS], NULL, &b->err);
        if (status == TARN_OK)
            status = rates_with(b, s, counts[i], s[SESSIONS]);
        close_all(s, SESSIONS + 1);
        TRY(status);
    }
    return TARN_OK;
}

static tarn_status time_appends(bench *b, uint32_t n, uint32_t n_tokens, double *out_ms)
{
    tarn_session *s[SESSIONS] = {NULL};
    tarn_status status = TARN_OK;
    for (uint32_t i = 0; status == TARN_OK && i < n; i++)
        status = tarn_session_open(b->o.engine, NULL, "reads", NULL, &s[i], NULL, &b->err);
    for (uint32_t i = 0; status == TARN_OK && i < n; i++)
        status = append(b, s[i], n_tokens);
    double start = now_ms();
    if (status == TARN_OK)
        status = drain(b);
    *out_ms = now_ms() - start;
    close_all(s, SESSIONS);
    return status;
}

static tarn_status appends(bench *b)
{
    double many[REPEATS], one[REPEATS];
    TRY(time_appends(b, SESSIONS, 64, &many[0])); /* warm */
    for (int i = 0; i < REPEATS; i++) {
        TRY(time_appends(b, SESSIONS, 64, &many[i]));
        TRY(time_appends(b, 1, LONG, &one[i]));
    }
    row(b, "append_16x64_over_1x1024", median(many, REPEATS) / median(one, REPEATS), "ratio", 1);
    return TARN_OK;
}

static tarn_status resume_once(bench *b, double *out_ms, uint64_t *n_replayed)
{
    tarn_session *s;
    tarn_reuse reuse;
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 1};
    double start = now_ms();
    TRY(tarn_session_open(b->o.engine, b->o.store, "long", NULL, &s, &reuse, &b->err));
    tarn_status status = tarn_session_generate(s, &o, &b->err);
    if (status == TARN_OK)
        status = tarn_session_run(s, NULL, NULL, &b->err);
    *out_ms = now_ms() - start;
    *n_replayed = reuse.tokens_replayed;
    tarn_session_close(s);
    return status;
}

/* What a small durable write costs in the folder of the store. */
static double sync_us(const bench *b)
{
    char path[96];
    double samples[FORKS];
    static const char page[4096];
    snprintf(path, sizeof path, "%s/probe", b->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    for (int i = 0; fd >= 0 && i < FORKS; i++) {
        double start = now_ms();
        if (pwrite(fd, page, sizeof page, (i % 4) * 4096) != (ssize_t)sizeof page ||
            fdatasync(fd) != 0)
            break;
        samples[i] = (now_ms() - start) * 1e3;
    }
    if (fd >= 0)
        close(fd);
    return fd >= 0 ? median(samples, FORKS) : 0;
}

static tarn_status forks(bench *b, tarn_session *s)
{
    tarn_session *children[FORKS] = {NULL};
    tarn_engine_stat before = {.size = sizeof before}, after = before;
    double samples[FORKS];
    tarn_status status = TARN_OK;
    tarn_engine_get_stat(b->o.engine, &before);
    for (int i = 0; status == TARN_OK && i < FORKS; i++) {
        char name[16];
        snprintf(name, sizeof name, "fork%d", i);
        double start = now_ms();
        status = tarn_session_fork(s, name, &children[i], &b->err);
        samples[i] = (now_ms() - start) * 1e3;
    }
    tarn_engine_get_stat(b->o.engine, &after);
    close_all(children, FORKS);
    TRY(status);
    row(b, "fork_us", median(samples, FORKS), "us", sync_us(b));
    row(b, "fork_state_bytes",
        (double)(after.slots_bytes + after.pages_bytes - before.slots_bytes - before.pages_bytes),
        "bytes", 0);
    return TARN_OK;
}

static tarn_status rewinds(bench *b, tarn_session *s)
{
    tarn_reuse reuse;
    char where[32];
    snprintf(where, sizeof where, "@t:%d", LONG / 2 + 100);
    double start = now_ms();
    TRY(tarn_session_rewind(s, where, &reuse, &b->err));
    TRY(tarn_session_run(s, NULL, NULL, &b->err));
    row(b, "rewind_middle_ms", now_ms() - start, "ms", 0);
    row(b, "rewind_middle_replayed", (double)reuse.tokens_replayed, "tokens", 0);
    return TARN_OK;
}

static tarn_status from_the_store(bench *b)
{
    tarn_session *s;
    double samples[REPEATS];
    uint64_t n_replayed = 0;
    TRY(open_kept(b, "long", &s));
    tarn_status status = append(b, s, LONG);
    if (status == TARN_OK)
        status = tarn_session_run(s, NULL, NULL, &b->err);
    if (status == TARN_OK)
        status = tarn_session_commit(s, NULL, &b->err);
    if (status == TARN_OK)
        status = forks(b, s);
    tarn_session_close(s);
    TRY(status);
    for (int i = 0; i < REPEATS; i++)
        TRY(resume_once(b, &samples[i], &n_replayed));
    row(b, "resume_first_token_ms", median(samples, REPEATS), "ms", b->step_ms);
    row(b, "resume_replayed", (double)n_replayed, "tokens", 0);
    TRY(open_kept(b, "long", &s));
    status = rewinds(b, s);
    tarn_session_close(s);
    return status;
}

/* Turns with and without a commit that begins with them, one after the other. */
static tarn_status stalls(bench *b, tarn_session *s)
{
    double with[TURNS], without[TURNS], begin[TURNS];
    tarn_ticket ticket;
    TRY(append(b, s, PROMPT));
    TRY(drain(b));
    for (int i = 0; i < TURNS; i++) {
        double start = now_ms();
        TRY(talk(b, &s, 1, TURN, NULL));
        without[i] = now_ms() - start;
        start = now_ms();
        TRY(tarn_session_commit_begin(s, &ticket, &b->err));
        begin[i] = (now_ms() - start) * 1e3;
        TRY(talk(b, &s, 1, TURN, NULL));
        with[i] = now_ms() - start;
        TRY(tarn_session_wait(s, ticket, TARN_COMMIT_WRITTEN, 0, NULL, &b->err));
    }
    /* The fastest of each: what else runs on the machine only ever adds. */
    qsort(with, TURNS, sizeof *with, by_value);
    qsort(without, TURNS, sizeof *without, by_value);
    row(b, "commit_begin_us", median(begin, TURNS), "us", 0);
    row(b, "commit_stall_pct", (with[0] - without[0]) / without[0] * 100, "percent", 0);
    return TARN_OK;
}

static tarn_status parked_with(bench *b, tarn_session **s)
{
    tarn_engine_stat before = {.size = sizeof before}, after = before;
    char name[16];
    tarn_engine_get_stat(b->o.engine, &before);
    for (int i = 0; i < SESSIONS; i++) {
        snprintf(name, sizeof name, "parked%d", i);
        TRY(open_kept(b, name, &s[i]));
        TRY(append(b, s[i], PROMPT));
    }
    TRY(drain(b));
    for (int i = 0; i < SESSIONS; i++) {
        TRY(tarn_session_commit(s[i], NULL, &b->err));
        TRY(tarn_session_park(s[i], &b->err));
    }
    tarn_engine_get_stat(b->o.engine, &after);
    row(b, "parked_device_bytes",
        (double)(after.slots_bytes + after.pages_bytes - before.slots_bytes - before.pages_bytes) /
            SESSIONS,
        "bytes", 0);
    row(b, "parked_host_bytes", (double)(after.host_bytes - before.host_bytes) / SESSIONS, "bytes",
        0);
    return TARN_OK;
}

static tarn_status measure(bench *b)
{
    tarn_session *s[SESSIONS] = {NULL};
    TRY(rates(b));
    TRY(appends(b));
    TRY(from_the_store(b));
    TRY(open_kept(b, "talks", &s[0]));
    tarn_status status = stalls(b, s[0]);
    close_all(s, 1);
    if (status == TARN_OK)
        status = parked_with(b, s);
    close_all(s, SESSIONS);
    return status;
}

/* ---- the verb -------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *level)
{
    (void)info;
    (void)type;
    (void)level;
    return remove(path);
}

static int open_temporary(bench *b)
{
    const char *parent = getenv("TMPDIR");
    char path[96];
    tarn_store_options options = open_store_options(TARN_STORE_CREATE);
    snprintf(b->dir, sizeof b->dir, "%.40s/tarn-bench-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(b->dir)) {
        perror(b->dir);
        b->dir[0] = 0;
        return 1;
    }
    snprintf(path, sizeof path, "%s/store", b->dir);
    if (tarn_store_open(path, &options, &b->o.store, &b->err) != TARN_OK)
        return result_error(b->args, &b->err);
    return 0;
}

static int open_tsv(bench *b)
{
    const char *path = b->args->options[OPTION_TSV].text;
    if (!path)
        return 0;
    b->tsv = fopen(path, "a");
    if (!b->tsv) {
        perror(path);
        return 1;
    }
    if (ftell(b->tsv) == 0)
        fprintf(b->tsv, "metric\tvalue\tunit\tfloor\tratio\tmodel\tnumerics\tthreads\tdevice\n");
    return 0;
}

int verb_bench_sessions(const arguments *args)
{
    bench b = {.args = args, .random = 7};
    tarn_model_info info = {.size = sizeof info};
    int code = open_engine(args, &b.o);
    if (code == 0 && tarn_model_describe(b.o.model, open_numerics(args), &info, &b.err) != TARN_OK)
        code = result_error(args, &b.err);
    b.vocab = info.vocab;
    if (code == 0)
        code = open_temporary(&b);
    if (code == 0)
        code = open_tsv(&b);
    if (code == 0 && measure(&b) != TARN_OK)
        code = result_error(args, &b.err);
    open_close(&b.o);
    if (b.dir[0])
        nftw(b.dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    if (b.tsv && fclose(b.tsv) != 0 && code == 0)
        code = 1;
    return code == 0 ? result_flush() : code;
}
