/* Special names: reading them, and finding them in texts. */
#include "specials.h"
#include "vectors.h"

static tarni_specials specials;

static tarn_status open_text(const char *text, uint32_t first_id, uint32_t n_found)
{
    scratch dir;
    CHECK(scratch_make(&dir));
    scratch_write(&dir, "file", text, strlen(text));
    tarn_status status = tarni_specials_open(&specials, scratch_path(&dir, "file"), first_id,
                                             n_found, &tarni_heap, &error);
    scratch_remove(&dir);
    return status;
}

/* The id found in a text, and the part of the text before it. */
static uint32_t find(const char *text, size_t *at, size_t *n_bytes)
{
    *at = *n_bytes = 0;
    return tarni_specials_find(&specials, (const uint8_t *)text, strlen(text), at, n_bytes);
}

CASE(names_are_given_or_reserved)
{
    REQUIRE_OK(open_text("{\"added_tokens_decoder\":{\"1001\":{\"content\":\"<end>\"}},"
                         "\"model_max_length\":1000000000000000019884624838656}",
                         1000, 256),
               &error);
    CHECK_TEXT(specials.names[0].text, "<|reserved_token_1000|>");
    CHECK(!specials.names[0].given);
    CHECK_TEXT(specials.names[1].text, "<end>");
    CHECK(specials.names[1].given && specials.names[1].n_bytes == 5);
    CHECK_TEXT(specials.names[257].text, "<|reserved_token_1257|>");
    tarni_specials_fini(&specials, &tarni_heap);
    REQUIRE_OK(open_text("{\"added_tokens_decoder\":{}}", 4194304, 258), &error);
    CHECK_TEXT(specials.names[257].text, "<|reserved_token_4194561|>");
    tarni_specials_fini(&specials, &tarni_heap);
}

CASE(leftmost_then_longest)
{
    size_t at, n_bytes;
    REQUIRE_OK(open_text("{\"added_tokens_decoder\":{\"10\":{\"content\":\"ab\"},"
                         "\"11\":{\"content\":\"abcd\"},\"12\":{\"content\":\"bc\"},"
                         "\"13\":{\"content\":\"\\u4e2d\"}}}",
                         10, 256),
               &error);
    CHECK_EQ(find("xxabcx", &at, &n_bytes), 10);
    CHECK(at == 2 && n_bytes == 2);
    CHECK_EQ(find("abcd", &at, &n_bytes), 11);
    CHECK(at == 0 && n_bytes == 4);
    CHECK_EQ(find("abc", &at, &n_bytes), 10);
    CHECK_EQ(find("aabc", &at, &n_bytes), 10);
    CHECK_EQ(at, 1);
    CHECK_EQ(find("acbc", &at, &n_bytes), 12);
    CHECK_EQ(find("a\xe4\xb8\xad", &at, &n_bytes), 13);
    CHECK_EQ(n_bytes, 3);
    CHECK_EQ(find("\xe4\xb8", &at, &n_bytes), UINT32_MAX);
    CHECK_EQ(find("<|reserved_token_14|", &at, &n_bytes), UINT32_MAX);
    CHECK_EQ(find("<<|<|reserved_token_14|>", &at, &n_bytes), 14);
    CHECK_EQ(at, 3);
    CHECK_EQ(find("", &at, &n_bytes), UINT32_MAX);
    tarni_specials_fini(&specials, &tarni_heap);
}

CASE(slots_without_a_row_are_not_found)
{
    size_t at, n_bytes;
    REQUIRE_OK(open_text("{\"added_tokens_decoder\":{\"12\":{\"content\":\"[C]\"}}}", 10, 2),
               &error);
    CHECK_EQ(find("[C]<|reserved_token_12|>", &at, &n_bytes), UINT32_MAX);
    CHECK_EQ(find("<|reserved_token_11|>", &at, &n_bytes), 11);
    tarni_specials_fini(&specials, &tarni_heap);
    REQUIRE_OK(open_text("{\"added_tokens_decoder\":{}}", 10, 0), &error);
    CHECK_EQ(find("<|reserved_token_10|>", &at, &n_bytes), UINT32_MAX);
    tarni_specials_fini(&specials, &tarni_heap);
}

CASE(bad_files_name_the_field)
{
    static const char *const bad[][2] = {
        {"", "line 1"},
        {"{\"added_tokens_decoder\":", "line 1"},
        {"{\n\"added_tokens_decoder\":{}", "line 2"},
        {"[]", "is not a JSON object"},
        {"{}", "added_tokens_decoder is missing"},
        {"{\"added_tokens_decoder\":[]}", "added_tokens_decoder is no object"},
        {"{\"added_tokens_decoder\":{\"\":{\"content\":\"a\"}}}", "\"\" is no token id"},
        {"{\"added_tokens_decoder\":{\"x\":{\"content\":\"a\"}}}", "\"x\" is no token id"},
        {"{\"added_tokens_decoder\":{\"-1\":{\"content\":\"a\"}}}", "\"-1\" is no token id"},
        {"{\"added_tokens_decoder\":{\"0100\":{\"content\":\"a\"}}}", "is no token id"},
        {"{\"added_tokens_decoder\":{\"4294967396\":{\"content\":\"a\"}}}", "is no token id"},
        {"{\"added_tokens_decoder\":{\"99\":{\"content\":\"a\"}}}", "id 99 is outside"},
        {"{\"added_tokens_decoder\":{\"358\":{\"content\":\"a\"}}}", "slots 100 to 357"},
        {"{\"added_tokens_decoder\":{\"100\":7}}", "added_tokens_decoder.100.content is no string"},
        {"{\"added_tokens_decoder\":{\"100\":{}}}", "added_tokens_decoder.100.content"},
        {"{\"added_tokens_decoder\":{\"100\":{\"content\":7}}}", "is no string"},
        {"{\"added_tokens_decoder\":{\"100\":{\"content\":\"\"}}}", "has 0 bytes"},
        {"{\"added_tokens_decoder\":{\"100\":{\"content\":\"a\\u0000\"}}}", "NUL"},
        {"{\"added_tokens_decoder\":{\"100\":{\"content\":\"a\"},\"100\":{\"content\":\"b\"}}}",
         "duplicate"},
        {"{\"added_tokens_decoder\":{\"100\":{\"content\":\"a\"},\"105\":{\"content\":\"a\"}}}",
         "ids 100 and 105 have the same name"},
        {"{\"added_tokens_decoder\":{\"100\":{\"content\":\"<|reserved_token_101|>\"}}}",
         "ids 100 and 101 have the same name"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(open_text(bad[i][0], 100, 256), TARN_E_FORMAT);
        CHECK_HAS(error.detail, bad[i][1]);
        CHECK_HAS(error.detail, "file: ");
    }
    char text[400];
    snprintf(text, sizeof text, "{\"added_tokens_decoder\":{\"100\":{\"content\":\"%0256d\"}}}", 0);
    CHECK_STATUS(open_text(text, 100, 256), TARN_E_FORMAT);
    CHECK_HAS(error.detail, "has 256 bytes, should be 1 to 255");
}

/* 258 names that share most of their bytes: no text may make the search slow. */
CASE(a_hostile_text_is_linear)
{
    static const char unit[] = "<|reserved_token_";
    size_t n = 20000000, at, n_bytes;
    uint8_t *text = malloc(n);
    for (size_t i = 0; i < n; i++)
        text[i] = (uint8_t)unit[i % (sizeof unit - 1)];
    REQUIRE_OK(open_text("{\"added_tokens_decoder\":{}}", 1000, 256), &error);
    CHECK_EQ(tarni_specials_find(&specials, text, n, &at, &n_bytes), UINT32_MAX);
    memset(text, '<', n);
    CHECK_EQ(tarni_specials_find(&specials, text, n, &at, &n_bytes), UINT32_MAX);
    tarni_specials_fini(&specials, &tarni_heap);
    free(text);
}

CASE(out_of_memory)
{
    failing heap = {0};
    long n_calls = 0;
    tarn_allocator a = failing_allocator(&heap);
    for (; tarni_specials_open(&specials, SMALL_VOCABULARY "/tokenizer_config.json", 2304, 256, &a,
                               &error) != TARN_OK;) {
        CHECK_STATUS(error.status, TARN_E_NO_MEMORY);
        CHECK_EQ(heap.blocks, 0);
        REQUIRE(n_calls < 300);
        heap.calls_left = ++n_calls;
    }
    CHECK_EQ(n_calls, 260); /* the file, 258 names, the tree */
    tarni_specials_fini(&specials, &a);
    CHECK_EQ(heap.blocks, 0);
}

CHECK_MAIN(ENTRY(names_are_given_or_reserved), ENTRY(leftmost_then_longest),
           ENTRY(slots_without_a_row_are_not_found), ENTRY(bad_files_name_the_field),
           ENTRY(a_hostile_text_is_linear), ENTRY(out_of_memory))
