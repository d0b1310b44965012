#include "node.h"

#include "check.h"

static tarn_error err;

typedef struct sample {
    tarni_writer w;
    tarnp_manifest m;
} sample;

static tarnp_span span_of(const sample *s)
{
    return (tarnp_span){s->w.data, s->w.n_bytes};
}

static void make(sample *s)
{
    static char *ids[] = {"functions.grep:7", ""};
    static const tarnp_segment segments[] = {
        {.role = TARN_ROLE_USER, .flags = 2, .n_tokens = 5},
        {.role = TARN_ROLE_ASSISTANT, .flags = 1, .n_tokens = 2, .n_call_ids = 2, .call_ids = ids}};
    static const tarnp_section sections[] = {{.kind = TARNP_SECTION_TOKENS,
                                              .elem = TARNP_ELEM_U32,
                                              .codec = TARNP_STATE_LOSSLESS,
                                              .n_chunks = 1,
                                              .chunks = NULL},
                                             {.kind = TARNP_SECTION_CONV,
                                              .elem = TARNP_ELEM_BF16,
                                              .codec = TARNP_STATE_LOSSLESS,
                                              .n_chunks = 0,
                                              .chunks = NULL},
                                             {.kind = TARNP_SECTION_STATE,
                                              .elem = TARNP_ELEM_F32,
                                              .codec = TARNP_STATE_BF16,
                                              .max_error = 0.25F,
                                              .row_elems = 8,
                                              .unit_elems = 64,
                                              .n_chunks = 2,
                                              .chunks = NULL}};
    static const tarnp_chunk_ref refs[] = {
        {.first = 0, .count = 7, .raw_bytes = 28, .stored_bytes = 90, .sum = {1}},
        {.first = 0, .count = 8, .raw_bytes = 4096, .stored_bytes = 3000, .sum = {2}},
        {.first = 8, .count = 8, .raw_bytes = 4096, .stored_bytes = 3100, .sum = {3}}};
    memset(s, 0, sizeof *s);
    tarni_writer_init(&s->w, &tarni_heap);
    s->m = (tarnp_manifest){.id = 9,
                            .parent = 4,
                            .session_id = 2,
                            .position = 107,
                            .n_tokens = 7,
                            .turns = 3,
                            .flags = TARNP_NODE_HAS_STATE,
                            .created_ms = 1234567890123,
                            .chunk_bytes = 6190,
                            .first_chunk = 40,
                            .n_segments = 2,
                            .n_sections = 3,
                            .n_chunks = 3,
                            .key = {5},
                            .fp = {6},
                            .numerics = "cpu/f32"};
    CHECK_STATUS(tarnp_manifest_put(&s->w, &s->m, segments, sections, refs, &err), TARN_OK);
}

CASE(round_trip)
{
    sample s;
    make(&s);
    CHECK_EQ(s.w.n_bytes, s.m.n_bytes);
    tarnp_manifest m;
    REQUIRE_OK(tarnp_manifest_get(span_of(&s), 9, &m, &err), &err);
#define SAME(field) CHECK_BYTES(&m.field, &s.m.field, sizeof m.field)
    SAME(id);
    SAME(parent);
    SAME(session_id);
    SAME(position);
    SAME(n_tokens);
    SAME(turns);
    SAME(flags);
    SAME(created_ms);
    SAME(chunk_bytes);
    SAME(first_chunk);
    SAME(n_segments);
    SAME(n_sections);
    SAME(n_chunks);
    SAME(key);
    SAME(fp);
    SAME(numerics);
    SAME(prefix);
    SAME(n_bytes);
    tarnp_chunk_ref ref;
    tarnp_manifest_chunk(span_of(&s), &m, 2, &ref);
    CHECK_EQ(ref.id, 42);
    CHECK_EQ(ref.kind, TARNP_SECTION_STATE);
    CHECK_EQ(ref.elem, TARNP_ELEM_F32);
    CHECK_EQ(ref.sum[0], 3);
    tarnp_manifest_chunk(span_of(&s), &m, 0, &ref);
    CHECK_EQ(ref.kind, TARNP_SECTION_TOKENS);
    tarnp_node node;
    REQUIRE_OK(tarnp_manifest_node(span_of(&s), 9, &tarni_heap, &node, &err), &err);
    CHECK_EQ(node.n_segments, 2);
    CHECK_EQ(node.segments[1].n_tokens, 2);
    CHECK_EQ(node.segments[1].n_call_ids, 2);
    CHECK_TEXT(node.segments[1].call_ids[0], "functions.grep:7");
    CHECK_TEXT(node.segments[1].call_ids[1], "");
    CHECK_EQ(node.n_sections, 3);
    CHECK_EQ(node.sections[1].n_chunks, 0);
    CHECK_EQ(node.sections[1].codec, TARNP_STATE_LOSSLESS);
    CHECK_EQ(node.sections[2].codec, TARNP_STATE_BF16);
    CHECK(node.sections[2].max_error == 0.25F);
    CHECK_EQ(node.sections[2].row_elems, 8);
    CHECK_EQ(node.sections[2].unit_elems, 64);
    CHECK_EQ(node.sections[2].chunks[0].id, 41);
    CHECK_EQ(node.sections[2].chunks[1].stored_bytes, 3100);
    CHECK_EQ(node.stored_bytes, 6190 + s.m.n_bytes);
    CHECK_TEXT(node.numerics, "cpu/f32");
    tarnp_node_fini(&node);
    tarnp_node_fini(&node);
    tarni_writer_fini(&s.w);
}

/* Decodes a copy of exactly n bytes, so that ASan sees every byte too far. */
static tarn_status decode(const uint8_t *data, size_t n, uint64_t id)
{
    uint8_t *exact = malloc(n > 0 ? n : 1);
    memcpy(exact, data, n);
    tarnp_node node;
    tarn_status status = tarnp_manifest_node((tarnp_span){exact, n}, id, &tarni_heap, &node, &err);
    if (status == TARN_OK)
        tarnp_node_fini(&node);
    free(exact);
    return status;
}

/* Puts the checksum right again, so that the checks behind it are reached. */
static void seal(uint8_t *data, size_t n)
{
    tarnp_sum128(data, n - TARNP_SUM_BYTES, data + n - TARNP_SUM_BYTES);
}

CASE(every_flipped_bit_is_found)
{
    sample s;
    make(&s);
    for (size_t bit = 0; bit < s.w.n_bytes * 8; bit++) {
        s.w.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK_STATUS(decode(s.w.data, s.w.n_bytes, 9), TARN_E_CORRUPT);
        s.w.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < s.w.n_bytes; n++)
        CHECK_STATUS(decode(s.w.data, n, 9), TARN_E_CORRUPT);
    CHECK_STATUS(decode(s.w.data, s.w.n_bytes, 9), TARN_OK);
    CHECK_STATUS(decode(s.w.data, s.w.n_bytes, 10), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "node 10");
    tarni_writer_fini(&s.w);
}

/* With a valid checksum, as a bug or an attacker would leave it. */
CASE(hostile_fields)
{
    sample s;
    make(&s);
    size_t n = s.w.n_bytes;
    uint8_t *copy = malloc(n);
    for (size_t bit = 0; bit < (n - TARNP_SUM_BYTES) * 8; bit++) {
        memcpy(copy, s.w.data, n);
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        seal(copy, n);
        tarn_status status = decode(copy, n, 9);
        CHECK(status == TARN_OK || status == TARN_E_CORRUPT || status == TARN_E_FORMAT);
    }
    for (size_t at = 8; at + 4 <= n - TARNP_SUM_BYTES; at++) {
        memcpy(copy, s.w.data, n);
        tarni_store_u32(copy + at, 0xFFFFFFF0u);
        seal(copy, n);
        tarn_status status = decode(copy, n, 9);
        CHECK(status == TARN_OK || status == TARN_E_CORRUPT || status == TARN_E_FORMAT);
    }
    const struct {
        size_t at;
        uint32_t value;
        tarn_status want;
        const char *why;
    } list[] = {{4, 2, TARN_E_FORMAT, "version is 2"},
                {24, 9, TARN_E_CORRUPT, "younger"},
                {12, 8, TARN_E_CORRUPT, "add up to its tokens"},
                {52, 0x7FFFFFFF, TARN_E_CORRUPT, "segments"},
                {64, 1, TARN_E_CORRUPT, "add up to its bytes"},
                {80, 0x20000000, TARN_E_CORRUPT, "more chunks"},
                {84, 0x10000000, TARN_E_CORRUPT, "more chunks"},
                {n - 16 - 3 * 32 - 3 * 24 + 4, 2, TARN_E_CORRUPT, "sections"},
                {n - 16 - 3 * 32 - 3 * 24 + 8, 0x7FC00000, TARN_E_CORRUPT, "no share"},
                {n - 16 - 3 * 32 - 3 * 24, 0x00000201, TARN_E_FORMAT, "unknown codec 0"},
                {n - 16 - 3 * 32 - 3 * 24, 0x01010201, TARN_E_CORRUPT, "cannot be evicted"},
                {n - 16 - 3 * 32 - 2 * 24, 0x02010403, TARN_E_FORMAT, "unknown flags"},
                {n - 16 - 3 * 32 - 1 * 24, 0x01010302, TARN_E_CORRUPT, "add up to its bytes"},
                {232, 7, TARN_E_FORMAT, "encrypted"},
                {248, 7, TARN_E_FORMAT, "encrypted"}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        memcpy(copy, s.w.data, n);
        tarni_store_u32(copy + list[i].at, list[i].value);
        seal(copy, n);
        CHECK_STATUS(decode(copy, n, 9), list[i].want);
        CHECK_HAS(err.detail, list[i].why);
    }
    free(copy);
    tarni_writer_fini(&s.w);
}

CASE(evicted_sections_keep_their_numbers)
{
    sample s;
    make(&s);
    uint64_t begin, end;
    CHECK_EQ(tarnp_manifest_part_bytes(span_of(&s), &s.m, TARNP_PART_STATE), 6100);
    CHECK_EQ(tarnp_manifest_part_bytes(span_of(&s), &s.m, TARNP_PART_LATENTS), 0);
    CHECK(!tarnp_manifest_latents(span_of(&s), &s.m, &begin, &end));
    tarnp_manifest_evict(s.w.data, &s.m, TARNP_PART_STATE);
    CHECK_EQ(s.m.flags, TARNP_NODE_STATE_EVICTED);
    tarnp_manifest m;
    REQUIRE_OK(tarnp_manifest_get(span_of(&s), 9, &m, &err), &err);
    CHECK_EQ(m.chunk_bytes, 90);
    CHECK_EQ(m.flags, TARNP_NODE_STATE_EVICTED);
    CHECK_EQ(m.n_chunks, 3);
    CHECK_EQ(tarnp_manifest_part_bytes(span_of(&s), &m, TARNP_PART_STATE), 0);
    tarnp_chunk_ref ref;
    tarnp_manifest_chunk(span_of(&s), &m, 0, &ref);
    CHECK(!ref.evicted && ref.id == 40);
    tarnp_manifest_chunk(span_of(&s), &m, 2, &ref);
    CHECK(ref.evicted && ref.id == 42 && ref.stored_bytes == 3100);
    tarnp_node node;
    REQUIRE_OK(tarnp_manifest_node(span_of(&s), 9, &tarni_heap, &node, &err), &err);
    CHECK_EQ(node.n_sections, 1);
    CHECK_EQ(node.sections[0].kind, TARNP_SECTION_TOKENS);
    CHECK_EQ(node.stored_bytes, 90 + m.n_bytes);
    tarnp_node_fini(&node);
    tarni_writer_fini(&s.w);
}

/* An import uses a node that is there only if it says the same in every field but ids and times. */
CASE(what_makes_two_nodes_the_same)
{
    sample a;
    make(&a);
    tarnp_manifest same = a.m, others[12];
    same.id++, same.parent--, same.session_id++, same.created_ms++, same.first_chunk++;
    CHECK(tarnp_manifest_same(span_of(&a), &a.m, span_of(&a), &same));
    for (size_t i = 0; i < 12; i++)
        others[i] = a.m;
    others[0].n_bytes++, others[1].flags ^= 2, others[2].n_tokens++, others[3].position++;
    others[4].turns++, others[5].n_segments++, others[6].n_sections++, others[7].n_chunks++;
    others[8].chunk_bytes++, others[9].key[15] ^= 1, others[10].fp[31] ^= 1;
    others[11].numerics[0] ^= 1;
    for (size_t i = 0; i < 12; i++)
        if (tarnp_manifest_same(span_of(&a), &a.m, span_of(&a), &others[i]))
            CHECK_FAIL("field %zu does not count", i);
    /* Of segments, sections and chunks every byte counts but the sums of the chunks. */
    uint8_t *copy = malloc(a.w.n_bytes);
    const tarnp_span b = {copy, a.w.n_bytes};
    size_t tables = a.m.n_bytes - 16 - a.m.n_chunks * 32, end = a.m.n_bytes - 16;
    for (size_t at = TARNP_MANIFEST_HEAD_BYTES; at < end; at++) {
        memcpy(copy, a.w.data, a.w.n_bytes);
        copy[at] ^= 1;
        bool is_sum = at >= tables && (at - tables) % 32 >= 16;
        CHECK(tarnp_manifest_same(span_of(&a), &a.m, b, &a.m) == is_sum);
    }
    free(copy);
    tarni_writer_fini(&a.w);
}

CASE(what_is_too_large_for_a_node)
{
    char *id = (char[]){"id"};
    char **ids = malloc((UINT16_MAX + 1) * sizeof *ids);
    for (size_t i = 0; i <= UINT16_MAX; i++)
        ids[i] = id;
    tarnp_segment segment = {.n_call_ids = UINT16_MAX, .call_ids = ids};
    tarnp_manifest m = {.n_segments = 1};
    CHECK_STATUS(tarnp_manifest_measure(&m, &segment, &err), TARN_OK);
    CHECK_EQ(m.n_bytes, TARNP_MANIFEST_HEAD_BYTES + 8 + UINT16_MAX * 6 + TARNP_SUM_BYTES);
    tarni_writer w;
    tarni_writer_init(&w, &tarni_heap);
    segment.n_call_ids++;
    CHECK_STATUS(tarnp_manifest_put(&w, &m, &segment, NULL, NULL, &err), TARN_E_LIMIT);
    CHECK_HAS(err.detail, "segment 0 has 65536 call ids");
    CHECK_EQ(w.n_bytes, 0);
    segment.n_call_ids = 0;
    m.n_chunks = m.n_sections = UINT32_MAX;
    CHECK_STATUS(tarnp_manifest_measure(&m, &segment, &err), TARN_E_LIMIT);
    CHECK_HAS(err.detail, "1 segments and 4294967295 chunks");
    m.n_sections = 0;
    m.n_chunks = (UINT32_MAX - TARNP_MANIFEST_HEAD_BYTES - 8 - TARNP_SUM_BYTES) / 32;
    CHECK_STATUS(tarnp_manifest_measure(&m, &segment, &err), TARN_OK);
    m.n_chunks++;
    CHECK_STATUS(tarnp_manifest_measure(&m, &segment, &err), TARN_E_LIMIT);
    free(ids);
}

static int n_left; /* allocations that are granted */
static int n_live;

static void *scarce_resize(void *user, void *memory, size_t n)
{
    (void)user;
    if (n_left-- <= 0)
        return NULL;
    n_live += memory == NULL;
    return realloc(memory, n);
}

static void *scarce_alloc(void *user, size_t n)
{
    return scarce_resize(user, NULL, n);
}

static void scarce_release(void *user, void *memory)
{
    (void)user;
    n_live--;
    free(memory);
}

static const tarn_allocator scarce = {scarce_alloc, scarce_resize, scarce_release, NULL};

CASE(without_memory)
{
    sample s;
    make(&s);
    tarnp_node node;
    for (int n = 0; n < 2; n++) {
        n_left = n;
        CHECK_STATUS(tarnp_manifest_node(span_of(&s), 9, &scarce, &node, &err), TARN_E_NO_MEMORY);
        CHECK_EQ(n_live, 0);
    }
    n_left = 2;
    CHECK_STATUS(tarnp_manifest_node(span_of(&s), 9, &scarce, &node, &err), TARN_OK);
    tarnp_node_fini(&node);
    CHECK_EQ(n_live, 0);
    tarnp_manifest m = {.id = 1};
    for (int n = 0;; n++) {
        tarni_writer w;
        tarni_writer_init(&w, &scarce);
        n_left = n;
        tarn_status status = tarnp_manifest_put(&w, &m, NULL, NULL, NULL, &err);
        tarni_writer_fini(&w);
        CHECK_EQ(n_live, 0);
        if (status == TARN_OK) {
            CHECK(n > 0);
            break;
        }
        CHECK_STATUS(status, TARN_E_NO_MEMORY);
        REQUIRE(n < 100);
    }
    tarni_writer_fini(&s.w);
}

/* A node whose latents stand in two sections, out of order, among others. */
CASE(which_latents_a_node_has)
{
    static const tarnp_section sections[] = {{.kind = TARNP_SECTION_LATENT,
                                              .elem = TARNP_ELEM_F32,
                                              .codec = TARNP_STATE_LOSSLESS,
                                              .n_chunks = 2},
                                             {.kind = TARNP_SECTION_SAMPLER,
                                              .elem = TARNP_ELEM_U8,
                                              .codec = TARNP_STATE_LOSSLESS,
                                              .n_chunks = 1},
                                             {.kind = TARNP_SECTION_LATENT,
                                              .elem = TARNP_ELEM_F32,
                                              .codec = TARNP_STATE_LOSSLESS,
                                              .n_chunks = 2}};
    static const tarnp_chunk_ref refs[] = {{.first = 64, .count = 64, .stored_bytes = 5},
                                           {.first = 128, .count = 10, .stored_bytes = 6},
                                           {.first = 0, .count = 999, .stored_bytes = 7},
                                           {.first = 32, .count = 16, .stored_bytes = 8},
                                           {.first = 48, .count = 16, .stored_bytes = 9}};
    tarni_writer w;
    tarni_writer_init(&w, &tarni_heap);
    tarnp_manifest m = {.id = 3, .chunk_bytes = 35, .n_sections = 3, .n_chunks = 5};
    REQUIRE_OK(tarnp_manifest_put(&w, &m, NULL, sections, refs, &err), &err);
    const tarnp_span value = {w.data, w.n_bytes};
    REQUIRE_OK(tarnp_manifest_get(value, 3, &m, &err), &err);
    uint64_t begin = 0, end = 0;
    CHECK(tarnp_manifest_latents(value, &m, &begin, &end));
    CHECK_EQ(begin, 32);
    CHECK_EQ(end, 138);
    CHECK_EQ(tarnp_manifest_part_bytes(value, &m, TARNP_PART_LATENTS), 28);
    tarnp_manifest_evict(w.data, &m, TARNP_PART_LATENTS);
    REQUIRE_OK(tarnp_manifest_get(value, 3, &m, &err), &err);
    CHECK_EQ(m.chunk_bytes, 7);
    CHECK_EQ(m.flags, TARNP_NODE_LATENTS_EVICTED);
    CHECK_EQ(tarnp_manifest_part_bytes(value, &m, TARNP_PART_LATENTS), 0);
    CHECK_EQ(tarnp_part_of((tarnp_section_kind)99), 0);
    begin = end = 0;
    CHECK(tarnp_manifest_latents(value, &m, &begin, &end)); /* what they covered */
    CHECK(begin == 32 && end == 138);
    tarni_writer_fini(&w);
}

CHECK_MAIN(ENTRY(what_is_too_large_for_a_node), ENTRY(without_memory),
           ENTRY(which_latents_a_node_has), ENTRY(evicted_sections_keep_their_numbers),
           ENTRY(what_makes_two_nodes_the_same), ENTRY(round_trip),
           ENTRY(every_flipped_bit_is_found), ENTRY(hostile_fields))
