/* schedule.c
 *
 * A step has three parts. begin: each session that has work says which rows it wants and gets a
 * slot to write; whatever may run out is taken here, and a session that cannot have it is left out.
 * compute: one forward pass over all rows. end: results become the sessions' new state; nothing
 * here can fail but a session's own logits, and then that session alone is poisoned.
 *
 * Who gets rows: first every session that generates, one each; then those whose tokens wait
 * (share.h). The round begins one session further at every step, or with who was left out. Who
 * needs memory that a parked session is just leaving is left out as long as others have rows; the
 * step waits for the copy where nobody has.
 *
 * Which ids end a turn or a generation is compared where the id is drawn, and comes back with it.
 * What no id tells is decided here: the budget of tokens, the context's end, a cancel, a tool call
 * that is whole.
 *
 * Rejected: beginning the next step of generations before the results of this one are looked at.
 * Nothing in the arithmetic is against it: positions, pages and random numbers are known before,
 * and a row that has stopped could be turned into padding on the device. But a step that has
 * returned has told its caller a position, and whatever the caller does then is done at that
 * position: commit, fork, logits, a cancel, sampling that is set. The state of that position would
 * have to outlive the step that is under way, so every generation would write a second slot in
 * turns with the first, and each of those calls would have to take a step back. What there is to
 * win is the host's part of a step alone. */
#include "schedule.h"

#include "adopt.h"
#include "batch_space.h"
#include "feed.h"
#include "filemap.h"
#include "hold.h"
#include "keep.h"
#include "share.h"
#include "watch.h"

#include <math.h>
#include <string.h>
#include <time.h>

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

static void want_logits(tarni_batch_space *b, uint32_t row, float *to)
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
    if (status != TARN_E_LIMIT || tarni_tier_put_off(e))
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
    tarni_batch_space *b = e->space;
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
    b->parts[b->n_parts] = (tarni_step_part){.session = s,
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
 * worked into the logits here. Either way the result says what the id ends. */
static tarn_status draw(tarn_engine *e, tarn_session *s, uint32_t *id, tarn_error *err)
{
    tarni_batch_space *b = e->space;
    const tarni_generation *g = &s->generation;
    const tarnk_stops stops = {g->stop_ids, g->n_stop_ids, g->n_turn_ends};
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
                                              .u = tarni_sampler_uniform(p->seed, tokens->n_ids),
                                              .stops = stops};
        *id = 0;
        return TARN_OK;
    }
    TARNI_TRY(read_row(e, s->live.logits, &row, err));
    *id = tarni_sampler_draw(&e->sampler, p, row, tokens->ids, tokens->n_ids, tokens->n_ids);
    b->results[b->n_logit_rows] = (tarnk_row_result){.id = *id, .stop = tarnk_stop_of(&stops, *id)};
    return TARN_OK;
}

static void not_added(tarn_engine *e, tarn_session *s, const tarn_error *why)
{
    if (why->status == TARN_E_LIMIT && tarni_tier_put_off(e))
        e->space->n_left_out++;
    else
        poison(s, why);
}

static void begin_sampled(tarn_engine *e, tarn_session *s)
{
    tarn_error err;
    TARN_ASSERT(!s->generation.bounded || s->generation.n_left > 0); /* the last one ended it */
    if (e->space->n_rows == e->step_tokens_max - e->cut_tokens)
        return;
    const tarni_ids *tokens = &s->live.tokens;
    tarn_status status = TARN_E_LIMIT;
    if (tokens->n_ids < e->pools.spec.context)
        status = tarni_feed_reserve_sampled(s, &err);
    if (status == TARN_E_LIMIT && tokens->n_ids < e->pools.spec.context && tarni_tier_put_off(e)) {
        e->space->n_left_out++;
        return;
    }
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
        not_added(e, s, &err);
    }
}

static void begin_waiting(tarn_engine *e, tarn_session *s)
{
    uint32_t n = s->step_rows, scores_left = TARNI_SCORE_ROWS - e->space->n_scores;
    tarn_error err;
    if (s->on_logits && n > scores_left)
        n = s->step_rows = scores_left;
    if (n > 0 && add_part(e, s, s->queue.ids + s->queue_at, n, false, &err) != TARN_OK) {
        s->step_rows = 0;
        not_added(e, s, &err);
    }
}

/* Gives out rows. */
static void plan_step(tarn_engine *e)
{
    tarni_batch_space *b = e->space;
    b->n_parts = b->n_rows = b->n_logit_rows = b->n_scores = b->n_draws = b->n_left_out = 0;
    tarn_session *first = e->turn ? e->turn : e->first, *s = first;
    for (uint32_t i = 0; i < e->n_sessions; i++, s = tarni_share_next(e, s))
        if (!s->poisoned && s->generation.active && tarni_session_waiting(s) == 0)
            begin_sampled(e, s);
    uint32_t n_sampled = b->n_parts;
    tarni_share_rows(e, first, n_sampled);
    for (uint32_t i = 0; i < n_sampled; i++)
        b->parts[i].session->step_rows = 1;
    for (uint32_t i = 0; i < e->n_sessions; i++, s = tarni_share_next(e, s))
        if (!s->poisoned && tarni_session_waiting(s) > 0)
            begin_waiting(e, s);
    e->turn = tarni_share_turn(e, first);
}

static void begin_step(tarn_engine *e)
{
    tarni_batch_space *b = e->space;
    b->n_rows = 0;
    e->using = NULL;
    if (!e->first)
        return;
    for (tarn_session *s = e->first; s; s = s->next)
        obey_cancel(s);
    e->impatient = true;
    plan_step(e);
    e->impatient = false;
    if (b->n_rows == 0 && b->n_left_out > 0)
        plan_step(e);
}

static void end_sampled(tarn_engine *e, tarn_session *s, const tarnk_row_result *result)
{
    tarni_generation *g = &s->generation;
    const uint32_t id = result->id;
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
    if (result->stop != TARNK_STOP_NONE) {
        if (result->stop == TARNK_STOP_TURN)
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

static void end_waiting(tarn_session *s, const tarni_step_part *part)
{
    tarn_error err;
    uint64_t turn_end = s->live.turn_end;
    s->run_rows -= part->n_rows < s->run_rows ? part->n_rows : s->run_rows;
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

static void end_part(tarn_engine *e, const tarni_step_part *part, const tarn_error *fault,
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
    const tarnk_row_result *result = &e->space->results[part->logits_idx];
    if (part->sampled && result->id >= vocab) {
        tarni_fail(&err, TARN_E_DEVICE, "logits after token %zu gave no id", s->live.tokens.n_ids);
        poison(s, &err);
        return;
    }
    if (!result->finite) {
        tarni_fail(&err, TARN_E_DEVICE, "logits after token %zu are not finite",
                   s->live.tokens.n_ids + part->n_rows);
        poison(s, &err);
        return;
    }
    uint64_t position = s->live.tokens.n_ids;
    s->live.has_logits = true;
    if (part->sampled) {
        end_sampled(e, s, result);
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
    tarni_batch_space *b = e->space;
    tarni_batch batch = {.ids = b->ids,
                         .n_rows = b->n_rows,
                         .seqs = b->seqs,
                         .n_seqs = b->n_parts,
                         .logit_rows = b->logit_rows,
                         .logits = b->logits,
                         .n_logit_rows = b->n_logit_rows,
                         .results = b->results,
                         .draws = b->draws,
                         .n_draws = b->n_draws};
    tarni_filemap_entry entry;
    tarni_filemap_enter(&entry);
    int device_error = tarni_forward_run(e->forward, &batch);
    tarni_filemap_leave(&entry);
    if (device_error == TARNI_STEP_NO_MEMORY)
        return tarni_fail(err, TARN_E_NO_MEMORY,
                          "%s has no memory for a step of %u rows of %u "
                          "sessions",
                          e->device.name, b->n_rows, b->n_parts);
    if (device_error)
        return tarni_fail(err, TARN_E_DEVICE, "error %d in a step of %u rows on %s%s%s",
                          device_error, b->n_rows, e->device.name, e->device.fault[0] ? ": " : "",
                          e->device.fault);
    /* Where they lie on another device, files that change are nothing to it. */
    return e->device.class->on_host ? tarni_weights_check(&e->model->weights, err) : TARN_OK;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

tarn_status tarni_engine_step(tarn_engine *e, tarn_step *out, tarn_error *err)
{
    for (tarn_session *s = e->first; s; s = s->next) {
        tarni_hold_refresh(s);
        tarni_session_reap(s);
        tarni_tier_reap(s);
        tarni_adopt_prefix(s);
    }
    /* a session's step gives at most: token or appended, text, flushed text, stop, failed, parked,
     * committed, and what watch.h adds */
    TARNI_TRY(
        tarni_events_reserve(&e->events, (size_t)e->n_sessions * (8 + TARNI_WATCH_EVENTS), err));
    begin_step(e);
    tarni_batch_space *b = e->space;
    out->n_rows = b->n_rows;
    out->n_sessions = b->n_parts;
    if (b->n_rows == 0)
        return TARN_OK;
    tarn_error fault;
    uint64_t begin_ns = now_ns();
    bool failed = compute(e, &fault) != TARN_OK;
    tarni_share_learn(e, b->n_rows, now_ns() - begin_ns);
    uint32_t score = 0;
    e->rows_computed += b->n_rows;
    e->in_callback = true;
    for (uint32_t i = 0; i < b->n_parts; i++)
        end_part(e, &b->parts[i], failed ? &fault : NULL, &score);
    e->in_callback = false;
    return TARN_OK;
}
