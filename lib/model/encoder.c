/* Encoding while the text streams in.
 *
 * Invariants:
 *  1. `text` begins where a piece of the cutting pattern begins, in a stretch that began at the
 * last cut: the pattern looks ahead but never behind, so what has ids already no longer matters.
 *  2. at.n_chars letters in `classes` are those of the characters in `text`.
 *
 * A piece is settled if no text behind what is here could make it another. The pattern's
 * alternatives (pretokenize.c) look ahead in four ways only: to the letter behind a run they took,
 * to the end of a run of letters (a capital run is a word of its own or belongs to the small
 * letters behind it), to the end of a run of space (its last line end, or its last but one
 * character), and over the three characters of a contraction. is_settled asks that each of them
 * ends inside the text.
 *
 * A run that is not settled is not looked at again before it has grown by an eighth: bytes that
 * come one by one would otherwise cost the square of its length. TARNI_RUN_CHARS cuts it in any
 * case.
 *
 * A failed call takes nothing: everything up to the end of a call is read behind what was there,
 * and only the end drops what now has ids. */
#include "encoder.h"

#include "pretokenize.h"
#include "utf8.h"

#include <string.h>

enum { WORD = 1, SPACE = 2 };

/* The class letters (unicode_classes.h) that words and space are made of. */
static const uint8_t kinds[128] = {
    ['u'] = WORD, ['S'] = WORD, ['T'] = WORD,  ['R'] = WORD,  ['E'] = WORD,  ['V'] = WORD,
    ['M'] = WORD, ['L'] = WORD, ['D'] = WORD,  ['o'] = WORD,  ['c'] = WORD,  ['a'] = WORD,
    ['s'] = WORD, ['t'] = WORD, ['r'] = WORD,  ['e'] = WORD,  ['v'] = WORD,  ['m'] = WORD,
    ['l'] = WORD, ['d'] = WORD, ['_'] = SPACE, ['w'] = SPACE, ['b'] = SPACE,
};

void tarni_encoder_init(tarni_encoder *e, const tarni_tokenizer *t, const tarn_allocator *allocator)
{
    *e = (tarni_encoder){.tokenizer = t, .allocator = allocator};
    tarni_writer_init(&e->text, allocator);
    tarni_bpe_init(&e->bpe, tarni_tokenizer_vocab(t), 0,
                   allocator); /* nobody knows how much comes */
}

void tarni_encoder_fini(tarni_encoder *e)
{
    if (!e->tokenizer)
        return;
    tarni_bpe_fini(&e->bpe);
    tarni_free(e->allocator, e->classes);
    tarni_writer_fini(&e->text);
    *e = (tarni_encoder){0};
}

static size_t run_end(const char *classes, size_t n, size_t at, uint8_t kind)
{
    while (at < n && kinds[(uint8_t)classes[at]] == kind)
        at++;
    return at;
}

/* Is the piece of the first `end` letters what it is whatever comes behind all n? */
static bool is_settled(const char *classes, size_t n, size_t end)
{
    uint8_t first = kinds[(uint8_t)classes[0]];
    if (end >= n || run_end(classes, n, first == WORD ? 0 : 1, WORD) == n)
        return false;
    if (first == SPACE && run_end(classes, n, 0, SPACE) == n)
        return false;
    return classes[end] != 'q' || n - end > 2;
}

static size_t bytes_of(const uint8_t *text, size_t n_chars)
{
    size_t at = 0;
    for (size_t i = 0; i < n_chars; i++)
        at += tarni_utf8_width(text[at]);
    return at;
}

/* Ids of the pieces up to letter `end`: all of them where the stretch ends there, else those that
 * are settled. */
static tarn_status encode_to(tarni_encoder *e, size_t end, bool ends, tarni_ids *out,
                             tarn_error *err)
{
    while (e->done_chars < end) {
        size_t left = end - e->done_chars;
        const char *classes = e->classes + e->done_chars;
        const uint8_t *text = e->text.data + e->done_bytes;
        size_t piece = tarni_next_piece(classes, left);
        if (!ends && !is_settled(classes, left, piece))
            return TARN_OK;
        size_t piece_bytes = bytes_of(text, piece);
        TARNI_TRY(tarni_bpe_piece(&e->bpe, text, piece_bytes, out, err));
        e->done_bytes += piece_bytes;
        e->done_chars += piece;
    }
    return TARN_OK;
}

static bool is_space(char class) /* as runs are counted, unlike the pattern */
{
    return kinds[(uint8_t) class] == SPACE || class == 'f';
}

/* Does the reference cut the text before this letter? Counts it in any case. */
static bool cuts_before(tarni_encoder_mark *at, char class)
{
    bool space = is_space(class), cut = at->part_chars == TARNI_PART_CHARS;
    if (cut)
        at->part_chars = 0;
    if (space != at->run_is_space) {
        at->run_is_space = space;
        at->run_chars = 0;
    }
    if (cut || at->run_chars == TARNI_RUN_CHARS) {
        at->run_chars = 0;
        cut = true;
    }
    at->part_chars++;
    at->run_chars++;
    return cut;
}

/* Letters for the text that is new, and ids as far as they are certain. */
static tarn_status take_text(tarni_encoder *e, bool ends, tarni_ids *out, tarn_error *err)
{
    tarni_encoder_mark *at = &e->at;
    size_t first = at->n_chars, n_bytes = e->text.n_bytes - at->text_bytes, read = 0;
    TARNI_TRY(tarni_grow(e->allocator, &e->classes, &e->classes_max, first + n_bytes,
                         sizeof *e->classes, err));
    if (n_bytes > 0)
        at->n_chars += tarni_classify(e->text.data + at->text_bytes, n_bytes, e->classes + first,
                                      n_bytes, &read);
    at->text_bytes += read;
    for (size_t i = first; i < at->n_chars; i++)
        if (cuts_before(at, e->classes[i]))
            TARNI_TRY(encode_to(e, i, true, out, err));
    size_t held = tarni_encoder_held(e);
    if (ends || e->done_chars > 0 || held > at->chars_tried + at->chars_tried / 8) {
        TARNI_TRY(encode_to(e, at->n_chars, ends, out, err));
        at->chars_tried = tarni_encoder_held(e);
    }
    return TARN_OK;
}

static void drop_done(tarni_encoder *e)
{
    if (e->done_chars == 0)
        return;
    e->text.n_bytes -= e->done_bytes;
    e->at.text_bytes -= e->done_bytes;
    memmove(e->text.data, e->text.data + e->done_bytes, e->text.n_bytes);
    e->at.n_chars -= e->done_chars;
    memmove(e->classes, e->classes + e->done_chars, e->at.n_chars);
    e->done_bytes = e->done_chars = 0;
}

static tarn_status feed(tarni_encoder *e, const char *text, size_t n_bytes, bool ends,
                        tarni_ids *out, tarn_error *err)
{
    size_t n_ids = out->n_ids;
    drop_done(e);
    e->before = e->at;
    tarni_text_stream_bytes(&e->at.held, text, n_bytes, &e->text);
    if (ends)
        tarni_text_stream_flush(&e->at.held, &e->text);
    tarn_status status =
        e->text.failed ? tarni_fail_memory(err, n_bytes) : take_text(e, ends, out, err);
    if (status != TARN_OK) {
        tarni_encoder_undo(e);
        out->n_ids = n_ids;
    }
    return status;
}

tarn_status tarni_encoder_feed(tarni_encoder *e, const char *text, size_t n_bytes, tarni_ids *out,
                               tarn_error *err)
{
    return feed(e, text, n_bytes, false, out, err);
}

tarn_status tarni_encoder_end(tarni_encoder *e, tarni_ids *out, tarn_error *err)
{
    TARNI_TRY(feed(e, "", 0, true, out, err));
    e->at.chars_tried = e->at.part_chars = e->at.run_chars = 0;
    return TARN_OK;
}

void tarni_encoder_undo(tarni_encoder *e)
{
    e->at = e->before;
    e->done_chars = e->done_bytes = 0;
    e->text.n_bytes = e->at.text_bytes;
    e->text.failed = false;
}

size_t tarni_encoder_held(const tarni_encoder *e)
{
    return e->at.n_chars - e->done_chars;
}
