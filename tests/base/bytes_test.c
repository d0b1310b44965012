#include "bytes.h"
#include "check.h"

static void put_record(tarni_writer *w)
{
    tarni_put_u8(w, 1);
    tarni_put_u16(w, 0x0203);
    tarni_put_u32(w, 0x04050607);
    tarni_put_u64(w, 0x08090A0B0C0D0E0FULL);
    tarni_put_f32(w, -0.5f);
    tarni_put_text(w, "tarn", 4);
}

CASE(round_trip_and_counted_size)
{
    tarni_writer w, counter;
    tarni_writer_init(&w, &tarni_heap);
    tarni_writer_init_counting(&counter);
    put_record(&w);
    put_record(&counter);
    REQUIRE(!w.failed);
    CHECK_EQ(w.n_bytes, counter.n_bytes);
    CHECK_EQ(w.data[1], 3); /* little end first */
    tarni_reader r;
    tarni_reader_init(&r, w.data, w.n_bytes);
    CHECK_EQ(tarni_get_u8(&r), 1);
    CHECK_EQ(tarni_get_u16(&r), 0x0203);
    CHECK_EQ(tarni_get_u32(&r), 0x04050607);
    CHECK(tarni_get_u64(&r) == 0x08090A0B0C0D0E0FULL);
    CHECK(tarni_get_f32(&r) == -0.5f);
    const char *text;
    size_t n;
    tarni_get_text(&r, &text, &n);
    CHECK(n == 4 && memcmp(text, "tarn", 4) == 0);
    CHECK(!r.failed && tarni_reader_left(&r) == 0);
    tarni_writer_fini(&w);
}

CASE(reading_past_the_end_fails_for_good)
{
    uint8_t data[6] = {0xF0, 0xFF, 0xFF, 0xFF, 1, 2};
    tarni_reader r;
    const char *text;
    size_t n;
    tarni_reader_init(&r, data, sizeof data);
    tarni_get_text(&r, &text, &n); /* claims 4 GiB */
    CHECK(r.failed && n == 0);
    CHECK_EQ(tarni_get_u8(&r), 0);
    CHECK_EQ(tarni_reader_left(&r), 0);
}

CASE(big_endian_keys_sort_by_value)
{
    uint8_t a[8], b[8];
    tarni_store_u64_be(a, 255);
    tarni_store_u64_be(b, 256);
    CHECK(memcmp(a, b, 8) < 0);
    CHECK(tarni_load_u64_be(b) == 256);
    tarni_store_u32_be(a, 0x00FFFFFF);
    tarni_store_u32_be(b, 0x81000000);
    CHECK(memcmp(a, b, 4) < 0);
    CHECK(tarni_load_u32_be(b) == 0x81000000);
}

static int grows_left;

static void *no_alloc(void *user, size_t n)
{
    (void)user, (void)n;
    return NULL;
}

static void *failing_resize(void *user, void *memory, size_t n)
{
    (void)user;
    return grows_left-- > 0 ? realloc(memory, n) : NULL;
}

static void plain_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

/* What was written before the failure stays as it was, and nothing is added after it. */
CASE(a_writer_without_memory_fails_for_good)
{
    tarn_allocator a = {no_alloc, failing_resize, plain_release, NULL};
    tarni_writer w;
    tarni_writer_init(&w, &a);
    grows_left = 1;
    tarni_put_u64(&w, 1);
    CHECK(!w.failed);
    uint8_t large[1000] = {0};
    tarni_put_bytes(&w, large, sizeof large);
    CHECK(w.failed);
    grows_left = 9;
    tarni_put_u8(&w, 1);
    CHECK(w.failed);
    CHECK_EQ(w.n_bytes, 8);
    tarni_writer_fini(&w);
    CHECK(w.data == NULL);
}

CASE(a_counted_size_does_not_wrap)
{
    tarni_writer w;
    tarni_writer_init_counting(&w);
    tarni_put_bytes(&w, "", SIZE_MAX);
    CHECK(!w.failed);
    tarni_put_u8(&w, 0);
    CHECK(w.failed);
    tarni_writer_fini(&w);
}

CASE(bytes_are_borrowed_up_to_the_end)
{
    uint8_t data[4] = {1, 2, 3, 4};
    tarni_reader r;
    tarni_reader_init(&r, data, sizeof data);
    CHECK(tarni_get_bytes(&r, 3) == data);
    CHECK(tarni_get_bytes(&r, 0) == data + 3);
    CHECK(tarni_get_bytes(&r, SIZE_MAX) == NULL);
    CHECK(r.failed);
    CHECK(tarni_get_bytes(&r, 0) == NULL);
    CHECK(tarni_get_u64(&r) == 0 && tarni_get_f32(&r) == 0.0f);
}

CHECK_MAIN(ENTRY(a_writer_without_memory_fails_for_good), ENTRY(a_counted_size_does_not_wrap),
           ENTRY(bytes_are_borrowed_up_to_the_end), ENTRY(round_trip_and_counted_size),
           ENTRY(reading_past_the_end_fails_for_good), ENTRY(big_endian_keys_sort_by_value))
