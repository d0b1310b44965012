#include "opening.h"

#include "hold.h"
#include "keep.h"
#include "revive.h"
#include "watch.h"

#include <string.h>

tarn_status tarni_session_create(tarn_engine *e, const char *name, tarn_session **out,
                                 tarn_error *err)
{
    *out = NULL;
    if (e->n_sessions >= e->sessions_max)
        return tarni_fail(err, TARN_E_LIMIT, "sessions_max is reached: %u are open", e->n_sessions);
    TARNI_TRY(tarnp_name_check(name, err));
    tarn_session *s;
    TARNI_TRY(tarni_alloc(&e->pools.allocator, 1, sizeof *s, &s, err));
    s->engine = e;
    s->next_slot = TARNI_SLOT_NONE;
    s->used_at = ++e->clock;
    memcpy(s->name, name, strlen(name) + 1);
    tarni_ids_init(&s->queue, &e->pools.allocator);
    s->prev = e->last;
    if (e->last)
        e->last->next = s;
    else
        e->first = s;
    e->last = s;
    e->n_sessions++;
    *out = s;
    return TARN_OK;
}

void tarni_session_close(tarn_session *s)
{
    if (!s)
        return;
    tarn_engine *e = s->engine;
    const tarn_allocator *a = &e->pools.allocator;
    tarni_session_settle(s);
    tarnp_ticket_free(s->pending.ticket);
    if (s->next_slot != TARNI_SLOT_NONE)
        tarni_slots_release(&e->pools.slots, s->next_slot);
    tarni_tier_drop(s);
    e->n_parked -= s->parked;
    if (e->using == s)
        e->using = NULL;
    if (e->turn == s)
        e->turn = s->next;
    tarni_hold_release(s);
    tarni_desk_part(s->desk);
    *(s->prev ? &s->prev->next : &e->first) = s->next;
    *(s->next ? &s->next->prev : &e->last) = s->prev;
    e->n_sessions--;
    tarni_events_drop(&e->events, s);
    tarni_timeline_fini(&s->live);
    tarni_ids_fini(&s->queue);
    tarni_segments_fini(&s->plan, a);
    tarni_session_end_intake(s);
    tarni_watch_fini(s);
    tarni_session_forget_calls(s);
    tarni_free(a, s->where);
    tarni_free(a, s);
}

static tarn_status resume(tarn_session *s, tarn_reuse *reuse, tarn_error *err)
{
    tarni_lineage lineage;
    tarni_revival r;
    TARNI_TRY(tarni_lineage_open(s->store, s->name, s->where, &lineage, err));
    tarn_status status = tarni_revive(s, &lineage, false, &r, reuse, err);
    if (status == TARN_OK) {
        s->store_id = lineage.session.id;
        s->head = lineage.session.head;
        tarni_revival_take_over(s, &r, reuse);
    }
    tarni_lineage_fini(&lineage);
    return status;
}

/* The lease comes first: what is read after it stays as it is. */
static tarn_status hold_and_resume(tarn_session *s, tarn_reuse *reuse, tarn_error *err)
{
    tarnp_session found;
    TARNI_TRY(tarnp_session_find(s->store, s->name, &found, err));
    s->store_id = found.id;
    tarnp_session_fini(&found);
    TARNI_TRY(tarni_hold_take(s, err));
    TARNI_TRY(resume(s, reuse, err));
    if (s->lease.session_id != 0 && s->lease.session_id != s->store_id)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s became another meanwhile", s->name);
    return TARN_OK;
}

static tarn_status create_stored(tarn_session *s, const tarn_session_options *o, tarn_error *err)
{
    const tarni_identity *id = &s->engine->identity;
    const tarn_allocator *a = &s->engine->pools.allocator;
    tarnp_tag *tags;
    tarnp_session made = {0};
    uint64_t put_before = tarnp_store_bytes_put(s->store);
    TARNI_TRY(tarni_alloc(a, o->n_tags, sizeof *tags, &tags, err));
    for (size_t i = 0; i < o->n_tags; i++)
        tags[i] = (tarnp_tag){.key = o->tags[i].key, .value = o->tags[i].value};
    tarn_status status = tarnp_model_put(s->store, id->fp, id->record, sizeof id->record, err);
    if (status == TARN_OK)
        status = tarnp_session_create(s->store, s->name, id->fp, s->engine->pools.numerics, tags,
                                      o->n_tags, &made, err);
    if (status == TARN_OK)
        tarnp_session_fini(&made);
    s->bytes_written += tarnp_store_bytes_put(s->store) - put_before;
    tarni_free(a, tags);
    return status;
}

static tarn_status open_stored(tarn_session *s, const tarn_session_options *o, tarn_reuse *reuse,
                               tarn_error *err)
{
    tarn_status status = TARN_E_NOT_FOUND;
    s->read_only = o->flags & TARN_SESSION_READ_ONLY;
    s->no_prefix = o->flags & TARN_SESSION_NO_PREFIX;
    s->lease_ms = o->lease_ms;
    if (o->where)
        TARNI_TRY(tarni_copy_text(&s->engine->pools.allocator, o->where, strlen(o->where),
                                  &s->where, err));
    if (!(o->flags & TARN_SESSION_EXCLUSIVE))
        status = s->read_only ? resume(s, reuse, err) : hold_and_resume(s, reuse, err);
    if (status != TARN_E_NOT_FOUND || !(o->flags & TARN_SESSION_CREATE))
        return status;
    TARNI_TRY(create_stored(s, o, err));
    if (s->read_only)
        TARNI_TRY(resume(s, reuse, err));
    else
        TARNI_TRY(hold_and_resume(s, reuse, err));
    reuse->reason = s->reuse.reason = TARN_REASON_NONE;
    return TARN_OK;
}

tarn_status tarni_session_open(tarn_engine *engine, tarni_desk *desk, const char *name,
                               const tarn_session_options *options, tarn_session **out,
                               tarn_reuse *reuse, tarn_error *err)
{
    tarn_session *s;
    *reuse = (tarn_reuse){0};
    TARNI_TRY(tarni_session_create(engine, name, &s, err));
    engine->using = s;
    s->desk = desk;
    tarni_desk_join(desk);
    s->store = tarni_desk_enter(desk);
    tarn_status status = TARN_OK;
    if (desk)
        status = open_stored(s, options, reuse, err);
    else
        tarni_timeline_init(&s->live, &engine->pools);
    tarni_desk_leave(desk);
    if (status != TARN_OK) {
        tarni_session_close(s);
        *reuse = (tarn_reuse){0};
        return status;
    }
    *out = s;
    return TARN_OK;
}
