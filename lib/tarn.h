/* tarn.h - persistent, forkable sessions of Kimi Linear models.
 *
 * tarn runs a model and keeps each session as a small snapshot in a store: the fixed-size KDA
 * state, the MLA latents, the tokens, the pending logits and the sampler, committed together. A
 * committed session is resumed, forked or rewound without computing a kept token again.
 *
 *     tarn_model_open("model", NULL, &model, &err);
 *     tarn_engine_open(model, NULL, &engine, &err);
 *     tarn_store_open("agents.tarn", &store_options, &store, &err);
 *     tarn_session_open(engine, store, "refactor-42", &open_options, &s, &reuse, &err);
 *     tarn_session_append_message(s, &(tarn_message){.role = TARN_ROLE_TOOL, ...}, &n, &err);
 *     tarn_session_generate(s, NULL, &err);
 *     tarn_session_run(s, on_event, user, &err);
 *     tarn_session_commit(s, &committed, &err);
 *     tarn_session_fork(s, "refactor-42/try-b", &alt, &err);
 *
 * DOES NOT: download models, train, print, call exit(), or start threads other than the engine's
 * compute pool and two a store, its encoder and its writer, these from the first commit in the
 * background on (tarn_session_commit_begin, or a state kept on the way). Nothing is sent anywhere.
 *
 * Conventions
 *   Status   Every function that can fail returns a tarn_status: TARN_OK, or an error. The last
 *            parameter `err` is filled on failure with the status and one line of detail; it may be
 *            NULL. Out parameters are NULL or zero after an error, results that begin with `size`
 *            as they were, and the objects involved unchanged unless the function says more.
 *   Errors   Functions name what can be expected of them. Besides, any may return INVALID (an
 *            argument that makes no sense, a call from inside a callback), NO_MEMORY and IO; where
 *            a session or a place is named, NOT_FOUND and INVALID (no such form); what reads a
 *            store, CORRUPT, which names node and chunk; what writes one, NO_SPACE, and POISONED
 *            once nobody knows what became of a write: close it and open it again. A session that
 *            failed is POISONED until tarn_session_reset, but for looking at it.
 *   Options  Structs of options and descriptions begin with `size`: set it to sizeof the struct and
 *            zero the rest for defaults. A NULL options pointer means all defaults. A struct larger
 *            than the library knows is accepted if the unknown tail is zero, else INVALID.
 *   Owning   What a function gives through `T **out` or a `tarn_*_list` is the caller's, freed by
 *            the close or free function named there; free functions accept NULL. Text and arrays
 *            reached through a const pointer are borrowed as stated.
 *   Order    Close sessions before their engine and store, and engines before their model. That is
 *            asserted: one line on standard error, and abort().
 *   Threads  "any": callable from any thread at any time. "one": one thread at a time for this
 *            engine and its sessions (they share the step), respectively for this store.
 *   Blocking What may wait for anything but its own computation says so ("Blocks"). A call on a
 *            store may also have to wait until the encoder is done with the commit it works on.
 *   Text     UTF-8. Sizes in bytes unless the name says tokens. Times are Unix milliseconds.
 *   WHERE    A place in a session as text: NULL or "" the head; "@n:ID" node ID; "@t:POS" after POS
 *            tokens; "@turn:K" the end of turn K (1 the first, 0 the start, -1 the last);
 *            "@before:CALL_ID" before the assistant turn that made that tool call.
 *            A turn ends with the last token of an assistant segment. */
#ifndef TARN_H
#define TARN_H

#include "tarn_base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ============================================================================================== */
/* 1. The library                                                                                 */

#define TARN_VERSION_MAJOR 0
#define TARN_VERSION_MINOR 1
#define TARN_VERSION_PATCH 0

/* "0.1.0" of the library in use. Threads: any. */
TARN_API const char *tarn_version(void);

typedef struct tarn_model tarn_model;   /* a checkpoint: config, tokenizer, chat format, weights */
typedef struct tarn_engine tarn_engine; /* one model on one device, with its pools */
typedef struct tarn_store tarn_store;   /* sessions on disk */
typedef struct tarn_session tarn_session; /* a named branch, open on an engine */

/* Ids and text given out by the library; free with the function below. */
typedef struct tarn_ids {
    uint32_t *ids;
    size_t n_ids;
    tarn_allocator allocator;
} tarn_ids;

typedef struct tarn_text {
    char *data; /* NUL-terminated, may hold NULs before */
    size_t n_bytes;
    tarn_allocator allocator;
} tarn_text;

/* Free what they hold and empty it; the struct itself is the caller's. */
TARN_API void tarn_ids_free(tarn_ids *ids);
TARN_API void tarn_text_free(tarn_text *text);

/* ============================================================================================== */
/* 2. Models                                                                                      */

typedef enum tarn_numerics {
    TARN_NUMERICS_NATIVE = 0, /* the checkpoint's dtype: bf16 operands, latents and tails */
    TARN_NUMERICS_F32 = 1     /* all fp32: the reference */
} tarn_numerics;

enum {
    TARN_MODEL_TOKENIZER_ONLY = 1, /* needs tiktoken.model and tokenizer_config.json only */
    TARN_MODEL_VERIFY = 2,         /* read every weight byte again instead of trusting the cache */
    TARN_MODEL_SHAPE = 4           /* `dir` names a preset (tarn_model_synth): no files are read, a
                                      CUDA device makes random weights. For measuring */
};

typedef struct tarn_model_options {
    size_t size;
    uint32_t flags;                  /* TARN_MODEL_... */
    const tarn_allocator *allocator; /* copied */
    const tarn_log *log;             /* copied */
    const char *cache_dir; /* where weight checksums are remembered; NULL: $XDG_CACHE_HOME/tarn or
                              ~/.cache/tarn; "" for none */
} tarn_model_options;

/* Opens the checkpoint folder `dir` in the Hugging Face layout (config.json, safetensors,
 * tiktoken.model, tokenizer_config.json, generation_config.json). A folder without a tokenizer
 * opens; then only ids can be fed. Weights are mapped, not read: replace a file by renaming a new
 * one over it. The maps ask for huge pages, and a file lies in them once the system has read it
 * through such a map, if the file system can: one just downloaded lies in small ones, and steps are
 * 3 to 10 % slower, until the page cache lets it go. A file that is cut short or written to while
 * it is open fails the step that finds it, and every later one, with IO. For that SIGBUS is handled
 * while a step runs; a host's own handler gets every SIGBUS that is not about weights meanwhile,
 * and is put back after the step.
 * Returns NOT_FOUND, FORMAT, UNSUPPORTED or IO, naming file and field or tensor.
 * Threads: any. Cost: tens of milliseconds. */
TARN_API tarn_status tarn_model_open(const char *dir, const tarn_model_options *options,
                                     tarn_model **out, tarn_error *err) TARN_MUST_CHECK;
TARN_API void tarn_model_close(tarn_model *model);

typedef struct tarn_model_info {
    size_t size;
    char fingerprint[65]; /* hex; of weights, config, tokenizer, layout and stored dtypes */
    uint64_t n_parameters;
    uint64_t weights_bytes;
    uint32_t vocab;   /* embedding rows: ids run from 0 to vocab - 1 */
    uint32_t context; /* tokens */
    uint32_t n_kda_layers, n_mla_layers;
    uint64_t state_bytes;            /* KDA state of one session, fp32 */
    uint64_t conv_bytes;             /* convolution tails of one session */
    uint64_t latent_bytes_per_token; /* of all MLA layers */
    /* What a step costs at least, for comparing a measured rate with what a machine allows. */
    uint64_t step_weight_bytes;   /* read by every step: all but embedding and routed experts */
    uint64_t logits_weight_bytes; /* of these, used only where logits are wanted: lm_head */
    uint64_t expert_bytes;        /* one routed expert of one layer */
    uint32_t n_moe_layers, n_experts, experts_per_token;
    uint64_t recurrence_flops_per_token; /* of all KDA layers */
    uint64_t attention_flops_per_key;    /* of all MLA layers, for each token and key it sees */
    /* Of step_weight_bytes too: the last layer's behind its latents, if that is an MLA layer. The
     * CPU uses them, its experts and its attention only where logits are wanted. */
    uint64_t tail_weight_bytes;
} tarn_model_info;

/* Describes the model as sessions of these numerics see it. UNSUPPORTED where there is a tokenizer
 * only, and what opening the weights may return. Cost: the first call, or engine, reads all weights
 * unless their checksum is remembered from an earlier run. Threads: any. */
TARN_API tarn_status tarn_model_describe(tarn_model *model, tarn_numerics numerics,
                                         tarn_model_info *out, tarn_error *err) TARN_MUST_CHECK;

/* Ids of a text. `specials`: special strings such as "<|im_end|>" become their ids; otherwise they
 * are text. Bytes that are no UTF-8 are read as U+FFFD. UNSUPPORTED without a tokenizer.
 * Threads: any. Cost: linear. */
TARN_API tarn_status tarn_model_tokenize(const tarn_model *model, const char *text, size_t n_bytes,
                                         bool specials, tarn_ids *out,
                                         tarn_error *err) TARN_MUST_CHECK;

/* The exact bytes of ids; they may be no valid UTF-8. INVALID for an id without embedding row;
 * UNSUPPORTED without a tokenizer. Threads: any. Cost: linear. */
TARN_API tarn_status tarn_model_detokenize(const tarn_model *model, const uint32_t *ids,
                                           size_t n_ids, tarn_text *out,
                                           tarn_error *err) TARN_MUST_CHECK;

/* Ids of a whole conversation, given as JSON: {"messages":[..],"tools":[..],"default_system":text,
 * "add_generation_prompt":bool}. Markers are special ids, message text never is. INVALID names the
 * field; UNSUPPORTED without a tokenizer, or the marker it has not. Threads: any. Cost: linear. */
TARN_API tarn_status tarn_model_render_chat(const tarn_model *model, const char *json,
                                            size_t n_bytes, tarn_ids *out,
                                            tarn_error *err) TARN_MUST_CHECK;

typedef struct tarn_synth_options {
    size_t size;
    const char *preset; /* "tiny", "geo48", "moe1b", "48b" */
    const char *config; /* or a config.json to follow; one of the two */
    uint64_t seed;
    bool dry_run;                                                          /* only counts */
    bool (*progress)(void *user, uint64_t done_bytes, uint64_t all_bytes); /* false: CANCELLED */
    void *user;
    const tarn_allocator *allocator;
} tarn_synth_options;

/* Writes a checkpoint with random weights into `dir`, for tests and measurements.
 * EXISTS if it holds one, NO_SPACE before the first byte. Threads: any. */
TARN_API tarn_status tarn_model_synth(const char *dir, const tarn_synth_options *options,
                                      uint64_t *n_parameters, uint64_t *n_bytes,
                                      tarn_error *err) TARN_MUST_CHECK;

/* ============================================================================================== */
/* 3. Stores                                                                                      */

enum { TARN_STORE_CREATE = 1 };

/* What a commit that returned survives. A kill of any process: always. A power cut: DURABLE and
 * DEFERRED yes; RELAXED all but the last commits, the store itself is never damaged; SCRATCH no,
 * and such a store is made empty when it is opened after anything but a clean close. DEFERRED
 * differs from DURABLE for commits that are begun (tarn_session_commit_begin): they wait a little
 * for others to share one write, unless somebody waits for one of them. */
typedef enum tarn_durability {
    TARN_DURABLE = 0,
    TARN_RELAXED = 1,
    TARN_DEFERRED = 2,
    TARN_SCRATCH = 3 /* chosen when the store is made, for ever: INVALID otherwise */
} tarn_durability;

typedef struct tarn_store_options {
    size_t size;
    uint32_t flags; /* TARN_STORE_CREATE: make it if there is none */
    const tarn_allocator *allocator;
    const tarn_log *log;
    uint64_t map_bytes; /* the most it can ever hold; 0: 1 TiB of address space */
    tarn_durability durability;
    const void *key;  /* encrypts the store; borrowed for the call. See below */
    size_t key_bytes; /* 32 to 64 random bytes, no password; 0: no encryption */
} tarn_store_options;

/* Encryption at rest. A store that is made with a key holds everything encrypted and authenticated
 * (XChaCha20-Poly1305): tokens, states, histories, tags, groups, model descriptors. It is opened,
 * verified, collected, compacted and salvaged (into a store with the same key) with that key alone;
 * KEY names the key it needs, by an id that tells nothing of it. Whoever forgets the key has erased
 * the store: no part of it can be had without. A store has a key from the start or never; another
 * key is an export of its sessions and an import into a new store.
 *
 *     Still visible: session names, model fingerprints, when the file was written, the number and
 *     sizes of things and their ids, which process has the store open. Encrypted sizes follow from
 *     the states' contents only as far as compression does.
 *     Not encrypted: exported files, logs (which never hold text or tokens), and what is in memory.
 *     Not noticed: an older copy of the whole file put in its place. */

/* Opens the store in folder `path`. Needs no model, no engine and no weights. Other processes may
 * have it open too. NOT_FOUND, FORMAT (foreign or newer), CORRUPT (truncated), BUSY (open in this
 * process already), UNSUPPORTED (network filesystem), KEY (missing, wrong or not needed), IO.
 * Threads: any. Cost: under a millisecond.
 */
TARN_API tarn_status tarn_store_open(const char *path, const tarn_store_options *options,
                                     tarn_store **out, tarn_error *err) TARN_MUST_CHECK;
/* Nothing is lost: what was committed is as durable as the store's options say, and what was begun
 * is written first. */
TARN_API void tarn_store_close(tarn_store *store);
/* Blocks until everything committed and begun so far survives a power cut (SCRATCH: a kill). */
TARN_API tarn_status tarn_store_flush(tarn_store *store, tarn_error *err) TARN_MUST_CHECK;

/* A place in the store. */
typedef struct tarn_at {
    char session[256];
    uint64_t node;     /* 0: none yet (not kept) */
    uint64_t position; /* tokens fed from the start */
    bool bit_exact;    /* the state is a pure function of the tokens; in fast numerics
                          (tarn_engine_options) of how they were appended, too */
} tarn_at;

/* What the next use of a place costs. */
typedef struct tarn_price {
    uint64_t replay_tokens;
    uint64_t bytes_read;
} tarn_price;

typedef struct tarn_tag {
    const char *key;
    const char *value;
} tarn_tag;

typedef struct tarn_session_entry {
    const char *name;
    uint64_t node; /* head */
    uint64_t position;
    uint32_t turns;
    bool pinned;
    uint64_t bytes_owned;  /* stored bytes first written under this name */
    uint64_t bytes_shared; /* stored bytes of its history written by others */
    uint64_t created_ms, updated_ms;
    const tarn_tag *tags;
    size_t n_tags;
    uint64_t expires_ms; /* 0: never */
    const char *group;   /* whose quota it counts for; "" none */
} tarn_session_entry;

typedef struct tarn_session_list {
    const tarn_session_entry *entries;
    size_t n_entries;
    void *owned;
} tarn_session_list;

/* All sessions by name; with `tag` ("key=value" or "key") only those that carry it.
 * Free with tarn_session_list_free. Threads: one (for all functions of this section). */
TARN_API tarn_status tarn_store_list(tarn_store *store, const char *tag, tarn_session_list *out,
                                     tarn_error *err) TARN_MUST_CHECK;
TARN_API void tarn_session_list_free(tarn_session_list *list);

typedef struct tarn_segment {
    tarn_role role;
    uint32_t n_tokens;           /* of this node's part */
    bool continues;              /* goes on with the last segment of the parent */
    bool closed;                 /* its end marker has been fed */
    const char *const *call_ids; /* tool: the call it answers; assistant: the calls it made */
    size_t n_call_ids;
} tarn_segment;

typedef struct tarn_node_entry {
    uint64_t node;
    uint64_t parent; /* 0: none */
    uint64_t position;
    uint64_t created_ms;
    bool has_state; /* false: resuming here replays tokens */
    bool bit_exact;
    bool pinned;                  /* the session is; tarn_store_log only */
    const tarn_segment *segments; /* since the parent; tarn_store_log only */
    size_t n_segments;
    const char *const *sessions; /* whose head it is; tarn_store_tree only */
    size_t n_sessions;
} tarn_node_entry;

typedef struct tarn_node_list {
    const tarn_node_entry *entries;
    size_t n_entries;
    void *owned;
} tarn_node_list;

/* The history of a session, oldest node first. */
TARN_API tarn_status tarn_store_log(tarn_store *store, const char *session, const char *where,
                                    tarn_node_list *out, tarn_error *err) TARN_MUST_CHECK;
/* Every node, parents before children; with a session only the tree its history belongs to. */
TARN_API tarn_status tarn_store_tree(tarn_store *store, const char *session, tarn_node_list *out,
                                     tarn_error *err) TARN_MUST_CHECK;
TARN_API void tarn_node_list_free(tarn_node_list *list);

/* The ids fed up to a place. */
TARN_API tarn_status tarn_store_tokens(tarn_store *store, const char *session, const char *where,
                                       tarn_ids *out, tarn_error *err) TARN_MUST_CHECK;

/* Where a place is and what its next use costs; changes nothing. */
TARN_API tarn_status tarn_store_price(tarn_store *store, const char *session, const char *where,
                                      tarn_at *at, tarn_price *price,
                                      tarn_error *err) TARN_MUST_CHECK;

/* Makes session `new_name` at a place of `session`. Copies no state; where no node stands at that
 * place one without state is recorded, and the next use replays from the nearest state before it.
 * NOT_FOUND (session, place), EXISTS (new_name), INVALID; after another error (NO_SPACE, NO_MEMORY,
 * IO) that node may have been recorded all the same. price and bytes_written may be NULL. */
TARN_API tarn_status tarn_store_fork(tarn_store *store, const char *session, const char *where,
                                     const char *new_name, tarn_at *at, tarn_price *price,
                                     uint64_t *bytes_written, tarn_error *err) TARN_MUST_CHECK;

/* Moves the head of a session to a place in its own history, or to any node given as "@n:". The
 * newer branch stays: listed by tarn_store_tree and reachable as "@n:". CONFLICT if the head moved
 * meanwhile; BUSY while the session is open for writing on an engine, of this process (use
 * tarn_session_rewind there) or another, which is named. */
TARN_API tarn_status tarn_store_rewind(tarn_store *store, const char *session, const char *where,
                                       tarn_at *at, tarn_price *price, uint64_t *bytes_written,
                                       tarn_error *err) TARN_MUST_CHECK;

/* Gives a session another name; its history and what was forked from it stay as they are.
 * NOT_FOUND (session), EXISTS (new_name), INVALID; BUSY as above, also for remove. */
TARN_API tarn_status tarn_store_rename(tarn_store *store, const char *session, const char *new_name,
                                       tarn_error *err) TARN_MUST_CHECK;
/* Removes a session and every node no other session needs. */
TARN_API tarn_status tarn_store_remove(tarn_store *store, const char *session,
                                       tarn_error *err) TARN_MUST_CHECK;

/* ---- keeping a store small ------------------------------------------------------------------ *
 *
 * Nothing is dropped but by a collection, by a quota or by tarn_store_remove. What a session loses
 * to the first two, unless it is removed as expired, are states and latents: its tokens stay, so
 * resuming it computes more and gives the same. */

/* Sets a tag, or takes it away (value NULL). INVALID for a key of no or more than 64 bytes or with
 * '=', a value of more than 255, and the 65th tag. */
TARN_API tarn_status tarn_store_tag(tarn_store *store, const char *session, const char *key,
                                    const char *value, tarn_error *err) TARN_MUST_CHECK;
/* A pinned session does not expire and nothing in its history is ever evicted. */
TARN_API tarn_status tarn_store_pin(tarn_store *store, const char *session, bool pinned,
                                    tarn_error *err) TARN_MUST_CHECK;
/* From `expires_ms` (Unix; 0: never) on, the next collection removes the session unless it is
 * pinned. Until then it can be used as ever. */
TARN_API tarn_status tarn_store_ttl(tarn_store *store, const char *session, uint64_t expires_ms,
                                    tarn_error *err) TARN_MUST_CHECK;
/* Puts the session into a group for quotas; "" takes it out. Up to 63 bytes. */
TARN_API tarn_status tarn_store_group(tarn_store *store, const char *session, const char *group,
                                      tarn_error *err) TARN_MUST_CHECK;

/* The most bytes_stored may be; of a group (NULL: of the store) the most its sessions may own
 * together. 0: no limit. Kept in the store. A commit that would exceed it first drops states of
 * others, then of the session's own past, then latents, last the states of other heads: the
 * cheapest to compute again per byte first, and only as much as needed; QUOTA if that is not
 * enough, with nothing dropped. INVALID for a quota below the largest node there is. */
TARN_API tarn_status tarn_store_set_quota(tarn_store *store, const char *group, uint64_t bytes,
                                          tarn_error *err) TARN_MUST_CHECK;
/* 0: no limit. */
TARN_API tarn_status tarn_store_get_quota(tarn_store *store, const char *group, uint64_t *bytes,
                                          tarn_error *err) TARN_MUST_CHECK;

enum { TARN_GC_DRY_RUN = 1 };

typedef struct tarn_gc_options {
    size_t size;
    uint32_t flags;       /* TARN_GC_DRY_RUN: only say what would go */
    uint32_t keep_newest; /* states kept before each head; 0: 8 */
    uint32_t rung_tokens; /* how far apart the states behind those stand at first; 0: 1024 */
    uint64_t now_ms;      /* 0: the clock */
} tarn_gc_options;

typedef enum tarn_dropped_what {
    TARN_DROPPED_SESSION = 1, /* expired; node is its head */
    TARN_DROPPED_NODE = 2,    /* no other session needs it */
    TARN_DROPPED_STATE = 3,
    TARN_DROPPED_LATENTS = 4
} tarn_dropped_what;

/* "session", "node", "state", "latents". */
TARN_API const char *tarn_dropped_name(tarn_dropped_what what);

typedef struct tarn_dropped {
    uint64_t node;
    tarn_dropped_what what;
    uint64_t bytes;
    char why[120];
} tarn_dropped;

typedef struct tarn_gc_report {
    uint64_t freed_bytes;
    const tarn_dropped *dropped;
    size_t n_dropped;
    void *owned;
} tarn_gc_report;

/* The collection: removes sessions that have expired; thins states, of which those of heads, pinned
 * sessions, branches, tips and the newest before each head stay, and the others the sparser the
 * further back; then enforces quotas. CORRUPT where a node cannot be read: then nothing is dropped.
 * Cost: reads every node's record; frees in small transactions. */
TARN_API tarn_status tarn_store_gc(tarn_store *store, const tarn_gc_options *options,
                                   tarn_gc_report *out, tarn_error *err) TARN_MUST_CHECK;
/* NULL is allowed. */
TARN_API void tarn_gc_report_free(tarn_gc_report *report);

typedef struct tarn_turn_price {
    uint32_t turn; /* 1 the first */
    uint64_t position;
    tarn_price price;
} tarn_turn_price;

typedef struct tarn_explanation {
    const tarn_turn_price *turns;
    size_t n_turns;
    uint64_t bytes_owned, bytes_shared; /* of the session */
    void *owned;
} tarn_explanation;

/* What going back to the end of each turn up to a place would cost; changes nothing. */
TARN_API tarn_status tarn_store_explain(tarn_store *store, const char *session, const char *where,
                                        tarn_explanation *out, tarn_error *err) TARN_MUST_CHECK;
/* NULL is allowed. */
TARN_API void tarn_explanation_free(tarn_explanation *explanation);

/* ---- the whole store ------------------------------------------------------------------------ */

typedef struct tarn_store_stat {
    size_t size;
    uint64_t sessions, nodes;
    uint64_t bytes_stored;  /* live values */
    uint64_t bytes_shared;  /* what sharing saves: sum of all sessions' bytes_shared */
    uint64_t bytes_written; /* values put since the store was made */
    uint64_t map_bytes, file_bytes;
} tarn_store_stat;

/* How full the store is. Cost: walks the sessions, reads no state. */
TARN_API tarn_status tarn_store_get_stat(tarn_store *store, tarn_store_stat *out,
                                         tarn_error *err) TARN_MUST_CHECK;

/* How the state of a session is kept at a commit. The others round it once a commit (never what is
 * in memory), are a fraction of the size, and resume with a state that is not bit-exact. A state
 * that one cannot hold (not finite, too large) is kept without loss. */
typedef enum tarn_state_codec {
    TARN_STATE_LOSSLESS = 1,
    TARN_STATE_BF16 = 4, /* off by at most 2^-8 of a head's largest value, 0.35 of fp32's bytes */
    TARN_STATE_FP16 = 5, /* 2^-11, 0.45 */
    TARN_STATE_INT8 = 6  /* 1/253, 0.21 */
} tarn_state_codec;

/* What holds for every session of a store, in every process. */
typedef struct tarn_store_policy {
    size_t size;
    tarn_state_codec state_codec;  /* LOSSLESS in a new store */
    tarn_state_codec latent_codec; /* LOSSLESS: nothing else is supported */
} tarn_store_policy;

/* [out] out: size set by the caller. */
TARN_API tarn_status tarn_store_get_policy(tarn_store *store, tarn_store_policy *out,
                                           tarn_error *err) TARN_MUST_CHECK;
/* Fields that are 0 stay as they are. From the next commit on; what is stored stays as it is.
 * INVALID for what is no codec, UNSUPPORTED for one that latents cannot have. */
TARN_API tarn_status tarn_store_set_policy(tarn_store *store, const tarn_store_policy *policy,
                                           tarn_error *err) TARN_MUST_CHECK;

typedef struct tarn_bad_chunk {
    uint64_t node;
    uint64_t chunk; /* 0: the node's own record or a table */
    char reason[96];
} tarn_bad_chunk;

typedef struct tarn_verify_report {
    uint64_t nodes, chunks, bytes;
    size_t n_bad; /* all; the first n_listed are in `bad` */
    size_t n_listed;
    const tarn_bad_chunk *bad;
    void *owned;
} tarn_verify_report;

/* Reads and checks every byte. Damage is reported, not an error.
 * `progress` may be NULL; false from it ends with CANCELLED. */
TARN_API tarn_status tarn_store_verify(tarn_store *store,
                                       bool (*progress)(void *user, uint64_t done, uint64_t all),
                                       void *user, tarn_verify_report *out,
                                       tarn_error *err) TARN_MUST_CHECK;
TARN_API void tarn_verify_report_free(tarn_verify_report *report);

/* Moving and rescuing. `progress` may be NULL everywhere; false from it ends with CANCELLED. */
typedef bool (*tarn_progress_fn)(void *user, uint64_t done, uint64_t all);
/* Takes all n_bytes, or fills err and returns the status the whole call is to fail with. */
typedef tarn_status (*tarn_write_fn)(void *user, const void *data, size_t n_bytes, tarn_error *err);
/* Gives at most n_bytes, and none (*n_read 0) at the end only. */
typedef tarn_status (*tarn_read_fn)(void *user, void *data, size_t n_bytes, size_t *n_read,
                                    tarn_error *err);

typedef struct tarn_move_options {
    size_t size;
    tarn_progress_fn progress; /* in bytes of the file */
    void *user;
} tarn_move_options;

/* Writes a session, from its root to its head, as one stream that checks itself. It depends on
 * nothing but the session: the same one gives the same bytes from any store. at and bytes (the size
 * of the stream) may be NULL. NOT_FOUND, CORRUPT (which node and chunk: nothing damaged is ever
 * exported), and what `write` returns. No transaction is open while a callback runs, so other
 * processes go on. Cost: reads the session once; payloads are not encoded anew. */
TARN_API tarn_status tarn_store_export(tarn_store *store, const char *session, tarn_write_fn write,
                                       void *write_user, const tarn_move_options *options,
                                       tarn_at *at, uint64_t *bytes,
                                       tarn_error *err) TARN_MUST_CHECK;
/* The same into a file, which appears whole and synced, in place of one that was there, or not at
 * all. Only its owner may read it (mode 0600): it holds the session's tokens. */
TARN_API tarn_status tarn_store_export_file(tarn_store *store, const char *session,
                                            const char *path, const tarn_move_options *options,
                                            tarn_at *at, uint64_t *bytes,
                                            tarn_error *err) TARN_MUST_CHECK;

/* Makes a session of such a stream, named `new_name`, or (NULL) as in the stream. Nodes that the
 * store has already are used, not copied. Everything is checked before anything can be seen; after
 * an error nothing was made, and what a killed import leaves is freed by the next open. EXISTS,
 * CORRUPT (what), FORMAT (foreign or newer), INVALID (a name that looks like a path), NO_SPACE,
 * CONFLICT (a node to be used was removed meanwhile), and what `read` returns. */
TARN_API tarn_status tarn_store_import(tarn_store *store, tarn_read_fn read, void *read_user,
                                       const char *new_name, const tarn_move_options *options,
                                       tarn_at *at, uint64_t *bytes,
                                       tarn_error *err) TARN_MUST_CHECK;
TARN_API tarn_status tarn_store_import_file(tarn_store *store, const char *path,
                                            const char *new_name, const tarn_move_options *options,
                                            tarn_at *at, uint64_t *bytes,
                                            tarn_error *err) TARN_MUST_CHECK;

typedef struct tarn_salvage_report {
    size_t size;
    uint64_t saved;         /* nodes in the new store */
    uint64_t lost;          /* nodes that sessions need and that could not be saved */
    uint64_t without_state; /* of the saved: the tokens are whole, the state was not */
} tarn_salvage_report;

/* Copies everything that verifies from the store at `path`, which is only read, into a new one at
 * `out_path`: every session up to its last whole node, with its tags and the branches it has left.
 * A store that does not open is searched for what its file still holds; then sessions that were
 * removed or renamed may come back. The store may not be open in this process.
 * EXISTS (out_path), NOT_FOUND, FORMAT (nothing of a store is there), BUSY, NO_SPACE: after an
 * error there is no new store. `progress` counts nodes. Threads: any. Cost: reads everything. */
TARN_API tarn_status tarn_store_salvage(const char *path, const char *out_path,
                                        const tarn_store_options *options,
                                        const tarn_move_options *move, tarn_salvage_report *out,
                                        tarn_error *err) TARN_MUST_CHECK;

/* Gives the disk back what the store no longer uses: copies it without free pages, verifies the
 * copy and puts it in the place of the old file. Nobody may have the store open: BUSY. CORRUPT
 * where anything is damaged. After an error the store is as it was. Needs as much free disk as the
 * store holds. `progress` is of the verification. The byte counts may be NULL. Threads: any. */
TARN_API tarn_status tarn_store_compact(const char *path, const tarn_store_options *options,
                                        const tarn_move_options *move, uint64_t *bytes_before,
                                        uint64_t *bytes_after, tarn_error *err) TARN_MUST_CHECK;

/* ============================================================================================== */
/* 4. Engines                                                                                     */

typedef struct tarn_engine_options {
    size_t size;
    const char *device; /* "cpu", "cuda:N" or "auto": cuda:0 if there is one; NULL: "auto" */
    tarn_numerics numerics;
    uint32_t n_threads;    /* 0: every physical core this process may use */
    uint32_t sessions_max; /* open at once; 0: 64 */
    uint64_t tokens_max;   /* latents held for all open sessions together; 0: no limit but memory */
    uint32_t step_tokens_max; /* rows of one step; 0: 512, on a CUDA device 4160 */
    uint32_t keep_every; /* a state is kept every so many tokens inside long appends; 0: 1024, on a
                            CUDA device 4096 */
    const tarn_allocator *allocator;
    const tarn_log *log;
    /* Ceilings in bytes, 0: none. What they come to in sessions: tarn_plan. */
    uint64_t slots_bytes_max; /* of states with their logits */
    uint64_t pages_bytes_max; /* of latents; the lower of this and tokens_max holds */
    uint64_t host_bytes_max;  /* of everything else: workspace, ids, queues, commits on their way */
    uint32_t decode_latency_ms; /* how long a step should take at most while somebody generates: it
                                   bounds what is appended beside; 0: 250 */
    tarn_progress_fn progress;  /* of weights on their way to a device, in bytes; NULL: none */
    void *progress_user;
    bool exact; /* on a CUDA device: no bit depends on how appends are cut, as on the CPU. Of a long
                   append a session then has at most 63 rows in a step */
    uint64_t pinned_bytes_max; /* on a CUDA device: host memory for sessions that are parked, pinned
                                  and taken at once; 0: none, they come back from the store */
    uint64_t pool_bytes_max;   /* of states and latents together: what one has no use for the other
                                  gets. 0: none; on a CUDA device what both may have at most, or
                                  what it has left */
} tarn_engine_options;

/* Fast and exact. On the CPU, and on a CUDA device in f32 numerics or with `exact`, a session's
 * state is a pure function of its ids. Else a CUDA device computes an append of 64 tokens or more
 * in forms of their own, whose bits depend on where it begins: on how the session's tokens were
 * appended and stepped, never on other sessions. All that waits when a step first considers the
 * session is computed together, up to the next multiple of keep_every (or of 64 below what a step
 * holds, if that is less) of its position. Forking, parking, committing and resuming change no bit
 * either way; what is replayed was perhaps cut differently, and is then not called bit-exact; a row
 * of logits that is handed out one by one (tarn_session_on_logits) comes from rows computed 16 at a
 * time. tarn_engine_numerics says which it is: "...-exact", "...-fast4096". */

/* Opens an engine on a model (borrowed; it must outlive the engine). Memory for states and latents
 * is taken as sessions need it and never beyond the limits given; of a CUDA device, and with
 * pool_bytes_max, all of it at once (on the CPU its addresses): weights, workspace, and one pool
 * for states and latents, as large as their limits say, or what is left up to what all sessions
 * could fill. Chunks of the pool (64 MiB, of a small one less) go to whichever of the two needs
 * them, so many short sessions and a few long ones find room in turn; nothing that is in use moves.
 * A device that fails poisons the sessions of the step with the name of its error, and every later
 * one; what is in the store is not touched.
 *
 * Where a ceiling is reached, sessions that have nothing uncommitted are parked, those that were
 * used longest ago first: they keep their ids and give back state and latents. The next use of such
 * a session reads them from the store again, says so in an event and in tarn_session_info.reuse,
 * and goes on with the same bits. Those used last are copied to pinned_bytes_max of host memory
 * first and come back from there, as long as they are not pushed out: then bytes_read is 0. If
 * nobody can be parked, what asked is refused (LIMIT, with figures); a session that was admitted,
 * because something was queued for it, is never refused in a step. Only a generation needs more on
 * the way: it then stops with LENGTH.
 *
 * NO_DEVICE, NO_MEMORY (host_bytes_max too), INVALID, LIMIT (a ceiling below one session), and what
 * opening the weights may return. Threads: any. */
TARN_API tarn_status tarn_engine_open(tarn_model *model, const tarn_engine_options *options,
                                      tarn_engine **out, tarn_error *err) TARN_MUST_CHECK;
TARN_API void tarn_engine_close(tarn_engine *engine);

typedef struct tarn_step {
    size_t size;
    uint32_t n_rows;     /* tokens computed: 0 when no session has work */
    uint32_t n_sessions; /* that took part */
} tarn_step;

/* Computes one step, one pass over the weights, and queues events. `out` may be NULL.
 *
 * Whose rows: every session that generates gets one row. What is left of step_tokens_max goes to
 * the sessions whose tokens wait, to each the same share; what one does not need goes to the
 * others. While somebody generates, waiting rows are also bounded by what can be computed in
 * decode_latency_ms (at least 16). Whoever is left out for want of room comes first in the next
 * step. So ten small appends at once take one step, and a long one delays neither a generation nor
 * other appends. What a session computes does not depend on who else is in the step.
 *
 * Waits for nothing but the computation, except where a ceiling of memory is reached: then a commit
 * on its way is encoded here, or waited for, if that gives back what a row needs; where the next
 * state is to be kept before the last one is written; and where a new session has its first tokens:
 * then the beginning it has in common with another is read.
 *
 * A session that fails (non-finite logits, device fault, out of memory) is poisoned and reports a
 * STOP event; the others go on. A store that refuses a kept state on the way is only logged: the
 * session goes on, and its commit says why. Threads: one. */
TARN_API tarn_status tarn_engine_step(tarn_engine *engine, tarn_step *out,
                                      tarn_error *err) TARN_MUST_CHECK;

typedef enum tarn_event_kind {
    TARN_EVENT_TOKEN = 1,    /* a sampled id was fed: id, position */
    TARN_EVENT_TEXT = 2,     /* text that became complete: text, text_bytes */
    TARN_EVENT_APPENDED = 3, /* appended tokens were fed: n_tokens */
    TARN_EVENT_STOP = 4,     /* generation ended, or the session failed: stop */

    /* A tool call, while it is generated. Its text comes as TEXT too, with in_calls set. One that
     * was under way when the session was opened, forked or moved is told from its beginning. */
    TARN_EVENT_CALL_BEGIN = 5,     /* call_id, call_name */
    TARN_EVENT_CALL_ARGUMENTS = 6, /* more of its arguments: text, whole characters */
    TARN_EVENT_CALL_END = 7,       /* call_id, call_name, text: all arguments. problem: no JSON */
    TARN_EVENT_CALL_MALFORMED = 8, /* no call after all: text is what was read, problem says why */

    TARN_EVENT_COMMITTED = 9, /* a commit that was begun is in the store, or (status) is not:
                                 ticket, node, level: WRITTEN or SYNCED */
    TARN_EVENT_PRESSURE = 10  /* the session lost or got back its memory: pressure, reuse */
} tarn_event_kind;

typedef enum tarn_pressure {
    TARN_PRESSURE_PARKED = 1, /* state and latents were given back; nothing is lost */
    TARN_PRESSURE_RESUMED = 2 /* used again: reuse says what it cost */
} tarn_pressure;

typedef enum tarn_reason {
    TARN_REASON_NONE = 0,     /* a new session, or the beginning of one */
    TARN_REASON_EXACT = 1,    /* the place itself has a state */
    TARN_REASON_ANCESTOR = 2, /* resumed from an earlier node, the rest replayed */
    TARN_REASON_PREFIX = 3,
    TARN_REASON_CHECKSUM = 4, /* a nearer state is damaged */
    TARN_REASON_EVICTED = 5,  /* a nearer state was dropped */
    TARN_REASON_NUMERICS = 6  /* a nearer state is of other numerics */
} tarn_reason;

/* "none", "exact", ... */
TARN_API const char *tarn_reason_name(tarn_reason reason);

typedef struct tarn_reuse {
    uint64_t tokens_reused;   /* not computed again */
    uint64_t tokens_replayed; /* that the next steps compute again before anything else */
    uint64_t bytes_read;
    tarn_reason reason;
} tarn_reuse;

typedef uint64_t tarn_ticket; /* of a commit that was begun; 0: none */

typedef enum tarn_commit_level {
    TARN_COMMIT_MEMORY = 1,
    TARN_COMMIT_WRITTEN = 2, /* in the store; survives a kill */
    TARN_COMMIT_SYNCED = 3   /* survives a power cut */
} tarn_commit_level;

typedef enum tarn_stop {
    TARN_STOP_NONE = 0,
    TARN_STOP_TOKEN = 1,     /* a stop id was sampled (and fed) */
    TARN_STOP_LENGTH = 2,    /* the number of tokens asked for, the context, or tokens_max */
    TARN_STOP_TOOL_CALL = 3, /* as TOKEN, and the turn holds tool calls: tarn_session_tool_calls */
    TARN_STOP_CANCELLED = 4,
    TARN_STOP_FAILED = 5 /* poisoned: tarn_session_failure */
} tarn_stop;

typedef struct tarn_event {
    tarn_event_kind kind;
    tarn_session *session;
    uint32_t id;
    uint64_t position; /* after the event */
    uint32_t n_tokens;
    const char *text; /* valid until the next call on the engine, as all texts here */
    size_t text_bytes;
    tarn_stop stop;
    bool in_calls;         /* TEXT: markup, ids and arguments of tool calls */
    const char *call_id;   /* CALL_...; NULL elsewhere */
    const char *call_name; /* "grep" of "functions.grep:7" */
    const char *problem;   /* CALL_END, CALL_MALFORMED: NULL if there is none */
    tarn_ticket ticket;
    tarn_commit_level level;
    tarn_status status;
    uint64_t node;
    tarn_pressure pressure;
    tarn_reuse reuse;
} tarn_event;

/* Takes the oldest event; false if there is none. Events of a session that is closed are dropped. A
 * step queues at most a few per session; the queue grows as needed. Commits that have become
 * durable are noticed here and by steps. Never waits. Threads: one. */
TARN_API bool tarn_engine_poll(tarn_engine *engine, tarn_event *out);

/* What this engine computes with: "cpu-avx512", and the id that decides whether bits are equal. */
TARN_API const char *tarn_engine_device(const tarn_engine *engine);
TARN_API const char *tarn_engine_numerics(const tarn_engine *engine);
TARN_API uint32_t tarn_engine_threads(const tarn_engine *engine); /* the caller's own counted */

typedef struct tarn_engine_stat {
    size_t size;
    uint32_t sessions;
    uint64_t slots, slots_bytes; /* state slots in use; a fork shares one */
    uint64_t pages, pages_bytes; /* latent pages in use */
    uint64_t rows_computed;      /* since open */
    uint32_t parked;             /* of the sessions */
    uint32_t commits;            /* on their way */
    uint64_t slots_bytes_max, pages_bytes_max, host_bytes_max; /* 0: none */
    uint64_t host_bytes;                     /* pinned memory for copies is part of it */
    uint64_t pinned_bytes, pinned_bytes_max; /* of parked sessions */
    uint32_t pinned;                         /* of the parked sessions */
    uint64_t pool_bytes_max;   /* of slots and pages together; 0: they are taken as needed, or have
                                  a part each for good */
    uint64_t slots_pool_bytes; /* of it, where chunks lie for slots now */
    uint64_t pages_pool_bytes; /* and for pages; the rest lie nowhere */
    uint64_t pool_chunk_bytes; /* of one */
    uint64_t pool_trades;      /* chunks that went from one to the other, since open */
} tarn_engine_stat;

/* What the engine holds now. Threads: one. */
TARN_API void tarn_engine_get_stat(const tarn_engine *engine, tarn_engine_stat *out);

typedef struct tarn_plan_options {
    size_t size;
    tarn_numerics numerics;
    uint64_t device_bytes;    /* memory of the device, weights included */
    uint64_t context;         /* tokens a session may have; 0: the model's */
    uint32_t sessions;        /* live at once that are wanted; 0: one */
    uint32_t step_tokens_max; /* as in tarn_engine_options */
    const char *device;       /* as there, NULL: "cpu". Devices have workspaces of their own; of one
                                 that is here, device_bytes 0 is all its memory */
} tarn_plan_options;

typedef struct tarn_plan_report {
    size_t size;
    bool fits;         /* the sessions that are wanted */
    uint64_t sessions; /* that would fit */
    uint64_t weights_bytes, workspace_bytes;
    uint64_t slot_bytes, page_bytes;           /* of one */
    uint64_t per_session_bytes;                /* a slot and the pages of its context */
    uint64_t floor_bytes;                      /* for one session */
    uint64_t wanted_bytes;                     /* for those that are wanted */
    uint64_t slots_bytes_max, pages_bytes_max; /* for an engine with the sessions that would fit */
} tarn_plan_report;

/* What fits into a device, before anything is allocated: reads config.json alone, so a checkpoint
 * without weights will do. Three slots besides those of the sessions are planned: zeros, one to
 * step out of a commit on its way, one to go back into. Sessions that share history need less;
 * parked ones need nothing. INVALID (context), NO_DEVICE (a class that this
 * build has not), UNSUPPORTED (a tokenizer only). Threads: any. */
TARN_API tarn_status tarn_plan(const tarn_model *model, const tarn_plan_options *options,
                               tarn_plan_report *out, tarn_error *err) TARN_MUST_CHECK;

/* ============================================================================================== */
/* 5. Sessions                                                                                    */

enum {
    TARN_SESSION_CREATE = 1,    /* make it if there is none */
    TARN_SESSION_EXCLUSIVE = 2, /* with CREATE: EXISTS if there is one */
    TARN_SESSION_READ_ONLY = 4, /* cannot be committed; may be opened at any `where` */
    TARN_SESSION_NO_PREFIX = 8  /* never goes on from another session's state (below) */
};

typedef struct tarn_session_options {
    size_t size;
    uint32_t flags;
    const char *where;    /* READ_ONLY: the place to open; else the head */
    const tarn_tag *tags; /* of a session that is created */
    size_t n_tags;
    uint32_t lease_ms; /* how long the session stays this process's if it hangs; 0: 60,000 */
} tarn_session_options;

/* Opens a session on an engine. With a store: resumes it from there, or creates it (CREATE). With
 * store NULL: a new session that is not kept; `name` is then only a label.
 * Reads states and latents, computes nothing: tokens to replay are computed by the next steps.
 * Blocks for the store.
 * NOT_FOUND, EXISTS, MISMATCH (the model differs: which part), LIMIT (sessions_max, tokens_max,
 * context, slots_bytes_max, ...: with figures), CORRUPT (tokens damaged: which chunk). A damaged
 * state falls back to an earlier one and says so in `reuse`, which may be NULL. Threads: one.
 *
 * A session of a store is open for writing once: unless READ_ONLY it takes the session's lease, and
 * anybody else who opens, moves, renames or removes it gets BUSY, naming host and process; reading
 * and forking go on. The lease is renewed by steps and commits and given up by close; that of a
 * process that died is taken over at once, one that was not renewed for lease_ms by whoever comes
 * next. Losing it fails no step: the next commit is BUSY or CONFLICT. */
TARN_API tarn_status tarn_session_open(tarn_engine *engine, tarn_store *store, const char *name,
                                       const tarn_session_options *options, tarn_session **out,
                                       tarn_reuse *reuse, tarn_error *err) TARN_MUST_CHECK;

/* A new session that begins as one in the store did, whatever its name, computes that beginning no
 * second time: the first step that would feed its first token looks for the longest beginning of
 * all that is queued which a committed node stands for (same model, same numerics, exact), and the
 * session goes on from there as a fork of that node. tarn_session_info.reuse then has the reason
 * PREFIX. Nothing else can be told from it: bits are the same. Not with TARN_SESSION_NO_PREFIX, nor
 * while tarn_session_on_logits wants every row. What cannot be read is computed, and logged. */

/* Drops what was not committed; waits for a commit that was begun. */
TARN_API void tarn_session_close(tarn_session *session);

typedef enum tarn_session_state {
    TARN_SESSION_IDLE = 0,
    TARN_SESSION_APPENDING = 1, /* tokens wait to be fed */
    TARN_SESSION_GENERATING = 2,
    TARN_SESSION_POISONED = 3, /* failed: close it or tarn_session_reset */
    TARN_SESSION_PARKED = 4    /* without state and latents; the next use reads them again */
} tarn_session_state;

typedef struct tarn_session_info {
    size_t size;
    tarn_at at; /* node: the last committed one on the way here; position: tokens fed */
    tarn_session_state state;
    uint32_t turns;
    uint64_t tokens_waiting;
    bool committed;   /* nothing fed since the node */
    bool has_logits;  /* something can be sampled */
    bool turn_open;   /* inside an assistant turn that has no end marker yet */
    tarn_reuse reuse; /* of the last time it was brought to life: opened, moved back, used after
                         parking, or begun from a prefix */
    bool appending;   /* a message is streaming in: between append_begin and append_end */
} tarn_session_info;

/* Where the session stands and what it waits for. */
TARN_API void tarn_session_get_info(const tarn_session *session, tarn_session_info *out);
/* The error that poisoned the session. */
TARN_API void tarn_session_failure(const tarn_session *session, tarn_error *out);

/* ---- feeding -------------------------------------------------------------------------------- */

/* Queues just these ids, no marker before or after them. INVALID for an id without embedding row,
 * LIMIT beyond the context. The steps feed them. Threads: one (all of this section). */
TARN_API tarn_status tarn_session_append_tokens(tarn_session *session, const uint32_t *ids,
                                                size_t n_ids, tarn_error *err) TARN_MUST_CHECK;

typedef struct tarn_tool_call {
    const char *id; /* verbatim as the model wrote it */
    const char *name;
    const char *arguments; /* JSON text as the model wrote it */
    size_t arguments_bytes;
    const char
        *problem; /* given out: "the arguments are no JSON", NULL if they are; else ignored */
} tarn_tool_call;

enum { TARN_MESSAGE_ANY_CALL = 1 /* TOOL: whatever call_id is */ };

typedef struct tarn_message {
    size_t size;
    tarn_role role;   /* SYSTEM, USER, ASSISTANT or TOOL */
    const char *name; /* NULL: the role's own */
    const char *text;
    size_t text_bytes;
    const char *call_id;         /* TOOL: the call it answers */
    const tarn_tool_call *calls; /* ASSISTANT */
    size_t n_calls;
    uint32_t flags; /* TARN_MESSAGE_... */
} tarn_message;

/* Queues one whole message, its end marker included. An assistant turn left open (stopped by length
 * or cancel) is closed first. *n_tokens, if not NULL: ids queued. UNSUPPORTED without a tokenizer.
 *
 * A tool's result answers a call of this session. EXISTS: the last call with that id was answered.
 * INVALID: no turn made such a call, and calls of the last assistant turn still wait for answers.
 * (With none waiting a result no call asked for is taken: the host tells something.) Both are
 * accepted with TARN_MESSAGE_ANY_CALL. */
TARN_API tarn_status tarn_session_append_message(tarn_session *session, const tarn_message *message,
                                                 size_t *n_tokens, tarn_error *err) TARN_MUST_CHECK;
/* A message whose text streams in, in any pieces, cut anywhere, inside characters too: the ids are
 * those tarn_session_append_message would give for the whole text. begin takes the message as that
 * does (its text, if any, is the first piece), bytes takes the next piece, end writes the end
 * marker. Ids are queued as soon as no later byte could change them, so that steps compute them
 * while the rest is still being made; what is held back is an incomplete character and the last
 * word or so. With role TARN_ROLE_TOKENS the text gets no markers: its ids are those of
 * tarn_model_tokenize without specials. tarn_session_append_tokens adds ids to the message that is
 * open, and ends the stretch of text before them.
 *
 * While a message is open nothing else is appended or generated (CONFLICT); a commit keeps what was
 * fed of it, a fork goes on without it. tarn_session_cancel gives it up: the session stays at the
 * last token fed, inside the message (rewind leads back before it), and bytes and end return
 * CANCELLED. CONFLICT if none is open; LIMIT beyond the context. After an error of bytes or end
 * nothing of that call was taken, and it may be made again. *n_tokens (may be NULL): ids queued by
 * the call; of end: by the whole message, its header and end marker included. */
TARN_API tarn_status tarn_session_append_begin(tarn_session *session, const tarn_message *message,
                                               tarn_error *err) TARN_MUST_CHECK;
TARN_API tarn_status tarn_session_append_bytes(tarn_session *session, const char *text,
                                               size_t n_bytes, size_t *n_tokens,
                                               tarn_error *err) TARN_MUST_CHECK;
TARN_API tarn_status tarn_session_append_end(tarn_session *session, size_t *n_tokens,
                                             tarn_error *err) TARN_MUST_CHECK;
/* Queues the declaration of tools: `json` is a list of function declarations. */
TARN_API tarn_status tarn_session_append_tools(tarn_session *session, const char *json,
                                               size_t n_bytes, size_t *n_tokens,
                                               tarn_error *err) TARN_MUST_CHECK;

typedef enum tarn_sync_kind {
    TARN_SYNC_SAME = 1,     /* the session holds just these messages: nothing to do */
    TARN_SYNC_EXTENDED = 2, /* what it lacked is queued */
    TARN_SYNC_MOVED = 3,  /* back to the end of the last message that is the same, then extended */
    TARN_SYNC_REBUILT = 4 /* nothing is the same: back to the start */
} tarn_sync_kind;

typedef struct tarn_sync {
    size_t size;
    tarn_sync_kind kind;
    uint64_t tokens_kept;     /* of the session's, now part of what the list says */
    uint64_t tokens_appended; /* queued now */
    bool differs;             /* MOVED, REBUILT: where session and list part: */
    int64_t message;   /* in the list; its length if the session goes on behind it; -1: before the
                          messages (tools, default system text) */
    uint64_t position; /* the session's first token that is not as the list has it */
    tarn_reuse reuse;  /* of tokens_kept; what has to be replayed of them, and why */
} tarn_sync;

/* Makes the session hold a conversation, whatever it holds now: `json` is what
 * tarn_model_render_chat takes, without add_generation_prompt. Only what differs is computed: the
 * session is extended, or goes back to the end of the last message that is the same and is extended
 * from there, or begins anew. Messages are the same if their texts are, whichever ids the model
 * chose for its own. A turn the session left open is the same as one that ends where it stops, or
 * goes on. Tool results are taken as they stand, whatever was called. Ids that were fed as such
 * count as the messages they spell, but where the list ends with them its last is appended anew,
 * for what comes next depends on what it is.
 *
 * What the session held stays in the store: going back is tarn_session_rewind, which commits first.
 * CONFLICT while tokens wait, a message is open or a generation runs; INVALID naming the field;
 * LIMIT beyond the context, and what rewind returns. After an error nothing has changed, but that
 * it may have been committed, or parked; only where what is new finds no room, and coming back from
 * where the texts part none either, it stays there. A session without a store is emptied instead of
 * going back, and then stays empty. *out may be NULL. */
TARN_API tarn_status tarn_session_sync(tarn_session *session, const char *json, size_t n_bytes,
                                       tarn_sync *out, tarn_error *err) TARN_MUST_CHECK;
/* The same for messages that are no JSON. */
TARN_API tarn_status tarn_session_sync_messages(tarn_session *session, const tarn_message *messages,
                                                size_t n_messages, tarn_sync *out,
                                                tarn_error *err) TARN_MUST_CHECK;

/* ---- sampling and generating ---------------------------------------------------------------- */

#define TARN_LOGIT_BIAS_MAX 256
#define TARN_STOP_IDS_MAX   64

typedef struct tarn_logit_bias {
    uint32_t id;
    float bias; /* added to the logit; -INFINITY forbids */
} tarn_logit_bias;

/* How the next id is drawn. Kept with the session; a new one is greedy. The random numbers depend
 * on (seed, position) alone, so a resumed or forked session draws what the uninterrupted one would.
 */
typedef struct tarn_sampling {
    size_t size;
    float temperature;      /* 0: greedy, ties to the lowest id */
    float top_p;            /* 0 or 1: off */
    uint32_t top_k;         /* 0: off */
    float min_p;            /* 0: off */
    float repeat_penalty;   /* 0 or 1: off */
    uint32_t repeat_last_n; /* tokens looked back at; 0: all */
    uint64_t seed;
    size_t n_bias; /* at most TARN_LOGIT_BIAS_MAX */
    tarn_logit_bias bias[TARN_LOGIT_BIAS_MAX];
} tarn_sampling;

/* What the next id will be drawn with. */
TARN_API void tarn_session_get_sampling(const tarn_session *session, tarn_sampling *out);
/* INVALID names the field and value. */
TARN_API tarn_status tarn_session_set_sampling(tarn_session *session, const tarn_sampling *sampling,
                                               tarn_error *err) TARN_MUST_CHECK;

typedef struct tarn_generate_options {
    size_t size;
    uint32_t n_tokens_max;    /* 0: until a stop id or the context limit */
    const uint32_t *stop_ids; /* besides the model's own; copied */
    size_t n_stop_ids;        /* at most TARN_STOP_IDS_MAX */
} tarn_generate_options;

/* Asks for a generation after everything queued: first the assistant's header if the last segment
 * is a closed system, user, tool or tools message; then ids are sampled and fed, each, the stop id
 * included. INVALID if there is nothing to sample from (an empty session). */
TARN_API tarn_status tarn_session_generate(tarn_session *session,
                                           const tarn_generate_options *options,
                                           tarn_error *err) TARN_MUST_CHECK;

typedef void (*tarn_event_fn)(void *user, const tarn_event *event);

/* Steps the engine until this session has no work left, handing out events (of other sessions too).
 * fn may be NULL: then events are dropped. Returns the error that poisoned the session, if one did.
 * Blocks for the computation. Calling any function of this engine from fn but get_info, logits,
 * tool_calls and cancel is INVALID. */
TARN_API tarn_status tarn_session_run(tarn_session *session, tarn_event_fn fn, void *user,
                                      tarn_error *err) TARN_MUST_CHECK;

/* Ends a running generation, or drops queued tokens, at the next step; the session stays at the
 * last token fed. What has been replayed of a resume stays, and the rest of it is still fed.
 * Cancelling when there is nothing to cancel, or twice, does nothing. Threads: any. */
TARN_API void tarn_session_cancel(tarn_session *session);

/* The calls of the last finished assistant turn, generated or appended, also after a resume or a
 * fork; valid until the session is used again. `malformed` (may be NULL): markers out of place;
 * whole calls are listed all the same. */
TARN_API void tarn_session_tool_calls(const tarn_session *session, const tarn_tool_call **calls,
                                      size_t *n_calls, bool *malformed);

/* The logits after the last fed token, [vocab], borrowed until the next call on this engine.
 * NOT_FOUND if nothing was fed or tokens wait, also those that a parked session has to replay;
 * POISONED.
 * Blocks if it is parked, and then fails as tarn_session_open may. */
TARN_API tarn_status tarn_session_logits(const tarn_session *session, const float **logits,
                                         uint32_t *vocab, tarn_error *err) TARN_MUST_CHECK;

/* From now on fn is called with the logits after every token that is fed, in order, on the stepping
 * thread; NULL ends it. For scoring and evaluation; costs one row of lm_head a token, and on the
 * CPU what else it would leave out (tarn_model_info, tail_weight_bytes). */
typedef void (*tarn_logits_fn)(void *user, uint64_t position, const float *logits, uint32_t vocab);
TARN_API void tarn_session_on_logits(tarn_session *session, tarn_logits_fn fn, void *user);

/* Calls fn with each tensor of the session's state as fp32: layers.{l}.kda.state [H, K, V],
 * layers.{l}.kda.conv_q, .conv_k, .conv_v [H*K, W-1] oldest first, layers.{l}.mla.latent
 * [position, rank + rope]. Everything is borrowed for the call. CONFLICT while tokens wait;
 * POISONED. Blocks if the session is parked. */
typedef void (*tarn_tensor_fn)(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                               const float *data);
TARN_API tarn_status tarn_session_tensors(const tarn_session *session, tarn_tensor_fn fn,
                                          void *user, tarn_error *err) TARN_MUST_CHECK;

/* ---- keeping -------------------------------------------------------------------------------- */

typedef struct tarn_committed {
    size_t size;
    tarn_at at;
    uint64_t bytes_written; /* since the last commit; 0 if nothing was new */
} tarn_committed;

/* Makes everything fed so far durable as a node and moves the session's head to it: all or nothing.
 * Tokens that still wait are not part of it. Without new tokens or sampling changes writes nothing.
 * CONFLICT if another process moved the head, BUSY if it took over the lease; QUOTA, NO_SPACE, IO.
 * After an error the session goes on, not committed. Blocks for encoding and one durable write. */
TARN_API tarn_status tarn_session_commit(tarn_session *session, tarn_committed *out,
                                         tarn_error *err) TARN_MUST_CHECK;

/* As tarn_session_commit, but returns at once: what is to be written is held, not copied, and the
 * session may go on. The store's encoder and writer do the rest; TARN_EVENT_COMMITTED tells, and
 * until then the session's memory is held twice where it is stepped (one slot more). Commits of
 * many sessions that are begun before the first is waited for share one write. Blocks where the
 * session's last begun commit is not written yet, or a kept state; so do fork, rewind, reset,
 * price, park and close of this session. A commit that fails leaves the session not committed, and
 * its tokens go with the next one. */
TARN_API tarn_status tarn_session_commit_begin(tarn_session *session, tarn_ticket *ticket,
                                               tarn_error *err) TARN_MUST_CHECK;
/* Blocks until the session's last begun commit is at `level`; timeout_ms 0: for ever; encodes it
 * here if nobody has begun to. From WRITTEN
 * on `out` (may be NULL) is filled. What tarn_session_commit returns (the session then goes on, not
 * committed); BUSY also when the time is over; NOT_FOUND for an older ticket; UNSUPPORTED for
 * SYNCED in a scratch store. */
TARN_API tarn_status tarn_session_wait(tarn_session *session, tarn_ticket ticket,
                                       tarn_commit_level level, uint32_t timeout_ms,
                                       tarn_committed *out, tarn_error *err) TARN_MUST_CHECK;

/* Opens a new session that continues from here; copies no state and computes nothing: state, logits
 * and latents are shared, and a partly filled page of latents is copied when one of them writes it.
 * With a store
 * its record is durable at once and starts at the last committed node; tokens fed since then come
 * with it and are kept by its own commit. CONFLICT while tokens wait or a generation runs. */
TARN_API tarn_status tarn_session_fork(tarn_session *session, const char *new_name,
                                       tarn_session **out, tarn_error *err) TARN_MUST_CHECK;

/* Goes back to a place of the own history (committed first if need be: nothing is lost; the newer
 * branch stays listed), or forward again to any node ("@n:"). The nearest state before the place is
 * read, and at most keep_every tokens are replayed by the next steps. Going back keeps the latents
 * that are live, so it needs no more pages than the session has, and a slot is kept free for it;
 * going elsewhere reads them anew. Where there is no room for both, the session is parked first (an
 * event tells); what cannot be parked, because its state is kept with loss, is then refused: LIMIT.
 * On failure the session is as before, perhaps parked. Blocks. */
TARN_API tarn_status tarn_session_rewind(tarn_session *session, const char *where,
                                         tarn_reuse *reuse, tarn_error *err) TARN_MUST_CHECK;

/* What tarn_session_rewind to a place would cost, once everything is committed: places since the
 * last commit are NOT_FOUND. Changes nothing. at->node is 0 where no node stands there. */
TARN_API tarn_status tarn_session_price(tarn_session *session, const char *where, tarn_at *at,
                                        tarn_price *price, tarn_error *err) TARN_MUST_CHECK;

/* Gives state and latents back now, as the engine does where a ceiling is reached. The session
 * stays open, and its next use (append, generate, fork, logits) reads them again. What goes to
 * pinned_bytes_max is copied beside the steps of others: nobody waits for that here, and slots and
 * pages are free when a later step finds it done. CONFLICT while it has work or something
 * uncommitted; UNSUPPORTED where it could not come back the same: without a
 * store, or with a state that is kept with loss. */
TARN_API tarn_status tarn_session_park(tarn_session *session, tarn_error *err) TARN_MUST_CHECK;

/* Forgets everything since the last committed node, also after poisoning. Needs memory as rewind
 * does. */
TARN_API tarn_status tarn_session_reset(tarn_session *session, tarn_reuse *reuse,
                                        tarn_error *err) TARN_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
