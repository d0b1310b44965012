#include "bench_bed.h"

#include "result.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define APPEND_MAX    4096
#define BRIEF_CONTEXT 4096 /* tokens of all sessions, where the device is emulated */

/* ---- open and close -------------------------------------------------------------------------- */

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

int bench_begin(bench *b, const arguments *args, const tarn_engine_options *options,
                const rows_peer *peers)
{
    tarn_model_info info = {.size = sizeof info};
    tarn_engine_options o = options ? *options : (tarn_engine_options){0};
    *b = (bench){.args = args, .random = 7};
    if (given(args, OPTION_QUICK) && o.tokens_max == 0)
        o.tokens_max = BRIEF_CONTEXT;
    int code = open_engine_with(args, &o, &b->o);
    if (code != 0)
        return code;
    b->brief = given(args, OPTION_QUICK) && !bench_on_host(b);
    if (tarn_model_describe(b->o.model, open_numerics(args), &info, &b->err) != TARN_OK)
        return result_error(args, &b->err);
    b->vocab = info.vocab;
    b->context = info.context;
    code = open_temporary(b);
    if (code == 0 && (b->rows = rows_begin(args, b->o.engine, peers)) == NULL)
        code = 1;
    return code;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *level)
{
    (void)info;
    (void)type;
    (void)level;
    return remove(path);
}

int bench_end(bench *b, int code)
{
    code = rows_end(b->rows, code);
    open_close(&b->o);
    if (b->dir[0])
        nftw(b->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return code == 0 ? result_flush() : code;
}

int bench_code(const bench *b, tarn_status status)
{
    return status == TARN_OK ? 0 : result_error(b->args, &b->err);
}

bool bench_on_host(const bench *b)
{
    return strncmp(tarn_engine_device(b->o.engine), "cpu", 3) == 0;
}

/* ---- moves ----------------------------------------------------------------------------------- */

double bench_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

tarn_status bench_open_kept(bench *b, const char *name, tarn_session **out)
{
    tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_CREATE};
    return tarn_session_open(b->o.engine, b->o.store, name, &o, out, NULL, &b->err);
}

tarn_status bench_open_loose(bench *b, tarn_session **out)
{
    return tarn_session_open(b->o.engine, NULL, "loose", NULL, out, NULL, &b->err);
}

uint32_t bench_any(bench *b, uint32_t below)
{
    b->random = b->random * 1664525U + 1013904223U;
    return (b->random >> 8) % below;
}

tarn_status bench_append(bench *b, tarn_session *s, uint32_t n)
{
    uint32_t ids[APPEND_MAX];
    for (uint32_t at = 0, piece; at < n; at += piece) {
        piece = n - at < APPEND_MAX ? n - at : APPEND_MAX;
        for (uint32_t i = 0; i < piece; i++)
            ids[i] = bench_any(b, b->vocab);
        BENCH_TRY(tarn_session_append_tokens(s, ids, piece, &b->err));
    }
    return TARN_OK;
}

uint64_t bench_position(const tarn_session *s)
{
    tarn_session_info info = {.size = sizeof info};
    tarn_session_get_info(s, &info);
    return info.at.position;
}

tarn_status bench_step(bench *b, uint32_t *n_rows)
{
    tarn_step done = {.size = sizeof done};
    tarn_event event;
    BENCH_TRY(tarn_engine_step(b->o.engine, &done, &b->err));
    while (tarn_engine_poll(b->o.engine, &event))
        if (event.kind == TARN_EVENT_STOP && event.stop == TARN_STOP_FAILED) {
            tarn_session_failure(event.session, &b->err);
            return b->err.status;
        }
    if (n_rows)
        *n_rows = done.n_rows;
    return TARN_OK;
}

tarn_status bench_drain(bench *b)
{
    uint32_t n_rows = 1;
    while (n_rows > 0)
        BENCH_TRY(bench_step(b, &n_rows));
    return TARN_OK;
}

tarn_status bench_next_token(bench *b, tarn_session *s)
{
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 1};
    BENCH_TRY(tarn_session_generate(s, &o, &b->err));
    return tarn_session_run(s, NULL, NULL, &b->err);
}

tarn_status bench_park(bench *b, tarn_session *s)
{
    tarn_engine_stat before = {.size = sizeof before}, now = before;
    tarn_engine_get_stat(b->o.engine, &before);
    BENCH_TRY(tarn_session_park(s, &b->err));
    tarn_engine_get_stat(b->o.engine, &now);
    while (now.slots == before.slots) {
        BENCH_TRY(bench_step(b, NULL));
        tarn_engine_get_stat(b->o.engine, &now);
    }
    return TARN_OK;
}

void bench_close_all(tarn_session **s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        tarn_session_close(s[i]);
        s[i] = NULL;
    }
}
