/* The tokenizer: ranks, special names and the cutting rules behind one face.
 *
 * Encoding, in the order of the reference:
 *   1. bytes that are no UTF-8 become U+FFFD, so everything below sees characters only;
 *   2. the text is cut into parts of 400,000 characters, and these where a run is too long;
 *   3. in each of those special names are found, if they are asked for;
 *   4. each stretch between two of them is cut into pieces by the pattern as a text of its own;
 *   5. each piece becomes its rank or is merged.
 * The cuts come first, so one of them may split a special name, which then is text.
 *
 * All scratch memory belongs to the call: the tokenizer is never written once it is open. */
#include "tokenizer.h"
#include "bpe.h"
#include "paths.h"
#include "pretokenize.h"
#include "specials.h"
#include "utf8.h"
#include "vocab.h"

#include <sodium.h>
#include <string.h>

struct tarni_tokenizer {
    tarn_allocator allocator;
    uint32_t n_rows;
    tarni_vocab vocab;
    tarni_specials specials;
};

/* One call of tarni_tokenizer_encode. */
typedef struct encoding {
    const tarni_tokenizer *t;
    bool specials;
    tarni_bpe bpe;
    tarni_ids *out;
    tarn_error *err;
} encoding;

static tarn_status encode_text(encoding *e, const uint8_t *text, size_t n_bytes);

static tarn_status open_files(tarni_tokenizer *t, const char *dir, uint32_t n_rows, tarn_error *err)
{
    char *path = NULL;
    tarn_status status;
    TARNI_TRY(tarni_path_join(&t->allocator, dir, "tiktoken.model", &path, err));
    TARNI_TRY_GOTO(tarni_vocab_open(&t->vocab, path, &t->allocator, err));
    uint32_t n_ranks = t->vocab.n_ranks;
    if (n_rows == 0)
        n_rows = n_ranks + TARNI_SPECIAL_ROWS;
    if (n_rows < n_ranks) {
        status = tarni_fail(err, TARN_E_FORMAT, "%s: has %u ranks, the model only %u rows",
                            tarni_path_tail(path), n_ranks, n_rows);
        goto fail;
    }
    uint32_t n_found = n_rows - n_ranks;
    if (n_found > TARNI_SPECIAL_SLOTS)
        n_found = TARNI_SPECIAL_SLOTS;
    t->n_rows = n_ranks + n_found;
    tarni_free(&t->allocator, path);
    TARNI_TRY(tarni_path_join(&t->allocator, dir, "tokenizer_config.json", &path, err));
    status = tarni_specials_open(&t->specials, path, n_ranks, n_found, &t->allocator, err);
fail:
    tarni_free(&t->allocator, path);
    return status;
}

tarn_status tarni_tokenizer_open(const char *dir, uint32_t n_rows, const tarn_allocator *allocator,
                                 tarni_tokenizer **out, tarn_error *err)
{
    *out = NULL;
    tarni_tokenizer *t;
    tarn_status status;
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *t, &t, err));
    t->allocator = *allocator;
    TARNI_TRY_GOTO(open_files(t, dir, n_rows, err));
    *out = t;
    return TARN_OK;
fail:
    tarni_tokenizer_free(t);
    return status;
}

void tarni_tokenizer_free(tarni_tokenizer *t)
{
    if (!t)
        return;
    tarn_allocator allocator = t->allocator;
    tarni_specials_fini(&t->specials, &allocator);
    tarni_vocab_fini(&t->vocab, &allocator);
    tarni_free(&allocator, t);
}

/* A copy of the text in which every maximal broken part is U+FFFD. */
static tarn_status repair(const tarn_allocator *allocator, const uint8_t *text, size_t n_bytes,
                          tarni_writer *out, tarn_error *err)
{
    tarni_writer_init(out, allocator);
    for (size_t at = 0; at < n_bytes;) {
        size_t valid = tarni_utf8_valid_bytes(text + at, n_bytes - at);
        tarni_put_bytes(out, text + at, valid);
        at += valid;
        if (at == n_bytes)
            break;
        tarni_put_bytes(out, TARNI_REPLACEMENT, TARNI_REPLACEMENT_BYTES);
        at += tarni_utf8_read(text + at, n_bytes - at).n_bytes;
    }
    if (out->failed) {
        tarni_writer_fini(out);
        return tarni_fail_memory(err, n_bytes);
    }
    return TARN_OK;
}

tarn_status tarni_tokenizer_encode(const tarni_tokenizer *t, const char *text, size_t n_bytes,
                                   bool specials, tarni_ids *out, tarn_error *err)
{
    if (n_bytes == 0)
        return TARN_OK;
    const uint8_t *bytes = (const uint8_t *)text;
    size_t n_ids = out->n_ids;
    encoding e = {.t = t, .specials = specials, .out = out, .err = err};
    tarni_writer repaired = {0};
    tarn_status status;
    if (tarni_utf8_valid_bytes(bytes, n_bytes) < n_bytes) {
        TARNI_TRY(repair(&t->allocator, bytes, n_bytes, &repaired, err));
        bytes = repaired.data;
        n_bytes = repaired.n_bytes;
    }
    tarni_bpe_init(&e.bpe, &t->vocab, n_bytes, &t->allocator);
    status = encode_text(&e, bytes, n_bytes);
    if (status != TARN_OK)
        out->n_ids = n_ids;
    tarni_bpe_fini(&e.bpe);
    tarni_writer_fini(&repaired);
    return status;
}

/* Bytes of the first n_chars characters. */
static size_t bytes_of(const uint8_t *text, size_t n_chars)
{
    size_t at = 0;
    for (size_t i = 0; i < n_chars; i++)
        at += tarni_utf8_width(text[at]);
    return at;
}

static size_t chars_of(const uint8_t *text, size_t n_bytes)
{
    size_t n = 0;
    for (size_t at = 0; at < n_bytes; at += tarni_utf8_width(text[at]))
        n++;
    return n;
}

/* Text between two specials; `classes` are its characters'. */
static tarn_status encode_stretch(encoding *e, const uint8_t *text, const char *classes,
                                  size_t n_chars)
{
    for (size_t at = 0, piece = 0; at < n_chars; at += piece) {
        piece = tarni_next_piece(classes + at, n_chars - at);
        size_t piece_bytes = bytes_of(text, piece);
        TARNI_TRY(tarni_bpe_piece(&e->bpe, text, piece_bytes, e->out, e->err));
        text += piece_bytes;
    }
    return TARN_OK;
}

/* Text between two cuts. */
static tarn_status encode_run(encoding *e, const uint8_t *text, size_t n_bytes, const char *classes,
                              size_t n_chars)
{
    while (e->specials && n_bytes > 0) {
        size_t before = 0, name_bytes = 0;
        uint32_t id = tarni_specials_find(&e->t->specials, text, n_bytes, &before, &name_bytes);
        if (id == UINT32_MAX)
            break;
        size_t before_chars = chars_of(text, before);
        TARNI_TRY(encode_stretch(e, text, classes, before_chars));
        TARNI_TRY(tarni_ids_push(e->out, id, e->err));
        size_t done_chars = before_chars + chars_of(text + before, name_bytes);
        text += before + name_bytes;
        n_bytes -= before + name_bytes;
        classes += done_chars;
        n_chars -= done_chars;
    }
    return encode_stretch(e, text, classes, n_chars);
}

static tarn_status encode_text(encoding *e, const uint8_t *text, size_t n_bytes)
{
    const tarn_allocator *allocator = &e->t->allocator;
    size_t chars_max = n_bytes < TARNI_PART_CHARS ? n_bytes : TARNI_PART_CHARS;
    char *classes;
    tarn_status status = TARN_OK;
    TARNI_TRY(tarni_alloc(allocator, chars_max, 1, &classes, e->err));
    while (n_bytes > 0 && status == TARN_OK) {
        size_t part_bytes;
        size_t n_chars = tarni_classify(text, n_bytes, classes, chars_max, &part_bytes);
        n_bytes -= part_bytes;
        for (size_t at = 0; at < n_chars && status == TARN_OK;) {
            size_t run_chars = tarni_run_cut(classes + at, n_chars - at);
            size_t run_bytes = at + run_chars == n_chars ? part_bytes : bytes_of(text, run_chars);
            status = encode_run(e, text, run_bytes, classes + at, run_chars);
            text += run_bytes;
            part_bytes -= run_bytes;
            at += run_chars;
        }
    }
    tarni_free(allocator, classes);
    return status;
}

tarn_status tarni_tokenizer_bytes(const tarni_tokenizer *t, uint32_t id, const uint8_t **bytes,
                                  size_t *n_bytes, tarn_error *err)
{
    *bytes = NULL;
    *n_bytes = 0;
    if (id >= t->n_rows)
        return tarni_fail(err, TARN_E_INVALID, "token id %u: ids run from 0 to %u", id,
                          t->n_rows - 1);
    if (id >= t->vocab.n_ranks) {
        const tarni_special_name *name = &t->specials.names[id - t->vocab.n_ranks];
        *bytes = (const uint8_t *)name->text;
        *n_bytes = name->n_bytes;
    } else {
        *bytes = t->vocab.bytes + t->vocab.starts[id];
        *n_bytes = t->vocab.starts[id + 1] - t->vocab.starts[id];
    }
    return TARN_OK;
}

tarn_status tarni_tokenizer_decode(const tarni_tokenizer *t, const uint32_t *ids, size_t n_ids,
                                   tarni_writer *out, tarn_error *err)
{
    size_t n_before = out->n_bytes;
    tarn_status status = TARN_OK;
    for (size_t i = 0; i < n_ids && status == TARN_OK; i++) {
        const uint8_t *bytes;
        size_t n_bytes;
        status = tarni_tokenizer_bytes(t, ids[i], &bytes, &n_bytes, err);
        tarni_put_bytes(out, bytes, n_bytes);
    }
    if (status == TARN_OK && out->failed)
        status = tarni_fail_memory(err, out->n_bytes);
    if (status != TARN_OK)
        out->n_bytes = n_before;
    return status;
}

bool tarni_tokenizer_special(const tarni_tokenizer *t, const char *name, uint32_t *out_id)
{
    size_t n_bytes = strlen(name), at = 0, found_bytes = 0;
    uint32_t id =
        tarni_specials_find(&t->specials, (const uint8_t *)name, n_bytes, &at, &found_bytes);
    if (id == UINT32_MAX || found_bytes != n_bytes)
        return false;
    *out_id = id;
    return true;
}

bool tarni_tokenizer_is_special(const tarni_tokenizer *t, uint32_t id)
{
    return id >= t->vocab.n_ranks && id < t->n_rows;
}

const tarni_vocab *tarni_tokenizer_vocab(const tarni_tokenizer *t)
{
    return &t->vocab;
}

uint32_t tarni_tokenizer_rows(const tarni_tokenizer *t)
{
    return t->n_rows;
}

static void hash_text(crypto_generichash_state *hash, const void *text, size_t n_bytes)
{
    uint8_t size[4];
    tarni_store_u32(size, (uint32_t)n_bytes);
    crypto_generichash_update(hash, size, sizeof size);
    crypto_generichash_update(hash, text, n_bytes);
}

/* Hashed: number of ranks, then length and bytes of each; id, length and bytes of each given name
 * in the order of ids. */
void tarni_tokenizer_digest(const tarni_tokenizer *t, uint8_t out[32])
{
    crypto_generichash_state hash;
    uint8_t word[4];
    crypto_generichash_init(&hash, NULL, 0, 32);
    tarni_store_u32(word, t->vocab.n_ranks);
    crypto_generichash_update(&hash, word, sizeof word);
    for (uint32_t r = 0; r < t->vocab.n_ranks; r++)
        hash_text(&hash, t->vocab.bytes + t->vocab.starts[r],
                  t->vocab.starts[r + 1] - t->vocab.starts[r]);
    for (uint32_t i = 0; i < TARNI_SPECIAL_SLOTS; i++) {
        const tarni_special_name *name = &t->specials.names[i];
        if (!name->given)
            continue;
        tarni_store_u32(word, t->specials.first_id + i);
        crypto_generichash_update(&hash, word, sizeof word);
        hash_text(&hash, name->text, name->n_bytes);
    }
    crypto_generichash_final(&hash, out, 32);
}

/* Moves what is decided at the start of `held` to `out`. */
static void settle(tarni_text_stream *s, tarni_writer *out)
{
    while (s->n_held > 0) {
        tarni_utf8 c = tarni_utf8_read(s->held, s->n_held);
        if (c.kind == TARNI_UTF8_OPEN)
            return;
        if (c.kind == TARNI_UTF8_WHOLE)
            tarni_put_bytes(out, s->held, c.n_bytes);
        else
            tarni_put_bytes(out, TARNI_REPLACEMENT, TARNI_REPLACEMENT_BYTES);
        s->n_held = (uint8_t)(s->n_held - c.n_bytes);
        memmove(s->held, s->held + c.n_bytes, s->n_held);
    }
}

void tarni_text_stream_bytes(tarni_text_stream *s, const char *bytes, size_t n_bytes,
                             tarni_writer *out)
{
    for (size_t i = 0; i < n_bytes; i++) {
        s->held[s->n_held++] = (uint8_t)bytes[i];
        settle(s, out);
    }
}

tarn_status tarni_text_stream_feed(tarni_text_stream *s, const tarni_tokenizer *t, uint32_t id,
                                   tarni_writer *out, tarn_error *err)
{
    const uint8_t *bytes;
    size_t n_bytes;
    TARNI_TRY(tarni_tokenizer_bytes(t, id, &bytes, &n_bytes, err));
    tarni_text_stream_bytes(s, (const char *)bytes, n_bytes, out);
    return out->failed ? tarni_fail_memory(err, out->n_bytes) : TARN_OK;
}

void tarni_text_stream_flush(tarni_text_stream *s, tarni_writer *out)
{
    if (s->n_held > 0)
        tarni_put_bytes(out, TARNI_REPLACEMENT, TARNI_REPLACEMENT_BYTES);
    s->n_held = 0;
}
