/* make.c
 *
 * A store appears whole: it is made in a folder beside and renamed into place. The new file of a
 * scratch store that is made empty is renamed over the old one: a crash leaves one of the two. */
#include "make.h"

#include "folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

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
                              const tarn_allocator *allocator, char draft[TARNP_PATH_BYTES + 8],
                              tarn_error *err)
{
    bool scratch = options->durability == TARNP_SCRATCH;
    snprintf(draft, TARNP_PATH_BYTES + 8, "%s.XXXXXX", path);
    if (!mkdtemp(draft))
        return tarni_fail_errno(err, errno, "%s: cannot make a folder", path);
    tarnp_tables *tables = NULL;
    tarn_status status =
        tarnp_tables_open(draft, true, options->map_bytes, allocator, options->log, &tables, err);
    if (status == TARN_OK)
        status = first_records(tables, options, err);
    tarnp_tables_close(tables);
    if (status == TARN_OK && scratch)
        status = tarnp_scratch_mark(draft, err);
    if (status == TARN_OK)
        status = tarnp_folder_sync(draft, err);
    if (status != TARN_OK)
        tarnp_folder_remove(draft);
    return status;
}

tarn_status tarnp_make_store(const char *path, const tarnp_options *options,
                             const tarn_allocator *allocator, tarn_error *err)
{
    char draft[TARNP_PATH_BYTES + 8];
    tarn_status status = TARN_OK;
    TARNI_TRY(make_draft(path, options, allocator, draft, err));
    if (rename(draft, path) == 0)
        return tarnp_folder_sync_parent(path, err);
    if (errno != EEXIST && errno != ENOTEMPTY)
        status = tarni_fail_errno(err, errno, "%s: cannot move the new store into place", path);
    tarnp_folder_remove(draft);
    return status;
}

tarn_status tarnp_wipe_store(const char *path, const tarnp_options *options,
                             const tarn_allocator *allocator, tarn_error *err)
{
    char draft[TARNP_PATH_BYTES + 8], from[TARNP_PATH_BYTES + 32], to[TARNP_PATH_BYTES + 32];
    TARNI_TRY(make_draft(path, options, allocator, draft, err));
    snprintf(from, sizeof from, "%s/data.mdb", draft);
    snprintf(to, sizeof to, "%s/data.mdb", path);
    tarn_status status = TARN_OK;
    if (rename(from, to) != 0)
        status = tarni_fail_errno(err, errno, "%s: cannot move the new store into place", path);
    tarnp_folder_remove(draft);
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
