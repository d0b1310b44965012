#include "store_kit.h"

static tarn_status try_commit(kit *k, tarnp_commit *c)
{
    tarnp_committed made;
    tarn_status status = tarnp_commit_node(k->store, c, &made, &k->err);
    CHECK(status != TARN_OK || made.node > 0);
    CHECK(status == TARN_OK || made.node == 0);
    return status;
}

/* A small valid commit on the root of session "main". */
static tarnp_commit plain(kit *k)
{
    static const uint32_t tokens[3] = {5, 6, 7};
    static const tarnp_segment segment = {.role = TARN_ROLE_USER, .n_tokens = 3};
    tarnp_commit c = {.key = {42},
                      .session_id = kit_id(k, "main"),
                      .expected_head = kit_head(k, "main"),
                      .move_head = true,
                      .parent = kit_head(k, "main"),
                      .numerics = "n",
                      .tokens = tokens,
                      .n_tokens = 3,
                      .segments = &segment,
                      .n_segments = 1};
    memcpy(c.fp, kit_fp, sizeof kit_fp);
    return c;
}

CASE(what_was_committed_is_read)
{
    kit k;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "main");
    tarnp_committed made;
    uint64_t id = kit_id(&k, "main");
    tarnp_stat before = kit_stat(&k);
    REQUIRE_OK(kit_commit(k.store, id, root, root, 1, true, &made, &k.err), &k.err);
    CHECK(!made.existed);
    CHECK_EQ(kit_stat(&k).bytes_written - before.bytes_written, made.bytes_written);
    kit_check_node(&k, made.node, 1);
    REQUIRE(kit_reopen(&k));
    kit_check_node(&k, made.node, 1);
    tarnp_node node;
    REQUIRE_OK(tarnp_node_read(k.store, made.node, &node, &k.err), &k.err);
    CHECK_EQ(node.position, 3);
    CHECK_EQ(node.turns, 1);
    CHECK_EQ(node.flags, TARNP_NODE_HAS_STATE);
    CHECK_EQ(node.sections[0].kind, TARNP_SECTION_TOKENS);
    CHECK_EQ(kit_stat(&k).bytes_stored - before.bytes_stored, node.stored_bytes);
    tarnp_node_fini(&node);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(a_known_key_writes_nothing)
{
    kit k;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "main"), id = kit_id(&k, "main"), found;
    tarnp_committed made, again;
    uint8_t key[TARNP_KEY_BYTES];
    kit_key(key, 1);
    CHECK_STATUS(tarnp_commit_find(k.store, key, &found, &k.err), TARN_E_NOT_FOUND);
    REQUIRE_OK(kit_commit(k.store, id, root, root, 1, true, &made, &k.err), &k.err);
    tarnp_stat before = kit_stat(&k);
    /* The retry of a commit that was done but not heard of: the head has moved since. */
    REQUIRE_OK(kit_commit(k.store, id, root, root, 1, true, &again, &k.err), &k.err);
    CHECK(again.existed);
    CHECK_EQ(again.node, made.node);
    CHECK_EQ(again.bytes_written, 0);
    CHECK_EQ(kit_stat(&k).bytes_written, before.bytes_written);
    REQUIRE_OK(tarnp_commit_find(k.store, key, &found, &k.err), &k.err);
    CHECK_EQ(found, made.node);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(another_head_is_a_conflict)
{
    kit k;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "main"), id = kit_id(&k, "main"),
             first = kit_append(&k, "main", 1);
    tarnp_stat before = kit_stat(&k), after;
    tarnp_committed made;
    CHECK_STATUS(kit_commit(k.store, id, root, root, 2, true, &made, &k.err), TARN_E_CONFLICT);
    CHECK_HAS(k.err.detail, "the head is node 2, expected 1");
    CHECK_STATUS(kit_commit(k.store, id, root, first, 2, false, &made, &k.err), TARN_E_CONFLICT);
    after = kit_stat(&k);
    CHECK_BYTES(&before, &after, sizeof before);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(refused_commits_change_nothing)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    tarnp_stat before = kit_stat(&k), after;
    char numerics[65];
    uint8_t bytes[12] = {0};
    tarnp_piece piece = {bytes, 12};
    tarnp_chunk chunk = {.raw_bytes = 12, .n_pieces = 1, .pieces = &piece};
    tarnp_section section = {
        .kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .n_chunks = 1, .chunks = &chunk};
    tarnp_segment segment = {.role = TARN_ROLE_USER, .n_tokens = 3};
    memset(numerics, 'n', 64);
    numerics[64] = 0;
    tarnp_commit good = plain(&k), c = good;
    c.session_id = 77;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_NOT_FOUND);
    c = good;
    c.parent = 77;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_NOT_FOUND);
    c = good;
    c.fp[31] ^= 1;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_MISMATCH);
    c = good;
    memset(c.key, 0, sizeof c.key);
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    c = good;
    c.flags = 0x80;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    c = good;
    c.numerics = numerics;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    c = good;
    c.segments = &segment;
    segment.n_tokens = 2;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "segments of 2 tokens for a node of 3");
    segment = (tarnp_segment){.role = (tarn_role)9, .n_tokens = 3};
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    segment = (tarnp_segment){.role = TARN_ROLE_USER, .flags = 8, .n_tokens = 3};
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    static char *ids[65536];
    for (size_t i = 0; i < 65536; i++)
        ids[i] = "";
    segment = (tarnp_segment){
        .role = TARN_ROLE_USER, .n_tokens = 3, .n_call_ids = 65536, .call_ids = ids};
    CHECK_STATUS(try_commit(&k, &c), TARN_E_LIMIT);
    c = good;
    c.sections = &section;
    c.n_sections = 1;
    section.kind = TARNP_SECTION_TOKENS;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    section.kind = (tarnp_section_kind)7;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    section.kind = TARNP_SECTION_STATE;
    section.elem = (tarnp_elem)5;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    section.elem = TARNP_ELEM_F32;
    chunk.raw_bytes = 16;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "pieces of 12 bytes, raw_bytes is 16");
    chunk.raw_bytes = 10;
    piece.n_bytes = 10;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    piece.n_bytes = chunk.raw_bytes = TARNP_CHUNK_BYTES_MAX + 4;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    after = kit_stat(&k);
    CHECK_BYTES(&before, &after, sizeof before);
    KIT_CLEAN(&k);
    CHECK_STATUS(try_commit(&k, &good), TARN_OK);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(counts_beyond_every_limit)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    tarnp_stat before = kit_stat(&k), after;
    static uint8_t bytes[TARNP_CHUNK_BYTES_MAX];
    tarnp_piece pieces[2] = {{bytes, sizeof bytes}, {bytes, sizeof bytes}};
    tarnp_chunk chunk = {.raw_bytes = 2 * sizeof bytes, .n_pieces = 2, .pieces = pieces};
    tarnp_section section = {
        .kind = TARNP_SECTION_CONV, .elem = TARNP_ELEM_BF16, .n_chunks = 1, .chunks = &chunk};
    tarnp_segment segment = {.role = (tarn_role)(TARN_ROLE_SYSTEM - 1), .n_tokens = 3};
    tarnp_commit good = plain(&k), c = good;
    c.segments = &segment;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "segment 0: role 0");
    c = good;
    c.n_segments = (size_t)UINT32_MAX + 1;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_LIMIT);
    c = good;
    c.n_sections = UINT16_MAX;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_LIMIT);
    c = good;
    c.sections = &section;
    c.n_sections = 1;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "pieces of 1048576 bytes");
    section.n_chunks = UINT32_MAX; /* and one of tokens */
    CHECK_STATUS(try_commit(&k, &c), TARN_E_LIMIT);
    CHECK_HAS(k.err.detail, "more than 4294967295 chunks");
    section.n_chunks = SIZE_MAX;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_LIMIT);
    after = kit_stat(&k);
    CHECK_BYTES(&before, &after, sizeof before);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* A prefix is all tokens up to the node's last. */
CASE(prefixes)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    tarnp_commit good = plain(&k), c = good;
    uint32_t other[4] = {0};
    memcpy(other, good.tokens, 3 * sizeof *other);
    c.prefix = good.tokens;
    c.n_prefix = 2;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "the prefix of 2 tokens does not end with the 3 of the node");
    c.prefix = other;
    c.n_prefix = 3;
    other[2]++;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    other[2]--;
    c.n_prefix = 4; /* it ends with the node's, but the node stands at 3 */
    memmove(other + 1, good.tokens, 3 * sizeof *other);
    c.flags = TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    c.prefix = good.tokens;
    c.n_prefix = 3;
    c.numerics = NULL; /* which is no numerics, and a scope of its own */
    CHECK_STATUS(try_commit(&k, &c), TARN_OK);
    uint64_t node;
    size_t n;
    CHECK_STATUS(tarnp_prefix_find(k.store, kit_fp, NULL, good.tokens, 3, &node, &n, &k.err),
                 TARN_OK);
    CHECK(node != 0 && n == 3);
    CHECK_STATUS(tarnp_prefix_find(k.store, kit_fp, "cpu/f32", good.tokens, 3, &node, &n, &k.err),
                 TARN_OK);
    CHECK(n == 0);
    c = good; /* no tokens: any prefix ends with them, and only one is the node's */
    c.parent = c.expected_head = kit_head(&k, "main");
    c.n_tokens = 0;
    c.n_segments = 0;
    c.prefix = good.tokens;
    kit_key(c.key, 1234);
    c.n_prefix = 2;
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    c.n_prefix = 3;
    CHECK_STATUS(try_commit(&k, &c), TARN_OK);
    kit_create(&k, "empty");
    c.session_id = kit_id(&k, "empty");
    c.parent = c.expected_head = kit_head(&k, "empty");
    kit_key(c.key, 1235);
    CHECK_STATUS(try_commit(&k, &c), TARN_E_INVALID);
    c.n_prefix = 0;
    c.flags = TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT;
    CHECK_STATUS(try_commit(&k, &c), TARN_OK);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* Turns are counted by assistant segments that begin here; tokens of several chunks come back in
 * order; empty nodes and empty chunks are nodes and chunks. */
CASE(turns_tokens_and_empty_things)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    enum { MANY = 70000 };
    uint32_t *tokens = malloc(MANY * sizeof *tokens);
    for (uint32_t i = 0; i < MANY; i++)
        tokens[i] = i * 3;
    const tarnp_segment segments[] = {
        {.role = TARN_ROLE_ASSISTANT, .flags = TARNP_SEGMENT_CONTINUES | TARNP_SEGMENT_CLOSED},
        {.role = TARN_ROLE_USER, .n_tokens = MANY - 2},
        {.role = TARN_ROLE_ASSISTANT, .n_tokens = 1},
        {.role = TARN_ROLE_TOOL, .n_tokens = 0},
        {.role = TARN_ROLE_ASSISTANT, .n_tokens = 1}};
    tarnp_chunk none = {.first = 7};
    tarnp_section section = {
        .kind = TARNP_SECTION_LOGITS, .elem = TARNP_ELEM_F32, .n_chunks = 1, .chunks = &none};
    tarnp_commit c = plain(&k);
    c.tokens = tokens;
    c.n_tokens = MANY;
    c.segments = segments;
    c.n_segments = 5;
    c.sections = &section;
    c.n_sections = 1;
    tarnp_committed made;
    REQUIRE_OK(tarnp_commit_node(k.store, &c, &made, &k.err), &k.err);
    tarnp_node node;
    REQUIRE_OK(tarnp_node_read(k.store, made.node, &node, &k.err), &k.err);
    CHECK_EQ(node.turns, 2);
    CHECK_EQ(node.position, MANY);
    CHECK_EQ(node.sections[0].n_chunks, 3);
    CHECK_EQ(node.sections[1].chunks[0].first, 7);
    tarni_ids ids;
    tarni_ids_init(&ids, &tarni_heap);
    CHECK_STATUS(tarni_ids_push(&ids, 1, &k.err), TARN_OK);
    REQUIRE_OK(tarnp_node_tokens(k.store, &node, &ids, &k.err), &k.err);
    CHECK_EQ(ids.n_ids, MANY + 1);
    CHECK_BYTES(ids.ids + 1, tokens, MANY * sizeof *tokens);
    tarni_ids_fini(&ids);
    CHECK_STATUS(tarnp_node_read_chunks(k.store, &node, TARNP_ELEM_F32, node.sections[1].chunks, 1,
                                        NULL, &k.err),
                 TARN_OK);
    tarnp_node_fini(&node);
    tarnp_commit empty = plain(&k);
    empty.key[1] = 1;
    empty.n_tokens = 0;
    empty.n_segments = 0;
    CHECK_STATUS(try_commit(&k, &empty), TARN_OK);
    KIT_CLEAN(&k);
    free(tokens);
    kit_end(&k);
}

/* With a pool the same bytes are stored and read. */
CASE(with_a_pool)
{
    kit k;
    REQUIRE(kit_begin(&k));
    tarni_pool *pool;
    REQUIRE_OK(tarni_pool_create(3, &tarni_heap, &pool, &k.err), &k.err);
    kit_create(&k, "main");
    uint64_t alone = kit_append(&k, "main", 1);
    uint64_t bytes_then = kit_stat(&k).bytes_stored;
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    CHECK(alone > 0);
    tarnp_store_set_pool(k.store, pool);
    kit_create(&k, "main");
    uint64_t together = kit_append(&k, "main", 1);
    CHECK_EQ(kit_stat(&k).bytes_stored, bytes_then);
    kit_check_node(&k, together, 1);
    tarnp_store_set_pool(k.store, NULL);
    kit_check_node(&k, together, 1);
    KIT_CLEAN(&k);
    kit_end(&k);
    tarni_pool_free(pool);
}

CHECK_MAIN(ENTRY(what_was_committed_is_read), ENTRY(a_known_key_writes_nothing),
           ENTRY(another_head_is_a_conflict), ENTRY(refused_commits_change_nothing),
           ENTRY(counts_beyond_every_limit), ENTRY(prefixes), ENTRY(turns_tokens_and_empty_things),
           ENTRY(with_a_pool))
