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
 *     64      8     stored bytes of the chunks that are there
 *     72      8     id of the first chunk; the others follow it without gaps
 *     80      4     number of sections
 *     84      4     number of chunks, evicted ones included
 *     88      16    commit key, zero for none
 *     104     32    model fingerprint
 *     136     64    numerics, padded with zeros
 *     200     32    sum of all tokens (prefix.h), zero if the node is not listed by it
 *     232     4     0, for the id of an encryption key: only with feature bit 0 (records.h)
 *     236     16    0, for a nonce of random bytes
 *     252     4     0
 *     256     -     segments:  1 role  1 flags  2 call ids  4 tokens, then each call id (4 n, n)
 *     -       24 s  sections:  1 kind  1 elem  1 codec (tarnp_state_codec)  1 flags: 1 evicted
 *                              4 chunks  4 largest relative error (fp32)  4 elements of a row
 *                              4 elements of a unit  4 0
 *     -       32 c  chunks:    4 first  4 count  4 raw bytes  4 stored bytes  16 sum (chunk.h)
 *     -       16    XXH3-128 of all bytes before
 *
 * A section that was evicted keeps its entries, so that the numbers of the other chunks stay what
 * they are and a later part of the file can be told from a lost one; the chunks themselves are
 * gone. What follows from other nodes (the bytes of a chain) is not kept here: evicting a part of
 * one node would change it in all descendants.
 *
 * A parent is older than its child, so every chain ends. A later version keeps magic, length and
 * checksum where they are, so that "newer" can be told from "damaged". */
#ifndef TARNP_NODE_H
#define TARNP_NODE_H

#include "bytes.h"
#include "chunk.h"

#define TARNP_MANIFEST_HEAD_BYTES 256 /* the fixed part */

typedef struct tarnp_manifest {
    uint64_t id, parent, session_id, position;
    uint32_t n_tokens, turns;
    uint8_t flags;
    uint64_t created_ms;
    uint64_t chunk_bytes;
    uint64_t first_chunk;
    uint32_t n_segments, n_sections, n_chunks;
    uint8_t key[TARNP_KEY_BYTES];
    uint8_t fp[TARNP_FP_BYTES];
    char numerics[64];
    uint8_t prefix[TARNP_PREFIX_SUM_BYTES];
    uint32_t n_bytes; /* of the manifest */
} tarnp_manifest;

/* Fills in n_bytes of `m` from its counts and the segments. LIMIT where a count does not fit its
 * field. */
tarn_status tarnp_manifest_measure(tarnp_manifest *m, const tarnp_segment *segments,
                                   tarn_error *err);
/* Appends the manifest to an empty writer; n_bytes of `m` is filled in. The section's tables are
 * given flat, in order. NO_MEMORY, LIMIT. */
tarn_status tarnp_manifest_put(tarni_writer *w, tarnp_manifest *m, const tarnp_segment *segments,
                               const tarnp_section *sections, const tarnp_chunk_ref *chunks,
                               tarn_error *err);

/* Checks length, checksum, counts and the fixed part; the segments are left to
 * tarnp_manifest_node. CORRUPT and FORMAT name the node. */
tarn_status tarnp_manifest_get(tarnp_span value, uint64_t id, tarnp_manifest *out, tarn_error *err);
/* Entry i < n_chunks of a manifest that tarnp_manifest_get accepted. */
void tarnp_manifest_chunk(tarnp_span value, const tarnp_manifest *m, uint32_t i,
                          tarnp_chunk_ref *out);
/* Decodes all of it but evicted sections. */
tarn_status tarnp_manifest_node(tarnp_span value, uint64_t id, const tarn_allocator *allocator,
                                tarnp_node *out, tarn_error *err);
/* Rewrites, in a writable copy of a manifest that tarnp_manifest_get accepted, the fixed fields
 * from `m`, the sums of the chunks (16 bytes each, n_chunks of them) and its own. Lengths and
 * counts of `m` must be the ones it has. */
void tarnp_manifest_renumber(uint8_t *value, const tarnp_manifest *m, const uint8_t *sums);
/* Whether two nodes say the same but for ids, times and chunk sums. */
bool tarnp_manifest_same(tarnp_span a, const tarnp_manifest *am, tarnp_span b,
                         const tarnp_manifest *bm);

/* Stored bytes of the chunks of these parts (TARNP_PART_...) that are there. */
uint64_t tarnp_manifest_part_bytes(tarnp_span value, const tarnp_manifest *m, unsigned parts);
/* The caller's indices [begin, end) that the latents of the node cover or, evicted, covered; false
 * where it never had any. */
bool tarnp_manifest_latents(tarnp_span value, const tarnp_manifest *m, uint64_t *begin,
                            uint64_t *end);
/* Marks the parts as evicted in a writable copy of the manifest, and in `m`. */
void tarnp_manifest_evict(uint8_t *value, tarnp_manifest *m, unsigned parts);

#endif
