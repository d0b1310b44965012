/* JSON in and out; what Python's json.dumps(ensure_ascii=False) gives is written here as literals.
 */
#include "jsontext.h"
#include "vectors.h"

#include <locale.h>

/* Parses, writes; the caller frees. NULL where it is refused. */
static char *written(const char *json, tarni_json_style style)
{
    json_t *value;
    tarni_writer w;
    if (tarni_json_parse("text", json, strlen(json), &value, &error) != TARN_OK)
        return NULL;
    tarni_writer_init(&w, &tarni_heap);
    tarni_json_write(value, style, &w);
    tarni_put_u8(&w, 0);
    json_decref(value);
    return (char *)w.data;
}

static void check(const char *json, tarni_json_style style, const char *want)
{
    char *got = written(json, style);
    if (got)
        CHECK_TEXT(got, want);
    else
        CHECK_FAIL("%s: %s", json, error.detail);
    free(got);
}

CASE(numbers_as_python_writes_them)
{
    static const char *const numbers[][2] = {
        {"0", "0"},
        {"-0", "0"},
        {"-7", "-7"},
        {"9007199254740993", "9007199254740993"},
        {"9223372036854775807", "9223372036854775807"},
        {"-9223372036854775808", "-9223372036854775808"},
        {"0.0", "0.0"},
        {"-0.0", "-0.0"},
        {"1.0", "1.0"},
        {"-2.50", "-2.5"},
        {"0.1", "0.1"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"123456.789", "123456.789"},
        {"1E5", "100000.0"},
        {"1e15", "1000000000000000.0"},
        {"1e16", "1e+16"},
        {"123456789012345678.0", "1.2345678901234568e+17"},
        {"9999999999999998.0", "9999999999999998.0"},
        {"1e22", "1e+22"},
        {"1e-4", "0.0001"},
        {"1.5e-4", "0.00015"},
        {"1e-5", "1e-05"},
        {"1e-7", "1e-07"},
        {"1.25e-7", "1.25e-07"},
        {"5e-324", "5e-324"},
        {"2.2250738585072014e-308", "2.2250738585072014e-308"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        /* Powers of two whose shortest form is not the nearest decimal of its length. */
        {"7.1202363472230444e-307", "7.120236347223045e-307"},
        {"-7.2911220195563975e-304", "-7.291122019556398e-304"},
        {"5.9409111446723744e-213", "5.940911144672375e-213"},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        check(numbers[i][0], TARNI_JSON_SPACED, numbers[i][1]);
}

CASE(reals_read_back)
{
    uint64_t seed = 3;
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = (uint64_t)next_random(&seed) << 33 ^ (uint64_t)next_random(&seed) << 11 ^
                        next_random(&seed);
        double value, back;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        json_t *real = json_real(value);
        tarni_writer w;
        tarni_writer_init(&w, &tarni_heap);
        tarni_json_write(real, TARNI_JSON_SPACED, &w);
        tarni_put_u8(&w, 0);
        back = strtod((const char *)w.data, NULL);
        if (memcmp(&back, &value, sizeof value) != 0)
            CHECK_FAIL("%.17g is written as %s", value, (const char *)w.data);
        tarni_writer_fini(&w);
        json_decref(real);
    }
}

/* A host may have set a locale with a decimal comma. */
CASE(the_locale_does_not_show)
{
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "fr_FR.UTF-8"))
        SKIP("no locale with a decimal comma is installed");
    check("[0.5,1e-7]", TARNI_JSON_SPACED, "[0.5, 1e-07]");
    setlocale(LC_NUMERIC, "C");
}

CASE(strings_and_escapes)
{
    check("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", TARNI_JSON_SPACED, "\"\\\"\\\\/\\b\\f\\n\\r\\t\"");
    check("\"\\u0001\\u001f\\u007f\\u0000\"", TARNI_JSON_SPACED, "\"\\u0001\\u001f\x7f\\u0000\"");
    check("\"\\u4f60\\ud83d\\ude00<>&'\"", TARNI_JSON_SPACED,
          "\"\xe4\xbd\xa0\xf0\x9f\x98\x80<>&'\"");
    check("\"\"", TARNI_JSON_SPACED, "\"\"");
}

CASE(order_and_spaces)
{
    static const char json[] = "{\"b\":[1,{\"z\":null,\"y\":true}],\"a\":{},\"B\":[],\"ab\":false,"
                               "\"\\u00e9\":1,\"\\ud83d\\ude00\":2,\"\\uff5e\":3}";
    check(json, TARNI_JSON_SPACED,
          "{\"b\": [1, {\"z\": null, \"y\": true}], \"a\": {}, \"B\": [], \"ab\": false, "
          "\"\xc3\xa9\": 1, \"\xf0\x9f\x98\x80\": 2, \"\xef\xbd\x9e\": 3}");
    check(json, TARNI_JSON_COMPACT_SORTED,
          "{\"B\":[],\"a\":{},\"ab\":false,\"b\":[1,{\"y\":true,\"z\":null}],"
          "\"\xc3\xa9\":1,\"\xef\xbd\x9e\":3,\"\xf0\x9f\x98\x80\":2}");
}

CASE(refused_and_never_quoted)
{
    static const char *const bad[][2] = {
        {"", "not valid JSON"},
        {"{\"secret\"", "not valid JSON"},
        {"[1,]", "not valid JSON"},
        {"[1] secret", "not valid JSON"},
        {"9223372036854775808", "beyond 64 bits"},
        {"-9223372036854775809", "beyond 64 bits"},
        {"1e400", "beyond 64 bits"},
        {"{\"secret\":1,\"secret\":2}", "given twice"},
        {"\"secret\xc3\"", "UTF-8"},
        {"\"secret\\ud800\"", "not valid JSON"},
        {"{\"se\\u0000cret\":1}", "NUL"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(written(bad[i][0], TARNI_JSON_SPACED) == NULL);
        CHECK_STATUS(error.status, TARN_E_INVALID);
        CHECK_HAS(error.detail, bad[i][1]);
        CHECK_HAS(error.detail, "text: ");
        CHECK(strstr(error.detail, "secret") == NULL);
    }
    char deep[5001];
    memset(deep, '[', 5000);
    deep[5000] = '\0';
    CHECK(written(deep, TARNI_JSON_SPACED) == NULL);
    CHECK_HAS(error.detail, "deeply");
}

CASE(out_of_memory)
{
    failing heap = {0};
    long n_calls = 0;
    tarn_allocator a = failing_allocator(&heap);
    json_t *value;
    REQUIRE_OK(tarni_json_parse("text", "{\"a\":[{\"b\":1}]}", 15, &value, &error), &error);
    for (;; n_calls++) {
        tarni_writer w;
        tarni_writer_init(&w, &a);
        heap.calls_left = n_calls;
        tarni_json_write(value, TARNI_JSON_SPACED, &w);
        bool failed = w.failed;
        if (!failed)
            CHECK_EQ(w.n_bytes, 17);
        tarni_writer_fini(&w);
        CHECK_EQ(heap.blocks, 0);
        if (!failed)
            break;
        REQUIRE(n_calls < 20);
    }
    CHECK(n_calls >= 3);
    json_decref(value);
}

CHECK_MAIN(ENTRY(numbers_as_python_writes_them), ENTRY(reals_read_back),
           ENTRY(the_locale_does_not_show), ENTRY(strings_and_escapes), ENTRY(order_and_spaces),
           ENTRY(refused_and_never_quoted), ENTRY(out_of_memory))
