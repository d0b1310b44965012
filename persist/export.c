/* export.c - a session out of the store into a stream.
 *
 * The chain is read twice: first the manifests, which tell how large everything will be, then
 * everything. Each read is a transaction of its own that ends before the callback runs; a node that
 * another process removes in between makes the export fail. */
#include "bundle.h"
#include "extract.h"

#include <sodium.h>
#include <string.h>

typedef struct output {
    tarnp_write_fn write;
    void *to;
    tarnp_progress_fn progress;
    void *user;
    crypto_generichash_blake2b_state digest;
    uint64_t n_bytes, all_bytes;
} output;

static tarn_status put(output *o, const void *data, size_t n_bytes, tarn_error *err)
{
    crypto_generichash_blake2b_update(&o->digest, data, n_bytes);
    TARNI_TRY(o->write(o->to, data, n_bytes, err));
    o->n_bytes += n_bytes;
    return TARN_OK;
}

static tarn_status put_frame(output *o, uint32_t kind, const void *data, size_t n_bytes,
                             tarn_error *err)
{
    uint8_t head[TARNP_BUNDLE_FRAME_BYTES];
    tarni_store_u32(head, kind);
    tarni_store_u32(head + 4, (uint32_t)n_bytes);
    TARNI_TRY(put(o, head, sizeof head, err));
    TARNI_TRY(put(o, data, n_bytes, err));
    if (o->progress && !o->progress(o->user, o->n_bytes, o->all_bytes))
        return tarni_fail(err, TARN_E_CANCELLED, "the export was cancelled after %llu bytes",
                          (unsigned long long)o->n_bytes);
    return TARN_OK;
}

static tarn_status put_node(void *to, tarnp_span manifest, tarn_error *err)
{
    if (manifest.n_bytes > TARNP_BUNDLE_NODE_MAX)
        return tarni_fail(err, TARN_E_LIMIT, "a manifest of %zu bytes, a file takes %u",
                          manifest.n_bytes, TARNP_BUNDLE_NODE_MAX);
    return put_frame(to, TARNP_FRAME_NODE, manifest.data, manifest.n_bytes, err);
}

static tarn_status put_chunk(void *to, tarnp_span value, tarn_error *err)
{
    return put_frame(to, TARNP_FRAME_CHNK, value.data, value.n_bytes, err);
}

/* ---- what comes before the nodes ------------------------------------------------------------ */

typedef struct plan {
    uint64_t *nodes; /* root first */
    size_t n_nodes;
    uint64_t n_chunks, n_bytes; /* of their frames */
    tarni_writer session, model;
    bool has_model;
} plan;

static tarn_status plan_nodes(tarnp_store *store, plan *p, tarn_error *err)
{
    tarnp_extract x;
    tarn_status status = TARN_OK;
    tarnp_extract_init(&x, tarnp_source_store(store), &store->allocator);
    for (size_t i = 0; i < p->n_nodes && status == TARN_OK; i++) {
        tarnp_manifest m;
        status = tarnp_extract_measure(&x, p->nodes[i], &m, err);
        if (status != TARN_OK)
            break;
        p->n_chunks += m.n_chunks;
        p->n_bytes +=
            (1 + (uint64_t)m.n_chunks) * TARNP_BUNDLE_FRAME_BYTES + m.n_bytes + m.chunk_bytes;
    }
    tarnp_extract_fini(&x);
    return status;
}

static tarn_status plan_session(tarnp_store *store, const tarnp_session *s, plan *p,
                                tarn_error *err)
{
    tarni_writer *w = &p->session;
    tarni_put_u64(w, s->created_ms);
    tarni_put_u64(w, s->updated_ms);
    tarni_put_bytes(w, s->fp, sizeof s->fp);
    tarni_put_text(w, s->name, strlen(s->name));
    tarni_put_u32(w, (uint32_t)s->n_tags);
    for (size_t i = 0; i < s->n_tags; i++) {
        tarni_put_text(w, s->tags[i].key, strlen(s->tags[i].key));
        tarni_put_text(w, s->tags[i].value, strlen(s->tags[i].value));
    }
    tarni_put_bytes(&p->model, s->fp, sizeof s->fp);
    tarn_status status = tarnp_model_get(store, s->fp, &p->model, err);
    p->has_model = status == TARN_OK;
    if (status != TARN_OK && status != TARN_E_NOT_FOUND)
        return status;
    return w->failed || p->model.failed ? tarni_fail_memory(err, w->n_bytes) : TARN_OK;
}

static tarn_status make_plan(tarnp_store *store, const char *session, plan *p, tarn_error *err)
{
    tarnp_session s;
    TARNI_TRY(tarnp_session_find(store, session, &s, err));
    tarn_status status = plan_session(store, &s, p, err);
    if (status == TARN_OK)
        status = tarnp_node_chain(store, s.head, &p->nodes, &p->n_nodes, err);
    tarnp_session_fini(&s);
    return status == TARN_OK ? plan_nodes(store, p, err) : status;
}

/* ---- writing -------------------------------------------------------------------------------- */

static tarn_status put_head(output *o, const plan *p, tarn_error *err)
{
    uint8_t head[TARNP_BUNDLE_HEAD_BYTES] = {0};
    o->all_bytes = sizeof head + p->n_bytes + TARNP_BUNDLE_FRAME_BYTES + p->session.n_bytes +
                   (p->has_model ? TARNP_BUNDLE_FRAME_BYTES + p->model.n_bytes : 0) +
                   TARNP_BUNDLE_FRAME_BYTES + TARNP_BUNDLE_TEND_BYTES;
    memcpy(head, TARNP_BUNDLE_MAGIC, 8);
    tarni_store_u16(head + 8, TARNP_BUNDLE_VERSION);
    tarni_store_u16(head + 10, sizeof head);
    tarni_store_u32(head + 12, p->has_model);
    tarni_store_u64(head + 32, o->all_bytes);
    tarni_store_u64(head + 40, p->n_nodes);
    tarni_store_u64(head + 48, p->n_chunks);
    TARNI_TRY(put(o, head, sizeof head, err));
    TARNI_TRY(put_frame(o, TARNP_FRAME_SESS, p->session.data, p->session.n_bytes, err));
    if (p->has_model)
        TARNI_TRY(put_frame(o, TARNP_FRAME_MODL, p->model.data, p->model.n_bytes, err));
    return TARN_OK;
}

static tarn_status put_nodes(tarnp_store *store, output *o, const plan *p, tarn_error *err)
{
    tarnp_extract x;
    tarn_status status = TARN_OK;
    const tarnp_sink sink = {put_node, put_chunk, o};
    tarnp_extract_init(&x, tarnp_source_store(store), &store->allocator);
    for (size_t i = 0; i < p->n_nodes && status == TARN_OK; i++)
        status = tarnp_extract_node(&x, p->nodes[i], 0, &sink, err);
    tarnp_extract_fini(&x);
    return status;
}

static tarn_status put_end(output *o, const plan *p, tarn_error *err)
{
    uint8_t at[TARNP_BUNDLE_FRAME_BYTES + TARNP_BUNDLE_TEND_BYTES];
    size_t n_summed = sizeof at - TARNP_BUNDLE_SUM_BYTES;
    tarni_store_u32(at, TARNP_FRAME_TEND);
    tarni_store_u32(at + 4, TARNP_BUNDLE_TEND_BYTES);
    tarni_store_u64(at + 8, p->n_nodes);
    tarni_store_u64(at + 16, p->n_chunks);
    crypto_generichash_blake2b_update(&o->digest, at, n_summed);
    crypto_generichash_blake2b_final(&o->digest, at + n_summed, TARNP_BUNDLE_SUM_BYTES);
    TARNI_TRY(o->write(o->to, at, sizeof at, err));
    o->n_bytes += sizeof at;
    TARN_ASSERT(o->n_bytes == o->all_bytes);
    if (o->progress)
        o->progress(o->user, o->n_bytes, o->all_bytes); /* too late to cancel */
    return TARN_OK;
}

tarn_status tarnp_export(tarnp_store *store, const char *session, tarnp_write_fn write, void *to,
                         tarnp_progress_fn progress, void *user, uint64_t *bytes, tarn_error *err)
{
    output o = {.write = write, .to = to, .progress = progress, .user = user};
    plan p = {0};
    *bytes = 0;
    if (sodium_init() < 0)
        return tarni_fail(err, TARN_E_IO, "libsodium cannot start");
    crypto_generichash_blake2b_init(&o.digest, NULL, 0, TARNP_BUNDLE_SUM_BYTES);
    tarni_writer_init(&p.session, &store->allocator);
    tarni_writer_init(&p.model, &store->allocator);
    tarn_status status = make_plan(store, session, &p, err);
    if (status == TARN_OK)
        status = put_head(&o, &p, err);
    if (status == TARN_OK)
        status = put_nodes(store, &o, &p, err);
    if (status == TARN_OK)
        status = put_end(&o, &p, err);
    if (status == TARN_OK)
        *bytes = o.n_bytes;
    tarni_free(&store->allocator, p.nodes);
    tarni_writer_fini(&p.session);
    tarni_writer_fini(&p.model);
    return status;
}
