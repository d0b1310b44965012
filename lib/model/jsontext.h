/* jsontext.h - JSON as Python's json.dumps(ensure_ascii=False) writes it.
 *
 * The models have seen that form of numbers, escapes and spaces only. */
#ifndef TARN_MODEL_JSONTEXT_H
#define TARN_MODEL_JSONTEXT_H

#include "bytes.h"

#include <jansson.h>

typedef enum tarni_json_style {
    TARNI_JSON_COMPACT_SORTED, /* "," and ":", keys in byte order at every depth */
    TARNI_JSON_SPACED          /* ", " and ": ", keys in their own order */
} tarni_json_style;

/* Parses any JSON value, exactly or not at all: a key given twice, a number beyond 64 bits or
 * beyond a double, or text that is no Unicode is INVALID. `what` names the text in the error, whose
 * detail holds positions and never a part of the text. The caller owns *out. */
tarn_status tarni_json_parse(const char *what, const char *text, size_t n_bytes, json_t **out,
                             tarn_error *err);

/* Appends the value; a failure to allocate shows in out->failed. */
void tarni_json_write(const json_t *value, tarni_json_style style, tarni_writer *out);

#endif
