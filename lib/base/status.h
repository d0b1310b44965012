/* status.h - setting an error once, asserting our own bugs.
 *
 * Every fallible function below the public API takes a `tarn_error *err` that is never NULL, sets
 * it exactly once where the failure is noticed, and passes it on unchanged. */
#ifndef TARN_BASE_STATUS_H
#define TARN_BASE_STATUS_H

#include "tarn_base.h"

/* Sets err and returns `status`, so that a failure is one statement:
 *     return tarni_fail(err, TARN_E_FORMAT, "%s: field hidden_size is %lld", path, value);
 * Text beyond 255 bytes is cut at a UTF-8 boundary; control characters become '?'. */
tarn_status tarni_fail(tarn_error *err, tarn_status status, const char *format, ...)
    TARN_PRINTF(3, 4);

/* tarni_fail for a failed system call: appends ": " and the text of errno; ENOSPC and EDQUOT become
 * TARN_E_NO_SPACE, ENOENT TARN_E_NOT_FOUND, ENOMEM TARN_E_NO_MEMORY, anything else TARN_E_IO. */
tarn_status tarni_fail_errno(tarn_error *err, int errno_value, const char *format, ...)
    TARN_PRINTF(3, 4);

/* tarni_fail(err, TARN_E_NO_MEMORY, ...) with the size that was asked for, and the ceiling it met
 * if this thread's last allocation was refused by one. */
tarn_status tarni_fail_memory(tarn_error *err, size_t n_bytes);

/* For allocators with a ceiling: it refuses this thread's allocation (option NULL: it granted it).
 * `option` names it and must last for ever. */
void tarni_memory_ceiling(const char *option, uint64_t bytes, uint64_t bytes_max);

#define TARNI_TRY(expr)                                                                            \
    do {                                                                                           \
        tarn_status try_status = (expr);                                                           \
        if (try_status != TARN_OK)                                                                 \
            return try_status;                                                                     \
    } while (0)

/* For functions with a single exit: `status` must be a local, `fail` a label. */
#define TARNI_TRY_GOTO(expr)                                                                       \
    do {                                                                                           \
        status = (expr);                                                                           \
        if (status != TARN_OK)                                                                     \
            goto fail;                                                                             \
    } while (0)

/* Our own bugs, never the world's: stays on in release builds. Calls the misuse handler, then
 * aborts. */
#define TARN_ASSERT(cond)                                                                          \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0))                                                          \
            tarni_assert_failed(#cond, __FILE__, __LINE__);                                        \
    } while (0)

typedef void (*tarni_misuse_fn)(const char *condition, const char *file, int line);
/* Process wide; NULL restores the default, which writes one line to standard error. */
void tarni_set_misuse_handler(tarni_misuse_fn fn);
_Noreturn void tarni_assert_failed(const char *condition, const char *file, int line);

#endif
