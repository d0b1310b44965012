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

/* Of an engine with room for so many sessions. */
static uint64_t workspace(const tarni_device_class *class, const tarni_spec *spec,
                          uint32_t step_tokens, uint64_t wanted)
{
    uint32_t n_seqs = wanted > step_tokens              ? step_tokens
                      : wanted > TARNI_SESSIONS_DEFAULT ? (uint32_t)wanted
                                                        : TARNI_SESSIONS_DEFAULT;
    uint64_t forward = tarni_forward_bytes(class, spec, step_tokens, n_seqs + TARNI_SCORE_ROWS);
    return plus(plus(forward, class->own_bytes(spec, step_tokens, n_seqs)),
                times(TARNI_SCORE_ROWS, spec->vocab * sizeof(float)));
}

tarn_status tarni_plan(const tarni_spec *spec, const tarn_plan_options *o, tarn_plan_report *out,
                       tarn_error *err)
{
    uint64_t context = o->context > 0 ? o->context : spec->context, n_parameters;
    uint64_t wanted = o->sessions > 0 ? o->sessions : 1;
    const char *device = o->device ? o->device : "cpu";
    const tarni_device_class *class;
    TARNI_TRY(tarni_device_class_of(device, &class, err));
    uint32_t step_tokens = o->step_tokens_max > 0 ? o->step_tokens_max
                           : class->plans         ? TARNI_STEP_TOKENS_DEVICE
                                                  : TARNI_STEP_TOKENS;
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
    out->workspace_bytes = workspace(class, spec, step_tokens, wanted);
    uint64_t device_bytes = o->device_bytes > 0 ? o->device_bytes : tarni_device_bytes(device);
    out->per_session_bytes = plus(out->slot_bytes, times(n_pages, out->page_bytes));
    uint64_t fixed = plus(plus(out->weights_bytes, out->workspace_bytes),
                          times(TARNI_SLOTS_MIN - 1, out->slot_bytes));
    out->floor_bytes = plus(fixed, out->per_session_bytes);
    out->wanted_bytes = plus(fixed, times(wanted, out->per_session_bytes));
    out->sessions = device_bytes > fixed ? (device_bytes - fixed) / out->per_session_bytes : 0;
    out->fits = out->sessions >= wanted;
    out->slots_bytes_max = times(out->sessions + TARNI_SLOTS_MIN - 1, out->slot_bytes);
    out->pages_bytes_max = times(times(out->sessions, n_pages), out->page_bytes);
    return TARN_OK;
}
