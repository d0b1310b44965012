/* bench_sessions.c - tarn bench sessions: what resuming, forking, keeping and sharing an engine
 * cost.
 *
 * Works in a store of its own in a temporary folder. What is compared is measured in turns, because
 * the rates of a shared machine drift. Floors, where there are any:
 *   resume_first_token_ms, fork_first_token_ms, rewind_..._ms   a decode step of the same session
 *   fork_us                 one small synced write to the same folder: its record is durable
 *   append_16x64_over_1x1024   1: sixteen short appends are as much work as one long one
 * resume_ms_32k_pinned, _store   on a device: a parked or closed session of --context tokens
 * (32768) up to its next token; the name says how many. park_ms_32k is the copy out. rewind_middle
 * goes to the end of a turn, rewind_between into the middle of one. Rows ending in _appending have
 * one more session that appends 64 tokens at a time. */
#include "bench_resumes.h"
#include "open.h"
#include "result.h"
#include "rows.h"
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
    PIECE = 64,
    RESUMED = 32768
};

#define PINNED_BYTES ((uint64_t)512 << 20) /* of parked sessions, on a device */

/* Going back is refused there, so everything up to the place is computed again. */
static const rows_peer peers[] = {
    {"tok_s_1", {{"decode1.at64", 0}}},
    {"fork_first_token_ms",
     {{"fork.split.call.ms", 0}, {"fork.split.first_step_extra.ms", 0}, {"decode1.at64", 1}}},
    {"rewind_middle_ms", {{"prefill512", LONG / 2}, {"decode1.at64", 1}}},
    {"rewind_between_ms", {{"prefill512", LONG / 2 + PIECE + PIECE / 2}, {"decode1.at64", 1}}},
    {"resume_first_token_ms", {{"state.restore_warm.ms", 0}, {"state.restore.first_step.ms", 0}}},
    {NULL, {{NULL, 0}}}};

typedef struct bench {
    const arguments *args;
    opened o; /* its store is the temporary one */
    char dir[64];
    uint32_t vocab, context;
    uint32_t random;
    double step_ms; /* a decode step of one session */
    rows *rows;
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
    rows_add(b->rows, metric, n * 1e3 / alone, "tok/s", 0);
    snprintf(metric, sizeof metric, "tok_s_%u_appending", n);
    rows_add(b->rows, metric, n * 1e3 / beside, "tok/s", 0);
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

static tarn_status rates(bench *b)
{
    static const uint32_t counts[] = {1, 4, 16};
    double warm_ms;
    TRY(time_appends(b, 1, 64, &warm_ms)); /* the weights are in memory from here on */
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

static tarn_status appends(bench *b)
{
    double many[REPEATS], one[REPEATS];
    TRY(time_appends(b, SESSIONS, 64, &many[0])); /* warm */
    for (int i = 0; i < REPEATS; i++) {
        TRY(time_appends(b, SESSIONS, 64, &many[i]));
        TRY(time_appends(b, 1, LONG, &one[i]));
    }
    rows_add(b->rows, "append_16x64_over_1x1024",
             rows_median(many, REPEATS) / rows_median(one, REPEATS), "ratio", 1);
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
    return fd >= 0 ? rows_median(samples, FORKS) : 0;
}

/* The first token that each child generates. */
static tarn_status first_tokens(bench *b, tarn_session **children, double out_ms[REPEATS])
{
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 1};
    for (int i = 0; i < REPEATS; i++) {
        double start = now_ms();
        TRY(tarn_session_generate(children[i], &o, &b->err));
        TRY(tarn_session_run(children[i], NULL, NULL, &b->err));
        out_ms[i] = now_ms() - start;
    }
    return TARN_OK;
}

static tarn_status forks(bench *b, tarn_session *s)
{
    tarn_session *children[FORKS] = {NULL};
    tarn_engine_stat before = {.size = sizeof before}, after = before;
    tarn_session_info info = {.size = sizeof info};
    double samples[FORKS], first[REPEATS];
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
    if (status == TARN_OK)
        tarn_session_get_info(children[0], &info);
    double bytes =
        (double)(after.slots_bytes + after.pages_bytes - before.slots_bytes - before.pages_bytes);
    if (status == TARN_OK)
        status = first_tokens(b, children, first);
    close_all(children, FORKS);
    TRY(status);
    const double fork_ms = rows_median(samples, FORKS) / 1e3;
    rows_add(b->rows, "fork_us", fork_ms * 1e3, "us", sync_us(b));
    rows_add(b->rows, "fork_state_bytes", bytes, "bytes", 0);
    rows_add(b->rows, "fork_first_token_ms", fork_ms + rows_median(first, REPEATS), "ms",
             b->step_ms);
    rows_add(b->rows, "fork_replayed", (double)info.reuse.tokens_replayed, "tokens", 0);
    return TARN_OK;
}

/* From going back to one more token, `reuse` as it was told. */
static tarn_status rewind_once(bench *b, tarn_session *s, const char *where, double *out_ms,
                               tarn_reuse *reuse)
{
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 1};
    double start = now_ms();
    TRY(tarn_session_rewind(s, where, reuse, &b->err));
    TRY(tarn_session_generate(s, &o, &b->err));
    TRY(tarn_session_run(s, NULL, NULL, &b->err));
    *out_ms = now_ms() - start;
    return TARN_OK;
}

static tarn_status rewinds(bench *b, tarn_session *s, const char *kind, uint32_t to)
{
    double samples[REPEATS];
    tarn_reuse reuse = {0};
    char name[48], where[32];
    snprintf(where, sizeof where, "@t:%u", to);
    for (int i = 0; i < REPEATS; i++) {
        tarn_session *child;
        snprintf(name, sizeof name, "%s%d", kind, i);
        TRY(tarn_session_fork(s, name, &child, &b->err));
        tarn_status status = rewind_once(b, child, where, &samples[i], &reuse);
        tarn_session_close(child);
        TRY(status);
    }
    snprintf(name, sizeof name, "rewind_%s_ms", kind);
    rows_add(b->rows, name, rows_median(samples, REPEATS), "ms", b->step_ms);
    snprintf(name, sizeof name, "rewind_%s_replayed", kind);
    rows_add(b->rows, name, (double)reuse.tokens_replayed, "tokens", 0);
    return TARN_OK;
}

/* A session of LONG tokens, committed after each PIECE of them, as an agent's turns would be. */
static tarn_status make_long(bench *b, tarn_session *s)
{
    for (int i = 0; i < LONG / PIECE; i++) {
        TRY(append(b, s, PIECE));
        TRY(tarn_session_run(s, NULL, NULL, &b->err));
        TRY(tarn_session_commit(s, NULL, &b->err));
    }
    return TARN_OK;
}

static tarn_status from_the_store(bench *b)
{
    tarn_session *s;
    double samples[REPEATS];
    uint64_t n_replayed = 0;
    TRY(open_kept(b, "long", &s));
    tarn_status status = make_long(b, s);
    if (status == TARN_OK)
        status = forks(b, s);
    if (status == TARN_OK)
        status = rewinds(b, s, "middle", LONG / 2);
    if (status == TARN_OK)
        status = rewinds(b, s, "between", LONG / 2 + PIECE + PIECE / 2);
    tarn_session_close(s);
    TRY(status);
    for (int i = 0; i < REPEATS; i++)
        TRY(resume_once(b, &samples[i], &n_replayed));
    rows_add(b->rows, "resume_first_token_ms", rows_median(samples, REPEATS), "ms", b->step_ms);
    rows_add(b->rows, "resume_replayed", (double)n_replayed, "tokens", 0);
    return TARN_OK;
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
    /* The fastest of each, for what else runs on the machine only ever adds: sorted they are. */
    rows_median(with, TURNS);
    rows_median(without, TURNS);
    rows_add(b->rows, "commit_begin_us", rows_median(begin, TURNS), "us", 0);
    rows_add(b->rows, "commit_stall_pct", (with[0] - without[0]) / without[0] * 100, "percent", 0);
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
    rows_add(
        b->rows, "parked_device_bytes",
        (double)(after.slots_bytes + after.pages_bytes - before.slots_bytes - before.pages_bytes) /
            SESSIONS,
        "bytes", 0);
    rows_add(b->rows, "parked_host_bytes",
             (double)(after.host_bytes - before.host_bytes) / SESSIONS, "bytes", 0);
    return TARN_OK;
}

/* Of a long session, on a device. */
static tarn_status long_resumes(bench *b)
{
    uint64_t asked = b->args->options[OPTION_CONTEXT].number, n = asked > 0 ? asked : RESUMED;
    bench_resumes r = {.engine = b->o.engine,
                       .store = b->o.store,
                       .rows = b->rows,
                       .n_tokens = (uint32_t)n,
                       .vocab = b->vocab,
                       .step_ms = b->step_ms,
                       .err = &b->err};
    bool on_host = strncmp(tarn_engine_device(b->o.engine), "cpu", 3) == 0;
    return on_host || n > b->context - b->context / 8 ? TARN_OK : bench_resumes_run(&r);
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
    return status == TARN_OK ? long_resumes(b) : status;
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

int verb_bench_sessions(const arguments *args)
{
    bench b = {.args = args, .random = 7};
    tarn_model_info info = {.size = sizeof info};
    int code = open_engine_pinned(args, PINNED_BYTES, &b.o);
    if (code == 0 && tarn_model_describe(b.o.model, open_numerics(args), &info, &b.err) != TARN_OK)
        code = result_error(args, &b.err);
    b.vocab = info.vocab;
    b.context = info.context;
    if (code == 0)
        code = open_temporary(&b);
    if (code == 0 && (b.rows = rows_begin(args, b.o.engine, peers)) == NULL)
        code = 1;
    if (code == 0 && measure(&b) != TARN_OK)
        code = result_error(args, &b.err);
    code = rows_end(b.rows, code);
    open_close(&b.o);
    if (b.dir[0])
        nftw(b.dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return code == 0 ? result_flush() : code;
}
