/* tables.c
 *
 * Owns the MDB_env. Invariants:
 *  1. A commit that returned is on disk unless tarnp_tables_set_sync said otherwise. No WRITEMAP (a
 * full disk would be a SIGBUS), no DUPSORT and no nested transactions (broken in the LMDB that
 * Debian ships).
 *  2. The map is opened once at its full size; other processes need not agree on it, and LMDB's
 *     "map resized" is healed by taking over the size that is on disk.
 *  3. LMDB touches no page that structure.c has not seen: the meta pages before LMDB opens the
 *     file, the trees before the first lookup. Trees of more than CHECK_PAGES_AT_OPEN pages (some
 *     600,000 chunks) are walked only so far at open and in full by verify, to bound the wait.
 *  4. The map is moved (set_mapsize) while this process has no transaction: each holds map_lock
 *     shared from begin to end, and whoever moves the map takes it alone. LMDB asks for this and
 *     does not check it. LMDB's own lock lets one writer in at a time, of any thread or process.
 *  5. Slots of readers that died are cleared at open, when the file has grown by GROWTH_PAGES
 * (their snapshots may be why: pages they saw cannot be used again), and when no slot is free.
 *
 * FUSE counts as a network file system: sshfs, GlusterFS and the like cannot be told from a local
 * one, and neither shared maps nor locks can be relied on there. */
#include "tables.h"

#include "bytes.h"
#include "log.h"
#include "structure.h"
#include "sums.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MAP_BYTES_DEFAULT   ((size_t)1 << 40)
#define MAP_BYTES_LEAST     ((size_t)1 << 30) /* of the halving, not of what may be asked for */
#define RESERVE_BYTES       ((size_t)16 << 20)
#define CHECK_PAGES_AT_OPEN 4096
#define SUM_BYTES           8
#define KEY_BYTES_MAX       511
#define RECORD_BYTES_MAX    ((size_t)1 << 20)
#define PATH_BYTES          4096
#define GROWTH_PAGES        1024

static const char *const table_names[TARNP_TABLES_COUNT] = {
    "meta", "model", "session", "name", "node", "key", "chunk", "ref", "tip", "gcq", "lease"};

/* 0: any */
static const size_t key_bytes_of[TARNP_TABLES_COUNT] = {0, 32, 8, 0, 8, 16, 8, 8, 16, 8, 8};

struct tarnp_tables {
    tarn_allocator allocator;
    tarn_log log;
    MDB_env *env;
    MDB_dbi tables[TARNP_TABLES_COUNT];
    size_t map_bytes; /* as opened, without a lent reserve */
    pthread_rwlock_t map_lock;
    _Atomic size_t last_page; /* of the file when readers were last checked */
    char file[PATH_BYTES];
};

static tarn_status fail_lmdb(tarn_error *err, int rc, const char *what)
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

const char *tarnp_network_filesystem(uint64_t type)
{
    static const struct {
        uint64_t type;
        const char *name;
    } list[] = {
        {0x6969, "NFS"},       {0x517B, "SMB"},      {0xFF534D42, "CIFS"},   {0xFE534D42, "SMB2"},
        {0x01021997, "9P"},    {0x65735546, "FUSE"}, {0x0BD00BD0, "Lustre"}, {0x00C36400, "Ceph"},
        {0x5346414F, "AFS"},   {0x47504653, "GPFS"}, {0x73757245, "Coda"},   {0x19830326, "BeeGFS"},
        {0x7461636F, "OCFS2"}, {0x01161970, "GFS2"}, {0x564C, "NCP"},        {0xAAD7AAEA, "PanFS"}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (list[i].type == (type & 0xFFFFFFFF))
            return list[i].name;
    return NULL;
}

static tarn_status check_filesystem(const char *folder, tarn_error *err)
{
    struct statfs info;
    if (statfs(folder, &info) != 0)
        return tarni_fail_errno(err, errno, "%s", folder);
    const char *name = tarnp_network_filesystem((uint64_t)info.f_type);
    if (name)
        return tarni_fail(err, TARN_E_UNSUPPORTED,
                          "%s lies on a %s file system, which does not keep a store safe", folder,
                          name);
    return TARN_OK;
}

/* LMDB aborts after this returns. With the pages checked first it is not expected to be called. */
static void log_assert(MDB_env *env, const char *text)
{
    const tarnp_tables *t = mdb_env_get_userctx(env);
    if (t)
        TARNI_LOG(&t->log, TARN_LOG_ERROR, "LMDB: %s", text);
}

/* The meta pages, read and compared before LMDB sees the file. Another process may be writing one
 * of them meanwhile, so a doubtful answer is asked for again. */
static tarn_status check_meta_pages(const char *file, const tarn_allocator *allocator,
                                    tarn_error *err)
{
    enum { TRIES = 5, READ_BYTES = 65536 + 512 };
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", file);
    uint8_t *head = NULL;
    tarn_status status = tarni_alloc(allocator, READ_BYTES, 1, &head, err);
    for (int i = 0; status == TARN_OK && i < TRIES; i++) {
        ssize_t n = pread(fd, head, READ_BYTES, 0);
        uint32_t page_bytes;
        struct stat info;
        if (n < 0 || fstat(fd, &info) != 0)
            status = tarni_fail_errno(err, errno, "%s", file);
        else
            status = tarnp_structure_check_head(head, (size_t)n, (uint64_t)info.st_size,
                                                &page_bytes, err);
        if (status == TARN_OK)
            break;
        if (i + 1 < TRIES && status == TARN_E_CORRUPT)
            status = TARN_OK;
    }
    tarni_free(allocator, head);
    close(fd);
    return status;
}

static tarn_status check_readers(tarnp_tables *t, tarn_error *err)
{
    int dead = 0;
    int rc = mdb_reader_check(t->env, &dead);
    if (rc != 0)
        return fail_lmdb(err, rc, "cannot check the table of readers");
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
            return fail_lmdb(err, rc, "cannot make an LMDB environment");
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
            return fail_lmdb(err, rc, folder);
    }
    t->map_bytes = size;
    MDB_envinfo info;
    int rc = mdb_env_info(t->env, &info);
    if (rc != 0)
        return fail_lmdb(err, rc, folder);
    atomic_init(&t->last_page, info.me_last_pgno);
    return check_readers(t, err);
}

static tarn_status check_mapped(const tarnp_tables *t, uint64_t txn_id, uint64_t pages_max,
                                tarnp_structure_result *out, tarn_error *err)
{
    struct stat info;
    int fd = open(t->file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", t->file);
    tarn_status status = TARN_OK;
    void *file = MAP_FAILED;
    if (fstat(fd, &info) == 0)
        file = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (file == MAP_FAILED)
        status = tarni_fail_errno(err, errno, "%s", t->file);
    close(fd);
    if (status != TARN_OK)
        return status;
    status = tarnp_structure_check_tree(file, (size_t)info.st_size, txn_id, pages_max,
                                        &t->allocator, out, err);
    munmap(file, (size_t)info.st_size);
    return status;
}

/* Walks the trees of the newest snapshot. */
static tarn_status check_pages(tarnp_tables *t, uint64_t pages_max, bool *complete, tarn_error *err)
{
    enum { TRIES = 100 };
    for (int i = 0; i < TRIES; i++) {
        tarnp_txn txn;
        TARNI_TRY(tarnp_txn_begin(t, false, &txn, err));
        tarnp_structure_result found = {0};
        tarn_status status = check_mapped(t, tarnp_txn_id(&txn), pages_max, &found, err);
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
        int rc = mdb_dbi_open(txn.handle, table_names[i], create ? MDB_CREATE : 0, &t->tables[i]);
        if (rc == MDB_NOTFOUND || rc == MDB_INCOMPATIBLE) {
            tarnp_txn_abort(&txn);
            return tarni_fail(err, TARN_E_FORMAT, "not a tarn store: table %s is missing",
                              table_names[i]);
        }
        if (rc != 0) {
            tarnp_txn_abort(&txn);
            return fail_lmdb(err, rc, table_names[i]);
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
    TARNI_TRY(check_filesystem(folder, err));
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *t, &t, err));
    t->allocator = *allocator;
    pthread_rwlock_init(&t->map_lock, NULL);
    if (log)
        t->log = *log;
    int n = snprintf(t->file, sizeof t->file, "%s/data.mdb", folder);
    if (n < 0 || (size_t)n >= sizeof t->file) {
        status = tarni_fail(err, TARN_E_INVALID, "the path is longer than %d bytes", PATH_BYTES);
        goto fail;
    }
    if (!create)
        TARNI_TRY_GOTO(check_meta_pages(t->file, allocator, err));
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
    tarn_allocator allocator = t->allocator;
    tarni_free(&allocator, t);
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
        return fail_lmdb(err, rc, "cannot read the environment");
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
    return rc == 0 ? TARN_OK : fail_lmdb(err, rc, "cannot copy the store");
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
    size_t size;
    if (!tarni_add_size(t->map_bytes, lend ? RESERVE_BYTES : 0, &size))
        size = t->map_bytes;
    int rc = move_map(t, size);
    return rc == 0 ? TARN_OK : fail_lmdb(err, rc, "cannot resize the map");
}

tarn_status tarnp_tables_set_sync(tarnp_tables *t, tarnp_sync sync, tarn_error *err)
{
    static const unsigned flags[] = {
        [TARNP_SYNC_ALL] = 0, [TARNP_SYNC_DATA] = MDB_NOMETASYNC, [TARNP_SYNC_NONE] = MDB_NOSYNC};
    int rc = mdb_env_set_flags(t->env, MDB_NOMETASYNC | MDB_NOSYNC, 0);
    if (rc == 0 && flags[sync] != 0)
        rc = mdb_env_set_flags(t->env, flags[sync], 1);
    return rc == 0 ? TARN_OK : fail_lmdb(err, rc, "cannot choose what is synced");
}

tarn_status tarnp_tables_sync(tarnp_tables *t, tarn_error *err)
{
    int rc = mdb_env_sync(t->env, 1);
    return rc == 0 ? TARN_OK : fail_lmdb(err, rc, "cannot sync");
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
            return fail_lmdb(err, rc, "cannot begin a transaction");
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
    pthread_rwlock_unlock(&t->map_lock);
    if (rc == EIO && disk_is_full(t, txn->bytes_put))
        rc = ENOSPC;
    if (rc != 0)
        return fail_lmdb(err, rc, "cannot commit");
    clear_after_growth(t);
    return TARN_OK;
}

void tarnp_txn_abort(tarnp_txn *txn)
{
    if (txn->handle) {
        mdb_txn_abort(txn->handle);
        pthread_rwlock_unlock(&txn->tables->map_lock);
    }
    txn->handle = NULL;
}

uint64_t tarnp_txn_id(const tarnp_txn *txn)
{
    return mdb_txn_id(txn->handle);
}

/* ---- values --------------------------------------------------------------------------------- */

static bool has_sum(tarnp_table table)
{
    return table != TARNP_TABLE_NODE && table != TARNP_TABLE_CHUNK;
}

static uint64_t sum_of(tarnp_table table, const void *key, size_t key_bytes, const void *value,
                       size_t n_bytes)
{
    return tarnp_sum64(value, n_bytes, tarnp_sum64(key, key_bytes, (uint64_t)table));
}

static MDB_val as_val(const void *data, size_t n_bytes)
{
    return (MDB_val){.mv_size = n_bytes, .mv_data = (void *)(uintptr_t)data};
}

bool tarnp_record_matches(tarnp_table table, const void *key, size_t key_bytes,
                          const uint8_t *value, size_t n_bytes)
{
    return n_bytes >= SUM_BYTES && n_bytes <= RECORD_BYTES_MAX &&
           tarni_load_u64(value + n_bytes - SUM_BYTES) ==
               sum_of(table, key, key_bytes, value, n_bytes - SUM_BYTES);
}

static tarn_status take_value(tarnp_table table, MDB_val key, MDB_val value, tarnp_span *out,
                              tarn_error *err)
{
    *out = (tarnp_span){value.mv_data, value.mv_size};
    if (!has_sum(table))
        return TARN_OK;
    if (value.mv_size < SUM_BYTES || value.mv_size > RECORD_BYTES_MAX)
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: a record of %zu bytes",
                          table_names[table], value.mv_size);
    out->n_bytes -= SUM_BYTES;
    if (!tarnp_record_matches(table, key.mv_data, key.mv_size, value.mv_data, value.mv_size))
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: a record does not match its checksum",
                          table_names[table]);
    return TARN_OK;
}

tarn_status tarnp_get(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                      tarnp_span *out, tarn_error *err)
{
    *out = (tarnp_span){0};
    MDB_val k = as_val(key, key_bytes), v;
    int rc = mdb_get(txn->handle, txn->tables->tables[table], &k, &v);
    if (rc == MDB_NOTFOUND)
        return TARN_OK;
    if (rc != 0)
        return fail_lmdb(err, rc, table_names[table]);
    tarn_status status = take_value(table, k, v, out, err);
    if (status != TARN_OK)
        *out = (tarnp_span){0};
    return status;
}

static tarn_status put_value(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                             const void *value, size_t n_bytes, unsigned flags, tarn_error *err)
{
    TARN_ASSERT(key_bytes >= 1 && key_bytes <= KEY_BYTES_MAX);
    size_t extra = has_sum(table) ? SUM_BYTES : 0;
    TARN_ASSERT(extra == 0 || n_bytes <= RECORD_BYTES_MAX - SUM_BYTES);
    MDB_val k = as_val(key, key_bytes), v = as_val(NULL, n_bytes + extra);
    int rc = mdb_put(txn->handle, txn->tables->tables[table], &k, &v, flags | MDB_RESERVE);
    if (rc == MDB_KEYEXIST)
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: an id was given out twice",
                          table_names[table]);
    if (rc != 0)
        return fail_lmdb(err, rc, table_names[table]);
    if (n_bytes > 0)
        memcpy(v.mv_data, value, n_bytes);
    if (extra)
        tarni_store_u64((uint8_t *)v.mv_data + n_bytes,
                        sum_of(table, key, key_bytes, value, n_bytes));
    txn->bytes_put += n_bytes + extra;
    return TARN_OK;
}

tarn_status tarnp_put(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                      const void *value, size_t n_bytes, tarn_error *err)
{
    return put_value(txn, table, key, key_bytes, value, n_bytes, 0, err);
}

tarn_status tarnp_delete(tarnp_txn *txn, tarnp_table table, const void *key, size_t key_bytes,
                         bool *was_there, tarn_error *err)
{
    MDB_val k = as_val(key, key_bytes);
    int rc = mdb_del(txn->handle, txn->tables->tables[table], &k, NULL);
    if (was_there)
        *was_there = rc == 0;
    if (rc != 0 && rc != MDB_NOTFOUND)
        return fail_lmdb(err, rc, table_names[table]);
    return TARN_OK;
}

tarn_status tarnp_get_id(tarnp_txn *txn, tarnp_table table, uint64_t id, tarnp_span *out,
                         tarn_error *err)
{
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    return tarnp_get(txn, table, key, sizeof key, out, err);
}

tarn_status tarnp_put_id(tarnp_txn *txn, tarnp_table table, uint64_t id, const void *value,
                         size_t n_bytes, tarn_error *err)
{
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    return put_value(txn, table, key, sizeof key, value, n_bytes, 0, err);
}

tarn_status tarnp_append_id(tarnp_txn *txn, tarnp_table table, uint64_t id, const void *value,
                            size_t n_bytes, tarn_error *err)
{
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    return put_value(txn, table, key, sizeof key, value, n_bytes, MDB_APPEND, err);
}

tarn_status tarnp_delete_id(tarnp_txn *txn, tarnp_table table, uint64_t id, bool *was_there,
                            tarn_error *err)
{
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    return tarnp_delete(txn, table, key, sizeof key, was_there, err);
}

/* ---- cursors -------------------------------------------------------------------------------- */

tarn_status tarnp_cursor_open(tarnp_txn *txn, tarnp_table table, tarnp_cursor *out, tarn_error *err)
{
    *out = (tarnp_cursor){.txn = txn, .table = table};
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn->handle, txn->tables->tables[table], &cursor);
    if (rc != 0)
        return fail_lmdb(err, rc, table_names[table]);
    out->handle = cursor;
    return TARN_OK;
}

void tarnp_cursor_close(tarnp_cursor *cursor)
{
    if (cursor->handle)
        mdb_cursor_close(cursor->handle);
    cursor->handle = NULL;
}

static tarn_status move_cursor(tarnp_cursor *cursor, MDB_val *k, MDB_cursor_op op, tarnp_span *key,
                               tarnp_span *value, tarn_error *err)
{
    MDB_val v;
    *key = *value = (tarnp_span){0};
    int rc = mdb_cursor_get(cursor->handle, k, &v, op);
    if (rc == MDB_NOTFOUND)
        return TARN_OK;
    if (rc != 0)
        return fail_lmdb(err, rc, table_names[cursor->table]);
    if (key_bytes_of[cursor->table] != 0 && k->mv_size != key_bytes_of[cursor->table])
        return tarni_fail(err, TARN_E_CORRUPT, "table %s: a key of %zu bytes",
                          table_names[cursor->table], k->mv_size);
    *key = (tarnp_span){k->mv_data, k->mv_size};
    return take_value(cursor->table, *k, v, value, err);
}

tarn_status tarnp_cursor_seek(tarnp_cursor *cursor, const void *from, size_t from_bytes,
                              tarnp_span *key, tarnp_span *value, tarn_error *err)
{
    MDB_val k = as_val(from, from_bytes);
    return move_cursor(cursor, &k, from ? MDB_SET_RANGE : MDB_FIRST, key, value, err);
}

tarn_status tarnp_cursor_next(tarnp_cursor *cursor, tarnp_span *key, tarnp_span *value,
                              tarn_error *err)
{
    MDB_val k;
    return move_cursor(cursor, &k, MDB_NEXT, key, value, err);
}
