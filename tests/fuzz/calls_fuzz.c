/* The ids of an assistant's turn, a byte each: from 0xF0 on the markers of calls and messages, else
 * the byte itself as text. One at a time they give what they give together; what is told on the way
 * lies in what was read. */
#include "chat_fuzz.h"

static void to_ids(const uint8_t *data, size_t n_bytes, uint32_t *ids)
{
    const tarni_chat *c = fuzz_chat();
    const uint32_t markers[16] = {c->calls_begin,
                                  c->call_begin,
                                  c->call_argument_begin,
                                  c->call_end,
                                  c->calls_end,
                                  c->im_end,
                                  c->im_middle,
                                  c->im_assistant,
                                  c->calls_begin,
                                  c->call_begin,
                                  c->call_argument_begin,
                                  c->call_end,
                                  c->calls_end,
                                  300,
                                  301,
                                  302};
    for (size_t i = 0; i < n_bytes; i++)
        ids[i] = data[i] >= 0xF0 ? markers[data[i] - 0xF0] : data[i];
}

static void check_calls(const tarni_tool_calls *calls)
{
    for (size_t i = 0; i < calls->n_calls; i++) {
        const tarni_tool_call *c = &calls->calls[i];
        MUST(c->id && c->name && c->arguments);
        MUST(c->name >= c->id && c->name + c->name_bytes <= c->id + c->id_bytes);
    }
}

static bool same_calls(const tarni_tool_calls *a, const tarni_tool_calls *b)
{
    if (a->n_calls != b->n_calls || a->malformed != b->malformed)
        return false;
    for (size_t i = 0; i < a->n_calls; i++) {
        const tarni_tool_call *x = &a->calls[i], *y = &b->calls[i];
        if (x->id_bytes != y->id_bytes || x->arguments_bytes != y->arguments_bytes ||
            memcmp(x->id, y->id, x->id_bytes) != 0 ||
            memcmp(x->arguments, y->arguments, x->arguments_bytes) != 0 ||
            (x->problem != NULL) != (y->problem != NULL))
            return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    tarn_error err;
    tarni_call_parser p;
    tarni_tool_calls one_by_one, together;
    size_t n_ended = 0;
    uint32_t *ids = malloc((n_bytes + 1) * sizeof *ids);
    MUST(ids);
    to_ids(data, n_bytes, ids);
    tarni_call_parser_init(&p, fuzz_chat(), &tarni_heap);
    for (size_t i = 0; i < n_bytes; i++) {
        MUST(tarni_call_parser_feed(&p, ids[i], &err) == TARN_OK);
        MUST(p.news.text_bytes == 0 || /* what is given up stays behind n_bytes */
             p.news.text_at + p.news.text_bytes <= p.text.capacity);
        MUST(!tarni_call_parser_in_arguments(&p) || tarni_call_parser_inside(&p));
        n_ended += p.news.ended;
        if (tarni_call_parser_in_arguments(&p)) {
            tarni_tool_call now = tarni_call_parser_current(&p);
            MUST(now.id && now.name >= now.id);
        }
    }
    tarni_call_parser_take(&p, &one_by_one);
    tarni_call_parser_fini(&p);
    MUST(n_ended == one_by_one.n_calls);
    check_calls(&one_by_one);
    MUST(tarni_chat_parse_calls(fuzz_chat(), ids, n_bytes, &tarni_heap, &together, &err) ==
         TARN_OK);
    MUST(same_calls(&one_by_one, &together));
    tarni_tool_calls_fini(&one_by_one);
    tarni_tool_calls_fini(&together);
    free(ids);
    return 0;
}
