/* Rot in the file of a closed store. A flipped bit may go unnoticed only where nothing is stored;
 * otherwise opening, verifying or reading must say so. Never a crash, never wrong bytes. */
#include "store_kit.h"

#include "sanitized.h"
#include "structure.h"

#include <fcntl.h>
#include <sys/mman.h>

#define NODES 12

typedef struct rot {
    kit k;
    uint8_t *good; /* the file as it was closed */
    size_t n_bytes;
    char file[260];
    uint64_t nodes[NODES];
} rot;

static bool begin(rot *r)
{
    if (!kit_begin(&r->k))
        return false;
    kit_create(&r->k, "main");
    for (uint64_t i = 0; i < NODES; i++) {
        r->nodes[i] = kit_append(&r->k, i < 8 ? "main" : "branch", i + 1);
        if (i == 7)
            kit_fork(&r->k, r->nodes[4], "branch");
    }
    kit_create(&r->k, "gone"); /* so that there are free pages */
    kit_append(&r->k, "gone", 99);
    CHECK_STATUS(tarnp_session_remove(r->k.store, "gone", &r->k.err), TARN_OK);
    KIT_CLEAN(&r->k);
    tarnp_store_close(r->k.store);
    r->k.store = NULL;
    kit_file(&r->k, "data.mdb", r->file);
    FILE *f = fopen(r->file, "rb");
    struct stat info;
    if (!f || fstat(fileno(f), &info) != 0)
        return false;
    r->n_bytes = (size_t)info.st_size;
    r->good = malloc(r->n_bytes);
    bool read = fread(r->good, 1, r->n_bytes, f) == r->n_bytes;
    fclose(f);
    return read;
}

static void put_bytes(const rot *r, size_t at, const void *data, size_t n)
{
    int fd = open(r->file, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, data, n, (off_t)at) == (ssize_t)n);
    close(fd);
}

enum { UNNOTICED, AT_OPEN, BY_VERIFY, OUTCOMES };

/* Opens, verifies and reads everything. */
static int examine(rot *r, size_t bit)
{
    if (tarnp_store_open(r->k.path, &r->k.options, &r->k.store, &r->k.err) != TARN_OK) {
        if (r->k.err.status != TARN_E_CORRUPT && r->k.err.status != TARN_E_FORMAT)
            CHECK_FAIL("bit %zu: %s: %s", bit, tarn_status_name(r->k.err.status), r->k.err.detail);
        return AT_OPEN;
    }
    long n_bad = kit_verify(&r->k, true);
    tarnp_session *sessions;
    tarnp_node_brief *nodes;
    size_t n;
    bool hurt = false;
    for (uint64_t i = 0; i < NODES; i++) {
        bool equal;
        tarn_status status = kit_read(r->k.store, r->nodes[i], i + 1, &equal, &r->k.err);
        if (status == TARN_OK && !equal)
            CHECK_FAIL("bit %zu: node %llu read wrong bytes", bit, (unsigned long long)r->nodes[i]);
        hurt = hurt || status != TARN_OK;
    }
    tarn_status status = tarnp_session_list(r->k.store, &sessions, &n, &r->k.err);
    if (status == TARN_OK) {
        hurt = hurt || n != 2 || strcmp(sessions[0].name, "branch") != 0 ||
               strcmp(sessions[1].name, "main") != 0 || sessions[0].head != r->nodes[11] ||
               sessions[1].head != r->nodes[7];
        tarnp_sessions_free(sessions, n);
    }
    hurt = hurt || status != TARN_OK;
    status = tarnp_node_list(r->k.store, &nodes, &n, &r->k.err);
    if (status == TARN_OK)
        tarni_free(tarnp_store_allocator(r->k.store), nodes);
    hurt = hurt || status != TARN_OK || n != NODES + 1;
    if (hurt && n_bad == 0)
        CHECK_FAIL("bit %zu: something is hurt and verify finds nothing", bit);
    tarnp_store_close(r->k.store);
    r->k.store = NULL;
    return n_bad != 0 ? BY_VERIFY : UNNOTICED;
}

static void flip(rot *r, size_t bit, int outcomes[OUTCOMES])
{
    uint8_t byte = (uint8_t)(r->good[bit / 8] ^ 1 << bit % 8);
    put_bytes(r, bit / 8, &byte, 1);
    outcomes[examine(r, bit)]++;
    put_bytes(r, 0, r->good, r->n_bytes); /* opening may have written */
}

static void finish(rot *r, const int outcomes[OUTCOMES])
{
    printf("    found at open %d, by verify %d; %d in what is not used\n", outcomes[AT_OPEN],
           outcomes[BY_VERIFY], outcomes[UNNOTICED]);
    CHECK_EQ(examine(r, 0), UNNOTICED);
    free(r->good);
    kit_end(&r->k);
}

CASE(bits_anywhere)
{
    rot r;
    int outcomes[OUTCOMES] = {0};
    REQUIRE(begin(&r));
    uint64_t random = 11;
    const char *more = getenv("TARN_TEST_FLIPS"); /* 100000 before a release */
    long n = more ? atol(more) : SANITIZED ? 3000 : 20000;
    for (long i = 0; i < n; i++)
        flip(&r, (size_t)(kit_random(&random) % (r.n_bytes * 8)), outcomes);
    CHECK_EQ(outcomes[AT_OPEN] + outcomes[BY_VERIFY] + outcomes[UNNOTICED], n);
    CHECK(outcomes[AT_OPEN] > 0 && outcomes[BY_VERIFY] > 0);
    finish(&r, outcomes);
}

/* The places LMDB believes: every bit of both meta pages, and of the heads and node offsets of the
 * tree pages. */
CASE(every_bit_of_the_structure)
{
    rot r;
    int outcomes[OUTCOMES] = {0};
    REQUIRE(begin(&r));
    for (size_t page = 0; page < 2; page++)
        for (size_t bit = 0; bit < 152 * 8; bit++)
            flip(&r, page * 4096 * 8 + bit, outcomes);
    CHECK(outcomes[AT_OPEN] > 1000);
    for (size_t page = 2; page < r.n_bytes / 4096; page++) {
        const uint8_t *at = r.good + page * 4096;
        uint16_t kind = tarni_load_u16(at + 10);
        if (tarni_load_u64(at) != page || (kind != 1 && kind != 2))
            continue;
        for (size_t bit = 8 * 8; bit < 24 * 8; bit++)
            flip(&r, page * 4096 * 8 + bit, outcomes);
        size_t first_node = tarni_load_u16(at + 16); /* the last record of the page */
        for (size_t bit = 0; bit < 8 * 8 && first_node + 8 <= 4096; bit++)
            flip(&r, (page * 4096 + first_node) * 8 + bit, outcomes);
    }
    finish(&r, outcomes);
}

/* A meta page that claims to be newer than it is would bring back an older state of the store. */
CASE(a_stale_snapshot_is_refused)
{
    rot r;
    REQUIRE(begin(&r));
    uint64_t even = tarni_load_u64(r.good + 144), odd = tarni_load_u64(r.good + 4096 + 144);
    bool even_is_older = even < odd;
    uint8_t id[8];
    tarni_store_u64(id, (even_is_older ? even : odd) + 2);
    put_bytes(&r, even_is_older ? 144 : 4096 + 144, id, 8);
    CHECK_STATUS(tarnp_store_open(r.k.path, &r.k.options, &r.k.store, &r.k.err), TARN_E_CORRUPT);
    CHECK_HAS(r.k.err.detail, "claims to be");
    free(r.good);
    kit_end(&r.k);
}

/* Pages overwritten with others, with zeros and with noise. */
CASE(whole_pages)
{
    rot r;
    int outcomes[OUTCOMES] = {0};
    REQUIRE(begin(&r));
    uint64_t random = 13;
    uint8_t page[4096];
    size_t n_pages = r.n_bytes / 4096;
    for (int i = 0; i < 400; i++) {
        size_t to = (size_t)(kit_random(&random) % n_pages);
        size_t from = (size_t)(kit_random(&random) % n_pages);
        memcpy(page, r.good + from * 4096, sizeof page);
        for (size_t b = 0; i % 3 > 0 && b < sizeof page; b++)
            page[b] = i % 3 == 1 ? 0 : (uint8_t)kit_random(&random);
        if (i % 6 == 3) /* keep its number: a write that went astray later */
            tarni_store_u64(page, to);
        put_bytes(&r, to * 4096, page, sizeof page);
        outcomes[examine(&r, to * 4096 * 8)]++;
        put_bytes(&r, 0, r.good, r.n_bytes);
    }
    finish(&r, outcomes);
}

CASE(heads_that_are_none)
{
    tarn_error err;
    uint8_t head[65536 + 512] = {0};
    uint32_t page_bytes;
    CHECK_STATUS(tarnp_structure_check_head(head, 100, 100, &page_bytes, &err), TARN_E_CORRUPT);
    CHECK_STATUS(tarnp_structure_check_head(head, sizeof head, sizeof head, &page_bytes, &err),
                 TARN_E_FORMAT);
    rot r;
    REQUIRE(begin(&r));
    memcpy(head, r.good, 8192);
    CHECK_STATUS(tarnp_structure_check_head(head, 8192, r.n_bytes, &page_bytes, &err), TARN_OK);
    CHECK_EQ(page_bytes, 4096);
    head[20] = head[4096 + 20] = 2;
    CHECK_STATUS(tarnp_structure_check_head(head, 8192, r.n_bytes, &page_bytes, &err),
                 TARN_E_FORMAT);
    CHECK_HAS(err.detail, "version is 2");
    free(r.good);
    kit_end(&r.k);
}

/* A free list of one page that claims more bytes: LMDB, taking it out, moved those of others. */
CASE(a_size_that_rotted)
{
    rot r;
    REQUIRE(begin(&r));
    bool odd = tarni_load_u64(r.good + 144) < tarni_load_u64(r.good + 4096 + 144);
    uint64_t root = tarni_load_u64(r.good + (odd ? 4096 : 0) + 80);
    const uint8_t *page = r.good + root * 4096;
    size_t found = 0, at = root * 4096;
    for (unsigned i = 0; i < (tarni_load_u16(page + 12) - 16u) / 2; i++) {
        uint32_t node = tarni_load_u16(page + 16 + 2 * i), size = tarni_load_u32(page + node);
        uint8_t turned[4];
        tarni_store_u32(turned, size ^ 64);
        if (node + 16 + (size ^ 64) > 4096)
            continue;
        put_bytes(&r, at + node, turned, sizeof turned);
        CHECK_STATUS(tarnp_store_open(r.k.path, &r.k.options, &r.k.store, &r.k.err),
                     TARN_E_CORRUPT);
        put_bytes(&r, at + node, page + node, sizeof turned);
        found++;
    }
    CHECK(found > 0);
    free(r.good);
    kit_end(&r.k);
}

/* A key that rotted, in a leaf or in a branch page, must not make what it stood for not found. */
CASE(keys_that_rotted)
{
    enum { COMMITS = 150 };
    rot r = {0};
    unsigned leaves = 0, branches = 0;
    REQUIRE(kit_begin(&r.k));
    kit_floats = 4;
    kit_create(&r.k, "main");
    for (uint64_t seed = 1; seed <= COMMITS; seed++)
        kit_append(&r.k, "main", seed);
    tarnp_store_close(r.k.store);
    r.k.store = NULL;
    kit_file(&r.k, "data.mdb", r.file);
    int fd = open(r.file, O_RDONLY);
    off_t n = lseek(fd, 0, SEEK_END);
    r.good = malloc((size_t)n);
    REQUIRE(n > 0 && pread(fd, r.good, (size_t)n, 0) == n);
    close(fd);
    for (size_t at = 0; at + TARNP_KEY_BYTES <= (size_t)n; at++) {
        uint8_t key[TARNP_KEY_BYTES], turned;
        uint64_t node, seed = r.good[at];
        kit_key(key, seed);
        if (seed < 1 || seed > COMMITS || memcmp(r.good + at, key, sizeof key) != 0)
            continue;
        unsigned kind = tarni_load_u16(r.good + at / 4096 * 4096 + 10);
        for (size_t byte = 0; byte < 16; byte += 15) {
            turned = r.good[at + byte] ^ 1;
            put_bytes(&r, at + byte, &turned, 1);
            if (tarnp_store_open(r.k.path, &r.k.options, &r.k.store, &r.k.err) != TARN_OK) {
                CHECK_STATUS(r.k.err.status, TARN_E_CORRUPT);
                branches += kind == 1;
                r.k.store = NULL;
            }
            for (seed = 1; r.k.store && seed <= COMMITS; seed++) {
                kit_key(key, seed);
                tarn_status status = tarnp_commit_find(r.k.store, key, &node, &r.k.err);
                CHECK(status == TARN_OK || status == TARN_E_CORRUPT);
                leaves += status == TARN_E_CORRUPT;
            }
            tarnp_store_close(r.k.store);
            r.k.store = NULL;
            put_bytes(&r, at + byte, r.good + at + byte, 1);
        }
    }
    CHECK(leaves > COMMITS / 2 && branches > 0);
    free(r.good);
    kit_floats = 256;
    kit_end(&r.k);
}

CHECK_MAIN(ENTRY(bits_anywhere), ENTRY(every_bit_of_the_structure),
           ENTRY(a_stale_snapshot_is_refused), ENTRY(whole_pages), ENTRY(heads_that_are_none),
           ENTRY(keys_that_rotted), ENTRY(a_size_that_rotted))
