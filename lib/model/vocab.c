/* The rank file and its table.
 *
 * The file is untrusted: every line is checked before its token enters the table, so that behind
 * tarni_vocab_open these hold without further checks:
 *   1. ranks run from 0 without a gap, in the order of the lines;
 *   2. no two ranks have the same bytes, none is empty;
 *   3. every single byte has a rank, so any text can be encoded.
 *
 * The table is open addressing with linear probing over 8-byte slots, at most half full. Most
 * look-ups of a merge find nothing: a bit for each hash, at most one in eight set, tells so from a
 * sixteenth of the memory, which stays in the cache where the slots do not. A table of pairs of
 * ranks would make one merge cheaper, but takes two million look-ups to fill at each open; pairs of
 * bytes, which every merge starts from, have one. */
#include "vocab.h"
#include "paths.h"
#include "readfile.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define FILE_BYTES_MAX ((size_t)256 << 20)
#define LINE_BYTES_MAX ((size_t)1 << 20)

typedef struct rank_line {
    const char *file; /* for errors */
    size_t number;    /* from 1 */
    const char *text;
    size_t n_bytes;
} rank_line;

static tarn_status read_ranks(tarni_vocab *v, const char *file, const char *text, size_t n_bytes,
                              const tarn_allocator *allocator, tarn_error *err);
static tarn_status read_line(tarni_vocab *v, const rank_line *line, tarn_error *err);

tarn_status tarni_vocab_open(tarni_vocab *v, const char *path, const tarn_allocator *allocator,
                             tarn_error *err)
{
    *v = (tarni_vocab){0};
    char *text;
    size_t n_bytes;
    TARNI_TRY(tarni_read_file(path, FILE_BYTES_MAX, allocator, &text, &n_bytes, err));
    tarn_status status = read_ranks(v, tarni_path_tail(path), text, n_bytes, allocator, err);
    tarni_free(allocator, text);
    if (status != TARN_OK)
        tarni_vocab_fini(v, allocator);
    return status;
}

void tarni_vocab_fini(tarni_vocab *v, const tarn_allocator *allocator)
{
    tarni_free(allocator, v->pairs);
    tarni_free(allocator, v->filter);
    tarni_free(allocator, v->slots);
    tarni_free(allocator, v->starts);
    tarni_free(allocator, v->bytes);
    *v = (tarni_vocab){0};
}

/* The slot of these bytes, or the free one where they belong. */
static tarni_vocab_slot *find_slot(const tarni_vocab *v, uint64_t hash, const uint8_t *bytes,
                                   size_t n_bytes)
{
    uint32_t tag = (uint32_t)(hash >> 32);
    for (uint32_t i = (uint32_t)hash;; i++) {
        tarni_vocab_slot *slot = &v->slots[i & v->slots_mask];
        if (slot->rank == TARNI_NO_RANK)
            return slot;
        uint32_t start = v->starts[slot->rank];
        if (slot->tag == tag && v->starts[slot->rank + 1] - start == n_bytes &&
            memcmp(v->bytes + start, bytes, n_bytes) == 0)
            return slot;
    }
}

/* Other bits than those that choose the slot decide most of it. */
static uint32_t filter_bit(const tarni_vocab *v, uint64_t hash)
{
    return (uint32_t)(hash >> 8) & v->filter_mask;
}

uint32_t tarni_vocab_rank(const tarni_vocab *v, const uint8_t *bytes, size_t n_bytes)
{
    if (n_bytes > v->token_bytes_max)
        return TARNI_NO_RANK;
    uint64_t hash = XXH3_64bits(bytes, n_bytes);
    uint32_t bit = filter_bit(v, hash);
    if (!(v->filter[bit / 64] >> bit % 64 & 1))
        return TARNI_NO_RANK;
    return find_slot(v, hash, bytes, n_bytes)->rank;
}

static tarn_status allocate_tables(tarni_vocab *v, size_t n_lines, size_t n_bytes,
                                   const tarn_allocator *allocator, tarn_error *err)
{
    size_t n_slots = 512;
    while (n_slots < 2 * n_lines)
        n_slots *= 2;
    TARNI_TRY(tarni_alloc(allocator, n_bytes, 1, &v->bytes, err));
    TARNI_TRY(tarni_alloc(allocator, n_lines + 1, sizeof *v->starts, &v->starts, err));
    TARNI_TRY(tarni_alloc(allocator, n_slots, sizeof *v->slots, &v->slots, err));
    TARNI_TRY(tarni_alloc(allocator, n_slots / 16, sizeof *v->filter, &v->filter, err));
    TARNI_TRY(tarni_alloc(allocator, 256 * 256, sizeof *v->pairs, &v->pairs, err));
    v->slots_mask = (uint32_t)(n_slots - 1);
    v->filter_mask = (uint32_t)(n_slots * 4 - 1);
    memset(v->slots, 0xff, n_slots * sizeof *v->slots);
    memset(v->pairs, 0xff, 256 * 256 * sizeof *v->pairs);
    memset(v->single, 0xff, sizeof v->single);
    return TARN_OK;
}

static tarn_status read_ranks(tarni_vocab *v, const char *file, const char *text, size_t n_bytes,
                              const tarn_allocator *allocator, tarn_error *err)
{
    const char *end = text + n_bytes;
    size_t n_lines = 1;
    for (const char *at = text; (at = memchr(at, '\n', (size_t)(end - at))) != NULL; at++)
        n_lines++;
    if (n_lines > TARNI_RANKS_MAX)
        return tarni_fail(err, TARN_E_FORMAT, "%s: has %zu lines, the limit is %u", file, n_lines,
                          TARNI_RANKS_MAX);
    TARNI_TRY(allocate_tables(v, n_lines, n_bytes, allocator, err));

    rank_line line = {.file = file};
    for (const char *at = text; at < end; at += line.n_bytes + 1) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        line.number++;
        line.text = at;
        line.n_bytes = (size_t)((stop ? stop : end) - at);
        TARNI_TRY(read_line(v, &line, err));
    }
    for (unsigned b = 0; b < 256; b++)
        if (v->single[b] == TARNI_NO_RANK)
            return tarni_fail(err, TARN_E_FORMAT, "%s: no rank is the single byte 0x%02x", file, b);
    return TARN_OK;
}

/* 0..63, or 64 for a character that is none of base64's. */
static uint32_t base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return (uint32_t)(c - 'A');
    if (c >= 'a' && c <= 'z')
        return (uint32_t)(c - 'a') + 26;
    if (c >= '0' && c <= '9')
        return (uint32_t)(c - '0') + 52;
    return c == '+' ? 62 : c == '/' ? 63 : 64;
}

/* Strict: padded, no bits behind the last byte, nothing but the alphabet. Returns the size, 0 for
 * anything wrong (a token is never empty). */
static size_t decode_base64(const char *text, size_t n_bytes, uint8_t *out)
{
    size_t size = 0;
    if (n_bytes == 0 || n_bytes % 4 != 0)
        return 0;
    for (size_t i = 0; i < n_bytes; i += 4) {
        uint32_t bits = 0;
        size_t n_pad = 0;
        if (i + 4 == n_bytes)
            n_pad = text[i + 3] != '=' ? 0 : text[i + 2] != '=' ? 1 : 2;
        for (size_t j = 0; j < 4; j++) {
            uint32_t value = j < 4 - n_pad ? base64_value(text[i + j]) : 0;
            if (value == 64)
                return 0;
            bits = bits << 6 | value;
        }
        if ((bits & ((1u << (8 * n_pad)) - 1)) != 0)
            return 0;
        for (size_t j = 0; j < 3 - n_pad; j++)
            out[size++] = (uint8_t)(bits >> (16 - 8 * j));
    }
    return size;
}

/* True if the text is the decimal form of `want`. */
static bool is_number(const char *text, size_t n_bytes, uint32_t want)
{
    char digits[10];
    size_t n = 0;
    do
        digits[n++] = (char)('0' + want % 10);
    while ((want /= 10) > 0);
    if (n != n_bytes)
        return false;
    for (size_t i = 0; i < n; i++)
        if (text[i] != digits[n - 1 - i])
            return false;
    return true;
}

static tarn_status read_line(tarni_vocab *v, const rank_line *line, tarn_error *err)
{
    uint32_t rank = v->n_ranks, start = v->starts[rank];
    if (line->n_bytes > LINE_BYTES_MAX)
        return tarni_fail(err, TARN_E_FORMAT, "%s: line %zu is %zu bytes, the limit is %zu",
                          line->file, line->number, line->n_bytes, LINE_BYTES_MAX);
    const char *space = memchr(line->text, ' ', line->n_bytes);
    if (!space)
        return tarni_fail(err, TARN_E_FORMAT, "%s: line %zu is not 'base64 rank'", line->file,
                          line->number);
    size_t code_bytes = (size_t)(space - line->text), number_bytes = line->n_bytes - code_bytes - 1;
    size_t size = decode_base64(line->text, code_bytes, v->bytes + start);
    if (size == 0)
        return tarni_fail(err, TARN_E_FORMAT, "%s: line %zu does not start with base64", line->file,
                          line->number);
    if (!is_number(space + 1, number_bytes, rank))
        return tarni_fail(err, TARN_E_FORMAT, "%s: line %zu has rank \"%.*s\", should be %u",
                          line->file, line->number, (int)(number_bytes < 20 ? number_bytes : 20),
                          space + 1, rank);
    uint64_t hash = XXH3_64bits(v->bytes + start, size);
    tarni_vocab_slot *slot = find_slot(v, hash, v->bytes + start, size);
    if (slot->rank != TARNI_NO_RANK)
        return tarni_fail(err, TARN_E_FORMAT, "%s: line %zu repeats the token of rank %u",
                          line->file, line->number, slot->rank);
    *slot = (tarni_vocab_slot){.tag = (uint32_t)(hash >> 32), .rank = rank};
    uint32_t bit = filter_bit(v, hash);
    v->filter[bit / 64] |= UINT64_C(1) << bit % 64;
    if (size == 1)
        v->single[v->bytes[start]] = rank;
    if (size == 2)
        v->pairs[v->bytes[start] << 8 | v->bytes[start + 1]] = rank;
    if (size > v->token_bytes_max)
        v->token_bytes_max = (uint32_t)size;
    v->starts[rank + 1] = start + (uint32_t)size;
    v->n_ranks++;
    return TARN_OK;
}
