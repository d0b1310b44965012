/* Cutting a text into pieces.
 *
 * The pattern, with a set of class letters in each bracket, its alternatives in their order:
 *
 *     1  [\p{Han}]+                                                   HAN+
 *     2  [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+ CONTRACTION
 *                                                                     BEFORE? UPPER* LOWER+ (...)?
 *     3  the same with UPPER+ LOWER*
 *     4  \p{N}{1,3}                                                   NUMBER{1,3}
 *     5   ?[^\s\p{L}\p{N}]+[\r\n]*                                    _? SYMBOL+ b*
 *     6  \s*[\r\n]+                                                   SPACE* b+
 *     7  \s+(?!\S)                                                    SPACE+ (?![^SPACE])
 *     8  \s+                                                          SPACE+
 *
 * where no letter of 2 and 3 is Han. Each alternative is written out below as the runs it takes and
 * the one place it gives back to: where a run is followed by what must not follow, only the last
 * fitting letter within it matters. Every letter is passed a fixed number of times: a piece ends at
 * that place at the earliest, and behind it no alternative gives back so far again.
 *
 * Rejected: a library for regular expressions over these letters. It gives the same pieces (the
 * test compares them, and with the published pattern over UTF-8), at a third of the speed. */
#include "pretokenize.h"
#include "status.h"
#include "unicode_classes.h"
#include "utf8.h"

enum { /* sets of class letters, as bits */
       HAN = 1,
       UPPER = 2,
       LOWER = 4,
       BEFORE = 8, /* what may stand before a word: no line end, no letter, no number */
       NUMBER = 16,
       SYMBOL = 32,
       SPACE = 64,
       LINE_END = 128,
       BOTH = UPPER | LOWER
};

/* The letters of the contractions are ordinary capitals and small letters otherwise. */
static const uint8_t sets[128] = {
    ['h'] = HAN,
    ['n'] = HAN | NUMBER,
    ['k'] = HAN | BEFORE | SYMBOL,
    ['u'] = UPPER,
    ['S'] = UPPER,
    ['T'] = UPPER,
    ['R'] = UPPER,
    ['E'] = UPPER,
    ['V'] = UPPER,
    ['M'] = UPPER,
    ['L'] = UPPER,
    ['D'] = UPPER,
    ['a'] = LOWER,
    ['s'] = LOWER,
    ['t'] = LOWER,
    ['r'] = LOWER,
    ['e'] = LOWER,
    ['v'] = LOWER,
    ['m'] = LOWER,
    ['l'] = LOWER,
    ['d'] = LOWER,
    ['o'] = BOTH,
    ['c'] = BOTH | BEFORE | SYMBOL,
    ['1'] = NUMBER,
    ['b'] = SPACE | LINE_END,
    ['_'] = SPACE | BEFORE,
    ['w'] = SPACE | BEFORE,
    ['f'] = BEFORE | SYMBOL,
    ['q'] = BEFORE | SYMBOL,
    ['.'] = BEFORE | SYMBOL,
};

/* The end of the run of letters in `set` that starts at `at`. */
static size_t run_end(const char *classes, size_t n, size_t at, unsigned set)
{
    while (at < n && (sets[(uint8_t)classes[at]] & set))
        at++;
    return at;
}

static bool is_in(const char *classes, size_t n, size_t at, unsigned set)
{
    return at < n && (sets[(uint8_t)classes[at]] & set) == set;
}

/* The end of 's 't 're 've 'm 'll 'd in either case, or `at`. */
static size_t contraction_end(const char *classes, size_t n, size_t at)
{
    static const char seconds[128] = {['r'] = 'e', ['v'] = 'e', ['l'] = 'l'};
    if (at + 1 >= n || classes[at] != 'q')
        return at;
    char first = classes[at + 1] | 0x20; /* in small letters; none of the others becomes one */
    if (first == 's' || first == 't' || first == 'm' || first == 'd')
        return at + 2;
    char second = seconds[(uint8_t)first];
    return second && at + 2 < n && (classes[at + 2] | 0x20) == second ? at + 3 : at;
}

/* Alternatives 2 and 3; 0 if neither fits. */
static size_t word_end(const char *classes, size_t n)
{
    size_t begin = is_in(classes, n, 0, BEFORE), end = begin, last = SIZE_MAX;
    for (; is_in(classes, n, end, UPPER); end++)
        if (is_in(classes, n, end, BOTH))
            last = end;
    if (is_in(classes, n, end, LOWER))
        end = run_end(classes, n, end, LOWER);
    else if (last != SIZE_MAX)
        end = last + 1; /* what may be either ends the capitals and is the small letters */
    else if (is_in(classes, n, 0, BOTH))
        end = 1; /* a mark with nothing but capitals behind it: not what precedes a word, a word */
    else if (end == begin)
        return 0;
    return contraction_end(classes, n, end);
}

/* Alternatives 6 to 8. */
static size_t space_end(const char *classes, size_t n)
{
    size_t end = 0, last = SIZE_MAX;
    for (; is_in(classes, n, end, SPACE); end++)
        if (is_in(classes, n, end, LINE_END))
            last = end;
    if (last != SIZE_MAX)
        return last + 1;
    return end < n && end > 1 ? end - 1 : end;
}

size_t tarni_next_piece(const char *classes, size_t n_chars)
{
    unsigned first = sets[(uint8_t)classes[0]];
    if (first & HAN)
        return run_end(classes, n_chars, 0, HAN);
    if (first & (BOTH | BEFORE)) {
        size_t end = word_end(classes, n_chars);
        if (end > 0)
            return end;
    }
    if (first & NUMBER)
        return run_end(classes, n_chars < 3 ? n_chars : 3, 0, NUMBER);
    size_t symbols = classes[0] == '_', end = run_end(classes, n_chars, symbols, SYMBOL);
    if (end > symbols)
        return run_end(classes, n_chars, end, LINE_END);
    end = space_end(classes, n_chars);
    TARN_ASSERT(end > 0); /* some alternative takes any letter */
    return end;
}

size_t tarni_classify(const uint8_t *text, size_t text_bytes, char *classes, size_t chars_max,
                      size_t *n_bytes)
{
    size_t n = 0, at = 0;
    while (n < chars_max && at < text_bytes) {
        if (text[at] < 0x80) {
            classes[n++] = tarni_page_classes[0][text[at++]];
            continue;
        }
        tarni_utf8 c = tarni_utf8_read(text + at, text_bytes - at);
        TARN_ASSERT(c.kind == TARNI_UTF8_WHOLE);
        classes[n++] = tarni_unicode_class(c.code_point);
        at += c.n_bytes;
    }
    *n_bytes = at;
    return n;
}

static bool is_space(char class)
{
    return (sets[(uint8_t) class] & SPACE) || class == 'f';
}

size_t tarni_run_cut(const char *classes, size_t n_chars)
{
    bool space = is_space(classes[0]);
    size_t run = 0;
    for (size_t i = 0; i < n_chars; i++) {
        if (is_space(classes[i]) != space) {
            space = !space;
            run = 0;
        }
        if (run == TARNI_RUN_CHARS)
            return i;
        run++;
    }
    return n_chars;
}
