/* Reading characters and broken parts, against the table of well-formed byte sequences. */
#include "utf8.h"
#include "check.h"

/* Writes a code point by the definition of the encoding; surrogates, too. */
static size_t put(uint32_t c, uint8_t out[4])
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (uint8_t)(0x80 | (c & 0x3f));
    out[0] = (uint8_t)((0xf00u >> n & 0xff) | c);
    return n;
}

CASE(every_code_point)
{
    for (uint32_t c = 0; c < 0x110000; c++) {
        uint8_t bytes[4] = {0};
        size_t n = put(c, bytes);
        tarni_utf8 got = tarni_utf8_read(bytes, n);
        if (c >= 0xd800 && c < 0xe000) {
            REQUIRE(got.kind == TARNI_UTF8_BROKEN && got.n_bytes == 1);
            continue;
        }
        REQUIRE(got.kind == TARNI_UTF8_WHOLE && got.code_point == c && got.n_bytes == n);
        REQUIRE(tarni_utf8_width(bytes[0]) == n);
        for (size_t cut = 1; cut < n; cut++) { /* a start of it stays open, then is one part */
            got = tarni_utf8_read(bytes, cut);
            REQUIRE(got.kind == TARNI_UTF8_OPEN && got.n_bytes == cut);
            uint8_t broken[4] = {bytes[0], bytes[1], bytes[2], bytes[3]};
            broken[cut] = 'x';
            got = tarni_utf8_read(broken, n);
            REQUIRE(got.kind == TARNI_UTF8_BROKEN && got.n_bytes == cut);
        }
    }
}

CASE(no_start_of_any_character)
{
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xe0\x80\x80",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x80\x80\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80",
                                      "\xf8\x88",
                                      "\xfe",
                                      "\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tarni_utf8 got = tarni_utf8_read((const uint8_t *)bad[i], strlen(bad[i]));
        CHECK_EQ(got.kind, TARNI_UTF8_BROKEN);
        CHECK_EQ(got.n_bytes, 1);
    }
}

CASE(valid_bytes_end_where_it_breaks)
{
    uint8_t text[64];
    for (size_t n = 0; n < sizeof text; n++) {
        memset(text, 'a', sizeof text);
        CHECK_EQ(tarni_utf8_valid_bytes(text, n), n);
        for (size_t at = 0; at < n; at++) {
            text[at] = 0xff;
            CHECK_EQ(tarni_utf8_valid_bytes(text, n), at);
            text[at] = 0xe4; /* followed by 'a' or by nothing */
            CHECK_EQ(tarni_utf8_valid_bytes(text, n), at);
            text[at] = 'a';
        }
    }
    CHECK_EQ(tarni_utf8_valid_bytes((const uint8_t *)"\xe4\xb8\xad"
                                                     "a\xc3\xa9z",
                                    7),
             7);
    CHECK_EQ(tarni_utf8_valid_bytes((const uint8_t *)"\xe4\xb8\xad"
                                                     "a\xc3",
                                    5),
             4);
}

CHECK_MAIN(ENTRY(every_code_point), ENTRY(no_start_of_any_character),
           ENTRY(valid_bytes_end_where_it_breaks))
