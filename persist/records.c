#include "records.h"

#include "lossy.h"

#include <stdio.h>
#include <string.h>

#define FORMAT_BYTES    96
#define POLICY_BYTES    8
#define SEAL_BYTES      24
#define SEAL_VERSION    1
#define POLICY_VERSION  1
#define SESSION_VERSION 1
#define SESSION_PINNED  1

static const char format_key[] = "format", counters_key[] = "counters", policy_key[] = "policy",
                  seal_key[] = "seal";
static const char format_magic[16] = "tarn store";

/* ---- meta ----------------------------------------------------------------------------------- */

tarn_status tarnp_format_put(tarnp_txn *txn, const tarnp_format *f, tarn_error *err)
{
    uint8_t at[FORMAT_BYTES] = {0};
    memcpy(at, format_magic, sizeof format_magic);
    tarni_store_u16(at + 16, f->major);
    tarni_store_u16(at + 18, f->minor);
    tarni_store_u64(at + 24, f->compat);
    tarni_store_u64(at + 32, f->ro_compat);
    tarni_store_u64(at + 40, f->incompat);
    memcpy(at + 48, f->uuid, sizeof f->uuid);
    memcpy(at + 64, f->salt, sizeof f->salt);
    return tarnp_put(txn, TARNP_TABLE_META, format_key, sizeof format_key - 1, at, sizeof at, err);
}

tarn_status tarnp_format_get(tarnp_txn *txn, tarnp_format *out, tarn_error *err)
{
    tarnp_span value;
    *out = (tarnp_format){0};
    TARNI_TRY(tarnp_get(txn, TARNP_TABLE_META, format_key, sizeof format_key - 1, &value, err));
    if (!value.data || value.n_bytes < FORMAT_BYTES ||
        memcmp(value.data, format_magic, sizeof format_magic) != 0)
        return tarni_fail(err, TARN_E_FORMAT, "not a tarn store: no format record");
    out->major = tarni_load_u16(value.data + 16);
    out->minor = tarni_load_u16(value.data + 18);
    out->compat = tarni_load_u64(value.data + 24);
    out->ro_compat = tarni_load_u64(value.data + 32);
    out->incompat = tarni_load_u64(value.data + 40);
    memcpy(out->uuid, value.data + 48, sizeof out->uuid);
    memcpy(out->salt, value.data + 64, sizeof out->salt);
    if (out->major != TARNP_FORMAT_MAJOR)
        return tarni_fail(err, TARN_E_FORMAT, "the store's format is %u.%u, this reads %d",
                          out->major, out->minor, TARNP_FORMAT_MAJOR);
    if ((out->incompat & ~TARNP_INCOMPAT_KNOWN) != 0)
        return tarni_fail(err, TARN_E_FORMAT,
                          "the store uses features 0x%llx, which this version does not know",
                          (unsigned long long)(out->incompat & ~TARNP_INCOMPAT_KNOWN));
    return TARN_OK;
}

tarn_status tarnp_seal_record_put(tarnp_txn *txn, const uint8_t id[TARNP_SEAL_ID_BYTES],
                                  tarn_error *err)
{
    uint8_t at[SEAL_BYTES] = {0};
    tarni_store_u16(at, SEAL_VERSION);
    memcpy(at + 8, id, TARNP_SEAL_ID_BYTES);
    return tarnp_put(txn, TARNP_TABLE_META, seal_key, sizeof seal_key - 1, at, sizeof at, err);
}

tarn_status tarnp_seal_record_get(tarnp_txn *txn, uint8_t id[TARNP_SEAL_ID_BYTES], tarn_error *err)
{
    tarnp_span value;
    TARNI_TRY(tarnp_get(txn, TARNP_TABLE_META, seal_key, sizeof seal_key - 1, &value, err));
    if (!value.data || value.n_bytes != SEAL_BYTES)
        return tarni_fail(err, TARN_E_CORRUPT, "the record of the encryption key is missing");
    if (tarni_load_u16(value.data) != SEAL_VERSION)
        return tarni_fail(err, TARN_E_FORMAT, "encrypted in a way of version %u, this reads %d",
                          tarni_load_u16(value.data), SEAL_VERSION);
    memcpy(id, value.data + 8, TARNP_SEAL_ID_BYTES);
    return TARN_OK;
}

tarn_status tarnp_counters_put(tarnp_txn *txn, const tarnp_counters *c, tarn_error *err)
{
    const uint64_t fields[] = {c->txn,          c->next_node,    c->next_chunk,
                               c->next_session, c->sessions,     c->nodes,
                               c->chunks,       c->bytes_stored, c->bytes_written};
    uint8_t at[TARNP_COUNTERS_BYTES];
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        tarni_store_u64(at + 8 * i, fields[i]);
    return tarnp_put(txn, TARNP_TABLE_META, counters_key, sizeof counters_key - 1, at, sizeof at,
                     err);
}

tarn_status tarnp_counters_get(tarnp_txn *txn, tarnp_counters *out, tarn_error *err)
{
    tarnp_span value;
    *out = (tarnp_counters){0};
    TARNI_TRY(tarnp_get(txn, TARNP_TABLE_META, counters_key, sizeof counters_key - 1, &value, err));
    if (!value.data || value.n_bytes != TARNP_COUNTERS_BYTES)
        return tarni_fail(err, TARN_E_CORRUPT, "table meta: the counters are missing");
    tarni_reader r;
    tarni_reader_init(&r, value.data, value.n_bytes);
    out->txn = tarni_get_u64(&r);
    out->next_node = tarni_get_u64(&r);
    out->next_chunk = tarni_get_u64(&r);
    out->next_session = tarni_get_u64(&r);
    out->sessions = tarni_get_u64(&r);
    out->nodes = tarni_get_u64(&r);
    out->chunks = tarni_get_u64(&r);
    out->bytes_stored = tarni_get_u64(&r);
    out->bytes_written = tarni_get_u64(&r);
    if (out->next_node == 0 || out->next_chunk == 0 || out->next_session == 0)
        return tarni_fail(err, TARN_E_CORRUPT, "table meta: the next id would be 0, which is none");
    return TARN_OK;
}

tarn_status tarnp_policy_put(tarnp_txn *txn, const tarnp_policy *policy, tarn_error *err)
{
    uint8_t at[POLICY_BYTES] = {0};
    tarni_store_u16(at, POLICY_VERSION);
    at[2] = (uint8_t)policy->state_codec;
    at[3] = (uint8_t)policy->latent_codec;
    return tarnp_put(txn, TARNP_TABLE_META, policy_key, sizeof policy_key - 1, at, sizeof at, err);
}

tarn_status tarnp_policy_load(tarnp_txn *txn, tarnp_policy *out, tarn_error *err)
{
    tarnp_span value;
    *out = (tarnp_policy){TARNP_STATE_LOSSLESS, TARNP_STATE_LOSSLESS};
    TARNI_TRY(tarnp_get(txn, TARNP_TABLE_META, policy_key, sizeof policy_key - 1, &value, err));
    if (!value.data)
        return TARN_OK;
    uint32_t version = value.n_bytes >= 2 ? tarni_load_u16(value.data) : 0;
    if (version > POLICY_VERSION)
        return tarni_fail(err, TARN_E_FORMAT, "the store's policy has version %u, this reads %d",
                          version, POLICY_VERSION);
    if (version != POLICY_VERSION || value.n_bytes != POLICY_BYTES)
        return tarni_fail(err, TARN_E_CORRUPT, "table meta: the policy has %zu bytes",
                          value.n_bytes);
    out->state_codec = (tarnp_state_codec)value.data[2];
    out->latent_codec = (tarnp_state_codec)value.data[3];
    if (!tarnp_is_state_codec(value.data[2]) || out->latent_codec != TARNP_STATE_LOSSLESS)
        return tarni_fail(err, TARN_E_FORMAT,
                          "the store's policy asks for codecs %u and %u, which this version does "
                          "not know",
                          value.data[2], value.data[3]);
    return TARN_OK;
}

/* ---- sessions ------------------------------------------------------------------------------- */

tarn_status tarnp_session_record_put(tarnp_txn *txn, const tarnp_session *s,
                                     const tarn_allocator *allocator, tarn_error *err)
{
    tarni_writer w;
    tarni_writer_init(&w, allocator);
    tarni_put_u16(&w, SESSION_VERSION);
    tarni_put_u16(&w, s->pinned ? SESSION_PINNED : 0);
    tarni_put_u32(&w, s->turns);
    tarni_put_u64(&w, s->id);
    tarni_put_u64(&w, s->head);
    tarni_put_u64(&w, s->position);
    tarni_put_u64(&w, s->created_ms);
    tarni_put_u64(&w, s->updated_ms);
    tarni_put_u64(&w, s->bytes_owned);
    tarni_put_u64(&w, s->bytes_shared);
    tarni_put_bytes(&w, s->fp, sizeof s->fp);
    tarni_put_u64(&w, s->expires_ms);
    tarni_put_text(&w, s->name, strlen(s->name));
    tarni_put_text(&w, s->group, strlen(s->group));
    tarni_put_u32(&w, (uint32_t)s->n_tags);
    for (size_t i = 0; i < s->n_tags; i++) {
        tarni_put_text(&w, s->tags[i].key, strlen(s->tags[i].key));
        tarni_put_text(&w, s->tags[i].value, strlen(s->tags[i].value));
    }
    tarn_status status =
        w.failed ? tarni_fail_memory(err, w.n_bytes)
                 : tarnp_put_id(txn, TARNP_TABLE_SESSION, s->id, w.data, w.n_bytes, err);
    tarni_writer_fini(&w);
    return status;
}

/* The tags and their texts share one block, so that fini frees one pointer. */
static tarn_status read_tags(tarni_reader *r, const tarn_allocator *allocator, tarnp_session *out,
                             tarn_error *err)
{
    enum { TAG_BYTES_LEAST = 8 };
    uint32_t n = tarni_get_u32(r);
    size_t left = tarni_reader_left(r);
    if (n > left / TAG_BYTES_LEAST) {
        r->failed = true;
        return TARN_OK;
    }
    if (n == 0)
        return TARN_OK;
    /* Each text loses 4 bytes of length and gains its zero. */
    TARNI_TRY(tarni_alloc(allocator, n * sizeof *out->tags + left, 1, &out->tags, err));
    char *text = (char *)(out->tags + n);
    out->n_tags = n;
    for (uint32_t i = 0; i < 2 * n && !r->failed; i++) {
        const char *at;
        size_t size;
        tarni_get_text(r, &at, &size);
        *(i % 2 == 0 ? &out->tags[i / 2].key : &out->tags[i / 2].value) = text;
        memcpy(text, at, size);
        text += size + 1;
    }
    return TARN_OK;
}

tarn_status tarnp_session_record_get(tarnp_span value, uint64_t id, const tarn_allocator *allocator,
                                     tarnp_session *out, tarn_error *err)
{
    *out = (tarnp_session){.allocator = allocator};
    tarni_reader r;
    tarni_reader_init(&r, value.data, value.n_bytes);
    uint32_t version = tarni_get_u16(&r);
    out->pinned = tarni_get_u16(&r) & SESSION_PINNED;
    out->turns = tarni_get_u32(&r);
    out->id = tarni_get_u64(&r);
    out->head = tarni_get_u64(&r);
    out->position = tarni_get_u64(&r);
    out->created_ms = tarni_get_u64(&r);
    out->updated_ms = tarni_get_u64(&r);
    out->bytes_owned = tarni_get_u64(&r);
    out->bytes_shared = tarni_get_u64(&r);
    const uint8_t *fp = tarni_get_bytes(&r, sizeof out->fp);
    out->expires_ms = tarni_get_u64(&r);
    const char *name, *group;
    size_t name_bytes, group_bytes;
    tarni_get_text(&r, &name, &name_bytes);
    tarni_get_text(&r, &group, &group_bytes);
    tarn_status status = TARN_OK;
    if (version != SESSION_VERSION && value.n_bytes >= 2)
        return tarni_fail(err, TARN_E_FORMAT, "session %llu: record version is %u, this reads %d",
                          (unsigned long long)id, version, SESSION_VERSION);
    if (!r.failed && name_bytes <= TARNP_NAME_BYTES_MAX && group_bytes <= TARNP_GROUP_BYTES_MAX) {
        memcpy(out->fp, fp, sizeof out->fp);
        memcpy(out->name, name, name_bytes);
        memcpy(out->group, group, group_bytes);
        status = read_tags(&r, allocator, out, err);
    } else {
        r.failed = true;
    }
    if (status == TARN_OK && (r.failed || tarni_reader_left(&r) != 0 || out->id != id))
        status = tarni_fail(err, TARN_E_CORRUPT, "session %llu: the record does not add up",
                            (unsigned long long)id);
    if (status != TARN_OK)
        tarnp_session_fini(out);
    return status;
}

void tarnp_session_fini(tarnp_session *s)
{
    if (s->allocator)
        tarni_free(s->allocator, s->tags);
    *s = (tarnp_session){0};
}

/* ---- rows of counts ------------------------------------------------------------------------- */

static tarn_status get_row(tarnp_span value, uint64_t node, const char *table, uint64_t *row,
                           size_t n, tarn_error *err)
{
    if (!value.data || value.n_bytes != 8 * n)
        return tarni_fail(err, TARN_E_CORRUPT, "node %llu: table %s: %s", (unsigned long long)node,
                          table, value.data ? "a record of wrong size" : "no record");
    for (size_t i = 0; i < n; i++)
        row[i] = tarni_load_u64(value.data + 8 * i);
    return TARN_OK;
}

static tarn_status put_row(tarnp_txn *txn, tarnp_table table, uint64_t node, const uint64_t *row,
                           size_t n, tarn_error *err)
{
    uint8_t at[24];
    TARN_ASSERT(8 * n <= sizeof at);
    for (size_t i = 0; i < n; i++)
        tarni_store_u64(at + 8 * i, row[i]);
    return tarnp_put_id(txn, table, node, at, 8 * n, err);
}

tarn_status tarnp_ref_decode(tarnp_span value, uint64_t node, tarnp_ref *out, tarn_error *err)
{
    uint64_t row[2] = {0};
    tarn_status status = get_row(value, node, "ref", row, 2, err);
    *out = (tarnp_ref){row[0], row[1]};
    return status;
}

tarn_status tarnp_ref_get(tarnp_txn *txn, uint64_t node, tarnp_ref *out, tarn_error *err)
{
    tarnp_span value;
    TARNI_TRY(tarnp_get_id(txn, TARNP_TABLE_REF, node, &value, err));
    return tarnp_ref_decode(value, node, out, err);
}

tarn_status tarnp_ref_put(tarnp_txn *txn, uint64_t node, tarnp_ref ref, tarn_error *err)
{
    const uint64_t row[] = {ref.refs, ref.own_children};
    return put_row(txn, TARNP_TABLE_REF, node, row, 2, err);
}

tarn_status tarnp_drop_decode(tarnp_span value, uint64_t node, tarnp_drop *out, tarn_error *err)
{
    uint64_t row[3] = {0};
    tarn_status status = get_row(value, node, "gcq", row, 3, err);
    *out = (tarnp_drop){row[0], row[1], row[2]};
    return status;
}

tarn_status tarnp_drop_put(tarnp_txn *txn, uint64_t node, tarnp_drop drop, tarn_error *err)
{
    const uint64_t row[] = {drop.drops, drop.chunks_done, drop.evict_next};
    return put_row(txn, TARNP_TABLE_GCQ, node, row, 3, err);
}

/* ---- ids ------------------------------------------------------------------------------------ */

tarn_status tarnp_id_get(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                         uint64_t *out, tarn_error *err)
{
    tarnp_span value;
    *out = 0;
    TARNI_TRY(tarnp_get(txn, table, key, key_bytes, &value, err));
    if (!value.data)
        return TARN_OK;
    if (value.n_bytes != 8)
        return tarni_fail(err, TARN_E_CORRUPT, "an id of %zu bytes", value.n_bytes);
    *out = tarni_load_u64(value.data);
    return TARN_OK;
}

tarn_status tarnp_id_put(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                         uint64_t id, tarn_error *err)
{
    uint8_t at[8];
    tarni_store_u64(at, id);
    return tarnp_put(txn, table, key, key_bytes, at, sizeof at, err);
}
