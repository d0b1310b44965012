#include "store_kit.h"

CASE(create_and_find)
{
    kit k;
    REQUIRE(kit_begin(&k));
    const tarnp_tag tags[] = {{"owner", "ann"}, {"note", ""}};
    tarnp_session s, found;
    REQUIRE_OK(tarnp_session_create(k.store, "one", kit_fp, "cpu/f32", tags, 2, &s, &k.err),
               &k.err);
    CHECK_EQ(s.id, 1);
    CHECK_EQ(s.head, 1);
    CHECK_EQ(s.position, 0);
    CHECK_EQ(s.turns, 0);
    CHECK(s.created_ms > 0 && s.created_ms == s.updated_ms && s.bytes_owned > 0);
    CHECK_EQ(s.bytes_shared, 0);
    CHECK(!s.pinned);
    REQUIRE_OK(tarnp_session_find(k.store, "one", &found, &k.err), &k.err);
    CHECK_EQ(found.id, s.id);
    CHECK_EQ(found.n_tags, 2);
    CHECK_TEXT(found.tags[0].key, "owner");
    CHECK_TEXT(found.tags[0].value, "ann");
    CHECK_TEXT(found.tags[1].value, "");
    CHECK_BYTES(found.fp, kit_fp, sizeof kit_fp);
    tarnp_session_fini(&found);
    REQUIRE_OK(tarnp_session_find_id(k.store, s.id, &found, &k.err), &k.err);
    CHECK_TEXT(found.name, "one");
    tarnp_session_fini(&found);
    tarnp_session_fini(&found);
    tarnp_node node;
    REQUIRE_OK(tarnp_node_read(k.store, s.head, &node, &k.err), &k.err);
    CHECK_EQ(node.parent, TARNP_NODE_NONE);
    CHECK_EQ(node.n_segments, 0);
    CHECK_EQ(node.n_sections, 0);
    tarnp_node_fini(&node);
    tarnp_session_fini(&s);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(errors_change_nothing)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "one");
    kit_create(&k, "two");
    tarnp_session s;
    tarnp_stat before = kit_stat(&k), after;
    const tarnp_tag bad_tag = {"a=b", ""};
    char numerics[65];
    memset(numerics, 'n', 64);
    numerics[64] = 0;
    CHECK_STATUS(tarnp_session_create(k.store, "one", kit_fp, NULL, NULL, 0, &s, &k.err),
                 TARN_E_EXISTS);
    CHECK_HAS(k.err.detail, "\"one\"");
    CHECK_STATUS(tarnp_session_create(k.store, "a@b", kit_fp, NULL, NULL, 0, &s, &k.err),
                 TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_create(k.store, "n", kit_fp, numerics, NULL, 0, &s, &k.err),
                 TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_create(k.store, "t", kit_fp, NULL, &bad_tag, 1, &s, &k.err),
                 TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_find(k.store, "none", &s, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_find_id(k.store, 99, &s, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_fork(k.store, 99, "new", &s, NULL, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_fork(k.store, 1, "two", &s, NULL, &k.err), TARN_E_EXISTS);
    CHECK_STATUS(tarnp_session_fork(k.store, 1, "", &s, NULL, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_rename(k.store, "none", "new", &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_rename(k.store, "one", "two", &k.err), TARN_E_EXISTS);
    CHECK_STATUS(tarnp_session_rename(k.store, "one", "a@", &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_rename(k.store, "one", "one", &k.err), TARN_OK);
    CHECK_STATUS(tarnp_session_remove(k.store, "none", &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_move(k.store, 99, 1, 1, NULL, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_move(k.store, 1, 1, 99, NULL, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_session_move(k.store, 1, 2, 1, NULL, &k.err), TARN_E_CONFLICT);
    CHECK_HAS(k.err.detail, "the head is node 1, expected 2");
    after = kit_stat(&k);
    CHECK_BYTES(&before, &after, sizeof before);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(list_is_by_name)
{
    kit k;
    REQUIRE(kit_begin(&k));
    tarnp_session *list;
    size_t n;
    REQUIRE_OK(tarnp_session_list(k.store, &list, &n, &k.err), &k.err);
    CHECK(list == NULL && n == 0);
    const char *names[] = {"pear", "apple", "fig"}, *sorted[] = {"apple", "fig", "pear"};
    for (int i = 0; i < 3; i++)
        kit_create(&k, names[i]);
    kit_append(&k, "fig", 1);
    REQUIRE_OK(tarnp_session_list(k.store, &list, &n, &k.err), &k.err);
    REQUIRE(n == 3);
    for (size_t i = 0; i < n; i++)
        CHECK_TEXT(list[i].name, sorted[i]);
    CHECK_EQ(list[1].turns, 1);
    CHECK(list[1].position > 0);
    tarnp_sessions_free(list, n);
    tarnp_sessions_free(NULL, 0);
    kit_end(&k);
}

CASE(rename_keeps_the_session)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "old");
    uint64_t id = kit_id(&k, "old"), head = kit_append(&k, "old", 1);
    REQUIRE_OK(tarnp_session_rename(k.store, "old", "new", &k.err), &k.err);
    CHECK_EQ(kit_id(&k, "old"), 0);
    CHECK_EQ(kit_id(&k, "new"), id);
    CHECK_EQ(kit_head(&k, "new"), head);
    REQUIRE(kit_reopen(&k));
    CHECK_EQ(kit_id(&k, "new"), id);
    kit_check_node(&k, head, 1);
    CHECK(kit_create(&k, "old") > 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(fork_shares_everything)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = kit_append(&k, "main", 1), second = kit_append(&k, "main", 2);
    tarnp_stat before = kit_stat(&k);
    REQUIRE(kit_fork(&k, first, "branch"));
    tarnp_stat after = kit_stat(&k);
    CHECK_EQ(after.bytes_stored, before.bytes_stored);
    CHECK_EQ(after.nodes, before.nodes);
    CHECK(after.bytes_shared > 0);
    uint64_t third = kit_append(&k, "branch", 3);
    CHECK_EQ(kit_head(&k, "main"), second);
    kit_check_node(&k, second, 2);
    kit_check_node(&k, third, 3);
    tarnp_session s;
    REQUIRE_OK(tarnp_session_find(k.store, "branch", &s, &k.err), &k.err);
    tarnp_node node;
    REQUIRE_OK(tarnp_node_read(k.store, third, &node, &k.err), &k.err);
    CHECK_EQ(s.bytes_owned, node.stored_bytes);
    CHECK_EQ(s.bytes_shared, after.bytes_shared);
    CHECK_EQ(node.parent, first);
    CHECK_EQ(node.session_id, s.id);
    CHECK_EQ(s.turns, 2);
    tarnp_node_fini(&node);
    tarnp_session_fini(&s);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(moving_to_another_model_is_refused)
{
    kit k;
    REQUIRE(kit_begin(&k));
    uint8_t other[TARNP_FP_BYTES] = {9};
    tarnp_session s;
    kit_create(&k, "one");
    REQUIRE_OK(tarnp_session_create(k.store, "two", other, NULL, NULL, 0, &s, &k.err), &k.err);
    CHECK_STATUS(tarnp_session_move(k.store, kit_id(&k, "one"), 1, s.head, NULL, &k.err),
                 TARN_E_MISMATCH);
    tarnp_session_fini(&s);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(create_and_find), ENTRY(errors_change_nothing), ENTRY(list_is_by_name),
           ENTRY(rename_keeps_the_session), ENTRY(fork_shares_everything),
           ENTRY(moving_to_another_model_is_refused))
