/* share.c
 *
 * Two ways. Where cuts do not show in the bits, each session gets the same share, so that ten small
 * appends are one pass over the weights and a long one delays nobody; rows are cut as it comes.
 *
 * Where they do (device.h, exact_rows), a session's rows go whole or wait: all that waited when
 * their turn was first considered, up to the next multiple of cut_tokens of the position. So who
 * else is there decides when rows go, never with which others of their own session. Room for the
 * first in the round is always left: cut_tokens rows are out of reach of generations.
 *
 * In both, a step never crosses a multiple of keep_every, so that a state can be kept there, and
 * waiting rows are bounded by time while somebody generates; but for the first whole ones.
 *
 * Rejected: states left inside an append at multiples of keep_every by one longer pass, which the
 * kernels could do. Keeping a state takes the store's encoder longer than the pass it would save.
 */
#include "share.h"

#include <stdio.h>
#include <string.h>

#define WAITING_ROWS_MIN 16 /* appends go on beside generations, however slow the machine */
#define UNTIMED_ROWS     64 /* before the first long step has been timed */

void tarni_share_init(tarn_engine *e, bool exact)
{
    tarni_device *d = &e->device;
    uint32_t step = e->step_tokens_max, half = step / 2;
    uint32_t room = step - (e->sessions_max < half ? e->sessions_max : half);
    size_t at = strlen(d->numerics), n_bytes = sizeof d->numerics - at;
    e->cut_tokens = 0;
    e->part_rows_max = UINT32_MAX;
    if (d->class->on_host)
        return;
    if (d->exact_rows == 0 || exact || room <= d->exact_rows) {
        e->part_rows_max = d->exact_rows > 0 ? d->exact_rows : UINT32_MAX;
        snprintf(d->numerics + at, n_bytes, "-exact");
        return;
    }
    /* The same pages, chunks and tiles wherever a piece begins. */
    e->cut_tokens = room / TARNK_PAGE_TOKENS * TARNK_PAGE_TOKENS;
    if (e->keep_every < e->cut_tokens)
        e->cut_tokens = e->keep_every;
    if (e->keep_every % e->cut_tokens == 0)
        snprintf(d->numerics + at, n_bytes, "-fast%u", e->cut_tokens);
    else
        snprintf(d->numerics + at, n_bytes, "-fast%u.%u", e->cut_tokens, e->keep_every);
}

tarn_session *tarni_share_next(const tarn_engine *e, const tarn_session *s)
{
    return s->next ? s->next : e->first;
}

static uint32_t rows_to(const tarn_session *s, uint32_t every)
{
    return every - (uint32_t)(s->live.tokens.n_ids % every);
}

/* Rows the session could take part with. */
static uint32_t wanted_rows(tarn_session *s)
{
    const tarn_engine *e = s->engine;
    size_t n = s->poisoned ? 0 : tarni_session_waiting(s);
    if (s->n_replay > 0 && n > s->n_replay)
        n = s->n_replay;
    if (e->cut_tokens > 0) {
        if (s->run_rows == 0 || s->run_rows > n)
            s->run_rows = n;
        n = s->run_rows;
        n = n < rows_to(s, e->cut_tokens) ? n : rows_to(s, e->cut_tokens);
    }
    n = n < e->part_rows_max ? n : e->part_rows_max;
    return n < rows_to(s, e->keep_every) ? (uint32_t)n : rows_to(s, e->keep_every);
}

/* Gives `n_rows` to the sessions from `first` on: to each the same, and what one does not want to
 * the others. Rows that do not go round go to the first in the round. */
static void share_alike(tarn_engine *e, tarn_session *first, uint32_t n_rows, uint32_t n_wanting)
{
    tarn_session *s = first;
    while (n_rows > 0 && n_wanting > 0) {
        uint32_t share = n_rows / n_wanting > 0 ? n_rows / n_wanting : 1;
        for (uint32_t i = 0; i < e->n_sessions && n_rows > 0; i++, s = tarni_share_next(e, s)) {
            uint32_t more = s->step_wants - s->step_rows;
            if (more == 0)
                continue;
            if (more > share)
                more = share;
            else
                n_wanting--;
            s->step_rows += more;
            n_rows -= more;
        }
    }
}

/* The first that wants any gets them; others where they fit into `n_rows`. */
static void share_whole(tarn_engine *e, tarn_session *first, uint32_t n_rows)
{
    tarn_session *s = first;
    bool any = false;
    for (uint32_t i = 0; i < e->n_sessions; i++, s = tarni_share_next(e, s)) {
        if (s->step_wants == 0 || (any && s->step_wants > n_rows))
            continue;
        s->step_rows = s->step_wants;
        n_rows -= s->step_rows < n_rows ? s->step_rows : n_rows;
        any = true;
    }
}

/* Of waiting rows: what the step still holds, and while somebody generates no more than can be
 * computed in the time a generated token may take. */
static uint32_t rows_left(const tarn_engine *e, uint32_t n_sampled)
{
    uint32_t left = e->step_tokens_max - n_sampled;
    if (n_sampled == 0)
        return left;
    uint64_t n = e->row_ns > 0 ? e->latency_ns / e->row_ns : UNTIMED_ROWS;
    n = n > n_sampled + WAITING_ROWS_MIN ? n - n_sampled : WAITING_ROWS_MIN;
    return n < left ? (uint32_t)n : left;
}

void tarni_share_rows(tarn_engine *e, tarn_session *first, uint32_t n_sampled)
{
    uint32_t n_wanting = 0;
    tarn_session *s = first;
    for (uint32_t i = 0; i < e->n_sessions; i++, s = tarni_share_next(e, s)) {
        s->step_rows = 0;
        s->step_wants = wanted_rows(s);
        n_wanting += s->step_wants > 0;
    }
    if (e->cut_tokens > 0)
        share_whole(e, first, rows_left(e, n_sampled));
    else
        share_alike(e, first, rows_left(e, n_sampled), n_wanting);
}

tarn_session *tarni_share_turn(tarn_engine *e, tarn_session *first)
{
    tarn_session *s = first;
    for (uint32_t i = 0; i < e->n_sessions; i++, s = tarni_share_next(e, s))
        if (tarni_session_has_work(s) && s->step_rows == 0)
            return s;
    return tarni_share_next(e, first);
}

/* Steps of a few rows say what the weights cost, not what a row does. */
void tarni_share_learn(tarn_engine *e, uint32_t n_rows, uint64_t ns)
{
    if (n_rows < WAITING_ROWS_MIN)
        return;
    uint64_t row_ns = ns / n_rows + 1;
    e->row_ns = e->row_ns > 0 ? (3 * e->row_ns + row_ns) / 4 : row_ns;
}
