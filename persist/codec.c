/* codec.c
 *
 * The only room that knows zstd. Payload of a plane codec, w planes of n = raw / w bytes, plane 0
 * being the low byte of the rotated element:
 *
 *     OFFSET  SIZE  FIELD
 *     0       w     method of each plane: 0 raw, 1 zstd, 2 all zero
 *     w       4 w   stored bytes of each plane, little-endian
 *     5 w     -     the planes, 0 first
 *
 * Payload of a lossy codec, of n elements in groups of g: units (fp16) or rows (int8):
 *
 *     OFFSET  SIZE  FIELD
 *     0       4     g; 0 for bf16
 *     4       -     fp16: 2 a unit, the exponent e (signed): an element is its half times 2^e
 *                   int8: 4 a row, the scale (fp32): an element is its integer times the scale
 *     -       -     as a plane codec with w = 2, int8 with w = 1 and without rotation
 *
 * Invariants:
 *  1. Encoding the same bytes with the same zstd gives the same payload; decoding never depends on
 *     the version or the level that encoded.
 *  2. A decoder reads inside the payload and writes inside the pieces whatever the payload says.
 *
 * The split and merge loops are written for the compiler's vectoriser (this file is built with
 * -O3): plain SSE2 moves them at several times the speed of the entropy coder.
 *
 * Rejected, measured on recurrent states: plain zstd (1.06), bit planes (slower, no better), coding
 * the difference to the parent's state (1.16 to 1.19 against 1.17, and every snapshot would depend
 * on another), one zstd frame over all planes (one Huffman table for exponents and noise: 1.06). */
#define ZSTD_STATIC_LINKING_ONLY
#include "codec.h"

#include "bytes.h"

#include <assert.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "raw bytes are stored as they lie");

#define PLANES_MAX    4
#define LEVEL_TOKENS  3
#define LEVEL_BYTES   1
#define LEVEL_HUFFMAN (-100) /* matches are as good as never looked for */
#define PROBE_SAMPLES 1024

enum { METHOD_RAW = 0, METHOD_ZSTD = 1, METHOD_ZERO = 2 };

struct tarnp_codec {
    tarn_allocator allocator;
    ZSTD_CCtx *cctx;
    ZSTD_DCtx *dctx;
    uint8_t *planes; /* TARNP_CHUNK_BYTES_MAX: the planes of one chunk */
    uint8_t *flat;   /* TARNP_CHUNK_BYTES_MAX: several pieces as one */
    uint8_t *lent;   /* tarnp_codec_memory */
    size_t lent_bytes;
};

/* ---- contexts ------------------------------------------------------------------------------- */

static void *zstd_alloc(void *opaque, size_t n_bytes)
{
    const tarn_allocator *a = opaque;
    return a->alloc(a->user, n_bytes);
}

static void zstd_release(void *opaque, void *memory)
{
    tarni_free(opaque, memory);
}

tarn_status tarnp_codec_create(const tarn_allocator *allocator, tarnp_codec **out, tarn_error *err)
{
    *out = NULL;
    tarnp_codec *c;
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *c, &c, err));
    c->allocator = *allocator;
    ZSTD_customMem memory = {zstd_alloc, zstd_release, &c->allocator};
    tarn_status status = tarni_alloc_aligned(allocator, TARNP_CHUNK_BYTES_MAX, 1, &c->planes, err);
    if (status == TARN_OK)
        status = tarni_alloc_aligned(allocator, TARNP_CHUNK_BYTES_MAX, 1, &c->flat, err);
    if (status == TARN_OK) {
        c->cctx = ZSTD_createCCtx_advanced(memory);
        c->dctx = ZSTD_createDCtx_advanced(memory);
        if (!c->cctx || !c->dctx)
            status = tarni_fail(err, TARN_E_NO_MEMORY, "no memory for a zstd context");
    }
    if (status != TARN_OK) {
        tarnp_codec_free(c);
        return status;
    }
    *out = c;
    return TARN_OK;
}

void tarnp_codec_free(tarnp_codec *c)
{
    if (!c)
        return;
    ZSTD_freeCCtx(c->cctx);
    ZSTD_freeDCtx(c->dctx);
    tarn_allocator allocator = c->allocator;
    tarni_free_aligned(&allocator, c->planes);
    tarni_free_aligned(&allocator, c->flat);
    tarni_free(&allocator, c->lent);
    tarni_free(&allocator, c);
}

tarn_status tarnp_codec_memory(tarnp_codec *c, size_t n_bytes, uint8_t **out, tarn_error *err)
{
    *out = c->lent;
    if (n_bytes <= c->lent_bytes)
        return TARN_OK;
    tarni_free(&c->allocator, c->lent);
    c->lent = NULL;
    c->lent_bytes = 0;
    TARNI_TRY(tarni_alloc(&c->allocator, n_bytes, 1, &c->lent, err));
    c->lent_bytes = n_bytes;
    *out = c->lent;
    return TARN_OK;
}

size_t tarnp_elem_bytes(tarnp_elem elem)
{
    switch (elem) {
    case TARNP_ELEM_U8:
        return 1;
    case TARNP_ELEM_BF16:
        return 2;
    case TARNP_ELEM_U32:
    case TARNP_ELEM_F32:
        return 4;
    }
    return 0;
}

/* ---- planes --------------------------------------------------------------------------------- */

static void split4(const uint8_t *restrict in, size_t n, uint8_t *restrict p0, uint8_t *restrict p1,
                   uint8_t *restrict p2, uint8_t *restrict p3)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t v;
        memcpy(&v, in + 4 * i, sizeof v);
        v = v << 1 | v >> 31;
        p0[i] = (uint8_t)v;
        p1[i] = (uint8_t)(v >> 8);
        p2[i] = (uint8_t)(v >> 16);
        p3[i] = (uint8_t)(v >> 24);
    }
}

static void merge4(uint8_t *restrict out, size_t n, const uint8_t *restrict p0,
                   const uint8_t *restrict p1, const uint8_t *restrict p2,
                   const uint8_t *restrict p3)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t v = p0[i] | (uint32_t)p1[i] << 8 | (uint32_t)p2[i] << 16 | (uint32_t)p3[i] << 24;
        v = v >> 1 | v << 31;
        memcpy(out + 4 * i, &v, sizeof v);
    }
}

static void split2(const uint8_t *restrict in, size_t n, uint8_t *restrict p0, uint8_t *restrict p1)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, in + 2 * i, sizeof v);
        v = (uint16_t)(v << 1 | v >> 15);
        p0[i] = (uint8_t)v;
        p1[i] = (uint8_t)(v >> 8);
    }
}

static void merge2(uint8_t *restrict out, size_t n, const uint8_t *restrict p0,
                   const uint8_t *restrict p1)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t v = (uint16_t)(p0[i] | p1[i] << 8);
        v = (uint16_t)(v >> 1 | v << 15);
        memcpy(out + 2 * i, &v, sizeof v);
    }
}

static bool all_zero(const uint8_t *data, size_t n)
{
    for (size_t i = 0; i < n; i += 4096) {
        uint8_t any = 0;
        size_t end = n - i < 4096 ? n : i + 4096;
        for (size_t k = i; k < end; k++)
            any |= data[k];
        if (any)
            return false;
    }
    return true;
}

/* Noise draws equal bytes 1 time in 256; a plane worth coding draws them at least twice as often.
 * Guessing wrong costs size, never correctness. */
static bool looks_coded(const uint8_t *data, size_t n)
{
    uint32_t counts[256] = {0}, samples = n < PROBE_SAMPLES ? (uint32_t)n : PROBE_SAMPLES;
    size_t step = n / samples; /* a division for each sample would cost a tenth of the encoding */
    for (uint32_t i = 0; i < samples; i++)
        counts[data[i * step]]++;
    uint64_t equal = 0;
    for (int i = 0; i < 256; i++)
        equal += (uint64_t)counts[i] * counts[i];
    return equal - samples > 2 * (uint64_t)samples * samples / 256;
}

/* ---- encoding ------------------------------------------------------------------------------- */

/* 0 where the frame does not fit into n_out bytes. */
static size_t zstd_frame(tarnp_codec *c, int level, bool huffman, const uint8_t *in, size_t n,
                         uint8_t *out, size_t n_out, tarn_error *err)
{
    ZSTD_CCtx_reset(c->cctx, ZSTD_reset_session_and_parameters);
    size_t rc = ZSTD_CCtx_setParameter(c->cctx, ZSTD_c_compressionLevel, level);
    /* An experimental parameter: a zstd that refuses it still codes the exponents at level 1. */
    if (huffman && ZSTD_isError(ZSTD_CCtx_setParameter(c->cctx, ZSTD_c_literalCompressionMode,
                                                       ZSTD_lcm_huffman)))
        rc = ZSTD_CCtx_setParameter(c->cctx, ZSTD_c_compressionLevel, LEVEL_BYTES);
    if (!ZSTD_isError(rc))
        rc = ZSTD_compress2(c->cctx, out, n_out, in, n);
    if (!ZSTD_isError(rc))
        return rc;
    if (ZSTD_getErrorCode(rc) == ZSTD_error_memory_allocation)
        tarni_fail(err, TARN_E_NO_MEMORY, "no memory to encode %zu bytes", n);
    return 0;
}

/* Appends plane p to the payload; false where it does not fit. The plane may lie in the payload's
 * buffer, at or behind its place: a raw one is usually there already. */
static bool put_plane(tarnp_codec *c, const uint8_t *plane, size_t n, uint32_t p, uint32_t width,
                      uint8_t *out, size_t *n_out, size_t capacity, tarn_error *err)
{
    uint8_t *at = out + *n_out, *own = c->planes + p * n;
    size_t left = capacity - *n_out, stored = 0;
    uint8_t method = METHOD_RAW;
    if (all_zero(plane, n)) {
        method = METHOD_ZERO;
    } else {
        if (width == 1 || looks_coded(plane, n)) { /* int8 gains, if less than the probe asks */
            if (plane != own)
                plane = memcpy(own, plane, n);
            stored = zstd_frame(c, LEVEL_HUFFMAN, true, plane, n, at, left < n ? left : n, err);
        }
        if (err->status != TARN_OK)
            return false;
        if (stored > 0) {
            method = METHOD_ZSTD;
        } else if (n > left) {
            return false;
        } else {
            stored = n;
            if (plane != at)
                memmove(at, plane, n);
        }
    }
    out[p] = method;
    tarni_store_u32(out + width + 4 * p, (uint32_t)stored);
    *n_out += stored;
    return true;
}

/* Payload bytes of planes that stand in place, or 0 where they do not fit: all but the last at
 * out + 5 width, where they belong if they are raw, the last in the codec's buffer. */
static size_t pack_planes(tarnp_codec *c, uint32_t width, size_t n, uint8_t *out, size_t capacity,
                          tarn_error *err)
{
    size_t head = 5 * (size_t)width, n_out = head;
    for (uint32_t p = 0; p < width; p++) {
        const uint8_t *plane = p + 1 < width ? out + head + p * n : c->planes + p * n;
        if (!put_plane(c, plane, n, p, width, out, &n_out, capacity, err))
            return 0;
    }
    return n_out;
}

/* Payload bytes, or 0 where the planes do not get smaller than the raw bytes. */
static size_t encode_planes(tarnp_codec *c, uint32_t width, const uint8_t *in, size_t raw_bytes,
                            uint8_t *out, tarn_error *err)
{
    size_t n = raw_bytes / width, head = 5 * (size_t)width;
    if (n <= head)
        return 0;
    uint8_t *low = out + head, *top = c->planes + (width - 1) * n;
    if (width == 4)
        split4(in, n, low, low + n, low + 2 * n, top);
    else
        split2(in, n, low, top);
    return pack_planes(c, width, n, out, raw_bytes, err);
}

/* The same of values made narrower; 0 also where they cannot be. */
static size_t encode_lossy(tarnp_codec *c, const tarnp_lossy *how, const uint8_t *in,
                           size_t raw_bytes, uint8_t *out, float *error, tarn_error *err)
{
    size_t n = raw_bytes / 4, width = tarnp_lossy_width(how->codec);
    uint32_t group = how->codec == TARNP_STATE_INT8 ? how->row_elems : how->unit_elems;
    size_t head = 4 + tarnp_lossy_table_bytes(how->codec, n, group);
    if (head + 5 * width + width * n > raw_bytes)
        return 0;
    uint8_t *low = width == 1 ? c->planes : out + head + 5 * width, *high = c->planes + n;
    if (!tarnp_lossy_narrow(how, in, n, out + 4, low, high, error))
        return 0;
    tarni_store_u32(out, how->codec == TARNP_STATE_BF16 ? 0 : group);
    size_t packed = pack_planes(c, (uint32_t)width, n, out + head, raw_bytes - head, err);
    return packed > 0 ? head + packed : 0;
}

static size_t encode_lossless(tarnp_codec *c, tarnp_elem elem, const uint8_t *in, size_t raw_bytes,
                              uint8_t *out, tarnp_codec_id *id, tarn_error *err)
{
    if (elem == TARNP_ELEM_F32 || elem == TARNP_ELEM_BF16) {
        *id = elem == TARNP_ELEM_F32 ? TARNP_CODEC_PLANES4 : TARNP_CODEC_PLANES2;
        return encode_planes(c, elem == TARNP_ELEM_F32 ? 4 : 2, in, raw_bytes, out, err);
    }
    *id = TARNP_CODEC_ZSTD;
    return zstd_frame(c, elem == TARNP_ELEM_U32 ? LEVEL_TOKENS : LEVEL_BYTES, false, in, raw_bytes,
                      out, raw_bytes, err);
}

tarn_status tarnp_encode(tarnp_codec *c, tarnp_elem elem, const tarnp_lossy *lossy,
                         const tarnp_piece *pieces, size_t n_pieces, uint32_t raw_bytes,
                         uint8_t *out, tarnp_encoded *result, tarn_error *err)
{
    TARN_ASSERT(raw_bytes <= TARNP_CHUNK_BYTES_MAX);
    const uint8_t *in = c->flat;
    if (n_pieces == 1) {
        in = pieces[0].data;
    } else {
        size_t at = 0;
        for (size_t i = 0; i < n_pieces; i++) {
            if (pieces[i].n_bytes > 0)
                memcpy(c->flat + at, pieces[i].data, pieces[i].n_bytes);
            at += pieces[i].n_bytes;
        }
    }
    size_t n = 0;
    *result = (tarnp_encoded){.id = TARNP_CODEC_RAW};
    err->status = TARN_OK;
    if (lossy && elem == TARNP_ELEM_F32 && raw_bytes > 0) {
        result->id = (tarnp_codec_id)lossy->codec;
        n = encode_lossy(c, lossy, in, raw_bytes, out, &result->max_error, err);
    }
    if (n == 0 && err->status == TARN_OK && raw_bytes > 0) {
        result->max_error = 0;
        n = encode_lossless(c, elem, in, raw_bytes, out, &result->id, err);
    }
    if (err->status != TARN_OK)
        return err->status;
    if (n == 0 || n >= raw_bytes) {
        *result = (tarnp_encoded){.id = TARNP_CODEC_RAW};
        n = raw_bytes;
        if (n > 0)
            memcpy(out, in, n);
    }
    result->n_bytes = (uint32_t)n;
    return TARN_OK;
}

/* ---- decoding ------------------------------------------------------------------------------- */

/* What else zstd would read, formats before the first release and frames behind frames, nobody has
 * written, and it reads some of it with memory of its own. */
static tarn_status read_frame(tarnp_codec *c, const uint8_t *in, size_t n, uint8_t *out,
                              size_t n_out, tarn_error *err)
{
    if (ZSTD_findFrameCompressedSize(in, n) != n || tarni_load_u32(in) != ZSTD_MAGICNUMBER)
        return tarni_fail(err, TARN_E_CORRUPT, "payload: %zu bytes are not one zstd frame", n);
    size_t rc = ZSTD_decompressDCtx(c->dctx, out, n_out, in, n);
    if (ZSTD_isError(rc) && ZSTD_getErrorCode(rc) == ZSTD_error_memory_allocation)
        return tarni_fail(err, TARN_E_NO_MEMORY, "no memory to decode %zu bytes", n_out);
    if (ZSTD_isError(rc))
        return tarni_fail(err, TARN_E_CORRUPT, "payload: zstd: %s", ZSTD_getErrorName(rc));
    if (rc != n_out)
        return tarni_fail(err, TARN_E_CORRUPT, "payload: %zu bytes decoded, should be %zu", rc,
                          n_out);
    return TARN_OK;
}

/* Finds each plane of n bytes in the payload, or decodes it into the codec's buffer. */
static tarn_status read_planes(tarnp_codec *c, uint32_t width, const uint8_t *in, size_t n_bytes,
                               size_t n, const uint8_t *planes[PLANES_MAX], tarn_error *err)
{
    size_t at = 5 * (size_t)width;
    if (n_bytes < at)
        return tarni_fail(err, TARN_E_CORRUPT, "payload: %zu bytes are no planes of %zu bytes",
                          n_bytes, n);
    for (uint32_t p = 0; p < width; p++) {
        uint32_t method = in[p], stored = tarni_load_u32(in + width + 4 * p);
        uint8_t *own = c->planes + p * n;
        if (stored > n_bytes - at || (method == METHOD_RAW && stored != n) ||
            (method == METHOD_ZERO && stored != 0))
            return tarni_fail(err, TARN_E_CORRUPT, "payload: plane %u has %u bytes of %zu", p,
                              stored, n);
        planes[p] = own;
        if (method == METHOD_RAW)
            planes[p] = in + at;
        else if (method == METHOD_ZERO)
            memset(own, 0, n);
        else if (method == METHOD_ZSTD)
            TARNI_TRY(read_frame(c, in + at, stored, own, n, err));
        else
            return tarni_fail(err, TARN_E_FORMAT, "payload: plane %u is of unknown kind %u", p,
                              method);
        at += stored;
    }
    if (at != n_bytes)
        return tarni_fail(err, TARN_E_CORRUPT, "payload: %zu bytes too many", n_bytes - at);
    return TARN_OK;
}

static tarn_status decode_planes(tarnp_codec *c, uint32_t width, const uint8_t *in, size_t n_bytes,
                                 uint8_t *out, size_t raw_bytes, tarn_error *err)
{
    size_t n = raw_bytes / width;
    const uint8_t *planes[PLANES_MAX];
    if (raw_bytes % width != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "payload: %zu bytes are no elements of %u",
                          raw_bytes, width);
    TARNI_TRY(read_planes(c, width, in, n_bytes, n, planes, err));
    if (width == 4)
        merge4(out, n, planes[0], planes[1], planes[2], planes[3]);
    else
        merge2(out, n, planes[0], planes[1]);
    return TARN_OK;
}

static tarn_status decode_lossy(tarnp_codec *c, tarnp_state_codec codec, const uint8_t *in,
                                size_t n_bytes, uint8_t *out, size_t raw_bytes, tarn_error *err)
{
    size_t n = raw_bytes / 4;
    const uint8_t *planes[PLANES_MAX] = {0};
    uint32_t group = n_bytes >= 4 ? tarni_load_u32(in) : 0;
    if (raw_bytes % 4 != 0 || n_bytes < 4 || (group == 0) != (codec == TARNP_STATE_BF16))
        return tarni_fail(err, TARN_E_CORRUPT, "payload: %zu bytes in groups of %u for %zu bytes",
                          n_bytes, group, raw_bytes);
    size_t head = 4 + (group == 0 ? 0 : tarnp_lossy_table_bytes(codec, n, group));
    if (head > n_bytes)
        return tarni_fail(err, TARN_E_CORRUPT, "payload: %zu bytes, %zu of them before the planes",
                          n_bytes, head);
    TARNI_TRY(read_planes(c, tarnp_lossy_width(codec), in + head, n_bytes - head, n, planes, err));
    return tarnp_lossy_widen(codec, group, in + 4, planes[0], planes[1], n, out, err);
}

tarn_status tarnp_decode(tarnp_codec *c, uint32_t id, const uint8_t *payload, size_t n_bytes,
                         const tarnp_piece *pieces, size_t n_pieces, uint32_t raw_bytes,
                         tarn_error *err)
{
    TARN_ASSERT(raw_bytes <= TARNP_CHUNK_BYTES_MAX);
    uint8_t *out = n_pieces == 1 ? pieces[0].data : c->flat;
    switch (id) {
    case TARNP_CODEC_RAW:
        if (n_bytes != raw_bytes)
            return tarni_fail(err, TARN_E_CORRUPT, "payload: %zu raw bytes, should be %u", n_bytes,
                              raw_bytes);
        if (n_bytes > 0)
            memcpy(out, payload, n_bytes);
        break;
    case TARNP_CODEC_ZSTD:
        TARNI_TRY(read_frame(c, payload, n_bytes, out, raw_bytes, err));
        break;
    case TARNP_CODEC_PLANES4:
        TARNI_TRY(decode_planes(c, 4, payload, n_bytes, out, raw_bytes, err));
        break;
    case TARNP_CODEC_PLANES2:
        TARNI_TRY(decode_planes(c, 2, payload, n_bytes, out, raw_bytes, err));
        break;
    case TARNP_CODEC_BF16:
    case TARNP_CODEC_FP16:
    case TARNP_CODEC_INT8:
        TARNI_TRY(decode_lossy(c, (tarnp_state_codec)id, payload, n_bytes, out, raw_bytes, err));
        break;
    default:
        return tarni_fail(err, TARN_E_FORMAT, "payload: unknown codec %u", id);
    }
    for (size_t i = 0, at = 0; n_pieces != 1 && i < n_pieces; at += pieces[i].n_bytes, i++)
        if (pieces[i].n_bytes > 0)
            memcpy(pieces[i].data, c->flat + at, pieces[i].n_bytes);
    return TARN_OK;
}
