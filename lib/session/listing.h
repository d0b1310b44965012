/* listing.h - the store as people ask about it: sessions, histories, trees, damage.
 *
 * Each list is one owned object; entries point into it. */
#ifndef TARNI_LISTING_H
#define TARNI_LISTING_H

#include "store.h"
#include "tarn.h"

tarn_status tarni_list_sessions(tarnp_store *store, const char *tag, tarn_session_list *out,
                                tarn_error *err);
tarn_status tarni_list_log(tarnp_store *store, const char *session, const char *where,
                           tarn_node_list *out, tarn_error *err);
tarn_status tarni_list_tree(tarnp_store *store, const char *session, tarn_node_list *out,
                            tarn_error *err);
tarn_status tarni_list_verified(tarnp_store *store,
                                bool (*progress)(void *user, uint64_t done, uint64_t all),
                                void *user, tarn_verify_report *out, tarn_error *err);
tarn_status tarni_list_gc(tarnp_store *store, const tarnp_gc_options *options, tarn_gc_report *out,
                          tarn_error *err);
/* The price of every turn's end. */
tarn_status tarni_list_turns(tarnp_store *store, const char *session, const char *where,
                             tarn_explanation *out, tarn_error *err);

#endif
