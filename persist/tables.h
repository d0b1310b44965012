/* tables.h - the LMDB environment: named tables, transactions, values.
 *
 * The only room that knows LMDB (tables.c, values.c). Values of every table but NODE and CHUNK,
 * which carry checksums of their own, are stored with 8 bytes of XXH3-64 over table, key and value
 * behind them; they are put, checked and taken off here, so a record that rotted or that stands
 * under another's key is CORRUPT and never handed out. With a key every value is sealed on its way
 * in and opened on its way out (seal.h); sizes are those of what is given and taken here.
 *
 * Lifetime: spans point into the map or into the transaction's pages and are valid until the next
 * put or delete in the transaction, at most until its end; a cursor's value until it moves.
 * Threads: each thread one transaction at a time, and a transaction ends on the thread that began
 * it. */
#ifndef TARNP_TABLES_H
#define TARNP_TABLES_H

#include "memory.h"

/* tarnp_table_names stands in the same order. */
typedef enum tarnp_table {
    TARNP_TABLE_META,    /* text -> record */
    TARNP_TABLE_MODEL,   /* fingerprint -> descriptor */
    TARNP_TABLE_SESSION, /* id -> record */
    TARNP_TABLE_NAME,    /* session name -> id */
    TARNP_TABLE_NODE,    /* id -> manifest */
    TARNP_TABLE_KEY,     /* commit key -> node id */
    TARNP_TABLE_CHUNK,   /* id -> header and payload */
    TARNP_TABLE_REF,     /* node id -> reference counts */
    TARNP_TABLE_TIP,     /* session id, node id -> nothing */
    TARNP_TABLE_GCQ,     /* node id -> references still to be dropped */
    TARNP_TABLE_LEASE,   /* session id -> who may write it */
    TARNP_TABLE_PREFIX,  /* hash of all tokens -> node id */
    TARNP_TABLES_COUNT
} tarnp_table;

typedef struct tarnp_tables tarnp_tables;

typedef struct tarnp_span {
    const uint8_t *data; /* NULL: there is no such entry */
    size_t n_bytes;
} tarnp_span;

typedef struct tarnp_txn {
    tarnp_tables *tables;
    void *handle;       /* LMDB's; NULL when ended */
    uint64_t bytes_put; /* of values, checksums included */
    void *opened;       /* values that were sealed, until the end of the transaction */
} tarnp_txn;

typedef struct tarnp_cursor {
    tarnp_txn *txn;
    void *handle;
    tarnp_table table;
    void *opened; /* the value last given out, if it was sealed */
} tarnp_cursor;

typedef struct tarnp_tables_info {
    uint64_t map_bytes, file_bytes;
} tarnp_tables_info;

/* `folder` must exist. With `create` an empty folder becomes an environment with empty tables. */
tarn_status tarnp_tables_open(const char *folder, bool create, size_t map_bytes,
                              const tarn_allocator *allocator, const tarn_log *log,
                              tarnp_tables **out, tarn_error *err);
void tarnp_tables_close(tarnp_tables *tables); /* NULL is allowed */

/* What a commit waits for from now on. */
typedef enum tarnp_sync {
    TARNP_SYNC_ALL,  /* it is on disk when it returns */
    TARNP_SYNC_DATA, /* its pages are; a power cut may lose the last commit, nothing else */
    TARNP_SYNC_NONE  /* nothing: a power cut destroys the file */
} tarnp_sync;

tarn_status tarnp_tables_set_sync(tarnp_tables *tables, tarnp_sync sync, tarn_error *err);
/* Puts on disk what was committed without waiting. Also while transactions run. */
tarn_status tarnp_tables_sync(tarnp_tables *tables, tarn_error *err);

/* Seals all that is put from now on, and expects all to be. Copied. */
struct tarnp_seal;
void tarnp_tables_seal(tarnp_tables *tables, const struct tarnp_seal *seal);
/* As another environment does. */
void tarnp_tables_seal_as(tarnp_tables *tables, const tarnp_tables *like);

/* Checks the pages of the whole file. */
tarn_status tarnp_tables_check(tarnp_tables *tables, tarn_error *err);
tarn_status tarnp_tables_stat(tarnp_tables *tables, tarnp_tables_info *out, tarn_error *err);
const char *tarnp_tables_file(const tarnp_tables *tables); /* the path of data.mdb */
/* Writes a copy without free pages into `folder`, which must be empty. Its transactions are counted
 * from 1 again. */
tarn_status tarnp_tables_copy(tarnp_tables *tables, const char *folder, tarn_error *err);
/* Lends the map room beyond its size, so that a full store can still free something; and takes it
 * back as far as it is unused. This thread may have no transaction open; those of others are waited
 * for. */
tarn_status tarnp_tables_reserve(tarnp_tables *tables, bool lend, tarn_error *err);

/* Write transactions wait for the writer of another process. */
tarn_status tarnp_txn_begin(tarnp_tables *tables, bool write, tarnp_txn *out, tarn_error *err);
/* Ends the transaction whatever comes back. NO_SPACE: nothing changed and the tables are usable.
 * IO: the outcome is unknown. */
tarn_status tarnp_txn_commit(tarnp_txn *txn, tarn_error *err);
void tarnp_txn_abort(tarnp_txn *txn); /* an ended one is allowed */
uint64_t tarnp_txn_id(const tarnp_txn *txn);

/* Whether these are the bytes of a stored record with the checksum of this table and key behind
 * it: for salvage, which finds records without the tables. */
bool tarnp_record_matches(tarnp_table table, const void *key, size_t key_bytes,
                          const uint8_t *value, size_t n_bytes);

/* OK with out->data NULL where there is no such entry; CORRUPT where an entry beside it is damaged,
 * which it may be. */
tarn_status tarnp_get(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                      tarnp_span *out, tarn_error *err);
tarn_status tarnp_put(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                      const void *value, size_t n_bytes, tarn_error *err);
/* Deleting what is not there is OK; *was_there may be NULL. */
tarn_status tarnp_delete(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                         bool *was_there, tarn_error *err);
/* The same with an id as key, stored big-endian. */
tarn_status tarnp_get_id(tarnp_txn *txn, tarnp_table table, uint64_t id, tarnp_span *out,
                         tarn_error *err);
/* The same as it is stored, for who opens it himself or wants its size alone. */
tarn_status tarnp_get_stored(tarnp_txn *txn, tarnp_table table, uint64_t id, tarnp_span *out,
                             tarn_error *err);
/* The size of such a value once it is open; 0 where there is none. */
size_t tarnp_stored_size(const tarnp_tables *tables, tarnp_span stored);
/* The memory it takes to open it: none where it is not sealed. */
size_t tarnp_opening_bytes(const tarnp_tables *tables, tarnp_span stored);
/* Opens it in that memory; where it is not sealed *out is the value itself. Any thread. CORRUPT. */
tarn_status tarnp_open_stored(const tarnp_tables *tables, tarnp_table table, uint64_t id,
                              tarnp_span stored, void *memory, tarnp_span *out, tarn_error *err);
tarn_status tarnp_put_id(tarnp_txn *txn, tarnp_table table, uint64_t id, const void *value,
                         size_t n_bytes, tarn_error *err);
/* As tarnp_put_id for an id larger than all in the table, or CORRUPT. */
tarn_status tarnp_append_id(tarnp_txn *txn, tarnp_table table, uint64_t id, const void *value,
                            size_t n_bytes, tarn_error *err);
tarn_status tarnp_delete_id(tarnp_txn *txn, tarnp_table table, uint64_t id, bool *was_there,
                            tarn_error *err);

tarn_status tarnp_cursor_open(tarnp_txn *txn, tarnp_table table, tarnp_cursor *out,
                              tarn_error *err);
void tarnp_cursor_close(tarnp_cursor *cursor);
/* The first entry with a key not below the one given (NULL: the first of all); key->data is NULL
 * after the last. CORRUPT with a key: the value does not match its checksum, and next goes on. */
tarn_status tarnp_cursor_seek(tarnp_cursor *cursor, const void *from, size_t from_bytes,
                              tarnp_span *key, tarnp_span *value, tarn_error *err);
tarn_status tarnp_cursor_next(tarnp_cursor *cursor, tarnp_span *key, tarnp_span *value,
                              tarn_error *err);

#endif
