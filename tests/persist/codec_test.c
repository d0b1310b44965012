#include "codec.h"

#include "check.h"
#include "store_kit.h"

#include <string.h>

static tarnp_codec *codec;
static tarn_error err;

static bool make_codec(void)
{
    return codec || tarnp_codec_create(&tarni_heap, &codec, &err) == TARN_OK;
}

static void drop_codec(void)
{
    tarnp_codec_free(codec);
    codec = NULL;
}

/* Encodes, decodes whole and in pieces, compares; returns the payload's size. */
static uint32_t round_trip(tarnp_elem elem, const void *data, uint32_t n, tarnp_codec_id *id)
{
    uint8_t *payload = malloc(n + 1), *back = malloc(n + 1);
    tarnp_piece whole = {(void *)(uintptr_t)data, n}, to = {back, n};
    tarnp_encoded made = {0}, again = {0};
    memset(back, 0xA5, n + 1);
    CHECK_STATUS(tarnp_encode(codec, elem, NULL, &whole, 1, n, payload, &made, &err), TARN_OK);
    CHECK(made.max_error == 0);
    uint32_t n_payload = made.n_bytes;
    *id = made.id;
    CHECK(n_payload <= n);
    CHECK_STATUS(tarnp_decode(codec, (uint32_t)*id, payload, n_payload, &to, 1, n, &err), TARN_OK);
    CHECK_BYTES(back, data, n);
    CHECK_EQ(back[n], 0xA5);
    uint32_t cut = n / 3 / 4 * 4;
    tarnp_piece in[3] = {{(uint8_t *)(uintptr_t)data, cut},
                         {(uint8_t *)(uintptr_t)data + cut, 0},
                         {(uint8_t *)(uintptr_t)data + cut, n - cut}};
    tarnp_piece out[3] = {{back, cut}, {back + cut, 0}, {back + cut, n - cut}};
    memset(back, 0xA5, n);
    CHECK_STATUS(tarnp_encode(codec, elem, NULL, in, 3, n, payload, &again, &err), TARN_OK);
    CHECK_EQ(again.n_bytes, n_payload);
    CHECK_STATUS(tarnp_decode(codec, (uint32_t)again.id, payload, n_payload, out, 3, n, &err),
                 TARN_OK);
    CHECK_BYTES(back, data, n);
    free(payload);
    free(back);
    return n_payload;
}

static const tarnp_elem elems[] = {TARNP_ELEM_U8, TARNP_ELEM_U32, TARNP_ELEM_F32, TARNP_ELEM_BF16};

CASE(every_small_size)
{
    REQUIRE(make_codec());
    uint64_t r = 1;
    for (size_t e = 0; e < 4; e++) {
        for (uint32_t n = 0; n <= 100; n++) {
            uint8_t data[400];
            uint32_t n_bytes = n * (uint32_t)tarnp_elem_bytes(elems[e]);
            tarnp_codec_id id;
            for (int kind = 0; kind < 3; kind++) {
                for (uint32_t i = 0; i < n_bytes; i++)
                    data[i] = (uint8_t)(kit_random(&r) % (kind == 0 ? 1 : kind == 1 ? 3 : 256));
                round_trip(elems[e], data, n_bytes, &id);
            }
        }
    }
    drop_codec();
}

CASE(every_elem_at_full_size)
{
    REQUIRE(make_codec());
    uint64_t r = 2;
    uint8_t *data = malloc(TARNP_CHUNK_BYTES_MAX);
    for (size_t e = 0; e < 4; e++) {
        tarnp_codec_id id;
        for (size_t i = 0; i < TARNP_CHUNK_BYTES_MAX; i++)
            data[i] = (uint8_t)kit_random(&r);
        CHECK_EQ(round_trip(elems[e], data, TARNP_CHUNK_BYTES_MAX, &id), TARNP_CHUNK_BYTES_MAX);
        CHECK_EQ(id, TARNP_CODEC_RAW);
        memset(data, 0, TARNP_CHUNK_BYTES_MAX);
        CHECK(round_trip(elems[e], data, TARNP_CHUNK_BYTES_MAX, &id) < 100);
        CHECK(id != TARNP_CODEC_RAW);
        round_trip(elems[e], data, TARNP_CHUNK_BYTES_MAX - 4, &id);
    }
    free(data);
    drop_codec();
}

CASE(unusual_floats)
{
    REQUIRE(make_codec());
    static const uint32_t bits[] = {0,          0x80000000, 1,          0x80000001,
                                    0x007FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000,
                                    0x7F800001, 0xFFFFFFFF, 0x3F800000, 0x7F7FFFFF};
    uint32_t data[4096];
    uint64_t r = 3;
    tarnp_codec_id id;
    for (size_t i = 0; i < 4096; i++)
        data[i] = bits[kit_random(&r) % 12];
    round_trip(TARNP_ELEM_F32, data, sizeof data, &id);
    round_trip(TARNP_ELEM_BF16, data, sizeof data, &id);
    for (size_t i = 0; i < 4096; i++)
        data[i] = (uint32_t)(kit_random(&r) % 0x007FFFFF) | (uint32_t)(kit_random(&r) << 31);
    round_trip(TARNP_ELEM_F32, data, sizeof data, &id); /* all denormal */
    drop_codec();
}

/* The exponents of what a recurrence carries: a scale for each row and column over normal values.
 */
static float *state_like(size_t n, uint64_t seed)
{
    float *data = malloc(n * sizeof *data);
    float rows[128];
    for (size_t i = 0; i < 128; i++)
        rows[i] = expf(kit_normal(&seed) * 0.5f);
    for (size_t i = 0; i < n; i++)
        data[i] = kit_normal(&seed) * rows[i / 128 % 128] * 0.03f;
    return data;
}

CASE(ratio_on_realistic_values)
{
    REQUIRE(make_codec());
    size_t n = TARNP_CHUNK_BYTES_MAX / 4;
    float *data = state_like(n, 4);
    uint16_t *narrow = malloc(n * 2);
    tarnp_codec_id id;
    double wide = (double)(n * 4) / round_trip(TARNP_ELEM_F32, data, (uint32_t)n * 4, &id);
    CHECK_EQ(id, TARNP_CODEC_PLANES4);
    for (size_t i = 0; i < n; i++) {
        uint32_t v;
        memcpy(&v, data + i, 4);
        narrow[i] = (uint16_t)(v >> 16);
        v &= 0xFFFF0000u;
        memcpy(data + i, &v, 4);
    }
    double half = (double)(n * 2) / round_trip(TARNP_ELEM_BF16, narrow, (uint32_t)n * 2, &id);
    CHECK_EQ(id, TARNP_CODEC_PLANES2);
    /* fp32 that came from bf16 has two planes of zeros, which cost nothing. */
    double grown = (double)(n * 4) / round_trip(TARNP_ELEM_F32, data, (uint32_t)n * 4, &id);
    printf("    fp32 %.3f, bf16 %.3f, bf16 as fp32 %.3f\n", wide, half, grown);
    CHECK(wide >= 1.15);
    CHECK(half >= 1.38);
    CHECK(grown >= 2.75);
    free(data);
    free(narrow);
    drop_codec();
}

/* Decodes damaged payloads: an error or a full chunk of some bytes, never more. */
static void decode_damaged(uint32_t id, const uint8_t *payload, size_t n_payload,
                           uint32_t raw_bytes)
{
    uint8_t *exact = malloc(n_payload ? n_payload : 1); /* so that ASan sees every byte too far */
    memcpy(exact, payload, n_payload);
    uint8_t *out = malloc(raw_bytes);
    tarnp_piece to = {out, raw_bytes};
    tarn_status status = tarnp_decode(codec, id, exact, n_payload, &to, 1, raw_bytes, &err);
    CHECK(status == TARN_OK || status == TARN_E_CORRUPT || status == TARN_E_FORMAT);
    free(exact);
    free(out);
}

CASE(damaged_payloads)
{
    REQUIRE(make_codec());
    static const tarnp_elem kinds[] = {TARNP_ELEM_U8,   TARNP_ELEM_U32, TARNP_ELEM_F32,
                                       TARNP_ELEM_BF16, TARNP_ELEM_F32, TARNP_ELEM_F32,
                                       TARNP_ELEM_F32};
    static const tarnp_lossy lossy[] = {
        {TARNP_STATE_BF16, 10, 50}, {TARNP_STATE_FP16, 10, 50}, {TARNP_STATE_INT8, 10, 50}};
    const tarnp_lossy *const how[] = {NULL, NULL, NULL, NULL, &lossy[0], &lossy[1], &lossy[2]};
    for (size_t e = 0; e < 7; e++) {
        float *data = state_like(300, 5 + e);
        tarnp_encoded made = {0};
        uint8_t payload[1200];
        tarnp_piece in = {data, 1200};
        if (kinds[e] == TARNP_ELEM_U8 || kinds[e] == TARNP_ELEM_U32)
            for (size_t i = 0; i < 300; i++)
                data[i] = (float)(i % 7);
        CHECK_STATUS(tarnp_encode(codec, kinds[e], how[e], &in, 1, 1200, payload, &made, &err),
                     TARN_OK);
        CHECK(made.id != TARNP_CODEC_RAW);
        uint32_t id = (uint32_t)made.id, n = made.n_bytes;
        for (uint32_t bit = 0; bit < n * 8; bit++) {
            payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
            decode_damaged(id, payload, n, 1200);
            payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        for (uint32_t cut = 0; cut < n; cut++)
            decode_damaged(id, payload, cut, 1200);
        for (uint32_t other = 0; other < 8; other++) {
            decode_damaged(other, payload, n, 1200);
            decode_damaged(other, payload, n, 1196);
            decode_damaged(other, payload, n, 1198);
            decode_damaged(other, payload, n, 4096);
        }
        free(data);
    }
    uint64_t r = 9;
    for (int i = 0; i < 20000; i++) {
        uint8_t noise[64];
        for (size_t k = 0; k < sizeof noise; k++)
            noise[k] = (uint8_t)(kit_random(&r) % (i % 2 ? 4 : 256));
        decode_damaged((uint32_t)(i % 7), noise, kit_random(&r) % 65,
                       (uint32_t)(kit_random(&r) % 90));
    }
    drop_codec();
}

CASE(unknown_codec_is_named)
{
    REQUIRE(make_codec());
    uint8_t byte = 1;
    tarnp_piece to = {&byte, 1};
    CHECK_STATUS(tarnp_decode(codec, 77, &byte, 1, &to, 1, 1, &err), TARN_E_FORMAT);
    CHECK_HAS(err.detail, "77");
    CHECK_EQ(tarnp_elem_bytes((tarnp_elem)9), 0);
    drop_codec();
}

CHECK_MAIN(ENTRY(every_small_size), ENTRY(every_elem_at_full_size), ENTRY(unusual_floats),
           ENTRY(ratio_on_realistic_values), ENTRY(damaged_payloads), ENTRY(unknown_codec_is_named))
