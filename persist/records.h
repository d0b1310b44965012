/* records.h - the small records of the store, as bytes and as structs. Little-endian; their
 * checksums are put and checked by tables.h. */
#ifndef TARNP_RECORDS_H
#define TARNP_RECORDS_H

#include "bytes.h"
#include "seal.h"
#include "store.h"
#include "tables.h"

/* ---- table meta, key "format" --------------------------------------------------------------- *
 *
 *     OFFSET  SIZE  FIELD
 *     0       16    "tarn store", padded with zeros
 *     16      2     format major: a newer one is refused
 *     18      2     format minor
 *     20      4     0
 *     24      8     compatible features: unknown bits are ignored
 *     32      8     read-compatible features: with unknown bits nothing is written
 *     40      8     incompatible features: with unknown bits the store is refused. Bit 0: values
 *                   are encrypted (seal.h). Bit 4: a scratch store
 *     48      16    uuid
 *     64      32    salt, for keyed hashes
 *
 * Later versions keep this record's place, fields and checksum. */
#define TARNP_FORMAT_MAJOR 1
#define TARNP_FORMAT_MINOR 0

/* Incompatible features this version knows. */
#define TARNP_FEATURE_SEALED  ((uint64_t)1 << 0)
#define TARNP_FEATURE_SCRATCH ((uint64_t)1 << 4) /* never synced: wiped after an unclean stop */
#define TARNP_INCOMPAT_KNOWN  (TARNP_FEATURE_SEALED | TARNP_FEATURE_SCRATCH)

typedef struct tarnp_format {
    uint16_t major, minor;
    uint64_t compat, ro_compat, incompat;
    uint8_t uuid[16];
    uint8_t salt[32];
} tarnp_format;

tarn_status tarnp_format_put(tarnp_txn *txn, const tarnp_format *format, tarn_error *err);
/* FORMAT for a foreign or newer store. */
tarn_status tarnp_format_get(tarnp_txn *txn, tarnp_format *out, tarn_error *err);

/* The record "seal" (seal.h): the id of the key. CORRUPT where it is missing. */
tarn_status tarnp_seal_record_put(tarnp_txn *txn, const uint8_t id[TARNP_SEAL_ID_BYTES],
                                  tarn_error *err);
tarn_status tarnp_seal_record_get(tarnp_txn *txn, uint8_t id[TARNP_SEAL_ID_BYTES], tarn_error *err);

/* ---- table meta, key "counters" ------------------------------------------------------------- *
 *
 *     OFFSET  SIZE  FIELD
 *     0       8     transaction that wrote this record: that of the snapshot it is read in
 *     8       24    next node, next chunk, next session
 *     32      24    sessions, nodes, chunks that exist
 *     56      8     bytes stored: values of the tables node and chunk
 *     64      8     bytes written: all values put since the store was made
 *
 * The first field tells a snapshot that LMDB took for the newest by mistake (a damaged meta page)
 * from the newest. */
typedef struct tarnp_counters {
    uint64_t txn;
    uint64_t next_node, next_chunk, next_session;
    uint64_t sessions, nodes, chunks;
    uint64_t bytes_stored, bytes_written;
} tarnp_counters;

#define TARNP_COUNTERS_BYTES 72
#define TARNP_COUNTERS_VALUE (TARNP_COUNTERS_BYTES + 8) /* bytes as tarnp_txn counts them */

tarn_status tarnp_counters_put(tarnp_txn *txn, const tarnp_counters *counters, tarn_error *err);
tarn_status tarnp_counters_get(tarnp_txn *txn, tarnp_counters *out, tarn_error *err);

/* ---- table meta, key "policy" --------------------------------------------------------------- *
 *
 *     OFFSET  SIZE  FIELD
 *     0       2     version, 1
 *     2       1     state codec (tarnp_state_codec)
 *     3       1     latent codec
 *     4       4     0
 *
 * Without the record both are LOSSLESS. A version with more fields is longer and has a higher
 * version. */
tarn_status tarnp_policy_put(tarnp_txn *txn, const tarnp_policy *policy, tarn_error *err);
/* CORRUPT, or FORMAT for a newer record. */
tarn_status tarnp_policy_load(tarnp_txn *txn, tarnp_policy *out, tarn_error *err);

/* ---- table session -------------------------------------------------------------------------- *
 *
 *     OFFSET  SIZE  FIELD
 *     0       2     version, 1
 *     2       2     flags: 1 pinned
 *     4       4     turns
 *     8       8     id
 *     16      8     head
 *     24      8     position
 *     32      8     created, Unix ms
 *     40      8     updated, Unix ms
 *     48      8     bytes owned
 *     56      8     bytes shared
 *     64      32    model fingerprint
 *     96      8     expires, Unix ms; 0 never
 *     104     -     name (4 n, n), group (4 n, n), 4 number of tags, then key and value of each
 *
 * Position, turns and bytes follow from nodes: they stand here so that listing sessions reads one
 * table. */

/* `out` is freed with tarnp_session_fini. */
tarn_status tarnp_session_record_put(tarnp_txn *txn, const tarnp_session *session,
                                     const tarn_allocator *allocator, tarn_error *err);
tarn_status tarnp_session_record_get(tarnp_span value, uint64_t id, const tarn_allocator *allocator,
                                     tarnp_session *out, tarn_error *err);

/* ---- table ref ------------------------------------------------------------------------------ *
 *
 *     OFFSET  SIZE  FIELD
 *     0       8     references: children, heads, tips, and drops that are queued
 *     8       8     children written by the session that wrote the node */
typedef struct tarnp_ref {
    uint64_t refs, own_children;
} tarnp_ref;

/* CORRUPT where the node has no record. */
tarn_status tarnp_ref_get(tarnp_txn *txn, uint64_t node, tarnp_ref *out, tarn_error *err);
tarn_status tarnp_ref_put(tarnp_txn *txn, uint64_t node, tarnp_ref ref, tarn_error *err);
tarn_status tarnp_ref_decode(tarnp_span value, uint64_t node, tarnp_ref *out, tarn_error *err);

/* ---- table gcq ------------------------------------------------------------------------------ *
 *
 *     OFFSET  SIZE  FIELD
 *     0       8     references to drop
 *     8       8     chunks of the node already deleted, once nothing refers to it
 *     16      8     1 + chunks of its evicted sections already deleted, while something does; 0 if
 *                   no section was evicted */
typedef struct tarnp_drop {
    uint64_t drops, chunks_done, evict_next;
} tarnp_drop;

tarn_status tarnp_drop_decode(tarnp_span value, uint64_t node, tarnp_drop *out, tarn_error *err);
tarn_status tarnp_drop_put(tarnp_txn *txn, uint64_t node, tarnp_drop drop, tarn_error *err);

/* ---- an id as value: tables name, key and meta (quotas) ------------------------------------- */

/* 0 where there is no entry. */
tarn_status tarnp_id_get(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                         uint64_t *out, tarn_error *err);
tarn_status tarnp_id_put(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                         uint64_t id, tarn_error *err);

#endif
