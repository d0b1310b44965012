/* vocab.h - the ranks of a tiktoken file: id to bytes, and bytes to id. */
#ifndef TARN_MODEL_VOCAB_H
#define TARN_MODEL_VOCAB_H

#include "memory.h"

#define TARNI_NO_RANK   UINT32_MAX
#define TARNI_RANKS_MAX (1u << 22)

typedef struct tarni_vocab_slot {
    uint32_t tag;  /* high half of the hash: spares most looks at the bytes */
    uint32_t rank; /* TARNI_NO_RANK: the slot is free */
} tarni_vocab_slot;

typedef struct tarni_vocab {
    uint8_t *bytes;   /* owned: all tokens, one behind the other */
    uint32_t *starts; /* owned: [n_ranks + 1]; token r is bytes[starts[r] .. starts[r + 1]) */
    uint32_t n_ranks;
    uint32_t token_bytes_max;
    tarni_vocab_slot *slots; /* owned: [slots_mask + 1], open addressing */
    uint32_t slots_mask;
    uint64_t *filter; /* owned: a bit for each hash that may be in the slots */
    uint32_t filter_mask;
    uint32_t single[256]; /* the rank of each single byte */
    uint32_t *pairs;      /* owned: [256][256], the rank of two bytes or TARNI_NO_RANK */
} tarni_vocab;

/* Reads a rank file: line r holds the base64 of token r, a space and r. FORMAT, naming the line,
 * for anything else, a token given twice, or a byte without a token. */
tarn_status tarni_vocab_open(tarni_vocab *v, const char *path, const tarn_allocator *allocator,
                             tarn_error *err);
void tarni_vocab_fini(tarni_vocab *v, const tarn_allocator *allocator);

/* The rank of n >= 1 bytes, or TARNI_NO_RANK. */
uint32_t tarni_vocab_rank(const tarni_vocab *v, const uint8_t *bytes, size_t n_bytes);

#endif
