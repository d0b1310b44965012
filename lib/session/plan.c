#include "plan.h"

#include "engine.h"
#include "forward.h"

/* n * size, or the largest number: what does not fit a number fits no device. */
static uint64_t times(uint64_t n, uint64_t size)
{
    return size > 0 && n > UINT64_MAX / size ? UINT64_MAX : n * size;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

tarn_status tarni_plan(const tarni_spec *spec, const tarn_plan_options *o, tarn_plan_report *out,
                       tarn_error *err)
{
    uint64_t context = o->context > 0 ? o->context : spec->context, n_parameters;
    uint32_t step_tokens = o->step_tokens_max > 0 ? o->step_tokens_max : TARNI_STEP_TOKENS;
    uint64_t wanted = o->sessions > 0 ? o->sessions : 1;
    if (context > spec->context)
        return tarni_fail(err, TARN_E_INVALID, "context is %llu, the model's is %u",
                          (unsigned long long)context, spec->context);
    if (o->numerics != TARN_NUMERICS_NATIVE && o->numerics != TARN_NUMERICS_F32)
        return tarni_fail(err, TARN_E_INVALID, "numerics is %d, must be native or f32",
                          (int)o->numerics);
    tarni_layout layout;
    tarni_layout_init(spec,
                      o->numerics == TARN_NUMERICS_F32 ? TARNI_NUMERICS_F32 : TARNI_NUMERICS_NATIVE,
                      &layout);
    tarni_spec_sizes(spec, &n_parameters, &out->weights_bytes);
    uint64_t n_pages = (context + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
    out->slot_bytes = tarni_pools_slot_bytes(spec, &layout);
    out->page_bytes = layout.page_bytes;
    out->workspace_bytes = plus(tarni_forward_bytes(&tarni_cpu_class, spec, step_tokens, 0),
                                times(TARNI_SCORE_ROWS, spec->vocab * sizeof(float)));
    out->per_session_bytes = plus(out->slot_bytes, times(n_pages, out->page_bytes));
    uint64_t fixed = plus(plus(out->weights_bytes, out->workspace_bytes),
                          times(TARNI_SLOTS_MIN - 1, out->slot_bytes));
    out->floor_bytes = plus(fixed, out->per_session_bytes);
    out->wanted_bytes = plus(fixed, times(wanted, out->per_session_bytes));
    out->sessions =
        o->device_bytes > fixed ? (o->device_bytes - fixed) / out->per_session_bytes : 0;
    out->fits = out->sessions >= wanted;
    out->slots_bytes_max = times(out->sessions + TARNI_SLOTS_MIN - 1, out->slot_bytes);
    out->pages_bytes_max = times(times(out->sessions, n_pages), out->page_bytes);
    return TARN_OK;
}
