/* Lossy states through the store: what the policy chooses, what a node says of itself, what comes
 * back; and the policy's record. */
#include "store_kit.h"

#include "handle.h"

#define ROW    16
#define UNIT   (8 * ROW)
#define UNITS  8 /* in two chunks */
#define FLOATS (UNITS * UNIT)

static float state[FLOATS], back[FLOATS];

static void fill(void)
{
    uint64_t r = 4;
    for (size_t i = 0; i < FLOATS; i++)
        state[i] = kit_normal(&r);
}

static void lay(tarnp_chunk chunks[2], tarnp_piece pieces[2], float *at)
{
    for (uint32_t i = 0; i < 2; i++) {
        pieces[i] = (tarnp_piece){at + i * FLOATS / 2, sizeof state / 2};
        chunks[i] = (tarnp_chunk){.first = i * UNITS / 2,
                                  .count = UNITS / 2,
                                  .raw_bytes = sizeof state / 2,
                                  .n_pieces = 1,
                                  .pieces = &pieces[i]};
    }
}

/* Commits the state to session "main" and reads the node. */
static uint64_t commit(kit *k, tarnp_state_codec codec, uint32_t row, uint32_t unit,
                       tarnp_committed *made, tarnp_node *node)
{
    static uint64_t next_key = 1000;
    tarnp_piece pieces[2];
    tarnp_chunk chunks[2];
    uint64_t head = kit_head(k, "main");
    lay(chunks, pieces, state);
    tarnp_section sections[2] = {{.kind = TARNP_SECTION_STATE,
                                  .elem = TARNP_ELEM_F32,
                                  .n_chunks = 2,
                                  .chunks = chunks,
                                  .row_elems = row,
                                  .unit_elems = unit},
                                 {.kind = TARNP_SECTION_LOGITS,
                                  .elem = TARNP_ELEM_F32,
                                  .n_chunks = 2,
                                  .chunks = chunks,
                                  .row_elems = row,
                                  .unit_elems = unit}};
    tarnp_commit c = {.session_id = kit_id(k, "main"),
                      .expected_head = head,
                      .move_head = true,
                      .parent = head,
                      .flags = TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT,
                      .sections = sections,
                      .n_sections = 2,
                      .state_codec = codec};
    kit_key(c.key, next_key++);
    memcpy(c.fp, kit_fp, sizeof kit_fp);
    CHECK_STATUS(tarnp_commit_node(k->store, &c, made, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_node_read(k->store, made->node, node, &k->err), TARN_OK);
    return made->node;
}

static void read_section(kit *k, const tarnp_node *node, size_t section)
{
    tarnp_piece pieces[2];
    tarnp_chunk chunks[2];
    lay(chunks, pieces, back);
    for (size_t i = 0; i < 2; i++)
        chunks[i].id = node->sections[section].chunks[i].id;
    memset(back, 0xA5, sizeof back);
    CHECK_STATUS(tarnp_node_read_chunks(k->store, node, TARNP_ELEM_F32, chunks, 2, NULL, &k->err),
                 TARN_OK);
}

/* Commits, and checks everything that follows from the codec the state must get. */
static void expect(kit *k, tarnp_state_codec asked, uint32_t row, uint32_t unit,
                   tarnp_state_codec want)
{
    tarnp_committed made;
    tarnp_node node;
    commit(k, asked, row, unit, &made, &node);
    bool lossy = want != TARNP_STATE_LOSSLESS;
    CHECK_EQ(node.n_sections, 2);
    CHECK_EQ(node.sections[0].codec, want);
    CHECK_EQ(node.sections[0].row_elems, row);
    CHECK_EQ(node.sections[0].unit_elems, unit);
    CHECK_EQ(made.lossy, lossy);
    CHECK_EQ((node.flags & TARNP_NODE_BIT_EXACT) != 0, !lossy);
    CHECK_EQ((node.flags & TARNP_NODE_HAS_STATE) != 0, true);
    read_section(k, &node, 0);
    if (lossy) {
        double worst = 0;
        for (size_t i = 0; i < UNITS; i++)
            worst = fmax(worst, check_rel(back + i * UNIT, state + i * UNIT, UNIT));
        CHECK(worst > 0);
        if (fabs(worst - (double)node.sections[0].max_error) > 1e-6 * worst)
            CHECK_FAIL("error %g stored, %g found", (double)node.sections[0].max_error, worst);
    } else {
        CHECK(node.sections[0].max_error == 0);
        CHECK_BYTES(back, state, sizeof state);
    }
    read_section(k, &node, 1); /* logits never are */
    CHECK_EQ(node.sections[1].codec, TARNP_STATE_LOSSLESS);
    CHECK_BYTES(back, state, sizeof state);
    tarnp_node_fini(&node);
}

static void set(kit *k, tarnp_state_codec codec)
{
    const tarnp_policy policy = {.state_codec = codec};
    CHECK_STATUS(tarnp_policy_set(k->store, &policy, &k->err), TARN_OK);
}

CASE(policy_and_commit_choose)
{
    kit k;
    REQUIRE(kit_begin(&k));
    fill();
    kit_create(&k, "main");
    expect(&k, TARNP_STATE_POLICY, ROW, UNIT, TARNP_STATE_LOSSLESS);
    static const tarnp_state_codec lossy[] = {TARNP_STATE_BF16, TARNP_STATE_FP16, TARNP_STATE_INT8};
    for (size_t i = 0; i < 3; i++) {
        expect(&k, lossy[i], ROW, UNIT, lossy[i]);
        expect(&k, lossy[i], 0, UNIT, TARNP_STATE_LOSSLESS); /* shape unknown */
        expect(&k, lossy[i], ROW, 0, TARNP_STATE_LOSSLESS);
        set(&k, lossy[i]);
        expect(&k, TARNP_STATE_POLICY, ROW, UNIT, lossy[i]);
        expect(&k, TARNP_STATE_LOSSLESS, ROW, UNIT, TARNP_STATE_LOSSLESS);
        REQUIRE(kit_reopen(&k));
        expect(&k, TARNP_STATE_POLICY, ROW, UNIT, lossy[i]);
    }
    set(&k, TARNP_STATE_LOSSLESS);
    expect(&k, TARNP_STATE_POLICY, ROW, UNIT, TARNP_STATE_LOSSLESS);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* One chunk of two cannot be rounded: the section is lossy, that chunk is exact. */
CASE(fallback_by_chunk)
{
    kit k;
    tarnp_committed made;
    tarnp_node node;
    REQUIRE(kit_begin(&k));
    fill();
    state[3] = INFINITY;
    kit_create(&k, "main");
    commit(&k, TARNP_STATE_BF16, ROW, UNIT, &made, &node);
    CHECK_EQ(node.sections[0].codec, TARNP_STATE_BF16);
    CHECK(made.lossy);
    read_section(&k, &node, 0);
    CHECK_BYTES(back, state, sizeof state / 2);
    CHECK(memcmp(back + FLOATS / 2, state + FLOATS / 2, sizeof state / 2) != 0);
    tarnp_node_fini(&node);
    state[FLOATS - 1] = NAN; /* now neither can */
    expect(&k, TARNP_STATE_BF16, ROW, UNIT, TARNP_STATE_LOSSLESS);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(refusals)
{
    kit k;
    tarnp_policy policy;
    REQUIRE(kit_begin(&k));
    CHECK_STATUS(tarnp_policy_get(k.store, &policy, &k.err), TARN_OK);
    CHECK_EQ(policy.state_codec, TARNP_STATE_LOSSLESS);
    CHECK_EQ(policy.latent_codec, TARNP_STATE_LOSSLESS);
    policy = (tarnp_policy){.state_codec = (tarnp_state_codec)3};
    CHECK_STATUS(tarnp_policy_set(k.store, &policy, &k.err), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "state_codec is 3");
    policy = (tarnp_policy){.latent_codec = (tarnp_state_codec)77};
    CHECK_STATUS(tarnp_policy_set(k.store, &policy, &k.err), TARN_E_INVALID);
    policy = (tarnp_policy){.latent_codec = TARNP_STATE_INT8, .state_codec = TARNP_STATE_BF16};
    CHECK_STATUS(tarnp_policy_set(k.store, &policy, &k.err), TARN_E_UNSUPPORTED);
    CHECK_HAS(k.err.detail, "latent_codec is 6");
    CHECK_STATUS(tarnp_policy_get(k.store, &policy, &k.err), TARN_OK);
    CHECK_EQ(policy.state_codec, TARNP_STATE_LOSSLESS); /* nothing of a refused one is set */
    set(&k, TARNP_STATE_FP16);
    set(&k, TARNP_STATE_POLICY); /* 0: as it is */
    CHECK_STATUS(tarnp_policy_get(k.store, &policy, &k.err), TARN_OK);
    CHECK_EQ(policy.state_codec, TARNP_STATE_FP16);

    uint64_t head = kit_create(&k, "main");
    tarnp_section section = {
        .kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .row_elems = 16, .unit_elems = 100};
    tarnp_commit c = {.key = {1}, .expected_head = head, .parent = head, .session_id = 1};
    tarnp_committed made;
    c.sections = &section;
    c.n_sections = 1;
    CHECK_STATUS(tarnp_commit_node(k.store, &c, &made, &k.err), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "a unit of 100 elements in rows of 16");
    c.n_sections = 0;
    c.state_codec = (tarnp_state_codec)2;
    CHECK_STATUS(tarnp_commit_node(k.store, &c, &made, &k.err), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "state_codec is 2");
    kit_end(&k);
}

/* Puts bytes as the policy's record, checksum and all. */
static void put_record(kit *k, const void *data, size_t n)
{
    tarnp_write w;
    REQUIRE_OK(tarnp_write_begin(k->store, &w, &k->err), &k->err);
    CHECK_STATUS(tarnp_put(&w.txn, TARNP_TABLE_META, "policy", 6, data, n, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_write_commit(&w, NULL, &k->err), TARN_OK);
}

CASE(bad_records)
{
    static const struct {
        uint8_t bytes[10];
        size_t n;
        tarn_status want;
        const char *why;
    } list[] = {{{2, 0, 1, 1}, 8, TARN_E_FORMAT, "version 2"},
                {{2, 0, 1, 1, 0, 0, 0, 0, 9, 9}, 10, TARN_E_FORMAT, "version 2"},
                {{1, 0, 1, 1}, 7, TARN_E_CORRUPT, "7 bytes"},
                {{1, 0, 9, 1}, 8, TARN_E_FORMAT, "codecs 9 and 1"},
                {{1, 0, 0, 1}, 8, TARN_E_FORMAT, "codecs 0 and 1"},
                {{1, 0, 1, 4}, 8, TARN_E_FORMAT, "codecs 1 and 4"},
                {{1}, 1, TARN_E_CORRUPT, "1 bytes"}};
    kit k;
    REQUIRE(kit_begin(&k));
    fill();
    kit_create(&k, "main");
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        tarnp_policy policy;
        put_record(&k, list[i].bytes, list[i].n);
        CHECK_STATUS(tarnp_policy_get(k.store, &policy, &k.err), list[i].want);
        CHECK_HAS(k.err.detail, list[i].why);
        CHECK_EQ(kit_verify(&k, true), 1);
        tarnp_committed made;
        tarnp_commit c = {.key = {1}, .session_id = 1, .expected_head = 1, .parent = 1};
        memcpy(c.fp, kit_fp, sizeof kit_fp);
        CHECK_STATUS(tarnp_commit_node(k.store, &c, &made, &k.err), list[i].want);
        policy = (tarnp_policy){TARNP_STATE_BF16, TARNP_STATE_LOSSLESS};
        CHECK_STATUS(tarnp_policy_set(k.store, &policy, &k.err),
                     list[i].want == TARN_E_CORRUPT ? TARN_OK : TARN_E_FORMAT);
    }
    expect(&k, TARNP_STATE_POLICY, ROW, UNIT, TARNP_STATE_BF16);
    expect(&k, TARNP_STATE_LOSSLESS, ROW, UNIT, TARNP_STATE_LOSSLESS);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(policy_and_commit_choose), ENTRY(fallback_by_chunk), ENTRY(refusals),
           ENTRY(bad_records))
