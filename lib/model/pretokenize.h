/* pretokenize.h - text to pieces: the cutting rules and the family's pattern.
 *
 * The pattern is the published one of the tiktoken family for these models. It is matched not over
 * the text but over its class letters (unicode_classes.h), one byte a character, because all the
 * pattern asks of a character is its class. */
#ifndef TARN_MODEL_PRETOKENIZE_H
#define TARN_MODEL_PRETOKENIZE_H

#include "memory.h"

/* Limits of the reference, in characters: a text is cut after every TARNI_PART_CHARS, and within
 * such a part before a run of space or of anything else would pass TARNI_RUN_CHARS. */
#define TARNI_PART_CHARS 400000
#define TARNI_RUN_CHARS  25000

typedef struct tarni_pretokenizer {
    struct pcre2_real_general_context_8 *memory; /* owned */
    struct pcre2_real_code_8 *pattern;           /* owned */
    bool jit;
} tarni_pretokenizer;

/* `allocator` is borrowed and must outlive the pretokenizer. With `jit` the pattern is compiled to
 * machine code where the host allows that. */
tarn_status tarni_pretokenizer_init(tarni_pretokenizer *p, bool jit,
                                    const tarn_allocator *allocator, tarn_error *err);
void tarni_pretokenizer_fini(tarni_pretokenizer *p);

/* One thread's cursor; any number may use one pretokenizer at once. */
typedef struct tarni_cutter {
    const tarni_pretokenizer *pretokenizer;    /* borrowed */
    struct pcre2_real_match_data_8 *match;     /* owned */
    struct pcre2_real_match_context_8 *limits; /* owned */
} tarni_cutter;

tarn_status tarni_cutter_init(tarni_cutter *c, const tarni_pretokenizer *p, tarn_error *err);
void tarni_cutter_fini(tarni_cutter *c);

/* Writes the class letters of at most chars_max characters of valid UTF-8; *n_bytes is how many
 * bytes of text those are. Returns their number. */
size_t tarni_classify(const uint8_t *text, size_t text_bytes, char *classes, size_t chars_max,
                      size_t *n_bytes);

/* How many of n_chars >= 1 letters stand before the first cut within a run that is too long. */
size_t tarni_run_cut(const char *classes, size_t n_chars);

/* The length in characters of the piece that starts at letter `at` of the n_chars of a stretch.
 * NO_MEMORY if there is none for matching. */
tarn_status tarni_next_piece(const tarni_cutter *c, const char *classes, size_t n_chars, size_t at,
                             size_t *piece_chars, tarn_error *err);

#endif
