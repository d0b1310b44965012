/* trade.c
 *
 * A take that finds nothing ready first asks how many chunks it could have: loose ones, and the
 * idle ones of the other side. Only if these make an item ready they move, the lowest bare place
 * first, from the highest idle one: so both ranges stay filled from the bottom, and a take that is
 * refused has moved nothing.
 *
 * Chunks are left where they are when what they held comes free, as it is likely to be wanted there
 * again, and a move waits for the device.
 *
 * Rejected: moving items together so that whole chunks come free. Every holder of a page would have
 * to be found, and parking, which makes room when there is none, gives back all pages of a session.
 */
#include "trade.h"

#include <stdio.h>

static const char *const item_names[] = {"state slot", "latent page"};

static tarni_side other_side(tarni_side side)
{
    return side == TARNI_SLOTS ? TARNI_PAGES : TARNI_SLOTS;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Places that hold n items; UINT64_MAX where no number does. */
static uint64_t places_of(uint64_t n_items, size_t item_bytes, size_t place_bytes)
{
    if (item_bytes == 0)
        return 0;
    if (n_items > (UINT64_MAX - place_bytes) / item_bytes)
        return UINT64_MAX / 4;
    return (n_items * item_bytes + place_bytes - 1) / place_bytes;
}

static uint64_t places_of_both(const tarni_trade_plan *plan, const uint64_t n[2],
                               size_t place_bytes)
{
    return places_of(n[TARNI_SLOTS], plan->item_bytes[TARNI_SLOTS], place_bytes) +
           places_of(n[TARNI_PAGES], plan->item_bytes[TARNI_PAGES], place_bytes);
}

/* A multiple of `unit`, and small enough that the budget is many of them. */
static size_t choose_chunk(const tarni_trade_plan *plan, size_t unit)
{
    size_t n_bytes = TARNI_CHUNK_BYTES > unit ? TARNI_CHUNK_BYTES / unit * unit : unit;
    while (n_bytes > unit) {
        uint64_t all = places_of_both(plan, plan->n_items, n_bytes),
                 given = plan->bytes_max / n_bytes;
        if ((all < given ? all : given) >= TARNI_CHUNKS_MIN)
            break;
        n_bytes = n_bytes / 2 > unit ? n_bytes / 2 / unit * unit : unit;
    }
    return n_bytes;
}

/* One session needs more than the option says. */
static tarn_status refuse_budget(const tarni_trade_plan *plan, uint64_t least_bytes,
                                 const char *how, tarn_error *err)
{
    return tarni_fail(
        err, TARN_E_LIMIT,
        "%s is %llu: one session needs %llu slots of %zu bytes and a page of %zu, %s that is %llu",
        plan->bytes_name, (unsigned long long)plan->bytes_max,
        (unsigned long long)plan->n_least[TARNI_SLOTS], plan->item_bytes[TARNI_SLOTS],
        plan->item_bytes[TARNI_PAGES], how, (unsigned long long)least_bytes);
}

static tarn_status count_chunks(tarni_trade *t, const tarni_trade_plan *plan, tarn_error *err)
{
    const size_t chunk = t->chunk_bytes;
    uint64_t all = places_of_both(plan, plan->n_items, chunk);
    uint64_t one = places_of_both(plan, plan->n_least, chunk);
    uint64_t n = plan->bytes_max / chunk < all ? plan->bytes_max / chunk : all;
    uint64_t left = t->device->class->free_bytes(t->device);
    char how[40];
    snprintf(how, sizeof how, "in chunks of %zu", chunk);
    if (n < one && plan->bytes_name)
        return refuse_budget(plan, one * chunk, how, err);
    n = n < one ? one : n;
    if (n > left / chunk || n >= TARNI_RANGE_NONE)
        return tarni_fail(err, TARN_E_NO_MEMORY,
                          "%s: %llu MiB for states and latents, %llu MiB are free", t->device->name,
                          (unsigned long long)(n * (chunk / 1024) / 1024),
                          (unsigned long long)(left >> 20));
    t->n_chunks = (uint32_t)n;
    return TARN_OK;
}

static tarn_status create_chunks(tarni_trade *t, tarn_error *err)
{
    const tarni_chunk_class *class = t->device->class->chunks;
    uint32_t n = t->n_chunks;
    t->n_chunks = 0; /* those that are there, if one cannot be had */
    TARNI_TRY(tarni_alloc(&t->allocator, n, sizeof *t->chunks, &t->chunks, err));
    TARNI_TRY(tarni_alloc(&t->allocator, n, sizeof *t->loose, &t->loose, err));
    for (; t->n_chunks < n; t->n_chunks++)
        TARNI_TRY(class->create(t->device, t->chunk_bytes, &t->chunks[t->n_chunks], err));
    while (t->n_loose < n) { /* the first is taken first */
        t->loose[t->n_loose] = n - 1 - t->n_loose;
        t->n_loose++;
    }
    return TARN_OK;
}

static tarn_status open_range(tarni_trade *t, const tarni_trade_plan *plan, tarni_side side,
                              tarn_error *err)
{
    size_t item_bytes = plan->item_bytes[side];
    uint64_t fit = item_bytes > 0 ? tarni_trade_bytes(t, t->n_chunks) / item_bytes : 0;
    uint64_t n = plan->n_items[side] < fit ? plan->n_items[side] : fit;
    if (n == 0)
        return TARN_OK;
    n = n < TARNI_RANGE_NONE ? n : TARNI_RANGE_NONE - 1;
    tarni_range *r = &t->ranges[side];
    TARNI_TRY(tarni_range_init(r, item_bytes, t->chunk_bytes, (uint32_t)n, &t->allocator, err));
    return t->device->class->chunks->reserve(t->device, r->n_places * t->chunk_bytes,
                                             &t->bases[side], err);
}

/* How many slots and pages one piece has. Of a budget that is less than both could have, slots have
 * no more than half, or what one session needs, and leave room for a page. */
static tarn_status split(const tarni_trade_plan *plan, uint64_t n[2], tarn_error *err)
{
    const uint64_t budget = plan->bytes_max, least = places_of_both(plan, plan->n_least, 1);
    const size_t *item = plan->item_bytes;
    n[TARNI_SLOTS] = plan->n_items[TARNI_SLOTS];
    n[TARNI_PAGES] = plan->n_items[TARNI_PAGES];
    if (places_of_both(plan, plan->n_items, 1) <= budget)
        return TARN_OK;
    if (least > budget && plan->bytes_name)
        return refuse_budget(plan, least, "in one piece", err);
    if (least > budget) { /* of what the device has left, which says itself whether it is enough */
        n[TARNI_SLOTS] = plan->n_least[TARNI_SLOTS];
        n[TARNI_PAGES] = plan->n_least[TARNI_PAGES];
        return TARN_OK;
    }
    uint64_t most = budget - plan->n_least[TARNI_PAGES] * item[TARNI_PAGES];
    uint64_t share = (budget / 2 < most ? budget / 2 : most) / item[TARNI_SLOTS];
    n[TARNI_SLOTS] = n[TARNI_SLOTS] < share ? n[TARNI_SLOTS] : share;
    if (n[TARNI_SLOTS] < plan->n_least[TARNI_SLOTS])
        n[TARNI_SLOTS] = plan->n_least[TARNI_SLOTS];
    uint64_t rest = budget - n[TARNI_SLOTS] * item[TARNI_SLOTS];
    if (item[TARNI_PAGES] > 0 && rest / item[TARNI_PAGES] < n[TARNI_PAGES])
        n[TARNI_PAGES] = rest / item[TARNI_PAGES];
    return TARN_OK;
}

/* Slots, then pages, in one piece. */
static tarn_status open_slab(tarni_trade *t, const tarni_trade_plan *plan, tarn_error *err)
{
    uint64_t n[2];
    size_t bytes[2], all;
    TARNI_TRY(split(plan, n, err));
    for (int i = 0; i < 2; i++)
        if (n[i] >= TARNI_RANGE_NONE ||
            !tarni_mul_size((size_t)n[i], plan->item_bytes[i], &bytes[i]))
            return tarni_fail_memory(err, SIZE_MAX);
    if (!tarni_add_size(bytes[0], bytes[1], &all))
        return tarni_fail_memory(err, SIZE_MAX);
    TARNI_TRY(t->device->class->alloc(t->device, &t->allocator, all, "states and latents", &t->slab,
                                      err));
    for (int i = 0; i < 2; i++) {
        t->bases[i] = t->slab + (i > 0 ? bytes[0] : 0);
        if (bytes[i] == 0)
            continue;
        TARNI_TRY(tarni_range_init(&t->ranges[i], plan->item_bytes[i], bytes[i], (uint32_t)n[i],
                                   &t->allocator, err));
        tarni_range_cover(&t->ranges[i], 0, 0);
    }
    return TARN_OK;
}

static tarn_status open_all(tarni_trade *t, const tarni_trade_plan *plan, tarn_error *err)
{
    size_t unit;
    tarn_status status = t->device->class->chunks->unit(t->device, &unit, err);
    if (status == TARN_E_UNSUPPORTED) {
        TARNI_TRY(open_slab(t, plan, err));
        TARNI_LOG(t->log, TARN_LOG_WARN, "%s: states have %u slots and latents %u pages for good",
                  err->detail, t->ranges[TARNI_SLOTS].n_items, t->ranges[TARNI_PAGES].n_items);
        return TARN_OK;
    }
    TARNI_TRY(status);
    t->chunk_bytes = choose_chunk(plan, unit);
    TARNI_TRY(count_chunks(t, plan, err));
    TARNI_TRY(create_chunks(t, err));
    TARNI_TRY(open_range(t, plan, TARNI_SLOTS, err));
    TARNI_TRY(open_range(t, plan, TARNI_PAGES, err));
    t->ranges[TARNI_SLOTS].n_spare = 1;
    TARNI_LOG(
        t->log, TARN_LOG_INFO,
        "%s: states and latents have %u chunks of %zu KiB: up to %u slots of %zu bytes, up to "
        "%u pages of %zu",
        t->device->name, t->n_chunks, t->chunk_bytes >> 10, t->ranges[TARNI_SLOTS].n_items,
        plan->item_bytes[TARNI_SLOTS], t->ranges[TARNI_PAGES].n_items,
        plan->item_bytes[TARNI_PAGES]);
    return TARN_OK;
}

tarn_status tarni_trade_open(tarni_trade *t, tarni_device *device, const tarni_trade_plan *plan,
                             const tarn_log *log, const tarn_allocator *a, tarn_error *err)
{
    *t = (tarni_trade){.device = device, .log = log, .allocator = *a};
    tarn_status status = open_all(t, plan, err);
    if (status != TARN_OK)
        tarni_trade_close(t);
    return status;
}

void tarni_trade_close(tarni_trade *t)
{
    tarni_device *d = t->device;
    if (!d)
        return;
    const tarni_chunk_class *class = d->class->chunks;
    tarn_error err;
    for (int side = 0; side < 2; side++) {
        tarni_range *r = &t->ranges[side];
        bool reserved = !t->slab && t->bases[side];
        for (uint32_t i = 0; reserved && i < r->n_places; i++)
            if (r->chunks[i] != TARNI_RANGE_NONE) /* on a device that is gone it fails */
                (void)!class->unmap(d, t->bases[side] + i * t->chunk_bytes, t->chunk_bytes, &err);
        if (reserved)
            class->unreserve(d, t->bases[side], r->n_places * t->chunk_bytes);
        tarni_range_fini(r, &t->allocator);
    }
    for (uint32_t i = 0; i < t->n_chunks; i++)
        class->destroy(d, t->chunks[i]);
    tarni_free(&t->allocator, t->chunks);
    tarni_free(&t->allocator, t->loose);
    if (t->slab)
        d->class->free(d, &t->allocator, t->slab);
    *t = (tarni_trade){0};
}

/* ---- taking and moving ----------------------------------------------------------------------- */

static uint32_t chunks_within_reach(const tarni_trade *t, tarni_side side)
{
    uint32_t n;
    (void)tarni_range_idle(&t->ranges[other_side(side)], &n);
    return t->slab ? 0 : t->n_loose + n;
}

static tarn_status map(tarni_trade *t, tarni_side side, uint32_t place, uint32_t chunk)
{
    TARNI_TRY(t->device->class->chunks->map(t->device, t->bases[side] + place * t->chunk_bytes,
                                            t->chunk_bytes, t->chunks[chunk], &t->failure));
    tarni_range_cover(&t->ranges[side], place, chunk);
    return TARN_OK;
}

/* The other side's highest idle chunk goes to `place`; if it cannot, it goes back. */
static tarn_status move(tarni_trade *t, tarni_side side, uint32_t place)
{
    tarni_side other = other_side(side);
    tarni_range *r = &t->ranges[other];
    uint32_t n, from = tarni_range_idle(r, &n);
    TARNI_TRY(t->device->class->chunks->unmap(t->device, t->bases[other] + from * t->chunk_bytes,
                                              t->chunk_bytes, &t->failure));
    uint32_t chunk = tarni_range_uncover(r, from);
    tarn_status status = map(t, side, place, chunk);
    if (status == TARN_OK) {
        t->n_traded++;
        return TARN_OK;
    }
    tarn_error why = t->failure;
    if (map(t, other, from, chunk) != TARN_OK)
        t->loose[t->n_loose++] = chunk;
    t->failure = why;
    return status;
}

/* One more chunk for this side, of those within reach. */
static tarn_status bring(tarni_trade *t, tarni_side side)
{
    uint32_t place = tarni_range_bare(&t->ranges[side]);
    if (t->n_loose == 0) {
        TARNI_TRY(move(t, side, place));
    } else {
        TARNI_TRY(map(t, side, place, t->loose[t->n_loose - 1]));
        t->n_loose--;
    }
    t->failure.detail[0] = 0;
    return TARN_OK;
}

bool tarni_trade_take(tarni_trade *t, tarni_side side, bool last, uint32_t *item)
{
    tarni_range *r = &t->ranges[side];
    uint32_t wanted = 1 + (last ? 0 : r->n_spare), reach;
    if (r->n_ready < wanted) {
        reach = chunks_within_reach(t, side);
        if (reach == 0 || tarni_range_ready_with(r, reach) < wanted)
            return false;
    }
    while (r->n_ready < wanted)
        if (bring(t, side) != TARN_OK) {
            TARNI_LOG(t->log, TARN_LOG_WARN, "no chunk for a %s: %s", item_names[side],
                      t->failure.detail);
            return false;
        }
    *item = tarni_range_take(r);
    return true;
}

void tarni_trade_release(tarni_trade *t, tarni_side side, uint32_t item)
{
    tarni_range_release(&t->ranges[side], item);
}

tarn_status tarni_trade_refuse(const tarni_trade *t, tarni_side side, tarn_error *err)
{
    const tarni_range *slots = &t->ranges[TARNI_SLOTS], *pages = &t->ranges[TARNI_PAGES];
    TARNI_TRY(tarni_device_check(t->device, err));
    return tarni_fail(err, TARN_E_LIMIT,
                      "states and latents share %llu bytes: no room for a %s beside %u slots "
                      "of %zu and %u pages of %zu bytes of sessions with work or uncommitted "
                      "tokens%s%s",
                      (unsigned long long)tarni_trade_bytes(t, t->n_chunks), item_names[side],
                      slots->n_used, slots->item_bytes, pages->n_used, pages->item_bytes,
                      t->failure.detail[0] ? "; " : "", t->failure.detail);
}

uint64_t tarni_trade_room(const tarni_trade *t, tarni_side side)
{
    return tarni_range_ready_with(&t->ranges[side], chunks_within_reach(t, side));
}
