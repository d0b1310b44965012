#include "bench_resumes.h"

#include <stdio.h>

enum { REPEATS = 5, BRIEF_REPEATS = 2, PIECE = 4096 };

typedef struct samples {
    double calls_us[REPEATS], parks[REPEATS], pinned[REPEATS], stored[REPEATS];
    uint64_t bytes_read; /* of those that came from pinned memory: none */
    uint64_t n_replayed;
} samples;

static tarn_status fill(bench *b, tarn_session *s, uint32_t n_tokens)
{
    for (uint32_t at = 0, n; at < n_tokens; at += n) {
        n = n_tokens - at < PIECE ? n_tokens - at : PIECE;
        BENCH_TRY(bench_append(b, s, n));
        BENCH_TRY(tarn_session_run(s, NULL, NULL, &b->err));
    }
    return tarn_session_commit(s, NULL, &b->err);
}

/* The call alone, until its memory is free, and from there to its next token. */
static tarn_status park_once(bench *b, tarn_session *s, samples *x, int i)
{
    tarn_session_info info = {.size = sizeof info};
    double start = bench_now_ms();
    BENCH_TRY(tarn_session_park(s, &b->err));
    x->calls_us[i] = 1e3 * (bench_now_ms() - start);
    BENCH_TRY(bench_next_token(b, s)); /* which takes its memory back: once more, to the end */
    BENCH_TRY(tarn_session_commit(s, NULL, &b->err));
    start = bench_now_ms();
    BENCH_TRY(bench_park(b, s));
    x->parks[i] = bench_now_ms() - start;
    start = bench_now_ms();
    BENCH_TRY(bench_next_token(b, s));
    x->pinned[i] = bench_now_ms() - start;
    tarn_session_get_info(s, &info);
    x->bytes_read += info.reuse.bytes_read;
    x->n_replayed += info.reuse.tokens_replayed;
    return tarn_session_commit(s, NULL, &b->err);
}

static tarn_status open_once(bench *b, tarn_session **s, samples *x, int i)
{
    tarn_session_info info = {.size = sizeof info};
    tarn_session_close(*s);
    *s = NULL;
    double start = bench_now_ms();
    BENCH_TRY(bench_open_kept(b, "resumed", s));
    BENCH_TRY(bench_next_token(b, *s));
    x->stored[i] = bench_now_ms() - start;
    tarn_session_get_info(*s, &info);
    x->n_replayed += info.reuse.tokens_replayed;
    return tarn_session_commit(*s, NULL, &b->err);
}

static void name_of(char out[64], const char *what, uint32_t n_tokens, const char *from)
{
    bool thousands = n_tokens % 1024 == 0;
    snprintf(out, 64, "%s_%u%s%s", what, thousands ? n_tokens / 1024 : n_tokens,
             thousands ? "k" : "", from);
}

tarn_status bench_resumes_run(bench *b, uint32_t n_tokens, uint32_t n_named)
{
    samples x = {0};
    const int n = b->brief ? BRIEF_REPEATS : REPEATS;
    char name[64];
    tarn_session *s = NULL;
    BENCH_TRY(bench_open_kept(b, "resumed", &s));
    tarn_status status = fill(b, s, n_tokens);
    for (int i = 0; status == TARN_OK && i < n; i++)
        status = park_once(b, s, &x, i);
    for (int i = 0; status == TARN_OK && i < n; i++)
        status = open_once(b, &s, &x, i);
    tarn_session_close(s);
    BENCH_TRY(status);
    name_of(name, "park_call_us", n_named, "");
    rows_add(b->rows, name, rows_median(x.calls_us, (size_t)n), "us", 0);
    name_of(name, "park_ms", n_named, "");
    rows_add(b->rows, name, rows_median(x.parks, (size_t)n), "ms", 0);
    name_of(name, "resume_ms", n_named, "_pinned");
    if (x.bytes_read == 0) /* else there was no room for it */
        rows_add(b->rows, name, rows_median(x.pinned, (size_t)n), "ms", b->step_ms);
    name_of(name, "resume_ms", n_named, "_store");
    rows_add(b->rows, name, rows_median(x.stored, (size_t)n), "ms", b->step_ms);
    name_of(name, "resume", n_named, "_replayed");
    rows_add(b->rows, name, (double)x.n_replayed, "tokens", 0);
    return TARN_OK;
}
