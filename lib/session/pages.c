#include "pages.h"

#include <assert.h>
#include <string.h>

typedef struct page_header {
    uint32_t refs;  /* sessions */
    uint32_t holds; /* commits on their way */
    struct page_header *next_free;
} page_header;

static_assert(sizeof(page_header) <= TARNI_ALIGNMENT, "the header fits its cache line");

static size_t pages_of(uint64_t n_tokens)
{
    return (size_t)((n_tokens + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS);
}

static uint32_t item_of(const tarni_pages *p, const uint8_t *page)
{
    return (uint32_t)((size_t)(page - p->trade->bases[TARNI_PAGES]) / p->layout->page_bytes);
}

static page_header *header_of(const tarni_pages *p, uint8_t *page)
{
    if (p->trade)
        return &p->headers[item_of(p, page)];
    return (page_header *)(void *)(page - TARNI_ALIGNMENT);
}

void tarni_pages_init(tarni_pages *p, const tarni_layout *layout, uint64_t n_max,
                      const tarn_allocator *allocator)
{
    *p = (tarni_pages){
        .allocator = *allocator, .layout = layout, .n_max = n_max > 0 ? n_max : UINT64_MAX};
}

tarn_status tarni_pages_init_in(tarni_pages *p, tarni_trade *trade, const tarni_layout *layout,
                                uint64_t n_max, const tarn_allocator *allocator, tarn_error *err)
{
    const uint32_t n_items = trade->ranges[TARNI_PAGES].n_items;
    tarni_pages_init(p, layout, n_max, allocator);
    if (layout->page_bytes == 0) /* no latents: pages are numbers alone */
        return TARN_OK;
    p->n_max = n_items;
    TARNI_TRY(tarni_alloc(allocator, n_items, sizeof *p->headers, &p->headers, err));
    p->trade = trade;
    return TARN_OK;
}

void tarni_pages_fini(tarni_pages *p)
{
    TARN_ASSERT(p->n_used == 0);
    if (p->trade) {
        tarni_free(&p->allocator, p->headers);
        return;
    }
    for (page_header *h = p->free_list, *next; h; h = next) {
        next = h->next_free;
        tarni_free_aligned(&p->allocator, h);
    }
    p->free_list = NULL;
}

uint64_t tarni_pages_room(const tarni_pages *p)
{
    uint64_t below = p->n_max - p->n_used;
    uint64_t room = p->trade ? tarni_trade_room(p->trade, TARNI_PAGES) : below;
    return room < below ? room : below;
}

static tarn_status new_page(tarni_pages *p, uint8_t **out, tarn_error *err)
{
    page_header *h = p->free_list;
    if (h) {
        p->free_list = h->next_free;
        p->n_free--;
    } else {
        TARNI_TRY(tarni_alloc_aligned(&p->allocator, TARNI_ALIGNMENT + p->layout->page_bytes, 1, &h,
                                      err));
    }
    *out = (uint8_t *)h + TARNI_ALIGNMENT;
    return TARN_OK;
}

/* Of the trade's items. */
static bool find(tarni_pages *p, uint8_t **out)
{
    uint32_t item;
    if (!tarni_trade_take(p->trade, TARNI_PAGES, false, &item))
        return false;
    *out = tarni_trade_at(p->trade, TARNI_PAGES, item);
    return true;
}

static tarn_status take_page(tarni_pages *p, uint8_t **out, tarn_error *err)
{
    while (p->n_used >= p->n_max || (p->trade && !find(p, out)))
        if (!p->relieve || !p->relieve(p->relieve_user)) {
            if (p->n_used < p->n_max)
                return tarni_trade_refuse(p->trade, TARNI_PAGES, err);
            return tarni_fail(err, TARN_E_LIMIT,
                              "tokens_max is reached: all %llu latent pages of %d tokens are in "
                              "use by sessions with work or uncommitted tokens",
                              (unsigned long long)p->n_max, TARNK_PAGE_TOKENS);
        }
    if (!p->trade)
        TARNI_TRY(new_page(p, out, err));
    *header_of(p, *out) = (page_header){.refs = 1};
    p->n_used++;
    return TARN_OK;
}

static void free_unused(tarni_pages *p, uint8_t *page)
{
    page_header *h = header_of(p, page);
    if (h->refs > 0 || h->holds > 0)
        return;
    p->n_used--;
    if (p->trade) {
        tarni_trade_release(p->trade, TARNI_PAGES, item_of(p, page));
        return;
    }
    h->next_free = p->free_list;
    p->free_list = h;
    p->n_free++;
}

static void release_page(tarni_pages *p, uint8_t *page)
{
    page_header *h = header_of(p, page);
    TARN_ASSERT(h->refs > 0);
    h->refs--;
    free_unused(p, page);
}

static void let_go_of_page(tarni_pages *p, uint8_t *page)
{
    page_header *h = header_of(p, page);
    TARN_ASSERT(h->holds > 0);
    h->holds--;
    free_unused(p, page);
}

/* Only the rows in use: the rest of a page may never have been written. */
static void copy_rows(const tarni_pages *p, uint8_t *to, const uint8_t *from, size_t n_rows)
{
    const tarni_layout *l = p->layout;
    for (uint32_t i = 0; i < l->n_mla; i++) {
        size_t at = i * l->latent_stride, n_bytes = n_rows * l->latent_row_bytes;
        if (p->trade)
            p->trade->device->class->copy(p->trade->device, to + at, from + at, n_bytes);
        else
            memcpy(to + at, from + at, n_bytes);
    }
}

static tarn_status own_partial_page(tarni_pages *p, tarni_page_table *t, uint64_t begin,
                                    tarn_error *err)
{
    size_t n_rows = begin % TARNK_PAGE_TOKENS;
    uint8_t **slot = &t->pages[begin / TARNK_PAGE_TOKENS];
    if (header_of(p, *slot)->refs == 1)
        return TARN_OK;
    uint8_t *copy = NULL;
    TARNI_TRY(take_page(p, &copy, err));
    copy_rows(p, copy, *slot, n_rows);
    release_page(p, *slot);
    *slot = copy;
    return TARN_OK;
}

tarn_status tarni_page_table_reserve(tarni_pages *p, tarni_page_table *t, uint64_t begin,
                                     uint64_t end, tarn_error *err)
{
    size_t n_wanted = pages_of(end);
    size_t n_before = t->n_pages;
    TARN_ASSERT(begin <= n_before * TARNK_PAGE_TOKENS); /* nothing is missing before */
    TARNI_TRY(tarni_grow(&p->allocator, &t->pages, &t->capacity, n_wanted, sizeof *t->pages, err));
    tarn_status status = TARN_OK;
    while (status == TARN_OK && t->n_pages < n_wanted) {
        status = take_page(p, &t->pages[t->n_pages], err);
        t->n_pages += status == TARN_OK;
    }
    if (status == TARN_OK && begin < end && begin / TARNK_PAGE_TOKENS < n_before)
        status = own_partial_page(p, t, begin, err);
    if (status != TARN_OK)
        while (t->n_pages > n_before)
            release_page(p, t->pages[--t->n_pages]);
    return status;
}

tarn_status tarni_page_table_share(tarni_pages *p, const tarni_page_table *t, uint64_t n_tokens,
                                   tarni_page_table *out, tarn_error *err)
{
    *out = (tarni_page_table){0};
    size_t n_pages = pages_of(n_tokens);
    TARN_ASSERT(n_pages <= t->n_pages);
    TARNI_TRY(
        tarni_grow(&p->allocator, &out->pages, &out->capacity, n_pages, sizeof *t->pages, err));
    for (size_t i = 0; i < n_pages; i++) {
        header_of(p, t->pages[i])->refs++;
        out->pages[i] = t->pages[i];
    }
    out->n_pages = n_pages;
    return TARN_OK;
}

tarn_status tarni_page_table_hold(tarni_pages *p, const tarni_page_table *t, uint64_t begin,
                                  uint64_t end, tarni_page_table *out, tarn_error *err)
{
    *out = (tarni_page_table){.holds = true};
    size_t n_pages = pages_of(end);
    TARN_ASSERT(n_pages <= t->n_pages);
    if (begin >= end)
        return TARN_OK;
    TARNI_TRY(tarni_alloc(&p->allocator, n_pages, sizeof *out->pages, &out->pages, err));
    for (size_t i = (size_t)(begin / TARNK_PAGE_TOKENS); i < n_pages; i++) {
        header_of(p, t->pages[i])->holds++;
        out->pages[i] = t->pages[i];
    }
    out->n_pages = out->capacity = n_pages;
    return TARN_OK;
}

uint64_t tarni_page_table_yield(const tarni_pages *p, const tarni_page_table *t, uint64_t n_tokens)
{
    uint64_t n = 0;
    for (size_t i = pages_of(n_tokens); i < t->n_pages; i++) {
        const page_header *h = header_of(p, t->pages[i]);
        n += h->refs == 1 && h->holds == 0;
    }
    return n;
}

uint64_t tarni_page_table_missing(const tarni_pages *p, const tarni_page_table *t, uint64_t begin,
                                  uint64_t end, uint32_t n_leaving)
{
    uint64_t n_pages = pages_of(end), n = n_pages > t->n_pages ? n_pages - t->n_pages : 0;
    size_t first = (size_t)(begin / TARNK_PAGE_TOKENS);
    if (begin < end && first < t->n_pages)
        n += header_of(p, t->pages[first])->refs > 1 + n_leaving;
    return n;
}

void tarni_page_table_trim(tarni_pages *p, tarni_page_table *t, uint64_t n_tokens)
{
    size_t n_pages = pages_of(n_tokens);
    while (t->n_pages > n_pages) {
        uint8_t *page = t->pages[--t->n_pages];
        if (!t->holds)
            release_page(p, page);
        else if (page)
            let_go_of_page(p, page);
    }
}

void tarni_page_table_fini(tarni_pages *p, tarni_page_table *t)
{
    tarni_page_table_trim(p, t, 0);
    tarni_free(&p->allocator, t->pages);
    *t = (tarni_page_table){0};
}
