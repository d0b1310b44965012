#include "jsonload.h"

#include <stdbool.h>

/* Counts brackets and commas outside of strings, before anything is built. Text that is no JSON may
 * be counted wrongly; the parser refuses it then. */
static tarn_status check_extent(const char *what, const char *text, size_t n_bytes,
                                size_t values_max, tarn_error *err)
{
    size_t depth = 0, n_values = 1;
    bool in_string = false;
    for (size_t i = 0; i < n_bytes; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"')
            in_string = true;
        n_values += c == '{' || c == '[' || c == ',';
        if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && depth > 0)
            depth--;
        if (depth > TARNI_JSON_DEPTH_MAX)
            return tarni_fail(err, TARN_E_FORMAT, "%s: nested deeper than %d levels at byte %zu",
                              what, TARNI_JSON_DEPTH_MAX, i);
        if (n_values > values_max)
            return tarni_fail(err, TARN_E_FORMAT, "%s: more than %zu values at byte %zu", what,
                              values_max, i);
    }
    return TARN_OK;
}

tarn_status tarni_json_load(const char *what, const char *text, size_t n_bytes, size_t values_max,
                            size_t flags, json_t **out, tarn_error *err)
{
    json_error_t bad;
    *out = NULL;
    TARNI_TRY(check_extent(what, text, n_bytes, values_max, err));
    json_t *value =
        json_loadb(text, n_bytes, flags | JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &bad);
    if (!value && json_error_code(&bad) == json_error_out_of_memory)
        return tarni_fail_memory(err, n_bytes);
    if (!value)
        return tarni_fail(err, TARN_E_FORMAT, "%s: line %d: %s", what, bad.line, bad.text);
    if (!json_is_object(value)) {
        json_decref(value);
        return tarni_fail(err, TARN_E_FORMAT, "%s: is not a JSON object", what);
    }
    *out = value;
    return TARN_OK;
}
