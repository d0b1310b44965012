/* handle.h - inside an open store: its fields, and the transactions every operation runs in. */
#ifndef TARNP_HANDLE_H
#define TARNP_HANDLE_H

#include "codec.h"
#include "records.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#define TARNP_HANDLE_ID_BYTES 8

struct tarnp_store {
    tarn_allocator allocator;
    tarn_log log;
    tarni_pool *pool; /* borrowed, may be NULL */
    tarnp_tables *tables;
    tarnp_format format;
    bool read_only; /* asked for, or the store has features that writing would break */
    _Atomic bool poisoned;
    _Atomic uint64_t bytes_put; /* through this handle */
    pid_t pid;                  /* of the process that opened it */
    char *path;                 /* of the folder */
    tarnp_durability durability;
    int scratch_fd;                           /* lock of a scratch store, -1: none */
    uint8_t handle_id[TARNP_HANDLE_ID_BYTES]; /* random: tells our leases from those of before */
    struct tarnp_queue *queue;                /* NULL until the first submit */
    size_t queue_bytes_max;
    uint32_t queue_length_max;

    int folder;   /* kept open for its lock: shared by all who have the store open */
    dev_t device; /* of data.mdb: the registry's key */
    ino_t inode;
    struct tarnp_store *next_open; /* under the registry's mutex */

    tarnp_codec **codecs; /* one a worker, made when first needed */
    size_t n_codecs;
    size_t codecs_capacity;
    /* Encoded chunks of a commit; kept, because mapping it anew costs milliseconds. Under the
     * mutex, as the writer gives back what it has written. */
    pthread_mutex_t slab_mutex;
    uint8_t *slab;
    size_t slab_bytes;
};

/* INVALID after fork, POISONED. */
tarn_status tarnp_store_enter(const tarnp_store *store, tarn_error *err);

/* A read transaction of a usable store; end it with tarnp_txn_abort. */
tarn_status tarnp_read_begin(tarnp_store *store, tarnp_txn *txn, tarn_error *err);

/* A write transaction with the counters loaded; they are put by the commit. */
typedef struct tarnp_write {
    tarnp_store *store;
    tarnp_txn txn;
    tarnp_counters counters;
    bool uncounted; /* what it puts is nothing that stays: leases */
} tarnp_write;

tarn_status tarnp_write_begin(tarnp_store *store, tarnp_write *w, tarn_error *err);
/* *bytes_written may be NULL. An IO error poisons the store. */
tarn_status tarnp_write_commit(tarnp_write *w, uint64_t *bytes_written, tarn_error *err);
/* Ends it if it is open: allowed after a commit and after a failed begin. Returns `status`. */
tarn_status tarnp_write_abort(tarnp_write *w, tarn_status status);

/* After something was freed. LMDB lets a transaction use pages freed by the last but one before it,
 * not by the last. On a full disk the next commit would fail for want of the pages just freed,
 * abort, and so fail for ever; an empty transaction in between makes them free for it. */
tarn_status tarnp_write_settle(tarnp_store *store, tarn_error *err);

uint64_t tarnp_now_ms(void);

/* Calls fn(arg, codec, i) for every i < n, on the store's pool if it has one. Each worker has its
 * own codec. Returns the error of the lowest i that failed; later ones may then not have run. */
typedef tarn_status (*tarnp_each_fn)(void *arg, tarnp_codec *codec, size_t i, tarn_error *err);
tarn_status tarnp_each(tarnp_store *store, size_t n, tarnp_each_fn fn, void *arg, tarn_error *err);

#endif
