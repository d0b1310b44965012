/* node.c
 *
 * The tables of sections and chunks stand at the end, where they are found from the counts alone:
 * a chunk's entry is read without decoding the segments. */
#include "node.h"

#include <assert.h>
#include <string.h>

#define MAGIC            0x444F4E54u /* "TNOD" */
#define VERSION          1
#define PLAIN_BYTES      232 /* of the head, before key id and nonce */
#define HEAD_BYTES       TARNP_MANIFEST_HEAD_BYTES
#define SEGMENT_BYTES    8
#define SECTION_BYTES    24
#define CHUNK_BYTES      32
#define CHUNK_SUM        16 /* where the sum stands in it */
#define AT_FLAGS         6
#define AT_CHUNK_BYTES   64
#define AT_FIRST_CHUNK   72
#define AT_KEY           88
#define AT_PREFIX        200
#define AT_SECTION_FLAGS 3
#define SECTION_EVICTED  1
#define ONE_BITS         0x3F800000u /* of 1.0F: above it are larger, negative and no numbers */

static_assert(sizeof((tarnp_manifest *)0)->numerics == 64, "numerics is a field of 64 bytes");

/* Of both tables: less than 2^38, whatever the counts are. */
static uint64_t table_bytes(const tarnp_manifest *m)
{
    return (uint64_t)m->n_sections * SECTION_BYTES + (uint64_t)m->n_chunks * CHUNK_BYTES;
}

/* ---- writing -------------------------------------------------------------------------------- */

static void put_head(tarni_writer *w, const tarnp_manifest *m)
{
    tarni_put_u32(w, MAGIC);
    tarni_put_u16(w, VERSION);
    tarni_put_u8(w, m->flags);
    tarni_put_u8(w, 0);
    tarni_put_u32(w, m->n_bytes);
    tarni_put_u32(w, m->n_tokens);
    tarni_put_u64(w, m->id);
    tarni_put_u64(w, m->parent);
    tarni_put_u64(w, m->session_id);
    tarni_put_u64(w, m->position);
    tarni_put_u32(w, m->turns);
    tarni_put_u32(w, m->n_segments);
    tarni_put_u64(w, m->created_ms);
    tarni_put_u64(w, m->chunk_bytes);
    tarni_put_u64(w, m->first_chunk);
    tarni_put_u32(w, m->n_sections);
    tarni_put_u32(w, m->n_chunks);
    tarni_put_bytes(w, m->key, sizeof m->key);
    tarni_put_bytes(w, m->fp, sizeof m->fp);
    tarni_put_bytes(w, m->numerics, sizeof m->numerics);
    tarni_put_bytes(w, m->prefix, sizeof m->prefix);
    static const uint8_t no_key[HEAD_BYTES - PLAIN_BYTES] = {0};
    tarni_put_bytes(w, no_key, sizeof no_key);
}

static tarn_status check_call_ids(const tarnp_segment *segments, uint32_t n, tarn_error *err)
{
    for (uint32_t i = 0; i < n; i++)
        if (segments[i].n_call_ids > UINT16_MAX)
            return tarni_fail(err, TARN_E_LIMIT, "segment %u has %zu call ids, the limit is %d", i,
                              segments[i].n_call_ids, UINT16_MAX);
    return TARN_OK;
}

static void put_segments(tarni_writer *w, const tarnp_segment *segments, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const tarnp_segment *s = &segments[i];
        tarni_put_u8(w, (uint8_t)s->role);
        tarni_put_u8(w, s->flags);
        tarni_put_u16(w, (uint16_t)s->n_call_ids);
        tarni_put_u32(w, s->n_tokens);
        for (size_t k = 0; k < s->n_call_ids; k++)
            tarni_put_text(w, s->call_ids[k], strlen(s->call_ids[k]));
    }
}

static void put_tables(tarni_writer *w, const tarnp_manifest *m, const tarnp_section *sections,
                       const tarnp_chunk_ref *chunks)
{
    for (uint32_t i = 0; i < m->n_sections; i++) {
        tarni_put_u8(w, (uint8_t)sections[i].kind);
        tarni_put_u8(w, (uint8_t)sections[i].elem);
        tarni_put_u8(w, (uint8_t)sections[i].codec);
        tarni_put_u8(w, 0);
        tarni_put_u32(w, (uint32_t)sections[i].n_chunks);
        tarni_put_f32(w, sections[i].max_error);
        tarni_put_u32(w, sections[i].row_elems);
        tarni_put_u32(w, sections[i].unit_elems);
        tarni_put_u32(w, 0);
    }
    for (uint32_t i = 0; i < m->n_chunks; i++) {
        tarni_put_u32(w, chunks[i].first);
        tarni_put_u32(w, chunks[i].count);
        tarni_put_u32(w, chunks[i].raw_bytes);
        tarni_put_u32(w, chunks[i].stored_bytes);
        tarni_put_bytes(w, chunks[i].sum, TARNP_SUM_BYTES);
    }
}

tarn_status tarnp_manifest_measure(tarnp_manifest *m, const tarnp_segment *segments,
                                   tarn_error *err)
{
    tarni_writer counter;
    TARNI_TRY(check_call_ids(segments, m->n_segments, err));
    tarni_writer_init_counting(&counter);
    put_head(&counter, m);
    put_segments(&counter, segments, m->n_segments);
    uint64_t n_bytes = counter.n_bytes + table_bytes(m) + TARNP_SUM_BYTES;
    if (n_bytes > UINT32_MAX)
        return tarni_fail(err, TARN_E_LIMIT, "a node of %u segments and %u chunks is too large",
                          m->n_segments, m->n_chunks);
    m->n_bytes = (uint32_t)n_bytes;
    return TARN_OK;
}

tarn_status tarnp_manifest_put(tarni_writer *w, tarnp_manifest *m, const tarnp_segment *segments,
                               const tarnp_section *sections, const tarnp_chunk_ref *chunks,
                               tarn_error *err)
{
    TARNI_TRY(tarnp_manifest_measure(m, segments, err));
    put_head(w, m);
    put_segments(w, segments, m->n_segments);
    put_tables(w, m, sections, chunks);
    uint8_t sum[TARNP_SUM_BYTES];
    if (!w->failed)
        tarnp_sum128(w->data, w->n_bytes, sum);
    tarni_put_bytes(w, sum, sizeof sum);
    return w->failed ? tarni_fail_memory(err, m->n_bytes) : TARN_OK;
}

/* ---- reading -------------------------------------------------------------------------------- */

static tarn_status damaged(tarn_error *err, uint64_t id, const char *what)
{
    return tarni_fail(err, TARN_E_CORRUPT, "node %llu: manifest: %s", (unsigned long long)id, what);
}

/* Where the section table starts; the counts have been checked against the length. */
static size_t sections_at(const tarnp_manifest *m)
{
    return m->n_bytes - TARNP_SUM_BYTES - (size_t)table_bytes(m);
}

/* Goes over the chunks together with the section each is of. */
typedef struct tables_walk {
    const uint8_t *section, *chunk;
    uint32_t left; /* chunks of the section behind this one */
    bool begun;
} tables_walk;

static tables_walk walk_tables(const uint8_t *value, const tarnp_manifest *m)
{
    const uint8_t *section = value + sections_at(m);
    return (tables_walk){section, section + (size_t)m->n_sections * SECTION_BYTES, 0, false};
}

/* To the next chunk, of which there must be one. */
static void step_chunk(tables_walk *at)
{
    if (at->begun) {
        at->chunk += CHUNK_BYTES;
    } else {
        at->left = tarni_load_u32(at->section + 4);
        at->begun = true;
    }
    while (at->left == 0) {
        at->section += SECTION_BYTES;
        at->left = tarni_load_u32(at->section + 4);
    }
    at->left--;
}

static bool is_evicted(const uint8_t *section)
{
    return (section[AT_SECTION_FLAGS] & SECTION_EVICTED) != 0;
}

static bool of_parts(const uint8_t *section, unsigned parts)
{
    return (parts & tarnp_part_of((tarnp_section_kind)section[0])) != 0;
}

static tarn_status check_sections(tarnp_span value, uint64_t id, const tarnp_manifest *m,
                                  tarn_error *err)
{
    const uint8_t *at = value.data + sections_at(m);
    uint64_t n_chunks = 0;
    for (uint32_t i = 0; i < m->n_sections; i++, at += SECTION_BYTES) {
        if (tarnp_elem_bytes((tarnp_elem)at[1]) == 0)
            return tarni_fail(err, TARN_E_FORMAT, "node %llu: section %u has unknown elements %u",
                              (unsigned long long)id, i, at[1]);
        if (!tarnp_is_state_codec(at[2]))
            return tarni_fail(err, TARN_E_FORMAT, "node %llu: section %u has unknown codec %u",
                              (unsigned long long)id, i, at[2]);
        if (at[AT_SECTION_FLAGS] > SECTION_EVICTED)
            return tarni_fail(err, TARN_E_FORMAT, "node %llu: section %u has unknown flags %u",
                              (unsigned long long)id, i, at[AT_SECTION_FLAGS]);
        if (tarni_load_u32(at + 8) > ONE_BITS)
            return damaged(err, id, "the error of a section is no share");
        if (is_evicted(at) && tarnp_part_of((tarnp_section_kind)at[0]) == 0)
            return damaged(err, id, "a section that cannot be evicted claims to be");
        n_chunks += tarni_load_u32(at + 4);
    }
    if (n_chunks != m->n_chunks)
        return damaged(err, id, "the sections do not add up to its chunks");
    return TARN_OK;
}

static tarn_status check_head(tarnp_span value, uint64_t id, const tarnp_manifest *m,
                              tarn_error *err)
{
    if (m->id != id)
        return damaged(err, id, "belongs to another node");
    if (m->parent >= id)
        return damaged(err, id, "the parent is younger than the node");
    if (m->numerics[sizeof m->numerics - 1] != 0)
        return damaged(err, id, "numerics does not end");
    if (table_bytes(m) > value.n_bytes - HEAD_BYTES - TARNP_SUM_BYTES)
        return damaged(err, id, "more chunks than it has bytes");
    TARNI_TRY(check_sections(value, id, m, err));
    uint64_t stored = 0;
    tables_walk at = walk_tables(value.data, m);
    for (uint32_t i = 0; i < m->n_chunks; i++) {
        step_chunk(&at);
        if (!is_evicted(at.section))
            stored += tarni_load_u32(at.chunk + 12);
        if (tarni_load_u32(at.chunk + 8) > TARNP_CHUNK_BYTES_MAX)
            return damaged(err, id, "a chunk is larger than a chunk can be");
    }
    if (stored != m->chunk_bytes)
        return damaged(err, id, "the chunks do not add up to its bytes");
    return TARN_OK;
}

tarn_status tarnp_manifest_get(tarnp_span value, uint64_t id, tarnp_manifest *out, tarn_error *err)
{
    if (value.n_bytes < HEAD_BYTES + TARNP_SUM_BYTES || tarni_load_u32(value.data) != MAGIC ||
        tarni_load_u32(value.data + 8) != value.n_bytes)
        return damaged(err, id, "wrong magic or length");
    uint8_t sum[TARNP_SUM_BYTES];
    size_t n_summed = value.n_bytes - TARNP_SUM_BYTES;
    tarnp_sum128(value.data, n_summed, sum);
    if (memcmp(sum, value.data + n_summed, sizeof sum) != 0)
        return damaged(err, id, "does not match its checksum");
    uint32_t version = tarni_load_u16(value.data + 4);
    if (version != VERSION)
        return tarni_fail(err, TARN_E_FORMAT, "node %llu: manifest version is %u, this reads %d",
                          (unsigned long long)id, version, VERSION);
    tarni_reader r;
    tarni_reader_init(&r, value.data, HEAD_BYTES);
    tarni_get_bytes(&r, 6);
    *out = (tarnp_manifest){0};
    out->flags = tarni_get_u8(&r);
    tarni_get_u8(&r);
    out->n_bytes = tarni_get_u32(&r);
    out->n_tokens = tarni_get_u32(&r);
    out->id = tarni_get_u64(&r);
    out->parent = tarni_get_u64(&r);
    out->session_id = tarni_get_u64(&r);
    out->position = tarni_get_u64(&r);
    out->turns = tarni_get_u32(&r);
    out->n_segments = tarni_get_u32(&r);
    out->created_ms = tarni_get_u64(&r);
    out->chunk_bytes = tarni_get_u64(&r);
    out->first_chunk = tarni_get_u64(&r);
    out->n_sections = tarni_get_u32(&r);
    out->n_chunks = tarni_get_u32(&r);
    memcpy(out->key, tarni_get_bytes(&r, sizeof out->key), sizeof out->key);
    memcpy(out->fp, tarni_get_bytes(&r, sizeof out->fp), sizeof out->fp);
    memcpy(out->numerics, tarni_get_bytes(&r, sizeof out->numerics), sizeof out->numerics);
    memcpy(out->prefix, tarni_get_bytes(&r, sizeof out->prefix), sizeof out->prefix);
    TARN_ASSERT(!r.failed && r.at == PLAIN_BYTES);
    while (r.at < HEAD_BYTES)
        if (tarni_get_u8(&r) != 0)
            return tarni_fail(err, TARN_E_FORMAT, "node %llu: the manifest is encrypted",
                              (unsigned long long)id);
    return check_head(value, id, out, err);
}

void tarnp_manifest_chunk(tarnp_span value, const tarnp_manifest *m, uint32_t i,
                          tarnp_chunk_ref *out)
{
    TARN_ASSERT(i < m->n_chunks && value.n_bytes == m->n_bytes);
    const uint8_t *section = value.data + sections_at(m);
    const uint8_t *at = section + (size_t)m->n_sections * SECTION_BYTES + (size_t)i * CHUNK_BYTES;
    for (uint32_t before = i; before >= tarni_load_u32(section + 4); section += SECTION_BYTES)
        before -= tarni_load_u32(section + 4);
    *out = (tarnp_chunk_ref){.id = m->first_chunk + i,
                             .kind = (tarnp_section_kind)section[0],
                             .elem = (tarnp_elem)section[1],
                             .evicted = is_evicted(section),
                             .first = tarni_load_u32(at),
                             .count = tarni_load_u32(at + 4),
                             .raw_bytes = tarni_load_u32(at + 8),
                             .stored_bytes = tarni_load_u32(at + 12)};
    memcpy(out->sum, at + 16, TARNP_SUM_BYTES);
}

void tarnp_manifest_renumber(uint8_t *value, const tarnp_manifest *m, const uint8_t *sums)
{
    tarni_store_u64(value + 16, m->id);
    tarni_store_u64(value + 24, m->parent);
    tarni_store_u64(value + 32, m->session_id);
    tarni_store_u64(value + 56, m->created_ms);
    tarni_store_u64(value + AT_FIRST_CHUNK, m->first_chunk);
    memcpy(value + AT_KEY, m->key, sizeof m->key);
    memcpy(value + AT_PREFIX, m->prefix, sizeof m->prefix);
    uint8_t *at = value + m->n_bytes - TARNP_SUM_BYTES - (size_t)m->n_chunks * CHUNK_BYTES;
    for (uint32_t i = 0; i < m->n_chunks; i++)
        memcpy(at + (size_t)i * CHUNK_BYTES + CHUNK_SUM, sums + (size_t)i * TARNP_SUM_BYTES,
               TARNP_SUM_BYTES);
    tarnp_sum128(value, m->n_bytes - TARNP_SUM_BYTES, value + m->n_bytes - TARNP_SUM_BYTES);
}

bool tarnp_manifest_same(tarnp_span a, const tarnp_manifest *am, tarnp_span b,
                         const tarnp_manifest *bm)
{
    if (am->n_bytes != bm->n_bytes || am->flags != bm->flags || am->n_tokens != bm->n_tokens ||
        am->position != bm->position || am->turns != bm->turns ||
        am->n_segments != bm->n_segments || am->n_sections != bm->n_sections ||
        am->n_chunks != bm->n_chunks || am->chunk_bytes != bm->chunk_bytes ||
        memcmp(am->key, bm->key, sizeof am->key) != 0 ||
        memcmp(am->fp, bm->fp, sizeof am->fp) != 0 ||
        memcmp(am->numerics, bm->numerics, sizeof am->numerics) != 0)
        return false;
    size_t chunks = am->n_bytes - TARNP_SUM_BYTES - (size_t)am->n_chunks * CHUNK_BYTES;
    bool same = memcmp(a.data + HEAD_BYTES, b.data + HEAD_BYTES, chunks - HEAD_BYTES) == 0;
    for (uint32_t i = 0; i < am->n_chunks && same; i++, chunks += CHUNK_BYTES)
        same = memcmp(a.data + chunks, b.data + chunks, CHUNK_SUM) == 0;
    return same;
}

/* Whether the segments are some, how many call ids they have, and how long those are with a zero
 * behind each. */
static tarn_status check_segments(tarnp_span value, const tarnp_manifest *m, size_t *n_ids,
                                  size_t *n_text, tarn_error *err)
{
    tarni_reader r;
    tarni_reader_init(&r, value.data + HEAD_BYTES, sections_at(m) - HEAD_BYTES);
    uint64_t n_tokens = 0;
    *n_ids = *n_text = 0;
    for (uint32_t i = 0; i < m->n_segments && !r.failed; i++) {
        tarni_get_u16(&r); /* role and flags */
        uint32_t n = tarni_get_u16(&r);
        n_tokens += tarni_get_u32(&r);
        for (uint32_t k = 0; k < n && !r.failed; k++) {
            const char *at;
            size_t size;
            tarni_get_text(&r, &at, &size);
            if (memchr(at, 0, size))
                return damaged(err, m->id, "a call id holds a zero byte");
            *n_ids += 1;
            *n_text += size + 1;
        }
    }
    if (r.failed || tarni_reader_left(&r) != 0)
        return damaged(err, m->id, "the segments do not fit");
    if (n_tokens != m->n_tokens)
        return damaged(err, m->id, "the segments do not add up to its tokens");
    return TARN_OK;
}

/* After they have been checked; the text of the call ids goes behind the list of them. */
static void read_segments(tarnp_span value, const tarnp_manifest *m, tarnp_segment *to,
                          char **call_ids, char *text)
{
    tarni_reader r;
    tarni_reader_init(&r, value.data + HEAD_BYTES, sections_at(m) - HEAD_BYTES);
    for (uint32_t i = 0; i < m->n_segments; i++) {
        uint8_t role = tarni_get_u8(&r), flags = tarni_get_u8(&r);
        uint32_t n = tarni_get_u16(&r), tokens = tarni_get_u32(&r);
        to[i] = (tarnp_segment){(tarn_role)role, flags, tokens, n, call_ids};
        for (uint32_t k = 0; k < n; k++) {
            const char *at;
            size_t size;
            tarni_get_text(&r, &at, &size);
            *call_ids++ = memcpy(text, at, size);
            text[size] = 0;
            text += size + 1;
        }
    }
}

static float load_f32(const uint8_t *at)
{
    uint32_t bits = tarni_load_u32(at);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Segments, call ids and their text share one block, sections and chunks another. */
static tarn_status read_tables(tarnp_span value, const tarnp_manifest *m,
                               const tarn_allocator *allocator, tarnp_node *out, tarn_error *err)
{
    size_t n_ids, n_text, segment_bytes = m->n_segments * sizeof *out->segments;
    TARNI_TRY(check_segments(value, m, &n_ids, &n_text, err));
    TARNI_TRY(tarni_alloc(allocator, segment_bytes + n_ids * sizeof(char *) + n_text, 1,
                          &out->segments, err));
    char **call_ids = (char **)(void *)(out->segments + m->n_segments);
    out->n_segments = m->n_segments;
    read_segments(value, m, out->segments, call_ids, (char *)(call_ids + n_ids));
    TARNI_TRY(tarni_alloc(allocator,
                          m->n_sections * sizeof *out->sections +
                              m->n_chunks * sizeof *out->sections->chunks,
                          1, &out->sections, err));
    tarnp_chunk *chunks = (tarnp_chunk *)(void *)(out->sections + m->n_sections);
    const uint8_t *at = value.data + sections_at(m);
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_sections; i++, at += SECTION_BYTES) {
        uint32_t n_chunks = tarni_load_u32(at + 4);
        if (is_evicted(at)) {
            n += n_chunks;
            continue;
        }
        out->sections[out->n_sections++] = (tarnp_section){.kind = (tarnp_section_kind)at[0],
                                                           .elem = (tarnp_elem)at[1],
                                                           .codec = (tarnp_state_codec)at[2],
                                                           .n_chunks = n_chunks,
                                                           .max_error = load_f32(at + 8),
                                                           .row_elems = tarni_load_u32(at + 12),
                                                           .unit_elems = tarni_load_u32(at + 16),
                                                           .chunks = chunks + n};
        for (uint32_t k = 0; k < n_chunks; k++, n++) {
            tarnp_chunk_ref ref;
            tarnp_manifest_chunk(value, m, n, &ref);
            chunks[n] = (tarnp_chunk){.id = ref.id,
                                      .first = ref.first,
                                      .count = ref.count,
                                      .raw_bytes = ref.raw_bytes,
                                      .stored_bytes = ref.stored_bytes};
        }
    }
    return TARN_OK;
}

tarn_status tarnp_manifest_node(tarnp_span value, uint64_t id, const tarn_allocator *allocator,
                                tarnp_node *out, tarn_error *err)
{
    *out = (tarnp_node){0};
    tarnp_manifest m;
    TARNI_TRY(tarnp_manifest_get(value, id, &m, err));
    *out = (tarnp_node){.id = id,
                        .parent = m.parent,
                        .session_id = m.session_id,
                        .position = m.position,
                        .n_tokens = m.n_tokens,
                        .turns = m.turns,
                        .flags = m.flags,
                        .created_ms = m.created_ms,
                        .stored_bytes = m.chunk_bytes + m.n_bytes,
                        .allocator = allocator};
    memcpy(out->fp, m.fp, sizeof out->fp);
    memcpy(out->numerics, m.numerics, sizeof out->numerics);
    tarn_status status = read_tables(value, &m, allocator, out, err);
    if (status != TARN_OK)
        tarnp_node_fini(out);
    return status;
}

void tarnp_node_fini(tarnp_node *node)
{
    if (node->allocator) {
        tarni_free(node->allocator, node->segments);
        tarni_free(node->allocator, node->sections);
    }
    *node = (tarnp_node){0};
}

/* ---- parts ---------------------------------------------------------------------------------- */

unsigned tarnp_part_of(tarnp_section_kind kind)
{
    switch (kind) {
    case TARNP_SECTION_STATE:
    case TARNP_SECTION_CONV:
    case TARNP_SECTION_LOGITS:
        return TARNP_PART_STATE;
    case TARNP_SECTION_LATENT:
        return TARNP_PART_LATENTS;
    case TARNP_SECTION_TOKENS:
    case TARNP_SECTION_SAMPLER:
        break;
    }
    return 0;
}

uint64_t tarnp_manifest_part_bytes(tarnp_span value, const tarnp_manifest *m, unsigned parts)
{
    uint64_t sum = 0;
    tables_walk at = walk_tables(value.data, m);
    for (uint32_t i = 0; i < m->n_chunks; i++) {
        step_chunk(&at);
        if (of_parts(at.section, parts) && !is_evicted(at.section))
            sum += tarni_load_u32(at.chunk + 12);
    }
    return sum;
}

bool tarnp_manifest_latents(tarnp_span value, const tarnp_manifest *m, uint64_t *begin,
                            uint64_t *end)
{
    bool any = false;
    tables_walk at = walk_tables(value.data, m);
    for (uint32_t i = 0; i < m->n_chunks; i++) {
        step_chunk(&at);
        if (at.section[0] != TARNP_SECTION_LATENT)
            continue;
        uint64_t first = tarni_load_u32(at.chunk), behind = first + tarni_load_u32(at.chunk + 4);
        *begin = any && *begin < first ? *begin : first;
        *end = any && *end > behind ? *end : behind;
        any = true;
    }
    return any;
}

void tarnp_manifest_evict(uint8_t *value, tarnp_manifest *m, unsigned parts)
{
    m->chunk_bytes -= tarnp_manifest_part_bytes((tarnp_span){value, m->n_bytes}, m, parts);
    uint8_t *at = value + sections_at(m);
    for (uint32_t i = 0; i < m->n_sections; i++, at += SECTION_BYTES)
        if (of_parts(at, parts))
            at[AT_SECTION_FLAGS] |= SECTION_EVICTED;
    if (parts & TARNP_PART_STATE)
        m->flags = (uint8_t)((m->flags & ~TARNP_NODE_HAS_STATE) | TARNP_NODE_STATE_EVICTED);
    if (parts & TARNP_PART_LATENTS)
        m->flags |= TARNP_NODE_LATENTS_EVICTED;
    value[AT_FLAGS] = m->flags;
    tarni_store_u64(value + AT_CHUNK_BYTES, m->chunk_bytes);
    tarnp_sum128(value, m->n_bytes - TARNP_SUM_BYTES, value + m->n_bytes - TARNP_SUM_BYTES);
}
