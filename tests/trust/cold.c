#include "cold.h"

#include <string.h>

uint64_t cold_hash(const void *data, size_t n_bytes)
{
    const uint8_t *at = data;
    uint64_t h = 0xCBF29CE484222325u ^ n_bytes;
    for (; n_bytes >= 4; at += 4, n_bytes -= 4) { /* ids and logits are all there is */
        uint32_t word;
        memcpy(&word, at, 4);
        h = (h ^ word) * 0x100000001B3u;
        h ^= h >> 29;
    }
    return h ? h : 1;
}

bool cold_open(cold *c, tarn_model *model)
{
    const tarn_engine_options o = {.size = sizeof o, .device = "cpu", .n_threads = 1};
    tarn_model_info info = {.size = sizeof info};
    memset(c, 0, sizeof *c);
    c->model = model;
    if (tarn_engine_open(model, &o, &c->engine, &c->err) != TARN_OK ||
        tarn_model_describe(model, o.numerics, &info, &c->err) != TARN_OK)
        return false;
    c->vocab = info.vocab;
    return true;
}

void cold_close(cold *c)
{
    tarn_engine_close(c->engine);
    c->engine = NULL;
}

/* Where the row of these ids is, or would be. */
static size_t place_of(const cold *c, uint64_t key)
{
    size_t i = (size_t)(key % COLD_ROWS);
    while (c->keys[i] && c->keys[i] != key)
        i = (i + 1) % COLD_ROWS;
    return i;
}

static void remember(void *user, uint64_t position, const float *logits, uint32_t vocab)
{
    cold *c = user;
    if (c->n_rows > COLD_ROWS / 2) {
        memset(c->keys, 0, sizeof c->keys);
        c->n_rows = 0;
    }
    uint64_t key = cold_hash(c->feeding, (size_t)position * sizeof *c->feeding);
    size_t i = place_of(c, key);
    c->n_rows += c->keys[i] == 0;
    c->keys[i] = key;
    c->rows[i] = cold_hash(logits, vocab * sizeof *logits);
}

uint64_t cold_row(cold *c, const uint32_t *ids, size_t n_ids)
{
    tarn_session *s;
    uint64_t key = cold_hash(ids, n_ids * sizeof *ids);
    size_t i = place_of(c, key);
    if (c->keys[i])
        return c->rows[i];
    if (tarn_session_open(c->engine, NULL, "cold", NULL, &s, NULL, &c->err) != TARN_OK)
        return 0;
    c->feeding = ids;
    tarn_session_on_logits(s, remember, c);
    tarn_status status = tarn_session_append_tokens(s, ids, n_ids, &c->err);
    if (status == TARN_OK)
        status = tarn_session_run(s, NULL, NULL, &c->err);
    tarn_session_close(s);
    i = place_of(c, key);
    return status == TARN_OK ? c->rows[i] : 0;
}

typedef struct heard {
    uint32_t *ids;
    long n;
} heard;

static void hear(void *user, const tarn_event *event)
{
    heard *h = user;
    if (event->kind == TARN_EVENT_TOKEN)
        h->ids[h->n++] = event->id;
}

long cold_generate(cold *c, const uint32_t *ids, size_t n_ids, const tarn_sampling *sampling,
                   uint32_t n_max, uint32_t *out)
{
    const tarn_generate_options o = {.size = sizeof o, .n_tokens_max = n_max};
    tarn_session *s;
    heard h = {out, 0};
    if (tarn_session_open(c->engine, NULL, "cold", NULL, &s, NULL, &c->err) != TARN_OK)
        return -1;
    tarn_status status = tarn_session_set_sampling(s, sampling, &c->err);
    if (status == TARN_OK)
        status = tarn_session_append_tokens(s, ids, n_ids, &c->err);
    if (status == TARN_OK)
        status = tarn_session_generate(s, &o, &c->err);
    if (status == TARN_OK)
        status = tarn_session_run(s, hear, &h, &c->err);
    tarn_session_close(s);
    return status == TARN_OK ? h.n : -1;
}
