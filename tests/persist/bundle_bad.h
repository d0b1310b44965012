/* bundle_bad.h - a session in a file, and a store that a bad file must leave as it is. */
#ifndef TARN_TESTS_BUNDLE_BAD_H
#define TARN_TESTS_BUNDLE_BAD_H

#include "bundle_kit.h"

/* A session of four nodes with tags; one node is a fork's. Its seeds are 1 to 4. */
static inline void bad_fill(kit *k, const char *name)
{
    const tarnp_tag tags[2] = {{"project", "tarn"}, {"note", "\xC3\xA4 = b"}};
    tarnp_session s;
    CHECK_STATUS(tarnp_model_put(k->store, kit_fp, "descriptor", 10, &k->err), TARN_OK);
    REQUIRE_OK(tarnp_session_create(k->store, "first", kit_fp, "cpu/f32", tags, 2, &s, &k->err),
               &k->err);
    tarnp_session_fini(&s);
    kit_append(k, "first", 1);
    uint64_t node = kit_append(k, "first", 2);
    REQUIRE_OK(tarnp_session_create(k->store, name, kit_fp, "cpu/f32", tags, 2, &s, &k->err),
               &k->err);
    CHECK_STATUS(tarnp_session_move(k->store, s.id, s.head, node, NULL, &k->err), TARN_OK);
    tarnp_session_fini(&s);
    kit_append(k, name, 3);
    kit_append(k, name, 4);
}

static inline void bad_check_session(kit *k, const char *name)
{
    tarnp_session s;
    uint64_t *ids;
    size_t n;
    REQUIRE_OK(tarnp_session_find(k->store, name, &s, &k->err), &k->err);
    CHECK_EQ(s.n_tags, 2);
    if (s.n_tags == 2)
        CHECK_TEXT(s.tags[1].value, "\xC3\xA4 = b");
    REQUIRE_OK(tarnp_node_chain(k->store, s.head, &ids, &n, &k->err), &k->err);
    CHECK_EQ(n, 5);
    for (uint64_t i = 1; i < n; i++)
        kit_check_node(k, ids[i], i);
    tarni_free(tarnp_store_allocator(k->store), ids);
    tarnp_session_fini(&s);
}

typedef struct bad {
    kit k; /* a store with one session, which must stay as it is */
    kit_bundle good, file;
    tarnp_stat before;
} bad;

static inline bool bad_begin(bad *b)
{
    kit source;
    if (!kit_begin(&source) || !kit_begin(&b->k))
        return false;
    kit_floats = 8;
    bad_fill(&source, "a");
    bool ok = kit_export(&source, "a", &b->good);
    kit_end(&source);
    kit_create(&b->k, "mine");
    kit_append(&b->k, "mine", 50);
    b->before = kit_stat(&b->k);
    b->file = kit_bundle_copy(&b->good);
    return ok;
}

/* Nothing but the number of the next ids and the bytes ever written may have changed. */
static inline void bad_check_untouched(bad *b)
{
    tarnp_stat now = kit_stat(&b->k);
    CHECK_EQ(now.sessions, b->before.sessions);
    CHECK_EQ(now.nodes, b->before.nodes);
    CHECK_EQ(now.chunks, b->before.chunks);
    CHECK_EQ(now.bytes_stored, b->before.bytes_stored);
}

static inline void bad_refuse(bad *b, tarn_status want, const char *part)
{
    kit_bundle_sign(&b->file);
    CHECK_STATUS(kit_import(&b->k, &b->file, NULL, NULL), want);
    CHECK_HAS(b->k.err.detail, part);
    bad_check_untouched(b);
    free(b->file.data);
    b->file = kit_bundle_copy(&b->good);
}

static inline void bad_end(bad *b)
{
    CHECK_STATUS(kit_import(&b->k, &b->file, NULL, NULL), TARN_OK);
    bad_check_session(&b->k, "a");
    KIT_CLEAN(&b->k);
    kit_floats = 256;
    free(b->file.data);
    free(b->good.data);
    kit_end(&b->k);
}

#endif
