/* Cutting a text into pieces.
 *
 * Each alternative below is one of the published pattern, in its order. Every set in it is a
 * bracket of class letters, so that
 *   - the classes are exactly those of Unicode 16.0, whatever tables PCRE2 was built with (10.42
 *     has 14.0, its \s has U+180E, its \p{Han} means script extensions);
 *   - a set is a bitmap of 256 bits and not a list of seven hundred ranges to compare one by one;
 *   - no group is repeated, so neither the JIT's nor the interpreter's stack grows with the text.
 *
 * Linear time: all an alternative can do before it fails is run over one stretch of letters (or of
 * space) and give back to its last fitting place. Pieces end at that place at the earliest, and
 * behind it no alternative gives back so far again, so every letter is passed a fixed number of
 * times.
 *
 * Rejected: the published pattern itself over UTF-8 with its classes as ranges. It gives the same
 * pieces (the test compares them) but looks through hundreds of ranges at each character beyond
 * ASCII, and written out comes near the 64 KiB that PCRE2 allows a compiled pattern. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "pretokenize.h"
#include "unicode_classes.h"
#include "utf8.h"

#define UPPER       "[uSTREVMLDoc]"
#define LOWER       "[astrevmldoc]"
#define BEFORE_WORD "[_w.fqck]?" /* no line end, no letter, no number */
#define CONTRACTION "(?:q(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?"
#define SPACE       "[_wb]"

static const char pattern_text[] =
    "[hnk]+"                                        /* [\p{Han}]+ */
    "|" BEFORE_WORD UPPER "*" LOWER "+" CONTRACTION /* words: Title, lower */
    "|" BEFORE_WORD UPPER "+" LOWER "*" CONTRACTION /* and UPPER */
    "|[1n]{1,3}"                                    /* \p{N}{1,3} */
    "|_?[.fqck]+b*"                                 /*  ?[^\s\p{L}\p{N}]+[\r\n]* */
    "|" SPACE "*b+"                                 /* \s*[\r\n]+ */
    "|" SPACE "+(?![^_wb])"                         /* \s+(?!\S) */
    "|" SPACE "+";                                  /* \s+ */

static void *memory_alloc(size_t n_bytes, void *allocator)
{
    const tarn_allocator *a = allocator;
    return a->alloc(a->user, n_bytes);
}

static void memory_free(void *memory, void *allocator)
{
    tarni_free(allocator, memory);
}

tarn_status tarni_pretokenizer_init(tarni_pretokenizer *p, bool jit,
                                    const tarn_allocator *allocator, tarn_error *err)
{
    *p = (tarni_pretokenizer){0};
    p->memory =
        pcre2_general_context_create(memory_alloc, memory_free, (void *)(uintptr_t)allocator);
    if (!p->memory)
        return tarni_fail(err, TARN_E_NO_MEMORY, "cutting pattern: out of memory");
    pcre2_compile_context *compile = pcre2_compile_context_create(p->memory);
    int code = 0;
    PCRE2_SIZE at = 0;
    if (compile)
        p->pattern = pcre2_compile((PCRE2_SPTR)pattern_text, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED,
                                   &code, &at, compile);
    pcre2_compile_context_free(compile);
    if (!p->pattern) {
        tarni_pretokenizer_fini(p);
        return tarni_fail(err, TARN_E_NO_MEMORY, "cutting pattern: out of memory (PCRE2 %d)", code);
    }
    /* A hardened host may refuse memory that is written and then run: interpret it there. */
    p->jit = jit && pcre2_jit_compile(p->pattern, PCRE2_JIT_COMPLETE) == 0;
    return TARN_OK;
}

void tarni_pretokenizer_fini(tarni_pretokenizer *p)
{
    pcre2_code_free(p->pattern);
    pcre2_general_context_free(p->memory);
    *p = (tarni_pretokenizer){0};
}

tarn_status tarni_cutter_init(tarni_cutter *c, const tarni_pretokenizer *p, tarn_error *err)
{
    *c = (tarni_cutter){.pretokenizer = p};
    c->match = pcre2_match_data_create(1, p->memory);
    c->limits = pcre2_match_context_create(p->memory);
    if (!c->match || !c->limits) {
        tarni_cutter_fini(c);
        return tarni_fail(err, TARN_E_NO_MEMORY, "cutting text: out of memory");
    }
    /* The default allows ten million steps, meant for patterns that may explode. This one's steps
     * are linear in the text, so a limit could only fail a good text. */
    pcre2_set_match_limit(c->limits, UINT32_MAX);
    pcre2_set_depth_limit(c->limits, UINT32_MAX);
    return TARN_OK;
}

void tarni_cutter_fini(tarni_cutter *c)
{
    pcre2_match_context_free(c->limits);
    pcre2_match_data_free(c->match);
    *c = (tarni_cutter){0};
}

size_t tarni_classify(const uint8_t *text, size_t text_bytes, char *classes, size_t chars_max,
                      size_t *n_bytes)
{
    size_t n = 0, at = 0;
    while (n < chars_max && at < text_bytes) {
        if (text[at] < 0x80) {
            classes[n++] = tarni_ascii_classes[text[at++]];
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
    return class == '_' || class == 'w' || class == 'b' || class == 'f';
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

tarn_status tarni_next_piece(const tarni_cutter *c, const char *classes, size_t n_chars, size_t at,
                             size_t *piece_chars, tarn_error *err)
{
    const pcre2_code *pattern = c->pretokenizer->pattern;
    int found = PCRE2_ERROR_JIT_BADOPTION;
    if (c->pretokenizer->jit)
        found = pcre2_jit_match(pattern, (PCRE2_SPTR)classes, n_chars, at, 0, c->match, c->limits);
    if (found < 0) /* no JIT, or none of its own stack left: the interpreter has the last word */
        found = pcre2_match(pattern, (PCRE2_SPTR)classes, n_chars, at, PCRE2_NO_JIT, c->match,
                            c->limits);
    TARN_ASSERT(found != PCRE2_ERROR_NOMATCH); /* some alternative takes any letter */
    if (found < 0)
        return tarni_fail(err, TARN_E_NO_MEMORY, "cutting text: PCRE2 error %d", found);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(c->match);
    TARN_ASSERT(span[0] == at && span[1] > at);
    *piece_chars = span[1] - at;
    return TARN_OK;
}
