/* Adoption.
 *
 * As late as can be: when the first step would feed the first token, so that tools, system message
 * and question have all been queued and the longest prefix can be found. What was queued stays
 * queued from the end of the prefix on: the plan of segments is cut there, in the middle of a
 * segment if need be, and a segment that is cut continues the adopted node's last.
 *
 * The same ids are not enough. What follows them depends on what they are: behind a user's message
 * an answer begins with a header, behind the same ids fed as plain tokens it does not; turns and
 * calls are counted by segments. So a place is adopted only as far as its history means what is
 * queued, and where that ends earlier the search goes on before it.
 *
 * What the session has set aside, pages and a slot to step to, is given back while the place is
 * staged, so that adopting needs no more memory than computing, and is taken again if it comes to
 * nothing: nobody else took it meanwhile. The head is moved in the store, and then the two are
 * swapped. The session keeps its own sampling; where the one it has in the store is another than
 * the place's, the head is moved to a node behind the place that holds it. */
#include "adopt.h"

#include "capture.h"
#include "feed.h"
#include "keep.h"
#include "log.h"
#include "revive.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool wants_prefix(const tarn_session *s)
{
    return s->store && !s->read_only && !s->no_prefix && !s->prefix_sought &&
           s->live.tokens.n_ids == 0 && s->n_replay == 0 && tarni_session_waiting(s) > 0 &&
           !s->poisoned && !s->on_logits && !atomic_load(&s->cancelled);
}

/* ---- what ids mean ---- */

/* The segments of a plan, or of the nodes of a lineage, one after the other. */
typedef struct segment_walk {
    const tarnp_segment *items;
    size_t n, at;
    const tarnp_node *nodes; /* that come then */
    size_t n_nodes;
} segment_walk;

static const tarnp_segment *peek(segment_walk *w)
{
    while (w->at == w->n) {
        if (w->n_nodes == 0)
            return NULL;
        w->items = w->nodes->segments;
        w->n = w->nodes->n_segments;
        w->at = 0;
        w->nodes++;
        w->n_nodes--;
    }
    return &w->items[w->at];
}

/* A message, a turn or a stretch of plain tokens, in however many parts it came. */
typedef struct stretch {
    tarn_role role;
    uint64_t n_tokens; /* 0: there are no more */
    bool closed;
    segment_walk begin; /* for its calls */
    size_t n_calls;
} stretch;

static stretch next_stretch(segment_walk *w)
{
    const tarnp_segment *s = peek(w);
    stretch out = {.role = s ? s->role : 0, .begin = *w};
    while (s && s->role == out.role &&
           (out.n_tokens == 0 || s->role == TARN_ROLE_TOKENS ||
            (s->flags & TARNP_SEGMENT_CONTINUES))) {
        out.n_tokens += s->n_tokens;
        out.closed = s->flags & TARNP_SEGMENT_CLOSED;
        out.n_calls += s->n_call_ids;
        w->at++;
        s = peek(w);
    }
    return out;
}

/* The id of the call number i. */
static const char *call_id(const stretch *x, size_t i)
{
    segment_walk w = x->begin;
    const tarnp_segment *s = peek(&w);
    while (i >= s->n_call_ids) {
        i -= s->n_call_ids;
        w.at++;
        s = peek(&w);
    }
    return s->call_ids[i];
}

static bool same_calls(const stretch *a, const stretch *b)
{
    bool same = a->n_calls == b->n_calls;
    for (size_t i = 0; same && i < a->n_calls; i++)
        same = strcmp(call_id(a, i), call_id(b, i)) == 0;
    return same;
}

/* How many tokens from the start are the same in both not only by their ids. */
static uint64_t common_tokens(segment_walk ours, segment_walk theirs)
{
    uint64_t n_common = 0;
    for (;;) {
        stretch a = next_stretch(&ours), b = next_stretch(&theirs);
        const stretch *shorter = a.n_tokens < b.n_tokens ? &a : &b;
        if (shorter->n_tokens == 0 || a.role != b.role ||
            (a.role == TARN_ROLE_TOOL && !same_calls(&a, &b)))
            return n_common;
        bool alike = a.n_tokens == b.n_tokens && a.closed == b.closed && same_calls(&a, &b);
        bool open = a.n_tokens != b.n_tokens && !shorter->closed; /* the longer goes on with it */
        n_common += shorter->n_tokens - !(alike || open);
        if (!alike)
            return n_common;
    }
}

/* ---- the place ---- */

/* The lineage of a node. */
static tarn_status open_node(tarn_session *s, uint64_t node, size_t n_ids, tarni_lineage *lineage,
                             tarn_error *err)
{
    char where[32];
    tarnp_session now;
    TARNI_TRY(tarnp_session_find_id(s->store, s->store_id, &now, err));
    snprintf(where, sizeof where, "@n:%" PRIu64, node);
    tarn_status status = tarni_lineage_open(s->store, now.name, where, lineage, err);
    tarnp_session_fini(&now);
    if (status == TARN_OK && lineage->position != n_ids) {
        tarni_lineage_fini(lineage);
        status = tarni_fail(err, TARN_E_CORRUPT,
                            "node %" PRIu64 " has %" PRIu64 " tokens, its prefix %zu", node,
                            lineage->position, n_ids);
    }
    return status;
}

/* The place to adopt; *n_ids: tokens up to it, 0 if there is none. */
static tarn_status find_place(tarn_session *s, tarni_lineage *lineage, size_t *n_ids,
                              tarn_error *err)
{
    const tarn_engine *e = s->engine;
    segment_walk ours = {.items = s->plan.items, .n = s->plan.n, .at = s->plan_at};
    size_t n_most = tarni_session_waiting(s);
    for (;;) {
        uint64_t node, n_common;
        TARNI_TRY(tarnp_prefix_find(s->store, e->identity.fp, e->pools.numerics,
                                    s->queue.ids + s->queue_at, n_most, &node, n_ids, err));
        if (*n_ids == 0)
            return TARN_OK;
        TARNI_TRY(open_node(s, node, *n_ids, lineage, err));
        n_common =
            common_tokens(ours, (segment_walk){.nodes = lineage->nodes, .n_nodes = lineage->n_at});
        if (n_common >= *n_ids)
            return TARN_OK;
        tarni_lineage_fini(lineage);
        n_most = (size_t)n_common;
    }
}

/* ---- going on from it ---- */

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
    return tarni_page_table_reserve(&s->engine->pools.pages, &staged->pages, n_ids, n_waiting, err);
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
            if (first->role == TARN_ROLE_ASSISTANT) { /* its end makes the calls */
                rest.call_ids = first->call_ids;
                rest.n_call_ids = first->n_call_ids;
                *first = (tarnp_segment){0};
            }
        }
        tarni_segments_clear(&one, a); /* other calls: the adopted history has them */
        *first = rest;
    }
}

static void swap(tarn_session *s, tarni_revival *r, size_t n_ids)
{
    r->live.sampling = s->live.sampling;
    r->live.base_node = s->head;
    tarni_timeline_fini(&s->live);
    s->live = r->live;
    s->next_slot = r->next_slot;
    s->queue_at += s->live.tokens.n_ids;
    s->n_replay = n_ids - s->live.tokens.n_ids;
    tarni_session_forget_calls(s);
    s->calls = r->calls;
    s->public_calls = r->public_calls;
    tarni_ids_fini(&r->replay); /* it is in the queue already */
    cut_plan(s, n_ids);
    tarni_feed_tidy(s);
}

/* Moves the head to a node behind the place with the sampling that was committed, and nothing else
 * of the session. */
static tarn_status move_with_sampling(tarn_session *s, const tarnp_node *place, uint64_t *node,
                                      uint64_t *bytes, tarn_error *err)
{
    tarni_capture *c;
    tarnp_committed made;
    const tarn_sampling wanted = s->live.sampling;
    s->live.sampling = s->live.base_sampling;
    tarn_status status = tarni_capture_make(s, true, &c, err);
    s->live.sampling = wanted;
    if (status != TARN_OK)
        return status;
    TARN_ASSERT(!c->with_state && c->segments.n == 0);
    c->commit.parent = place->id;
    c->commit.flags = place->flags & TARNP_NODE_BIT_EXACT;
    status = tarnp_commit_node(s->store, &c->commit, &made, err);
    tarni_capture_free(c);
    if (status == TARN_OK) {
        *node = made.node;
        *bytes = made.bytes_written;
    }
    return status;
}

static tarn_status stage_and_move(tarn_session *s, const tarni_lineage *lineage, size_t n_ids,
                                  tarni_revival *r, tarn_reuse *reuse, tarn_error *err)
{
    const tarnp_node *place = tarni_lineage_node(lineage);
    uint64_t bytes = 0, node = place->id;
    TARNI_TRY(tarni_revive(s, lineage, false, r, reuse, err));
    tarn_status status = prepare(s, &r->live, n_ids, err);
    bool draws_alike = tarni_sampling_equal(&s->live.base_sampling, &r->live.sampling);
    if (status == TARN_OK && !draws_alike) {
        status = move_with_sampling(s, place, &node, &bytes, err);
        r->live.base_sampling = s->live.base_sampling;
    } else if (status == TARN_OK) {
        status = tarnp_session_move_leased(s->store, s->store_id, s->lease.token, s->head, node,
                                           &bytes, err);
    }
    if (status != TARN_OK) {
        tarni_revival_drop(s, r);
        return status;
    }
    s->head = node;
    s->bytes_written += bytes;
    return TARN_OK;
}

/* Takes again what was given back for the staging. */
static void admit_again(tarn_session *s, bool had_slot)
{
    tarni_pools *pools = &s->engine->pools;
    tarn_error err;
    tarn_status status =
        tarni_page_table_reserve(&pools->pages, &s->live.pages, 0, tarni_session_waiting(s), &err);
    if (status == TARN_OK && had_slot)
        status = tarni_slots_take_last(&pools->slots, &s->next_slot, &err);
    TARN_ASSERT(status == TARN_OK);
    (void)status;
}

static tarn_status adopt(tarn_session *s, const tarni_lineage *lineage, size_t n_ids,
                         tarn_error *err)
{
    tarni_pools *pools = &s->engine->pools;
    tarni_revival r;
    tarn_reuse reuse;
    bool had_slot = s->next_slot != TARNI_SLOT_NONE;
    tarni_page_table_trim(&pools->pages, &s->live.pages, 0);
    if (had_slot)
        tarni_slots_release(&pools->slots, s->next_slot);
    s->next_slot = TARNI_SLOT_NONE;
    tarn_status status = stage_and_move(s, lineage, n_ids, &r, &reuse, err);
    if (status != TARN_OK) {
        admit_again(s, had_slot);
        return status;
    }
    reuse.reason = TARN_REASON_PREFIX;
    s->reuse = reuse;
    swap(s, &r, n_ids);
    return TARN_OK;
}

/* In the desk's turn. */
static void find_and_adopt(tarn_session *s)
{
    tarni_lineage lineage;
    tarn_error err;
    size_t n_ids = 0;
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

void tarni_adopt_prefix(tarn_session *s)
{
    if (!wants_prefix(s))
        return;
    s->prefix_sought = true;
    s->engine->using = s;
    tarni_session_settle(s); /* sampling alone may be on its way */
    tarni_desk_enter(s->desk);
    find_and_adopt(s);
    tarni_desk_leave(s->desk);
}
