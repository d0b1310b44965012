/* Rank files, good and hostile. */
#include "vocab.h"
#include "vectors.h"

#include <sodium.h>

typedef struct lines {
    char *text;
    size_t n;
} lines;

static void add(lines *l, const void *bytes, size_t n_bytes, const char *rank)
{
    size_t room = sodium_base64_encoded_len(n_bytes, sodium_base64_VARIANT_ORIGINAL) + 32;
    l->text = realloc(l->text, l->n + room);
    sodium_bin2base64(l->text + l->n, room, bytes, n_bytes, sodium_base64_VARIANT_ORIGINAL);
    l->n += strlen(l->text + l->n);
    l->n += (size_t)snprintf(l->text + l->n, 16, " %s\n", rank);
}

/* The 256 single bytes, from byte `first` on, at ranks from 0. */
static lines single_bytes(unsigned first)
{
    lines l = {0};
    for (unsigned i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)(first + i);
        char rank[8];
        snprintf(rank, sizeof rank, "%u", i);
        add(&l, &byte, 1, rank);
    }
    return l;
}

static tarn_status open_text(tarni_vocab *v, const char *text, size_t n)
{
    scratch dir;
    CHECK(scratch_make(&dir));
    scratch_write(&dir, "file", text, n);
    tarn_status status = tarni_vocab_open(v, scratch_path(&dir, "file"), &tarni_heap, &error);
    scratch_remove(&dir);
    return status;
}

CASE(ranks_and_bytes)
{
    lines l = single_bytes(7);
    tarni_vocab v;
    add(&l, "ab", 2, "256");
    add(&l, "\0\xff\x01", 3, "257");
    add(&l, "long token", 10, "258");
    REQUIRE_OK(open_text(&v, l.text, l.n), &error);
    CHECK_EQ(v.n_ranks, 259);
    CHECK_EQ(v.token_bytes_max, 10);
    CHECK_EQ(v.single[7], 0);
    CHECK_EQ(v.single[6], 255);
    CHECK_EQ(tarni_vocab_rank(&v, (const uint8_t *)"ab", 2), 256);
    CHECK_EQ(tarni_vocab_rank(&v, (const uint8_t *)"\0\xff\x01", 3), 257);
    CHECK_EQ(tarni_vocab_rank(&v, (const uint8_t *)"long token", 10), 258);
    CHECK_EQ(tarni_vocab_rank(&v, (const uint8_t *)"long tokens", 11), TARNI_NO_RANK);
    CHECK_EQ(tarni_vocab_rank(&v, (const uint8_t *)"ba", 2), TARNI_NO_RANK);
    for (uint32_t r = 0; r < v.n_ranks; r++)
        CHECK_EQ(tarni_vocab_rank(&v, v.bytes + v.starts[r], v.starts[r + 1] - v.starts[r]), r);
    tarni_vocab_fini(&v, &tarni_heap);
    l.n--; /* the last line may lack its end */
    REQUIRE_OK(open_text(&v, l.text, l.n), &error);
    CHECK_EQ(v.n_ranks, 259);
    tarni_vocab_fini(&v, &tarni_heap);
    free(l.text);
}

CASE(the_published_shape)
{
    tarni_vocab v;
    if (!LARGE_VOCABULARY)
        SKIP(WITHOUT_LARGE);
    char path[1024];
    snprintf(path, sizeof path, "%s/tiktoken.model", LARGE_VOCABULARY);
    REQUIRE_OK(tarni_vocab_open(&v, path, &tarni_heap, &error), &error);
    CHECK_EQ(v.n_ranks, 163584);
    CHECK_EQ(v.token_bytes_max, 256);
    CHECK_EQ(v.single[0], 188);
    CHECK_EQ(v.single['\n'], 198);
    CHECK_EQ(v.single[' '], 220);
    tarni_vocab_fini(&v, &tarni_heap);
}

/* A 257th line of every wrong kind. */
CASE(bad_lines_are_named)
{
    static const char *const bad[][2] = {
        {"YWI= 255\n", "rank \"255\", should be 256"}, /* a rank twice */
        {"YWI= 257\n", "should be 256"},               /* one left out */
        {"YWI= 0256\n", "should be 256"},
        {"YWI= +256\n", "should be 256"},
        {"YWI= 4294967552\n", "should be 256"},
        {"YWI= -1\n", "should be 256"},
        {"YWI= \n", "should be 256"},
        {"YWI= 256 \n", "should be 256"},
        {"YWI= 256\r\n", "should be 256"},
        {"YWI=  256\n", "should be 256"},
        {"YWI=256\n", "is not 'base64 rank'"},
        {"\n", "is not 'base64 rank'"},
        {" 256\n", "does not start with base64"}, /* an empty token */
        {"YWI 256\n", "does not start with base64"},
        {"YWJ= 256\n", "does not start with base64"}, /* bits behind the last byte */
        {"YW=I 256\n", "does not start with base64"},
        {"Y=== 256\n", "does not start with base64"},
        {"==== 256\n", "does not start with base64"},
        {"YWI=YWI= 256\n", "does not start with base64"},
        {"YW-_ 256\n", "does not start with base64"},
        {"YQ== 256\n", "repeats the token of rank 97"},
        {"\xff\xff\xff\xff 256\n", "does not start with base64"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lines l = single_bytes(0);
        tarni_vocab v;
        l.text = realloc(l.text, l.n + 64);
        memcpy(l.text + l.n, bad[i][0], strlen(bad[i][0]) + 1);
        CHECK_STATUS(open_text(&v, l.text, l.n + strlen(bad[i][0])), TARN_E_FORMAT);
        CHECK_HAS(error.detail, "line 257");
        CHECK_HAS(error.detail, "file: ");
        CHECK_HAS(error.detail, bad[i][1]);
        free(l.text);
    }
}

CASE(every_byte_is_needed)
{
    lines l = {0};
    tarni_vocab v;
    for (unsigned i = 0; i < 256; i++) {
        uint8_t bytes[2] = {(uint8_t)i, 0};
        char rank[8];
        snprintf(rank, sizeof rank, "%u", i);
        add(&l, bytes, i == 0xc5 ? 2 : 1, rank);
    }
    CHECK_STATUS(open_text(&v, l.text, l.n), TARN_E_FORMAT);
    CHECK_HAS(error.detail, "0xc5");
    CHECK_STATUS(open_text(&v, "", 0), TARN_E_FORMAT);
    CHECK_HAS(error.detail, "0x00");
    free(l.text);
}

CASE(limits)
{
    size_t n = (size_t)5 << 20;
    char *text = malloc(n);
    tarni_vocab v;
    memset(text, 'A', n);
    CHECK_STATUS(open_text(&v, text, n), TARN_E_FORMAT);
    CHECK_HAS(error.detail, "line 1 is 5242880 bytes, the limit is 1048576");
    memset(text, '\n', n);
    CHECK_STATUS(open_text(&v, text, n), TARN_E_FORMAT);
    CHECK_HAS(error.detail, "has 5242881 lines");
    free(text);
}

CASE(out_of_memory)
{
    failing heap = {0};
    long n_calls = 0;
    tarn_allocator a = failing_allocator(&heap);
    tarni_vocab v;
    for (; tarni_vocab_open(&v, SMALL_VOCABULARY "/tiktoken.model", &a, &error) != TARN_OK;) {
        CHECK_STATUS(error.status, TARN_E_NO_MEMORY);
        CHECK_EQ(heap.blocks, 0);
        REQUIRE(n_calls < 20);
        heap.calls_left = ++n_calls;
    }
    CHECK_EQ(n_calls, 6); /* the file, bytes, starts, slots, filter, pairs */
    tarni_vocab_fini(&v, &a);
    CHECK_EQ(heap.blocks, 0);
}

CHECK_MAIN(ENTRY(ranks_and_bytes), ENTRY(the_published_shape), ENTRY(bad_lines_are_named),
           ENTRY(every_byte_is_needed), ENTRY(limits), ENTRY(out_of_memory))
