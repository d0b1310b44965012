/* bundle_bad.h - a bundle to spoil, and a store that it must then leave as it is. */
#ifndef TARN_TESTS_BUNDLE_BAD_H
#define TARN_TESTS_BUNDLE_BAD_H

#include "bundle_kit.h"

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
    kit_fill_session(&source, "a");
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
    kit_check_session(&b->k, "a");
    KIT_CLEAN(&b->k);
    kit_floats = 256;
    free(b->file.data);
    free(b->good.data);
    kit_end(&b->k);
}

#endif
