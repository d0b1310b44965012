#include "names.h"

#include <string.h>

#define TAG_KEY_BYTES_MAX   64
#define TAG_VALUE_BYTES_MAX 255

/* Bytes of the well-formed UTF-8 sequence at `at`, or 0: no overlong forms, no surrogates, nothing
 * beyond U+10FFFF (Unicode 15, table 3-7). A NUL ends the text, so no byte behind it is read. */
static size_t utf8_sequence(const uint8_t *at)
{
    if (at[0] < 0x80)
        return 1;
    uint8_t low = 0x80, high = 0xBF;
    size_t n = at[0] >= 0xF0 ? 4 : at[0] >= 0xE0 ? 3 : 2;
    if (at[0] < 0xC2 || at[0] > 0xF4)
        return 0;
    if (at[0] == 0xE0)
        low = 0xA0;
    else if (at[0] == 0xED)
        high = 0x9F;
    else if (at[0] == 0xF0)
        low = 0x90;
    else if (at[0] == 0xF4)
        high = 0x8F;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if (at[i] < 0x80 || at[i] > 0xBF)
            return 0;
    return n;
}

/* `refused` is one ASCII character that may not appear, or 0. */
static tarn_status check_text(const char *what, const char *text, size_t least, size_t most,
                              char refused, tarn_error *err)
{
    if (!text)
        return tarni_fail(err, TARN_E_INVALID, "%s is NULL", what);
    size_t n_bytes = strlen(text);
    if (n_bytes < least || n_bytes > most)
        return tarni_fail(err, TARN_E_INVALID, "%s has %zu bytes, should have %zu to %zu", what,
                          n_bytes, least, most);
    const uint8_t *at = (const uint8_t *)text;
    for (size_t i = 0; i < n_bytes;) {
        size_t n = utf8_sequence(at + i);
        if (n == 0)
            return tarni_fail(err, TARN_E_INVALID, "%s is not UTF-8 at byte %zu", what, i);
        bool c1 = at[i] == 0xC2 && at[i + 1] < 0xA0;
        if (at[i] < 0x20 || at[i] == 0x7F || c1)
            return tarni_fail(err, TARN_E_INVALID, "%s holds a control character at byte %zu", what,
                              i);
        if (refused && text[i] == refused)
            return tarni_fail(err, TARN_E_INVALID, "%s holds '%c' at byte %zu", what, refused, i);
        i += n;
    }
    return TARN_OK;
}

tarn_status tarnp_name_check(const char *name, tarn_error *err)
{
    return check_text("the session's name", name, 1, TARNP_NAME_BYTES_MAX, '@', err);
}

tarn_status tarnp_group_check(const char *group, tarn_error *err)
{
    return check_text("the group's name", group, 0, TARNP_GROUP_BYTES_MAX, 0, err);
}

tarn_status tarnp_tags_check(const tarnp_tag *tags, size_t n_tags, tarn_error *err)
{
    if (n_tags > TARNP_TAGS_MAX)
        return tarni_fail(err, TARN_E_INVALID, "%zu tags, the limit is %d", n_tags, TARNP_TAGS_MAX);
    for (size_t i = 0; i < n_tags; i++) {
        TARNI_TRY(check_text("a tag's key", tags[i].key, 1, TAG_KEY_BYTES_MAX, '=', err));
        TARNI_TRY(check_text("a tag's value", tags[i].value, 0, TAG_VALUE_BYTES_MAX, 0, err));
        for (size_t k = 0; k < i; k++)
            if (strcmp(tags[i].key, tags[k].key) == 0)
                return tarni_fail(err, TARN_E_INVALID, "the tag %s is given twice", tags[i].key);
    }
    return TARN_OK;
}
