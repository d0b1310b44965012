#include "prefix.h"

#include "store_kit.h"

enum { N = 600 };
static uint32_t ids[N];

static void fill_ids(void)
{
    uint64_t r = 7;
    for (size_t i = 0; i < N; i++)
        ids[i] = (uint32_t)(kit_random(&r) % 160000);
}

static const char numerics[] = "cpu/f32";

/* Commits ids[begin, end) on the head of a session, with a state or without. */
static tarn_status append(kit *k, const char *name, const uint32_t *all, uint32_t begin,
                          uint32_t end, bool has_state, const uint32_t *prefix, uint64_t *node)
{
    static uint64_t next_key = 1000;
    static float state[64];
    tarnp_piece piece = {state, sizeof state};
    tarnp_chunk chunk = {.raw_bytes = sizeof state, .n_pieces = 1, .pieces = &piece};
    tarnp_section section = {
        .kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .n_chunks = 1, .chunks = &chunk};
    tarnp_segment segment = {.role = TARN_ROLE_TOKENS, .n_tokens = end - begin};
    uint64_t head = kit_head(k, name);
    tarnp_commit c = {.session_id = kit_id(k, name),
                      .expected_head = head,
                      .move_head = true,
                      .parent = head,
                      .flags = has_state ? TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT
                                         : TARNP_NODE_BIT_EXACT,
                      .numerics = numerics,
                      .tokens = all + begin,
                      .n_tokens = end - begin,
                      .segments = &segment,
                      .n_segments = 1,
                      .sections = &section,
                      .n_sections = has_state,
                      .prefix = prefix,
                      .n_prefix = end};
    tarnp_committed made = {0};
    kit_key(c.key, next_key++);
    memcpy(c.fp, kit_fp, sizeof kit_fp);
    tarn_status status = tarnp_commit_node(k->store, &c, &made, &k->err);
    *node = made.node;
    return status;
}

static uint64_t grow(kit *k, const char *name, const uint32_t *all, uint32_t begin, uint32_t end)
{
    uint64_t node;
    CHECK_STATUS(append(k, name, all, begin, end, true, all, &node), TARN_OK);
    return node;
}

/* Finds ids[0, n): the node and how much of it. */
static uint64_t find(kit *k, const uint32_t *all, size_t n, size_t *n_found)
{
    uint64_t node = 77;
    CHECK_STATUS(tarnp_prefix_find(k->store, kit_fp, numerics, all, n, &node, n_found, &k->err),
                 TARN_OK);
    return node;
}

#define FINDS(k, all, n, want, want_n)                                                             \
    do {                                                                                           \
        size_t found_n;                                                                            \
        CHECK_EQ(find(k, all, n, &found_n), want);                                                 \
        CHECK_EQ(found_n, want_n);                                                                 \
    } while (0)

CASE(the_longest_is_found)
{
    kit k;
    REQUIRE(kit_begin(&k));
    fill_ids();
    FINDS(&k, ids, N, 0, 0); /* an empty table */
    kit_create(&k, "a");
    uint64_t a100 = grow(&k, "a", ids, 0, 100), a250 = grow(&k, "a", ids, 100, 250);
    kit_create(&k, "b"); /* the same beginning, cut elsewhere */
    uint64_t b180 = grow(&k, "b", ids, 0, 180);
    FINDS(&k, ids, 99, 0, 0);
    FINDS(&k, ids, 100, a100, 100);
    FINDS(&k, ids, 179, a100, 100);
    FINDS(&k, ids, 249, b180, 180);
    FINDS(&k, ids, 250, a250, 250);
    FINDS(&k, ids, N, a250, 250);
    REQUIRE(kit_reopen(&k));
    FINDS(&k, ids, N, a250, 250);
    static uint32_t other[N];
    memcpy(other, ids, sizeof ids);
    other[170]++;
    FINDS(&k, other, N, a100, 100);
    other[0]++;
    FINDS(&k, other, N, 0, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(only_of_the_same_model_and_numerics)
{
    kit k;
    uint64_t node;
    size_t n;
    uint8_t fp[TARNP_FP_BYTES];
    REQUIRE(kit_begin(&k));
    fill_ids();
    kit_create(&k, "a");
    grow(&k, "a", ids, 0, 100);
    memcpy(fp, kit_fp, sizeof fp);
    fp[31] ^= 1;
    CHECK_STATUS(tarnp_prefix_find(k.store, fp, numerics, ids, N, &node, &n, &k.err), TARN_OK);
    CHECK_EQ(node, 0);
    CHECK_STATUS(tarnp_prefix_find(k.store, kit_fp, "cpu/f16", ids, N, &node, &n, &k.err), TARN_OK);
    CHECK_EQ(node, 0);
    kit_end(&k);
}

CASE(what_is_not_listed)
{
    kit k;
    uint64_t node;
    REQUIRE(kit_begin(&k));
    fill_ids();
    kit_create(&k, "a");
    CHECK_STATUS(append(&k, "a", ids, 0, 50, true, NULL, &node), TARN_OK);
    CHECK_STATUS(append(&k, "a", ids, 50, 90, false, ids, &node), TARN_OK); /* no state */
    FINDS(&k, ids, N, 0, 0);
    node = grow(&k, "a", ids, 90, 120);
    FINDS(&k, ids, N, node, 120);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(entries_go_with_their_nodes)
{
    kit k;
    REQUIRE(kit_begin(&k));
    fill_ids();
    kit_create(&k, "a");
    uint64_t a = grow(&k, "a", ids, 0, 100);
    kit_create(&k, "b");
    uint64_t b = grow(&k, "b", ids, 0, 100);
    FINDS(&k, ids, N, b, 100); /* the newest of the same tokens */
    CHECK_STATUS(tarnp_session_remove(k.store, "a", &k.err), TARN_OK);
    FINDS(&k, ids, N, b, 100);
    kit_create(&k, "c");
    grow(&k, "c", ids, 0, 60);
    CHECK_STATUS(tarnp_session_remove(k.store, "b", &k.err), TARN_OK);
    FINDS(&k, ids, N, kit_head(&k, "c"), 60);
    CHECK_STATUS(tarnp_session_remove(k.store, "c", &k.err), TARN_OK);
    FINDS(&k, ids, N, 0, 0);
    CHECK(a < b);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* Keys are useless without the salt, which is the store's own. */
CASE(sums_are_keyed)
{
    kit k, other;
    uint8_t a[TARNP_PREFIX_SUM_BYTES], b[TARNP_PREFIX_SUM_BYTES], c[TARNP_PREFIX_SUM_BYTES];
    REQUIRE(kit_begin(&k));
    REQUIRE(kit_begin(&other));
    fill_ids();
    CHECK_STATUS(tarnp_prefix_sum(k.store, kit_fp, numerics, ids, 5, a, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_prefix_sum(k.store, kit_fp, numerics, ids, 5, b, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_prefix_sum(other.store, kit_fp, numerics, ids, 5, c, &k.err), TARN_OK);
    CHECK_BYTES(a, b, sizeof a);
    CHECK(memcmp(a, c, sizeof a) != 0);
    kit_end(&other);
    kit_end(&k);
}

CASE(damage_is_a_miss_and_verify_names_it)
{
    kit k;
    tarnp_write w;
    tarnp_cursor cursor;
    tarnp_span key, value;
    uint8_t copy[TARNP_PREFIX_KEY_BYTES];
    REQUIRE(kit_begin(&k));
    fill_ids();
    kit_create(&k, "a");
    grow(&k, "a", ids, 0, 100);
    uint64_t a200 = grow(&k, "a", ids, 100, 200);
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    REQUIRE_OK(tarnp_cursor_open(&w.txn, TARNP_TABLE_PREFIX, &cursor, &k.err), &k.err);
    REQUIRE_OK(tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, &k.err), &k.err);
    CHECK_EQ(key.n_bytes, sizeof copy);
    memcpy(copy, key.data, sizeof copy);
    tarnp_cursor_close(&cursor);
    copy[20] ^= 1; /* an entry that no node has */
    CHECK_STATUS(tarnp_id_put(&w.txn, TARNP_TABLE_PREFIX, copy, sizeof copy, a200, &k.err),
                 TARN_OK);
    CHECK_STATUS(tarnp_write_commit(&w, NULL, &k.err), TARN_OK);
    FINDS(&k, ids, N, a200, 200);
    tarnp_verified v = {0};
    CHECK_STATUS(tarnp_store_verify(k.store, NULL, NULL, &v, &k.err), TARN_OK);
    CHECK_EQ(v.n_bad, 1);
    if (v.n_bad == 1)
        CHECK_HAS(v.bad[0].reason, "prefix");
    tarni_free(&tarni_heap, v.bad);
    kit_end(&k);
}

CASE(the_wrong_number_of_tokens)
{
    kit k;
    uint64_t node, sum;
    REQUIRE(kit_begin(&k));
    fill_ids();
    kit_create(&k, "a");
    grow(&k, "a", ids, 0, 100);
    sum = kit_stat(&k).bytes_stored;
    /* The history must end with the tokens of the commit. */
    CHECK_STATUS(append(&k, "a", ids + 1, 100, 120, true, ids, &node), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "prefix");
    CHECK_EQ(kit_stat(&k).bytes_stored, sum);
    kit_end(&k);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {ENTRY(the_longest_is_found),
                                       ENTRY(only_of_the_same_model_and_numerics),
                                       ENTRY(what_is_not_listed),
                                       ENTRY(entries_go_with_their_nodes),
                                       ENTRY(sums_are_keyed),
                                       ENTRY(damage_is_a_miss_and_verify_names_it),
                                       ENTRY(the_wrong_number_of_tokens)};
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
