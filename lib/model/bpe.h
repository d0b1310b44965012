/* bpe.h - byte pair encoding of one piece of text. */
#ifndef TARN_MODEL_BPE_H
#define TARN_MODEL_BPE_H

#include "ids.h"
#include "vocab.h"

/* Memory one thread reuses from piece to piece. */
typedef struct tarni_bpe {
    const tarni_vocab *vocab;        /* borrowed */
    const tarn_allocator *allocator; /* borrowed */
    struct tarni_bpe_known *known;   /* owned: pairs looked up before, or NULL until the first */
    uint32_t known_bits;
    struct tarni_bpe_part *parts; /* owned: [parts_max] */
    size_t parts_max;
    uint64_t *heap; /* owned: [heap_max] */
    size_t heap_max;
} tarni_bpe;

/* text_bytes: how much text may come, in all pieces together; decides how much memory pays. */
void tarni_bpe_init(tarni_bpe *b, const tarni_vocab *vocab, size_t text_bytes,
                    const tarn_allocator *allocator);
void tarni_bpe_fini(tarni_bpe *b);

/* Appends the ids of a piece of n >= 1 bytes, fewer than 2^31: the piece's own rank if it has one,
 * else what is left when the adjacent pair of lowest rank, the leftmost of equals, has been merged
 * until no pair has a rank. Cost: n log n. After an error ids of this piece may have been added. */
tarn_status tarni_bpe_piece(tarni_bpe *b, const uint8_t *bytes, size_t n_bytes, tarni_ids *out,
                            tarn_error *err);

#endif
