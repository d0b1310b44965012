#include "tier.h"

#include "session.h"
#include "staging.h"

/* A copy on its way, with what must stay as it is until it has passed. */
typedef struct tarni_tier_copy {
    tarni_staging staging;
    uint32_t slot;
    tarni_page_table pages;
    uint64_t number; /* of the engine's */
} tarni_tier_copy;

tarn_status tarni_tier_open(tarni_tier *t, tarni_device *d, uint64_t bytes_max, tarn_error *err)
{
    *t = (tarni_tier){0};
    if (bytes_max == 0 || d->class->on_host)
        return TARN_OK;
    TARNI_TRY(d->class->pin_apart(d, (size_t)bytes_max, &t->memory, err));
    t->bytes_max = bytes_max;
    return TARN_OK;
}

void tarni_tier_close(tarni_tier *t, tarni_device *d)
{
    TARN_ASSERT(t->n == 0);
    if (t->memory)
        d->class->unpin_apart(d, t->memory);
    *t = (tarni_tier){0};
}

/* ---- places ---------------------------------------------------------------------------------- */

bool tarni_tier_has(const tarn_session *s)
{
    return s->tier.n_bytes > 0;
}

/* Waits for the copy and gives back what it held; false: it failed. */
static bool end_copy(tarn_session *s)
{
    tarni_pools *pools = &s->engine->pools;
    tarni_tier_copy *c = s->tier.copy;
    tarn_error err;
    bool whole = tarni_staging_await(&c->staging, &err) == TARN_OK;
    tarni_staging_fini(&c->staging);
    tarni_slots_release(&pools->slots, c->slot);
    tarni_page_table_fini(&pools->pages, &c->pages);
    tarni_free(&pools->allocator, c);
    s->tier.copy = NULL;
    return whole;
}

void tarni_tier_drop(tarn_session *s)
{
    tarni_tier *t = &s->engine->tier;
    if (!tarni_tier_has(s))
        return;
    if (s->tier.copy)
        end_copy(s);
    t->bytes -= s->tier.n_bytes;
    t->n--;
    s->tier = (tarni_tier_place){0};
}

/* The session whose place meets [begin, begin + n_bytes); NULL: it is free. */
static const tarn_session *in_the_way(const tarn_engine *e, uint64_t begin, uint64_t n_bytes)
{
    for (const tarn_session *s = e->first; s; s = s->next)
        if (tarni_tier_has(s) && s->tier.begin < begin + n_bytes &&
            begin < s->tier.begin + s->tier.n_bytes)
            return s;
    return NULL;
}

/* The lowest place that is free: behind who is in the way, until nobody is. */
static bool find_place(const tarn_engine *e, uint64_t n_bytes, uint64_t *begin)
{
    *begin = 0;
    while (n_bytes <= e->tier.bytes_max - *begin) { /* where a place ends is inside the block */
        const tarn_session *other = in_the_way(e, *begin, n_bytes);
        if (!other)
            return true;
        *begin = other->tier.begin + other->tier.n_bytes;
    }
    return false;
}

/* Of those that were used before `than`. What is on its way gives no place back yet. */
static tarn_session *oldest(tarn_engine *e, const tarn_session *than)
{
    tarn_session *found = NULL;
    for (tarn_session *s = e->first; s; s = s->next)
        if (tarni_tier_has(s) && !s->tier.copy && s != e->using && s->used_at < than->used_at &&
            (!found || s->used_at < found->used_at))
            found = s;
    return found;
}

/* ---- copies ---------------------------------------------------------------------------------- */

static tarni_staged staged_of(const tarn_session *s)
{
    const tarni_timeline *live = &s->live;
    return (tarni_staged){.slot = live->slot == TARNI_SLOT_ZERO ? TARNI_SLOT_NONE : live->slot,
                          .pages = live->pages.pages,
                          .end = live->tokens.n_ids,
                          .memory =
                              s->tier.n_bytes > 0 ? s->engine->tier.memory + s->tier.begin : NULL};
}

/* Holds slot and pages, and begins. */
static tarn_status begin_copy(tarn_session *s, const tarni_staged *what, tarni_tier_copy *c,
                              tarn_error *err)
{
    tarni_pools *pools = &s->engine->pools;
    const tarni_timeline *live = &s->live;
    tarni_image image;
    TARNI_TRY(tarni_page_table_hold(&pools->pages, &live->pages, 0, what->end, &c->pages, err));
    tarn_status status = tarni_staging_save(pools, what, &image, &c->staging, err);
    if (status != TARN_OK) {
        tarni_page_table_fini(&pools->pages, &c->pages);
        return status;
    }
    tarni_slots_share(&pools->slots, live->slot);
    c->slot = live->slot;
    c->number = ++s->engine->tier.n_begun;
    return TARN_OK;
}

void tarni_tier_keep(tarn_session *s)
{
    tarn_engine *e = s->engine;
    tarni_tier *t = &e->tier;
    tarni_staged what = staged_of(s);
    tarni_tier_copy *copy;
    tarn_session *other;
    tarn_error err;
    uint64_t begin;
    if (!t->memory || what.slot == TARNI_SLOT_NONE)
        return;
    const uint64_t n_bytes = tarni_staging_bytes(&e->pools, &what);
    if (n_bytes > t->bytes_max)
        return;
    while (!find_place(e, n_bytes, &begin)) {
        other = oldest(e, s);
        if (!other)
            return;
        tarni_tier_drop(other);
    }
    what.memory = t->memory + begin;
    if (tarni_alloc(&e->pools.allocator, 1, sizeof *copy, &copy, &err) != TARN_OK)
        return;
    if (begin_copy(s, &what, copy, &err) != TARN_OK) {
        tarni_free(&e->pools.allocator, copy);
        return;
    }
    s->tier = (tarni_tier_place){.begin = begin, .n_bytes = n_bytes, .copy = copy};
    t->bytes += n_bytes;
    t->n++;
}

void tarni_tier_reap(tarn_session *s)
{
    if (s->tier.copy && tarni_staging_passed(&s->tier.copy->staging) && !end_copy(s))
        tarni_tier_drop(s);
}

static tarn_session *first_leaving(const tarn_engine *e)
{
    tarn_session *first = NULL;
    for (tarn_session *s = e->first; s; s = s->next)
        if (s->tier.copy && (!first || s->tier.copy->number < first->tier.copy->number))
            first = s;
    return first;
}

bool tarni_tier_put_off(const tarn_engine *e)
{
    return e->impatient && first_leaving(e);
}

bool tarni_tier_settle(tarn_engine *e)
{
    tarn_session *first = first_leaving(e);
    if (first && !end_copy(first))
        tarni_tier_drop(first);
    return first != NULL;
}

/* What the copy holds is the session's again. */
static tarn_status take_back(tarn_session *s, tarn_error *err)
{
    tarni_timeline *live = &s->live;
    tarni_pools *pools = &s->engine->pools;
    const tarni_tier_copy *c = s->tier.copy;
    tarni_page_table pages;
    TARNI_TRY(tarni_page_table_share(&pools->pages, &c->pages, live->tokens.n_ids, &pages, err));
    tarni_page_table_fini(&pools->pages, &live->pages);
    live->pages = pages;
    tarni_slots_share(&pools->slots, c->slot);
    tarni_timeline_set_slot(live, c->slot);
    return TARN_OK;
}

static tarn_status copy_back(tarn_session *s, tarn_error *err)
{
    tarni_pools *pools = &s->engine->pools;
    const tarni_staged what = staged_of(s);
    tarni_image image;
    tarni_staging staging;
    TARNI_TRY(tarni_staging_begin(pools, &what, &image, &staging, err));
    tarn_status status = tarni_staging_put(&staging, err);
    if (status == TARN_OK)
        status = tarni_staging_await(&staging, err);
    tarni_staging_fini(&staging);
    return status;
}

tarn_status tarni_tier_restore(tarn_session *s, tarn_error *err)
{
    tarni_timeline *live = &s->live;
    tarni_pools *pools = &s->engine->pools;
    uint32_t slot;
    TARN_ASSERT(tarni_tier_has(s) && live->slot == TARNI_SLOT_ZERO);
    if (s->tier.copy) {
        TARNI_TRY(take_back(s, err));
        tarni_tier_drop(s);
        return TARN_OK;
    }
    TARNI_TRY(tarni_page_table_reserve(&pools->pages, &live->pages, 0, live->tokens.n_ids, err));
    tarn_status status = tarni_slots_take(&pools->slots, &slot, err);
    if (status == TARN_OK) {
        tarni_timeline_set_slot(live, slot);
        status = copy_back(s, err);
    }
    if (status == TARN_OK)
        tarni_tier_drop(s);
    else
        tarni_timeline_empty(live);
    return status;
}
