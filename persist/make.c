/* make.c
 *
 * A store appears whole: it is made in a folder beside, a draft, and renamed into place. The new
 * file of a scratch store that is made empty is renamed over the old one: a crash leaves one of the
 * two.
 *
 * Who makes a draft shares a lock on its folder (flock, as those do who have a store open, so that
 * it may stay until the draft is one). A draft that can be locked alone belongs to nobody any more
 * and is removed. A name that only drafts have makes sure that no folder of somebody else's is. */
#include "make.h"

#include "folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAFT_MARK  ".being-made-"
#define DRAFT_TRIES 100

typedef struct draft {
    char path[TARNP_PATH_BYTES];
    int lock;
} draft;

/* ---- drafts --------------------------------------------------------------------------------- */

static bool is_draft_of(const char *name, const char *store)
{
    size_t n = strlen(store), n_mark = sizeof DRAFT_MARK - 1;
    return strncmp(name, store, n) == 0 && strncmp(name + n, DRAFT_MARK, n_mark) == 0 &&
           strlen(name + n + n_mark) == 6;
}

static void remove_if_left(const char *folder)
{
    int lock = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (lock < 0)
        return;
    if (flock(lock, LOCK_EX | LOCK_NB) == 0)
        tarnp_folder_remove(folder);
    close(lock);
}

void tarnp_make_sweep(const char *path)
{
    char folder[TARNP_PATH_BYTES], left[2 * TARNP_PATH_BYTES];
    const char *slash = strrchr(path, '/'), *store = slash ? slash + 1 : path;
    snprintf(folder, sizeof folder, "%.*s", (int)(store - path), path);
    DIR *all = opendir(slash ? folder : ".");
    if (!all)
        return;
    for (const struct dirent *e = readdir(all); e; e = readdir(all)) {
        if (is_draft_of(e->d_name, store)) {
            snprintf(left, sizeof left, "%s%s", folder, e->d_name);
            remove_if_left(left);
        }
    }
    closedir(all);
}

/* Makes a folder and locks it; a sweep may have found it before the lock, and then it is gone. */
static tarn_status begin_draft(const char *path, draft *d, tarn_error *err)
{
    for (int i = 0; i < DRAFT_TRIES; i++) {
        snprintf(d->path, sizeof d->path, "%s" DRAFT_MARK "XXXXXX", path);
        if (!mkdtemp(d->path))
            return tarni_fail_errno(err, errno, "%s: cannot make a folder", path);
        d->lock = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int failed = d->lock < 0 || flock(d->lock, LOCK_SH | LOCK_NB) != 0 ? errno : 0;
        if (!failed && access(d->path, F_OK) != 0)
            failed = ENOENT;
        if (!failed)
            return TARN_OK;
        if (d->lock >= 0)
            close(d->lock);
        rmdir(d->path);
        if (failed != ENOENT && failed != EWOULDBLOCK)
            return tarni_fail_errno(err, failed, "%s: cannot lock it", d->path);
    }
    return tarni_fail(err, TARN_E_BUSY, "%s: what is made here is removed again and again", path);
}

static void drop_draft(draft *d)
{
    tarnp_folder_remove(d->path);
    close(d->lock);
}

/* ---- a store -------------------------------------------------------------------------------- */

static tarn_status put_seal(tarnp_tables *tables, tarnp_txn *txn, const tarnp_options *options,
                            tarn_error *err)
{
    tarnp_seal seal;
    TARNI_TRY(tarnp_seal_init(&seal, options->secret, options->secret_bytes, err));
    tarn_status status = tarnp_seal_record_put(txn, seal.id, err);
    tarnp_tables_seal(tables, &seal);
    tarnp_seal_fini(&seal);
    return status;
}

static tarn_status first_records(tarnp_tables *tables, const tarnp_options *options,
                                 tarn_error *err)
{
    bool scratch = options->durability == TARNP_SCRATCH, sealed = options->secret_bytes > 0;
    tarnp_format format = {.major = TARNP_FORMAT_MAJOR,
                           .minor = TARNP_FORMAT_MINOR,
                           .incompat = (scratch ? TARNP_FEATURE_SCRATCH : 0) |
                                       (sealed ? TARNP_FEATURE_SEALED : 0)};
    tarnp_counters counters = {.next_node = 1, .next_chunk = 1, .next_session = 1};
    if (getrandom(format.uuid, sizeof format.uuid, 0) != (ssize_t)sizeof format.uuid ||
        getrandom(format.salt, sizeof format.salt, 0) != (ssize_t)sizeof format.salt)
        return tarni_fail_errno(err, errno, "cannot get random bytes");
    format.uuid[6] = (uint8_t)((format.uuid[6] & 0x0F) | 0x40); /* version 4, variant 1 */
    format.uuid[8] = (uint8_t)((format.uuid[8] & 0x3F) | 0x80);
    tarnp_txn txn;
    TARNI_TRY(tarnp_txn_begin(tables, true, &txn, err));
    tarn_status status = tarnp_format_put(&txn, &format, err);
    if (status == TARN_OK && sealed)
        status = put_seal(tables, &txn, options, err);
    counters.txn = tarnp_txn_id(&txn);
    counters.bytes_written = txn.bytes_put + TARNP_COUNTERS_VALUE;
    if (status == TARN_OK)
        status = tarnp_counters_put(&txn, &counters, err);
    if (status == TARN_OK)
        return tarnp_txn_commit(&txn, err);
    tarnp_txn_abort(&txn);
    return status;
}

/* An empty store in a new folder beside `path`, on disk. After an error there is no folder. */
static tarn_status make_draft(const char *path, const tarnp_options *options,
                              const tarn_allocator *allocator, draft *d, tarn_error *err)
{
    TARNI_TRY(begin_draft(path, d, err));
    tarnp_tables *tables = NULL;
    tarn_status status =
        tarnp_tables_open(d->path, true, options->map_bytes, allocator, options->log, &tables, err);
    if (status == TARN_OK)
        status = first_records(tables, options, err);
    tarnp_tables_close(tables);
    if (status == TARN_OK && options->durability == TARNP_SCRATCH)
        status = tarnp_scratch_mark(d->path, err);
    if (status == TARN_OK)
        status = tarnp_folder_sync(d->path, err);
    if (status != TARN_OK)
        drop_draft(d);
    return status;
}

tarn_status tarnp_make_store(const char *path, const tarnp_options *options,
                             const tarn_allocator *allocator, tarn_error *err)
{
    draft d;
    TARNI_TRY(make_draft(path, options, allocator, &d, err));
    if (rename(d.path, path) == 0) {
        close(d.lock);
        return tarnp_folder_sync_parent(path, err);
    }
    tarn_status status = TARN_OK;
    if (errno != EEXIST && errno != ENOTEMPTY)
        status = tarni_fail_errno(err, errno, "%s: cannot move the new store into place", path);
    drop_draft(&d);
    return status;
}

tarn_status tarnp_wipe_store(const char *path, const tarnp_options *options,
                             const tarn_allocator *allocator, tarn_error *err)
{
    draft d;
    char from[TARNP_PATH_BYTES + 32], to[TARNP_PATH_BYTES + 32];
    tarnp_make_sweep(path);
    TARNI_TRY(make_draft(path, options, allocator, &d, err));
    snprintf(from, sizeof from, "%s/data.mdb", d.path);
    snprintf(to, sizeof to, "%s/data.mdb", path);
    tarn_status status = TARN_OK;
    if (rename(from, to) != 0)
        status = tarni_fail_errno(err, errno, "%s: cannot move the new store into place", path);
    drop_draft(&d);
    return status;
}

tarn_status tarnp_find_store(const char *path, bool create, bool *exists, tarn_error *err)
{
    char file[TARNP_PATH_BYTES + 32];
    struct stat info;
    *exists = true;
    snprintf(file, sizeof file, "%s/data.mdb", path);
    if (stat(file, &info) == 0)
        return TARN_OK;
    int file_error = errno;
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        return tarni_fail(err, TARN_E_FORMAT, "%s is not a folder", path);
    if (file_error != ENOENT)
        return tarni_fail_errno(err, file_error, "%s", file);
    *exists = false;
    if (!create)
        return tarni_fail(err, TARN_E_NOT_FOUND, "%s: there is no store", path);
    /* An empty folder is replaced by the rename, a full one makes it fail. */
    if (stat(path, &info) == 0 && rmdir(path) != 0)
        return tarni_fail(err, TARN_E_FORMAT, "%s is a folder with something else in it", path);
    return TARN_OK;
}
