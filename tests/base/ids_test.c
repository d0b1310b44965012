#include "check.h"
#include "ids.h"

CASE(ids_keep_their_order)
{
    tarni_ids a;
    tarn_error err = {0};
    tarni_ids_init(&a, &tarni_heap);
    for (uint32_t i = 0; i < 1000; i++)
        REQUIRE_OK(tarni_ids_push(&a, i * 7, &err), &err);
    uint32_t more[3] = {UINT32_MAX, 0, 5};
    REQUIRE_OK(tarni_ids_append(&a, more, 3, &err), &err);
    REQUIRE_OK(tarni_ids_append(&a, NULL, 0, &err), &err);
    CHECK_EQ(a.n_ids, 1003);
    CHECK_EQ(a.ids[999], 999 * 7);
    CHECK_BYTES(a.ids + 1000, more, sizeof more);
    tarni_ids_fini(&a);
    CHECK(a.ids == NULL && a.n_ids == 0);
    tarni_ids_fini(&a);
}

static int calls_left;

static void *failing_alloc(void *user, size_t n)
{
    (void)user;
    return calls_left-- > 0 ? malloc(n) : NULL;
}

static void *failing_resize(void *user, void *memory, size_t n)
{
    (void)user;
    return calls_left-- > 0 ? realloc(memory, n) : NULL;
}

static void plain_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

CASE(a_failed_append_changes_nothing)
{
    tarn_allocator allocator = {failing_alloc, failing_resize, plain_release, NULL};
    tarni_ids a;
    tarn_error err = {0};
    uint32_t many[100] = {0};
    tarni_ids_init(&a, &allocator);
    calls_left = 0;
    CHECK_STATUS(tarni_ids_push(&a, 1, &err), TARN_E_NO_MEMORY);
    CHECK_EQ(a.n_ids, 0);
    calls_left = 1;
    REQUIRE_OK(tarni_ids_push(&a, 42, &err), &err);
    CHECK_STATUS(tarni_ids_append(&a, many, 100, &err), TARN_E_NO_MEMORY);
    CHECK_STATUS(tarni_ids_append(&a, many, SIZE_MAX, &err), TARN_E_NO_MEMORY);
    CHECK_EQ(a.n_ids, 1);
    CHECK_EQ(a.ids[0], 42);
    tarni_ids_fini(&a);
}

CHECK_MAIN(ENTRY(ids_keep_their_order), ENTRY(a_failed_append_changes_nothing))
