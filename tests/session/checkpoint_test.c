#include "checkpoint.h"

#include "check.h"

#include <string.h>

/* Three KDA layers of 5 heads x 12, two MLA layers; sizes that leave gaps between the parts. */
typedef struct scene {
    tarni_spec spec;
    tarni_layout layout;
    uint8_t *slot, *pages[4];
    float *logits;
    uint8_t sampler[37];
    tarni_image image;
} scene;

static void begin_sized(scene *s, uint32_t kda_dim, uint32_t n_mla, uint32_t rank,
                        uint64_t latent_begin, uint64_t latent_end)
{
    *s = (scene){.spec = {.vocab = 300,
                          .n_kda = 3,
                          .n_mla = n_mla,
                          .kda_heads = 5,
                          .kda_dim = kda_dim,
                          .conv_width = 4,
                          .rank = rank,
                          .rope = 6,
                          .dtype = TARNK_BF16}};
    tarni_layout_init(&s->spec, TARNI_NUMERICS_NATIVE, &s->layout);
    s->slot = calloc(1, s->layout.slot_bytes);
    s->logits = calloc(s->spec.vocab, sizeof *s->logits);
    for (size_t i = 0; i < 4; i++)
        s->pages[i] = calloc(1, s->layout.page_bytes);
    s->image = (tarni_image){.spec = &s->spec,
                             .layout = &s->layout,
                             .slot = s->slot,
                             .pages = s->pages,
                             .logits = s->logits,
                             .sampler = s->sampler,
                             .sampler_bytes = sizeof s->sampler,
                             .latent_begin = latent_begin,
                             .latent_end = latent_end};
}

static void begin(scene *s, uint64_t latent_begin, uint64_t latent_end)
{
    begin_sized(s, 12, 2, 20, latent_begin, latent_end);
}

static void end(scene *s)
{
    free(s->slot);
    free(s->logits);
    for (size_t i = 0; i < 4; i++)
        free(s->pages[i]);
}

/* Counts every byte that a node would hold in that byte itself. */
static void count_bytes(const tarni_sections *sections)
{
    for (size_t i = 0; i < sections->n_items; i++) {
        const tarnp_section *section = &sections->items[i];
        uint64_t at = section->chunks[0].first;
        for (size_t k = 0; k < section->n_chunks; k++) {
            const tarnp_chunk *c = &section->chunks[k];
            uint32_t n_bytes = 0;
            CHECK_EQ(c->first, at);
            at += c->count;
            for (uint32_t p = 0; p < c->n_pieces; p++) {
                for (size_t b = 0; b < c->pieces[p].n_bytes; b++)
                    ((uint8_t *)c->pieces[p].data)[b]++;
                n_bytes += (uint32_t)c->pieces[p].n_bytes;
            }
            CHECK_EQ(c->raw_bytes, n_bytes);
            CHECK(n_bytes <= TARNP_CHUNK_BYTES_MAX);
            if (section->kind == TARNP_SECTION_LATENT)
                CHECK_EQ(c->first / 64, (c->first + c->count - 1) / 64);
        }
    }
}

static bool all_are(const uint8_t *bytes, size_t n_bytes, uint8_t value)
{
    for (size_t i = 0; i < n_bytes; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

/* Every byte that counts once, no byte of a gap, no latent outside the range. */
CASE(a_node_holds_everything_once)
{
    static const uint64_t ranges[][2] = {{0, 1}, {0, 64}, {10, 200}, {64, 65}, {130, 130}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        scene s;
        tarni_sections sections;
        tarn_error err;
        begin(&s, ranges[i][0], ranges[i][1]);
        REQUIRE_OK(tarni_checkpoint_save(&s.image, &tarni_heap, &sections, &err), &err);
        CHECK_EQ(sections.n_items, ranges[i][0] < ranges[i][1] ? 5 : 4);
        count_bytes(&sections);
        const tarni_layout *l = &s.layout;
        for (uint32_t k = 0; k < 3; k++) {
            const uint8_t *state = s.slot + k * l->state_stride;
            const uint8_t *tails = s.slot + l->conv_begin + k * l->conv_stride;
            CHECK(all_are(state, l->state_bytes, 1));
            CHECK(all_are(state + l->state_bytes, l->state_stride - l->state_bytes, 0));
            CHECK(all_are(tails, l->conv_bytes, 1));
            CHECK(all_are(tails + l->conv_bytes, l->conv_stride - l->conv_bytes, 0));
        }
        for (uint64_t t = 0; t < 256; t++)
            for (uint32_t m = 0; m < 2; m++)
                CHECK(all_are(s.pages[t / 64] + m * l->latent_stride + t % 64 * l->latent_row_bytes,
                              l->latent_row_bytes, t >= ranges[i][0] && t < ranges[i][1]));
        CHECK(all_are((const uint8_t *)s.logits, 1200, 1));
        CHECK(all_are(s.sampler, sizeof s.sampler, 1));
        tarni_sections_fini(&sections);
        end(&s);
    }
}

/* A layer's heads in several chunks, and a chunk of latents that is a part of a page. */
CASE(units_that_fill_a_chunk)
{
    static const uint64_t latents[][2] = {{0, 200}, {10, 70}};
    for (size_t i = 0; i < 2; i++) {
        scene s;
        tarni_sections sections;
        tarn_error err;
        begin_sized(&s, 300, 30, 500, latents[i][0], latents[i][1]);
        REQUIRE_OK(tarni_checkpoint_check(&s.spec, &s.layout, &err), &err);
        REQUIRE_OK(tarni_checkpoint_save(&s.image, &tarni_heap, &sections, &err), &err);
        REQUIRE(sections.n_items == 5);
        count_bytes(&sections);
        CHECK_EQ(sections.items[0].n_chunks, 15); /* three layers of five heads of 360,000 bytes */
        CHECK(sections.items[2].n_chunks > 4);    /* of 16 rows of 31,560 bytes at most */
        for (uint64_t t = 0; t < 256; t++)
            for (uint32_t m = 0; m < s.spec.n_mla; m++)
                CHECK(all_are(s.pages[t / 64] + m * s.layout.latent_stride +
                                  t % 64 * s.layout.latent_row_bytes,
                              s.layout.latent_row_bytes, t >= latents[i][0] && t < latents[i][1]));
        tarni_sections_fini(&sections);
        end(&s);
    }
}

CASE(new_sampling_alone)
{
    scene s;
    tarni_sections sections;
    tarn_error err;
    begin(&s, 0, 100);
    REQUIRE_OK(tarni_checkpoint_save_sampler(&s.image, &tarni_heap, &sections, &err), &err);
    CHECK_EQ(sections.n_items, 1);
    count_bytes(&sections);
    CHECK(all_are(s.slot, s.layout.slot_bytes, 0));
    CHECK(all_are(s.sampler, sizeof s.sampler, 1));
    tarni_sections_fini(&sections);
    end(&s);
}

/* A manifest is believed only where it says what this image would have written: the chunks below
 * are refused before the store is asked for any. */
static tarn_status load(scene *s, tarnp_section_kind kind, tarnp_elem elem, tarnp_chunk *chunks,
                        size_t n_chunks, tarn_error *err)
{
    tarnp_section section = {.kind = kind, .elem = elem, .n_chunks = n_chunks, .chunks = chunks};
    tarnp_node node = {.id = 77, .n_sections = 1, .sections = &section};
    return tarni_checkpoint_load(NULL, &node, kind, &s->image, &tarni_heap, NULL, err);
}

CASE(chunks_that_do_not_fit_are_refused)
{
    enum { HEAD = 12 * 12 * 4, LAYER = 5 * HEAD, TAIL = 3 * 3 * 60 * 2, ROW = 26 * 2 * 2 };
    static const struct {
        tarnp_section_kind kind;
        tarnp_elem elem;
        tarnp_chunk chunks[3];
        size_t n;
    } bad[] = {
        /* one layer is missing; one head is; one begins late; too many */
        {TARNP_SECTION_STATE,
         TARNP_ELEM_F32,
         {{0, 0, 5, LAYER, 0, 0, 0}, {0, 5, 5, LAYER, 0, 0, 0}},
         2},
        {TARNP_SECTION_STATE,
         TARNP_ELEM_F32,
         {{0, 0, 5, LAYER, 0, 0, 0}, {0, 5, 5, LAYER, 0, 0, 0}, {0, 10, 4, 4 * HEAD, 0, 0, 0}},
         3},
        {TARNP_SECTION_STATE,
         TARNP_ELEM_F32,
         {{0, 0, 5, LAYER, 0, 0, 0}, {0, 6, 4, 4 * HEAD, 0, 0, 0}, {0, 10, 5, LAYER, 0, 0, 0}},
         3},
        {TARNP_SECTION_STATE, TARNP_ELEM_F32, {{0, 0, 15, 3 * LAYER, 0, 0, 0}}, 1},
        {TARNP_SECTION_STATE, TARNP_ELEM_F32, {{0, UINT32_MAX, 5, LAYER, 0, 0, 0}}, 1},
        {TARNP_SECTION_STATE, TARNP_ELEM_F32, {{0, 0, 0, 0, 0, 0, 0}}, 1},
        {TARNP_SECTION_STATE, TARNP_ELEM_F32, {{0}}, 0},
        {TARNP_SECTION_STATE,
         TARNP_ELEM_F32,
         {{0, 0, 5, LAYER, 0, 0, 0}, {0, 5, 5, LAYER - 4, 0, 0, 0}, {0, 10, 5, LAYER, 0, 0, 0}},
         3},
        /* another element, another size, out of range */
        {TARNP_SECTION_CONV, TARNP_ELEM_F32, {{0, 0, 3, 3 * TAIL, 0, 0, 0}}, 1},
        {TARNP_SECTION_CONV, TARNP_ELEM_BF16, {{0, 0, 3, 2 * TAIL, 0, 0, 0}}, 1},
        {TARNP_SECTION_CONV, TARNP_ELEM_BF16, {{0, 0, 4, 4 * TAIL, 0, 0, 0}}, 1},
        {TARNP_SECTION_LATENT, TARNP_ELEM_BF16, {{0, 64, 64, 64 * ROW, 0, 0, 0}}, 1},
        {TARNP_SECTION_LATENT, TARNP_ELEM_BF16, {{0, 60, 8, 8 * ROW, 0, 0, 0}}, 1},
        {TARNP_SECTION_LATENT, TARNP_ELEM_F32, {{0, 0, 8, 8 * ROW, 0, 0, 0}}, 1},
        {TARNP_SECTION_LOGITS, TARNP_ELEM_F32, {{0, 0, 299, 299 * 4, 0, 0, 0}}, 1},
        {TARNP_SECTION_LOGITS, TARNP_ELEM_F32, {{0, 0, 301, 301 * 4, 0, 0, 0}}, 1},
        {TARNP_SECTION_LOGITS, TARNP_ELEM_U8, {{0, 0, 300, 300 * 4, 0, 0, 0}}, 1},
        {TARNP_SECTION_LOGITS, TARNP_ELEM_F32, {{0, 1, 300, 300 * 4, 0, 0, 0}}, 1},
        {TARNP_SECTION_SAMPLER, TARNP_ELEM_U8, {{0, 0, 38, 38, 0, 0, 0}}, 1},
    };
    scene s;
    begin(&s, 0, 100);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tarn_error err;
        tarnp_chunk chunks[3];
        memcpy(chunks, bad[i].chunks, sizeof chunks);
        tarn_status status = load(&s, bad[i].kind, bad[i].elem, chunks, bad[i].n, &err);
        if (status != TARN_E_CORRUPT)
            CHECK_FAIL("number %zu is %s", i, tarn_status_name(status));
        CHECK_HAS(err.detail, "node 77");
    }
    tarn_error err;
    tarnp_node none = {.id = 77};
    CHECK_STATUS(
        tarni_checkpoint_load(NULL, &none, TARNP_SECTION_STATE, &s.image, &tarni_heap, NULL, &err),
        TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "no section");
    end(&s);
}

CASE(models_too_large_for_a_chunk)
{
    scene s;
    tarn_error err;
    begin(&s, 0, 1);
    CHECK_STATUS(tarni_checkpoint_check(&s.spec, &s.layout, &err), TARN_OK);
    tarni_layout l = s.layout;
    l.state_bytes = (size_t)5 * TARNP_CHUNK_BYTES_MAX + 5;
    CHECK_STATUS(tarni_checkpoint_check(&s.spec, &l, &err), TARN_E_UNSUPPORTED);
    CHECK_HAS(err.detail, "524289 bytes");
    l = s.layout;
    l.latent_row_bytes = TARNP_CHUNK_BYTES_MAX / 2 + 1;
    CHECK_STATUS(tarni_checkpoint_check(&s.spec, &l, &err), TARN_E_UNSUPPORTED);
    l = s.layout;
    l.conv_bytes = TARNP_CHUNK_BYTES_MAX + 1;
    CHECK_STATUS(tarni_checkpoint_check(&s.spec, &l, &err), TARN_E_UNSUPPORTED);
    CHECK_HAS(err.detail, "convolution");
    end(&s);
}

CHECK_MAIN(ENTRY(a_node_holds_everything_once), ENTRY(units_that_fill_a_chunk),
           ENTRY(new_sampling_alone), ENTRY(chunks_that_do_not_fit_are_refused),
           ENTRY(models_too_large_for_a_chunk))
