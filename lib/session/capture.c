#include "capture.h"

#include "sampler.h"

#include <stddef.h>
#include <string.h>
#include <sys/random.h>

/* A node without a state of its own is as exact as the one it stands on. */
static bool exact_on_disk(const tarni_timeline *live, bool with_state)
{
    return live->bit_exact && (with_state || !live->base_lossy);
}

/* The memory of the node's sections. */
static tarn_status gather(tarn_session *s, tarni_capture *c, tarn_error *err)
{
    const tarni_timeline *live = &s->live;
    tarni_pools *pools = c->pools;
    const tarn_allocator *a = &pools->allocator;
    uint64_t latents = live->latents_kept;
    tarni_sampling_put(&c->sampling, &c->sampler);
    if (c->sampler.failed)
        return tarni_fail_memory(err, c->sampler.n_bytes);
    TARNI_TRY(tarni_segments_copy(&live->segments, a, &c->segments, err));
    tarni_image image = {.spec = &pools->spec,
                         .layout = &pools->layout,
                         .sampler = c->sampler.data,
                         .sampler_bytes = c->sampler.n_bytes};
    if (!c->with_state)
        return tarni_checkpoint_save_sampler(&image, a, &c->sections, err);
    TARNI_TRY(tarni_ids_append(&c->tokens, live->tokens.ids, (size_t)c->position, err));
    TARNI_TRY(
        tarni_page_table_hold(&pools->pages, &live->pages, latents, c->position, &c->pages, err));
    tarni_slots_share(&pools->slots, live->slot);
    c->slot = live->slot;
    const tarni_staged what = {
        .slot = c->slot, .pages = c->pages.pages, .begin = latents, .end = c->position};
    TARNI_TRY(tarni_staging_save(pools, &what, &image, &c->staging, err));
    image.latent_begin = latents;
    image.latent_end = c->position;
    return tarni_checkpoint_save(&image, a, &c->sections, err);
}

static tarn_status describe(tarn_session *s, bool move_head, tarni_capture *c, tarn_error *err)
{
    const tarni_timeline *live = &s->live;
    c->commit = (tarnp_commit){.session_id = s->store_id,
                               .expected_head = s->head,
                               .move_head = move_head,
                               .parent = live->base_node,
                               .numerics = c->pools->numerics,
                               .segments = c->segments.items,
                               .n_segments = c->segments.n,
                               .sections = c->sections.items,
                               .n_sections = c->sections.n_items};
    c->commit.flags = (uint8_t)((c->with_state ? TARNP_NODE_HAS_STATE : 0) |
                                (exact_on_disk(live, c->with_state) ? TARNP_NODE_BIT_EXACT : 0));
    if (c->with_state) {
        c->commit.tokens = c->tokens.ids + live->base_position;
        c->commit.n_tokens = (uint32_t)(c->position - live->base_position);
        c->commit.prefix = c->tokens.ids;
        c->commit.n_prefix = c->tokens.n_ids;
    }
    memcpy(c->commit.fp, s->engine->identity.fp, sizeof c->commit.fp);
    memcpy(c->commit.lease, s->lease.token, sizeof c->commit.lease);
    if (getrandom(c->commit.key, sizeof c->commit.key, 0) != (ssize_t)sizeof c->commit.key)
        return tarni_fail(err, TARN_E_IO, "no random bytes for a commit key");
    return TARN_OK;
}

/* On the encoder's thread, or whose turn at the store it is. */
static tarn_status await_copies(tarni_job *job, tarn_error *err)
{
    tarni_capture *c = (tarni_capture *)(void *)((char *)job - offsetof(tarni_capture, job));
    return tarni_staging_await(&c->staging, err);
}

tarn_status tarni_capture_make(tarn_session *s, bool move_head, tarni_capture **out,
                               tarn_error *err)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    tarni_capture *c;
    *out = NULL;
    TARNI_TRY(tarni_alloc(a, 1, sizeof *c, &c, err));
    c->pools = &s->engine->pools;
    c->slot = TARNI_SLOT_NONE;
    c->sampling = s->live.sampling;
    c->mark = tarni_segments_here(&s->live.segments);
    c->position = s->live.tokens.n_ids;
    c->with_state = c->position > s->live.base_position; /* else new sampling alone */
    tarni_ids_init(&c->tokens, a);
    tarni_writer_init(&c->sampler, a);
    tarn_status status = gather(s, c, err);
    if (status == TARN_OK)
        status = describe(s, move_head, c, err);
    if (status != TARN_OK) {
        tarni_capture_free(c);
        return status;
    }
    c->job.commit = &c->commit;
    c->job.ready = await_copies;
    *out = c;
    return TARN_OK;
}

void tarni_capture_let_go(tarni_capture *c)
{
    if (c->slot != TARNI_SLOT_NONE)
        tarni_slots_release(&c->pools->slots, c->slot);
    c->slot = TARNI_SLOT_NONE;
    tarni_page_table_fini(&c->pools->pages, &c->pages);
}

void tarni_capture_free(tarni_capture *c)
{
    const tarn_allocator *a = &c->pools->allocator;
    tarni_capture_let_go(c);
    tarni_staging_fini(&c->staging);
    tarni_sections_fini(&c->sections);
    tarni_segments_fini(&c->segments, a);
    tarni_ids_fini(&c->tokens);
    tarni_writer_fini(&c->sampler);
    tarni_free(a, c);
}
