#include "tensors_out.h"

#include "staging.h"

#include <stdio.h>
#include <string.h>

static float load_elem(const uint8_t *data, tarnk_dtype dtype, size_t i)
{
    float value;
    if (dtype == TARNK_F32) {
        memcpy(&value, data + i * sizeof value, sizeof value);
        return value;
    }
    uint16_t half;
    memcpy(&half, data + i * sizeof half, sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The slot keeps taps outermost, so that lanes run over channels; people expect them innermost. */
static void give_conv(const tarni_timeline *t, uint32_t layer, const uint8_t *tails, float *buffer,
                      tarn_tensor_fn fn, void *user)
{
    static const char *const parts[] = {"q", "k", "v"};
    const tarni_spec *spec = &t->pools->spec;
    size_t n = (size_t)spec->kda_heads * spec->kda_dim, taps = spec->conv_width - 1;
    for (size_t p = 0; p < 3; p++) {
        for (size_t j = 0; j < taps; j++)
            for (size_t c = 0; c < n; c++)
                buffer[c * taps + j] =
                    load_elem(tails, t->pools->layout.conv_dtype, (p * taps + j) * n + c);
        char name[64];
        snprintf(name, sizeof name, "layers.%u.kda.conv_%s", layer, parts[p]);
        uint64_t dims[] = {n, taps};
        fn(user, name, dims, 2, buffer);
    }
}

static void give_kda(const tarni_timeline *t, const uint8_t *slot, uint32_t layer, uint32_t kda_idx,
                     float *buffer, tarn_tensor_fn fn, void *user)
{
    const tarni_pools *p = t->pools;
    char name[64];
    snprintf(name, sizeof name, "layers.%u.kda.state", layer);
    uint64_t dims[] = {p->spec.kda_heads, p->spec.kda_dim, p->spec.kda_dim};
    fn(user, name, dims, 3, (const float *)(const void *)(slot + kda_idx * p->layout.state_stride));
    give_conv(t, layer, slot + p->layout.conv_begin + kda_idx * p->layout.conv_stride, buffer, fn,
              user);
}

static void give_mla(const tarni_timeline *t, uint8_t *const *pages, uint32_t layer,
                     uint32_t mla_idx, float *buffer, tarn_tensor_fn fn, void *user)
{
    const tarni_layout *l = &t->pools->layout;
    size_t n = t->pools->spec.rank + t->pools->spec.rope;
    for (size_t i = 0; i < t->tokens.n_ids; i++) {
        const uint8_t *row = pages[i / TARNK_PAGE_TOKENS] + mla_idx * l->latent_stride +
                             i % TARNK_PAGE_TOKENS * l->latent_row_bytes;
        for (size_t k = 0; k < n; k++)
            buffer[i * n + k] = load_elem(row, l->latent_dtype, k);
    }
    char name[64];
    snprintf(name, sizeof name, "layers.%u.mla.latent", layer);
    uint64_t dims[] = {t->tokens.n_ids, n};
    fn(user, name, dims, 2, buffer);
}

tarn_status tarni_timeline_tensors(const tarni_timeline *t, tarn_tensor_fn fn, void *user,
                                   tarn_error *err)
{
    const tarni_spec *spec = &t->pools->spec;
    const tarn_allocator *a = &t->pools->allocator;
    size_t conv = (size_t)spec->kda_heads * spec->kda_dim * (spec->conv_width - 1);
    size_t latent = t->tokens.n_ids * (spec->rank + spec->rope);
    float *buffer;
    tarni_image image = {0};
    tarni_staging staging;
    const tarni_staged what = {.slot = t->slot, .pages = t->pages.pages, .end = t->tokens.n_ids};
    TARNI_TRY(tarni_alloc(a, conv > latent ? conv : latent, sizeof *buffer, &buffer, err));
    tarn_status status = tarni_staging_save(t->pools, &what, &image, &staging, err);
    if (status == TARN_OK)
        status = tarni_staging_await(&staging, err);
    uint32_t kda_idx = 0, mla_idx = 0;
    for (uint32_t l = 0; status == TARN_OK && l < spec->n_layers; l++) {
        if (spec->kinds[l] == TARNI_LAYER_KDA)
            give_kda(t, image.slot, l, kda_idx++, buffer, fn, user);
        else
            give_mla(t, image.pages, l, mla_idx++, buffer, fn, user);
    }
    tarni_free(a, buffer);
    tarni_staging_fini(&staging);
    return status;
}
