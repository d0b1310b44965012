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

CHECK_MAIN(ENTRY(sizes_do_not_wrap), ENTRY(aligned_blocks_are_aligned),
           ENTRY(a_failed_growth_changes_nothing), ENTRY(half_an_allocator_is_refused))
