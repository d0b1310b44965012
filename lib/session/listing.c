#include "listing.h"

#include "lineage.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- sessions ---- */

typedef struct session_list {
    tarn_allocator allocator;
    tarnp_session *sessions; /* all; entries and tags borrow their texts */
    size_t n_sessions;
    tarn_session_entry *entries;
    tarn_tag *tags;
} session_list;

static bool carries(const tarnp_session *s, const char *tag)
{
    const char *value = strchr(tag, '=');
    size_t key_bytes = value ? (size_t)(value - tag) : strlen(tag);
    for (size_t i = 0; i < s->n_tags; i++) {
        const tarnp_tag *t = &s->tags[i];
        if (strlen(t->key) == key_bytes && memcmp(t->key, tag, key_bytes) == 0 &&
            (!value || strcmp(t->value, value + 1) == 0))
            return true;
    }
    return false;
}

static void free_session_list(session_list *l)
{
    tarn_allocator a = l->allocator;
    tarnp_sessions_free(l->sessions, l->n_sessions);
    tarni_free(&a, l->entries);
    tarni_free(&a, l->tags);
    tarni_free(&a, l);
}

static size_t fill_session(const tarnp_session *s, tarn_session_entry *out, tarn_tag *tags)
{
    *out = (tarn_session_entry){.name = s->name,
                                .node = s->head,
                                .position = s->position,
                                .turns = s->turns,
                                .pinned = s->pinned,
                                .expires_ms = s->expires_ms,
                                .group = s->group,
                                .bytes_owned = s->bytes_owned,
                                .bytes_shared = s->bytes_shared,
                                .created_ms = s->created_ms,
                                .updated_ms = s->updated_ms,
                                .tags = tags,
                                .n_tags = s->n_tags};
    for (size_t i = 0; i < s->n_tags; i++)
        tags[i] = (tarn_tag){s->tags[i].key, s->tags[i].value};
    return s->n_tags;
}

tarn_status tarni_list_sessions(tarnp_store *store, const char *tag, tarn_session_list *out,
                                tarn_error *err)
{
    const tarn_allocator *a = tarnp_store_allocator(store);
    session_list *l;
    TARNI_TRY(tarni_alloc(a, 1, sizeof *l, &l, err));
    l->allocator = *a;
    tarn_status status = tarnp_session_list(store, &l->sessions, &l->n_sessions, err);
    size_t n_tags = 0, n = 0;
    for (size_t i = 0; i < l->n_sessions; i++)
        n_tags += l->sessions[i].n_tags;
    if (status == TARN_OK)
        status = tarni_alloc(a, l->n_sessions, sizeof *l->entries, &l->entries, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_tags, sizeof *l->tags, &l->tags, err);
    if (status != TARN_OK) {
        free_session_list(l);
        return status;
    }
    tarn_tag *tags = l->tags;
    for (size_t i = 0; i < l->n_sessions; i++)
        if (!tag || carries(&l->sessions[i], tag))
            tags += fill_session(&l->sessions[i], &l->entries[n++], tags);
    *out = (tarn_session_list){.entries = l->entries, .n_entries = n, .owned = l};
    return TARN_OK;
}

void tarn_session_list_free(tarn_session_list *list)
{
    if (!list || !list->owned)
        return;
    free_session_list(list->owned);
    *list = (tarn_session_list){0};
}

/* ---- nodes ---- */

typedef struct node_list {
    tarn_allocator allocator;
    tarni_lineage lineage; /* log: segments borrow from its nodes */
    tarn_node_entry *entries;
    tarn_segment *segments;
    tarnp_session *sessions; /* tree: names borrow from them */
    size_t n_sessions;
    const char **names;
} node_list;

static void free_node_list(node_list *l)
{
    tarn_allocator a = l->allocator;
    tarni_lineage_fini(&l->lineage);
    tarnp_sessions_free(l->sessions, l->n_sessions);
    tarni_free(&a, l->entries);
    tarni_free(&a, l->segments);
    tarni_free(&a, (void *)l->names);
    tarni_free(&a, l);
}

void tarn_node_list_free(tarn_node_list *list)
{
    if (!list || !list->owned)
        return;
    free_node_list(list->owned);
    *list = (tarn_node_list){0};
}

static void fill_log(const tarnp_node *node, bool pinned, tarn_node_entry *out,
                     tarn_segment *segments)
{
    *out = (tarn_node_entry){.node = node->id,
                             .parent = node->parent,
                             .position = node->position,
                             .created_ms = node->created_ms,
                             .has_state = tarni_node_resumable(node),
                             .bit_exact = node->flags & TARNP_NODE_BIT_EXACT,
                             .pinned = pinned,
                             .segments = segments,
                             .n_segments = node->n_segments};
    for (size_t i = 0; i < node->n_segments; i++) {
        const tarnp_segment *s = &node->segments[i];
        segments[i] = (tarn_segment){.role = s->role,
                                     .n_tokens = s->n_tokens,
                                     .continues = s->flags & TARNP_SEGMENT_CONTINUES,
                                     .closed = s->flags & TARNP_SEGMENT_CLOSED,
                                     .call_ids = (const char *const *)s->call_ids,
                                     .n_call_ids = s->n_call_ids};
    }
}

tarn_status tarni_list_log(tarnp_store *store, const char *session, const char *where,
                           tarn_node_list *out, tarn_error *err)
{
    const tarn_allocator *a = tarnp_store_allocator(store);
    node_list *l;
    TARNI_TRY(tarni_alloc(a, 1, sizeof *l, &l, err));
    l->allocator = *a;
    tarn_status status = tarni_lineage_open(store, session, where, &l->lineage, err);
    size_t n = status == TARN_OK ? l->lineage.n_at : 0, n_segments = 0;
    for (size_t i = 0; i < n; i++)
        n_segments += l->lineage.nodes[i].n_segments;
    if (status == TARN_OK)
        status = tarni_alloc(a, n, sizeof *l->entries, &l->entries, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_segments, sizeof *l->segments, &l->segments, err);
    if (status != TARN_OK) {
        free_node_list(l);
        return status;
    }
    tarn_segment *segments = l->segments;
    for (size_t i = 0; i < n; i++) {
        fill_log(&l->lineage.nodes[i], l->lineage.session.pinned, &l->entries[i], segments);
        segments += l->lineage.nodes[i].n_segments;
    }
    *out = (tarn_node_list){.entries = l->entries, .n_entries = n, .owned = l};
    return TARN_OK;
}

/* Nodes come parents first, so one pass marks every node of the root's tree. briefs are by id. */
static size_t find_brief(const tarnp_node_brief *briefs, size_t n, uint64_t id)
{
    size_t low = 0;
    while (low < n) {
        size_t middle = low + (n - low) / 2;
        if (briefs[middle].id < id)
            low = middle + 1;
        else
            n = middle;
    }
    return low;
}

static size_t root_of(const tarnp_node_brief *briefs, size_t n, size_t at)
{
    while (briefs[at].parent != TARNP_NODE_NONE) {
        size_t parent = find_brief(briefs, n, briefs[at].parent);
        if (parent >= at)
            break;
        at = parent;
    }
    return at;
}

/* The tree's nodes into entries; returns how many. in_tree is scratch. */
static size_t fill_tree(const tarnp_node_brief *briefs, size_t n, size_t root, bool all,
                        bool *in_tree, tarn_node_entry *entries)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        size_t parent =
            briefs[i].parent == TARNP_NODE_NONE ? n : find_brief(briefs, n, briefs[i].parent);
        in_tree[i] = all || i == root || (parent < i && in_tree[parent]);
        if (!in_tree[i])
            continue;
        const tarnp_node_brief *b = &briefs[i];
        entries[kept++] =
            (tarn_node_entry){.node = b->id,
                              .parent = b->parent,
                              .position = b->position,
                              .created_ms = b->created_ms,
                              .has_state = (b->flags & TARNP_NODE_HAS_STATE) || b->position == 0,
                              .bit_exact = b->flags & TARNP_NODE_BIT_EXACT};
    }
    return kept;
}

static int by_head(const void *a, const void *b)
{
    uint64_t x = ((const tarnp_session *)a)->head, y = ((const tarnp_session *)b)->head;
    return x < y ? -1 : x > y;
}

/* With the sessions sorted by head, and nodes by id, one walk over both names every node. */
static void name_heads(node_list *l, tarn_node_entry *entries, size_t n)
{
    size_t at = 0;
    qsort(l->sessions, l->n_sessions, sizeof *l->sessions, by_head);
    for (size_t i = 0; i < n; i++) {
        while (at < l->n_sessions && l->sessions[at].head < entries[i].node)
            at++;
        size_t begin = at;
        for (; at < l->n_sessions && l->sessions[at].head == entries[i].node; at++)
            l->names[at] = l->sessions[at].name;
        entries[i].sessions = l->names + begin;
        entries[i].n_sessions = at - begin;
    }
}

tarn_status tarni_list_tree(tarnp_store *store, const char *session, tarn_node_list *out,
                            tarn_error *err)
{
    const tarn_allocator *a = tarnp_store_allocator(store);
    tarnp_session start = {0};
    tarnp_node_brief *briefs = NULL;
    bool *in_tree = NULL;
    size_t n = 0;
    node_list *l;
    if (session)
        TARNI_TRY(tarnp_session_find(store, session, &start, err));
    uint64_t head = start.head;
    tarnp_session_fini(&start);
    TARNI_TRY(tarni_alloc(a, 1, sizeof *l, &l, err));
    l->allocator = *a;
    tarn_status status = tarnp_session_list(store, &l->sessions, &l->n_sessions, err);
    if (status == TARN_OK)
        status = tarnp_node_list(store, &briefs, &n, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n, sizeof *in_tree, &in_tree, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n, sizeof *l->entries, &l->entries, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, l->n_sessions, sizeof *l->names, &l->names, err);
    size_t at = status == TARN_OK && session ? find_brief(briefs, n, head) : 0;
    if (status == TARN_OK && session && (at == n || briefs[at].id != head))
        status = tarni_fail(err, TARN_E_CORRUPT, "the head %llu of %s is not there",
                            (unsigned long long)head, session);
    if (status == TARN_OK) {
        size_t root = session ? root_of(briefs, n, at) : 0;
        size_t kept = fill_tree(briefs, n, root, !session, in_tree, l->entries);
        name_heads(l, l->entries, kept);
        *out = (tarn_node_list){.entries = l->entries, .n_entries = kept, .owned = l};
    } else {
        free_node_list(l);
    }
    tarni_free(a, in_tree);
    tarni_free(a, briefs);
    return status;
}

/* ---- damage ---- */

typedef struct damage {
    tarn_allocator allocator;
    tarn_bad_chunk bad[];
} damage;

static tarn_status list_bad(const tarnp_verified *v, const tarn_allocator *a,
                            tarn_verify_report *out, tarn_error *err)
{
    size_t n_listed = v->n_bad < TARNP_BAD_LISTED_MAX ? v->n_bad : TARNP_BAD_LISTED_MAX;
    damage *d;
    TARNI_TRY(tarni_alloc(a, 1, sizeof *d + n_listed * sizeof d->bad[0], &d, err));
    d->allocator = *a;
    for (size_t i = 0; i < n_listed; i++) {
        d->bad[i] = (tarn_bad_chunk){.node = v->bad[i].node, .chunk = v->bad[i].chunk};
        static_assert(sizeof d->bad[i].reason == sizeof v->bad[i].reason, "same text");
        memcpy(d->bad[i].reason, v->bad[i].reason, sizeof d->bad[i].reason);
    }
    *out = (tarn_verify_report){.nodes = v->nodes,
                                .chunks = v->chunks,
                                .bytes = v->bytes,
                                .n_bad = v->n_bad,
                                .n_listed = n_listed,
                                .bad = d->bad,
                                .owned = d};
    return TARN_OK;
}

tarn_status tarni_list_verified(tarnp_store *store,
                                bool (*progress)(void *user, uint64_t done, uint64_t all),
                                void *user, tarn_verify_report *out, tarn_error *err)
{
    const tarn_allocator *a = tarnp_store_allocator(store);
    tarnp_verified v;
    TARNI_TRY(tarnp_store_verify(store, progress, user, &v, err));
    tarn_status status = list_bad(&v, a, out, err);
    tarni_free(a, v.bad);
    return status;
}

void tarn_verify_report_free(tarn_verify_report *report)
{
    if (!report || !report->owned)
        return;
    damage *d = report->owned;
    tarn_allocator a = d->allocator;
    tarni_free(&a, d);
    *report = (tarn_verify_report){0};
}
