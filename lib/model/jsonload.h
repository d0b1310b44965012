/* jsonload.h - JSON objects out of files nobody vouches for. */
#ifndef TARNI_JSONLOAD_H
#define TARNI_JSONLOAD_H

#include "status.h"

#include <jansson.h>

#define TARNI_JSON_DEPTH_MAX 32

/* Parses an object; keys given twice are refused. `what` names the text in errors. At most
 * values_max values and TARNI_JSON_DEPTH_MAX levels: a parsed value takes some hundred bytes
 * however few it had in the text. `flags` are jansson's. FORMAT; NO_MEMORY. The caller owns *out.
 */
tarn_status tarni_json_load(const char *what, const char *text, size_t n_bytes, size_t values_max,
                            size_t flags, json_t **out, tarn_error *err);

#endif
