/* Manifests that are whole and say what no store would have written: each row of a table spoils one
 * thing of a node that is fine. */
#include "admit.h"

#include "chunk.h"
#include "store_kit.h"

static tarn_error err;

enum { TOKENS = 7, HEAD = TARNP_CHUNK_HEAD_BYTES };

/* The second node of a chain: two segments, its tokens in two chunks, and a state. */
typedef struct node {
    tarnp_manifest m;
    tarnp_segment segments[2];
    tarnp_section sections[2];
    tarnp_chunk_ref chunks[3];
} node;

static const uint8_t model[TARNP_FP_BYTES] = {9};

static node fine(void)
{
    node n = {.m = {.id = 2,
                    .parent = 1,
                    .session_id = 1,
                    .position = TOKENS,
                    .n_tokens = TOKENS,
                    .turns = 1,
                    .flags = TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT,
                    .first_chunk = 1,
                    .n_segments = 2,
                    .n_sections = 2,
                    .n_chunks = 3},
              .segments = {{.role = TARN_ROLE_USER, .flags = TARNP_SEGMENT_CLOSED, .n_tokens = 5},
                           {.role = TARN_ROLE_ASSISTANT, .n_tokens = 2}},
              .sections = {{.kind = TARNP_SECTION_TOKENS,
                            .elem = TARNP_ELEM_U32,
                            .codec = TARNP_STATE_LOSSLESS,
                            .n_chunks = 2},
                           {.kind = TARNP_SECTION_STATE,
                            .elem = TARNP_ELEM_F32,
                            .codec = TARNP_STATE_LOSSLESS,
                            .n_chunks = 1}},
              .chunks = {{.first = 0, .count = 4, .raw_bytes = 16, .stored_bytes = HEAD + 16},
                         {.first = 4, .count = 3, .raw_bytes = 12, .stored_bytes = HEAD},
                         {.first = 0, .count = 8, .raw_bytes = 64, .stored_bytes = HEAD + 10}}};
    memcpy(n.m.fp, model, sizeof model);
    return n;
}

static tarn_status admit(node *n, const tarnp_admission *place)
{
    tarni_writer w;
    tarnp_manifest m;
    n->m.chunk_bytes = 0;
    for (uint32_t i = 0; i < n->m.n_chunks; i++)
        n->m.chunk_bytes += n->chunks[i].stored_bytes;
    tarni_writer_init(&w, &tarni_heap);
    tarn_status status = tarnp_manifest_put(&w, &n->m, n->segments, n->sections, n->chunks, &err);
    CHECK_STATUS(status, TARN_OK);
    status = tarnp_admit_node(place, (tarnp_span){w.data, w.n_bytes}, &tarni_heap, &m, &err);
    tarni_writer_fini(&w);
    return status;
}

static const tarnp_manifest root = {.id = 1};
static const tarnp_admission second = {1, 0, &root, model};

#define REFUSED(change, want, why)                                                                 \
    do {                                                                                           \
        node n = fine();                                                                           \
        change;                                                                                    \
        CHECK_STATUS(admit(&n, &second), want);                                                    \
        CHECK_HAS(err.detail, why);                                                                \
    } while (0)
#define ADMITTED(change)                                                                           \
    do {                                                                                           \
        node n = fine();                                                                           \
        change;                                                                                    \
        CHECK_STATUS(admit(&n, &second), TARN_OK);                                                 \
    } while (0)

CASE(segments)
{
    ADMITTED((void)0);
    REFUSED(n.segments[1].role = (tarn_role)(TARN_ROLE_SYSTEM - 1), TARN_E_CORRUPT, "unknown role");
    REFUSED(n.segments[1].role = (tarn_role)(TARN_ROLE_TOKENS + 1), TARN_E_CORRUPT, "unknown role");
    REFUSED(n.segments[1].flags = 0x80, TARN_E_CORRUPT, "unknown role or flags");
    /* One that goes on is no new turn. */
    REFUSED(n.segments[1].flags = TARNP_SEGMENT_CONTINUES, TARN_E_CORRUPT, "does not follow");
    ADMITTED(n.segments[1].flags = TARNP_SEGMENT_CONTINUES; n.m.turns = 0);
    ADMITTED(n.segments[1].role = TARN_ROLE_TOKENS; n.m.turns = 0);
}

CASE(tokens)
{
    REFUSED(n.sections[0].elem = TARNP_ELEM_F32, TARN_E_CORRUPT, "another kind, or twice");
    REFUSED(n.sections[1].kind = TARNP_SECTION_TOKENS;
            n.sections[1].elem = TARNP_ELEM_U32, TARN_E_CORRUPT, "another kind, or twice");
    REFUSED(n.chunks[1].first = 3, TARN_E_CORRUPT, "out of place");
    REFUSED(n.chunks[1].count = 2, TARN_E_CORRUPT, "out of place");
    REFUSED(n.chunks[1].count = 0; n.chunks[1].raw_bytes = 0, TARN_E_CORRUPT, "out of place");
    REFUSED(n.m.n_tokens--; n.segments[1].n_tokens--;
            n.m.position--, TARN_E_CORRUPT, "do not hold its tokens");
}

CASE(sections)
{
    REFUSED(n.sections[1].kind = (tarnp_section_kind)0, TARN_E_FORMAT, "unknown kind 0");
    REFUSED(n.sections[1].kind = (tarnp_section_kind)(TARNP_SECTION_SAMPLER + 1), TARN_E_FORMAT,
            "unknown kind 7");
    REFUSED(n.sections[1].codec = TARNP_STATE_FP16, TARN_E_CORRUPT, "a lossy section");
    ADMITTED(n.sections[1].codec = TARNP_STATE_FP16; n.m.flags = TARNP_NODE_HAS_STATE);
    REFUSED(n.chunks[2].raw_bytes = 62, TARN_E_CORRUPT, "impossible size");
    REFUSED(n.chunks[2].stored_bytes = HEAD - 1, TARN_E_CORRUPT, "impossible size");
    REFUSED(n.chunks[2].stored_bytes = HEAD + 65, TARN_E_CORRUPT, "impossible size");
    ADMITTED(n.chunks[2].stored_bytes = HEAD + 64);
}

CASE(positions)
{
    tarnp_manifest before = {.id = 1, .position = 10, .turns = 2};
    const tarnp_admission behind = {1, 0, &before, model};
    node n = fine();
    n.m.position = 10 + TOKENS;
    n.m.turns = 3;
    CHECK_STATUS(admit(&n, &behind), TARN_OK);
    n.m.position = TOKENS;
    CHECK_STATUS(admit(&n, &behind), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "does not follow");
    n.m.position = 11 + TOKENS;
    CHECK_STATUS(admit(&n, &behind), TARN_E_CORRUPT);
    n.m.position = 10 + TOKENS;
    n.m.turns = 1;
    CHECK_STATUS(admit(&n, &behind), TARN_E_CORRUPT);
    n.m.turns = 4;
    CHECK_STATUS(admit(&n, &behind), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "does not follow");
}

CASE(places)
{
    REFUSED(n.m.session_id = 2, TARN_E_CORRUPT, "not those before it");
    REFUSED(n.m.first_chunk = 2, TARN_E_CORRUPT, "not those before it");
    REFUSED(n.m.parent = 0, TARN_E_CORRUPT, "not those before it");
    REFUSED(n.m.flags = 0x80, TARN_E_FORMAT, "unknown flags");
    REFUSED(n.m.flags = TARNP_NODE_HAS_STATE | TARNP_NODE_STATE_EVICTED, TARN_E_CORRUPT,
            "there and was evicted");
    REFUSED(n.m.fp[3] = 1, TARN_E_CORRUPT, "another model");
}

/* A root is where a chain begins, and nothing else. */
CASE(roots)
{
    static const tarnp_manifest nothing;
    const tarnp_admission first = {0, 0, &nothing, model};
    node n = fine();
    n.m.id = 1;
    n.m.parent = 0;
    CHECK_STATUS(admit(&n, &first), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "a root that holds something");
    n.m.n_tokens = n.m.n_segments = n.m.turns = 0;
    n.m.position = 0;
    n.m.n_chunks = 0;
    n.m.n_sections = 1;
    n.sections[0] = (tarnp_section){
        .kind = TARNP_SECTION_CONV, .elem = TARNP_ELEM_BF16, .codec = TARNP_STATE_LOSSLESS};
    CHECK_STATUS(admit(&n, &first), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "a root that holds something");
    n.m.n_sections = 0;
    CHECK_STATUS(admit(&n, &first), TARN_OK);
    n.m.n_segments = 1;
    n.segments[0].n_tokens = 0;
    CHECK_STATUS(admit(&n, &first), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "a root that holds something");
}

CHECK_MAIN(ENTRY(segments), ENTRY(tokens), ENTRY(sections), ENTRY(positions), ENTRY(places),
           ENTRY(roots))
