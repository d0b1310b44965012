#include "parking.h"

#include "keep.h"
#include "revive.h"
#include "tier.h"

#include <stdio.h>

static void tell(tarn_session *s, tarn_pressure what, const tarn_reuse *reuse)
{
    tarn_event event = {.kind = TARN_EVENT_PRESSURE, .pressure = what};
    if (reuse)
        event.reuse = *reuse;
    tarni_session_tell(s, &event);
}

static void give_up_next_slot(tarn_session *s)
{
    if (s->next_slot != TARNI_SLOT_NONE)
        tarni_slots_release(&s->engine->pools.slots, s->next_slot);
    s->next_slot = TARNI_SLOT_NONE;
}

/* ---- parking -------------------------------------------------------------------------------- */

static tarn_status check_parkable(const tarn_session *s, tarn_error *err)
{
    const tarni_timeline *live = &s->live;
    TARNI_TRY(tarni_session_check_idle(s, false, err));
    if (s->intake.open)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s: a message is being appended", s->name);
    if (!s->store || s->where)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "session %s has no node to come back to",
                          s->name);
    if (s->capture || tarni_timeline_dirty(live) || live->tokens.n_ids != live->base_position)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s is not committed at %zu", s->name,
                          live->tokens.n_ids);
    bool kept = live->latents_kept == live->base_position; /* with a state of its own */
    if (live->base_lossy || (!live->bit_exact && !kept))
        return tarni_fail(
            err, TARN_E_UNSUPPORTED,
            "session %s would not come back the same: its state is kept with loss or not "
            "at all",
            s->name);
    return TARN_OK;
}

static void park(tarn_session *s)
{
    tarni_tier_keep(s);
    tarni_timeline_empty(&s->live);
    give_up_next_slot(s);
    s->parked = true;
    s->engine->n_parked++;
    tell(s, TARN_PRESSURE_PARKED, NULL);
}

tarn_status tarni_parking_park(tarn_session *s, tarn_error *err)
{
    if (s->parked)
        return TARN_OK;
    tarni_session_settle(s);
    TARNI_TRY(check_parkable(s, err));
    park(s);
    return TARN_OK;
}

/* ---- relief --------------------------------------------------------------------------------- */

/* Commits that are encoded and copies that have passed by now give their memory back without
 * anybody losing anything. A page alone may come free: a fork that is still in the slot has copied
 * the page it goes on in. */
static bool reap_one(tarn_engine *e)
{
    for (tarn_session *s = e->first; s; s = s->next) {
        uint32_t slots = e->pools.slots.n_used;
        uint64_t pages = e->pools.pages.n_used;
        tarni_session_reap(s);
        tarni_tier_reap(s);
        if (e->pools.slots.n_used < slots || e->pools.pages.n_used < pages)
            return true;
    }
    return false;
}

static bool holds_memory(const tarn_session *s)
{
    return !s->parked && (s->live.slot != TARNI_SLOT_ZERO || s->live.pages.n_pages > 0 ||
                          s->next_slot != TARNI_SLOT_NONE);
}

static bool park_oldest(tarn_engine *e)
{
    tarn_session *oldest = NULL;
    tarn_error err;
    for (tarn_session *s = e->first; s; s = s->next)
        if (s != e->using && holds_memory(s) && (!oldest || s->used_at < oldest->used_at) &&
            check_parkable(s, &err) == TARN_OK)
            oldest = s;
    if (oldest)
        park(oldest);
    return oldest != NULL;
}

static bool encode_one(tarn_engine *e)
{
    for (tarn_session *s = e->first; s; s = s->next) {
        if (!s->capture)
            continue;
        uint32_t slots = e->pools.slots.n_used;
        uint64_t pages = e->pools.pages.n_used;
        tarni_session_encode(s);
        if (e->pools.slots.n_used < slots || e->pools.pages.n_used < pages)
            return true;
    }
    return false;
}

/* Once it is written, its session can be parked. */
static bool settle_one(tarn_engine *e)
{
    for (tarn_session *s = e->first; s; s = s->next) {
        if (!s->capture || s == e->using || tarni_session_has_work(s))
            continue;
        tarni_session_settle(s);
        return true;
    }
    return false;
}

/* What costs least first: a copy that is under way is waited for before one more session has to
 * go, but not by a step that others can have; the last two wait for the encoder and for the disk.
 */
bool tarni_parking_relieve(void *engine)
{
    if (reap_one(engine))
        return true;
    if (tarni_tier_put_off(engine))
        return false;
    return tarni_tier_settle(engine) || park_oldest(engine) || encode_one(engine) ||
           settle_one(engine);
}

/* ---- coming back ---------------------------------------------------------------------------- */

/* What was set while it was parked stays. */
static tarn_status come_back(tarn_session *s, tarn_error *err)
{
    char name[TARNP_NAME_BYTES_MAX + 1], where[32];
    tarni_lineage lineage;
    tarni_revival r;
    tarn_reuse reuse;
    snprintf(where, sizeof where, "@n:%llu", (unsigned long long)s->live.base_node);
    TARNI_TRY(tarni_revive_name(s, name, err));
    TARNI_TRY(tarni_lineage_open(s->store, name, where, &lineage, err));
    tarn_status status = tarni_revive(s, &lineage, false, &r, &reuse, err);
    tarni_lineage_fini(&lineage);
    if (status != TARN_OK)
        return status;
    r.live.sampling = s->live.sampling;
    tarni_revival_take_over(s, &r, &reuse);
    tell(s, TARN_PRESSURE_RESUMED, &reuse);
    return TARN_OK;
}

static tarn_status come_back_from_tier(tarn_session *s, tarn_error *err)
{
    TARNI_TRY(tarni_tier_restore(s, err));
    s->parked = false;
    s->engine->n_parked--;
    s->reuse = (tarn_reuse){.tokens_reused = s->live.tokens.n_ids, .reason = TARN_REASON_EXACT};
    tell(s, TARN_PRESSURE_RESUMED, &s->reuse);
    return TARN_OK;
}

tarn_status tarni_parking_wake(tarn_session *s, tarn_error *err)
{
    tarn_engine *e = s->engine;
    e->using = s;
    s->used_at = ++e->clock;
    if (!s->parked)
        return TARN_OK;
    if (tarni_tier_has(s))
        return come_back_from_tier(s, err);
    tarni_desk_enter(s->desk);
    tarn_status status = come_back(s, err);
    tarni_desk_leave(s->desk);
    return status;
}

tarn_status tarni_parking_admit(tarn_session *s, tarn_error *err)
{
    tarni_slots *slots = &s->engine->pools.slots;
    TARNI_TRY(tarni_parking_wake(s, err));
    if (s->next_slot != TARNI_SLOT_NONE || !tarni_slots_shared(slots, s->live.slot))
        return TARN_OK;
    uint32_t slot;
    tarn_status status = tarni_slots_take(slots, &slot, err);
    if (status == TARN_OK)
        s->next_slot = slot;
    if (status != TARN_E_LIMIT)
        return status;
    tarni_session_encode(s); /* then its own slot may be free to be written */
    return tarni_slots_shared(slots, s->live.slot) ? status : TARN_OK;
}
