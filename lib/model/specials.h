/* specials.h - the special slots behind the ranks: their names, and where a text spells one. */
#ifndef TARN_MODEL_SPECIALS_H
#define TARN_MODEL_SPECIALS_H

#include "memory.h"

/* What the family's tokenizer reserves behind the ranks: 256 slots with embedding rows, and two
 * more that only have an id. */
#define TARNI_SPECIAL_ROWS  256
#define TARNI_SPECIAL_SLOTS 258

typedef struct tarni_special_name {
    char *text; /* owned, NUL-terminated */
    size_t n_bytes;
    bool given; /* by the file; otherwise <|reserved_token_ID|> */
} tarni_special_name;

typedef struct tarni_specials {
    uint32_t first_id;
    uint32_t n_found; /* slots below this one are found in texts; those above have no row */
    tarni_special_name names[TARNI_SPECIAL_SLOTS];
    struct tarni_trie_node *nodes; /* owned: the names below n_found as a tree of bytes */
    uint32_t n_nodes;
    uint32_t roots[256]; /* the node of a name's first byte, or 0 */
} tarni_specials;

/* Reads the names from added_tokens_decoder of `path`, a tokenizer_config.json. FORMAT, naming the
 * field, for an id outside the slots, a name given twice or an object that is not as expected. */
tarn_status tarni_specials_open(tarni_specials *s, const char *path, uint32_t first_id,
                                uint32_t n_found, const tarn_allocator *allocator, tarn_error *err);
void tarni_specials_fini(tarni_specials *s, const tarn_allocator *allocator);

/* The leftmost special name in the text, the longest of those that start there. *at is its first
 * byte and *n_bytes its length. Returns its id, or UINT32_MAX if there is none. Linear. */
uint32_t tarni_specials_find(const tarni_specials *s, const uint8_t *text, size_t text_bytes,
                             size_t *at, size_t *n_bytes);

#endif
