/* Stores and exported files of every format ever released, kept under tests/data/golden, must read
 * as they did.
 *
 *     persist_golden_test                          the tests
 *     persist_golden_test --write FOLDER           makes data.mdb and expected.txt of this version
 *     persist_golden_test --write-export FOLDER    makes session.tarnx and expected.txt: session
 *                                                  branch of the golden store, one state evicted
 *
 * What is golden is never written again: a new format gets a folder of its own. The store holds
 * every codec, every kind of section, call ids, tags, a policy, quotas, a pinned session, a group,
 * a time of expiry, an evicted node, an old lease, a model, a fork, a rewound session with its tip,
 * and free pages. expected.txt is what `tell` says of it, sums of all decoded bytes included. */
#include "bundle_kit.h"

#include "handle.h"
#include "node.h"

#include <xxhash.h>

#define GOLDEN        TEST_DATA "/golden/store-1"
#define GOLDEN_EXPORT TEST_DATA "/golden/export-1"
#define ROW           32
#define UNIT          (16 * ROW)
#define FLOATS        (4 * UNIT)

/* ---- what a store says ---------------------------------------------------------------------- */

static uint64_t sum_of(const void *data, size_t n)
{
    return XXH3_64bits(data, n);
}

static bool tell_sessions(kit *k, FILE *out)
{
    tarnp_session *list;
    size_t n;
    if (tarnp_session_list(k->store, &list, &n, &k->err) != TARN_OK)
        return false;
    for (size_t i = 0; i < n; i++) {
        const tarnp_session *s = &list[i];
        fprintf(out, "session %llu %s: head %llu, position %llu, turns %u, owned %llu, shared %llu",
                (unsigned long long)s->id, s->name, (unsigned long long)s->head,
                (unsigned long long)s->position, s->turns, (unsigned long long)s->bytes_owned,
                (unsigned long long)s->bytes_shared);
        fprintf(out,
                ", created %llu, updated %llu, expires %llu, pinned %d, group %s, model %016llx\n",
                (unsigned long long)s->created_ms, (unsigned long long)s->updated_ms,
                (unsigned long long)s->expires_ms, s->pinned, s->group,
                (unsigned long long)sum_of(s->fp, sizeof s->fp));
        for (size_t t = 0; t < s->n_tags; t++)
            fprintf(out, "    tag %s=%s\n", s->tags[t].key, s->tags[t].value);
    }
    tarnp_sessions_free(list, n);
    return true;
}

/* The number in the chunk's header: which codec wrote it. */
static int codec_of(kit *k, uint64_t chunk)
{
    tarnp_txn txn;
    tarnp_span value = {0};
    if (tarnp_read_begin(k->store, &txn, &k->err) != TARN_OK)
        return -1;
    tarn_status status = tarnp_get_id(&txn, TARNP_TABLE_CHUNK, chunk, &value, &k->err);
    int codec = status == TARN_OK && value.n_bytes > 5 ? value.data[5] : -1;
    tarnp_txn_abort(&txn);
    return codec;
}

static bool tell_section(kit *k, const tarnp_node *node, const tarnp_section *s, FILE *out,
                         unsigned *codecs)
{
    uint32_t error;
    memcpy(&error, &s->max_error, sizeof error);
    fprintf(out, "    section %d of elements %d: codec %d, error %08x, rows of %u, units of %u\n",
            (int)s->kind, (int)s->elem, (int)s->codec, error, s->row_elems, s->unit_elems);
    for (size_t i = 0; i < s->n_chunks; i++) {
        tarnp_chunk chunk = s->chunks[i];
        tarnp_piece piece = {malloc(chunk.raw_bytes + 1), chunk.raw_bytes};
        chunk.pieces = &piece;
        chunk.n_pieces = 1;
        int codec = codec_of(k, chunk.id);
        tarn_status status =
            tarnp_node_read_chunks(k->store, node, s->elem, &chunk, 1, NULL, &k->err);
        fprintf(out, "        chunk %llu: %u + %u, codec %d, %u bytes in %u, %016llx\n",
                (unsigned long long)chunk.id, chunk.first, chunk.count, codec, chunk.raw_bytes,
                chunk.stored_bytes, (unsigned long long)sum_of(piece.data, piece.n_bytes));
        free(piece.data);
        if (status != TARN_OK || codec < 0)
            return false;
        *codecs |= 1u << codec;
    }
    return true;
}

static bool tell_node(kit *k, uint64_t id, FILE *out, unsigned *codecs)
{
    tarnp_node n;
    if (tarnp_node_read(k->store, id, &n, &k->err) != TARN_OK)
        return false;
    fprintf(out,
            "node %llu: parent %llu, session %llu, position %llu, tokens %u, turns %u, flags %u, "
            "created %llu, stored %llu, numerics %s, model %016llx\n",
            (unsigned long long)n.id, (unsigned long long)n.parent,
            (unsigned long long)n.session_id, (unsigned long long)n.position, n.n_tokens, n.turns,
            n.flags, (unsigned long long)n.created_ms, (unsigned long long)n.stored_bytes,
            n.numerics, (unsigned long long)sum_of(n.fp, sizeof n.fp));
    for (size_t i = 0; i < n.n_segments; i++) {
        const tarnp_segment *s = &n.segments[i];
        fprintf(out, "    segment: role %d, flags %u, tokens %u", (int)s->role, s->flags,
                s->n_tokens);
        for (size_t c = 0; c < s->n_call_ids; c++)
            fprintf(out, ", call %s", s->call_ids[c]);
        fprintf(out, "\n");
    }
    bool ok = true;
    for (size_t i = 0; ok && i < n.n_sections; i++)
        ok = tell_section(k, &n, &n.sections[i], out, codecs);
    tarnp_node_fini(&n);
    return ok;
}

/* Everything there is to read. Returns a bit for each codec met. */
static unsigned tell(kit *k, FILE *out)
{
    tarnp_node_brief *nodes = NULL;
    tarnp_policy policy;
    size_t n = 0;
    unsigned codecs = 0;
    tarni_writer model;
    tarni_writer_init(&model, &tarni_heap);
    bool ok = tarnp_policy_get(k->store, &policy, &k->err) == TARN_OK &&
              tarnp_model_get(k->store, kit_fp, &model, &k->err) == TARN_OK;
    if (ok)
        fprintf(out, "policy: state %d, latents %d\nmodel: %zu bytes, %016llx\n",
                (int)policy.state_codec, (int)policy.latent_codec, model.n_bytes,
                (unsigned long long)sum_of(model.data, model.n_bytes));
    tarni_writer_fini(&model);
    ok = ok && tell_sessions(k, out) && tarnp_node_list(k->store, &nodes, &n, &k->err) == TARN_OK;
    for (size_t i = 0; ok && i < n; i++)
        ok = tell_node(k, nodes[i].id, out, &codecs);
    tarni_free(tarnp_store_allocator(k->store), nodes);
    if (!ok)
        CHECK_FAIL("cannot be read: %s", k->err.detail);
    return codecs;
}

/* ---- making one ----------------------------------------------------------------------------- */

typedef struct content {
    uint32_t tokens[300];
    float state[FLOATS], logits[100];
    uint16_t conv[200], latent[600];
    uint8_t sampler[24];
} content;

static void fill(content *c, uint64_t seed)
{
    uint64_t r = seed;
    for (size_t i = 0; i < 300; i++)
        c->tokens[i] = (uint32_t)(kit_random(&r) % 20); /* few, so that zstd gains */
    for (size_t i = 0; i < FLOATS; i++)
        c->state[i] = kit_normal(&r) * ldexpf(1, (int)(i / UNIT) * 9 - 12);
    for (size_t i = 0; i < 100; i++)
        c->logits[i] = kit_normal(&r) * 4;
    for (size_t i = 0; i < 200; i++)
        c->conv[i] = (uint16_t)(0x3F00 + kit_random(&r) % 256);
    for (size_t i = 0; i < 600; i++)
        c->latent[i] = (uint16_t)((0x3E80 + kit_random(&r) % 512) ^ (i % 3 == 0 ? 0x8000 : 0));
    for (size_t i = 0; i < 24; i++)
        c->sampler[i] = (uint8_t)kit_random(&r);
}

/* A node with every kind of section, on the head of a session. */
static void append(kit *k, const char *name, uint64_t seed, tarnp_state_codec codec)
{
    static content c;
    static char *calls[] = {"functions.ls:0", "functions.cat:1"};
    fill(&c, seed);
    tarnp_piece pieces[] = {
        {c.state, sizeof c.state / 2}, {c.state + FLOATS / 2, sizeof c.state / 2},
        {c.conv, sizeof c.conv},       {c.latent, sizeof c.latent},
        {c.logits, sizeof c.logits},   {c.sampler, sizeof c.sampler}};
    tarnp_chunk chunks[6];
    for (uint32_t i = 0; i < 6; i++)
        chunks[i] = (tarnp_chunk){.first = i == 1 ? 2 : 0,
                                  .count = i < 2 ? 2 : (uint32_t)pieces[i].n_bytes,
                                  .raw_bytes = (uint32_t)pieces[i].n_bytes,
                                  .n_pieces = 1,
                                  .pieces = &pieces[i]};
    tarnp_section sections[] = {
        {.kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .n_chunks = 2, .chunks = chunks},
        {.kind = TARNP_SECTION_CONV, .elem = TARNP_ELEM_BF16, .n_chunks = 1, .chunks = chunks + 2},
        {.kind = TARNP_SECTION_LATENT,
         .elem = TARNP_ELEM_BF16,
         .n_chunks = 1,
         .chunks = chunks + 3},
        {.kind = TARNP_SECTION_LOGITS, .elem = TARNP_ELEM_F32, .n_chunks = 1, .chunks = chunks + 4},
        {.kind = TARNP_SECTION_SAMPLER,
         .elem = TARNP_ELEM_U8,
         .n_chunks = 1,
         .chunks = chunks + 5}};
    sections[0].row_elems = ROW;
    sections[0].unit_elems = UNIT;
    const tarnp_segment segments[] = {
        {.role = TARN_ROLE_USER, .flags = TARNP_SEGMENT_CLOSED, .n_tokens = 200},
        {.role = TARN_ROLE_ASSISTANT, .n_tokens = 100, .n_call_ids = 2, .call_ids = calls}};
    uint64_t head = kit_head(k, name);
    tarnp_commit commit = {.session_id = kit_id(k, name),
                           .expected_head = head,
                           .move_head = true,
                           .parent = head,
                           .flags = TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT,
                           .numerics = "cpu/f32",
                           .tokens = c.tokens,
                           .n_tokens = 300,
                           .prefix = seed == 1 ? c.tokens : NULL,
                           .n_prefix = seed == 1 ? 300 : 0,
                           .segments = segments,
                           .n_segments = 2,
                           .sections = sections,
                           .n_sections = 5,
                           .state_codec = codec};
    tarnp_committed made;
    kit_key(commit.key, seed);
    memcpy(commit.fp, kit_fp, sizeof kit_fp);
    CHECK_STATUS(tarnp_commit_node(k->store, &commit, &made, &k->err), TARN_OK);
}

/* What people set on sessions, what was evicted, and a lease nobody released. */
static void mark(kit *k, uint64_t evict)
{
    tarnp_lease lease;
    uint64_t freed;
    CHECK_STATUS(tarnp_session_pin(k->store, "branch", true, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_session_set_group(k->store, "branch", "team", &k->err), TARN_OK);
    CHECK_STATUS(tarnp_session_expire(k->store, "main", 4000000000000, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_quota_set(k->store, NULL, 1 << 20, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_quota_set(k->store, "team", 1 << 19, &k->err), TARN_OK);
    CHECK_STATUS(
        tarnp_node_evict(k->store, evict, TARNP_PART_STATE | TARNP_PART_LATENTS, &freed, &k->err),
        TARN_OK);
    CHECK_STATUS(tarnp_lease_take(k->store, kit_id(k, "branch"), 1, "golden", &lease, &k->err),
                 TARN_OK);
}

static void make(kit *k)
{
    static const tarnp_tag tags[] = {{"team", "red"}, {"language", "Ελληνικά"}, {"empty", ""}};
    const tarnp_policy policy = {.state_codec = TARNP_STATE_FP16};
    tarnp_session s;
    CHECK_STATUS(tarnp_model_put(k->store, kit_fp, "a model", 7, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_session_create(k->store, "main", kit_fp, "cpu/f32", tags, 3, &s, &k->err),
                 TARN_OK);
    tarnp_session_fini(&s);
    append(k, "main", 1, TARNP_STATE_LOSSLESS);
    append(k, "main", 2, TARNP_STATE_LOSSLESS);
    uint64_t fork_at = kit_head(k, "main");
    append(k, "main", 3, TARNP_STATE_LOSSLESS);
    append(k, "main", 8, TARNP_STATE_LOSSLESS);
    uint64_t last = kit_head(k, "main");
    kit_fork(k, fork_at, "branch");
    append(k, "branch", 4, TARNP_STATE_BF16);
    CHECK_STATUS(tarnp_policy_set(k->store, &policy, &k->err), TARN_OK);
    append(k, "branch", 5, TARNP_STATE_POLICY);
    append(k, "branch", 6, TARNP_STATE_INT8);
    kit_create(k, "gone");
    append(k, "gone", 7, TARNP_STATE_LOSSLESS);
    CHECK_STATUS(tarnp_session_move(k->store, kit_id(k, "main"), kit_head(k, "main"), fork_at, NULL,
                                    &k->err),
                 TARN_OK); /* node of seed 8 is a tip now */
    CHECK_STATUS(tarnp_session_remove(k->store, "gone", &k->err), TARN_OK);
    mark(k, last);
    KIT_CLEAN(k);
}

static void copy(const char *from, const char *to)
{
    static uint8_t buffer[1 << 20];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    size_t n = in ? fread(buffer, 1, sizeof buffer, in) : 0;
    if (n == 0 || n == sizeof buffer || !out || fwrite(buffer, 1, n, out) != n)
        CHECK_FAIL("cannot copy %s to %s", from, to);
    if (in)
        fclose(in);
    if (out)
        fclose(out);
}

static int write_golden(const char *folder)
{
    kit k;
    char file[260], to[300];
    if (!kit_begin(&k))
        return 1;
    make(&k);
    snprintf(to, sizeof to, "%s/expected.txt", folder);
    FILE *out = fopen(to, "w");
    if (!out) {
        perror(to);
        return 1;
    }
    tell(&k, out);
    fclose(out);
    tarnp_store_close(k.store);
    k.store = NULL;
    kit_file(&k, "data.mdb", file);
    snprintf(to, sizeof to, "%s/data.mdb", folder);
    copy(file, to);
    kit_end(&k);
    return check_failures ? 1 : 0;
}

/* A copy of the golden store, opened: opening writes. */
static bool open_golden(kit *k)
{
    char file[260];
    kit_folder(k);
    k->options.create = false;
    CHECK_EQ(mkdir(k->path, 0700), 0);
    kit_file(k, "data.mdb", file);
    copy(GOLDEN "/data.mdb", file);
    return kit_reopen(k);
}

/* Session branch of the golden store: six nodes, every codec, one state evicted. */
static bool export_golden(kit *k, kit_bundle *f)
{
    uint8_t key[TARNP_KEY_BYTES];
    uint64_t node, freed;
    if (!open_golden(k))
        return false;
    kit_key(key, 2);
    CHECK_STATUS(tarnp_commit_find(k->store, key, &node, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_node_evict(k->store, node, TARNP_PART_STATE, &freed, &k->err), TARN_OK);
    return kit_export(k, "branch", f);
}

static int write_golden_export(const char *folder)
{
    kit k, into;
    kit_bundle f;
    char to[300];
    if (!export_golden(&k, &f) || !kit_begin(&into))
        return 1;
    snprintf(to, sizeof to, "%s/session.tarnx", folder);
    FILE *out = fopen(to, "wb");
    if (!out || fwrite(f.data, 1, f.n_bytes, out) != f.n_bytes || fclose(out) != 0) {
        perror(to);
        return 1;
    }
    CHECK_STATUS(kit_import(&into, &f, NULL, NULL), TARN_OK);
    snprintf(to, sizeof to, "%s/expected.txt", folder);
    out = fopen(to, "w");
    if (!out) {
        perror(to);
        return 1;
    }
    tell(&into, out);
    fclose(out);
    free(f.data);
    kit_end(&into);
    kit_end(&k);
    return check_failures ? 1 : 0;
}

/* ---- the tests ------------------------------------------------------------------------------ */

/* The first line that differs. */
static void compare(const char *got, const char *want)
{
    for (int line = 1; *got || *want; line++) {
        size_t n = strcspn(got, "\n"), n_want = strcspn(want, "\n");
        if (n != n_want || memcmp(got, want, n) != 0) {
            CHECK_FAIL("line %d is \"%.*s\", should be \"%.*s\"", line, (int)n, got, (int)n_want,
                       want);
            return;
        }
        got += n + (got[n] == '\n');
        want += n_want + (want[n_want] == '\n');
    }
}

/* What the store says must be what it said then; returns the codecs met. */
static unsigned check_told(kit *k, const char *expected)
{
    static char want[1 << 16];
    char *got = NULL;
    size_t n_got;
    FILE *in = fopen(expected, "r"), *out = open_memstream(&got, &n_got);
    if (!in || !out) {
        CHECK_FAIL("cannot read %s", expected);
        return 0;
    }
    want[fread(want, 1, sizeof want - 1, in)] = 0;
    fclose(in);
    KIT_CLEAN(k);
    unsigned codecs = tell(k, out);
    fclose(out);
    compare(got, want);
    free(got);
    return codecs;
}

CASE(store_1_reads_as_it_did)
{
    kit k;
    REQUIRE(open_golden(&k));
    CHECK_EQ(check_told(&k, GOLDEN "/expected.txt"), 0x7F); /* codecs 0 to 6 */
    kit_end(&k);
}

/* The sums in expected.txt are of what was written: lossless sections against their seeds. */
CASE(store_1_holds_what_was_put_in)
{
    kit k;
    REQUIRE(open_golden(&k));
    static content want;
    static float back[FLOATS];
    static const double bounds[] = {0, 0, 0, 0, 0x1p-8, 0x1p-11, 1 / 253.0};
    for (uint64_t seed = 1; seed <= 6; seed++) {
        uint8_t key[TARNP_KEY_BYTES];
        uint64_t id;
        tarnp_node node;
        tarni_ids ids;
        kit_key(key, seed);
        REQUIRE_OK(tarnp_commit_find(k.store, key, &id, &k.err), &k.err);
        REQUIRE_OK(tarnp_node_read(k.store, id, &node, &k.err), &k.err);
        fill(&want, seed);
        tarni_ids_init(&ids, &tarni_heap);
        CHECK_STATUS(tarnp_node_tokens(k.store, &node, &ids, &k.err), TARN_OK);
        CHECK_EQ(ids.n_ids, 300);
        CHECK_BYTES(ids.ids, want.tokens, sizeof want.tokens);
        tarni_ids_fini(&ids);
        const tarnp_section *s = &node.sections[1];
        CHECK_EQ(s->kind, TARNP_SECTION_STATE);
        tarnp_piece pieces[2] = {{back, sizeof back / 2}, {back + FLOATS / 2, sizeof back / 2}};
        tarnp_chunk chunks[2] = {s->chunks[0], s->chunks[1]};
        for (size_t i = 0; i < 2; i++) {
            chunks[i].pieces = &pieces[i];
            chunks[i].n_pieces = 1;
        }
        CHECK_STATUS(tarnp_node_read_chunks(k.store, &node, s->elem, chunks, 2, NULL, &k.err),
                     TARN_OK);
        for (size_t unit = 0; unit < FLOATS / UNIT; unit++)
            CHECK_CLOSE(back + unit * UNIT, want.state + unit * UNIT, UNIT, bounds[s->codec]);
        tarnp_node_fini(&node);
    }
    uint64_t listed;
    size_t n_found;
    fill(&want, 1);
    CHECK_STATUS(
        tarnp_prefix_find(k.store, kit_fp, "cpu/f32", want.tokens, 300, &listed, &n_found, &k.err),
        TARN_OK);
    CHECK_EQ(n_found, 300);
    CHECK(listed != 0);
    kit_end(&k);
}

CASE(store_1_goes_on)
{
    kit k;
    REQUIRE(open_golden(&k));
    append(&k, "main", 100, TARNP_STATE_POLICY);
    kit_fork(&k, kit_head(&k, "branch"), "later");
    CHECK_STATUS(tarnp_session_remove(k.store, "branch", &k.err), TARN_OK);
    REQUIRE(kit_reopen(&k));
    KIT_CLEAN(&k);
    kit_end(&k);
}

static bool read_golden_export(kit_bundle *f)
{
    static uint8_t buffer[1 << 20];
    tarn_error err;
    *f = (kit_bundle){0};
    FILE *in = fopen(GOLDEN_EXPORT "/session.tarnx", "rb");
    size_t n = in ? fread(buffer, 1, sizeof buffer, in) : 0;
    if (in)
        fclose(in);
    return n > 0 && n < sizeof buffer && kit_bundle_write(f, buffer, n, &err) == TARN_OK;
}

CASE(export_1_reads_as_it_did)
{
    kit k;
    kit_bundle f, again;
    REQUIRE(read_golden_export(&f) && kit_begin(&k));
    REQUIRE_OK(kit_import(&k, &f, NULL, NULL), &k.err);
    CHECK_EQ(check_told(&k, GOLDEN_EXPORT "/expected.txt"), 0x7F); /* codecs 0 to 6 */
    append(&k, "branch", 100, TARNP_STATE_LOSSLESS);
    KIT_CLEAN(&k);
    kit_end(&k);
    /* As long as files of version 1 are what is written, this one is. */
    if (TARNP_BUNDLE_VERSION == 1 && export_golden(&k, &again)) {
        CHECK_EQ(again.n_bytes, f.n_bytes);
        if (again.n_bytes == f.n_bytes)
            CHECK_BYTES(again.data, f.data, f.n_bytes);
        free(again.data);
        kit_end(&k);
    }
    free(f.data);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {ENTRY(store_1_reads_as_it_did),
                                       ENTRY(store_1_holds_what_was_put_in), ENTRY(store_1_goes_on),
                                       ENTRY(export_1_reads_as_it_did)};
    if (argc == 3 && strcmp(argv[1], "--write-export") == 0)
        return write_golden_export(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_golden(argv[2]);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
