/* bench_sessions.c - tarn bench sessions: what resuming, forking, keeping and sharing an engine
 * cost.
 *
 * Works in a store of its own in a temporary folder. What is compared is measured in turns, because
 * the rates of a shared machine drift. Floors, where there are any:
 *   resume_first_token_ms, fork_first_token_ms, rewind_..._ms   a decode step of the same session
 *   fork_us                 one small synced write to the same folder: its record is durable
 *   append_16x64_over_1x1024   1: sixteen short appends are as much work as one long one
 * park_ms_32k is the copy out of a parked session, until its memory is free,
 * resume_ms_32k_pinned, _store   on a device: a parked or closed session of --context tokens
 * (32768) up to its next token; the name says how many. fork_next_token_pct: how much slower the
 * first token of a child is than a later one. With --quick on a device everything is a fraction
 * of its size, and names begin with quick_. rewind_middle
 * goes to the end of a turn, rewind_between into the middle of one. Rows ending in _appending have
 * one more session that appends 64 tokens at a time. */
#include "bench_resumes.h"
#include "verbs.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LONG  1024
#define PIECE 64

enum { SESSIONS = 16, REPEATS = 5, FORKS = 32, TURNS = 9 }; /* at most */

typedef struct sizes {
    uint32_t sessions, prompt, repeats, forks;
    uint32_t turn, turns;
    uint32_t longest, piece; /* tokens of the long session, committed a piece at a time */
    uint32_t resumed;
} sizes;

static const sizes full = {.sessions = SESSIONS,
                           .prompt = 64,
                           .repeats = REPEATS,
                           .forks = FORKS,
                           .turn = 96,
                           .turns = TURNS,
                           .longest = LONG,
                           .piece = PIECE,
                           .resumed = 32768};
static const sizes brief = {.sessions = 4,
                            .prompt = 16,
                            .repeats = 2,
                            .forks = 4,
                            .turn = 8,
                            .turns = 2,
                            .longest = 64,
                            .piece = 16,
                            .resumed = 100};

static const sizes *of(const bench *b)
{
    return b->brief ? &brief : &full;
}

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

/* Steps until every one of n sessions has generated `wanted` tokens more; a stop id stops nobody.
 * `reader`, if not NULL, appends a piece whenever it has nothing waiting. */
static tarn_status talk(bench *b, tarn_session **s, uint32_t n, uint32_t wanted,
                        tarn_session *reader)
{
    uint64_t ends[SESSIONS];
    for (uint32_t i = 0; i < n; i++)
        ends[i] = bench_position(s[i]) + wanted;
    for (bool any = true; any;) {
        any = false;
        for (uint32_t i = 0; i < n; i++) {
            tarn_session_info info = {.size = sizeof info};
            tarn_session_get_info(s[i], &info);
            any = any || info.at.position < ends[i];
            tarn_generate_options o = {.size = sizeof o,
                                       .n_tokens_max = (uint32_t)(ends[i] - info.at.position)};
            if (info.state == TARN_SESSION_IDLE && info.at.position < ends[i])
                BENCH_TRY(tarn_session_generate(s[i], &o, &b->err));
        }
        tarn_session_info reading = {.size = sizeof reading};
        if (reader)
            tarn_session_get_info(reader, &reading);
        if (reader && any && reading.tokens_waiting == 0)
            BENCH_TRY(bench_append(b, reader, of(b)->piece));
        if (any)
            BENCH_TRY(bench_step(b, NULL));
    }
    return TARN_OK;
}

/* ---- metrics --------------------------------------------------------------------------------- */

static tarn_status rates_with(bench *b, tarn_session **s, uint32_t n, tarn_session *reader)
{
    char metric[32];
    for (uint32_t i = 0; i < n; i++) {
        BENCH_TRY(bench_open_loose(b, &s[i]));
        BENCH_TRY(bench_append(b, s[i], of(b)->prompt));
    }
    BENCH_TRY(bench_drain(b));
    BENCH_TRY(talk(b, s, n, 4, NULL));
    double alone = bench_now_ms();
    BENCH_TRY(talk(b, s, n, of(b)->turn / 4, NULL));
    alone = (bench_now_ms() - alone) / (of(b)->turn / 4);
    if (n == 1)
        b->step_ms = alone;
    double beside = bench_now_ms();
    BENCH_TRY(talk(b, s, n, of(b)->turn / 4, reader));
    beside = (bench_now_ms() - beside) / (of(b)->turn / 4);
    BENCH_TRY(bench_drain(b));
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
        status = bench_open_loose(b, &s[i]);
    for (uint32_t i = 0; status == TARN_OK && i < n; i++)
        status = bench_append(b, s[i], n_tokens);
    double start = bench_now_ms();
    if (status == TARN_OK)
        status = bench_drain(b);
    *out_ms = bench_now_ms() - start;
    bench_close_all(s, SESSIONS);
    return status;
}

static tarn_status rates(bench *b)
{
    static const uint32_t counts[] = {1, 4, 16};
    double warm_ms;
    BENCH_TRY(
        time_appends(b, 1, of(b)->piece, &warm_ms)); /* the weights are in memory from here on */
    for (size_t i = 0; i < sizeof counts / sizeof counts[0] && counts[i] <= of(b)->sessions; i++) {
        tarn_session *s[SESSIONS + 1] = {NULL};
        tarn_status status = bench_open_loose(b, &s[SESSIONS]);
        if (status == TARN_OK)
            status = rates_with(b, s, counts[i], s[SESSIONS]);
        bench_close_all(s, SESSIONS + 1);
        BENCH_TRY(status);
    }
    return TARN_OK;
}

static tarn_status appends(bench *b)
{
    double many[REPEATS], one[REPEATS];
    BENCH_TRY(time_appends(b, of(b)->sessions, of(b)->piece, &many[0])); /* warm */
    for (uint32_t i = 0; i < of(b)->repeats; i++) {
        BENCH_TRY(time_appends(b, of(b)->sessions, of(b)->piece, &many[i]));
        BENCH_TRY(time_appends(b, 1, of(b)->longest, &one[i]));
    }
    rows_add(b->rows, "append_16x64_over_1x1024",
             rows_median(many, of(b)->repeats) / rows_median(one, of(b)->repeats), "ratio", 1);
    return TARN_OK;
}

static tarn_status resume_once(bench *b, double *out_ms, uint64_t *n_replayed)
{
    tarn_session *s;
    tarn_reuse reuse;
    double start = bench_now_ms();
    BENCH_TRY(tarn_session_open(b->o.engine, b->o.store, "long", NULL, &s, &reuse, &b->err));
    tarn_status status = bench_next_token(b, s);
    *out_ms = bench_now_ms() - start;
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
        double start = bench_now_ms();
        if (pwrite(fd, page, sizeof page, (i % 4) * 4096) != (ssize_t)sizeof page ||
            fdatasync(fd) != 0)
            break;
        samples[i] = (bench_now_ms() - start) * 1e3;
    }
    if (fd >= 0)
        close(fd);
    return fd >= 0 ? rows_median(samples, FORKS) : 0;
}

/* The next token of each child, the first one it generates or a later one. */
static tarn_status tokens_of(bench *b, tarn_session **children, double out_ms[FORKS])
{
    for (uint32_t i = 0; i < of(b)->forks; i++) {
        double start = bench_now_ms();
        BENCH_TRY(bench_next_token(b, children[i]));
        out_ms[i] = bench_now_ms() - start;
    }
    return TARN_OK;
}

static tarn_status forks(bench *b, tarn_session *s)
{
    tarn_session *children[FORKS] = {NULL};
    tarn_engine_stat before = {.size = sizeof before}, after = before;
    tarn_session_info info = {.size = sizeof info};
    double samples[FORKS], first[FORKS], later[FORKS];
    tarn_status status = TARN_OK;
    tarn_engine_get_stat(b->o.engine, &before);
    for (uint32_t i = 0; status == TARN_OK && i < of(b)->forks; i++) {
        char name[16];
        snprintf(name, sizeof name, "fork%u", i);
        double start = bench_now_ms();
        status = tarn_session_fork(s, name, &children[i], &b->err);
        samples[i] = (bench_now_ms() - start) * 1e3;
    }
    tarn_engine_get_stat(b->o.engine, &after);
    if (status == TARN_OK)
        tarn_session_get_info(children[0], &info);
    double bytes =
        (double)(after.slots_bytes + after.pages_bytes - before.slots_bytes - before.pages_bytes);
    if (status == TARN_OK)
        status = tokens_of(b, children, first);
    if (status == TARN_OK)
        status = tokens_of(b, children, later);
    bench_close_all(children, FORKS);
    BENCH_TRY(status);
    const double fork_ms = rows_median(samples, of(b)->forks) / 1e3;
    rows_add(b->rows, "fork_us", fork_ms * 1e3, "us", sync_us(b));
    rows_add(b->rows, "fork_state_bytes", bytes, "bytes", 0);
    const double first_ms = rows_median(first, of(b)->forks);
    const double later_ms = rows_median(later, of(b)->forks);
    rows_add(b->rows, "fork_first_token_ms", fork_ms + first_ms, "ms", b->step_ms);
    rows_add(b->rows, "fork_next_token_pct", (first_ms / later_ms - 1) * 100, "percent", 0);
    rows_add(b->rows, "fork_replayed", (double)info.reuse.tokens_replayed, "tokens", 0);
    return TARN_OK;
}

/* From going back to one more token, `reuse` as it was told. */
static tarn_status rewind_once(bench *b, tarn_session *s, const char *where, double *out_ms,
                               tarn_reuse *reuse)
{
    double start = bench_now_ms();
    BENCH_TRY(tarn_session_rewind(s, where, reuse, &b->err));
    BENCH_TRY(bench_next_token(b, s));
    *out_ms = bench_now_ms() - start;
    return TARN_OK;
}

static tarn_status rewinds(bench *b, tarn_session *s, const char *kind, uint32_t to)
{
    double samples[REPEATS];
    tarn_reuse reuse = {0};
    char name[48], where[32];
    snprintf(where, sizeof where, "@t:%u", to);
    for (uint32_t i = 0; i < of(b)->repeats; i++) {
        tarn_session *child;
        snprintf(name, sizeof name, "%s%u", kind, i);
        BENCH_TRY(tarn_session_fork(s, name, &child, &b->err));
        tarn_status status = rewind_once(b, child, where, &samples[i], &reuse);
        tarn_session_close(child);
        BENCH_TRY(status);
    }
    snprintf(name, sizeof name, "rewind_%s_ms", kind);
    rows_add(b->rows, name, rows_median(samples, of(b)->repeats), "ms", b->step_ms);
    snprintf(name, sizeof name, "rewind_%s_replayed", kind);
    rows_add(b->rows, name, (double)reuse.tokens_replayed, "tokens", 0);
    return TARN_OK;
}

/* A session of LONG tokens, committed after each PIECE of them, as an agent's turns would be. */
static tarn_status make_long(bench *b, tarn_session *s)
{
    for (uint32_t i = 0; i < of(b)->longest / of(b)->piece; i++) {
        BENCH_TRY(bench_append(b, s, of(b)->piece));
        BENCH_TRY(tarn_session_run(s, NULL, NULL, &b->err));
        BENCH_TRY(tarn_session_commit(s, NULL, &b->err));
    }
    return TARN_OK;
}

static tarn_status from_the_store(bench *b)
{
    tarn_session *s;
    double samples[REPEATS];
    uint64_t n_replayed = 0;
    BENCH_TRY(bench_open_kept(b, "long", &s));
    tarn_status status = make_long(b, s);
    if (status == TARN_OK)
        status = forks(b, s);
    if (status == TARN_OK)
        status = rewinds(b, s, "middle", of(b)->longest / 2);
    if (status == TARN_OK)
        status = rewinds(b, s, "between", of(b)->longest / 2 + of(b)->piece + of(b)->piece / 2);
    tarn_session_close(s);
    BENCH_TRY(status);
    for (uint32_t i = 0; i < of(b)->repeats; i++)
        BENCH_TRY(resume_once(b, &samples[i], &n_replayed));
    rows_add(b->rows, "resume_first_token_ms", rows_median(samples, of(b)->repeats), "ms",
             b->step_ms);
    rows_add(b->rows, "resume_replayed", (double)n_replayed, "tokens", 0);
    return TARN_OK;
}

/* Turns with and without a commit that begins with them, one after the other. */
static tarn_status stalls(bench *b, tarn_session *s)
{
    double with[TURNS], without[TURNS], begin[TURNS];
    tarn_ticket ticket;
    BENCH_TRY(bench_append(b, s, of(b)->prompt));
    BENCH_TRY(bench_drain(b));
    for (uint32_t i = 0; i < of(b)->turns; i++) {
        double start = bench_now_ms();
        BENCH_TRY(talk(b, &s, 1, of(b)->turn, NULL));
        without[i] = bench_now_ms() - start;
        start = bench_now_ms();
        BENCH_TRY(tarn_session_commit_begin(s, &ticket, &b->err));
        begin[i] = (bench_now_ms() - start) * 1e3;
        BENCH_TRY(talk(b, &s, 1, of(b)->turn, NULL));
        with[i] = bench_now_ms() - start;
        BENCH_TRY(tarn_session_wait(s, ticket, TARN_COMMIT_WRITTEN, 0, NULL, &b->err));
    }
    /* The fastest of each, for what else runs on the machine only ever adds: sorted they are. */
    rows_median(with, of(b)->turns);
    rows_median(without, of(b)->turns);
    rows_add(b->rows, "commit_begin_us", rows_median(begin, of(b)->turns), "us", 0);
    rows_add(b->rows, "commit_stall_pct", (with[0] - without[0]) / without[0] * 100, "percent", 0);
    return TARN_OK;
}

static tarn_status parked_with(bench *b, tarn_session **s)
{
    tarn_engine_stat before = {.size = sizeof before}, after = before;
    char name[16];
    tarn_engine_get_stat(b->o.engine, &before);
    for (uint32_t i = 0; i < of(b)->sessions; i++) {
        snprintf(name, sizeof name, "parked%u", i);
        BENCH_TRY(bench_open_kept(b, name, &s[i]));
        BENCH_TRY(bench_append(b, s[i], of(b)->prompt));
    }
    BENCH_TRY(bench_drain(b));
    for (uint32_t i = 0; i < of(b)->sessions; i++) {
        BENCH_TRY(tarn_session_commit(s[i], NULL, &b->err));
        BENCH_TRY(bench_park(b, s[i]));
    }
    tarn_engine_get_stat(b->o.engine, &after);
    rows_add(
        b->rows, "parked_device_bytes",
        (double)(after.slots_bytes + after.pages_bytes - before.slots_bytes - before.pages_bytes) /
            of(b)->sessions,
        "bytes", 0);
    rows_add(b->rows, "parked_host_bytes",
             (double)(after.host_bytes - before.host_bytes) / of(b)->sessions, "bytes", 0);
    return TARN_OK;
}

/* Of a long session, on a device. */
static tarn_status long_resumes(bench *b)
{
    uint64_t asked = b->args->options[OPTION_CONTEXT].number;
    uint64_t n = asked > 0 ? asked : of(b)->resumed, named = asked > 0 ? asked : full.resumed;
    if (bench_on_host(b) || n > b->context - b->context / 8)
        return TARN_OK;
    return bench_resumes_run(b, (uint32_t)n, (uint32_t)named);
}

/* The floor of what ends with a token, where the rates are left out. */
static tarn_status measure_step(bench *b)
{
    double samples[REPEATS];
    tarn_session *s;
    BENCH_TRY(bench_open_loose(b, &s));
    tarn_status status = bench_append(b, s, of(b)->prompt);
    for (uint32_t i = 0; status == TARN_OK && i <= of(b)->repeats; i++) {
        double start = bench_now_ms();
        status = bench_next_token(b, s);
        if (i > 0) /* the first one reads the prompt */
            samples[i - 1] = bench_now_ms() - start;
    }
    tarn_session_close(s);
    if (status == TARN_OK)
        b->step_ms = rows_median(samples, of(b)->repeats);
    return status;
}

static tarn_status commits(bench *b)
{
    tarn_session *s;
    BENCH_TRY(bench_open_kept(b, "talks", &s));
    tarn_status status = stalls(b, s);
    tarn_session_close(s);
    return status;
}

static tarn_status parked(bench *b)
{
    tarn_session *s[SESSIONS] = {NULL};
    tarn_status status = parked_with(b, s);
    bench_close_all(s, SESSIONS);
    return status;
}

/* ---- the verb -------------------------------------------------------------------------------- */

static const char *const parts[] = {"rates", "store", "commits", "parked", "long", NULL};

static tarn_status measure(bench *b)
{
    const arguments *args = b->args;
    if (options_part(args, "rates")) {
        BENCH_TRY(rates(b));
        BENCH_TRY(appends(b));
    } else {
        BENCH_TRY(measure_step(b));
    }
    if (options_part(args, "store"))
        BENCH_TRY(from_the_store(b));
    if (options_part(args, "commits"))
        BENCH_TRY(commits(b));
    if (options_part(args, "parked"))
        BENCH_TRY(parked(b));
    return options_part(args, "long") ? long_resumes(b) : TARN_OK;
}

int verb_bench_sessions(const arguments *args)
{
    bench b = {0};
    const tarn_engine_options options = {.pinned_bytes_max = PINNED_BYTES};
    int code = options_parts(args, parts);
    if (code != 0)
        return code;
    code = bench_begin(&b, args, &options, peers);
    if (code == 0)
        code = bench_code(&b, measure(&b));
    return bench_end(&b, code);
}
