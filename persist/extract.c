/* extract.c
 *
 * A manifest holds the sums of its chunks' headers, and those hold ids: so the headers are read
 * first, to know the manifest with the new ids, and the chunks themselves afterwards. A header is
 * checked against the manifest both times. */
#include "extract.h"

#include "refs.h"

#include <string.h>

/* ---- a store as a source -------------------------------------------------------------------- */

static tarn_status copy_span(tarni_writer *out, tarnp_span value, size_t n_max, tarn_error *err)
{
    out->n_bytes = 0;
    tarni_put_bytes(out, value.data, value.n_bytes < n_max ? value.n_bytes : n_max);
    return out->failed ? tarni_fail_memory(err, value.n_bytes) : TARN_OK;
}

static tarn_status store_manifest(void *from, uint64_t node, tarni_writer *out, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_span value;
    TARNI_TRY(tarnp_read_begin(from, &txn, err));
    tarn_status status = tarnp_get_id(&txn, TARNP_TABLE_NODE, node, &value, err);
    if (status == TARN_OK && !value.data)
        status =
            tarni_fail(err, TARN_E_NOT_FOUND, "there is no node %llu", (unsigned long long)node);
    if (status == TARN_OK)
        status = copy_span(out, value, SIZE_MAX, err);
    tarnp_txn_abort(&txn);
    return status;
}

static tarn_status store_chunk(void *from, uint64_t chunk, size_t n_max, tarni_writer *out,
                               tarn_error *err)
{
    tarnp_txn txn;
    tarnp_span value;
    TARNI_TRY(tarnp_read_begin(from, &txn, err));
    tarn_status status = tarnp_get_id(&txn, TARNP_TABLE_CHUNK, chunk, &value, err);
    if (status == TARN_OK && !value.data)
        status = tarni_fail(err, TARN_E_NOT_FOUND, "missing");
    if (status == TARN_OK)
        status = copy_span(out, value, n_max, err);
    tarnp_txn_abort(&txn);
    return status;
}

tarnp_source tarnp_source_store(tarnp_store *store)
{
    return (tarnp_source){store_manifest, store_chunk, store};
}

/* ---- taking out ----------------------------------------------------------------------------- */

void tarnp_extract_init(tarnp_extract *x, tarnp_source source, const tarn_allocator *allocator)
{
    *x = (tarnp_extract){.allocator = allocator, .source = source};
    tarni_writer_init(&x->manifest, allocator);
    tarni_writer_init(&x->chunk, allocator);
}

void tarnp_extract_fini(tarnp_extract *x)
{
    tarni_writer_fini(&x->manifest);
    tarni_writer_fini(&x->chunk);
}

tarn_status tarnp_extract_look(tarnp_extract *x, uint64_t node, tarnp_manifest *m, tarnp_node *out,
                               tarn_error *err)
{
    *out = (tarnp_node){0};
    TARNI_TRY(x->source.manifest(x->source.from, node, &x->manifest, err));
    tarnp_span value = {x->manifest.data, x->manifest.n_bytes};
    TARNI_TRY(tarnp_manifest_get(value, node, m, err));
    return tarnp_manifest_node(value, node, x->allocator, out, err);
}

tarn_status tarnp_extract_measure(tarnp_extract *x, uint64_t node, tarnp_manifest *m,
                                  tarn_error *err)
{
    tarnp_node at;
    TARNI_TRY(tarnp_extract_look(x, node, m, &at, err));
    m->n_sections = (uint32_t)at.n_sections;
    m->n_chunks = 0;
    for (size_t i = 0; i < at.n_sections; i++)
        m->n_chunks += (uint32_t)at.sections[i].n_chunks;
    tarn_status status = tarnp_manifest_measure(m, at.segments, err);
    tarnp_node_fini(&at);
    return status;
}

/* The tables of the node as it comes out, and which chunks of the source they are. */
typedef struct cut {
    tarnp_manifest m; /* in the source */
    tarnp_node node;
    uint32_t n_sections, n_chunks;
    bool cuts_latents;
    tarnp_section *sections;
    tarnp_chunk_ref *from, *to;
    tarni_writer out; /* the manifest */
} cut;

static tarn_status bad_chunk(const cut *c, uint32_t i, const tarn_error *cause, tarn_error *err)
{
    tarn_status status = cause->status == TARN_E_NOT_FOUND ? TARN_E_CORRUPT : cause->status;
    return tarni_fail(err, status, "node %llu: chunk %llu: %.180s", (unsigned long long)c->m.id,
                      (unsigned long long)c->from[i].id, cause->detail);
}

static tarn_status read_head(tarnp_extract *x, cut *c, uint32_t i, tarn_error *err)
{
    uint8_t sum[TARNP_SUM_BYTES];
    tarn_error cause = {0};
    tarn_status status =
        x->source.chunk(x->source.from, c->from[i].id, TARNP_CHUNK_HEAD_BYTES, &x->chunk, &cause);
    if (status == TARN_OK && x->chunk.n_bytes < TARNP_CHUNK_HEAD_BYTES)
        status = tarni_fail(&cause, TARN_E_CORRUPT, "%zu bytes stored", x->chunk.n_bytes);
    if (status == TARN_OK) {
        tarnp_sum128(x->chunk.data, TARNP_CHUNK_HEAD_BYTES, sum);
        if (memcmp(sum, c->from[i].sum, sizeof sum) != 0)
            status = tarni_fail(&cause, TARN_E_CORRUPT, "the header does not match the manifest");
    }
    if (status != TARN_OK)
        return bad_chunk(c, i, &cause, err);
    c->to[i] = c->from[i];
    c->to[i].id = x->n_chunks + 1 + i;
    tarnp_chunk_renumber(x->chunk.data, c->to[i].id, c->to[i].sum);
    return TARN_OK;
}

/* Lists what stays. The manifest's bytes are in x->manifest. */
static tarn_status make_cut(tarnp_extract *x, cut *c, unsigned without, tarn_error *err)
{
    tarnp_span value = {x->manifest.data, x->manifest.n_bytes};
    TARNI_TRY(tarni_alloc(x->allocator, c->m.n_sections, sizeof *c->sections, &c->sections, err));
    TARNI_TRY(tarni_alloc(x->allocator, c->m.n_chunks, sizeof *c->from, &c->from, err));
    TARNI_TRY(tarni_alloc(x->allocator, c->m.n_chunks, sizeof *c->to, &c->to, err));
    for (size_t i = 0; i < c->node.n_sections; i++) {
        const tarnp_section *s = &c->node.sections[i];
        bool stays = !(without & TARNP_SECTION_BIT(s->kind));
        c->cuts_latents = c->cuts_latents || (!stays && s->kind == TARNP_SECTION_LATENT);
        if (stays)
            c->sections[c->n_sections++] = *s;
        for (size_t k = 0; k < s->n_chunks && stays; k++) {
            uint32_t at = (uint32_t)(s->chunks[k].id - c->m.first_chunk);
            tarnp_manifest_chunk(value, &c->m, at, &c->from[c->n_chunks++]);
        }
    }
    return TARN_OK;
}

static tarn_status make_manifest(tarnp_extract *x, cut *c, unsigned without, tarn_error *err)
{
    tarnp_manifest m = c->m;
    m.chunk_bytes = 0;
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        TARNI_TRY(read_head(x, c, i, err));
        m.chunk_bytes += c->to[i].stored_bytes;
    }
    m.id = x->n_nodes + 1;
    m.parent = x->n_nodes;
    m.session_id = 1;
    m.first_chunk = x->n_chunks + 1;
    memset(m.prefix, 0, sizeof m.prefix); /* another store has another salt */
    m.n_sections = c->n_sections;
    m.n_chunks = c->n_chunks;
    if ((m.flags & TARNP_NODE_HAS_STATE) && (without & TARNP_SECTION_BIT(TARNP_SECTION_STATE)))
        m.flags = (uint8_t)((m.flags & ~TARNP_NODE_HAS_STATE) | TARNP_NODE_STATE_EVICTED);
    if (c->cuts_latents)
        m.flags |= TARNP_NODE_LATENTS_EVICTED;
    TARNI_TRY(tarnp_manifest_put(&c->out, &m, c->node.segments, c->sections, c->to, err));
    return TARN_OK;
}

static tarn_status pass_on(tarnp_extract *x, const cut *c, const tarnp_sink *sink, tarn_error *err)
{
    TARNI_TRY(sink->node(sink->to, (tarnp_span){c->out.data, c->out.n_bytes}, err));
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        tarn_error cause = {0};
        tarnp_chunk_head head;
        uint8_t sum[TARNP_SUM_BYTES];
        tarn_status status =
            x->source.chunk(x->source.from, c->from[i].id, SIZE_MAX, &x->chunk, &cause);
        tarnp_span value = {x->chunk.data, x->chunk.n_bytes};
        if (status == TARN_OK)
            status = tarnp_chunk_check(value, &c->from[i], &head, &cause);
        if (status != TARN_OK)
            return bad_chunk(c, i, &cause, err);
        tarnp_chunk_renumber(x->chunk.data, c->to[i].id, sum);
        TARNI_TRY(sink->chunk(sink->to, value, err));
    }
    return TARN_OK;
}

tarn_status tarnp_extract_node(tarnp_extract *x, uint64_t node, unsigned without,
                               const tarnp_sink *sink, tarn_error *err)
{
    cut c = {0};
    tarni_writer_init(&c.out, x->allocator);
    tarn_status status = tarnp_extract_look(x, node, &c.m, &c.node, err);
    if (status == TARN_OK && c.m.parent != x->last)
        status = tarni_fail(err, TARN_E_CORRUPT, "node %llu: its parent is %llu, should be %llu",
                            (unsigned long long)node, (unsigned long long)c.m.parent,
                            (unsigned long long)x->last);
    if (status == TARN_OK)
        status = make_cut(x, &c, without, err);
    if (status == TARN_OK)
        status = make_manifest(x, &c, without, err);
    if (status == TARN_OK)
        status = pass_on(x, &c, sink, err);
    if (status == TARN_OK) {
        x->last = node;
        x->n_nodes++;
        x->n_chunks += c.n_chunks;
    }
    tarnp_node_fini(&c.node);
    tarni_free(x->allocator, c.sections);
    tarni_free(x->allocator, c.from);
    tarni_free(x->allocator, c.to);
    tarni_writer_fini(&c.out);
    return status;
}
