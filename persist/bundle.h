/* bundle.h - one session as one file (.tarnx) that can be streamed and checks itself.
 *
 *     head, SESS, MODL if there is one, for every node from the root on NODE and its CHNKs, TEND
 *
 *     head    OFFSET  SIZE  FIELD                                  (little-endian)
 *             0       8     magic "\x89TARNX\r\n"
 *             8       2     version, 1: another is refused
 *             10      2     bytes of the head, 64
 *             12      4     models: 0 or 1
 *             16      8     compatible features: unknown bits are ignored
 *             24      8     incompatible features: with unknown bits the file is refused
 *             32      8     bytes of the whole file
 *             40      8     nodes
 *             48      8     chunks
 *             56      8     0
 *     frame   0       4     kind: "SESS", "MODL", "NODE", "CHNK", "TEND"
 *             4       4     bytes of what follows, n
 *             8       n
 *     SESS    0       8     created, Unix ms
 *             8       8     updated, Unix ms
 *             16      32    model fingerprint
 *             48      -     name (4 n, n), 4 number of tags, then key and value of each (4 n, n)
 *     MODL    0       32    model fingerprint
 *             32      -     descriptor
 *     NODE    0       -     manifest (node.h) with the ids of extract.h: node i of the file has
 *                           the id i and the parent i - 1
 *     CHNK    0       -     value (chunk.h) as stored, under its number in the file
 *     TEND    0       8     nodes
 *             8       8     chunks
 *             16      32    BLAKE2b-256 of all bytes of the file before these 32
 *
 * The magic is one that a transfer as text destroys. Payloads are not encoded anew, and nothing in
 * the file depends on the store it came from: the same session gives the same bytes. What holds of
 * a session in one store only stays there: pin, group, expiry, leases. So do the nodes it has left
 * behind (tips).
 *
 * The sums inside (XXH3) find rot; the digest is what makes any change of a file show. Neither says
 * who made it. */
#ifndef TARNP_BUNDLE_H
#define TARNP_BUNDLE_H

#include "store.h"

#define TARNP_BUNDLE_MAGIC       "\x89TARNX\r\n"
#define TARNP_BUNDLE_VERSION     1
#define TARNP_BUNDLE_HEAD_BYTES  64
#define TARNP_BUNDLE_FRAME_BYTES 8
#define TARNP_BUNDLE_TEND_BYTES  48
#define TARNP_BUNDLE_SUM_BYTES   32
/* Limits of what follows a frame's head. */
#define TARNP_BUNDLE_SESS_MAX ((uint32_t)64 << 10)
#define TARNP_BUNDLE_NODE_MAX ((uint32_t)64 << 20)

#define TARNP_FRAME_SESS 0x53534553u
#define TARNP_FRAME_MODL 0x4C444F4Du
#define TARNP_FRAME_NODE 0x45444F4Eu
#define TARNP_FRAME_CHNK 0x4B4E4843u
#define TARNP_FRAME_TEND 0x444E4554u

/* Takes all n_bytes, or fails the way the whole operation is to fail. No transaction is open while
 * it runs. */
typedef tarn_status (*tarnp_write_fn)(void *user, const void *data, size_t n_bytes,
                                      tarn_error *err);
/* Gives at most n_bytes; *n_read is 0 at the end only. */
typedef tarn_status (*tarnp_read_fn)(void *user, void *data, size_t n_bytes, size_t *n_read,
                                     tarn_error *err);
/* May be NULL; false from it ends with CANCELLED. */
typedef bool (*tarnp_progress_fn)(void *user, uint64_t done, uint64_t all);

/* Writes the session, from the root to its head. *bytes is the size of the file. NOT_FOUND, CORRUPT
 * naming node and chunk, LIMIT (a node with too many chunks for a file), CANCELLED, and what
 * `write` returns. */
tarn_status tarnp_export(tarnp_store *store, const char *session, tarnp_write_fn write, void *to,
                         tarnp_progress_fn progress, void *user, uint64_t *bytes, tarn_error *err);

/* Reads a file and makes its session, under `name` or (NULL) its own name; one that looks like a
 * path that leads elsewhere is not taken from a file. Nodes the store has are used instead of
 * copied. Nothing can be seen before the whole file has been checked, and after an error nothing
 * was made: CORRUPT says what is wrong, FORMAT (foreign or newer), EXISTS, INVALID (name),
 * NO_SPACE, QUOTA (with the figures: a commit evicts what it may to find room, an import evicts
 * nothing), CONFLICT, CANCELLED, and what `read` returns. */
tarn_status tarnp_import(tarnp_store *store, tarnp_read_fn read, void *from, const char *name,
                         tarnp_progress_fn progress, void *user, tarnp_session *out,
                         uint64_t *bytes, tarn_error *err);

#endif
