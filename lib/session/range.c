#include "range.h"

#include <assert.h>

#define WORD_BITS 64

static bool has(const uint64_t *bits, uint32_t i)
{
    return bits[i / WORD_BITS] >> i % WORD_BITS & 1;
}

static void flip(uint64_t *bits, uint32_t i)
{
    bits[i / WORD_BITS] ^= (uint64_t)1 << i % WORD_BITS;
}

/* The lowest bit that is set, NONE. */
static uint32_t lowest(const uint64_t *bits, uint32_t n)
{
    for (uint32_t word = 0; word * (uint64_t)WORD_BITS < n; word++)
        if (bits[word])
            return word * WORD_BITS + (uint32_t)__builtin_ctzll(bits[word]);
    return TARNI_RANGE_NONE;
}

static uint32_t first_place(const tarni_range *r, uint32_t item)
{
    return (uint32_t)(item * (uint64_t)r->item_bytes / r->place_bytes);
}

static uint32_t last_place(const tarni_range *r, uint32_t item)
{
    return (uint32_t)(((item + (uint64_t)1) * r->item_bytes - 1) / r->place_bytes);
}

static bool is_covered(const tarni_range *r, uint32_t item)
{
    for (uint32_t i = first_place(r, item); i <= last_place(r, item); i++)
        if (r->chunks[i] == TARNI_RANGE_NONE)
            return false;
    return true;
}

tarn_status tarni_range_init(tarni_range *r, size_t item_bytes, size_t place_bytes,
                             uint32_t n_items, const tarn_allocator *a, tarn_error *err)
{
    TARN_ASSERT(item_bytes > 0 && place_bytes > 0 && n_items > 0);
    *r = (tarni_range){.item_bytes = item_bytes, .place_bytes = place_bytes, .n_items = n_items};
    r->n_places = last_place(r, n_items - 1) + 1;
    size_t n_words = n_items / WORD_BITS + 1;
    tarn_status status = tarni_alloc(a, n_words, sizeof *r->used, &r->used, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, n_words, sizeof *r->ready, &r->ready, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, r->n_places, sizeof *r->users, &r->users, err);
    if (status == TARN_OK)
        status = tarni_alloc(a, r->n_places, sizeof *r->chunks, &r->chunks, err);
    if (status != TARN_OK) {
        tarni_range_fini(r, a);
        return status;
    }
    for (uint32_t i = 0; i < r->n_places; i++)
        r->chunks[i] = TARNI_RANGE_NONE;
    return TARN_OK;
}

void tarni_range_fini(tarni_range *r, const tarn_allocator *a)
{
    tarni_free(a, r->used);
    tarni_free(a, r->ready);
    tarni_free(a, r->users);
    tarni_free(a, r->chunks);
    *r = (tarni_range){0};
}

uint32_t tarni_range_take(tarni_range *r)
{
    uint32_t item = lowest(r->ready, r->n_items);
    TARN_ASSERT(item != TARNI_RANGE_NONE && is_covered(r, item));
    flip(r->ready, item);
    flip(r->used, item);
    r->n_ready--;
    r->n_used++;
    for (uint32_t i = first_place(r, item); i <= last_place(r, item); i++)
        r->users[i]++;
    return item;
}

void tarni_range_release(tarni_range *r, uint32_t item)
{
    TARN_ASSERT(item < r->n_items && has(r->used, item));
    flip(r->used, item);
    flip(r->ready, item);
    r->n_used--;
    r->n_ready++;
    for (uint32_t i = first_place(r, item); i <= last_place(r, item); i++)
        r->users[i]--;
}

/* The items that touch a place, [*begin, *end). */
static void items_of(const tarni_range *r, uint32_t place, uint32_t *begin, uint32_t *end)
{
    uint64_t from = place * (uint64_t)r->place_bytes, to = from + r->place_bytes;
    uint64_t last = (to + r->item_bytes - 1) / r->item_bytes;
    *begin = (uint32_t)(from / r->item_bytes);
    *end = last < r->n_items ? (uint32_t)last : r->n_items;
}

void tarni_range_cover(tarni_range *r, uint32_t place, uint32_t chunk)
{
    uint32_t begin, end;
    TARN_ASSERT(place < r->n_places && r->chunks[place] == TARNI_RANGE_NONE);
    r->chunks[place] = chunk;
    r->n_chunks++;
    items_of(r, place, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        if (is_covered(r, i)) { /* and was not: nobody uses it */
            flip(r->ready, i);
            r->n_ready++;
        }
}

uint32_t tarni_range_uncover(tarni_range *r, uint32_t place)
{
    uint32_t begin, end, chunk = r->chunks[place];
    TARN_ASSERT(chunk != TARNI_RANGE_NONE && r->users[place] == 0);
    items_of(r, place, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        if (has(r->ready, i)) {
            flip(r->ready, i);
            r->n_ready--;
        }
    r->chunks[place] = TARNI_RANGE_NONE;
    r->n_chunks--;
    return chunk;
}

uint32_t tarni_range_bare(const tarni_range *r)
{
    for (uint32_t i = 0; i < r->n_places; i++)
        if (r->chunks[i] == TARNI_RANGE_NONE)
            return i;
    return TARNI_RANGE_NONE;
}

uint32_t tarni_range_idle(const tarni_range *r, uint32_t *n)
{
    uint32_t spared = r->n_spare > 0 ? lowest(r->ready, r->n_items) : TARNI_RANGE_NONE;
    uint32_t highest = TARNI_RANGE_NONE;
    *n = 0;
    for (uint32_t i = 0; i < r->n_places; i++) {
        if (r->chunks[i] == TARNI_RANGE_NONE || r->users[i] > 0 ||
            (spared != TARNI_RANGE_NONE && i >= first_place(r, spared) &&
             i <= last_place(r, spared)))
            continue;
        highest = i;
        ++*n;
    }
    return highest;
}

/* Of a large pool there are tens of thousands of items: nothing is divided here. */
uint32_t tarni_range_ready_with(const tarni_range *r, uint32_t n_more)
{
    uint32_t end = 0, n = 0; /* places below `end` would all have a chunk */
    uint32_t first = 0, last = 0, checked = 0;
    uint64_t item_end = 0;
    if (n_more == 0 || r->n_chunks == r->n_places)
        return r->n_ready;
    for (; end < r->n_places; end++)
        if (r->chunks[end] == TARNI_RANGE_NONE && n_more-- == 0)
            break;
    for (uint32_t i = 0; i < r->n_items; i++) {
        for (; (first + (uint64_t)1) * r->place_bytes <= item_end; first++)
            ;
        item_end += r->item_bytes;
        for (; (last + (uint64_t)1) * r->place_bytes < item_end; last++)
            ;
        checked = first > checked ? first : checked; /* from `first` to here all have one */
        while (checked <= last && (checked < end || r->chunks[checked] != TARNI_RANGE_NONE))
            checked++;
        n += checked > last && !has(r->used, i);
    }
    return n;
}
