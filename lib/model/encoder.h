/* encoder.h - the ids of a text that arrives in pieces.
 *
 * Whatever the pieces are, cut inside characters or not, the ids are those of the whole text. What
 * more text could still change is held back: an incomplete character, and the pieces of the cutting
 * pattern at the end of what came that might go on. */
#ifndef TARN_MODEL_ENCODER_H
#define TARN_MODEL_ENCODER_H

#include "bpe.h"
#include "bytes.h"
#include "tokenizer.h"

/* What a call changes, so that it can be taken back. */
typedef struct tarni_encoder_mark {
    tarni_text_stream held; /* an incomplete character */
    size_t n_chars;         /* characters in `text` */
    size_t text_bytes;
    size_t chars_tried; /* so many of them were looked at and nothing was settled */
    size_t part_chars;  /* since the last cut of TARNI_PART_CHARS */
    size_t run_chars;   /* of the run of space, or of anything else, at the end */
    bool run_is_space;
} tarni_encoder_mark;

typedef struct tarni_encoder {
    const tarni_tokenizer *tokenizer; /* borrowed */
    const tarn_allocator *allocator;  /* borrowed */
    tarni_writer text; /* whole characters: some that have ids by now, the rest held */
    char *classes;     /* owned: [classes_max], their class letters */
    size_t classes_max;
    size_t done_chars, done_bytes; /* that have ids; the next call drops them */
    tarni_encoder_mark at, before; /* now, and before the last call */
    tarni_bpe bpe;
} tarni_encoder;

/* `t` and `allocator` are borrowed. */
void tarni_encoder_init(tarni_encoder *e, const tarni_tokenizer *t,
                        const tarn_allocator *allocator);
void tarni_encoder_fini(tarni_encoder *e); /* also of a zeroed one */

/* Appends to `out` the ids that are certain once these bytes are there too. After an error encoder
 * and `out` are as before. Special strings are text. Memory: what is held back is at most three
 * runs of TARNI_RUN_CHARS. Cost: linear in the whole text. */
tarn_status tarni_encoder_feed(tarni_encoder *e, const char *text, size_t n_bytes, tarni_ids *out,
                               tarn_error *err);
/* Appends the ids of what was held back; a new text may begin. After an error all is as before. */
tarn_status tarni_encoder_end(tarni_encoder *e, tarni_ids *out, tarn_error *err);
/* Takes the last call back, as if it had not been made; its ids are the caller's to forget. */
void tarni_encoder_undo(tarni_encoder *e);
/* Characters that are held back. */
size_t tarni_encoder_held(const tarni_encoder *e);

#endif
