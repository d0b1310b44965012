#include "keep.h"

#include "checkpoint.h"
#include "hold.h"
#include "log.h"

#include <string.h>
#include <sys/random.h>

static tarn_status check_keepable(const tarn_session *s, tarn_error *err)
{
    if (s->poisoned)
        return tarni_fail(err, TARN_E_POISONED, "session %s failed earlier: %.150s", s->name,
                          s->failure.detail);
    if (!s->store)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "session %s has no store", s->name);
    if (s->read_only)
        return tarni_fail(err, TARN_E_INVALID, "session %s was opened read-only", s->name);
    return TARN_OK;
}

/* The live memory as a node's image; `sampler` must outlive it. */
static tarni_image image_of(tarn_session *s, const tarni_writer *sampler)
{
    tarni_pools *pools = &s->engine->pools;
    return (tarni_image){.spec = &pools->spec,
                         .layout = &pools->layout,
                         .slot = tarni_slots_data(&pools->slots, s->live.slot),
                         .pages = s->live.pages.pages,
                         .logits = s->live.logits,
                         .sampler = sampler->data,
                         .sampler_bytes = sampler->n_bytes,
                         .latent_begin = s->live.latents_kept,
                         .latent_end = s->live.tokens.n_ids};
}

/* A node without a state of its own is as exact as the one it stands on. */
static bool exact_on_disk(const tarni_timeline *live, bool with_state)
{
    return live->bit_exact && (with_state || !live->base_lossy);
}

static tarn_status describe(tarn_session *s, bool move_head, bool with_state,
                            const tarni_sections *sections, tarnp_commit *c, tarn_error *err)
{
    tarni_timeline *live = &s->live;
    *c = (tarnp_commit){.session_id = s->store_id,
                        .expected_head = s->head,
                        .move_head = move_head,
                        .parent = live->base_node,
                        .numerics = s->engine->pools.numerics,
                        .tokens = live->tokens.ids + live->base_position,
                        .n_tokens =
                            with_state ? (uint32_t)(live->tokens.n_ids - live->base_position) : 0,
                        .segments = live->segments.items,
                        .n_segments = live->segments.n,
                        .sections = sections->items,
                        .n_sections = sections->n_items};
    if (with_state && live->tokens.n_ids > 0) {
        c->prefix = live->tokens.ids;
        c->n_prefix = live->tokens.n_ids;
    }
    c->flags = (uint8_t)((with_state ? TARNP_NODE_HAS_STATE : 0) |
                         (exact_on_disk(live, with_state) ? TARNP_NODE_BIT_EXACT : 0));
    memcpy(c->fp, s->engine->identity.fp, sizeof c->fp);
    memcpy(c->lease, s->lease.token, sizeof c->lease);
    if (getrandom(c->key, sizeof c->key, 0) != (ssize_t)sizeof c->key)
        return tarni_fail(err, TARN_E_IO, "no random bytes for a commit key");
    return TARN_OK;
}

static bool has_new_tokens(const tarni_timeline *live) /* else new sampling alone */
{
    return live->tokens.n_ids > live->base_position;
}

/* Writes the node of what is new, or with `ticket` submits it: then *out is left alone. */
static tarn_status put_node(tarn_session *s, bool move_head, tarnp_committed *out,
                            tarnp_ticket **ticket, tarn_error *err)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    bool with_state = has_new_tokens(&s->live);
    tarni_writer sampler;
    tarni_writer_init(&sampler, a);
    tarni_sampling_put(&s->live.sampling, &sampler);
    tarni_sections sections = {0};
    tarnp_commit commit;
    tarn_status status = sampler.failed ? tarni_fail_memory(err, sampler.n_bytes) : TARN_OK;
    if (status == TARN_OK) {
        tarni_image image = image_of(s, &sampler);
        status = with_state ? tarni_checkpoint_save(&image, a, &sections, err)
                            : tarni_checkpoint_save_sampler(&image, a, &sections, err);
    }
    if (status == TARN_OK)
        status = describe(s, move_head, with_state, &sections, &commit, err);
    if (status == TARN_OK) {
        tarnp_store_set_pool(s->store, s->engine->threads);
        status = ticket ? tarnp_commit_submit(s->store, &commit, ticket, err)
                        : tarnp_commit_node(s->store, &commit, out, err);
        tarnp_store_set_pool(s->store, NULL);
    }
    tarni_sections_fini(&sections);
    tarni_writer_fini(&sampler);
    return status;
}

/* The node is in the store, with the live tokens and this sampling. */
static void take_node(tarn_session *s, const tarnp_committed *committed, bool move_head,
                      bool with_state, const tarn_sampling *sampling)
{
    tarni_timeline *live = &s->live;
    s->bytes_written += committed->bytes_written;
    live->base_node = committed->node;
    if (with_state) {
        live->base_position = live->latents_kept = live->tokens.n_ids;
        live->base_lossy = committed->lossy;
    }
    live->base_sampling = *sampling;
    tarni_segments_clear(&live->segments, &s->engine->pools.allocator);
    if (move_head)
        s->head = committed->node;
    tarni_hold_refresh(s);
}

tarn_status tarni_session_keep(tarn_session *s, bool move_head, tarn_error *err)
{
    tarnp_committed committed;
    TARNI_TRY(check_keepable(s, err));
    tarni_session_settle(s);
    if (!tarni_timeline_dirty(&s->live))
        return TARN_OK;
    bool with_state = has_new_tokens(&s->live);
    TARNI_TRY(put_node(s, move_head, &committed, NULL, err));
    take_node(s, &committed, move_head, with_state, &s->live.sampling);
    return TARN_OK;
}

/* The head stands behind the base when the last node was a kept state on the way. */
static tarn_status move_head_to_base(tarn_session *s, tarn_error *err)
{
    uint64_t bytes = 0;
    TARNI_TRY(tarnp_session_move_leased(s->store, s->store_id, s->lease.token, s->head,
                                        s->live.base_node, &bytes, err));
    s->head = s->live.base_node;
    s->bytes_written += bytes;
    return TARN_OK;
}

/* What a finished commit reports. */
static void report(tarn_session *s, tarn_committed *out)
{
    out->at = tarni_session_at(s);
    out->at.bit_exact = out->at.bit_exact && !s->live.base_lossy;
    out->bytes_written = s->bytes_written;
    s->bytes_written = 0;
}

tarn_status tarni_session_commit(tarn_session *s, tarn_committed *out, tarn_error *err)
{
    TARNI_TRY(check_keepable(s, err));
    TARNI_TRY(tarni_session_keep(s, true, err));
    if (s->head != s->live.base_node)
        TARNI_TRY(move_head_to_base(s, err));
    report(s, out);
    return TARN_OK;
}

/* ---- commits that are begun ----------------------------------------------------------------- */

void tarni_session_settle(tarn_session *s)
{
    tarni_pending *p = &s->pending;
    tarnp_committed committed;
    tarn_error err;
    if (!p->ticket || p->settled)
        return;
    p->settled = true;
    if (tarnp_ticket_wait(s->store, p->ticket, TARNP_TICKET_WRITTEN, TARNP_WAIT_FOREVER, &committed,
                          &err) != TARN_OK) {
        TARNI_LOG(&s->engine->pools.log, TARN_LOG_WARN, "session %s is not committed: %s", s->name,
                  err.detail);
        return;
    }
    take_node(s, &committed, true, p->with_state, &p->sampling);
    report(s, &p->result);
}

tarn_status tarni_session_commit_begin(tarn_session *s, uint64_t *number, tarn_error *err)
{
    tarni_pending *p = &s->pending;
    tarnp_ticket *ticket = NULL;
    TARNI_TRY(check_keepable(s, err));
    tarni_session_settle(s);
    bool dirty = tarni_timeline_dirty(&s->live);
    if (dirty)
        TARNI_TRY(put_node(s, true, NULL, &ticket, err));
    else if (s->head != s->live.base_node)
        TARNI_TRY(move_head_to_base(s, err));
    tarnp_ticket_free(p->ticket);
    *p = (tarni_pending){.number = p->number + 1,
                         .ticket = ticket,
                         .settled = !dirty,
                         .with_state = has_new_tokens(&s->live),
                         .sampling = s->live.sampling};
    if (!dirty)
        report(s, &p->result);
    *number = p->number;
    return TARN_OK;
}

tarn_status tarni_session_wait(tarn_session *s, uint64_t number, tarn_commit_level level,
                               uint32_t timeout_ms, tarn_committed *out, tarn_error *err)
{
    tarni_pending *p = &s->pending;
    if (number == 0 || number != p->number)
        return tarni_fail(err, TARN_E_NOT_FOUND,
                          "session %s: ticket %llu is not that of its last commit (%llu)", s->name,
                          (unsigned long long)number, (unsigned long long)p->number);
    if (p->ticket)
        TARNI_TRY(tarnp_ticket_wait(s->store, p->ticket, (tarnp_ticket_state)level,
                                    timeout_ms ? timeout_ms : TARNP_WAIT_FOREVER, NULL, err));
    if (level == TARN_COMMIT_MEMORY)
        return TARN_OK;
    tarni_session_settle(s);
    *out = p->result;
    return TARN_OK;
}
