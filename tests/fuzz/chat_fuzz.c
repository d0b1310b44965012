/* A conversation as JSON, or a list of tools: refused in one line with nothing appended, or ids of
 * the vocabulary in which each message ends once, the same every time. */
#include "chat_fuzz.h"

enum { FILLED = 3 };

typedef tarn_status (*render_fn)(const tarni_chat *chat, const char *json, size_t n_bytes,
                                 tarni_ids *out, tarn_error *err);

/* Behind ids that are there; true: it was taken. */
static bool render(render_fn fn, const char *json, size_t n_bytes, tarni_ids *out)
{
    static const uint32_t before[FILLED] = {1, 2, 3};
    tarn_error err = {TARN_OK, ""};
    tarni_ids_init(out, &tarni_heap);
    MUST(tarni_ids_append(out, before, FILLED, &err) == TARN_OK);
    if (fn(fuzz_chat(), json, n_bytes, out, &err) == TARN_OK)
        return true;
    MUST(err.status == TARN_E_INVALID || err.status == TARN_E_UNSUPPORTED ||
         err.status == TARN_E_FORMAT || err.status == TARN_E_LIMIT);
    MUST(err.detail[0] && !strchr(err.detail, '\n'));
    MUST(out->n_ids == FILLED && memcmp(out->ids, before, sizeof before) == 0);
    return false;
}

static void try_one(render_fn fn, const char *json, size_t n_bytes)
{
    const tarni_chat *chat = fuzz_chat();
    tarni_ids once, twice;
    size_t n_begun = 0, n_ended = 0;
    bool taken = render(fn, json, n_bytes, &once);
    MUST(render(fn, json, n_bytes, &twice) == taken);
    MUST(once.n_ids == twice.n_ids);
    MUST(memcmp(once.ids, twice.ids, once.n_ids * sizeof *once.ids) == 0);
    for (size_t i = FILLED; i < once.n_ids; i++) {
        n_begun += once.ids[i] == chat->im_middle;
        n_ended += once.ids[i] == chat->im_end;
    }
    MUST(n_begun - n_ended <= 1); /* the header of an answer, where one is asked for */
    tarni_ids_fini(&once);
    tarni_ids_fini(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    char *json = malloc(n_bytes + 1); /* no more than there is, so that reading on is seen */
    MUST(json);
    memcpy(json, data, n_bytes);
    try_one(tarni_chat_conversation, json, n_bytes);
    try_one(tarni_chat_tools, json, n_bytes);
    free(json);
    return 0;
}
