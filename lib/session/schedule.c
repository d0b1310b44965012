/* schedule.c
 *
 * A step has three parts. begin: each session that has work says which rows it wants and gets a
 * slot to write; whatever may run out is taken here, and a session that cannot have it is left out.
 * compute: one forward pass over all rows. end: results become the sessions' new state; nothing
 * here can fail but a session's own logits, and then that session alone is poisoned.
 *
 * Who gets rows: first every session that generates, one each; then those whose tokens wait, each
 * the same share, so that ten small appends are one pass over the weights and a long one delays
 * nobody. Waiting rows are bounded by time while somebody generates. The round begins one session
 * further at every step, or with who was left out.
 *
 * Where rows are cut is free of choice on the CPU (bits do not depend on it) but for one rule: a
 * step never crosses a multiple of keep_every, so that a state can be kept there. */
#include "schedule.h"

#include "adopt.h"
#include "feed.h"
#include "filemap.h"
#include "hold.h"
#include "keep.h"
#include "watch.h"

#include <math.h>
#include <string.h>
#include <time.h>

#define WAITING_ROWS_MIN 16 /* appends go on beside generations, however slow the machine */
#define UNTIMED_ROWS     64 /* before the first long step has been timed */

typedef struct step_part {
    tarn_session *session;
    uint32_t row_begin;
    uint32_t n_rows;
    bool sampled;        /* one row, drawn from the session's logits */
    bool replayed;       /* rows the session's history holds already */
    bool scored;         /* the logits of every row are wanted */
    uint32_t logits_idx; /* of its last row */
} step_part;

struct tarni_batch_space {
    uint32_t *ids;        /* [step_tokens_max] */
    tarnk_seq *seqs;      /* [sessions_max] */
    step_part *parts;     /* [sessions_max] */
    uint32_t *logit_rows; /* [sessions_max + TARNI_SCORE_ROWS] */
    float **logits;       /* [sessions_max + TARNI_SCORE_ROWS] */
    bool *finite;         /* [sessions_max + TARNI_SCORE_ROWS] */
    tarni_pick *draws;    /* [sessions_max] ids that the device draws in the step */
    uint32_t *drawn;      /* [sessions_max] */
    float *scores;        /* [TARNI_SCORE_ROWS][vocab], on the device */
    float *host_row;      /* [vocab] one of them, where the device is not the host */
    uint32_t n_parts, n_rows, n_logit_rows, n_scores, n_draws;
};

tarn_status tarni_batch_space_create(tarn_engine *e, struct tarni_batch_space **out,
                                     tarn_error *err)
{
    const tarn_allocator *a = &e->pools.allocator;
    size_t n_logits = (size_t)e->sessions_max + TARNI_SCORE_ROWS;
    struct tarni_batch_space *b;
    *out = NULL;
    TARNI_TRY(tarni_alloc(a, 1, sizeof *b, &b, err));
    tarn_status status = tarni_alloc(a, e->step_tokens_max, sizeof *b->ids, &b->ids, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, e->sessions_max, sizeof *b->seqs, &b->seqs, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, e->sessions_max, sizeof *b->parts, &b->parts, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_logits, sizeof *b->logit_rows, &b->logit_rows, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_logits, sizeof *b->logits, &b->logits, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_logits, sizeof *b->finite, &b->finite, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, e->sessions_max, sizeof *b->draws, &b->draws, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, e->sessions_max, sizeof *b->drawn, &b->drawn, err);
    if (status == TARN_OK && !e->device.class->on_host)
        status = tarni_alloc(a, e->pools.spec.vocab, sizeof *b->host_row, &b->host_row, err);
    size_t scores_bytes = (size_t)e->pools.spec.vocab * TARNI_SCORE_ROWS * sizeof *b->scores;
    if (status == TARN_OK)
        status =
            e->device.class->alloc(&e->device, a, scores_bytes, "rows of logits", &b->scores, err);
    if (status != TARN_OK) {
        tarni_batch_space_free(e, b);
        return status;
    }
    *out = b;
    return TARN_OK;
}

void tarni_batch_space_free(tarn_engine *e, struct tarni_batch_space *b)
{
    const tarn_allocator *a = &e->pools.allocator;
    if (!b)
        return;
    tarni_free(a, b->ids);
    tarni_free(a, b->seqs);
    tarni_free(a, b->parts);
    tarni_free(a, b->logit_rows);
    tarni_free(a, b->logits);
    tarni_free(a, b->finite);
    tarni_free(a, b->draws);
    tarni_free(a, b->drawn);
    tarni_free(a, b->host_row);
    if (b->scores)
        e->device.class->free(&e->device, a, b->scores);
    tarni_free(a, b);
}

static void push_event(tarn_session *s, tarn_event_kind kind, uint32_t n, tarn_stop stop)
{
    tarn_event event = {.kind = kind,
                        .session = s,
                        .id = kind == TARN_EVENT_TOKEN ? n : 0,
                        .n_tokens = kind == TARN_EVENT_APPENDED ? n : 0,
                        .position = s->live.tokens.n_ids,
                        .stop = stop};
    tarni_events_push(&s->engine->events, &event);
}

/* Gives out what stands in the engine's piece, and empties it. */
static void push_piece(tarn_session *s, bool in_calls)
{
    tarni_writer *text = &s->engine->piece;
    tarn_event event = {.kind = TARN_EVENT_TEXT,
                        .session = s,
                        .position = s->live.tokens.n_ids,
                        .in_calls = in_calls};
    if (text->n_bytes > 0)
        tarni_events_push_text(&s->engine->events, &event, text->data, text->n_bytes);
    text->n_bytes = 0;
    text->failed = false;
}

static void poison(tarn_session *s, const tarn_error *why)
{
    s->poisoned = true;
    s->failure = *why;
    s->live.has_logits = false;
    s->generation.active = false;
    push_event(s, TARN_EVENT_STOP, 0, TARN_STOP_FAILED);
    TARNI_LOG(&s->engine->pools.log, TARN_LOG_ERROR, "session %s: %s", s->name, why->detail);
}

static void stop_generation(tarn_session *s, tarn_stop stop)
{
    tarn_error err;
    tarni_text_stream_flush(&s->generation.text, &s->engine->piece);
    push_piece(s, tarni_watch_inside(s));
    s->generation.active = false;
    if (stop == TARN_STOP_TOKEN && s->live.tail_closed) {
        if (tarni_watch_finish(s, &err) != TARN_OK) {
            poison(s, &err);
            return;
        }
        if (s->calls.n_calls > 0)
            stop = TARN_STOP_TOOL_CALL;
    }
    push_event(s, TARN_EVENT_STOP, 0, stop);
}

static void obey_cancel(tarn_session *s)
{
    if (!atomic_exchange(&s->cancelled, false))
        return;
    tarni_session_drop_waiting(s);
    if (s->generation.active)
        stop_generation(s, TARN_STOP_CANCELLED);
}

/* Rows up to the next place where a state is kept. */
static uint32_t rows_to_border(const tarn_session *s)
{
    uint32_t every = s->engine->keep_every;
    return every - (uint32_t)(s->live.tokens.n_ids % every);
}

static void want_logits(struct tarni_batch_space *b, uint32_t row, float *to)
{
    b->logit_rows[b->n_logit_rows] = row;
    b->logits[b->n_logit_rows++] = to;
}

/* The slot this part writes: the one it reads, or where others read that too, the one the session
 * was admitted with. A commit on its way needs one more, or, where there is none, to be encoded
 * first. */
static tarn_status choose_slot(tarn_engine *e, tarn_session *s, tarn_error *err)
{
    tarni_slots *slots = &e->pools.slots;
    s->step_slot = s->live.slot;
    if (!tarni_slots_shared(slots, s->live.slot))
        return TARN_OK;
    if (s->next_slot != TARNI_SLOT_NONE) {
        s->step_slot = s->next_slot;
        s->next_slot = TARNI_SLOT_NONE;
        return TARN_OK;
    }
    tarn_status status = tarni_slots_take(slots, &s->step_slot, err);
    if (status != TARN_E_LIMIT)
        return status;
    tarni_session_encode(s); /* unless it was written while the take looked for room */
    s->step_slot = s->live.slot;
    return tarni_slots_shared(slots, s->live.slot) ? tarni_slots_take(slots, &s->step_slot, err)
                                                   : TARN_OK;
}

/* Adds rows of a session to the batch. */
static tarn_status add_part(tarn_engine *e, tarn_session *s, const uint32_t *ids, uint32_t n_rows,
                            bool sampled, tarn_error *err)
{
    struct tarni_batch_space *b = e->space;
    tarni_slots *slots = &e->pools.slots;
    TARNI_TRY(choose_slot(e, s, err));
    s->used_at = ++e->clock;
    memcpy(b->ids + b->n_rows, ids, n_rows * sizeof *ids);
    b->seqs[b->n_parts] = (tarnk_seq){.row_begin = b->n_rows,
                                      .n_rows = n_rows,
                                      .position = (uint32_t)s->live.tokens.n_ids,
                                      .state_read = tarni_slots_data(slots, s->live.slot),
                                      .state_write = tarni_slots_data(slots, s->step_slot),
                                      .pages = s->live.pages.pages};
    b->parts[b->n_parts] = (step_part){.session = s,
                                       .row_begin = b->n_rows,
                                       .n_rows = n_rows,
                                       .sampled = sampled,
                                       .replayed = s->n_replay > 0,
                                       .scored = s->on_logits != NULL};
    for (uint32_t i = 0; s->on_logits && i + 1 < n_rows; i++)
        want_logits(b, b->n_rows + i, b->scores + (size_t)b->n_scores++ * e->pools.spec.vocab);
    b->parts[b->n_parts].logits_idx = b->n_logit_rows;
    want_logits(b, b->n_rows + n_rows - 1, tarni_pools_logits(&e->pools, s->step_slot));
    b->n_rows += n_rows;
    b->n_parts++;
    return TARN_OK;
}

/* A row of logits where the host can read it; valid until the next. */
static tarn_status read_row(tarn_engine *e, const float *row, const float **out, tarn_error *err)
{
    const tarni_device_class *class = e->device.class;
    *out = row;
    if (class->on_host)
        return TARN_OK;
    *out = e->space->host_row;
    return class->read(&e->device, e->space->host_row, row, e->pools.spec.vocab * sizeof *row, err);
}

/* Draws the next id, or leaves that to the device, which does it in the step. Bias and penalty are
 * worked into the logits here. */
static tarn_status draw(tarn_engine *e, tarn_session *s, uint32_t *id, tarn_error *err)
{
    struct tarni_batch_space *b = e->space;
    const tarn_sampling *p = &s->live.sampling;
    const tarni_ids *tokens = &s->live.tokens;
    const float *row;
    if (e->device.class->draws && p->n_bias == 0 && p->repeat_penalty == 1.0f) {
        b->draws[b->n_draws++] = (tarni_pick){.row = b->n_rows,
                                              .logits = s->live.logits,
                                              .temperature = p->temperature,
                                              .top_p = p->top_p,
                                              .min_p = p->min_p,
                                              .top_k = p->top_k,
                                              .u = tarni_sampler_uniform(p->seed, tokens->n_ids)};
        *id = 0;
        return TARN_OK;
    }
    TARNI_TRY(read_row(e, s->live.logits, &row, err));
    *id = tarni_sampler_draw(&e->sampler, p, row, tokens->ids, tokens->n_ids, tokens->n_ids);
    return TARN_OK;
}

static void begin_sampled(tarn_engine *e, tarn_session *s)
{
    tarn_error err;
    if (s->generation.bounded && s->generation.n_left == 0) {
        stop_generation(s, TARN_STOP_LENGTH);
        return;
    }
    if (e->space->n_rows == e->step_tokens_max)
        return;
    const tarni_ids *tokens = &s->live.tokens;
    tarn_status status = TARN_E_LIMIT;
    if (tokens->n_ids < e->pools.spec.context)
        status = tarni_feed_reserve_sampled(s, &err);
    if (status == TARN_E_LIMIT) {
        stop_generation(s, TARN_STOP_LENGTH);
        return;
    }
    uint32_t id, n_draws = e->space->n_draws;
    if (status == TARN_OK)
        status = draw(e, s, &id, &err);
    if (status == TARN_OK)
        status = add_part(e, s, &id, 1, true, &err);
    if (status != TARN_OK) {
        e->space->n_draws = n_draws;
        poison(s, &err);
    }
}

/* The session after `s` in the round. */
static tarn_session *after(const tarn_engine *e, const tarn_session *s)
{
    return s->next ? s->next : e->first;
}

/* Rows the session could take part with. */
static uint32_t wanted_rows(const tarn_session *s)
{
    size_t n = s->poisoned ? 0 : tarni_session_waiting(s);
    uint32_t border = rows_to_border(s);
    if (s->n_replay > 0 && n > s->n_replay)
        n = s->n_replay;
    return n < border ? (uint32_t)n : border;
}

/* Gives `n_rows` to the sessions from `first` on: to each the same, and what one does not want to
 * the others. Rows that do not go round go to the first in the round. */
static void share_rows(tarn_engine *e, tarn_session *first, uint32_t n_rows)
{
    uint32_t n_wanting = 0;
    tarn_session *s = first;
    for (uint32_t i = 0; i < e->n_sessions; i++, s = after(e, s)) {
        s->step_rows = 0;
        s->step_wants = wanted_rows(s);
        n_wanting += s->step_wants > 0;
    }
    while (n_rows > 0 && n_wanting > 0) {
        uint32_t share = n_rows / n_wanting > 0 ? n_rows / n_wanting : 1;
        for (uint32_t i = 0; i < e->n_sessions && n_rows > 0; i++, s = after(e, s)) {
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

/* Of waiting rows: what the step still holds, and while somebody generates no more than can be
 * computed in the time a generated token may take. */
static uint32_t rows_left(const tarn_engine *e)
{
    uint32_t n_sampled = e->space->n_rows, left = e->step_tokens_max - n_sampled;
    if (n_sampled == 0)
        return left;
    uint64_t n = e->row_ns > 0 ? e->latency_ns / e->row_ns : UNTIMED_ROWS;
    n = n > n_sampled + WAITING_ROWS_MIN ? n - n_sampled : WAITING_ROWS_MIN;
    return n < left ? (uint32_t)n : left;
}

static void begin_waiting(tarn_engine *e, tarn_session *s)
{
    uint32_t n = s->step_rows, scores_left = TARNI_SCORE_ROWS - e->space->n_scores;
    tarn_error err;
    if (s->on_logits && n > scores_left)
        n = s->step_rows = scores_left;
    if (n > 0 && add_part(e, s, s->queue.ids + s->queue_at, n, false, &err) != TARN_OK)
        poison(s, &err);
}

/* Whoever had something and was left out comes first in the next step. */
static void choose_turn(tarn_engine *e, tarn_session *first)
{
    tarn_session *s = first;
    e->turn = after(e, first);
    for (uint32_t i = 0; i < e->n_sessions; i++, s = after(e, s)) {
        if (tarni_session_has_work(s) && s->step_rows == 0) {
            e->turn = s;
            return;
        }
    }
}

static void begin_step(tarn_engine *e)
{
    struct tarni_batch_space *b = e->space;
    b->n_parts = b->n_rows = b->n_logit_rows = b->n_scores = b->n_draws = 0;
    e->using = NULL;
    if (!e->first)
        return;
    for (tarn_session *s = e->first; s; s = s->next)
        obey_cancel(s);
    tarn_session *first = e->turn ? e->turn : e->first, *s = first;
    for (uint32_t i = 0; i < e->n_sessions; i++, s = after(e, s))
        if (!s->poisoned && s->generation.active && tarni_session_waiting(s) == 0)
            begin_sampled(e, s);
    uint32_t n_sampled = b->n_parts;
    share_rows(e, first, rows_left(e));
    for (uint32_t i = 0; i < n_sampled; i++)
        b->parts[i].session->step_rows = 1;
    for (uint32_t i = 0; i < e->n_sessions; i++, s = after(e, s))
        if (!s->poisoned && tarni_session_waiting(s) > 0)
            begin_waiting(e, s);
    choose_turn(e, first);
}

static void end_sampled(tarn_engine *e, tarn_session *s, uint32_t id)
{
    tarni_generation *g = &s->generation;
    bool ends_turn = tarni_model_is_stop(e->model, id), stops = ends_turn;
    for (size_t i = 0; i < g->n_stop_ids; i++)
        stops = stops || g->stop_ids[i] == id;
    tarni_feed_sampled(s, id);
    push_event(s, TARN_EVENT_TOKEN, id, TARN_STOP_NONE);
    g->n_left -= g->bounded;
    tarn_error err;
    bool in_calls;
    tarn_status status = tarni_watch_token(s, id, &in_calls, &err);
    if (status != TARN_OK) {
        poison(s, &err);
        return;
    }
    if (stops) {
        if (ends_turn)
            tarni_feed_close_turn(s);
        stop_generation(s, TARN_STOP_TOKEN);
        return;
    }
    if (e->model->tokenizer)
        status = tarni_text_stream_feed(&g->text, e->model->tokenizer, id, &e->piece, &err);
    push_piece(s, in_calls);
    if (status != TARN_OK)
        poison(s, &err);
    else if (g->bounded && g->n_left == 0)
        stop_generation(s, TARN_STOP_LENGTH);
}

static void end_waiting(tarn_session *s, const step_part *part)
{
    tarn_error err;
    uint64_t turn_end = s->live.turn_end;
    tarni_feed_done(s, part->n_rows);
    if (!part->replayed)
        push_event(s, TARN_EVENT_APPENDED, part->n_rows, TARN_STOP_NONE);
    if (s->live.turn_end != turn_end && tarni_session_read_calls(s, &err) != TARN_OK)
        poison(s, &err);
}

/* Keeps the promise that rewinding never replays more than keep_every tokens. A store that refuses
 * is no reason to stop: the commit that follows will say so. */
static void keep_at_border(tarn_session *s)
{
    tarn_error err;
    bool more = tarni_session_waiting(s) > 0 || s->generation.active || s->intake.open;
    if (!s->store || s->read_only || !more || s->n_replay > 0 ||
        s->live.tokens.n_ids % s->engine->keep_every != 0)
        return;
    if (tarni_session_keep_begin(s, &err) != TARN_OK)
        TARNI_LOG(&s->engine->pools.log, TARN_LOG_WARN, "session %s: no state kept at %zu: %s",
                  s->name, s->live.tokens.n_ids, err.detail);
}

static void end_part(tarn_engine *e, const step_part *part, const tarn_error *fault,
                     uint32_t *score)
{
    tarn_session *s = part->session;
    uint32_t vocab = e->pools.spec.vocab;
    uint32_t scores_begin = *score;
    *score += part->scored ? part->n_rows - 1 : 0;
    if (s->step_slot != s->live.slot) {
        if (fault)
            tarni_slots_release(&e->pools.slots, s->step_slot);
        else
            tarni_timeline_set_slot(&s->live, s->step_slot);
    }
    tarn_error err;
    if (fault) {
        poison(s, fault);
        return;
    }
    if (part->sampled && e->space->ids[part->row_begin] >= vocab) {
        tarni_fail(&err, TARN_E_DEVICE, "logits after token %zu gave no id", s->live.tokens.n_ids);
        poison(s, &err);
        return;
    }
    if (!e->space->finite[part->logits_idx]) {
        tarni_fail(&err, TARN_E_DEVICE, "logits after token %zu are not finite",
                   s->live.tokens.n_ids + part->n_rows);
        poison(s, &err);
        return;
    }
    uint64_t position = s->live.tokens.n_ids;
    s->live.has_logits = true;
    if (part->sampled) {
        end_sampled(e, s, e->space->ids[part->row_begin]);
    } else {
        end_waiting(s, part);
    }
    for (uint32_t i = 0; part->scored && i < part->n_rows; i++) {
        const float *row = i + 1 < part->n_rows
                               ? e->space->scores + (size_t)(scores_begin + i) * vocab
                               : s->live.logits;
        if (read_row(e, row, &row, &err) != TARN_OK) {
            poison(s, &err);
            return;
        }
        s->on_logits(s->on_logits_user, position + i + 1, row, vocab);
    }
    if (!s->poisoned)
        keep_at_border(s);
}

/* The forward pass over what begin_step planned. After an error no row of it is worth anything: the
 * device failed, or the files of the weights changed under it. */
static tarn_status compute(tarn_engine *e, tarn_error *err)
{
    struct tarni_batch_space *b = e->space;
    tarni_batch batch = {.ids = b->ids,
                         .n_rows = b->n_rows,
                         .seqs = b->seqs,
                         .n_seqs = b->n_parts,
                         .logit_rows = b->logit_rows,
                         .logits = b->logits,
                         .n_logit_rows = b->n_logit_rows,
                         .finite = b->finite,
                         .draws = b->draws,
                         .drawn = b->drawn,
                         .n_draws = b->n_draws};
    tarni_filemap_entry entry;
    tarni_filemap_enter(&entry);
    int device_error = tarni_forward_run(e->forward, &batch);
    tarni_filemap_leave(&entry);
    if (device_error && e->device.fault[0])
        return tarni_fail(err, TARN_E_DEVICE, "%s in a step of %u rows on %s", e->device.fault,
                          b->n_rows, e->device.name);
    if (device_error)
        return tarni_fail(err, TARN_E_DEVICE, "device error %d in a step of %u rows", device_error,
                          b->n_rows);
    for (uint32_t i = 0; i < b->n_draws; i++)
        b->ids[b->draws[i].row] = b->drawn[i];
    /* Where they lie on another device, files that change are nothing to it. */
    return e->device.class->on_host ? tarni_weights_check(&e->model->weights, err) : TARN_OK;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Steps of a few rows say what the weights cost, not what a row does. */
static void learn_speed(tarn_engine *e, uint32_t n_rows, uint64_t ns)
{
    if (n_rows < WAITING_ROWS_MIN)
        return;
    uint64_t row_ns = ns / n_rows + 1;
    e->row_ns = e->row_ns > 0 ? (3 * e->row_ns + row_ns) / 4 : row_ns;
}

tarn_status tarni_engine_step(tarn_engine *e, tarn_step *out, tarn_error *err)
{
    for (tarn_session *s = e->first; s; s = s->next) {
        tarni_hold_refresh(s);
        tarni_session_reap(s);
        tarni_adopt_prefix(s);
    }
    /* a session's step gives at most: token or appended, text, flushed text, stop, failed, parked,
     * committed, and what watch.h adds */
    TARNI_TRY(
        tarni_events_reserve(&e->events, (size_t)e->n_sessions * (8 + TARNI_WATCH_EVENTS), err));
    begin_step(e);
    struct tarni_batch_space *b = e->space;
    out->n_rows = b->n_rows;
    out->n_sessions = b->n_parts;
    if (b->n_rows == 0)
        return TARN_OK;
    tarn_error fault;
    uint64_t begin_ns = now_ns();
    bool failed = compute(e, &fault) != TARN_OK;
    learn_speed(e, b->n_rows, now_ns() - begin_ns);
    uint32_t score = 0;
    e->rows_computed += b->n_rows;
    e->in_callback = true;
    for (uint32_t i = 0; i < b->n_parts; i++)
        end_part(e, &b->parts[i], failed ? &fault : NULL, &score);
    e->in_callback = false;
    return TARN_OK;
}
