#include "batch_space.h"

tarn_status tarni_batch_space_create(tarn_engine *e, tarni_batch_space **out, tarn_error *err)
{
    const tarn_allocator *a = &e->pools.allocator;
    size_t n_logits = (size_t)e->sessions_max + TARNI_SCORE_ROWS;
    tarni_batch_space *b;
    *out = NULL;
    TARNI_TRY(tarni_alloc(a, 1, sizeof *b, &b, err));
    tarn_status status = tarni_alloc(a, e->step_tokens_max, sizeof *b->ids, &b->ids, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, e->sessions_max, sizeof *b->seqs, &b->seqs, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, e->sessions_max, sizeof *b->parts, &b->parts, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_logits, sizeof *b->logit_rows, &b->logit_rows, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_logits, sizeof *b->logits, &b->logits, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_logits, sizeof *b->results, &b->results, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, e->sessions_max, sizeof *b->draws, &b->draws, err);
    if (status == TARN_OK && !e->device.class->on_host)
        status = tarni_alloc(a, e->pools.spec.vocab, sizeof *b->host_row, &b->host_row, err);
    size_t scores_bytes = (size_t)e->pools.spec.vocab * TARNI_SCORE_ROWS * sizeof *b->scores;
    if (status == TARN_OK)
        status =
            e->device.class->alloc(&e->device, a, scores_bytes, "rows of logits", &b->scores, err);
    if (status != TARN_OK) {
        tarni_batch_space_free(e, b);
        return status;
    }
    *out = b;
    return TARN_OK;
}

void tarni_batch_space_free(tarn_engine *e, tarni_batch_space *b)
{
    const tarn_allocator *a = &e->pools.allocator;
    if (!b)
        return;
    tarni_free(a, b->ids);
    tarni_free(a, b->seqs);
    tarni_free(a, b->parts);
    tarni_free(a, b->logit_rows);
    tarni_free(a, b->logits);
    tarni_free(a, b->results);
    tarni_free(a, b->draws);
    tarni_free(a, b->host_row);
    if (b->scores)
        e->device.class->free(&e->device, a, b->scores);
    tarni_free(a, b);
}
