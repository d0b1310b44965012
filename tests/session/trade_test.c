/* One budget for two kinds of items, on the host, with chunks that can be made to fail. */
#include "trade.h"

#include "check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SLOT = 3000, PAGE = 800, UNIT = 4096 };

/* ---- a device whose calls are counted, and fail when they are told to ---- */

enum { ALL = 1000000 };

static long calls_left = ALL, n_out; /* chunks and mappings that are there */
static bool once;                    /* only the first call that has none left fails */
static bool supported = true;
static tarn_status unit_status = TARN_OK;
static size_t unit_bytes = UNIT;
static uint64_t memory_bytes = UINT64_MAX;

static tarn_status allowed(tarn_error *err)
{
    if (calls_left-- > 0 || (once && calls_left < -1))
        return TARN_OK;
    snprintf(err->detail, sizeof err->detail, "planted");
    return err->status = TARN_E_NO_MEMORY;
}

static tarn_status unit(tarni_device *d, size_t *out, tarn_error *err)
{
    (void)d;
    *out = unit_bytes;
    if (supported && unit_status != TARN_OK)
        return allowed(err);
    if (supported)
        return TARN_OK;
    snprintf(err->detail, sizeof err->detail, "no such thing here");
    return err->status = TARN_E_UNSUPPORTED;
}

static tarn_status reserve(tarni_device *d, size_t n_bytes, uint8_t **out, tarn_error *err)
{
    *out = NULL;
    tarn_status status = allowed(err);
    if (status == TARN_OK)
        status = tarni_cpu_chunks.reserve(d, n_bytes, out, err);
    n_out += status == TARN_OK;
    return status;
}

static void unreserve(tarni_device *d, uint8_t *range, size_t n_bytes)
{
    n_out--;
    tarni_cpu_chunks.unreserve(d, range, n_bytes);
}

static tarn_status create(tarni_device *d, size_t n_bytes, uint64_t *out, tarn_error *err)
{
    (void)d, (void)n_bytes;
    *out = 0;
    tarn_status status = allowed(err);
    n_out += status == TARN_OK;
    return status;
}

static void destroy(tarni_device *d, uint64_t chunk)
{
    (void)d, (void)chunk;
    n_out--;
}

static tarn_status map(tarni_device *d, uint8_t *at, size_t n_bytes, uint64_t chunk,
                       tarn_error *err)
{
    tarn_status status = allowed(err);
    if (status == TARN_OK)
        status = tarni_cpu_chunks.map(d, at, n_bytes, chunk, err);
    n_out += status == TARN_OK;
    return status;
}

static tarn_status unmap(tarni_device *d, uint8_t *at, size_t n_bytes, tarn_error *err)
{
    tarn_status status = allowed(err);
    if (status == TARN_OK)
        status = tarni_cpu_chunks.unmap(d, at, n_bytes, err);
    n_out -= status == TARN_OK;
    return status;
}

static const tarni_chunk_class chunks = {unit, reserve, unreserve, create, destroy, map, unmap};

static uint64_t free_bytes(tarni_device *d)
{
    (void)d;
    return memory_bytes;
}

static tarni_device_class class;
static tarni_device device;
static char last_line[512];

static void keep_line(void *user, tarn_log_level level, const char *line, const char *file,
                      int number)
{
    (void)user, (void)level, (void)file, (void)number;
    snprintf(last_line, sizeof last_line, "%s", line);
}

static const tarn_log log_all = {.fn = keep_line, .level = TARN_LOG_DEBUG};

/* ---- memory of the host that is refused like the device's, or where it is much ---- */

static size_t block_max = SIZE_MAX;

static void *counted_alloc(void *user, size_t n_bytes)
{
    tarn_error err;
    (void)user;
    if (n_bytes > block_max || allowed(&err) != TARN_OK)
        return NULL;
    n_out++;
    return malloc(n_bytes);
}

static void counted_release(void *user, void *memory)
{
    (void)user;
    n_out -= memory != NULL;
    free(memory);
}

static const tarn_allocator counted = {.alloc = counted_alloc, .release = counted_release};

static tarn_status open_planned(tarni_trade *t, const tarni_trade_plan *plan, tarn_error *err)
{
    static const tarnk_context context;
    tarni_device_of_ops(&device, tarnk_cpu_ops(TARNK_ISA_BEST), &context, NULL);
    class = tarni_cpu_class;
    class.chunks = &chunks;
    class.free_bytes = free_bytes;
    device.class = &class;
    return tarni_trade_open(t, &device, plan, &log_all, &counted, err);
}

static tarn_status open_trade(tarni_trade *t, uint64_t n_slots, uint64_t n_pages,
                              uint64_t bytes_max, tarn_error *err)
{
    const tarni_trade_plan plan = {.item_bytes = {SLOT, PAGE},
                                   .n_items = {n_slots, n_pages},
                                   .n_least = {4, 1},
                                   .bytes_max = bytes_max,
                                   .bytes_name = "the_budget"};
    return open_planned(t, &plan, err);
}

/* Can the process read there? */
static bool is_there(const void *p)
{
    int ends[2];
    if (pipe(ends) != 0)
        return false;
    bool there = write(ends[1], p, 1) == 1 || errno != EFAULT;
    close(ends[0]);
    close(ends[1]);
    return there;
}

/* ---- cases ---- */

CASE(what_one_does_not_use_the_other_gets)
{
    enum { N_CHUNKS = 64, MOST = 400 };
    tarni_trade t;
    tarn_error err;
    uint32_t slots[MOST], pages[MOST], n_slots = 0, n_pages = 0;
    REQUIRE_OK(open_trade(&t, MOST, MOST, N_CHUNKS * UNIT, &err), &err);
    CHECK_EQ(t.n_chunks, N_CHUNKS);
    CHECK_EQ(t.chunk_bytes, UNIT);
    CHECK_EQ(t.ranges[TARNI_SLOTS].n_items, N_CHUNKS * UNIT / SLOT); /* all of it is within reach */
    CHECK_EQ(t.ranges[TARNI_PAGES].n_items, N_CHUNKS * UNIT / PAGE);
    CHECK_HAS(last_line, "64 chunks of 4 KiB");
    for (int swing = 0; swing < 20; swing++) {
        while (tarni_trade_take(&t, TARNI_SLOTS, false, &slots[n_slots]))
            memset(tarni_trade_at(&t, TARNI_SLOTS, slots[n_slots++]), 1, SLOT);
        CHECK(n_slots >= N_CHUNKS * UNIT / SLOT - 3); /* but for one to spare */
        CHECK_EQ(n_pages, 0);
        CHECK_STATUS(tarni_trade_refuse(&t, TARNI_SLOTS, &err), TARN_E_LIMIT);
        CHECK_HAS(err.detail, "share 262144 bytes");
        CHECK_HAS(err.detail, "no room for a state slot");
        CHECK_HAS(err.detail, "slots of 3000 and 0 pages of 800 bytes");
        const uint8_t *high = tarni_trade_at(&t, TARNI_SLOTS, slots[n_slots - 1]);
        CHECK(is_there(high));
        while (n_slots > 2)
            tarni_trade_release(&t, TARNI_SLOTS, slots[--n_slots]);
        uint64_t room = tarni_trade_room(&t, TARNI_PAGES);
        while (tarni_trade_take(&t, TARNI_PAGES, false, &pages[n_pages]))
            memset(tarni_trade_at(&t, TARNI_PAGES, pages[n_pages++]), 2, PAGE);
        CHECK_EQ(n_pages, room); /* said before */
        CHECK(n_pages >= (N_CHUNKS * UNIT - 4 * UNIT) / PAGE);
        CHECK(!is_there(high)); /* a stale pointer is stopped */
        for (uint32_t i = 0; i < n_slots; i++)
            CHECK_EQ(tarni_trade_at(&t, TARNI_SLOTS, slots[i])[SLOT - 1], 1);
        CHECK(tarni_trade_take(&t, TARNI_SLOTS, true, &slots[n_slots])); /* the spared one */
        tarni_trade_release(&t, TARNI_SLOTS, slots[n_slots]);
        while (n_pages > 0)
            tarni_trade_release(&t, TARNI_PAGES, pages[--n_pages]);
        while (n_slots > 0)
            tarni_trade_release(&t, TARNI_SLOTS, slots[--n_slots]);
        CHECK_EQ(t.n_loose + t.ranges[0].n_chunks + t.ranges[1].n_chunks, N_CHUNKS);
    }
    CHECK(t.n_traded > 20 * 50);
    tarni_trade_close(&t);
    CHECK_EQ(n_out, 0);
}

/* Every item keeps its bytes whatever else comes and goes. */
CASE(random_takes_and_releases)
{
    enum { MOST = 60 };
    tarni_trade t;
    tarn_error err;
    uint32_t items[2][MOST], n[2] = {0, 0}, dice = 7, n_refused = 0;
    REQUIRE_OK(open_trade(&t, MOST, MOST, 24 * UNIT, &err), &err);
    for (int i = 0; i < 20000; i++) {
        dice = dice * 1664525u + 1013904223u;
        uint32_t side = dice >> 31, want = dice >> 20 & 127;
        bool grows = i / 400 % 2 == (int)side; /* now the one, now the other */
        size_t n_bytes = side ? PAGE : SLOT;
        want = want < 40 ? want : grows ? MOST : want % MOST;
        if (want < MOST && n[side] > want) {
            uint32_t item = items[side][want];
            const uint8_t *p = tarni_trade_at(&t, (tarni_side)side, item);
            CHECK_EQ(p[0], (uint8_t)(item + side));
            CHECK_EQ(p[n_bytes - 1], (uint8_t)(item + side));
            tarni_trade_release(&t, (tarni_side)side, item);
            items[side][want] = items[side][--n[side]];
        } else if (n[side] < MOST) {
            uint32_t item;
            if (!tarni_trade_take(&t, (tarni_side)side, false, &item)) {
                n_refused++;
                continue;
            }
            memset(tarni_trade_at(&t, (tarni_side)side, item), (int)(item + side), n_bytes);
            items[side][n[side]++] = item;
        }
        if (t.ranges[TARNI_SLOTS].n_used > 0)
            CHECK(t.ranges[TARNI_SLOTS].n_ready > 0); /* one to spare */
    }
    CHECK(n_refused > 100 && t.n_traded > 100);
    for (int side = 0; side < 2; side++)
        while (n[side] > 0)
            tarni_trade_release(&t, (tarni_side)side, items[side][--n[side]]);
    tarni_trade_close(&t);
    CHECK_EQ(n_out, 0);
}

static void same(const tarni_range *a, const tarni_range *b)
{
    CHECK_EQ(a->n_used, b->n_used);
    CHECK_EQ(a->n_ready, b->n_ready);
    CHECK_EQ(a->n_chunks, b->n_chunks);
}

/* Takes every page there is room for and gives 30 back; returns how many it has. */
static uint32_t all_but_30(tarni_trade *t, uint32_t *pages)
{
    uint32_t n = 0;
    while (tarni_trade_take(t, TARNI_PAGES, false, &pages[n]))
        n++;
    CHECK(!tarni_trade_take(t, TARNI_PAGES, false, &pages[n]));
    for (uint32_t i = 0; i < 30; i++)
        tarni_trade_release(t, TARNI_PAGES, pages[--n]);
    return n;
}

/* The device refuses the k-th call of a move: nothing is lost, and the next try succeeds. */
CASE(a_move_that_fails)
{
    for (long k = 0; k < 3; k++) {
        tarni_trade t;
        tarn_error err;
        uint32_t slot, pages[400], n;
        REQUIRE_OK(open_trade(&t, 100, 400, 32 * UNIT, &err), &err);
        n = all_but_30(&t, pages);
        tarni_range before[2] = {t.ranges[0], t.ranges[1]};
        calls_left = k;
        uint64_t traded = t.n_traded;
        bool taken = tarni_trade_take(&t, TARNI_SLOTS, false, &slot);
        calls_left = ALL;
        CHECK(!taken);
        CHECK_STATUS(tarni_trade_refuse(&t, TARNI_SLOTS, &err), TARN_E_LIMIT);
        CHECK_HAS(err.detail, "planted");
        CHECK_EQ(t.n_loose + t.ranges[0].n_chunks + t.ranges[1].n_chunks, t.n_chunks);
        if (k == 0) {
            same(&t.ranges[0], &before[0]);
            same(&t.ranges[1], &before[1]);
            CHECK_EQ(t.n_traded, traded);
        }
        CHECK(tarni_trade_take(&t, TARNI_SLOTS, false, &slot));
        CHECK_STATUS(tarni_trade_refuse(&t, TARNI_SLOTS, &err), TARN_E_LIMIT);
        CHECK(strstr(err.detail, "planted") == NULL); /* it is over */
        memset(tarni_trade_at(&t, TARNI_SLOTS, slot), 1, SLOT);
        tarni_trade_release(&t, TARNI_SLOTS, slot);
        while (n > 0)
            tarni_trade_release(&t, TARNI_PAGES, pages[--n]);
        tarni_trade_close(&t);
        CHECK_EQ(n_out, 0);
    }
}

/* A chunk that cannot be mapped where it is wanted goes back to where it was. */
CASE(a_chunk_goes_back)
{
    tarni_trade t;
    tarn_error err;
    uint32_t slot, pages[400], n;
    REQUIRE_OK(open_trade(&t, 100, 400, 32 * UNIT, &err), &err);
    n = all_but_30(&t, pages);
    const tarni_range before[2] = {t.ranges[0], t.ranges[1]};
    calls_left = 1; /* to unmap it */
    once = true;
    CHECK(!tarni_trade_take(&t, TARNI_SLOTS, false, &slot));
    once = false;
    calls_left = ALL;
    CHECK_HAS(last_line, "no chunk for a state slot: planted");
    same(&t.ranges[0], &before[0]);
    same(&t.ranges[1], &before[1]);
    CHECK_EQ(t.n_loose, 0);
    CHECK_EQ(t.n_traded, 0);
    CHECK(tarni_trade_take(&t, TARNI_SLOTS, false, &slot));
    snprintf(device.fault, sizeof device.fault, "a fault");
    CHECK_STATUS(tarni_trade_refuse(&t, TARNI_SLOTS, &err), TARN_E_DEVICE);
    CHECK_HAS(err.detail, "a fault");
    tarni_trade_release(&t, TARNI_SLOTS, slot);
    while (n > 0)
        tarni_trade_release(&t, TARNI_PAGES, pages[--n]);
    tarni_trade_close(&t);
    CHECK_EQ(n_out, 0);
}

static void fail_each_call(void)
{
    tarn_status status = TARN_E_NO_MEMORY;
    for (long k = 0; status != TARN_OK; k++) {
        tarni_trade t;
        tarn_error err;
        calls_left = k;
        status = open_trade(&t, 20, 20, 16 * UNIT, &err);
        calls_left = ALL;
        if (status == TARN_OK)
            tarni_trade_close(&t);
        else
            CHECK_STATUS(status, TARN_E_NO_MEMORY);
        CHECK_EQ(n_out, 0);
        CHECK(k < 100);
    }
}

CASE(opening_fails_at_every_call)
{
    fail_each_call();
    supported = false;
    fail_each_call();
    supported = true;
    unit_status = TARN_E_NO_MEMORY; /* what a chunk may be long is asked of the device too */
    fail_each_call();
    unit_status = TARN_OK;
}

CASE(budgets_and_chunks)
{
    tarni_trade t;
    tarn_error err;
    /* four slots are three chunks, a page is one more */
    CHECK_STATUS(open_trade(&t, 20, 20, 4 * UNIT - 1, &err), TARN_E_LIMIT);
    CHECK_HAS(err.detail, "the_budget is 16383: one session needs 4 slots of 3000 bytes and a page "
                          "of 800, in chunks of 4096 that is 16384");
    REQUIRE_OK(open_trade(&t, 20, 20, 4 * UNIT, &err), &err);
    CHECK_EQ(t.n_chunks, 4);
    tarni_trade_close(&t);
    /* no more than both could ever have */
    REQUIRE_OK(open_trade(&t, 20, 20, UINT64_MAX, &err), &err);
    CHECK_EQ(t.n_chunks, 15 + 4);
    CHECK_EQ(t.ranges[TARNI_SLOTS].n_items, 20);
    CHECK_EQ(t.ranges[TARNI_PAGES].n_items, 20);
    tarni_trade_close(&t);
    REQUIRE_OK(open_trade(&t, 1000000, 1000000, (uint64_t)1 << 26, &err), &err);
    CHECK_EQ(t.chunk_bytes, 1 << 20);
    tarni_trade_close(&t);
    memory_bytes = 100 * UNIT;
    CHECK_STATUS(open_trade(&t, 200, 20, UINT64_MAX, &err), TARN_E_NO_MEMORY);
    CHECK_HAS(err.detail, "0 MiB for states and latents, 0 MiB are free");
    memory_bytes = UINT64_MAX;
    CHECK_STATUS(open_trade(&t, UINT64_MAX / 2, 20, UINT64_MAX, &err), TARN_E_NO_MEMORY);
    CHECK_EQ(n_out, 0);
    /* larger than any chunk would be, were it not that a device maps no less */
    unit_bytes = 2 * TARNI_CHUNK_BYTES;
    REQUIRE_OK(open_trade(&t, 4, 4, UINT64_MAX, &err), &err);
    CHECK_EQ(t.chunk_bytes, 2 * TARNI_CHUNK_BYTES);
    CHECK_EQ(t.n_chunks, 2);
    tarni_trade_close(&t);
    unit_bytes = UNIT;
    CHECK_EQ(n_out, 0);
}

/* Of no option: what one session needs is tried, whatever was planned with. */
CASE(what_a_device_has_left)
{
    tarn_error err;
    tarni_trade t;
    tarni_trade_plan plan = {.item_bytes = {SLOT, PAGE},
                             .n_items = {20, 20},
                             .n_least = {4, 1},
                             .bytes_max = 4 * UNIT - 1};
    for (int i = 0; i < 2; i++) {
        supported = i == 0;
        REQUIRE_OK(open_planned(&t, &plan, &err), &err);
        CHECK_EQ(t.n_chunks, supported ? 4 : 0);
        CHECK(tarni_trade_room(&t, TARNI_PAGES) >= 1);
        plan.bytes_max = SLOT; /* and less */
        tarni_trade_close(&t);
    }
    supported = true;
    plan.bytes_max = 4 * UNIT - 1;
    memory_bytes = 4 * UNIT - 1;
    CHECK_STATUS(open_planned(&t, &plan, &err), TARN_E_NO_MEMORY);
    memory_bytes = UINT64_MAX;
    CHECK_EQ(n_out, 0);
}

/* A model without latents has pages of no bytes. */
CASE(slots_alone)
{
    tarn_error err;
    tarni_trade t;
    uint32_t slot;
    const tarni_trade_plan plan = {.item_bytes = {SLOT, 0},
                                   .n_items = {20, 1000},
                                   .n_least = {4, 1},
                                   .bytes_max = 12 * SLOT,
                                   .bytes_name = "the_budget"};
    for (int i = 0; i < 2; i++) {
        supported = i == 0;
        REQUIRE_OK(open_planned(&t, &plan, &err), &err);
        CHECK_EQ(t.ranges[TARNI_PAGES].n_items, 0);
        CHECK_EQ(t.ranges[TARNI_SLOTS].n_items, supported ? 8 * UNIT / SLOT : 6);
        CHECK(tarni_trade_take(&t, TARNI_SLOTS, true, &slot));
        memset(tarni_trade_at(&t, TARNI_SLOTS, slot), 1, SLOT);
        tarni_trade_release(&t, TARNI_SLOTS, slot);
        tarni_trade_close(&t);
    }
    supported = true;
    CHECK_EQ(n_out, 0);
}

/* More items than have a number: as many as have one, and not the rest of a division. */
CASE(more_pages_than_numbers)
{
    tarn_error err;
    tarni_trade t;
    const tarni_trade_plan plan = {.item_bytes = {SLOT, 1},
                                   .n_items = {4, ((uint64_t)1 << 32) + 5},
                                   .n_least = {4, 1},
                                   .bytes_max = UINT64_MAX};
    block_max = (size_t)1 << 20;
    CHECK_STATUS(open_planned(&t, &plan, &err), TARN_E_NO_MEMORY);
    CHECK_HAS(err.detail, "536870912"); /* bits of all that have one */
    block_max = SIZE_MAX;
    CHECK_EQ(n_out, 0);
}

CASE(a_device_that_cannot_move_memory)
{
    tarni_trade t;
    tarn_error err;
    uint32_t item, n;
    supported = false;
    REQUIRE_OK(open_trade(&t, 20, 30, UINT64_MAX, &err), &err);
    CHECK_HAS(last_line, "no such thing here: states have 20 slots and latents 30 pages for good");
    for (n = 0; tarni_trade_take(&t, TARNI_SLOTS, false, &item); n++)
        memset(tarni_trade_at(&t, TARNI_SLOTS, item), 1, SLOT);
    CHECK_EQ(n, 20);
    CHECK_EQ(tarni_trade_room(&t, TARNI_PAGES), 30);
    for (n = 0; tarni_trade_take(&t, TARNI_PAGES, false, &item); n++)
        memset(tarni_trade_at(&t, TARNI_PAGES, item), 2, PAGE);
    CHECK_EQ(n, 30);
    CHECK_EQ(tarni_trade_at(&t, TARNI_SLOTS, 19)[SLOT - 1], 1);
    tarni_trade_close(&t);
    /* of a budget for less than both, half is for slots */
    REQUIRE_OK(open_trade(&t, 1000, 1000, 20 * SLOT, &err), &err);
    CHECK_EQ(t.ranges[TARNI_SLOTS].n_items, 10);
    CHECK_EQ(t.ranges[TARNI_PAGES].n_items, 10 * SLOT / PAGE);
    tarni_trade_close(&t);
    REQUIRE_OK(open_trade(&t, 4, 1000, 20 * SLOT, &err), &err);
    CHECK_EQ(t.ranges[TARNI_SLOTS].n_items, 4);
    CHECK_EQ(t.ranges[TARNI_PAGES].n_items, 16 * SLOT / PAGE);
    tarni_trade_close(&t);
    /* few pages leave nothing over, and there is always one */
    REQUIRE_OK(open_trade(&t, 1000, 3, 20 * SLOT, &err), &err);
    CHECK_EQ(t.ranges[TARNI_SLOTS].n_items, 10);
    CHECK_EQ(t.ranges[TARNI_PAGES].n_items, 3);
    tarni_trade_close(&t);
    tarni_trade_plan wide = {.item_bytes = {SLOT, 20 * SLOT},
                             .n_items = {1000, 1000},
                             .n_least = {4, 1},
                             .bytes_max = 26 * SLOT};
    REQUIRE_OK(open_planned(&t, &wide, &err), &err);
    CHECK_EQ(t.ranges[TARNI_SLOTS].n_items, 6);
    CHECK_EQ(t.ranges[TARNI_PAGES].n_items, 1);
    tarni_trade_close(&t);
    /* no more than was given */
    REQUIRE_OK(open_trade(&t, 20, 30, 4 * SLOT + PAGE, &err), &err);
    CHECK_EQ(t.ranges[TARNI_SLOTS].n_items, 4);
    CHECK_EQ(t.ranges[TARNI_PAGES].n_items, 1);
    tarni_trade_close(&t);
    CHECK_STATUS(open_trade(&t, 20, 30, 4 * SLOT + PAGE - 1, &err), TARN_E_LIMIT);
    CHECK_HAS(err.detail, "the_budget is 12799: one session needs 4 slots of 3000 bytes and a page "
                          "of 800, in one piece that is 12800");
    /* sums that are no numbers */
    CHECK_STATUS(open_trade(&t, UINT64_MAX / 2, 20, UINT64_MAX, &err), TARN_E_NO_MEMORY);
    wide = (tarni_trade_plan){.item_bytes = {(size_t)1 << 40, 1},
                              .n_items = {(uint64_t)1 << 31, 1},
                              .n_least = {4, 1},
                              .bytes_max = UINT64_MAX};
    CHECK_STATUS(open_planned(&t, &wide, &err), TARN_E_NO_MEMORY);
    wide.item_bytes[0] = wide.item_bytes[1] = (size_t)1 << 32;
    wide.n_items[1] = (uint64_t)1 << 31;
    CHECK_STATUS(open_planned(&t, &wide, &err), TARN_E_NO_MEMORY);
    supported = true;
    CHECK_EQ(n_out, 0);
}

CHECK_MAIN(ENTRY(what_one_does_not_use_the_other_gets), ENTRY(random_takes_and_releases),
           ENTRY(a_move_that_fails), ENTRY(a_chunk_goes_back), ENTRY(opening_fails_at_every_call),
           ENTRY(budgets_and_chunks), ENTRY(what_a_device_has_left), ENTRY(slots_alone),
           ENTRY(more_pages_than_numbers), ENTRY(a_device_that_cannot_move_memory))
