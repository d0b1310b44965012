/* tensors_out.h - the live state as named fp32 tensors, for inspection and comparison. */
#ifndef TARNI_TENSORS_OUT_H
#define TARNI_TENSORS_OUT_H

#include "timeline.h"

/* As tarn_session_tensors in tarn.h says. */
tarn_status tarni_timeline_tensors(const tarni_timeline *t, tarn_tensor_fn fn, void *user,
                                   tarn_error *err);

#endif
