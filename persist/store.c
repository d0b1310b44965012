/* store.c - opening and closing, models, figures.
 *
 * Invariants:
 *  1. A process has a store open once: LMDB's locks are the process's, and closing one of two
 *     handles would drop them for both. The registry below finds out by device and inode.
 *  2. A handle is dead in a forked child: LMDB's locks and reader slots belong to the parent. Even
 *     close only forgets it there.
 *  3. A scratch store is opened under its lock (folder.h), so that it is made empty while nobody
 *     looks. */
#include "store.h"

#include "folder.h"
#include "handle.h"
#include "log.h"
#include "make.h"
#include "queue.h"
#include "refs.h"
#include "stage.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static tarnp_store *registry; /* under registry_mutex */

/* ---- the registry --------------------------------------------------------------------------- */

static tarn_status enlist(tarnp_store *store, const char *path, tarn_error *err)
{
    char file[TARNP_PATH_BYTES + 32];
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

/* The key must be the store's, and is the tables' from now on. */
static tarn_status check_key(tarnp_store *store, tarnp_txn *txn, const tarnp_options *options,
                             tarn_error *err)
{
    tarnp_seal seal;
    uint8_t id[TARNP_SEAL_ID_BYTES];
    char theirs[17], ours[17];
    bool sealed = store->format.incompat & TARNP_FEATURE_SEALED;
    if (!sealed && options->secret_bytes == 0)
        return TARN_OK;
    if (!sealed)
        return tarni_fail(err, TARN_E_KEY, "%.160s: a key was given, but it is not encrypted",
                          store->path);
    TARNI_TRY(tarnp_seal_record_get(txn, id, err));
    tarnp_seal_name(id, theirs);
    if (options->secret_bytes == 0)
        return tarni_fail(err, TARN_E_KEY, "%.160s: encrypted with key %s, and none was given",
                          store->path, theirs);
    TARNI_TRY(tarnp_seal_init(&seal, options->secret, options->secret_bytes, err));
    tarn_status status = TARN_OK;
    tarnp_seal_name(seal.id, ours);
    if (memcmp(id, seal.id, sizeof id) != 0)
        status = tarni_fail(err, TARN_E_KEY, "%.160s: encrypted with key %s, not with %s",
                            store->path, theirs, ours);
    if (status == TARN_OK) {
        tarnp_tables_seal(store->tables, &seal);
        tarnp_seal_salt(&seal, store->format.salt); /* sums of tokens depend on the key */
    }
    tarnp_seal_fini(&seal);
    return status;
}

static tarn_status check_records(tarnp_store *store, const tarnp_options *options, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_counters counters;
    TARNI_TRY(tarnp_txn_begin(store->tables, false, &txn, err));
    tarn_status status = tarnp_format_get(&txn, &store->format, err);
    if (status == TARN_OK)
        status = check_key(store, &txn, options, err);
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
        TARNI_TRY(tarnp_wipe_store(store->path, options, &store->allocator, err));
        TARNI_TRY(tarnp_scratch_share(store->path, store->scratch_fd, err));
    }
    TARNI_TRY(enlist(store, store->path, err));
    TARNI_TRY(tarnp_tables_open(store->path, false, options->map_bytes, &store->allocator,
                                &store->log, &store->tables, err));
    TARNI_TRY(check_records(store, options, err));
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
    char clean[TARNP_PATH_BYTES], whole[TARNP_PATH_BYTES];
    bool exists;
    TARNI_TRY(tarni_allocator_check(options->allocator, &allocator, err));
    TARNI_TRY(check_options(options, err));
    TARNI_TRY(tarnp_path_clean(path, clean, err));
    TARNI_TRY(tarnp_path_whole(clean, whole, err));
    TARNI_TRY(tarnp_find_store(clean, options->create, &exists, err));
    if (options->create)
        tarnp_make_sweep(clean);
    if (!exists)
        TARNI_TRY(tarnp_make_store(clean, options, &allocator, err));
    tarnp_store *store;
    int taken[TARNP_STREAMS];
    TARNI_TRY(create_handle(whole, options, &allocator, &store, err));
    tarnp_streams_take(taken);
    tarn_status status = open_handle(store, options, err);
    tarnp_streams_release(taken);
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
