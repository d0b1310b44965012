/* node.h - the manifest: what a node is, and which chunks it wrote.
 *
 *     OFFSET  SIZE  FIELD                                     (little-endian)
 *     0       4     magic "TNOD"
 *     4       2     version, 1
 *     6       1     flags (TARNP_NODE_...)
 *     7       1     0
 *     8       4     bytes of the whole manifest
 *     12      4     tokens since the parent
 *     16      8     id
 *     24      8     parent, smaller than the id; 0 for a root
 *     32      8     session that wrote it
 *     40      8     position
 *     48      4     turns
 *     52      4     number of segments
 *     56      8     created, Unix ms
 *     64      8     stored bytes of the chunks
 *     72      8     chain bytes: stored bytes from the root through this node, manifests included
 *     80      8     base bytes: chain bytes of the nearest ancestor of another session, or 0
 *     88      8     id of the first chunk; the others follow it without gaps
 *     96      4     number of sections
 *     100     4     number of chunks
 *     104     16    commit key, zero for none
 *     120     32    model fingerprint
 *     152     64    numerics, padded with zeros
 *     216     -     segments:  1 role  1 flags  2 call ids  4 tokens, then each call id (4 n, n)
 *     -       8 s   sections:  1 kind  1 elem  2 0  4 chunks
 *     -       32 c  chunks:    4 first  4 count  4 raw bytes  4 stored bytes  16 sum (chunk.h)
 *     -       16    XXH3-128 of all bytes before
 *
 * A parent is older than its child, so every chain ends. A later version keeps magic, length and
 * checksum where they are, so that "newer" can be told from "damaged". */
#ifndef TARNP_NODE_H
#define TARNP_NODE_H

#include "bytes.h"
#include "chunk.h"

typedef struct tarnp_manifest {
    uint64_t id, parent, session_id, position;
    uint32_t n_tokens, turns;
    uint8_t flags;
    uint64_t created_ms;
    uint64_t chunk_bytes, chain_bytes, base_bytes;
    uint64_t first_chunk;
    uint32_t n_segments, n_sections, n_chunks;
    uint8_t key[TARNP_KEY_BYTES];
    uint8_t fp[TARNP_FP_BYTES];
    char numerics[64];
    uint32_t n_bytes; /* of the manifest */
} tarnp_manifest;

/* Appends the manifest to an empty writer; n_bytes and chain_bytes of `m` are filled in, the latter
 * by adding chunk_bytes and n_bytes. The section's tables are given flat, in order. NO_MEMORY,
 * LIMIT where a count does not fit its field. */
tarn_status tarnp_manifest_put(tarni_writer *w, tarnp_manifest *m, const tarnp_segment *segments,
                               const tarnp_section *sections, const tarnp_chunk_ref *chunks,
                               tarn_error *err);

/* Checks length, checksum, counts and the fixed part; the segments are left to
 * tarnp_manifest_node. CORRUPT and FORMAT name the node. */
tarn_status tarnp_manifest_get(tarnp_span value, uint64_t id, tarnp_manifest *out, tarn_error *err);
/* Entry i < n_chunks of a manifest that tarnp_manifest_get accepted. */
void tarnp_manifest_chunk(tarnp_span value, const tarnp_manifest *m, uint32_t i,
                          tarnp_chunk_ref *out);
/* Decodes all of it. */
tarn_status tarnp_manifest_node(tarnp_span value, uint64_t id, const tarn_allocator *allocator,
                                tarnp_node *out, tarn_error *err);
/* Rewrites, in a writable copy of a manifest that tarnp_manifest_get accepted, the fixed fields
 * from `m`, the sums of the chunks (16 bytes each, n_chunks of them) and its own. Lengths and
 * counts of `m` must be the ones it has. */
void tarnp_manifest_renumber(uint8_t *value, const tarnp_manifest *m, const uint8_t *sums);
/* Whether two nodes say the same but for ids, times, byte sums of the chain and chunk sums. */
bool tarnp_manifest_same(tarnp_span a, const tarnp_manifest *am, tarnp_span b,
                         const tarnp_manifest *bm);

#endif
