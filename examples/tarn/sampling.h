/* sampling.h - the options that say how ids are drawn. */
#ifndef TARN_COMMAND_SAMPLING_H
#define TARN_COMMAND_SAMPLING_H

#include "options.h"
#include "tarn.h"

#define OPTIONS_SAMPLING                                                                           \
    (OPTION_BIT(OPTION_TEMP) | OPTION_BIT(OPTION_TOP_P) | OPTION_BIT(OPTION_TOP_K) |               \
     OPTION_BIT(OPTION_MIN_P) | OPTION_BIT(OPTION_REPEAT_PENALTY) |                                \
     OPTION_BIT(OPTION_REPEAT_LAST_N) | OPTION_BIT(OPTION_SEED))

/* Those that are given replace those the session keeps. */
tarn_status sampling_set(const arguments *args, tarn_session *session, tarn_error *err);

#endif
