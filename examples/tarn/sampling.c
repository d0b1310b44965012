#include "sampling.h"

tarn_status sampling_set(const arguments *args, tarn_session *session, tarn_error *err)
{
    static const option_id ids[] = {OPTION_TEMP,  OPTION_TOP_P,          OPTION_TOP_K,
                                    OPTION_MIN_P, OPTION_REPEAT_PENALTY, OPTION_REPEAT_LAST_N,
                                    OPTION_SEED};
    bool any = false;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        any = any || given(args, ids[i]);
    if (!any)
        return TARN_OK;
    tarn_sampling s = {.size = sizeof s};
    tarn_session_get_sampling(session, &s);
    const option_value *v = args->options;
    s.temperature = v[OPTION_TEMP].given ? (float)v[OPTION_TEMP].real : s.temperature;
    s.top_p = v[OPTION_TOP_P].given ? (float)v[OPTION_TOP_P].real : s.top_p;
    s.top_k = v[OPTION_TOP_K].given ? (uint32_t)v[OPTION_TOP_K].number : s.top_k;
    s.min_p = v[OPTION_MIN_P].given ? (float)v[OPTION_MIN_P].real : s.min_p;
    s.repeat_penalty =
        v[OPTION_REPEAT_PENALTY].given ? (float)v[OPTION_REPEAT_PENALTY].real : s.repeat_penalty;
    s.repeat_last_n =
        v[OPTION_REPEAT_LAST_N].given ? (uint32_t)v[OPTION_REPEAT_LAST_N].number : s.repeat_last_n;
    s.seed = v[OPTION_SEED].given ? v[OPTION_SEED].number : s.seed;
    return tarn_session_set_sampling(session, &s, err);
}
