#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void *heap_alloc(void *user, size_t n_bytes)
{
    (void)user;
    return malloc(n_bytes);
}

static void *heap_resize(void *user, void *memory, size_t n_bytes)
{
    (void)user;
    return realloc(memory, n_bytes);
}

static void heap_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

const tarn_allocator tarni_heap = {heap_alloc, heap_resize, heap_release, NULL};

tarn_status tarni_allocator_check(const tarn_allocator *given, tarn_allocator *out, tarn_error *err)
{
    if (given == NULL) {
        *out = tarni_heap;
        return TARN_OK;
    }
    if (!given->alloc || !given->resize || !given->release)
        return tarni_fail(err, TARN_E_INVALID,
                          "allocator: alloc, resize and release must all be given");
    *out = *given;
    return TARN_OK;
}

bool tarni_add_size(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

bool tarni_mul_size(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

tarn_status tarni_alloc(const tarn_allocator *a, size_t count, size_t size, void *out_pointer,
                        tarn_error *err)
{
    void **out = out_pointer;
    *out = NULL;
    size_t n_bytes;
    if (!tarni_mul_size(count, size, &n_bytes))
        return tarni_fail_memory(err, SIZE_MAX);
    void *memory = a->alloc(a->user, n_bytes > 0 ? n_bytes : 1);
    if (!memory)
        return tarni_fail_memory(err, n_bytes);
    memset(memory, 0, n_bytes);
    *out = memory;
    return TARN_OK;
}

/* The original pointer stands in the word before the aligned block. */
tarn_status tarni_alloc_aligned(const tarn_allocator *a, size_t count, size_t size,
                                void *out_pointer, tarn_error *err)
{
    void **out = out_pointer;
    *out = NULL;
    size_t n_bytes, padded;
    if (!tarni_mul_size(count, size, &n_bytes) ||
        !tarni_add_size(n_bytes, TARNI_ALIGNMENT + sizeof(void *), &padded))
        return tarni_fail_memory(err, SIZE_MAX);
    char *memory = a->alloc(a->user, padded);
    if (!memory)
        return tarni_fail_memory(err, n_bytes);
    uintptr_t at = (uintptr_t)memory + sizeof(void *);
    at = (at + TARNI_ALIGNMENT - 1) & ~(uintptr_t)(TARNI_ALIGNMENT - 1);
    char *aligned = memory + (at - (uintptr_t)memory);
    memcpy(aligned - sizeof(void *), &memory, sizeof(void *));
    *out = aligned;
    return TARN_OK;
}

void tarni_free(const tarn_allocator *a, void *memory)
{
    if (memory)
        a->release(a->user, memory);
}

void tarni_free_aligned(const tarn_allocator *a, void *memory)
{
    if (!memory)
        return;
    void *original;
    memcpy(&original, (char *)memory - sizeof(void *), sizeof(void *));
    a->release(a->user, original);
}

void tarni_ask_huge_pages(void *memory, size_t n_bytes)
{
    const uintptr_t begin = ((uintptr_t)memory + TARNI_HUGE_PAGE - 1) / TARNI_HUGE_PAGE;
    const uintptr_t end = ((uintptr_t)memory + n_bytes) / TARNI_HUGE_PAGE;
    if (begin < end)
        (void)madvise((char *)memory + (begin * TARNI_HUGE_PAGE - (uintptr_t)memory),
                      (end - begin) * TARNI_HUGE_PAGE, MADV_HUGEPAGE);
}

tarn_status tarni_grow(const tarn_allocator *a, void *pointer, size_t *capacity, size_t wanted,
                       size_t size, tarn_error *err)
{
    void **array = pointer;
    if (wanted <= *capacity)
        return TARN_OK;
    size_t larger, n_bytes;
    if (!tarni_add_size(*capacity, *capacity / 2, &larger) || larger < wanted)
        larger = wanted;
    if (larger < 8)
        larger = 8;
    if (!tarni_mul_size(larger, size, &n_bytes))
        return tarni_fail_memory(err, SIZE_MAX);
    void *memory = a->resize(a->user, *array, n_bytes);
    if (!memory)
        return tarni_fail_memory(err, n_bytes);
    *array = memory;
    *capacity = larger;
    return TARN_OK;
}

tarn_status tarni_copy_text(const tarn_allocator *a, const char *text, size_t n_bytes, char **out,
                            tarn_error *err)
{
    *out = NULL;
    char *copy;
    size_t size;
    if (!tarni_add_size(n_bytes, 1, &size))
        return tarni_fail_memory(err, SIZE_MAX);
    TARNI_TRY(tarni_alloc(a, size, 1, &copy, err));
    if (n_bytes > 0)
        memcpy(copy, text, n_bytes);
    *out = copy;
    return TARN_OK;
}
