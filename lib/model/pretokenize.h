/* pretokenize.h - text to pieces: the cutting rules and the family's pattern.
 *
 * The pattern is the published one of the tiktoken family for these models. It is matched not over
 * the text but over its class letters (unicode_classes.h), one byte a character, because all the
 * pattern asks of a character is its class. */
#ifndef TARN_MODEL_PRETOKENIZE_H
#define TARN_MODEL_PRETOKENIZE_H

#include <stddef.h>
#include <stdint.h>

/* Limits of the reference, in characters: a text is cut after every TARNI_PART_CHARS, and within
 * such a part before a run of space or of anything else would pass TARNI_RUN_CHARS. */
#define TARNI_PART_CHARS 400000
#define TARNI_RUN_CHARS  25000

/* Writes the class letters of at most chars_max characters of valid UTF-8; *n_bytes is how many
 * bytes of text those are. Returns their number. */
size_t tarni_classify(const uint8_t *text, size_t text_bytes, char *classes, size_t chars_max,
                      size_t *n_bytes);

/* How many of n_chars >= 1 letters stand before the first cut within a run that is too long. */
size_t tarni_run_cut(const char *classes, size_t n_chars);

/* The length in characters of the piece at the start of a stretch of n_chars >= 1 letters. */
size_t tarni_next_piece(const char *classes, size_t n_chars);

#endif
