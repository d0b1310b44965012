/* Merging.
 *
 * A piece starts as one part a byte. Parts are a linked list over an array indexed by a part's
 * first byte, so a merge is O(1). Candidate pairs stand in a heap of 64-bit keys, rank above
 * position: the smallest key is the pair of lowest rank and, among equals, the leftmost.
 *
 * A merge changes the two pairs around it. Their old keys stay in the heap: a key counts only if
 * its rank is still the `pair` of its part. A key that became true again names the very same merge,
 * so a duplicate does no harm. Each merge adds at most two keys, so the heap never holds more than
 * three keys a byte.
 *
 * Short pieces scan the list instead: below some thirty parts that beats keeping a heap. */
#include "bpe.h"

#define SCAN_PARTS_MAX 24

typedef struct tarni_bpe_part {
    uint32_t prev, next; /* first bytes of the neighbours; next is n_bytes at the end */
    uint32_t rank;       /* of this part */
    uint32_t pair;       /* of this part and the next together, or TARNI_NO_RANK */
} part;

void tarni_bpe_init(tarni_bpe *b, const tarni_vocab *vocab, const tarn_allocator *allocator)
{
    *b = (tarni_bpe){.vocab = vocab, .allocator = allocator};
}

void tarni_bpe_fini(tarni_bpe *b)
{
    if (b->allocator) {
        tarni_free(b->allocator, b->heap);
        tarni_free(b->allocator, b->parts);
    }
    *b = (tarni_bpe){0};
}

/* Looks up the pair that starts at `at` again. */
static uint32_t set_pair(const tarni_bpe *b, const uint8_t *bytes, uint32_t n_bytes, uint32_t at)
{
    part *p = &b->parts[at];
    p->pair = TARNI_NO_RANK;
    if (p->next < n_bytes)
        p->pair = tarni_vocab_rank(b->vocab, bytes + at, b->parts[p->next].next - at);
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

static void merge_by_scan(const tarni_bpe *b, const uint8_t *bytes, uint32_t n_bytes)
{
    for (;;) {
        uint32_t best = TARNI_NO_RANK, best_at = 0;
        for (uint32_t at = 0; at < n_bytes; at = b->parts[at].next)
            if (b->parts[at].pair < best) {
                best = b->parts[at].pair;
                best_at = at;
            }
        if (best == TARNI_NO_RANK)
            return;
        merge(b, bytes, n_bytes, best_at);
    }
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
    for (uint32_t at = 0; at < n_bytes; at++)
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

    TARN_ASSERT(n_bytes <= INT32_MAX);
    uint32_t n = (uint32_t)n_bytes;
    TARNI_TRY(tarni_grow(b->allocator, &b->parts, &b->parts_max, n, sizeof *b->parts, err));
    for (uint32_t at = 0; at < n; at++)
        b->parts[at] = (part){.prev = at - 1, .next = at + 1, .rank = b->vocab->single[bytes[at]]};
    for (uint32_t at = 0; at < n; at++)
        set_pair(b, bytes, n, at);
    if (n <= SCAN_PARTS_MAX) {
        merge_by_scan(b, bytes, n);
    } else {
        TARNI_TRY(
            tarni_grow(b->allocator, &b->heap, &b->heap_max, 3 * (size_t)n, sizeof *b->heap, err));
        merge_by_heap(b, bytes, n);
    }
    for (uint32_t at = 0; at < n; at = b->parts[at].next)
        TARNI_TRY(tarni_ids_push(out, b->parts[at].rank, err));
    return TARN_OK;
}
