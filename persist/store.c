/* store.c
 *
 * Opening and closing, and the frame of every operation: enter, begin, commit or abort.
 *
 * Invariants:
 *  1. A process has a store open once: LMDB's locks are the process's, and closing one of two
 *     handles would drop them for both. The registry below finds out by device and inode.
 *  2. A store appears whole: it is made in a folder beside and renamed into place.
 *  3. A handle is dead in a forked child: LMDB's locks and reader slots belong to the parent. Even
 *     close only forgets it there.
 *  4. A scratch store is opened under its lock (folder.h), so that it is made empty while nobody
 *     looks. Its new file is renamed over the old one: a crash leaves one of the two. */
#include "store.h"

#include "folder.h"
#include "handle.h"
#include "log.h"
#include "queue.h"
#include "refs.h"
#include "stage.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PATH_BYTES TARNP_PATH_BYTES

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static tarnp_store *registry; /* under registry_mutex */

/* ---- the frame of an operation -------------------------------------------------------------- */

tarn_status tarnp_store_enter(const tarnp_store *store, tarn_error *err)
{
    if (store->pid != getpid())
        return tarni_fail(err, TARN_E_INVALID,
                          "the store was opened by process %ld: open it anew after fork",
                          (long)store->pid);
    if (atomic_load(&store->poisoned))
        return tarni_fail(err, TARN_E_POISONED,
                          "a commit failed with unknown outcome: close the store and reopen it");
    return TARN_OK;
}

tarn_status tarnp_read_begin(tarnp_store *store, tarnp_txn *txn, tarn_error *err)
{
    *txn = (tarnp_txn){0};
    TARNI_TRY(tarnp_store_enter(store, err));
    return tarnp_txn_begin(store->tables, false, txn, err);
}

tarn_status tarnp_write_begin(tarnp_store *store, tarnp_write *w, tarn_error *err)
{
    *w = (tarnp_write){.store = store};
    TARNI_TRY(tarnp_store_enter(store, err));
    if (store->read_only && store->format.ro_compat == 0)
        return tarni_fail(err, TARN_E_INVALID, "the store was opened for reading only");
    if (store->read_only)
        return tarni_fail(err, TARN_E_FORMAT,
                          "the store uses features 0x%llx: this version only reads it",
                          (unsigned long long)store->format.ro_compat);
    TARNI_TRY(tarnp_txn_begin(store->tables, true, &w->txn, err));
    tarn_status status = tarnp_counters_get(&w->txn, &w->counters, err);
    return status == TARN_OK ? TARN_OK : tarnp_write_abort(w, status);
}

tarn_status tarnp_write_commit(tarnp_write *w, uint64_t *bytes_written, tarn_error *err)
{
    uint64_t n = w->uncounted ? 0 : w->txn.bytes_put + TARNP_COUNTERS_VALUE;
    w->counters.txn = tarnp_txn_id(&w->txn);
    w->counters.bytes_written += n;
    tarn_status status = tarnp_counters_put(&w->txn, &w->counters, err);
    if (status != TARN_OK)
        return tarnp_write_abort(w, status);
    status = tarnp_txn_commit(&w->txn, err);
    if (status == TARN_E_IO || status == TARN_E_POISONED) {
        atomic_store(&w->store->poisoned, true);
        TARNI_LOG(&w->store->log, TARN_LOG_ERROR, "%s; the store must be reopened", err->detail);
    }
    if (status == TARN_OK)
        atomic_fetch_add(&w->store->bytes_put, n);
    if (status == TARN_OK && bytes_written)
        *bytes_written = n;
    return status;
}

tarn_status tarnp_write_abort(tarnp_write *w, tarn_status status)
{
    tarnp_txn_abort(&w->txn);
    return status;
}

uint64_t tarnp_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- making a store ------------------------------------------------------------------------- */

static tarn_status first_records(tarnp_tables *tables, bool scratch, tarn_error *err)
{
    tarnp_format format = {.major = TARNP_FORMAT_MAJOR,
                           .minor = TARNP_FORMAT_MINOR,
                           .incompat = scratch ? TARNP_FEATURE_SCRATCH : 0};
    tarnp_counters counters = {.next_node = 1, .next_chunk = 1, .next_session = 1};
    if (getrandom(format.uuid, sizeof format.uuid, 0) != (ssize_t)sizeof format.uuid ||
        getrandom(format.salt, sizeof format.salt, 0) != (ssize_t)sizeof format.salt)
        return tarni_fail_errno(err, errno, "cannot get random bytes");
    format.uuid[6] = (uint8_t)((format.uuid[6] & 0x0F) | 0x40); /* version 4, variant 1 */
    format.uuid[8] = (uint8_t)((format.uuid[8] & 0x3F) | 0x80);
    tarnp_txn txn;
    TARNI_TRY(tarnp_txn_begin(tables, true, &txn, err));
    tarn_status status = tarnp_format_put(&txn, &format, err);
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
                              const tarn_allocator *allocator, char draft[PATH_BYTES + 8],
                              tarn_error *err)
{
    bool scratch = options->durability == TARNP_SCRATCH;
    snprintf(draft, PATH_BYTES + 8, "%s.XXXXXX", path);
    if (!mkdtemp(draft))
        return tarni_fail_errno(err, errno, "%s: cannot make a folder", path);
    tarnp_tables *tables = NULL;
    tarn_status status =
        tarnp_tables_open(draft, true, options->map_bytes, allocator, options->log, &tables, err);
    if (status == TARN_OK)
        status = first_records(tables, scratch, err);
    tarnp_tables_close(tables);
    if (status == TARN_OK && scratch)
        status = tarnp_scratch_mark(draft, err);
    if (status == TARN_OK)
        status = tarnp_folder_sync(draft, err);
    if (status != TARN_OK)
        tarnp_folder_remove(draft);
    return status;
}

/* Makes an empty store at `path`, which must be absent or an empty folder. Losing the race against
 * another process that does the same is success. */
static tarn_status make_store(const char *path, const tarnp_options *options,
                              const tarn_allocator *allocator, tarn_error *err)
{
    char draft[PATH_BYTES + 8];
    tarn_status status = TARN_OK;
    TARNI_TRY(make_draft(path, options, allocator, draft, err));
    if (rename(draft, path) == 0)
        return tarnp_folder_sync_parent(path, err);
    if (errno != EEXIST && errno != ENOTEMPTY)
        status = tarni_fail_errno(err, errno, "%s: cannot move the new store into place", path);
    tarnp_folder_remove(draft);
    return status;
}

/* Makes the store at `path` empty. */
static tarn_status wipe_store(const char *path, const tarnp_options *options,
                              const tarn_allocator *allocator, tarn_error *err)
{
    char draft[PATH_BYTES + 8], from[PATH_BYTES + 32], to[PATH_BYTES + 32];
    TARNI_TRY(make_draft(path, options, allocator, draft, err));
    snprintf(from, sizeof from, "%s/data.mdb", draft);
    snprintf(to, sizeof to, "%s/data.mdb", path);
    tarn_status status = TARN_OK;
    if (rename(from, to) != 0)
        status = tarni_fail_errno(err, errno, "%s: cannot move the new store into place", path);
    tarnp_folder_remove(draft);
    return status;
}

/* Whether there is something to open at `path`. */
static tarn_status find_store(const char *path, bool create, bool *exists, tarn_error *err)
{
    char file[PATH_BYTES + 32];
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

/* ---- the registry --------------------------------------------------------------------------- */

static tarn_status enlist(tarnp_store *store, const char *path, tarn_error *err)
{
    char file[PATH_BYTES + 32];
    struct stat info;
    snprintf(file, sizeof file, "%s/data.mdb", path);
    if (stat(file, &info) != 0)
        return tarni_fail_errno(err, errno, "%s", file);
    store->device = info.st_dev;
    store->inode = info.st_ino;
    tarn_status status = TARN_OK;
    pthread_mutex_lock(&registry_mutex);
    for (const tarnp_store *s = registry; s && status == TARN_OK; s = s->next_open)
        if (s->device == store->device && s->inode == store->inode && s->pid == store->pid)
            status =
                tarni_fail(err, TARN_E_BUSY, "%s: this process has the store open already", path);
    if (status == TARN_OK) {
        store->next_open = registry;
        registry = store;
    }
    pthread_mutex_unlock(&registry_mutex);
    return status;
}

static void delist(tarnp_store *store)
{
    pthread_mutex_lock(&registry_mutex);
    for (tarnp_store **at = &registry; *at; at = &(*at)->next_open) {
        if (*at == store) {
            *at = store->next_open;
            break;
        }
    }
    pthread_mutex_unlock(&registry_mutex);
}

/* Who has a store open shares a lock on its folder, so that compacting, which replaces the file,
 * can tell that nobody has. It is flock's: LMDB's own locks on lock.mdb are fcntl's, which a
 * process loses by closing any descriptor of that file. */
static tarn_status share_folder(tarnp_store *store, const char *path, tarn_error *err)
{
    store->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->folder < 0)
        return tarni_fail_errno(err, errno, "%s", path);
    if (flock(store->folder, LOCK_SH | LOCK_NB) == 0)
        return TARN_OK;
    if (errno == EWOULDBLOCK)
        return tarni_fail(err, TARN_E_BUSY, "%s: the store is being compacted", path);
    return tarni_fail_errno(err, errno, "%s: cannot lock the folder", path);
}

/* ---- open and close ------------------------------------------------------------------------- */

static tarn_status check_records(tarnp_store *store, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_counters counters;
    TARNI_TRY(tarnp_txn_begin(store->tables, false, &txn, err));
    tarn_status status = tarnp_format_get(&txn, &store->format, err);
    if (status == TARN_OK)
        status = tarnp_counters_get(&txn, &counters, err);
    if (status == TARN_OK && counters.txn != tarnp_txn_id(&txn))
        status = tarni_fail(
            err, TARN_E_CORRUPT, "data.mdb: the snapshot of transaction %llu claims to be %llu",
            (unsigned long long)counters.txn, (unsigned long long)tarnp_txn_id(&txn));
    tarnp_txn_abort(&txn);
    store->read_only = store->read_only || store->format.ro_compat != 0;
    bool scratch = store->format.incompat & TARNP_FEATURE_SCRATCH;
    if (status == TARN_OK && scratch != (store->durability == TARNP_SCRATCH))
        status = tarni_fail(err, TARN_E_INVALID, "%s is %s scratch store and was opened as %s",
                            store->path, scratch ? "a" : "no", scratch ? "another" : "one");
    return status;
}

static tarn_status check_options(const tarnp_options *o, tarn_error *err)
{
    if (o->durability < TARNP_DURABLE || o->durability > TARNP_SCRATCH)
        return tarni_fail(err, TARN_E_INVALID, "durability is %d", (int)o->durability);
    return TARN_OK;
}

/* A handle without tables. */
static tarn_status create_handle(const char *path, const tarnp_options *options,
                                 const tarn_allocator *allocator, tarnp_store **out,
                                 tarn_error *err)
{
    tarnp_store *store;
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *store, &store, err));
    store->allocator = *allocator;
    if (options->log)
        store->log = *options->log;
    store->pool = options->pool;
    store->pid = getpid();
    store->durability = options->durability;
    store->queue_bytes_max = options->queue_bytes_max;
    store->queue_length_max = options->queue_length_max;
    store->read_only = options->read_only;
    store->folder = store->scratch_fd = -1;
    pthread_mutex_init(&store->slab_mutex, NULL);
    tarn_status status = tarni_copy_text(allocator, path, strlen(path), &store->path, err);
    if (status == TARN_OK &&
        getrandom(store->handle_id, sizeof store->handle_id, 0) != (ssize_t)sizeof store->handle_id)
        status = tarni_fail_errno(err, errno, "cannot get random bytes");
    if (status != TARN_OK) {
        tarnp_store_close(store);
        return status;
    }
    *out = store;
    return TARN_OK;
}

static tarn_status choose_sync(tarnp_store *store, tarn_error *err)
{
    if (store->durability == TARNP_RELAXED)
        return tarnp_tables_set_sync(store->tables, TARNP_SYNC_DATA, err);
    if (store->durability == TARNP_SCRATCH)
        return tarnp_tables_set_sync(store->tables, TARNP_SYNC_NONE, err);
    return TARN_OK;
}

static tarn_status open_handle(tarnp_store *store, const tarnp_options *options, tarn_error *err)
{
    bool unclean;
    TARNI_TRY(share_folder(store, store->path, err));
    TARNI_TRY(tarnp_scratch_lock(store->path, store->durability == TARNP_SCRATCH,
                                 &store->scratch_fd, &unclean, err));
    if (unclean) {
        TARNI_LOG(&store->log, TARN_LOG_WARN,
                  "%s: a scratch store that was not closed cleanly: it is made empty", store->path);
        TARNI_TRY(wipe_store(store->path, options, &store->allocator, err));
        TARNI_TRY(tarnp_scratch_share(store->path, store->scratch_fd, err));
    }
    TARNI_TRY(enlist(store, store->path, err));
    TARNI_TRY(tarnp_tables_open(store->path, false, options->map_bytes, &store->allocator,
                                &store->log, &store->tables, err));
    TARNI_TRY(check_records(store, err));
    TARNI_TRY(choose_sync(store, err));
    if (store->read_only)
        return TARN_OK;
    tarnp_reserve_make(store->path);
    tarnp_refs_drain(store);
    tarnp_stage_sweep(store);
    return TARN_OK;
}

tarn_status tarnp_store_open(const char *path, const tarnp_options *options, tarnp_store **out,
                             tarn_error *err)
{
    *out = NULL;
    const tarnp_options defaults = {0};
    if (!options)
        options = &defaults;
    tarn_allocator allocator;
    char clean[PATH_BYTES];
    bool exists;
    TARNI_TRY(tarni_allocator_check(options->allocator, &allocator, err));
    TARNI_TRY(check_options(options, err));
    TARNI_TRY(tarnp_path_clean(path, clean, err));
    TARNI_TRY(find_store(clean, options->create, &exists, err));
    if (!exists)
        TARNI_TRY(make_store(clean, options, &allocator, err));
    tarnp_store *store;
    TARNI_TRY(create_handle(clean, options, &allocator, &store, err));
    tarn_status status = open_handle(store, options, err);
    if (status != TARN_OK) {
        tarnp_store_close(store);
        return status;
    }
    *out = store;
    return TARN_OK;
}

/* Whether the file holds all that was committed, so that a scratch store may call itself clean. */
static bool finish_scratch(tarnp_store *store)
{
    tarn_error err;
    if (store->scratch_fd < 0 || !store->tables || atomic_load(&store->poisoned))
        return false;
    return tarnp_tables_sync(store->tables, &err) == TARN_OK;
}

void tarnp_store_close(tarnp_store *store)
{
    if (!store || store->pid != getpid())
        return;
    tarnp_queue_stop(store);
    delist(store);
    bool synced = finish_scratch(store);
    tarnp_tables_close(store->tables);
    tarnp_scratch_leave(store->path, store->scratch_fd, synced);
    if (store->folder >= 0)
        close(store->folder);
    tarn_allocator allocator = store->allocator;
    for (size_t i = 0; i < store->n_codecs; i++)
        tarnp_codec_free(store->codecs[i]);
    tarni_free(&allocator, store->codecs);
    tarni_free_aligned(&allocator, store->slab);
    pthread_mutex_destroy(&store->slab_mutex);
    tarni_free(&allocator, store->path);
    tarni_free(&allocator, store);
}

void tarnp_store_set_pool(tarnp_store *store, tarni_pool *pool)
{
    store->pool = pool;
}

const tarn_allocator *tarnp_store_allocator(const tarnp_store *store)
{
    return &store->allocator;
}

/* ---- models --------------------------------------------------------------------------------- */

tarn_status tarnp_model_put(tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES], const void *data,
                            size_t n_bytes, tarn_error *err)
{
    if (n_bytes > TARNP_MODEL_BYTES_MAX)
        return tarni_fail(err, TARN_E_LIMIT, "a model's descriptor has %zu bytes, the limit is %d",
                          n_bytes, TARNP_MODEL_BYTES_MAX);
    tarnp_write w;
    tarnp_span known;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_get(&w.txn, TARNP_TABLE_MODEL, fp, TARNP_FP_BYTES, &known, err);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    if (known.data) {
        if (known.n_bytes != n_bytes || (n_bytes > 0 && memcmp(known.data, data, n_bytes) != 0))
            status = tarni_fail(err, TARN_E_CONFLICT,
                                "the model is known with another descriptor of %zu bytes",
                                known.n_bytes);
        return tarnp_write_abort(&w, status);
    }
    status = tarnp_put(&w.txn, TARNP_TABLE_MODEL, fp, TARNP_FP_BYTES, data, n_bytes, err);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    return tarnp_write_commit(&w, NULL, err);
}

tarn_status tarnp_model_get(tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES], tarni_writer *out,
                            tarn_error *err)
{
    tarnp_txn txn;
    tarnp_span value;
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = tarnp_get(&txn, TARNP_TABLE_MODEL, fp, TARNP_FP_BYTES, &value, err);
    if (status == TARN_OK && !value.data)
        status = tarni_fail(err, TARN_E_NOT_FOUND, "the store does not know this model");
    if (status == TARN_OK) {
        tarni_put_bytes(out, value.data, value.n_bytes);
        if (out->failed)
            status = tarni_fail_memory(err, value.n_bytes);
    }
    tarnp_txn_abort(&txn);
    return status;
}

uint64_t tarnp_store_bytes_put(const tarnp_store *store)
{
    return atomic_load(&store->bytes_put);
}

/* ---- figures -------------------------------------------------------------------------------- */

static tarn_status sum_shared(tarnp_store *store, tarnp_txn *txn, uint64_t *out, tarn_error *err)
{
    tarnp_cursor cursor;
    tarnp_span key, value;
    *out = 0;
    TARNI_TRY(tarnp_cursor_open(txn, TARNP_TABLE_SESSION, &cursor, err));
    tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, err);
    while (status == TARN_OK && key.data) {
        tarnp_session session;
        status = tarnp_session_record_get(value, tarni_load_u64_be(key.data), &store->allocator,
                                          &session, err);
        if (status != TARN_OK)
            break;
        *out += session.bytes_shared;
        tarnp_session_fini(&session);
        status = tarnp_cursor_next(&cursor, &key, &value, err);
    }
    tarnp_cursor_close(&cursor);
    return status;
}

tarn_status tarnp_store_stat(tarnp_store *store, tarnp_stat *out, tarn_error *err)
{
    *out = (tarnp_stat){0};
    tarnp_txn txn;
    tarnp_counters c;
    tarnp_tables_info info;
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = tarnp_counters_get(&txn, &c, err);
    if (status == TARN_OK)
        status = sum_shared(store, &txn, &out->bytes_shared, err);
    if (status == TARN_OK)
        status = tarnp_tables_stat(store->tables, &info, err);
    tarnp_txn_abort(&txn);
    if (status != TARN_OK)
        return status;
    out->sessions = c.sessions;
    out->nodes = c.nodes;
    out->chunks = c.chunks;
    out->bytes_stored = c.bytes_stored;
    out->bytes_written = c.bytes_written;
    out->map_bytes = info.map_bytes;
    out->file_bytes = info.file_bytes;
    return TARN_OK;
}
