/* fields.h - typed fields of a JSON object; errors name the file, the field and its value.
 *
 * A field that is null counts as absent, as in the reference. Numbers may be written as integers or
 * as floats (2304.0), since either comes out of other people's tools. jansson takes its memory from
 * the C library: its allocator is process wide and not ours to change. */
#ifndef TARNI_FIELDS_H
#define TARNI_FIELDS_H

#include "status.h"

#include <jansson.h>

#define TARNI_FIELD_REQUIRED UINT64_MAX

typedef struct tarni_fields {
    json_t *object;     /* borrowed */
    const char *origin; /* the file, for errors */
    const char *prefix; /* "" or "outer." */
} tarni_fields;

/* The value, or NULL where the field is absent or null. */
json_t *tarni_field_find(const tarni_fields *f, const char *name);

/* Fails with "FILE: field NAME is VALUE, <rest>", or "... is missing" where there is no value. */
tarn_status tarni_field_fail(const tarni_fields *f, const char *name, tarn_status status,
                             const char *rest, tarn_error *err);

/* An integer from lo to hi: FORMAT for another type or below lo, UNSUPPORTED above hi. `absent` is
 * the default, or TARNI_FIELD_REQUIRED. */
tarn_status tarni_field_u32(const tarni_fields *f, const char *name, uint32_t lo, uint32_t hi,
                            uint64_t absent, uint32_t *out, tarn_error *err);
tarn_status tarni_field_bool(const tarni_fields *f, const char *name, bool absent, bool *out,
                             tarn_error *err);
/* A finite number. */
tarn_status tarni_field_float(const tarni_fields *f, const char *name, float absent, float *out,
                              tarn_error *err);
/* A string, borrowed from the JSON object; `absent` may be NULL: required. */
tarn_status tarni_field_text(const tarni_fields *f, const char *name, const char *absent,
                             const char **out, tarn_error *err);
/* An object or an array, by `type`; required. */
tarn_status tarni_field_container(const tarni_fields *f, const char *name, json_type type,
                                  json_t **out, tarn_error *err);

#endif
