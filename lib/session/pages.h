/* pages.h - the pool of latent pages, 64 tokens each, shared by forks.
 *
 * A page is handed out as the pointer to its bytes. Its header stands in the cache line before; of
 * pages that are items of a trade (trade.h) it stands in an array beside them, on the host.
 * Full pages are immutable. A page that is partly filled and shared is copied by the sharer that
 * writes to it first. A commit on its way holds pages without sharing them: it reads only rows that
 * its session never writes again, so nothing is copied for it.
 *
 * There is a ceiling. Where it is reached, or what pages and slots have together, `relieve` is
 * asked to give something back before a page is refused. */
#ifndef TARNI_PAGES_H
#define TARNI_PAGES_H

#include "trade.h"

typedef struct tarni_pages {
    tarn_allocator allocator;
    const tarni_layout *layout;  /* borrowed */
    tarni_trade *trade;          /* borrowed, where pages are its items; NULL: taken as needed */
    struct page_header *headers; /* of these, [n_max] */
    uint64_t n_max;              /* pages in use at once */
    uint64_t n_used;
    void *free_list; /* of pages that are no items */
    uint64_t n_free;
    bool (*relieve)(void *user); /* may release pages; false: it cannot. NULL: nobody is asked */
    void *relieve_user;
} tarni_pages;

/* n_max 0: no limit. */
void tarni_pages_init(tarni_pages *p, const tarni_layout *layout, uint64_t n_max,
                      const tarn_allocator *allocator);
/* The same with the items of a trade. */
tarn_status tarni_pages_init_in(tarni_pages *p, tarni_trade *trade, const tarni_layout *layout,
                                uint64_t n_max, const tarn_allocator *allocator, tarn_error *err);
void tarni_pages_fini(tarni_pages *p);
/* How many more could be taken now, without relief. */
uint64_t tarni_pages_room(const tarni_pages *p);

/* The pages of one session, in order. */
typedef struct tarni_page_table {
    uint8_t **pages; /* page i holds tokens 64 i to 64 i + 63 */
    size_t n_pages;
    size_t capacity;
    bool holds; /* made by tarni_page_table_hold */
} tarni_page_table;

/* Makes tokens [begin, end) writable: takes new pages, and copies the partly filled page `begin`
 * falls into if it is shared. LIMIT or NO_MEMORY: the table is as before. */
tarn_status tarni_page_table_reserve(tarni_pages *p, tarni_page_table *t, uint64_t begin,
                                     uint64_t end, tarn_error *err);
/* A second table of the same first n_tokens; pages are shared. */
tarn_status tarni_page_table_share(tarni_pages *p, const tarni_page_table *t, uint64_t n_tokens,
                                   tarni_page_table *out, tarn_error *err);
/* Keeps the pages of tokens [begin, end) from going, without sharing them: the other places of *out
 * are NULL. Finish it like any other. */
tarn_status tarni_page_table_hold(tarni_pages *p, const tarni_page_table *t, uint64_t begin,
                                  uint64_t end, tarni_page_table *out, tarn_error *err);
/* How many pages would come free if the first n_tokens were kept: those nobody else has. */
uint64_t tarni_page_table_yield(const tarni_pages *p, const tarni_page_table *t, uint64_t n_tokens);
/* How many pages a reserve of [begin, end) would take, if of the sharers of the page `begin` falls
 * into all but n_leaving stay. */
uint64_t tarni_page_table_missing(const tarni_pages *p, const tarni_page_table *t, uint64_t begin,
                                  uint64_t end, uint32_t n_leaving);
/* Gives back pages behind the first n_tokens. */
void tarni_page_table_trim(tarni_pages *p, tarni_page_table *t, uint64_t n_tokens);
void tarni_page_table_fini(tarni_pages *p, tarni_page_table *t);

#endif
