/* engine.h - one model on one device: its pools, its sessions, its step. */
#ifndef TARNI_ENGINE_H
#define TARNI_ENGINE_H

#include "events.h"
#include "forward.h"
#include "model.h"
#include "pools.h"
#include "sampler.h"
#include "store.h"
#include "threads.h"

#define TARNI_SCORE_ROWS 16 /* rows of a step whose logits can be handed out one by one */

struct tarn_engine {
    tarni_model *model; /* borrowed */
    tarni_identity identity;
    tarni_pools pools;
    tarni_pool *threads;
    const tarnk_ops *ops;
    tarnk_context context;
    tarni_forward *forward;
    tarni_sampler sampler;
    tarni_events events;
    tarni_writer piece; /* the text of one token, on its way into an event */
    uint32_t sessions_max, n_sessions;
    uint32_t step_tokens_max;
    uint32_t keep_every;
    tarn_session *first, *last;
    struct tarni_batch_space *space; /* the step's arrays, schedule.c */
    uint64_t rows_computed;
    bool in_callback; /* a caller's function runs: only looking is allowed */
};

tarn_status tarni_engine_open(tarni_model *model, const tarn_engine_options *options,
                              tarn_engine **out, tarn_error *err);
void tarni_engine_close(tarn_engine *engine);

#endif
