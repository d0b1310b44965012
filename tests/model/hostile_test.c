/* Files made to hurt, beyond what the tests of each reader hold: shapes of JSON, links, files of
 * terabytes, texts of one character. */
#include "check.h"
#include "bytes.h"
#include "safetensors.h"
#include "scratch.h"
#include "spec.h"
#include "specials.h"
#include "tokenizer.h"

#include <fcntl.h>
#include <time.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

typedef enum reader { CONFIG, HEADER, INDEX, SPECIALS } reader;

/* Gives the text to one of the four readers of JSON. */
static tarn_status read_json(reader which, const char *text, size_t n_bytes, tarn_error *err)
{
    scratch s;
    tarni_spec spec;
    tarni_safetensors set;
    tarni_specials specials;
    tarn_status status = TARN_E_IO;
    if (!scratch_make(&s))
        return status;
    if (which == CONFIG) {
        scratch_write(&s, "config.json", text, n_bytes);
        status = tarni_spec_load(s.dir, &tarni_heap, &spec, err);
    } else if (which == SPECIALS) {
        scratch_write(&s, "tokenizer_config.json", text, n_bytes);
        status = tarni_specials_open(&specials, s.path, 300, 256, &tarni_heap, err);
        tarni_specials_fini(&specials, &tarni_heap);
    } else if (which == INDEX) {
        scratch_write(&s, "model.safetensors.index.json", text, n_bytes);
        status = tarni_safetensors_open(s.dir, &tarni_heap, &set, err);
        tarni_safetensors_close(&set);
    } else {
        uint8_t *file = calloc(n_bytes + 8, 1);
        tarni_store_u64(file, n_bytes);
        memcpy(file + 8, text, n_bytes);
        scratch_write(&s, "model.safetensors", file, n_bytes + 8);
        free(file);
        status = tarni_safetensors_open(s.dir, &tarni_heap, &set, err);
        tarni_safetensors_close(&set);
    }
    scratch_remove(&s);
    return status;
}

static const char *const FILES[] = {"config.json", "model.safetensors: header",
                                    "model.safetensors.index.json", "tokenizer_config.json"};

static void check_refused(const char *text, size_t n_bytes, const char *words)
{
    for (reader which = CONFIG; which <= SPECIALS; which++) {
        tarn_error err = {TARN_OK, ""};
        tarn_status status = read_json(which, text, n_bytes, &err);
        if (status != TARN_E_FORMAT || !strstr(err.detail, words) ||
            !strstr(err.detail, FILES[which]))
            CHECK_FAIL("%s: %s \"%s\", should be FORMAT with \"%s\"", FILES[which],
                       tarn_status_name(status), err.detail, words);
    }
}

CASE(json_that_is_none_is_refused_by_every_reader)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "line "},
        {"{", "line "},
        {"}", "line "},
        {"{\"a\":1}}", "line "},
        {"[1]", "is not a JSON object"},
        {"null", "is not a JSON object"},
        {"{\"a\":1,\"a\":2}", "duplicate"},
        {"{\"a\":1e999}", "overflow"},
        {"{\"a\":\"\xff\"}", "unable to decode byte 0xff"},
        {"{\"a\":\"\xed\xa0\x80\"}", "unable to decode byte 0xed"},
        {"{\"a\":\"\\ud800\"}", "line "},
        {"{\"a\\u0000b\":1}", "line "},
        {"{\"a\":\"x}", "line "},
        {"{'a':1}", "line "},
        {"{\"a\":01}", "line "},
        {"{\"a\":NaN}", "line "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_refused(cases[i].text, strlen(cases[i].text), cases[i].words);
    check_refused("{\"a\":\0}", 7, "line ");
}

CASE(deep_json_is_refused)
{
    size_t n = 1000000;
    char *text = malloc(n);
    static const char *const units[] = {"[", "{\"a\":", "[[],"};
    for (size_t u = 0; u < 3; u++) {
        for (size_t i = 0; i < n; i++)
            text[i] = units[u][i % strlen(units[u])];
        check_refused(text, n, "nested deeper than 32 levels");
    }
    /* Brackets in strings nest nothing. */
    memset(text, '[', n);
    memcpy(text, "{\"a\\\":\":\"", 9);
    memcpy(text + n - 2, "\"}", 2);
    tarn_error err;
    CHECK_STATUS(read_json(CONFIG, text, n, &err), TARN_E_FORMAT);
    CHECK_HAS(err.detail, "model_type is missing");
    free(text);
}

CASE(json_of_countless_values_is_refused)
{
    size_t n = 12000000;
    char *text = malloc(n);
    memcpy(text, "{\"a\":[", 6);
    for (size_t i = 6; i < n - 2; i++)
        text[i] = i % 2 ? ',' : '0';
    memcpy(text + n - 3, "0]}", 3);
    check_refused(text, n, "more than ");
    free(text);
}

/* ---- safetensors ----------------------------------------------------------------------------- */

static void write_header(scratch *s, const char *name, const char *header, uint64_t file_bytes)
{
    uint8_t prefix[8];
    scratch_write(s, name, "", 0);
    int fd = open(s->path, O_WRONLY);
    tarni_store_u64(prefix, strlen(header));
    if (write(fd, prefix, 8) != 8 || write(fd, header, strlen(header)) != (ssize_t)strlen(header) ||
        ftruncate(fd, (off_t)file_bytes) != 0)
        CHECK_FAIL("%s could not be written", s->path);
    close(fd);
}

CASE(other_fields_of_a_tensor_are_refused)
{
    scratch s;
    tarn_error err;
    tarni_safetensors set;
    static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],"
                                 "\"strides\":[2]}}";
    REQUIRE(scratch_make(&s));
    write_header(&s, "model.safetensors", header, 8 + sizeof header);
    CHECK_STATUS(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), TARN_E_UNSUPPORTED);
    CHECK_HAS(err.detail, "model.safetensors: tensor a: field strides");
    scratch_remove(&s);
}

/* Sparse: nothing of it is ever read. */
CASE(files_of_terabytes_cost_nothing)
{
    static const uint64_t n_bytes = UINT64_C(1) << 40;
    scratch s;
    tarn_error err;
    tarni_safetensors set;
    uint8_t prefix[8];
    char header[256];
    double start = now_s();
    REQUIRE(scratch_make(&s));
    snprintf(header, sizeof header,
             "{\"a\":{\"dtype\":\"F32\",\"shape\":[%llu],\"data_offsets\":[0,%llu]}}",
             (unsigned long long)(n_bytes / 4), (unsigned long long)n_bytes);
    write_header(&s, "model.safetensors", header, 8 + strlen(header) + n_bytes);
    REQUIRE_OK(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), &err);
    CHECK_EQ(set.tensors[0].n_bytes, n_bytes);
    tarni_safetensors_close(&set);
    /* A header length that the file could hold, and nobody should read. */
    int fd = open(s.path, O_WRONLY);
    tarni_store_u64(prefix, n_bytes / 2);
    REQUIRE(fd >= 0 && pwrite(fd, prefix, 8, 0) == 8 && close(fd) == 0);
    CHECK_STATUS(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), TARN_E_FORMAT);
    CHECK_HAS(err.detail, "header length is 549755813888, the file has");
    CHECK_HAS(err.detail, "the limit is 100000000");
    scratch_remove(&s);
    CHECK(now_s() - start < 20);
}

/* ---- links ----------------------------------------------------------------------------------- */

#define ONE  "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"
#define TWO  "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"
#define MAP  "{\"weight_map\":{\"a\":\"x\",\"b\":\"y\"}}"
#define NONE TARN_OK

/* `y` of the index is a link to this. */
static const struct {
    const char *target;
    tarn_status status;
    const char *words;
} LINKS[] = {
    {"good", NONE, ""},
    {"../tarn-hostile-outside", NONE, ""}, /* as in hub caches, whose files lie elsewhere */
    {"link", NONE, ""},                    /* a link to a link */
    {"y", TARN_E_IO, "y: Too many levels of symbolic links"},
    {"circle", TARN_E_IO, "y: Too many levels of symbolic links"},
    {"nothing", TARN_E_NOT_FOUND, "y: No such file or directory"},
    {"good/below", TARN_E_IO, "y: Not a directory"},
    {".", TARN_E_FORMAT, "y: is no regular file"},
    {"/dev/zero", TARN_E_FORMAT, "y: is no regular file"},
    {"fifo", TARN_E_FORMAT, "y: is no regular file"},
    {"x", TARN_E_FORMAT, "tensor a is in "}, /* the same file under two names */
    {"hard", TARN_E_FORMAT, "tensor a is in "},
    {"/etc/passwd", TARN_E_FORMAT, "y: header length is"},
    {"/proc/self/maps", TARN_E_FORMAT, "y: is 0 bytes"},
};

CASE(links_are_followed_to_regular_files_and_nowhere_else)
{
    scratch s;
    char outside[] = "/tmp/tarn-hostile-outside", path[256];
    tarn_error err;
    tarni_safetensors set;
    REQUIRE(scratch_make(&s));
    scratch_write(&s, "model.safetensors.index.json", MAP, strlen(MAP));
    write_header(&s, "x", ONE, 8 + sizeof ONE);
    write_header(&s, "good", TWO, 8 + sizeof TWO);
    snprintf(path, sizeof path, "%s/good", s.dir);
    unlink(outside);
    REQUIRE(link(path, outside) == 0);
    REQUIRE(symlink("good", scratch_path(&s, "link")) == 0);
    REQUIRE(symlink("y", scratch_path(&s, "circle")) == 0);
    REQUIRE(mkfifo(scratch_path(&s, "fifo"), 0600) == 0);
    snprintf(path, sizeof path, "%s/x", s.dir);
    REQUIRE(link(path, scratch_path(&s, "hard")) == 0);
    for (size_t i = 0; i < sizeof LINKS / sizeof LINKS[0]; i++) {
        REQUIRE(symlink(LINKS[i].target, scratch_path(&s, "y")) == 0);
        tarn_status status = tarni_safetensors_open(s.dir, &tarni_heap, &set, &err);
        if (status != LINKS[i].status || (status != TARN_OK && !strstr(err.detail, LINKS[i].words)))
            CHECK_FAIL("%s: %s \"%s\", should be %s with \"%s\"", LINKS[i].target,
                       tarn_status_name(status), err.detail, tarn_status_name(LINKS[i].status),
                       LINKS[i].words);
        tarni_safetensors_close(&set);
        REQUIRE(unlink(s.path) == 0);
    }
    unlink(outside);
    scratch_remove(&s);
}

/* No name of an index leads out of the folder by itself. */
CASE(names_of_an_index_stay_inside)
{
    static const char *const names[] = {"..",  ".", "../x", "/etc/passwd",    "a/../x",    "x/",
                                        "./x", "",  "a//b", "\\u002e\\u002e", "..\\u002fx"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char text[128];
        tarn_error err = {TARN_OK, ""};
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
        tarn_status status = read_json(INDEX, text, strlen(text), &err);
        if (status != TARN_E_FORMAT || !strstr(err.detail, "is not a file name"))
            CHECK_FAIL("%s: %s \"%s\"", names[i], tarn_status_name(status), err.detail);
    }
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* What a file holds is quoted in errors: one line, whatever it is. */
CASE(errors_stay_one_line)
{
    static const char header[] = "{\"a\\n\\u001b[2J\\u007f\":{\"dtype\":\"F\\n\"}}";
    tarn_error err;
    CHECK_STATUS(read_json(HEADER, header, strlen(header), &err), TARN_E_UNSUPPORTED);
    for (const char *at = err.detail; *at; at++)
        CHECK((unsigned char)*at >= 0x20 && *at != 0x7f);
    char *name = malloc(1001);
    memset(name, 'x', 1000);
    name[1000] = 0;
    char *text = malloc(3000);
    snprintf(text, 3000, "{\"weight_map\":{\"%s\":\"%s\"}}", name, name);
    CHECK_STATUS(read_json(INDEX, text, strlen(text), &err), TARN_E_FORMAT);
    CHECK_HAS(err.detail, "is not a file name");
    free(text);
    free(name);
}

/* ---- texts ----------------------------------------------------------------------------------- */

CASE(ten_megabytes_of_one_character)
{
    static const char *const units[] = {
        "a",        " ",          "\n", "1",        "'", "<", "A", "\xff", "\xe4\xb8\xad",
        "\xcc\x81", "<|im_end|>", "aA", "<|im_end|"};
    size_t n = 10000000;
    char *text = malloc(n);
    tarni_tokenizer *t;
    tarn_error err;
    REQUIRE_OK(tarni_tokenizer_open(TEST_DATA "/tokenizer", 0, &tarni_heap, &t, &err), &err);
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        tarni_ids ids;
        double start = now_s();
        tarni_ids_init(&ids, &tarni_heap);
        for (size_t i = 0; i < n; i++)
            text[i] = units[u][i % strlen(units[u])];
        REQUIRE_OK(tarni_tokenizer_encode(t, text, n, true, &ids, &err), &err);
        CHECK(ids.n_ids > 0);
        double seconds = now_s() - start;
        if (seconds > 60) /* hours, were it quadratic; under one second on an idle machine */
            CHECK_FAIL("\"%s\": %.1f s", units[u], seconds);
        tarni_ids_fini(&ids);
    }
    tarni_tokenizer_free(t);
    free(text);
}

CHECK_MAIN(ENTRY(json_that_is_none_is_refused_by_every_reader), ENTRY(deep_json_is_refused),
           ENTRY(json_of_countless_values_is_refused), ENTRY(other_fields_of_a_tensor_are_refused),
           ENTRY(files_of_terabytes_cost_nothing),
           ENTRY(links_are_followed_to_regular_files_and_nowhere_else),
           ENTRY(names_of_an_index_stay_inside), ENTRY(errors_stay_one_line),
           ENTRY(ten_megabytes_of_one_character))
