#include "utf8.h"

#include <string.h>

/* The second byte's range depends on the first: that is what keeps overlong forms, surrogates and
 * code points above U+10FFFF out. Later bytes are 80..BF. */
static void second_range(uint8_t first, uint8_t *low, uint8_t *high)
{
    *low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    *high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
}

tarni_utf8 tarni_utf8_read(const uint8_t *text, size_t n_bytes)
{
    uint8_t first = text[0], low, high;
    if (first < 0x80)
        return (tarni_utf8){TARNI_UTF8_WHOLE, first, 1};
    if (first < 0xc2 || first > 0xf4)
        return (tarni_utf8){TARNI_UTF8_BROKEN, 0, 1};
    size_t width = tarni_utf8_width(first);
    uint32_t code_point = first & (0x7fu >> width);
    second_range(first, &low, &high);
    for (size_t i = 1; i < width; i++) {
        if (i == n_bytes)
            return (tarni_utf8){TARNI_UTF8_OPEN, 0, i};
        if (text[i] < low || text[i] > high)
            return (tarni_utf8){TARNI_UTF8_BROKEN, 0, i};
        code_point = code_point << 6 | (text[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    return (tarni_utf8){TARNI_UTF8_WHOLE, code_point, width};
}

size_t tarni_utf8_valid_bytes(const uint8_t *text, size_t n_bytes)
{
    size_t at = 0;
    while (at < n_bytes) {
        uint64_t word;
        if (n_bytes - at >= sizeof word) {
            memcpy(&word, text + at, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                at += sizeof word;
                continue;
            }
        }
        tarni_utf8 c = tarni_utf8_read(text + at, n_bytes - at);
        if (c.kind != TARNI_UTF8_WHOLE)
            return at;
        at += c.n_bytes;
    }
    return n_bytes;
}
