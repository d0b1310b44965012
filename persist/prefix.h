/* prefix.h - nodes by the tokens they stand for, so that a session that begins like another one, of
 * whatever name, can go on from where that one was.
 *
 * Table prefix:
 *
 *     key     OFFSET  SIZE  FIELD
 *             0       8     scope: the first bytes of BLAKE2b of what follows without the tokens
 *             8       4     tokens from the root on, big-endian
 *             12      32    BLAKE2b-256, keyed with the store's salt, of fingerprint (32), numerics
 *                           (64, padded with zeros) and the tokens (4 each, little-endian)
 *     value   8 node id
 *
 * Nobody without the salt can tell from a key what was said, or make two prompts share one. A node
 * is listed if it has a state, is bit-exact and was committed with all its tokens at hand
 * (tarnp_commit.prefix); of nodes with the same tokens the newest. Its manifest holds the sum, so
 * that the entry goes with the node. */
#ifndef TARNP_PREFIX_H
#define TARNP_PREFIX_H

#include "handle.h"
#include "node.h"

#define TARNP_PREFIX_KEY_BYTES 44

/* The sum of all tokens of a node. Cost: BLAKE2b over 4 bytes a token, a millisecond for 200,000.
 */
tarn_status tarnp_prefix_sum(const tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES],
                             const char *numerics, const uint32_t *ids, size_t n_ids,
                             uint8_t sum[TARNP_PREFIX_SUM_BYTES], tarn_error *err);

/* Lists a node under the sum in its manifest; does nothing where that is zero. */
tarn_status tarnp_prefix_put(tarnp_write *w, const tarnp_manifest *m, tarn_error *err);
/* Takes it away again, unless another node is listed in its place. */
tarn_status tarnp_prefix_drop(tarnp_write *w, const tarnp_manifest *m, tarn_error *err);
/* Whether the entry is what the node of its value, whose manifest this is, has there. */
bool tarnp_prefix_matches(const tarnp_manifest *m, tarnp_span key);

#endif
