/* checkpoint.h - the one list of what a node holds.
 *
 * Every kind of section is a row of one table: its element, its unit, how many units a chunk takes
 * and where a unit lies in live memory. Saving, loading and sizing walk that table, so what is
 * written is what is read.
 *
 *     STATE    unit: one head of one KDA layer, fp32 [K][V]
 *     CONV     unit: the tails of one KDA layer
 *     LATENT   unit: one token, its rows in all MLA layers; chunks never cross a page
 *     LOGITS   unit: one logit, fp32
 *     SAMPLER  unit: one byte of the sampler's record */
#ifndef TARNI_CHECKPOINT_H
#define TARNI_CHECKPOINT_H

#include "layout.h"
#include "store.h"
#include "timeline.h"

/* The memory a node's sections are taken from or put into. */
typedef struct tarni_image {
    const tarni_spec *spec;
    const tarni_layout *layout;
    uint8_t *slot;
    uint8_t **pages;
    float *logits;
    uint8_t *sampler; /* [sampler_bytes] */
    size_t sampler_bytes;
    uint64_t latent_begin; /* tokens whose latents the node holds: [begin, end) */
    uint64_t latent_end;
} tarni_image;

typedef struct tarni_sections {
    const tarn_allocator *allocator;
    tarnp_section *items;
    size_t n_items;
    tarnp_chunk *chunks; /* of all sections, one array */
    tarnp_piece *pieces; /* of all chunks, one array */
} tarni_sections;

/* UNSUPPORTED if one head's state is larger than a chunk. */
tarn_status tarni_checkpoint_check(const tarni_spec *spec, const tarni_layout *layout,
                                   tarn_error *err);

/* All sections of a node with state, pointing into the image. */
tarn_status tarni_checkpoint_save(const tarni_image *image, const tarn_allocator *allocator,
                                  tarni_sections *out, tarn_error *err);
/* The sampler alone: a node whose tokens have a state already. */
tarn_status tarni_checkpoint_save_sampler(const tarni_image *image, const tarn_allocator *allocator,
                                          tarni_sections *out, tarn_error *err);
void tarni_sections_fini(tarni_sections *s);

/* Reads one section of a node into the image, checking that its chunks are the ones this image
 * would have written (LATENT: that they lie within [latent_begin, latent_end)). CORRUPT names the
 * node. */
tarn_status tarni_checkpoint_load(tarnp_store *store, const tarnp_node *node,
                                  tarnp_section_kind kind, const tarni_image *image,
                                  const tarn_allocator *allocator, uint64_t *bytes_read,
                                  tarn_error *err);

/* The node's section of this kind, or NULL. */
const tarnp_section *tarni_node_section(const tarnp_node *node, tarnp_section_kind kind);

#endif
