/* Adoption.
 *
 * As late as can be: when the first step would feed the first token, so that tools, system message
 * and question have all been queued and the longest prefix can be found. What was queued stays
 * queued from the end of the prefix on: the plan of segments is cut there, in the middle of a
 * segment if need be, and a segment that is cut continues the adopted node's last.
 *
 * Everything is staged beside the empty timeline, the head is moved in the store, and then the two
 * are swapped. The session keeps its own sampling. */
#include "adopt.h"

#include "feed.h"
#include "log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool wants_prefix(const tarn_session *s)
{
    return s->store && !s->read_only && !s->no_prefix && !s->prefix_sought &&
           s->live.tokens.n_ids == 0 && s->n_replay == 0 && tarni_session_waiting(s) > 0 &&
           !s->poisoned && !s->on_logits && !atomic_load(&s->cancelled);
}

/* The place to adopt; *n_ids: tokens up to it, 0 if there is none. */
static tarn_status find_place(tarn_session *s, tarni_lineage *lineage, size_t *n_ids,
                              tarn_error *err)
{
    const tarn_engine *e = s->engine;
    uint64_t node;
    char where[32];
    tarnp_session now;
    TARNI_TRY(tarnp_prefix_find(s->store, e->identity.fp, e->pools.numerics,
                                s->queue.ids + s->queue_at, tarni_session_waiting(s), &node, n_ids,
                                err));
    if (*n_ids == 0)
        return TARN_OK;
    TARNI_TRY(tarnp_session_find_id(s->store, s->store_id, &now, err));
    snprintf(where, sizeof where, "@n:%" PRIu64, node);
    tarn_status status = tarni_lineage_open(s->store, now.name, where, lineage, err);
    tarnp_session_fini(&now);
    if (status == TARN_OK && lineage->position != *n_ids) {
        tarni_lineage_fini(lineage);
        status = tarni_fail(err, TARN_E_CORRUPT,
                            "node %" PRIu64 " has %" PRIu64 " tokens, its prefix %zu", node,
                            lineage->position, *n_ids);
    }
    return status;
}

/* The staged tokens are what is queued, and there is room for what is queued behind them. */
static tarn_status prepare(tarn_session *s, tarni_timeline *staged, size_t n_ids, tarn_error *err)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    size_t n_waiting = tarni_session_waiting(s), n_calls = 0, n_bytes = 0;
    if (memcmp(staged->tokens.ids, s->queue.ids + s->queue_at, n_ids * sizeof *s->queue.ids) != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "a node of %zu tokens has others than its prefix",
                          n_ids);
    for (size_t i = s->plan_at; i < s->plan.n; i++)
        for (size_t k = 0; k < s->plan.items[i].n_call_ids; k++, n_calls++)
            n_bytes += strlen(s->plan.items[i].call_ids[k]) + 1;
    TARNI_TRY(tarni_ledger_reserve(&staged->calls, a, n_calls, n_bytes, err));
    TARNI_TRY(tarni_grow(a, &staged->segments.items, &staged->segments.capacity,
                         s->plan.n - s->plan_at + 1, sizeof *staged->segments.items, err));
    TARNI_TRY(tarni_grow(a, &staged->tokens.ids, &staged->tokens.capacity, n_waiting,
                         sizeof *staged->tokens.ids, err));
    return tarni_grow(a, &staged->pages.pages, &staged->pages.capacity, s->live.pages.n_pages,
                      sizeof *staged->pages.pages, err);
}

/* Drops the first n ids of the plan. */
static void cut_plan(tarn_session *s, size_t n_ids)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    while (n_ids > 0) {
        tarnp_segment *first = &s->plan.items[s->plan_at];
        tarnp_segment rest = {
            .role = first->role, .flags = first->flags, .n_tokens = first->n_tokens};
        tarni_segments one = {.items = first, .n = 1};
        uint32_t n = first->n_tokens < n_ids ? first->n_tokens : (uint32_t)n_ids;
        n_ids -= n;
        if (n == first->n_tokens) {
            s->plan_at++;
        } else {
            rest.n_tokens -= n;
            rest.flags |= TARNP_SEGMENT_CONTINUES;
        }
        tarni_segments_clear(&one, a); /* its calls: the adopted history has them */
        *first = rest;
    }
}

static void swap(tarn_session *s, tarni_timeline *staged, size_t n_ids)
{
    staged->sampling = s->live.sampling;
    staged->base_node = s->head;
    tarni_page_table *ours = &s->live.pages, *theirs = &staged->pages;
    size_t n_pages = ours->n_pages; /* set aside for all that is queued: the end of them is taken */
    while (theirs->n_pages < n_pages)
        theirs->pages[theirs->n_pages++] = ours->pages[--ours->n_pages];
    tarni_timeline_fini(&s->live);
    s->live = *staged;
    s->queue_at += s->live.tokens.n_ids;
    s->n_replay = n_ids - s->live.tokens.n_ids;
    cut_plan(s, n_ids);
    tarni_feed_tidy(s);
}

static tarn_status adopt(tarn_session *s, const tarni_lineage *lineage, size_t n_ids,
                         tarn_error *err)
{
    tarni_timeline staged;
    tarni_ids replay;
    tarn_reuse reuse;
    uint64_t bytes = 0;
    TARNI_TRY(tarni_session_stage(s, lineage, &staged, &replay, &reuse, err));
    tarni_ids_fini(&replay); /* it is in the queue already */
    tarn_status status = prepare(s, &staged, n_ids, err);
    if (status == TARN_OK)
        status = tarnp_session_move_leased(s->store, s->store_id, s->lease.token, s->head,
                                           tarni_lineage_node(lineage)->id, &bytes, err);
    if (status != TARN_OK) {
        tarni_timeline_fini(&staged);
        return status;
    }
    s->head = tarni_lineage_node(lineage)->id;
    s->bytes_written += bytes;
    reuse.reason = TARN_REASON_PREFIX;
    s->reuse = reuse;
    swap(s, &staged, n_ids);
    return TARN_OK;
}

void tarni_adopt_prefix(tarn_session *s)
{
    tarni_lineage lineage;
    tarn_error err;
    size_t n_ids = 0;
    if (!wants_prefix(s))
        return;
    s->prefix_sought = true;
    tarn_status status = find_place(s, &lineage, &n_ids, &err);
    if (status == TARN_OK && n_ids == 0)
        return;
    if (status == TARN_OK) {
        status = adopt(s, &lineage, n_ids, &err);
        tarni_lineage_fini(&lineage);
    }
    if (status != TARN_OK)
        TARNI_LOG(&s->engine->pools.log, TARN_LOG_WARN, "session %s: no prefix is adopted: %s",
                  s->name, err.detail);
}
