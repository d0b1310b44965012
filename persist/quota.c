#include "quota.h"

#include "choose.h"
#include "log.h"
#include "names.h"
#include "refs.h"

#include <stdio.h>
#include <string.h>

#define PREFIX "quota"

typedef struct quota_key {
    char text[sizeof PREFIX + 1 + TARNP_GROUP_BYTES_MAX];
    size_t n_bytes;
} quota_key;

static quota_key key_of(const char *group)
{
    quota_key k;
    int n = snprintf(k.text, sizeof k.text, group ? PREFIX ":%s" : PREFIX, group);
    k.n_bytes = (size_t)n;
    return k;
}

static tarn_status get_quota(tarnp_txn *txn, const char *group, uint64_t *out, tarn_error *err)
{
    quota_key k = key_of(group);
    return tarnp_id_get(txn, TARNP_TABLE_META, k.text, k.n_bytes, out, err);
}

/* ---- setting -------------------------------------------------------------------------------- */

static bool of_group(const tarnp_forest *f, const tarnp_forest_node *n, const char *group)
{
    if (!group)
        return true;
    const tarnp_forest_session *s = tarnp_forest_find_session(f, n->session_id);
    return s && !s->is_gone && strcmp(s->record.group, group) == 0;
}

static tarn_status check_quota(const tarnp_forest *f, const char *group, uint64_t n_bytes,
                               tarn_error *err)
{
    const tarnp_forest_node *largest = NULL;
    for (size_t i = 0; i < f->n_nodes; i++) {
        const tarnp_forest_node *n = &f->nodes[i];
        if (of_group(f, n, group) && (!largest || n->stored_bytes > largest->stored_bytes))
            largest = n;
    }
    if (largest && largest->stored_bytes > n_bytes)
        return tarni_fail(err, TARN_E_INVALID, "a quota of %llu bytes: node %llu alone has %llu",
                          (unsigned long long)n_bytes, (unsigned long long)largest->id,
                          (unsigned long long)largest->stored_bytes);
    return TARN_OK;
}

tarn_status tarnp_quota_set(tarnp_store *store, const char *group, uint64_t n_bytes,
                            tarn_error *err)
{
    if (group)
        TARNI_TRY(tarnp_group_check(group, err));
    if (group && !*group)
        return tarni_fail(err, TARN_E_INVALID, "the group has no name");
    tarnp_write w;
    tarnp_forest f;
    quota_key k = key_of(group);
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = TARN_OK;
    if (n_bytes == 0) {
        status = tarnp_delete(&w.txn, TARNP_TABLE_META, k.text, k.n_bytes, NULL, err);
    } else {
        status = tarnp_forest_load(store, &w.txn, &f, err);
        if (status == TARN_OK)
            status = check_quota(&f, group, n_bytes, err);
        tarnp_forest_fini(&f);
        if (status == TARN_OK)
            status = tarnp_id_put(&w.txn, TARNP_TABLE_META, k.text, k.n_bytes, n_bytes, err);
    }
    return status == TARN_OK ? tarnp_write_commit(&w, NULL, err) : tarnp_write_abort(&w, status);
}

tarn_status tarnp_quota_get(tarnp_store *store, const char *group, uint64_t *n_bytes,
                            tarn_error *err)
{
    tarnp_txn txn;
    *n_bytes = 0;
    if (group)
        TARNI_TRY(tarnp_group_check(group, err));
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = get_quota(&txn, group, n_bytes, err);
    tarnp_txn_abort(&txn);
    return status;
}

/* ---- commits -------------------------------------------------------------------------------- */

static tarn_status group_bytes(tarnp_write *w, const char *group, uint64_t *out, tarn_error *err)
{
    tarnp_cursor cursor;
    tarnp_span key, value;
    *out = 0;
    TARNI_TRY(tarnp_cursor_open(&w->txn, TARNP_TABLE_SESSION, &cursor, err));
    tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, err);
    while (status == TARN_OK && key.data) {
        tarnp_session s;
        status = tarnp_session_record_get(value, tarni_load_u64_be(key.data), &w->store->allocator,
                                          &s, err);
        if (status != TARN_OK)
            break;
        *out += strcmp(s.group, group) == 0 ? s.bytes_owned : 0;
        tarnp_session_fini(&s);
        status = tarnp_cursor_next(&cursor, &key, &value, err);
    }
    tarnp_cursor_close(&cursor);
    return status;
}

/* By how much n_bytes more exceed a quota. */
static uint64_t excess(uint64_t used, uint64_t n_bytes, uint64_t quota)
{
    uint64_t sum;
    if (quota == 0)
        return 0;
    if (__builtin_add_overflow(used, n_bytes, &sum))
        sum = UINT64_MAX;
    return sum > quota ? sum - quota : 0;
}

static tarn_status too_much(tarn_error *err, const char *group, uint64_t quota, uint64_t used,
                            uint64_t n_bytes)
{
    return tarni_fail(err, TARN_E_QUOTA,
                      "the quota of %s%s is %llu bytes: %llu are used, %llu more are needed",
                      group ? "group " : "the store", group ? group : "", (unsigned long long)quota,
                      (unsigned long long)used, (unsigned long long)n_bytes);
}

static tarn_status too_much_even_so(tarn_error *err, const char *group, uint64_t quota,
                                    uint64_t used, uint64_t n_bytes, uint64_t can_go)
{
    tarn_error figures;
    tarn_status status = too_much(&figures, group, quota, used, n_bytes);
    return tarni_fail(err, status, "%.200s, %llu can be evicted", figures.detail,
                      (unsigned long long)can_go);
}

tarn_status tarnp_quota_check_staged(tarnp_write *w, uint64_t n_bytes, uint64_t n_staged,
                                     tarn_error *err)
{
    uint64_t quota, used = w->counters.bytes_stored;
    TARNI_TRY(get_quota(&w->txn, NULL, &quota, err));
    used -= n_staged < used ? n_staged : used;
    return n_bytes > 0 && excess(used, n_bytes, quota) > 0
               ? too_much(err, NULL, quota, used, n_bytes)
               : TARN_OK;
}

tarn_status tarnp_quota_check(tarnp_write *w, const tarnp_session *s, uint64_t n_bytes,
                              tarn_error *err)
{
    uint64_t quota, used;
    TARNI_TRY(tarnp_quota_check_staged(w, n_bytes, 0, err));
    if (!*s->group)
        return TARN_OK;
    TARNI_TRY(get_quota(&w->txn, s->group, &quota, err));
    if (quota == 0)
        return TARN_OK;
    TARNI_TRY(group_bytes(w, s->group, &used, err));
    if (excess(used, n_bytes, quota) > 0)
        return too_much(err, s->group, quota, used, n_bytes);
    return TARN_OK;
}

/* First the group's quota, then what that leaves of the store's. */
static tarn_status choose_room(tarnp_write *w, tarnp_forest *f, const tarnp_commit *commit,
                               uint64_t n_bytes, tarn_error *err)
{
    tarnp_choice choice = {
        .writer = commit->session_id, .writer_base = commit->parent, .now_ms = tarnp_now_ms()};
    const tarnp_forest_session *s = tarnp_forest_find_session(f, commit->session_id);
    uint64_t quota, used, needed, freed, freed_before = 0;
    if (s && *s->record.group) {
        choice.group = s->record.group;
        TARNI_TRY(get_quota(&w->txn, choice.group, &quota, err));
        TARNI_TRY(group_bytes(w, choice.group, &used, err));
        needed = excess(used, n_bytes, quota);
        TARNI_TRY(tarnp_choose(f, &choice, needed, &freed_before, err));
        if (freed_before < needed)
            return too_much_even_so(err, choice.group, quota, used, n_bytes, freed_before);
        choice.group = NULL;
    }
    TARNI_TRY(get_quota(&w->txn, NULL, &quota, err));
    used = w->counters.bytes_stored;
    needed = excess(used, n_bytes, quota);
    if (needed <= freed_before)
        return TARN_OK;
    TARNI_TRY(tarnp_choose(f, &choice, needed - freed_before, &freed, err));
    if (freed_before + freed < needed)
        return too_much_even_so(err, NULL, quota, used, n_bytes, freed_before + freed);
    return TARN_OK;
}

tarn_status tarnp_quota_make_room(tarnp_store *store, const tarnp_commit *commit, uint64_t n_bytes,
                                  tarn_error *err)
{
    tarnp_write w;
    tarnp_forest f = {0};
    tarnp_refs_drain(store); /* what is queued counts as stored */
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_forest_load(store, &w.txn, &f, err);
    if (status == TARN_OK)
        status = choose_room(&w, &f, commit, n_bytes, err);
    if (status == TARN_OK)
        status = tarnp_forest_apply(&w, &f, err);
    tarnp_forest_fini(&f);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    TARNI_TRY(tarnp_write_commit(&w, NULL, err));
    TARNI_LOG(&store->log, TARN_LOG_INFO, "evicted for a commit of %llu bytes",
              (unsigned long long)n_bytes);
    tarnp_refs_drain(store);
    return TARN_OK;
}

/* ---- collection ----------------------------------------------------------------------------- */

/* Of nodes that stay, without what has a verdict already. */
static uint64_t bytes_after(const tarnp_forest *f, const char *group)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < f->n_nodes; i++) {
        const tarnp_forest_node *n = &f->nodes[i];
        if (n->is_dead || !of_group(f, n, group))
            continue;
        sum += n->stored_bytes - (n->state.why ? n->state_bytes : 0) -
               (n->latents.why ? n->latent_bytes : 0);
    }
    return sum;
}

static tarn_status enforce_one(tarnp_forest *f, const char *group, uint64_t quota, uint64_t now_ms,
                               tarn_error *err)
{
    tarnp_choice choice = {.group = group, .now_ms = now_ms};
    uint64_t freed, needed = excess(bytes_after(f, group), 0, quota);
    return needed > 0 ? tarnp_choose(f, &choice, needed, &freed, err) : TARN_OK;
}

tarn_status tarnp_quota_enforce(tarnp_txn *txn, tarnp_forest *f, uint64_t now_ms, tarn_error *err)
{
    uint64_t quota;
    for (size_t i = 0; i < f->n_sessions; i++) {
        const char *group = f->sessions[i].record.group;
        if (!*group)
            continue;
        /* Once a group: enforcing it again finds nothing to do. */
        TARNI_TRY(get_quota(txn, group, &quota, err));
        if (quota > 0)
            TARNI_TRY(enforce_one(f, group, quota, now_ms, err));
    }
    TARNI_TRY(get_quota(txn, NULL, &quota, err));
    return enforce_one(f, NULL, quota, now_ms, err);
}
