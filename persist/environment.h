/* environment.h - the inside of tarnp_tables: what tables.c and values.c, the only files that see
 * LMDB, share. */
#ifndef TARNP_ENVIRONMENT_H
#define TARNP_ENVIRONMENT_H

#include "seal.h"
#include "tables.h"

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>

#define TARNP_DATA_PATH_BYTES 4096

struct tarnp_tables {
    tarn_allocator allocator;
    tarn_log log;
    MDB_env *env;
    MDB_dbi tables[TARNP_TABLES_COUNT];
    size_t map_bytes; /* as opened, without a lent reserve */
    pthread_rwlock_t map_lock;
    _Atomic size_t last_page; /* of the file when readers were last checked */
    bool is_sealed;
    tarnp_seal seal;
    char file[TARNP_DATA_PATH_BYTES];
};

/* By tarnp_table. */
extern const char *const tarnp_table_names[TARNP_TABLES_COUNT];

/* Frees what a transaction opened. */
void tarnp_forget_opened(tarnp_txn *txn);

/* Sets err for an error of LMDB's. */
tarn_status tarnp_fail_lmdb(tarn_error *err, int rc, const char *what);

#endif
