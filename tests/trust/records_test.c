/* Stores whose records are whole, checksums and all, and say something else: as a bug of an earlier
 * version or somebody hostile would leave them. One to three records of a small store are removed,
 * cut, lengthened, changed or exchanged, in every other store beneath encryption; then every verb
 * is tried on it. Each time:
 *
 *   - nothing crashes, and nothing goes on for ever;
 *   - the verb succeeds, or says what is wrong in one line;
 *   - it gives back all memory and closes all files it opened. */
#include "handle.h"
#include "lease.h"
#include "node.h"
#include "records.h"
#include "sums.h"
#include "trust.h"
#include "verbs.h"

#include <unistd.h>

enum { ENTRIES = 200, PIECE_SECONDS = 120 };

typedef struct entry {
    tarnp_table table;
    uint8_t key[256];
    size_t key_bytes;
    uint8_t *value;
    size_t n_bytes;
} entry;

static entry entries[ENTRIES];
static size_t n_entries;

static bool good(tarn_status status)
{
    return status == TARN_OK;
}

/* ---- what the store also holds --------------------------------------------------------------- */

static bool furnish(bench *b)
{
    kit *k = &b->k;
    tarnp_lease lease;
    const tarnp_policy policy = {TARNP_STATE_BF16, TARNP_STATE_LOSSLESS};
    return good(tarnp_policy_set(k->store, &policy, &k->err)) &&
           good(tarnp_lease_take(k->store, b->branch_id, 10000, "n", &lease, &k->err));
}

/* ---- what it says instead -------------------------------------------------------------------- */

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

/* Every table as often as another, but chunks, most of which are checksums' business. */
static entry *any_entry(uint64_t *r)
{
    for (int tries = 0; tries < 100; tries++) {
        entry *e = &entries[trust_below(r, n_entries)];
        size_t n = 0;
        for (size_t i = 0; i < n_entries; i++)
            n += entries[i].table == e->table;
        if (trust_below(r, e->table == TARNP_TABLE_CHUNK ? 4 * n : n) == 0)
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
    }
    if (is_counters && n >= 8) /* they say which transaction was the last */
        tarni_store_u64(e->value, tarnp_txn_id(txn));
    return tarnp_put(txn, e->table, e->key, e->key_bytes, e->value, n, err);
}

static bool change(bench *b, uint64_t seed)
{
    kit *k = &b->k;
    tarnp_txn txn;
    tarnp_counters counters;
    uint64_t r = seed;
    bool own_counters = false;
    if (!kit_reopen(k) || !furnish(b) ||
        !good(tarnp_txn_begin(k->store->tables, true, &txn, &k->err)))
        return false;
    tarn_status status = list_entries(&txn, &k->err) ? TARN_OK : k->err.status;
    for (uint64_t i = 0; good(status) && i < 1 + trust_below(&r, 3); i++)
        status = change_one(&txn, &r, &own_counters, &k->err);
    if (good(status) && !own_counters) {
        status = tarnp_counters_get(&txn, &counters, &k->err);
        counters.txn = tarnp_txn_id(&txn);
        if (good(status))
            status = tarnp_counters_put(&txn, &counters, &k->err);
    }
    status = good(status) ? tarnp_txn_commit(&txn, &k->err) : status;
    tarnp_txn_abort(&txn);
    bool is_read = good(status) && bench_read(b);
    tarnp_store_close(k->store);
    k->store = NULL;
    return is_read;
}

/* ---- trying ---------------------------------------------------------------------------------- */

static void try_verb(trust *t, bench *b, const verb *v)
{
    trust_note(t, "%s", v->name);
    bool is_open = bench_reset(b) && bench_open(b, v);
    unsigned n_files = refuse_open_files();
    memset(&b->err, 0, sizeof b->err);
    tarn_status status = is_open ? v->run(b) : b->k.err.status;
    t->n++;
    trust_count(t, !is_open ? "not opened" : good(status) ? "done" : "refused", 1);
    if (is_open && !good(status) &&
        (b->err.status != status || !b->err.detail[0] || strchr(b->err.detail, '\n')))
        trust_bad(t, "%s without a line of detail", tarn_status_name(status));
    if (is_open && refuse_open_files() != n_files)
        trust_bad(t, "%u files are open, %u were", refuse_open_files(), n_files);
    bench_close(b);
    if (b->purse.live != 0)
        trust_bad(t, "%ld blocks are still held", (long)b->purse.live);
    b->purse.live = 0;
}

/* Verify may find nothing in what it can read, but must come to an end with every byte seen. */
static void try_verify(trust *t, bench *b)
{
    kit *k = &b->k;
    trust_note(t, "verify");
    if (bench_reset(b) && good(tarnp_store_open(k->path, &k->options, &k->store, &k->err)))
        trust_count(t, kit_verify(k, true) == 0 ? "verified" : "found", 1);
    tarnp_store_close(k->store);
    k->store = NULL;
}

static void piece(trust *t, uint64_t seed)
{
    static bench b;
    alarm(PIECE_SECONDS);
    if (seed % 2)
        setenv("TARN_TEST_KEY", "1", 1);
    trust_note(t, "making the store");
    if (!bench_make(&b) || !change(&b, seed)) {
        trust_bad(t, "%s", b.k.err.detail);
        return;
    }
    try_verify(t, &b);
    for (size_t i = 0; i < N_VERBS; i++)
        try_verb(t, &b, &verbs[i]);
    bench_free(&b);
}

CASE(records)
{
    CHECK(trust_run("records.records", 3000, piece));
}

CHECK_MAIN(ENTRY(records))
