/* Byte quotas: what a commit drops for itself, what it never touches, and that the file does not
 * grow from it. */
#include "retain_kit.h"

#include <sys/stat.h>

static tarn_status set_quota(kit *k, const char *group, uint64_t n_bytes)
{
    return tarnp_quota_set(k->store, group, n_bytes, &k->err);
}

static uint64_t quota_of(kit *k, const char *group)
{
    uint64_t n_bytes = 77;
    CHECK_STATUS(tarnp_quota_get(k->store, group, &n_bytes, &k->err), TARN_OK);
    return n_bytes;
}

CASE(quotas_are_kept_and_checked)
{
    kit k;
    REQUIRE(kit_begin(&k));
    CHECK_EQ(quota_of(&k, NULL), 0);
    kit_create(&k, "a");
    uint64_t node = rk_append(&k, "a", 1, 20);
    tarnp_node n;
    REQUIRE_OK(tarnp_node_read(k.store, node, &n, &k.err), &k.err);
    uint64_t largest = n.stored_bytes;
    tarnp_node_fini(&n);
    char figure[32];
    snprintf(figure, sizeof figure, "alone has %llu", (unsigned long long)largest);
    CHECK_STATUS(set_quota(&k, NULL, largest - 1), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, figure);
    CHECK_STATUS(set_quota(&k, "", 1), TARN_E_INVALID);
    CHECK_STATUS(set_quota(&k, "a\tb", 1), TARN_E_INVALID);
    CHECK_STATUS(set_quota(&k, "team", 1), TARN_OK); /* it has no sessions */
    REQUIRE_OK(tarnp_session_set_group(k.store, "a", "team", &k.err), &k.err);
    CHECK_STATUS(set_quota(&k, "team", largest - 1), TARN_E_INVALID);
    CHECK_EQ(quota_of(&k, "team"), 1);
    CHECK_STATUS(set_quota(&k, "team", largest), TARN_OK);
    CHECK_STATUS(set_quota(&k, NULL, 1 << 20), TARN_OK);
    REQUIRE(kit_reopen(&k));
    CHECK_EQ(quota_of(&k, NULL), 1 << 20);
    CHECK_EQ(quota_of(&k, "team"), largest);
    CHECK_EQ(quota_of(&k, "other"), 0);
    CHECK_STATUS(set_quota(&k, NULL, 0), TARN_OK);
    CHECK_EQ(quota_of(&k, NULL), 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* Four times the quota is written, by one session. */
CASE(a_session_lives_within_a_quota)
{
    kit k;
    static uint64_t nodes[60];
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    nodes[0] = rk_append(&k, "a", 1, 10);
    uint64_t one = kit_stat(&k).bytes_stored, quota = 9 * one;
    REQUIRE_OK(set_quota(&k, NULL, quota), &k.err);
    for (size_t i = 1; i < 40; i++) {
        if (i == 20)
            REQUIRE(kit_reopen(&k));
        nodes[i] = rk_append(&k, "a", i + 1, 10);
        tarnp_stat stat = kit_stat(&k);
        CHECK(stat.bytes_stored <= quota);
        CHECK(i < 10 || stat.bytes_stored > quota - 2 * one); /* just enough */
        CHECK_TEXT(rk_has(&k, nodes[i]), "slt");
        CHECK_EQ(stat.bytes_stored, rk_session(&k, "a").bytes_owned);
    }
    for (size_t i = 0; i < 40; i++) {
        rk_check_tokens(&k, nodes[i], i + 1, 10);
        CHECK(strchr(rk_has(&k, nodes[i]), 'l')); /* the session's own latents stay */
    }
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(pinned_sessions_and_the_writer_are_never_touched)
{
    kit k;
    uint64_t pinned[4], others[4], mine[3];
    REQUIRE(kit_begin(&k));
    const char *names[] = {"pinned", "other", "mine"};
    for (int i = 0; i < 3; i++)
        kit_create(&k, names[i]);
    for (uint64_t i = 0; i < 4; i++) {
        pinned[i] = rk_append(&k, "pinned", 10 + i, 10);
        others[i] = rk_append(&k, "other", 20 + i, 10);
    }
    for (uint64_t i = 0; i < 3; i++)
        mine[i] = rk_append(&k, "mine", 30 + i, 10);
    REQUIRE_OK(tarnp_session_pin(k.store, "pinned", true, &k.err), &k.err);
    REQUIRE_OK(set_quota(&k, NULL, kit_stat(&k).bytes_stored), &k.err);
    /* Each commit is one state, latents and tokens: first the other's states go, but its head's. */
    rk_append(&k, "mine", 40, 10);
    CHECK_TEXT(rk_has(&k, others[3]), "slt");
    CHECK_TEXT(rk_has(&k, mine[0]), "slt");
    CHECK_TEXT(rk_has(&k, mine[1]), "slt");
    rk_append(&k, "mine", 41, 10);
    for (int i = 0; i < 3; i++)
        CHECK_TEXT(rk_has(&k, others[i]), "lt");
    uint64_t head = rk_append(&k, "mine", 42, 10);
    CHECK_TEXT(rk_has(&k, others[3]), "slt");
    KIT_CLEAN(&k);
    /* Until nothing but tokens of others and the place it goes on from is left. */
    tarn_status status = TARN_OK;
    uint64_t digest = 0;
    for (uint64_t i = 43; i < 200 && status == TARN_OK; i++) {
        uint64_t node;
        digest = rk_digest(&k);
        status = rk_try_append(&k, "mine", i, 10, &node);
        head = status == TARN_OK ? node : head;
    }
    CHECK_STATUS(status, TARN_E_QUOTA);
    CHECK_HAS(k.err.detail, "can be evicted");
    CHECK_EQ(rk_digest(&k), digest); /* a refusal drops nothing */
    for (int i = 0; i < 4; i++) {
        CHECK_TEXT(rk_has(&k, pinned[i]), "slt");
        CHECK_TEXT(rk_has(&k, others[i]), "t");
        rk_check_tokens(&k, others[i], 20 + (uint64_t)i, 10);
    }
    CHECK_TEXT(rk_has(&k, head), "slt");
    CHECK_TEXT(rk_has(&k, mine[0]), "lt");
    KIT_CLEAN(&k);
    /* Unpinned, they may go. */
    REQUIRE_OK(tarnp_session_pin(k.store, "pinned", false, &k.err), &k.err);
    CHECK(rk_append(&k, "mine", 300, 10) > 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(a_group_pays_for_itself)
{
    kit k;
    uint64_t a[3], b[3];
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    kit_create(&k, "b");
    for (uint64_t i = 0; i < 3; i++) {
        a[i] = rk_append(&k, "a", 1 + i, 10);
        b[i] = rk_append(&k, "b", 11 + i, 10);
    }
    REQUIRE_OK(tarnp_session_set_group(k.store, "a", "team", &k.err), &k.err);
    REQUIRE_OK(set_quota(&k, "team", rk_session(&k, "a").bytes_owned), &k.err);
    uint64_t node = rk_append(&k, "a", 50, 10);
    CHECK(rk_session(&k, "a").bytes_owned <= quota_of(&k, "team"));
    CHECK_TEXT(rk_has(&k, node), "slt");
    CHECK_TEXT(rk_has(&k, a[2]), "slt"); /* it went on from here */
    for (int i = 0; i < 3; i++)
        CHECK_TEXT(rk_has(&k, b[i]), "slt");
    CHECK_TEXT(rk_has(&k, rk_append(&k, "b", 51, 10)), "slt"); /* not of the group: no limit */
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(a_collection_enforces_quotas)
{
    kit k;
    size_t n[5];
    uint64_t nodes[6];
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    for (uint64_t i = 0; i < 6; i++)
        nodes[i] = rk_append(&k, "a", 1 + i, 10);
    uint64_t all = kit_stat(&k).bytes_stored, one = all / 6;
    REQUIRE_OK(set_quota(&k, NULL, all - one), &k.err);
    CHECK_EQ(kit_stat(&k).bytes_stored, all);
    uint64_t would = rk_gc(&k, (tarnp_gc_options){.dry_run = true}, n);
    CHECK_EQ(kit_stat(&k).bytes_stored, all);
    CHECK_EQ(rk_gc(&k, (tarnp_gc_options){0}, n), would);
    CHECK(n[TARNP_DROPPED_STATE] == 2 && n[TARNP_DROPPED_LATENTS] == 0);
    CHECK(kit_stat(&k).bytes_stored <= all - one);
    /* All states but the head's before any latents, the head's last. */
    REQUIRE_OK(set_quota(&k, NULL, 2 * one), &k.err);
    rk_gc(&k, (tarnp_gc_options){0}, n);
    CHECK_EQ(n[TARNP_DROPPED_LATENTS], 0);
    CHECK_TEXT(rk_has(&k, nodes[5]), "slt");
    for (int i = 0; i < 5; i++)
        CHECK_TEXT(rk_has(&k, nodes[i]), "lt");
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* The reasons of what goes by the quota of a group. */
CASE(a_collection_says_whose_quota_it_was)
{
    kit k;
    tarnp_gc_report report;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    for (uint64_t i = 0; i < 4; i++)
        rk_append(&k, "a", 1 + i, 10);
    REQUIRE_OK(tarnp_session_set_group(k.store, "a", "team", &k.err), &k.err);
    REQUIRE_OK(set_quota(&k, "team", rk_session(&k, "a").bytes_owned * 3 / 4), &k.err);
    REQUIRE_OK(tarnp_store_gc(k.store, NULL, &report, &k.err), &k.err);
    CHECK(report.n_dropped > 0);
    for (size_t i = 0; i < report.n_dropped; i++)
        CHECK_HAS(report.dropped[i].why, "quota of its group");
    tarni_free(tarnp_store_allocator(k.store), report.dropped);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* ---- the file ---- */

static uint64_t file_bytes(kit *k)
{
    return kit_stat(k).file_bytes;
}

/* Snapshots of changing size come and go; the file must not grow much beyond one that holds only
 * what is there at the end. TARN_TEST_CYCLES sets how many. */
CASE(cycles_do_not_bloat_the_file)
{
    enum { LIVE = 100, SESSIONS = 4 };
    kit k, fresh;
    const char *cycles = getenv("TARN_TEST_CYCLES");
    uint64_t n_cycles = cycles ? strtoull(cycles, NULL, 10) : 300;
    char name[16];
    REQUIRE(kit_begin(&k));
    for (int i = 0; i < SESSIONS; i++) {
        snprintf(name, sizeof name, "s%d", i);
        kit_create(&k, name);
    }
    uint64_t nodes[LIVE] = {0}, sizes[LIVE] = {0}, r = 5;
    for (uint64_t i = 0; i < n_cycles; i++) {
        if (nodes[i % LIVE])
            CHECK_STATUS(tarnp_node_evict(k.store, nodes[i % LIVE], TARNP_PART_STATE,
                                          &(uint64_t){0}, &k.err),
                         TARN_OK);
        rk_state_floats = sizes[i % LIVE] = 50000 + kit_random(&r) % 15000;
        snprintf(name, sizeof name, "s%d", (int)(i % SESSIONS));
        nodes[i % LIVE] = rk_append(&k, name, i + 1, 4);
    }
    KIT_CLEAN(&k);
    uint64_t used = file_bytes(&k);
    /* The same contents without the past: the tokens of all, the states of the living. */
    REQUIRE(kit_begin(&fresh));
    for (int i = 0; i < SESSIONS; i++) {
        snprintf(name, sizeof name, "s%d", i);
        kit_create(&fresh, name);
    }
    for (uint64_t i = 0; i < n_cycles; i++) {
        rk_state_floats = i + LIVE < n_cycles ? 1 : sizes[i % LIVE];
        snprintf(name, sizeof name, "s%d", (int)(i % SESSIONS));
        rk_append(&fresh, name, i + 1, 4);
    }
    uint64_t needed = file_bytes(&fresh);
    printf("    %llu cycles: %llu bytes, fresh %llu: %.3f\n", (unsigned long long)n_cycles,
           (unsigned long long)used, (unsigned long long)needed, (double)used / (double)needed);
    CHECK((double)used <= 1.12 * (double)needed);
    rk_state_floats = 2048;
    kit_end(&fresh);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(quotas_are_kept_and_checked), ENTRY(a_session_lives_within_a_quota),
           ENTRY(pinned_sessions_and_the_writer_are_never_touched), ENTRY(a_group_pays_for_itself),
           ENTRY(a_collection_enforces_quotas), ENTRY(a_collection_says_whose_quota_it_was),
           ENTRY(cycles_do_not_bloat_the_file))
