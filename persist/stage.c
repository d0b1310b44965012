#include "stage.h"

#include "folder.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX_BYTES 5
#define KEY_BYTES    (PREFIX_BYTES + 16)
#define LOCK_BASE    ((off_t)1 << 62)
#define FREE_CHUNKS  ((uint64_t)256)
#define FREE_BYTES   ((uint64_t)64 << 20)

static const char prefix[] = "stage";

typedef struct mark {
    uint64_t session_id, first, n;
} mark;

static void mark_key(uint8_t key[KEY_BYTES], uint64_t session_id, uint64_t first)
{
    memcpy(key, prefix, PREFIX_BYTES);
    tarni_store_u64_be(key + PREFIX_BYTES, session_id);
    tarni_store_u64_be(key + PREFIX_BYTES + 8, first);
}

static tarn_status put_mark(tarnp_txn *txn, mark m, tarn_error *err)
{
    uint8_t key[KEY_BYTES], value[8];
    mark_key(key, m.session_id, m.first);
    tarni_store_u64(value, m.n);
    return tarnp_put(txn, TARNP_TABLE_META, key, sizeof key, value, sizeof value, err);
}

static tarn_status delete_mark(tarnp_txn *txn, mark m, tarn_error *err)
{
    uint8_t key[KEY_BYTES];
    mark_key(key, m.session_id, m.first);
    return tarnp_delete(txn, TARNP_TABLE_META, key, sizeof key, NULL, err);
}

/* The first mark not before (session_id, first); *found is false after the last. */
static tarn_status seek_mark(tarnp_txn *txn, uint64_t session_id, uint64_t first, mark *out,
                             bool *found, tarn_error *err)
{
    uint8_t from[KEY_BYTES];
    tarnp_cursor cursor;
    tarnp_span key, value;
    *found = false;
    mark_key(from, session_id, first);
    TARNI_TRY(tarnp_cursor_open(txn, TARNP_TABLE_META, &cursor, err));
    tarn_status status = tarnp_cursor_seek(&cursor, from, sizeof from, &key, &value, err);
    if (status == TARN_OK && key.data && key.n_bytes == KEY_BYTES &&
        memcmp(key.data, prefix, PREFIX_BYTES) == 0) {
        *out = (mark){.session_id = tarni_load_u64_be(key.data + PREFIX_BYTES),
                      .first = tarni_load_u64_be(key.data + PREFIX_BYTES + 8)};
        *found = true;
        if (value.n_bytes == 8)
            out->n = tarni_load_u64(value.data);
        else
            status = tarni_fail(err, TARN_E_CORRUPT, "table meta: a stage mark of %zu bytes",
                                value.n_bytes);
    }
    tarnp_cursor_close(&cursor);
    return status;
}

/* ---- staging -------------------------------------------------------------------------------- */

static struct flock lock_of(uint64_t session_id)
{
    return (struct flock){.l_type = F_WRLCK,
                          .l_whence = SEEK_SET,
                          .l_start = LOCK_BASE + (off_t)(session_id % (uint64_t)LOCK_BASE),
                          .l_len = 1};
}

tarn_status tarnp_stage_open(tarnp_write *w, uint64_t session_id, tarnp_stage *out, tarn_error *err)
{
    const char *path = tarnp_tables_file(w->store->tables);
    struct flock lock = lock_of(session_id);
    *out = (tarnp_stage){.file = open(path, O_RDWR | O_CLOEXEC)};
    if (out->file < 0)
        return tarni_fail_errno(err, errno, "%s", path);
    if (fcntl(out->file, F_OFD_SETLK, &lock) != 0) {
        tarn_status status = tarni_fail_errno(err, errno, "%s: cannot lock a byte of it", path);
        close(out->file);
        return status;
    }
    out->session_id = session_id;
    return TARN_OK;
}

tarn_status tarnp_stage_mark(tarnp_write *w, tarnp_stage *s, uint64_t first, uint64_t n,
                             tarn_error *err)
{
    if (s->n == 0 || s->first + s->n != first) {
        s->first = first;
        s->n = 0;
    }
    s->n += n;
    return put_mark(&w->txn, (mark){s->session_id, s->first, s->n}, err);
}

tarn_status tarnp_stage_settle(tarnp_write *w, const tarnp_stage *s, tarn_error *err)
{
    mark m;
    bool found = true;
    while (found) {
        TARNI_TRY(seek_mark(&w->txn, s->session_id, 0, &m, &found, err));
        found = found && m.session_id == s->session_id;
        if (found)
            TARNI_TRY(delete_mark(&w->txn, m, err));
    }
    return TARN_OK;
}

/* ---- freeing -------------------------------------------------------------------------------- */

/* Deletes the last chunks of a mark, as many as a transaction should, and shortens it by them. */
static tarn_status free_chunks(tarnp_write *w, mark *m, tarn_error *err)
{
    uint64_t n_bytes = 0;
    for (uint64_t i = 0; i < FREE_CHUNKS && n_bytes < FREE_BYTES && m->n > 0; i++, m->n--) {
        tarnp_span value;
        bool was_there;
        uint64_t id = m->first + m->n - 1;
        TARNI_TRY(tarnp_get_stored(&w->txn, TARNP_TABLE_CHUNK, id, &value, err));
        size_t size = tarnp_stored_size(w->txn.tables, value);
        TARNI_TRY(tarnp_delete_id(&w->txn, TARNP_TABLE_CHUNK, id, &was_there, err));
        w->counters.chunks -= was_there;
        w->counters.bytes_stored -= was_there ? size : 0;
        n_bytes += size;
    }
    return m->n > 0 ? put_mark(&w->txn, *m, err) : delete_mark(&w->txn, *m, err);
}

static tarn_status free_some(tarnp_store *store, uint64_t session_id, bool *more, tarn_error *err)
{
    tarnp_write w;
    mark m;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = seek_mark(&w.txn, session_id, 0, &m, more, err);
    *more = *more && m.session_id == session_id;
    if (status != TARN_OK || !*more)
        return tarnp_write_abort(&w, status);
    status = free_chunks(&w, &m, err);
    return status == TARN_OK ? tarnp_write_commit(&w, NULL, err) : tarnp_write_abort(&w, status);
}

static void free_stage(tarnp_store *store, uint64_t session_id)
{
    tarn_error err = {0};
    bool more = true, lent = false, settled = false;
    tarn_status status = TARN_OK;
    while (status == TARN_OK && !settled) {
        bool last = !more;
        status = last ? tarnp_write_settle(store, &err) : free_some(store, session_id, &more, &err);
        settled = last && status == TARN_OK;
        if (status == TARN_E_NO_SPACE && !lent) {
            /* Freeing needs new pages before it gives any back. */
            lent = true;
            more = !last;
            tarnp_room_lend(store);
            status = TARN_OK;
        }
    }
    if (lent)
        tarnp_room_return(store);
    if (status != TARN_OK)
        TARNI_LOG(&store->log, TARN_LOG_WARN, "freeing staged chunks stopped: %s", err.detail);
}

void tarnp_stage_close(tarnp_store *store, tarnp_stage *s, bool discard)
{
    if (s->session_id == 0)
        return;
    if (discard)
        free_stage(store, s->session_id);
    close(s->file);
    *s = (tarnp_stage){0};
}

static bool is_staging(int file, uint64_t session_id)
{
    struct flock lock = lock_of(session_id);
    return fcntl(file, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

void tarnp_stage_sweep(tarnp_store *store)
{
    int file = -1;
    for (uint64_t next = 0;;) {
        tarnp_txn txn;
        mark m;
        tarn_error err;
        bool found = false;
        if (tarnp_read_begin(store, &txn, &err) == TARN_OK) {
            if (seek_mark(&txn, next, 0, &m, &found, &err) != TARN_OK)
                found = false; /* verify names it */
            tarnp_txn_abort(&txn);
        }
        if (!found)
            break;
        if (file < 0)
            file = open(tarnp_tables_file(store->tables), O_RDWR | O_CLOEXEC);
        if (file < 0)
            break;
        if (!is_staging(file, m.session_id)) {
            TARNI_LOG(&store->log, TARN_LOG_INFO, "freeing what an interrupted import left");
            free_stage(store, m.session_id);
        }
        next = m.session_id + 1;
    }
    if (file >= 0)
        close(file);
}

static int by_first(const void *a, const void *b)
{
    uint64_t x = ((const tarnp_staged *)a)->first, y = ((const tarnp_staged *)b)->first;
    return (x > y) - (x < y);
}

tarn_status tarnp_stage_list(tarnp_txn *txn, const tarn_allocator *allocator, tarnp_staged **out,
                             size_t *n, tarn_error *err)
{
    size_t capacity = 0;
    mark m = {0};
    bool found = true;
    tarn_status status = TARN_OK;
    *out = NULL;
    *n = 0;
    while (status == TARN_OK && found) {
        status = seek_mark(txn, m.session_id, m.first + 1, &m, &found, err);
        if (status != TARN_OK || !found)
            break;
        status = tarni_grow(allocator, out, &capacity, *n + 1, sizeof **out, err);
        if (status == TARN_OK)
            (*out)[(*n)++] = (tarnp_staged){m.first, m.n};
    }
    if (status != TARN_OK) {
        tarni_free(allocator, *out);
        *out = NULL;
        *n = 0;
    } else if (*n > 0) {
        qsort(*out, *n, sizeof **out, by_first);
    }
    return status;
}
