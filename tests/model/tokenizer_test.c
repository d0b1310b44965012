/* The tokenizer against the reference's ids, for a small vocabulary that is sensitive to every cut
 * and, where it is at hand, for the published one. */
#include "vectors.h"

#include <pthread.h>
#include <sodium.h>

static tarni_tokenizer *open_folder(const char *dir)
{
    tarni_tokenizer *t = NULL;
    tarn_status status = tarni_tokenizer_open(dir, 0, &tarni_heap, &t, &error);
    if (status != TARN_OK)
        CHECK_FAIL("%s: %s", dir, error.detail);
    return t;
}

static bool same_hash(const tarni_ids *ids, const json_t *v)
{
    uint8_t *bytes = malloc(4 * ids->n_ids + 1), hash[crypto_hash_sha256_BYTES];
    char hex[2 * sizeof hash + 1];
    for (size_t i = 0; i < ids->n_ids; i++)
        tarni_store_u32(bytes + 4 * i, ids->ids[i]);
    crypto_hash_sha256(hash, bytes, 4 * ids->n_ids);
    free(bytes);
    sodium_bin2hex(hex, sizeof hex, hash, sizeof hash);
    return json_integer_value(json_object_get(v, "count")) == (json_int_t)ids->n_ids &&
           strcmp(hex, json_string_value(json_object_get(v, "sha256"))) == 0;
}

static void check_vector(const tarni_tokenizer *t, const json_t *v)
{
    tarni_writer text = text_of(v), back;
    tarni_ids ids;
    tarni_ids_init(&ids, &tarni_heap);
    tarni_writer_init(&back, &tarni_heap);
    bool specials = strcmp(json_string_value(json_object_get(v, "mode")), "with_specials") == 0;
    int n = (int)json_integer_value(json_object_get(v, "n"));
    CHECK_STATUS(
        tarni_tokenizer_encode(t, (const char *)text.data, text.n_bytes, specials, &ids, &error),
        TARN_OK);
    const json_t *want = json_object_get(v, "ids");
    if (json_object_get(v, "invalid"))
        want = json_object_get(v, "lossy_ids");
    if (json_object_get(v, "past_rows")) /* a name whose slot has no row stays text */
        want = json_object_get(v, "plain_ids");
    if (want ? !same_ids(&ids, want) : !same_hash(&ids, v))
        CHECK_FAIL("vector %d (%s): other ids", n, json_string_value(json_object_get(v, "tag")));
    CHECK_STATUS(tarni_tokenizer_decode(t, ids.ids, ids.n_ids, &back, &error), TARN_OK);
    if (!json_object_get(v, "invalid") &&
        (back.n_bytes != text.n_bytes || (text.data && memcmp(back.data, text.data, back.n_bytes))))
        CHECK_FAIL("vector %d: decoding does not give the text back", n);
    tarni_writer_fini(&back);
    tarni_ids_fini(&ids);
    tarni_writer_fini(&text);
}

static void check_vectors(const char *dir)
{
    tarni_tokenizer *t = open_folder(dir);
    json_t *lines = read_lines(dir, "vectors.jsonl");
    for (size_t i = 0; t && i < json_array_size(lines); i++)
        check_vector(t, json_array_get(lines, i));
    CHECK_EQ(json_array_size(lines), 1605);
    json_decref(lines);
    tarni_tokenizer_free(t);
}

/* The streamed text of the ids, in `out`. */
static void stream(const tarni_tokenizer *t, const tarni_ids *ids, tarni_writer *out)
{
    tarni_text_stream s = {0};
    for (size_t i = 0; i < ids->n_ids; i++) {
        CHECK_STATUS(tarni_text_stream_feed(&s, t, ids->ids[i], out, &error), TARN_OK);
        CHECK(s.n_held <= 3);
    }
    tarni_text_stream_flush(&s, out);
    CHECK_EQ(s.n_held, 0);
}

static void check_decode(const char *dir)
{
    tarni_tokenizer *t = open_folder(dir);
    json_t *lines = read_lines(dir, "decode.jsonl");
    for (size_t i = 0; t && i < json_array_size(lines); i++) {
        const json_t *d = json_array_get(lines, i), *list = json_object_get(d, "ids");
        const json_t *text = json_object_get(d, "text");
        tarni_ids ids;
        tarni_writer bytes, streamed;
        tarni_ids_init(&ids, &tarni_heap);
        tarni_writer_init(&bytes, &tarni_heap);
        tarni_writer_init(&streamed, &tarni_heap);
        bool fits = true;
        for (size_t j = 0; j < json_array_size(list); j++) {
            json_int_t id = json_integer_value(json_array_get(list, j));
            fits = fits && id >= 0 && id <= UINT32_MAX;
            REQUIRE(tarni_ids_push(&ids, (uint32_t)id, &error) == TARN_OK);
        }
        if (json_object_get(d, "error")) {
            if (fits)
                CHECK_STATUS(tarni_tokenizer_decode(t, ids.ids, ids.n_ids, &bytes, &error),
                             TARN_E_INVALID);
            CHECK_EQ(bytes.n_bytes, 0);
        } else {
            tarni_writer want = base64_bytes(json_object_get(d, "base64"));
            CHECK_STATUS(tarni_tokenizer_decode(t, ids.ids, ids.n_ids, &bytes, &error), TARN_OK);
            CHECK_EQ(bytes.n_bytes, want.n_bytes);
            if (want.n_bytes > 0 && bytes.n_bytes == want.n_bytes)
                CHECK_BYTES(bytes.data, want.data, want.n_bytes);
            stream(t, &ids, &streamed);
            CHECK_EQ(streamed.n_bytes, json_string_length(text));
            if (streamed.n_bytes > 0 && streamed.n_bytes == json_string_length(text))
                CHECK_BYTES(streamed.data, json_string_value(text), streamed.n_bytes);
            tarni_writer_fini(&want);
        }
        tarni_writer_fini(&streamed);
        tarni_writer_fini(&bytes);
        tarni_ids_fini(&ids);
    }
    json_decref(lines);
    tarni_tokenizer_free(t);
}

static void check_hazards(const char *dir)
{
    tarni_tokenizer *t = open_folder(dir);
    json_t *lines = read_lines(dir, "stream-hazards.jsonl");
    size_t n_checked = 0;
    for (size_t i = 0; t && i < json_array_size(lines); i++) {
        const json_t *h = json_array_get(lines, i), *prefix = json_object_get(h, "prefix");
        bool specials = json_is_true(json_object_get(h, "specials"));
        tarni_ids first, whole;
        char text[512];
        if (!prefix)
            continue;
        tarni_ids_init(&first, &tarni_heap);
        tarni_ids_init(&whole, &tarni_heap);
        snprintf(text, sizeof text, "%s%s", json_string_value(prefix),
                 json_string_value(json_object_get(h, "more")));
        CHECK_STATUS(
            tarni_tokenizer_encode(t, text, json_string_length(prefix), specials, &first, &error),
            TARN_OK);
        CHECK_STATUS(tarni_tokenizer_encode(t, text, strlen(text), specials, &whole, &error),
                     TARN_OK);
        CHECK(same_ids(&first, json_object_get(h, "ids_prefix")));
        CHECK(same_ids(&whole, json_object_get(h, "ids_whole")));
        tarni_ids_fini(&first);
        tarni_ids_fini(&whole);
        n_checked++;
    }
    CHECK(n_checked >= 12);
    json_decref(lines);
    tarni_tokenizer_free(t);
}

CASE(small_vectors)
{
    check_vectors(SMALL_VOCABULARY);
}

CASE(small_decode)
{
    check_decode(SMALL_VOCABULARY);
}

CASE(small_hazards)
{
    check_hazards(SMALL_VOCABULARY);
}

CASE(large_vectors)
{
    if (!LARGE_VOCABULARY)
        SKIP(WITHOUT_LARGE);
    check_vectors(LARGE_VOCABULARY);
}

CASE(large_decode)
{
    if (!LARGE_VOCABULARY)
        SKIP(WITHOUT_LARGE);
    check_decode(LARGE_VOCABULARY);
}

CASE(large_hazards)
{
    if (!LARGE_VOCABULARY)
        SKIP(WITHOUT_LARGE);
    check_hazards(LARGE_VOCABULARY);
}

CASE(special_ids_and_rows)
{
    tarni_tokenizer *t = open_folder(SMALL_VOCABULARY);
    uint32_t id = 0;
    REQUIRE(t != NULL);
    CHECK_EQ(tarni_tokenizer_rows(t), 2560);
    CHECK(tarni_tokenizer_special(t, "<|im_end|>", &id) && id == 2306);
    CHECK(tarni_tokenizer_special(t, "<|reserved_token_2309|>", &id) && id == 2309);
    CHECK(!tarni_tokenizer_special(t, "<|reserved_token_2560|>", &id));
    CHECK(!tarni_tokenizer_special(t, "<|im_end|", &id));
    CHECK(!tarni_tokenizer_special(t, "x<|im_end|>", &id));
    CHECK(!tarni_tokenizer_special(t, "<|im_end|>x", &id));
    CHECK(!tarni_tokenizer_special(t, "", &id));
    CHECK_EQ(id, 2309);
    CHECK(!tarni_tokenizer_is_special(t, 2303) && tarni_tokenizer_is_special(t, 2304));
    CHECK(tarni_tokenizer_is_special(t, 2559) && !tarni_tokenizer_is_special(t, 2560));
    tarni_tokenizer_free(t);
}

/* Fewer rows: special strings behind them are text. More: the table ends at the last slot. */
CASE(rows_follow_the_model)
{
    tarni_tokenizer *t;
    tarni_ids ids;
    uint32_t id;
    tarni_ids_init(&ids, &tarni_heap);
    REQUIRE_OK(tarni_tokenizer_open(SMALL_VOCABULARY, 2305, &tarni_heap, &t, &error), &error);
    CHECK(tarni_tokenizer_special(t, "[BOS]", &id) && !tarni_tokenizer_special(t, "[EOS]", &id));
    CHECK_STATUS(tarni_tokenizer_encode(t, "[BOS][EOS]", 10, true, &ids, &error), TARN_OK);
    CHECK(ids.n_ids > 2 && ids.ids[0] == 2304);
    for (size_t i = 1; i < ids.n_ids; i++)
        CHECK(ids.ids[i] < 2304);
    tarni_tokenizer_free(t);
    REQUIRE_OK(tarni_tokenizer_open(SMALL_VOCABULARY, 4096, &tarni_heap, &t, &error), &error);
    CHECK_EQ(tarni_tokenizer_rows(t), 2562);
    CHECK(tarni_tokenizer_special(t, "<|reserved_token_2561|>", &id) && id == 2561);
    tarni_tokenizer_free(t);
    CHECK_STATUS(tarni_tokenizer_open(SMALL_VOCABULARY, 2303, &tarni_heap, &t, &error),
                 TARN_E_FORMAT);
    CHECK_HAS(error.detail, "2304");
    CHECK_HAS(error.detail, "2303");
    CHECK(t == NULL);
    tarni_ids_fini(&ids);
}

CASE(missing_folder_or_file)
{
    scratch dir;
    size_t n_bytes = 0;
    tarni_tokenizer *t;
    CHECK_STATUS(tarni_tokenizer_open("/nonexistent", 0, &tarni_heap, &t, &error),
                 TARN_E_NOT_FOUND);
    CHECK_HAS(error.detail, "tiktoken.model");
    REQUIRE(scratch_make(&dir));
    char *ranks = scratch_read(SMALL_VOCABULARY "/tiktoken.model", &n_bytes);
    scratch_write(&dir, "tiktoken.model", ranks, n_bytes);
    CHECK_STATUS(tarni_tokenizer_open(dir.dir, 0, &tarni_heap, &t, &error), TARN_E_NOT_FOUND);
    CHECK_HAS(error.detail, "tokenizer_config.json");
    CHECK(t == NULL);
    free(ranks);
    scratch_remove(&dir);
    tarni_tokenizer_free(NULL);
}

CASE(errors_leave_the_output_alone)
{
    tarni_tokenizer *t = open_folder(SMALL_VOCABULARY);
    tarni_writer w;
    REQUIRE(t != NULL);
    tarni_writer_init(&w, &tarni_heap);
    tarni_put_bytes(&w, "kept", 4);
    CHECK_STATUS(tarni_tokenizer_decode(t, (uint32_t[]){97, 2560}, 2, &w, &error), TARN_E_INVALID);
    CHECK_HAS(error.detail, "2560");
    CHECK_EQ(w.n_bytes, 4);
    tarni_text_stream s = {0};
    CHECK_STATUS(tarni_text_stream_feed(&s, t, 240, &w, &error), TARN_OK);
    CHECK_STATUS(tarni_text_stream_feed(&s, t, 9999, &w, &error), TARN_E_INVALID);
    CHECK_EQ(s.n_held, 1);
    CHECK_EQ(w.n_bytes, 4);
    tarni_writer_fini(&w);
    tarni_tokenizer_free(t);
}

/* Every id of the vocabulary, one byte sequence after another, cut at every place by the stream. */
CASE(stream_equals_decode_of_any_ids)
{
    tarni_tokenizer *t = open_folder(SMALL_VOCABULARY);
    uint64_t seed = 7;
    REQUIRE(t != NULL);
    for (int round = 0; round < 300; round++) {
        tarni_ids ids, again;
        tarni_writer bytes, streamed, back;
        tarni_ids_init(&ids, &tarni_heap);
        tarni_ids_init(&again, &tarni_heap);
        tarni_writer_init(&bytes, &tarni_heap);
        tarni_writer_init(&streamed, &tarni_heap);
        tarni_writer_init(&back, &tarni_heap);
        for (int i = 0; i < 40; i++) /* bytes of all kinds of leads and continuations */
            REQUIRE(tarni_ids_push(&ids, 128 + next_random(&seed) % 128, &error) == TARN_OK);
        stream(t, &ids, &streamed);
        CHECK_STATUS(tarni_tokenizer_decode(t, ids.ids, ids.n_ids, &bytes, &error), TARN_OK);
        /* Encoding reads broken bytes by the same rule, so its text is what was streamed. */
        CHECK_STATUS(tarni_tokenizer_encode(t, (const char *)bytes.data, bytes.n_bytes, false,
                                            &again, &error),
                     TARN_OK);
        CHECK_STATUS(tarni_tokenizer_decode(t, again.ids, again.n_ids, &back, &error), TARN_OK);
        CHECK(back.n_bytes == streamed.n_bytes &&
              memcmp(back.data, streamed.data, back.n_bytes) == 0);
        tarni_writer_fini(&back);
        tarni_writer_fini(&streamed);
        tarni_writer_fini(&bytes);
        tarni_ids_fini(&again);
        tarni_ids_fini(&ids);
    }
    tarni_tokenizer_free(t);
}

static void digest_of(const char *dir, uint8_t digest[32])
{
    tarni_tokenizer *t = open_folder(dir);
    memset(digest, 0, 32);
    if (t)
        tarni_tokenizer_digest(t, digest);
    tarni_tokenizer_free(t);
}

CASE(digest_sees_ranks_and_names)
{
    scratch dir;
    size_t ranks_bytes = 0, config_bytes = 0;
    uint8_t plain[32], copied[32], changed[32];
    char *ranks = scratch_read(SMALL_VOCABULARY "/tiktoken.model", &ranks_bytes);
    char *config = scratch_read(SMALL_VOCABULARY "/tokenizer_config.json", &config_bytes);
    REQUIRE(scratch_make(&dir));
    scratch_write(&dir, "tiktoken.model", ranks, ranks_bytes);
    scratch_write(&dir, "tokenizer_config.json", config, config_bytes);
    digest_of(SMALL_VOCABULARY, plain);
    digest_of(dir.dir, copied);
    CHECK_BYTES(copied, plain, 32);

    strstr(config, "[PAD]")[1] = 'Q';
    scratch_write(&dir, "tokenizer_config.json", config, config_bytes);
    digest_of(dir.dir, changed);
    CHECK(memcmp(changed, plain, 32) != 0);
    strstr(config, "[QAD]")[1] = 'P';
    scratch_write(&dir, "tokenizer_config.json", config, config_bytes);

    char *last = strstr(ranks, "Ojo9Pg== 2303"); /* "::=>" becomes "::=?" */
    REQUIRE(last != NULL);
    last[5] = 'w';
    scratch_write(&dir, "tiktoken.model", ranks, ranks_bytes);
    digest_of(dir.dir, changed);
    CHECK(memcmp(changed, plain, 32) != 0);
    free(config);
    free(ranks);
    scratch_remove(&dir);
}

static const char out_of_memory_text[] = "Hello \xe6\xbc\xa3\xe6\xbc\xaa <|im_end|> unquestionably "
                                         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \xff";

/* Every allocation of opening and encoding fails once: an error, no leak, nothing appended. */
CASE(out_of_memory_at_every_step)
{
    failing heap = {0};
    long n_calls = 0;
    tarn_allocator a = failing_allocator(&heap);
    tarni_tokenizer *t = NULL;
    for (;; n_calls++) {
        heap.calls_left = n_calls;
        if (tarni_tokenizer_open(SMALL_VOCABULARY, 0, &a, &t, &error) == TARN_OK)
            break;
        CHECK_STATUS(error.status, TARN_E_NO_MEMORY);
        CHECK(t == NULL);
        CHECK_EQ(heap.blocks, 0);
        REQUIRE(n_calls < 2000);
    }
    CHECK(n_calls > 260);
    tarni_ids ids;
    tarni_writer text;
    tarn_status status;
    heap.calls_left = LONG_MAX;
    tarni_ids_init(&ids, &a);
    tarni_writer_init(&text, &a);
    REQUIRE(tarni_ids_push(&ids, 5, &error) == TARN_OK);
    long n_live = heap.blocks;
    n_calls = 0;
    do {
        heap.calls_left = n_calls++;
        status = tarni_tokenizer_encode(t, out_of_memory_text, sizeof out_of_memory_text - 1, true,
                                        &ids, &error);
        heap.calls_left = LONG_MAX;
        CHECK_EQ(heap.blocks, n_live);
        CHECK(status == TARN_OK ? ids.n_ids > 40 : ids.n_ids == 1 && ids.ids[0] == 5);
    } while (status == TARN_E_NO_MEMORY && n_calls < 200);
    CHECK_STATUS(status, TARN_OK);
    CHECK(n_calls > 6);
    heap.calls_left = 0;
    CHECK_STATUS(tarni_tokenizer_decode(t, ids.ids, ids.n_ids, &text, &error), TARN_E_NO_MEMORY);
    CHECK_EQ(text.n_bytes, 0);
    heap.calls_left = LONG_MAX;
    tarni_writer_fini(&text);
    tarni_ids_fini(&ids);
    tarni_tokenizer_free(t);
    CHECK_EQ(heap.blocks, 0);
}

typedef struct sharer {
    const tarni_tokenizer *t;
    const tarni_ids *want;
    bool same;
} sharer;

static void *encode_often(void *arg)
{
    sharer *s = arg;
    s->same = true;
    for (int i = 0; i < 200; i++) {
        tarn_error err;
        tarni_ids ids;
        tarni_ids_init(&ids, &tarni_heap);
        if (tarni_tokenizer_encode(s->t, out_of_memory_text, sizeof out_of_memory_text - 1, true,
                                   &ids, &err) != TARN_OK ||
            ids.n_ids != s->want->n_ids ||
            memcmp(ids.ids, s->want->ids, ids.n_ids * sizeof *ids.ids) != 0)
            s->same = false;
        tarni_ids_fini(&ids);
    }
    return NULL;
}

CASE(threads_share_a_tokenizer)
{
    tarni_tokenizer *t = open_folder(SMALL_VOCABULARY);
    tarni_ids want;
    pthread_t threads[4];
    sharer sharers[4];
    REQUIRE(t != NULL);
    tarni_ids_init(&want, &tarni_heap);
    REQUIRE_OK(tarni_tokenizer_encode(t, out_of_memory_text, sizeof out_of_memory_text - 1, true,
                                      &want, &error),
               &error);
    for (int i = 0; i < 4; i++) {
        sharers[i] = (sharer){.t = t, .want = &want};
        REQUIRE(pthread_create(&threads[i], NULL, encode_often, &sharers[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        CHECK(sharers[i].same);
    }
    tarni_ids_fini(&want);
    tarni_tokenizer_free(t);
}

CHECK_MAIN(ENTRY(small_vectors), ENTRY(small_decode), ENTRY(small_hazards), ENTRY(large_vectors),
           ENTRY(large_decode), ENTRY(large_hazards), ENTRY(special_ids_and_rows),
           ENTRY(rows_follow_the_model), ENTRY(missing_folder_or_file),
           ENTRY(errors_leave_the_output_alone), ENTRY(stream_equals_decode_of_any_ids),
           ENTRY(digest_sees_ranks_and_names), ENTRY(out_of_memory_at_every_step),
           ENTRY(threads_share_a_tokenizer))
