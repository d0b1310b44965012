#include "bench_resumes.h"

#include "peaks.h"

#include <stdio.h>

enum { REPEATS = 5, PIECE = 1024 };

#define TRY(call)                                                                                  \
    do {                                                                                           \
        tarn_status try_status = (call);                                                           \
        if (try_status != TARN_OK)                                                                 \
            return try_status;                                                                     \
    } while (0)

static tarn_status open_it(const bench_resumes *r, tarn_session **out)
{
    tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_CREATE};
    return tarn_session_open(r->engine, r->store, "resumed", &o, out, NULL, r->err);
}

static tarn_status fill(const bench_resumes *r, tarn_session *s)
{
    uint32_t ids[PIECE], random = 11;
    for (uint32_t at = 0, n; at < r->n_tokens; at += n) {
        n = r->n_tokens - at < PIECE ? r->n_tokens - at : PIECE;
        for (uint32_t i = 0; i < n; i++) {
            random = random * 1664525U + 1013904223U;
            ids[i] = (random >> 8) % r->vocab;
        }
        TRY(tarn_session_append_tokens(s, ids, n, r->err));
        TRY(tarn_session_run(s, NULL, NULL, r->err));
    }
    return tarn_session_commit(s, NULL, r->err);
}

static tarn_status next_token(const bench_resumes *r, tarn_session *s)
{
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 1};
    TRY(tarn_session_generate(s, &o, r->err));
    return tarn_session_run(s, NULL, NULL, r->err);
}

/* Milliseconds to park it, and from there to its next token; what was read of the store. */
static tarn_status park_once(const bench_resumes *r, tarn_session *s, double *park_ms,
                             double *resume_ms, uint64_t *bytes_read)
{
    tarn_session_info info = {.size = sizeof info};
    double start = peaks_now();
    TRY(tarn_session_park(s, r->err));
    *park_ms = 1e3 * (peaks_now() - start);
    start = peaks_now();
    TRY(next_token(r, s));
    *resume_ms = 1e3 * (peaks_now() - start);
    tarn_session_get_info(s, &info);
    *bytes_read += info.reuse.bytes_read;
    return tarn_session_commit(s, NULL, r->err);
}

static tarn_status open_once(const bench_resumes *r, tarn_session **s, double *resume_ms)
{
    tarn_session_close(*s);
    *s = NULL;
    double start = peaks_now();
    TRY(open_it(r, s));
    TRY(next_token(r, *s));
    *resume_ms = 1e3 * (peaks_now() - start);
    return tarn_session_commit(*s, NULL, r->err);
}

static void add(const bench_resumes *r, const char *what, const char *from, double *samples,
                double floor)
{
    char name[64];
    bool thousands = r->n_tokens % 1024 == 0;
    snprintf(name, sizeof name, "%s_ms_%u%s%s", what, thousands ? r->n_tokens / 1024 : r->n_tokens,
             thousands ? "k" : "", from);
    rows_add(r->rows, name, rows_median(samples, REPEATS), "ms", floor);
}

tarn_status bench_resumes_run(const bench_resumes *r)
{
    double parks[REPEATS], pinned[REPEATS], stored[REPEATS];
    uint64_t bytes_read = 0;
    tarn_session *s = NULL;
    TRY(open_it(r, &s));
    tarn_status status = fill(r, s);
    for (int i = 0; status == TARN_OK && i < REPEATS; i++)
        status = park_once(r, s, &parks[i], &pinned[i], &bytes_read);
    for (int i = 0; status == TARN_OK && i < REPEATS; i++)
        status = open_once(r, &s, &stored[i]);
    tarn_session_close(s);
    TRY(status);
    add(r, "park", "", parks, 0);
    if (bytes_read == 0) /* else there was no room for it */
        add(r, "resume", "_pinned", pinned, r->step_ms);
    add(r, "resume", "_store", stored, r->step_ms);
    return TARN_OK;
}
