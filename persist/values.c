/* values.c - what stands in the tables, with the checksums of records. */
#include "environment.h"

#include "bytes.h"
#include "sums.h"

#include <string.h>

#define SUM_BYTES        8
#define KEY_BYTES_MAX    511
#define RECORD_BYTES_MAX ((size_t)1 << 20)
#define AT_ID            16 /* of manifests and chunks (node.h, chunk.h) */

/* 0: any */
static const size_t key_bytes_of[TARNP_TABLES_COUNT] = {0, 32, 8, 0, 8, 16, 8, 8, 16, 8, 8};

static bool has_sum(tarnp_table table)
{
    return table != TARNP_TABLE_NODE && table != TARNP_TABLE_CHUNK;
}

static uint64_t sum_of(tarnp_table table, const void *key, size_t key_bytes, const void *value,
                       size_t n_bytes)
{
    return tarnp_sum64(value, n_bytes, tarnp_sum64(key, key_bytes, (uint64_t)table));
}

static MDB_val as_val(const void *data, size_t n_bytes)
{
    return (MDB_val){.mv_size = n_bytes, .mv_data = (void *)(uintptr_t)data};
}

bool tarnp_record_matches(tarnp_table table, const void *key, size_t key_bytes,
                          const uint8_t *value, size_t n_bytes)
{
    return n_bytes >= SUM_BYTES && n_bytes <= RECORD_BYTES_MAX &&
           tarni_load_u64(value + n_bytes - SUM_BYTES) ==
               sum_of(table, key, key_bytes, value, n_bytes - SUM_BYTES);
}

static tarn_status check_record(tarnp_table table, MDB_val key, tarnp_span *value, tarn_error *err)
{
    if (!has_sum(table))
        return TARN_OK;
    if (value->n_bytes < SUM_BYTES || value->n_bytes > RECORD_BYTES_MAX)
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: a record of %zu bytes",
                          tarnp_table_names[table], value->n_bytes);
    if (!tarnp_record_matches(table, key.mv_data, key.mv_size, value->data, value->n_bytes))
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: a record does not match its checksum",
                          tarnp_table_names[table]);
    value->n_bytes -= SUM_BYTES;
    return TARN_OK;
}

/* ---- sealed values -------------------------------------------------------------------------- */

typedef struct opened {
    struct opened *next;
    uint8_t data[];
} opened;

void tarnp_forget_opened(tarnp_txn *txn)
{
    while (txn->opened) {
        opened *first = txn->opened;
        txn->opened = first->next;
        tarni_free(&txn->tables->allocator, first);
    }
}

/* What is read before the key is known. */
static bool is_clear(tarnp_table table, MDB_val key)
{
    return table == TARNP_TABLE_META &&
           ((key.mv_size == 6 && memcmp(key.mv_data, "format", 6) == 0) ||
            (key.mv_size == 4 && memcmp(key.mv_data, "seal", 4) == 0));
}

static tarn_status fail_sealed(tarnp_table table, tarn_error *err)
{
    return tarni_fail(err, TARN_E_CORRUPT, "table %s: a value is not what was sealed there",
                      tarnp_table_names[table]);
}

/* The value as it was put: in the map, or opened into memory that is hung onto *list. */
static tarn_status open_value(tarnp_tables *t, void **list, tarnp_table table, MDB_val key,
                              MDB_val value, tarnp_span *out, tarn_error *err)
{
    *out = (tarnp_span){value.mv_data, value.mv_size};
    if (!t->is_sealed || is_clear(table, key))
        return TARN_OK;
    *out = (tarnp_span){0};
    if (value.mv_size < TARNP_SEAL_BYTES)
        return fail_sealed(table, err);
    size_t n_bytes = value.mv_size - TARNP_SEAL_BYTES;
    opened *block;
    TARNI_TRY(tarni_alloc(&t->allocator, 1, sizeof *block + n_bytes, &block, err));
    if (!tarnp_seal_open(&t->seal, table, key.mv_data, key.mv_size, value.mv_data, value.mv_size,
                         block->data)) {
        tarni_free(&t->allocator, block);
        return fail_sealed(table, err);
    }
    block->next = *list;
    *list = block;
    *out = (tarnp_span){block->data, n_bytes};
    return TARN_OK;
}

static tarn_status take_value(tarnp_tables *t, void **list, tarnp_table table, MDB_val key,
                              MDB_val value, tarnp_span *out, tarn_error *err)
{
    TARNI_TRY(open_value(t, list, table, key, value, out, err));
    return check_record(table, key, out, err);
}

/* Whether an entry is under the key it was put under. */
static tarn_status under_its_key(tarnp_txn *txn, tarnp_table table, MDB_val key, MDB_val value,
                                 tarn_error *err)
{
    tarnp_span at;
    TARNI_TRY(take_value(txn->tables, &txn->opened, table, key, value, &at, err));
    if (has_sum(table) || (key.mv_size == 8 && at.n_bytes >= AT_ID + 8 &&
                           tarni_load_u64(at.data + AT_ID) == tarni_load_u64_be(key.mv_data)))
        return TARN_OK;
    return tarni_fail(err, TARN_E_CORRUPT, "table %s: a value stands under another's key",
                      tarnp_table_names[table]);
}

/* A key that rotted is not found under its old value. It still stands where it did, so an entry on
 * either side of the place says whether "not there" is true. */
static tarn_status check_gap(tarnp_txn *txn, tarnp_table table, MDB_val key, tarn_error *err)
{
    MDB_cursor *cursor;
    MDB_val k = key, v;
    int rc = mdb_cursor_open(txn->handle, txn->tables->tables[table], &cursor);
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[table]);
    tarn_status status = TARN_OK;
    rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    if (rc == 0)
        status = under_its_key(txn, table, k, v, err);
    if (status == TARN_OK && (rc == 0 || rc == MDB_NOTFOUND)) {
        rc = mdb_cursor_get(cursor, &k, &v, rc == 0 ? MDB_PREV : MDB_LAST);
        if (rc == 0)
            status = under_its_key(txn, table, k, v, err);
    }
    mdb_cursor_close(cursor);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[table]);
    if (status == TARN_E_CORRUPT)
        return tarni_fail(err, TARN_E_CORRUPT,
                          "table %s: an entry beside the one asked for is damaged",
                          tarnp_table_names[table]);
    return status;
}

tarn_status tarnp_get(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                      tarnp_span *out, tarn_error *err)
{
    *out = (tarnp_span){0};
    MDB_val k = as_val(key, key_bytes), v;
    int rc = mdb_get(txn->handle, txn->tables->tables[table], &k, &v);
    if (rc == MDB_NOTFOUND && table == TARNP_TABLE_CHUNK)
        return TARN_OK; /* its manifest says that it must be there */
    if (rc == MDB_NOTFOUND)
        return check_gap(txn, table, as_val(key, key_bytes), err);
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[table]);
    tarn_status status = take_value(txn->tables, &txn->opened, table, k, v, out, err);
    if (status != TARN_OK)
        *out = (tarnp_span){0};
    return status;
}

static tarn_status put_value(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                             const void *value, size_t n_bytes, unsigned flags, tarn_error *err)
{
    TARN_ASSERT(key_bytes >= 1 && key_bytes <= KEY_BYTES_MAX);
    size_t extra = has_sum(table) ? SUM_BYTES : 0;
    TARN_ASSERT(extra == 0 || n_bytes <= RECORD_BYTES_MAX - SUM_BYTES);
    MDB_val k = as_val(key, key_bytes);
    const tarnp_tables *t = txn->tables;
    bool sealed = t->is_sealed && !is_clear(table, k);
    MDB_val v = as_val(NULL, n_bytes + extra + (sealed ? TARNP_SEAL_BYTES : 0));
    int rc = mdb_put(txn->handle, t->tables[table], &k, &v, flags | MDB_RESERVE);
    if (rc == MDB_KEYEXIST)
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: an id was given out twice",
                          tarnp_table_names[table]);
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[table]);
    uint8_t *at = (uint8_t *)v.mv_data + (sealed ? TARNP_SEAL_HEAD_BYTES : 0);
    if (n_bytes > 0)
        memcpy(at, value, n_bytes);
    if (extra)
        tarni_store_u64(at + n_bytes, sum_of(table, key, key_bytes, value, n_bytes));
    if (sealed)
        tarnp_seal_put(&t->seal, table, key, key_bytes, v.mv_data, n_bytes + extra);
    txn->bytes_put += n_bytes + extra;
    return TARN_OK;
}

tarn_status tarnp_put(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                      const void *value, size_t n_bytes, tarn_error *err)
{
    return put_value(txn, table, key, key_bytes, value, n_bytes, 0, err);
}

tarn_status tarnp_delete(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                         bool *was_there, tarn_error *err)
{
    MDB_val k = as_val(key, key_bytes);
    int rc = mdb_del(txn->handle, txn->tables->tables[table], &k, NULL);
    if (was_there)
        *was_there = rc == 0;
    if (rc != 0 && rc != MDB_NOTFOUND)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[table]);
    return TARN_OK;
}

tarn_status tarnp_get_id(tarnp_txn *txn, tarnp_table table, uint64_t id, tarnp_span *out,
                         tarn_error *err)
{
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    return tarnp_get(txn, table, key, sizeof key, out, err);
}

tarn_status tarnp_get_stored(tarnp_txn *txn, tarnp_table table, uint64_t id, tarnp_span *out,
                             tarn_error *err)
{
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    MDB_val k = as_val(key, sizeof key), v;
    *out = (tarnp_span){0};
    int rc = mdb_get(txn->handle, txn->tables->tables[table], &k, &v);
    if (rc == MDB_NOTFOUND)
        return TARN_OK;
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[table]);
    *out = (tarnp_span){v.mv_data, v.mv_size};
    return TARN_OK;
}

size_t tarnp_stored_size(const tarnp_tables *t, tarnp_span stored)
{
    size_t more = t->is_sealed ? TARNP_SEAL_BYTES : 0;
    return stored.n_bytes > more ? stored.n_bytes - more : 0;
}

size_t tarnp_opening_bytes(const tarnp_tables *t, tarnp_span stored)
{
    return t->is_sealed ? tarnp_stored_size(t, stored) : 0;
}

tarn_status tarnp_open_stored(const tarnp_tables *t, tarnp_table table, uint64_t id,
                              tarnp_span stored, void *memory, tarnp_span *out, tarn_error *err)
{
    uint8_t key[8];
    *out = stored;
    if (!t->is_sealed || !stored.data)
        return TARN_OK;
    tarni_store_u64_be(key, id);
    if (!tarnp_seal_open(&t->seal, table, key, sizeof key, stored.data, stored.n_bytes, memory))
        return fail_sealed(table, err);
    *out = (tarnp_span){memory, stored.n_bytes - TARNP_SEAL_BYTES};
    return TARN_OK;
}

tarn_status tarnp_put_id(tarnp_txn *txn, tarnp_table table, uint64_t id, const void *value,
                         size_t n_bytes, tarn_error *err)
{
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    return put_value(txn, table, key, sizeof key, value, n_bytes, 0, err);
}

tarn_status tarnp_append_id(tarnp_txn *txn, tarnp_table table, uint64_t id, const void *value,
                            size_t n_bytes, tarn_error *err)
{
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    return put_value(txn, table, key, sizeof key, value, n_bytes, MDB_APPEND, err);
}

tarn_status tarnp_delete_id(tarnp_txn *txn, tarnp_table table, uint64_t id, bool *was_there,
                            tarn_error *err)
{
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    return tarnp_delete(txn, table, key, sizeof key, was_there, err);
}

/* ---- cursors -------------------------------------------------------------------------------- */

tarn_status tarnp_cursor_open(tarnp_txn *txn, tarnp_table table, tarnp_cursor *out, tarn_error *err)
{
    *out = (tarnp_cursor){.txn = txn, .table = table};
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn->handle, txn->tables->tables[table], &cursor);
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[table]);
    out->handle = cursor;
    return TARN_OK;
}

static void forget_value(tarnp_cursor *cursor)
{
    if (cursor->opened)
        tarni_free(&cursor->txn->tables->allocator, cursor->opened);
    cursor->opened = NULL;
}

void tarnp_cursor_close(tarnp_cursor *cursor)
{
    if (cursor->handle)
        mdb_cursor_close(cursor->handle);
    cursor->handle = NULL;
    forget_value(cursor);
}

static tarn_status move_cursor(tarnp_cursor *cursor, MDB_val *k, MDB_cursor_op op, tarnp_span *key,
                               tarnp_span *value, tarn_error *err)
{
    MDB_val v;
    *key = *value = (tarnp_span){0};
    forget_value(cursor);
    int rc = mdb_cursor_get(cursor->handle, k, &v, op);
    if (rc == MDB_NOTFOUND)
        return TARN_OK;
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[cursor->table]);
    if (key_bytes_of[cursor->table] != 0 && k->mv_size != key_bytes_of[cursor->table])
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: a key of %zu bytes",
                          tarnp_table_names[cursor->table], k->mv_size);
    *key = (tarnp_span){k->mv_data, k->mv_size};
    return take_value(cursor->txn->tables, &cursor->opened, cursor->table, *k, v, value, err);
}

tarn_status tarnp_cursor_seek(tarnp_cursor *cursor, const void *from, size_t from_bytes,
                              tarnp_span *key, tarnp_span *value, tarn_error *err)
{
    MDB_val k = as_val(from, from_bytes);
    return move_cursor(cursor, &k, from ? MDB_SET_RANGE : MDB_FIRST, key, value, err);
}

tarn_status tarnp_cursor_next(tarnp_cursor *cursor, tarnp_span *key, tarnp_span *value,
                              tarn_error *err)
{
    MDB_val k;
    return move_cursor(cursor, &k, MDB_NEXT, key, value, err);
}
