/* lease.c
 *
 * Invariants:
 *  1. A lease is taken, renewed and given up in a write transaction, so two processes never both
 *     believe to hold one session.
 *  2. It is a courtesy, not the guard: the guard is the comparison of heads in every commit. A
 *     holder that was put off its processor until its lease ended and was taken over by another
 *     cannot do harm; its commit is BUSY or CONFLICT.
 *
 * Who is dead: process ids are used again, so the start time is compared too; they mean nothing on
 * another boot or in another namespace (a container), so there only the end of the lease counts. A
 * process that holds a lease and opens the store anew has lost it: the token begins with eight
 * bytes of the open store. A clock that was put back would make leases of another boot endless, so
 * one that was taken later than it lasts from now is taken for ended.
 *
 * Rejected: file locks (one descriptor a session, and who holds one cannot be asked for portably),
 * and a lease inside the session's record (every renewal would rewrite name and tags). */
#include "lease.h"

#include "entries.h"
#include "log.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEASE_VERSION   1
#define HANDLE_BYTES    8 /* of the token: the open store's */
#define PROC_TEXT_BYTES 1024

static const uint8_t no_token[TARNP_TOKEN_BYTES];

/* ---- processes ------------------------------------------------------------------------------ */

/* The text of a small file of /proc; false where it cannot be read. */
static bool read_proc(const char *path, char out[PROC_TEXT_BYTES])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, out, PROC_TEXT_BYTES - 1);
    close(fd);
    out[n > 0 ? n : 0] = 0;
    return n > 0;
}

/* State and start time of a process. Its name stands in brackets and may hold brackets and spaces,
 * so fields are counted from the last bracket: the state is the first, the start the twentieth. */
static bool process_stat(uint32_t pid, char *state, uint64_t *started)
{
    char path[64], text[PROC_TEXT_BYTES];
    snprintf(path, sizeof path, "/proc/%lu/stat", (unsigned long)pid);
    if (!read_proc(path, text))
        return false;
    const char *at = strrchr(text, ')');
    if (!at || at[1] != ' ' || !at[2])
        return false;
    *state = at[2];
    for (int field = 0; at && field < 20; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return false;
    *started = strtoull(at + 1, NULL, 10);
    return true;
}

/* All zero where the system does not tell. */
static void boot_id(uint8_t out[16])
{
    char text[PROC_TEXT_BYTES];
    memset(out, 0, 16);
    if (!read_proc("/proc/sys/kernel/random/boot_id", text))
        return;
    size_t n = 0;
    for (const char *c = text; *c && n < 32; c++) {
        if (!isxdigit((unsigned char)*c))
            continue;
        int digit = isdigit((unsigned char)*c) ? *c - '0' : (*c | 0x20) - 'a' + 10;
        out[n / 2] = (uint8_t)(out[n / 2] << 4 | digit);
        n++;
    }
}

void tarnp_process_self(tarnp_process *out)
{
    char state;
    struct stat info;
    *out = (tarnp_process){.pid = (uint32_t)getpid()};
    boot_id(out->boot);
    if (!process_stat(out->pid, &state, &out->started))
        out->started = 0;
    if (stat("/proc/self/ns/pid", &info) == 0)
        out->pid_space = (uint64_t)info.st_ino;
}

static bool same_place(const tarnp_process *a, const tarnp_process *b)
{
    static const uint8_t unknown[16];
    return memcmp(a->boot, unknown, sizeof unknown) != 0 &&
           memcmp(a->boot, b->boot, sizeof a->boot) == 0 && a->pid_space == b->pid_space;
}

bool tarnp_process_may_run(const tarnp_process *p, const tarnp_process *self)
{
    char state;
    uint64_t started;
    if (!same_place(p, self))
        return true;
    if (kill((pid_t)p->pid, 0) != 0 && errno == ESRCH)
        return false;
    if (p->started == 0 || !process_stat(p->pid, &state, &started))
        return true;
    return started == p->started && state != 'Z' && state != 'X';
}

/* ---- records -------------------------------------------------------------------------------- */

tarn_status tarnp_lease_put(tarnp_txn *txn, const tarnp_lease_record *record,
                            const tarn_allocator *allocator, tarn_error *err)
{
    const tarnp_lease *l = &record->lease;
    const tarnp_process *p = &record->holder;
    tarni_writer w;
    tarni_writer_init(&w, allocator);
    tarni_put_u16(&w, LEASE_VERSION);
    tarni_put_u16(&w, 0);
    tarni_put_u32(&w, p->pid);
    tarni_put_u64(&w, p->started);
    tarni_put_bytes(&w, p->boot, sizeof p->boot);
    tarni_put_u64(&w, p->pid_space);
    tarni_put_bytes(&w, l->token, sizeof l->token);
    tarni_put_u64(&w, l->taken_ms);
    tarni_put_u64(&w, l->ends_ms);
    tarni_put_text(&w, l->host, strlen(l->host));
    tarni_put_text(&w, l->note, strlen(l->note));
    tarn_status status =
        w.failed ? tarni_fail_memory(err, w.n_bytes)
                 : tarnp_put_id(txn, TARNP_TABLE_LEASE, l->session_id, w.data, w.n_bytes, err);
    tarni_writer_fini(&w);
    return status;
}

static void get_label(tarni_reader *r, char *out, size_t out_bytes)
{
    const char *text = NULL;
    size_t n = 0;
    tarni_get_text(r, &text, &n);
    if (n >= out_bytes)
        r->failed = true;
    if (!r->failed && n > 0)
        memcpy(out, text, n);
}

tarn_status tarnp_lease_decode(tarnp_span value, uint64_t session_id, tarnp_lease_record *out,
                               tarn_error *err)
{
    tarni_reader r;
    tarni_reader_init(&r, value.data, value.n_bytes);
    *out = (tarnp_lease_record){.lease = {.session_id = session_id}};
    uint32_t version = tarni_get_u16(&r);
    if (!r.failed && version != LEASE_VERSION)
        return tarni_fail(err, TARN_E_FORMAT, "lease of session %llu: version %u, this reads %d",
                          (unsigned long long)session_id, version, LEASE_VERSION);
    (void)tarni_get_u16(&r);
    out->lease.pid = out->holder.pid = tarni_get_u32(&r);
    out->holder.started = tarni_get_u64(&r);
    const uint8_t *boot = tarni_get_bytes(&r, sizeof out->holder.boot);
    out->holder.pid_space = tarni_get_u64(&r);
    const uint8_t *token = tarni_get_bytes(&r, sizeof out->lease.token);
    out->lease.taken_ms = tarni_get_u64(&r);
    out->lease.ends_ms = tarni_get_u64(&r);
    if (!r.failed) {
        memcpy(out->holder.boot, boot, sizeof out->holder.boot);
        memcpy(out->lease.token, token, sizeof out->lease.token);
    }
    get_label(&r, out->lease.host, sizeof out->lease.host);
    get_label(&r, out->lease.note, sizeof out->lease.note);
    if (r.failed || tarni_reader_left(&r) != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "lease of session %llu: the record does not add up",
                          (unsigned long long)session_id);
    return TARN_OK;
}

/* ---- who holds it --------------------------------------------------------------------------- */

/* *found is false where there is no record. */
static tarn_status load_lease(tarnp_txn *txn, uint64_t session_id, tarnp_lease_record *out,
                              bool *found, tarn_error *err)
{
    tarnp_span value;
    TARNI_TRY(tarnp_get_id(txn, TARNP_TABLE_LEASE, session_id, &value, err));
    *found = value.data != NULL;
    return *found ? tarnp_lease_decode(value, session_id, out, err) : TARN_OK;
}

static bool is_ours(const tarnp_store *store, const tarnp_lease_record *r)
{
    return memcmp(r->lease.token, store->handle_id, HANDLE_BYTES) == 0;
}

static bool binds(const tarnp_store *store, const tarnp_lease_record *r, uint64_t now)
{
    const tarnp_lease *l = &r->lease;
    if (now >= l->ends_ms || l->ends_ms < l->taken_ms ||
        l->taken_ms > now + (l->ends_ms - l->taken_ms))
        return false;
    tarnp_process self;
    tarnp_process_self(&self);
    if (same_place(&self, &r->holder) && self.pid == r->holder.pid)
        return self.started == r->holder.started && is_ours(store, r);
    return tarnp_process_may_run(&r->holder, &self);
}

static tarn_status refuse(const tarnp_store *store, const tarnp_lease_record *r, const char *name,
                          uint64_t now, tarn_error *err)
{
    const tarnp_lease *l = &r->lease;
    double left = (double)(l->ends_ms - now) / 1000;
    const char *comma = l->note[0] ? ", " : "";
    if (is_ours(store, r))
        return tarni_fail(err, TARN_E_BUSY,
                          "session %.80s is open for writing in this process (%lu%s%s); its lease "
                          "ends in %.1f s",
                          name, (unsigned long)l->pid, comma, l->note, left);
    return tarni_fail(err, TARN_E_BUSY,
                      "session %.80s is held by process %lu on host %s%s%s; the lease ends in "
                      "%.1f s",
                      name, (unsigned long)l->pid, l->host, comma, l->note, left);
}

/* *found is false also where the record is damaged: that must not lock the session for ever. */
static tarn_status load_binding(tarnp_store *store, tarnp_txn *txn, uint64_t session_id,
                                uint64_t now, tarnp_lease_record *out, bool *found, tarn_error *err)
{
    tarn_status status = load_lease(txn, session_id, out, found, err);
    if (status == TARN_E_CORRUPT) {
        TARNI_LOG(&store->log, TARN_LOG_WARN, "%s", err->detail);
        *found = false;
        return TARN_OK;
    }
    *found = status == TARN_OK && *found && binds(store, out, now);
    return status;
}

tarn_status tarnp_lease_binds(tarnp_store *store, tarnp_txn *txn, uint64_t session_id, bool *out,
                              tarn_error *err)
{
    tarnp_lease_record r;
    return load_binding(store, txn, session_id, tarnp_now_ms(), &r, out, err);
}

tarn_status tarnp_lease_admit(tarnp_write *w, const tarnp_session *s,
                              const uint8_t token[TARNP_TOKEN_BYTES], tarn_error *err)
{
    tarnp_lease_record r;
    bool found;
    uint64_t now = tarnp_now_ms();
    TARNI_TRY(load_binding(w->store, &w->txn, s->id, now, &r, &found, err));
    if (!found || memcmp(r.lease.token, token, TARNP_TOKEN_BYTES) == 0)
        return TARN_OK;
    return refuse(w->store, &r, s->name, now, err);
}

tarn_status tarnp_lease_drop(tarnp_write *w, uint64_t session_id, tarn_error *err)
{
    return tarnp_delete_id(&w->txn, TARNP_TABLE_LEASE, session_id, NULL, err);
}

/* ---- the calls ------------------------------------------------------------------------------ */

/* Cut at a character: labels are shown to people. */
static void set_label(char *out, size_t out_bytes, const char *text)
{
    size_t n = text ? strnlen(text, out_bytes - 1) : 0;
    while (n > 0 && text[n] && ((uint8_t)text[n] & 0xC0) == 0x80)
        n--;
    memset(out, 0, out_bytes);
    if (n > 0)
        memcpy(out, text, n);
}

static tarn_status new_record(const tarnp_store *store, uint64_t session_id, const char *note,
                              tarnp_lease_record *out, tarn_error *err)
{
    char host[TARNP_HOST_BYTES] = {0};
    *out = (tarnp_lease_record){.lease = {.session_id = session_id}};
    tarnp_process_self(&out->holder);
    out->lease.pid = out->holder.pid;
    memcpy(out->lease.token, store->handle_id, HANDLE_BYTES);
    ssize_t n_random = sizeof out->lease.token - HANDLE_BYTES;
    if (getrandom(out->lease.token + HANDLE_BYTES, (size_t)n_random, 0) != n_random)
        return tarni_fail_errno(err, errno, "no random bytes for a lease");
    if (gethostname(host, sizeof host - 1) != 0)
        snprintf(host, sizeof host, "unknown");
    set_label(out->lease.host, sizeof out->lease.host, host);
    set_label(out->lease.note, sizeof out->lease.note, note);
    return TARN_OK;
}

/* Puts `r` as the session's lease unless another's binds. */
static tarn_status put_lease(tarnp_store *store, tarnp_lease_record *r, uint32_t duration_ms,
                             tarn_error *err)
{
    tarnp_write w;
    tarnp_session s = {0};
    uint64_t id = r->lease.session_id;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_session_load(&w.txn, id, &store->allocator, &s, err);
    if (status == TARN_OK && s.id == 0)
        status =
            tarni_fail(err, TARN_E_NOT_FOUND, "there is no session %llu", (unsigned long long)id);
    if (status == TARN_OK)
        status = tarnp_lease_admit(&w, &s, r->lease.token, err);
    if (status == TARN_OK) {
        r->lease.taken_ms = tarnp_now_ms();
        r->lease.ends_ms = r->lease.taken_ms + duration_ms;
        status = tarnp_lease_put(&w.txn, r, &store->allocator, err);
    }
    tarnp_session_fini(&s);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    w.uncounted = true;
    return tarnp_write_commit(&w, NULL, err);
}

tarn_status tarnp_lease_take(tarnp_store *store, uint64_t session_id, uint32_t duration_ms,
                             const char *note, tarnp_lease *out, tarn_error *err)
{
    tarnp_lease_record r;
    *out = (tarnp_lease){0};
    if (duration_ms == 0)
        return tarni_fail(err, TARN_E_INVALID, "a lease of 0 ms");
    TARNI_TRY(new_record(store, session_id, note, &r, err));
    TARNI_TRY(put_lease(store, &r, duration_ms, err));
    *out = r.lease;
    return TARN_OK;
}

tarn_status tarnp_lease_renew(tarnp_store *store, tarnp_lease *lease, uint32_t duration_ms,
                              tarn_error *err)
{
    tarnp_lease_record r;
    if (duration_ms == 0 || memcmp(lease->token, no_token, sizeof no_token) == 0)
        return tarni_fail(err, TARN_E_INVALID, "a lease of %u ms, or one never taken", duration_ms);
    TARNI_TRY(new_record(store, lease->session_id, lease->note, &r, err));
    memcpy(r.lease.token, lease->token, sizeof r.lease.token);
    TARNI_TRY(put_lease(store, &r, duration_ms, err));
    *lease = r.lease;
    return TARN_OK;
}

tarn_status tarnp_lease_release(tarnp_store *store, const tarnp_lease *lease, tarn_error *err)
{
    tarnp_write w;
    tarnp_lease_record r;
    bool found = false;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = load_lease(&w.txn, lease->session_id, &r, &found, err);
    if (status != TARN_OK || !found ||
        memcmp(r.lease.token, lease->token, sizeof r.lease.token) != 0)
        return tarnp_write_abort(&w, status);
    status = tarnp_lease_drop(&w, lease->session_id, err);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    w.uncounted = true;
    return tarnp_write_commit(&w, NULL, err);
}

tarn_status tarnp_lease_find(tarnp_store *store, uint64_t session_id, tarnp_lease *out,
                             tarn_error *err)
{
    tarnp_txn txn;
    tarnp_lease_record r;
    bool found = false;
    *out = (tarnp_lease){0};
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = load_lease(&txn, session_id, &r, &found, err);
    tarnp_txn_abort(&txn);
    TARNI_TRY(status);
    if (!found || !binds(store, &r, tarnp_now_ms()))
        return tarni_fail(err, TARN_E_NOT_FOUND, "nobody holds session %llu",
                          (unsigned long long)session_id);
    *out = r.lease;
    return TARN_OK;
}
