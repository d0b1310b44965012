/* lease.h - who may write a session: table lease, and the question every change of a head asks.
 *
 * Table lease, key session id:
 *
 *     OFFSET  SIZE  FIELD
 *     0       2     version, 1
 *     2       2     0
 *     4       4     process id of the holder
 *     8       8     when that process started, clock ticks since boot
 *     16      16    boot id
 *     32      8     process id namespace (0: not known)
 *     40      16    token: 8 bytes of the holder's open store, 8 of the lease
 *     56      8     taken, Unix ms
 *     64      8     ends, Unix ms
 *     72      -     host (4 n, n), note (4 n, n)
 *
 * A lease binds while its holder may be alive and it has not ended. A record that does not bind
 * stays until the next take, release or removal of the session. */
#ifndef TARNP_LEASE_H
#define TARNP_LEASE_H

#include "handle.h"

/* A process, as others on the machine can find out whether it still runs. */
typedef struct tarnp_process {
    uint32_t pid;
    uint64_t started; /* 0: not known */
    uint64_t pid_space;
    uint8_t boot[16];
} tarnp_process;

void tarnp_process_self(tarnp_process *out);
/* False only for a process of this boot and namespace that is gone. */
bool tarnp_process_may_run(const tarnp_process *p, const tarnp_process *self);

typedef struct tarnp_lease_record {
    tarnp_lease lease;
    tarnp_process holder;
} tarnp_lease_record;

tarn_status tarnp_lease_put(tarnp_txn *txn, const tarnp_lease_record *record,
                            const tarn_allocator *allocator, tarn_error *err);
tarn_status tarnp_lease_decode(tarnp_span value, uint64_t session_id, tarnp_lease_record *out,
                               tarn_error *err);

/* BUSY, naming the holder, where another than the one with `token` (all zero: nobody) holds a lease
 * of the session that binds. */
tarn_status tarnp_lease_admit(tarnp_write *w, const tarnp_session *s,
                              const uint8_t token[TARNP_TOKEN_BYTES], tarn_error *err);
/* Does anybody hold a lease of the session that binds? A record that is damaged does not. */
tarn_status tarnp_lease_binds(tarnp_store *store, tarnp_txn *txn, uint64_t session_id, bool *out,
                              tarn_error *err);
/* Of a session that is removed. */
tarn_status tarnp_lease_drop(tarnp_write *w, uint64_t session_id, tarn_error *err);

#endif
