#include "check.h"
#include "log.h"
#include "status.h"

#include <errno.h>

/* Numbers are a promise to every program compiled against an older header. */
CASE(numbers_never_change)
{
    CHECK_EQ(TARN_OK, 0);
    CHECK_EQ(TARN_E_INVALID, -1);
    CHECK_EQ(TARN_E_CONFLICT, -5);
    CHECK_EQ(TARN_E_CORRUPT, -10);
    CHECK_EQ(TARN_E_POISONED, -18);
    CHECK_EQ(TARN_E_KEY, -19);
    CHECK_TEXT(tarn_status_name(TARN_E_NO_SPACE), "NO_SPACE");
    CHECK_TEXT(tarn_status_name((tarn_status)-1000), "UNKNOWN");
    CHECK(strlen(tarn_status_text(TARN_E_MISMATCH)) > 0);
}

CASE(detail_is_cut_at_a_character)
{
    tarn_error err = {0};
    char text[400];
    for (int i = 0; i < 399; i += 3)
        memcpy(text + i, "\xE6\xBC\xA3", 3);
    text[399] = 0;
    CHECK_STATUS(tarni_fail(&err, TARN_E_FORMAT, "%s", text), TARN_E_FORMAT);
    CHECK_EQ(strlen(err.detail) % 3, 0);
    CHECK(strlen(err.detail) > 240);
    CHECK_STATUS(err.status, TARN_E_FORMAT);
}

CASE(detail_has_no_control_characters)
{
    tarn_error err = {0};
    CHECK_STATUS(tarni_fail(&err, TARN_E_FORMAT, "a\nb\x1b[31m"), TARN_E_FORMAT);
    CHECK_TEXT(err.detail, "a?b?[31m");
}

CASE(errno_chooses_the_status)
{
    tarn_error err = {0};
    CHECK_STATUS(tarni_fail_errno(&err, ENOSPC, "write %s", "x"), TARN_E_NO_SPACE);
    CHECK_STATUS(tarni_fail_errno(&err, ENOENT, "open %s", "x"), TARN_E_NOT_FOUND);
    CHECK_HAS(err.detail, "open x: ");
    CHECK_STATUS(tarni_fail_errno(&err, EACCES, "open %s", "x"), TARN_E_IO);
}

static int lines;

static void count_line(void *user, tarn_log_level level, const char *message, const char *file,
                       int line)
{
    (void)user, (void)level, (void)file, (void)line;
    CHECK_TEXT(message, "value 7");
    lines++;
}

CASE(log_reaches_only_a_sink_that_wants_it)
{
    tarn_log log = {count_line, NULL, TARN_LOG_WARN};
    TARNI_LOG(&log, TARN_LOG_WARN, "value %d", 7);
    TARNI_LOG(&log, TARN_LOG_INFO, "value %d", 8);
    TARNI_LOG(NULL, TARN_LOG_WARN, "value %d", 9);
    CHECK_EQ(lines, 1);
}

CHECK_MAIN(ENTRY(numbers_never_change), ENTRY(detail_is_cut_at_a_character),
           ENTRY(detail_has_no_control_characters), ENTRY(errno_chooses_the_status),
           ENTRY(log_reaches_only_a_sink_that_wants_it))
