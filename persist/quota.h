/* quota.h - byte quotas: what stands in the store, and making room for a commit.
 *
 * A quota is an entry of table meta: key "quota" for the store, "quota:GROUP" for a group, value 8
 * bytes. It counts chunks and manifests: of the store those of all nodes, of a group those that its
 * sessions wrote. */
#ifndef TARNP_QUOTA_H
#define TARNP_QUOTA_H

#include "forest.h"

/* QUOTA if n_bytes more, written by this session, are too many. */
tarn_status tarnp_quota_check(tarnp_write *w, const tarnp_session *s, uint64_t n_bytes,
                              tarn_error *err);
/* The same of the store's quota alone, for n_bytes of which n_staged are in the store already. */
tarn_status tarnp_quota_check_staged(tarnp_write *w, uint64_t n_bytes, uint64_t n_staged,
                                     tarn_error *err);
/* Evicts just enough for a commit of n_bytes, in transactions of its own, or nothing and QUOTA. */
tarn_status tarnp_quota_make_room(tarnp_store *store, const tarnp_commit *commit, uint64_t n_bytes,
                                  tarn_error *err);
/* Verdicts on what must go so that every quota holds, as far as it can. */
tarn_status tarnp_quota_enforce(tarnp_txn *txn, tarnp_forest *f, uint64_t now_ms, tarn_error *err);

#endif
