/* store.h - the face of the store: sessions, nodes and their chunks in one LMDB environment.
 *
 * The store knows bytes. What a section means (a KDA state, latents, logits) is the caller's.
 *
 *     node      immutable commit: parent, position, tokens since the parent, segments, sections
 *     session   a name for a head node; nodes it left behind by a rewind are its tips
 *     section   a list of chunks of one kind; a chunk is at most TARNP_CHUNK_BYTES_MAX raw bytes
 *
 * Invariants:
 *  1. A node belongs to the session that first wrote it and holds only what came since its parent.
 *     It lives while it has a child, is a head, or is a tip. Of what it holds state and latents may
 *     be evicted, which its flags say; nothing else of it ever changes.
 *  2. One write transaction makes a node, its chunks, its parent's new reference count and the
 *     session's head visible together or not at all; nothing is acknowledged before it is durable.
 *  3. Everything is verified when it is read: chunks against sums in their manifest, manifests and
 *     small records against sums beside them, and LMDB's own pages when the store is opened.
 *  4. No LMDB pointer and no transaction outlives a call of this header.
 *  5. A session that is leased is changed by the holder of the lease alone.
 *
 * Threads: one call at a time per store handle, from any thread; only tarnp_ticket_wait and
 * tarnp_ticket_poll may be called while another call is on. The first tarnp_commit_submit starts
 * one thread, which lives until the store is closed. Other processes may read and write the same
 * store meanwhile. After a failed commit whose outcome is unknown the handle is poisoned: every
 * call but close returns POISONED; reopen and look the commit key up.
 *
 * After fork() the handle is dead in the child: every call is INVALID there and close only forgets
 * it. The child may open the store anew.
 *
 * Every struct this header gives out is a copy owned by the caller, in memory of the store's
 * allocator: finish it before the store is closed. */
#ifndef TARNP_STORE_H
#define TARNP_STORE_H

#include "bytes.h"
#include "ids.h"
#include "threads.h"

#define TARNP_CHUNK_BYTES_MAX  (512 * 1024) /* raw */
#define TARNP_NAME_BYTES_MAX   255
#define TARNP_GROUP_BYTES_MAX  63
#define TARNP_FP_BYTES         32
#define TARNP_BAD_LISTED_MAX   1000 /* damages a verification lists */
#define TARNP_PREFIX_SUM_BYTES 32
#define TARNP_KEY_BYTES        16
#define TARNP_NODE_NONE        0 /* node and session ids start at 1 */
#define TARNP_TAGS_MAX         64
#define TARNP_MODEL_BYTES_MAX  (512 * 1024) /* of a model's descriptor */
#define TARNP_TOKEN_BYTES      16
#define TARNP_HOST_BYTES       65
#define TARNP_NOTE_BYTES       64

typedef struct tarnp_store tarnp_store;

/* What a commit that was acknowledged survives. A kill of any process: always. A power cut:
 *
 *     DURABLE    yes
 *     RELAXED    all but the last commits; the store is never damaged
 *     DEFERRED   yes; commits that are submitted wait up to TARNP_GROUP_DELAY_MS for others, to
 *                share one transaction, unless somebody waits for one of them
 *     SCRATCH    no: nothing is ever synced, and the store is made empty when it is opened after
 *                anything but a clean close of the last process that had it open
 *
 * A store is made a scratch store or not for ever; the other three are the handle's choice. */
typedef enum tarnp_durability {
    TARNP_DURABLE = 0,
    TARNP_RELAXED = 1,
    TARNP_DEFERRED = 2,
    TARNP_SCRATCH = 3
} tarnp_durability;

#define TARNP_GROUP_DELAY_MS 50

typedef struct tarnp_options {
    const tarn_allocator *allocator; /* copied; NULL: the heap */
    const tarn_log *log;             /* copied; may be NULL */
    bool create;                     /* make the folder and the store if there is none */
    bool read_only;                  /* every change is refused; nothing left over is freed */
    size_t map_bytes;                /* 0: 1 TiB; the store can never grow beyond it */
    tarni_pool *pool; /* borrowed, may be NULL: encodes and decodes chunks in parallel */
    tarnp_durability durability;
    size_t queue_bytes_max;    /* of submitted commits in memory; 0: 256 MiB */
    uint32_t queue_length_max; /* 0: 64 */
    /* Random bytes, 32 to 64; borrowed for the call. A store is made with a key or without one for
     * ever. What it protects and what not stands in seal.h. */
    const void *secret;
    size_t secret_bytes; /* 0: none */
} tarnp_options;

/* The store is a folder (mode 0700, files 0600), made whole or not at all. Beside data.mdb and
 * lock.mdb it holds `reserve`, disk space that is given back when a removal finds the disk full,
 * and `scratch` and `clean` where it is a scratch store. NOT_FOUND if absent and not `create`;
 * FORMAT for a foreign or newer one; BUSY if this process has it open already; CORRUPT for a
 * truncated or damaged one; UNSUPPORTED on a network file system; INVALID for a scratch store
 * opened as another or the other way; KEY where the store's key is not the one given (both are
 * named by their ids), or one of them is none; IO. Close writes what was submitted. */
tarn_status tarnp_store_open(const char *path, const tarnp_options *options, tarnp_store **out,
                             tarn_error *err);
void tarnp_store_close(tarnp_store *store); /* NULL is allowed */
/* Where chunks are encoded and decoded from now on; NULL: on the calling thread. */
void tarnp_store_set_pool(tarnp_store *store, tarni_pool *pool);

/* ---- models --------------------------------------------------------------------------------- */

/* The descriptor of a model by its fingerprint: opaque bytes, written once. Putting the same key
 * with other bytes is CONFLICT. */
tarn_status tarnp_model_put(tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES], const void *data,
                            size_t n_bytes, tarn_error *err);
/* Appends the bytes to `out`; NOT_FOUND. */
tarn_status tarnp_model_get(tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES], tarni_writer *out,
                            tarn_error *err);

/* ---- sessions ------------------------------------------------------------------------------- */

typedef struct tarnp_tag {
    const char *key;   /* 1 to 64 bytes of UTF-8 without '=' and control characters */
    const char *value; /* up to 255 bytes */
} tarnp_tag;

typedef struct tarnp_session {
    uint64_t id;
    char name[TARNP_NAME_BYTES_MAX + 1];
    uint64_t head; /* node */
    uint64_t position;
    uint32_t turns; /* closed or open assistant turns up to the head */
    uint8_t fp[TARNP_FP_BYTES];
    bool pinned;                           /* never expires, and nothing of it is ever evicted */
    uint64_t created_ms, updated_ms;       /* Unix */
    uint64_t expires_ms;                   /* removed by the first collection after it; 0: never */
    char group[TARNP_GROUP_BYTES_MAX + 1]; /* whose quota it counts for; "" none */
    uint64_t bytes_owned; /* stored bytes of nodes first written under this session */
    /* Stored bytes of the head's chain from the root through the last node that another session
     * wrote; 0 if there is none. Like bytes_owned without what was evicted. */
    uint64_t bytes_shared;
    size_t n_tags;
    tarnp_tag *tags;
    const tarn_allocator *allocator;
} tarnp_session;

void tarnp_session_fini(tarnp_session *s);

/* 1 to 255 bytes of valid UTF-8 without '@' and control characters; INVALID says why not. */
tarn_status tarnp_name_check(const char *name, tarn_error *err);

/* A new session with its own root node: position 0, no tokens. EXISTS if the name is taken. */
tarn_status tarnp_session_create(tarnp_store *store, const char *name,
                                 const uint8_t fp[TARNP_FP_BYTES], const char *numerics,
                                 const tarnp_tag *tags, size_t n_tags, tarnp_session *out,
                                 tarn_error *err);
tarn_status tarnp_session_find(tarnp_store *store, const char *name, tarnp_session *out,
                               tarn_error *err);
tarn_status tarnp_session_find_id(tarnp_store *store, uint64_t session_id, tarnp_session *out,
                                  tarn_error *err);
/* A new session whose head is `node`: one small record. *bytes_written may be NULL. */
tarn_status tarnp_session_fork(tarnp_store *store, uint64_t node, const char *new_name,
                               tarnp_session *out, uint64_t *bytes_written, tarn_error *err);
/* Moves the head to `node` if it still is `expected_head`, else CONFLICT. The old head stays: as an
 * ancestor of a node this session wrote, or as a tip of this session. Moving to the head it has
 * writes nothing. No node a session wrote goes before the session does. */
tarn_status tarnp_session_move(tarnp_store *store, uint64_t session_id, uint64_t expected_head,
                               uint64_t node, uint64_t *bytes_written, tarn_error *err);
/* The same by the holder of the session's lease. */
tarn_status tarnp_session_move_leased(tarnp_store *store, uint64_t session_id,
                                      const uint8_t token[TARNP_TOKEN_BYTES],
                                      uint64_t expected_head, uint64_t node,
                                      uint64_t *bytes_written, tarn_error *err);
tarn_status tarnp_session_rename(tarnp_store *store, const char *name, const char *new_name,
                                 tarn_error *err);
/* Removes the name, its tips and every node nothing else needs. The record goes at once; chunks are
 * freed in bounded transactions, and what a crash leaves over is freed by the next open or remove.
 */
tarn_status tarnp_session_remove(tarnp_store *store, const char *name, tarn_error *err);

/* Marks on a session; NOT_FOUND, INVALID. Setting what is set already writes nothing. `value` NULL
 * takes the tag away, `group` "" the group. */
tarn_status tarnp_session_tag(tarnp_store *store, const char *name, const char *key,
                              const char *value, tarn_error *err);
tarn_status tarnp_session_pin(tarnp_store *store, const char *name, bool pinned, tarn_error *err);
tarn_status tarnp_session_expire(tarnp_store *store, const char *name, uint64_t expires_ms,
                                 tarn_error *err);
tarn_status tarnp_session_set_group(tarnp_store *store, const char *name, const char *group,
                                    tarn_error *err);

/* All sessions by name. Free with tarnp_sessions_free. */
tarn_status tarnp_session_list(tarnp_store *store, tarnp_session **out, size_t *n, tarn_error *err);
void tarnp_sessions_free(tarnp_session *sessions, size_t n);

/* ---- leases --------------------------------------------------------------------------------- *
 *
 * While somebody holds a lease of a session, a commit to it, a move of its head, its renaming and
 * its removal are BUSY for everybody else; the detail names host, process and when the lease ends.
 * Reading, forking and commits that name no expected head are not affected. A lease ends when its
 * time is over, and at once when its holder is a process of this machine that is gone, or closed
 * the store. Nobody needs a lease: without any, commits compare heads all the same. */

typedef struct tarnp_lease {
    uint64_t session_id;
    uint8_t token[TARNP_TOKEN_BYTES]; /* knowing it is holding the lease */
    char host[TARNP_HOST_BYTES];
    char note[TARNP_NOTE_BYTES];
    uint32_t pid;
    uint64_t taken_ms, ends_ms; /* Unix */
} tarnp_lease;

/* `note` may be NULL; it is cut to TARNP_NOTE_BYTES - 1. BUSY, NOT_FOUND, NO_SPACE, IO. */
tarn_status tarnp_lease_take(tarnp_store *store, uint64_t session_id, uint32_t duration_ms,
                             const char *note, tarnp_lease *out, tarn_error *err);
/* Lasts duration_ms from now on. A lease that ended is taken again if nobody else has it (BUSY).
 * After an error *lease is unchanged. */
tarn_status tarnp_lease_renew(tarnp_store *store, tarnp_lease *lease, uint32_t duration_ms,
                              tarn_error *err);
/* Giving up what was lost already is OK. */
tarn_status tarnp_lease_release(tarnp_store *store, const tarnp_lease *lease, tarn_error *err);
/* Who holds it; NOT_FOUND where nobody does. */
tarn_status tarnp_lease_find(tarnp_store *store, uint64_t session_id, tarnp_lease *out,
                             tarn_error *err);

/* ---- nodes ---------------------------------------------------------------------------------- */

enum {
    TARNP_SEGMENT_CONTINUES = 1, /* goes on with the parent's last segment */
    TARNP_SEGMENT_CLOSED = 2     /* its end marker has been fed */
};

/* A run of tokens with one origin. */
typedef struct tarnp_segment {
    tarn_role role;
    uint8_t flags;
    uint32_t n_tokens; /* may be 0 for a continued one that was only closed */
    size_t n_call_ids; /* TOOL: the call it answers (0 or 1); ASSISTANT: the calls it made */
    char **call_ids;
} tarnp_segment;

/* Stored kinds of sections; the numbers are fixed for ever. */
typedef enum tarnp_section_kind {
    TARNP_SECTION_TOKENS = 1, /* written by the store itself, from tarnp_commit.tokens */
    TARNP_SECTION_STATE = 2,  /* KDA state */
    TARNP_SECTION_CONV = 3,   /* convolution tails */
    TARNP_SECTION_LATENT = 4, /* latent rows since the parent's */
    TARNP_SECTION_LOGITS = 5, /* pending logits */
    TARNP_SECTION_SAMPLER = 6
} tarnp_section_kind;

/* Chooses the codec. Fixed for ever. */
typedef enum tarnp_elem {
    TARNP_ELEM_U8 = 1,
    TARNP_ELEM_U32 = 2,
    TARNP_ELEM_F32 = 3,
    TARNP_ELEM_BF16 = 4
} tarnp_elem;

typedef struct tarnp_piece {
    void *data; /* read by commit, written by read */
    size_t n_bytes;
} tarnp_piece;

/* The raw bytes of a chunk lie in memory as a list of pieces. A piece is a whole number of
 * elements. */
typedef struct tarnp_chunk {
    uint64_t id;           /* out of the store only */
    uint32_t first;        /* the caller's index of the chunk: first head, first token, ... */
    uint32_t count;        /* how many heads, tokens, ... */
    uint32_t raw_bytes;    /* sum of the pieces */
    uint32_t stored_bytes; /* out of the store only */
    uint32_t n_pieces;     /* into the store only */
    const tarnp_piece *pieces;
} tarnp_chunk;

/* How a state is kept. Stored: fixed for ever; the lossy ones have the numbers of their codecs.
 * What a lossy one cannot keep (not finite, too large for it) is kept without loss. */
typedef enum tarnp_state_codec {
    TARNP_STATE_POLICY = 0, /* in a commit: as the store's policy says */
    TARNP_STATE_LOSSLESS = 1,
    TARNP_STATE_BF16 = 4, /* 0.35 of the bytes, off by at most 2^-8 of the largest value */
    TARNP_STATE_FP16 = 5, /* 0.45, 2^-11: half precision times a power of two for each unit */
    TARNP_STATE_INT8 = 6  /* 0.21, 1/253: 8 bits and a scale for each row */
} tarnp_state_codec;

typedef struct tarnp_section {
    tarnp_section_kind kind;
    tarnp_elem elem;
    size_t n_chunks;
    tarnp_chunk *chunks;
    /* Elements of a row, and of a unit, which is whole rows: a head's matrix. Counted from the
     * start of each chunk. With 0 nothing of the section is kept lossy. */
    uint32_t row_elems, unit_elems;
    tarnp_state_codec codec; /* out of the store only: LOSSLESS if every chunk is */
    float max_error;         /* out of the store only: worst max|x - x'| / max|x| of its units */
} tarnp_section;

enum {
    TARNP_NODE_HAS_STATE = 1, /* the sections resume the session at this node's position */
    /* A pure function of the tokens under the node's numerics. Taken off by the store where a
     * section is lossy. */
    TARNP_NODE_BIT_EXACT = 2,
    /* Set by the store alone: */
    TARNP_NODE_STATE_EVICTED = 4,  /* it had a state */
    TARNP_NODE_LATENTS_EVICTED = 8 /* it had latents: states from here on lack them */
};

/* What may leave a node when room is needed: it can be computed again from the tokens, which, like
 * segments and sampler, never leave. */
enum {
    TARNP_PART_STATE = 1,  /* sections STATE, CONV and LOGITS */
    TARNP_PART_LATENTS = 2 /* section LATENT */
};
/* The part a section is of, 0 for one that stays. */
unsigned tarnp_part_of(tarnp_section_kind kind);

typedef struct tarnp_commit {
    uint8_t key[TARNP_KEY_BYTES]; /* the caller's, not all zero; one seen before returns its node */
    uint64_t session_id;
    uint64_t expected_head; /* CONFLICT if the session's head is another; TARNP_NODE_NONE: any,
                               where move_head is false */
    bool move_head;         /* false: the node stays a tip of the session until it gets a child */
    uint64_t parent;        /* any node; position must be parent's position + n_tokens */
    uint8_t flags;          /* TARNP_NODE_... */
    uint8_t fp[TARNP_FP_BYTES]; /* must be the parent's */
    const char *numerics;       /* up to 63 bytes */
    const uint32_t *tokens;     /* since the parent */
    uint32_t n_tokens;
    const uint32_t *prefix; /* all from the root on, `tokens` last: lists the node for
                               tarnp_prefix_find; NULL: does not */
    size_t n_prefix;
    const tarnp_segment *segments; /* their n_tokens add up to n_tokens */
    size_t n_segments;
    const tarnp_section *sections; /* all but TOKENS */
    size_t n_sections;
    tarnp_state_codec state_codec;    /* of STATE sections of fp32 */
    uint8_t lease[TARNP_TOKEN_BYTES]; /* token of the session's lease; all zero: none */
} tarnp_commit;

typedef struct tarnp_committed {
    uint64_t node;
    uint64_t bytes_written; /* of values put; 0 if the key was known */
    bool existed;
    bool lossy; /* a section is, so the node is not bit-exact; false if the key was known */
} tarnp_committed;

/* Chunks are encoded and hashed before the write lock is taken; encoded, all of them are in memory.
 * A commit beyond a quota first evicts just enough of what the collection would; QUOTA if that is
 * not enough, and then nothing is evicted. CONFLICT, BUSY (leased), NOT_FOUND (session, parent),
 * MISMATCH (fp), NO_SPACE, IO. After an error: nothing of the node is in the store, except that IO
 * in the commit itself poisons the handle. */
tarn_status tarnp_commit_node(tarnp_store *store, const tarnp_commit *commit, tarnp_committed *out,
                              tarn_error *err);
/* The node of a commit key; NOT_FOUND. */
tarn_status tarnp_commit_find(tarnp_store *store, const uint8_t key[TARNP_KEY_BYTES],
                              uint64_t *node, tarn_error *err);

/* The node that stands for the longest beginning of `ids`: *n_found tokens, made with this model
 * and these numerics by any session. TARNP_NODE_NONE where there is none. Listed are nodes that
 * were committed with `prefix`, have a state and are bit-exact; a state evicted later has to be
 * computed again. An imported session is listed from its next commit on. Cost: a hash of the ids,
 * and a lookup for each length that any listed node has. */
tarn_status tarnp_prefix_find(tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES],
                              const char *numerics, const uint32_t *ids, size_t n_ids,
                              uint64_t *node, size_t *n_found, tarn_error *err);

/* ---- tickets -------------------------------------------------------------------------------- *
 *
 *     submit --> MEMORY --> WRITTEN --> SYNCED
 *                   \------> FAILED
 *
 * A submitted commit is encoded before submit returns; the caller's memory is not looked at again.
 * The store's writer puts all that are queued into one transaction, in their order; one that is
 * refused (CONFLICT, BUSY, ...) fails alone. Other calls do not wait for the queue: they see what
 * is WRITTEN. After a transaction of unknown outcome its tickets are IO and all behind POISONED. */

typedef struct tarnp_ticket tarnp_ticket;

typedef enum tarnp_ticket_state {
    TARNP_TICKET_FAILED = 0,
    TARNP_TICKET_MEMORY = 1,
    TARNP_TICKET_WRITTEN = 2, /* seen by every process; survives a kill */
    TARNP_TICKET_SYNCED = 3   /* survives a power cut */
} tarnp_ticket_state;

#define TARNP_WAIT_FOREVER UINT32_MAX

/* Waits while the queue is full (tarnp_options; a commit beyond queue_bytes_max is taken when
 * nothing else is queued). INVALID, LIMIT, NO_MEMORY, POISONED; everything else is the ticket's. */
tarn_status tarnp_commit_submit(tarnp_store *store, const tarnp_commit *commit, tarnp_ticket **out,
                                tarn_error *err);
/* Waits until the ticket is at least at `state`. `out` may be NULL; it is filled from WRITTEN on.
 * The failure of the commit; BUSY also when timeout_ms are over (poll tells which); UNSUPPORTED for
 * SYNCED in a scratch store. */
tarn_status tarnp_ticket_wait(tarnp_store *store, tarnp_ticket *ticket, tarnp_ticket_state state,
                              uint32_t timeout_ms, tarnp_committed *out, tarn_error *err);
/* Never waits. `out` and `err` may be NULL; filled as of WRITTEN, and where it is FAILED. */
tarnp_ticket_state tarnp_ticket_poll(tarnp_ticket *ticket, tarnp_committed *out, tarn_error *err);
/* Gives up the ticket, not the commit; a failure nobody can see any more is logged. Before the
 * store is closed. NULL is allowed. */
void tarnp_ticket_free(tarnp_ticket *ticket);
/* Waits until everything submitted and everything committed so far is SYNCED (in a scratch store:
 * WRITTEN). What failed is its ticket's to say. */
tarn_status tarnp_store_flush(tarnp_store *store, tarn_error *err);

/* ---- reading nodes -------------------------------------------------------------------------- */

/* What a node's manifest says; no chunk is read. */
typedef struct tarnp_node {
    uint64_t id;
    uint64_t parent;     /* TARNP_NODE_NONE for a root */
    uint64_t session_id; /* that first wrote it; the session may be gone */
    uint64_t position;   /* tokens from the start */
    uint32_t n_tokens;   /* since the parent */
    uint32_t turns;      /* assistant turns from the start, an open one included */
    uint8_t flags;
    uint8_t fp[TARNP_FP_BYTES];
    char numerics[64];
    uint64_t created_ms;
    uint64_t stored_bytes; /* chunks and manifest of this node */
    size_t n_segments;
    tarnp_segment *segments;
    size_t n_sections;
    tarnp_section *sections; /* those not evicted, TOKENS first; no pieces in the chunks */
    const tarn_allocator *allocator;
} tarnp_node;

void tarnp_node_fini(tarnp_node *node);
/* NOT_FOUND, CORRUPT (names the node), FORMAT (a newer kind of manifest). */
tarn_status tarnp_node_read(tarnp_store *store, uint64_t node, tarnp_node *out, tarn_error *err);
/* The ids of the node's chain, root first, into `out` (u64 each). */
tarn_status tarnp_node_chain(tarnp_store *store, uint64_t node, uint64_t **out, size_t *n,
                             tarn_error *err);
/* Appends the tokens since the parent. */
tarn_status tarnp_node_tokens(tarnp_store *store, const tarnp_node *node, tarni_ids *out,
                              tarn_error *err);
/* Reads, verifies and decodes chunks of a node into the pieces given (chunks[i].pieces must add up
 * to its raw_bytes), in parallel where the store has a pool. CORRUPT names node and chunk,
 * NOT_FOUND too where it was evicted since the node was read; then the pieces hold nothing usable.
 * *bytes_read, if not NULL, is increased by the stored bytes. */
tarn_status tarnp_node_read_chunks(tarnp_store *store, const tarnp_node *node, tarnp_elem elem,
                                   const tarnp_chunk *chunks, size_t n_chunks, uint64_t *bytes_read,
                                   tarn_error *err);

typedef struct tarnp_node_brief {
    uint64_t id, parent, session_id, position, created_ms;
    uint32_t turns;
    uint8_t flags;
} tarnp_node_brief;

/* Every node, by id (parents before children). Free with tarni_free of the store's allocator. */
tarn_status tarnp_node_list(tarnp_store *store, tarnp_node_brief **out, size_t *n, tarn_error *err);

const tarn_allocator *tarnp_store_allocator(const tarnp_store *store);

/* ---- policy --------------------------------------------------------------------------------- */

/* What holds for the whole store, in every process. 0 in tarnp_policy_set: as it is. */
typedef struct tarnp_policy {
    tarnp_state_codec state_codec;  /* of commits that do not say; a new store: LOSSLESS */
    tarnp_state_codec latent_codec; /* LOSSLESS */
} tarnp_policy;

tarn_status tarnp_policy_get(tarnp_store *store, tarnp_policy *out, tarn_error *err);
/* INVALID for what is no codec, UNSUPPORTED for a lossy latent_codec. */
tarn_status tarnp_policy_set(tarnp_store *store, const tarnp_policy *policy, tarn_error *err);

/* ---- keeping it small ----------------------------------------------------------------------- */

/* Takes these parts off a node, whoever needs them; *freed_bytes 0 if they were not there. */
tarn_status tarnp_node_evict(tarnp_store *store, uint64_t node, unsigned parts,
                             uint64_t *freed_bytes, tarn_error *err);

/* The most bytes that nodes may take: of all, or (group not NULL) of the sessions of a group. 0: no
 * limit. INVALID for one that the largest node there is would not fit. Kept in the store; what is
 * beyond it goes with the next collection. The root of a new session, some 200 bytes, is not
 * refused. */
tarn_status tarnp_quota_set(tarnp_store *store, const char *group, uint64_t n_bytes,
                            tarn_error *err);
tarn_status tarnp_quota_get(tarnp_store *store, const char *group, uint64_t *n_bytes,
                            tarn_error *err);

typedef struct tarnp_gc_options {
    bool dry_run;         /* only says what would go */
    uint64_t now_ms;      /* 0: the clock */
    uint32_t keep_newest; /* states kept before each head; 0: 8 */
    uint32_t rung_tokens; /* distance of the first states thinned; 0: 1024 */
} tarnp_gc_options;

typedef enum tarnp_dropped_what {
    TARNP_DROPPED_SESSION = 1,
    TARNP_DROPPED_NODE = 2,
    TARNP_DROPPED_STATE = 3,
    TARNP_DROPPED_LATENTS = 4
} tarnp_dropped_what;

typedef struct tarnp_dropped {
    uint64_t node; /* of a session: its head */
    tarnp_dropped_what what;
    uint64_t n_bytes; /* of a session 0: its nodes are listed themselves */
    char why[120];
} tarnp_dropped;

typedef struct tarnp_gc_report {
    uint64_t freed_bytes;
    size_t n_dropped;
    tarnp_dropped *dropped; /* owned by the caller: tarni_free */
} tarnp_gc_report;

/* The collection: removes sessions that have expired and are not pinned; drops states that stand
 * too close together for their age; then, while a quota is exceeded, states, latents and last the
 * states of heads, cheapest to compute again per byte first. Nothing of a pinned session and no
 * token goes. CORRUPT where a manifest cannot be read: then nothing is dropped. After another error
 * part of it is done, and the next collection does the rest. */
tarn_status tarnp_store_gc(tarnp_store *store, const tarnp_gc_options *options,
                           tarnp_gc_report *out, tarn_error *err);

/* ---- the whole store ------------------------------------------------------------------------ */

/* Bytes of values put through this handle since it was opened, by every call; leases, which come
 * and go, are not counted. */
uint64_t tarnp_store_bytes_put(const tarnp_store *store);

typedef struct tarnp_stat {
    uint64_t sessions, nodes, chunks;
    uint64_t bytes_stored;  /* live values: chunks and manifests */
    uint64_t bytes_shared;  /* sum over sessions of bytes_shared: what sharing saves */
    uint64_t bytes_written; /* values put since the store was made */
    uint64_t map_bytes, file_bytes;
} tarnp_stat;

tarn_status tarnp_store_stat(tarnp_store *store, tarnp_stat *out, tarn_error *err);

typedef struct tarnp_bad {
    uint64_t node, chunk; /* chunk 0: the manifest or the tables */
    char reason[96];
} tarnp_bad;

typedef struct tarnp_verified {
    uint64_t nodes, chunks, bytes;
    size_t n_bad;   /* all found; the first TARNP_BAD_LISTED_MAX are listed */
    tarnp_bad *bad; /* owned by the caller: tarni_free */
} tarnp_verified;

/* Reads every manifest and chunk, checks sums, that parents and chunks exist and are used once, and
 * that reference counts, byte counters and heads agree with what is there. Bad contents are listed,
 * not an error. `progress` may be NULL; false from it ends with CANCELLED. */
tarn_status tarnp_store_verify(tarnp_store *store,
                               bool (*progress)(void *user, uint64_t done, uint64_t all),
                               void *user, tarnp_verified *out, tarn_error *err);

#endif
