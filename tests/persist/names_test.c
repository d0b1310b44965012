#include "names.h"

#include "check.h"

static tarn_error err;

static void refuse(const char *name, const char *why)
{
    CHECK_STATUS(tarnp_name_check(name, &err), TARN_E_INVALID);
    CHECK_HAS(err.detail, why);
}

CASE(good_names)
{
    char longest[TARNP_NAME_BYTES_MAX + 1];
    memset(longest, 'x', TARNP_NAME_BYTES_MAX);
    longest[TARNP_NAME_BYTES_MAX] = 0;
    const char *const names[] = {
        "a",       "refactor-42/try-b", "caf\xC3\xA9", "\xE6\xB9\x96",    longest,
        "a b = c", "\xF0\x9F\x8C\x8A",  "\xC2\xA0",    "\xF4\x8F\xBF\xBF"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        CHECK_STATUS(tarnp_name_check(names[i], &err), TARN_OK);
}

CASE(bad_names)
{
    char longer[TARNP_NAME_BYTES_MAX + 2];
    memset(longer, 'x', TARNP_NAME_BYTES_MAX + 1);
    longer[TARNP_NAME_BYTES_MAX + 1] = 0;
    refuse("", "0 bytes");
    refuse(NULL, "is NULL");
    refuse(longer, "256 bytes");
    refuse("user@host", "'@' at byte 4");
    refuse("a\nb", "control character at byte 1");
    refuse("a\x7F", "control character");
    refuse("a\xC2\x85z", "control character at byte 1");
    refuse("\xC2\x9F", "control character");
}

CASE(ill_formed_utf8)
{
    const char *const names[] = {"\x80",
                                 "\xBF",
                                 "\xC0\x80",
                                 "\xC1\xBF",
                                 "\xC3",
                                 "\xC3z",
                                 "\xE0\x9F\xBF",
                                 "\xED\xA0\x80",
                                 "\xED\xBF\xBF",
                                 "\xE6\xB9",
                                 "\xE6\xB9z",
                                 "\xE6\xB9\xC3",
                                 "\xF0\x8F\xBF\xBF",
                                 "\xF5\x80\x80\x80",
                                 "\xF0\x9F\x8C",
                                 "\xF4\x90\x80\x80",
                                 "ok\xFF",
                                 "\xFE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        refuse(names[i], "not UTF-8");
}

CASE(tags)
{
    char key[80] = {0}, value[300] = {0};
    memset(key, 'k', 65);
    memset(value, 'v', 256);
    const tarnp_tag good[] = {{"owner", "ann"}, {"note", ""}, {"x", "a=b@c"}};
    CHECK_STATUS(tarnp_tags_check(good, 3, &err), TARN_OK);
    CHECK_STATUS(tarnp_tags_check(NULL, 0, &err), TARN_OK);
    const tarnp_tag bad[] = {{"", "v"},    {"a=b", "v"},  {key, "v"},
                             {"k", value}, {"k", "\x01"}, {"k", NULL}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_STATUS(tarnp_tags_check(&bad[i], 1, &err), TARN_E_INVALID);
    const tarnp_tag twice[] = {{"a", "1"}, {"a", "2"}};
    CHECK_STATUS(tarnp_tags_check(twice, 2, &err), TARN_E_INVALID);
    CHECK_HAS(err.detail, "twice");
    static tarnp_tag many[TARNP_TAGS_MAX + 1];
    CHECK_STATUS(tarnp_tags_check(many, TARNP_TAGS_MAX + 1, &err), TARN_E_INVALID);
}

CHECK_MAIN(ENTRY(good_names), ENTRY(bad_names), ENTRY(ill_formed_utf8), ENTRY(tags))
