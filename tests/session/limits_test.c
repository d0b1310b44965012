/* Arithmetic at its limits: what is counted against a ceiling, and what a plan says of models that
 * no machine holds. */
#include "budget.h"
#include "plan.h"

#include "check.h"
#include "synth.h"

#include <string.h>

/* ---- a ceiling ------------------------------------------------------------------------------- */

static bool refusing;

static void *inner_alloc(void *user, size_t n_bytes)
{
    (void)user;
    return refusing ? NULL : malloc(n_bytes);
}

static void *inner_resize(void *user, void *memory, size_t n_bytes)
{
    (void)user;
    return refusing ? NULL : realloc(memory, n_bytes);
}

static void inner_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static const tarn_allocator inner = {inner_alloc, inner_resize, inner_release, NULL};

CASE(what_is_given_out_is_counted)
{
    enum { MOST = 1000, HEAD = 16 };
    tarni_budget b;
    const tarn_allocator a = tarni_budget_init(&b, &inner, MOST);
    uint8_t *block = a.alloc(a.user, 100);
    REQUIRE(block);
    memset(block, 7, 100);
    CHECK_EQ(b.bytes, 100 + HEAD);
    block = a.resize(a.user, block, MOST - HEAD); /* all there is */
    REQUIRE(block);
    CHECK_EQ(b.bytes, MOST);
    CHECK_EQ(block[99], 7);
    CHECK(!a.alloc(a.user, 1));
    CHECK(!a.resize(a.user, block, MOST - HEAD + 1));
    CHECK(!a.resize(a.user, block, SIZE_MAX)); /* with its head it would be a short one */
    CHECK_EQ(b.bytes, MOST);
    block = a.resize(a.user, block, 50);
    REQUIRE(block);
    CHECK_EQ(b.bytes, 50 + HEAD);
    CHECK_EQ(block[49], 7);
    refusing = true; /* whoever stands behind it */
    CHECK(!a.alloc(a.user, 100));
    CHECK(!a.resize(a.user, block, 200));
    CHECK(!a.resize(a.user, block, 50));
    refusing = false;
    CHECK_EQ(b.bytes, 50 + HEAD);
    a.release(a.user, NULL);
    CHECK_EQ(b.bytes, 50 + HEAD);
    a.release(a.user, block);
    CHECK_EQ(b.bytes, 0);
    CHECK(!tarni_budget_count(&b, MOST + 1));
    CHECK(tarni_budget_count(&b, MOST));
    CHECK(!tarni_budget_count(&b, 1));
    tarni_budget_uncount(&b, MOST);
    CHECK_EQ(b.bytes, 0);
}

CASE(a_budget_without_a_ceiling)
{
    tarni_budget b;
    const tarn_allocator a = tarni_budget_init(&b, &inner, 0);
    CHECK(tarni_budget_count(&b, SIZE_MAX)); /* and nothing beyond what can be counted */
    CHECK(!a.alloc(a.user, 1));
    tarni_budget_uncount(&b, SIZE_MAX);
    void *block = a.alloc(a.user, 1);
    CHECK(block);
    a.release(a.user, block);
    CHECK_EQ(b.bytes, 0);
}

/* ---- plans ----------------------------------------------------------------------------------- */

/* A context that no machine holds, of more sessions than there are bytes. */
CASE(a_plan_of_more_than_a_number_holds)
{
    tarni_spec spec;
    tarn_error err;
    tarn_plan_report one = {0}, all = {0};
    REQUIRE_OK(tarni_synth_preset("48b", &spec, &err), &err);
    spec.context = UINT32_MAX;
    spec.rank = 1 << 16;
    tarn_plan_options o = {
        .device = "cpu", .sessions = 1, .device_bytes = (uint64_t)1 << 40, .step_tokens_max = 1};
    REQUIRE_OK(tarni_plan(&spec, &o, &one, &err), &err);
    CHECK(!one.fits);
    CHECK(one.floor_bytes > (uint64_t)1 << 40 && one.floor_bytes < UINT64_MAX);
    CHECK(one.wanted_bytes == one.floor_bytes);
    CHECK(UINT64_MAX / one.per_session_bytes < UINT32_MAX); /* so many overflow */
    o.sessions = UINT32_MAX;
    REQUIRE_OK(tarni_plan(&spec, &o, &all, &err), &err);
    CHECK(!all.fits);
    CHECK(all.wanted_bytes == UINT64_MAX);
    CHECK(all.per_session_bytes == one.per_session_bytes);
    /* what fits a device without an end is told without one */
    o.device_bytes = UINT64_MAX;
    REQUIRE_OK(tarni_plan(&spec, &o, &all, &err), &err);
    CHECK(!all.fits && all.sessions > 0);
    CHECK(all.pages_bytes_max <= UINT64_MAX - all.slots_bytes_max);
}

/* Of a model without latents a session costs the same however long it is. */
CASE(a_plan_without_pages)
{
    tarni_spec spec;
    tarn_error err;
    tarn_plan_report few = {0}, many = {0};
    REQUIRE_OK(tarni_synth_preset("tiny", &spec, &err), &err);
    for (uint32_t l = 0; l < spec.n_layers; l++)
        spec.kinds[l] = TARNI_LAYER_KDA;
    spec.n_kda = spec.n_layers;
    spec.n_mla = 0;
    tarn_plan_options o = {.device = "cpu", .context = 1, .device_bytes = (uint64_t)1 << 30};
    REQUIRE_OK(tarni_plan(&spec, &o, &few, &err), &err);
    o.context = spec.context;
    REQUIRE_OK(tarni_plan(&spec, &o, &many, &err), &err);
    CHECK_EQ(few.page_bytes, 0);
    CHECK_EQ(many.per_session_bytes, few.slot_bytes);
    CHECK_EQ(many.sessions, few.sessions);
    CHECK_EQ(many.pages_bytes_max, 0);
    CHECK(few.fits && few.sessions > 0);
}

CHECK_MAIN(ENTRY(what_is_given_out_is_counted), ENTRY(a_budget_without_a_ceiling),
           ENTRY(a_plan_of_more_than_a_number_holds), ENTRY(a_plan_without_pages))
