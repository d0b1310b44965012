#include "revive.h"

#include "turncalls.h"
#include "watch.h"

#include <string.h>

tarn_status tarni_revive_name(const tarn_session *s, char name[TARNP_NAME_BYTES_MAX + 1],
                              tarn_error *err)
{
    tarnp_session now;
    TARNI_TRY(tarnp_session_find_id(s->store, s->store_id, &now, err));
    memcpy(name, now.name, sizeof now.name);
    tarnp_session_fini(&now);
    return TARN_OK;
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

/* Latents are those of the store as far as both went the same way. What was computed by other
 * numerics, or stands on a state that was rounded, is read again. */
tarn_status tarni_revive_shared(tarn_session *s, const tarni_lineage *l, uint64_t *n_tokens,
                                tarn_error *err)
{
    const tarni_timeline *live = &s->live;
    *n_tokens = 0;
    if (s->parked || s->poisoned || !live->pools || !live->bit_exact)
        return TARN_OK;
    uint64_t *chain;
    size_t n_chain, n = 0;
    TARNI_TRY(tarnp_node_chain(s->store, live->base_node, &chain, &n_chain, err));
    const char *ours = s->engine->pools.numerics;
    while (n < n_chain && n < l->n_at && chain[n] == l->nodes[n].id &&
           (l->nodes[n].position == 0 ||
            ((l->nodes[n].flags & TARNP_NODE_BIT_EXACT) && !strcmp(l->nodes[n].numerics, ours))))
        n++;
    tarni_free(l->allocator, chain);
    if (n > 0)
        *n_tokens = l->nodes[n - 1].position;
    if (*n_tokens > live->tokens.n_ids)
        *n_tokens = live->tokens.n_ids;
    return TARN_OK;
}

/* Pages up to `end` for the replay, so that the steps cannot run out of them: now, or, where the
 * ceiling is in the way and what is live gives enough back, when it goes. */
static tarn_status reserve_replay(tarn_session *s, tarni_timeline *staged, uint64_t shared,
                                  bool swaps, uint64_t end, tarn_error *err)
{
    tarni_pages *p = &s->engine->pools.pages;
    uint64_t begin = staged->tokens.n_ids;
    TARNI_TRY(tarni_grow(&p->allocator, &staged->pages.pages, &staged->pages.capacity,
                         (size_t)((end + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS),
                         sizeof *staged->pages.pages, err));
    for (;;) {
        bool shares = shared > 0 && shared >= begin;
        uint64_t room = tarni_pages_room(p);
        uint64_t freed = swaps ? tarni_page_table_yield(p, &s->live.pages, shares ? begin : 0) : 0;
        uint64_t now = tarni_page_table_missing(p, &staged->pages, begin, end, 0);
        uint64_t later = tarni_page_table_missing(p, &staged->pages, begin, end, shares && swaps);
        if (now > room && later <= room + freed) {
            uint64_t first = staged->pages.n_pages * (uint64_t)TARNK_PAGE_TOKENS;
            uint64_t last = first + room * TARNK_PAGE_TOKENS; /* new pages, as many as there are */
            return tarni_page_table_reserve(p, &staged->pages, first, last < end ? last : end, err);
        }
        if (now <= room || !p->relieve || !p->relieve(p->relieve_user))
            return tarni_page_table_reserve(p, &staged->pages, begin, end, err);
    }
}

static tarn_status stage(tarn_session *s, const tarni_lineage *lineage, bool swaps,
                         tarni_revival *r, tarn_reuse *reuse, tarn_error *err)
{
    tarn_engine *e = s->engine;
    tarni_present present = {.pages = &s->live.pages, .last_slot = swaps};
    TARNI_TRY(tarni_revive_shared(s, lineage, &present.n_tokens, err));
    tarnp_store_set_pool(s->store, e->threads);
    tarn_status status =
        tarni_resume(&e->pools, lineage, &present, &r->live, &r->replay, reuse, err);
    tarnp_store_set_pool(s->store, NULL);
    if (status == TARN_OK && r->replay.n_ids > 0 && e->cut_tokens > 0)
        r->live.bit_exact = false; /* nobody knows how these tokens were cut then */
    if (status == TARN_OK)
        status = reserve_replay(s, &r->live, present.n_tokens, swaps, lineage->position, err);
    if (status == TARN_OK && r->replay.n_ids > 0 && r->live.slot == TARNI_SLOT_ZERO)
        status = swaps ? tarni_slots_take_last(&e->pools.slots, &r->next_slot, err)
                       : tarni_slots_take(&e->pools.slots, &r->next_slot, err);
    if (status == TARN_OK)
        status = tarni_turn_calls(e->model, &r->live, &r->calls, &r->public_calls, err);
    return status;
}

tarn_status tarni_revive(tarn_session *s, const tarni_lineage *lineage, bool swaps,
                         tarni_revival *out, tarn_reuse *reuse, tarn_error *err)
{
    tarn_engine *e = s->engine;
    *out = (tarni_revival){.next_slot = TARNI_SLOT_NONE};
    TARNI_TRY(check_model(s, &lineage->session, err));
    if (lineage->position > e->pools.spec.context)
        return tarni_fail(err, TARN_E_LIMIT, "session %s has %llu tokens, the context is %u",
                          s->name, (unsigned long long)lineage->position, e->pools.spec.context);
    tarni_ids_init(&out->replay, &e->pools.allocator);
    tarn_status status = stage(s, lineage, swaps, out, reuse, err);
    if (status != TARN_OK)
        tarni_revival_drop(s, out);
    return status;
}

void tarni_revival_drop(tarn_session *s, tarni_revival *r)
{
    tarni_timeline_fini(&r->live);
    tarni_ids_fini(&r->replay);
    if (r->next_slot != TARNI_SLOT_NONE)
        tarni_slots_release(&s->engine->pools.slots, r->next_slot);
    tarni_tool_calls_fini(&r->calls);
    tarni_free(&s->engine->pools.allocator, r->public_calls);
    *r = (tarni_revival){0};
}

void tarni_revival_take_over(tarn_session *s, tarni_revival *r, const tarn_reuse *reuse)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    tarn_error err;
    tarni_timeline_fini(&s->live);
    s->live = r->live;
    if (s->next_slot != TARNI_SLOT_NONE && r->next_slot != TARNI_SLOT_NONE)
        tarni_slots_release(&s->engine->pools.slots, s->next_slot);
    if (r->next_slot != TARNI_SLOT_NONE)
        s->next_slot = r->next_slot;
    tarni_ids_fini(&s->queue);
    s->queue = r->replay;
    s->queue_at = 0;
    s->n_replay = s->queue.n_ids;
    s->run_rows = 0;
    tarni_segments_clear(&s->plan, a);
    s->plan_at = 0;
    s->plan_fed = 0;
    s->generation.active = false;
    s->poisoned = false;
    s->prefix_sought = false;
    tarni_session_end_intake(s);
    tarni_watch_fini(s);
    tarni_tier_drop(s);
    s->engine->n_parked -= s->parked;
    s->parked = false;
    s->reuse = *reuse;
    tarni_session_forget_calls(s);
    s->calls = r->calls;
    s->public_calls = r->public_calls;
    uint64_t begin = s->live.tokens.n_ids;
    tarn_status status = tarni_page_table_reserve(&s->engine->pools.pages, &s->live.pages, begin,
                                                  begin + s->n_replay, &err);
    TARN_ASSERT(status == TARN_OK); /* counted, and what is missing has just been given back */
    (void)status;
}
