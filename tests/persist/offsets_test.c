/* The OFFSET SIZE FIELD tables beside the code, byte by byte: every record is written with known
 * values, and every byte of it is accounted for here. What fails here after a change is the stored
 * format: a new version, not a new test. */
#include "store_kit.h"

#include "handle.h"
#include "lease.h"
#include "node.h"

#include <xxhash.h>

static tarn_error err;

/* A record being checked: `done` marks the bytes a field has claimed. */
typedef struct record {
    const uint8_t *data;
    size_t n;
    uint8_t done[2048];
} record;

static record begin(const void *data, size_t n)
{
    record r = {.data = data, .n = n};
    CHECK(n <= sizeof r.done);
    return r;
}

static void take(record *r, size_t at, size_t size)
{
    if (at + size > r->n) {
        CHECK_FAIL("a field at %zu of %zu bytes in a record of %zu", at, size, r->n);
        return;
    }
    for (size_t i = at; i < at + size; i++) {
        if (r->done[i])
            CHECK_FAIL("byte %zu is in two fields", i);
        r->done[i] = 1;
    }
}

/* A little-endian number. */
static void number(record *r, size_t at, size_t size, uint64_t want)
{
    uint64_t got = 0;
    take(r, at, size);
    for (size_t i = 0; i < size && at + size <= r->n; i++)
        got |= (uint64_t)r->data[at + i] << 8 * i;
    if (got != want)
        CHECK_FAIL("at %zu: %llx, should be %llx", at, (unsigned long long)got,
                   (unsigned long long)want);
}

static void bytes(record *r, size_t at, size_t size, const void *want)
{
    take(r, at, size);
    if (at + size <= r->n && memcmp(r->data + at, want, size) != 0)
        CHECK_FAIL("at %zu: %zu bytes are not what was written", at, size);
}

static void text(record *r, size_t at, const char *want)
{
    number(r, at, 4, strlen(want));
    bytes(r, at + 4, strlen(want), want);
}

static void zeros(record *r, size_t at, size_t size)
{
    static const uint8_t none[64];
    bytes(r, at, size, none);
}

static void end(const record *r)
{
    for (size_t i = 0; i < r->n; i++)
        if (!r->done[i])
            CHECK_FAIL("byte %zu of %zu is in no field", i, r->n);
}

static void sum128(record *r, size_t at, size_t n_summed)
{
    XXH128_hash_t sum = XXH3_128bits(r->data, n_summed);
    number(r, at, 8, sum.low64);
    number(r, at + 8, 8, sum.high64);
}

CASE(chunk_header)
{
    uint8_t at[TARNP_CHUNK_HEAD_BYTES];
    tarnp_chunk_head head = {.id = 0x0102030405060708,
                             .codec = TARNP_CODEC_INT8,
                             .elem = TARNP_ELEM_F32,
                             .kind = TARNP_SECTION_STATE,
                             .first = 0x11121314,
                             .count = 0x21222324,
                             .raw_bytes = 0x31323334,
                             .payload_bytes = 0x41424344};
    for (uint8_t i = 0; i < 16; i++)
        head.payload_sum[i] = (uint8_t)(0xA0 + i);
    CHECK_EQ(sizeof at, 80);
    tarnp_chunk_head_put(&head, at);
    record r = begin(at, sizeof at);
    bytes(&r, 0, 4, "TCHK");
    number(&r, 4, 1, 1);
    number(&r, 5, 1, 6);
    number(&r, 6, 1, 3);
    zeros(&r, 7, 1);
    number(&r, 8, 4, 0x31323334);
    number(&r, 12, 4, 0x41424344);
    number(&r, 16, 8, 0x0102030405060708);
    bytes(&r, 24, 16, head.payload_sum);
    number(&r, 40, 1, 2);
    zeros(&r, 41, 3);
    number(&r, 44, 4, 0x11121314);
    number(&r, 48, 4, 0x21222324);
    zeros(&r, 52, 4);
    zeros(&r, 56, 16);
    number(&r, 72, 8, XXH3_64bits(at, 72));
    end(&r);
}

CASE(manifest)
{
    static char *ids[] = {"call-a", ""};
    static const tarnp_segment segments[] = {
        {.role = TARN_ROLE_USER, .flags = TARNP_SEGMENT_CLOSED, .n_tokens = 0x0102},
        {.role = TARN_ROLE_TOOL, .n_tokens = 3, .n_call_ids = 2, .call_ids = ids}};
    static const tarnp_section sections[] = {{.kind = TARNP_SECTION_TOKENS,
                                              .elem = TARNP_ELEM_U32,
                                              .codec = TARNP_STATE_LOSSLESS,
                                              .n_chunks = 1},
                                             {.kind = TARNP_SECTION_STATE,
                                              .elem = TARNP_ELEM_F32,
                                              .codec = TARNP_STATE_FP16,
                                              .max_error = 0.125F,
                                              .row_elems = 0x71727374,
                                              .unit_elems = 0x75767778,
                                              .n_chunks = 1}};
    tarnp_chunk_ref refs[2] = {
        {.first = 0x81, .count = 0x82, .raw_bytes = 0x83, .stored_bytes = 0x84},
        {.first = 0x91, .count = 0x92, .raw_bytes = 0x93, .stored_bytes = 0x94}};
    memset(refs[0].sum, 0x85, 16);
    memset(refs[1].sum, 0x95, 16);
    tarnp_manifest m = {.id = 0x1112131415161718,
                        .parent = 0x0112131415161718,
                        .session_id = 0x2122232425262728,
                        .position = 0x3132333435363738,
                        .n_tokens = 0x0105,
                        .turns = 0x41424344,
                        .flags = 3,
                        .created_ms = 0x5152535455565758,
                        .chunk_bytes = 0x118,
                        .first_chunk = 0xC1C2C3C4C5C6C7C8,
                        .n_segments = 2,
                        .n_sections = 2,
                        .n_chunks = 2,
                        .numerics = "cpu/f32"};
    memset(m.key, 0xD1, sizeof m.key);
    memset(m.fp, 0xE1, sizeof m.fp);
    memset(m.prefix, 0xF1, sizeof m.prefix);
    tarni_writer w;
    tarni_writer_init(&w, &tarni_heap);
    CHECK_STATUS(tarnp_manifest_put(&w, &m, segments, sections, refs, &err), TARN_OK);
    record r = begin(w.data, w.n_bytes);
    size_t n_segments = 8 + (8 + 4 + 6 + 4), at = 256 + n_segments;
    bytes(&r, 0, 4, "TNOD");
    number(&r, 4, 2, 1);
    number(&r, 6, 1, 3);
    zeros(&r, 7, 1);
    number(&r, 8, 4, w.n_bytes);
    number(&r, 12, 4, 0x0105);
    number(&r, 16, 8, m.id);
    number(&r, 24, 8, m.parent);
    number(&r, 32, 8, m.session_id);
    number(&r, 40, 8, m.position);
    number(&r, 48, 4, m.turns);
    number(&r, 52, 4, 2);
    number(&r, 56, 8, m.created_ms);
    number(&r, 64, 8, 0x118);
    number(&r, 72, 8, m.first_chunk);
    number(&r, 80, 4, 2);
    number(&r, 84, 4, 2);
    bytes(&r, 88, 16, m.key);
    bytes(&r, 104, 32, m.fp);
    bytes(&r, 136, 64, m.numerics);
    bytes(&r, 200, 32, m.prefix);
    zeros(&r, 232, 4);
    zeros(&r, 236, 16);
    zeros(&r, 252, 4);
    number(&r, 256, 1, TARN_ROLE_USER);
    number(&r, 257, 1, TARNP_SEGMENT_CLOSED);
    number(&r, 258, 2, 0);
    number(&r, 260, 4, 0x0102);
    number(&r, 264, 1, TARN_ROLE_TOOL);
    number(&r, 265, 1, 0);
    number(&r, 266, 2, 2);
    number(&r, 268, 4, 3);
    text(&r, 272, "call-a");
    text(&r, 282, "");
    for (size_t i = 0; i < 2; i++, at += 24) {
        const tarnp_section *s = &sections[i];
        number(&r, at, 1, s->kind);
        number(&r, at + 1, 1, s->elem);
        number(&r, at + 2, 1, s->codec);
        zeros(&r, at + 3, 1);
        number(&r, at + 4, 4, s->n_chunks);
        number(&r, at + 8, 4, i == 0 ? 0 : 0x3E000000);
        number(&r, at + 12, 4, s->row_elems);
        number(&r, at + 16, 4, s->unit_elems);
        zeros(&r, at + 20, 4);
    }
    for (size_t i = 0; i < 2; i++, at += 32) {
        number(&r, at, 4, refs[i].first);
        number(&r, at + 4, 4, refs[i].count);
        number(&r, at + 8, 4, refs[i].raw_bytes);
        number(&r, at + 12, 4, refs[i].stored_bytes);
        bytes(&r, at + 16, 16, refs[i].sum);
    }
    sum128(&r, at, at);
    CHECK_EQ(at + 16, w.n_bytes);
    end(&r);
    tarni_writer_fini(&w);
}

/* ---- small records, as the tables hand them out --------------------------------------------- */

static record get(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes)
{
    tarnp_span value = {0};
    CHECK_STATUS(tarnp_get(txn, table, key, key_bytes, &value, &err), TARN_OK);
    if (!value.data) {
        CHECK_FAIL("there is no record of this key in table %d", (int)table);
        value = (tarnp_span){(const uint8_t *)"", 0};
    }
    return begin(value.data, value.n_bytes);
}

CASE(meta_records)
{
    kit k;
    tarnp_write w;
    REQUIRE(kit_begin(&k));
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &err), &err);
    tarnp_format format = {.major = 0x0102,
                           .minor = 0x0304,
                           .compat = 0x1112131415161718,
                           .ro_compat = 0x2122232425262728,
                           .incompat = 0x3132333435363738};
    memset(format.uuid, 0x41, sizeof format.uuid);
    memset(format.salt, 0x51, sizeof format.salt);
    CHECK_STATUS(tarnp_format_put(&w.txn, &format, &err), TARN_OK);
    record r = get(&w.txn, TARNP_TABLE_META, "format", 6);
    bytes(&r, 0, 16, "tarn store\0\0\0\0\0");
    number(&r, 16, 2, 0x0102);
    number(&r, 18, 2, 0x0304);
    zeros(&r, 20, 4);
    number(&r, 24, 8, format.compat);
    number(&r, 32, 8, format.ro_compat);
    number(&r, 40, 8, format.incompat);
    bytes(&r, 48, 16, format.uuid);
    bytes(&r, 64, 32, format.salt);
    end(&r);

    tarnp_counters counters = {.txn = 0x101,
                               .next_node = 0x102,
                               .next_chunk = 0x103,
                               .next_session = 0x104,
                               .sessions = 0x105,
                               .nodes = 0x106,
                               .chunks = 0x107,
                               .bytes_stored = 0x108,
                               .bytes_written = 0x109};
    CHECK_STATUS(tarnp_counters_put(&w.txn, &counters, &err), TARN_OK);
    r = get(&w.txn, TARNP_TABLE_META, "counters", 8);
    for (size_t i = 0; i < 9; i++)
        number(&r, 8 * i, 8, 0x101 + i);
    end(&r);

    const tarnp_policy policy = {TARNP_STATE_INT8, TARNP_STATE_LOSSLESS};
    CHECK_STATUS(tarnp_policy_put(&w.txn, &policy, &err), TARN_OK);
    r = get(&w.txn, TARNP_TABLE_META, "policy", 6);
    number(&r, 0, 2, 1);
    number(&r, 2, 1, 6);
    number(&r, 3, 1, 1);
    zeros(&r, 4, 4);
    end(&r);
    tarnp_write_abort(&w, TARN_OK);
    kit_end(&k);
}

CASE(session_record)
{
    kit k;
    tarnp_write w;
    static tarnp_tag tags[] = {{"team", "red"}, {"k", ""}};
    tarnp_session s = {.id = 0x0102030405060708,
                       .name = "name",
                       .head = 0x1112131415161718,
                       .position = 0x2122232425262728,
                       .turns = 0x31323334,
                       .pinned = true,
                       .created_ms = 0x4142434445464748,
                       .updated_ms = 0x5152535455565758,
                       .bytes_owned = 0x6162636465666768,
                       .bytes_shared = 0x7172737475767778,
                       .expires_ms = 0x0192939495969798,
                       .group = "group",
                       .n_tags = 2,
                       .tags = tags};
    memset(s.fp, 0x81, sizeof s.fp);
    REQUIRE(kit_begin(&k));
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &err), &err);
    CHECK_STATUS(tarnp_session_record_put(&w.txn, &s, &tarni_heap, &err), TARN_OK);
    static const uint8_t key[8] = {1, 2, 3, 4, 5, 6, 7, 8}; /* ids as keys are big-endian */
    record r = get(&w.txn, TARNP_TABLE_SESSION, key, 8);
    number(&r, 0, 2, 1);
    number(&r, 2, 2, 1);
    number(&r, 4, 4, 0x31323334);
    number(&r, 8, 8, s.id);
    number(&r, 16, 8, s.head);
    number(&r, 24, 8, s.position);
    number(&r, 32, 8, s.created_ms);
    number(&r, 40, 8, s.updated_ms);
    number(&r, 48, 8, s.bytes_owned);
    number(&r, 56, 8, s.bytes_shared);
    bytes(&r, 64, 32, s.fp);
    number(&r, 96, 8, s.expires_ms);
    text(&r, 104, "name");
    text(&r, 112, "group");
    number(&r, 121, 4, 2);
    text(&r, 125, "team");
    text(&r, 133, "red");
    text(&r, 140, "k");
    text(&r, 145, "");
    end(&r);
    tarnp_write_abort(&w, TARN_OK);
    kit_end(&k);
}

CASE(pairs_and_ids)
{
    kit k;
    tarnp_write w;
    static const uint8_t key[8] = {0, 0, 0, 0, 0, 0, 0x01, 0x02};
    REQUIRE(kit_begin(&k));
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &err), &err);
    CHECK_STATUS(
        tarnp_ref_put(&w.txn, 0x102, (tarnp_ref){.refs = 0x11, .own_children = 0x12}, &err),
        TARN_OK);
    record r = get(&w.txn, TARNP_TABLE_REF, key, 8);
    number(&r, 0, 8, 0x11);
    number(&r, 8, 8, 0x12);
    end(&r);
    CHECK_STATUS(
        tarnp_drop_put(&w.txn, 0x102,
                       (tarnp_drop){.drops = 0x21, .chunks_done = 0x22, .evict_next = 0x23}, &err),
        TARN_OK);
    r = get(&w.txn, TARNP_TABLE_GCQ, key, 8);
    number(&r, 0, 8, 0x21);
    number(&r, 8, 8, 0x22);
    number(&r, 16, 8, 0x23);
    end(&r);
    CHECK_STATUS(tarnp_id_put(&w.txn, TARNP_TABLE_NAME, "n", 1, 0x3132333435363738, &err), TARN_OK);
    r = get(&w.txn, TARNP_TABLE_NAME, "n", 1);
    number(&r, 0, 8, 0x3132333435363738);
    end(&r);
    tarnp_write_abort(&w, TARN_OK);
    kit_end(&k);
}

CASE(lease_record)
{
    kit k;
    tarnp_write w;
    static const uint8_t key[8] = {0, 0, 0, 0, 0, 0, 0x01, 0x02};
    tarnp_lease_record lease = {.lease = {.session_id = 0x102,
                                          .pid = 0x11121314,
                                          .taken_ms = 0x2122232425262728,
                                          .ends_ms = 0x3132333435363738,
                                          .host = "host",
                                          .note = "n"},
                                .holder = {.pid = 0x11121314,
                                           .started = 0x4142434445464748,
                                           .pid_space = 0x5152535455565758}};
    memset(lease.holder.boot, 0x61, sizeof lease.holder.boot);
    memset(lease.lease.token, 0x71, sizeof lease.lease.token);
    REQUIRE(kit_begin(&k));
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &err), &err);
    CHECK_STATUS(tarnp_lease_put(&w.txn, &lease, &tarni_heap, &err), TARN_OK);
    record r = get(&w.txn, TARNP_TABLE_LEASE, key, 8);
    number(&r, 0, 2, 1);
    zeros(&r, 2, 2);
    number(&r, 4, 4, lease.holder.pid);
    number(&r, 8, 8, lease.holder.started);
    bytes(&r, 16, 16, lease.holder.boot);
    number(&r, 32, 8, lease.holder.pid_space);
    bytes(&r, 40, 16, lease.lease.token);
    number(&r, 56, 8, lease.lease.taken_ms);
    number(&r, 64, 8, lease.lease.ends_ms);
    text(&r, 72, "host");
    text(&r, 80, "n");
    end(&r);
    tarnp_write_abort(&w, TARN_OK);
    kit_end(&k);
}

/* ---- payloads ------------------------------------------------------------------------------- */

/* Encodes floats that no coder makes smaller, so that all planes but constant ones are raw. */
static size_t encode(tarnp_codec *c, const float *in, size_t n, tarnp_state_codec how,
                     uint8_t *payload, uint32_t want_id)
{
    const tarnp_lossy lossy = {how, 4, 8};
    tarnp_piece piece = {(void *)(uintptr_t)in, 4 * n};
    tarnp_encoded made;
    CHECK_STATUS(tarnp_encode(c, TARNP_ELEM_F32, how == TARNP_STATE_LOSSLESS ? NULL : &lossy,
                              &piece, 1, (uint32_t)(4 * n), payload, &made, &err),
                 TARN_OK);
    CHECK_EQ(made.id, want_id);
    return made.n_bytes;
}

CASE(payloads)
{
    /* 1.0 and -2.5 in turns: 0x3F800000 and 0xC0200000, rotated left 0x7F000000 and 0x80400001 */
    enum { N = 24 };
    float in[N];
    uint8_t payload[4 * N];
    tarnp_codec *c;
    REQUIRE_OK(tarnp_codec_create(&tarni_heap, &c, &err), &err);
    for (int i = 0; i < N; i++)
        in[i] = i % 2 ? -2.5F : 1.0F;

    record r = begin(payload, encode(c, in, N, TARNP_STATE_LOSSLESS, payload, 2));
    static const uint8_t methods4[] = {0, 2, 0, 0}; /* raw, all zero, raw, raw */
    bytes(&r, 0, 4, methods4);
    for (size_t p = 0; p < 4; p++)
        number(&r, 4 + 4 * p, 4, p == 1 ? 0 : N);
    for (size_t i = 0; i < N; i++) { /* plane 1 takes no room */
        number(&r, 20 + i, 1, i % 2);
        number(&r, 20 + N + i, 1, i % 2 ? 0x40 : 0);
        number(&r, 20 + 2 * N + i, 1, i % 2 ? 0x80 : 0x7F);
    }
    end(&r);

    r = begin(payload, encode(c, in, N, TARNP_STATE_BF16, payload, 4));
    number(&r, 0, 4, 0);
    zeros(&r, 4, 2);
    number(&r, 6, 4, N);
    number(&r, 10, 4, N);
    for (size_t i = 0; i < N; i++) { /* 0x3F80 and 0xC020: 0x7F00 and 0x8041 */
        number(&r, 14 + i, 1, i % 2 ? 0x41 : 0);
        number(&r, 14 + N + i, 1, i % 2 ? 0x80 : 0x7F);
    }
    end(&r);

    /* The largest, 2.5, becomes 1.25 * 2^14, a half of 0x7500; 1.0 is 2^13, 0x7000. */
    r = begin(payload, encode(c, in, N, TARNP_STATE_FP16, payload, 5));
    number(&r, 0, 4, 8);
    for (size_t unit = 0; unit < N / 8; unit++)
        number(&r, 4 + 2 * unit, 2, (uint16_t)-13);
    zeros(&r, 10, 2);
    number(&r, 12, 4, N);
    number(&r, 16, 4, N);
    for (size_t i = 0; i < N; i++) { /* 0x7000 and 0xF500: 0xE000 and 0xEA01 */
        number(&r, 20 + i, 1, i % 2);
        number(&r, 20 + N + i, 1, i % 2 ? 0xEA : 0xE0);
    }
    end(&r);

    r = begin(payload, encode(c, in, N, TARNP_STATE_INT8, payload, 6));
    number(&r, 0, 4, 4);
    for (size_t row = 0; row < N / 4; row++)
        number(&r, 4 + 4 * row, 4, 0x3CA14285); /* 2.5 / 127 */
    zeros(&r, 28, 1);
    number(&r, 29, 4, N);
    for (size_t i = 0; i < N; i++)
        number(&r, 33 + i, 1, i % 2 ? 0x81 : 51);
    end(&r);
    tarnp_codec_free(c);
}

CHECK_MAIN(ENTRY(chunk_header), ENTRY(manifest), ENTRY(meta_records), ENTRY(session_record),
           ENTRY(pairs_and_ids), ENTRY(lease_record), ENTRY(payloads))
