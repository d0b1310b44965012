/* bundle_kit.h - a session as bytes in memory. */
#ifndef TARN_TESTS_BUNDLE_KIT_H
#define TARN_TESTS_BUNDLE_KIT_H

#include "bundle.h"
#include "store_kit.h"

#include <sodium.h>

typedef struct kit_bundle {
    uint8_t *data;
    size_t n_bytes, capacity, at;
    size_t step; /* at most so many bytes a read; 0: all */
} kit_bundle;

static inline tarn_status kit_bundle_write(void *user, const void *data, size_t n, tarn_error *err)
{
    kit_bundle *f = user;
    (void)err;
    if (f->n_bytes + n > f->capacity) {
        f->capacity = (f->n_bytes + n) * 2;
        f->data = realloc(f->data, f->capacity);
    }
    memcpy(f->data + f->n_bytes, data, n);
    f->n_bytes += n;
    return TARN_OK;
}

static inline tarn_status kit_bundle_read(void *user, void *data, size_t n, size_t *n_read,
                                          tarn_error *err)
{
    kit_bundle *f = user;
    (void)err;
    size_t left = f->n_bytes - f->at;
    *n_read = n < left ? n : left;
    if (f->step && *n_read > f->step)
        *n_read = f->step;
    memcpy(data, f->data + f->at, *n_read);
    f->at += *n_read;
    return TARN_OK;
}

static inline bool kit_export(kit *k, const char *name, kit_bundle *f)
{
    uint64_t n_bytes;
    *f = (kit_bundle){0};
    tarn_status status =
        tarnp_export(k->store, name, kit_bundle_write, f, NULL, NULL, &n_bytes, &k->err);
    if (status != TARN_OK)
        CHECK_FAIL("cannot export %s: %s", name, k->err.detail);
    else
        CHECK_EQ(n_bytes, f->n_bytes);
    return status == TARN_OK;
}

/* The head of what was made, 0 if nothing was. */
static inline tarn_status kit_import(kit *k, kit_bundle *f, const char *name, uint64_t *head)
{
    uint64_t n_bytes;
    tarnp_session s;
    f->at = 0;
    tarn_status status =
        tarnp_import(k->store, kit_bundle_read, f, name, NULL, NULL, &s, &n_bytes, &k->err);
    if (head)
        *head = s.head;
    if (status == TARN_OK)
        CHECK_EQ(n_bytes, f->n_bytes);
    tarnp_session_fini(&s);
    return status;
}

static inline kit_bundle kit_bundle_copy(const kit_bundle *f)
{
    kit_bundle copy = {0};
    tarn_error err;
    kit_bundle_write(&copy, f->data, f->n_bytes, &err);
    return copy;
}

/* Makes the digest fit what the file says now. */
static inline void kit_bundle_sign(kit_bundle *f)
{
    size_t n = f->n_bytes - TARNP_BUNDLE_SUM_BYTES;
    crypto_generichash_blake2b(f->data + n, TARNP_BUNDLE_SUM_BYTES, f->data, n, NULL, 0);
}

/* The offset of frame number i (0: SESS); n_bytes where there are fewer. */
static inline size_t kit_bundle_frame(const kit_bundle *f, size_t i)
{
    size_t at = TARNP_BUNDLE_HEAD_BYTES;
    for (; i > 0 && at + 8 <= f->n_bytes; i--)
        at += 8 + tarni_load_u32(f->data + at + 4);
    return at;
}

/* The first frame of this kind after `from`. */
static inline size_t kit_bundle_find(const kit_bundle *f, uint32_t kind, size_t from)
{
    size_t at = TARNP_BUNDLE_HEAD_BYTES;
    while (at + 8 <= f->n_bytes && (at < from || tarni_load_u32(f->data + at) != kind))
        at += 8 + tarni_load_u32(f->data + at + 4);
    return at;
}

/* Takes bytes [from, to) out. */
static inline void kit_bundle_cut(kit_bundle *f, size_t from, size_t to)
{
    memmove(f->data + from, f->data + to, f->n_bytes - to);
    f->n_bytes -= to - from;
    tarni_store_u64(f->data + 32, f->n_bytes);
}

/* Puts bytes [from, to) in once more. */
static inline void kit_bundle_repeat(kit_bundle *f, size_t from, size_t to)
{
    kit_bundle copy = kit_bundle_copy(f);
    tarn_error err;
    f->n_bytes = to;
    kit_bundle_write(f, copy.data + from, copy.n_bytes - from, &err);
    tarni_store_u64(f->data + 32, f->n_bytes);
    free(copy.data);
}

/* A session of four nodes with tags; one node is a fork's. Its seeds are 1 to 4. */
static inline void kit_fill_session(kit *k, const char *name)
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

/* Is it that session? */
static inline void kit_check_session(kit *k, const char *name)
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

#endif
