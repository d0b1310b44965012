/* session.c - opening, forking, going back: every change of what is live is staged beside the old
 * timeline, and takes its place only when it is whole. */
#include "session.h"

#include "feed.h"
#include "hold.h"
#include "intake.h"
#include "keep.h"
#include "watch.h"

#include <string.h>

size_t tarni_session_waiting(const tarn_session *s)
{
    return s->queue.n_ids - s->queue_at;
}

bool tarni_session_has_work(const tarn_session *s)
{
    return !s->poisoned && (tarni_session_waiting(s) > 0 || s->generation.active);
}

void tarni_session_forget_calls(tarn_session *s)
{
    tarni_tool_calls_fini(&s->calls);
    tarni_free(&s->engine->pools.allocator, s->public_calls);
    s->public_calls = NULL;
}

tarn_at tarni_session_at(const tarn_session *s)
{
    tarn_at at = {.node = s->live.base_node,
                  .position = s->live.tokens.n_ids,
                  .bit_exact = s->live.bit_exact};
    memcpy(at.session, s->name, sizeof at.session);
    return at;
}

static tarn_status create(tarn_engine *e, const char *name, tarn_session **out, tarn_error *err)
{
    *out = NULL;
    if (e->n_sessions >= e->sessions_max)
        return tarni_fail(err, TARN_E_LIMIT, "sessions_max is reached: %u are open", e->n_sessions);
    TARNI_TRY(tarnp_name_check(name, err));
    tarn_session *s;
    TARNI_TRY(tarni_alloc(&e->pools.allocator, 1, sizeof *s, &s, err));
    s->engine = e;
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
    tarni_hold_release(s);
    *(s->prev ? &s->prev->next : &e->first) = s->next;
    *(s->next ? &s->next->prev : &e->last) = s->prev;
    e->n_sessions--;
    tarni_events_drop(&e->events, s);
    tarni_timeline_fini(&s->live);
    tarni_ids_fini(&s->queue);
    tarni_segments_fini(&s->plan, a);
    tarni_intake_fini(s);
    tarni_watch_fini(s);
    tarni_session_forget_calls(s);
    tarni_free(a, s->where);
    tarni_free(a, s);
}

/* Makes the staged timeline and its replay what the session is. Cannot fail. */
static void take_over(tarn_session *s, tarni_timeline *staged, tarni_ids *replay)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    tarni_timeline_fini(&s->live);
    s->live = *staged;
    tarni_ids_fini(&s->queue);
    s->queue = *replay;
    s->queue_at = 0;
    s->n_replay = s->queue.n_ids;
    tarni_segments_clear(&s->plan, a);
    s->plan_at = 0;
    s->plan_fed = 0;
    s->generation.active = false;
    s->poisoned = false;
    s->prefix_sought = false;
    tarni_intake_fini(s);
    tarni_watch_fini(s);
    tarni_session_forget_calls(s);
}

/* Refuses by name what another model made. */
static tarn_status check_model(tarn_session *s, const tarnp_session *stored, tarn_error *err)
{
    const tarni_identity *ours = &s->engine->identity;
    if (memcmp(stored->fp, ours->fp, sizeof ours->fp) == 0)
        return TARN_OK;
    tarni_writer record;
    tarni_writer_init(&record, &s->engine->pools.allocator);
    tarn_status status = tarnp_model_get(s->store, stored->fp, &record, err);
    if (status == TARN_OK)
        status = tarni_identity_explain(ours, record.data, record.n_bytes, stored->name, err);
    tarni_writer_fini(&record);
    return status;
}

tarn_status tarni_session_stage(tarn_session *s, const tarni_lineage *lineage,
                                tarni_timeline *staged, tarni_ids *replay, tarn_reuse *reuse,
                                tarn_error *err)
{
    tarn_engine *e = s->engine;
    if (lineage->position > e->pools.spec.context)
        return tarni_fail(err, TARN_E_LIMIT, "session %s has %llu tokens, the context is %u",
                          s->name, (unsigned long long)lineage->position, e->pools.spec.context);
    tarni_ids_init(replay, &e->pools.allocator);
    tarnp_store_set_pool(s->store, e->threads);
    tarn_status status = tarni_resume(&e->pools, lineage, staged, replay, reuse, err);
    tarnp_store_set_pool(s->store, NULL);
    if (status == TARN_OK) {
        status = tarni_page_table_reserve(&e->pools.pages, &staged->pages, staged->tokens.n_ids,
                                          lineage->position, err);
        if (status != TARN_OK)
            tarni_timeline_fini(staged);
    }
    if (status != TARN_OK)
        tarni_ids_fini(replay);
    return status;
}

static tarn_status resume(tarn_session *s, const char *name, tarn_reuse *reuse, tarn_error *err)
{
    tarni_lineage lineage;
    tarni_timeline staged;
    tarni_ids replay;
    TARNI_TRY(tarni_lineage_open(s->store, name, s->where, &lineage, err));
    tarn_status status = check_model(s, &lineage.session, err);
    if (status == TARN_OK)
        status = tarni_session_stage(s, &lineage, &staged, &replay, reuse, err);
    if (status == TARN_OK) {
        s->store_id = lineage.session.id;
        s->head = lineage.session.head;
        take_over(s, &staged, &replay);
        s->reuse = *reuse;
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
    TARNI_TRY(resume(s, s->name, reuse, err));
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
        status = s->read_only ? resume(s, s->name, reuse, err) : hold_and_resume(s, reuse, err);
    if (status != TARN_E_NOT_FOUND || !(o->flags & TARN_SESSION_CREATE))
        return status;
    TARNI_TRY(create_stored(s, o, err));
    if (s->read_only)
        TARNI_TRY(resume(s, s->name, reuse, err));
    else
        TARNI_TRY(hold_and_resume(s, reuse, err));
    reuse->reason = s->reuse.reason = TARN_REASON_NONE;
    return TARN_OK;
}

tarn_status tarni_session_open(tarn_engine *engine, tarnp_store *store, const char *name,
                               const tarn_session_options *options, tarn_session **out,
                               tarn_reuse *reuse, tarn_error *err)
{
    tarn_session *s;
    *reuse = (tarn_reuse){0};
    TARNI_TRY(create(engine, name, &s, err));
    s->store = store;
    tarn_status status = store ? open_stored(s, options, reuse, err)
                               : tarni_timeline_init(&s->live, &engine->pools, err);
    if (status != TARN_OK) {
        tarni_session_close(s);
        *reuse = (tarn_reuse){0};
        return status;
    }
    *out = s;
    return TARN_OK;
}

/* `replaying` is allowed where the replay is given up anyway: it holds nothing new. */
static tarn_status check_idle(const tarn_session *s, bool replaying, tarn_error *err)
{
    if (s->poisoned)
        return tarni_fail(err, TARN_E_POISONED, "session %s failed earlier: %.150s", s->name,
                          s->failure.detail);
    size_t n_allowed = replaying ? s->n_replay : 0;
    if (s->generation.active || tarni_session_waiting(s) > n_allowed)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s has %zu tokens waiting%s", s->name,
                          tarni_session_waiting(s),
                          s->generation.active ? " and is generating" : "");
    return TARN_OK;
}

tarn_status tarni_session_fork(tarn_session *s, const char *new_name, tarn_session **out,
                               tarn_error *err)
{
    TARNI_TRY(check_idle(s, false, err));
    tarni_session_settle(s);
    tarn_session *child;
    tarni_timeline live;
    tarnp_session record = {0};
    TARNI_TRY(create(s->engine, new_name, &child, err));
    tarn_status status = tarni_timeline_fork(&s->live, &live, err);
    if (status == TARN_OK) {
        child->live = live;
        child->store = s->store;
        child->read_only = s->read_only;
        child->lease_ms = s->lease_ms;
        child->no_prefix = s->no_prefix;
        child->reuse = s->reuse;
        child->store_id = s->store_id; /* of what a read-only child goes back to */
        child->head = s->live.base_node;
    }
    if (status == TARN_OK && s->where)
        status = tarni_copy_text(&s->engine->pools.allocator, s->where, strlen(s->where),
                                 &child->where, err);
    if (status == TARN_OK && s->store && !s->read_only)
        status = tarnp_session_fork(s->store, s->live.base_node, new_name, &record,
                                    &child->bytes_written, err);
    if (status != TARN_OK) {
        tarni_session_close(child);
        return status;
    }
    if (record.id > 0) {
        child->store_id = record.id;
        tarnp_session_fini(&record);
        tarni_hold_try(child);
    }
    *out = child;
    return TARN_OK;
}

/* The name the session has in the store by now: someone may have renamed it. */
static tarn_status stored_name(const tarn_session *s, char name[TARNP_NAME_BYTES_MAX + 1],
                               tarn_error *err)
{
    tarnp_session now;
    TARNI_TRY(tarnp_session_find_id(s->store, s->store_id, &now, err));
    memcpy(name, now.name, sizeof now.name);
    tarnp_session_fini(&now);
    return TARN_OK;
}

/* Goes to a staged place: first in the store, then here. */
static tarn_status move_to(tarn_session *s, const tarni_lineage *lineage, tarn_error *err)
{
    uint64_t node = tarni_lineage_node(lineage)->id, bytes = 0;
    if (!tarni_lineage_at_node(lineage)) {
        tarnp_committed made;
        TARNI_TRY(tarni_lineage_make_node(lineage, true, &s->lease, &made, err));
        node = made.node;
        bytes = made.bytes_written;
    } else {
        TARNI_TRY(tarnp_session_move_leased(s->store, s->store_id, s->lease.token, s->head, node,
                                            &bytes, err));
    }
    s->head = node;
    s->bytes_written += bytes;
    return TARN_OK;
}

tarn_status tarni_session_rewind(tarn_session *s, const char *where, tarn_reuse *reuse,
                                 tarn_error *err)
{
    TARNI_TRY(check_idle(s, true, err));
    tarn_committed committed;
    TARNI_TRY(tarni_session_commit(s, &committed, err));
    s->bytes_written = committed.bytes_written; /* the caller has not seen them yet */
    char name[TARNP_NAME_BYTES_MAX + 1];
    tarni_lineage lineage;
    tarni_timeline staged;
    tarni_ids replay;
    TARNI_TRY(stored_name(s, name, err));
    TARNI_TRY(tarni_lineage_open(s->store, name, where, &lineage, err));
    tarn_status status = tarni_session_stage(s, &lineage, &staged, &replay, reuse, err);
    if (status == TARN_OK) {
        status = move_to(s, &lineage, err);
        if (status == TARN_OK) {
            staged.base_node = s->head;
            take_over(s, &staged, &replay);
            s->reuse = *reuse;
        } else {
            tarni_timeline_fini(&staged);
            tarni_ids_fini(&replay);
        }
    }
    tarni_lineage_fini(&lineage);
    return status;
}

tarn_status tarni_session_reset(tarn_session *s, tarn_reuse *reuse, tarn_error *err)
{
    char name[TARNP_NAME_BYTES_MAX + 1];
    *reuse = (tarn_reuse){0};
    tarni_session_settle(s);
    if (s->store) {
        TARNI_TRY(stored_name(s, name, err));
        return resume(s, name, reuse, err);
    }
    tarni_timeline empty;
    tarni_ids nothing;
    TARNI_TRY(tarni_timeline_init(&empty, &s->engine->pools, err));
    tarni_ids_init(&nothing, &s->engine->pools.allocator);
    take_over(s, &empty, &nothing);
    return TARN_OK;
}
