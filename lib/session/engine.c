#include "engine.h"

#include "batch_space.h"
#include "checkpoint.h"
#include "parking.h"
#include "plan.h"
#include "share.h"

#include <stdio.h>
#include <string.h>

#define SESSIONS_MAX    65536
#define STEP_TOKENS_MAX 8192
#define LATENCY_MS      250
#define MARGIN_SHARE    32 /* of free device memory is left alone */

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value > 0 ? value : fallback;
}

static tarn_status check_limits(tarn_engine *e, const tarn_engine_options *o,
                                const tarni_device_class *class, tarn_error *err)
{
    bool plans = class->plans;
    e->sessions_max = or_default(o->sessions_max, TARNI_SESSIONS_DEFAULT);
    e->step_tokens_max =
        or_default(o->step_tokens_max, plans ? TARNI_STEP_TOKENS_DEVICE : TARNI_STEP_TOKENS);
    e->keep_every = or_default(o->keep_every, plans ? TARNI_KEEP_EVERY_DEVICE : TARNI_KEEP_EVERY);
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

/* As many pages as all sessions could fill. */
static uint64_t pages_wanted(const tarn_engine *e)
{
    uint64_t each = (e->pools.spec.context + (uint64_t)TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
    return each * e->sessions_max;
}

/* Slots and pages have ceilings of their own or one together, and are not taken from the budget of
 * the host. A device gives both what it has left, unless that is told otherwise. */
static tarn_status open_pools(tarn_engine *e, const tarn_engine_options *o, tarn_error *err)
{
    tarni_pools_plan plan = {.bytes_max = UINT64_MAX};
    TARNI_TRY(count_slots(e, o, &plan.n_slots, err));
    TARNI_TRY(count_pages(e, o, &plan.n_pages, err));
    plan.together = e->device.class->plans || o->pool_bytes_max > 0;
    if (o->pool_bytes_max > 0) {
        plan.bytes_max = o->pool_bytes_max;
        plan.bytes_name = "pool_bytes_max";
    } else if (plan.together && plan.n_pages == 0) {
        uint64_t left = e->device.class->free_bytes(&e->device);
        plan.bytes_max = left - left / MARGIN_SHARE;
    }
    if (plan.together && plan.n_pages == 0)
        plan.n_pages = pages_wanted(e);
    TARNI_TRY(tarni_pools_open(&e->pools, &plan, &e->budget.inner, err));
    e->pools.slots.relieve = e->pools.pages.relieve = tarni_parking_relieve;
    e->pools.slots.relieve_user = e->pools.pages.relieve_user = e;
    return TARN_OK;
}

/* Rows of logits of a step: each session's last, and what is scored. */
static uint32_t logits_max(const tarn_engine *e)
{
    uint32_t n = e->sessions_max < e->step_tokens_max ? e->sessions_max : e->step_tokens_max;
    return n + TARNI_SCORE_ROWS;
}

static tarn_status open_device(tarn_engine *e, const tarn_engine_options *o, tarn_error *err)
{
    const tarni_device_needs needs = {.n_rows_max = e->step_tokens_max,
                                      .n_seqs_max = e->sessions_max,
                                      .n_logits_max = logits_max(e),
                                      .n_stops_max = TARNI_STOPS_MAX,
                                      .progress = o->progress,
                                      .progress_user = o->progress_user,
                                      .count = tarni_budget_count,
                                      .uncount = tarni_budget_uncount,
                                      .count_user = &e->budget};
    TARNI_TRY(tarni_device_open(&e->device, o->device, &e->pools.spec, &e->pools.layout, &needs,
                                e->threads, &e->pools.allocator, err));
    tarni_share_init(e, o->exact);
    e->pools.device = &e->device;
    e->pools.numerics = e->device.numerics;
    return e->device.class->load_weights(&e->device, &e->model->weights, err);
}

static tarn_status open_parts(tarn_engine *e, const tarn_engine_options *o, tarn_error *err)
{
    const tarn_allocator *a = &e->pools.allocator;
    const tarni_device_class *class;
    TARNI_TRY(tarni_device_class_of(o->device, &class, err)); /* before the weights are read */
    TARNI_TRY(check_limits(e, o, class, err));
    TARNI_TRY(tarni_model_need_weights(e->model, err));
    e->pools.spec = e->model->spec;
    tarni_layout_init(&e->pools.spec,
                      o->numerics == TARN_NUMERICS_F32 ? TARNI_NUMERICS_F32 : TARNI_NUMERICS_NATIVE,
                      &e->pools.layout);
    TARNI_TRY(tarni_checkpoint_check(&e->pools.spec, &e->pools.layout, err));
    TARNI_TRY(tarni_model_identity(e->model, &e->pools.layout, &e->identity, err));
    TARNI_TRY(tarni_pool_create(o->n_threads, a, &e->threads, err));
    TARNI_TRY(open_device(e, o, err));
    TARNI_TRY(tarni_sampler_init(&e->sampler, e->pools.spec.vocab, a, err));
    tarni_events_init(&e->events, a);
    tarni_writer_init(&e->piece, a);
    TARNI_TRY(tarni_batch_space_create(e, &e->space, err));
    TARNI_TRY(tarni_forward_create(&e->pools.spec, &e->pools.layout, &e->device, e->step_tokens_max,
                                   logits_max(e), a, &e->forward, err));
    TARNI_TRY(tarni_tier_open(&e->tier, &e->device, o->pinned_bytes_max, err));
    return open_pools(e, o, err); /* last: from what is left */
}

/* An engine on a device takes what is left of its memory, unless it is told otherwise. */
static void tell_of_others(tarni_model *model, tarn_error *err)
{
    uint32_t n = atomic_load(&model->n_engines) - 1;
    size_t at = strlen(err->detail);
    if (n > 0)
        snprintf(err->detail + at, sizeof err->detail - at,
                 " (%u more engine%s of this model %s open)", n, n == 1 ? "" : "s",
                 n == 1 ? "is" : "are");
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
    if (status == TARN_E_NO_MEMORY)
        tell_of_others(model, err);
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
    tarni_forward_free(e->forward);
    tarni_batch_space_free(e, e->space);
    if (e->events.allocator.alloc)
        tarni_events_fini(&e->events);
    tarni_writer_fini(&e->piece);
    tarni_sampler_fini(&e->sampler);
    tarni_pools_close(&e->pools);
    tarni_tier_close(&e->tier, &e->device);
    tarni_device_close(&e->device);
    tarni_pool_free(e->threads);
    TARN_ASSERT(atomic_load(&e->budget.bytes) == 0);
    atomic_fetch_sub(&e->model->n_engines, 1);
    tarn_allocator inner = e->budget.inner;
    tarni_free(&inner, e);
}
