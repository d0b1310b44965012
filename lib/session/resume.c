#include "resume.h"

#include "checkpoint.h"
#include "sampler.h"
#include "staging.h"

#include <string.h>

#define SAMPLER_BYTES_MAX 4096

/* Latents are staged node by node, in two turns: one is decoded while the other is copied. */
typedef struct load_context {
    tarnp_store *store;
    tarni_pools *pools;
    tarni_image image;
    uint8_t *const *pages; /* where they belong */
    tarni_staging staged[2];
    uint32_t turn;
    uint64_t *bytes_read;
} load_context;

static void load_fini(load_context *c)
{
    tarni_staging_fini(&c->staged[0]);
    tarni_staging_fini(&c->staged[1]);
}

/* Tokens whose latents the node says to hold, as far as they are asked for. */
static void latents_of(const tarnp_node *node, uint64_t most, uint64_t *begin, uint64_t *end)
{
    const tarnp_section *s = tarni_node_section(node, TARNP_SECTION_LATENT);
    *begin = *end = 0;
    if (!s || s->n_chunks == 0)
        return;
    const tarnp_chunk *last = &s->chunks[s->n_chunks - 1];
    *begin = s->chunks[0].first < most ? s->chunks[0].first : most;
    *end = (uint64_t)last->first + last->count < most ? (uint64_t)last->first + last->count : most;
}

static tarn_status load_latents(void *user, const tarnp_node *node, tarn_error *err)
{
    load_context *c = user;
    tarni_staging *staged = &c->staged[c->turn];
    tarni_staged what = {.slot = TARNI_SLOT_NONE, .pages = c->pages};
    latents_of(node, c->image.latent_end, &what.begin, &what.end);
    tarni_staging_fini(staged);
    c->turn = 1 - c->turn;
    TARNI_TRY(tarni_staging_begin(c->pools, &what, &c->image, staged, err));
    TARNI_TRY(tarni_checkpoint_load(c->store, node, TARNP_SECTION_LATENT, &c->image,
                                    &c->pools->allocator, c->bytes_read, err));
    return tarni_staging_put(staged, err);
}

static tarn_status load_slot(load_context *c, const tarnp_node *node, uint32_t slot,
                             tarn_error *err)
{
    static const tarnp_section_kind kinds[] = {TARNP_SECTION_STATE, TARNP_SECTION_CONV,
                                               TARNP_SECTION_LOGITS};
    tarni_staging *staged = &c->staged[c->turn];
    const tarni_staged what = {.slot = slot};
    TARNI_TRY(tarni_staging_begin(c->pools, &what, &c->image, staged, err));
    c->turn = 1 - c->turn;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        TARNI_TRY(tarni_checkpoint_load(c->store, node, kinds[i], &c->image, &c->pools->allocator,
                                        c->bytes_read, err));
    return tarni_staging_put(staged, err);
}

/* Fills slot, pages and logits of a fresh timeline from node n - 1 of the lineage. */
static tarn_status load_state(const tarni_lineage *l, size_t n, const tarni_present *present,
                              tarni_timeline *t, uint64_t *bytes_read, tarn_error *err)
{
    tarni_pools *pools = t->pools;
    const tarnp_node *node = &l->nodes[n - 1];
    if (node->position == 0)
        return TARN_OK;
    uint32_t slot;
    bool have_latents = node->position <= present->n_tokens;
    TARNI_TRY(present->last_slot ? tarni_slots_take_last(&pools->slots, &slot, err)
                                 : tarni_slots_take(&pools->slots, &slot, err));
    tarni_timeline_set_slot(t, slot);
    TARNI_TRY(
        have_latents
            ? tarni_page_table_share(&pools->pages, present->pages, node->position, &t->pages, err)
            : tarni_page_table_reserve(&pools->pages, &t->pages, 0, node->position, err));
    load_context c = {
        .store = l->store,
        .pools = pools,
        .bytes_read = bytes_read,
        .pages = t->pages.pages,
        .image = {.spec = &pools->spec, .layout = &pools->layout, .latent_end = node->position}};
    tarn_status status = load_slot(&c, node, slot, err);
    if (status == TARN_OK && !have_latents)
        status = tarni_lineage_latents(l, n, load_latents, &c, err);
    load_fini(&c);
    t->has_logits = status == TARN_OK;
    return status;
}

static tarn_status load_sampler(const tarni_lineage *l, const tarnp_node *node, tarni_timeline *t,
                                uint64_t *bytes_read, tarn_error *err)
{
    const tarnp_section *s = tarni_node_section(node, TARNP_SECTION_SAMPLER);
    uint8_t record[SAMPLER_BYTES_MAX];
    size_t n_bytes = s->n_chunks == 1 ? s->chunks[0].raw_bytes : 0;
    if (n_bytes == 0 || n_bytes > sizeof record)
        return tarni_fail(err, TARN_E_CORRUPT, "node %llu: a sampler record of %zu bytes",
                          (unsigned long long)node->id, n_bytes);
    tarni_image image = {.spec = &t->pools->spec,
                         .layout = &t->pools->layout,
                         .sampler = record,
                         .sampler_bytes = n_bytes};
    TARNI_TRY(tarni_checkpoint_load(l->store, node, TARNP_SECTION_SAMPLER, &image,
                                    &t->pools->allocator, bytes_read, err));
    return tarni_sampling_get(record, n_bytes, t->pools->spec.vocab, &t->sampling, err);
}

/* The newest sampler on the way; a damaged one is passed over. */
static tarn_status find_sampler(const tarni_lineage *l, tarni_timeline *t, bool *damaged,
                                uint64_t *bytes_read, tarn_error *err)
{
    for (size_t n = l->n_at; n > 0; n--) {
        if (!tarni_node_section(&l->nodes[n - 1], TARNP_SECTION_SAMPLER))
            continue;
        tarn_status status = load_sampler(l, &l->nodes[n - 1], t, bytes_read, err);
        if (status != TARN_E_CORRUPT)
            return status;
        TARNI_LOG(&t->pools->log, TARN_LOG_WARN, "%s", err->detail);
        *damaged = true;
    }
    tarni_sampling_defaults(&t->sampling);
    return TARN_OK;
}

/* Role and openness of the last segment, the last whole turn, and how many there are. */
static void find_tail(const tarni_lineage *l, tarni_timeline *t)
{
    uint64_t at = 0;
    for (size_t i = 0; i < l->n_nodes; i++) {
        for (size_t k = 0; k < l->nodes[i].n_segments; k++) {
            const tarnp_segment *s = &l->nodes[i].segments[k];
            if (i >= l->n_at && at >= l->position) /* behind a place inside a node */
                return;
            if (!(s->flags & TARNP_SEGMENT_CONTINUES))
                t->tail_begin = at;
            at += s->n_tokens;
            t->tail_role = s->role;
            t->tail_closed = (s->flags & TARNP_SEGMENT_CLOSED) && at <= l->position;
            t->turns += s->role == TARN_ROLE_ASSISTANT && !(s->flags & TARNP_SEGMENT_CONTINUES);
            if (s->role == TARN_ROLE_ASSISTANT && t->tail_closed) {
                t->turn_begin = t->tail_begin;
                t->turn_end = at;
            }
        }
    }
}

/* The calls made and answered up to the place; a turn or result cut by it counts as begun. */
static tarn_status find_calls(const tarni_lineage *l, tarni_timeline *t, tarn_error *err)
{
    uint64_t at = 0;
    for (size_t i = 0; i < l->n_nodes; i++)
        for (size_t k = 0; k < l->nodes[i].n_segments && at < l->position; k++) {
            tarnp_segment s = l->nodes[i].segments[k];
            at += s.n_tokens;
            if (s.role == TARN_ROLE_ASSISTANT && at > l->position)
                s.n_call_ids = 0;
            TARNI_TRY(tarni_segment_to_ledger(&s, &t->calls, &t->pools->allocator, err));
        }
    return TARN_OK;
}

/* Why not a nearer state, or why not the nearest. */
typedef struct passed_over {
    bool damaged, evicted;
} passed_over;

static tarn_reason reason_of(const tarni_lineage *l, const tarnp_node *node, passed_over passed,
                             bool foreign)
{
    if (passed.damaged)
        return TARN_REASON_CHECKSUM;
    if (foreign)
        return TARN_REASON_NUMERICS;
    if (passed.evicted)
        return TARN_REASON_EVICTED;
    if (l->position == 0)
        return TARN_REASON_NONE;
    return node->position == l->position ? TARN_REASON_EXACT : TARN_REASON_ANCESTOR;
}

/* Tries the states from the place backwards; *n is the one that was whole. */
static tarn_status find_state(tarni_pools *pools, const tarni_lineage *l,
                              const tarni_present *present, tarni_timeline *t, size_t *n,
                              passed_over *passed, uint64_t *bytes_read, tarn_error *err)
{
    for (*n = l->n_at; *n > 0; --*n) {
        tarn_status status = tarni_lineage_state(l, *n, n, &passed->evicted, err);
        if (status == TARN_OK) {
            tarni_timeline_init(t, pools);
            status = load_state(l, *n, present, t, bytes_read, err);
            if (status == TARN_OK)
                return TARN_OK;
            tarni_timeline_fini(t);
        }
        /* Not found: another process evicted it since the lineage was read. */
        if (status != TARN_E_CORRUPT && status != TARN_E_NOT_FOUND)
            return status;
        TARNI_LOG(&pools->log, TARN_LOG_WARN, "%s; going back to an earlier state", err->detail);
        *(status == TARN_E_CORRUPT ? &passed->damaged : &passed->evicted) = true;
    }
    return tarni_fail(err, TARN_E_CORRUPT, "%s has no root", l->session.name);
}

/* What a store or an exported file holds need not come from this library. */
static tarn_status check_ids(const tarni_lineage *l, const tarni_ids *ids, uint32_t vocab,
                             tarn_error *err)
{
    for (size_t i = 0; i < ids->n_ids; i++)
        if (ids->ids[i] >= vocab)
            return tarni_fail(err, TARN_E_CORRUPT,
                              "session %s: token %zu is id %u, the model has %u ids",
                              l->session.name, i, ids->ids[i], vocab);
    return TARN_OK;
}

tarn_status tarni_resume(tarni_pools *pools, const tarni_lineage *l, const tarni_present *present,
                         tarni_timeline *out, tarni_ids *replay, tarn_reuse *reuse, tarn_error *err)
{
    *out = (tarni_timeline){0};
    size_t n;
    passed_over passed = {0};
    uint64_t bytes_read = 0;
    TARNI_TRY(find_state(pools, l, present, out, &n, &passed, &bytes_read, err));
    const tarnp_node *node = &l->nodes[n - 1];
    tarn_status status = find_sampler(l, out, &passed.damaged, &bytes_read, err);
    if (status == TARN_OK)
        status = tarni_lineage_tokens(l, &out->tokens, err);
    if (status == TARN_OK)
        status = check_ids(l, &out->tokens, pools->spec.vocab, err);
    if (status == TARN_OK)
        status = find_calls(l, out, err);
    if (status == TARN_OK && l->position > node->position)
        status = tarni_ids_append(replay, out->tokens.ids + node->position,
                                  (size_t)(l->position - node->position), err);
    if (status != TARN_OK) {
        tarni_timeline_fini(out);
        return status;
    }
    bytes_read += tarni_lineage_token_bytes(l);
    out->tokens.n_ids = (size_t)node->position;
    bool foreign = node->position > 0 && strcmp(node->numerics, pools->numerics) != 0;
    out->bit_exact = node->position == 0 || (!foreign && (node->flags & TARNP_NODE_BIT_EXACT));
    out->base_node = tarni_lineage_node(l)->id;
    out->base_position = l->position;
    out->latents_kept = node->position;
    out->base_sampling = out->sampling;
    find_tail(l, out);
    *reuse = (tarn_reuse){.tokens_reused = node->position,
                          .tokens_replayed = l->position - node->position,
                          .bytes_read = bytes_read,
                          .reason = reason_of(l, node, passed, foreign)};
    return TARN_OK;
}
