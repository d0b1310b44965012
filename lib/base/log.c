#include "log.h"

#include <stdarg.h>
#include <stdio.h>

void tarni_log_line(const tarn_log *log, tarn_log_level level, const char *file, int line,
                    const char *format, ...)
{
    if (!log || !log->fn || level > log->level)
        return;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log->fn(log->user, level, text, file, line);
}
