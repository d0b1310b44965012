/* pages.h - the pool of latent pages, 64 tokens each, shared by forks.
 *
 * A page is handed out as the pointer to its bytes. On the host its header stands in the cache line
 * before; pages of a device are one piece of its memory, and their headers an array beside it.
 * Full pages are immutable. A page that is partly filled and shared is copied by the sharer that
 * writes to it first. A commit on its way holds pages without sharing them: it reads only rows that
 * its session never writes again, so nothing is copied for it.
 *
 * There is a ceiling. Where it is reached, `relieve` is asked to give something back before a page
 * is refused. */
#ifndef TARNI_PAGES_H
#define TARNI_PAGES_H

#include "device.h"

typedef struct tarni_pages {
    tarn_allocator allocator;
    const tarni_layout *layout;  /* borrowed */
    tarni_device *device;        /* where pages lie; NULL: the host, each behind its header */
    uint8_t *slab;               /* else all n_max pages in one piece, borrowed */
    struct page_header *headers; /* else [n_max], on the host */
    uint64_t n_max;              /* pages in use at once */
    uint64_t n_used;
    void *free_list;
    uint64_t n_free;
    bool (*relieve)(void *user); /* may release pages; false: it cannot. NULL: nobody is asked */
    void *relieve_user;
} tarni_pages;

/* n_max 0: no limit. */
void tarni_pages_init(tarni_pages *p, const tarni_layout *layout, uint64_t n_max,
                      const tarn_allocator *allocator);
/* The same in n_max pages that are there already, on a device. */
tarn_status tarni_pages_init_in(tarni_pages *p, tarni_device *device, uint8_t *slab,
                                const tarni_layout *layout, uint64_t n_max,
                                const tarn_allocator *allocator, tarn_error *err);
void tarni_pages_fini(tarni_pages *p);

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
