/* lineage.c
 *
 * Latents are kept once: a node holds those since the last state before it on its own way. A node
 * committed after a replay from a damaged or missing state holds again what that state's
 * descendants held; so the newest copy of a row is taken, and a damaged older one does no harm. */
#include "lineage.h"

#include "checkpoint.h"
#include "where.h"

#include <string.h>
#include <sys/random.h>

static tarn_status read_chain(tarni_lineage *l, uint64_t node, tarn_error *err)
{
    uint64_t *ids;
    size_t n;
    TARNI_TRY(tarnp_node_chain(l->store, node, &ids, &n, err));
    tarn_status status = tarni_alloc(l->allocator, n, sizeof *l->nodes, &l->nodes, err);
    while (status == TARN_OK && l->n_nodes < n) {
        status = tarnp_node_read(l->store, ids[l->n_nodes], &l->nodes[l->n_nodes], err);
        l->n_nodes += status == TARN_OK;
    }
    tarni_free(l->allocator, ids);
    return status;
}

tarni_lineage tarni_lineage_at(const tarni_lineage *l, uint64_t position)
{
    tarni_lineage out = *l;
    TARN_ASSERT(position <= l->position);
    out.position = position;
    out.n_at = l->n_nodes;
    while (out.n_at > 1 && l->nodes[out.n_at - 1].position > position)
        out.n_at--;
    out.n_nodes = out.n_at + (l->nodes[out.n_at - 1].position < position);
    TARN_ASSERT(out.n_nodes <= l->n_nodes);
    return out;
}

/* Drops what lies behind the place. */
static void cut(tarni_lineage *l)
{
    tarni_lineage place = tarni_lineage_at(l, l->position);
    while (l->n_nodes > place.n_nodes)
        tarnp_node_fini(&l->nodes[--l->n_nodes]);
    l->n_at = place.n_at;
}

tarn_status tarni_lineage_open(tarnp_store *store, const char *session, const char *where,
                               tarni_lineage *out, tarn_error *err)
{
    *out = (tarni_lineage){.store = store, .allocator = tarnp_store_allocator(store)};
    tarni_where w;
    TARNI_TRY(tarni_where_parse(where, &w, err));
    tarn_status status = tarnp_session_find(store, session, &out->session, err);
    if (status != TARN_OK)
        return status;
    uint64_t node = w.kind == TARNI_WHERE_NODE ? w.node : out->session.head;
    TARNI_TRY_GOTO(read_chain(out, node, err));
    TARN_ASSERT(out->n_nodes > 0);
    if (memcmp(out->nodes[0].fp, out->session.fp, TARNP_FP_BYTES) != 0) {
        status = tarni_fail(err, TARN_E_MISMATCH, "node %llu belongs to another model than %s",
                            (unsigned long long)node, session);
        goto fail;
    }
    tarni_chain chain = {session, out->nodes, out->n_nodes, out->allocator};
    TARNI_TRY_GOTO(tarni_where_find(&w, &chain, &out->position, err));
    cut(out);
    return TARN_OK;
fail:
    tarni_lineage_fini(out);
    return status;
}

void tarni_lineage_fini(tarni_lineage *l)
{
    while (l->n_nodes > 0)
        tarnp_node_fini(&l->nodes[--l->n_nodes]);
    if (l->allocator) {
        tarni_free(l->allocator, l->nodes);
        tarnp_session_fini(&l->session);
    }
    *l = (tarni_lineage){0};
}

const tarnp_node *tarni_lineage_node(const tarni_lineage *l)
{
    return &l->nodes[l->n_at - 1];
}

bool tarni_lineage_at_node(const tarni_lineage *l)
{
    return tarni_lineage_node(l)->position == l->position;
}

static uint64_t section_bytes(const tarnp_node *node, tarnp_section_kind kind)
{
    const tarnp_section *s = tarni_node_section(node, kind);
    uint64_t sum = 0;
    for (size_t i = 0; s && i < s->n_chunks; i++)
        sum += s->chunks[i].stored_bytes;
    return sum;
}

uint64_t tarni_lineage_token_bytes(const tarni_lineage *l)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < l->n_nodes; i++)
        sum += section_bytes(&l->nodes[i], TARNP_SECTION_TOKENS);
    return sum;
}

tarn_status tarni_lineage_tokens(const tarni_lineage *l, tarni_ids *out, tarn_error *err)
{
    size_t before = out->n_ids;
    for (size_t i = 0; i < l->n_nodes; i++) {
        tarn_status status = tarnp_node_tokens(l->store, &l->nodes[i], out, err);
        if (status != TARN_OK) {
            out->n_ids = before;
            return status;
        }
    }
    TARN_ASSERT(out->n_ids - before >= l->position);
    out->n_ids = before + (size_t)l->position;
    return TARN_OK;
}

bool tarni_node_resumable(const tarnp_node *node)
{
    return (node->flags & TARNP_NODE_HAS_STATE) || node->position == 0;
}

static bool latent_range(const tarnp_node *node, uint64_t *begin, uint64_t *end)
{
    const tarnp_section *s = tarni_node_section(node, TARNP_SECTION_LATENT);
    if (!s || s->n_chunks == 0)
        return false;
    *begin = s->chunks[0].first;
    *end = (uint64_t)s->chunks[s->n_chunks - 1].first + s->chunks[s->n_chunks - 1].count;
    return true;
}

tarn_status tarni_lineage_latents(const tarni_lineage *l, size_t n, tarni_latent_fn fn, void *user,
                                  tarn_error *err)
{
    uint64_t needed = l->nodes[n - 1].position, begin = 0, end = 0;
    bool *used, evicted = false;
    if (needed == 0) /* nothing fed yet */
        return TARN_OK;
    for (size_t i = 0; i < n; i++)
        evicted = evicted || (l->nodes[i].flags & TARNP_NODE_LATENTS_EVICTED);
    TARNI_TRY(tarni_alloc(l->allocator, n, sizeof *used, &used, err));
    tarn_status status = TARN_OK;
    for (size_t i = n; i-- > 0 && needed > 0;) {
        if (!latent_range(&l->nodes[i], &begin, &end) || begin >= needed)
            continue;
        if (end < needed)
            break;
        used[i] = true;
        needed = begin;
    }
    if (needed > 0)
        status = tarni_fail(err, evicted ? TARN_E_NOT_FOUND : TARN_E_CORRUPT,
                            "no node before %llu holds the latents of token %llu%s",
                            (unsigned long long)l->nodes[n - 1].id, (unsigned long long)needed - 1,
                            evicted ? ": evicted" : "");
    for (size_t i = 0; i < n && fn && status == TARN_OK; i++)
        if (used[i])
            status = fn(user, &l->nodes[i], err);
    tarni_free(l->allocator, used);
    return status;
}

static tarn_status add_latent_bytes(void *user, const tarnp_node *node, tarn_error *err)
{
    (void)err;
    *(uint64_t *)user += section_bytes(node, TARNP_SECTION_LATENT);
    return TARN_OK;
}

/* Of the newest one, which is what a resume reads. */
static uint64_t sampler_bytes(const tarni_lineage *l)
{
    for (size_t n = l->n_at; n > 0; n--)
        if (tarni_node_section(&l->nodes[n - 1], TARNP_SECTION_SAMPLER))
            return section_bytes(&l->nodes[n - 1], TARNP_SECTION_SAMPLER);
    return 0;
}

tarn_status tarni_lineage_state(const tarni_lineage *l, size_t from, size_t *n, bool *evicted,
                                tarn_error *err)
{
    for (*n = from; *n > 1; --*n) {
        const tarnp_node *node = &l->nodes[*n - 1];
        *evicted = *evicted || (node->flags & TARNP_NODE_STATE_EVICTED);
        if (!tarni_node_resumable(node))
            continue;
        tarn_status status = tarni_lineage_latents(l, *n, NULL, NULL, err);
        if (status != TARN_E_NOT_FOUND)
            return status;
        *evicted = true;
    }
    return TARN_OK;
}

tarn_status tarni_lineage_price(const tarni_lineage *l, uint64_t shared, tarn_price *out,
                                tarn_error *err)
{
    size_t n;
    bool evicted = false;
    TARNI_TRY(tarni_lineage_state(l, l->n_at, &n, &evicted, err));
    const tarnp_node *node = &l->nodes[n - 1];
    uint64_t bytes = tarni_lineage_token_bytes(l) + sampler_bytes(l);
    bytes += section_bytes(node, TARNP_SECTION_STATE) + section_bytes(node, TARNP_SECTION_CONV) +
             section_bytes(node, TARNP_SECTION_LOGITS);
    if (node->position > shared)
        TARNI_TRY(tarni_lineage_latents(l, n, add_latent_bytes, &bytes, err));
    out->replay_tokens = l->position - node->position;
    out->bytes_read = bytes;
    return TARN_OK;
}

/* The part of the holding node's segments that lies before the place. */
static size_t slice_segments(const tarnp_node *node, uint32_t n_tokens, tarnp_segment *out)
{
    size_t n = 0;
    uint32_t left = n_tokens;
    for (size_t i = 0; i < node->n_segments && left > 0; i++) {
        out[n] = node->segments[i];
        if (out[n].n_tokens > left) {
            out[n].n_tokens = left;
            out[n].flags &= (uint8_t)~TARNP_SEGMENT_CLOSED;
            if (out[n].role == TARN_ROLE_ASSISTANT)
                out[n].n_call_ids = 0; /* the calls may not be whole yet */
        }
        left -= out[n].n_tokens;
        n++;
    }
    return n;
}

/* A place inside a node is replayed from the state before it. */
static uint8_t flags_inside(const tarni_lineage *l, const tarnp_node *holder)
{
    uint8_t flags = holder->flags & TARNP_NODE_BIT_EXACT;
    for (size_t n = l->n_at; n > 0; n--)
        if (tarni_node_resumable(&l->nodes[n - 1]))
            return flags & l->nodes[n - 1].flags;
    return flags;
}

tarn_status tarni_lineage_make_node(const tarni_lineage *l, bool move, const tarnp_lease *lease,
                                    tarnp_committed *out, tarn_error *err)
{
    TARN_ASSERT(!tarni_lineage_at_node(l) && l->n_nodes == l->n_at + 1);
    const tarnp_node *before = tarni_lineage_node(l), *holder = &l->nodes[l->n_at];
    uint32_t n_tokens = (uint32_t)(l->position - before->position);
    tarni_ids ids;
    tarnp_segment *segments;
    TARNI_TRY(tarni_alloc(l->allocator, holder->n_segments, sizeof *segments, &segments, err));
    tarni_ids_init(&ids, l->allocator);
    tarn_status status = tarnp_node_tokens(l->store, holder, &ids, err);
    if (status == TARN_OK) {
        tarnp_commit c = {.session_id = l->session.id,
                          .expected_head = move ? l->session.head : TARNP_NODE_NONE,
                          .move_head = move,
                          .parent = before->id,
                          .flags = flags_inside(l, holder),
                          .numerics = holder->numerics,
                          .tokens = ids.ids,
                          .n_tokens = n_tokens,
                          .segments = segments,
                          .n_segments = slice_segments(holder, n_tokens, segments)};
        memcpy(c.fp, holder->fp, sizeof c.fp);
        if (lease)
            memcpy(c.lease, lease->token, sizeof c.lease);
        if (getrandom(c.key, sizeof c.key, 0) != (ssize_t)sizeof c.key)
            status = tarni_fail(err, TARN_E_IO, "no random bytes for a commit key");
        else
            status = tarnp_commit_node(l->store, &c, out, err);
    }
    tarni_ids_fini(&ids);
    tarni_free(l->allocator, segments);
    return status;
}
