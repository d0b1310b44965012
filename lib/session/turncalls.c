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

static tarn_status read_turn(const tarni_model *model, const uint32_t *ids, size_t n_ids,
                             const tarn_allocator *a, tarni_tool_calls *calls,
                             tarn_tool_call **public_calls, tarn_error *err)
{
    *calls = (tarni_tool_calls){0};
    *public_calls = NULL;
    if (!model->has_chat || !model->chat.has_calls || n_ids == 0)
        return TARN_OK;
    TARNI_TRY(tarni_chat_parse_calls(&model->chat, ids, n_ids, a, calls, err));
    tarn_status status = tarni_turn_calls_publish(calls, a, public_calls, err);
    if (status != TARN_OK) {
        tarni_tool_calls_fini(calls);
        *calls = (tarni_tool_calls){0};
    }
    return status;
}

tarn_status tarni_turn_calls(const tarni_model *model, const tarni_timeline *t,
                             tarni_tool_calls *calls, tarn_tool_call **public_calls,
                             tarn_error *err)
{
    size_t n_ids = (size_t)(t->turn_end - t->turn_begin);
    const uint32_t *ids = n_ids > 0 ? t->tokens.ids + t->turn_begin : NULL;
    return read_turn(model, ids, n_ids, &t->pools->allocator, calls, public_calls, err);
}

tarn_status tarni_turn_open_calls(const tarni_model *model, const tarni_timeline *t,
                                  const uint32_t *replay, size_t n_replay, tarni_tool_calls *calls,
                                  tarn_tool_call **public_calls, tarn_error *err)
{
    const tarn_allocator *a = &t->pools->allocator;
    uint64_t fed = t->tokens.n_ids, begin = t->tail_begin;
    tarni_ids turn;
    tarni_ids_init(&turn, a);
    tarn_status status = TARN_OK;
    if (begin < fed)
        status = tarni_ids_append(&turn, t->tokens.ids + begin, (size_t)(fed - begin), err);
    size_t before = begin > fed ? (size_t)(begin - fed) : 0; /* replayed tokens before the turn */
    TARN_ASSERT(before <= n_replay);
    if (status == TARN_OK && n_replay > before)
        status = tarni_ids_append(&turn, replay + before, n_replay - before, err);
    if (status == TARN_OK)
        status = read_turn(model, turn.ids, turn.n_ids, a, calls, public_calls, err);
    tarni_ids_fini(&turn);
    return status;
}
