/* seal.h - values encrypted where they are stored (XChaCha20-Poly1305 of libsodium).
 *
 *     OFFSET  SIZE  FIELD                                     (little-endian)
 *     0       4     magic "TSLD"
 *     4       1     version, 1
 *     5       1     table (tarnp_table)
 *     6       2     0
 *     8       8     id, where the key of the entry is one; else 0
 *     16      4     bytes of the value, n
 *     20      4     first bytes of the key's id
 *     24      24    nonce of random bytes, new with every put
 *     48      n     the value, encrypted: as it would stand there in a store without a key
 *     48 + n  16    authenticates all before and the key of the entry
 *
 * Of a store with a key every value is sealed but two of table meta: "format", and "seal":
 *
 *     0       2     version, 1
 *     2       6     0
 *     8       16    id of the key
 *
 * The key's id and the two keys in use are BLAKE2b hashes of the key given, so neither tells
 * anything of it or of the other. A value is bound to its table and key: it cannot be moved, cut or
 * changed without notice. What the store as a whole cannot notice is an older copy of its file.
 *
 * What stays visible: that it is a tarn store, and everything that is the key of an entry (session
 * names, model fingerprints, commit keys, ids of sessions, nodes and chunks, which nodes are tips);
 * the number, sizes and times of writing of values; who has the store open. Sums of tokens, under
 * which nodes are found by their tokens, depend on the key. */
#ifndef TARNP_SEAL_H
#define TARNP_SEAL_H

#include "status.h"
#include "tables.h"

#define TARNP_SEAL_HEAD_BYTES 48
#define TARNP_SEAL_BYTES      64 /* a sealed value is longer by so much */
#define TARNP_SEAL_ID_BYTES   16
#define TARNP_SEAL_MAGIC      0x444C5354u
#define TARNP_SECRET_LEAST    32 /* bytes of the key given */
#define TARNP_SECRET_MOST     64

typedef struct tarnp_seal {
    uint8_t values[32], sums[32];
    uint8_t id[TARNP_SEAL_ID_BYTES];
} tarnp_seal;

/* INVALID for a key of another size. */
tarn_status tarnp_seal_init(tarnp_seal *seal, const void *secret, size_t n_bytes, tarn_error *err);
void tarnp_seal_fini(tarnp_seal *seal); /* nothing of it is left in memory */
/* Replaces a salt by one that nobody knows without the key. */
void tarnp_seal_salt(const tarnp_seal *seal, uint8_t salt[32]);
/* Half of the id in hex, for messages. */
void tarnp_seal_name(const uint8_t id[TARNP_SEAL_ID_BYTES], char out[17]);

/* Seals the n_bytes that stand at out + TARNP_SEAL_HEAD_BYTES; `out` has TARNP_SEAL_BYTES more. */
void tarnp_seal_put(const tarnp_seal *seal, tarnp_table table, const void *key, size_t key_bytes,
                    uint8_t *out, size_t n_bytes);
/* Into `out`, of n_bytes - TARNP_SEAL_BYTES; false where it is not what was sealed there. */
bool tarnp_seal_open(const tarnp_seal *seal, tarnp_table table, const void *key, size_t key_bytes,
                     const uint8_t *sealed, size_t n_bytes, uint8_t *out);

#endif
