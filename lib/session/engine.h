/* engine.h - one model on one device: its pools, its sessions, its step. */
#ifndef TARNI_ENGINE_H
#define TARNI_ENGINE_H

#include "budget.h"
#include "device.h"
#include "events.h"
#include "forward.h"
#include "model.h"
#include "pools.h"
#include "sampler.h"
#include "store.h"
#include "threads.h"
#include "tier.h"

#define TARNI_STOPS_MAX  (TARNI_STOP_IDS_MAX + TARN_STOP_IDS_MAX) /* of one generation */
#define TARNI_SCORE_ROWS 16 /* rows of a step whose logits can be handed out one by one */

struct tarn_engine {
    tarni_model *model; /* borrowed */
    tarni_identity identity;
    tarni_budget budget; /* what pools.allocator takes from */
    tarni_pools pools;
    tarni_pool *threads;
    tarni_device device;
    tarni_forward *forward;
    tarni_sampler sampler;
    tarni_events events;
    tarni_writer piece; /* the text of one token, on its way into an event */
    uint32_t sessions_max, n_sessions;
    uint32_t step_tokens_max;
    uint32_t keep_every;
    uint32_t cut_tokens;    /* where cuts show in the bits: rows of a session in one step end at its
                               multiples, or with all that wait (share.c); 0: they do not */
    uint32_t part_rows_max; /* rows of a session in a step, where that makes cuts not show */
    uint64_t latency_ns;    /* a step with rows of generations should not take longer */
    uint64_t row_ns;        /* what a row of a long step took of late; 0: not known */
    tarn_session *first, *last;
    tarn_session *turn;  /* who comes first in the next step; NULL: the first */
    tarn_session *using; /* the session a call works on: it is not parked meanwhile */
    uint64_t clock;      /* counts uses of sessions */
    uint32_t n_parked;
    tarni_tier tier;                 /* of those that are parked */
    bool impatient;                  /* memory that is being copied is not waited for */
    struct tarni_batch_space *space; /* the step's arrays, schedule.c */
    uint64_t rows_computed;
    bool in_callback; /* a caller's function runs: only looking is allowed */
};

tarn_status tarni_engine_open(tarni_model *model, const tarn_engine_options *options,
                              tarn_engine **out, tarn_error *err);
void tarni_engine_close(tarn_engine *engine);

#endif
