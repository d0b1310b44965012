/* tokenizer.h - bytes to token ids and back, for tiktoken rank files of the Kimi family.
 *
 * A tokenizer is immutable once open: any number of threads may use it at once. */
#ifndef TARN_MODEL_TOKENIZER_H
#define TARN_MODEL_TOKENIZER_H

#include "bytes.h"
#include "ids.h"
#include "vocab.h"

typedef struct tarni_tokenizer tarni_tokenizer;

/* Reads DIR/tiktoken.model and DIR/tokenizer_config.json. Ids run over the ranks and the special
 * slots behind them. `n_rows` is the number of embedding rows: an id at or above it is refused in
 * decode, and a special string whose id has no row stays text in encode. n_rows 0 (no config at
 * hand): ranks + 256; rows behind the last slot have no token and are not counted.
 * Returns NOT_FOUND where the folder has no tiktoken.model, FORMAT (file, line or field, value) for
 * anything wrong in either file, or more ranks than rows. `allocator` is copied. */
tarn_status tarni_tokenizer_open(const char *dir, uint32_t n_rows, const tarn_allocator *allocator,
                                 tarni_tokenizer **out, tarn_error *err);
void tarni_tokenizer_free(tarni_tokenizer *t); /* NULL is allowed */

/* Appends the ids of n bytes of text to `out`, which is unchanged after an error. Bytes that are no
 * UTF-8 are read as U+FFFD, one for each maximal broken part. `specials`: special strings become
 * their ids; otherwise they are text like any other. Cost: linear in n_bytes. */
tarn_status tarni_tokenizer_encode(const tarni_tokenizer *t, const char *text, size_t n_bytes,
                                   bool specials, tarni_ids *out, tarn_error *err);

/* Appends the exact bytes of the ids to `out`; special ids give their names. INVALID for an id
 * without an embedding row. */
tarn_status tarni_tokenizer_decode(const tarni_tokenizer *t, const uint32_t *ids, size_t n_ids,
                                   tarni_writer *out, tarn_error *err);

/* The bytes of one id, borrowed from the tokenizer. INVALID as above. */
tarn_status tarni_tokenizer_bytes(const tarni_tokenizer *t, uint32_t id, const uint8_t **bytes,
                                  size_t *n_bytes, tarn_error *err);

/* The id of a special string of the files ("<|im_end|>"); false if there is none with a row. */
bool tarni_tokenizer_special(const tarni_tokenizer *t, const char *name, uint32_t *out_id);
/* Is this id a special slot (named or reserved)? */
bool tarni_tokenizer_is_special(const tarni_tokenizer *t, uint32_t id);

/* Its ranks, borrowed: for tarni_encoder. */
const tarni_vocab *tarni_tokenizer_vocab(const tarni_tokenizer *t);

uint32_t tarni_tokenizer_rows(const tarni_tokenizer *t); /* ids run from 0 to rows - 1 */

/* BLAKE2b-256 over every rank's bytes and every named special: two folders with the same digest
 * give the same ids for every text. */
void tarni_tokenizer_digest(const tarni_tokenizer *t, uint8_t out[32]);

/* Text while it streams: ids come one at a time and may end inside a character. Zero it to start.
 */
typedef struct tarni_text_stream {
    uint8_t held[4];
    uint8_t n_held; /* bytes of an incomplete character, at most 3 */
} tarni_text_stream;

/* Appends what became complete with this id: whole, valid UTF-8 only; a broken part gives U+FFFD.
 * The concatenation over all ids, flushed, equals the decoded bytes with every maximal broken part
 * replaced. */
tarn_status tarni_text_stream_feed(tarni_text_stream *s, const tarni_tokenizer *t, uint32_t id,
                                   tarni_writer *out, tarn_error *err);
/* The same for bytes that are no token's. */
void tarni_text_stream_bytes(tarni_text_stream *s, const char *bytes, size_t n_bytes,
                             tarni_writer *out);
/* U+FFFD for what is still held; resets the stream. */
void tarni_text_stream_flush(tarni_text_stream *s, tarni_writer *out);

#endif
