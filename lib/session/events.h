/* events.h - what happened, waiting to be polled. */
#ifndef TARNI_EVENTS_H
#define TARNI_EVENTS_H

#include "chat.h"
#include "tarn.h"

typedef struct tarni_events {
    tarn_allocator allocator;
    tarn_event *items; /* texts are offsets into `text`, plus 1, until polled */
    size_t n_items, next, capacity;
    tarni_writer text;
} tarni_events;

void tarni_events_init(tarni_events *e, const tarn_allocator *allocator);
void tarni_events_fini(tarni_events *e);
/* Room for n more events, so that pushing cannot fail; also forgets what was polled. */
tarn_status tarni_events_reserve(tarni_events *e, size_t n, tarn_error *err);
void tarni_events_push(tarni_events *e, const tarn_event *event);
/* As push, with a text that is copied. Out of memory: the text is dropped and the event says so by
 * text NULL and its text_bytes. */
void tarni_events_push_text(tarni_events *e, const tarn_event *event, const uint8_t *text,
                            size_t n_bytes);
/* As push_text, with a call's id and name, which are copied. */
void tarni_events_push_call(tarni_events *e, const tarn_event *event, const tarni_tool_call *call,
                            const uint8_t *text, size_t n_bytes);
bool tarni_events_poll(tarni_events *e, tarn_event *out);
/* Drops the events of a session that is going. */
void tarni_events_drop(tarni_events *e, const tarn_session *session);

#endif
