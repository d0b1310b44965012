/* feed.h - what goes into a session: ids and messages queued as planned segments, and generations.
 */
#ifndef TARNI_FEED_H
#define TARNI_FEED_H

#include "session.h"

/* These four: unchanged after an error. */
tarn_status tarni_feed_tokens(tarn_session *s, const uint32_t *ids, size_t n_ids, tarn_error *err);
tarn_status tarni_feed_message(tarn_session *s, const tarn_message *m, size_t *n_tokens,
                               tarn_error *err);
tarn_status tarni_feed_tools(tarn_session *s, const char *json, size_t n_bytes, size_t *n_tokens,
                             tarn_error *err);
tarn_status tarni_feed_generation(tarn_session *s, const tarn_generate_options *options,
                                  tarn_error *err);

/* Moves n ids, just computed, from the queue's front into the timeline. Cannot fail. */
void tarni_feed_done(tarn_session *s, size_t n_ids);
/* The same for one id that was sampled. */
void tarni_feed_sampled(tarn_session *s, uint32_t id);
/* Room for what tarni_feed_sampled will need. */
tarn_status tarni_feed_reserve_sampled(tarn_session *s, tarn_error *err);
/* Begins the queue anew if all of it is fed. */
void tarni_feed_tidy(tarn_session *s);
/* Marks the open assistant segment as ended. */
void tarni_feed_close_turn(tarn_session *s);

#endif
