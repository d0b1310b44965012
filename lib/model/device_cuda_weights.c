/* device_cuda_weights.c - the weights on their way from the files to a CUDA device.
 *
 * All tensors get places in one block of device memory. The block is then filled window by window:
 * all threads copy their part of a window from the maps of the files into pinned memory, the window
 * is sent, and meanwhile the next one is filled. Vectors are fp32 already. The arrays of experts
 * are part of the block too: ops read them there.
 *
 * Rejected: copying from the maps at once (the runtime then copies with one thread through its own
 * buffer), and reading files beside their maps (the same bytes from the same page cache, and a
 * second way for a file to be wrong). */
#include "device_cuda.h"

#include "filemap.h"

#include <string.h>

#define WINDOW_BYTES ((size_t)32 << 20)
#define SLICE_BYTES  ((size_t)1 << 20)
#define ALIGNMENT    256

typedef struct piece {
    size_t at; /* in the block, ascending */
    const void *from;
    size_t n_bytes;
    tarnk_dtype dtype;
    bool is_array; /* of experts: on the host, whatever the rest is */
} piece;

typedef struct loader {
    tarni_device *device;
    const tarni_spec *spec;
    tarni_weights *out;
    uint8_t *block; /* NULL: only counts */
    size_t at;
    piece *pieces;
    size_t n_pieces;
    tarnk_matrix *experts; /* the next free ones */
    /* of one window */
    uint8_t *window;
    size_t begin, end;
} loader;

/* ---- places ---------------------------------------------------------------------------------- */

static const void *place(loader *l, const void *from, size_t n_bytes, tarnk_dtype dtype)
{
    const void *to = l->block ? l->block + l->at : NULL;
    if (l->block)
        l->pieces[l->n_pieces] =
            (piece){.at = l->at, .from = from, .n_bytes = n_bytes, .dtype = dtype};
    l->n_pieces++;
    l->at += (n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return to;
}

static void place_matrix(loader *l, tarnk_matrix *m)
{
    if (m->data)
        m->data = place(l, m->data,
                        (size_t)m->n_out * m->n_in * (m->dtype == TARNK_BF16 ? 2 : sizeof(float)),
                        m->dtype);
}

static void place_floats(loader *l, const float **x, size_t n)
{
    if (*x)
        *x = place(l, *x, n * sizeof(float), TARNK_F32);
}

static void place_mlp(loader *l, tarni_mlp_weights *w)
{
    place_matrix(l, &w->gate);
    place_matrix(l, &w->up);
    place_matrix(l, &w->down);
}

/* One array of experts: their matrices, then the array that points to them. */
static void place_experts(loader *l, const tarnk_matrix **array)
{
    size_t n = l->spec->n_experts;
    tarnk_matrix *mine = l->experts, one;
    for (size_t e = 0; e < n; e++) {
        one = (*array)[e];
        place_matrix(l, &one);
        if (l->block)
            mine[e] = one;
    }
    *array = place(l, mine, n * sizeof *mine, TARNK_F32);
    if (l->block) {
        l->pieces[l->n_pieces - 1].is_array = true;
        l->experts += n;
    }
}

static void place_layer(loader *l, tarni_layer_weights *w)
{
    const tarni_spec *s = l->spec;
    const size_t channels = (size_t)s->kda_heads * s->kda_dim;
    tarnk_matrix *const matrices[] = {
        &w->kda.q,   &w->kda.k, &w->kda.v, &w->kda.f_a,  &w->kda.f_b,  &w->kda.b, &w->kda.g_a,
        &w->kda.g_b, &w->kda.o, &w->mla.q, &w->mla.kv_a, &w->mla.kv_b, &w->mla.o, &w->moe.router};
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++)
        place_matrix(l, matrices[i]);
    place_floats(l, &w->attn_norm, s->hidden);
    place_floats(l, &w->ffn_norm, s->hidden);
    for (int i = 0; i < TARNK_CONV_PARTS; i++)
        place_floats(l, &w->kda.conv[i], channels * s->conv_width);
    place_floats(l, &w->kda.a_log, s->kda_heads);
    place_floats(l, &w->kda.dt_bias, channels);
    place_floats(l, &w->kda.o_norm, s->kda_dim);
    place_floats(l, &w->mla.kv_norm, s->rank);
    place_floats(l, &w->moe.bias, s->n_experts);
    place_mlp(l, &w->mlp);
    place_mlp(l, &w->moe.shared);
    if (!w->is_moe)
        return;
    place_experts(l, &w->moe.w1);
    place_experts(l, &w->moe.w3);
    place_experts(l, &w->moe.w2);
}

/* Makes *out the weights with their pointers on the device. */
static void place_all(loader *l, const tarni_weights *weights, tarni_layer_weights *layers)
{
    tarni_weights *out = l->out;
    l->at = l->n_pieces = 0;
    *out = *weights;
    out->files = NULL;
    out->layers = layers;
    place_matrix(l, &out->embed);
    if (weights->lm_head.data == weights->embed.data)
        out->lm_head = out->embed;
    else
        place_matrix(l, &out->lm_head);
    place_floats(l, &out->norm, l->spec->hidden);
    for (uint32_t i = 0; i < l->spec->n_layers; i++) {
        layers[i] = weights->layers[i];
        place_layer(l, &layers[i]);
    }
}

/* ---- copying --------------------------------------------------------------------------------- */

/* The last piece that begins at or before `at`. */
static size_t piece_at(const loader *l, size_t at)
{
    size_t low = 0, high = l->n_pieces;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (l->pieces[middle].at <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void fill_slice(void *arg, uint32_t slice)
{
    const loader *l = arg;
    size_t begin = l->begin + slice * SLICE_BYTES, end = begin + SLICE_BYTES;
    end = end < l->end ? end : l->end;
    for (size_t i = piece_at(l, begin); i < l->n_pieces && l->pieces[i].at < end; i++) {
        const piece *p = &l->pieces[i];
        size_t from = p->at > begin ? p->at : begin, to = p->at + p->n_bytes;
        to = to < end ? to : end;
        if (from < to)
            memcpy(l->window + (from - l->begin), (const uint8_t *)p->from + (from - p->at),
                   to - from);
    }
}

static tarn_status send_windows(loader *l, uint8_t *const windows[2], void *const sent[2],
                                tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_of(l->device);
    const size_t all = l->at;
    int error = 0;
    for (uint32_t i = 0; !error && l->begin < all; i = 1 - i, l->begin = l->end) {
        l->end = all - l->begin < WINDOW_BYTES ? all : l->begin + WINDOW_BYTES;
        l->window = windows[i];
        error = tarnk_cuda_event_wait(sent[i]); /* what was in this window has gone */
        if (error)
            break;
        tarni_filemap_entry entry;
        tarni_filemap_enter(&entry);
        tarni_pool_run(c->threads, (uint32_t)((l->end - l->begin + SLICE_BYTES - 1) / SLICE_BYTES),
                       fill_slice, l);
        tarni_filemap_leave(&entry);
        error = tarnk_cuda_upload(l->block + l->begin, l->window, l->end - l->begin, c->stream);
        if (!error)
            error = tarnk_cuda_event_mark(sent[i], c->stream);
        if (c->needs.progress && !c->needs.progress(c->needs.progress_user, l->end, all)) {
            tarnk_cuda_wait(c->stream);
            return tarni_fail(err, TARN_E_CANCELLED, "cancelled at %zu of %zu bytes of weights",
                              l->end, all);
        }
    }
    if (!error)
        error = tarnk_cuda_wait(c->stream);
    tarni_cuda_note(l->device, error);
    return tarni_device_check(l->device, err);
}

static tarn_status copy_all(loader *l, tarn_error *err)
{
    void *windows[2] = {NULL, NULL}, *sent[2] = {NULL, NULL};
    int error = 0;
    for (int i = 0; !error && i < 2; i++) {
        error = tarnk_cuda_pin(&windows[i], WINDOW_BYTES < l->at ? WINDOW_BYTES : l->at);
        if (!error)
            error = tarnk_cuda_event_create(&sent[i]);
    }
    tarn_status status =
        error ? tarni_fail(err, TARN_E_NO_MEMORY, "%s: %zu MiB of pinned host memory: %s",
                           l->device->name, WINDOW_BYTES >> 20, tarnk_cuda_error(error))
              : TARN_OK;
    if (status == TARN_OK)
        status = send_windows(l, (uint8_t *const[]){windows[0], windows[1]}, sent, err);
    for (int i = 0; i < 2; i++) {
        if (windows[i])
            tarnk_cuda_unpin(windows[i]);
        if (sent[i])
            tarnk_cuda_event_free(sent[i]);
    }
    return status;
}

/* Weights that are only a shape are drawn where they lie. */
static tarn_status make_all(loader *l, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_of(l->device);
    int error = 0;
    for (size_t i = 0; !error && i < l->n_pieces; i++) {
        const piece *p = &l->pieces[i];
        const tarni_shaped *shaped = p->from;
        if (p->is_array) {
            error = tarnk_cuda_upload(l->block + p->at, p->from, p->n_bytes, c->stream);
            continue;
        }
        const tarnk_random_args args = {.to = l->block + p->at,
                                        .dtype = p->dtype,
                                        .n = p->n_bytes / (p->dtype == TARNK_BF16 ? 2 : 4),
                                        .key = shaped->key,
                                        .scale = shaped->scale,
                                        .offset = shaped->offset};
        error = tarnk_cuda_random(&args, &l->device->context);
    }
    if (!error)
        error = tarnk_cuda_wait(c->stream);
    tarni_cuda_note(l->device, error);
    return tarni_device_check(l->device, err);
}

tarn_status tarni_cuda_load_weights(tarni_device *d, const tarni_weights *weights, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_enter(d);
    const tarni_spec *s = d->spec;
    tarni_layer_weights *layers;
    loader l = {.device = d, .spec = s, .out = &c->weights};
    TARNI_TRY(tarni_alloc(d->allocator, s->n_layers, sizeof *layers, &layers, err));
    place_all(&l, weights, layers); /* counts */
    size_t n_experts = 0;
    for (uint32_t i = 0; i < s->n_layers; i++)
        n_experts += layers[i].is_moe ? 3 * (size_t)s->n_experts : 0;
    TARNI_TRY(tarni_alloc(d->allocator, n_experts, sizeof *c->experts, &c->experts, err));
    TARNI_TRY(tarni_cuda_alloc(d, NULL, l.at, "the weights", &c->weights_memory, err));
    TARNI_TRY(tarni_alloc(d->allocator, l.n_pieces, sizeof *l.pieces, &l.pieces, err));
    l.block = c->weights_memory;
    l.experts = c->experts;
    place_all(&l, weights, layers);
    tarn_status status = weights->is_shape ? make_all(&l, err) : copy_all(&l, err);
    tarni_free(d->allocator, l.pieces);
    if (status == TARN_OK)
        status = tarni_weights_check(weights, err);
    d->weights = &c->weights;
    return status;
}

void tarni_cuda_drop_weights(tarni_device *d)
{
    tarni_cuda *c = tarni_cuda_of(d);
    tarnk_cuda_free(c->weights_memory);
    tarni_free(d->allocator, c->weights.layers);
    tarni_free(d->allocator, c->experts);
}
