/* store.h - the face of the store: sessions, nodes and their chunks in one LMDB environment.
 *
 * The store knows bytes. What a section means (a KDA state, latents, logits) is the caller's.
 *
 *     node      immutable commit: parent, position, tokens since the parent, segments, sections
 *     session   a name for a head node; nodes it left behind by a rewind are its tips
 *     section   a list of chunks of one kind; a chunk is at most TARNP_CHUNK_BYTES_MAX raw bytes
 *
 * Invariants:
 *  1. A node belongs to the session that first wrote it, holds only what came since its parent, and
 *     is never changed. It lives while it has a child, is a head, or is a tip.
 *  2. One write transaction makes a node, its chunks, its parent's new reference count and the
 *     session's head visible together or not at all; nothing is acknowledged before it is durable.
 *  3. Everything is verified when it is read: chunks against sums in their manifest, manifests and
 *     small records against sums beside them, and LMDB's own pages when the store is opened.
 *  4. No LMDB pointer and no transaction outlives a call of this header.
 *
 * Threads: one call at a time per store handle, from any thread. Other processes may read and write
 * the same store meanwhile. After a failed commit whose outcome is unknown the handle is poisoned:
 * every call but close returns POISONED; reopen and look the commit key up.
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

#define TARNP_CHUNK_BYTES_MAX (512 * 1024) /* raw */
#define TARNP_NAME_BYTES_MAX  255
#define TARNP_FP_BYTES        32
#define TARNP_BAD_LISTED_MAX  1000 /* damages a verification lists */
#define TARNP_KEY_BYTES       16
#define TARNP_NODE_NONE       0 /* node and session ids start at 1 */
#define TARNP_TAGS_MAX        64
#define TARNP_MODEL_BYTES_MAX (512 * 1024) /* of a model's descriptor */

typedef struct tarnp_store tarnp_store;

typedef struct tarnp_options {
    const tarn_allocator *allocator; /* copied; NULL: the heap */
    const tarn_log *log;             /* copied; may be NULL */
    bool create;                     /* make the folder and the store if there is none */
    bool read_only;                  /* every change is refused; nothing left over is freed */
    size_t map_bytes;                /* 0: 1 TiB; the store can never grow beyond it */
    tarni_pool *pool; /* borrowed, may be NULL: encodes and decodes chunks in parallel */
} tarnp_options;

/* The store is a folder (mode 0700, files 0600), made whole or not at all. NOT_FOUND if absent and
 * not `create`; FORMAT for a foreign or newer one; BUSY if this process has it open already;
 * CORRUPT for a truncated or damaged one; UNSUPPORTED on a network file system; IO. */
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
    bool pinned;
    uint64_t created_ms, updated_ms; /* Unix */
    uint64_t bytes_owned;            /* stored bytes of nodes first written under this session */
    uint64_t bytes_shared; /* stored bytes of the head's chain written by other sessions */
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
tarn_status tarnp_session_rename(tarnp_store *store, const char *name, const char *new_name,
                                 tarn_error *err);
/* Removes the name, its tips and every node nothing else needs. The record goes at once; chunks are
 * freed in bounded transactions, and what a crash leaves over is freed by the next open or remove.
 */
tarn_status tarnp_session_remove(tarnp_store *store, const char *name, tarn_error *err);

/* All sessions by name. Free with tarnp_sessions_free. */
tarn_status tarnp_session_list(tarnp_store *store, tarnp_session **out, size_t *n, tarn_error *err);
void tarnp_sessions_free(tarnp_session *sessions, size_t n);

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

typedef struct tarnp_section {
    tarnp_section_kind kind;
    tarnp_elem elem;
    size_t n_chunks;
    tarnp_chunk *chunks;
} tarnp_section;

enum {
    TARNP_NODE_HAS_STATE = 1, /* the sections resume the session at this node's position */
    TARNP_NODE_BIT_EXACT = 2  /* a pure function of the tokens under the node's numerics */
};

typedef struct tarnp_commit {
    uint8_t key[TARNP_KEY_BYTES]; /* the caller's, not all zero; one seen before returns its node */
    uint64_t session_id;
    uint64_t expected_head; /* CONFLICT if the session's head is another */
    bool move_head;         /* false: the node stays a tip of the session until it gets a child */
    uint64_t parent;        /* any node; position must be parent's position + n_tokens */
    uint8_t flags;          /* TARNP_NODE_... */
    uint8_t fp[TARNP_FP_BYTES]; /* must be the parent's */
    const char *numerics;       /* up to 63 bytes */
    const uint32_t *tokens;     /* since the parent */
    uint32_t n_tokens;
    const tarnp_segment *segments; /* their n_tokens add up to n_tokens */
    size_t n_segments;
    const tarnp_section *sections; /* all but TOKENS */
    size_t n_sections;
} tarnp_commit;

typedef struct tarnp_committed {
    uint64_t node;
    uint64_t bytes_written; /* of values put; 0 if the key was known */
    bool existed;
} tarnp_committed;

/* Chunks are encoded and hashed before the write lock is taken; encoded, all of them are in memory.
 * CONFLICT, NOT_FOUND (session, parent), MISMATCH (fp), NO_SPACE, IO. After an error: nothing of
 * the node is in the store, except that IO in the commit itself poisons the handle. */
tarn_status tarnp_commit_node(tarnp_store *store, const tarnp_commit *commit, tarnp_committed *out,
                              tarn_error *err);
/* The node of a commit key; NOT_FOUND. */
tarn_status tarnp_commit_find(tarnp_store *store, const uint8_t key[TARNP_KEY_BYTES],
                              uint64_t *node, tarn_error *err);

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
    tarnp_section *sections; /* TOKENS first if there are any; no pieces in the chunks */
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
 * to its raw_bytes), in parallel where the store has a pool. CORRUPT names node and chunk; then the
 * pieces hold nothing usable. *bytes_read, if not NULL, is increased by the stored bytes. */
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

/* ---- the whole store ------------------------------------------------------------------------ */

/* Bytes of values put through this handle since it was opened, by every call. */
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
