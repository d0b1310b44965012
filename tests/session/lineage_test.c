/* Which nodes of a history hold the latents of a place. */
#include "lineage.h"

#include "check.h"

/* Nodes of ten tokens each, every one with the latents of some. */
typedef struct history {
    tarnp_node nodes[4];
    tarnp_section sections[4];
    tarnp_chunk chunks[4];
    tarni_lineage lineage;
    unsigned taken; /* bit n: node n */
} history;

static void begin(history *h)
{
    memset(h, 0, sizeof *h);
    for (uint32_t i = 0; i < 4; i++) {
        h->nodes[i] = (tarnp_node){.id = i + 1, .position = 10 * (uint64_t)i};
        if (i == 0)
            continue;
        h->chunks[i] = (tarnp_chunk){.first = 10 * (i - 1), .count = 10};
        h->sections[i] =
            (tarnp_section){.kind = TARNP_SECTION_LATENT, .chunks = &h->chunks[i], .n_chunks = 1};
        h->nodes[i].flags = TARNP_NODE_HAS_STATE;
        h->nodes[i].sections = &h->sections[i];
        h->nodes[i].n_sections = 1;
    }
    h->lineage = (tarni_lineage){
        .allocator = &tarni_heap, .nodes = h->nodes, .n_nodes = 4, .n_at = 4, .position = 30};
}

static tarn_status note(void *user, const tarnp_node *node, tarn_error *err)
{
    (void)err;
    ((history *)user)->taken |= 1U << (node->id - 1);
    return TARN_OK;
}

static tarn_status latents(history *h, size_t n, tarn_error *err)
{
    h->taken = 0;
    return tarni_lineage_latents(&h->lineage, n, note, h, err);
}

CASE(each_row_from_the_newest)
{
    history h;
    tarn_error err;
    begin(&h);
    REQUIRE_OK(latents(&h, 4, &err), &err);
    CHECK_EQ(h.taken, 0xE);
    REQUIRE_OK(latents(&h, 2, &err), &err);
    CHECK_EQ(h.taken, 0x2);
    REQUIRE_OK(latents(&h, 1, &err), &err); /* nothing was fed */
    CHECK_EQ(h.taken, 0);
    h.chunks[3] = (tarnp_chunk){.first = 0, .count = 30}; /* after a replay from the first token */
    REQUIRE_OK(latents(&h, 4, &err), &err);
    CHECK_EQ(h.taken, 0x8);
}

/* A state without latents is damaged, however right the checksums: nothing may be read for them. */
CASE(latents_that_are_missing)
{
    history h;
    tarn_error err;
    begin(&h);
    h.nodes[2].n_sections = 0;
    CHECK_STATUS(latents(&h, 4, &err), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "no node before 4 holds the latents of token 19");
    CHECK_EQ(h.taken, 0);
    h.nodes[2].flags |= TARNP_NODE_LATENTS_EVICTED;
    CHECK_STATUS(latents(&h, 4, &err), TARN_E_NOT_FOUND);
    begin(&h);
    h.chunks[3].count = 9; /* ends before the place */
    CHECK_STATUS(latents(&h, 4, &err), TARN_E_CORRUPT);
    begin(&h);
    for (size_t i = 1; i < 4; i++)
        h.nodes[i].n_sections = 0;
    CHECK_STATUS(latents(&h, 4, &err), TARN_E_CORRUPT);
    h.sections[1].n_chunks = 0;
    h.nodes[1].n_sections = 1;
    CHECK_STATUS(latents(&h, 2, &err), TARN_E_CORRUPT);
    REQUIRE_OK(latents(&h, 1, &err), &err);
}

CHECK_MAIN(ENTRY(each_row_from_the_newest), ENTRY(latents_that_are_missing))
