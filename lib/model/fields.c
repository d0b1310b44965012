#include "fields.h"
#include "paths.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define VALUE_BYTES_MAX 48 /* of a value quoted in an error */

json_t *tarni_field_find(const tarni_fields *f, const char *name)
{
    json_t *value = json_object_get(f->object, name);
    return value && !json_is_null(value) ? value : NULL;
}

tarn_status tarni_field_fail(const tarni_fields *f, const char *name, tarn_status status,
                             const char *rest, tarn_error *err)
{
    const char *file = tarni_path_tail(f->origin);
    json_t *value = tarni_field_find(f, name);
    if (!value)
        return tarni_fail(err, status, "%s: field %s%.80s is missing", file, f->prefix, name);
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    tarni_fail(err, status, "%s: field %s%.80s is %.*s, %s", file, f->prefix, name, VALUE_BYTES_MAX,
               text ? text : "of another type", rest);
    free(text);
    return status;
}

/* Whole numbers beyond 2^53 are beyond every limit here, so a double holds what matters. */
static bool number_of(const json_t *value, double *out)
{
    if (!json_is_number(value))
        return false;
    *out = json_number_value(value);
    return isfinite(*out);
}

tarn_status tarni_field_u32(const tarni_fields *f, const char *name, uint32_t lo, uint32_t hi,
                            uint64_t absent, uint32_t *out, tarn_error *err)
{
    json_t *value = tarni_field_find(f, name);
    if (!value && absent != TARNI_FIELD_REQUIRED) {
        *out = (uint32_t)absent;
        return TARN_OK;
    }
    char rest[80];
    snprintf(rest, sizeof rest, "should be an integer from %u to %u", lo, hi);
    double number;
    if (!value || !number_of(value, &number) || number != floor(number) || number < lo)
        return tarni_field_fail(f, name, TARN_E_FORMAT, rest, err);
    if (number > hi)
        return tarni_field_fail(f, name, TARN_E_UNSUPPORTED, rest, err);
    *out = (uint32_t)number;
    return TARN_OK;
}

tarn_status tarni_field_bool(const tarni_fields *f, const char *name, bool absent, bool *out,
                             tarn_error *err)
{
    json_t *value = tarni_field_find(f, name);
    if (value && !json_is_boolean(value))
        return tarni_field_fail(f, name, TARN_E_FORMAT, "should be true or false", err);
    *out = value ? json_is_true(value) : absent;
    return TARN_OK;
}

tarn_status tarni_field_float(const tarni_fields *f, const char *name, float absent, float *out,
                              tarn_error *err)
{
    json_t *value = tarni_field_find(f, name);
    double number = absent;
    if (value && (!number_of(value, &number) || !isfinite((float)number)))
        return tarni_field_fail(f, name, TARN_E_FORMAT, "should be a number", err);
    *out = (float)number;
    return TARN_OK;
}

tarn_status tarni_field_text(const tarni_fields *f, const char *name, const char *absent,
                             const char **out, tarn_error *err)
{
    json_t *value = tarni_field_find(f, name);
    *out = absent;
    if (!value && absent)
        return TARN_OK;
    if (!json_is_string(value))
        return tarni_field_fail(f, name, TARN_E_FORMAT, "should be a string", err);
    *out = json_string_value(value);
    return TARN_OK;
}

tarn_status tarni_field_container(const tarni_fields *f, const char *name, json_type type,
                                  json_t **out, tarn_error *err)
{
    *out = tarni_field_find(f, name);
    if (!*out || json_typeof(*out) != type)
        return tarni_field_fail(f, name, TARN_E_FORMAT,
                                type == JSON_ARRAY ? "should be an array" : "should be an object",
                                err);
    return TARN_OK;
}
