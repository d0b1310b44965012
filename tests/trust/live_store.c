/* live_store.c - what a store does by itself with sessions that may be open (live.h), and how all
 * of it is opened, restarted, and found after a power cut. */
#include "live.h"

#include <inttypes.h>

/* ---- verbs of the store ---------------------------------------------------------------------- */

/* A session that is open for writing is not moved, renamed or removed. */
static tarn_status if_open(const live_session *x)
{
    return x->s ? TARN_E_BUSY : TARN_OK;
}

static bool op_branch(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char name[LIVE_NAME], other[LIVE_NAME], where[32];
    live_session *y = live_vacant(l);
    if (!y)
        return true;
    live_name_of(l, x, name);
    live_name_of(l, y, other);
    size_t n = (size_t)(b % (x->kept.n + 1));
    snprintf(where, sizeof where, "@t:%zu", n);
    tarn_status status = tarn_store_fork(l->r.store, name, where, other, NULL, NULL, NULL, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, TARN_OK, why);
    *y = (live_session){.being = LIVE_STORED, .renamed = y->renamed, .kept = x->kept};
    live_cut(&y->kept, n);
    return true;
}

static bool op_move(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char name[LIVE_NAME], where[32];
    live_name_of(l, x, name);
    size_t n = (size_t)(b % (x->kept.n + 1));
    snprintf(where, sizeof where, "@t:%zu", n);
    tarn_status status = tarn_store_rewind(l->r.store, name, where, NULL, NULL, NULL, ERR);
    if (status != TARN_OK || x->s)
        return live_refusal(l, status, if_open(x), why);
    live_cut(&x->kept, n);
    x->kept_sampling.size = 0;
    return true;
}

static bool op_rename(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char name[LIVE_NAME], other[LIVE_NAME];
    (void)b;
    live_name_of(l, x, name);
    live_name_then(l, x, x->renamed + 1, other);
    tarn_status status = tarn_store_rename(l->r.store, name, other, ERR);
    if (status != TARN_OK || x->s)
        return live_refusal(l, status, if_open(x), why);
    x->renamed++;
    return true;
}

static bool op_remove(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char name[LIVE_NAME];
    (void)b;
    live_name_of(l, x, name);
    tarn_status status = tarn_store_remove(l->r.store, name, ERR);
    if (status != TARN_OK || x->s)
        return live_refusal(l, status, if_open(x), why);
    *x = (live_session){.renamed = x->renamed};
    return true;
}

static bool op_collect(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    const tarn_gc_options o = {
        .size = sizeof o, .keep_newest = 1 + (uint32_t)(b % 2), .rung_tokens = 1000};
    tarn_gc_report report;
    (void)x;
    tarn_status status = tarn_store_gc(l->r.store, &o, &report, ERR);
    tarn_gc_report_free(&report);
    return status == TARN_OK || live_refusal(l, status, TARN_OK, why);
}

typedef struct stream {
    uint8_t *data;
    size_t n_bytes, at;
} stream;

static tarn_status put(void *user, const void *data, size_t n, tarn_error *err)
{
    stream *f = user;
    (void)err;
    f->data = realloc(f->data, f->n_bytes + n);
    memcpy(f->data + f->n_bytes, data, n);
    f->n_bytes += n;
    return TARN_OK;
}

static tarn_status get(void *user, void *data, size_t n, size_t *n_read, tarn_error *err)
{
    stream *f = user;
    (void)err;
    *n_read = n < f->n_bytes - f->at ? n : f->n_bytes - f->at;
    memcpy(data, f->data + f->at, *n_read);
    f->at += *n_read;
    return TARN_OK;
}

static bool op_copy(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char name[LIVE_NAME], other[LIVE_NAME];
    live_session *y = live_vacant(l);
    stream f = {0};
    (void)b;
    if (!y)
        return true;
    live_name_of(l, x, name);
    live_name_of(l, y, other);
    tarn_status status = tarn_store_export(l->r.store, name, put, &f, NULL, NULL, NULL, ERR);
    if (status == TARN_OK)
        status = tarn_store_import(l->r.store, get, &f, other, NULL, NULL, NULL, ERR);
    free(f.data);
    if (status != TARN_OK)
        return live_refusal(l, status, TARN_OK, why);
    *y = (live_session){.being = LIVE_STORED, .renamed = y->renamed, .kept = x->kept};
    return true;
}

static bool op_mark(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char name[LIVE_NAME];
    live_name_of(l, x, name);
    tarn_status status = b % 2 ? tarn_store_pin(l->r.store, name, b % 4 == 1, ERR)
                               : tarn_store_tag(l->r.store, name, "k", b % 4 ? "v" : NULL, ERR);
    return status == TARN_OK || live_refusal(l, status, TARN_OK, why);
}

/* ---- all of it ------------------------------------------------------------------------------- */

void live_drop(live *l)
{
    for (size_t i = 0; i < LIVE_SESSIONS; i++)
        if (l->sessions[i].s)
            live_close(&l->sessions[i]);
    tarn_engine_close(l->r.engine);
    tarn_store_close(l->r.store);
    l->r.engine = NULL;
    l->r.store = NULL;
}

bool live_raise(live *l, uint64_t b, char why[LIVE_WHY])
{
    static const uint32_t steps[] = {0, 1, 7, 33}, keeps[] = {0, 5, 16, 64};
    const tarn_store_options st = {
        .size = sizeof st, .flags = TARN_STORE_CREATE, .map_bytes = (uint64_t)1 << 28};
    tarn_plan_report plan = {.size = sizeof plan};
    tarn_engine_options o = {.size = sizeof o,
                             .device = "cpu",
                             .n_threads = 1 + (uint32_t)(b % 2),
                             .step_tokens_max = steps[(b >> 2) % 4],
                             .keep_every = keeps[(b >> 4) % 4]};
    l->ceilings = (b >> 6) % 4 == 0;
    if (l->ceilings && tarn_plan(l->r.model, NULL, &plan, ERR) != TARN_OK)
        return LIVE_SAY("plan: %.200s", rig_error.detail);
    if (l->ceilings && (b >> 10) % 2 == 0)
        o.slots_bytes_max = (5 + (b >> 8) % 3) * plan.slot_bytes;
    else if (l->ceilings) /* slots and pages from one pool, which lend one another */
        o.pool_bytes_max = (6 + (b >> 8) % 3) * plan.slot_bytes + 8 * plan.page_bytes;
    if (tarn_engine_open(l->r.model, &o, &l->r.engine, ERR) != TARN_OK)
        return LIVE_SAY("engine: %.200s", rig_error.detail);
    return tarn_store_open(l->r.store_path, &st, &l->r.store, ERR) == TARN_OK ||
           LIVE_SAY("store: %.200s", rig_error.detail);
}

static bool op_restart(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    (void)x;
    for (size_t i = 0; i < LIVE_SESSIONS; i++)
        if (l->sessions[i].s)
            live_close(&l->sessions[i]);
    tarn_engine_stat stat = rig_stat(&l->r);
    if (stat.slots + stat.pages + stat.sessions > 0)
        return LIVE_SAY("%" PRIu64 " slots and %" PRIu64 " pages are left over", stat.slots,
                        stat.pages);
    live_drop(l);
    if ((b >> 12) % 4 == 0 &&
        tarn_store_compact(l->r.store_path, NULL, NULL, NULL, NULL, ERR) != TARN_OK)
        return LIVE_SAY("compact: %.200s", rig_error.detail);
    return live_raise(l, b, why);
}

bool live_store_apply(live *l, live_op op, char why[LIVE_WHY])
{
    static bool (*const does[])(live *, live_session *, uint64_t, char *) = {
        op_branch, op_move, op_rename, op_remove, op_collect, op_copy, op_mark, op_restart};
    live_session *x = &l->sessions[op.a % LIVE_SESSIONS];
    if (op.kind != LIVE_COLLECT && op.kind != LIVE_RESTART && x->being != LIVE_STORED)
        return true;
    return live_settle(l, x, why) && does[op.kind - LIVE_BRANCH](l, x, op.b, why);
}

void live_begin(live *l, bool talks)
{
    memset(l, 0, sizeof *l);
    rig_open(&l->r, talks ? RIG_RECALL : RIG_TINY, NULL);
    l->talks = talks;
    if (!cold_open(&l->cold, l->r.model))
        rig_must(l->cold.err.status, "cold_open", __FILE__, __LINE__);
    for (size_t i = 0; i < 3; i++) {
        l->streams[i].n = COLD_IDS;
        rig_ids(&l->r, 900 + i, l->streams[i].ids, COLD_IDS);
        if (i == 1) /* which parts from the first late */
            memcpy(l->streams[i].ids, l->streams[0].ids, 40 * sizeof(uint32_t));
    }
    live_ids closed;
    if (talks && live_render(l, "{\"messages\":[],\"add_generation_prompt\":true}", &l->header) &&
        live_message_ids(l, 0, 0, &closed))
        l->im_end = closed.ids[closed.n - 1];
}

void live_end(live *l)
{
    live_drop(l);
    cold_close(&l->cold);
    rig_close(&l->r);
}

/* ---- after a power cut ----------------------------------------------------------------------- */

/* The ids of a session the store has under the name it had or got; false: it has none. */
static bool find_stored(live *l, live_session *x, unsigned renamed, live_ids *out)
{
    char name[LIVE_NAME];
    tarn_ids ids;
    x->renamed = renamed;
    live_name_of(l, x, name);
    if (tarn_store_tokens(l->r.store, name, NULL, &ids, ERR) != TARN_OK)
        return false;
    out->n = 0;
    live_add(out, ids.ids, ids.n_ids);
    tarn_ids_free(&ids);
    return true;
}

static bool recover_one(live *l, const live_session *was, live_session *x, char why[LIVE_WHY])
{
    live_session is = *x;
    live_ids found;
    bool stood = was->being == LIVE_STORED, stands = is.being == LIVE_STORED;
    unsigned renamed = is.renamed;
    *x = (live_session){.renamed = renamed};
    if (!find_stored(l, x, renamed, &found) && !find_stored(l, x, was->renamed, &found)) {
        x->renamed = renamed;
        return !(stood && stands) || LIVE_SAY("a session is lost: %.150s", rig_error.detail);
    }
    if (!stood && !stands)
        return LIVE_SAY("a session is there that was never made");
    /* `now` of before: what goes back or elsewhere commits first */
    bool good = (stood && (live_same(&found, &was->kept) || live_same(&found, &was->now))) ||
                (stands && live_same(&found, &is.kept));
    x->being = LIVE_STORED;
    x->kept = found;
    return good || LIVE_SAY("session %u has %zu ids in the store, kept were %zu, then %zu",
                            (unsigned)(x - l->sessions), found.n, was->kept.n, is.kept.n);
}

bool live_recover(live *l, const live_session before[LIVE_SESSIONS], char why[LIVE_WHY])
{
    for (size_t i = 0; i < LIVE_SESSIONS; i++)
        if (!recover_one(l, &before[i], &l->sessions[i], why))
            return false;
    return live_match(l, why);
}
