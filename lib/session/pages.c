#include "pages.h"

#include <assert.h>
#include <string.h>

typedef struct page_header {
    uint32_t refs;
    struct page_header *next_free;
} page_header;

static_assert(sizeof(page_header) <= TARNI_ALIGNMENT, "the header fits its cache line");

static page_header *header_of(uint8_t *page)
{
    return (page_header *)(void *)(page - TARNI_ALIGNMENT);
}

void tarni_pages_init(tarni_pages *p, const tarni_layout *layout, uint64_t tokens_max,
                      const tarn_allocator *allocator)
{
    *p = (tarni_pages){.allocator = *allocator, .layout = layout, .n_max = UINT64_MAX};
    if (tokens_max > 0)
        p->n_max = (tokens_max + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
}

void tarni_pages_fini(tarni_pages *p)
{
    TARN_ASSERT(p->n_used == 0);
    for (page_header *h = p->free_list, *next; h; h = next) {
        next = h->next_free;
        tarni_free_aligned(&p->allocator, h);
    }
    p->free_list = NULL;
}

static tarn_status take_page(tarni_pages *p, uint8_t **out, tarn_error *err)
{
    if (p->n_used >= p->n_max)
        return tarni_fail(err, TARN_E_LIMIT,
                          "tokens_max is reached: all %llu latent pages of %d tokens are in use",
                          (unsigned long long)p->n_max, TARNK_PAGE_TOKENS);
    page_header *h = p->free_list;
    if (h) {
        p->free_list = h->next_free;
        p->n_free--;
    } else {
        TARNI_TRY(tarni_alloc_aligned(&p->allocator, TARNI_ALIGNMENT + p->layout->page_bytes, 1, &h,
                                      err));
    }
    *h = (page_header){.refs = 1};
    p->n_used++;
    *out = (uint8_t *)h + TARNI_ALIGNMENT;
    return TARN_OK;
}

static void release_page(tarni_pages *p, uint8_t *page)
{
    page_header *h = header_of(page);
    TARN_ASSERT(h->refs > 0);
    if (--h->refs > 0)
        return;
    h->next_free = p->free_list;
    p->free_list = h;
    p->n_free++;
    p->n_used--;
}

/* Only the rows in use: the rest of a page may never have been written. */
static void copy_rows(const tarni_layout *layout, uint8_t *to, const uint8_t *from, size_t n_rows)
{
    for (uint32_t i = 0; i < layout->n_mla; i++)
        memcpy(to + i * layout->latent_stride, from + i * layout->latent_stride,
               n_rows * layout->latent_row_bytes);
}

static tarn_status own_partial_page(tarni_pages *p, tarni_page_table *t, uint64_t begin,
                                    tarn_error *err)
{
    size_t n_rows = begin % TARNK_PAGE_TOKENS;
    uint8_t **slot = &t->pages[begin / TARNK_PAGE_TOKENS];
    if (header_of(*slot)->refs == 1)
        return TARN_OK;
    uint8_t *copy = NULL;
    TARNI_TRY(take_page(p, &copy, err));
    copy_rows(p->layout, copy, *slot, n_rows);
    release_page(p, *slot);
    *slot = copy;
    return TARN_OK;
}

tarn_status tarni_page_table_reserve(tarni_pages *p, tarni_page_table *t, uint64_t begin,
                                     uint64_t end, tarn_error *err)
{
    size_t n_wanted = (size_t)((end + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS);
    size_t n_before = t->n_pages;
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
    size_t n_pages = (size_t)((n_tokens + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS);
    TARN_ASSERT(n_pages <= t->n_pages);
    TARNI_TRY(
        tarni_grow(&p->allocator, &out->pages, &out->capacity, n_pages, sizeof *t->pages, err));
    for (size_t i = 0; i < n_pages; i++) {
        header_of(t->pages[i])->refs++;
        out->pages[i] = t->pages[i];
    }
    out->n_pages = n_pages;
    return TARN_OK;
}

void tarni_page_table_trim(tarni_pages *p, tarni_page_table *t, uint64_t n_tokens)
{
    size_t n_pages = (size_t)((n_tokens + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS);
    while (t->n_pages > n_pages)
        release_page(p, t->pages[--t->n_pages]);
}

void tarni_page_table_fini(tarni_pages *p, tarni_page_table *t)
{
    tarni_page_table_trim(p, t, 0);
    tarni_free(&p->allocator, t->pages);
    *t = (tarni_page_table){0};
}
