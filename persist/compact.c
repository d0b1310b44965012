/* compact.c
 *
 *     open -> hold alone -> copy -> stamp -> verify -> close -> rename -> sync
 *
 * Only data.mdb is replaced. lock.mdb stays the same file: LMDB's users agree through it, and who
 * opens the store next finds nobody there and makes it anew. LMDB counts the transactions of a copy
 * from 1, so the counters, which say which transaction wrote them, are stamped once before the copy
 * is used. */
#include "compact.h"

#include "folder.h"
#include "handle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Turns the lock every user shares into one that this handle has alone. */
static tarn_status hold_alone(tarnp_store *store, const char *path, tarn_error *err)
{
    if (flock(store->folder, LOCK_EX | LOCK_NB) == 0)
        return TARN_OK;
    if (errno == EWOULDBLOCK)
        return tarni_fail(err, TARN_E_BUSY, "%s: another process has the store open", path);
    return tarni_fail_errno(err, errno, "%s: cannot lock the folder", path);
}

static tarn_status stamp(const tarnp_store *store, const char *folder, const tarnp_options *o,
                         tarn_error *err)
{
    tarnp_tables *tables;
    tarnp_txn txn;
    tarnp_counters c;
    TARNI_TRY(
        tarnp_tables_open(folder, false, o->map_bytes, &store->allocator, o->log, &tables, err));
    tarnp_tables_seal_as(tables, store->tables);
    tarn_status status = tarnp_txn_begin(tables, true, &txn, err);
    if (status == TARN_OK)
        status = tarnp_counters_get(&txn, &c, err);
    if (status == TARN_OK) {
        c.txn = tarnp_txn_id(&txn);
        c.bytes_written += TARNP_COUNTERS_VALUE;
        status = tarnp_counters_put(&txn, &c, err);
    }
    if (status == TARN_OK)
        status = tarnp_txn_commit(&txn, err);
    tarnp_txn_abort(&txn);
    tarnp_tables_close(tables);
    return status;
}

/* The copy must be whole and hold what the store holds. */
static tarn_status check_copy(const char *folder, const tarnp_options *o, const tarnp_stat *want,
                              tarnp_progress_fn progress, void *user, tarn_error *err)
{
    tarnp_store *copy;
    tarnp_stat got;
    tarnp_verified v = {0};
    TARNI_TRY(tarnp_store_open(folder, o, &copy, err));
    tarn_status status = tarnp_store_stat(copy, &got, err);
    if (status == TARN_OK)
        status = tarnp_store_verify(copy, progress, user, &v, err);
    if (status == TARN_OK && v.n_bad > 0)
        status = tarni_fail(err, TARN_E_CORRUPT, "%zu damages, the first: node %llu: %.90s",
                            v.n_bad, (unsigned long long)v.bad[0].node, v.bad[0].reason);
    tarni_free(tarnp_store_allocator(copy), v.bad);
    if (status == TARN_OK && (got.sessions != want->sessions || got.nodes != want->nodes ||
                              got.chunks != want->chunks || got.bytes_stored != want->bytes_stored))
        status = tarni_fail(err, TARN_E_IO, "the copy holds %llu nodes, the store %llu",
                            (unsigned long long)got.nodes, (unsigned long long)want->nodes);
    tarnp_store_close(copy);
    return status;
}

static tarn_status file_bytes(const char *folder, uint64_t *out, tarn_error *err)
{
    char file[TARNP_PATH_BYTES + 32];
    struct stat info;
    snprintf(file, sizeof file, "%s/data.mdb", folder);
    if (stat(file, &info) != 0)
        return tarni_fail_errno(err, errno, "%s", file);
    *out = (uint64_t)info.st_size;
    return TARN_OK;
}

/* LMDB makes a copy that as many may read as the process lets. */
static tarn_status sync_file(const char *path, tarn_error *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", path);
    int failed = fchmod(fd, 0600) != 0 || fsync(fd) != 0 ? errno : 0;
    close(fd);
    return failed ? tarni_fail_errno(err, failed, "%s: cannot sync", path) : TARN_OK;
}

/* Makes the copy. A folder of its name can only be left over: the store is held alone. */
static tarn_status make_copy(tarnp_store *store, const char *folder, const tarnp_options *o,
                             tarnp_progress_fn progress, void *user, tarn_error *err)
{
    char file[TARNP_PATH_BYTES + 32];
    tarnp_stat want;
    tarnp_options copy_options = *o;
    copy_options.read_only = true;
    copy_options.durability = TARNP_DURABLE;
    tarnp_folder_remove(folder);
    if (mkdir(folder, 0700) != 0)
        return tarni_fail_errno(err, errno, "%s: cannot make a folder", folder);
    TARNI_TRY(tarnp_store_stat(store, &want, err));
    TARNI_TRY(tarnp_tables_copy(store->tables, folder, err));
    TARNI_TRY(stamp(store, folder, o, err));
    TARNI_TRY(check_copy(folder, &copy_options, &want, progress, user, err));
    snprintf(file, sizeof file, "%s/data.mdb", folder);
    TARNI_TRY(sync_file(file, err));
    return tarnp_folder_sync(folder, err);
}

/* No handle may be open on the old file any more. */
static tarn_status put_in_place(const char *folder, const char *path, tarn_error *err)
{
    char from[TARNP_PATH_BYTES + 32], to[TARNP_PATH_BYTES + 32];
    snprintf(from, sizeof from, "%s/data.mdb", folder);
    snprintf(to, sizeof to, "%s/data.mdb", path);
    if (rename(from, to) != 0)
        return tarni_fail_errno(err, errno, "%s: cannot move it into place", from);
    return tarnp_folder_sync(path, err);
}

tarn_status tarnp_compact(const char *path, const tarnp_options *options,
                          tarnp_progress_fn progress, void *user, uint64_t *bytes_before,
                          uint64_t *bytes_after, tarn_error *err)
{
    tarnp_options o = options ? *options : (tarnp_options){0};
    char clean[TARNP_PATH_BYTES], folder[TARNP_PATH_BYTES + 16];
    tarnp_store *store;
    int lock = -1;
    o.create = false;
    *bytes_before = *bytes_after = 0;
    TARNI_TRY(tarnp_path_clean(path, clean, err));
    if (o.durability == TARNP_SCRATCH || tarnp_scratch_is(clean))
        return tarni_fail(err, TARN_E_UNSUPPORTED,
                          "%s: a scratch store is not compacted: a new one is as good", clean);
    snprintf(folder, sizeof folder, "%s.compact", clean);
    TARNI_TRY(tarnp_store_open(clean, &o, &store, err));
    tarn_status status = hold_alone(store, clean, err);
    bool alone = status == TARN_OK;
    if (alone) {
        lock = dup(store->folder); /* the same lock: it outlives the handle */
        if (lock < 0)
            status = tarni_fail_errno(err, errno, "%s: cannot keep the lock", clean);
    }
    if (status == TARN_OK)
        status = file_bytes(clean, bytes_before, err);
    if (status == TARN_OK)
        status = make_copy(store, folder, &o, progress, user, err);
    tarnp_store_close(store);
    if (status == TARN_OK)
        status = put_in_place(folder, clean, err);
    if (alone)
        tarnp_folder_remove(folder);
    if (status == TARN_OK)
        status = file_bytes(clean, bytes_after, err);
    if (lock >= 0)
        close(lock);
    if (status != TARN_OK)
        *bytes_before = *bytes_after = 0;
    return status;
}
