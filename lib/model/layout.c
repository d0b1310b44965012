#include "layout.h"

/* Bytes up to the next part; parts start on cache lines. */
static size_t aligned(size_t n_bytes)
{
    return (n_bytes + TARNI_ALIGNMENT - 1) / TARNI_ALIGNMENT * TARNI_ALIGNMENT;
}

void tarni_layout_init(const tarni_spec *spec, tarni_numerics numerics, tarni_layout *out)
{
    bool round = numerics == TARNI_NUMERICS_NATIVE && spec->dtype == TARNK_BF16;
    size_t item = round ? 2 : 4, channels = (size_t)spec->kda_heads * spec->kda_dim;
    tarni_layout layout = {
        .conv_dtype = round ? TARNK_BF16 : TARNK_F32,
        .latent_dtype = round ? TARNK_BF16 : TARNK_F32,
        .round = round,
        .state_bytes = channels * spec->kda_dim * sizeof(float),
        .conv_bytes = TARNK_CONV_PARTS * (spec->conv_width - 1) * channels * item,
        .latent_row_bytes = ((size_t)spec->rank + spec->rope) * item,
        .n_kda = spec->n_kda,
        .n_mla = spec->n_mla,
    };
    layout.state_stride = aligned(layout.state_bytes);
    layout.conv_begin = spec->n_kda * layout.state_stride;
    layout.conv_stride = aligned(layout.conv_bytes);
    layout.slot_bytes = layout.conv_begin + spec->n_kda * layout.conv_stride;
    layout.latent_stride = aligned(TARNK_PAGE_TOKENS * layout.latent_row_bytes);
    layout.page_bytes = spec->n_mla * layout.latent_stride;
    *out = layout;
}
