/* Eviction of parts, and the collection: what goes, what stays, and that every byte is counted. */
#include "evict.h"
#include "forest.h"
#include "refs.h"
#include "retain_kit.h"

static uint64_t evict(kit *k, uint64_t node, unsigned parts)
{
    uint64_t freed = 0;
    CHECK_STATUS(tarnp_node_evict(k->store, node, parts, &freed, &k->err), TARN_OK);
    return freed;
}

CASE(parts_leave_and_every_counter_knows)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = rk_append(&k, "main", 1, 40), second = rk_append(&k, "main", 2, 50);
    REQUIRE(kit_fork(&k, first, "branch"));
    rk_append(&k, "branch", 3, 10);
    tarnp_session main = rk_session(&k, "main"), branch = rk_session(&k, "branch");
    tarnp_stat before = kit_stat(&k);
    CHECK_TEXT(rk_has(&k, first), "slt");

    uint64_t freed = evict(&k, first, TARNP_PART_STATE);
    CHECK(freed > 5000 && freed < 9000);
    CHECK_TEXT(rk_has(&k, first), "lt");
    tarnp_stat after = kit_stat(&k);
    CHECK_EQ(after.bytes_stored, before.bytes_stored - freed);
    CHECK_EQ(after.chunks, before.chunks - 2);
    CHECK_EQ(after.nodes, before.nodes);
    CHECK_EQ(rk_session(&k, "main").bytes_owned, main.bytes_owned - freed);
    CHECK_EQ(rk_session(&k, "branch").bytes_owned, branch.bytes_owned);
    CHECK_EQ(rk_session(&k, "branch").bytes_shared, branch.bytes_shared - freed);
    CHECK_EQ(after.bytes_shared, before.bytes_shared - freed);
    KIT_CLEAN(&k);

    uint64_t written = kit_stat(&k).bytes_written;
    CHECK_EQ(evict(&k, first, TARNP_PART_STATE), 0);
    CHECK_EQ(kit_stat(&k).bytes_written, written);
    CHECK(evict(&k, first, TARNP_PART_STATE | TARNP_PART_LATENTS) > 500);
    CHECK_TEXT(rk_has(&k, first), "t");
    CHECK_TEXT(rk_has(&k, second), "slt");
    rk_check_tokens(&k, first, 1, 40);
    KIT_CLEAN(&k);
    REQUIRE(kit_reopen(&k));
    KIT_CLEAN(&k);
    /* What comes after still counts right. */
    REQUIRE(kit_fork(&k, second, "third"));
    tarnp_session third = rk_session(&k, "third");
    CHECK_EQ(third.bytes_shared, rk_session(&k, "main").bytes_owned);
    REQUIRE_OK(tarnp_session_move(k.store, third.id, third.head, first, NULL, &k.err), &k.err);
    rk_append(&k, "third", 4, 5);
    KIT_CLEAN(&k);
    const char *names[] = {"main", "branch", "third"};
    for (int i = 0; i < 3; i++)
        REQUIRE_OK(tarnp_session_remove(k.store, names[i], &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).bytes_stored, 0);
    CHECK_EQ(kit_stat(&k).chunks, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(evicting_refuses_nonsense)
{
    kit k;
    uint64_t freed;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "main");
    uint64_t node = rk_append(&k, "main", 1, 9);
    uint64_t before = rk_digest(&k);
    CHECK_STATUS(tarnp_node_evict(k.store, node, 0, &freed, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_node_evict(k.store, node, 4, &freed, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_node_evict(k.store, 99, 1, &freed, &k.err), TARN_E_NOT_FOUND);
    CHECK_EQ(evict(&k, root, 3), 0);
    CHECK_EQ(rk_digest(&k), before);
    kit_end(&k);
}

/* A reader that looked before the eviction is told, and is given nothing. */
CASE(a_reader_from_before_is_told)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t id = rk_append(&k, "main", 1, 9);
    tarnp_node node;
    REQUIRE_OK(tarnp_node_read(k.store, id, &node, &k.err), &k.err);
    evict(&k, id, TARNP_PART_STATE);
    float *state = malloc(rk_state_floats * sizeof *state);
    tarnp_piece piece = {state, rk_state_floats * sizeof *state};
    tarnp_chunk chunk = node.sections[1].chunks[0];
    chunk.pieces = &piece;
    chunk.n_pieces = 1;
    CHECK_EQ(node.sections[1].kind, TARNP_SECTION_STATE);
    CHECK_STATUS(tarnp_node_read_chunks(k.store, &node, TARNP_ELEM_F32, &chunk, 1, NULL, &k.err),
                 TARN_E_NOT_FOUND);
    CHECK_HAS(k.err.detail, "was evicted");
    free(state);
    tarnp_node_fini(&node);
    kit_end(&k);
}

/* What a crash between the marking and the freeing leaves. */
static bool mark_only(kit *k, uint64_t node, unsigned parts)
{
    tarnp_write w;
    tarnp_forest f;
    if (tarnp_write_begin(k->store, &w, &k->err) != TARN_OK ||
        tarnp_forest_load(k->store, &w.txn, &f, &k->err) != TARN_OK)
        return false;
    tarnp_forest_node *n = &f.nodes[tarnp_forest_find(&f, node)];
    n->state.why = parts & TARNP_PART_STATE ? TARNP_WHY_STORE_QUOTA : 0;
    n->latents.why = parts & TARNP_PART_LATENTS ? TARNP_WHY_STORE_QUOTA : 0;
    tarn_status status = tarnp_forest_apply(&w, &f, &k->err);
    tarnp_forest_fini(&f);
    return status == TARN_OK && tarnp_write_commit(&w, NULL, &k->err) == TARN_OK;
}

CASE(what_a_crash_leaves_is_freed_later)
{
    kit k;
    REQUIRE(kit_begin(&k));
    rk_latent_chunks = 600; /* three transactions of the queue */
    kit_create(&k, "main");
    uint64_t first = rk_append(&k, "main", 1, 700);
    rk_latent_chunks = 1;
    uint64_t second = rk_append(&k, "main", 2, 20);
    tarnp_stat before = kit_stat(&k);
    REQUIRE(mark_only(&k, first, TARNP_PART_LATENTS));
    KIT_CLEAN(&k);
    CHECK_EQ(kit_stat(&k).chunks, before.chunks);
    CHECK_EQ(kit_stat(&k).bytes_stored, before.bytes_stored);
    CHECK(rk_session(&k, "main").bytes_owned < before.bytes_stored);
    CHECK_TEXT(rk_has(&k, first), "st");
    REQUIRE(mark_only(&k, first, TARNP_PART_STATE));
    KIT_CLEAN(&k);
    REQUIRE(kit_reopen(&k)); /* opening frees */
    CHECK_EQ(kit_stat(&k).chunks, before.chunks - 602);
    CHECK_EQ(kit_stat(&k).bytes_stored, rk_session(&k, "main").bytes_owned);
    KIT_CLEAN(&k);
    REQUIRE(mark_only(&k, second, TARNP_PART_STATE));
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).bytes_stored, 0);
    CHECK_EQ(kit_stat(&k).chunks, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(verify_finds_lies_about_eviction)
{
    kit k;
    tarnp_write w;
    uint64_t freed;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t node = rk_append(&k, "main", 1, 9);
    /* Marked, but not queued, and the session not told. */
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    REQUIRE_OK(tarnp_evict(&w, node, TARNP_PART_STATE, &freed, &k.err), &k.err);
    REQUIRE_OK(tarnp_delete_id(&w.txn, TARNP_TABLE_GCQ, node, NULL, &k.err), &k.err);
    REQUIRE_OK(tarnp_write_commit(&w, NULL, &k.err), &k.err);
    CHECK_EQ(kit_verify(&k, true), 3); /* two chunks and bytes_owned */
    kit_end(&k);
}

/* ---- the collection ---- */

CASE(expired_sessions_go_unless_pinned)
{
    kit k;
    size_t n[5];
    REQUIRE(kit_begin(&k));
    const char *names[] = {"gone", "pinned", "young", "ageless"};
    for (uint64_t i = 0; i < 4; i++) {
        kit_create(&k, names[i]);
        rk_append(&k, names[i], i + 1, 10);
    }
    REQUIRE(kit_fork(&k, kit_head(&k, "gone"), "fork"));
    uint64_t shared = kit_head(&k, "gone"), own = rk_append(&k, "gone", 9, 10);
    for (int i = 0; i < 3; i++)
        REQUIRE_OK(tarnp_session_expire(k.store, names[i], i == 2 ? 5001 : 5000, &k.err), &k.err);
    REQUIRE_OK(tarnp_session_pin(k.store, "pinned", true, &k.err), &k.err);

    uint64_t before = rk_digest(&k), bytes = kit_stat(&k).bytes_stored;
    rk_gc(&k, (tarnp_gc_options){.now_ms = 4999, .dry_run = true}, n);
    CHECK_EQ(n[1] + n[2] + n[3] + n[4], 0);
    uint64_t would = rk_gc(&k, (tarnp_gc_options){.now_ms = 5000, .dry_run = true}, n);
    CHECK(n[TARNP_DROPPED_SESSION] == 1 && n[TARNP_DROPPED_NODE] == 1);
    CHECK_EQ(rk_digest(&k), before);
    uint64_t freed = rk_gc(&k, (tarnp_gc_options){.now_ms = 5000}, n);
    CHECK_EQ(freed, would);
    CHECK(n[TARNP_DROPPED_SESSION] == 1 && n[TARNP_DROPPED_NODE] == 1);
    CHECK_EQ(kit_stat(&k).bytes_stored, bytes - freed);
    CHECK_EQ(kit_id(&k, "gone"), 0);
    CHECK(kit_id(&k, "pinned") && kit_id(&k, "young") && kit_id(&k, "ageless"));
    CHECK_TEXT(rk_has(&k, shared), "slt");
    CHECK_TEXT(rk_has(&k, own), "gone");
    KIT_CLEAN(&k);
    REQUIRE_OK(tarnp_session_pin(k.store, "pinned", false, &k.err), &k.err);
    rk_gc(&k, (tarnp_gc_options){.now_ms = 9000}, n);
    CHECK_EQ(n[TARNP_DROPPED_SESSION], 2);
    CHECK_EQ(kit_stat(&k).sessions, 2);
    KIT_CLEAN(&k);
    kit_end(&k);
}

#define N_LONG   400
#define N_TOKENS 16

/* The distance to the next kept state before each token must not grow faster than with age. */
static void check_ladder(kit *k, const uint64_t *nodes, size_t n, uint32_t newest, uint32_t rung)
{
    uint64_t head = n * N_TOKENS, last = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t at = (i + 1) * N_TOKENS, d = head - last;
        bool has = rk_has(k, nodes[i])[0] == 's';
        uint64_t bound = rung;
        while (bound * newest * 2 <= d)
            bound *= 2;
        CHECK(i + newest < n || has);
        if (at - last > 2 * bound)
            CHECK_FAIL("%llu tokens without a state, %llu before the head",
                       (unsigned long long)(at - last), (unsigned long long)d);
        if (has)
            last = at;
    }
}

/* Somebody has it open: it goes when it is let go. */
CASE(an_expired_session_that_is_open_stays)
{
    kit k;
    size_t n[5];
    tarnp_lease lease;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    rk_append(&k, "main", 1, 10);
    REQUIRE_OK(tarnp_session_expire(k.store, "main", 5000, &k.err), &k.err);
    REQUIRE_OK(tarnp_lease_take(k.store, kit_id(&k, "main"), 60000, "n", &lease, &k.err), &k.err);
    rk_gc(&k, (tarnp_gc_options){.now_ms = 5000}, n);
    CHECK_EQ(n[TARNP_DROPPED_SESSION], 0);
    REQUIRE_OK(tarnp_lease_release(k.store, &lease, &k.err), &k.err);
    rk_gc(&k, (tarnp_gc_options){.now_ms = 5000}, n);
    CHECK_EQ(n[TARNP_DROPPED_SESSION], 1);
    CHECK_EQ(kit_id(&k, "main"), 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* Rungs so far apart that nothing is old enough for the second. */
CASE(rungs_of_any_size)
{
    static const uint32_t sizes[] = {1, 1u << 20, UINT32_MAX};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < 3; j++) {
            kit k;
            size_t n[5];
            REQUIRE(kit_begin(&k));
            kit_create(&k, "main");
            for (uint64_t seed = 1; seed <= 12; seed++)
                rk_append(&k, "main", seed, 40);
            rk_gc(&k, (tarnp_gc_options){.keep_newest = sizes[i], .rung_tokens = sizes[j]}, n);
            CHECK_EQ(n[TARNP_DROPPED_STATE] > 0, i == 0);
            KIT_CLEAN(&k);
            kit_end(&k);
        }
}

CASE(latents_alone_are_evicted)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = rk_append(&k, "main", 1, 10);
    rk_append(&k, "main", 2, 10);
    CHECK(evict(&k, first, TARNP_PART_LATENTS) > 0);
    CHECK_TEXT(rk_has(&k, first), "st");
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(states_are_thinned_with_age)
{
    kit k;
    size_t n[5];
    static uint64_t nodes[N_LONG];
    const tarnp_gc_options o = {.keep_newest = 4, .rung_tokens = 64};
    REQUIRE(kit_begin(&k));
    rk_state_floats = 64;
    kit_create(&k, "main");
    for (size_t i = 0; i < N_LONG; i++) {
        nodes[i] = rk_append(&k, "main", i + 1, N_TOKENS);
        if (i % 90 == 89) {
            rk_gc(&k, o, n);
            check_ladder(&k, nodes, i + 1, 4, 64);
        }
    }
    uint64_t would = rk_gc(&k, (tarnp_gc_options){true, 0, 4, 64}, n);
    size_t n_would = n[TARNP_DROPPED_STATE];
    CHECK_EQ(rk_gc(&k, o, n), would);
    CHECK_EQ(n[TARNP_DROPPED_STATE], n_would);
    check_ladder(&k, nodes, N_LONG, 4, 64);
    CHECK_EQ(rk_gc(&k, o, n), 0); /* a second one finds nothing */
    size_t n_left = 0;
    for (size_t i = 0; i < N_LONG; i++)
        n_left += rk_has(&k, nodes[i])[0] == 's';
    CHECK(n_left >= 12 && n_left <= 40);
    for (size_t i = 0; i < N_LONG; i++)
        rk_check_tokens(&k, nodes[i], i + 1, N_TOKENS);
    KIT_CLEAN(&k);
    rk_state_floats = 2048;
    kit_end(&k);
}

CASE(heads_branches_tips_and_pins_keep_their_states)
{
    kit k;
    size_t n[5];
    uint64_t nodes[60], pinned[20];
    const tarnp_gc_options o = {.keep_newest = 2, .rung_tokens = 1 << 20};
    REQUIRE(kit_begin(&k));
    rk_state_floats = 64;
    kit_create(&k, "main");
    for (uint64_t i = 0; i < 60; i++)
        nodes[i] = rk_append(&k, "main", i + 1, 4);
    REQUIRE(kit_fork(&k, nodes[10], "fork")); /* a head on the way */
    REQUIRE(kit_fork(&k, nodes[20], "other"));
    rk_append(&k, "other", 100, 4); /* nodes[20] branches */
    tarnp_session main = rk_session(&k, "main");
    REQUIRE_OK(tarnp_session_move(k.store, main.id, main.head, nodes[50], NULL, &k.err), &k.err);
    kit_create(&k, "pinned");
    for (uint64_t i = 0; i < 20; i++)
        pinned[i] = rk_append(&k, "pinned", 200 + i, 4);
    REQUIRE_OK(tarnp_session_pin(k.store, "pinned", true, &k.err), &k.err);
    rk_gc(&k, o, n);
    for (size_t i = 0; i < 60; i++) {
        /* fork: 10 and the one before; branch 20; "other" keeps its own and 20; head 50 and the one
         * before; the tip that the rewind left */
        bool stays = i == 9 || i == 10 || i == 20 || i == 49 || i == 50 || i == 59;
        CHECK_TEXT(rk_has(&k, nodes[i]), stays ? "slt" : "lt");
    }
    for (size_t i = 0; i < 20; i++)
        CHECK_TEXT(rk_has(&k, pinned[i]), "slt");
    KIT_CLEAN(&k);
    rk_state_floats = 2048;
    kit_end(&k);
}

/* ---- no memory ---- */

static long allocations_left;

static void *count_alloc(void *user, size_t n)
{
    (void)user;
    return allocations_left-- > 0 ? malloc(n) : NULL;
}

static void *count_resize(void *user, void *memory, size_t n)
{
    (void)user;
    return allocations_left-- > 0 ? realloc(memory, n) : NULL;
}

static void count_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

CASE(no_memory_changes_nothing)
{
    kit k;
    const tarn_allocator counting = {count_alloc, count_resize, count_release, NULL};
    kit_folder(&k);
    k.options.allocator = &counting;
    allocations_left = 1L << 40;
    REQUIRE(kit_reopen(&k));
    rk_state_floats = 64;
    kit_create(&k, "main");
    for (uint64_t i = 0; i < 12; i++)
        rk_append(&k, "main", i + 1, 4);
    kit_create(&k, "old");
    rk_append(&k, "old", 50, 4);
    REQUIRE_OK(tarnp_session_expire(k.store, "old", 1, &k.err), &k.err);
    REQUIRE_OK(tarnp_session_tag(k.store, "main", "a", "b", &k.err), &k.err);
    uint64_t before = rk_digest(&k);
    tarn_status status = TARN_E_NO_MEMORY;
    const tarnp_gc_options o = {.keep_newest = 1, .rung_tokens = 1 << 20};
    tarnp_gc_report r;
    for (long i = 0; status != TARN_OK && i < 10000; i++) {
        allocations_left = i;
        status = tarnp_store_gc(k.store, &o, &r, &k.err);
        allocations_left = 1L << 40;
        if (status != TARN_OK) {
            CHECK_STATUS(status, TARN_E_NO_MEMORY);
            CHECK(r.dropped == NULL && r.n_dropped == 0);
            uint64_t now = rk_digest(&k);
            KIT_CLEAN(&k);
            if (now != before) /* the first round was done, and freeing what it dropped too */
                CHECK_EQ(kit_id(&k, "old"), 0);
            before = now;
        }
    }
    CHECK_STATUS(status, TARN_OK);
    tarni_free(&counting, r.dropped);
    KIT_CLEAN(&k);
    status = TARN_E_NO_MEMORY;
    for (long i = 0; status != TARN_OK && i < 10000; i++) {
        allocations_left = i;
        status = tarnp_session_tag(k.store, "main", "c", "d", &k.err);
        allocations_left = 1L << 40;
    }
    CHECK_STATUS(status, TARN_OK);
    rk_state_floats = 2048;
    kit_end(&k);
}

CHECK_MAIN(ENTRY(parts_leave_and_every_counter_knows), ENTRY(evicting_refuses_nonsense),
           ENTRY(a_reader_from_before_is_told), ENTRY(what_a_crash_leaves_is_freed_later),
           ENTRY(verify_finds_lies_about_eviction), ENTRY(expired_sessions_go_unless_pinned),
           ENTRY(an_expired_session_that_is_open_stays), ENTRY(rungs_of_any_size),
           ENTRY(latents_alone_are_evicted), ENTRY(states_are_thinned_with_age),
           ENTRY(heads_branches_tips_and_pins_keep_their_states), ENTRY(no_memory_changes_nothing))
