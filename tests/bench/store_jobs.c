#include "store_jobs.h"

#include "rows.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#define NODES_KEPT 5

const uint8_t bench_fp[TARNP_FP_BYTES] = {1};

void bench_key(uint8_t key[TARNP_KEY_BYTES])
{
    static uint64_t next;
    next++;
    memset(key, 0, TARNP_KEY_BYTES);
    memcpy(key, &next, sizeof next);
}

void bench_stop(const char *what, const char *why)
{
    fprintf(stderr, "bench_store: %s: %s\n", what, why);
    exit(1);
}

void bench_must(tarn_status status, const char *what, const tarn_error *err)
{
    if (status != TARN_OK)
        bench_stop(what, err->detail);
}

static void check_back(const job *j)
{
    if (memcmp(j->state, j->back, STATE_BYTES) != 0)
        bench_stop(j->prefix, "read back something else");
    memset(j->back, 0, STATE_BYTES);
}

/* ---- the store ------------------------------------------------------------------------------ */

typedef struct tarn_job {
    tarnp_store *store;
    tarnp_state_codec codec;
    uint64_t session, head;
    int n_nodes;
    char name[32];
    tarnp_piece pieces[CHUNKS];
    tarnp_chunk chunks[CHUNKS];
} tarn_job;

static void aim(tarn_job *t, float *at)
{
    for (uint32_t i = 0; i < CHUNKS; i++) {
        t->pieces[i] = (tarnp_piece){at + i * CHUNK_BYTES / sizeof(float), CHUNK_BYTES};
        t->chunks[i] = (tarnp_chunk){.first = i * (HEADS / CHUNKS),
                                     .count = HEADS / CHUNKS,
                                     .raw_bytes = CHUNK_BYTES,
                                     .n_pieces = 1,
                                     .pieces = &t->pieces[i]};
    }
}

static void begin_session(tarn_job *t)
{
    tarn_error err;
    tarnp_session s;
    if (t->session != 0)
        bench_must(tarnp_session_remove(t->store, t->name, &err), "remove", &err);
    bench_must(tarnp_session_create(t->store, t->name, bench_fp, NULL, NULL, 0, &s, &err), "create",
               &err);
    t->session = s.id;
    t->head = s.head;
    t->n_nodes = 0;
    tarnp_session_fini(&s);
}

static double tarn_save(job *j)
{
    tarn_job *t = j->own;
    tarn_error err;
    if (t->n_nodes == NODES_KEPT)
        begin_session(t);
    aim(t, j->state);
    tarnp_section section = {.kind = TARNP_SECTION_STATE,
                             .elem = TARNP_ELEM_F32,
                             .n_chunks = CHUNKS,
                             .chunks = t->chunks,
                             .row_elems = DIM,
                             .unit_elems = HEAD_FLOATS};
    tarnp_commit c = {.session_id = t->session,
                      .expected_head = t->head,
                      .move_head = true,
                      .parent = t->head,
                      .flags = TARNP_NODE_HAS_STATE,
                      .sections = &section,
                      .n_sections = 1,
                      .state_codec = t->codec};
    tarnp_committed made;
    bench_key(c.key);
    memcpy(c.fp, bench_fp, sizeof bench_fp);
    double start = now_ms();
    bench_must(tarnp_commit_node(t->store, &c, &made, &err), "commit", &err);
    double ms = now_ms() - start;
    t->head = made.node;
    t->n_nodes++;
    return ms;
}

static double tarn_load(job *j)
{
    tarn_job *t = j->own;
    tarn_error err;
    tarnp_node node;
    aim(t, j->back);
    double start = now_ms();
    bench_must(tarnp_node_read(t->store, t->head, &node, &err), "read", &err);
    for (size_t i = 0; i < CHUNKS; i++)
        t->chunks[i].id = node.sections[0].chunks[i].id;
    bench_must(
        tarnp_node_read_chunks(t->store, &node, TARNP_ELEM_F32, t->chunks, CHUNKS, NULL, &err),
        "read", &err);
    double ms = now_ms() - start;
    j->stored_bytes = node.stored_bytes;
    tarnp_node_fini(&node);
    if (t->codec == TARNP_STATE_LOSSLESS)
        check_back(j);
    return ms;
}

static void tarn_close(job *j)
{
    tarn_job *t = j->own;
    tarn_error err;
    bench_must(tarnp_session_remove(t->store, t->name, &err), "remove", &err);
    free(t);
}

void job_tarn(job *j, const char *prefix, tarnp_store *store, tarnp_state_codec codec)
{
    tarn_job *t = calloc(1, sizeof *t);
    if (!t)
        exit(1);
    t->store = store;
    t->codec = codec;
    snprintf(t->name, sizeof t->name, "%sbench", prefix);
    begin_session(t);
    j->prefix = prefix;
    j->commit = tarn_save;
    j->resume = tarn_load;
    j->close = tarn_close;
    j->own = t;
}

/* ---- files ---------------------------------------------------------------------------------- */

typedef struct file_job {
    char folder[300], path[340], draft[340];
    ZSTD_CCtx *cctx; /* NULL: raw */
    ZSTD_DCtx *dctx;
    uint8_t *packed; /* each chunk in a place of its own, CHUNK_BOUND apart */
    size_t sizes[CHUNKS];
} file_job;

#define CHUNK_BOUND (CHUNK_BYTES + CHUNK_BYTES / 128)

static void put_all(int fd, const void *data, size_t n)
{
    for (const uint8_t *at = data; n > 0;) {
        ssize_t done = write(fd, at, n);
        if (done <= 0)
            bench_stop("write", "failed");
        at += done;
        n -= (size_t)done;
    }
}

static double file_save(job *j)
{
    file_job *f = j->own;
    double start = now_ms();
    int fd = open(f->draft, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    j->stored_bytes = 0;
    for (size_t i = 0; i < CHUNKS; i++) {
        const uint8_t *from = (const uint8_t *)j->state + i * CHUNK_BYTES;
        f->sizes[i] = CHUNK_BYTES;
        if (f->cctx) {
            uint8_t *to = f->packed + i * CHUNK_BOUND;
            f->sizes[i] = ZSTD_compressCCtx(f->cctx, to, CHUNK_BOUND, from, CHUNK_BYTES, 1);
            from = to;
        }
        put_all(fd, from, f->sizes[i]);
        j->stored_bytes += f->sizes[i];
    }
    int folder = open(f->folder, O_RDONLY | O_DIRECTORY);
    if (fdatasync(fd) != 0 || close(fd) != 0 || rename(f->draft, f->path) != 0 || folder < 0 ||
        fsync(folder) != 0)
        bench_stop(f->path, "cannot be written");
    close(folder);
    return now_ms() - start;
}

static double file_load(job *j)
{
    file_job *f = j->own;
    double start = now_ms();
    int fd = open(f->path, O_RDONLY);
    for (size_t i = 0; i < CHUNKS; i++) {
        uint8_t *to = (uint8_t *)j->back + i * CHUNK_BYTES;
        uint8_t *in = f->cctx ? f->packed : to;
        if (read(fd, in, f->sizes[i]) != (ssize_t)f->sizes[i] ||
            (f->cctx &&
             ZSTD_decompressDCtx(f->dctx, to, CHUNK_BYTES, in, f->sizes[i]) != CHUNK_BYTES))
            bench_stop(f->path, "cannot be read");
    }
    close(fd);
    double ms = now_ms() - start;
    check_back(j);
    return ms;
}

static void file_close(job *j)
{
    file_job *f = j->own;
    unlink(f->path);
    ZSTD_freeCCtx(f->cctx);
    ZSTD_freeDCtx(f->dctx);
    free(f->packed);
    free(f);
}

void job_file(job *j, const char *folder)
{
    file_job *f = calloc(1, sizeof *f);
    if (!f)
        exit(1);
    snprintf(f->folder, sizeof f->folder, "%s", folder);
    snprintf(f->path, sizeof f->path, "%s/file_state", folder);
    snprintf(f->draft, sizeof f->draft, "%s/draft", folder);
    j->prefix = "file_";
    j->commit = file_save;
    j->resume = file_load;
    j->close = file_close;
    j->own = f;
}

void job_zstd(job *j, const char *folder)
{
    job_file(j, folder);
    file_job *f = j->own;
    snprintf(f->path, sizeof f->path, "%s/zstd_state", folder);
    j->prefix = "zstd1_";
    f->cctx = ZSTD_createCCtx();
    f->dctx = ZSTD_createDCtx();
    f->packed = malloc(CHUNKS * CHUNK_BOUND);
    if (!f->cctx || !f->dctx || !f->packed)
        exit(1);
}
