/* check.h - what a test program needs: a table of cases, checks that print the values.
 *
 *     CASE(rejects_a_short_header)
 *     {
 *         CHECK_STATUS(parse(...), TARN_E_FORMAT);
 *     }
 *     CHECK_MAIN(ENTRY(rejects_a_short_header), ENTRY(...))
 *
 * PROGRAM runs every case, PROGRAM CASE one; exit 0 passed, 1 failed, 77 skipped. A failed check
 * prints and goes on; REQUIRE ends the case. PROGRAM --ctest PREFIX LABELS prints the cases as
 * ctest's own script, which is how the build registers them (tarn_test in tests/CMakeLists.txt).
 * TEST_DATA (tests/data) and TEST_EXAMPLES (examples) are paths set by the build. */
#ifndef TARN_TESTS_CHECK_H
#define TARN_TESTS_CHECK_H

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_failures;
static const char *check_skipped;

typedef struct check_case {
    const char *name;
    void (*fn)(void);
} check_case;

#define CASE(name) static void case_##name(void)
/* clang-format off */
#define ENTRY(name) {#name, case_##name}
/* clang-format on */

#define CHECK_FAIL(...)                                                                            \
    (check_failures++, printf("%s:%d: ", __FILE__, __LINE__), printf(__VA_ARGS__), printf("\n"))

#define CHECK(cond) ((cond) ? (void)0 : (void)CHECK_FAIL("failed: %s", #cond))

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            CHECK_FAIL("required: %s", #cond);                                                     \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(got, want)                                                                        \
    do {                                                                                           \
        int64_t check_got = (int64_t)(got), check_want = (int64_t)(want);                          \
        if (check_got != check_want)                                                               \
            CHECK_FAIL("%s is %" PRId64 ", should be %" PRId64, #got, check_got, check_want);      \
    } while (0)

#define CHECK_TEXT(got, want)                                                                      \
    do {                                                                                           \
        const char *check_got = (got), *check_want = (want);                                       \
        if (strcmp(check_got, check_want) != 0)                                                    \
            CHECK_FAIL("%s is \"%s\", should be \"%s\"", #got, check_got, check_want);             \
    } while (0)

/* The text must contain the part: for error details. */
#define CHECK_HAS(got, part)                                                                       \
    do {                                                                                           \
        const char *check_got = (got), *check_part = (part);                                       \
        if (!strstr(check_got, check_part))                                                        \
            CHECK_FAIL("%s is \"%s\", should contain \"%s\"", #got, check_got, check_part);        \
    } while (0)

/* Any expression of type tarn_status; needs tarn_base.h. */
#define CHECK_STATUS(got, want)                                                                    \
    do {                                                                                           \
        tarn_status check_got = (got), check_want = (want);                                        \
        if (check_got != check_want)                                                               \
            CHECK_FAIL("%s is %s, should be %s", #got, tarn_status_name(check_got),                \
                       tarn_status_name(check_want));                                              \
    } while (0)

/* As CHECK_STATUS(got, TARN_OK), printing the detail of `err` and ending the case on failure. */
#define REQUIRE_OK(got, err)                                                                       \
    do {                                                                                           \
        tarn_status check_got = (got);                                                             \
        if (check_got != TARN_OK) {                                                                \
            CHECK_FAIL("%s is %s: %s", #got, tarn_status_name(check_got), (err)->detail);          \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_BYTES(got, want, n_bytes)                                                            \
    do {                                                                                           \
        if (memcmp((got), (want), (n_bytes)) != 0)                                                 \
            CHECK_FAIL("%s and %s differ within %zu bytes", #got, #want, (size_t)(n_bytes));       \
    } while (0)

#define SKIP(reason)                                                                               \
    do {                                                                                           \
        check_skipped = (reason);                                                                  \
        return;                                                                                    \
    } while (0)

/* Largest |got - want| / max|want| over n floats; INFINITY where got is not finite. */
static inline double check_rel(const float *got, const float *want, size_t n)
{
    double worst = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i]))
            return INFINITY;
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        top = fmax(top, fabs((double)want[i]));
    }
    return top > 0 ? worst / top : (worst == 0 ? 0 : INFINITY);
}

#define CHECK_CLOSE(got, want, n, bound)                                                           \
    do {                                                                                           \
        double check_error = check_rel((got), (want), (n));                                        \
        if (!(check_error <= (bound)))                                                             \
            CHECK_FAIL("%s is off by %.3g of max|%s|, the bound is %.3g", #got, check_error,       \
                       #want, (double)(bound));                                                    \
    } while (0)

static inline int check_run(const check_case *c)
{
    int before = check_failures;
    check_skipped = NULL;
    c->fn();
    if (check_failures != before) {
        printf("FAIL %s\n", c->name);
        return 1;
    }
    if (check_skipped) {
        printf("skip %s: %s\n", c->name, check_skipped);
        return 77;
    }
    printf("ok   %s\n", c->name);
    return 0;
}

static inline int check_main(int argc, char **argv, const check_case *cases, size_t n)
{
    if (argc == 4 && strcmp(argv[1], "--ctest") == 0) {
        for (size_t i = 0; i < n; i++)
            printf("add_test([=[%s.%s]=] [=[%s]=] [=[%s]=])\n"
                   "set_tests_properties([=[%s.%s]=] PROPERTIES SKIP_RETURN_CODE 77 LABELS [=[%s]=]"
                   " TIMEOUT 900)\n",
                   argv[2], cases[i].name, argv[0], cases[i].name, argv[2], cases[i].name, argv[3]);
        return 0;
    }
    int result = 0, found = 0;
    for (size_t i = 0; i < n; i++) {
        if (argc > 1 && strcmp(argv[1], cases[i].name) != 0)
            continue;
        found = 1;
        int one = check_run(&cases[i]);
        if (one == 1 || (argc > 1 && one == 77))
            result = one;
    }
    if (!found) {
        printf("no case named %s\n", argc > 1 ? argv[1] : "");
        return 1;
    }
    return result;
}

#define CHECK_MAIN(...)                                                                            \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        static const check_case cases[] = {__VA_ARGS__};                                           \
        return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);                      \
    }

#endif
