/* What the lossy codecs keep, what they refuse, and that the error they report is the error. */
#include "codec.h"

#include "store_kit.h"

#include <float.h>

#define ROW   64
#define UNIT  (32 * ROW)
#define UNITS 6
#define N     (UNITS * UNIT)

static tarnp_codec *codec;
static tarn_error err;
static float in[N], back[N];

static const struct {
    tarnp_state_codec codec;
    double bound; /* of the error */
    double ratio; /* at least */
} codecs[] = {{TARNP_STATE_BF16, 0x1p-8, 2.3},
              {TARNP_STATE_FP16, 0x1p-11, 2.2},
              {TARNP_STATE_INT8, 1 / 253.0, 3.8}};

static void fill(uint64_t seed)
{
    for (size_t u = 0; u < UNITS; u++) {
        float unit = ldexpf(1, (int)(kit_random(&seed) % 60) - 40);
        for (size_t r = 0; r < UNIT / ROW; r++) {
            float row = unit * expf(kit_normal(&seed) * 0.7F);
            for (size_t i = 0; i < ROW; i++)
                in[u * UNIT + r * ROW + i] = kit_normal(&seed) * row;
        }
    }
}

/* The worst of the units, recomputed from what was read back. */
static double error_of(size_t n)
{
    double worst = 0;
    for (size_t at = 0; at < n; at += UNIT) {
        double e = check_rel(back + at, in + at, n - at < UNIT ? n - at : UNIT);
        worst = e > worst ? e : worst;
    }
    return worst;
}

/* Encodes and decodes n floats and checks what is reported; returns what it was kept as. */
static tarnp_encoded trip(tarnp_state_codec kind, size_t n)
{
    const tarnp_lossy how = {kind, ROW, UNIT};
    tarnp_encoded made = {0};
    uint8_t *payload = malloc(4 * n);
    tarnp_piece from = {in, 4 * n}, to = {back, 4 * n};
    memset(back, 0xA5, sizeof back);
    CHECK_STATUS(tarnp_encode(codec, TARNP_ELEM_F32, &how, &from, 1, (uint32_t)(4 * n), payload,
                              &made, &err),
                 TARN_OK);
    CHECK(made.n_bytes <= 4 * n);
    CHECK_STATUS(tarnp_decode(codec, (uint32_t)made.id, payload, made.n_bytes, &to, 1,
                              (uint32_t)(4 * n), &err),
                 TARN_OK);
    double error = error_of(n);
    if (fabs(error - (double)made.max_error) > 1e-6 * error)
        CHECK_FAIL("codec %d: error %g reported, %g found", (int)kind, (double)made.max_error,
                   error);
    if ((int)made.id != (int)kind)
        CHECK_BYTES(back, in, 4 * n);
    free(payload);
    return made;
}

static bool begin(void)
{
    return tarnp_codec_create(&tarni_heap, &codec, &err) == TARN_OK;
}

static void end(void)
{
    tarnp_codec_free(codec);
    codec = NULL;
}

CASE(errors_and_sizes)
{
    REQUIRE(begin());
    for (size_t k = 0; k < 3; k++) {
        double worst = 0, ratio = 0;
        for (uint64_t seed = 1; seed <= 20; seed++) {
            fill(seed);
            tarnp_encoded made = trip(codecs[k].codec, N);
            CHECK_EQ(made.id, codecs[k].codec);
            CHECK(made.max_error > 0 && (double)made.max_error <= codecs[k].bound);
            worst = fmax(worst, (double)made.max_error);
            ratio = (double)sizeof in / made.n_bytes;
            CHECK(ratio >= codecs[k].ratio);
        }
        printf("    codec %d: error %.2g, ratio %.2f\n", (int)codecs[k].codec, worst, ratio);
        CHECK(worst > codecs[k].bound / 2); /* the bound is not idle */
    }
    end();
}

CASE(short_ends)
{
    REQUIRE(begin());
    fill(3);
    for (size_t k = 0; k < 3; k++)
        for (size_t n = 1; n < 3 * UNIT; n += n < 2 * ROW ? 1 : 97)
            trip(codecs[k].codec, n);
    end();
}

CASE(what_cannot_be_kept_is_kept_without_loss)
{
    REQUIRE(begin());
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < 3; k++) {
        for (size_t b = 0; b < 3; b++) {
            for (size_t at = 0; at < N; at += N - 1) {
                fill(5);
                in[at] = bad[b];
                const tarnp_lossy how = {codecs[k].codec, ROW, UNIT};
                tarnp_encoded made;
                static uint8_t payload[sizeof in];
                tarnp_piece from = {in, sizeof in}, to = {back, sizeof in};
                CHECK_STATUS(tarnp_encode(codec, TARNP_ELEM_F32, &how, &from, 1, sizeof in, payload,
                                          &made, &err),
                             TARN_OK);
                CHECK_EQ(made.id, TARNP_CODEC_PLANES4);
                CHECK(made.max_error == 0);
                CHECK_STATUS(tarnp_decode(codec, (uint32_t)made.id, payload, made.n_bytes, &to, 1,
                                          sizeof in, &err),
                             TARN_OK);
                CHECK_BYTES(back, in, sizeof in);
            }
        }
    }
    fill(6);
    in[7] = FLT_MAX; /* beyond bf16; a power of two brings it into fp16, a scale into int8 */
    CHECK_EQ(trip(TARNP_STATE_BF16, N).id, TARNP_CODEC_PLANES4);
    CHECK_EQ(trip(TARNP_STATE_FP16, N).id, TARNP_CODEC_FP16);
    trip(TARNP_STATE_INT8, N);
    for (size_t i = 0; i < N; i++)
        in[i] = ldexpf((float)(i % 5), -149); /* denormals: exact in fp16, too coarse for bf16 */
    CHECK_EQ(trip(TARNP_STATE_BF16, N).id, TARNP_CODEC_PLANES4);
    CHECK_EQ(trip(TARNP_STATE_INT8, N).id, TARNP_CODEC_PLANES4);
    CHECK(trip(TARNP_STATE_FP16, N).max_error == 0);
    end();
}

CASE(zeros_and_edges)
{
    REQUIRE(begin());
    memset(in, 0, sizeof in);
    for (size_t k = 0; k < 3; k++) {
        tarnp_encoded made = trip(codecs[k].codec, N);
        CHECK(made.max_error == 0 && made.n_bytes < 1000);
    }
    fill(8);
    for (size_t i = 0; i < UNIT; i++)
        in[i] = 0; /* a unit of zeros among others */
    for (size_t i = 0; i < ROW; i++)
        in[UNIT + i] = 1e-42F; /* a row that is nothing beside the rest of its unit */
    in[UNIT + ROW] = 1;
    in[2 * UNIT] = -0.0F;
    for (size_t k = 0; k < 3; k++)
        CHECK_EQ(trip(codecs[k].codec, N).id, codecs[k].codec);
    for (uint32_t top = 0; top < 254; top++) { /* every exponent a unit can have */
        for (size_t i = 0; i < UNIT; i++)
            in[i] = ldexpf(1 - (float)i / UNIT, (int)top - 126);
        trip(TARNP_STATE_FP16, UNIT);
        trip(TARNP_STATE_INT8, UNIT);
        trip(TARNP_STATE_BF16, UNIT);
    }
    end();
}

/* Every half there is comes back as itself, scaled by any power of two. */
CASE(halves_are_exact)
{
    REQUIRE(begin());
    for (int e = -120; e <= 100; e += 20) {
        for (uint32_t h = 0; h < 0x7800; h += UNIT) {
            for (uint32_t i = 0; i < UNIT && h + i < 0x7800; i++) {
                uint32_t m = h + i, bits = (m & 0x3FF) | (m >= 0x400 ? 0x400 : 0);
                in[i] = ldexpf((float)bits, (int)(m >= 0x400 ? m >> 10 : 1) - 25 + e);
                if (i % 2)
                    in[i] = -in[i];
            }
            in[UNIT - 1] = ldexpf(0x7FF, 29 - 25 + e); /* the unit's largest: no shift */
            CHECK(trip(TARNP_STATE_FP16, UNIT).max_error == 0);
        }
    }
    end();
}

CASE(bad_exponents)
{
    REQUIRE(begin());
    fill(9);
    const tarnp_lossy how = {TARNP_STATE_FP16, ROW, UNIT};
    tarnp_encoded made;
    static uint8_t payload[sizeof in];
    tarnp_piece from = {in, sizeof in}, to = {back, sizeof in};
    CHECK_STATUS(
        tarnp_encode(codec, TARNP_ELEM_F32, &how, &from, 1, sizeof in, payload, &made, &err),
        TARN_OK);
    payload[4] = 0xFF;
    payload[5] = 0x7F;
    CHECK_STATUS(
        tarnp_decode(codec, (uint32_t)made.id, payload, made.n_bytes, &to, 1, sizeof in, &err),
        TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "exponent 32767");
    memset(payload, 0, 4);
    CHECK_STATUS(
        tarnp_decode(codec, (uint32_t)made.id, payload, made.n_bytes, &to, 1, sizeof in, &err),
        TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "groups of 0");
    end();
}

CHECK_MAIN(ENTRY(errors_and_sizes), ENTRY(short_ends),
           ENTRY(what_cannot_be_kept_is_kept_without_loss), ENTRY(zeros_and_edges),
           ENTRY(halves_are_exact), ENTRY(bad_exponents))
