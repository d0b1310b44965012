#include "pages.h"

#include "check.h"

#include <string.h>

/* Two MLA layers of 10-byte rows. */
static const tarni_layout layout = {
    .n_mla = 2, .latent_row_bytes = 10, .latent_stride = 640, .page_bytes = 1280};

static uint8_t *row(const tarni_page_table *t, uint64_t token, uint32_t layer)
{
    return t->pages[token / 64] + layer * layout.latent_stride +
           token % 64 * layout.latent_row_bytes;
}

static void fill(tarni_page_table *t, uint64_t begin, uint64_t end, int salt)
{
    for (uint64_t i = begin; i < end; i++)
        for (uint32_t l = 0; l < 2; l++)
            memset(row(t, i, l), (int)(i * 7 + l + (uint64_t)salt) & 0xFF, 10);
}

static bool holds(const tarni_page_table *t, uint64_t begin, uint64_t end, int salt)
{
    for (uint64_t i = begin; i < end; i++)
        for (uint32_t l = 0; l < 2; l++)
            for (size_t k = 0; k < 10; k++)
                if (row(t, i, l)[k] != ((i * 7 + l + (uint64_t)salt) & 0xFF))
                    return false;
    return true;
}

static tarni_pages pool(uint64_t tokens_max)
{
    tarni_pages p;
    tarni_pages_init(&p, &layout, (tokens_max + 63) / 64, &tarni_heap);
    return p;
}

CASE(pages_come_and_go)
{
    tarni_pages p = pool(0);
    tarni_page_table t = {0};
    tarn_error err;
    CHECK_STATUS(tarni_page_table_reserve(&p, &t, 0, 0, &err), TARN_OK);
    CHECK_EQ(p.n_used, 0);
    CHECK_STATUS(tarni_page_table_reserve(&p, &t, 0, 64, &err), TARN_OK);
    CHECK_EQ(p.n_used, 1);
    CHECK_STATUS(tarni_page_table_reserve(&p, &t, 64, 65, &err), TARN_OK);
    CHECK_EQ(p.n_used, 2);
    CHECK_STATUS(tarni_page_table_reserve(&p, &t, 65, 128, &err), TARN_OK);
    CHECK_EQ(p.n_used, 2);
    CHECK_EQ((uintptr_t)t.pages[1] % 64, 0);
    fill(&t, 0, 128, 1);
    CHECK(holds(&t, 0, 128, 1));
    tarni_page_table_trim(&p, &t, 65);
    CHECK_EQ(t.n_pages, 2);
    tarni_page_table_trim(&p, &t, 64);
    CHECK_EQ(t.n_pages, 1);
    CHECK_EQ(p.n_used, 1);
    CHECK_EQ(p.n_free, 1);
    CHECK_STATUS(tarni_page_table_reserve(&p, &t, 64, 200, &err), TARN_OK);
    CHECK_EQ(p.n_free, 0); /* used again */
    CHECK(holds(&t, 0, 64, 1));
    tarni_page_table_fini(&p, &t);
    CHECK_EQ(p.n_used, 0);
    tarni_pages_fini(&p);
}

CASE(a_shared_tail_is_copied_by_who_writes_first)
{
    tarni_pages p = pool(0);
    tarni_page_table a = {0}, b;
    tarn_error err;
    REQUIRE_OK(tarni_page_table_reserve(&p, &a, 0, 100, &err), &err);
    fill(&a, 0, 100, 1);
    REQUIRE_OK(tarni_page_table_share(&p, &a, 100, &b, &err), &err);
    CHECK_EQ(p.n_used, 2);
    CHECK(a.pages[0] == b.pages[0] && a.pages[1] == b.pages[1]);
    REQUIRE_OK(tarni_page_table_reserve(&p, &b, 100, 110, &err), &err);
    CHECK_EQ(p.n_used, 3);
    CHECK(a.pages[0] == b.pages[0]); /* full pages stay shared */
    CHECK(a.pages[1] != b.pages[1]);
    CHECK(holds(&b, 0, 100, 1));
    fill(&b, 100, 110, 2);
    uint8_t *mine = a.pages[1];
    REQUIRE_OK(tarni_page_table_reserve(&p, &a, 100, 128, &err), &err);
    CHECK(a.pages[1] == mine); /* nobody else has it now */
    fill(&a, 100, 128, 3);
    CHECK(holds(&b, 0, 100, 1) && holds(&b, 100, 110, 2));
    CHECK(holds(&a, 0, 100, 1) && holds(&a, 100, 128, 3));
    CHECK_EQ(p.n_used, 3);
    tarni_page_table_fini(&p, &a);
    CHECK_EQ(p.n_used, 2);
    CHECK(holds(&b, 0, 100, 1));
    tarni_page_table_fini(&p, &b);
    tarni_pages_fini(&p);
}

CASE(a_full_shared_page_is_not_copied)
{
    tarni_pages p = pool(0);
    tarni_page_table a = {0}, b;
    tarn_error err;
    REQUIRE_OK(tarni_page_table_reserve(&p, &a, 0, 128, &err), &err);
    REQUIRE_OK(tarni_page_table_share(&p, &a, 128, &b, &err), &err);
    REQUIRE_OK(tarni_page_table_reserve(&p, &b, 128, 129, &err), &err);
    CHECK(a.pages[1] == b.pages[1]);
    CHECK_EQ(p.n_used, 3);
    tarni_page_table c; /* shares only the pages of its tokens */
    REQUIRE_OK(tarni_page_table_share(&p, &b, 64, &c, &err), &err);
    CHECK_EQ(c.n_pages, 1);
    tarni_page_table_fini(&p, &c);
    tarni_page_table_fini(&p, &a);
    tarni_page_table_fini(&p, &b);
    tarni_pages_fini(&p);
}

CASE(the_limit_leaves_the_table_as_it_was)
{
    tarni_pages p = pool(200); /* 4 pages */
    tarni_page_table a = {0}, b;
    tarn_error err;
    CHECK_EQ(p.n_max, 4);
    REQUIRE_OK(tarni_page_table_reserve(&p, &a, 0, 100, &err), &err);
    fill(&a, 0, 100, 1);
    CHECK_STATUS(tarni_page_table_reserve(&p, &a, 100, 257, &err), TARN_E_LIMIT);
    CHECK_HAS(err.detail, "all 4 latent pages");
    CHECK_EQ(a.n_pages, 2);
    CHECK_EQ(p.n_used, 2);
    REQUIRE_OK(tarni_page_table_share(&p, &a, 100, &b, &err), &err);
    /* two new pages fit, the copy of the tail does not: nothing is changed */
    CHECK_STATUS(tarni_page_table_reserve(&p, &b, 100, 256, &err), TARN_E_LIMIT);
    CHECK_EQ(b.n_pages, 2);
    CHECK_EQ(p.n_used, 2);
    CHECK(a.pages[1] == b.pages[1]);
    CHECK(holds(&b, 0, 100, 1));
    CHECK_STATUS(tarni_page_table_reserve(&p, &b, 100, 192, &err), TARN_OK);
    CHECK_EQ(p.n_used, 4);
    tarni_page_table_fini(&p, &a);
    tarni_page_table_fini(&p, &b);
    tarni_pages_fini(&p);
}

/* A commit on its way keeps pages from going, and makes nobody copy one. */
CASE(held_pages)
{
    tarni_pages p = pool(0);
    tarni_page_table t = {0}, held, fork;
    tarn_error err;
    REQUIRE_OK(tarni_page_table_reserve(&p, &t, 0, 200, &err), &err);
    fill(&t, 0, 200, 1);
    REQUIRE_OK(tarni_page_table_hold(&p, &t, 130, 200, &held, &err), &err);
    CHECK(held.pages[0] == NULL && held.pages[1] == NULL);
    CHECK(held.pages[2] == t.pages[2] && held.pages[3] == t.pages[3]);
    uint8_t *tail = t.pages[3];
    REQUIRE_OK(tarni_page_table_reserve(&p, &t, 200, 210, &err), &err);
    CHECK(t.pages[3] == tail);
    CHECK_EQ(p.n_used, 4);
    CHECK_EQ(tarni_page_table_yield(&p, &t, 64), 1); /* page 1; the others are held */
    tarni_page_table_trim(&p, &t, 0);
    CHECK_EQ(p.n_used, 2);
    CHECK(holds(&held, 130, 200, 1));
    tarni_page_table_fini(&p, &held);
    CHECK_EQ(p.n_used, 0);
    REQUIRE_OK(tarni_page_table_hold(&p, &t, 0, 0, &held, &err), &err);
    tarni_page_table_fini(&p, &held);
    /* what a reserve will take, said before */
    REQUIRE_OK(tarni_page_table_reserve(&p, &t, 0, 70, &err), &err);
    CHECK_EQ(tarni_page_table_missing(&p, &t, 70, 128, 0), 0);
    CHECK_EQ(tarni_page_table_missing(&p, &t, 70, 129, 0), 1);
    REQUIRE_OK(tarni_page_table_share(&p, &t, 70, &fork, &err), &err);
    CHECK_EQ(tarni_page_table_missing(&p, &t, 70, 129, 0), 2);
    CHECK_EQ(tarni_page_table_missing(&p, &t, 70, 129, 1), 1);
    CHECK_EQ(tarni_page_table_missing(&p, &t, 70, 70, 0), 0);
    CHECK_EQ(tarni_page_table_yield(&p, &t, 0), 0);
    tarni_page_table_fini(&p, &fork);
    CHECK_EQ(tarni_page_table_yield(&p, &t, 0), 2);
    tarni_page_table_fini(&p, &t);
    tarni_pages_fini(&p);
}

/* Without latents pages are numbers: counted, and bounded as others are. */
CASE(pages_of_no_bytes)
{
    static const tarni_layout none;
    tarni_trade trade = {0};
    tarni_pages p;
    tarni_page_table t = {0};
    tarn_error err;
    REQUIRE_OK(tarni_pages_init_in(&p, &trade, &none, 3, &tarni_heap, &err), &err);
    REQUIRE_OK(tarni_page_table_reserve(&p, &t, 0, 129, &err), &err);
    CHECK_EQ(p.n_used, 3);
    CHECK_EQ(tarni_pages_room(&p), 0);
    CHECK_STATUS(tarni_page_table_reserve(&p, &t, 129, 193, &err), TARN_E_LIMIT);
    tarni_page_table_trim(&p, &t, 64);
    CHECK_EQ(p.n_used, 1);
    tarni_page_table_fini(&p, &t);
    tarni_pages_fini(&p);
}

CHECK_MAIN(ENTRY(pages_of_no_bytes), ENTRY(held_pages), ENTRY(pages_come_and_go),
           ENTRY(a_shared_tail_is_copied_by_who_writes_first),
           ENTRY(a_full_shared_page_is_not_copied), ENTRY(the_limit_leaves_the_table_as_it_was))
