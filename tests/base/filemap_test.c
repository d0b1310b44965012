#include "check.h"
#include "filemap.h"
#include "threads.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 8

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* A file of PAGES pages of ones; removed by its user. */
static void make_file(char path[64])
{
    snprintf(path, 64, "/tmp/tarn-map-XXXXXX");
    int fd = mkstemp(path);
    char *page = malloc(page_bytes());
    memset(page, 1, page_bytes());
    for (int i = 0; i < PAGES; i++)
        if (write(fd, page, page_bytes()) != (ssize_t)page_bytes())
            CHECK_FAIL("%s could not be written", path);
    free(page);
    close(fd);
}

static uint64_t sum(const tarni_filemap *map)
{
    uint64_t total = 0;
    for (uint64_t i = 0; i < map->n_bytes; i++)
        total += ((const volatile uint8_t *)map->data)[i];
    return total;
}

static tarni_filemap *open_map(const char *path)
{
    tarni_filemap *map;
    tarn_error err = {TARN_OK, ""};
    if (tarni_filemap_open(path, "the file", &tarni_heap, &map, &err) != TARN_OK)
        CHECK_FAIL("%s", err.detail);
    return map;
}

CASE(a_file_that_stays_is_read)
{
    char path[64];
    tarn_error err;
    tarni_filemap_entry entry;
    make_file(path);
    tarni_filemap *map = open_map(path);
    CHECK_EQ(map->n_bytes, PAGES * page_bytes());
    tarni_filemap_enter(&entry);
    CHECK_EQ(sum(map), map->n_bytes);
    tarni_filemap_leave(&entry);
    REQUIRE_OK(tarni_filemap_check(map, "the file", &err), &err);
    /* A new file under the old name is another file: the map keeps the one it has. */
    REQUIRE(unlink(path) == 0);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    REQUIRE(fd >= 0 && close(fd) == 0);
    REQUIRE_OK(tarni_filemap_check(map, "the file", &err), &err);
    tarni_filemap_close(map, &tarni_heap);
    unlink(path);
}

/* Bytes of addresses this process has taken. */
static unsigned long address_space(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%lu", &pages) == 1 && fclose(f) == 0);
    return pages * page_bytes();
}

CASE(a_map_begins_where_a_huge_page_can_and_leaves_nothing_behind)
{
    const size_t sizes[] = {1, page_bytes(), page_bytes() + 1, TARNI_HUGE_PAGE,
                            2 * TARNI_HUGE_PAGE + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char path[64];
        make_file(path);
        REQUIRE(truncate(path, (off_t)sizes[i]) == 0);
        int fd = open(path, O_WRONLY);
        REQUIRE(fd >= 0 && pwrite(fd, "z", 1, (off_t)sizes[i] - 1) == 1 && close(fd) == 0);
        const unsigned long before = address_space();
        for (int round = 0; round < 50; round++) {
            tarni_filemap *map = open_map(path);
            CHECK_EQ((uintptr_t)map->data % TARNI_HUGE_PAGE, 0);
            CHECK_EQ(map->data[sizes[i] - 1], 'z');
            tarni_filemap_close(map, &tarni_heap);
        }
        CHECK(address_space() < before + TARNI_HUGE_PAGE);
        unlink(path);
    }
}

CASE(a_file_cut_short_reads_as_zeros_and_is_reported)
{
    const size_t sizes[] = {0, 1, page_bytes(), 3 * page_bytes() + 1, PAGES * page_bytes() - 1};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char path[64];
        tarn_error err;
        tarni_filemap_entry entry;
        make_file(path);
        tarni_filemap *map = open_map(path), *other = open_map(path);
        REQUIRE(truncate(path, (off_t)sizes[i]) == 0);
        tarni_filemap_enter(&entry);
        CHECK(sum(map) < map->n_bytes);
        bool in_last_page = i == 4;
        CHECK_EQ(sum(map), in_last_page ? sizes[i] : 0); /* given up as a whole */
        tarni_filemap_leave(&entry);
        CHECK_EQ(map->is_lost, !in_last_page);
        CHECK(!other->is_lost);
        CHECK_STATUS(tarni_filemap_check(map, "the file", &err), TARN_E_IO);
        char want[96];
        snprintf(want, sizeof want, "the file: has %zu bytes, had %zu", sizes[i],
                 PAGES * page_bytes());
        CHECK_HAS(err.detail, want);
        CHECK_STATUS(tarni_filemap_check(other, "the file", &err), TARN_E_IO);
        /* Growing again brings nothing back. */
        REQUIRE(truncate(path, (off_t)map->n_bytes) == 0);
        CHECK_STATUS(tarni_filemap_check(map, "the file", &err), TARN_E_IO);
        tarni_filemap_close(other, &tarni_heap);
        tarni_filemap_close(map, &tarni_heap);
        unlink(path);
    }
}

CASE(a_file_written_over_is_reported)
{
    char path[64];
    tarn_error err;
    struct timespec later[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    make_file(path);
    tarni_filemap *map = open_map(path);
    int fd = open(path, O_WRONLY);
    REQUIRE(fd >= 0 && pwrite(fd, "x", 1, 5) == 1);
    REQUIRE(futimens(fd, later) == 0); /* the clock of files ticks in milliseconds */
    close(fd);
    CHECK_STATUS(tarni_filemap_check(map, "the file", &err), TARN_E_IO);
    CHECK_HAS(err.detail, "the file: was written to since it was opened");
    tarni_filemap_close(map, &tarni_heap);
    unlink(path);
}

CASE(what_is_no_regular_file_is_refused)
{
    char path[64];
    tarn_error err;
    tarni_filemap *map;
    CHECK_STATUS(tarni_filemap_open("/tmp", "the file", &tarni_heap, &map, &err), TARN_E_FORMAT);
    CHECK_STATUS(tarni_filemap_open("/dev/zero", "the file", &tarni_heap, &map, &err),
                 TARN_E_FORMAT);
    CHECK_HAS(err.detail, "the file: is no regular file");
    CHECK_STATUS(tarni_filemap_open("/tmp/no such", "the file", &tarni_heap, &map, &err),
                 TARN_E_NOT_FOUND);
    CHECK(map == NULL);
    make_file(path);
    REQUIRE(truncate(path, 0) == 0);
    map = open_map(path);
    CHECK(map->data == NULL && map->n_bytes == 0);
    tarni_filemap_close(map, &tarni_heap);
    tarni_filemap_close(NULL, &tarni_heap);
    unlink(path);
}

/* ---- threads --------------------------------------------------------------------------------- */

static void sum_in_task(void *map, uint32_t task_idx)
{
    (void)task_idx;
    if (sum(map) != 0)
        CHECK_FAIL("a cut file has other bytes than zeros");
}

CASE(any_thread_may_fault_whatever_the_host_blocks)
{
    char path[64];
    tarn_error err;
    tarni_pool *pool;
    tarni_filemap_entry entry;
    sigset_t every, before, now;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    REQUIRE_OK(tarni_pool_create(4, &tarni_heap, &pool, &err), &err);
    for (int i = 0; i < 50; i++) {
        make_file(path);
        tarni_filemap *map = open_map(path);
        REQUIRE(truncate(path, 0) == 0);
        tarni_filemap_enter(&entry);
        tarni_pool_run(pool, 8, sum_in_task, map);
        tarni_filemap_leave(&entry);
        CHECK(map->is_lost);
        tarni_filemap_close(map, &tarni_heap);
        unlink(path);
    }
    pthread_sigmask(SIG_SETMASK, &before, &now);
    CHECK(sigismember(&now, SIGBUS) == 1 && sigismember(&now, SIGTERM) == 1);
    tarni_pool_free(pool);
}

/* ---- the host's own handler ------------------------------------------------------------------ */

static volatile sig_atomic_t host_calls;
static void *volatile host_address;

static void count_signal(int signo)
{
    (void)signo;
    host_calls++;
}

/* As a host that recovers by itself would: memory where there was none. */
static void repair(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)context;
    host_calls++;
    host_address = info->si_addr;
    uintptr_t page = (uintptr_t)info->si_addr / page_bytes() * page_bytes();
    mmap((void *)page, page_bytes(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

CASE(the_hosts_handler_is_kept_and_gets_what_is_its_own)
{
    char path[64];
    struct sigaction host = {.sa_flags = SA_SIGINFO}, now;
    tarni_filemap_entry entry, inner;
    host.sa_sigaction = repair;
    make_file(path);
    tarni_filemap *map = open_map(path);
    int fd = open(path, O_RDONLY);
    uint8_t *own = mmap(NULL, page_bytes(), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    REQUIRE(own != MAP_FAILED && truncate(path, 0) == 0);
    REQUIRE(sigaction(SIGBUS, &host, NULL) == 0);
    host_calls = 0;
    tarni_filemap_enter(&entry);
    tarni_filemap_enter(&inner);
    CHECK_EQ(sum(map), 0);
    CHECK_EQ(host_calls, 0);
    CHECK_EQ(((volatile uint8_t *)own)[7], 0);
    CHECK_EQ(host_calls, 1);
    CHECK(host_address == own + 7);
    raise(SIGBUS); /* sent, not a fault: the host's too */
    CHECK_EQ(host_calls, 2);
    tarni_filemap_leave(&inner);
    REQUIRE(sigaction(SIGBUS, NULL, &now) == 0);
    CHECK(now.sa_sigaction != repair);
    tarni_filemap_leave(&entry);
    REQUIRE(sigaction(SIGBUS, NULL, &now) == 0);
    CHECK(now.sa_sigaction == repair && (now.sa_flags & SA_SIGINFO));
    /* A host that installs its handler while a step runs keeps it. */
    tarni_filemap_enter(&entry);
    signal(SIGBUS, count_signal);
    tarni_filemap_leave(&entry);
    REQUIRE(sigaction(SIGBUS, NULL, &now) == 0);
    CHECK(now.sa_handler == count_signal);
    signal(SIGBUS, SIG_DFL);
    munmap(own, page_bytes());
    tarni_filemap_close(map, &tarni_heap);
    unlink(path);
}

static struct sigaction replaced;

static void call_replaced(int signo, siginfo_t *info, void *context)
{
    replaced.sa_sigaction(signo, info, context);
}

typedef enum death { DEFAULT, IGNORED, CIRCLE } death;

/* A fault of the host's own inside a step, in a process that may die of it. */
static void fault_of_the_host(death kind)
{
    char path[64];
    struct sigaction circle = {.sa_flags = SA_SIGINFO | SA_NODEFER};
    tarni_filemap_entry entry;
    circle.sa_sigaction = call_replaced;
    make_file(path);
    int fd = open(path, O_RDONLY);
    uint8_t *own = mmap(NULL, page_bytes(), PROT_READ, MAP_SHARED, fd, 0);
    if (truncate(path, 0) != 0)
        _exit(2);
    unlink(path);
    if (kind == IGNORED)
        signal(SIGBUS, SIG_IGN);
    tarni_filemap_enter(&entry);
    if (kind == IGNORED)
        raise(SIGBUS);    /* is ignored */
    if (kind == CIRCLE) { /* installed over ours, and found by the next who enters */
        sigaction(SIGBUS, &circle, &replaced);
        tarni_filemap_leave(&entry);
        tarni_filemap_enter(&entry);
    }
    _exit(((volatile uint8_t *)own)[0]);
}

CASE(a_fault_nobody_handles_still_ends_the_process)
{
    for (death kind = DEFAULT; kind <= CIRCLE; kind++) {
        int status = 0;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            signal(SIGBUS, SIG_DFL); /* not a sanitizer's */
            fault_of_the_host(kind);
        }
        REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGBUS)
            CHECK_FAIL("kind %d: status %#x, should be death by SIGBUS", (int)kind, status);
    }
}

CHECK_MAIN(ENTRY(a_file_that_stays_is_read),
           ENTRY(a_map_begins_where_a_huge_page_can_and_leaves_nothing_behind),
           ENTRY(a_file_cut_short_reads_as_zeros_and_is_reported),
           ENTRY(a_file_written_over_is_reported), ENTRY(what_is_no_regular_file_is_refused),
           ENTRY(any_thread_may_fault_whatever_the_host_blocks),
           ENTRY(the_hosts_handler_is_kept_and_gets_what_is_its_own),
           ENTRY(a_fault_nobody_handles_still_ends_the_process))
