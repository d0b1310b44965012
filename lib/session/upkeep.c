/* upkeep.c - what collection and eviction cost, as people ask about it (listing.h). */
#include "lineage.h"
#include "listing.h"
#include "where.h"

#include <assert.h>
#include <string.h>

/* ---- what was collected --------------------------------------------------------------------- */

typedef struct collected {
    tarn_allocator allocator;
    tarn_dropped dropped[];
} collected;

static tarn_status list_dropped(const tarnp_gc_report *r, const tarn_allocator *a,
                                tarn_gc_report *out, tarn_error *err)
{
    collected *c;
    TARNI_TRY(tarni_alloc(a, 1, sizeof *c + r->n_dropped * sizeof c->dropped[0], &c, err));
    c->allocator = *a;
    for (size_t i = 0; i < r->n_dropped; i++) {
        const tarnp_dropped *d = &r->dropped[i];
        static_assert(sizeof d->why == sizeof c->dropped[i].why, "same text");
        c->dropped[i] = (tarn_dropped){
            .node = d->node, .what = (tarn_dropped_what)d->what, .bytes = d->n_bytes};
        memcpy(c->dropped[i].why, d->why, sizeof d->why);
    }
    *out = (tarn_gc_report){.freed_bytes = r->freed_bytes,
                            .dropped = c->dropped,
                            .n_dropped = r->n_dropped,
                            .owned = c};
    return TARN_OK;
}

tarn_status tarni_list_gc(tarnp_store *store, const tarnp_gc_options *options, tarn_gc_report *out,
                          tarn_error *err)
{
    static_assert((int)TARN_DROPPED_SESSION == (int)TARNP_DROPPED_SESSION &&
                      (int)TARN_DROPPED_NODE == (int)TARNP_DROPPED_NODE &&
                      (int)TARN_DROPPED_STATE == (int)TARNP_DROPPED_STATE &&
                      (int)TARN_DROPPED_LATENTS == (int)TARNP_DROPPED_LATENTS,
                  "same numbers");
    const tarn_allocator *a = tarnp_store_allocator(store);
    tarnp_gc_report r;
    TARNI_TRY(tarnp_store_gc(store, options, &r, err));
    tarn_status status = list_dropped(&r, a, out, err);
    tarni_free(a, r.dropped);
    return status;
}

void tarn_gc_report_free(tarn_gc_report *report)
{
    if (!report || !report->owned)
        return;
    collected *c = report->owned;
    tarn_allocator a = c->allocator;
    tarni_free(&a, c);
    *report = (tarn_gc_report){0};
}

const char *tarn_dropped_name(tarn_dropped_what what)
{
    switch (what) {
    case TARN_DROPPED_SESSION:
        return "session";
    case TARN_DROPPED_NODE:
        return "node";
    case TARN_DROPPED_STATE:
        return "state";
    case TARN_DROPPED_LATENTS:
        return "latents";
    }
    return "unknown";
}

/* ---- what turns cost ------------------------------------------------------------------------ */

typedef struct explained {
    tarn_allocator allocator;
    tarn_turn_price turns[];
} explained;

static tarn_status price_turns(const tarni_lineage *l, const tarni_turns *turns, explained *e,
                               tarn_error *err)
{
    for (size_t i = 0; i < turns->n; i++) {
        tarni_lineage at = tarni_lineage_at(l, turns->ends[i]);
        e->turns[i] = (tarn_turn_price){.turn = (uint32_t)(i + 1), .position = turns->ends[i]};
        TARNI_TRY(tarni_lineage_price(&at, 0, &e->turns[i].price, err));
    }
    return TARN_OK;
}

/* A lineage that ends inside a node still has all of its segments. */
static void cut_turns(tarni_turns *turns, uint64_t position)
{
    while (turns->n > 0 && turns->ends[turns->n - 1] > position)
        turns->n--;
}

tarn_status tarni_list_turns(tarnp_store *store, const char *session, const char *where,
                             tarn_explanation *out, tarn_error *err)
{
    const tarn_allocator *a = tarnp_store_allocator(store);
    tarni_lineage l;
    tarni_turns turns;
    explained *e = NULL;
    TARNI_TRY(tarni_lineage_open(store, session, where, &l, err));
    tarni_chain chain = {session, l.nodes, l.n_nodes, a};
    tarn_status status = tarni_chain_turns(&chain, &turns, err);
    if (status != TARN_OK) {
        tarni_lineage_fini(&l);
        return status;
    }
    cut_turns(&turns, l.position);
    status = tarni_alloc(a, 1, sizeof *e + turns.n * sizeof e->turns[0], &e, err);
    if (status == TARN_OK) {
        e->allocator = *a;
        status = price_turns(&l, &turns, e, err);
    }
    if (status == TARN_OK)
        *out = (tarn_explanation){.turns = e->turns,
                                  .n_turns = turns.n,
                                  .bytes_owned = l.session.bytes_owned,
                                  .bytes_shared = l.session.bytes_shared,
                                  .owned = e};
    else
        tarni_free(a, e);
    tarni_free(a, turns.ends);
    tarni_lineage_fini(&l);
    return status;
}

void tarn_explanation_free(tarn_explanation *explanation)
{
    if (!explanation || !explanation->owned)
        return;
    explained *e = explanation->owned;
    tarn_allocator a = e->allocator;
    tarni_free(&a, e);
    *explanation = (tarn_explanation){0};
}
