#include "events.h"

void tarni_events_init(tarni_events *e, const tarn_allocator *allocator)
{
    *e = (tarni_events){.allocator = *allocator};
    tarni_writer_init(&e->text, &e->allocator);
}

void tarni_events_fini(tarni_events *e)
{
    tarni_free(&e->allocator, e->items);
    tarni_writer_fini(&e->text);
    *e = (tarni_events){0};
}

tarn_status tarni_events_reserve(tarni_events *e, size_t n, tarn_error *err)
{
    if (e->next == e->n_items) {
        e->next = e->n_items = 0;
        e->text.n_bytes = 0;
        e->text.failed = false;
    }
    return tarni_grow(&e->allocator, &e->items, &e->capacity, e->n_items + n, sizeof *e->items,
                      err);
}

void tarni_events_push(tarni_events *e, const tarn_event *event)
{
    TARN_ASSERT(e->n_items < e->capacity);
    e->items[e->n_items++] = *event;
}

void tarni_events_push_text(tarni_events *e, const tarn_event *event, const uint8_t *text,
                            size_t n_bytes)
{
    tarn_event with = *event;
    with.text = (const char *)(uintptr_t)(e->text.n_bytes + 1);
    with.text_bytes = n_bytes;
    tarni_put_bytes(&e->text, text, n_bytes);
    if (e->text.failed)
        with.text = NULL;
    tarni_events_push(e, &with);
}

static const char *put_name(tarni_events *e, const char *name, size_t n_bytes)
{
    const char *offset = (const char *)(uintptr_t)(e->text.n_bytes + 1);
    tarni_put_bytes(&e->text, name, n_bytes);
    tarni_put_u8(&e->text, 0);
    return e->text.failed ? NULL : offset;
}

void tarni_events_push_call(tarni_events *e, const tarn_event *event, const tarni_tool_call *call,
                            const uint8_t *text, size_t n_bytes)
{
    tarn_event with = *event;
    with.call_id = put_name(e, call->id, call->id_bytes);
    with.call_name = put_name(e, call->name, call->name_bytes);
    tarni_events_push_text(e, &with, text, n_bytes);
}

static const char *resolve(const tarni_events *e, const char *offset)
{
    return offset ? (const char *)e->text.data + ((uintptr_t)offset - 1) : NULL;
}

bool tarni_events_poll(tarni_events *e, tarn_event *out)
{
    if (e->next == e->n_items)
        return false;
    *out = e->items[e->next++];
    out->text = resolve(e, out->text);
    out->call_id = resolve(e, out->call_id);
    out->call_name = resolve(e, out->call_name);
    return true;
}

void tarni_events_drop(tarni_events *e, const tarn_session *session)
{
    size_t kept = e->next;
    for (size_t i = e->next; i < e->n_items; i++)
        if (e->items[i].session != session)
            e->items[kept++] = e->items[i];
    e->n_items = kept;
}
