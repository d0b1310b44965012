/* An exported file from anywhere, imported into a store that is kept open.
 *
 *     1 byte: what is repaired before the file is read, then the file
 *
 * Nearly every change of a file is refused by a checksum. So that what lies behind them is reached,
 * bits of the first byte make them fit again: 1 manifests, 2 chunks, 4 counts, sizes and digest.
 *
 * A file that is refused leaves nothing behind; one that is taken gives a session that verifies,
 * that is exported again, and that is gone without a trace when it is removed. */
#include "store_folder.h"

#include "bundle.h"
#include "chunk.h"
#include "node.h"

#include <sodium.h>

enum { REPAIR_NODES = 1, REPAIR_CHUNKS = 2, REPAIR_FILE = 4 };

typedef struct bytes {
    uint8_t *data;
    size_t n_bytes, at;
} bytes;

static tarn_status read_bytes(void *user, void *to, size_t n, size_t *n_read, tarn_error *err)
{
    bytes *b = user;
    (void)err;
    *n_read = n < b->n_bytes - b->at ? n : b->n_bytes - b->at;
    memcpy(to, b->data + b->at, *n_read);
    b->at += *n_read;
    return TARN_OK;
}

static tarn_status drop_bytes(void *user, const void *data, size_t n, tarn_error *err)
{
    (void)user, (void)data, (void)n, (void)err;
    return TARN_OK;
}

static fuzz_folder folder;
static tarnp_store *store;

static void close_store(void)
{
    tarnp_store_close(store);
    store = NULL;
    fuzz_folder_remove(&folder);
}

static void open_store(void)
{
    tarnp_options options = {
        .create = true, .map_bytes = (size_t)1 << 30, .durability = TARNP_SCRATCH};
    tarn_error err;
    if (store)
        return;
    fuzz_folder_make(&folder);
    FUZZ_CHECK(tarnp_store_open(folder.store, &options, &store, &err) == TARN_OK, "%s", err.detail);
    atexit(close_store);
}

/* ---- repairs -------------------------------------------------------------------------------- */

static void repair_node(uint8_t *at, size_t n)
{
    if (n < TARNP_MANIFEST_HEAD_BYTES + TARNP_SUM_BYTES)
        return;
    tarni_store_u32(at + 8, (uint32_t)n);
    tarnp_sum128(at, n - TARNP_SUM_BYTES, at + n - TARNP_SUM_BYTES);
}

static void repair_chunk(uint8_t *at, size_t n)
{
    if (n < TARNP_CHUNK_HEAD_BYTES)
        return;
    tarni_store_u32(at + 12, (uint32_t)(n - TARNP_CHUNK_HEAD_BYTES));
    tarnp_sum128(at + TARNP_CHUNK_HEAD_BYTES, n - TARNP_CHUNK_HEAD_BYTES, at + 24);
    tarni_store_u64(at + 72, tarnp_sum64(at, 72, 0));
}

/* Goes over the frames as far as they are frames. Entry i of the table of a node's chunks, which
 * ends it, gets the sum of the i-th chunk behind it. */
static void repair(bytes *f, unsigned what)
{
    size_t at = TARNP_BUNDLE_HEAD_BYTES, node = 0, node_bytes = 0;
    uint64_t n_nodes = 0, n_chunks = 0, i = 0;
    while (at + 8 <= f->n_bytes) {
        uint32_t kind = tarni_load_u32(f->data + at), n = tarni_load_u32(f->data + at + 4);
        uint8_t *body = f->data + at + 8;
        if (n > f->n_bytes - at - 8)
            break;
        if (kind == TARNP_FRAME_NODE && n >= TARNP_MANIFEST_HEAD_BYTES + TARNP_SUM_BYTES) {
            node = at + 8;
            node_bytes = n;
            n_nodes++;
            i = 0;
        } else if (kind == TARNP_FRAME_CHNK && n >= TARNP_CHUNK_HEAD_BYTES && node != 0) {
            uint64_t all = tarni_load_u32(f->data + node + 84);
            if (what & REPAIR_CHUNKS)
                repair_chunk(body, n);
            if ((what & REPAIR_NODES) && i < all &&
                (all - i) * 32 + TARNP_SUM_BYTES <= node_bytes - TARNP_MANIFEST_HEAD_BYTES)
                tarnp_sum128(body, TARNP_CHUNK_HEAD_BYTES,
                             f->data + node + node_bytes - TARNP_SUM_BYTES - (all - i) * 32 + 16);
            n_chunks++;
            i++;
        } else if (kind == TARNP_FRAME_TEND && n == TARNP_BUNDLE_TEND_BYTES &&
                   (what & REPAIR_FILE)) {
            tarni_store_u64(body, n_nodes);
            tarni_store_u64(body + 8, n_chunks);
        }
        at += 8 + (size_t)n;
    }
    for (at = TARNP_BUNDLE_HEAD_BYTES; (what & REPAIR_NODES) && at + 8 <= f->n_bytes;) {
        uint32_t n = tarni_load_u32(f->data + at + 4);
        if (n > f->n_bytes - at - 8)
            break;
        if (tarni_load_u32(f->data + at) == TARNP_FRAME_NODE)
            repair_node(f->data + at + 8, n);
        at += 8 + (size_t)n;
    }
    if (!(what & REPAIR_FILE) || f->n_bytes < TARNP_BUNDLE_HEAD_BYTES + TARNP_BUNDLE_SUM_BYTES)
        return;
    tarni_store_u64(f->data + 32, f->n_bytes);
    tarni_store_u64(f->data + 40, n_nodes);
    tarni_store_u64(f->data + 48, n_chunks);
    size_t n_summed = f->n_bytes - TARNP_BUNDLE_SUM_BYTES;
    crypto_generichash_blake2b(f->data + n_summed, TARNP_BUNDLE_SUM_BYTES, f->data, n_summed, NULL,
                               0);
}

/* ---- the target ----------------------------------------------------------------------------- */

static tarnp_stat stat_now(void)
{
    tarnp_stat stat;
    tarn_error err;
    FUZZ_CHECK(tarnp_store_stat(store, &stat, &err) == TARN_OK, "%s", err.detail);
    return stat;
}

static void check_same(const tarnp_stat *a, const tarnp_stat *b)
{
    FUZZ_CHECK(a->sessions == b->sessions && a->nodes == b->nodes && a->chunks == b->chunks &&
                   a->bytes_stored == b->bytes_stored,
               "something was left behind");
}

static void check_taken(const tarnp_session *s)
{
    tarnp_verified v;
    tarn_error err;
    uint64_t n_bytes;
    FUZZ_CHECK(tarnp_store_verify(store, NULL, NULL, &v, &err) == TARN_OK, "%s", err.detail);
    FUZZ_CHECK(v.n_bad == 0, "node %llu, chunk %llu: %s", (unsigned long long)v.bad[0].node,
               (unsigned long long)v.bad[0].chunk, v.bad[0].reason);
    tarni_free(tarnp_store_allocator(store), v.bad);
    FUZZ_CHECK(tarnp_export(store, s->name, drop_bytes, NULL, NULL, NULL, &n_bytes, &err) ==
                   TARN_OK,
               "%s", err.detail);
    FUZZ_CHECK(tarnp_session_remove(store, s->name, &err) == TARN_OK, "%s", err.detail);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    tarnp_session s;
    tarn_error err;
    uint64_t n_taken;
    if (n_bytes < 1)
        return 0;
    open_store();
    bytes f = {.data = malloc(n_bytes), .n_bytes = n_bytes - 1};
    FUZZ_CHECK(f.data, "no memory");
    memcpy(f.data, data + 1, f.n_bytes);
    repair(&f, data[0]);
    const tarnp_stat before = stat_now();
    tarn_status status = tarnp_import(store, read_bytes, &f, "s", NULL, NULL, &s, &n_taken, &err);
    FUZZ_CHECK(status == TARN_OK || (status < 0 && err.detail[0] != 0), "an error without a word");
    if (status == TARN_OK)
        check_taken(&s);
    tarnp_session_fini(&s);
    const tarnp_stat after = stat_now();
    check_same(&before, &after);
    free(f.data);
    return 0;
}
