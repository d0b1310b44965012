/* checkpoint.c
 *
 * `locate` is the heart: the pieces of units [first, first + count) of a kind. Both directions call
 * it, so a chunk read back lands where it was taken from whatever chunk size wrote it. */
#include "checkpoint.h"

#include <string.h>

typedef struct section_shape {
    tarnp_elem elem;
    uint64_t begin, end; /* units */
    size_t unit_bytes;
    uint32_t chunk_units; /* at most so many in a chunk */
    uint32_t align;       /* a chunk does not cross a multiple of this many units */
    uint32_t unit_pieces; /* pieces of a chunk at most: fixed, or times count */
    bool pieces_per_unit;
    uint32_t row_elems, unit_elems; /* of a state: a lossy codec may know them */
} section_shape;

static tarnp_elem elem_of(tarnk_dtype dtype)
{
    return dtype == TARNK_F32 ? TARNP_ELEM_F32 : TARNP_ELEM_BF16;
}

/* A unit fits: tarni_checkpoint_check. */
static uint32_t units_in_chunk(size_t unit_bytes, uint64_t most)
{
    uint64_t n = TARNP_CHUNK_BYTES_MAX / unit_bytes;
    return (uint32_t)(n < most ? n : most);
}

/* Latent chunks are halves, quarters, ... of a page, so that their borders stay put. */
static uint32_t latent_rows_in_chunk(size_t unit_bytes)
{
    uint32_t n = TARNK_PAGE_TOKENS;
    while (n > 1 && n * unit_bytes > TARNP_CHUNK_BYTES_MAX)
        n /= 2;
    return n;
}

static section_shape shape_of(const tarni_image *im, tarnp_section_kind kind)
{
    const tarni_layout *l = im->layout;
    section_shape s = {.align = UINT32_MAX, .unit_pieces = 1};
    switch (kind) {
    case TARNP_SECTION_STATE:
        s.elem = TARNP_ELEM_F32;
        s.end = (uint64_t)l->n_kda * im->spec->kda_heads;
        s.unit_bytes = l->state_bytes / im->spec->kda_heads;
        s.align = im->spec->kda_heads;
        s.chunk_units = units_in_chunk(s.unit_bytes, im->spec->kda_heads);
        s.row_elems = im->spec->kda_dim;
        s.unit_elems = (uint32_t)(s.unit_bytes / sizeof(float));
        break;
    case TARNP_SECTION_CONV:
        s.elem = elem_of(l->conv_dtype);
        s.end = l->n_kda;
        s.unit_bytes = l->conv_bytes;
        s.chunk_units = units_in_chunk(s.unit_bytes, l->n_kda);
        s.pieces_per_unit = true;
        break;
    case TARNP_SECTION_LATENT:
        s.elem = elem_of(l->latent_dtype);
        s.begin = im->latent_begin;
        s.end = im->latent_end;
        s.unit_bytes = l->latent_row_bytes * l->n_mla;
        s.chunk_units = latent_rows_in_chunk(s.unit_bytes);
        s.align = s.chunk_units;
        s.unit_pieces = l->n_mla;
        break;
    case TARNP_SECTION_LOGITS:
        s.elem = TARNP_ELEM_F32;
        s.end = im->spec->vocab;
        s.unit_bytes = sizeof(float);
        s.chunk_units = units_in_chunk(s.unit_bytes, s.end);
        break;
    default: /* the sampler: tokens are the store's own */
        s.elem = TARNP_ELEM_U8;
        s.end = im->sampler_bytes;
        s.unit_bytes = 1;
        s.chunk_units = units_in_chunk(1, s.end);
        break;
    }
    return s;
}

/* Writes the pieces of these units and returns how many. */
static uint32_t locate(const tarni_image *im, tarnp_section_kind kind, uint64_t first,
                       uint32_t count, tarnp_piece *pieces)
{
    const tarni_layout *l = im->layout;
    switch (kind) {
    case TARNP_SECTION_STATE: {
        uint32_t heads = im->spec->kda_heads;
        size_t head_bytes = l->state_bytes / heads;
        size_t at = first / heads * l->state_stride + first % heads * head_bytes;
        pieces[0] = (tarnp_piece){im->slot + at, count * head_bytes};
        return 1;
    }
    case TARNP_SECTION_CONV:
        for (uint32_t i = 0; i < count; i++)
            pieces[i] = (tarnp_piece){im->slot + l->conv_begin + (first + i) * l->conv_stride,
                                      l->conv_bytes};
        return count;
    case TARNP_SECTION_LATENT: {
        uint8_t *page = im->pages[first / TARNK_PAGE_TOKENS];
        size_t row = first % TARNK_PAGE_TOKENS;
        for (uint32_t i = 0; i < l->n_mla; i++)
            pieces[i] = (tarnp_piece){page + i * l->latent_stride + row * l->latent_row_bytes,
                                      count * l->latent_row_bytes};
        return l->n_mla;
    }
    case TARNP_SECTION_LOGITS:
        pieces[0] = (tarnp_piece){im->logits + first, count * sizeof(float)};
        return 1;
    default: /* the sampler */
        pieces[0] = (tarnp_piece){im->sampler + first, count};
        return 1;
    }
}

/* Units of the chunk that begins at `at`. */
static uint32_t chunk_count(const section_shape *s, uint64_t at)
{
    uint64_t n = s->chunk_units, to_border = s->align - at % s->align;
    if (n > to_border)
        n = to_border;
    if (n > s->end - at)
        n = s->end - at;
    return (uint32_t)n;
}

static size_t chunk_pieces(const section_shape *s, uint32_t count)
{
    return s->pieces_per_unit ? count : s->unit_pieces;
}

static const tarnp_section_kind node_kinds[] = {TARNP_SECTION_STATE, TARNP_SECTION_CONV,
                                                TARNP_SECTION_LATENT, TARNP_SECTION_LOGITS,
                                                TARNP_SECTION_SAMPLER};
#define N_NODE_KINDS (sizeof node_kinds / sizeof node_kinds[0])

tarn_status tarni_checkpoint_check(const tarni_spec *spec, const tarni_layout *layout,
                                   tarn_error *err)
{
    size_t head_bytes = layout->state_bytes / spec->kda_heads;
    size_t row_bytes = layout->latent_row_bytes * layout->n_mla;
    if (head_bytes > TARNP_CHUNK_BYTES_MAX)
        return tarni_fail(err, TARN_E_UNSUPPORTED,
                          "the state of one head has %zu bytes, a chunk holds %d", head_bytes,
                          TARNP_CHUNK_BYTES_MAX);
    if (row_bytes > TARNP_CHUNK_BYTES_MAX)
        return tarni_fail(err, TARN_E_UNSUPPORTED,
                          "the latents of one token have %zu bytes, a chunk holds %d", row_bytes,
                          TARNP_CHUNK_BYTES_MAX);
    if (layout->conv_bytes > TARNP_CHUNK_BYTES_MAX)
        return tarni_fail(err, TARN_E_UNSUPPORTED,
                          "the convolution tails of one layer have %zu bytes, a chunk holds %d",
                          layout->conv_bytes, TARNP_CHUNK_BYTES_MAX);
    return TARN_OK;
}

static tarn_status save_kinds(const tarni_image *im, const tarnp_section_kind *kinds, size_t n,
                              const tarn_allocator *a, tarni_sections *out, tarn_error *err)
{
    *out = (tarni_sections){.allocator = a};
    size_t n_chunks = 0, n_pieces = 0;
    for (size_t k = 0; k < n; k++) {
        section_shape s = shape_of(im, kinds[k]);
        for (uint64_t at = s.begin; at < s.end; n_chunks++) {
            uint32_t count = chunk_count(&s, at);
            n_pieces += chunk_pieces(&s, count);
            at += count;
        }
    }
    tarn_status status = tarni_alloc(a, n, sizeof *out->items, &out->items, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_chunks, sizeof *out->chunks, &out->chunks, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_pieces, sizeof *out->pieces, &out->pieces, err);
    if (status != TARN_OK) {
        tarni_sections_fini(out);
        return status;
    }
    tarnp_chunk *chunk = out->chunks;
    tarnp_piece *piece = out->pieces;
    for (size_t k = 0; k < n; k++) {
        section_shape s = shape_of(im, kinds[k]);
        if (s.begin >= s.end)
            continue;
        tarnp_section *section = &out->items[out->n_items++];
        *section = (tarnp_section){.kind = kinds[k],
                                   .elem = s.elem,
                                   .chunks = chunk,
                                   .row_elems = s.row_elems,
                                   .unit_elems = s.unit_elems};
        for (uint64_t at = s.begin; at < s.end; at += chunk[-1].count) {
            uint32_t count = chunk_count(&s, at);
            *chunk = (tarnp_chunk){.first = (uint32_t)at,
                                   .count = count,
                                   .raw_bytes = (uint32_t)(count * s.unit_bytes),
                                   .pieces = piece,
                                   .n_pieces = locate(im, kinds[k], at, count, piece)};
            piece += chunk->n_pieces;
            chunk++;
            section->n_chunks++;
        }
    }
    return TARN_OK;
}

tarn_status tarni_checkpoint_save(const tarni_image *image, const tarn_allocator *allocator,
                                  tarni_sections *out, tarn_error *err)
{
    return save_kinds(image, node_kinds, N_NODE_KINDS, allocator, out, err);
}

tarn_status tarni_checkpoint_save_sampler(const tarni_image *image, const tarn_allocator *allocator,
                                          tarni_sections *out, tarn_error *err)
{
    const tarnp_section_kind kind = TARNP_SECTION_SAMPLER;
    return save_kinds(image, &kind, 1, allocator, out, err);
}

void tarni_sections_fini(tarni_sections *s)
{
    if (s->allocator) {
        tarni_free(s->allocator, s->items);
        tarni_free(s->allocator, s->chunks);
        tarni_free(s->allocator, s->pieces);
    }
    *s = (tarni_sections){0};
}

const tarnp_section *tarni_node_section(const tarnp_node *node, tarnp_section_kind kind)
{
    for (size_t i = 0; i < node->n_sections; i++)
        if (node->sections[i].kind == kind)
            return &node->sections[i];
    return NULL;
}

/* Does a stored chunk name units this image has, in the size they have here? */
static bool chunk_fits(const section_shape *s, const tarnp_chunk *c)
{
    uint64_t end = (uint64_t)c->first + c->count;
    return c->count > 0 && c->first >= s->begin && end <= s->end &&
           (uint64_t)c->first / s->align == (end - 1) / s->align &&
           c->raw_bytes == (uint64_t)c->count * s->unit_bytes;
}

static tarn_status check_section(const tarnp_node *node, const tarnp_section *section,
                                 const section_shape *s, size_t *n_pieces, tarn_error *err)
{
    uint64_t at = section->n_chunks > 0 ? section->chunks[0].first : 0;
    *n_pieces = 0;
    for (size_t i = 0; i < section->n_chunks; i++) {
        const tarnp_chunk *c = &section->chunks[i];
        if (!chunk_fits(s, c) || c->first != at)
            return tarni_fail(err, TARN_E_CORRUPT,
                              "node %llu: section %d chunk %zu covers units %u + %u in %u bytes, "
                              "expected to go on at %llu within %llu of %zu bytes each",
                              (unsigned long long)node->id, (int)section->kind, i, c->first,
                              c->count, c->raw_bytes, (unsigned long long)at,
                              (unsigned long long)s->end, s->unit_bytes);
        at += c->count;
        *n_pieces += chunk_pieces(s, c->count);
    }
    bool whole = section->n_chunks > 0 && (section->kind == TARNP_SECTION_LATENT ||
                                           (section->chunks[0].first == s->begin && at == s->end));
    if (section->elem != s->elem || (!whole && s->begin < s->end))
        return tarni_fail(err, TARN_E_CORRUPT,
                          "node %llu: section %d has elements of kind %d and ends at unit %llu, "
                          "expected kind %d and %llu",
                          (unsigned long long)node->id, (int)section->kind, (int)section->elem,
                          (unsigned long long)at, (int)s->elem, (unsigned long long)s->end);
    return TARN_OK;
}

tarn_status tarni_checkpoint_load(tarnp_store *store, const tarnp_node *node,
                                  tarnp_section_kind kind, const tarni_image *image,
                                  const tarn_allocator *a, uint64_t *bytes_read, tarn_error *err)
{
    section_shape s = shape_of(image, kind);
    const tarnp_section *section = tarni_node_section(node, kind);
    if (!section) {
        if (s.begin >= s.end)
            return TARN_OK;
        return tarni_fail(err, TARN_E_CORRUPT, "node %llu has no section %d",
                          (unsigned long long)node->id, (int)kind);
    }
    size_t n_pieces;
    TARNI_TRY(check_section(node, section, &s, &n_pieces, err));
    tarnp_chunk *chunks;
    tarnp_piece *pieces = NULL;
    TARNI_TRY(tarni_alloc(a, section->n_chunks, sizeof *chunks, &chunks, err));
    tarn_status status = tarni_alloc(a, n_pieces, sizeof *pieces, &pieces, err);
    if (status == TARN_OK) {
        tarnp_piece *piece = pieces;
        for (size_t i = 0; i < section->n_chunks; i++) {
            chunks[i] = section->chunks[i];
            chunks[i].pieces = piece;
            chunks[i].n_pieces = locate(image, kind, chunks[i].first, chunks[i].count, piece);
            piece += chunks[i].n_pieces;
        }
        status = tarnp_node_read_chunks(store, node, section->elem, chunks, section->n_chunks,
                                        bytes_read, err);
    }
    tarni_free(a, pieces);
    tarni_free(a, chunks);
    return status;
}
