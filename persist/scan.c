/* scan.c
 *
 * Everything the store writes begins at an even offset and carries a checksum, so the file is
 * tried at every even offset and no page is believed:
 *
 *     "TCHK"  a chunk, if header and payload match their sums
 *     "TNOD"  a manifest; one that does not match its sum is kept for what it says of its parent
 *     a node of an LMDB leaf page (4 size, 2 flags, 2 key size, key, value or 8 page of the value),
 *     if the value matches the sum of a record of the table session, tip or model under that key
 *
 *     "TSLD"  a sealed chunk or manifest, if it opens with the key; with a key records are sealed
 * too
 *
 * What a good chunk covers is passed over: nobody can hide records in a payload. */
#include "scan.h"

#include "chunk.h"
#include "folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC_CHUNK   0x4B484354u /* "TCHK" */
#define MAGIC_NODE    0x444F4E54u /* "TNOD" */
#define PAGE_HEAD     16
#define NODE_HEAD     8
#define NODE_BIG      1
#define PAGE_DEFAULT  4096
#define SESSION_LEAST 124
#define RECORD_MOST   ((uint64_t)1 << 20)

typedef struct thing {
    uint64_t id, at, n_bytes;
    bool good, sealed;
} thing;

typedef struct list {
    thing *items;
    size_t n, capacity;
} list;

struct tarnp_scan {
    tarn_allocator allocator;
    const uint8_t *file;
    size_t n_bytes;
    uint32_t page_bytes;
    list nodes, chunks; /* by id */
    list models;        /* id: where its key stands in the file */
    bool has_key;
    tarnp_seal seal;
    tarni_writer open; /* the sealed value tried last */
    uint64_t n_locked; /* that did not open */
};

static tarn_status add(tarnp_scan *s, list *l, thing t, tarn_error *err)
{
    TARNI_TRY(tarni_grow(&s->allocator, &l->items, &l->capacity, l->n + 1, sizeof *l->items, err));
    l->items[l->n++] = t;
    return TARN_OK;
}

/* Each try_ function sets *skip to how many bytes it has used up, 0 where it found nothing. */

static tarn_status try_chunk(tarnp_scan *s, size_t at, size_t *skip, tarn_error *err)
{
    tarnp_chunk_head head;
    tarn_error damage;
    uint8_t sum[TARNP_SUM_BYTES];
    size_t left = s->n_bytes - at;
    if (left < TARNP_CHUNK_HEAD_BYTES ||
        tarnp_chunk_head_get(s->file + at, &head, &damage) != TARN_OK ||
        head.payload_bytes > left - TARNP_CHUNK_HEAD_BYTES)
        return TARN_OK;
    tarnp_sum128(s->file + at + TARNP_CHUNK_HEAD_BYTES, head.payload_bytes, sum);
    if (memcmp(sum, head.payload_sum, sizeof sum) != 0)
        return TARN_OK;
    *skip = TARNP_CHUNK_HEAD_BYTES + head.payload_bytes;
    return add(s, &s->chunks, (thing){head.id, at, *skip, true, false}, err);
}

static tarn_status try_manifest(tarnp_scan *s, tarnp_remains *r, size_t at, size_t *skip,
                                tarn_error *err)
{
    tarnp_manifest m;
    tarn_error damage;
    size_t left = s->n_bytes - at;
    if (left < TARNP_MANIFEST_HEAD_BYTES)
        return TARN_OK;
    uint64_t id = tarni_load_u64(s->file + at + 16);
    size_t size = tarni_load_u32(s->file + at + 8);
    bool good = size <= left &&
                tarnp_manifest_get((tarnp_span){s->file + at, size}, id, &m, &damage) == TARN_OK;
    if (!good)
        size = TARNP_MANIFEST_HEAD_BYTES;
    else
        *skip = size;
    TARNI_TRY(add(s, &s->nodes, (thing){id, at, size, good, false}, err));
    return tarnp_remains_add_node(r, (tarnp_span){s->file + at, size}, id, err);
}

/* Room for what is sealed behind what the writer holds; NULL without memory. */
static uint8_t *room_for(tarni_writer *w, const uint8_t *sealed, size_t n)
{
    size_t before = w->n_bytes;
    tarni_put_bytes(w, sealed + TARNP_SEAL_HEAD_BYTES, n);
    return w->failed ? NULL : w->data + before;
}

/* Opens a sealed value into s->open. False where it is none, or of another key. */
static bool open_sealed(tarnp_scan *s, tarnp_table table, const void *key, size_t key_bytes,
                        tarnp_span value)
{
    if (!s->has_key || value.n_bytes < TARNP_SEAL_BYTES)
        return false;
    size_t n = value.n_bytes - TARNP_SEAL_BYTES;
    s->open.n_bytes = 0;
    uint8_t *to = room_for(&s->open, value.data, n);
    return to && tarnp_seal_open(&s->seal, table, key, key_bytes, value.data, value.n_bytes, to);
}

/* Manifests and chunks, whose keys stand in the heads of what is sealed. */
static tarn_status try_sealed(tarnp_scan *s, tarnp_remains *r, size_t at, size_t *skip,
                              tarn_error *err)
{
    size_t left = s->n_bytes - at;
    if (left < TARNP_SEAL_BYTES)
        return TARN_OK;
    uint64_t id = tarni_load_u64(s->file + at + 8);
    size_t n = tarni_load_u32(s->file + at + 16);
    tarnp_table table = (tarnp_table)s->file[at + 5];
    if (n > left - TARNP_SEAL_BYTES || (table != TARNP_TABLE_NODE && table != TARNP_TABLE_CHUNK))
        return TARN_OK;
    uint8_t key[8];
    tarni_store_u64_be(key, id);
    if (!open_sealed(s, table, key, sizeof key, (tarnp_span){s->file + at, n + TARNP_SEAL_BYTES})) {
        s->n_locked++;
        return s->open.failed ? tarni_fail_memory(err, n) : TARN_OK;
    }
    *skip = n + TARNP_SEAL_BYTES;
    const thing found = {id, at, *skip, true, true};
    if (table == TARNP_TABLE_CHUNK)
        return add(s, &s->chunks, found, err);
    TARNI_TRY(add(s, &s->nodes, found, err));
    return tarnp_remains_add_node(r, (tarnp_span){s->open.data, n}, id, err);
}

/* The value of a leaf's node, or an empty span. */
static tarnp_span value_of(const tarnp_scan *s, size_t at, size_t key_bytes)
{
    size_t start = at + NODE_HEAD + key_bytes;
    uint64_t size = tarni_load_u32(s->file + at);
    if (tarni_load_u16(s->file + at + 4) == NODE_BIG) {
        if (start + 8 > s->n_bytes)
            return (tarnp_span){0};
        uint64_t page = tarni_load_u64(s->file + start);
        if (page >= s->n_bytes / s->page_bytes)
            return (tarnp_span){0};
        start = (size_t)page * s->page_bytes + PAGE_HEAD;
    }
    if (start > s->n_bytes || size > s->n_bytes - start)
        return (tarnp_span){0};
    return (tarnp_span){s->file + start, (size_t)size};
}

static tarn_status try_record(tarnp_scan *s, tarnp_remains *r, size_t at, tarn_error *err)
{
    enum { SUM_BYTES = 8 };
    uint64_t more = s->has_key ? TARNP_SEAL_BYTES : 0;
    uint64_t size = tarni_load_u32(s->file + at) - more;
    size_t key_bytes = tarni_load_u16(s->file + at + 6);
    const uint8_t *key = s->file + at + NODE_HEAD;
    bool tip = key_bytes == 16 && size == SUM_BYTES;
    bool session = key_bytes == 8 && size >= SESSION_LEAST && size <= RECORD_MOST;
    bool model = key_bytes == TARNP_FP_BYTES && size >= SUM_BYTES && size <= RECORD_MOST;
    if (!(tip || session || model) || tarni_load_u16(s->file + at + 4) > NODE_BIG ||
        s->n_bytes - at < NODE_HEAD + key_bytes)
        return TARN_OK;
    tarnp_span value = value_of(s, at, key_bytes);
    tarnp_table table = tip ? TARNP_TABLE_TIP : session ? TARNP_TABLE_SESSION : TARNP_TABLE_MODEL;
    const tarnp_span stored = value;
    if (value.data && s->has_key)
        value = open_sealed(s, table, key, key_bytes, stored)
                    ? (tarnp_span){s->open.data, s->open.n_bytes}
                    : (tarnp_span){0};
    if (!value.data || !tarnp_record_matches(table, key, key_bytes, value.data, value.n_bytes))
        return s->open.failed ? tarni_fail_memory(err, stored.n_bytes) : TARN_OK;
    value.n_bytes -= SUM_BYTES;
    if (tip)
        return tarnp_remains_add_tip(r, tarni_load_u64_be(key), tarni_load_u64_be(key + 8), err);
    if (session)
        return tarnp_remains_add_session(r, value, tarni_load_u64_be(key), err);
    return add(s, &s->models,
               (thing){at + NODE_HEAD, (uint64_t)(stored.data - s->file),
                       s->has_key ? stored.n_bytes : value.n_bytes, true, s->has_key},
               err);
}

static tarn_status search(tarnp_scan *s, tarnp_remains *r, tarn_error *err)
{
    for (size_t at = 0; at + NODE_HEAD <= s->n_bytes;) {
        uint32_t word = tarni_load_u32(s->file + at);
        size_t skip = 0;
        if (word == MAGIC_CHUNK)
            TARNI_TRY(try_chunk(s, at, &skip, err));
        else if (word == MAGIC_NODE)
            TARNI_TRY(try_manifest(s, r, at, &skip, err));
        else if (word == TARNP_SEAL_MAGIC)
            TARNI_TRY(try_sealed(s, r, at, &skip, err));
        else if (word >= 8 && word <= RECORD_MOST)
            TARNI_TRY(try_record(s, r, at, err));
        at += skip > 2 ? (skip + 1) & ~(size_t)1 : 2;
    }
    return TARN_OK;
}

static int by_id(const void *a, const void *b)
{
    const thing *x = a, *y = b;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (int)y->good - (int)x->good;
}

static const thing *find(const list *l, uint64_t id)
{
    size_t low = 0, high = l->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (l->items[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < l->n && l->items[low].id == id ? &l->items[low] : NULL;
}

/* What was sealed under `key`, without the `tail` bytes at its end. */
static tarn_status give_sealed(const tarnp_scan *s, const thing *t, tarnp_table table,
                               const void *key, size_t key_bytes, size_t tail, tarni_writer *out,
                               tarn_error *err)
{
    size_t n = (size_t)t->n_bytes - TARNP_SEAL_BYTES, before = out->n_bytes;
    uint8_t *to = room_for(out, s->file + t->at, n);
    if (!to)
        return tarni_fail_memory(err, n);
    if (!tarnp_seal_open(&s->seal, table, key, key_bytes, s->file + t->at, (size_t)t->n_bytes, to))
        return tarni_fail(err, TARN_E_CORRUPT, "it is not what was sealed there");
    out->n_bytes = before + n - tail;
    return TARN_OK;
}

static tarn_status give(const tarnp_scan *s, const thing *t, tarnp_table table, size_t n_max,
                        tarni_writer *out, tarn_error *err)
{
    if (!t)
        return tarni_fail(err, TARN_E_NOT_FOUND, "missing");
    if (t->sealed) {
        uint8_t key[8];
        tarni_store_u64_be(key, t->id);
        return give_sealed(s, t, table, key, sizeof key, 0, out, err);
    }
    tarni_put_bytes(out, s->file + t->at, t->n_bytes < n_max ? (size_t)t->n_bytes : n_max);
    return out->failed ? tarni_fail_memory(err, (size_t)t->n_bytes) : TARN_OK;
}

static tarn_status give_manifest(void *from, uint64_t node, tarni_writer *out, tarn_error *err)
{
    const tarnp_scan *s = from;
    out->n_bytes = 0;
    return give(s, find(&s->nodes, node), TARNP_TABLE_NODE, SIZE_MAX, out, err);
}

static tarn_status give_chunk(void *from, uint64_t chunk, size_t n_max, tarni_writer *out,
                              tarn_error *err)
{
    const tarnp_scan *s = from;
    out->n_bytes = 0;
    return give(s, find(&s->chunks, chunk), TARNP_TABLE_CHUNK, n_max, out, err);
}

tarnp_source tarnp_scan_source(tarnp_scan *scan)
{
    return (tarnp_source){give_manifest, give_chunk, scan};
}

tarn_status tarnp_scan_model(const tarnp_scan *s, const uint8_t fp[TARNP_FP_BYTES],
                             tarni_writer *out, tarn_error *err)
{
    for (size_t i = 0; i < s->models.n; i++) {
        const thing *t = &s->models.items[i];
        if (memcmp(s->file + t->id, fp, TARNP_FP_BYTES) != 0)
            continue;
        return t->sealed ? give_sealed(s, t, TARNP_TABLE_MODEL, fp, TARNP_FP_BYTES, 8, out, err)
                         : give(s, t, TARNP_TABLE_MODEL, SIZE_MAX, out, err);
    }
    return tarni_fail(err, TARN_E_NOT_FOUND, "no record of the model was found");
}

static tarn_status map_file(tarnp_scan *s, const char *path, tarn_error *err)
{
    char file[TARNP_PATH_BYTES + 32];
    struct stat info;
    snprintf(file, sizeof file, "%s/data.mdb", path);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", file);
    tarn_status status = TARN_OK;
    if (fstat(fd, &info) != 0)
        status = tarni_fail_errno(err, errno, "%s", file);
    else if (info.st_size < PAGE_DEFAULT)
        status = tarni_fail(err, TARN_E_FORMAT, "%s: nothing of a store is in it", file);
    if (status == TARN_OK) {
        void *at = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at == MAP_FAILED) {
            status = tarni_fail_errno(err, errno, "%s", file);
        } else {
            s->file = at;
            s->n_bytes = (size_t)info.st_size;
        }
    }
    close(fd);
    return status;
}

/* As the meta page says, if that is possible. */
static uint32_t find_page_bytes(const tarnp_scan *s)
{
    uint32_t size = tarni_load_u32(s->file + 40);
    return size >= 512 && size <= 65536 && (size & (size - 1)) == 0 ? size : PAGE_DEFAULT;
}

/* Nothing was found: because it is sealed, or because there is nothing. */
static tarn_status fail_empty(const tarnp_scan *s, const char *path, tarn_error *err)
{
    if (s->n_locked == 0)
        return tarni_fail(err, TARN_E_FORMAT, "%s: nothing of a store is in it", path);
    return tarni_fail(err, TARN_E_KEY, "%.180s: what is in it is encrypted, %s", path,
                      s->has_key ? "with another key" : "and no key was given");
}

tarn_status tarnp_scan_open(const char *path, const tarnp_options *options, tarnp_remains *r,
                            tarnp_scan **out, tarn_error *err)
{
    tarnp_scan *s;
    *out = NULL;
    TARNI_TRY(tarni_alloc(&r->allocator, 1, sizeof *s, &s, err));
    s->allocator = r->allocator;
    tarni_writer_init(&s->open, &s->allocator);
    s->has_key = options->secret_bytes > 0;
    tarn_status status = TARN_OK;
    if (s->has_key)
        status = tarnp_seal_init(&s->seal, options->secret, options->secret_bytes, err);
    if (status == TARN_OK)
        status = map_file(s, path, err);
    if (status == TARN_OK) {
        s->page_bytes = find_page_bytes(s);
        status = search(s, r, err);
    }
    if (status == TARN_OK && r->n_nodes == 0 && r->n_sessions == 0)
        status = fail_empty(s, path, err);
    if (status != TARN_OK) {
        tarnp_scan_close(s);
        return status;
    }
    if (s->nodes.n > 0)
        qsort(s->nodes.items, s->nodes.n, sizeof(thing), by_id);
    if (s->chunks.n > 0)
        qsort(s->chunks.items, s->chunks.n, sizeof(thing), by_id);
    *out = s;
    return TARN_OK;
}

void tarnp_scan_close(tarnp_scan *s)
{
    if (!s)
        return;
    if (s->file)
        munmap((void *)(uintptr_t)s->file, s->n_bytes);
    tarn_allocator a = s->allocator;
    tarni_free(&a, s->nodes.items);
    tarni_free(&a, s->chunks.items);
    tarni_free(&a, s->models.items);
    tarni_writer_fini(&s->open);
    tarnp_seal_fini(&s->seal);
    tarni_free(&a, s);
}
