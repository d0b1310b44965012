/* What a commit survives at each level, full disks, and readers that die. Syncs are counted by a
 * function of this program that stands in front of the C library's. */
#include "handle.h"
#include "small_disk.h"
#include "store_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int n_syncs;

__attribute__((visibility("default"))) int fdatasync(int fd)
{
    n_syncs++;
    return (int)syscall(SYS_fdatasync, fd);
}

static const char *const level_names[] = {"durable", "relaxed", "deferred", "scratch"};

static tarn_status open_as(kit *k, tarnp_durability level)
{
    tarnp_store_close(k->store);
    k->store = NULL;
    k->options.durability = level;
    return tarnp_store_open(k->path, &k->options, &k->store, &k->err);
}

static bool has_file(const kit *k, const char *name)
{
    char file[260];
    kit_file(k, name, file);
    return access(file, F_OK) == 0;
}

CASE(a_store_is_scratch_or_not_for_ever)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    CHECK_STATUS(open_as(&k, TARNP_SCRATCH), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "is no scratch store and was opened as one");
    CHECK_STATUS(open_as(&k, (tarnp_durability)4), TARN_E_INVALID);
    CHECK_STATUS(open_as(&k, (tarnp_durability)-1), TARN_E_INVALID);
    for (int l = TARNP_DURABLE; l <= TARNP_DEFERRED; l++) {
        REQUIRE_OK(open_as(&k, (tarnp_durability)l), &k.err);
        CHECK(kit_head(&k, "a") > 0);
    }
    CHECK(!has_file(&k, "scratch") && !has_file(&k, "clean"));
    kit_end(&k);

    kit_folder(&k);
    REQUIRE_OK(open_as(&k, TARNP_SCRATCH), &k.err);
    CHECK(has_file(&k, "scratch") && !has_file(&k, "clean"));
    kit_create(&k, "a");
    for (int l = TARNP_DURABLE; l <= TARNP_DEFERRED; l++) {
        CHECK_STATUS(open_as(&k, (tarnp_durability)l), TARN_E_INVALID);
        CHECK_HAS(k.err.detail, "is a scratch store and was opened as another");
        CHECK(has_file(&k, "clean"));
    }
    REQUIRE_OK(open_as(&k, TARNP_SCRATCH), &k.err); /* closed cleanly each time */
    CHECK(kit_head(&k, "a") > 0);
    /* The file says so too, should the mark be lost. */
    char file[260];
    tarnp_store_close(k.store);
    k.store = NULL;
    kit_file(&k, "scratch", file);
    CHECK(unlink(file) == 0);
    CHECK_STATUS(open_as(&k, TARNP_DURABLE), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "is a scratch store");
    CHECK_STATUS(open_as(&k, TARNP_SCRATCH), TARN_E_INVALID);
    kit_end(&k);
}

/* One sync for pages and one for the meta page (written through a descriptor of its own, so not
 * counted here); none for scratch. */
CASE(what_is_synced)
{
    static const int want[] = {1, 1, 1, 0};
    for (int l = 0; l < 4; l++) {
        kit k;
        kit_folder(&k);
        REQUIRE_OK(open_as(&k, (tarnp_durability)l), &k.err);
        kit_create(&k, "a");
        kit_append(&k, "a", 1);
        n_syncs = 0;
        kit_append(&k, "a", 2);
        CHECK_EQ(n_syncs, want[l]);
        REQUIRE_OK(tarnp_store_flush(k.store, &k.err), &k.err);
        CHECK_EQ(n_syncs, want[l] + (l == TARNP_RELAXED));
        kit_end(&k);
    }
}

/* ---- processes that die --------------------------------------------------------------------- */

static pid_t start_child(const char *path, const char *what, const char *level, int *out)
{
    int ends[2];
    char self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0 || pipe(ends) != 0)
        return -1;
    self[n] = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(self, self, "--child", path, what, level, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *out = ends[0];
    return child;
}

/* "write": commits to "a" for ever. "hold": keeps a snapshot open. "read": checks the head of "a"
 * a hundred times. A byte is written for each. */
static int child_main(const char *path, const char *what, const char *level)
{
    kit k = {0};
    tarnp_txn txn;
    snprintf(k.path, sizeof k.path, "%s", path);
    k.options.map_bytes = (size_t)1 << 30;
    k.options.durability = (tarnp_durability)atoi(level);
    if (!kit_reopen(&k))
        return 1;
    if (strcmp(what, "hold") == 0) {
        if (tarnp_read_begin(k.store, &txn, &k.err) != TARN_OK || write(1, "", 1) != 1)
            return 1;
        for (;;)
            pause();
    }
    if (strcmp(what, "read") == 0) {
        for (int i = 0; i < 100; i++) {
            uint64_t head = kit_head(&k, "a");
            tarnp_node node;
            if (head == 0 || tarnp_node_read(k.store, head, &node, &k.err) != TARN_OK)
                return 1;
            uint64_t position = node.position;
            tarnp_node_fini(&node);
            if (position == 0 || write(1, "", 1) != 1)
                return 1;
        }
        tarnp_store_close(k.store);
        return check_failures != 0;
    }
    for (uint64_t seed = 100; check_failures == 0; seed++) {
        kit_append(&k, "a", seed);
        if (write(1, "", 1) != 1)
            return 1;
    }
    return 1;
}

static void kill_child(pid_t child, int out)
{
    int status;
    char byte;
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    while (read(out, &byte, 1) == 1)
        ;
    close(out);
}

CASE(a_killed_writer)
{
    for (int l = 0; l < 4; l++) {
        kit k;
        char byte, level[16];
        int out = -1;
        kit_folder(&k);
        REQUIRE_OK(open_as(&k, (tarnp_durability)l), &k.err);
        kit_create(&k, "a");
        uint64_t first = kit_append(&k, "a", 1);
        tarnp_store_close(k.store);
        k.store = NULL;
        snprintf(level, sizeof level, "%d", l);
        pid_t child = start_child(k.path, "write", level, &out);
        for (int i = 0; i < 5; i++)
            REQUIRE(read(out, &byte, 1) == 1);
        kill_child(child, out);
        REQUIRE_OK(open_as(&k, (tarnp_durability)l), &k.err);
        KIT_CLEAN(&k);
        uint64_t node = 0;
        uint8_t key[TARNP_KEY_BYTES];
        kit_key(key, 104);
        tarn_status status = tarnp_commit_find(k.store, key, &node, &k.err);
        printf("    %s: %s\n", level_names[l], tarn_status_name(status));
        if (l != TARNP_SCRATCH) {
            CHECK_STATUS(status, TARN_OK);
            kit_check_node(&k, first, 1);
            kit_check_node(&k, node, 104);
        } else {
            CHECK_EQ(kit_stat(&k).nodes, 0);
        }
        kit_create(&k, "after");
        REQUIRE_OK(open_as(&k, (tarnp_durability)l), &k.err);
        CHECK(kit_head(&k, "after") > 0);
        kit_end(&k);
    }
}

/* While one process has a scratch store open, the death of another makes nobody wipe it; the last
 * one that closes it says that it is clean. */
CASE(a_scratch_store_of_two_processes)
{
    kit k;
    char byte;
    int out = -1;
    kit_folder(&k);
    REQUIRE_OK(open_as(&k, TARNP_SCRATCH), &k.err);
    kit_create(&k, "a");
    pid_t child = start_child(k.path, "write", "3", &out);
    REQUIRE(read(out, &byte, 1) == 1);
    uint64_t seen = kit_head(&k, "a");
    kill_child(child, out);
    CHECK(!has_file(&k, "clean"));
    child = start_child(k.path, "hold", "3", &out);
    REQUIRE(read(out, &byte, 1) == 1);
    CHECK(kit_head(&k, "a") >= seen && seen > 1); /* the second child wiped nothing */
    tarnp_store_close(k.store);
    k.store = NULL;
    CHECK(!has_file(&k, "clean")); /* the child has it open */
    kill_child(child, out);
    REQUIRE_OK(open_as(&k, TARNP_SCRATCH), &k.err); /* nobody closed it cleanly */
    CHECK_EQ(kit_head(&k, "a"), 0);
    CHECK_EQ(kit_stat(&k).nodes, 0);
    kit_end(&k);
}

/* ---- readers -------------------------------------------------------------------------------- */

/* Bytes the file takes after many nodes came and went. */
static uint64_t churn(kit *k, int rounds)
{
    kit_floats = 16384; /* half a MiB of state */
    for (int i = 0; i < rounds && check_failures == 0; i++) {
        char name[16];
        snprintf(name, sizeof name, "c%d", i);
        kit_create(k, name);
        kit_append(k, name, 5000 + (uint64_t)i);
        CHECK_STATUS(tarnp_session_remove(k->store, name, &k->err), TARN_OK);
    }
    kit_floats = 256;
    return kit_stat(k).file_bytes;
}

CASE(a_dead_reader_pins_nothing_for_ever)
{
    uint64_t bytes[2];
    for (int with_reader = 0; with_reader < 2; with_reader++) {
        kit k;
        char byte;
        int out = -1;
        REQUIRE(kit_begin(&k));
        kit_create(&k, "a");
        churn(&k, 5);
        if (with_reader) {
            pid_t child = start_child(k.path, "hold", "0", &out);
            REQUIRE(read(out, &byte, 1) == 1);
            kill_child(child, out);
        }
        bytes[with_reader] = churn(&k, 60);
        KIT_CLEAN(&k);
        kit_end(&k);
    }
    printf("    %llu bytes without, %llu with a reader that died\n", (unsigned long long)bytes[0],
           (unsigned long long)bytes[1]);
    CHECK(bytes[1] < bytes[0] + ((uint64_t)6 << 20)); /* and not by 30 MiB */
}

CASE(many_readers_while_one_writes)
{
    enum { READERS = 6 };
    kit k;
    pid_t children[READERS];
    int outs[READERS], status;
    char byte;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    kit_append(&k, "a", 1);
    for (int i = 0; i < READERS; i++)
        REQUIRE((children[i] = start_child(k.path, "read", "0", &outs[i])) > 0);
    for (uint64_t i = 2; i < 60; i++)
        kit_append(&k, "a", i);
    for (int i = 0; i < READERS; i++) {
        while (read(outs[i], &byte, 1) == 1)
            ;
        close(outs[i]);
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    KIT_CLEAN(&k);
    kit_end(&k);
}

enum { CROWD = 130 }; /* LMDB has 126 slots */

typedef struct crowd {
    kit *k;
    pthread_barrier_t all_tried;
    tarn_status status[CROWD];
} crowd;

typedef struct visitor {
    crowd *crowd;
    int i;
} visitor;

static void *visit(void *arg)
{
    visitor *v = arg;
    tarnp_txn txn = {0};
    tarn_error err;
    v->crowd->status[v->i] = tarnp_read_begin(v->crowd->k->store, &txn, &err);
    pthread_barrier_wait(&v->crowd->all_tried);
    tarnp_txn_abort(&txn);
    return NULL;
}

/* More readers at a time than there are slots: the last are BUSY, and later ones are not. */
CASE(no_slot_free)
{
    kit k;
    crowd c = {.k = &k};
    pthread_t threads[CROWD];
    visitor visitors[CROWD];
    int n_busy = 0;
    REQUIRE(kit_begin(&k));
    pthread_barrier_init(&c.all_tried, NULL, CROWD);
    for (int i = 0; i < CROWD; i++) {
        visitors[i] = (visitor){&c, i};
        REQUIRE(pthread_create(&threads[i], NULL, visit, &visitors[i]) == 0);
    }
    for (int i = 0; i < CROWD; i++) {
        pthread_join(threads[i], NULL);
        CHECK(c.status[i] == TARN_OK || c.status[i] == TARN_E_BUSY);
        n_busy += c.status[i] == TARN_E_BUSY;
    }
    pthread_barrier_destroy(&c.all_tried);
    CHECK_EQ(n_busy, CROWD - 126);
    tarnp_txn txn;
    CHECK_STATUS(tarnp_read_begin(k.store, &txn, &k.err), TARN_OK);
    tarnp_txn_abort(&txn);
    kit_end(&k);
}

/* ---- full disks ----------------------------------------------------------------------------- */

static int n_reserve_used;

static void count_reserve(void *user, tarn_log_level level, const char *message, const char *file,
                          int line)
{
    (void)user, (void)level, (void)file, (void)line;
    n_reserve_used += strstr(message, "the reserve is used") != NULL;
}

CASE(a_full_disk) /* D5 */
{
    small_disk disk;
    if (!small_disk_mount(&disk, 24))
        SKIP(SMALL_DISK_REFUSED);
    kit k;
    const tarn_log log = {count_reserve, NULL, TARN_LOG_INFO};
    CHECK(setenv("TMPDIR", disk.folder, 1) == 0);
    kit_folder(&k);
    k.options.log = &log;
    REQUIRE(kit_reopen(&k));
    char reserve[260];
    struct stat info;
    kit_file(&k, "reserve", reserve);
    REQUIRE(stat(reserve, &info) == 0);
    CHECK_EQ(info.st_blocks * 512, 4 << 20);
    kit_create(&k, "keep");
    uint64_t keep = kit_append(&k, "keep", 1000), n = 0;
    kit_create(&k, "main");
    kit_floats = 16384;
    tarn_status status = TARN_OK;
    tarnp_committed made;
    while (status == TARN_OK && kit_stat(&k).file_bytes < 8 << 20) {
        uint64_t head = kit_head(&k, "main");
        status = kit_commit(k.store, kit_id(&k, "main"), head, head, ++n, true, &made, &k.err);
    }
    CHECK_STATUS(status, TARN_OK);
    CHECK(small_disk_fill(&disk));
    kit_floats = 4; /* until the pages that are free within the file are used up as well */
    while (status == TARN_OK && n < 5000) {
        uint64_t head = kit_head(&k, "main");
        status = kit_commit(k.store, kit_id(&k, "main"), head, head, ++n, true, &made, &k.err);
    }
    CHECK_STATUS(status, TARN_E_NO_SPACE);
    tarnp_session s;
    uint64_t n_new = 0;
    for (status = TARN_OK; status == TARN_OK && n_new < 5000; n_new++) {
        char name[16];
        snprintf(name, sizeof name, "new%d", (int)n_new);
        status = tarnp_session_create(k.store, name, kit_fp, NULL, NULL, 0, &s, &k.err);
        if (status == TARN_OK)
            tarnp_session_fini(&s);
    }
    CHECK_STATUS(status, TARN_E_NO_SPACE);
    uint64_t sessions = kit_stat(&k).sessions;
    struct statvfs left;
    REQUIRE(statvfs(disk.folder, &left) == 0);
    CHECK_EQ(left.f_bfree, 0); /* not a byte, but for the reserve */
    uint64_t head = kit_head(&k, "main");
    kit_floats = 256;
    kit_check_node(&k, keep, 1000);
    KIT_CLEAN(&k);
    CHECK(head == kit_head(&k, "main"));
    CHECK(stat(reserve, &info) == 0);
    REQUIRE(kit_reopen(&k)); /* a full disk can be opened, and what is there is whole */
    kit_check_node(&k, keep, 1000);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    KIT_CLEAN(&k);
    CHECK_EQ(n_reserve_used, 1);
    CHECK_EQ(kit_stat(&k).sessions, sessions - 1);
    kit_create(&k, "main"); /* the room is the store's again */
    kit_check_node(&k, kit_append(&k, "main", 9000), 9000);
    REQUIRE(unlink(disk.filler) == 0);
    REQUIRE(kit_reopen(&k));
    CHECK(stat(reserve, &info) == 0 && info.st_blocks * 512 == 4 << 20); /* made again */
    kit_check_node(&k, keep, 1000);
    KIT_CLEAN(&k);
    kit_end(&k);
    CHECK(small_disk_unmount(&disk));
    unsetenv("TMPDIR");
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {ENTRY(a_store_is_scratch_or_not_for_ever),
                                       ENTRY(what_is_synced),
                                       ENTRY(a_killed_writer),
                                       ENTRY(a_scratch_store_of_two_processes),
                                       ENTRY(a_dead_reader_pins_nothing_for_ever),
                                       ENTRY(many_readers_while_one_writes),
                                       ENTRY(no_slot_free),
                                       ENTRY(a_full_disk)};
    if (argc == 5 && strcmp(argv[1], "--child") == 0)
        return child_main(argv[2], argv[3], argv[4]);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
