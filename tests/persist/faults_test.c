/* Failing memory, full maps and disks, failing and torn writes.
 *
 * LMDB's writes are caught by functions of this program that stand in front of the C library's, so
 * that each one of a scenario can be failed, torn or silently dropped. */
#include "small_disk.h"
#include "store_kit.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* ---- the writes ----------------------------------------------------------------------------- */

typedef enum fault {
    FAULT_NONE,
    FAULT_IO,    /* this write and all after fail */
    FAULT_SPACE, /* this write fails once, as on a full disk */
    FAULT_FULL,  /* this write and all after fail, as on a full disk */
    FAULT_TORN,  /* half of this write arrives, nothing after; all report success */
    FAULT_LOST   /* neither this write nor one after arrives; all report success: a power cut */
} fault;

static fault fault_kind;
static long fault_at, n_writes;

/* The number of bytes that shall arrive, or -1 with errno set. */
static long intercept(size_t n)
{
    long now = n_writes++;
    if (fault_kind == FAULT_NONE || now < fault_at || (fault_kind == FAULT_SPACE && now > fault_at))
        return (long)n;
    if (fault_kind != FAULT_TORN && fault_kind != FAULT_LOST) {
        errno = fault_kind == FAULT_IO ? EIO : ENOSPC;
        return -1;
    }
    return fault_kind == FAULT_TORN && now == fault_at ? (long)(n / 2 / 512 * 512) : 0;
}

#define IN_FRONT __attribute__((visibility("default")))

IN_FRONT ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    long arrives = intercept(n);
    if (arrives < 0)
        return -1;
    if (arrives == (long)n)
        return (ssize_t)syscall(SYS_pwrite64, fd, data, n, at);
    if (arrives > 0)
        (void)syscall(SYS_pwrite64, fd, data, (size_t)arrives, at);
    return (ssize_t)n;
}

/* LMDB seeks, then writes its pages with one writev. */
IN_FRONT ssize_t writev(int fd, const struct iovec *parts, int n_parts)
{
    size_t n = 0;
    for (int i = 0; i < n_parts; i++)
        n += parts[i].iov_len;
    long arrives = intercept(n);
    if (arrives < 0)
        return -1;
    if (arrives == (long)n)
        return (ssize_t)syscall(SYS_writev, fd, parts, n_parts);
    for (int i = 0; i < n_parts && arrives > 0; i++) {
        size_t part = (size_t)arrives < parts[i].iov_len ? (size_t)arrives : parts[i].iov_len;
        (void)syscall(SYS_write, fd, parts[i].iov_base, part);
        arrives -= (long)part;
    }
    return (ssize_t)n;
}

IN_FRONT int fdatasync(int fd)
{
    return intercept(0) < 0 ? -1 : (int)syscall(SYS_fdatasync, fd);
}

/* ---- the scenario --------------------------------------------------------------------------- */

#define STEPS 8

/* Commits, a fork, a rewind and a removal; returns how many steps were acknowledged. */
static int run_steps(kit *k, uint64_t nodes[STEPS])
{
    tarnp_session s = {0};
    tarnp_committed made[4] = {0};
    uint64_t root = kit_head(k, "main"), id = kit_id(k, "main");
    int done = 0;
    if (root == 0)
        return 0;
    for (; done < 3; done++) {
        uint64_t parent = done == 0 ? root : made[done - 1].node;
        if (kit_commit(k->store, id, parent, parent, (uint64_t)done + 1, true, &made[done],
                       &k->err) != TARN_OK)
            return done;
        nodes[done] = made[done].node;
    }
    if (tarnp_session_fork(k->store, made[0].node, "branch", &s, NULL, &k->err) != TARN_OK)
        return done;
    uint64_t branch = s.id;
    tarnp_session_fini(&s);
    done++;
    if (kit_commit(k->store, branch, made[0].node, made[0].node, 5, true, &made[3], &k->err) !=
        TARN_OK)
        return done;
    nodes[done++] = made[3].node;
    if (tarnp_session_move(k->store, id, made[2].node, made[0].node, NULL, &k->err) != TARN_OK)
        return done;
    done++;
    if (tarnp_session_remove(k->store, "main", &k->err) != TARN_OK)
        return done;
    done++;
    return tarnp_session_rename(k->store, "branch", "trunk", &k->err) == TARN_OK ? done + 1 : done;
}

/* Every acknowledged step is there; one more may be. */
static void check_steps(kit *k, int done, const uint64_t nodes[STEPS])
{
    KIT_CLEAN(k);
    bool removed = kit_id(k, "main") == 0;
    CHECK(done < 7 || removed);
    CHECK(done < 8 || kit_id(k, "trunk") != 0);
    for (int i = 0; i < 5 && i < done; i++)
        if (i != 3 && (!removed || i == 0 || i == 4))
            kit_check_node(k, nodes[i], (uint64_t)i + 1);
    if (done >= 5)
        CHECK_EQ(kit_head(k, kit_id(k, "trunk") ? "trunk" : "branch"), nodes[4]);
}

static bool begin(kit *k)
{
    return kit_begin(k) && kit_create(k, "main") > 0;
}

static long count_writes(void)
{
    kit k;
    uint64_t nodes[STEPS] = {0};
    if (!begin(&k))
        return -1;
    n_writes = 0;
    CHECK_EQ(run_steps(&k, nodes), STEPS);
    long n = n_writes;
    check_steps(&k, STEPS, nodes);
    kit_end(&k);
    return n;
}

static void fail_each_write(fault kind)
{
    long n = count_writes();
    CHECK(n > 20);
    for (long at = 0; at < n; at++) {
        kit k;
        uint64_t nodes[STEPS] = {0};
        REQUIRE(begin(&k));
        n_writes = 0;
        fault_at = at;
        fault_kind = kind;
        int done = run_steps(&k, nodes);
        if (kind == FAULT_IO && done < 6) /* later ones may only be the drain's, which is silent */
            CHECK(k.err.status == TARN_E_IO || k.err.status == TARN_E_POISONED);
        if (kind == FAULT_SPACE && done < STEPS) {
            /* On with the same handle; where the meta page itself was hit, it says so. */
            tarnp_session s;
            CHECK(k.err.status == TARN_E_NO_SPACE || k.err.status == TARN_E_POISONED);
            tarn_status again =
                tarnp_session_create(k.store, "retry", kit_fp, NULL, NULL, 0, &s, &k.err);
            CHECK(again == TARN_OK || again == TARN_E_POISONED);
            if (again == TARN_OK)
                tarnp_session_fini(&s);
        }
        if (kind == FAULT_TORN || kind == FAULT_LOST)
            done = 0; /* what was acknowledged after the cut means nothing */
        tarnp_store_close(k.store);
        k.store = NULL;
        fault_kind = FAULT_NONE;
        if (kit_reopen(&k))
            check_steps(&k, done, nodes);
        kit_end(&k);
    }
}

CASE(every_write_fails)
{
    fail_each_write(FAULT_IO);
}

CASE(every_write_finds_the_disk_full)
{
    fail_each_write(FAULT_SPACE);
}

CASE(power_cut_before_every_write)
{
    fail_each_write(FAULT_LOST);
}

CASE(power_cut_within_every_write)
{
    fail_each_write(FAULT_TORN);
}

/* A node of more chunks than one transaction frees, removed while the disk fills up: what is half
 * freed is consistent, and goes when the store is opened next. */
CASE(a_half_freed_node)
{
    enum { CHUNKS = 700 };
    static uint8_t bytes[CHUNKS];
    static tarnp_piece pieces[CHUNKS];
    static tarnp_chunk chunks[CHUNKS];
    for (uint32_t i = 0; i < CHUNKS; i++) {
        pieces[i] = (tarnp_piece){&bytes[i], 1};
        chunks[i] = (tarnp_chunk){.first = i, .raw_bytes = 1, .n_pieces = 1, .pieces = &pieces[i]};
    }
    tarnp_section section = {
        .kind = TARNP_SECTION_LATENT, .elem = TARNP_ELEM_U8, .n_chunks = CHUNKS, .chunks = chunks};
    bool seen_half = false, failed = true;
    for (long at = 0; failed && at < 200; at++) {
        kit k;
        tarnp_committed made;
        REQUIRE(begin(&k));
        tarnp_commit c = {.key = {1},
                          .session_id = kit_id(&k, "main"),
                          .expected_head = kit_head(&k, "main"),
                          .move_head = true,
                          .parent = kit_head(&k, "main"),
                          .sections = &section,
                          .n_sections = 1};
        memcpy(c.fp, kit_fp, sizeof kit_fp);
        REQUIRE_OK(tarnp_commit_node(k.store, &c, &made, &k.err), &k.err);
        n_writes = 0;
        fault_at = at;
        fault_kind = FAULT_FULL;
        tarn_status status = tarnp_session_remove(k.store, "main", &k.err);
        failed = n_writes > at;
        fault_kind = FAULT_NONE;
        tarnp_stat stat;
        if (tarnp_store_stat(k.store, &stat, &k.err) == TARN_OK) {
            uint64_t node = 0;
            KIT_CLEAN(&k);
            if (stat.chunks > 0 && stat.chunks < CHUNKS) {
                tarnp_session s;
                seen_half = true;
                CHECK_STATUS(tarnp_session_fork(k.store, made.node, "late", &s, NULL, &k.err),
                             TARN_E_NOT_FOUND);
                CHECK_HAS(k.err.detail, "being freed");
                CHECK_STATUS(tarnp_commit_find(k.store, c.key, &node, &k.err), TARN_E_NOT_FOUND);
            }
        } else {
            CHECK_STATUS(k.err.status, TARN_E_POISONED);
        }
        REQUIRE(kit_reopen(&k));
        KIT_CLEAN(&k);
        stat = kit_stat(&k);
        CHECK(status != TARN_OK || stat.bytes_stored == 0);
        CHECK(stat.chunks == 0 || stat.chunks == CHUNKS);
        kit_end(&k);
    }
    CHECK(seen_half && !failed);
}

/* ---- memory --------------------------------------------------------------------------------- */

typedef struct meter {
    long left; /* calls until one fails; negative: none fails */
    long live;
} meter;

static void *meter_resize(void *user, void *memory, size_t n)
{
    meter *m = user;
    if (m->left >= 0 && m->left-- == 0)
        return NULL;
    m->live += memory == NULL;
    return realloc(memory, n);
}

static void *meter_alloc(void *user, size_t n)
{
    return meter_resize(user, NULL, n);
}

static void meter_release(void *user, void *memory)
{
    if (memory)
        ((meter *)user)->live--;
    free(memory);
}

/* Everything there is to call, until the first error. */
static tarn_status call_everything(kit *k)
{
    tarn_error *err = &k->err;
    tarnp_session s, *sessions;
    tarnp_committed made;
    tarnp_node_brief *nodes;
    tarnp_verified v;
    tarnp_stat stat;
    tarni_writer w;
    uint64_t *chain;
    size_t n;
    bool equal;
    const tarnp_tag tag = {"a", "b"};
    const tarn_allocator *a = k->options.allocator;
    TARNI_TRY(tarnp_store_open(k->path, &k->options, &k->store, err));
    TARNI_TRY(tarnp_session_create(k->store, "one", kit_fp, "n", &tag, 1, &s, err));
    uint64_t id = s.id, root = s.head;
    tarnp_session_fini(&s);
    TARNI_TRY(kit_commit(k->store, id, root, root, 1, true, &made, err));
    TARNI_TRY(tarnp_session_fork(k->store, made.node, "two", &s, NULL, err));
    tarnp_session_fini(&s);
    TARNI_TRY(kit_read(k->store, made.node, 1, &equal, err));
    CHECK(equal);
    TARNI_TRY(tarnp_node_chain(k->store, made.node, &chain, &n, err));
    tarni_free(a, chain);
    TARNI_TRY(tarnp_node_list(k->store, &nodes, &n, err));
    tarni_free(a, nodes);
    TARNI_TRY(tarnp_session_list(k->store, &sessions, &n, err));
    tarnp_sessions_free(sessions, n);
    TARNI_TRY(tarnp_session_rename(k->store, "two", "three", err));
    TARNI_TRY(tarnp_session_move(k->store, id, made.node, root, NULL, err));
    TARNI_TRY(tarnp_model_put(k->store, kit_fp, "m", 1, err));
    tarni_writer_init(&w, a);
    tarn_status status = tarnp_model_get(k->store, kit_fp, &w, err);
    tarni_writer_fini(&w);
    TARNI_TRY(status);
    TARNI_TRY(tarnp_store_stat(k->store, &stat, err));
    TARNI_TRY(tarnp_store_verify(k->store, NULL, NULL, &v, err));
    CHECK_EQ(v.n_bad, 0);
    tarni_free(a, v.bad);
    return tarnp_session_remove(k->store, "one", err);
}

CASE(every_allocation_fails)
{
    for (long at = 0;; at++) {
        kit k;
        meter m = {at, 0};
        const tarn_allocator allocator = {meter_alloc, meter_resize, meter_release, &m};
        kit_folder(&k);
        k.options.allocator = &allocator;
        tarn_status status = call_everything(&k);
        bool reached = m.left < 0;
        tarnp_store_close(k.store);
        k.store = NULL;
        CHECK_EQ(m.live, 0);
        CHECK(status == TARN_OK || status == TARN_E_NO_MEMORY);
        k.options.allocator = NULL;
        if (kit_reopen(&k))
            KIT_CLEAN(&k);
        kit_end(&k);
        if (!reached || check_failures > 20) {
            CHECK_STATUS(status, TARN_OK);
            printf("    %ld allocations\n", at);
            return;
        }
    }
}

/* ---- room ----------------------------------------------------------------------------------- */

CASE(a_full_map)
{
    kit k;
    kit_folder(&k);
    k.options.map_bytes = (size_t)2 << 20;
    REQUIRE(kit_reopen(&k));
    kit_floats = 4096;
    kit_create(&k, "main");
    kit_create(&k, "other");
    uint64_t keep = kit_append(&k, "other", 1000), n = 0;
    tarnp_committed made;
    tarn_status status = TARN_OK;
    for (; status == TARN_OK && n < 1000; n++) {
        uint64_t head = kit_head(&k, "main");
        status = kit_commit(k.store, kit_id(&k, "main"), head, head, n + 1, true, &made, &k.err);
    }
    CHECK_STATUS(status, TARN_E_NO_SPACE);
    CHECK_HAS(k.err.detail, "map is full");
    CHECK(n > 5 && n < 50);
    /* Until not even a small record fits: what is there stays readable and can be removed. */
    kit_floats = 4;
    for (uint64_t i = 2000; i < 5000; i++) {
        uint64_t head = kit_head(&k, "other");
        if (kit_commit(k.store, kit_id(&k, "other"), head, head, i, true, &made, &k.err) != TARN_OK)
            break;
    }
    CHECK_STATUS(k.err.status, TARN_E_NO_SPACE);
    kit_floats = 4096;
    KIT_CLEAN(&k);
    kit_check_node(&k, keep, 1000);
    kit_check_node(&k, kit_head(&k, "main"), n - 1);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    KIT_CLEAN(&k);
    CHECK(kit_stat(&k).map_bytes < k.options.map_bytes + (1 << 20));
    kit_create(&k, "main");
    for (uint64_t i = 3; i < 8; i++)
        kit_check_node(&k, kit_append(&k, "main", 10000 + i), 10000 + i);
    kit_check_node(&k, keep, 1000);
    KIT_CLEAN(&k);
    kit_floats = 256;
    kit_end(&k);
}

/* A file that may not grow fails with EIO inside LMDB: the outcome is unknown, the handle dead. */
CASE(an_io_error_poisons_the_handle)
{
    kit k;
    REQUIRE(begin(&k));
    uint64_t first = kit_append(&k, "main", 1), found;
    uint64_t id = kit_id(&k, "main");
    struct rlimit before, small;
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = before;
    small.rlim_cur = kit_stat(&k).file_bytes;
    signal(SIGXFSZ, SIG_IGN);
    tarnp_committed made;
    tarnp_session s;
    kit_floats = 65536 / 2;
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    tarn_status status = kit_commit(k.store, id, first, first, 2, true, &made, &k.err);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK_STATUS(status, TARN_E_IO);
    CHECK_STATUS(kit_commit(k.store, id, first, first, 2, true, &made, &k.err), TARN_E_POISONED);
    CHECK_STATUS(tarnp_session_find(k.store, "main", &s, &k.err), TARN_E_POISONED);
    CHECK_STATUS(tarnp_session_remove(k.store, "main", &k.err), TARN_E_POISONED);
    REQUIRE(kit_reopen(&k));
    KIT_CLEAN(&k);
    uint8_t key[TARNP_KEY_BYTES];
    kit_key(key, 2);
    CHECK_STATUS(tarnp_commit_find(k.store, key, &found, &k.err), TARN_E_NOT_FOUND);
    kit_check_node(&k, kit_append(&k, "main", 2), 2);
    kit_floats = 256;
    kit_check_node(&k, first, 1);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(a_full_disk)
{
    small_disk disk;
    if (!small_disk_mount(&disk, 16))
        SKIP(SMALL_DISK_REFUSED);
    kit k;
    CHECK(setenv("TMPDIR", disk.folder, 1) == 0);
    REQUIRE(begin(&k));
    kit_floats = 32768;
    tarn_status status = TARN_OK;
    uint64_t n = 0, id = kit_id(&k, "main");
    kit_create(&k, "other");
    uint64_t keep = kit_append(&k, "other", 1000);
    for (; status == TARN_OK && n < 1000; n++) {
        tarnp_committed made;
        uint64_t head = kit_head(&k, "main");
        status = kit_commit(k.store, id, head, head, n + 1, true, &made, &k.err);
    }
    CHECK_STATUS(status, TARN_E_NO_SPACE);
    KIT_CLEAN(&k);
    kit_check_node(&k, keep, 1000);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    kit_create(&k, "main");
    kit_check_node(&k, kit_append(&k, "main", 5000), 5000);
    KIT_CLEAN(&k);
    kit_floats = 256;
    kit_end(&k);
    CHECK(small_disk_unmount(&disk));
    unsetenv("TMPDIR");
}

CHECK_MAIN(ENTRY(every_write_fails), ENTRY(every_write_finds_the_disk_full),
           ENTRY(power_cut_before_every_write), ENTRY(power_cut_within_every_write),
           ENTRY(a_half_freed_node), ENTRY(every_allocation_fails), ENTRY(a_full_map),
           ENTRY(an_io_error_poisons_the_handle), ENTRY(a_full_disk))
