/* seal.c
 *
 * A value is sealed by the put that stores it, in the page it is stored in, and opened by the get
 * that hands it out. So everything above reads and writes what it would without a key, exported
 * files are the same, and no record can be forgotten.
 *
 * Rejected: sealing chunks where they are encoded, by many threads outside the write lock. Their
 * ids are given under it, and a chunk that is not bound to its id can be put in the place of
 * another. Opening them is spread over the threads that decode. */
#include "seal.h"

#include "bytes.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define VERSION     1
#define KEY_MAX     511
#define NONCE_BYTES crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
#define TAG_BYTES   crypto_aead_xchacha20poly1305_ietf_ABYTES

static_assert(24 + NONCE_BYTES == TARNP_SEAL_HEAD_BYTES, "the head ends with the nonce");
static_assert(TARNP_SEAL_HEAD_BYTES + TAG_BYTES == TARNP_SEAL_BYTES, "head and tag");
static_assert(crypto_aead_xchacha20poly1305_ietf_KEYBYTES == 32, "key");

static void derive(uint8_t *out, size_t n, const char *purpose, const void *secret, size_t n_bytes)
{
    crypto_generichash_blake2b(out, n, (const uint8_t *)purpose, strlen(purpose), secret, n_bytes);
}

tarn_status tarnp_seal_init(tarnp_seal *seal, const void *secret, size_t n_bytes, tarn_error *err)
{
    if (!secret || n_bytes < TARNP_SECRET_LEAST || n_bytes > TARNP_SECRET_MOST)
        return tarni_fail(err, TARN_E_INVALID, "an encryption key of %zu bytes, should be %d to %d",
                          n_bytes, TARNP_SECRET_LEAST, TARNP_SECRET_MOST);
    if (sodium_init() < 0)
        return tarni_fail(err, TARN_E_IO, "libsodium cannot start");
    derive(seal->values, sizeof seal->values, "tarn 1 values", secret, n_bytes);
    derive(seal->sums, sizeof seal->sums, "tarn 1 sums", secret, n_bytes);
    derive(seal->id, sizeof seal->id, "tarn 1 id", secret, n_bytes);
    return TARN_OK;
}

void tarnp_seal_fini(tarnp_seal *seal)
{
    sodium_memzero(seal, sizeof *seal);
}

void tarnp_seal_salt(const tarnp_seal *seal, uint8_t salt[32])
{
    uint8_t from[32];
    memcpy(from, salt, sizeof from);
    crypto_generichash_blake2b(salt, 32, from, sizeof from, seal->sums, sizeof seal->sums);
}

void tarnp_seal_name(const uint8_t id[TARNP_SEAL_ID_BYTES], char out[17])
{
    for (size_t i = 0; i < 8; i++)
        snprintf(out + 2 * i, 3, "%02x", id[i]);
}

/* What is authenticated beside the value; returns its size. */
static size_t bind(uint8_t out[TARNP_SEAL_HEAD_BYTES + KEY_MAX], const uint8_t *head,
                   const void *key, size_t key_bytes)
{
    memcpy(out, head, TARNP_SEAL_HEAD_BYTES);
    memcpy(out + TARNP_SEAL_HEAD_BYTES, key, key_bytes);
    return TARNP_SEAL_HEAD_BYTES + key_bytes;
}

static bool has_id(tarnp_table table)
{
    return table == TARNP_TABLE_NODE || table == TARNP_TABLE_CHUNK;
}

void tarnp_seal_put(const tarnp_seal *seal, tarnp_table table, const void *key, size_t key_bytes,
                    uint8_t *out, size_t n_bytes)
{
    uint8_t bound[TARNP_SEAL_HEAD_BYTES + KEY_MAX];
    TARN_ASSERT(key_bytes <= KEY_MAX);
    memset(out, 0, TARNP_SEAL_HEAD_BYTES);
    tarni_store_u32(out, TARNP_SEAL_MAGIC);
    out[4] = VERSION;
    out[5] = (uint8_t)table;
    if (has_id(table))
        tarni_store_u64(out + 8, tarni_load_u64_be(key));
    tarni_store_u32(out + 16, (uint32_t)n_bytes);
    memcpy(out + 20, seal->id, 4);
    randombytes_buf(out + 24, NONCE_BYTES);
    uint8_t *value = out + TARNP_SEAL_HEAD_BYTES;
    crypto_aead_xchacha20poly1305_ietf_encrypt(value, NULL, value, n_bytes, bound,
                                               bind(bound, out, key, key_bytes), NULL, out + 24,
                                               seal->values);
}

bool tarnp_seal_open(const tarnp_seal *seal, tarnp_table table, const void *key, size_t key_bytes,
                     const uint8_t *sealed, size_t n_bytes, uint8_t *out)
{
    uint8_t bound[TARNP_SEAL_HEAD_BYTES + KEY_MAX];
    if (n_bytes < TARNP_SEAL_BYTES || key_bytes > KEY_MAX ||
        tarni_load_u32(sealed) != TARNP_SEAL_MAGIC || sealed[4] != VERSION ||
        sealed[5] != (uint8_t)table || tarni_load_u32(sealed + 16) != n_bytes - TARNP_SEAL_BYTES)
        return false;
    return crypto_aead_xchacha20poly1305_ietf_decrypt(
               out, NULL, NULL, sealed + TARNP_SEAL_HEAD_BYTES, n_bytes - TARNP_SEAL_HEAD_BYTES,
               bound, bind(bound, sealed, key, key_bytes), sealed + 24, seal->values) == 0;
}
