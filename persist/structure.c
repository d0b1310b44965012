/* structure.c
 *
 * LMDB 0.9 has no checksums and believes its file: a flipped bit in a node offset makes it read
 * outside the map, and a page of the wrong kind makes it abort the host. So the pages are walked
 * here first, with bounds, when a store is opened and when it is verified.
 *
 * What is checked: both meta pages against each other; of every branch and leaf page its number,
 * kind, node offsets, sizes, keys and order; of every value in pages of its own that they exist,
 * are of the right kind and enough; that no page is used twice or both used and free; and the
 * counts of each table. What values hold is not looked at: they carry checksums of their own.
 *
 * The layout below is the one of LMDB data version 1 on 64-bit little-endian machines:
 *
 *     page      0 8 number   8 2 -   10 2 kind   12 2 lower   14 2 upper (or 12 4 pages of a value)
 *     meta      16 4 magic   20 4 version   24 8 address   32 8 map size   40 48 free list
 *               88 48 main table   136 8 last page   144 8 transaction
 *     table     0 4 page size (free list only)   4 2 flags   6 2 depth   8 8 branch pages
 *               16 8 leaf pages   24 8 value pages   32 8 entries   40 8 root
 *     node      0 4 size of the value, or low half of the child   4 2 flags, or high part of the
 *               child   6 2 key size   8 - key, then the value or the number of its first page
 *
 * Rejected: letting an assert callback jump out of LMDB (it leaves the writer's mutex and the
 * transaction behind in an unknown state), and reading the trees with a reader of our own (writes
 * would still go through LMDB). */
#include "structure.h"

#include "bytes.h"

#include <string.h>

#define PAGE_HEAD   16
#define META_BYTES  152 /* page head and meta */
#define TABLE_BYTES 48
#define META_FREE   40
#define META_MAIN   88
#define LMDB_MAGIC  0xBEEFC0DEu
#define NO_PAGE     UINT64_MAX
#define KIND_BRANCH 1
#define KIND_LEAF   2
#define KIND_VALUE  4
#define KIND_META   8
#define NODE_HEAD   8
#define NODE_BIG    1 /* the value has pages of its own */
#define NODE_TABLE  2 /* the value is a table */
#define FLAGS_FREE  8 /* the free list has integer keys */
#define KEY_MAX     511
#define DEPTH_MAX   30
/* Pages taken and freed in one transaction may lie behind the end of the file, never written. */
#define PAGES_UNWRITTEN_MAX ((uint64_t)1 << 20)

typedef struct table {
    uint32_t flags;
    uint32_t depth;
    uint64_t branch_pages, leaf_pages, value_pages, entries, root;
} table;

typedef struct walk {
    const uint8_t *file;
    uint64_t file_pages; /* that the file holds */
    uint64_t end;        /* pages of the snapshot */
    uint32_t page_bytes;
    uint8_t *used; /* one bit a page */
    uint64_t n_visited, pages_max;
    bool stopped;
    tarn_error *err;
} walk;

/* Where a walk is within one table. */
typedef struct place {
    bool free_list, main_table;
    table counted;
    uint8_t last_key[KEY_MAX];
    size_t last_key_bytes;
    bool has_last;
    bool is_bound; /* the last key is a branch page's: the next may be equal */
} place;

static tarn_status bad_page(walk *w, uint64_t page, const char *what)
{
    return tarni_fail(w->err, TARN_E_CORRUPT, "data.mdb: page %llu: %s", (unsigned long long)page,
                      what);
}

static table read_table(const uint8_t *at)
{
    return (table){.flags = tarni_load_u16(at + 4),
                   .depth = tarni_load_u16(at + 6),
                   .branch_pages = tarni_load_u64(at + 8),
                   .leaf_pages = tarni_load_u64(at + 16),
                   .value_pages = tarni_load_u64(at + 24),
                   .entries = tarni_load_u64(at + 32),
                   .root = tarni_load_u64(at + 40)};
}

static tarn_status check_meta(const uint8_t *page, uint64_t number, uint32_t page_bytes,
                              tarn_error *err)
{
    const char *what = NULL;
    if (tarni_load_u64(page) != number || tarni_load_u16(page + 10) != KIND_META)
        what = "not a meta page";
    else if (tarni_load_u32(page + 16) != LMDB_MAGIC)
        what = "wrong magic";
    else if (tarni_load_u32(page + META_FREE) != page_bytes)
        what = "the page size differs";
    else if (tarni_load_u16(page + META_FREE + 4) != FLAGS_FREE ||
             tarni_load_u16(page + META_MAIN + 4) != 0)
        what = "unknown flags";
    else if (tarni_load_u64(page + 136) < 1 || tarni_load_u64(page + 136) > UINT64_MAX >> 17)
        what = "impossible last page";
    if (what)
        return tarni_fail(err, TARN_E_CORRUPT, "data.mdb: meta page %llu: %s",
                          (unsigned long long)number, what);
    return TARN_OK;
}

tarn_status tarnp_structure_check_head(const uint8_t *head, size_t n_read, uint64_t file_bytes,
                                       uint32_t *page_bytes, tarn_error *err)
{
    if (n_read < META_BYTES)
        return tarni_fail(err, TARN_E_CORRUPT, "data.mdb: truncated to %zu bytes", n_read);
    uint32_t size = tarni_load_u32(head + META_FREE);
    bool sane = size >= 512 && size <= 65536 && (size & (size - 1)) == 0;
    if (tarni_load_u32(head + 16) != LMDB_MAGIC && !sane)
        return tarni_fail(err, TARN_E_FORMAT, "data.mdb: not an LMDB file");
    if (!sane)
        return tarni_fail(err, TARN_E_CORRUPT, "data.mdb: page size is %u", size);
    if (n_read < (size_t)size + META_BYTES)
        return tarni_fail(err, TARN_E_CORRUPT, "data.mdb: truncated to %zu bytes", n_read);
    uint32_t versions[2] = {tarni_load_u32(head + 20), tarni_load_u32(head + size + 20)};
    if (versions[0] != 1 && versions[0] == versions[1])
        return tarni_fail(err, TARN_E_FORMAT, "data.mdb: LMDB data version is %u, this reads 1",
                          versions[0]);
    if (versions[0] != 1 || versions[1] != 1)
        return tarni_fail(err, TARN_E_CORRUPT, "data.mdb: LMDB data versions are %u and %u",
                          versions[0], versions[1]);
    TARNI_TRY(check_meta(head, 0, size, err));
    TARNI_TRY(check_meta(head + size, 1, size, err));
    /* Transaction n stands in page n % 2, so the two are neighbours; both are 0 in a new file. */
    uint64_t even = tarni_load_u64(head + 144), odd = tarni_load_u64(head + size + 144);
    bool fresh = even == 0 && odd == 0;
    bool neighbours = even % 2 == 0 && odd % 2 == 1 && (odd == even + 1 || even == odd + 1);
    if (!fresh && !neighbours)
        return tarni_fail(err, TARN_E_CORRUPT,
                          "data.mdb: the meta pages are of transactions %llu and %llu",
                          (unsigned long long)even, (unsigned long long)odd);
    /* LMDB maps at least as far as the last page claims, so a wild one must not get that far. */
    for (uint32_t at = 0; at <= size; at += size)
        if (tarni_load_u64(head + at + 136) > file_bytes / size + PAGES_UNWRITTEN_MAX)
            return tarni_fail(err, TARN_E_CORRUPT,
                              "data.mdb: truncated: %llu of %llu pages are there",
                              (unsigned long long)(file_bytes / size),
                              (unsigned long long)tarni_load_u64(head + at + 136) + 1);
    *page_bytes = size;
    return TARN_OK;
}

/* Marks pages [first, first + n) as used once. */
static tarn_status use_pages(walk *w, uint64_t first, uint64_t n, bool in_file)
{
    if (first < 2 || first >= w->end || n > w->end - first)
        return bad_page(w, first, "outside the file");
    if (in_file && first + n > w->file_pages)
        return bad_page(w, first, "beyond the end of the file: truncated");
    for (uint64_t i = first; i < first + n; i++) {
        if (w->used[i / 8] & 1u << i % 8)
            return bad_page(w, i, "used twice");
        w->used[i / 8] |= (uint8_t)(1u << i % 8);
    }
    return TARN_OK;
}

/* A list of free pages: a count, then page numbers, largest first. */
static tarn_status check_free_list(walk *w, uint64_t page, const uint8_t *value, uint64_t n_bytes)
{
    if (n_bytes < 8 || tarni_load_u64(value) > (n_bytes - 8) / 8)
        return bad_page(w, page, "a free list is longer than its value");
    uint64_t count = tarni_load_u64(value), last = NO_PAGE;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t number = tarni_load_u64(value + 8 + 8 * i);
        if (number >= last)
            return bad_page(w, page, "a free list is out of order");
        last = number;
        TARNI_TRY(use_pages(w, number, 1, false));
    }
    return TARN_OK;
}

/* `is_bound`: the key is a branch page's, below which a child has nothing. A search that were led
 * past it by another would not find what is there. */
static tarn_status check_order(walk *w, place *p, uint64_t page, const uint8_t *key, size_t n,
                               bool is_bound)
{
    if (p->free_list ? n != 8 : n < 1 || n > KEY_MAX)
        return bad_page(w, page, "a key of impossible size");
    int order = -1;
    if (p->has_last && p->free_list) {
        uint64_t last = tarni_load_u64(p->last_key), now = tarni_load_u64(key);
        order = (last > now) - (last < now);
    } else if (p->has_last) {
        order = memcmp(p->last_key, key, n < p->last_key_bytes ? n : p->last_key_bytes);
        if (order == 0)
            order = (p->last_key_bytes > n) - (p->last_key_bytes < n);
    }
    if (p->is_bound && !is_bound ? order > 0 : order >= 0)
        return bad_page(w, page, "keys are out of order");
    memcpy(p->last_key, key, n);
    p->last_key_bytes = n;
    p->has_last = true;
    p->is_bound = is_bound;
    return TARN_OK;
}

static tarn_status check_table(walk *w, const table *t, bool free_list, bool main_table);

/* The bytes a node takes in its page; LMDB lays nodes out without gaps, at even offsets. What it
 * deletes it moves the others over, so a wrong size destroys the page. */
static uint64_t node_bytes(const uint8_t *node, bool leaf)
{
    uint64_t n = NODE_HEAD + (uint64_t)tarni_load_u16(node + 6);
    if (leaf)
        n += tarni_load_u16(node + 4) == NODE_BIG ? 8 : tarni_load_u32(node);
    return n + n % 2;
}

static tarn_status check_leaf_node(walk *w, place *p, uint64_t page, const uint8_t *node,
                                   size_t n_left)
{
    uint64_t size = tarni_load_u32(node);
    uint32_t flags = tarni_load_u16(node + 4);
    size_t key_bytes = tarni_load_u16(node + 6), start = NODE_HEAD + key_bytes;
    uint64_t in_page = flags == NODE_BIG ? 8 : size;
    if (flags > NODE_TABLE || (flags == NODE_TABLE) != p->main_table)
        return bad_page(w, page, "a node of unknown kind");
    if (start > n_left || in_page > n_left - start)
        return bad_page(w, page, "a node crosses the end of the page");
    TARNI_TRY(check_order(w, p, page, node + NODE_HEAD, key_bytes, false));
    p->counted.entries++;
    const uint8_t *value = node + start;
    if (flags == NODE_TABLE) {
        if (size != TABLE_BYTES || tarni_load_u32(value) != 0)
            return bad_page(w, page, "a table record of impossible size");
        table t = read_table(value);
        return check_table(w, &t, false, false);
    }
    if (flags == NODE_BIG) {
        uint64_t first = tarni_load_u64(value);
        uint64_t needed = (PAGE_HEAD - 1 + size) / w->page_bytes + 1;
        if (first < 2 || first >= w->file_pages || first >= w->end)
            return bad_page(w, page, "a value lies outside the file");
        const uint8_t *at = w->file + first * w->page_bytes;
        uint64_t n_pages = tarni_load_u32(at + 12);
        if (tarni_load_u64(at) != first || tarni_load_u16(at + 10) != KIND_VALUE ||
            n_pages < needed)
            return bad_page(w, first, "not the pages of a value");
        TARNI_TRY(use_pages(w, first, n_pages, true));
        p->counted.value_pages += n_pages;
        value = at + PAGE_HEAD;
    }
    return p->free_list ? check_free_list(w, page, value, size) : TARN_OK;
}

static tarn_status check_page(walk *w, place *p, uint64_t number, uint32_t depth)
{
    if (w->n_visited++ >= w->pages_max) {
        w->stopped = true;
        return TARN_OK;
    }
    TARNI_TRY(use_pages(w, number, 1, true));
    const uint8_t *page = w->file + number * w->page_bytes;
    uint32_t kind = tarni_load_u16(page + 10);
    uint32_t lower = tarni_load_u16(page + 12), upper = tarni_load_u16(page + 14);
    if (tarni_load_u64(page) != number || kind != (depth > 1 ? KIND_BRANCH : KIND_LEAF))
        return bad_page(w, number, "not the kind of page its place asks for");
    if (lower < PAGE_HEAD || lower % 2 != 0 || lower > upper || upper > w->page_bytes)
        return bad_page(w, number, "impossible bounds");
    uint32_t n_nodes = (lower - PAGE_HEAD) / 2;
    if (n_nodes < (depth > 1 ? 2u : 1u))
        return bad_page(w, number, "too few nodes");
    uint64_t laid_out = 0;
    *(depth > 1 ? &p->counted.branch_pages : &p->counted.leaf_pages) += 1;
    for (uint32_t i = 0; i < n_nodes && !w->stopped; i++) {
        uint32_t at = tarni_load_u16(page + PAGE_HEAD + 2 * i);
        if (at < upper || at + NODE_HEAD > w->page_bytes)
            return bad_page(w, number, "a node outside the page");
        const uint8_t *node = page + at;
        laid_out += node_bytes(node, depth == 1);
        if (depth == 1) {
            TARNI_TRY(check_leaf_node(w, p, number, node, w->page_bytes - at));
            continue;
        }
        if (at + NODE_HEAD + tarni_load_u16(node + 6) > w->page_bytes ||
            tarni_load_u16(node + 6) > KEY_MAX)
            return bad_page(w, number, "a node crosses the end of the page");
        if (i > 0) /* the first one has none */
            TARNI_TRY(check_order(w, p, number, node + NODE_HEAD, tarni_load_u16(node + 6), true));
        uint64_t child = tarni_load_u32(node) | (uint64_t)tarni_load_u16(node + 4) << 32;
        TARNI_TRY(check_page(w, p, child, depth - 1));
    }
    if (!w->stopped && laid_out != w->page_bytes - upper)
        return bad_page(w, number, "its nodes do not add up to what it holds");
    return TARN_OK;
}

static tarn_status check_table(walk *w, const table *t, bool free_list, bool main_table)
{
    place p = {.free_list = free_list, .main_table = main_table};
    if (t->flags != (free_list ? FLAGS_FREE : 0) || t->depth > DEPTH_MAX ||
        (t->root == NO_PAGE) != (t->depth == 0))
        return tarni_fail(w->err, TARN_E_CORRUPT, "data.mdb: a table record is damaged");
    if (t->root != NO_PAGE)
        TARNI_TRY(check_page(w, &p, t->root, t->depth));
    if (!w->stopped &&
        (p.counted.entries != t->entries || p.counted.branch_pages != t->branch_pages ||
         p.counted.leaf_pages != t->leaf_pages || p.counted.value_pages != t->value_pages))
        return tarni_fail(w->err, TARN_E_CORRUPT,
                          "data.mdb: a table of %llu entries should hold %llu",
                          (unsigned long long)p.counted.entries, (unsigned long long)t->entries);
    return TARN_OK;
}

/* A later commit of another process may overwrite the meta page while it is copied. */
static bool copy_meta(const uint8_t *file, uint32_t page_bytes, uint64_t txn_id,
                      uint8_t meta[META_BYTES])
{
    const uint8_t *at = file + (txn_id % 2) * page_bytes;
    memcpy(meta, at, META_BYTES);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return tarni_load_u64(meta + 144) == txn_id && tarni_load_u64(at + 144) == txn_id;
}

tarn_status tarnp_structure_check_tree(const uint8_t *file, size_t n_bytes, uint64_t txn_id,
                                       uint64_t pages_max, const tarn_allocator *allocator,
                                       tarnp_structure_result *out, tarn_error *err)
{
    *out = (tarnp_structure_result){0};
    uint32_t page_bytes;
    TARNI_TRY(tarnp_structure_check_head(file, n_bytes, n_bytes, &page_bytes, err));
    uint8_t meta[META_BYTES];
    if (!copy_meta(file, page_bytes, txn_id, meta))
        return TARN_OK;
    walk w = {.file = file,
              .file_pages = n_bytes / page_bytes,
              .end = tarni_load_u64(meta + 136) + 1,
              .page_bytes = page_bytes,
              .pages_max = pages_max,
              .err = err};
    /* A page freed in the transaction that took it is never written, so a file may be shorter than
     * its last page; only the whole walk tells that from a truncated one. */
    if (w.file_pages < w.end)
        w.pages_max = UINT64_MAX;
    TARNI_TRY(tarni_alloc(allocator, w.end / 8 + 1, 1, &w.used, err));
    table free_list = read_table(meta + META_FREE), main_table = read_table(meta + META_MAIN);
    tarn_status status = check_table(&w, &free_list, true, false);
    if (status == TARN_OK && !w.stopped)
        status = check_table(&w, &main_table, false, true);
    tarni_free(allocator, w.used);
    out->found = true;
    out->complete = !w.stopped;
    return status;
}
