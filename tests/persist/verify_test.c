/* Every promise between the tables, broken one at a time. */
#include "store_kit.h"

#include "handle.h"
#include "node.h"
#include "refs.h"
#include "sums.h"

/* A store of a chain of three, a fork and a tip, and a transaction to spoil it in. */
typedef struct spoil {
    kit k;
    uint64_t nodes[5];
    tarnp_txn txn;
    tarnp_counters counters;
} spoil;

static bool begin(spoil *s)
{
    if (!kit_begin(&s->k))
        return false;
    s->nodes[0] = kit_create(&s->k, "main");
    s->nodes[1] = kit_append(&s->k, "main", 1);
    s->nodes[2] = kit_append(&s->k, "main", 2);
    kit_fork(&s->k, s->nodes[1], "branch");
    s->nodes[3] = kit_append(&s->k, "branch", 3);
    CHECK_STATUS(tarnp_session_move(s->k.store, 2, s->nodes[3], s->nodes[1], NULL, &s->k.err),
                 TARN_OK);
    KIT_CLEAN(&s->k);
    return tarnp_txn_begin(s->k.store->tables, true, &s->txn, &s->k.err) == TARN_OK &&
           tarnp_counters_get(&s->txn, &s->counters, &s->k.err) == TARN_OK;
}

static uint64_t n_left = UINT64_MAX; /* allocations that are granted */

static void *scarce_resize(void *user, void *memory, size_t n)
{
    (void)user;
    return n_left > 0 && n_left-- > 0 ? realloc(memory, n) : NULL;
}

static void *scarce_alloc(void *user, size_t n)
{
    return scarce_resize(user, NULL, n);
}

static void scarce_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

/* Verify says so where any of its allocations fails, and lists nothing then. */
static void starve(kit *k)
{
    static const tarn_allocator scarce = {scarce_alloc, scarce_resize, scarce_release, NULL};
    tarnp_verified v;
    k->options.allocator = &scarce;
    k->options.create = false;
    k->options.read_only = true; /* so that nothing is freed */
    REQUIRE(kit_reopen(k));
    for (uint64_t n = 0; n < 1000; n++) {
        n_left = n;
        tarn_status status = tarnp_store_verify(k->store, NULL, NULL, &v, &k->err);
        n_left = UINT64_MAX;
        if (status == TARN_OK)
            break;
        CHECK_STATUS(status, TARN_E_NO_MEMORY);
        CHECK(v.bad == NULL);
    }
    free(v.bad);
}

/* Commits, and checks that verify says `why` of something. */
static void end(spoil *s, const char *why)
{
    tarnp_verified v;
    bool found = false;
    s->counters.txn = tarnp_txn_id(&s->txn);
    CHECK_STATUS(tarnp_counters_put(&s->txn, &s->counters, &s->k.err), TARN_OK);
    CHECK_STATUS(tarnp_txn_commit(&s->txn, &s->k.err), TARN_OK);
    starve(&s->k);
    CHECK_STATUS(tarnp_store_verify(s->k.store, NULL, NULL, &v, &s->k.err), TARN_OK);
    for (size_t i = 0; i < v.n_bad; i++)
        found = found || strstr(v.bad[i].reason, why);
    if (!found)
        CHECK_FAIL("nothing found like \"%s\", but %zu others: %s", why, v.n_bad,
                   v.n_bad ? v.bad[0].reason : "");
    tarni_free(tarnp_store_allocator(s->k.store), v.bad);
    kit_end(&s->k);
}

#define BEGIN(s) REQUIRE(begin(&(s)))
#define DO(expr) CHECK_STATUS((expr), TARN_OK)

CASE(reference_counts)
{
    spoil s;
    BEGIN(s);
    DO(tarnp_ref_put(&s.txn, s.nodes[1], (tarnp_ref){.refs = 9, .own_children = 1}, &s.k.err));
    end(&s, "9 references counted, 3 found");
    BEGIN(s);
    DO(tarnp_ref_put(&s.txn, s.nodes[1], (tarnp_ref){.refs = 3, .own_children = 0}, &s.k.err));
    end(&s, "0 own children counted, 1 found");
    BEGIN(s);
    DO(tarnp_delete_id(&s.txn, TARNP_TABLE_REF, s.nodes[2], NULL, &s.k.err));
    end(&s, "0 references counted, 1 found");
    BEGIN(s);
    DO(tarnp_ref_put(&s.txn, 99, (tarnp_ref){.refs = 1}, &s.k.err));
    end(&s, "references without a node");
}

CASE(missing_nodes_and_chunks)
{
    spoil s;
    BEGIN(s);
    DO(tarnp_delete_id(&s.txn, TARNP_TABLE_NODE, s.nodes[1], NULL, &s.k.err));
    end(&s, "its parent, node 2, is missing");
    BEGIN(s);
    DO(tarnp_delete_id(&s.txn, TARNP_TABLE_NODE, s.nodes[2], NULL, &s.k.err));
    end(&s, "the head of session main is missing");
    BEGIN(s);
    DO(tarnp_delete_id(&s.txn, TARNP_TABLE_CHUNK, 2, NULL, &s.k.err));
    end(&s, "4 of 5 chunks found");
    BEGIN(s);
    DO(tarnp_append_id(&s.txn, TARNP_TABLE_CHUNK, 16, "x", 1, &s.k.err));
    s.counters.next_chunk++;
    end(&s, "no node lists this chunk");
    BEGIN(s);
    DO(tarnp_append_id(&s.txn, TARNP_TABLE_CHUNK, 1000, "x", 1, &s.k.err));
    end(&s, "beyond the next one");
}

/* Manifests with a right checksum: n bytes of node `node` at `offset` say something else. */
static void edit(spoil *s, uint64_t node, size_t offset, uint64_t value, size_t n)
{
    tarnp_span at;
    uint8_t word[8];
    DO(tarnp_get_id(&s->txn, TARNP_TABLE_NODE, node, &at, &s->k.err));
    uint8_t *copy = malloc(at.n_bytes);
    memcpy(copy, at.data, at.n_bytes);
    tarni_store_u64(word, value);
    memcpy(copy + offset, word, n);
    tarnp_sum128(copy, at.n_bytes - TARNP_SUM_BYTES, copy + at.n_bytes - TARNP_SUM_BYTES);
    DO(tarnp_put_id(&s->txn, TARNP_TABLE_NODE, node, copy, at.n_bytes, &s->k.err));
    free(copy);
}

CASE(manifests_that_lie)
{
    enum { POSITION = 40, TURNS = 48, FIRST_CHUNK = 72, FP = 104 };
    spoil s;
    tarnp_manifest m;
    BEGIN(s);
    edit(&s, s.nodes[0], POSITION, 5, 8);
    end(&s, "a root with a position");
    BEGIN(s);
    edit(&s, s.nodes[1], POSITION, 5000, 8);
    end(&s, "position 5000 does not follow");
    BEGIN(s);
    edit(&s, s.nodes[2], TURNS, 0, 4);
    end(&s, "does not follow");
    BEGIN(s);
    edit(&s, s.nodes[2], FP, 77, 8);
    end(&s, "made with another model");
    BEGIN(s);
    DO(tarnp_node_get(&s.txn, s.nodes[1], &m, NULL, &s.k.err));
    edit(&s, s.nodes[2], FIRST_CHUNK, m.first_chunk, 8);
    end(&s, "a chunk of node");
}

CASE(ids_of_other_sizes)
{
    spoil s;
    char name[50];
    BEGIN(s);
    DO(tarnp_put(&s.txn, TARNP_TABLE_KEY, "0123456789abcdef", 16, "abc", 3, &s.k.err));
    end(&s, "a commit key points to no node");
    BEGIN(s);
    DO(tarnp_put(&s.txn, TARNP_TABLE_PREFIX, "0123456789abcdef", 16, "abc", 3, &s.k.err));
    end(&s, "prefix");
    BEGIN(s);
    DO(tarnp_id_put(&s.txn, TARNP_TABLE_PREFIX, "0123456789abcdef", 16, 99, &s.k.err));
    end(&s, "prefix");
    BEGIN(s);
    memset(name, 'n', sizeof name);
    DO(tarnp_put(&s.txn, TARNP_TABLE_NAME, name, sizeof name, "abc", 3, &s.k.err));
    end(&s, "points to no session");
}

/* All are counted, and so many listed. */
CASE(more_damage_than_is_listed)
{
    spoil s;
    tarnp_verified v;
    enum { TIPS = TARNP_BAD_LISTED_MAX + 200 };
    BEGIN(s);
    for (uint64_t i = 0; i < TIPS; i++) {
        uint8_t tip[16];
        tarni_store_u64_be(tip, 1);
        tarni_store_u64_be(tip + 8, 100000 + i);
        DO(tarnp_put(&s.txn, TARNP_TABLE_TIP, tip, 16, "", 0, &s.k.err));
    }
    s.counters.txn = tarnp_txn_id(&s.txn);
    DO(tarnp_counters_put(&s.txn, &s.counters, &s.k.err));
    DO(tarnp_txn_commit(&s.txn, &s.k.err));
    DO(tarnp_store_verify(s.k.store, NULL, NULL, &v, &s.k.err));
    CHECK_EQ(v.n_bad, TIPS);
    CHECK_HAS(v.bad[TARNP_BAD_LISTED_MAX - 1].reason, "but no node");
    tarni_free(tarnp_store_allocator(s.k.store), v.bad);
    kit_end(&s.k);
}

CASE(tips_keys_names_and_the_queue)
{
    spoil s;
    uint8_t tip[16] = {0};
    BEGIN(s);
    tip[7] = 1;
    tip[15] = 99;
    DO(tarnp_put(&s.txn, TARNP_TABLE_TIP, tip, 16, "", 0, &s.k.err));
    end(&s, "but no node");
    BEGIN(s);
    tip[7] = 50;
    tip[15] = (uint8_t)s.nodes[1];
    DO(tarnp_put(&s.txn, TARNP_TABLE_TIP, tip, 16, "", 0, &s.k.err));
    end(&s, "a tip of session 50, which is not there");
    BEGIN(s);
    DO(tarnp_id_put(&s.txn, TARNP_TABLE_KEY, "0123456789abcdef", 16, 99, &s.k.err));
    end(&s, "a commit key points to no node");
    BEGIN(s);
    DO(tarnp_id_put(&s.txn, TARNP_TABLE_NAME, "ghost", 5, 99, &s.k.err));
    end(&s, "the name ghost points to no session");
    BEGIN(s);
    DO(tarnp_delete(&s.txn, TARNP_TABLE_NAME, "main", 4, NULL, &s.k.err));
    end(&s, "its name points elsewhere");
    BEGIN(s);
    DO(tarnp_drop_put(&s.txn, s.nodes[1], (tarnp_drop){1, 0, 0}, &s.k.err));
    end(&s, "3 references counted, 4 found");
    BEGIN(s);
    DO(tarnp_drop_put(&s.txn, 99, (tarnp_drop){1, 0, 0}, &s.k.err));
    end(&s, "queued to be freed, but no node");
}

CASE(counters)
{
    spoil s;
    BEGIN(s);
    s.counters.nodes++;
    end(&s, "the counters of nodes");
    BEGIN(s);
    s.counters.bytes_stored--;
    end(&s, "bytes stored by the counter");
    BEGIN(s);
    s.counters.next_node = s.nodes[3];
    end(&s, "the id is beyond the next one");
    BEGIN(s);
    s.counters.next_session = 2;
    end(&s, "session branch: the id is beyond");
}

CASE(sessions_against_their_heads)
{
    spoil s;
    tarnp_span value;
    tarnp_session session;
    BEGIN(s);
    DO(tarnp_get_id(&s.txn, TARNP_TABLE_SESSION, 1, &value, &s.k.err));
    DO(tarnp_session_record_get(value, 1, &tarni_heap, &session, &s.k.err));
    session.position++;
    DO(tarnp_session_record_put(&s.txn, &session, &tarni_heap, &s.k.err));
    end(&s, "session main does not agree with its head");
    BEGIN(s);
    session.position--;
    session.bytes_owned++;
    DO(tarnp_session_record_put(&s.txn, &session, &tarni_heap, &s.k.err));
    end(&s, "session main owns");
    tarnp_session_fini(&session);
}

/* A record under another's key does not match its checksum. */
CASE(swapped_records)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "one");
    kit_create(&k, "two");
    tarnp_txn txn;
    tarnp_span value;
    REQUIRE_OK(tarnp_txn_begin(k.store->tables, true, &txn, &k.err), &k.err);
    REQUIRE_OK(tarnp_get_id(&txn, TARNP_TABLE_SESSION, 1, &value, &k.err), &k.err);
    uint8_t copy[300];
    size_t n = value.n_bytes;
    memcpy(copy, value.data, n);
    REQUIRE_OK(tarnp_put_id(&txn, TARNP_TABLE_SESSION, 2, copy, n, &k.err), &k.err);
    tarnp_session s;
    CHECK_STATUS(tarnp_get_id(&txn, TARNP_TABLE_SESSION, 2, &value, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_session_record_get(value, 2, &tarni_heap, &s, &k.err), TARN_E_CORRUPT);
    copy[0] = 9;
    CHECK_STATUS(tarnp_session_record_get((tarnp_span){copy, n}, 1, &tarni_heap, &s, &k.err),
                 TARN_E_FORMAT);
    for (size_t cut = 0; cut < n; cut++) {
        copy[0] = 1;
        CHECK_STATUS(tarnp_session_record_get((tarnp_span){copy, cut}, 1, &tarni_heap, &s, &k.err),
                     TARN_E_CORRUPT);
    }
    tarnp_txn_abort(&txn);
    kit_end(&k);
}

static bool stop_at_two(void *user, uint64_t done, uint64_t all)
{
    CHECK(done <= all && all > 0);
    return ++*(int *)user < 2;
}

CASE(progress_and_cancel)
{
    kit k;
    int calls = 0;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    for (uint64_t i = 1; i < 5; i++)
        kit_append(&k, "main", i);
    tarnp_verified v;
    CHECK_STATUS(tarnp_store_verify(k.store, stop_at_two, &calls, &v, &k.err), TARN_E_CANCELLED);
    CHECK_EQ(calls, 2);
    CHECK(v.bad == NULL);
    calls = -100;
    REQUIRE_OK(tarnp_store_verify(k.store, stop_at_two, &calls, &v, &k.err), &k.err);
    CHECK_EQ(v.nodes, 5);
    CHECK_EQ(v.chunks, kit_stat(&k).chunks);
    CHECK_EQ(v.bytes, kit_stat(&k).bytes_stored);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(reference_counts), ENTRY(missing_nodes_and_chunks),
           ENTRY(tips_keys_names_and_the_queue), ENTRY(manifests_that_lie),
           ENTRY(ids_of_other_sizes), ENTRY(more_damage_than_is_listed), ENTRY(counters),
           ENTRY(sessions_against_their_heads), ENTRY(swapped_records), ENTRY(progress_and_cancel))
