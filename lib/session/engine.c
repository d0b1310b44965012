#include "engine.h"

#include "checkpoint.h"
#include "parking.h"
#include "plan.h"
#include "schedule.h"

#include <string.h>

#define SESSIONS_MAX    65536
#define STEP_TOKENS_MAX 8192
#define LATENCY_MS      250

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
    e->step_tokens_max = or_default(o->step_tokens_max, TARNI_STEP_TOKENS);
    e->keep_every = or_default(o->keep_every, 1024);
    e->latency_ns = or_default(o->decode_latency_ms, LATENCY_MS) * (uint64_t)1000000;
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

/* How many slots the options allow: as many as the sessions could ever want, or the bytes given. */
static tarn_status count_slots(tarn_engine *e, const tarn_engine_options *o, uint32_t *out,
                               tarn_error *err)
{
    uint64_t slot_bytes = tarni_pools_slot_bytes(&e->pools.spec, &e->pools.layout);
    uint64_t n = 2 * (uint64_t)e->sessions_max + 2; /* each steps out of one that is captured */
    if (o->slots_bytes_max > 0 && o->slots_bytes_max / slot_bytes < n)
        n = o->slots_bytes_max / slot_bytes;
    if (n < TARNI_SLOTS_MIN)
        return tarni_fail(err, TARN_E_LIMIT,
                          "slots_bytes_max is %llu: one session needs %d slots of %llu bytes",
                          (unsigned long long)o->slots_bytes_max, TARNI_SLOTS_MIN,
                          (unsigned long long)slot_bytes);
    *out = (uint32_t)n;
    return TARN_OK;
}

/* 0: no ceiling. */
static tarn_status count_pages(tarn_engine *e, const tarn_engine_options *o, uint64_t *out,
                               tarn_error *err)
{
    uint64_t page_bytes = e->pools.layout.page_bytes;
    *out = (o->tokens_max + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
    if (o->pages_bytes_max == 0 || page_bytes == 0)
        return TARN_OK;
    uint64_t n = o->pages_bytes_max / page_bytes;
    if (n == 0)
        return tarni_fail(err, TARN_E_LIMIT,
                          "pages_bytes_max is %llu: a page of %d tokens has %llu bytes",
                          (unsigned long long)o->pages_bytes_max, TARNK_PAGE_TOKENS,
                          (unsigned long long)page_bytes);
    *out = *out == 0 || n < *out ? n : *out;
    return TARN_OK;
}

/* Slots and pages have ceilings of their own, and are not taken from the budget. */
static tarn_status open_pools(tarn_engine *e, const tarn_engine_options *o, tarn_error *err)
{
    uint32_t n_slots = 0;
    uint64_t n_pages;
    const tarn_allocator *a = &e->budget.inner;
    TARNI_TRY(count_slots(e, o, &n_slots, err));
    TARNI_TRY(count_pages(e, o, &n_pages, err));
    TARNI_TRY(tarni_slots_init(&e->pools.slots,
                               tarni_pools_slot_bytes(&e->pools.spec, &e->pools.layout), n_slots, a,
                               err));
    tarni_pages_init(&e->pools.pages, &e->pools.layout, n_pages, a);
    e->pools.slots.relieve = e->pools.pages.relieve = tarni_parking_relieve;
    e->pools.slots.relieve_user = e->pools.pages.relieve_user = e;
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
    TARNI_TRY(open_pools(e, o, err));
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
    atomic_fetch_add(&model->n_engines, 1);
    e->pools.allocator = tarni_budget_init(&e->budget, &a, options->host_bytes_max);
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
    const tarn_allocator *a = &e->pools.allocator;
    tarni_forward_free(e->forward);
    tarni_batch_space_free(e->space, a);
    if (e->events.allocator.alloc)
        tarni_events_fini(&e->events);
    tarni_writer_fini(&e->piece);
    tarni_sampler_fini(&e->sampler);
    if (e->pools.pages.layout)
        tarni_pages_fini(&e->pools.pages);
    tarni_slots_fini(&e->pools.slots);
    tarni_pool_free(e->threads);
    TARN_ASSERT(atomic_load(&e->budget.bytes) == 0);
    atomic_fetch_sub(&e->model->n_engines, 1);
    tarn_allocator inner = e->budget.inner;
    tarni_free(&inner, e);
}
