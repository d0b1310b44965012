/* Writing JSON the way Python does.
 *
 * jansson's own writer differs in three places: reals have 17 digits or a fixed number of them,
 * control characters are escaped in capitals, and "/" may be escaped. Reading is jansson's. */
#include "jsontext.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS_MAX 17 /* enough for any double */

typedef struct member {
    const char *key;
    size_t key_bytes;
    const json_t *value;
} member;

tarn_status tarni_json_parse(const char *what, const char *text, size_t n_bytes, json_t **out,
                             tarn_error *err)
{
    json_error_t bad;
    *out =
        json_loadb(text, n_bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &bad);
    if (*out)
        return TARN_OK;
    const char *why = "not valid JSON";
    switch (json_error_code(&bad)) {
    case json_error_out_of_memory:
        return tarni_fail_memory(err, n_bytes);
    case json_error_numeric_overflow:
        why = "a number beyond 64 bits, which would not stay exact";
        break;
    case json_error_duplicate_key:
        why = "a key given twice in one object";
        break;
    case json_error_invalid_utf8:
        why = "bytes that are no UTF-8";
        break;
    case json_error_null_byte_in_key:
        why = "a key with a NUL character";
        break;
    case json_error_stack_overflow:
        why = "nested too deeply";
        break;
    default:
        break;
    }
    return tarni_fail(err, TARN_E_INVALID, "%s: %s (line %d, byte %d)", what, why, bad.line,
                      bad.position);
}

static void put_literal(tarni_writer *out, const char *text)
{
    tarni_put_bytes(out, text, strlen(text));
}

/* The letter that stands for c behind a backslash; 0 where \uXXXX is the only form. */
static char short_escape(uint8_t c)
{
    switch (c) {
    case '"':
    case '\\':
        return (char)c;
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    case '\f':
        return 'f';
    case '\b':
        return 'b';
    default:
        return 0;
    }
}

static void write_string(const char *text, size_t n_bytes, tarni_writer *out)
{
    size_t start = 0; /* of what is written as it is */
    tarni_put_u8(out, '"');
    for (size_t i = 0; i < n_bytes; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        tarni_put_bytes(out, text + start, i - start);
        start = i + 1;
        char letter = short_escape(c), escape[8];
        if (letter)
            snprintf(escape, sizeof escape, "\\%c", letter);
        else
            snprintf(escape, sizeof escape, "\\u%04x", c);
        put_literal(out, escape);
    }
    tarni_put_bytes(out, text + start, n_bytes - start);
    tarni_put_u8(out, '"');
}

/* The value as n digits, correctly rounded: 0.d1d2d3... * 10^*point. Only digits and exponent of
 * what printf writes are used, because its decimal point is the locale's. */
static void round_to_digits(double value, int n, char *digits, int *point)
{
    char text[40];
    snprintf(text, sizeof text, "%.*e", n - 1, value);
    const char *at = text;
    int i = 0;
    for (; *at != 'e'; at++)
        if (*at >= '0' && *at <= '9' && i < n)
            digits[i++] = *at;
    digits[i] = '\0';
    *point = (int)strtol(at + 1, NULL, 10) + 1;
}

static bool reads_back(double value, const char *digits, int n, int point)
{
    char text[40];
    snprintf(text, sizeof text, "%se%d", digits, point - n);
    return strtod(text, NULL) == value;
}

/* The decimal one unit further in the last place; false where that takes another digit. */
static bool step_up(char *digits, int n)
{
    while (n > 0 && digits[n - 1] == '9')
        digits[--n] = '0';
    if (n == 0)
        return false;
    digits[n - 1]++;
    return true;
}

/* The shortest decimal that reads back as `value`, which is positive; returns its length. The
 * nearest decimal of a length is tried first. Above a power of two the doubles lie twice as far
 * apart as below, so there the next decimal up may read back where the nearest does not. */
static int shortest_digits(double value, char digits[DIGITS_MAX + 1], int *point)
{
    int n = 1;
    for (; n <= DIGITS_MAX; n++) {
        round_to_digits(value, n, digits, point);
        if (reads_back(value, digits, n, *point))
            break;
        if (step_up(digits, n) && reads_back(value, digits, n, *point))
            break;
    }
    TARN_ASSERT(n <= DIGITS_MAX);
    while (n > 1 && digits[n - 1] == '0')
        n--;
    return n;
}

/* As Python's repr: positional for 1e-4 <= value < 1e16, else with an exponent of at least two
 * digits; always with ".0" or an exponent, so that it stays a real. */
static void write_real(double value, tarni_writer *out)
{
    char digits[DIGITS_MAX + 1] = "0";
    int point = 1, n = 1;
    if (value < 0 || (value == 0 && 1 / value < 0))
        tarni_put_u8(out, '-');
    if (value != 0)
        n = shortest_digits(value < 0 ? -value : value, digits, &point);
    if (point < -3 || point > 16) {
        char exponent[16];
        tarni_put_bytes(out, digits, 1);
        if (n > 1)
            tarni_put_u8(out, '.');
        tarni_put_bytes(out, digits + 1, (size_t)n - 1);
        snprintf(exponent, sizeof exponent, "e%+03d", point - 1);
        put_literal(out, exponent);
        return;
    }
    if (point <= 0)
        put_literal(out, "0.");
    for (int i = point; i < 0; i++)
        tarni_put_u8(out, '0');
    for (int i = 0; i < n; i++) {
        if (i == point && i > 0)
            tarni_put_u8(out, '.');
        tarni_put_u8(out, (uint8_t)digits[i]);
    }
    for (int i = n; i < point; i++)
        tarni_put_u8(out, '0');
    if (point >= n)
        put_literal(out, ".0");
}

static int by_key(const void *a, const void *b)
{
    const member *x = a, *y = b;
    size_t n = x->key_bytes < y->key_bytes ? x->key_bytes : y->key_bytes;
    int order = memcmp(x->key, y->key, n);
    return order != 0 ? order : (x->key_bytes > y->key_bytes) - (x->key_bytes < y->key_bytes);
}

static void write_object(const json_t *object, tarni_json_style style, tarni_writer *out)
{
    bool compact = style == TARNI_JSON_COMPACT_SORTED;
    size_t n = 0;
    member *members;
    tarn_error err;
    if (tarni_alloc(out->allocator, json_object_size(object), sizeof *members, &members, &err) !=
        TARN_OK) {
        out->failed = true;
        return;
    }
    json_t *borrowed = (json_t *)(uintptr_t)object; /* jansson's iterators want no const */
    for (void *i = json_object_iter(borrowed); i; i = json_object_iter_next(borrowed, i))
        members[n++] = (member){json_object_iter_key(i), json_object_iter_key_len(i),
                                json_object_iter_value(i)};
    if (compact && n > 1)
        qsort(members, n, sizeof *members, by_key);
    tarni_put_u8(out, '{');
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            put_literal(out, compact ? "," : ", ");
        write_string(members[i].key, members[i].key_bytes, out);
        put_literal(out, compact ? ":" : ": ");
        tarni_json_write(members[i].value, style, out);
    }
    tarni_put_u8(out, '}');
    tarni_free(out->allocator, members);
}

void tarni_json_write(const json_t *value, tarni_json_style style, tarni_writer *out)
{
    char number[32];
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        write_object(value, style, out);
        break;
    case JSON_ARRAY:
        tarni_put_u8(out, '[');
        for (size_t i = 0; i < json_array_size(value); i++) {
            if (i > 0)
                put_literal(out, style == TARNI_JSON_COMPACT_SORTED ? "," : ", ");
            tarni_json_write(json_array_get(value, i), style, out);
        }
        tarni_put_u8(out, ']');
        break;
    case JSON_STRING:
        write_string(json_string_value(value), json_string_length(value), out);
        break;
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        put_literal(out, number);
        break;
    case JSON_REAL:
        write_real(json_real_value(value), out);
        break;
    case JSON_TRUE:
        put_literal(out, "true");
        break;
    case JSON_FALSE:
        put_literal(out, "false");
        break;
    case JSON_NULL:
        put_literal(out, "null");
        break;
    }
}
