/* vectors.h - what the tests of the tokenizer and the chat format share: the reference's answers as
 * JSON lines. */
#ifndef TARN_TESTS_MODEL_VECTORS_H
#define TARN_TESTS_MODEL_VECTORS_H

#include "check.h"
#include "ids.h"
#include "scratch.h"
#include "tokenizer.h"

#include <jansson.h>
#include <limits.h>
#include <sodium.h>

#define SMALL_VOCABULARY TEST_DATA "/tokenizer"
/* The published vocabulary is 2.8 MB and not kept here: this variable names a folder that has it,
 * together with the reference's answers for it under the same file names. */
#define LARGE_VOCABULARY getenv("TARN_TEST_LARGE_VOCAB")
#define WITHOUT_LARGE    "TARN_TEST_LARGE_VOCAB names no folder"

static tarn_error error __attribute__((unused));

/* One JSON value a line of DIR/NAME, as an array; NULL (and a failed check) if that cannot be. */
static inline json_t *read_lines(const char *dir, const char *name)
{
    char path[1024], *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    json_t *all = json_array();
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "rb");
    while (file && (n = getline(&line, &capacity, file)) > 0) {
        json_error_t bad;
        json_t *value = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &bad);
        if (value)
            json_array_append_new(all, value);
        else if (json_error_code(&bad) != json_error_numeric_overflow) /* an id of 2^63 is one */
            CHECK_FAIL("%s: %s", path, bad.text);
    }
    if (file)
        fclose(file);
    free(line);
    if (json_array_size(all) == 0)
        CHECK_FAIL("%s: nothing read", path);
    return all;
}

static inline bool same_ids(const tarni_ids *got, const json_t *want)
{
    if (got->n_ids != json_array_size(want))
        return false;
    for (size_t i = 0; i < got->n_ids; i++)
        if ((json_int_t)got->ids[i] != json_integer_value(json_array_get(want, i)))
            return false;
    return true;
}

static inline tarni_writer base64_bytes(const json_t *value)
{
    tarni_writer w;
    tarni_writer_init(&w, &tarni_heap);
    const char *code = json_string_value(value);
    uint8_t *bytes = malloc(strlen(code) + 1);
    size_t n = 0;
    if (sodium_base642bin(bytes, strlen(code) + 1, code, strlen(code), NULL, &n, NULL,
                          sodium_base64_VARIANT_ORIGINAL) != 0)
        CHECK_FAIL("bad base64 in the vectors");
    tarni_put_bytes(&w, bytes, n);
    free(bytes);
    return w;
}

/* The text of a vector: text, base64, or parts of which each is repeated. */
static inline tarni_writer text_of(const json_t *v)
{
    tarni_writer w;
    const json_t *text = json_object_get(v, "text"), *parts = json_object_get(v, "parts");
    if (json_object_get(v, "base64"))
        return base64_bytes(json_object_get(v, "base64"));
    tarni_writer_init(&w, &tarni_heap);
    if (text)
        tarni_put_bytes(&w, json_string_value(text), json_string_length(text));
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *unit = json_array_get(json_array_get(parts, i), 0);
        json_int_t times = json_integer_value(json_array_get(json_array_get(parts, i), 1));
        for (json_int_t j = 0; j < times; j++)
            tarni_put_bytes(&w, json_string_value(unit), json_string_length(unit));
    }
    return w;
}

/* A small generator of its own, so that a failing seed means the same everywhere. */
static inline uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

#endif
