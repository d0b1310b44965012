/* transact.c - the frame of every operation: enter, begin, commit or abort.
 *
 * What every write transaction has to do alike is done here and nowhere else: the counters come in
 * with the begin and go out with the commit, stamped with its number, and a commit of unknown
 * outcome poisons the handle. */
#include "handle.h"

#include "log.h"

#include <time.h>
#include <unistd.h>

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

tarn_status tarnp_write_settle(tarnp_store *store, tarn_error *err)
{
    tarnp_write w;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    return tarnp_write_commit(&w, NULL, err);
}

uint64_t tarnp_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
