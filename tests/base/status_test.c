#include "check.h"
#include "log.h"
#include "status.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

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
    CHECK_TEXT(err.detail, "open x: No such file or directory");
    CHECK_STATUS(tarni_fail_errno(&err, ENOMEM, "map %s", "x"), TARN_E_NO_MEMORY);
    CHECK_STATUS(tarni_fail_errno(&err, EDQUOT, "write %s", "x"), TARN_E_NO_SPACE);
    CHECK_STATUS(tarni_fail_errno(&err, EACCES, "open %s", "x"), TARN_E_IO);
    CHECK_STATUS(tarni_fail_errno(&err, 9999, "open %s", "x"), TARN_E_IO);
    CHECK_HAS(err.detail, "9999");
}

/* A path may be longer than the detail: it is cut between characters, the cause stays. */
CASE(a_long_path_keeps_its_cause)
{
    tarn_error err = {0};
    char path[400];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(path, 'a', sizeof path);
        for (size_t i = shift; i + 3 < sizeof path; i += 3)
            memcpy(path + i, "\xE6\xBC\xA3", 3);
        path[sizeof path - 1] = 0;
        CHECK_STATUS(tarni_fail_errno(&err, EACCES, "%s", path), TARN_E_IO);
        const char *cause = strstr(err.detail, ": Permission denied");
        REQUIRE(cause != NULL);
        CHECK_EQ((size_t)(cause - err.detail) % 3, shift);
    }
}

CASE(every_status_has_a_name_of_its_own)
{
    static const tarn_status all[] = {TARN_OK,
#define TARN_STATUS_VALUE(name, number, text) TARN_E_##name,
                                      TARN_STATUS_LIST(TARN_STATUS_VALUE)
#undef TARN_STATUS_VALUE
    };
    size_t n = sizeof all / sizeof all[0];
    CHECK_EQ(n, 20);
    for (size_t i = 0; i < n; i++) {
        CHECK(strcmp(tarn_status_name(all[i]), "UNKNOWN") != 0);
        CHECK_EQ(all[i], -(int)i); /* no number is left out or used twice */
        for (size_t j = 0; j < i; j++)
            CHECK(strcmp(tarn_status_name(all[i]), tarn_status_name(all[j])) != 0);
    }
    CHECK_TEXT(tarn_status_text(TARN_OK), "done");
    CHECK_TEXT(tarn_status_text((tarn_status)1), "unknown status");
}

CASE(roles_have_names)
{
    CHECK_TEXT(tarn_role_name(TARN_ROLE_SYSTEM), "system");
    CHECK_TEXT(tarn_role_name(TARN_ROLE_USER), "user");
    CHECK_TEXT(tarn_role_name(TARN_ROLE_ASSISTANT), "assistant");
    CHECK_TEXT(tarn_role_name(TARN_ROLE_TOOL), "tool");
    CHECK_TEXT(tarn_role_name(TARN_ROLE_TOOLS), "tools");
    CHECK_TEXT(tarn_role_name(TARN_ROLE_TOKENS), "tokens");
    CHECK_TEXT(tarn_role_name((tarn_role)0), "unknown");
}

static int misuse_pipe;

static void tell_parent(const char *condition, const char *file, int line)
{
    (void)file, (void)line;
    if (write(misuse_pipe, condition, strlen(condition)) < 0)
        _exit(9);
}

/* In a child, whose death is the point. */
CASE(a_broken_invariant_is_told_and_ends_the_process)
{
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        misuse_pipe = ends[1];
        tarni_set_misuse_handler(tell_parent);
        signal(SIGABRT, SIG_DFL);
        TARN_ASSERT(misuse_pipe == -1);
        _exit(0);
    }
    close(ends[1]);
    char told[64] = {0};
    int result = 0;
    CHECK(read(ends[0], told, sizeof told - 1) > 0);
    CHECK_EQ(waitpid(child, &result, 0), child);
    CHECK(WIFSIGNALED(result) && WTERMSIG(result) == SIGABRT);
    CHECK_TEXT(told, "misuse_pipe == -1");
    close(ends[0]);
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
    log.level = TARN_LOG_OFF;
    TARNI_LOG(&log, TARN_LOG_ERROR, "value %d", 10);
    log.fn = NULL;
    TARNI_LOG(&log, TARN_LOG_OFF, "value %d", 11);
    CHECK_EQ(lines, 1);
}

CHECK_MAIN(ENTRY(numbers_never_change), ENTRY(detail_is_cut_at_a_character),
           ENTRY(detail_has_no_control_characters), ENTRY(errno_chooses_the_status),
           ENTRY(a_long_path_keeps_its_cause), ENTRY(every_status_has_a_name_of_its_own),
           ENTRY(roles_have_names), ENTRY(a_broken_invariant_is_told_and_ends_the_process),
           ENTRY(log_reaches_only_a_sink_that_wants_it))
