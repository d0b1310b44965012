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

/* A small generator of its own, so that a failing seed means the same everywhere. */
static inline uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

#endif
