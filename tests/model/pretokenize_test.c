/* Cutting, against the published pattern itself: PCRE2 over UTF-8, each class spelled out as the
 * ranges the class table was made from. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "pretokenize.h"
#include "unicode_classes.h"
#include "utf8.h"
#include "vectors.h"

#define CODE_POINTS 0x110000

static json_t *class_sets(void)
{
    json_error_t bad;
    json_t *file = json_load_file(TEST_DATA "/unicode/classes.json", 0, &bad);
    if (!file)
        CHECK_FAIL("%s", bad.text);
    return file;
}

/* Calls fn for every code point of a set of classes.json. */
static void each_range(const json_t *file, const char *name, void (*fn)(void *, uint32_t, uint32_t),
                       void *arg)
{
    const json_t *ranges = json_object_get(json_object_get(file, "classes"), name);
    CHECK(json_array_size(ranges) > 0);
    for (size_t i = 0; i < json_array_size(ranges); i++) {
        char *end;
        uint32_t first = (uint32_t)strtoul(json_string_value(json_array_get(ranges, i)), &end, 16);
        fn(arg, first, *end == '-' ? (uint32_t)strtoul(end + 1, NULL, 16) : first);
    }
}

static void mark(void *arg, uint32_t first, uint32_t last)
{
    for (uint32_t c = first; c <= last; c++)
        ((bool *)arg)[c] = true;
}

/* The letters a member of each set may have; every other letter is no member. */
CASE(every_code_point_has_its_class)
{
    static const struct {
        const char *name, *letters;
    } sets[] = {
        {"Han", "hnk"}, {"N", "1n"},  {"White_Space", "_wb"}, {"M", "ck"}, {"Ll", "astrevmld"},
        {"Lm", "oh"},   {"Lo", "oh"}, {"Lu", "uSTREVMLD"},    {"Lt", "u"},
    };
    static bool members[CODE_POINTS], letters_of_l[CODE_POINTS];
    json_t *file = class_sets();
    size_t n_bad = 0;
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        memset(members, 0, sizeof members);
        each_range(file, sets[s].name, mark, members);
        if (sets[s].name[0] == 'L')
            each_range(file, sets[s].name, mark, letters_of_l);
        for (uint32_t c = 0; c < CODE_POINTS; c++)
            if (members[c] && !strchr(sets[s].letters, tarni_unicode_class(c)))
                n_bad++;
        if (strcmp(sets[s].name, "Han") == 0 || strcmp(sets[s].name, "N") == 0 ||
            strcmp(sets[s].name, "White_Space") == 0)
            for (uint32_t c = 0; c < CODE_POINTS; c++)
                if (!members[c] && strchr(sets[s].letters, tarni_unicode_class(c)))
                    n_bad++;
    }
    for (uint32_t c = 0; c < CODE_POINTS; c++)
        if ((strchr("astrevmlduSTREVMLDoh", tarni_unicode_class(c)) != NULL) != letters_of_l[c])
            n_bad++;
    CHECK_EQ(n_bad, 0);
    CHECK_EQ(tarni_unicode_class(0x17f), 's');
    CHECK_EQ(tarni_unicode_class('\''), 'q');
    CHECK_EQ(tarni_unicode_class(0x1c), 'f');
    CHECK_EQ(tarni_unicode_class(0x180e), '.');
    CHECK_EQ(tarni_unicode_class(0x10ffff), '.');
    json_decref(file);
}

/* Appends the ranges of (the sets named in `plus`, less those in `minus`); names are separated by
 * spaces. Merged, because PCRE2 takes 64 KiB of compiled pattern at most. */
static void put_ranges(const json_t *file, const char *plus, const char *minus, tarni_writer *out)
{
    bool *in = calloc(CODE_POINTS + 1, 1), *not_in = calloc(CODE_POINTS + 1, 1);
    char names[64], *rest;
    snprintf(names, sizeof names, "%s", plus);
    for (char *name = strtok_r(names, " ", &rest); name; name = strtok_r(NULL, " ", &rest))
        each_range(file, name, mark, in);
    if (minus)
        each_range(file, minus, mark, not_in);
    for (uint32_t c = 0, first = 0; c < CODE_POINTS; c++) {
        if (!in[c] || not_in[c])
            continue;
        if (c == 0 || !in[c - 1] || not_in[c - 1])
            first = c;
        if (!in[c + 1] || not_in[c + 1]) {
            char text[48];
            int n = snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", first, c);
            tarni_put_bytes(out, text, (size_t)n);
        }
    }
    free(not_in);
    free(in);
}

/* One letter of this form stands for each set; the rest is the pattern as published. */
#define WORD_END "(?:'[sS\\x{17f}]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?"
static const char published[] =
    "[H]+"
    "|[^\\r\\nX]?[U]*[W]+" WORD_END "|[^\\r\\nX]?[U]+[W]*" WORD_END "|[N]{1,3}"
    "| ?[^PX]+[\\r\\n]*"
    "|[P]*[\\r\\n]+"
    "|[P]+(?![^P])"
    "|[P]+";

static pcre2_code *published_pattern(const json_t *file)
{
    static const struct {
        char letter;
        const char *plus, *minus;
    } sets[] = {
        {'H', "Han", NULL},         {'U', "Lu Lt Lm Lo M", "Han"},
        {'W', "Ll Lm Lo M", "Han"}, {'X', "Lu Lt Ll Lm Lo N", NULL},
        {'N', "N", NULL},           {'P', "White_Space", NULL},
    };
    tarni_writer text;
    tarni_writer_init(&text, &tarni_heap);
    for (const char *at = published; *at; at++) {
        bool in_brackets =
            at > published && (at[-1] == '[' || at[-1] == '^' || at[-1] == 'n' || at[-1] == 'P');
        size_t s = 0, n_sets = sizeof sets / sizeof *sets;
        while (s < n_sets && !(in_brackets && sets[s].letter == *at))
            s++;
        if (s < n_sets)
            put_ranges(file, sets[s].plus, sets[s].minus, &text);
        else
            tarni_put_u8(&text, (uint8_t)*at);
    }
    int code;
    PCRE2_SIZE where;
    pcre2_code *pattern =
        pcre2_compile(text.data, text.n_bytes, PCRE2_UTF | PCRE2_ANCHORED, &code, &where, NULL);
    if (!pattern)
        CHECK_FAIL("pattern: error %d at %zu", code, (size_t)where);
    tarni_writer_fini(&text);
    return pattern;
}

/* Characters chosen so that every class, every contraction and every kind of space is frequent. */
static size_t random_text(uint64_t *seed, char *text, size_t n_chars)
{
    static const char *const alphabet[] = {
        "a",
        "b",
        "s",
        "t",
        "r",
        "e",
        "v",
        "m",
        "l",
        "d",
        "A",
        "B",
        "S",
        "T",
        "R",
        "E",
        "V",
        "L",
        "'",
        "'",
        " ",
        " ",
        "\n",
        "\r",
        "\t",
        "\f",
        "\x1c",
        "1",
        "9",
        ".",
        "!",
        "<",
        "\xc5\xbf",
        "\xe4\xb8\xad",
        "\xe3\x80\x87",
        "\xe2\xba\x80",
        "\xe3\x80\x85",
        "\xf0\x96\xbf\xb0",
        "\xcc\x81",
        "\xc2\xa0",
        "\xe3\x80\x80",
        "\xe2\x80\xa8",
        "\xe1\xa0\x8e",
        "\xc7\x85",
        "\xea\xb0\x80",
        "\xca\xb0",
        "\xc3\xa9",
        "\xc3\x89",
        "\xd9\xa1",
        "\xf0\x9f\x98\x80",
        "\xef\xbf\xbd",
    };
    size_t n = 0, n_alphabet = sizeof alphabet / sizeof *alphabet;
    uint32_t narrow = next_random(seed) % 3; /* some texts use few characters: long runs */
    uint32_t shift = next_random(seed);
    for (size_t i = 0; i < n_chars; i++) {
        size_t pick = narrow ? shift + next_random(seed) % (2 + 4 * narrow) : next_random(seed);
        const char *c = alphabet[pick % n_alphabet];
        memcpy(text + n, c, strlen(c));
        n += strlen(c);
    }
    return n;
}

static void compare_pieces(const pcre2_code *pattern, pcre2_match_data *match, const char *text,
                           size_t n_bytes)
{
    char classes[256];
    size_t used, n = tarni_classify((const uint8_t *)text, n_bytes, classes, sizeof classes, &used);
    size_t byte = 0;
    CHECK_EQ(used, n_bytes);
    for (size_t at = 0, piece = 0; at < n; at += piece) {
        piece = tarni_next_piece(classes + at, n - at);
        size_t end = byte;
        for (size_t i = 0; i < piece; i++)
            end += tarni_utf8_width((uint8_t)text[end]);
        int found = pcre2_match(pattern, (PCRE2_SPTR)text, n_bytes, byte, 0, match, NULL);
        size_t want = found > 0 ? pcre2_get_ovector_pointer(match)[1] : 0;
        if (want != end) {
            CHECK_FAIL("piece at byte %zu ends at %zu, should at %zu: %.*s", byte, end, want,
                       (int)n_bytes, text);
            return;
        }
        byte = end;
    }
}

CASE(pieces_of_the_published_pattern)
{
    json_t *file = class_sets();
    pcre2_code *pattern = published_pattern(file);
    json_decref(file);
    REQUIRE(pattern != NULL);
    pcre2_jit_compile(pattern, PCRE2_JIT_COMPLETE);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    uint64_t seed = 11;
    for (int i = 0; i < 40000; i++) {
        char text[256];
        size_t n_bytes = random_text(&seed, text, 1 + next_random(&seed) % 40);
        compare_pieces(pattern, match, text, n_bytes);
    }
    pcre2_match_data_free(match);
    pcre2_code_free(pattern);
}

/* The pattern over class letters, so that every text of up to LETTERS_MAX letters can be tried. */
#define LETTERS_MAX 5

#define LETTER_WORD_END "(?:q(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?"
static const char over_letters[] =
    "[hnk]+"
    "|[_w.fqck]?[uSTREVMLDoc]*[astrevmldoc]+" LETTER_WORD_END
    "|[_w.fqck]?[uSTREVMLDoc]+[astrevmldoc]*" LETTER_WORD_END "|[1n]{1,3}"
    "|_?[.fqck]+b*"
    "|[_wb]*b+"
    "|[_wb]+(?![^_wb])"
    "|[_wb]+";

CASE(pieces_of_every_short_text)
{
    static const char letters[] = "hnkuaoc1bw_fq.sTrEvLld";
    int code;
    PCRE2_SIZE where;
    pcre2_code *pattern = pcre2_compile((PCRE2_SPTR)over_letters, PCRE2_ZERO_TERMINATED,
                                        PCRE2_ANCHORED, &code, &where, NULL);
    REQUIRE(pattern != NULL);
    pcre2_jit_compile(pattern, PCRE2_JIT_COMPLETE);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    size_t n_letters = strlen(letters), n_bad = 0, n_texts = 1;
    for (size_t n = 1; n <= LETTERS_MAX; n++) {
        n_texts *= n_letters;
        for (size_t number = 0; number < n_texts && n_bad < 10; number++) {
            char text[LETTERS_MAX];
            for (size_t i = 0, rest = number; i < n; i++, rest /= n_letters)
                text[i] = letters[rest % n_letters];
            int found = pcre2_jit_match(pattern, (PCRE2_SPTR)text, n, 0, 0, match, NULL);
            size_t want = found > 0 ? pcre2_get_ovector_pointer(match)[1] : 0;
            size_t got = tarni_next_piece(text, n);
            if (got != want) {
                CHECK_FAIL("%.*s: the piece is %zu, should be %zu", (int)n, text, got, want);
                n_bad++;
            }
        }
    }
    pcre2_match_data_free(match);
    pcre2_code_free(pattern);
}

/* Nothing here may need a second look at a letter that grows with the text. */
CASE(long_runs)
{
    static const char *const units[] = {"a", "u", "o", "h", "_", "b", "w", "1", ".", "ou", "_b"};
    size_t n = 2000000;
    char *classes = malloc(n);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t covered = 0, n_pieces = 0;
        for (size_t i = 0; i < n; i++)
            classes[i] = units[u][i % strlen(units[u])];
        for (; covered < n; n_pieces++)
            covered += tarni_next_piece(classes + covered, n - covered);
        CHECK_EQ(covered, n);
        /* "ou": a capital cannot end the word that a letter without case began. */
        CHECK_EQ(n_pieces, units[u][0] == '1' ? (n + 2) / 3 : units[u][1] == 'u' ? 2 : 1);
    }
    free(classes);
}

CASE(runs_are_cut)
{
    size_t n = TARNI_RUN_CHARS + 10;
    char *classes = malloc(n);
    memset(classes, 'a', n);
    CHECK_EQ(tarni_run_cut(classes, TARNI_RUN_CHARS), TARNI_RUN_CHARS);
    CHECK_EQ(tarni_run_cut(classes, n), TARNI_RUN_CHARS);
    classes[15] = 'f';
    CHECK_EQ(tarni_run_cut(classes, n), n);
    memset(classes, '_', n);
    memset(classes, 'f', 100);
    memset(classes + 100, 'b', 100);
    CHECK_EQ(tarni_run_cut(classes, n), TARNI_RUN_CHARS);
    classes[200] = '.';
    CHECK_EQ(tarni_run_cut(classes, n), n);
    CHECK_EQ(tarni_run_cut("a", 1), 1);
    free(classes);
}

CASE(classes_stop_at_the_limit)
{
    char classes[4];
    size_t n_bytes;
    CHECK_EQ(tarni_classify((const uint8_t *)"a\xe4\xb8\xad!bc", 7, classes, 3, &n_bytes), 3);
    CHECK_EQ(n_bytes, 5);
    CHECK_BYTES(classes, "ah.", 3);
}

CHECK_MAIN(ENTRY(every_code_point_has_its_class), ENTRY(pieces_of_the_published_pattern),
           ENTRY(pieces_of_every_short_text), ENTRY(long_runs), ENTRY(runs_are_cut),
           ENTRY(classes_stop_at_the_limit))
