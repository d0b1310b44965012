/* budget.c - the size of a block stands in the 16 bytes before it: an allocator is not told the
 * size of what it takes back. */
#include "budget.h"

#include <string.h>

#define HEAD_BYTES 16 /* keeps the alignment of any standard type */

static size_t size_of(const uint8_t *block)
{
    size_t n_bytes;
    memcpy(&n_bytes, block, sizeof n_bytes);
    return n_bytes;
}

bool tarni_budget_count(void *budget, size_t n_bytes)
{
    tarni_budget *b = budget;
    uint64_t now = atomic_fetch_add(&b->bytes, n_bytes);
    bool granted = now <= b->bytes_max && n_bytes <= b->bytes_max - now;
    if (!granted)
        atomic_fetch_sub(&b->bytes, n_bytes);
    tarni_memory_ceiling(granted ? NULL : "host_bytes_max", now, b->bytes_max);
    return granted;
}

void tarni_budget_uncount(void *budget, size_t n_bytes)
{
    tarni_budget *b = budget;
    atomic_fetch_sub(&b->bytes, n_bytes);
}

static void *budget_resize(void *user, void *memory, size_t n_bytes)
{
    tarni_budget *b = user;
    uint8_t *block = memory ? (uint8_t *)memory - HEAD_BYTES : NULL;
    size_t before = block ? size_of(block) : 0, whole;
    if (!tarni_add_size(n_bytes, HEAD_BYTES, &whole) ||
        (whole > before && !tarni_budget_count(b, whole - before)))
        return NULL;
    uint8_t *moved = b->inner.resize(b->inner.user, block, whole);
    if (!moved) {
        if (whole > before)
            atomic_fetch_sub(&b->bytes, whole - before);
        return NULL;
    }
    if (whole < before)
        atomic_fetch_sub(&b->bytes, before - whole);
    memcpy(moved, &whole, sizeof whole);
    return moved + HEAD_BYTES;
}

static void *budget_alloc(void *user, size_t n_bytes)
{
    return budget_resize(user, NULL, n_bytes);
}

static void budget_release(void *user, void *memory)
{
    tarni_budget *b = user;
    if (!memory)
        return;
    uint8_t *block = (uint8_t *)memory - HEAD_BYTES;
    atomic_fetch_sub(&b->bytes, size_of(block));
    b->inner.release(b->inner.user, block);
}

tarn_allocator tarni_budget_init(tarni_budget *b, const tarn_allocator *inner, uint64_t bytes_max)
{
    b->inner = *inner;
    b->bytes_max = bytes_max > 0 ? bytes_max : UINT64_MAX;
    atomic_init(&b->bytes, 0);
    return (tarn_allocator){budget_alloc, budget_resize, budget_release, b};
}
