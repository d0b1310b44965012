#include "keep.h"

#include "checkpoint.h"

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

static tarn_status write_node(tarn_session *s, bool move_head, bool with_state,
                              const tarni_sections *sections, tarnp_committed *out, tarn_error *err)
{
    tarni_timeline *live = &s->live;
    tarnp_commit c = {.session_id = s->store_id,
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
    c.flags = (uint8_t)((with_state ? TARNP_NODE_HAS_STATE : 0) |
                        (exact_on_disk(live, with_state) ? TARNP_NODE_BIT_EXACT : 0));
    memcpy(c.fp, s->engine->identity.fp, sizeof c.fp);
    if (getrandom(c.key, sizeof c.key, 0) != (ssize_t)sizeof c.key)
        return tarni_fail(err, TARN_E_IO, "no random bytes for a commit key");
    tarnp_store_set_pool(s->store, s->engine->threads);
    tarn_status status = tarnp_commit_node(s->store, &c, out, err);
    tarnp_store_set_pool(s->store, NULL);
    return status;
}

tarn_status tarni_session_keep(tarn_session *s, bool move_head, tarn_error *err)
{
    tarni_timeline *live = &s->live;
    TARNI_TRY(check_keepable(s, err));
    if (!tarni_timeline_dirty(live))
        return TARN_OK;
    const tarn_allocator *a = &s->engine->pools.allocator;
    bool with_state = live->tokens.n_ids > live->base_position; /* else new sampling alone */
    tarni_writer sampler;
    tarni_writer_init(&sampler, a);
    tarni_sampling_put(&live->sampling, &sampler);
    tarni_sections sections = {0};
    tarnp_committed committed;
    tarn_status status = sampler.failed ? tarni_fail_memory(err, sampler.n_bytes) : TARN_OK;
    if (status == TARN_OK) {
        tarni_image image = image_of(s, &sampler);
        status = with_state ? tarni_checkpoint_save(&image, a, &sections, err)
                            : tarni_checkpoint_save_sampler(&image, a, &sections, err);
    }
    if (status == TARN_OK)
        status = write_node(s, move_head, with_state, &sections, &committed, err);
    tarni_sections_fini(&sections);
    tarni_writer_fini(&sampler);
    TARNI_TRY(status);

    s->bytes_written += committed.bytes_written;
    live->base_node = committed.node;
    if (with_state) {
        live->base_position = live->latents_kept = live->tokens.n_ids;
        live->base_lossy = committed.lossy;
    }
    live->base_sampling = live->sampling;
    tarni_segments_clear(&live->segments, a);
    if (move_head)
        s->head = committed.node;
    return TARN_OK;
}

/* The head stands behind the base when the last node was a kept state on the way. */
static tarn_status move_head_to_base(tarn_session *s, tarn_error *err)
{
    uint64_t bytes = 0;
    TARNI_TRY(tarnp_session_move(s->store, s->store_id, s->head, s->live.base_node, &bytes, err));
    s->head = s->live.base_node;
    s->bytes_written += bytes;
    return TARN_OK;
}

tarn_status tarni_session_commit(tarn_session *s, tarn_committed *out, tarn_error *err)
{
    TARNI_TRY(check_keepable(s, err));
    TARNI_TRY(tarni_session_keep(s, true, err));
    if (s->head != s->live.base_node)
        TARNI_TRY(move_head_to_base(s, err));
    out->at = tarni_session_at(s);
    out->at.bit_exact = out->at.bit_exact && !s->live.base_lossy;
    out->bytes_written = s->bytes_written;
    s->bytes_written = 0;
    return TARN_OK;
}
