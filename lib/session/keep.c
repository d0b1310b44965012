#include "keep.h"

#include "capture.h"
#include "hold.h"
#include "log.h"

#include <string.h>

static tarn_status check_keepable(const tarn_session *s, tarn_error *err)
{
    if (s->poisoned)
        return tarni_fail(err, TARN_E_POISONED, "session %s failed earlier: %.150s", s->name,
                          s->failure.detail);
    if (!s->store)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "session %s has no store", s->name);
    if (s->read_only)
        return tarni_fail(err, TARN_E_INVALID, "session %s was opened read-only", s->name);
    return TARN_OK;
}

/* The node is in the store. The session may have gone on since it was captured. */
static void land(tarn_session *s, const tarni_capture *c, const tarnp_committed *committed)
{
    tarni_timeline *live = &s->live;
    s->bytes_written += committed->bytes_written;
    live->base_node = committed->node;
    if (c->with_state) {
        live->base_position = live->latents_kept = c->position;
        live->base_lossy = committed->lossy;
    }
    live->base_sampling = c->sampling;
    tarni_segments_cut(&live->segments, &s->engine->pools.allocator, &c->mark);
    if (c->commit.move_head)
        s->head = committed->node;
}

/* What a finished commit of `position` tokens reports. */
static void report(tarn_session *s, uint64_t position, tarn_committed *out)
{
    out->at = tarni_session_at(s);
    out->at.position = position;
    out->at.bit_exact = out->at.bit_exact && !s->live.base_lossy;
    out->bytes_written = s->bytes_written;
    s->bytes_written = 0;
}

/* ---- at once -------------------------------------------------------------------------------- */

static tarn_status put_node(tarn_session *s, tarn_error *err)
{
    tarni_capture *c;
    tarnp_committed committed;
    TARNI_TRY(tarni_capture_make(s, true, &c, err));
    tarnp_store *store = tarni_desk_enter(s->desk);
    tarnp_store_set_pool(store, s->engine->threads);
    tarn_status status = c->job.ready(&c->job, err);
    if (status == TARN_OK)
        status = tarnp_commit_node(store, &c->commit, &committed, err);
    tarnp_store_set_pool(store, NULL);
    tarni_desk_leave(s->desk);
    if (status == TARN_OK)
        land(s, c, &committed);
    tarni_capture_free(c);
    return status;
}

/* The head stands behind the base when the last node was a kept state on the way. */
static tarn_status move_head_to_base(tarn_session *s, tarn_error *err)
{
    uint64_t bytes = 0;
    tarnp_store *store = tarni_desk_enter(s->desk);
    tarn_status status = tarnp_session_move_leased(store, s->store_id, s->lease.token, s->head,
                                                   s->live.base_node, &bytes, err);
    tarni_desk_leave(s->desk);
    if (status != TARN_OK)
        return status;
    s->head = s->live.base_node;
    s->bytes_written += bytes;
    return TARN_OK;
}

tarn_status tarni_session_commit(tarn_session *s, tarn_committed *out, tarn_error *err)
{
    TARNI_TRY(check_keepable(s, err));
    tarni_session_settle(s);
    if (tarni_timeline_dirty(&s->live))
        TARNI_TRY(put_node(s, err));
    if (s->head != s->live.base_node)
        TARNI_TRY(move_head_to_base(s, err));
    tarni_hold_refresh(s);
    report(s, s->live.tokens.n_ids, out);
    return TARN_OK;
}

/* ---- in the background ---------------------------------------------------------------------- */

static void tell(tarn_session *s, uint64_t number, tarn_commit_level level, const tarn_error *err)
{
    const tarni_pending *p = &s->pending;
    tarn_event event = {.kind = TARN_EVENT_COMMITTED,
                        .ticket = number,
                        .level = level,
                        .status = err->status,
                        .node = p->result.at.node};
    tarni_session_tell(s, &event);
}

/* The capture is done with: committed, or `err` says why not. */
static void conclude(tarn_session *s, const tarnp_committed *committed, tarnp_ticket_state state,
                     const tarn_error *err)
{
    tarni_capture *c = s->capture;
    tarni_pending *p = &s->pending;
    s->capture = NULL;
    tarni_capture_let_go(c);
    if (err->status == TARN_OK)
        land(s, c, committed);
    else
        TARNI_LOG(&s->engine->pools.log, TARN_LOG_WARN, "session %s is not committed at %llu: %s",
                  s->name, (unsigned long long)c->position, err->detail);
    if (c->number > 0) {
        p->ticket = c->job.ticket;
        p->error = *err;
        if (err->status == TARN_OK)
            report(s, c->position, &p->result);
        tell(s, c->number, (tarn_commit_level)state, err);
    } else {
        tarnp_ticket_free(c->job.ticket);
    }
    tarni_capture_free(c);
}

static const tarn_error no_error;

void tarni_session_reap(tarn_session *s)
{
    tarni_capture *c = s->capture;
    tarnp_committed committed = {0};
    tarn_error err = no_error;
    if (!c || !tarni_desk_is_done(s->desk, &c->job))
        return;
    tarni_capture_let_go(c);
    if (!c->job.ticket) {
        conclude(s, &committed, TARNP_TICKET_FAILED, &c->job.error);
        return;
    }
    tarnp_ticket_state state = tarnp_ticket_poll(c->job.ticket, &committed, &err);
    if (state != TARNP_TICKET_MEMORY)
        conclude(s, &committed, state, state == TARNP_TICKET_FAILED ? &err : &no_error);
}

void tarni_session_encode(tarn_session *s)
{
    if (!s->capture)
        return;
    tarni_desk_finish(s->desk, &s->capture->job, s->engine->threads);
    tarni_capture_let_go(s->capture);
}

void tarni_session_settle(tarn_session *s)
{
    tarn_error err;
    tarni_session_encode(s);
    if (s->capture && s->capture->job.ticket &&
        tarnp_ticket_wait(s->store, s->capture->job.ticket, TARNP_TICKET_WRITTEN,
                          TARNP_WAIT_FOREVER, NULL, &err) != TARN_OK) {
        /* In a forked child nobody will ever write it. */
        tarnp_committed none = {0};
        conclude(s, &none, TARNP_TICKET_FAILED, &err);
    }
    tarni_session_reap(s);
    TARN_ASSERT(!s->capture);
}

static tarn_status put_capture(tarn_session *s, bool move_head, uint64_t number, tarn_error *err)
{
    tarni_capture *c;
    TARNI_TRY(tarni_capture_make(s, move_head, &c, err));
    c->number = number;
    tarn_status status = tarni_desk_put(s->desk, &c->job, err);
    if (status == TARN_OK)
        s->capture = c;
    else
        tarni_capture_free(c);
    return status;
}

tarn_status tarni_session_keep_begin(tarn_session *s, tarn_error *err)
{
    TARN_ASSERT(s->store && !s->read_only && !s->poisoned);
    tarni_session_settle(s);
    if (!tarni_timeline_dirty(&s->live)) /* a replay ended where a state stands */
        return TARN_OK;
    return put_capture(s, false, 0, err);
}

tarn_status tarni_session_commit_begin(tarn_session *s, uint64_t *number, tarn_error *err)
{
    tarni_pending *p = &s->pending;
    TARNI_TRY(check_keepable(s, err));
    tarni_session_settle(s);
    bool dirty = tarni_timeline_dirty(&s->live);
    if (dirty)
        TARNI_TRY(put_capture(s, true, p->number + 1, err));
    else if (s->head != s->live.base_node)
        TARNI_TRY(move_head_to_base(s, err));
    tarnp_ticket_free(p->ticket);
    *p = (tarni_pending){.number = p->number + 1};
    if (!dirty) {
        report(s, s->live.tokens.n_ids, &p->result);
        tell(s, p->number, TARN_COMMIT_WRITTEN, &no_error);
    }
    *number = p->number;
    return TARN_OK;
}

/* Until the capture is written and settled. BUSY: not yet. */
static tarn_status wait_written(tarn_session *s, uint32_t timeout_ms, tarn_error *err)
{
    tarni_session_encode(s);
    tarnp_ticket *ticket = s->capture->job.ticket;
    if (ticket && timeout_ms > 0) {
        tarn_status status =
            tarnp_ticket_wait(s->store, ticket, TARNP_TICKET_WRITTEN, timeout_ms, NULL, err);
        if (status == TARN_E_BUSY && tarnp_ticket_poll(ticket, NULL, NULL) == TARNP_TICKET_MEMORY)
            return status;
    }
    tarni_session_settle(s);
    return TARN_OK;
}

tarn_status tarni_session_wait(tarn_session *s, uint64_t number, tarn_commit_level level,
                               uint32_t timeout_ms, tarn_committed *out, tarn_error *err)
{
    tarni_pending *p = &s->pending;
    if (number == 0 || number != p->number)
        return tarni_fail(err, TARN_E_NOT_FOUND,
                          "session %s: ticket %llu is not that of its last commit (%llu)", s->name,
                          (unsigned long long)number, (unsigned long long)p->number);
    bool on_its_way = s->capture && s->capture->number == number;
    if (on_its_way && level == TARN_COMMIT_MEMORY)
        return TARN_OK;
    if (on_its_way)
        TARNI_TRY(wait_written(s, timeout_ms, err));
    if (p->error.status != TARN_OK) {
        *err = p->error;
        return err->status;
    }
    if (level == TARN_COMMIT_SYNCED && p->ticket)
        TARNI_TRY(tarnp_ticket_wait(s->store, p->ticket, TARNP_TICKET_SYNCED,
                                    timeout_ms ? timeout_ms : TARNP_WAIT_FOREVER, NULL, err));
    if (level != TARN_COMMIT_MEMORY)
        *out = p->result;
    return TARN_OK;
}
