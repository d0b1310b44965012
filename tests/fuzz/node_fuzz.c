/* What a node is made of, as bytes from anywhere: a manifest and a chunk's value, or a record.
 *
 *     1 byte: which, and what is repaired
 *     low 4 bits   0: manifest and chunk; 2 bytes length of the manifest, the manifest, the value
 *                  1: session  2: references  3: queue  4: lease
 *                  5: a payload, decoded; 1 byte codec, 1 elem, 3 raw bytes, the payload
 *                  6: the same bytes encoded; 1 byte codec asked for, 1 elem, 2 row, the raw bytes
 *     bit 4        checksums are made to fit
 *
 * A manifest that is accepted can be asked for everything and be rewritten; what was encoded
 * without loss decodes to what it was. */
#include "fuzz_input.h"

#include "lease.h"
#include "node.h"

enum { WHICH = 15, REPAIR = 16 };

static tarnp_codec *codec;
static tarn_error err;

static uint8_t *copy_of(const void *data, size_t n_bytes)
{
    uint8_t *copy = malloc(n_bytes > 0 ? n_bytes : 1);
    FUZZ_CHECK(copy, "no memory");
    if (n_bytes > 0)
        memcpy(copy, data, n_bytes);
    return copy;
}

/* ---- manifests ------------------------------------------------------------------------------ */

/* Everything that may be done with a manifest that was accepted. */
static void use_manifest(uint8_t *at, size_t n_bytes, tarnp_manifest m)
{
    tarnp_span value = {at, n_bytes};
    uint64_t begin = 0, end = 0, stored = 0;
    for (uint32_t i = 0; i < m.n_chunks; i++) {
        tarnp_chunk_ref ref;
        tarnp_manifest_chunk(value, &m, i, &ref);
        stored += ref.evicted ? 0 : ref.stored_bytes;
    }
    FUZZ_CHECK(stored == m.chunk_bytes, "the chunks do not add up");
    if (tarnp_manifest_latents(value, &m, &begin, &end))
        FUZZ_CHECK(begin <= end, "latents end before they begin");
    FUZZ_CHECK(tarnp_manifest_same(value, &m, value, &m), "not the same as itself");
    uint8_t *sums = calloc((size_t)m.n_chunks + 1, TARNP_SUM_BYTES);
    FUZZ_CHECK(sums, "no memory");
    for (unsigned parts = 1; parts <= 3; parts++) {
        uint64_t gone = tarnp_manifest_part_bytes(value, &m, parts), before = m.chunk_bytes;
        tarnp_manifest_evict(at, &m, parts);
        FUZZ_CHECK(m.chunk_bytes == before - gone, "evicting frees something else");
        FUZZ_CHECK(tarnp_manifest_get(value, m.id, &m, &err) == TARN_OK, "%s", err.detail);
    }
    tarnp_manifest_renumber(at, &m, sums);
    FUZZ_CHECK(tarnp_manifest_get(value, m.id, &m, &err) == TARN_OK, "%s", err.detail);
    free(sums);
}

static void use_chunk(tarnp_span value, const tarnp_chunk_ref *want)
{
    tarnp_chunk_head head;
    if (tarnp_chunk_check(value, want, &head, &err) != TARN_OK)
        return;
    FUZZ_CHECK(head.raw_bytes <= TARNP_CHUNK_BYTES_MAX, "a chunk of %u bytes", head.raw_bytes);
    uint8_t *raw = malloc(head.raw_bytes + (size_t)1);
    FUZZ_CHECK(raw, "no memory");
    const tarnp_piece piece = {raw, head.raw_bytes};
    (void)!tarnp_decode(codec, head.codec, value.data + TARNP_CHUNK_HEAD_BYTES, head.payload_bytes,
                        &piece, 1, head.raw_bytes, &err);
    free(raw);
}

static void try_manifest(fuzz_input in, bool repair)
{
    tarnp_manifest m;
    tarnp_node node;
    size_t n = fuzz_take(&in, 2);
    n = n < in.n_bytes ? n : in.n_bytes;
    uint8_t *manifest = copy_of(in.data, n), *chunk = copy_of(in.data + n, in.n_bytes - n);
    size_t n_chunk = in.n_bytes - n;
    if (repair && n_chunk >= TARNP_CHUNK_HEAD_BYTES) {
        tarnp_sum128(chunk + TARNP_CHUNK_HEAD_BYTES, n_chunk - TARNP_CHUNK_HEAD_BYTES, chunk + 24);
        tarni_store_u64(chunk + 72, tarnp_sum64(chunk, 72, 0));
        if (n >= TARNP_MANIFEST_HEAD_BYTES + TARNP_SUM_BYTES + 32) /* the last entry is of it */
            tarnp_sum128(chunk, TARNP_CHUNK_HEAD_BYTES, manifest + n - 2 * TARNP_SUM_BYTES);
    }
    if (repair && n >= TARNP_MANIFEST_HEAD_BYTES + TARNP_SUM_BYTES) {
        tarni_store_u32(manifest + 8, (uint32_t)n);
        tarnp_sum128(manifest, n - TARNP_SUM_BYTES, manifest + n - TARNP_SUM_BYTES);
    }
    uint64_t id = n >= 24 ? tarni_load_u64(manifest + 16) : 1;
    const tarnp_span value = {manifest, n};
    bool readable = tarnp_manifest_node(value, id, &tarni_heap, &node, &err) == TARN_OK;
    tarnp_node_fini(&node);
    if (tarnp_manifest_get(value, id, &m, &err) == TARN_OK) {
        if (m.n_chunks > 0) {
            tarnp_chunk_ref want;
            tarnp_manifest_chunk(value, &m, m.n_chunks - 1, &want);
            use_chunk((tarnp_span){chunk, n_chunk}, &want);
        }
        use_manifest(manifest, n, m);
    } else {
        FUZZ_CHECK(!readable, "a node of a manifest that is refused");
    }
    free(manifest);
    free(chunk);
}

/* ---- records -------------------------------------------------------------------------------- */

static void try_record(unsigned which, fuzz_input in)
{
    uint8_t *copy = copy_of(in.data, in.n_bytes);
    const tarnp_span value = {copy, in.n_bytes};
    tarnp_session session;
    tarnp_ref ref;
    tarnp_drop drop;
    tarnp_lease_record lease;
    if (which == 1 && tarnp_session_record_get(value, 1, &tarni_heap, &session, &err) == TARN_OK) {
        FUZZ_CHECK(strlen(session.name) <= TARNP_NAME_BYTES_MAX, "a long name");
        tarnp_session_fini(&session);
    } else if (which == 2) {
        (void)!tarnp_ref_decode(value, 1, &ref, &err);
    } else if (which == 3) {
        (void)!tarnp_drop_decode(value, 1, &drop, &err);
    } else if (which == 4 && tarnp_lease_decode(value, 1, &lease, &err) == TARN_OK) {
        FUZZ_CHECK(strlen(lease.lease.host) < TARNP_HOST_BYTES, "a long host");
    }
    free(copy);
}

/* ---- codecs --------------------------------------------------------------------------------- */

static void try_payload(fuzz_input in)
{
    uint32_t id = fuzz_take(&in, 1), elem = fuzz_take(&in, 1);
    uint32_t n = fuzz_take(&in, 3) % (TARNP_CHUNK_BYTES_MAX + 1);
    uint8_t *payload = copy_of(in.data, in.n_bytes), *raw = malloc(n + (size_t)1);
    FUZZ_CHECK(raw, "no memory");
    size_t half = n / 2, elem_bytes = tarnp_elem_bytes((tarnp_elem)elem);
    half -= elem_bytes > 0 ? half % elem_bytes : 0;
    const tarnp_piece pieces[2] = {{raw, half}, {raw + half, n - half}};
    (void)!tarnp_decode(codec, id, payload, in.n_bytes, pieces, 2, n, &err);
    free(payload);
    free(raw);
}

static void try_encoding(fuzz_input in)
{
    static const tarnp_state_codec kinds[] = {TARNP_STATE_LOSSLESS, TARNP_STATE_BF16,
                                              TARNP_STATE_FP16, TARNP_STATE_INT8};
    tarnp_lossy how = {.codec = kinds[fuzz_take(&in, 1) % 4]};
    tarnp_elem elem = (tarnp_elem)(1 + fuzz_take(&in, 1) % 4);
    how.row_elems = 1 + fuzz_take(&in, 1) % 64;
    how.unit_elems = how.row_elems * (1 + fuzz_take(&in, 1) % 16);
    size_t n = in.n_bytes - in.n_bytes % tarnp_elem_bytes(elem);
    n = n < TARNP_CHUNK_BYTES_MAX ? n : TARNP_CHUNK_BYTES_MAX;
    uint8_t *raw = copy_of(in.data, n), *payload = malloc(n + 1), *back = malloc(n + 1);
    FUZZ_CHECK(payload && back, "no memory");
    const tarnp_piece from = {raw, n}, to = {back, n};
    bool lossy = how.codec != TARNP_STATE_LOSSLESS && elem == TARNP_ELEM_F32;
    tarnp_encoded made;
    FUZZ_CHECK(tarnp_encode(codec, elem, lossy ? &how : NULL, &from, 1, (uint32_t)n, payload, &made,
                            &err) == TARN_OK,
               "%s", err.detail);
    FUZZ_CHECK(made.n_bytes <= n, "larger than it was");
    FUZZ_CHECK(tarnp_decode(codec, made.id, payload, made.n_bytes, &to, 1, (uint32_t)n, &err) ==
                   TARN_OK,
               "%s", err.detail);
    bool kept = made.id < TARNP_CODEC_BF16;
    FUZZ_CHECK(!kept || memcmp(raw, back, n) == 0, "codec %d lost something", (int)made.id);
    FUZZ_CHECK(made.max_error >= 0 && made.max_error <= 0x1p-7F, "an error of %g",
               (double)made.max_error);
    free(raw);
    free(payload);
    free(back);
}

static void free_codec(void)
{
    tarnp_codec_free(codec);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    fuzz_input in = {data, n_bytes};
    unsigned first = fuzz_take(&in, 1), which = first & WHICH;
    if (!codec) {
        FUZZ_CHECK(tarnp_codec_create(&tarni_heap, &codec, &err) == TARN_OK, "%s", err.detail);
        atexit(free_codec);
    }
    if (which == 0)
        try_manifest(in, first & REPAIR);
    else if (which <= 4)
        try_record(which, in);
    else if (which == 5)
        try_payload(in);
    else if (which == 6)
        try_encoding(in);
    return 0;
}
