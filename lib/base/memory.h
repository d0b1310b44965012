/* memory.h - memory through the caller's allocator, sizes that cannot overflow.
 *
 * Ownership: whoever allocates frees, through the same tarn_allocator. */
#ifndef TARN_BASE_MEMORY_H
#define TARN_BASE_MEMORY_H

#include "status.h"

#define TARNI_ALIGNMENT 64 /* bytes: one cache line, one AVX-512 register */

/* The C library's heap. */
extern const tarn_allocator tarni_heap;

/* `given` if it is complete, the heap if it is NULL; a partly filled one is refused. */
tarn_status tarni_allocator_check(const tarn_allocator *given, tarn_allocator *out,
                                  tarn_error *err);

/* a + b and a * b in *out; false where the result does not fit (then *out is untouched). */
bool tarni_add_size(size_t a, size_t b, size_t *out);
bool tarni_mul_size(size_t a, size_t b, size_t *out);

/* count * size zeroed bytes. count 0 gives a valid pointer. NO_MEMORY also on overflow. */
tarn_status tarni_alloc(const tarn_allocator *a, size_t count, size_t size, void *out_pointer,
                        tarn_error *err);
/* As tarni_alloc, 64-byte aligned and not zeroed; free with tarni_free_aligned. */
tarn_status tarni_alloc_aligned(const tarn_allocator *a, size_t count, size_t size,
                                void *out_pointer, tarn_error *err);
void tarni_free(const tarn_allocator *a, void *memory);
void tarni_free_aligned(const tarn_allocator *a, void *memory);

/* Asks for huge pages wherever whole ones fit into this memory or map of a file: what is read from
 * end to end then misses the processor's page tables once where it missed them 512 times. The
 * system may say no, and what lies there does not change. Worth it for blocks of megabytes. */
#define TARNI_HUGE_PAGE ((size_t)2 << 20)
void tarni_ask_huge_pages(void *memory, size_t n_bytes);

/* Makes room for at least `wanted` elements in the array at *pointer of *capacity elements, growing
 * by half; new memory is not zeroed. After an error the array is unchanged. */
tarn_status tarni_grow(const tarn_allocator *a, void *pointer, size_t *capacity, size_t wanted,
                       size_t size, tarn_error *err);

/* A NUL-terminated copy of n bytes. */
tarn_status tarni_copy_text(const tarn_allocator *a, const char *text, size_t n_bytes, char **out,
                            tarn_error *err);

#endif
