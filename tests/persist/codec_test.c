#define ZSTD_STATIC_LINKING_ONLY
#include "codec.h"

#include "check.h"
#include "store_kit.h"

#include <dlfcn.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

static tarnp_codec *codec;
static tarn_error err;

/* ---- in front of zstd ------------------------------------------------------------------------ */

#define IN_FRONT __attribute__((visibility("default")))

static bool refuses_huffman, refuses_levels, has_no_memory;

static void find(const char *name, void *to)
{
    void *found = dlsym(RTLD_NEXT, name);
    memcpy(to, &found, sizeof found);
}

IN_FRONT size_t ZSTD_CCtx_setParameter(ZSTD_CCtx *c, ZSTD_cParameter name, int value)
{
    static size_t (*real)(ZSTD_CCtx *, ZSTD_cParameter, int);
    if (name == ZSTD_c_literalCompressionMode ? refuses_huffman : refuses_levels)
        return (size_t)-ZSTD_error_parameter_unsupported;
    if (!real)
        find("ZSTD_CCtx_setParameter", &real);
    return real(c, name, value);
}

IN_FRONT size_t ZSTD_decompressDCtx(ZSTD_DCtx *d, void *out, size_t n_out, const void *in, size_t n)
{
    static size_t (*real)(ZSTD_DCtx *, void *, size_t, const void *, size_t);
    if (has_no_memory)
        return (size_t)-ZSTD_error_memory_allocation;
    if (!real)
        find("ZSTD_decompressDCtx", &real);
    return real(d, out, n_out, in, n);
}

/* ---- cases ----------------------------------------------------------------------------------- */

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

/* Another zstd than the one this was built with may know less: it costs size, never the bytes. */
CASE(a_zstd_that_knows_less)
{
    REQUIRE(make_codec());
    float *data = state_like(4096, 6);
    tarnp_codec_id id;
    uint32_t best = round_trip(TARNP_ELEM_F32, data, 16384, &id);
    refuses_huffman = true;
    CHECK(round_trip(TARNP_ELEM_F32, data, 16384, &id) < 16384);
    CHECK_EQ(id, TARNP_CODEC_PLANES4);
    refuses_levels = true;
    CHECK_EQ(round_trip(TARNP_ELEM_F32, data, 16384, &id), 16384);
    CHECK_EQ(id, TARNP_CODEC_RAW);
    refuses_huffman = refuses_levels = false;
    CHECK_EQ(round_trip(TARNP_ELEM_F32, data, 16384, &id), best);
    free(data);
    drop_codec();
}

static uint32_t n_left; /* allocations that are granted */

static void *scarce_alloc(void *user, size_t n)
{
    (void)user;
    return n_left > 0 && n_left-- > 0 ? malloc(n) : NULL;
}

static void *scarce_resize(void *user, void *memory, size_t n)
{
    (void)user;
    return n_left > 0 && n_left-- > 0 ? realloc(memory, n) : NULL;
}

static void scarce_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

CASE(without_memory)
{
    const tarn_allocator scarce = {scarce_alloc, scarce_resize, scarce_release, NULL};
    uint32_t needed = 0;
    for (; needed < 100; needed++) {
        n_left = needed;
        if (tarnp_codec_create(&scarce, &codec, &err) == TARN_OK)
            break;
        CHECK_EQ(err.status, TARN_E_NO_MEMORY);
        CHECK(codec == NULL);
    }
    CHECK(needed >= 5 && needed < 100); /* it, its two buffers and two contexts */
    tarnp_codec_free(NULL);

    uint8_t *lent, *again;
    CHECK_STATUS(tarnp_codec_memory(codec, 10, &lent, &err), TARN_E_NO_MEMORY);
    n_left = 1;
    CHECK_STATUS(tarnp_codec_memory(codec, 100, &lent, &err), TARN_OK);
    CHECK_STATUS(tarnp_codec_memory(codec, 50, &again, &err), TARN_OK);
    CHECK(again == lent);
    CHECK_STATUS(tarnp_codec_memory(codec, 101, &again, &err), TARN_E_NO_MEMORY);
    CHECK_STATUS(tarnp_codec_memory(codec, 1, &again, &err), TARN_E_NO_MEMORY); /* it is gone */

    uint32_t data[1024], back[1024];
    uint8_t payload[sizeof data];
    tarnp_piece in = {data, sizeof data}, out = {back, sizeof back};
    tarnp_encoded made;
    for (uint32_t i = 0; i < 1024; i++)
        data[i] = i % 7;
    n_left = 0;
    CHECK_STATUS(
        tarnp_encode(codec, TARNP_ELEM_U32, NULL, &in, 1, sizeof data, payload, &made, &err),
        TARN_E_NO_MEMORY);
    CHECK_STATUS(
        tarnp_encode(codec, TARNP_ELEM_F32, NULL, &in, 1, sizeof data, payload, &made, &err),
        TARN_E_NO_MEMORY);
    const tarnp_lossy lossy = {TARNP_STATE_INT8, 16, 64};
    for (uint32_t i = 0; i < 1024; i++)
        ((float *)(void *)data)[i] = (float)(i % 100);
    CHECK_STATUS(
        tarnp_encode(codec, TARNP_ELEM_F32, &lossy, &in, 1, sizeof data, payload, &made, &err),
        TARN_E_NO_MEMORY);
    n_left = 100;
    CHECK_STATUS(
        tarnp_encode(codec, TARNP_ELEM_U32, NULL, &in, 1, sizeof data, payload, &made, &err),
        TARN_OK);
    CHECK_EQ(made.id, TARNP_CODEC_ZSTD);
    has_no_memory = true; /* which is no damage */
    CHECK_STATUS(
        tarnp_decode(codec, TARNP_CODEC_ZSTD, payload, made.n_bytes, &out, 1, sizeof back, &err),
        TARN_E_NO_MEMORY);
    has_no_memory = false;
    CHECK_STATUS(
        tarnp_decode(codec, TARNP_CODEC_ZSTD, payload, made.n_bytes, &out, 1, sizeof back, &err),
        TARN_OK);
    CHECK_BYTES(back, data, sizeof data);
    drop_codec();
}

/* Frames behind frames, and the formats before zstd's first, are nothing that was encoded. */
CASE(one_frame_and_nothing_else)
{
    REQUIRE(make_codec());
    uint8_t data[600] = {0}, payload[1300], back[1200];
    tarnp_piece in = {data, sizeof data}, out = {back, 1200};
    tarnp_encoded made;
    CHECK_STATUS(tarnp_encode(codec, TARNP_ELEM_U8, NULL, &in, 1, 600, payload, &made, &err),
                 TARN_OK);
    CHECK_EQ(made.id, TARNP_CODEC_ZSTD);
    memcpy(payload + made.n_bytes, payload, made.n_bytes);
    CHECK_STATUS(
        tarnp_decode(codec, TARNP_CODEC_ZSTD, payload, 2 * made.n_bytes, &out, 1, 1200, &err),
        TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "not one zstd frame");
    CHECK_STATUS(tarnp_decode(codec, TARNP_CODEC_ZSTD, payload, made.n_bytes, &out, 1, 1200, &err),
                 TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "600 bytes decoded, should be 1200");
    static const uint8_t skippable[] = {0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 1, 2};
    out.n_bytes = 0;
    CHECK_STATUS(
        tarnp_decode(codec, TARNP_CODEC_ZSTD, skippable, sizeof skippable, &out, 1, 0, &err),
        TARN_E_CORRUPT);
    drop_codec();
}

/* A lossy codec is for fp32; nothing else is touched by it. */
CASE(lossy_is_for_fp32)
{
    REQUIRE(make_codec());
    const tarnp_lossy lossy = {TARNP_STATE_BF16, 8, 64};
    uint32_t data[512], back[512];
    uint8_t payload[sizeof data];
    for (uint32_t i = 0; i < 512; i++)
        data[i] = i % 5 + 0x3F8ABCDE;
    for (size_t e = 0; e < 4; e++) {
        for (uint32_t n = 0; n <= sizeof data; n += sizeof data) {
            tarnp_piece in = {data, n}, out = {back, n};
            tarnp_encoded made;
            CHECK_STATUS(tarnp_encode(codec, elems[e], &lossy, &in, 1, n, payload, &made, &err),
                         TARN_OK);
            CHECK_EQ(made.id == TARNP_CODEC_BF16, elems[e] == TARNP_ELEM_F32 && n > 0);
            CHECK_STATUS(
                tarnp_decode(codec, (uint32_t)made.id, payload, made.n_bytes, &out, 1, n, &err),
                TARN_OK);
            if (made.id != TARNP_CODEC_BF16 && n > 0)
                CHECK_BYTES(back, data, n);
        }
    }
    drop_codec();
}

CHECK_MAIN(ENTRY(every_small_size), ENTRY(every_elem_at_full_size), ENTRY(unusual_floats),
           ENTRY(ratio_on_realistic_values), ENTRY(damaged_payloads), ENTRY(unknown_codec_is_named),
           ENTRY(a_zstd_that_knows_less), ENTRY(without_memory), ENTRY(one_frame_and_nothing_else),
           ENTRY(lossy_is_for_fp32))
