#include "turncalls.h"

#include <string.h>

/* A NUL-terminated copy of a part of the turn's text, in *room, which it moves on. */
static const char *copy_part(char **room, const char *text, size_t n_bytes)
{
    char *copy = *room;
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = 0;
    *room += n_bytes + 1;
    return copy;
}

tarn_status tarni_turn_calls_publish(const tarni_tool_calls *calls, const tarn_allocator *a,
                                     tarn_tool_call **out, tarn_error *err)
{
    tarn_tool_call *list;
    size_t n_bytes = calls->n_calls * sizeof *list;
    for (size_t i = 0; i < calls->n_calls; i++)
        n_bytes += calls->calls[i].id_bytes + calls->calls[i].name_bytes +
                   calls->calls[i].arguments_bytes + 3;
    TARNI_TRY(tarni_alloc(a, n_bytes, 1, &list, err));
    char *room = (char *)(list + calls->n_calls);
    for (size_t i = 0; i < calls->n_calls; i++) {
        const tarni_tool_call *c = &calls->calls[i];
        list[i].id = copy_part(&room, c->id, c->id_bytes);
        list[i].name = copy_part(&room, c->name, c->name_bytes);
        list[i].arguments = copy_part(&room, c->arguments, c->arguments_bytes);
        list[i].arguments_bytes = c->arguments_bytes;
        list[i].problem = c->problem;
    }
    *out = list;
    return TARN_OK;
}

tarn_status tarni_turn_calls(const tarni_model *model, const tarni_timeline *t,
                             tarni_tool_calls *calls, tarn_tool_call **public_calls,
                             tarn_error *err)
{
    const tarn_allocator *a = &t->pools->allocator;
    *calls = (tarni_tool_calls){0};
    *public_calls = NULL;
    if (!model->has_chat || !model->chat.has_calls || t->turn_begin == t->turn_end)
        return TARN_OK;
    TARNI_TRY(tarni_chat_parse_calls(&model->chat, t->tokens.ids + t->turn_begin,
                                     (size_t)(t->turn_end - t->turn_begin), a, calls, err));
    tarn_status status = tarni_turn_calls_publish(calls, a, public_calls, err);
    if (status != TARN_OK) {
        tarni_tool_calls_fini(calls);
        *calls = (tarni_tool_calls){0};
    }
    return status;
}
