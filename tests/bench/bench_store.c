/* bench_store.c - what keeping and resuming a session costs, and what the same job costs others.
 *
 *     bench_store [--quick] [--json] [--tsv FILE] [--peers FILE] [FOLDER]
 *
 * FOLDER (default $TMPDIR or /tmp) is where the stores go: the disk is what is measured. The state
 * is that of the published 48B model, 40 MiB in fp32. Every round gives each contender its turn,
 * and the machine its: a memcpy of the state, a write of 4 MiB and one of 4 KiB with fdatasync.
 * Medians.
 * --quick takes few samples and small numbers where those are in a metric's name. */
#include "rows.h"
#include "store_jobs.h"

#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB         (1024.0 * 1024.0)
#define SAMPLES_MAX 24
#define JOBS_MAX    6
#define LIVE        40 /* sessions of the bloat */

typedef struct bench {
    rows *rows;
    bool quick;
    int n_samples;
    char folder[300], path[340];
    float *state, *back;
    tarnp_store *store;
    tarnp_store *sealed; /* beside it, encrypted */
    tarn_error err;
    double copy_ms, write_ms, sync_ms; /* medians */
} bench;

static void open_store(bench *b)
{
    const tarnp_options options = {.create = true};
    bench_must(tarnp_store_open(b->path, &options, &b->store, &b->err), "open", &b->err);
}

static void open_sealed(bench *b)
{
    static const char key[] = "32 bytes or more of a key, for a bench";
    const tarnp_options options = {.create = true, .secret = key, .secret_bytes = sizeof key - 1};
    char path[360];
    snprintf(path, sizeof path, "%s-sealed", b->path);
    bench_must(tarnp_store_open(path, &options, &b->sealed, &b->err), "open", &b->err);
}

static void remove_folder(const char *path)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", "reserve"};
    char file[400];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(file, sizeof file, "%s/%s", path, files[i]);
        unlink(file);
    }
    rmdir(path);
}

static void remove_store(bench *b)
{
    char path[360];
    tarnp_store_close(b->store);
    tarnp_store_close(b->sealed);
    b->store = b->sealed = NULL;
    remove_folder(b->path);
    snprintf(path, sizeof path, "%s-sealed", b->path);
    remove_folder(path);
}

static uint64_t create(bench *b, const char *name, uint64_t *session)
{
    tarnp_session s;
    bench_must(tarnp_session_create(b->store, name, bench_fp, NULL, NULL, 0, &s, &b->err), "create",
               &b->err);
    uint64_t head = s.head;
    *session = s.id;
    tarnp_session_fini(&s);
    return head;
}

/* ---- 40 MiB of state ------------------------------------------------------------------------ */

typedef struct floors {
    double copy[SAMPLES_MAX], write[SAMPLES_MAX], sync[SAMPLES_MAX];
} floors;

static double write_synced(int fd, const void *data, size_t n)
{
    double start = now_ms();
    if (pwrite(fd, data, n, 0) != (ssize_t)n || fdatasync(fd) != 0)
        bench_stop("floor", "cannot write");
    return now_ms() - start;
}

static void measure_floors(bench *b, floors *f, int i)
{
    char file[340];
    snprintf(file, sizeof file, "%s/floor", b->folder);
    int fd = open(file, O_CREAT | O_RDWR, 0600);
    if (fd < 0)
        bench_stop(file, "cannot be made");
    write_synced(fd, b->state, 4 << 20); /* its blocks are new the first time */
    f->write[i] = write_synced(fd, b->state, 4 << 20);
    f->sync[i] = write_synced(fd, b->state, 4096);
    double start = now_ms();
    memcpy(b->back, b->state, STATE_BYTES);
    f->copy[i] = now_ms() - start;
    close(fd);
    unlink(file);
}

static void state_rows(bench *b, const job *j, double *commits, double *resumes, unsigned threads)
{
    char name[64];
    double mib = (double)j->stored_bytes / MIB;
    bool bf16 = strcmp(j->prefix, "state_bf16_") == 0;
    const char *stem = strncmp(j->prefix, "state_", 6) == 0 ? "" : "state_";
    rows_set(b->rows, "kimi-linear-48b", bf16 ? "bf16" : "f32");
    snprintf(name, sizeof name, "%s%scommit_ms", j->prefix, stem);
    rows_add(b->rows, name, median_of(commits, (size_t)b->n_samples), "ms",
             b->copy_ms + mib * b->write_ms / 4, threads);
    snprintf(name, sizeof name, "%s%sresume_ms", j->prefix, stem);
    rows_add(b->rows, name, median_of(resumes, (size_t)b->n_samples), "ms", b->copy_ms, threads);
    if (threads > 1)
        return;
    snprintf(name, sizeof name, "%s%smib", j->prefix, stem);
    rows_add(b->rows, name, mib, "MiB", 0, threads);
}

/* Each round: every contender commits and resumes once. The first round grows the files. */
static void state_jobs(bench *b, job *jobs, size_t n_jobs, unsigned threads)
{
    static double commits[JOBS_MAX][SAMPLES_MAX], resumes[JOBS_MAX][SAMPLES_MAX];
    static floors f;
    for (int i = -6; i < b->n_samples; i++) {
        int at = i < 0 ? 0 : i;
        for (size_t k = 0; k < n_jobs; k++) {
            commits[k][at] = jobs[k].commit(&jobs[k]);
            resumes[k][at] = jobs[k].resume(&jobs[k]);
        }
        if (threads == 1)
            measure_floors(b, &f, at);
    }
    if (threads == 1) {
        size_t n = (size_t)b->n_samples;
        b->copy_ms = median_of(f.copy, n);
        b->write_ms = median_of(f.write, n);
        b->sync_ms = median_of(f.sync, n);
        rows_set(b->rows, "none", "none");
        rows_add(b->rows, "floor_memcpy_40mib_ms", b->copy_ms, "ms", 0, 1);
        rows_add(b->rows, "floor_write_4mib_ms", b->write_ms, "ms", 0, 1);
        rows_add(b->rows, "floor_write_4kib_ms", b->sync_ms, "ms", 0, 1);
    }
    for (size_t k = 0; k < n_jobs; k++)
        state_rows(b, &jobs[k], commits[k], resumes[k], threads);
}

static void states(bench *b)
{
    job jobs[JOBS_MAX] = {0};
    size_t n = 0;
    tarni_pool *pool;
    open_store(b);
    for (size_t i = 0; i < JOBS_MAX; i++) {
        jobs[i].state = b->state;
        jobs[i].back = b->back;
    }
    job_tarn(&jobs[n++], "state_", b->store, TARNP_STATE_LOSSLESS);
    job_tarn(&jobs[n++], "state_bf16_", b->store, TARNP_STATE_BF16);
    open_sealed(b);
    job_tarn(&jobs[n++], "state_sealed_", b->sealed, TARNP_STATE_LOSSLESS);
    job_zstd(&jobs[n++], b->folder);
    job_file(&jobs[n++], b->folder);
    if (job_sqlite(&jobs[n], b->folder))
        n++;
    else
        rows_note(b->rows, "sqlite: built without libsqlite3-dev, its rows are left out");
    state_jobs(b, jobs, n, 1);
    bench_must(tarni_pool_create(0, &tarni_heap, &pool, &b->err), "threads", &b->err);
    if (tarni_pool_threads(pool) > 1) {
        tarnp_store_set_pool(b->store, pool);
        tarnp_store_set_pool(b->sealed, pool);
        state_jobs(b, jobs, 3, tarni_pool_threads(pool));
    }
    for (size_t i = 0; i < n; i++)
        jobs[i].close(&jobs[i]);
    remove_store(b);
    tarni_pool_free(pool);
    /* fp16 and int8 are not raced: their size and error are what is asked of them. */
    open_store(b);
    static const tarnp_state_codec others[] = {TARNP_STATE_FP16, TARNP_STATE_INT8};
    static const char *const prefixes[] = {"state_fp16_", "state_int8_"};
    for (size_t i = 0; i < 2; i++) {
        double commits[SAMPLES_MAX], resumes[SAMPLES_MAX];
        job_tarn(&jobs[i], prefixes[i], b->store, others[i]);
        for (int k = -1; k < b->n_samples; k++) {
            commits[k < 0 ? 0 : k] = jobs[i].commit(&jobs[i]);
            resumes[k < 0 ? 0 : k] = jobs[i].resume(&jobs[i]);
        }
        state_rows(b, &jobs[i], commits, resumes, 1);
        jobs[i].close(&jobs[i]);
    }
    remove_store(b);
}

/* ---- latents -------------------------------------------------------------------------------- */

static void latents(bench *b)
{
    enum { PAGES = 32 };
    uint16_t *pages = malloc(PAGES * PAGE_BYTES);
    tarnp_piece pieces[PAGES];
    tarnp_chunk chunks[PAGES];
    if (!pages)
        exit(1);
    make_latents(pages, PAGES);
    for (uint32_t i = 0; i < PAGES; i++) {
        pieces[i] = (tarnp_piece){pages + i * PAGE_BYTES / 2, PAGE_BYTES};
        chunks[i] = (tarnp_chunk){.first = i * PAGE_TOKENS,
                                  .count = PAGE_TOKENS,
                                  .raw_bytes = PAGE_BYTES,
                                  .n_pieces = 1,
                                  .pieces = &pieces[i]};
    }
    tarnp_section section = {
        .kind = TARNP_SECTION_LATENT, .elem = TARNP_ELEM_BF16, .n_chunks = PAGES, .chunks = chunks};
    tarnp_commit c = {.move_head = true, .sections = &section, .n_sections = 1};
    tarnp_committed made;
    tarnp_node node;
    open_store(b);
    c.parent = c.expected_head = create(b, "latents", &c.session_id);
    bench_key(c.key);
    memcpy(c.fp, bench_fp, sizeof bench_fp);
    bench_must(tarnp_commit_node(b->store, &c, &made, &b->err), "commit", &b->err);
    bench_must(tarnp_node_read(b->store, made.node, &node, &b->err), "read", &b->err);
    rows_set(b->rows, "kimi-linear-48b", "bf16");
    rows_add(b->rows, "latent_ratio", (double)(PAGES * PAGE_BYTES) / (double)node.stored_bytes, "x",
             0, 1);
    tarnp_node_fini(&node);
    remove_store(b);
    free(pages);
}

/* ---- forks ---------------------------------------------------------------------------------- */

/* A node that stands on 128K tokens. */
static uint64_t long_node(bench *b)
{
    enum { TOKENS_LONG = 128 * 1024 };
    uint32_t *tokens = malloc(TOKENS_LONG * sizeof *tokens);
    if (!tokens)
        exit(1);
    for (uint32_t i = 0; i < TOKENS_LONG; i++)
        tokens[i] = i * 2654435761u % 163840u;
    const tarnp_segment segment = {.role = TARN_ROLE_TOKENS, .n_tokens = TOKENS_LONG};
    tarnp_commit c = {.move_head = true,
                      .tokens = tokens,
                      .n_tokens = TOKENS_LONG,
                      .segments = &segment,
                      .n_segments = 1};
    tarnp_committed made;
    c.parent = c.expected_head = create(b, "long", &c.session_id);
    bench_key(c.key);
    memcpy(c.fp, bench_fp, sizeof bench_fp);
    bench_must(tarnp_commit_node(b->store, &c, &made, &b->err), "commit", &b->err);
    free(tokens);
    return made.node;
}

static void forks(bench *b)
{
    double times[100], lists[20];
    uint64_t bytes = 0;
    char name[64];
    unsigned n_forks = b->quick ? 200 : 10000;
    open_store(b);
    uint64_t node = long_node(b);
    for (unsigned i = 0; i < n_forks; i++) {
        tarnp_session s;
        snprintf(name, sizeof name, "fork-%05u", i);
        double start = now_ms();
        bench_must(tarnp_session_fork(b->store, node, name, &s, &bytes, &b->err), "fork", &b->err);
        if (i < 100)
            times[i] = now_ms() - start;
        tarnp_session_fini(&s);
    }
    for (size_t i = 0; i < 20; i++) {
        tarnp_session *sessions;
        size_t n;
        double start = now_ms();
        bench_must(tarnp_session_list(b->store, &sessions, &n, &b->err), "list", &b->err);
        lists[i] = now_ms() - start;
        if (n != n_forks + 1)
            bench_stop("list", "sessions are missing");
        tarnp_sessions_free(sessions, n);
    }
    rows_set(b->rows, "none", "none");
    rows_add(b->rows, "fork_ms", median_of(times, 100), "ms", b->sync_ms, 1);
    rows_add(b->rows, "fork_bytes", (double)bytes, "bytes", 0, 1);
    rows_add(b->rows, b->quick ? "list_200_ms" : "list_10k_ms", median_of(lists, 20), "ms", 0, 1);
    remove_store(b);
}

/* ---- thousands of snapshots that come and go ------------------------------------------------ */

/* One session with a state of 1.7 to 2.3 MiB; what was there before goes. */
static void churn(bench *b, uint32_t cycle)
{
    tarnp_piece pieces[4];
    tarnp_chunk chunks[4];
    char name[16];
    uint32_t random = cycle * 2654435761u;
    snprintf(name, sizeof name, "s%u", cycle % LIVE);
    if (cycle >= LIVE)
        bench_must(tarnp_session_remove(b->store, name, &b->err), "remove", &b->err);
    for (uint32_t i = 0; i < 4; i++) {
        size_t n_bytes = (size_t)(CHUNK_BYTES * (0.85 + 0.15 * ((random >> 8 * i & 0xFF) / 256.0)));
        n_bytes = n_bytes / 64 * 64;
        pieces[i] = (tarnp_piece){b->state + ((cycle * 4 + i) % CHUNKS) * CHUNK_BYTES / 4, n_bytes};
        chunks[i] =
            (tarnp_chunk){.first = i, .count = 1, .raw_bytes = (uint32_t)n_bytes, .n_pieces = 1};
        chunks[i].pieces = &pieces[i];
    }
    tarnp_section section = {
        .kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .n_chunks = 4, .chunks = chunks};
    tarnp_commit c = {.move_head = true, .sections = &section, .n_sections = 1};
    tarnp_committed made;
    c.parent = c.expected_head = create(b, name, &c.session_id);
    bench_key(c.key);
    memcpy(c.fp, bench_fp, sizeof bench_fp);
    bench_must(tarnp_commit_node(b->store, &c, &made, &b->err), "commit", &b->err);
}

static double file_bytes(const char *folder)
{
    char file[400];
    struct stat info = {0};
    snprintf(file, sizeof file, "%s/data.mdb", folder);
    if (stat(file, &info) != 0)
        bench_stop(file, "is not there");
    return (double)info.st_size;
}

/* The size of a compacted copy of the closed store. */
static double compacted_bytes(bench *b)
{
    char folder[340], file[360];
    MDB_env *env = NULL;
    snprintf(folder, sizeof folder, "%s/compact", b->folder);
    if (mkdir(folder, 0700) != 0 || mdb_env_create(&env) != 0 || mdb_env_set_maxdbs(env, 64) != 0 ||
        mdb_env_open(env, b->path, MDB_RDONLY, 0600) != 0 ||
        mdb_env_copy2(env, folder, MDB_CP_COMPACT) != 0)
        bench_stop(b->path, "cannot be copied");
    mdb_env_close(env);
    double n = file_bytes(folder);
    snprintf(file, sizeof file, "%s/data.mdb", folder);
    unlink(file);
    rmdir(folder);
    return n;
}

static void bloat(bench *b)
{
    uint32_t n = b->quick ? 200 : 5000;
    open_store(b);
    for (uint32_t i = 0; i < n; i++)
        churn(b, i);
    tarnp_store_close(b->store);
    b->store = NULL;
    double used = file_bytes(b->path), compact = compacted_bytes(b);
    rows_set(b->rows, "none", "f32");
    rows_add(b->rows, b->quick ? "bloat_200_cycles" : "bloat_5000_cycles", used / compact, "x", 1,
             1);
    remove_store(b);
}

/* ---- all of it ------------------------------------------------------------------------------ */

typedef struct arguments {
    bool quick, json;
    const char *tsv, *peers, *folder;
} arguments;

static bool parse(int argc, char **argv, arguments *a)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            a->quick = true;
        else if (strcmp(argv[i], "--json") == 0)
            a->json = true;
        else if (strcmp(argv[i], "--tsv") == 0 && i + 1 < argc)
            a->tsv = argv[++i];
        else if (strcmp(argv[i], "--peers") == 0 && i + 1 < argc)
            a->peers = argv[++i];
        else if (argv[i][0] != '-' && !a->folder)
            a->folder = argv[i];
        else
            return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    static bench b;
    arguments a = {0};
    if (!parse(argc, argv, &a)) {
        fprintf(stderr, "usage: bench_store [--quick] [--json] [--tsv FILE] [--peers FILE] "
                        "[FOLDER]\n");
        return 2;
    }
    if (!a.folder)
        a.folder = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    b.rows = rows_begin(a.json, a.tsv, a.peers, BENCH_SOURCE);
    b.quick = a.quick;
    b.n_samples = a.quick ? 5 : SAMPLES_MAX;
    b.state = calloc(1, STATE_BYTES);
    b.back = calloc(1, STATE_BYTES);
    snprintf(b.folder, sizeof b.folder, "%s/bench-store-XXXXXX", a.folder);
    if (!b.state || !b.back || !mkdtemp(b.folder))
        bench_stop(b.folder, "cannot be made");
    snprintf(b.path, sizeof b.path, "%s/store", b.folder);
    make_state(b.state);
    states(&b);
    latents(&b);
    forks(&b);
    bloat(&b);
    rows_compare(b.rows, "state_commit_ms", ".state.save_durable.ms");
    rows_compare(b.rows, "state_resume_ms", ".state.restore_warm.ms");
    rows_compare(b.rows, "state_mib", ".state.bytes");
    rows_end(b.rows);
    if (rmdir(b.folder) != 0)
        perror(b.folder);
    free(b.state);
    free(b.back);
    return 0;
}
