/* tarn_base.h - the words every layer of tarn shares: status, error text, allocator, log sink.
 *
 * Installed beside tarn.h, which includes it; a user of the library never needs to include it.
 * Plain C11, also valid C++. */
#ifndef TARN_BASE_H
#define TARN_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#    define TARN_API                      __attribute__((visibility("default")))
#    define TARN_MUST_CHECK               __attribute__((warn_unused_result))
#    define TARN_PRINTF(fmt_idx, arg_idx) __attribute__((format(printf, fmt_idx, arg_idx)))
#else
#    define TARN_API
#    define TARN_MUST_CHECK
#    define TARN_PRINTF(fmt_idx, arg_idx)
#endif

/* X(NAME, number, sentence). Numbers are fixed for ever: append, never reuse. */
#define TARN_STATUS_LIST(X)                                                                        \
    X(INVALID, -1, "an argument is not valid")                                                     \
    X(NOT_FOUND, -2, "no such session, node or file")                                              \
    X(EXISTS, -3, "the name is taken")                                                             \
    X(BUSY, -4, "held by another writer")                                                          \
    X(CONFLICT, -5, "the session's head moved since it was read")                                  \
    X(NO_SPACE, -6, "the disk or the map is full")                                                 \
    X(QUOTA, -7, "a byte quota would be exceeded")                                                 \
    X(LIMIT, -8, "a limit given at creation is reached")                                           \
    X(IO, -9, "the operating system reports an error")                                             \
    X(CORRUPT, -10, "stored bytes do not match their checksum or structure")                       \
    X(FORMAT, -11, "not a format this version reads")                                              \
    X(MISMATCH, -12, "made with another model")                                                    \
    X(UNSUPPORTED, -13, "not supported")                                                           \
    X(NO_MEMORY, -14, "out of memory")                                                             \
    X(NO_DEVICE, -15, "no such device")                                                            \
    X(DEVICE, -16, "the device reports an error")                                                  \
    X(CANCELLED, -17, "cancelled")                                                                 \
    X(POISONED, -18, "the session failed earlier and must be reset or closed")                     \
    X(KEY, -19, "encryption key missing or wrong")

typedef enum tarn_status {
    TARN_OK = 0,
#define TARN_STATUS_ENUM(name, number, text) TARN_E_##name = (number),
    TARN_STATUS_LIST(TARN_STATUS_ENUM)
#undef TARN_STATUS_ENUM
} tarn_status;

/* What went wrong: the status, and one line with the names and values that disagreed.
 * Functions that take a tarn_error fill it only when they fail; NULL is allowed in the public API.
 */
typedef struct tarn_error {
    tarn_status status;
    char detail[256]; /* NUL-terminated; never holds prompt text */
} tarn_error;

/* Where the tokens of a segment come from. The numbers are stored: fixed for ever. */
typedef enum tarn_role {
    TARN_ROLE_SYSTEM = 1,
    TARN_ROLE_USER = 2,
    TARN_ROLE_ASSISTANT = 3,
    TARN_ROLE_TOOL = 4,  /* a tool's result; carries the id of the call it answers */
    TARN_ROLE_TOOLS = 5, /* the declaration of the tools a model may call */
    TARN_ROLE_TOKENS = 6 /* ids given as ids, outside any message */
} tarn_role;

/* "system", "user", "assistant", "tool", "tools", "tokens"; "unknown" for any other number. */
TARN_API const char *tarn_role_name(tarn_role role);

/* Memory the library takes for itself. All three functions or none; `alloc` and `resize` return
 * NULL when there is none left. Must be callable from any thread. Memory must be aligned for any
 * standard type. `resize(user, NULL, n)` is `alloc`; `release(user, NULL)` does nothing. */
typedef struct tarn_allocator {
    void *(*alloc)(void *user, size_t n_bytes);
    void *(*resize)(void *user, void *memory, size_t n_bytes);
    void (*release)(void *user, void *memory);
    void *user;
} tarn_allocator;

typedef enum tarn_log_level {
    TARN_LOG_OFF = 0,
    TARN_LOG_ERROR = 1,
    TARN_LOG_WARN = 2,
    TARN_LOG_INFO = 3,
    TARN_LOG_DEBUG = 4
} tarn_log_level;

/* Where log lines go. No sink (fn NULL) is the default: the library prints nothing by itself.
 * Called from any thread, never under a lock; `message` is borrowed for the call.
 * Prompt text and token ids are never logged. */
typedef struct tarn_log {
    void (*fn)(void *user, tarn_log_level level, const char *message, const char *file, int line);
    void *user;
    tarn_log_level level; /* the most talkative level wanted */
} tarn_log;

/* "OK", "NOT_FOUND", ...: the name without prefix; "UNKNOWN" for a number outside the list. */
TARN_API const char *tarn_status_name(tarn_status status);
/* The sentence of the list above. */
TARN_API const char *tarn_status_text(tarn_status status);

#ifdef __cplusplus
}
#endif
#endif
