#include "status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *tarn_status_name(tarn_status status)
{
    switch (status) {
    case TARN_OK:
        return "OK";
#define TARN_STATUS_NAME(name, number, text)                                                       \
    case TARN_E_##name:                                                                            \
        return #name;
        TARN_STATUS_LIST(TARN_STATUS_NAME)
#undef TARN_STATUS_NAME
    }
    return "UNKNOWN";
}

const char *tarn_status_text(tarn_status status)
{
    switch (status) {
    case TARN_OK:
        return "done";
#define TARN_STATUS_TEXT(name, number, text)                                                       \
    case TARN_E_##name:                                                                            \
        return text;
        TARN_STATUS_LIST(TARN_STATUS_TEXT)
#undef TARN_STATUS_TEXT
    }
    return "unknown status";
}

const char *tarn_role_name(tarn_role role)
{
    switch (role) {
    case TARN_ROLE_SYSTEM:
        return "system";
    case TARN_ROLE_USER:
        return "user";
    case TARN_ROLE_ASSISTANT:
        return "assistant";
    case TARN_ROLE_TOOL:
        return "tool";
    case TARN_ROLE_TOOLS:
        return "tools";
    case TARN_ROLE_TOKENS:
        return "tokens";
    }
    return "unknown";
}

/* The text may quote names from hostile files: no control characters, no torn UTF-8 at the cut. */
static void clean_detail(char *text, size_t n_bytes)
{
    size_t length = strlen(text);
    if (length == n_bytes - 1) {
        while (length > 0 && ((unsigned char)text[length - 1] & 0xC0) == 0x80)
            length--;
        if (length > 0 && (unsigned char)text[length - 1] >= 0xC0)
            length--;
        text[length] = 0;
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7F)
            text[i] = '?';
    }
}

tarn_status tarni_fail(tarn_error *err, tarn_status status, const char *format, ...)
{
    TARN_ASSERT(err != NULL);
    va_list args;
    va_start(args, format);
    vsnprintf(err->detail, sizeof err->detail, format, args);
    va_end(args);
    clean_detail(err->detail, sizeof err->detail);
    err->status = status;
    return status;
}

tarn_status tarni_fail_errno(tarn_error *err, int errno_value, const char *format, ...)
{
    TARN_ASSERT(err != NULL);
    char buffer[96], text[152]; /* together they fit the detail: the cause is never cut off */
    const char *cause = strerror_r(errno_value, buffer, sizeof buffer); /* the GNU one */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    clean_detail(text, sizeof text);
    tarn_status status = TARN_E_IO;
    if (errno_value == ENOSPC || errno_value == EDQUOT)
        status = TARN_E_NO_SPACE;
    else if (errno_value == ENOENT)
        status = TARN_E_NOT_FOUND;
    else if (errno_value == ENOMEM)
        status = TARN_E_NO_MEMORY;
    return tarni_fail(err, status, "%s: %s", text, cause);
}

/* An allocator can only say no; why it did is left here for the error that follows. */
static _Thread_local struct {
    const char *option;
    uint64_t bytes, bytes_max;
} ceiling;

void tarni_memory_ceiling(const char *option, uint64_t bytes, uint64_t bytes_max)
{
    ceiling.option = option;
    ceiling.bytes = bytes;
    ceiling.bytes_max = bytes_max;
}

tarn_status tarni_fail_memory(tarn_error *err, size_t n_bytes)
{
    const char *option = ceiling.option;
    ceiling.option = NULL;
    if (option)
        return tarni_fail(err, TARN_E_NO_MEMORY,
                          "no memory for %zu bytes: %s is %" PRIu64 ", %" PRIu64 " are taken",
                          n_bytes, option, ceiling.bytes_max, ceiling.bytes);
    return tarni_fail(err, TARN_E_NO_MEMORY, "no memory for %zu bytes", n_bytes);
}

static void write_to_stderr(const char *condition, const char *file, int line)
{
    char text[512];
    int n =
        snprintf(text, sizeof text, "tarn: broken invariant: %s (%s:%d)\n", condition, file, line);
    if (n > 0) {
        size_t size = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
        if (write(STDERR_FILENO, text, size) < 0)
            return; /* nothing more can be done: the process aborts next */
    }
}

static tarni_misuse_fn misuse_handler = write_to_stderr;

void tarni_set_misuse_handler(tarni_misuse_fn fn)
{
    misuse_handler = fn ? fn : write_to_stderr;
}

void tarni_assert_failed(const char *condition, const char *file, int line)
{
    misuse_handler(condition, file, line);
    abort();
}
