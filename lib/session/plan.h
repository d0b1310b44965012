/* plan.h - what fits into a device, before anything is allocated. */
#ifndef TARNI_PLAN_H
#define TARNI_PLAN_H

#include "layout.h"
#include "tarn.h"

/* If the options do not say: rows of one step, tokens between kept states, sessions open at once.
 * A device that streams all its weights for a few rows as for thousands wants long steps, and
 * computes 4096 tokens again in the time that keeping one state more takes. */
#define TARNI_STEP_TOKENS        512
#define TARNI_STEP_TOKENS_DEVICE (4096 + TARNI_SESSIONS_DEFAULT)
#define TARNI_KEEP_EVERY         1024
#define TARNI_KEEP_EVERY_DEVICE  4096
#define TARNI_SESSIONS_DEFAULT   64

/* As tarn_plan in tarn.h says; `size` of the report is the caller's. */
tarn_status tarni_plan(const tarni_spec *spec, const tarn_plan_options *o, tarn_plan_report *out,
                       tarn_error *err);

#endif
