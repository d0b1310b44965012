/* prefix.c
 *
 * Finding walks the lengths that there are, shortest first, hashing the tokens once on the way: a
 * sum is closed at each length and looked up. One walk over all is right also where sessions were
 * cut at different places: a longer prefix may be stored though no shorter one is. */
#include "prefix.h"

#include <sodium.h>
#include <string.h>

#define SCOPE_BYTES    8
#define AT_LENGTH      SCOPE_BYTES
#define AT_SUM         12
#define NUMERICS_BYTES (sizeof((tarnp_manifest *)0)->numerics)
#define BLOCK_IDS      1024

typedef crypto_generichash_blake2b_state hash_state;

static const uint8_t no_sum[TARNP_PREFIX_SUM_BYTES];

static void add_scope(hash_state *h, const uint8_t fp[TARNP_FP_BYTES], const char *numerics)
{
    char padded[NUMERICS_BYTES] = {0};
    size_t n = numerics ? strnlen(numerics, NUMERICS_BYTES - 1) : 0;
    if (n > 0)
        memcpy(padded, numerics, n);
    crypto_generichash_blake2b_update(h, fp, TARNP_FP_BYTES);
    crypto_generichash_blake2b_update(h, (const uint8_t *)padded, sizeof padded);
}

static void add_ids(hash_state *h, const uint32_t *ids, size_t n)
{
    uint8_t block[4 * BLOCK_IDS];
    while (n > 0) {
        size_t some = n < BLOCK_IDS ? n : BLOCK_IDS;
        for (size_t i = 0; i < some; i++)
            tarni_store_u32(block + 4 * i, ids[i]);
        crypto_generichash_blake2b_update(h, block, 4 * some);
        ids += some;
        n -= some;
    }
}

static void close_sum(hash_state h, uint8_t sum[TARNP_PREFIX_SUM_BYTES])
{
    crypto_generichash_blake2b_final(&h, sum, TARNP_PREFIX_SUM_BYTES);
}

static tarn_status begin_sum(const tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES],
                             const char *numerics, hash_state *h, tarn_error *err)
{
    if (sodium_init() < 0)
        return tarni_fail(err, TARN_E_IO, "libsodium cannot start");
    crypto_generichash_blake2b_init(h, store->format.salt, sizeof store->format.salt,
                                    TARNP_PREFIX_SUM_BYTES);
    add_scope(h, fp, numerics);
    return TARN_OK;
}

tarn_status tarnp_prefix_sum(const tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES],
                             const char *numerics, const uint32_t *ids, size_t n_ids,
                             uint8_t sum[TARNP_PREFIX_SUM_BYTES], tarn_error *err)
{
    hash_state h;
    TARNI_TRY(begin_sum(store, fp, numerics, &h, err));
    add_ids(&h, ids, n_ids);
    close_sum(h, sum);
    return TARN_OK;
}

static void begin_key(const uint8_t fp[TARNP_FP_BYTES], const char *numerics,
                      uint8_t key[TARNP_PREFIX_KEY_BYTES])
{
    uint8_t scope[crypto_generichash_blake2b_BYTES_MIN];
    hash_state h;
    crypto_generichash_blake2b_init(&h, NULL, 0, sizeof scope);
    add_scope(&h, fp, numerics);
    crypto_generichash_blake2b_final(&h, scope, sizeof scope);
    memcpy(key, scope, SCOPE_BYTES);
}

static void end_key(uint8_t key[TARNP_PREFIX_KEY_BYTES], uint32_t length,
                    const uint8_t sum[TARNP_PREFIX_SUM_BYTES])
{
    tarni_store_u32_be(key + AT_LENGTH, length);
    memcpy(key + AT_SUM, sum, TARNP_PREFIX_SUM_BYTES);
}

/* ---- entries -------------------------------------------------------------------------------- */

/* False where the node is not listed. */
static bool key_of(const tarnp_manifest *m, uint8_t key[TARNP_PREFIX_KEY_BYTES])
{
    if (memcmp(m->prefix, no_sum, sizeof no_sum) == 0 || m->position > UINT32_MAX)
        return false;
    begin_key(m->fp, m->numerics, key);
    end_key(key, (uint32_t)m->position, m->prefix);
    return true;
}

tarn_status tarnp_prefix_put(tarnp_write *w, const tarnp_manifest *m, tarn_error *err)
{
    uint8_t key[TARNP_PREFIX_KEY_BYTES];
    if (!key_of(m, key))
        return TARN_OK;
    return tarnp_id_put(&w->txn, TARNP_TABLE_PREFIX, key, sizeof key, m->id, err);
}

tarn_status tarnp_prefix_drop(tarnp_write *w, const tarnp_manifest *m, tarn_error *err)
{
    uint8_t key[TARNP_PREFIX_KEY_BYTES];
    uint64_t listed;
    if (!key_of(m, key))
        return TARN_OK;
    TARNI_TRY(tarnp_id_get(&w->txn, TARNP_TABLE_PREFIX, key, sizeof key, &listed, err));
    if (listed != m->id)
        return TARN_OK;
    return tarnp_delete(&w->txn, TARNP_TABLE_PREFIX, key, sizeof key, NULL, err);
}

bool tarnp_prefix_matches(const tarnp_manifest *m, tarnp_span key)
{
    uint8_t own[TARNP_PREFIX_KEY_BYTES];
    return key.n_bytes == sizeof own && key_of(m, own) && memcmp(own, key.data, sizeof own) == 0;
}

/* ---- finding -------------------------------------------------------------------------------- */

/* A damaged entry is one that is not there: verify names it. */
static tarn_status pass_damage(tarn_status status)
{
    return status == TARN_E_CORRUPT ? TARN_OK : status;
}

/* `h` has taken in the scope, and `key` begins with it. */
static tarn_status walk(tarnp_txn *txn, tarnp_cursor *cursor, hash_state h,
                        uint8_t key[TARNP_PREFIX_KEY_BYTES], const uint32_t *ids, size_t n_ids,
                        uint64_t *node, size_t *n_found, tarn_error *err)
{
    uint8_t sum[TARNP_PREFIX_SUM_BYTES];
    tarnp_span at, value;
    uint32_t length = 0;
    while (length < n_ids && length < UINT32_MAX) {
        uint64_t listed = TARNP_NODE_NONE;
        uint32_t hashed = length;
        end_key(key, length + 1, no_sum);
        TARNI_TRY(
            pass_damage(tarnp_cursor_seek(cursor, key, TARNP_PREFIX_KEY_BYTES, &at, &value, err)));
        if (!at.data || at.n_bytes != TARNP_PREFIX_KEY_BYTES ||
            memcmp(at.data, key, SCOPE_BYTES) != 0)
            return TARN_OK;
        length = tarni_load_u32_be(at.data + AT_LENGTH);
        if (length > n_ids)
            return TARN_OK;
        add_ids(&h, ids + hashed, length - hashed);
        close_sum(h, sum);
        end_key(key, length, sum);
        TARNI_TRY(pass_damage(
            tarnp_id_get(txn, TARNP_TABLE_PREFIX, key, TARNP_PREFIX_KEY_BYTES, &listed, err)));
        if (listed != TARNP_NODE_NONE) {
            *node = listed;
            *n_found = length;
        }
    }
    return TARN_OK;
}

tarn_status tarnp_prefix_find(tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES],
                              const char *numerics, const uint32_t *ids, size_t n_ids,
                              uint64_t *node, size_t *n_found, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_cursor cursor;
    hash_state h;
    uint8_t key[TARNP_PREFIX_KEY_BYTES];
    *node = TARNP_NODE_NONE;
    *n_found = 0;
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = begin_sum(store, fp, numerics, &h, err);
    if (status == TARN_OK)
        status = tarnp_cursor_open(&txn, TARNP_TABLE_PREFIX, &cursor, err);
    if (status == TARN_OK) {
        begin_key(fp, numerics, key);
        status = walk(&txn, &cursor, h, key, ids, n_ids, node, n_found, err);
        tarnp_cursor_close(&cursor);
    }
    tarnp_txn_abort(&txn);
    return status;
}
