/* Merging.
 *
 * A piece starts as one part a byte. Short pieces, which are nearly all, keep their parts side by
 * side and are searched from the start for each merge: that beats everything with an order in it.
 *
 * In long ones parts are a linked list over an array indexed by a part's first byte, so a merge is
 * O(1). Candidate pairs stand in a heap of 64-bit keys, rank above position: the smallest key is
 * the pair of lowest rank and, among equals, the leftmost.
 *
 * A merge changes the two pairs around it. Their old keys stay in the heap: a key counts only if
 * its rank is still the `pair` of its part. A key that became true again names the very same merge,
 * so a duplicate does no harm. Each merge adds at most two keys, so the heap never holds more than
 * three keys a byte.
 *
 * While one walk over the parts merges many pairs at once there is no heap either: a run of one
 * letter halves each time. */
#include "bpe.h"

#include <assert.h>
#include <string.h>

#define SHORT_BYTES     96
#define LONG_TEXT_BYTES 65536 /* from here on a larger table of known pairs pays */
#define ROUND_SHARE     8     /* a round goes on with rounds if it merged one part in so many */

/* A place for one of the pairs that are hashed to it. Texts repeat their pairs, and ranks are found
 * faster by two ranks than by bytes. */
typedef struct tarni_bpe_known {
    uint32_t left, right; /* ranks; TARNI_NO_RANK: empty */
    uint32_t pair;
} known;

typedef struct tarni_bpe_part {
    uint32_t prev, next; /* first bytes of the neighbours; next is n_bytes at the end */
    uint32_t rank;       /* of this part */
    uint32_t pair;       /* of this part and the next together, or TARNI_NO_RANK */
} part;

void tarni_bpe_init(tarni_bpe *b, const tarni_vocab *vocab, size_t text_bytes,
                    const tarn_allocator *allocator)
{
    *b = (tarni_bpe){.vocab = vocab, .allocator = allocator};
    b->known_bits = text_bytes < LONG_TEXT_BYTES ? 10 : 14;
}

void tarni_bpe_fini(tarni_bpe *b)
{
    if (b->allocator) {
        tarni_free(b->allocator, b->known);
        tarni_free(b->allocator, b->heap);
        tarni_free(b->allocator, b->parts);
    }
    *b = (tarni_bpe){0};
}

/* The rank of two parts together, whose bytes these are. */
static uint32_t look_up(const tarni_bpe *b, uint32_t left, uint32_t right, const uint8_t *bytes,
                        size_t n_bytes)
{
    known *k = &b->known[(left * 0x9e3779b1u ^ right * 0x85ebca6bu) >> (32 - b->known_bits)];
    if (k->left != left || k->right != right)
        *k = (known){left, right, tarni_vocab_rank(b->vocab, bytes, n_bytes)};
    return k->pair;
}

/* ---- short pieces ---------------------------------------------------------------------------- */

/* A part of a short piece in one word, pair above start above rank: the smallest word is the pair
 * of lowest rank and, among equals, the leftmost. */
#define RANK_BITS  24
#define NO_PAIR    ((UINT64_C(1) << RANK_BITS) - 1)
#define PAIR_SHIFT 40
static_assert(TARNI_RANKS_MAX < NO_PAIR && SHORT_BYTES < 256, "a part fits its word");

static uint64_t part_word(uint32_t pair, uint32_t start, uint32_t rank)
{
    uint64_t shown = pair == TARNI_NO_RANK ? NO_PAIR : pair;
    return shown << PAIR_SHIFT | (uint64_t)start << 32 | rank;
}

static uint32_t start_of(uint64_t word)
{
    return (uint32_t)(word >> 32) & 0xff;
}

/* The word at `i` with its pair looked up again; word n stands for the end. */
static void renew_pair(const tarni_bpe *b, const uint8_t *bytes, uint64_t *words, uint32_t n,
                       uint32_t i)
{
    uint32_t start = start_of(words[i]), rank = (uint32_t)words[i], pair = TARNI_NO_RANK;
    if (i + 1 < n)
        pair =
            look_up(b, rank, (uint32_t)words[i + 1], bytes + start, start_of(words[i + 2]) - start);
    words[i] = part_word(pair, start, rank);
}

/* The parts lie side by side, so that looking for the next merge is a walk over one array. */
static tarn_status merge_short(const tarni_bpe *b, const uint8_t *bytes, uint32_t n, tarni_ids *out,
                               tarn_error *err)
{
    const tarni_vocab *v = b->vocab;
    uint64_t words[SHORT_BYTES + 1];
    for (uint32_t i = 0; i + 1 < n; i++)
        words[i] = part_word(v->pairs[bytes[i] << 8 | bytes[i + 1]], i, v->single[bytes[i]]);
    words[n - 1] = part_word(TARNI_NO_RANK, n - 1, v->single[bytes[n - 1]]);
    words[n] = part_word(TARNI_NO_RANK, n, 0);
    for (;;) {
        uint64_t best = UINT64_MAX;
        uint32_t at = 0;
        for (uint32_t i = 0; i < n; i++) {
            at = words[i] < best ? i : at;
            best = words[i] < best ? words[i] : best;
        }
        if (best >> PAIR_SHIFT == NO_PAIR)
            break;
        words[at] = part_word(0, start_of(best), (uint32_t)(best >> PAIR_SHIFT));
        memmove(words + at + 1, words + at + 2, (n - at - 1) * sizeof *words);
        n--;
        renew_pair(b, bytes, words, n, at);
        if (at > 0)
            renew_pair(b, bytes, words, n, at - 1);
    }
    for (uint32_t i = 0; i < n; i++)
        TARNI_TRY(tarni_ids_push(out, (uint32_t)words[i], err));
    return TARN_OK;
}

/* ---- long pieces ----------------------------------------------------------------------------- */

/* Looks up the pair that starts at `at` again. */
static uint32_t set_pair(const tarni_bpe *b, const uint8_t *bytes, uint32_t n_bytes, uint32_t at)
{
    part *p = &b->parts[at];
    p->pair = TARNI_NO_RANK;
    if (p->next < n_bytes)
        p->pair =
            look_up(b, p->rank, b->parts[p->next].rank, bytes + at, b->parts[p->next].next - at);
    return p->pair;
}

static void merge(const tarni_bpe *b, const uint8_t *bytes, uint32_t n_bytes, uint32_t at)
{
    part *p = &b->parts[at], *gone = &b->parts[p->next];
    p->rank = p->pair;
    gone->pair = TARNI_NO_RANK;
    p->next = gone->next;
    if (p->next < n_bytes)
        b->parts[p->next].prev = at;
    set_pair(b, bytes, n_bytes, at);
    if (at > 0)
        set_pair(b, bytes, n_bytes, p->prev);
}

/* Merges the pairs of the lowest rank from left to right, as the heap would, in one walk. Stops
 * where a merge makes a pair of a lower rank, which would have to come first. (A new pair never has
 * the same rank: its bytes are more.) Returns whether it was worth its walk, so that rounds cost a
 * fixed number of looks at each part altogether. */
static bool merge_round(const tarni_bpe *b, const uint8_t *bytes, uint32_t n_bytes)
{
    uint32_t best = TARNI_NO_RANK, n_parts = 0, n_merged = 0;
    for (uint32_t at = 0; at < n_bytes; at = b->parts[at].next, n_parts++)
        if (b->parts[at].pair < best)
            best = b->parts[at].pair;
    if (best == TARNI_NO_RANK)
        return false;
    for (uint32_t at = 0; at < n_bytes; at = b->parts[at].next) {
        if (b->parts[at].pair != best)
            continue;
        merge(b, bytes, n_bytes, at);
        n_merged++;
        if (b->parts[at].pair < best || (at > 0 && b->parts[b->parts[at].prev].pair < best))
            break;
    }
    return n_merged > n_parts / ROUND_SHARE;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t key)
{
    size_t i = (*n)++;
    for (; i > 0 && heap[(i - 1) / 2] > key; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = key;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
    uint64_t top = heap[0], key = heap[--*n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= key)
            break;
        heap[i] = heap[child];
    }
    heap[i] = key;
    return top;
}

static void push_pair(const tarni_bpe *b, size_t *n, uint32_t at)
{
    if (b->parts[at].pair != TARNI_NO_RANK)
        heap_push(b->heap, n, (uint64_t)b->parts[at].pair << 32 | at);
}

static void merge_by_heap(const tarni_bpe *b, const uint8_t *bytes, uint32_t n_bytes)
{
    size_t n = 0;
    for (uint32_t at = 0; at < n_bytes; at = b->parts[at].next)
        push_pair(b, &n, at);
    while (n > 0) {
        uint64_t key = heap_pop(b->heap, &n);
        uint32_t at = (uint32_t)key;
        if (b->parts[at].pair != (uint32_t)(key >> 32))
            continue;
        merge(b, bytes, n_bytes, at);
        push_pair(b, &n, at);
        if (at > 0)
            push_pair(b, &n, b->parts[at].prev);
    }
}

tarn_status tarni_bpe_piece(tarni_bpe *b, const uint8_t *bytes, size_t n_bytes, tarni_ids *out,
                            tarn_error *err)
{
    uint32_t rank = tarni_vocab_rank(b->vocab, bytes, n_bytes);
    if (rank != TARNI_NO_RANK)
        return tarni_ids_push(out, rank, err);

    if (!b->known) {
        size_t n = (size_t)1 << b->known_bits;
        TARNI_TRY(tarni_alloc(b->allocator, n, sizeof *b->known, &b->known, err));
        memset(b->known, 0xff, n * sizeof *b->known);
    }
    if (n_bytes <= SHORT_BYTES)
        return merge_short(b, bytes, (uint32_t)n_bytes, out, err);
    TARN_ASSERT(n_bytes <= INT32_MAX);
    uint32_t n = (uint32_t)n_bytes;
    TARNI_TRY(tarni_grow(b->allocator, &b->parts, &b->parts_max, n, sizeof *b->parts, err));
    for (uint32_t at = 0; at < n; at++)
        b->parts[at] = (part){.prev = at - 1, .next = at + 1, .rank = b->vocab->single[bytes[at]]};
    for (uint32_t at = 0; at + 1 < n; at++)
        b->parts[at].pair = b->vocab->pairs[bytes[at] << 8 | bytes[at + 1]];
    b->parts[n - 1].pair = TARNI_NO_RANK;
    while (merge_round(b, bytes, n))
        ;
    TARNI_TRY(
        tarni_grow(b->allocator, &b->heap, &b->heap_max, 3 * (size_t)n, sizeof *b->heap, err));
    merge_by_heap(b, bytes, n);
    for (uint32_t at = 0; at < n; at = b->parts[at].next)
        TARNI_TRY(tarni_ids_push(out, b->parts[at].rank, err));
    return TARN_OK;
}
