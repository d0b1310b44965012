/* branch.h - other ways on: a fork from here, back to an earlier place, back to the last commit. */
#ifndef TARNI_BRANCH_H
#define TARNI_BRANCH_H

#include "session.h"

tarn_status tarni_session_fork(tarn_session *s, const char *new_name, tarn_session **out,
                               tarn_error *err);
tarn_status tarni_session_rewind(tarn_session *s, const char *where, tarn_reuse *reuse,
                                 tarn_error *err);
/* What that would cost. */
tarn_status tarni_session_price(tarn_session *s, const char *where, tarn_at *at, tarn_price *price,
                                tarn_error *err);
tarn_status tarni_session_reset(tarn_session *s, tarn_reuse *reuse, tarn_error *err);

#endif
