/* log.h - one line to the caller's sink, if there is one and it wants the level. */
#ifndef TARN_BASE_LOG_H
#define TARN_BASE_LOG_H

#include "tarn_base.h"

#define TARNI_LOG(log, level, ...) tarni_log_line((log), (level), __FILE__, __LINE__, __VA_ARGS__)

/* log may be NULL. Never pass prompt text or token ids. */
void tarni_log_line(const tarn_log *log, tarn_log_level level, const char *file, int line,
                    const char *format, ...) TARN_PRINTF(5, 6);

#endif
