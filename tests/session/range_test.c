/* Items of a range against a plain model that looks at every byte. */
#include "range.h"

#include "check.h"

#include <string.h>

enum { ITEMS = 300, PLACES = 200 };

typedef struct plain {
    size_t item_bytes, place_bytes;
    bool used[ITEMS], chunk[PLACES];
} plain;

static bool touches(const plain *m, uint32_t item, uint32_t place)
{
    size_t begin = item * m->item_bytes, end = begin + m->item_bytes;
    return begin < (place + 1) * m->place_bytes && place * m->place_bytes < end;
}

static bool is_ready(const plain *m, const tarni_range *r, uint32_t item)
{
    for (uint32_t i = 0; i < r->n_places; i++)
        if (touches(m, item, i) && !m->chunk[i])
            return false;
    return !m->used[item];
}

static bool in_use(const plain *m, const tarni_range *r, uint32_t place)
{
    for (uint32_t i = 0; i < r->n_items; i++)
        if (m->used[i] && touches(m, i, place))
            return true;
    return false;
}

static uint32_t lowest_ready(const plain *m, const tarni_range *r, uint32_t *n)
{
    uint32_t lowest = TARNI_RANGE_NONE;
    *n = 0;
    for (uint32_t i = r->n_items; i-- > 0;)
        if (is_ready(m, r, i)) {
            lowest = i;
            ++*n;
        }
    return lowest;
}

static uint32_t ready_with(plain m, const tarni_range *r, uint32_t n_more)
{
    uint32_t n;
    for (uint32_t i = 0; i < r->n_places && n_more > 0; i++)
        if (!m.chunk[i]) {
            m.chunk[i] = true;
            n_more--;
        }
    (void)lowest_ready(&m, r, &n);
    return n;
}

static void compare(const plain *m, const tarni_range *r)
{
    uint32_t n_ready, n_used = 0, n_chunks = 0, n_idle = 0, n, highest = TARNI_RANGE_NONE;
    uint32_t bare = TARNI_RANGE_NONE;
    uint32_t lowest = lowest_ready(m, r, &n_ready);
    for (uint32_t i = 0; i < r->n_items; i++)
        n_used += m->used[i];
    for (uint32_t i = 0; i < r->n_places; i++) {
        n_chunks += m->chunk[i];
        if (!m->chunk[i] && bare == TARNI_RANGE_NONE)
            bare = i;
        if (m->chunk[i] && !in_use(m, r, i) &&
            !(r->n_spare > 0 && lowest != TARNI_RANGE_NONE && touches(m, lowest, i))) {
            highest = i;
            n_idle++;
        }
    }
    CHECK_EQ(r->n_ready, n_ready);
    CHECK_EQ(r->n_used, n_used);
    CHECK_EQ(r->n_chunks, n_chunks);
    CHECK_EQ(tarni_range_bare(r), bare);
    CHECK_EQ(tarni_range_idle(r, &n), highest);
    CHECK_EQ(n, n_idle);
    for (uint32_t more = 0; more < 4; more++)
        CHECK_EQ(tarni_range_ready_with(r, more), ready_with(*m, r, more));
}

/* One random move, if it is allowed. */
static void move(plain *m, tarni_range *r, uint32_t dice)
{
    uint32_t n, place = dice / 4 % r->n_places, item = dice / 4 % r->n_items;
    if (dice % 4 == 0 && !m->chunk[place]) {
        tarni_range_cover(r, place, place + 1000);
        m->chunk[place] = true;
    } else if (dice % 4 == 1 && m->chunk[place] && !in_use(m, r, place)) {
        CHECK_EQ(tarni_range_uncover(r, place), place + 1000);
        m->chunk[place] = false;
    } else if (dice % 4 == 2 && r->n_ready > 0) {
        uint32_t lowest = lowest_ready(m, r, &n);
        CHECK_EQ(tarni_range_take(r), lowest);
        m->used[lowest] = true;
    } else if (dice % 4 == 3 && m->used[item]) {
        tarni_range_release(r, item);
        m->used[item] = false;
    }
}

static void moves(size_t item_bytes, size_t place_bytes, uint32_t n_items, uint32_t n_spare)
{
    static plain m;
    tarni_range r;
    tarn_error err;
    uint32_t dice = 1;
    m = (plain){.item_bytes = item_bytes, .place_bytes = place_bytes};
    REQUIRE_OK(tarni_range_init(&r, item_bytes, place_bytes, n_items, &tarni_heap, &err), &err);
    r.n_spare = n_spare;
    CHECK_EQ(r.n_places, (n_items * item_bytes + place_bytes - 1) / place_bytes);
    REQUIRE(r.n_places <= PLACES && n_items <= ITEMS);
    for (int i = 0; i < 1500; i++) {
        dice = dice * 1664525u + 1013904223u;
        move(&m, &r, dice >> 8);
        compare(&m, &r);
    }
    tarni_range_fini(&r, &tarni_heap);
}

CASE(many_items_in_a_place)
{
    moves(10, 200, 100, 0);
    moves(10, 200, 101, 1);
}

CASE(items_across_places)
{
    moves(44, 64, 40, 1);
    moves(7, 16, 130, 0);
}

CASE(items_larger_than_places)
{
    moves(160, 64, 30, 1);
    moves(128, 64, 9, 0);
}

CASE(one_item_and_one_place)
{
    moves(64, 64, 1, 0);
    moves(5, 1000, 1, 1);
}

CHECK_MAIN(ENTRY(many_items_in_a_place), ENTRY(items_across_places),
           ENTRY(items_larger_than_places), ENTRY(one_item_and_one_place))
