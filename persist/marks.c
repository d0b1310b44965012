/* marks.c - what people set on a session: tags, pin, time to live, quota group. One write
 * transaction each, none where nothing changes. */
#include "entries.h"
#include "names.h"

#include <stdio.h>
#include <string.h>

typedef struct mark_change {
    const char *tag_key, *tag_value, *group;
    const bool *pinned;
    const uint64_t *expires_ms;
} mark_change;

/* A copy of the tags with one set, replaced or left out; the texts stay those of the old ones and
 * of the change. */
static tarn_status change_tags(tarnp_session *s, const mark_change *change, tarnp_tag **tags,
                               bool *changed, tarn_error *err)
{
    size_t n = 0;
    bool found = false;
    TARNI_TRY(tarni_alloc(s->allocator, s->n_tags + 1, sizeof **tags, tags, err));
    for (size_t i = 0; i < s->n_tags; i++) {
        tarnp_tag tag = s->tags[i];
        if (strcmp(tag.key, change->tag_key) == 0) {
            found = true;
            *changed = !change->tag_value || strcmp(tag.value, change->tag_value) != 0;
            if (!change->tag_value)
                continue;
            tag.value = change->tag_value;
        }
        (*tags)[n++] = tag;
    }
    if (!found && change->tag_value) {
        (*tags)[n++] = (tarnp_tag){change->tag_key, change->tag_value};
        *changed = true;
    }
    tarn_status status = tarnp_tags_check(*tags, n, err);
    if (status != TARN_OK) {
        tarni_free(s->allocator, *tags);
        *tags = NULL;
        return status;
    }
    s->n_tags = n;
    return TARN_OK;
}

static tarn_status put_changed(tarnp_write *w, tarnp_session *s, const mark_change *change,
                               bool *changed, tarn_error *err)
{
    const tarn_allocator *a = &w->store->allocator;
    tarnp_tag *tags = NULL;
    tarnp_session now = *s;
    if (change->tag_key)
        TARNI_TRY(change_tags(&now, change, &tags, changed, err));
    if (tags)
        now.tags = tags;
    if (change->pinned) {
        *changed = now.pinned != *change->pinned;
        now.pinned = *change->pinned;
    }
    if (change->expires_ms) {
        *changed = now.expires_ms != *change->expires_ms;
        now.expires_ms = *change->expires_ms;
    }
    if (change->group) {
        *changed = strcmp(now.group, change->group) != 0;
        snprintf(now.group, sizeof now.group, "%s", change->group);
    }
    tarn_status status = *changed ? tarnp_session_record_put(&w->txn, &now, a, err) : TARN_OK;
    tarni_free(a, tags);
    return status;
}

static tarn_status change_session(tarnp_store *store, const char *name, const mark_change *change,
                                  tarn_error *err)
{
    tarnp_write w;
    tarnp_session s;
    bool changed = false;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_session_load_named(store, &w.txn, name, &s, err);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    status = put_changed(&w, &s, change, &changed, err);
    tarnp_session_fini(&s);
    if (status != TARN_OK || !changed)
        return tarnp_write_abort(&w, status);
    return tarnp_write_commit(&w, NULL, err);
}

tarn_status tarnp_session_tag(tarnp_store *store, const char *name, const char *key,
                              const char *value, tarn_error *err)
{
    const tarnp_tag tag = {key, value ? value : ""};
    TARNI_TRY(tarnp_tags_check(&tag, 1, err));
    return change_session(store, name, &(mark_change){.tag_key = key, .tag_value = value}, err);
}

tarn_status tarnp_session_pin(tarnp_store *store, const char *name, bool pinned, tarn_error *err)
{
    return change_session(store, name, &(mark_change){.pinned = &pinned}, err);
}

tarn_status tarnp_session_expire(tarnp_store *store, const char *name, uint64_t expires_ms,
                                 tarn_error *err)
{
    return change_session(store, name, &(mark_change){.expires_ms = &expires_ms}, err);
}

tarn_status tarnp_session_set_group(tarnp_store *store, const char *name, const char *group,
                                    tarn_error *err)
{
    TARNI_TRY(tarnp_group_check(group, err));
    return change_session(store, name, &(mark_change){.group = group}, err);
}
