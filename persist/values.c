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

static tarn_status take_value(tarnp_table table, MDB_val key, MDB_val value, tarnp_span *out,
                              tarn_error *err)
{
    *out = (tarnp_span){value.mv_data, value.mv_size};
    if (!has_sum(table))
        return TARN_OK;
    if (value.mv_size < SUM_BYTES || value.mv_size > RECORD_BYTES_MAX)
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: a record of %zu bytes",
                          tarnp_table_names[table], value.mv_size);
    out->n_bytes -= SUM_BYTES;
    if (!tarnp_record_matches(table, key.mv_data, key.mv_size, value.mv_data, value.mv_size))
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: a record does not match its checksum",
                          tarnp_table_names[table]);
    return TARN_OK;
}

/* Whether an entry is under the key it was put under. */
static bool under_its_key(tarnp_table table, MDB_val key, MDB_val value)
{
    if (has_sum(table))
        return tarnp_record_matches(table, key.mv_data, key.mv_size, value.mv_data, value.mv_size);
    return key.mv_size == 8 && value.mv_size >= AT_ID + 8 &&
           tarni_load_u64((uint8_t *)value.mv_data + AT_ID) == tarni_load_u64_be(key.mv_data);
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
    bool good = true;
    rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    if (rc == 0)
        good = under_its_key(table, k, v);
    if (good && (rc == 0 || rc == MDB_NOTFOUND)) {
        rc = mdb_cursor_get(cursor, &k, &v, rc == 0 ? MDB_PREV : MDB_LAST);
        good = rc != 0 || under_its_key(table, k, v);
    }
    mdb_cursor_close(cursor);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[table]);
    if (!good)
        return tarni_fail(err, TARN_E_CORRUPT,
                          "table %s: an entry beside the one asked for is damaged",
                          tarnp_table_names[table]);
    return TARN_OK;
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
    tarn_status status = take_value(table, k, v, out, err);
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
    MDB_val k = as_val(key, key_bytes), v = as_val(NULL, n_bytes + extra);
    int rc = mdb_put(txn->handle, txn->tables->tables[table], &k, &v, flags | MDB_RESERVE);
    if (rc == MDB_KEYEXIST)
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: an id was given out twice",
                          tarnp_table_names[table]);
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[table]);
    if (n_bytes > 0)
        memcpy(v.mv_data, value, n_bytes);
    if (extra)
        tarni_store_u64((uint8_t *)v.mv_data + n_bytes,
                        sum_of(table, key, key_bytes, value, n_bytes));
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

void tarnp_cursor_close(tarnp_cursor *cursor)
{
    if (cursor->handle)
        mdb_cursor_close(cursor->handle);
    cursor->handle = NULL;
}

static tarn_status move_cursor(tarnp_cursor *cursor, MDB_val *k, MDB_cursor_op op, tarnp_span *key,
                               tarnp_span *value, tarn_error *err)
{
    MDB_val v;
    *key = *value = (tarnp_span){0};
    int rc = mdb_cursor_get(cursor->handle, k, &v, op);
    if (rc == MDB_NOTFOUND)
        return TARN_OK;
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, tarnp_table_names[cursor->table]);
    if (key_bytes_of[cursor->table] != 0 && k->mv_size != key_bytes_of[cursor->table])
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: a key of %zu bytes",
                          tarnp_table_names[cursor->table], k->mv_size);
    *key = (tarnp_span){k->mv_data, k->mv_size};
    return take_value(cursor->table, *k, v, value, err);
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
