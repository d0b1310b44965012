#include "verbs.h"

#include "entries.h"
#include "handle.h"
#include "sessions.h"
#include "stage.h"

bool bench_read(bench *b)
{
    struct stat info;
    FILE *in = fopen(b->path, "rb");
    if (!in)
        return false;
    bool good = fstat(fileno(in), &info) == 0;
    free(b->file);
    b->n_bytes = good ? (size_t)info.st_size : 0;
    b->file = malloc(b->n_bytes + 1);
    good = good && fread(b->file, 1, b->n_bytes, in) == b->n_bytes;
    fclose(in);
    return good;
}

/* A session is dropped, and what it leaves is not freed yet. */
static bool leave_queue(kit *k)
{
    tarnp_write w;
    tarnp_session s;
    if (kit_append(k, "gone", 11) == 0 || tarnp_write_begin(k->store, &w, &k->err) != TARN_OK)
        return false;
    tarn_status status =
        tarnp_session_load(&w.txn, kit_id(k, "gone"), tarnp_store_allocator(k->store), &s, &k->err);
    if (status == TARN_OK)
        status = tarnp_session_drop(&w, &s, &k->err);
    tarnp_session_fini(&s);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status) == TARN_OK;
    return tarnp_write_commit(&w, NULL, &k->err) == TARN_OK;
}

/* What an import staged that was interrupted. */
static bool leave_stage(kit *k)
{
    tarnp_write w;
    tarnp_stage stage = {0};
    if (tarnp_write_begin(k->store, &w, &k->err) != TARN_OK)
        return false;
    uint64_t first = w.counters.next_chunk++;
    tarn_status status = tarnp_stage_open(&w, w.counters.next_session++, &stage, &k->err);
    if (status == TARN_OK)
        status = tarnp_stage_mark(&w, &stage, first, 1, &k->err);
    if (status == TARN_OK)
        status = tarnp_put_id(&w.txn, TARNP_TABLE_CHUNK, first, "chunk", 5, &k->err);
    w.counters.chunks++;
    w.counters.bytes_stored += 5;
    status =
        status == TARN_OK ? tarnp_write_commit(&w, NULL, &k->err) : tarnp_write_abort(&w, status);
    tarnp_stage_close(k->store, &stage, false);
    return status == TARN_OK;
}

bool bench_make(bench *b)
{
    kit *k = &b->k;
    uint64_t freed;
    memset(b, 0, sizeof *b);
    if (!kit_begin(k))
        return false;
    kit_floats = 64;
    rk_state_floats = BENCH_STATE_FLOATS;
    kit_create(k, "main");
    for (uint64_t i = 0; i < 4; i++)
        b->nodes[i] = rk_append(k, "main", i + 1, BENCH_TOKENS);
    b->id = kit_id(k, "main");
    kit_fork(k, b->nodes[1], "branch");
    kit_append(k, "branch", 9);
    kit_create(k, "old");
    kit_append(k, "old", 10);
    bool good =
        kit_export(k, "main", &b->bundle) &&
        tarnp_session_tag(k->store, "main", "k", "v", &k->err) == TARN_OK &&
        tarnp_session_expire(k->store, "old", 1000, &k->err) == TARN_OK &&
        tarnp_session_set_group(k->store, "branch", "g", &k->err) == TARN_OK &&
        tarnp_node_evict(k->store, b->nodes[0], TARNP_PART_STATE, &freed, &k->err) == TARN_OK &&
        tarnp_model_put(k->store, kit_fp, "descriptor", 10, &k->err) == TARN_OK &&
        tarnp_quota_set(k->store, NULL, 1 << 30, &k->err) == TARN_OK &&
        tarnp_quota_set(k->store, "g", 1 << 20, &k->err) == TARN_OK &&
        kit_fork(k, b->nodes[2], "gone") && leave_stage(k) && leave_queue(k);
    b->branch_id = kit_id(k, "branch");
    tarnp_store_close(k->store);
    k->store = NULL;
    oracle_prepare(&b->ready, b->id, b->nodes[3], 5);
    b->ready.commit.expected_head = b->nodes[3];
    b->ready.commit.move_head = true;
    rk_fill(&b->fourth, 4, BENCH_TOKENS);
    kit_file(k, "data.mdb", b->path);
    snprintf(b->other, sizeof b->other, "%s/other", k->folder);
    good = good && bench_read(b);
    b->allocator = refuse_allocator(&b->purse);
    b->options = (tarn_store_options){.size = sizeof b->options,
                                      .allocator = &b->allocator,
                                      .map_bytes = (uint64_t)1 << 26,
                                      .key = k->options.secret,
                                      .key_bytes = k->options.secret_bytes};
    return good;
}

static void remove_other(bench *b)
{
    kit other = b->k;
    snprintf(other.path, sizeof other.path, "%s/other", b->k.folder);
    kit_remove(&other);
    unlink(b->other);
}

bool bench_reset(bench *b)
{
    char file[260];
    remove_other(b);
    kit_file(&b->k, "lock.mdb", file);
    unlink(file);
    kit_file(&b->k, "scratch", file);
    unlink(file);
    FILE *out = fopen(b->path, "wb");
    bool whole = out && fwrite(b->file, 1, b->n_bytes, out) == b->n_bytes;
    return out && fclose(out) == 0 && whole;
}

bool bench_open(bench *b, const verb *v)
{
    if (v->flags & CLOSED)
        return true;
    if (!(v->flags & LOWER))
        return tarn_store_open(b->k.path, &b->options, &b->store, &b->err) == TARN_OK &&
               (!v->before || v->before(b));
    b->k.options.allocator = &b->allocator;
    return tarnp_store_open(b->k.path, &b->k.options, &b->k.store, &b->k.err) == TARN_OK &&
           (!v->before || v->before(b));
}

void bench_close(bench *b)
{
    tarn_store_close(b->store);
    b->store = NULL;
    tarnp_store_close(b->k.store);
    b->k.store = NULL;
    b->k.options.allocator = NULL;
}

void bench_free(bench *b)
{
    free(b->file);
    free(b->bundle.data);
    free(b->ready.c.state);
    free(b->next.c.state);
    rk_free(&b->fourth);
    remove_other(b);
    kit_end(&b->k);
}
