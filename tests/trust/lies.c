/* lies.c - see lies.h. */
#include "lies.h"

#include "chunk.h"
#include "handle.h"
#include "node.h"
#include "records.h"
#include "sums.h"
#include "trust.h"

#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 200 };

typedef struct entry {
    tarnp_table table;
    uint8_t key[256];
    size_t key_bytes;
    uint8_t *value;
    size_t n_bytes;
    struct entry *sealed_by; /* the node whose manifest has changed with this chunk */
} entry;

static entry entries[ENTRIES];
static size_t n_entries;

static bool good(tarn_status status)
{
    return status == TARN_OK;
}

static bool list_entries(tarnp_txn *txn, tarn_error *err)
{
    for (size_t i = 0; i < n_entries; i++)
        free(entries[i].value);
    n_entries = 0;
    for (int table = 0; table < TARNP_TABLES_COUNT; table++) {
        tarnp_cursor cursor;
        tarnp_span key, value;
        if (!good(tarnp_cursor_open(txn, (tarnp_table)table, &cursor, err)))
            return false;
        tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, err);
        while (good(status) && key.data && n_entries < ENTRIES) {
            entry *e = &entries[n_entries++];
            *e = (entry){.table = (tarnp_table)table,
                         .key_bytes = key.n_bytes,
                         .n_bytes = value.n_bytes,
                         .value = malloc(value.n_bytes + 64)};
            memcpy(e->key, key.data, key.n_bytes);
            memcpy(e->value, value.data, value.n_bytes);
            status = tarnp_cursor_next(&cursor, &key, &value, err);
        }
        tarnp_cursor_close(&cursor);
        if (!good(status))
            return false;
    }
    return n_entries > 0;
}

static uint64_t any_number(uint64_t *r)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     2,
                                     3,
                                     4,
                                     7,
                                     8,
                                     16,
                                     63,
                                     64,
                                     255,
                                     256,
                                     65535,
                                     65536,
                                     0x7FFFFFFF,
                                     0xFFFFFFFF,
                                     (uint64_t)1 << 32,
                                     UINT64_MAX >> 1,
                                     UINT64_MAX - 1,
                                     UINT64_MAX};
    return trust_below(r, 4) ? edges[trust_below(r, sizeof edges / sizeof edges[0])]
                             : trust_below(r, 20);
}

/* Puts a number of 1, 2, 4 or 8 bytes somewhere, most often where a field can begin. */
static void put_number(uint64_t *r, uint8_t *to, size_t n)
{
    uint8_t bytes[8];
    size_t width = (size_t)1 << trust_below(r, 4), step = trust_below(r, 4) ? width : 1;
    if (n < width)
        return;
    tarni_store_u64(bytes, any_number(r));
    memcpy(to + trust_below(r, (n - width) / step + 1) * step, bytes, width);
}

static size_t change_value(uint64_t *r, entry *e)
{
    size_t n = e->n_bytes;
    switch (trust_below(r, 8)) {
    case 0: /* cut */
        return trust_below(r, n + 1);
    case 1: /* longer */
        for (size_t more = 1 + trust_below(r, 32); more > 0; more--)
            e->value[n++] = (uint8_t)trust_random(r);
        return n;
    case 2:
        if (n > 0)
            e->value[trust_below(r, n)] ^= (uint8_t)(1 << trust_below(r, 8));
        return n;
    default:
        for (uint64_t i = 0; i < 1 + trust_below(r, 3); i++)
            put_number(r, e->value, n);
        return n;
    }
}

/* The record of another in its table, of which it may be the only one. */
static const entry *other_of(uint64_t *r, const entry *e)
{
    for (int tries = 0; tries < 20; tries++) {
        const entry *other = &entries[trust_below(r, n_entries)];
        if (other->table == e->table && other != e)
            return other;
    }
    return e;
}

/* The checksum that manifests bring along; records have theirs from the layer below. */
static void seal_manifest(const entry *e, size_t n)
{
    if (e->table == TARNP_TABLE_NODE && n >= TARNP_SUM_BYTES)
        tarnp_sum128(e->value, n - TARNP_SUM_BYTES, e->value + n - TARNP_SUM_BYTES);
}

/* Of a chunk of n bytes: those within it, and the one its node keeps of it. */
static void seal_chunk(entry *e, size_t n)
{
    if (n < TARNP_CHUNK_HEAD_BYTES)
        return;
    uint64_t id = tarni_load_u64_be(e->key);
    tarni_store_u32(e->value + 12, (uint32_t)(n - TARNP_CHUNK_HEAD_BYTES));
    tarnp_sum128(e->value + TARNP_CHUNK_HEAD_BYTES, n - TARNP_CHUNK_HEAD_BYTES, e->value + 24);
    tarni_store_u64(e->value + 72, tarnp_sum64(e->value, 72, 0));
    for (size_t i = 0; i < n_entries; i++) {
        tarnp_manifest m;
        tarn_error err;
        entry *of = &entries[i];
        if (of->table != TARNP_TABLE_NODE ||
            tarnp_manifest_get((tarnp_span){of->value, of->n_bytes}, tarni_load_u64_be(of->key), &m,
                               &err) != TARN_OK ||
            id < m.first_chunk || id - m.first_chunk >= m.n_chunks)
            continue;
        size_t at = of->n_bytes - TARNP_SUM_BYTES - (m.n_chunks - (id - m.first_chunk)) * 32;
        tarni_store_u32(of->value + at + 12, (uint32_t)n);
        tarnp_sum128(e->value, TARNP_CHUNK_HEAD_BYTES, of->value + at + 16);
        tarni_store_u64(of->value + 64, m.chunk_bytes - e->n_bytes + n);
        seal_manifest(of, of->n_bytes);
        e->sealed_by = of;
    }
}

/* Every table as often as another. */
static entry *any_entry(uint64_t *r)
{
    for (int tries = 0; tries < 100; tries++) {
        entry *e = &entries[trust_below(r, n_entries)];
        size_t n = 0;
        for (size_t i = 0; i < n_entries; i++)
            n += entries[i].table == e->table;
        if (trust_below(r, n) == 0)
            return e;
    }
    return &entries[0];
}

static tarn_status change_one(tarnp_txn *txn, uint64_t *r, bool *counters, tarn_error *err)
{
    entry *e = any_entry(r);
    const entry *from = e;
    size_t n = e->n_bytes;
    uint64_t how = trust_below(r, 10);
    bool is_counters =
        e->table == TARNP_TABLE_META && e->key_bytes == 8 && memcmp(e->key, "counters", 8) == 0;
    *counters = *counters || is_counters;
    if (how == 0)
        return tarnp_delete(txn, e->table, e->key, e->key_bytes, NULL, err);
    if (how == 1) {
        from = other_of(r, e);
        return tarnp_put(txn, e->table, e->key, e->key_bytes, from->value, from->n_bytes, err);
    }
    if (how == 2) { /* the same under another key as well */
        put_number(r, e->key, e->key_bytes);
    } else {
        n = change_value(r, e);
        if (e->table == TARNP_TABLE_NODE && n >= TARNP_SUM_BYTES + 12 && trust_below(r, 2))
            tarni_store_u32(e->value + 8, (uint32_t)n); /* its length */
        seal_manifest(e, n);
        if (e->table == TARNP_TABLE_CHUNK && trust_below(r, 4))
            seal_chunk(e, n);
    }
    if (e->sealed_by) {
        const entry *node = e->sealed_by;
        TARNI_TRY(tarnp_put(txn, node->table, node->key, node->key_bytes, node->value,
                            node->n_bytes, err));
    }
    if (is_counters && n >= 8) /* they say which transaction was the last */
        tarni_store_u64(e->value, tarnp_txn_id(txn));
    return tarnp_put(txn, e->table, e->key, e->key_bytes, e->value, n, err);
}

bool lies_tell(tarnp_store *store, uint64_t seed, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_counters counters;
    uint64_t r = seed;
    bool own_counters = false;
    if (!good(tarnp_txn_begin(store->tables, true, &txn, err)))
        return false;
    tarn_status status = list_entries(&txn, err) ? TARN_OK : err->status;
    for (uint64_t i = 0; good(status) && i < 1 + trust_below(&r, 3); i++)
        status = change_one(&txn, &r, &own_counters, err);
    if (good(status) && !own_counters) { /* they say which transaction was the last */
        status = tarnp_counters_get(&txn, &counters, err);
        counters.txn = tarnp_txn_id(&txn);
        if (good(status))
            status = tarnp_counters_put(&txn, &counters, err);
    }
    status = good(status) ? tarnp_txn_commit(&txn, err) : status;
    tarnp_txn_abort(&txn);
    return good(status);
}
