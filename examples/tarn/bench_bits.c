/* bench_bits.c - tarn bench bits: is a session's every row of logits the same bits alone and beside
 * others, after coming back as before it went, and in a fork as in what it was forked from?
 *
 * For shapes whose weights nobody has in a file and for devices that no test of the build runs on.
 * A row of results is a check: how many rows of logits differed, which is to be 0. The exit code is
 * 1 if any did. */
#include "bench_bed.h"
#include "verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OTHERS = 63, BRIEF_OTHERS = 7, PROMPT = 300, BRIEF_PROMPT = 40, TOKENS = 8 };

#define PINNED_BYTES ((uint64_t)512 << 20)

typedef struct trace {
    float *rows; /* [TOKENS + 1][vocab] */
    uint32_t n;
} trace;

typedef struct bits {
    bench b;
    trace traces[2]; /* what is compared */
    uint32_t n_compared, n_different;
} bits;

static tarn_status add_row(bits *x, trace *t, const tarn_session *s)
{
    const float *logits;
    uint32_t vocab;
    BENCH_TRY(tarn_session_logits(s, &logits, &vocab, &x->b.err));
    memcpy(t->rows + (size_t)t->n++ * vocab, logits, vocab * sizeof *logits);
    return TARN_OK;
}

/* The pending row, and those after so many greedy tokens, one in each session a step. */
static tarn_status follow(bits *x, trace *t, tarn_session **s, uint32_t n)
{
    const tarn_generate_options one = {.size = sizeof one, .n_tokens_max = 1};
    t->n = 0;
    BENCH_TRY(add_row(x, t, s[0]));
    for (uint32_t i = 0; i < TOKENS; i++) {
        for (uint32_t k = 0; k < n; k++)
            BENCH_TRY(tarn_session_generate(s[k], &one, &x->b.err));
        BENCH_TRY(bench_drain(&x->b));
        BENCH_TRY(add_row(x, t, s[0]));
    }
    return TARN_OK;
}

static void compare(bits *x, const char *check)
{
    const trace *a = &x->traces[0], *c = &x->traces[1];
    uint32_t n_different = 0;
    for (uint32_t i = 0; i < a->n; i++) {
        size_t at = (size_t)i * x->b.vocab;
        n_different +=
            i >= c->n || memcmp(a->rows + at, c->rows + at, x->b.vocab * sizeof *a->rows) != 0;
    }
    rows_add(x->b.rows, check, n_different, "rows", 0);
    x->n_compared += a->n;
    x->n_different += n_different;
}

/* The first of n sessions has the same ids every time. */
static tarn_status prompt(bits *x, tarn_session **s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        x->b.random = 1000 + i;
        BENCH_TRY(bench_append(&x->b, s[i], (x->b.brief ? BRIEF_PROMPT : PROMPT) + 5 * i));
    }
    return bench_drain(&x->b);
}

static tarn_status among(bits *x, trace *t, uint32_t n)
{
    tarn_session *s[OTHERS + 1] = {NULL};
    tarn_status status = TARN_OK;
    for (uint32_t i = 0; status == TARN_OK && i < n; i++)
        status = bench_open_loose(&x->b, &s[i]);
    if (status == TARN_OK)
        status = prompt(x, s, n);
    if (status == TARN_OK)
        status = follow(x, t, s, n);
    bench_close_all(s, n);
    return status;
}

static tarn_status check_others(bits *x)
{
    BENCH_TRY(among(x, &x->traces[0], 1));
    BENCH_TRY(among(x, &x->traces[1], 1 + (x->b.brief ? BRIEF_OTHERS : OTHERS)));
    compare(x, "bits_among_others");
    return TARN_OK;
}

static tarn_status go_and_come(bits *x, tarn_session **s, bool parks)
{
    if (parks)
        return bench_park(&x->b, *s);
    tarn_session_close(*s);
    *s = NULL;
    return bench_open_kept(&x->b, "kept", s);
}

/* s[0] is forked; s[1] is to follow the same way. */
static tarn_status twins(bits *x, tarn_session **s, const char *name)
{
    BENCH_TRY(tarn_session_commit(s[0], NULL, &x->b.err));
    return tarn_session_fork(s[0], name, &s[1], &x->b.err);
}

static tarn_status check_return(bits *x, tarn_session **s, bool parks)
{
    BENCH_TRY(twins(x, s, parks ? "stays" : "stays too"));
    BENCH_TRY(follow(x, &x->traces[0], &s[1], 1));
    BENCH_TRY(go_and_come(x, &s[0], parks));
    BENCH_TRY(follow(x, &x->traces[1], &s[0], 1));
    compare(x, parks ? "bits_after_park" : "bits_after_resume");
    tarn_session_close(s[1]);
    s[1] = NULL;
    return TARN_OK;
}

static tarn_status check_fork(bits *x, tarn_session **s)
{
    BENCH_TRY(twins(x, s, "child"));
    BENCH_TRY(follow(x, &x->traces[0], &s[0], 1));
    BENCH_TRY(follow(x, &x->traces[1], &s[1], 1));
    compare(x, "bits_of_fork");
    return TARN_OK;
}

static tarn_status check_all(bits *x)
{
    tarn_session *s[2] = {NULL};
    for (int i = 0; i < 2; i++) {
        x->traces[i].rows = malloc((TOKENS + 1) * (size_t)x->b.vocab * sizeof(float));
        if (!x->traces[i].rows) {
            snprintf(x->b.err.detail, sizeof x->b.err.detail, "no memory for rows of logits");
            return x->b.err.status = TARN_E_NO_MEMORY;
        }
    }
    BENCH_TRY(check_others(x));
    BENCH_TRY(bench_open_kept(&x->b, "kept", &s[0]));
    tarn_status status = prompt(x, s, 1);
    if (status == TARN_OK)
        status = check_return(x, s, true);
    if (status == TARN_OK)
        status = check_return(x, s, false);
    if (status == TARN_OK)
        status = check_fork(x, s);
    bench_close_all(s, 2);
    return status;
}

int verb_bench_bits(const arguments *args)
{
    bits x = {0};
    const tarn_engine_options options = {.pinned_bytes_max = PINNED_BYTES};
    static const rows_peer none = {NULL, {{NULL, 0}}};
    int code = bench_begin(&x.b, args, &options, &none);
    if (code == 0)
        code = bench_code(&x.b, check_all(&x));
    if (code == 0) {
        rows_add(x.b.rows, "bits_compared", x.n_compared, "rows", 0);
        code = x.n_different > 0;
    }
    for (int i = 0; i < 2; i++)
        free(x.traces[i].rows);
    return bench_end(&x.b, code);
}
