#include "slots.h"

#include "check.h"

#include <string.h>

static long calls_left, n_blocks;

static void *counted_alloc(void *user, size_t n_bytes)
{
    (void)user;
    if (calls_left-- <= 0)
        return NULL;
    n_blocks++;
    return malloc(n_bytes);
}

static void *counted_resize(void *user, void *memory, size_t n_bytes)
{
    (void)user;
    if (calls_left-- <= 0)
        return NULL;
    n_blocks += memory == NULL;
    return realloc(memory, n_bytes);
}

static void counted_release(void *user, void *memory)
{
    (void)user;
    n_blocks -= memory != NULL;
    free(memory);
}

static const tarn_allocator counted = {counted_alloc, counted_resize, counted_release, NULL};

CASE(the_zero_slot_is_always_there_and_shared)
{
    tarni_slots p;
    tarn_error err;
    calls_left = 100;
    REQUIRE_OK(tarni_slots_init(&p, 1000, 5, &counted, &err), &err);
    CHECK_EQ(p.n_used, 1);
    CHECK(tarni_slots_shared(&p, TARNI_SLOT_ZERO));
    static const uint8_t zeros[1000];
    CHECK_BYTES(tarni_slots_data(&p, TARNI_SLOT_ZERO), zeros, sizeof zeros);
    CHECK_EQ((uintptr_t)tarni_slots_data(&p, TARNI_SLOT_ZERO) % 64, 0);
    tarni_slots_share(&p, TARNI_SLOT_ZERO);
    tarni_slots_release(&p, TARNI_SLOT_ZERO);
    CHECK_EQ(p.n_used, 1);
    tarni_slots_fini(&p);
    CHECK_EQ(n_blocks, 0);
}

CASE(references_and_the_limit)
{
    tarni_slots p;
    tarn_error err;
    uint32_t slot[5], last;
    calls_left = 100;
    REQUIRE_OK(tarni_slots_init(&p, 64, 6, &counted, &err), &err);
    for (size_t i = 0; i < 4; i++) {
        CHECK_STATUS(tarni_slots_take(&p, &slot[i], &err), TARN_OK);
        CHECK(slot[i] != TARNI_SLOT_ZERO);
        CHECK(!tarni_slots_shared(&p, slot[i]));
        memset(tarni_slots_data(&p, slot[i]), (int)i + 1, 64);
    }
    CHECK_EQ(p.n_used, 5);
    CHECK_STATUS(tarni_slots_take(&p, &slot[4], &err), TARN_E_LIMIT);
    CHECK_HAS(err.detail, "5 of 6 state slots");
    CHECK_STATUS(tarni_slots_take_last(&p, &last, &err), TARN_OK); /* kept for staging */
    CHECK_STATUS(tarni_slots_take_last(&p, &slot[4], &err), TARN_E_LIMIT);
    tarni_slots_release(&p, last);
    tarni_slots_share(&p, slot[1]);
    CHECK(tarni_slots_shared(&p, slot[1]));
    tarni_slots_release(&p, slot[1]);
    CHECK(!tarni_slots_shared(&p, slot[1]));
    CHECK_EQ(p.n_used, 5);
    for (size_t i = 0; i < 4; i++) /* no two are the same memory */
        CHECK_EQ(*tarni_slots_data(&p, slot[i]), i + 1);
    tarni_slots_release(&p, slot[1]);
    CHECK_EQ(p.n_used, 4);
    long blocks = n_blocks;
    CHECK_STATUS(tarni_slots_take(&p, &slot[4], &err), TARN_OK);
    CHECK_EQ(slot[4], slot[1]); /* its memory is used again */
    CHECK_EQ(n_blocks, blocks);
    tarni_slots_fini(&p);
    CHECK_EQ(n_blocks, 0);
}

typedef struct reliever {
    tarni_slots *slots;
    uint32_t held[8];
    uint32_t n, n_asked;
} reliever;

static bool relieve(void *user)
{
    reliever *r = user;
    r->n_asked++;
    if (r->n == 0)
        return false;
    tarni_slots_release(r->slots, r->held[--r->n]);
    return true;
}

CASE(relief_is_asked_before_a_take_is_refused)
{
    tarni_slots p;
    tarn_error err;
    uint32_t slot;
    calls_left = 100;
    REQUIRE_OK(tarni_slots_init(&p, 64, 5, &counted, &err), &err);
    reliever r = {.slots = &p};
    p.relieve = relieve;
    p.relieve_user = &r;
    for (; r.n < 2; r.n++)
        CHECK_STATUS(tarni_slots_take(&p, &r.held[r.n], &err), TARN_OK);
    tarni_slots_share(&p, r.held[1]); /* releasing it once frees nothing: the next is asked for */
    CHECK_STATUS(tarni_slots_take(&p, &slot, &err), TARN_OK);
    CHECK_EQ(r.n_asked, 0);
    uint32_t shared = r.held[1];
    CHECK_STATUS(tarni_slots_take(&p, &slot, &err), TARN_OK);
    CHECK_EQ(r.n_asked, 2);
    CHECK_STATUS(tarni_slots_take(&p, &slot, &err), TARN_E_LIMIT);
    CHECK_EQ(r.n_asked, 3);
    tarni_slots_release(&p, shared);
    tarni_slots_fini(&p);
    CHECK_EQ(n_blocks, 0);
}

CASE(memory_runs_out)
{
    for (long n = 0;; n++) {
        tarni_slots p;
        tarn_error err;
        uint32_t slot;
        calls_left = n;
        tarn_status status = tarni_slots_init(&p, 64, 5, &counted, &err);
        if (status == TARN_OK) {
            uint32_t used = p.n_used;
            status = tarni_slots_take(&p, &slot, &err);
            CHECK_EQ(p.n_used, used + (status == TARN_OK));
            tarni_slots_fini(&p);
        }
        CHECK_EQ(n_blocks, 0);
        if (status == TARN_OK)
            break;
        CHECK_STATUS(status, TARN_E_NO_MEMORY);
        CHECK(n < 10);
    }
}

CHECK_MAIN(ENTRY(the_zero_slot_is_always_there_and_shared), ENTRY(references_and_the_limit),
           ENTRY(relief_is_asked_before_a_take_is_refused), ENTRY(memory_runs_out))
