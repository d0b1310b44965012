/* Ids of a text in pieces against those of the whole: every vector of the tokenizer cut at every
 * byte and at random, and texts of one character of each class the cutting pattern knows. */
#include "encoder.h"
#include "pretokenize.h"
#include "vectors.h"

static tarni_tokenizer *open_folder(const char *dir)
{
    tarni_tokenizer *t = NULL;
    if (tarni_tokenizer_open(dir, 0, &tarni_heap, &t, &error) != TARN_OK)
        CHECK_FAIL("%s: %s", dir, error.detail);
    return t;
}

static bool equal(const tarni_ids *a, const tarni_ids *b)
{
    return a->n_ids == b->n_ids &&
           (a->n_ids == 0 || memcmp(a->ids, b->ids, a->n_ids * sizeof *a->ids) == 0);
}

/* Encodes in pieces of the lengths that `next` gives, and compares; false if the ids differ. */
typedef size_t (*next_fn)(uint64_t *state, size_t left);

static bool same_in_pieces(tarni_encoder *e, const char *text, size_t n_bytes,
                           const tarni_ids *whole, next_fn next, uint64_t state)
{
    tarni_ids ids;
    tarni_ids_init(&ids, &tarni_heap);
    for (size_t at = 0; at < n_bytes;) {
        size_t n = next(&state, n_bytes - at);
        if (next_random(&state) % 4 == 0) { /* a call taken back */
            size_t n_ids = ids.n_ids;
            CHECK_STATUS(tarni_encoder_feed(e, text + at, n, &ids, &error), TARN_OK);
            tarni_encoder_undo(e);
            ids.n_ids = n_ids;
        }
        CHECK_STATUS(tarni_encoder_feed(e, text + at, n, &ids, &error), TARN_OK);
        at += n;
        /* what is held back is bounded by the runs that are cut */
        CHECK(tarni_encoder_held(e) <= 3 * TARNI_RUN_CHARS + n);
        if (ids.n_ids > whole->n_ids)
            break;
    }
    CHECK_STATUS(tarni_encoder_end(e, &ids, &error), TARN_OK);
    CHECK_EQ(tarni_encoder_held(e), 0);
    bool same = equal(&ids, whole);
    tarni_ids_fini(&ids);
    return same;
}

static size_t next_byte(uint64_t *state, size_t left)
{
    (void)state;
    (void)left;
    return 1;
}

static size_t next_few(uint64_t *state, size_t left)
{
    size_t n = 1 + next_random(state) % 9;
    return n < left ? n : left;
}

static size_t next_many(uint64_t *state, size_t left)
{
    size_t n = 1 + next_random(state) % 5000;
    return n < left ? n : left;
}

/* The first piece has `state` bytes, the second the rest. */
static size_t next_at(uint64_t *state, size_t left)
{
    size_t n = *state > 0 && *state < left ? (size_t)*state : left;
    *state = UINT64_MAX; /* the rest, whatever else draws from it */
    return n;
}

static void check_text(const tarni_tokenizer *t, tarni_encoder *e, const char *text, size_t n_bytes,
                       const char *what)
{
    tarni_ids whole;
    tarni_ids_init(&whole, &tarni_heap);
    CHECK_STATUS(tarni_tokenizer_encode(t, text, n_bytes, false, &whole, &error), TARN_OK);
    if (n_bytes <= 400) {
        for (uint64_t cut = 0; cut < n_bytes; cut++)
            if (!same_in_pieces(e, text, n_bytes, &whole, next_at, cut))
                CHECK_FAIL("%s: cut at byte %u", what, (unsigned)cut);
        if (!same_in_pieces(e, text, n_bytes, &whole, next_byte, 0))
            CHECK_FAIL("%s: byte by byte", what);
    }
    for (uint64_t seed = 1; seed <= 4; seed++)
        if (n_bytes < 4000 && !same_in_pieces(e, text, n_bytes, &whole, next_few, seed))
            CHECK_FAIL("%s: in small pieces, seed %u", what, (unsigned)seed);
    if (!same_in_pieces(e, text, n_bytes, &whole, next_many, n_bytes))
        CHECK_FAIL("%s: in large pieces", what);
    tarni_ids_fini(&whole);
}

static void check_vectors(const char *dir)
{
    tarni_tokenizer *t = open_folder(dir);
    tarni_encoder e;
    json_t *lines = read_lines(dir, "vectors.jsonl");
    if (t) {
        tarni_encoder_init(&e, t, &tarni_heap);
        for (size_t i = 0; i < json_array_size(lines); i++) {
            char what[64];
            tarni_writer text = text_of(json_array_get(lines, i));
            snprintf(what, sizeof what, "vector %zu", i);
            check_text(t, &e, (const char *)text.data, text.n_bytes, what);
            tarni_writer_fini(&text);
        }
        tarni_encoder_fini(&e);
    }
    CHECK_EQ(json_array_size(lines), 1605);
    json_decref(lines);
    tarni_tokenizer_free(t);
}

CASE(every_vector_cut_everywhere)
{
    check_vectors(SMALL_VOCABULARY);
}

CASE(every_vector_of_the_large_vocabulary)
{
    if (!LARGE_VOCABULARY)
        SKIP(WITHOUT_LARGE);
    check_vectors(LARGE_VOCABULARY);
}

/* The places where more text changes ids already computed. */
CASE(hazards)
{
    tarni_tokenizer *t = open_folder(SMALL_VOCABULARY);
    tarni_encoder e;
    json_t *lines = read_lines(SMALL_VOCABULARY, "stream-hazards.jsonl");
    REQUIRE(t != NULL);
    tarni_encoder_init(&e, t, &tarni_heap);
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *h = json_array_get(lines, i);
        tarni_writer text;
        tarni_writer_init(&text, &tarni_heap);
        const json_t *prefix = json_object_get(h, "prefix"), *more = json_object_get(h, "more");
        tarni_put_bytes(&text, json_string_value(prefix), json_string_length(prefix));
        tarni_put_bytes(&text, json_string_value(more), json_string_length(more));
        check_text(t, &e, (const char *)text.data, text.n_bytes,
                   json_string_value(json_object_get(h, "name")));
        tarni_writer_fini(&text);
    }
    json_decref(lines);
    tarni_encoder_fini(&e);
    tarni_tokenizer_free(t);
}

/* One character of each class of the pattern. */
static const char *const letters[] = {"\xe6\xbc\xa3",
                                      "\xe3\x80\x87",
                                      "\xe3\x80\x85",
                                      "A",
                                      "S",
                                      "a",
                                      "s",
                                      "r",
                                      "e",
                                      "l",
                                      "\xe3\x81\x82",
                                      "\xcc\x81",
                                      "1",
                                      " ",
                                      "\t",
                                      "\n",
                                      "\x1c",
                                      "'",
                                      ".",
                                      "V"};
enum { N_LETTERS = sizeof letters / sizeof letters[0] };

static void check_letters(const tarni_tokenizer *t, tarni_encoder *e, const size_t *chosen,
                          size_t n)
{
    char text[64];
    size_t n_bytes = 0;
    tarni_ids whole;
    for (size_t i = 0; i < n; i++) {
        size_t width = strlen(letters[chosen[i]]);
        memcpy(text + n_bytes, letters[chosen[i]], width);
        n_bytes += width;
    }
    tarni_ids_init(&whole, &tarni_heap);
    CHECK_STATUS(tarni_tokenizer_encode(t, text, n_bytes, false, &whole, &error), TARN_OK);
    if (!same_in_pieces(e, text, n_bytes, &whole, next_byte, 0))
        CHECK_FAIL("byte by byte: %.*s", (int)n_bytes, text);
    tarni_ids_fini(&whole);
}

/* All texts of four such characters, and many longer ones. */
CASE(every_class_beside_every_other)
{
    tarni_tokenizer *t = open_folder(SMALL_VOCABULARY);
    tarni_encoder e;
    uint64_t random = 5;
    size_t chosen[14];
    REQUIRE(t != NULL);
    tarni_encoder_init(&e, t, &tarni_heap);
    for (size_t all = 0; all < (size_t)N_LETTERS * N_LETTERS * N_LETTERS * N_LETTERS; all++) {
        size_t rest = all;
        for (size_t i = 0; i < 4; i++, rest /= N_LETTERS)
            chosen[i] = rest % N_LETTERS;
        check_letters(t, &e, chosen, 4);
    }
    for (size_t i = 0; i < 60000; i++) {
        size_t n = 5 + next_random(&random) % 9, kinds = 2 + next_random(&random) % (N_LETTERS - 2);
        size_t first = next_random(&random) % N_LETTERS; /* few kinds: long runs, near misses */
        for (size_t k = 0; k < n; k++)
            chosen[k] = (first + next_random(&random) % kinds) % N_LETTERS;
        check_letters(t, &e, chosen, n);
    }
    tarni_encoder_fini(&e);
    tarni_tokenizer_free(t);
}

/* Most of a text has its ids before its end is known. */
CASE(little_is_held_back)
{
    static const char text[] = "The build failed: 3 tests of 120 did not pass.\nSee the log for mo";
    tarni_tokenizer *t = open_folder(SMALL_VOCABULARY);
    tarni_encoder e;
    tarni_ids ids;
    REQUIRE(t != NULL);
    tarni_ids_init(&ids, &tarni_heap);
    tarni_encoder_init(&e, t, &tarni_heap);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        CHECK_STATUS(tarni_encoder_feed(&e, text + i, 1, &ids, &error), TARN_OK);
        CHECK(tarni_encoder_held(&e) <= 8); /* a word and its space */
    }
    size_t n_before = ids.n_ids;
    CHECK_STATUS(tarni_encoder_end(&e, &ids, &error), TARN_OK);
    CHECK(n_before > 20 && ids.n_ids - n_before <= 3);
    tarni_encoder_fini(&e);
    tarni_ids_fini(&ids);
    tarni_tokenizer_free(t);
}

/* A long run byte by byte: looked at again only when it has grown. */
CASE(a_long_run_in_single_bytes)
{
    enum { N = 60000 };
    tarni_tokenizer *t = open_folder(SMALL_VOCABULARY);
    tarni_encoder e;
    tarni_ids whole;
    char *text = malloc(N);
    static const char runs[] = {'a', ' ', '.', 'A'};
    REQUIRE(t != NULL && text != NULL);
    tarni_encoder_init(&e, t, &tarni_heap);
    for (size_t i = 0; i < sizeof runs; i++) {
        memset(text, runs[i], N);
        tarni_ids_init(&whole, &tarni_heap);
        CHECK_STATUS(tarni_tokenizer_encode(t, text, N, false, &whole, &error), TARN_OK);
        CHECK(same_in_pieces(&e, text, N, &whole, next_byte, 0));
        tarni_ids_fini(&whole);
    }
    free(text);
    tarni_encoder_fini(&e);
    tarni_tokenizer_free(t);
}

/* Whatever fails, the call has taken nothing and can be made again. */
CASE(out_of_memory_takes_nothing)
{
    static const char text[] = "Hello \xe6\xbc\xa3\xe6\xbc\xaa unquestionably \xff aaaaaaaaaaaaaaaa"
                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa b";
    tarni_tokenizer *t = open_folder(SMALL_VOCABULARY);
    failing heap = {0};
    tarn_allocator a = failing_allocator(&heap);
    tarni_ids whole, ids;
    tarni_encoder e;
    size_t n_failed = 0;
    REQUIRE(t != NULL);
    tarni_ids_init(&whole, &tarni_heap);
    CHECK_STATUS(tarni_tokenizer_encode(t, text, sizeof text - 1, false, &whole, &error), TARN_OK);
    for (size_t piece = 1; piece < sizeof text; piece += 7) {
        tarni_ids_init(&ids, &a);
        heap.calls_left = LONG_MAX;
        tarni_encoder_init(&e, t, &a);
        for (size_t at = 0; at < sizeof text; at += piece) {
            size_t left = sizeof text - 1 - at, n = piece < left ? piece : left;
            tarn_status status = TARN_E_NO_MEMORY;
            for (long calls = 0; status == TARN_E_NO_MEMORY && calls < 100; calls++) {
                size_t n_ids = ids.n_ids, n_held = tarni_encoder_held(&e);
                heap.calls_left = calls;
                status = at + n == sizeof text - 1 && n == 0
                             ? tarni_encoder_end(&e, &ids, &error)
                             : tarni_encoder_feed(&e, text + at, n, &ids, &error);
                if (status == TARN_OK)
                    break;
                n_failed++;
                CHECK_EQ(ids.n_ids, n_ids);
                CHECK_EQ(tarni_encoder_held(&e), n_held);
            }
            CHECK_STATUS(status, TARN_OK);
        }
        heap.calls_left = LONG_MAX;
        CHECK_STATUS(tarni_encoder_end(&e, &ids, &error), TARN_OK);
        CHECK(equal(&ids, &whole));
        tarni_encoder_fini(&e);
        tarni_ids_fini(&ids);
        CHECK_EQ(heap.blocks, 0);
    }
    CHECK(n_failed > 20);
    tarni_ids_fini(&whole);
    tarni_tokenizer_free(t);
}

CHECK_MAIN(ENTRY(every_vector_cut_everywhere), ENTRY(every_vector_of_the_large_vocabulary),
           ENTRY(hazards), ENTRY(every_class_beside_every_other), ENTRY(little_is_held_back),
           ENTRY(a_long_run_in_single_bytes), ENTRY(out_of_memory_takes_nothing))
