/* Tags, pin, time to live and group of a session. */
#include "retain_kit.h"

static const char *tag_of(kit *k, const char *name, const char *key)
{
    static char text[256];
    tarnp_session s;
    const char *found = NULL;
    if (tarnp_session_find(k->store, name, &s, &k->err) != TARN_OK)
        return NULL;
    for (size_t i = 0; i < s.n_tags; i++) {
        if (strcmp(s.tags[i].key, key) == 0) {
            snprintf(text, sizeof text, "%s", s.tags[i].value);
            found = text;
        }
    }
    tarnp_session_fini(&s);
    return found;
}

CASE(marks_are_kept)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    kit_append(&k, "a", 1);
    uint64_t updated = rk_session(&k, "a").updated_ms;
    REQUIRE_OK(tarnp_session_tag(k.store, "a", "owner", "ann", &k.err), &k.err);
    REQUIRE_OK(tarnp_session_tag(k.store, "a", "job", "7", &k.err), &k.err);
    REQUIRE_OK(tarnp_session_tag(k.store, "a", "owner", "bob", &k.err), &k.err);
    REQUIRE_OK(tarnp_session_pin(k.store, "a", true, &k.err), &k.err);
    REQUIRE_OK(tarnp_session_expire(k.store, "a", 12345, &k.err), &k.err);
    REQUIRE_OK(tarnp_session_set_group(k.store, "a", "team", &k.err), &k.err);
    REQUIRE(kit_reopen(&k));
    CHECK_TEXT(tag_of(&k, "a", "owner"), "bob");
    CHECK_TEXT(tag_of(&k, "a", "job"), "7");
    tarnp_session s = rk_session(&k, "a");
    CHECK(s.pinned && s.expires_ms == 12345 && s.n_tags == 2);
    CHECK_TEXT(s.group, "team");
    CHECK_EQ(s.updated_ms, updated);
    REQUIRE_OK(tarnp_session_tag(k.store, "a", "owner", NULL, &k.err), &k.err);
    REQUIRE_OK(tarnp_session_pin(k.store, "a", false, &k.err), &k.err);
    REQUIRE_OK(tarnp_session_expire(k.store, "a", 0, &k.err), &k.err);
    REQUIRE_OK(tarnp_session_set_group(k.store, "a", "", &k.err), &k.err);
    s = rk_session(&k, "a");
    CHECK(!s.pinned && s.expires_ms == 0 && s.group[0] == 0);
    CHECK_EQ(s.n_tags, 1);
    CHECK(tag_of(&k, "a", "owner") == NULL);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(what_is_set_already_writes_nothing)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    REQUIRE_OK(tarnp_session_tag(k.store, "a", "x", "", &k.err), &k.err);
    REQUIRE_OK(tarnp_session_pin(k.store, "a", true, &k.err), &k.err);
    uint64_t before = kit_stat(&k).bytes_written;
    CHECK_STATUS(tarnp_session_tag(k.store, "a", "x", "", &k.err), TARN_OK);
    CHECK_STATUS(tarnp_session_tag(k.store, "a", "y", NULL, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_session_pin(k.store, "a", true, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_session_expire(k.store, "a", 0, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_session_set_group(k.store, "a", "", &k.err), TARN_OK);
    CHECK_EQ(kit_stat(&k).bytes_written, before);
    kit_end(&k);
}

CASE(refused_marks_change_nothing)
{
    kit k;
    char key[8], group[TARNP_GROUP_BYTES_MAX + 2];
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    for (int i = 0; i < TARNP_TAGS_MAX; i++) {
        snprintf(key, sizeof key, "k%d", i);
        REQUIRE_OK(tarnp_session_tag(k.store, "a", key, "v", &k.err), &k.err);
    }
    memset(group, 'g', sizeof group - 1);
    group[sizeof group - 1] = 0;
    uint64_t before = rk_digest(&k);
    CHECK_STATUS(tarnp_session_tag(k.store, "a", "more", "v", &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_tag(k.store, "a", "a=b", "v", &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_tag(k.store, "a", "", "v", &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_tag(k.store, "b", "k", "v", &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_pin(k.store, "b", true, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_expire(k.store, "b", 1, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_set_group(k.store, "b", "g", &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_set_group(k.store, "a", group, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_set_group(k.store, "a", "a\nb", &k.err), TARN_E_INVALID);
    CHECK_EQ(rk_digest(&k), before);
    REQUIRE_OK(tarnp_session_set_group(k.store, "a", group + 1, &k.err), &k.err);
    CHECK_EQ(strlen(rk_session(&k, "a").group), TARNP_GROUP_BYTES_MAX);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(marks_are_kept), ENTRY(what_is_set_already_writes_nothing),
           ENTRY(refused_marks_change_nothing))
