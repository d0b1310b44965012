/* What goes with a session through a file, a salvage and a compaction, and what stays behind: parts
 * that were evicted, sections that were kept lossy, marks, quotas, leases. */
#include "bundle_kit.h"
#include "retain_kit.h"

#include "compact.h"
#include "handle.h"
#include "salvage.h"
#include "small_disk.h"

#define TOKENS 40

/* Five nodes: of the second the state is evicted, of the third state and latents. */
static void fill(kit *k, const char *name, uint64_t nodes[6])
{
    uint64_t freed;
    nodes[0] = kit_create(k, name);
    for (uint64_t i = 1; i <= 5; i++)
        nodes[i] = rk_append(k, name, i, TOKENS);
    CHECK_STATUS(tarnp_node_evict(k->store, nodes[2], TARNP_PART_STATE, &freed, &k->err), TARN_OK);
    CHECK(freed > 0);
    CHECK_STATUS(tarnp_node_evict(k->store, nodes[3], TARNP_PART_STATE | TARNP_PART_LATENTS, &freed,
                                  &k->err),
                 TARN_OK);
    CHECK(freed > 0);
}

static void close_store(kit *k)
{
    tarnp_store_close(k->store);
    k->store = NULL;
}

static const char *const parts[] = {"", "slt", "lt", "t", "slt", "slt"};
/* States behind latents that are gone cannot be resumed from: a salvage leaves them. */
static const char *const salvaged_parts[] = {"", "slt", "lt", "t", "lt", "lt"};

/* All nodes say what they had, and the tokens are there: enough to compute the rest again. */
static void check_parts(kit *k, const char *name, const char *const want[6])
{
    uint64_t *ids;
    size_t n;
    REQUIRE_OK(tarnp_node_chain(k->store, kit_head(k, name), &ids, &n, &k->err), &k->err);
    CHECK_EQ(n, 6);
    for (uint64_t i = 1; i < n; i++) {
        CHECK_TEXT(rk_has(k, ids[i]), want[i]);
        rk_check_tokens(k, ids[i], i, TOKENS);
    }
    tarni_free(tarnp_store_allocator(k->store), ids);
    KIT_CLEAN(k);
}

/* It goes on at its end and at a node without state. */
static void check_goes_on(kit *k, const char *name)
{
    uint64_t *ids;
    size_t n;
    rk_append(k, name, 6, TOKENS);
    REQUIRE_OK(tarnp_node_chain(k->store, kit_head(k, name), &ids, &n, &k->err), &k->err);
    kit_fork(k, ids[3], "again");
    tarni_free(tarnp_store_allocator(k->store), ids);
    uint64_t node = rk_append(k, "again", 7, TOKENS);
    CHECK_TEXT(rk_has(k, node), "slt");
    rk_check_tokens(k, node, 7, TOKENS);
    KIT_CLEAN(k);
}

CASE(evicted_parts_stay_evicted_in_a_file)
{
    kit a, b;
    kit_bundle one, two;
    uint64_t nodes[6];
    tarnp_node node;
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    fill(&a, "s", nodes);
    REQUIRE(kit_export(&a, "s", &one));
    CHECK_STATUS(kit_import(&b, &one, NULL, NULL), TARN_OK);
    check_parts(&b, "s", parts);
    /* No entry is left of what was evicted: the copy's manifest is shorter. */
    CHECK(kit_stat(&b).bytes_stored < kit_stat(&a).bytes_stored);
    REQUIRE(kit_export(&b, "s", &two));
    CHECK_EQ(two.n_bytes, one.n_bytes);
    CHECK_BYTES(two.data, one.data, one.n_bytes);
    /* Beside its source: what is whole is used, and from the first evicted node on it is copied. */
    CHECK_STATUS(kit_import(&a, &one, "copy", NULL), TARN_OK);
    check_parts(&a, "copy", parts);
    CHECK_EQ(kit_stat(&a).nodes, 6 + 4);
    REQUIRE_OK(tarnp_node_read(a.store, nodes[3], &node, &a.err), &a.err);
    CHECK_EQ(node.n_sections, 2);
    tarnp_node_fini(&node);
    check_parts(&a, "s", parts);
    check_goes_on(&b, "s");
    CHECK_STATUS(tarnp_session_remove(b.store, "again", &b.err), TARN_OK);
    CHECK_STATUS(tarnp_session_remove(b.store, "s", &b.err), TARN_OK);
    CHECK_EQ(kit_stat(&b).bytes_stored, 0);
    KIT_CLEAN(&b);
    free(one.data);
    free(two.data);
    kit_end(&a);
    kit_end(&b);
}

CASE(evicted_parts_stay_evicted_in_a_salvage)
{
    kit a, b;
    uint64_t nodes[6];
    tarnp_salvaged found;
    REQUIRE(kit_begin(&a));
    kit_folder(&b);
    fill(&a, "s", nodes);
    close_store(&a);
    REQUIRE_OK(tarnp_salvage(a.path, b.path, &a.options, NULL, NULL, &found, &b.err), &b.err);
    CHECK_EQ(found.saved, 6);
    CHECK_EQ(found.lost, 0);
    CHECK_EQ(found.without_state, 0); /* not by the damage */
    REQUIRE(kit_reopen(&b));
    check_parts(&b, "s", salvaged_parts);
    check_goes_on(&b, "s");
    kit_end(&a);
    kit_end(&b);
}

/* ---- lossy sections ------------------------------------------------------------------------- */

enum { ROW = 16, UNIT = 8 * ROW, FLOATS = 4 * UNIT };

static tarn_status commit_lossy(kit *k, const char *name, uint64_t seed, tarnp_state_codec codec)
{
    static float state[FLOATS];
    uint32_t tokens[2] = {1, (uint32_t)seed};
    uint64_t r = seed, head = kit_head(k, name);
    for (size_t i = 0; i < FLOATS; i++)
        state[i] = kit_normal(&r);
    const tarnp_piece piece = {state, sizeof state};
    tarnp_chunk chunk = {.count = 4, .raw_bytes = sizeof state, .n_pieces = 1, .pieces = &piece};
    const tarnp_section section = {.kind = TARNP_SECTION_STATE,
                                   .elem = TARNP_ELEM_F32,
                                   .n_chunks = 1,
                                   .chunks = &chunk,
                                   .row_elems = ROW,
                                   .unit_elems = UNIT};
    const tarnp_segment segment = {.role = TARN_ROLE_USER, .n_tokens = 2};
    tarnp_committed made;
    tarnp_commit commit = {.session_id = kit_id(k, name),
                           .expected_head = head,
                           .move_head = true,
                           .parent = head,
                           .flags = TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT,
                           .tokens = tokens,
                           .n_tokens = 2,
                           .segments = &segment,
                           .n_segments = 1,
                           .sections = &section,
                           .n_sections = 1,
                           .state_codec = codec};
    kit_key(commit.key, seed);
    memcpy(commit.fp, kit_fp, sizeof kit_fp);
    return tarnp_commit_node(k->store, &commit, &made, &k->err);
}

/* What the head says of its state, and the state. */
static tarnp_section read_state(kit *k, const char *name, float out[FLOATS], uint8_t *flags)
{
    tarnp_node node;
    tarnp_section s = {0};
    if (tarnp_node_read(k->store, kit_head(k, name), &node, &k->err) != TARN_OK) {
        CHECK_FAIL("%s", k->err.detail);
        return s;
    }
    *flags = node.flags;
    for (size_t i = 0; i < node.n_sections; i++)
        if (node.sections[i].kind == TARNP_SECTION_STATE)
            s = node.sections[i];
    tarnp_piece piece = {out, FLOATS * sizeof *out};
    tarnp_chunk chunk = s.n_chunks == 1 ? s.chunks[0] : (tarnp_chunk){0};
    chunk.pieces = &piece;
    chunk.n_pieces = 1;
    CHECK_STATUS(tarnp_node_read_chunks(k->store, &node, s.elem, &chunk, 1, NULL, &k->err),
                 TARN_OK);
    tarnp_node_fini(&node);
    return s;
}

/* The same bits, the same codec and the same figure of what was lost. */
CASE(lossy_sections)
{
    kit a, b;
    static const tarnp_state_codec codecs[] = {TARNP_STATE_LOSSLESS, TARNP_STATE_BF16,
                                               TARNP_STATE_FP16, TARNP_STATE_INT8};
    static float was[FLOATS], is[FLOATS];
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    kit_create(&a, "s");
    for (uint64_t i = 0; i < 4; i++) {
        kit_bundle f;
        uint8_t flags_was = 0, flags_is = 0;
        char name[8];
        snprintf(name, sizeof name, "s%d", (int)i);
        CHECK_STATUS(commit_lossy(&a, "s", i + 1, codecs[i]), TARN_OK);
        REQUIRE(kit_export(&a, "s", &f));
        CHECK_STATUS(kit_import(&b, &f, name, NULL), TARN_OK);
        free(f.data);
        tarnp_section x = read_state(&a, "s", was, &flags_was);
        tarnp_section y = read_state(&b, name, is, &flags_is);
        CHECK_EQ(x.codec, codecs[i]);
        CHECK_EQ(y.codec, x.codec);
        CHECK_EQ(flags_is, flags_was);
        CHECK_EQ((flags_is & TARNP_NODE_BIT_EXACT) != 0, i == 0);
        CHECK((x.max_error > 0) == (i > 0));
        CHECK_BYTES(&y.max_error, &x.max_error, sizeof x.max_error);
        CHECK_EQ(y.row_elems, ROW);
        CHECK_EQ(y.unit_elems, UNIT);
        CHECK_BYTES(is, was, sizeof was);
        KIT_CLEAN(&b);
    }
    CHECK_EQ(kit_stat(&b).nodes, 1 + 4); /* each file used what the one before had brought */
    kit_end(&a);
    kit_end(&b);
}

/* ---- marks and leases ----------------------------------------------------------------------- */

#define LATER 4000000000000u

static void mark(kit *k, const char *name)
{
    CHECK_STATUS(tarnp_session_tag(k->store, name, "a", "b", &k->err), TARN_OK);
    CHECK_STATUS(tarnp_session_pin(k->store, name, true, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_session_set_group(k->store, name, "team", &k->err), TARN_OK);
    CHECK_STATUS(tarnp_session_expire(k->store, name, LATER, &k->err), TARN_OK);
}

CASE(marks_stay_with_the_store)
{
    kit a, b;
    kit_bundle plain, marked;
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    kit_create(&a, "s");
    kit_append(&a, "s", 1);
    CHECK_STATUS(tarnp_session_tag(a.store, "s", "a", "b", &a.err), TARN_OK);
    REQUIRE(kit_export(&a, "s", &plain));
    mark(&a, "s");
    REQUIRE(kit_export(&a, "s", &marked));
    CHECK_EQ(marked.n_bytes, plain.n_bytes);
    CHECK_STATUS(kit_import(&b, &marked, NULL, NULL), TARN_OK);
    tarnp_session s = rk_session(&b, "s");
    CHECK_EQ(s.pinned, false);
    CHECK_EQ(s.expires_ms, 0);
    CHECK_TEXT(s.group, "");
    CHECK_EQ(s.n_tags, 1);
    free(plain.data);
    free(marked.data);
    kit_end(&a);
    kit_end(&b);
}

CASE(marks_are_salvaged)
{
    kit a, b;
    tarnp_salvaged found;
    REQUIRE(kit_begin(&a));
    kit_folder(&b);
    kit_create(&a, "s");
    kit_append(&a, "s", 1);
    mark(&a, "s");
    close_store(&a);
    REQUIRE_OK(tarnp_salvage(a.path, b.path, &a.options, NULL, NULL, &found, &b.err), &b.err);
    REQUIRE(kit_reopen(&b));
    tarnp_session s = rk_session(&b, "s");
    CHECK_EQ(s.pinned, true);
    CHECK_EQ(s.expires_ms, LATER);
    CHECK_TEXT(s.group, "team");
    CHECK_EQ(s.n_tags, 1);
    KIT_CLEAN(&b);
    kit_end(&a);
    kit_end(&b);
}

/* A lease is about writing: the one who reads need not ask. */
CASE(a_lease_is_in_no_ones_way)
{
    kit a, b;
    kit_bundle f;
    tarnp_lease lease, none;
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    kit_create(&a, "s");
    kit_append(&a, "s", 1);
    REQUIRE_OK(tarnp_lease_take(a.store, kit_id(&a, "s"), 100000, "test", &lease, &a.err), &a.err);
    REQUIRE(kit_export(&a, "s", &f));
    CHECK_STATUS(kit_import(&a, &f, "copy", NULL), TARN_OK);
    CHECK_STATUS(tarnp_lease_find(a.store, kit_id(&a, "copy"), &none, &a.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(kit_import(&b, &f, NULL, NULL), TARN_OK);
    kit_append(&b, "s", 2);
    KIT_CLEAN(&a);
    free(f.data);
    kit_end(&a);
    kit_end(&b);
}

/* ---- quotas --------------------------------------------------------------------------------- */

/* Refused with the figures, whether the first transaction or the last one finds out. */
CASE(an_import_beyond_the_quota)
{
    kit a, b;
    kit_bundle f;
    char figures[100];
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    kit_floats = 16384;
    kit_create(&a, "large");
    for (uint64_t i = 101; i <= 180; i++)
        kit_append(&a, "large", i);
    REQUIRE(kit_export(&a, "large", &f));
    uint64_t needed = kit_stat(&a).bytes_stored;
    kit_create(&b, "mine");
    rk_append(&b, "mine", 1, TOKENS);
    kit_append(&b, "mine", 2);
    tarnp_stat before = kit_stat(&b);
    uint64_t fits = before.bytes_stored + needed;
    const uint64_t quotas[] = {(uint64_t)4 << 20, (uint64_t)20 << 20, fits - 1};
    for (size_t i = 0; i < 3; i++) {
        CHECK_STATUS(tarnp_quota_set(b.store, NULL, quotas[i], &b.err), TARN_OK);
        CHECK_STATUS(kit_import(&b, &f, NULL, NULL), TARN_E_QUOTA);
        snprintf(figures, sizeof figures, "the store is %llu bytes: %llu are used",
                 (unsigned long long)quotas[i], (unsigned long long)before.bytes_stored);
        CHECK_HAS(b.err.detail, figures);
        CHECK_HAS(b.err.detail, "nothing is evicted for an import");
        tarnp_stat now = kit_stat(&b);
        CHECK_EQ(now.sessions, before.sessions);
        CHECK_EQ(now.nodes, before.nodes);
        CHECK_EQ(now.chunks, before.chunks);
        CHECK_EQ(now.bytes_stored, before.bytes_stored);
        KIT_CLEAN(&b);
    }
    snprintf(figures, sizeof figures, "%llu more are needed", (unsigned long long)needed);
    CHECK_HAS(b.err.detail, figures);
    CHECK_STATUS(tarnp_quota_set(b.store, NULL, fits, &b.err), TARN_OK);
    CHECK_STATUS(kit_import(&b, &f, NULL, NULL), TARN_OK);
    CHECK_EQ(kit_stat(&b).bytes_stored, fits);
    /* What is there already costs nothing, even in a full store. */
    CHECK_STATUS(kit_import(&b, &f, "twin", NULL), TARN_OK);
    KIT_CLEAN(&b);
    kit_floats = 256;
    free(f.data);
    kit_end(&a);
    kit_end(&b);
}

/* A disk that is full before the file is in: what was staged is given back to the next commits. */
CASE(an_import_onto_a_full_disk)
{
    small_disk disk;
    if (!small_disk_mount(&disk, 16))
        SKIP(SMALL_DISK_REFUSED);
    kit a, b;
    kit_bundle f;
    REQUIRE(kit_begin(&a));
    kit_floats = 16384;
    kit_create(&a, "large");
    for (uint64_t i = 101; i <= 180; i++)
        kit_append(&a, "large", i);
    REQUIRE(kit_export(&a, "large", &f));
    kit_end(&a);
    CHECK(setenv("TMPDIR", disk.folder, 1) == 0);
    REQUIRE(kit_begin(&b));
    kit_create(&b, "mine");
    kit_append(&b, "mine", 1);
    tarnp_stat before = kit_stat(&b);
    CHECK_STATUS(kit_import(&b, &f, NULL, NULL), TARN_E_NO_SPACE);
    CHECK_EQ(kit_stat(&b).chunks, before.chunks);
    KIT_CLEAN(&b);
    for (uint64_t i = 2; i < 12; i++)
        kit_append(&b, "mine", i);
    kit_check_node(&b, kit_head(&b, "mine"), 11);
    KIT_CLEAN(&b);
    kit_floats = 256;
    free(f.data);
    kit_end(&b);
    CHECK(small_disk_unmount(&disk));
    unsetenv("TMPDIR");
}

/* ---- compaction ----------------------------------------------------------------------------- */

CASE(compaction_keeps_what_is_no_node)
{
    kit k;
    uint64_t before, after, nodes[6], quota;
    tarnp_lease lease, found;
    tarnp_policy policy = {.state_codec = TARNP_STATE_FP16};
    REQUIRE(kit_begin(&k));
    fill(&k, "s", nodes);
    mark(&k, "s");
    CHECK_STATUS(tarnp_policy_set(k.store, &policy, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_quota_set(k.store, NULL, (uint64_t)1 << 30, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_quota_set(k.store, "team", (uint64_t)1 << 29, &k.err), TARN_OK);
    REQUIRE_OK(tarnp_lease_take(k.store, kit_id(&k, "s"), 100000, "test", &lease, &k.err), &k.err);
    close_store(&k);
    REQUIRE_OK(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err), &k.err);
    REQUIRE(kit_reopen(&k));
    check_parts(&k, "s", parts);
    tarnp_session s = rk_session(&k, "s");
    CHECK_EQ(s.pinned, true);
    CHECK_EQ(s.expires_ms, LATER);
    CHECK_TEXT(s.group, "team");
    policy = (tarnp_policy){0};
    CHECK_STATUS(tarnp_policy_get(k.store, &policy, &k.err), TARN_OK);
    CHECK_EQ(policy.state_codec, TARNP_STATE_FP16);
    CHECK_STATUS(tarnp_quota_get(k.store, NULL, &quota, &k.err), TARN_OK);
    CHECK_EQ(quota, 1 << 30);
    CHECK_STATUS(tarnp_quota_get(k.store, "team", &quota, &k.err), TARN_OK);
    CHECK_EQ(quota, 1 << 29);
    /* The record is there; its handle was closed, so that the lease is anyone's to take. */
    tarnp_txn txn;
    tarnp_span value;
    REQUIRE_OK(tarnp_read_begin(k.store, &txn, &k.err), &k.err);
    CHECK_STATUS(tarnp_get_id(&txn, TARNP_TABLE_LEASE, s.id, &value, &k.err), TARN_OK);
    CHECK(value.data != NULL);
    tarnp_txn_abort(&txn);
    CHECK_STATUS(tarnp_lease_take(k.store, s.id, 1000, NULL, &found, &k.err), TARN_OK);
    kit_end(&k);
}

CASE(a_scratch_store_is_not_compacted)
{
    kit k;
    uint64_t before = 1, after = 1;
    kit_folder(&k);
    k.options.durability = TARNP_SCRATCH;
    REQUIRE(kit_reopen(&k));
    kit_create(&k, "s");
    close_store(&k);
    CHECK_STATUS(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err),
                 TARN_E_UNSUPPORTED);
    CHECK_HAS(k.err.detail, "scratch");
    CHECK_STATUS(tarnp_compact(k.path, &k.options, NULL, NULL, &before, &after, &k.err),
                 TARN_E_UNSUPPORTED);
    CHECK_EQ(before + after, 0);
    REQUIRE(kit_reopen(&k));
    CHECK_EQ(kit_stat(&k).sessions, 1);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(evicted_parts_stay_evicted_in_a_file),
           ENTRY(evicted_parts_stay_evicted_in_a_salvage), ENTRY(lossy_sections),
           ENTRY(marks_stay_with_the_store), ENTRY(marks_are_salvaged),
           ENTRY(a_lease_is_in_no_ones_way), ENTRY(an_import_beyond_the_quota),
           ENTRY(an_import_onto_a_full_disk), ENTRY(compaction_keeps_what_is_no_node),
           ENTRY(a_scratch_store_is_not_compacted))
