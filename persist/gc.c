/* gc.c - the collection: what has expired, what stands too close for its age, what is beyond a
 * quota.
 *
 * States stay at heads, at tips, at branches, in the whole history of pinned sessions, and in the
 * newest KEEP_NEWEST nodes with a state before each head. Further back they stand on a ladder: with
 * the distance d from the head the rungs widen from `rung` to about d / keep_newest tokens, and of
 * the states within a rung the first stays. Rungs are powers of two and stand at multiples of
 * themselves, so what one collection keeps is what a later one, from a head further on, chooses
 * from: nothing is dropped now that would have been kept then, and a second collection drops
 * nothing.
 *
 * A round is one transaction: load, decide, apply. It evicts from at most ROUND_NODES nodes,
 * because LMDB keeps what a transaction writes in memory. */
#include "folder.h"
#include "forest.h"
#include "lease.h"
#include "log.h"
#include "quota.h"
#include "refs.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ROUND_NODES 4096
#define KEEP_NEWEST 8
#define RUNG_TOKENS 1024

typedef struct collection {
    tarnp_store *store;
    tarnp_gc_options options; /* defaults filled in */
    tarnp_gc_report *report;
    size_t capacity;
    bool more; /* another round is needed */
} collection;

/* ---- the ladder ----------------------------------------------------------------------------- */

static uint64_t rung_at(const collection *c, uint64_t distance)
{
    uint64_t rung = c->options.rung_tokens, reach = rung * c->options.keep_newest;
    while (distance / 2 >= reach) { /* so neither can be more than the distance */
        rung *= 2;
        reach *= 2;
    }
    return rung;
}

/* Clears the verdicts of all states that this head or tip keeps. */
static void keep_for(const collection *c, tarnp_forest *f, uint32_t end)
{
    uint64_t from = f->nodes[end].position;
    uint32_t n_newest = f->nodes[end].is_head ? c->options.keep_newest : 1,
             pending = TARNP_NO_INDEX;
    for (uint32_t at = end;; at = f->nodes[at].parent) {
        tarnp_forest_node *n = at == TARNP_NO_INDEX ? NULL : &f->nodes[at];
        if (n && !(n->flags & TARNP_NODE_HAS_STATE))
            continue;
        if (pending != TARNP_NO_INDEX) { /* whether it is the first of its rung shows here */
            tarnp_forest_node *p = &f->nodes[pending];
            uint64_t rung = rung_at(c, from - p->position), before = n ? n->position : 0;
            if (p->position / rung != before / rung)
                p->state.why = 0;
        }
        if (!n)
            return;
        pending = n_newest > 0 ? TARNP_NO_INDEX : at;
        if (n_newest > 0) {
            n->state.why = 0;
            n_newest--;
        }
    }
}

static void thin(const collection *c, tarnp_forest *f)
{
    for (size_t i = 0; i < f->n_nodes; i++) {
        tarnp_forest_node *n = &f->nodes[i];
        bool may_go = (n->flags & TARNP_NODE_HAS_STATE) && n->position > 0 && !n->is_dead &&
                      !n->is_head && !n->is_tip && !n->is_pinned && n->n_children < 2;
        n->state.why = may_go ? TARNP_WHY_THINNED : 0;
    }
    for (size_t i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_head || f->nodes[i].is_tip)
            keep_for(c, f, (uint32_t)i);
}

/* ---- the report ----------------------------------------------------------------------------- */

static tarn_status tell(collection *c, uint64_t node, tarnp_dropped_what what, uint64_t n_bytes,
                        tarn_error *err, const char *format, ...) TARN_PRINTF(6, 7);

static tarn_status tell(collection *c, uint64_t node, tarnp_dropped_what what, uint64_t n_bytes,
                        tarn_error *err, const char *format, ...)
{
    tarnp_gc_report *r = c->report;
    TARNI_TRY(tarni_grow(&c->store->allocator, &r->dropped, &c->capacity, r->n_dropped + 1,
                         sizeof *r->dropped, err));
    tarnp_dropped *d = &r->dropped[r->n_dropped++];
    *d = (tarnp_dropped){.node = node, .what = what, .n_bytes = n_bytes};
    r->freed_bytes += n_bytes;
    va_list args;
    va_start(args, format);
    vsnprintf(d->why, sizeof d->why, format, args);
    va_end(args);
    return TARN_OK;
}

static tarn_status tell_part(collection *c, const tarnp_forest_node *n, tarnp_dropped_what what,
                             tarn_error *err)
{
    const tarnp_verdict *v = what == TARNP_DROPPED_STATE ? &n->state : &n->latents;
    uint64_t n_bytes = what == TARNP_DROPPED_STATE ? n->state_bytes : n->latent_bytes;
    switch (v->why) {
    case TARNP_WHY_THINNED:
        return tell(c, n->id, what, n_bytes, err, "thinned: close to an earlier one for its age");
    case TARNP_WHY_STORE_QUOTA:
        return tell(c, n->id, what, n_bytes, err,
                    "quota of the store; it is %llu tokens to compute",
                    (unsigned long long)v->tokens);
    case TARNP_WHY_GROUP_QUOTA:
        return tell(c, n->id, what, n_bytes, err,
                    "quota of its group; it is %llu tokens to compute",
                    (unsigned long long)v->tokens);
    }
    return TARN_OK;
}

/* ---- a round -------------------------------------------------------------------------------- */

/* One that somebody has open stays until it is let go. */
static tarn_status expire(collection *c, tarnp_txn *txn, tarnp_forest *f, tarn_error *err)
{
    for (size_t i = 0; i < f->n_sessions; i++) {
        tarnp_forest_session *s = &f->sessions[i];
        const tarnp_session *r = &s->record;
        bool is_held;
        if (r->expires_ms == 0 || r->expires_ms > c->options.now_ms || r->pinned)
            continue;
        TARNI_TRY(tarnp_lease_binds(c->store, txn, r->id, &is_held, err));
        if (is_held)
            continue;
        s->is_gone = true;
        TARNI_TRY(tell(c, r->head, TARNP_DROPPED_SESSION, 0, err, "session %.60s expired at %llu",
                       r->name, (unsigned long long)r->expires_ms));
    }
    return TARN_OK;
}

/* Sessions and then nodes nobody needs any more. Nodes nobody needed before are none of ours: what
 * holds them is verify's to find. */
static tarn_status decide_sessions(collection *c, tarnp_txn *txn, tarnp_forest *f, tarn_error *err)
{
    bool *dead_before;
    TARNI_TRY(
        tarni_alloc(&c->store->allocator, f->n_nodes, sizeof *dead_before, &dead_before, err));
    for (size_t i = 0; i < f->n_nodes; i++)
        dead_before[i] = f->nodes[i].is_dead;
    tarn_status status = expire(c, txn, f, err);
    tarnp_forest_mark(f);
    for (size_t i = 0; status == TARN_OK && i < f->n_nodes; i++)
        if (f->nodes[i].is_dead && !dead_before[i])
            status = tell(c, f->nodes[i].id, TARNP_DROPPED_NODE, f->nodes[i].stored_bytes, err,
                          "only sessions that expired needed it");
    tarni_free(&c->store->allocator, dead_before);
    return status;
}

/* Lists the verdicts; those beyond what a transaction takes are put off. */
static tarn_status list_verdicts(collection *c, tarnp_forest *f, tarn_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n_nodes; i++) {
        tarnp_forest_node *node = &f->nodes[i];
        if (!node->state.why && !node->latents.why)
            continue;
        if (n++ >= ROUND_NODES && !c->options.dry_run) {
            node->state.why = node->latents.why = 0;
            c->more = true;
            continue;
        }
        for (tarnp_dropped_what what = TARNP_DROPPED_STATE; what <= TARNP_DROPPED_LATENTS; what++)
            TARNI_TRY(tell_part(c, node, what, err));
    }
    return TARN_OK;
}

static tarn_status decide(collection *c, tarnp_txn *txn, tarnp_forest *f, tarn_error *err)
{
    TARNI_TRY(tarnp_forest_load(c->store, txn, f, err));
    tarn_status status = decide_sessions(c, txn, f, err);
    if (status == TARN_OK) {
        thin(c, f);
        status = tarnp_quota_enforce(txn, f, c->options.now_ms, err);
    }
    if (status == TARN_OK)
        status = list_verdicts(c, f, err);
    if (status != TARN_OK)
        tarnp_forest_fini(f);
    return status;
}

static tarn_status run_round(collection *c, tarn_error *err)
{
    tarnp_write w;
    tarnp_forest f;
    size_t n_before = c->report->n_dropped;
    uint64_t freed_before = c->report->freed_bytes;
    c->more = false;
    TARNI_TRY(tarnp_write_begin(c->store, &w, err));
    tarn_status status = decide(c, &w.txn, &f, err);
    if (status == TARN_OK && c->report->n_dropped == n_before) {
        tarnp_forest_fini(&f);
        return tarnp_write_abort(&w, TARN_OK);
    }
    if (status == TARN_OK) {
        status = tarnp_forest_apply(&w, &f, err);
        tarnp_forest_fini(&f);
    }
    status = status == TARN_OK ? tarnp_write_commit(&w, NULL, err) : tarnp_write_abort(&w, status);
    if (status != TARN_OK) {
        c->report->n_dropped = n_before;
        c->report->freed_bytes = freed_before;
    }
    return status;
}

static tarn_status run_dry(collection *c, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_forest f;
    TARNI_TRY(tarnp_read_begin(c->store, &txn, err));
    tarn_status status = decide(c, &txn, &f, err);
    tarnp_txn_abort(&txn);
    if (status == TARN_OK)
        tarnp_forest_fini(&f);
    return status;
}

/* Evicting needs new pages before it frees any. */
static tarn_status run_with_room(collection *c, tarn_error *err)
{
    tarn_status status = run_round(c, err);
    if (status != TARN_E_NO_SPACE)
        return status;
    tarnp_room_lend(c->store);
    status = run_round(c, err);
    tarnp_room_return(c->store);
    return status;
}

tarn_status tarnp_store_gc(tarnp_store *store, const tarnp_gc_options *options,
                           tarnp_gc_report *out, tarn_error *err)
{
    collection c = {.store = store, .report = out, .more = true};
    *out = (tarnp_gc_report){0};
    TARNI_TRY(tarnp_store_enter(store, err));
    if (options)
        c.options = *options;
    if (c.options.now_ms == 0)
        c.options.now_ms = tarnp_now_ms();
    if (c.options.keep_newest == 0)
        c.options.keep_newest = KEEP_NEWEST;
    if (c.options.rung_tokens == 0)
        c.options.rung_tokens = RUNG_TOKENS;
    tarn_status status = TARN_OK;
    if (c.options.dry_run) {
        status = run_dry(&c, err);
    } else {
        tarnp_refs_drain(store);
        while (status == TARN_OK && c.more) {
            status = run_with_room(&c, err);
            tarnp_refs_drain(store);
        }
    }
    if (status != TARN_OK) {
        tarni_free(&store->allocator, out->dropped);
        *out = (tarnp_gc_report){0};
    }
    return status;
}

/* ---- by hand -------------------------------------------------------------------------------- */

tarn_status tarnp_node_evict(tarnp_store *store, uint64_t node, unsigned parts,
                             uint64_t *freed_bytes, tarn_error *err)
{
    tarnp_write w;
    tarnp_forest f = {0};
    *freed_bytes = 0;
    if (parts == 0 || (parts & ~(unsigned)(TARNP_PART_STATE | TARNP_PART_LATENTS)))
        return tarni_fail(err, TARN_E_INVALID, "parts are %#x", parts);
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_forest_load(store, &w.txn, &f, err);
    uint32_t at = status == TARN_OK ? tarnp_forest_find(&f, node) : TARNP_NO_INDEX;
    if (status == TARN_OK && (at == TARNP_NO_INDEX || f.nodes[at].is_dead))
        status =
            tarni_fail(err, TARN_E_NOT_FOUND, "there is no node %llu", (unsigned long long)node);
    uint64_t before = 0;
    if (status == TARN_OK) {
        tarnp_forest_node *n = &f.nodes[at];
        before = n->stored_bytes;
        n->state.why = parts & TARNP_PART_STATE ? TARNP_WHY_STORE_QUOTA : 0;
        n->latents.why = parts & TARNP_PART_LATENTS ? TARNP_WHY_STORE_QUOTA : 0;
        status = tarnp_forest_apply(&w, &f, err);
    }
    uint64_t freed = status == TARN_OK ? before - f.nodes[at].stored_bytes : 0;
    tarnp_forest_fini(&f);
    if (status != TARN_OK || freed == 0)
        return tarnp_write_abort(&w, status);
    TARNI_TRY(tarnp_write_commit(&w, NULL, err));
    *freed_bytes = freed;
    tarnp_refs_drain(store);
    return TARN_OK;
}
