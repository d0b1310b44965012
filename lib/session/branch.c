#include "branch.h"

#include "hold.h"
#include "keep.h"
#include "opening.h"
#include "parking.h"
#include "revive.h"

#include <string.h>

tarn_status tarni_session_fork(tarn_session *s, const char *new_name, tarn_session **out,
                               tarn_error *err)
{
    TARNI_TRY(tarni_session_check_idle(s, false, err));
    tarni_session_settle(s);
    TARNI_TRY(tarni_parking_wake(s, err));
    tarn_session *child;
    tarni_timeline live;
    tarnp_session record = {0};
    TARNI_TRY(tarni_session_create(s->engine, new_name, &child, err));
    tarn_status status = tarni_timeline_fork(&s->live, &live, err);
    if (status == TARN_OK) {
        child->live = live;
        child->store = s->store;
        child->desk = s->desk;
        child->reuse = s->reuse;
        child->read_only = s->read_only;
        child->lease_ms = s->lease_ms;
        child->no_prefix = s->no_prefix;
        child->store_id = s->store_id; /* of what a read-only child goes back to */
        child->head = s->live.base_node;
    }
    if (status == TARN_OK && s->where)
        status = tarni_copy_text(&s->engine->pools.allocator, s->where, strlen(s->where),
                                 &child->where, err);
    if (status == TARN_OK)
        status = tarni_session_read_calls(child, err);
    tarnp_store *store = tarni_desk_enter(s->desk);
    if (status == TARN_OK && store && !s->read_only)
        status = tarnp_session_fork(store, s->live.base_node, new_name, &record,
                                    &child->bytes_written, err);
    tarni_desk_leave(s->desk);
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

static tarn_status rewind_in_turn(tarn_session *s, const char *where, tarn_reuse *reuse,
                                  tarn_error *err)
{
    char name[TARNP_NAME_BYTES_MAX + 1];
    tarni_lineage lineage;
    tarni_revival r;
    TARNI_TRY(tarni_revive_name(s, name, err));
    TARNI_TRY(tarni_lineage_open(s->store, name, where, &lineage, err));
    tarn_status status = tarni_revive(s, &lineage, true, &r, reuse, err);
    if (status == TARN_OK) {
        status = move_to(s, &lineage, err);
        if (status == TARN_OK) {
            r.live.base_node = s->head;
            tarni_revival_take_over(s, &r, reuse);
        } else {
            tarni_revival_drop(s, &r);
        }
    }
    tarni_lineage_fini(&lineage);
    return status;
}

tarn_status tarni_session_rewind(tarn_session *s, const char *where, tarn_reuse *reuse,
                                 tarn_error *err)
{
    TARNI_TRY(tarni_session_check_idle(s, true, err));
    tarn_committed committed;
    s->engine->using = s;
    TARNI_TRY(tarni_session_commit(s, &committed, err));
    s->bytes_written = committed.bytes_written; /* the caller has not seen them yet */
    tarni_desk_enter(s->desk);
    tarn_status status = rewind_in_turn(s, where, reuse, err);
    tarn_error ignored;
    /* Everything is in the store by now: it can go before the other place comes. Should that fail,
     * the session comes back on its next use. */
    if (status == TARN_E_LIMIT && !s->parked && tarni_parking_park(s, &ignored) == TARN_OK)
        status = rewind_in_turn(s, where, reuse, err);
    tarni_desk_leave(s->desk);
    return status;
}

static tarn_status price_in_turn(tarn_session *s, const char *where, tarn_at *at, tarn_price *price,
                                 tarn_error *err)
{
    char name[TARNP_NAME_BYTES_MAX + 1];
    tarni_lineage lineage;
    uint64_t shared;
    TARNI_TRY(tarni_revive_name(s, name, err));
    TARNI_TRY(tarni_lineage_open(s->store, name, where, &lineage, err));
    tarn_status status = tarni_revive_shared(s, &lineage, &shared, err);
    if (status == TARN_OK)
        status = tarni_lineage_price(&lineage, shared, price, err);
    if (status == TARN_OK) {
        *at = tarni_session_at(s);
        at->node = tarni_lineage_at_node(&lineage) ? tarni_lineage_node(&lineage)->id : 0;
        at->position = lineage.position;
        at->bit_exact = tarni_lineage_node(&lineage)->flags & TARNP_NODE_BIT_EXACT;
    }
    tarni_lineage_fini(&lineage);
    return status;
}

tarn_status tarni_session_price(tarn_session *s, const char *where, tarn_at *at, tarn_price *price,
                                tarn_error *err)
{
    if (!s->store)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "session %s has no store", s->name);
    tarni_session_settle(s);
    tarni_desk_enter(s->desk);
    tarn_status status = price_in_turn(s, where, at, price, err);
    tarni_desk_leave(s->desk);
    return status;
}

/* A session that failed has nothing to lose: its pages may be needed to bring it back. */
static tarn_status reset_in_turn(tarn_session *s, tarn_reuse *reuse, tarn_error *err)
{
    char name[TARNP_NAME_BYTES_MAX + 1];
    tarni_lineage lineage;
    tarni_revival r;
    TARNI_TRY(tarni_revive_name(s, name, err));
    TARNI_TRY(tarni_lineage_open(s->store, name, s->where, &lineage, err));
    if (s->poisoned)
        tarni_page_table_trim(&s->engine->pools.pages, &s->live.pages, 0);
    tarn_status status = tarni_revive(s, &lineage, true, &r, reuse, err);
    if (status == TARN_OK) {
        s->head = lineage.session.head;
        tarni_revival_take_over(s, &r, reuse);
    }
    tarni_lineage_fini(&lineage);
    return status;
}

tarn_status tarni_session_reset(tarn_session *s, tarn_reuse *reuse, tarn_error *err)
{
    *reuse = (tarn_reuse){0};
    s->engine->using = s;
    tarni_session_settle(s);
    if (s->store) {
        tarni_desk_enter(s->desk);
        tarn_status status = reset_in_turn(s, reuse, err);
        tarni_desk_leave(s->desk);
        return status;
    }
    tarni_revival empty = {.next_slot = TARNI_SLOT_NONE};
    tarni_timeline_init(&empty.live, &s->engine->pools);
    tarni_ids_init(&empty.replay, &s->engine->pools.allocator);
    tarni_revival_take_over(s, &empty, reuse);
    return TARN_OK;
}
