#include "chunk.h"

#include "bytes.h"
#include "check.h"

static tarn_error err;

static size_t make(uint8_t *value, tarnp_chunk_ref *ref)
{
    enum { PAYLOAD = 20 };
    tarnp_chunk_head head = {.id = 77,
                             .codec = TARNP_CODEC_RAW,
                             .elem = TARNP_ELEM_U8,
                             .kind = TARNP_SECTION_SAMPLER,
                             .first = 3,
                             .count = 4,
                             .raw_bytes = PAYLOAD,
                             .payload_bytes = PAYLOAD};
    for (int i = 0; i < PAYLOAD; i++)
        value[TARNP_CHUNK_HEAD_BYTES + i] = (uint8_t)(i * 7);
    tarnp_sum128(value + TARNP_CHUNK_HEAD_BYTES, PAYLOAD, head.payload_sum);
    tarnp_chunk_head_put(&head, value);
    *ref = (tarnp_chunk_ref){.id = 77,
                             .kind = TARNP_SECTION_SAMPLER,
                             .elem = TARNP_ELEM_U8,
                             .first = 3,
                             .count = 4,
                             .raw_bytes = PAYLOAD,
                             .stored_bytes = TARNP_CHUNK_HEAD_BYTES + PAYLOAD};
    tarnp_sum128(value, TARNP_CHUNK_HEAD_BYTES, ref->sum);
    return TARNP_CHUNK_HEAD_BYTES + PAYLOAD;
}

CASE(round_trip)
{
    uint8_t value[120];
    tarnp_chunk_ref ref;
    tarnp_chunk_head head;
    size_t n = make(value, &ref);
    CHECK_STATUS(tarnp_chunk_check((tarnp_span){value, n}, &ref, &head, &err), TARN_OK);
    CHECK_EQ(head.id, 77);
    CHECK_EQ(head.first, 3);
    CHECK_EQ(head.count, 4);
    CHECK_EQ(head.payload_bytes, 20);
}

CASE(every_flipped_bit_is_found)
{
    uint8_t value[120];
    tarnp_chunk_ref ref;
    tarnp_chunk_head head;
    size_t n = make(value, &ref);
    for (size_t bit = 0; bit < n * 8; bit++) {
        value[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK_STATUS(tarnp_chunk_check((tarnp_span){value, n}, &ref, &head, &err), TARN_E_CORRUPT);
        if (bit < TARNP_CHUNK_HEAD_BYTES * 8) /* found without a manifest too */
            CHECK_STATUS(tarnp_chunk_head_get(value, &head, &err), TARN_E_CORRUPT);
        value[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

CASE(another_chunk_in_its_place)
{
    uint8_t value[120];
    tarnp_chunk_ref ref;
    tarnp_chunk_head head;
    size_t n = make(value, &ref);
    CHECK_STATUS(tarnp_chunk_check((tarnp_span){NULL, 0}, &ref, &head, &err), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "missing");
    CHECK_STATUS(tarnp_chunk_check((tarnp_span){value, n - 1}, &ref, &head, &err), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "99 bytes stored, should be 100");
    ref.raw_bytes++; /* the sums agree, the fields do not */
    CHECK_STATUS(tarnp_chunk_check((tarnp_span){value, n}, &ref, &head, &err), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "chunk 77");
}

CASE(newer_header)
{
    uint8_t value[120];
    tarnp_chunk_ref ref;
    tarnp_chunk_head head;
    make(value, &ref);
    value[4] = 2;
    tarni_store_u64(value + 72, tarnp_sum64(value, 72, 0));
    CHECK_STATUS(tarnp_chunk_head_get(value, &head, &err), TARN_E_FORMAT);
    CHECK_HAS(err.detail, "version 2");
    for (size_t at = 52; at < 72; at++) { /* a key id or a nonce */
        make(value, &ref);
        value[at] = 1;
        tarni_store_u64(value + 72, tarnp_sum64(value, 72, 0));
        CHECK_STATUS(tarnp_chunk_head_get(value, &head, &err), TARN_E_FORMAT);
    }
}

/* Behind sums that agree, each field alone. */
CASE(every_field_is_compared)
{
    uint8_t value[120];
    tarnp_chunk_ref ref;
    tarnp_chunk_head head;
    for (int field = 0; field < 6; field++) {
        size_t n = make(value, &ref);
        ref.id += field == 0;
        ref.raw_bytes += field == 1;
        ref.first += field == 2;
        ref.count += field == 3;
        if (field == 4)
            ref.kind = TARNP_SECTION_TOKENS;
        if (field == 5)
            ref.elem = TARNP_ELEM_F32;
        CHECK_STATUS(tarnp_chunk_check((tarnp_span){value, n}, &ref, &head, &err), TARN_E_CORRUPT);
        CHECK_HAS(err.detail, "the header is of chunk 77");
    }
    size_t n = make(value, &ref);
    ref.stored_bytes = TARNP_CHUNK_HEAD_BYTES - 1;
    CHECK_STATUS(tarnp_chunk_check((tarnp_span){value, ref.stored_bytes}, &ref, &head, &err),
                 TARN_E_CORRUPT);
    n = make(value, &ref); /* a payload of another size than is stored */
    tarni_store_u32(value + 12, 19);
    tarni_store_u64(value + 72, tarnp_sum64(value, 72, 0));
    tarnp_sum128(value, TARNP_CHUNK_HEAD_BYTES, ref.sum);
    CHECK_STATUS(tarnp_chunk_check((tarnp_span){value, n}, &ref, &head, &err), TARN_E_CORRUPT);
}

CASE(bytes_that_mean_nothing_are_zero)
{
    static const size_t reserved[] = {7, 41, 42, 43};
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
        uint8_t value[120];
        tarnp_chunk_ref ref;
        tarnp_chunk_head head;
        make(value, &ref);
        value[reserved[i]] = 1;
        tarni_store_u64(value + 72, tarnp_sum64(value, 72, 0));
        CHECK_STATUS(tarnp_chunk_head_get(value, &head, &err), TARN_E_FORMAT);
    }
}

CHECK_MAIN(ENTRY(round_trip), ENTRY(every_flipped_bit_is_found), ENTRY(another_chunk_in_its_place),
           ENTRY(newer_header), ENTRY(every_field_is_compared),
           ENTRY(bytes_that_mean_nothing_are_zero))
