#include "engine.h"

#include "checkpoint.h"
#include "schedule.h"

#include <string.h>

#define SESSIONS_MAX    65536
#define STEP_TOKENS_MAX 8192

static tarn_status pick_device(tarn_engine *e, const char *device, tarn_error *err)
{
    if (device && strcmp(device, "auto") != 0 && strcmp(device, "cpu") != 0)
        return tarni_fail(err, TARN_E_NO_DEVICE, "device is \"%.60s\", this build has: cpu",
                          device);
    /* Numerics that round operands to bf16 may multiply bf16; the reference may not. */
    e->ops = tarnk_cpu_ops(e->pools.layout.round ? TARNK_ISA_BEST_BF16 : TARNK_ISA_BEST);
    return TARN_OK;
}

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value > 0 ? value : fallback;
}

static tarn_status check_limits(tarn_engine *e, const tarn_engine_options *o, tarn_error *err)
{
    e->sessions_max = or_default(o->sessions_max, 64);
    e->step_tokens_max = or_default(o->step_tokens_max, 512);
    e->keep_every = or_default(o->keep_every, 1024);
    if (e->sessions_max > SESSIONS_MAX)
        return tarni_fail(err, TARN_E_INVALID, "sessions_max is %u, the limit is %d",
                          e->sessions_max, SESSIONS_MAX);
    if (e->step_tokens_max > STEP_TOKENS_MAX)
        return tarni_fail(err, TARN_E_INVALID, "step_tokens_max is %u, the limit is %d",
                          e->step_tokens_max, STEP_TOKENS_MAX);
    if (o->numerics != TARN_NUMERICS_NATIVE && o->numerics != TARN_NUMERICS_F32)
        return tarni_fail(err, TARN_E_INVALID, "numerics is %d, must be native or f32",
                          (int)o->numerics);
    return TARN_OK;
}

static tarn_status open_parts(tarn_engine *e, const tarn_engine_options *o, tarn_error *err)
{
    const tarn_allocator *a = &e->pools.allocator;
    TARNI_TRY(check_limits(e, o, err));
    if (e->model->has_spec)
        tarni_layout_init(&e->model->spec,
                          o->numerics == TARN_NUMERICS_F32 ? TARNI_NUMERICS_F32
                                                           : TARNI_NUMERICS_NATIVE,
                          &e->pools.layout);
    TARNI_TRY(pick_device(e, o->device, err));
    TARNI_TRY(tarni_model_need_weights(e->model, err));
    e->pools.spec = e->model->spec;
    e->pools.numerics = e->ops->numerics;
    TARNI_TRY(tarni_checkpoint_check(&e->pools.spec, &e->pools.layout, err));
    TARNI_TRY(tarni_model_identity(e->model, &e->pools.layout, &e->identity, err));
    TARNI_TRY(tarni_pool_create(o->n_threads, a, &e->threads, err));
    e->context = (tarnk_context){
        .run = tarni_pool_run, .pool = e->threads, .n_threads = tarni_pool_threads(e->threads)};
    TARNI_TRY(
        tarni_slots_init(&e->pools.slots, e->pools.layout.slot_bytes, e->sessions_max, a, err));
    tarni_pages_init(&e->pools.pages, &e->pools.layout, o->tokens_max, a);
    TARNI_TRY(tarni_sampler_init(&e->sampler, e->pools.spec.vocab, a, err));
    tarni_events_init(&e->events, a);
    tarni_writer_init(&e->piece, a);
    TARNI_TRY(tarni_batch_space_create(e, &e->space, err));
    return tarni_forward_create(&e->pools.spec, &e->model->weights, &e->pools.layout, e->ops,
                                &e->context, e->step_tokens_max, a, &e->forward, err);
}

tarn_status tarni_engine_open(tarni_model *model, const tarn_engine_options *options,
                              tarn_engine **out, tarn_error *err)
{
    tarn_allocator a;
    tarn_engine *e;
    *out = NULL;
    TARNI_TRY(tarni_allocator_check(options->allocator, &a, err));
    TARNI_TRY(tarni_alloc(&a, 1, sizeof *e, &e, err));
    e->model = model;
    e->pools.allocator = a;
    if (options->log)
        e->pools.log = *options->log;
    tarn_status status = open_parts(e, options, err);
    if (status != TARN_OK) {
        tarni_engine_close(e);
        return status;
    }
    *out = e;
    return TARN_OK;
}

void tarni_engine_close(tarn_engine *e)
{
    if (!e)
        return;
    TARN_ASSERT(e->n_sessions == 0);
    tarn_allocator a = e->pools.allocator;
    tarni_forward_free(e->forward);
    tarni_batch_space_free(e->space, &a);
    if (e->events.allocator.alloc)
        tarni_events_fini(&e->events);
    tarni_writer_fini(&e->piece);
    tarni_sampler_fini(&e->sampler);
    if (e->pools.pages.layout)
        tarni_pages_fini(&e->pools.pages);
    tarni_slots_fini(&e->pools.slots);
    tarni_pool_free(e->threads);
    tarni_free(&a, e);
}
