#include "check.h"
#include "memory.h"

CASE(sizes_do_not_wrap)
{
    size_t n = 7;
    CHECK(!tarni_add_size(SIZE_MAX, 1, &n));
    CHECK(!tarni_mul_size(SIZE_MAX / 2, 3, &n));
    CHECK_EQ(n, 7);
    CHECK(tarni_mul_size(6, 7, &n) && n == 42);
    tarn_error err = {0};
    void *p;
    CHECK_STATUS(tarni_alloc(&tarni_heap, SIZE_MAX / 2, 3, &p, &err), TARN_E_NO_MEMORY);
    CHECK_STATUS(tarni_alloc_aligned(&tarni_heap, SIZE_MAX, 1, &p, &err), TARN_E_NO_MEMORY);
    CHECK(p == NULL);
}

CASE(aligned_blocks_are_aligned)
{
    tarn_error err = {0};
    for (size_t n = 0; n < 200; n += 13) {
        char *p;
        REQUIRE_OK(tarni_alloc_aligned(&tarni_heap, n, 1, &p, &err), &err);
        CHECK_EQ((uintptr_t)p % TARNI_ALIGNMENT, 0);
        memset(p, 1, n);
        tarni_free_aligned(&tarni_heap, p);
    }
    tarni_free_aligned(&tarni_heap, NULL);
}

static int calls_left;

static void *failing_alloc(void *user, size_t n)
{
    (void)user;
    return calls_left-- > 0 ? malloc(n) : NULL;
}

static void *failing_resize(void *user, void *p, size_t n)
{
    (void)user;
    return calls_left-- > 0 ? realloc(p, n) : NULL;
}

static void plain_release(void *user, void *p)
{
    (void)user;
    free(p);
}

CASE(a_failed_growth_changes_nothing)
{
    tarn_allocator a = {failing_alloc, failing_resize, plain_release, NULL};
    tarn_error err = {0};
    int *array = NULL;
    size_t capacity = 0;
    calls_left = 1;
    REQUIRE_OK(tarni_grow(&a, &array, &capacity, 3, sizeof *array, &err), &err);
    array[2] = 5;
    size_t before = capacity;
    CHECK_STATUS(tarni_grow(&a, &array, &capacity, 1000, sizeof *array, &err), TARN_E_NO_MEMORY);
    CHECK_EQ(capacity, before);
    CHECK_EQ(array[2], 5);
    tarni_free(&a, array);
}

CASE(half_an_allocator_is_refused)
{
    tarn_allocator a = {failing_alloc, NULL, plain_release, NULL}, out;
    tarn_error err = {0};
    CHECK_STATUS(tarni_allocator_check(&a, &out, &err), TARN_E_INVALID);
    CHECK_STATUS(tarni_allocator_check(NULL, &out, &err), TARN_OK);
}

CASE(new_memory_is_zero)
{
    tarn_error err = {0};
    unsigned char *p;
    for (int i = 0; i < 3; i++) { /* the second time it is memory that was used */
        REQUIRE_OK(tarni_alloc(&tarni_heap, 100, 3, &p, &err), &err);
        for (int k = 0; k < 300; k++)
            CHECK_EQ(p[k], 0);
        memset(p, 0xA5, 300);
        tarni_free(&tarni_heap, p);
    }
    REQUIRE_OK(tarni_alloc(&tarni_heap, 0, 8, &p, &err), &err);
    CHECK(p != NULL);
    tarni_free(&tarni_heap, p);
    tarni_free(&tarni_heap, NULL);
}

CASE(without_memory_the_pointer_is_null)
{
    tarn_allocator a = {failing_alloc, failing_resize, plain_release, NULL};
    tarn_error err = {0};
    char *p = (char *)&err, *q = p, *text = p;
    calls_left = 0;
    CHECK_STATUS(tarni_alloc(&a, 12, 3, &p, &err), TARN_E_NO_MEMORY);
    CHECK_HAS(err.detail, "36 bytes");
    CHECK_STATUS(tarni_alloc_aligned(&a, 1, 1, &q, &err), TARN_E_NO_MEMORY);
    CHECK_STATUS(tarni_copy_text(&a, "x", 1, &text, &err), TARN_E_NO_MEMORY);
    CHECK(p == NULL && q == NULL && text == NULL);
    CHECK_STATUS(tarni_copy_text(&a, "x", SIZE_MAX, &text, &err), TARN_E_NO_MEMORY);
}

CASE(growth_does_not_wrap)
{
    tarn_error err = {0};
    uint64_t *array = NULL;
    size_t capacity = 0;
    CHECK_STATUS(tarni_grow(&tarni_heap, &array, &capacity, SIZE_MAX / 4, sizeof *array, &err),
                 TARN_E_NO_MEMORY);
    CHECK(array == NULL && capacity == 0);
}

CASE(copied_text_may_hold_zeros)
{
    tarn_error err = {0};
    char *text;
    REQUIRE_OK(tarni_copy_text(&tarni_heap, "a\0b", 3, &text, &err), &err);
    CHECK_BYTES(text, "a\0b", 4);
    tarni_free(&tarni_heap, text);
    REQUIRE_OK(tarni_copy_text(&tarni_heap, NULL, 0, &text, &err), &err);
    CHECK_TEXT(text, "");
    tarni_free(&tarni_heap, text);
}

CHECK_MAIN(ENTRY(new_memory_is_zero), ENTRY(without_memory_the_pointer_is_null),
           ENTRY(growth_does_not_wrap), ENTRY(copied_text_may_hold_zeros), ENTRY(sizes_do_not_wrap),
           ENTRY(aligned_blocks_are_aligned), ENTRY(a_failed_growth_changes_nothing),
           ENTRY(half_an_allocator_is_refused))
