/* plan.h - what fits into a device, before anything is allocated. */
#ifndef TARNI_PLAN_H
#define TARNI_PLAN_H

#include "layout.h"
#include "tarn.h"

#define TARNI_STEP_TOKENS      512 /* rows of one step, if the options do not say */
#define TARNI_SESSIONS_DEFAULT 64  /* the same of sessions open at once */

/* As tarn_plan in tarn.h says; `size` of the report is the caller's. */
tarn_status tarni_plan(const tarni_spec *spec, const tarn_plan_options *o, tarn_plan_report *out,
                       tarn_error *err);

#endif
