/* bench_writers.c - what readers feel of a writer, and what sharing a transaction saves.
 *
 *     bench_writers [FOLDER]      (default: $TMPDIR or /tmp)
 *
 * A reader looks a session up and reads a chunk of 512 KiB, alone and then while another process
 * commits as fast as it can. Then sessions commit a small node each: one after the other, and begun
 * together and waited for, at each level of durability. Beside it, in the same run, 4 KiB written
 * with fdatasync. The writer is this program run anew. */
#include "store.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_FLOATS (TARNP_CHUNK_BYTES_MAX / 4)
#define READS        4000
#define SESSIONS     16
#define ROUNDS       30

static float state[CHUNK_FLOATS];

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *name, double *samples, int n)
{
    qsort(samples, (size_t)n, sizeof *samples, by_value);
    printf("%-34s n %4d   p50 %8.3f ms   p90 %8.3f   p99 %8.3f   max %8.3f\n", name, n,
           samples[n / 2], samples[n * 9 / 10], samples[n * 99 / 100], samples[n - 1]);
}

static void must(tarn_status status, const tarn_error *err)
{
    if (status == TARN_OK)
        return;
    fprintf(stderr, "%s\n", err->detail);
    exit(1);
}

static tarnp_store *open_store(const char *path, tarnp_durability durability)
{
    tarnp_store *store;
    tarn_error err;
    tarnp_options o = {.create = true, .map_bytes = (size_t)4 << 30, .durability = durability};
    must(tarnp_store_open(path, &o, &store, &err), &err);
    return store;
}

/* Without tags it owns nothing. */
static void make_session(tarnp_store *store, const char *name, tarnp_session *out)
{
    static const uint8_t fp[TARNP_FP_BYTES] = {1};
    tarn_error err;
    must(tarnp_session_create(store, name, fp, "n", NULL, 0, out, &err), &err);
}

/* A commit of n floats on the session's head. */
typedef struct job {
    tarnp_piece piece;
    tarnp_chunk chunk;
    tarnp_section section;
    tarnp_commit commit;
} job;

static void prepare(job *j, uint64_t session_id, uint64_t head, size_t n_floats)
{
    static uint64_t key;
    j->piece = (tarnp_piece){state, n_floats * 4};
    j->chunk = (tarnp_chunk){
        .count = 1, .raw_bytes = (uint32_t)n_floats * 4, .n_pieces = 1, .pieces = &j->piece};
    j->section = (tarnp_section){
        .kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .n_chunks = 1, .chunks = &j->chunk};
    j->commit = (tarnp_commit){.session_id = session_id,
                               .expected_head = head,
                               .move_head = true,
                               .parent = head,
                               .fp = {1},
                               .sections = &j->section,
                               .n_sections = 1};
    key++;
    memcpy(j->commit.key, &key, sizeof key);
    pid_t pid = getpid();
    memcpy(j->commit.key + 8, &pid, sizeof pid);
}

/* Commits 512 KiB again and again; the session is made anew, so that the file reuses its pages. */
static int write_for_ever(const char *path)
{
    tarnp_store *store = open_store(path, TARNP_DURABLE);
    tarn_error err;
    for (;;) {
        tarnp_session s;
        make_session(store, "written", &s);
        uint64_t head = s.head;
        for (int i = 0; i < 8; i++) {
            job j;
            tarnp_committed made;
            prepare(&j, s.id, head, CHUNK_FLOATS);
            must(tarnp_commit_node(store, &j.commit, &made, &err), &err);
            head = made.node;
            if (write(1, "", 1) != 1)
                return 1;
        }
        must(tarnp_session_remove(store, "written", &err), &err);
    }
}

static void read_often(tarnp_store *store, const char *name)
{
    static double look[READS], whole[READS];
    static float back[CHUNK_FLOATS];
    char text[64];
    tarn_error err;
    for (int i = 0; i < READS; i++) {
        tarnp_session s;
        tarnp_node node;
        double begun = now_ms();
        must(tarnp_session_find(store, "read", &s, &err), &err);
        look[i] = now_ms() - begun;
        must(tarnp_node_read(store, s.head, &node, &err), &err);
        tarnp_piece piece = {back, sizeof back};
        tarnp_chunk chunk = node.sections[0].chunks[0];
        chunk.n_pieces = 1;
        chunk.pieces = &piece;
        must(tarnp_node_read_chunks(store, &node, TARNP_ELEM_F32, &chunk, 1, NULL, &err), &err);
        whole[i] = now_ms() - begun;
        tarnp_node_fini(&node);
        tarnp_session_fini(&s);
    }
    snprintf(text, sizeof text, "find a session, %s", name);
    report(text, look, READS);
    snprintf(text, sizeof text, "find and read 512 KiB, %s", name);
    report(text, whole, READS);
}

static pid_t start_writer(const char *path, int *out)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        exit(1);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        execl("/proc/self/exe", "bench_writers", "--child", path, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *out = ends[0];
    return child;
}

static void measure_readers(const char *path)
{
    char bytes[4096];
    int out;
    ssize_t n, n_commits = 0;
    job j;
    tarnp_session s;
    tarnp_committed made;
    tarn_error err;
    tarnp_store *store = open_store(path, TARNP_DURABLE);
    make_session(store, "read", &s);
    prepare(&j, s.id, s.head, CHUNK_FLOATS);
    must(tarnp_commit_node(store, &j.commit, &made, &err), &err);
    read_often(store, "alone");
    pid_t child = start_writer(path, &out);
    if (read(out, bytes, 1) != 1)
        exit(1);
    double begun = now_ms();
    read_often(store, "beside a writer");
    double took = now_ms() - begun;
    kill(child, SIGKILL);
    while ((n = read(out, bytes, sizeof bytes)) > 0)
        n_commits += n;
    waitpid(child, NULL, 0);
    close(out);
    printf("the writer committed 512 KiB every %.2f ms\n",
           took / (double)(n_commits ? n_commits : 1));
    tarnp_store_close(store);
}

static void measure_groups(const char *path, tarnp_durability level, const char *name)
{
    static double one[ROUNDS], group[ROUNDS];
    char text[64];
    uint64_t ids[SESSIONS], heads[SESSIONS];
    tarn_error err;
    tarnp_store *store = open_store(path, level);
    for (int i = 0; i < SESSIONS; i++) {
        tarnp_session s;
        snprintf(text, sizeof text, "s%d", i);
        make_session(store, text, &s);
        ids[i] = s.id;
        heads[i] = s.head;
    }
    for (int r = 0; r < 2 * ROUNDS; r++) {
        tarnp_ticket *tickets[SESSIONS];
        tarnp_committed made;
        job j;
        double begun = now_ms();
        for (int i = 0; i < SESSIONS; i++) {
            prepare(&j, ids[i], heads[i], 1024);
            if (r % 2 == 0) {
                must(tarnp_commit_node(store, &j.commit, &made, &err), &err);
                heads[i] = made.node;
            } else {
                must(tarnp_commit_submit(store, &j.commit, &tickets[i], &err), &err);
            }
        }
        for (int i = 0; i < SESSIONS && r % 2; i++) {
            must(tarnp_ticket_wait(store, tickets[i], TARNP_TICKET_WRITTEN, TARNP_WAIT_FOREVER,
                                   &made, &err),
                 &err);
            heads[i] = made.node;
            tarnp_ticket_free(tickets[i]);
        }
        (r % 2 ? group : one)[r / 2] = (now_ms() - begun) / SESSIONS;
    }
    snprintf(text, sizeof text, "%s, a commit of 4 KiB", name);
    report(text, one, ROUNDS);
    snprintf(text, sizeof text, "%s, of %d begun together", name, SESSIONS);
    report(text, group, ROUNDS);
    tarnp_store_close(store);
}

static void measure_sync(const char *path)
{
    static double samples[200];
    static char block[4096];
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    for (int i = 0; i < 200 && fd >= 0; i++) {
        double begun = now_ms();
        if (pwrite(fd, block, sizeof block, (off_t)i * 4096) != sizeof block || fdatasync(fd) != 0)
            exit(1);
        samples[i] = now_ms() - begun;
    }
    close(fd);
    unlink(path);
    report("4 KiB written and synced", samples, 200);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"durable", "relaxed", "deferred", "scratch"};
    static const char *const files[] = {"data.mdb", "lock.mdb", "reserve", "scratch", "clean"};
    const char *base = getenv("TMPDIR");
    char folder[256], path[300], file[320];
    for (size_t i = 0; i < CHUNK_FLOATS; i++)
        state[i] = (float)((i * 2654435761u >> 8) & 0xFFFF) * 1e-4f - 3.0f;
    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return write_for_ever(argv[2]);
    snprintf(folder, sizeof folder, "%s/bench-XXXXXX", argc > 1 ? argv[1] : base ? base : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        return 1;
    }
    snprintf(path, sizeof path, "%s/sync", folder);
    measure_sync(path);
    for (int l = -1; l < 4; l++) {
        snprintf(path, sizeof path, "%s/store", folder);
        if (l < 0)
            measure_readers(path);
        else
            measure_groups(path, (tarnp_durability)l, names[l]);
        for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
            snprintf(file, sizeof file, "%s/%s", path, files[i]);
            unlink(file);
        }
        rmdir(path);
    }
    rmdir(folder);
    return 0;
}
