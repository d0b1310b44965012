#include "model_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool model_run_open(model_run *m, const char *dir, tarni_numerics numerics, const tarnk_ops *ops,
                    uint32_t n_threads, uint32_t n_rows_max)
{
    tarn_error err;
    tarn_status status;
    memset(m, 0, sizeof *m);
    TARNI_TRY_GOTO(tarni_spec_load(dir, &tarni_heap, &m->spec, &err));
    TARNI_TRY_GOTO(tarni_weights_open(dir, &m->spec, &tarni_heap, &m->weights, &err));
    TARNI_TRY_GOTO(tarni_pool_create(n_threads, &tarni_heap, &m->pool, &err));
    tarni_layout_init(&m->spec, numerics, &m->layout);
    m->context = (tarnk_context){
        .run = tarni_pool_run, .pool = m->pool, .n_threads = tarni_pool_threads(m->pool)};
    tarni_device_of_ops(&m->device, ops, &m->context, &m->weights);
    m->device.spec = &m->spec;
    TARNI_TRY_GOTO(tarni_forward_create(&m->spec, &m->layout, &m->device, n_rows_max, n_rows_max,
                                        &tarni_heap, &m->forward, &err));
    return true;
fail:
    printf("%s: %s: %s\n", dir, tarn_status_name(status), err.detail);
    model_run_close(m);
    return false;
}

void model_run_close(model_run *m)
{
    tarni_forward_free(m->forward);
    tarni_pool_free(m->pool);
    tarni_weights_close(&m->weights);
}

static void *need(size_t n_bytes)
{
    void *memory;
    tarn_error err;
    if (tarni_alloc_aligned(&tarni_heap, n_bytes, 1, &memory, &err) != TARN_OK) {
        printf("out of memory\n");
        exit(1);
    }
    return memory;
}

void session_memory_init(session_memory *s, const tarni_layout *layout, uint32_t n_tokens_max)
{
    s->position = 0;
    s->n_pages = (n_tokens_max + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
    s->slot = need(layout->slot_bytes);
    memset(s->slot, 0, layout->slot_bytes);
    s->pages = need(s->n_pages * sizeof *s->pages);
    for (uint32_t i = 0; i < s->n_pages; i++) {
        s->pages[i] = need(layout->page_bytes);
        memset(s->pages[i], 0xFF, layout->page_bytes);
    }
}

void session_memory_fini(session_memory *s)
{
    for (uint32_t i = 0; i < s->n_pages; i++)
        tarni_free_aligned(&tarni_heap, s->pages[i]);
    tarni_free_aligned(&tarni_heap, s->pages);
    tarni_free_aligned(&tarni_heap, s->slot);
}

tarnk_seq session_memory_seq(const session_memory *s, uint32_t row_begin, uint32_t n_rows)
{
    return (tarnk_seq){.row_begin = row_begin,
                       .n_rows = n_rows,
                       .position = s->position,
                       .state_read = s->slot,
                       .state_write = s->slot,
                       .pages = s->pages};
}

int model_run_feed(model_run *m, session_memory *s, const uint32_t *ids, uint32_t n, float *logits)
{
    tarnk_seq seq = session_memory_seq(s, 0, n);
    uint32_t *rows = need(n * sizeof *rows);
    float **at = need(n * sizeof *at);
    for (uint32_t i = 0; i < n; i++) {
        rows[i] = i;
        at[i] = logits ? logits + (size_t)i * m->spec.vocab : NULL;
    }
    tarni_batch batch = {.ids = ids,
                         .n_rows = n,
                         .seqs = &seq,
                         .n_seqs = 1,
                         .logit_rows = rows,
                         .logits = at,
                         .n_logit_rows = logits ? n : 0};
    int error = tarni_forward_run(m->forward, &batch);
    tarni_free_aligned(&tarni_heap, rows);
    tarni_free_aligned(&tarni_heap, at);
    s->position += n;
    return error;
}

int model_run_append(model_run *m, session_memory *s, const uint32_t *ids, uint32_t n,
                     uint32_t n_rows_max, float *last)
{
    for (uint32_t begin = 0, rows; begin < n; begin += rows) {
        rows = n - begin < n_rows_max ? n - begin : n_rows_max;
        bool is_last = begin + rows == n;
        tarnk_seq seq = session_memory_seq(s, 0, rows);
        uint32_t row = rows - 1;
        tarni_batch batch = {.ids = ids + begin,
                             .n_rows = rows,
                             .seqs = &seq,
                             .n_seqs = 1,
                             .logit_rows = &row,
                             .logits = &last,
                             .n_logit_rows = is_last};
        int error = tarni_forward_run(m->forward, &batch);
        if (error != 0)
            return error;
        s->position += rows;
    }
    return 0;
}

uint32_t argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}
