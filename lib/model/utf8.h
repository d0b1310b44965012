/* utf8.h - one character of UTF-8 at a time, broken bytes included.
 *
 * A maximal broken part is what Unicode chapter 3.9 (U+FFFD substitution of maximal subparts) and
 * most decoders replace by one U+FFFD: the longest start of some valid character, or one byte. */
#ifndef TARN_MODEL_UTF8_H
#define TARN_MODEL_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define TARNI_REPLACEMENT       "\xef\xbf\xbd" /* U+FFFD */
#define TARNI_REPLACEMENT_BYTES 3

typedef enum tarni_utf8_kind {
    TARNI_UTF8_WHOLE,  /* a character */
    TARNI_UTF8_BROKEN, /* a maximal broken part */
    TARNI_UTF8_OPEN    /* the text ends inside what may still become a character */
} tarni_utf8_kind;

typedef struct tarni_utf8 {
    tarni_utf8_kind kind;
    uint32_t code_point; /* of a whole character */
    size_t n_bytes;      /* 1 to 4 */
} tarni_utf8;

/* Reads what stands at the start of n_bytes >= 1 bytes. */
tarni_utf8 tarni_utf8_read(const uint8_t *text, size_t n_bytes);

/* How many bytes at the start are valid UTF-8; n_bytes if all are. */
size_t tarni_utf8_valid_bytes(const uint8_t *text, size_t n_bytes);

/* Bytes of a character of valid UTF-8, from its first byte. */
static inline size_t tarni_utf8_width(uint8_t first)
{
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

#endif
