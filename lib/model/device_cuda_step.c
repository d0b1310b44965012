/* device_cuda_step.c - one step on a CUDA device.
 *
 * A step is: one copy of what changed to the device, draws, the layers, the rows of logits to their
 * slots, one copy of records back (a row's id, what it ends, whether its logits can be used), one
 * wait. A step of generations alone (one row each) has
 * the same kernels with the same arguments whoever takes part, up to two sizes: how many rows and
 * how long the longest session is, both rounded up. It is recorded as a graph the second time its
 * sizes come; the first time it runs as it is, which also loads every kernel it needs. Rows that
 * fill up belong to no session: no kernel reads or writes memory of one for them. */
#include "device_cuda.h"

#include <string.h>

#define KEYS_STEP_MIN 1024 /* the shortest sessions a graph is made for */
#define TABLES_MIN    4096 /* pages of all sessions of a step, at first */

/* ---- arrays ---------------------------------------------------------------------------------- */

/* Places the arrays at `base`; returns the bytes they take. */
static size_t carve(tarni_step_arrays *s, const tarni_device_needs *n, uint8_t *base)
{
    size_t at = 0;
#define TAKE(member, count)                                                                        \
    do {                                                                                           \
        s->member = base ? (void *)(base + at) : NULL;                                             \
        at += ((size_t)(count) * sizeof *s->member + 15) / 16 * 16;                                \
    } while (0)
    TAKE(stop_ids, (size_t)n->n_seqs_max * n->n_stops_max);
    TAKE(seqs, n->n_seqs_max);
    TAKE(logits, n->n_logits_max);
    TAKE(draw_rows, n->n_seqs_max);
    TAKE(params, n->n_seqs_max);
    TAKE(u, n->n_seqs_max);
    TAKE(places, n->n_seqs_max);
    TAKE(stops, n->n_seqs_max);
    TAKE(results, n->n_logits_max);
    TAKE(ids, n->n_rows_max);
#undef TAKE
    s->base = base;
    return at;
}

/* Nothing is on its way here: the step before was waited for. */
static tarn_status grow_tables(tarni_device *d, size_t wanted, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_of(d);
    void *host, *device;
    if (wanted <= c->tables_capacity)
        return TARN_OK;
    wanted += wanted / 2;
    size_t n_bytes = wanted * sizeof *c->tables;
    TARNI_TRY(tarni_cuda_pin_block(d, n_bytes, &host, err));
    tarn_status status = tarni_cuda_alloc(d, NULL, n_bytes, "page tables", &device, err);
    if (status != TARN_OK) {
        tarni_cuda_unpin_block(d, host, n_bytes);
        return status;
    }
    tarnk_cuda_free(c->device_tables);
    tarni_cuda_unpin_block(d, c->tables, c->tables_capacity * sizeof *c->tables);
    c->tables = host;
    c->device_tables = device;
    c->tables_capacity = wanted;
    return TARN_OK;
}

tarn_status tarni_cuda_open_step(tarni_device *d, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_of(d);
    tarni_step_arrays s;
    size_t n_bytes = carve(&s, &c->needs, NULL);
    uint8_t *memory;
    void *pinned;
    TARNI_TRY(tarni_cuda_pin_block(d, n_bytes, &pinned, err));
    c->step_bytes = n_bytes;
    memset(pinned, 0, n_bytes);
    carve(&c->host, &c->needs, pinned);
    TARNI_TRY(tarni_cuda_alloc(d, NULL, n_bytes, "a step's arrays", &memory, err));
    carve(&c->device, &c->needs, memory);
    TARNI_TRY(tarni_alloc(d->allocator, c->needs.n_logits_max, sizeof *c->row_numbers,
                          &c->row_numbers, err));
    for (uint32_t i = 0; i < c->needs.n_logits_max; i++)
        c->row_numbers[i] = i;
    return grow_tables(d, TABLES_MIN, err);
}

static void drop_graphs(tarni_cuda *c)
{
    for (uint32_t i = 0; i < c->n_graphs; i++)
        tarnk_cuda_graph_free(c->graphs[i].graph);
    c->n_graphs = 0;
}

void tarni_cuda_close_step(tarni_device *d)
{
    tarni_cuda *c = tarni_cuda_of(d);
    drop_graphs(c);
    tarni_free(d->allocator, c->row_numbers);
    tarnk_cuda_free(c->device.base);
    tarnk_cuda_free(c->device_tables);
    tarni_cuda_unpin_block(d, c->host.base, c->step_bytes);
    tarni_cuda_unpin_block(d, c->tables, c->tables_capacity * sizeof *c->tables);
}

/* ---- what changed since the step before ------------------------------------------------------ */

static size_t pages_of(const tarnk_seq *s)
{
    return ((size_t)s->position + s->n_rows + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
}

/* Sequences and their page tables; those behind n_seqs have no rows. */
static void pack_seqs(const tarni_device *d, const tarni_batch *b, uint32_t n_seqs)
{
    tarni_cuda *c = tarni_cuda_of(d);
    c->tables_used = 0;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        tarnk_seq *s = &c->host.seqs[i];
        *s = b->seqs[i];
        s->pages = NULL;
        if (d->layout->n_mla == 0)
            continue;
        size_t n = pages_of(s);
        memcpy(c->tables + c->tables_used, b->seqs[i].pages, n * sizeof *c->tables);
        s->pages = c->device_tables + c->tables_used;
        c->tables_used += n;
    }
    for (uint32_t i = b->n_seqs; i < n_seqs; i++)
        c->host.seqs[i] = (tarnk_seq){.row_begin = b->n_rows};
}

/* True: they are not those of the step before. */
static bool pack_stops(tarni_cuda *c, const tarni_batch *b)
{
    uint32_t at = 0;
    bool news = !c->stop_ids_sent;
    for (uint32_t i = 0; i < b->n_draws; i++) {
        const tarnk_stops *stops = &b->draws[i].stops;
        TARN_ASSERT(stops->n <= c->needs.n_stops_max);
        c->host.stops[i] = (tarnk_stop_range){at, stops->n, stops->n_turn_ends};
        for (uint32_t k = 0; k < stops->n; k++, at++) {
            news = news || c->host.stop_ids[at] != stops->ids[k];
            c->host.stop_ids[at] = stops->ids[k];
        }
    }
    return news;
}

static void pack_draws(tarni_cuda *c, const tarni_batch *b, uint32_t n_draws)
{
    for (uint32_t i = 0; i < b->n_draws; i++) {
        const tarni_pick *draw = &b->draws[i];
        TARN_ASSERT(b->logit_rows[draw->row] == draw->row);
        c->host.draw_rows[i] = draw->logits;
        c->host.places[i] = draw->row;
        c->host.u[i] = draw->u;
        c->host.params[i] = (tarnk_sample_params){.temperature = draw->temperature,
                                                  .top_p = draw->top_p,
                                                  .min_p = draw->min_p,
                                                  .top_k = draw->top_k};
    }
    for (uint32_t i = b->n_draws; i < n_draws; i++)
        c->host.draw_rows[i] = NULL;
}

/* Fills the arrays up to n rows (of a step of generations) and sends them. */
static int send(const tarni_device *d, const tarni_batch *b, uint32_t n)
{
    tarni_cuda *c = tarni_cuda_of(d);
    pack_seqs(d, b, n > b->n_seqs ? n : b->n_seqs);
    pack_draws(c, b, n > b->n_draws ? n : b->n_draws);
    for (uint32_t i = 0; i < b->n_logit_rows; i++)
        c->host.logits[i] = b->logits[i];
    for (uint32_t i = b->n_logit_rows; i < n; i++)
        c->host.logits[i] = NULL;
    memcpy(c->host.ids, b->ids, b->n_rows * sizeof *b->ids);
    uint32_t n_ids = b->n_rows;
    for (; n_ids < n; n_ids++)
        c->host.ids[n_ids] = 0;
    size_t begin = pack_stops(c, b) ? 0 : (size_t)((uint8_t *)c->host.seqs - c->host.base);
    size_t n_bytes = (size_t)((uint8_t *)(c->host.ids + n_ids) - c->host.base) - begin;
    int error = tarnk_cuda_upload(c->device.base + begin, c->host.base + begin, n_bytes, c->stream);
    c->stop_ids_sent = true;
    if (!error && c->tables_used > 0)
        error = tarnk_cuda_upload(c->device_tables, c->tables, c->tables_used * sizeof *c->tables,
                                  c->stream);
    return error;
}

/* ---- the step -------------------------------------------------------------------------------- */

static int draw(const tarni_device *d, uint32_t n_draws)
{
    tarni_cuda *c = tarni_cuda_of(d);
    const tarnk_sample_args args = {.params = c->device.params,
                                    .u = c->device.u,
                                    .ids = c->device.ids,
                                    .n_rows = n_draws,
                                    .vocab = d->spec->vocab,
                                    .rows = c->device.draw_rows,
                                    .places = c->device.places,
                                    .results = c->device.results,
                                    .stop_ids = c->device.stop_ids,
                                    .stops = c->device.stops};
    return n_draws > 0 ? tarnk_cuda_sample(&args, &d->context) : 0;
}

int tarni_cuda_put_logits(tarni_device *d, const float *rows, uint32_t n_rows)
{
    tarni_cuda *c = tarni_cuda_of(d);
    const tarnk_put_rows_args args = {.from = rows,
                                      .to = c->device.logits,
                                      .results = c->device.results,
                                      .n_rows = n_rows,
                                      .n = d->spec->vocab};
    return tarnk_cuda_put_rows(&args, &d->context);
}

/* One row for each sequence, and its logits. */
static bool is_decode(const tarni_batch *b)
{
    return b->n_rows == b->n_seqs && b->n_logit_rows == b->n_rows;
}

/* 1, 2, 4, 8, then multiples of 8 and from 64 on of 64; 0: more than there is room for. */
static uint32_t rounded_rows(const tarni_device_needs *needs, uint32_t n)
{
    uint32_t up = n > 64 ? (n + 63) / 64 * 64 : n > 8 ? (n + 7) / 8 * 8 : n > 4 ? 8 : n > 2 ? 4 : n;
    return up <= needs->n_seqs_max && up <= needs->n_logits_max ? up : 0;
}

static uint32_t rounded_keys(uint32_t n)
{
    uint32_t up = KEYS_STEP_MIN;
    while (up < n && up < 1u << 31)
        up *= 2;
    return up;
}

static uint32_t longest(const tarni_batch *b, uint32_t *rows_max)
{
    uint32_t keys = 1;
    *rows_max = 1;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const tarnk_seq *s = &b->seqs[i];
        keys = s->position + s->n_rows > keys ? s->position + s->n_rows : keys;
        *rows_max = s->n_rows > *rows_max ? s->n_rows : *rows_max;
    }
    return keys;
}

static int run_plain(tarni_device *d, const tarni_batch *placed, uint32_t n_draws, tarni_step_fn fn,
                     void *user)
{
    int error = draw(d, n_draws);
    return error ? error : fn(user, placed);
}

/* The graph of these sizes; NULL: not yet, or it cannot be recorded, which *error says. */
static void *graph_of(tarni_device *d, const tarni_batch *placed, uint32_t n_keys, tarni_step_fn fn,
                      void *user, int *error)
{
    tarni_cuda *c = tarni_cuda_of(d);
    tarni_graph *g = NULL;
    for (uint32_t i = 0; !g && i < c->n_graphs; i++)
        if (c->graphs[i].n_rows == placed->n_rows && c->graphs[i].n_keys == n_keys)
            g = &c->graphs[i];
    if (!g) {
        if (c->n_graphs == TARNI_GRAPHS_MAX)
            drop_graphs(c);
        c->graphs[c->n_graphs++] = (tarni_graph){.n_rows = placed->n_rows, .n_keys = n_keys};
        return NULL;
    }
    if (g->graph)
        return g->graph;
    *error = tarnk_cuda_record_begin(c->stream);
    if (*error)
        return NULL;
    int failed = run_plain(d, placed, placed->n_rows, fn, user);
    *error = tarnk_cuda_record_end(c->stream, &g->graph);
    if (failed)
        *error = failed;
    return g->graph;
}

static int run_decode(tarni_device *d, const tarni_batch *b, uint32_t n, uint32_t n_keys,
                      tarni_step_fn fn, void *user)
{
    tarni_cuda *c = tarni_cuda_of(d);
    int error = send(d, b, n);
    if (error)
        return error;
    const tarni_batch placed = {.ids = c->device.ids,
                                .n_rows = n,
                                .seqs = c->device.seqs,
                                .n_seqs = n,
                                .logit_rows = c->row_numbers,
                                .n_logit_rows = n};
    c->cuda.step = (tarnk_cuda_step){.n_rows = n, .rows_max = 1, .keys_max = n_keys};
    void *graph = graph_of(d, &placed, n_keys, fn, user, &error);
    if (error)
        return error;
    return graph ? tarnk_cuda_graph_run(graph, c->stream) : run_plain(d, &placed, n, fn, user);
}

static int run_mixed(tarni_device *d, const tarni_batch *b, uint32_t rows_max, uint32_t n_keys,
                     tarni_step_fn fn, void *user)
{
    tarni_cuda *c = tarni_cuda_of(d);
    int error = send(d, b, 0);
    if (error)
        return error;
    tarni_batch placed = *b;
    placed.ids = c->device.ids;
    placed.seqs = c->device.seqs;
    placed.logits = NULL;
    c->cuda.step = (tarnk_cuda_step){.n_rows = b->n_rows, .rows_max = rows_max, .keys_max = n_keys};
    return run_plain(d, &placed, b->n_draws, fn, user);
}

/* A record a row, in one copy; the step ends here. */
static int fetch(tarni_device *d, const tarni_batch *b)
{
    tarni_cuda *c = tarni_cuda_of(d);
    size_t n_bytes = b->n_logit_rows * sizeof *c->host.results;
    int error = n_bytes == 0
                    ? 0
                    : tarnk_cuda_download(c->host.results, c->device.results, n_bytes, c->stream);
    if (!error)
        error = tarnk_cuda_wait(c->stream);
    if (error || !b->results)
        return error;
    for (uint32_t i = 0; i < b->n_logit_rows; i++)
        b->results[i].finite = c->host.results[i].finite == 1;
    for (uint32_t i = 0; i < b->n_draws; i++) {
        uint32_t row = b->draws[i].row;
        b->results[row].id = c->host.results[row].id;
        b->results[row].stop = c->host.results[row].stop;
    }
    return 0;
}

int tarni_cuda_run(tarni_device *d, const tarni_batch *batch, tarni_step_fn fn, void *user)
{
    tarni_cuda *c = tarni_cuda_enter(d);
    uint32_t rows_max, n_keys = longest(batch, &rows_max);
    uint32_t n = is_decode(batch) ? rounded_rows(&c->needs, batch->n_rows) : 0;
    size_t n_pages = 0;
    tarn_error no_memory;
    if (c->error)
        return c->error;
    for (uint32_t i = 0; d->layout->n_mla > 0 && i < batch->n_seqs; i++)
        n_pages += pages_of(&batch->seqs[i]);
    if (grow_tables(d, n_pages, &no_memory) != TARN_OK)
        return TARNI_STEP_NO_MEMORY;
    int error = n > 0 ? run_decode(d, batch, n, rounded_keys(n_keys), fn, user)
                      : run_mixed(d, batch, rows_max, n_keys, fn, user);
    return tarni_cuda_note(d, error ? error : fetch(d, batch));
}
