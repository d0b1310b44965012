/* tables.c - the environment and its transactions.
 *
 * Owns the MDB_env. Invariants:
 *  1. A commit that returned is on disk unless tarnp_tables_set_sync said otherwise. No WRITEMAP (a
 *     full disk would be a SIGBUS), no DUPSORT and no nested transactions (broken in the LMDB that
 *     Debian ships).
 *  2. The map is opened once at its full size; other processes need not agree on it, and LMDB's
 *     "map resized" is healed by taking over the size that is on disk.
 *  3. LMDB touches no page that structure.c has not seen: the meta pages before LMDB opens the
 *     file, the trees before the first lookup. Trees of more than CHECK_PAGES_AT_OPEN pages (some
 *     600,000 chunks) are walked only so far at open and in full by verify, to bound the wait.
 *  4. The map is moved (set_mapsize) while this process has no transaction: each holds map_lock
 *     shared from begin to end, and whoever moves the map takes it alone. LMDB asks for this and
 *     does not check it. LMDB's own lock lets one writer in at a time, of any thread or process.
 *  5. Slots of readers that died are cleared at open, when the file has grown by GROWTH_PAGES
 *     (their snapshots may be why: pages they saw cannot be used again), and when no slot is free.
 */
#include "environment.h"

#include "datafile.h"
#include "log.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define MAP_BYTES_DEFAULT   ((size_t)1 << 40)
#define MAP_BYTES_LEAST     ((size_t)1 << 30) /* of the halving, not of what may be asked for */
#define RESERVE_BYTES       ((size_t)16 << 20)
#define CHECK_PAGES_AT_OPEN 4096
#define GROWTH_PAGES        1024

const char *const tarnp_table_names[TARNP_TABLES_COUNT] = {"meta", "model", "session", "name",
                                                           "node", "key",   "chunk",   "ref",
                                                           "tip",  "gcq",   "lease",   "prefix"};

tarn_status tarnp_fail_lmdb(tarn_error *err, int rc, const char *what)
{
    tarn_status status = TARN_E_CORRUPT;
    switch (rc) {
    case MDB_MAP_FULL:
        return tarni_fail(err, TARN_E_NO_SPACE, "%s: the store's map is full", what);
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
        return tarni_fail_errno(err, rc, "%s", what);
    case MDB_READERS_FULL:
        status = TARN_E_BUSY;
        break;
    case MDB_PANIC:
        status = TARN_E_POISONED;
        break;
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
        status = TARN_E_FORMAT;
        break;
    default:
        if (rc > 0)
            return tarni_fail(err, TARN_E_IO, "%s: %s", what, mdb_strerror(rc));
    }
    return tarni_fail(err, status, "%s: %s", what, mdb_strerror(rc));
}

/* ---- opening -------------------------------------------------------------------------------- */

/* LMDB aborts after this returns. With the pages checked first it is not expected to be called. */
static void log_assert(MDB_env *env, const char *text)
{
    const tarnp_tables *t = mdb_env_get_userctx(env); /* set before this was */
    TARNI_LOG(&t->log, TARN_LOG_ERROR, "LMDB: %s", text);
}

static tarn_status check_readers(tarnp_tables *t, tarn_error *err)
{
    int dead = 0;
    int rc = mdb_reader_check(t->env, &dead);
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, "cannot check the table of readers");
    if (dead > 0)
        TARNI_LOG(&t->log, TARN_LOG_INFO, "%d readers of dead processes were cleared", dead);
    return TARN_OK;
}

static tarn_status open_env(tarnp_tables *t, const char *folder, size_t map_bytes, tarn_error *err)
{
    size_t size = map_bytes ? map_bytes : MAP_BYTES_DEFAULT;
    for (;; size /= 2) {
        int rc = mdb_env_create(&t->env);
        if (rc != 0) {
            t->env = NULL;
            return tarnp_fail_lmdb(err, rc, "cannot make an LMDB environment");
        }
        rc = mdb_env_set_maxdbs(t->env, TARNP_TABLES_COUNT);
        if (rc == 0)
            rc = mdb_env_set_mapsize(t->env, size);
        if (rc == 0)
            rc = mdb_env_set_userctx(t->env, t);
        if (rc == 0)
            rc = mdb_env_set_assert(t->env, log_assert);
        if (rc == 0)
            rc = mdb_env_open(t->env, folder, MDB_NOTLS, 0600);
        if (rc == 0)
            break;
        mdb_env_close(t->env);
        t->env = NULL;
        if (rc != ENOMEM || map_bytes != 0 || size / 2 < MAP_BYTES_LEAST)
            return tarnp_fail_lmdb(err, rc, folder);
    }
    t->map_bytes = size;
    MDB_envinfo info;
    int rc = mdb_env_info(t->env, &info);
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, folder);
    atomic_init(&t->last_page, info.me_last_pgno);
    return check_readers(t, err);
}

/* Walks the trees of the newest snapshot. */
static tarn_status check_pages(tarnp_tables *t, uint64_t pages_max, bool *complete, tarn_error *err)
{
    enum { TRIES = 100 };
    for (int i = 0; i < TRIES; i++) {
        tarnp_txn txn;
        TARNI_TRY(tarnp_txn_begin(t, false, &txn, err));
        tarnp_structure_result found = {0};
        tarn_status status =
            tarnp_datafile_tree(t->file, tarnp_txn_id(&txn), pages_max, &t->allocator, &found, err);
        tarnp_txn_abort(&txn);
        /* Another process may commit twice between LMDB's look at the meta pages and ours. */
        if (status == TARN_E_CORRUPT && !found.found && i + 1 < TRIES)
            continue;
        if (status != TARN_OK || found.found) {
            *complete = found.complete;
            return status;
        }
    }
    return tarni_fail(err, TARN_E_BUSY, "%s: another process never stops committing", t->file);
}

static tarn_status open_tables(tarnp_tables *t, bool create, tarn_error *err)
{
    tarnp_txn txn;
    TARNI_TRY(tarnp_txn_begin(t, create, &txn, err));
    for (int i = 0; i < TARNP_TABLES_COUNT; i++) {
        int rc =
            mdb_dbi_open(txn.handle, tarnp_table_names[i], create ? MDB_CREATE : 0, &t->tables[i]);
        if (rc == MDB_NOTFOUND || rc == MDB_INCOMPATIBLE) {
            tarnp_txn_abort(&txn);
            return tarni_fail(err, TARN_E_FORMAT, "not a tarn store: table %s is missing",
                              tarnp_table_names[i]);
        }
        if (rc != 0) {
            tarnp_txn_abort(&txn);
            return tarnp_fail_lmdb(err, rc, tarnp_table_names[i]);
        }
    }
    return tarnp_txn_commit(&txn, err);
}

tarn_status tarnp_tables_open(const char *folder, bool create, size_t map_bytes,
                              const tarn_allocator *allocator, const tarn_log *log,
                              tarnp_tables **out, tarn_error *err)
{
    *out = NULL;
    tarnp_tables *t;
    tarn_status status;
    TARNI_TRY(tarnp_datafile_place(folder, err));
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *t, &t, err));
    t->allocator = *allocator;
    pthread_rwlock_init(&t->map_lock, NULL);
    if (log)
        t->log = *log;
    int n = snprintf(t->file, sizeof t->file, "%s/data.mdb", folder);
    if (n < 0 || (size_t)n >= sizeof t->file) {
        status = tarni_fail(err, TARN_E_INVALID, "the path is longer than %d bytes",
                            TARNP_DATA_PATH_BYTES);
        goto fail;
    }
    if (!create)
        TARNI_TRY_GOTO(tarnp_datafile_head(t->file, allocator, err));
    TARNI_TRY_GOTO(open_env(t, folder, map_bytes, err));
    if (!create) {
        bool complete;
        TARNI_TRY_GOTO(check_pages(t, CHECK_PAGES_AT_OPEN, &complete, err));
        if (!complete)
            TARNI_LOG(&t->log, TARN_LOG_DEBUG, "only the first %d tree pages were checked",
                      CHECK_PAGES_AT_OPEN);
    }
    TARNI_TRY_GOTO(open_tables(t, create, err));
    *out = t;
    return TARN_OK;
fail:
    tarnp_tables_close(t);
    return status;
}

void tarnp_tables_close(tarnp_tables *t)
{
    if (!t)
        return;
    if (t->env)
        mdb_env_close(t->env);
    pthread_rwlock_destroy(&t->map_lock);
    tarnp_seal_fini(&t->seal);
    tarn_allocator allocator = t->allocator;
    tarni_free(&allocator, t);
}

void tarnp_tables_seal(tarnp_tables *t, const tarnp_seal *seal)
{
    t->seal = *seal;
    t->is_sealed = true;
}

void tarnp_tables_seal_as(tarnp_tables *t, const tarnp_tables *like)
{
    t->seal = like->seal;
    t->is_sealed = like->is_sealed;
}

tarn_status tarnp_tables_check(tarnp_tables *t, tarn_error *err)
{
    bool complete;
    return check_pages(t, UINT64_MAX, &complete, err);
}

tarn_status tarnp_tables_stat(tarnp_tables *t, tarnp_tables_info *out, tarn_error *err)
{
    MDB_envinfo info;
    struct stat file;
    int rc = mdb_env_info(t->env, &info);
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, "cannot read the environment");
    if (stat(t->file, &file) != 0)
        return tarni_fail_errno(err, errno, "%s", t->file);
    *out = (tarnp_tables_info){.map_bytes = info.me_mapsize, .file_bytes = (uint64_t)file.st_size};
    return TARN_OK;
}

const char *tarnp_tables_file(const tarnp_tables *t)
{
    return t->file;
}

tarn_status tarnp_tables_copy(tarnp_tables *t, const char *folder, tarn_error *err)
{
    int rc = mdb_env_copy2(t->env, folder, MDB_CP_COMPACT);
    return rc == 0 ? TARN_OK : tarnp_fail_lmdb(err, rc, "cannot copy the store");
}

static int move_map(tarnp_tables *t, size_t size)
{
    pthread_rwlock_wrlock(&t->map_lock);
    int rc = mdb_env_set_mapsize(t->env, size);
    pthread_rwlock_unlock(&t->map_lock);
    return rc;
}

tarn_status tarnp_tables_reserve(tarnp_tables *t, bool lend, tarn_error *err)
{
    /* No overflow: a map of so many bytes could be opened. */
    int rc = move_map(t, t->map_bytes + (lend ? RESERVE_BYTES : 0));
    return rc == 0 ? TARN_OK : tarnp_fail_lmdb(err, rc, "cannot resize the map");
}

tarn_status tarnp_tables_set_sync(tarnp_tables *t, tarnp_sync sync, tarn_error *err)
{
    static const unsigned flags[] = {
        [TARNP_SYNC_ALL] = 0, [TARNP_SYNC_DATA] = MDB_NOMETASYNC, [TARNP_SYNC_NONE] = MDB_NOSYNC};
    int rc = mdb_env_set_flags(t->env, MDB_NOMETASYNC | MDB_NOSYNC, 0);
    if (rc == 0 && flags[sync] != 0)
        rc = mdb_env_set_flags(t->env, flags[sync], 1);
    return rc == 0 ? TARN_OK : tarnp_fail_lmdb(err, rc, "cannot choose what is synced");
}

tarn_status tarnp_tables_sync(tarnp_tables *t, tarn_error *err)
{
    int rc = mdb_env_sync(t->env, 1);
    return rc == 0 ? TARN_OK : tarnp_fail_lmdb(err, rc, "cannot sync");
}

/* ---- transactions --------------------------------------------------------------------------- */

tarn_status tarnp_txn_begin(tarnp_tables *t, bool write, tarnp_txn *out, tarn_error *err)
{
    *out = (tarnp_txn){.tables = t};
    MDB_txn *txn;
    int rc = 0;
    for (bool resized = false, cleared = false;;) {
        pthread_rwlock_rdlock(&t->map_lock);
        rc = mdb_txn_begin(t->env, NULL, write ? 0 : MDB_RDONLY, &txn);
        if (rc == 0)
            break;
        pthread_rwlock_unlock(&t->map_lock);
        if (rc == MDB_MAP_RESIZED && !resized) {
            resized = true;
            rc = move_map(t, 0);
        } else if (rc == MDB_READERS_FULL && !cleared) {
            cleared = true;
            TARNI_TRY(check_readers(t, err));
            rc = 0;
        }
        if (rc != 0)
            return tarnp_fail_lmdb(err, rc, "cannot begin a transaction");
    }
    out->handle = txn;
    return TARN_OK;
}

/* LMDB reports a write cut short by a full disk as EIO. The pages written so far are not reachable
 * then, so nothing is lost; only the disk can tell the two apart. */
static bool disk_is_full(const tarnp_tables *t, uint64_t bytes_put)
{
    struct statvfs info;
    if (statvfs(t->file, &info) != 0)
        return false;
    uint64_t left = (uint64_t)info.f_bavail * info.f_frsize;
    return left < bytes_put + ((uint64_t)1 << 20);
}

/* What was committed stays so whatever happens here. */
static void clear_after_growth(tarnp_tables *t)
{
    MDB_envinfo info;
    tarn_error err;
    if (mdb_env_info(t->env, &info) != 0 ||
        info.me_last_pgno < atomic_load(&t->last_page) + GROWTH_PAGES)
        return;
    atomic_store(&t->last_page, info.me_last_pgno);
    if (check_readers(t, &err) != TARN_OK)
        TARNI_LOG(&t->log, TARN_LOG_WARN, "%s", err.detail);
}

tarn_status tarnp_txn_commit(tarnp_txn *txn, tarn_error *err)
{
    tarnp_tables *t = txn->tables;
    int rc = mdb_txn_commit(txn->handle);
    txn->handle = NULL;
    tarnp_forget_opened(txn);
    pthread_rwlock_unlock(&t->map_lock);
    if (rc == EIO && disk_is_full(t, txn->bytes_put))
        rc = ENOSPC;
    if (rc != 0)
        return tarnp_fail_lmdb(err, rc, "cannot commit");
    clear_after_growth(t);
    return TARN_OK;
}

void tarnp_txn_abort(tarnp_txn *txn)
{
    if (txn->handle) {
        mdb_txn_abort(txn->handle);
        pthread_rwlock_unlock(&txn->tables->map_lock);
        tarnp_forget_opened(txn);
    }
    txn->handle = NULL;
}

uint64_t tarnp_txn_id(const tarnp_txn *txn)
{
    return mdb_txn_id(txn->handle);
}
