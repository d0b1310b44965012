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
}

CHECK_MAIN(ENTRY(round_trip_and_counted_size), ENTRY(reading_past_the_end_fails_for_good),
           ENTRY(big_endian_keys_sort_by_value))
