/* bench_store.c - what keeping and resuming a session costs.
 *
 *     bench_store [FOLDER]      (default: $TMPDIR or /tmp)
 *
 * One KDA state of 40 MiB in fp32 (20 layers of 32 heads of 128 x 128), committed again and again
 * to a store in FOLDER, read back and compared. The values come from a delta-rule recurrence run
 * for a few hundred tokens, because noise compresses differently. One thread, then all; beside it,
 * in the same run, a memcpy of the same bytes and a write of 4 MiB with fdatasync. Medians.
 *
 * The same state is committed each time; the session keeps a handful of nodes and is then removed,
 * so the file reuses its pages, as that of a long-lived store does. */
#include "store.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HEADS       640
#define DIM         128
#define HEAD_FLOATS (DIM * DIM)
#define PER_CHUNK   8 /* heads: 512 KiB */
#define CHUNKS      (HEADS / PER_CHUNK)
#define STATE_BYTES ((size_t)HEADS * HEAD_FLOATS * sizeof(float))
#define TOKENS      256
#define ROUNDS      6 /* of NODES commits */
#define NODES       5
#define SAMPLES     (ROUNDS * NODES)
#define MIB         (1024.0 * 1024.0)

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

static double sorted_at(double *samples, int n, double fraction)
{
    qsort(samples, (size_t)n, sizeof *samples, by_value);
    return samples[(int)(fraction * (n - 1) + 0.5)];
}

static void report(const char *name, double *samples, int n, double bytes)
{
    double median = sorted_at(samples, n, 0.5);
    printf("%-28s n %3d   median %8.3f ms   p10 %8.3f   p90 %8.3f", name, n, median,
           sorted_at(samples, n, 0.1), sorted_at(samples, n, 0.9));
    if (bytes > 0)
        printf("   %6.2f GB/s", bytes / median / 1e6);
    printf("\n");
}

static void stop(const char *what, const tarn_error *err)
{
    fprintf(stderr, "bench_store: %s: %s\n", what, err->detail);
    exit(1);
}

/* ---- a state -------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

static float uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) * 0x1p-24f;
}

static float normal(void)
{
    return sqrtf(-2 * logf(uniform() + 1e-7f)) * cosf(6.2831853f * uniform());
}

/* S <- diag(a) S, then S <- S + b k (v - S^T k)^T, with unit keys and per-channel decay. */
static void run_head(float *s)
{
    float decay[DIM], k[DIM], v[DIM], seen[DIM];
    for (int i = 0; i < DIM; i++)
        decay[i] = 0.9f + 0.1f * uniform();
    for (int t = 0; t < TOKENS; t++) {
        float norm = 0, beta = uniform();
        for (int i = 0; i < DIM; i++) {
            float x = normal();
            k[i] = x / (1 + expf(-x));
            norm += k[i] * k[i];
            v[i] = normal();
            seen[i] = 0;
        }
        for (int i = 0; i < DIM; i++) {
            k[i] /= sqrtf(norm);
            for (int j = 0; j < DIM; j++) {
                s[i * DIM + j] *= decay[i];
                seen[j] += s[i * DIM + j] * k[i];
            }
        }
        for (int i = 0; i < DIM; i++)
            for (int j = 0; j < DIM; j++)
                s[i * DIM + j] += beta * k[i] * (v[j] - seen[j]);
    }
}

/* A few heads are run, the others are those at another scale: as good for a coder of exponents. */
static void make_state(float *state)
{
    enum { RUN = 32 };
    for (int h = 0; h < HEADS; h++) {
        float *s = state + (size_t)h * HEAD_FLOATS;
        if (h < RUN) {
            run_head(s);
            continue;
        }
        float scale = expf(0.3f * normal());
        for (int i = 0; i < HEAD_FLOATS; i++)
            s[i] = state[(size_t)(h % RUN) * HEAD_FLOATS + (size_t)i] * scale;
    }
}

/* ---- the store ------------------------------------------------------------------------------ */

static const uint8_t fp[TARNP_FP_BYTES] = {1};

typedef struct bench {
    tarnp_store *store;
    tarn_error err;
    float *state, *back;
    tarnp_piece pieces[CHUNKS];
    tarnp_chunk chunks[CHUNKS];
    uint64_t next_key;
} bench;

static void aim(bench *b, float *at)
{
    for (uint32_t i = 0; i < CHUNKS; i++) {
        b->pieces[i] =
            (tarnp_piece){at + (size_t)i * PER_CHUNK * HEAD_FLOATS, STATE_BYTES / CHUNKS};
        b->chunks[i] = (tarnp_chunk){.first = i * PER_CHUNK,
                                     .count = PER_CHUNK,
                                     .raw_bytes = STATE_BYTES / CHUNKS,
                                     .n_pieces = 1,
                                     .pieces = &b->pieces[i]};
    }
}

static uint64_t commit_state(bench *b, uint64_t session_id, uint64_t head, double *ms)
{
    tarnp_section section = {.kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .n_chunks = CHUNKS, .chunks = b->chunks};
    tarnp_commit c = {.session_id = session_id,
                      .expected_head = head,
                      .move_head = true,
                      .parent = head,
                      .flags = TARNP_NODE_HAS_STATE,
                      .sections = &section,
                      .n_sections = 1};
    b->next_key++;
    memcpy(c.key, &b->next_key, sizeof b->next_key);
    memcpy(c.fp, fp, sizeof fp);
    tarnp_committed made;
    aim(b, b->state);
    double start = now_ms();
    if (tarnp_commit_node(b->store, &c, &made, &b->err) != TARN_OK)
        stop("commit", &b->err);
    *ms = now_ms() - start;
    return made.node;
}

static void resume_state(bench *b, uint64_t head, double *ms)
{
    tarnp_node node;
    aim(b, b->back);
    double start = now_ms();
    if (tarnp_node_read(b->store, head, &node, &b->err) != TARN_OK)
        stop("read", &b->err);
    for (size_t i = 0; i < CHUNKS; i++)
        b->chunks[i].id = node.sections[0].chunks[i].id;
    if (tarnp_node_read_chunks(b->store, &node, TARNP_ELEM_F32, b->chunks, CHUNKS, NULL, &b->err) !=
        TARN_OK)
        stop("read", &b->err);
    *ms = now_ms() - start;
    tarnp_node_fini(&node);
    if (memcmp(b->state, b->back, STATE_BYTES) != 0) {
        fprintf(stderr, "bench_store: read back something else\n");
        exit(1);
    }
    memset(b->back, 0, STATE_BYTES);
}

static double fork_and_remove(bench *b, uint64_t head)
{
    tarnp_session s;
    double start = now_ms();
    if (tarnp_session_fork(b->store, head, "fork", &s, NULL, &b->err) != TARN_OK)
        stop("fork", &b->err);
    double ms = now_ms() - start;
    tarnp_session_fini(&s);
    if (tarnp_session_remove(b->store, "fork", &b->err) != TARN_OK)
        stop("remove", &b->err);
    return ms;
}

static void run(bench *b, const char *threads)
{
    static double commits[SAMPLES], resumes[SAMPLES], forks[SAMPLES], removes[ROUNDS];
    tarnp_stat stat = {0};
    char name[64];
    int n = 0;
    for (int round = -1; round < ROUNDS; round++) { /* the first one grows the file */
        tarnp_session s;
        if (tarnp_session_create(b->store, "bench", fp, NULL, NULL, 0, &s, &b->err) != TARN_OK)
            stop("create", &b->err);
        uint64_t head = s.head;
        for (int i = 0; i < NODES; i++) {
            double commit, resume;
            head = commit_state(b, s.id, head, &commit);
            resume_state(b, head, &resume);
            double fork = fork_and_remove(b, head);
            if (round < 0)
                continue;
            commits[n] = commit;
            resumes[n] = resume;
            forks[n++] = fork;
        }
        if (tarnp_store_stat(b->store, &stat, &b->err) != TARN_OK)
            stop("stat", &b->err);
        double start = now_ms();
        if (tarnp_session_remove(b->store, "bench", &b->err) != TARN_OK)
            stop("remove", &b->err);
        if (round >= 0)
            removes[round] = now_ms() - start;
        tarnp_session_fini(&s);
    }
    snprintf(name, sizeof name, "commit 40 MiB, %s", threads);
    report(name, commits, n, (double)STATE_BYTES);
    snprintf(name, sizeof name, "resume 40 MiB, %s", threads);
    report(name, resumes, n, (double)STATE_BYTES);
    report("fork", forks, n, 0);
    snprintf(name, sizeof name, "remove %d nodes", NODES);
    report(name, removes, ROUNDS, 0);
    printf("stored %.2f MiB a state, ratio %.3f\n", (double)stat.bytes_stored / NODES / MIB,
           (double)STATE_BYTES * NODES / (double)stat.bytes_stored);
}

/* ---- what the machine does without us ------------------------------------------------------- */

static void floors(bench *b, const char *folder)
{
    enum { WRITE_BYTES = 4 << 20 };
    double copies[SAMPLES], writes[SAMPLES];
    char file[512];
    snprintf(file, sizeof file, "%s/floor", folder);
    int fd = open(file, O_CREAT | O_RDWR | O_TRUNC, 0600);
    for (int i = -2; i < SAMPLES; i++) {
        double start = now_ms();
        memcpy(b->back, b->state, STATE_BYTES);
        double copied = now_ms();
        if (fd < 0 || pwrite(fd, b->state, WRITE_BYTES, 0) != WRITE_BYTES || fdatasync(fd) != 0) {
            perror(file);
            exit(1);
        }
        if (i < 0)
            continue;
        writes[i] = now_ms() - copied;
        copies[i] = copied - start;
    }
    close(fd);
    unlink(file);
    report("memcpy 40 MiB", copies, SAMPLES, (double)STATE_BYTES);
    report("write 4 MiB + fdatasync", writes, SAMPLES, WRITE_BYTES);
}

int main(int argc, char **argv)
{
    const char *base = argc > 1 ? argv[1] : getenv("TMPDIR");
    char folder[300], path[400], file[420];
    snprintf(folder, sizeof folder, "%s/bench-store-XXXXXX", base ? base : "/tmp");
    static bench b;
    tarni_pool *pool;
    if (!mkdtemp(folder)) {
        perror(folder);
        return 1;
    }
    snprintf(path, sizeof path, "%s/store", folder);
    b.state = calloc(1, STATE_BYTES);
    b.back = calloc(1, STATE_BYTES);
    if (!b.state || !b.back)
        return 1;
    make_state(b.state);
    tarnp_options options = {.create = true};
    if (tarnp_store_open(path, &options, &b.store, &b.err) != TARN_OK)
        stop("open", &b.err);
    floors(&b, folder);
    run(&b, "1 thread");
    if (tarni_pool_create(0, &tarni_heap, &pool, &b.err) != TARN_OK)
        stop("pool", &b.err);
    if (tarni_pool_threads(pool) > 1) {
        tarnp_store_set_pool(b.store, pool);
        snprintf(file, sizeof file, "%u threads", tarni_pool_threads(pool));
        run(&b, file);
    }
    tarnp_store_close(b.store);
    tarni_pool_free(pool);
    snprintf(file, sizeof file, "%s/data.mdb", path);
    unlink(file);
    snprintf(file, sizeof file, "%s/lock.mdb", path);
    unlink(file);
    rmdir(path);
    rmdir(folder);
    free(b.state);
    free(b.back);
    return 0;
}
