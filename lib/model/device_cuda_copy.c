/* device_cuda_copy.c - sessions' memory to the host and back.
 *
 * On the device the state of a head is [V][K]; everywhere else it is [K][V]. It is turned there, in
 * a buffer of its own for each direction, so that a store is the same whoever wrote it. What goes
 * out waits for the steps before it and is then copied on a stream of its own; what comes in goes
 * by the stream of the steps. */
#include "device_cuda.h"

#include <string.h>

static size_t states_bytes(const tarni_device *d)
{
    return d->layout->n_kda * d->layout->state_stride;
}

tarn_status tarni_cuda_open_copies(tarni_device *d, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_of(d);
    for (int i = 0; i < 2; i++) {
        TARNI_TRY(
            tarni_cuda_alloc(d, NULL, states_bytes(d), "states on their way", &c->turned[i], err));
        /* Gaps between layers are copied along. */
        tarni_cuda_note(d, tarnk_cuda_fill(c->turned[i], 0, states_bytes(d), c->stream));
    }
    return TARN_OK;
}

void tarni_cuda_close_copies(tarni_device *d)
{
    tarni_cuda *c = tarni_cuda_of(d);
    tarnk_cuda_wait(c->copies);
    for (int i = 0; i < 2; i++)
        tarnk_cuda_free(c->turned[i]);
    tarni_cuda_drop_pins(d);
}

/* ---- copies ---------------------------------------------------------------------------------- */

tarn_status tarni_cuda_read(tarni_device *d, void *to, const void *from, size_t n_bytes,
                            tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_enter(d);
    if (!tarni_cuda_note(d, tarnk_cuda_download(to, from, n_bytes, c->stream)))
        tarni_cuda_note(d, tarnk_cuda_wait(c->stream));
    return tarni_device_check(d, err);
}

typedef int (*copy_fn)(void *to, const void *from, size_t n_bytes, void *stream);

/* Turns the states of all layers; both sides are laid out as a slot is. */
static int turn(const tarni_device *d, const uint8_t *from, uint8_t *to, void *stream)
{
    const tarni_layout *l = d->layout;
    tarnk_context context = d->context;
    context.stream = stream;
    int error = 0;
    for (uint32_t i = 0; !error && i < l->n_kda; i++)
        error =
            tarnk_cuda_turn_state((const float *)(const void *)(from + i * l->state_stride),
                                  (float *)(void *)(to + i * l->state_stride), d->spec->kda_heads,
                                  d->spec->kda_dim, d->spec->kda_dim, &context);
    return error;
}

/* The slot behind its states, and its logits. */
static size_t rest_bytes(const tarni_device *d)
{
    return d->layout->slot_bytes - d->layout->conv_begin + d->spec->vocab * sizeof(float);
}

/* Rows [begin, end): a full page in one piece, of others each layer's rows. */
static int copy_rows(const tarni_layout *l, const tarni_transfer *t, bool to_host, void *stream)
{
    const copy_fn copy = to_host ? tarnk_cuda_download : tarnk_cuda_upload;
    for (uint64_t at = t->begin, next; at < t->end; at = next) {
        uint64_t page = at / TARNK_PAGE_TOKENS;
        next = (page + 1) * TARNK_PAGE_TOKENS;
        next = next < t->end ? next : t->end;
        uint8_t *device = t->pages[page], *host = t->host_pages[page];
        size_t row = at % TARNK_PAGE_TOKENS, n_rows = (size_t)(next - at);
        bool whole = n_rows == TARNK_PAGE_TOKENS;
        for (uint32_t i = 0; i < (whole ? 1 : l->n_mla); i++) {
            size_t begin = i * l->latent_stride + row * l->latent_row_bytes;
            size_t n_bytes = whole ? l->page_bytes : n_rows * l->latent_row_bytes;
            int error = to_host ? copy(host + begin, device + begin, n_bytes, stream)
                                : copy(device + begin, host + begin, n_bytes, stream);
            if (error)
                return error;
        }
    }
    return 0;
}

static int mark(tarni_transfer *t, void *stream)
{
    int error = tarnk_cuda_event_create(&t->mark);
    return error ? error : tarnk_cuda_event_mark(t->mark, stream);
}

static tarn_status begun(tarni_device *d, tarni_transfer *t, int error, tarn_error *err)
{
    tarni_cuda_note(d, error);
    tarn_status status = tarni_device_check(d, err);
    if (status != TARN_OK)
        tarni_cuda_forget(d, t);
    return status;
}

tarn_status tarni_cuda_save(tarni_device *d, tarni_transfer *t, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_enter(d);
    const size_t states = states_bytes(d);
    int error = tarnk_cuda_event_mark(c->steps_done, c->stream);
    if (!error)
        error = tarnk_cuda_stream_after(c->copies, c->steps_done);
    if (!error && t->slot && states > 0) {
        error = turn(d, t->slot, c->turned[0], c->copies);
        if (!error)
            error = tarnk_cuda_download(t->host_slot, c->turned[0], states, c->copies);
    }
    if (!error && t->slot)
        error =
            tarnk_cuda_download(t->host_slot + states, t->slot + states, rest_bytes(d), c->copies);
    if (!error && d->layout->n_mla > 0)
        error = copy_rows(d->layout, t, true, c->copies);
    return begun(d, t, error ? error : mark(t, c->copies), err);
}

tarn_status tarni_cuda_load(tarni_device *d, tarni_transfer *t, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_enter(d);
    const size_t states = states_bytes(d);
    int error = 0;
    if (t->slot && states > 0) {
        error = tarnk_cuda_upload(c->turned[1], t->host_slot, states, c->stream);
        if (!error)
            error = turn(d, c->turned[1], t->slot, c->stream);
    }
    if (!error && t->slot)
        error =
            tarnk_cuda_upload(t->slot + states, t->host_slot + states, rest_bytes(d), c->stream);
    if (!error && d->layout->n_mla > 0)
        error = copy_rows(d->layout, t, false, c->stream);
    return begun(d, t, error ? error : mark(t, c->stream), err);
}

tarn_status tarni_cuda_await(tarni_device *d, tarni_transfer *t, tarn_error *err)
{
    int error = t->mark ? tarnk_cuda_event_wait(t->mark) : 0;
    if (error)
        return tarni_fail(err, TARN_E_DEVICE, "%s: copying a session's memory: %s", d->name,
                          tarnk_cuda_error(error));
    return TARN_OK;
}

bool tarni_cuda_passed(tarni_device *d, const tarni_transfer *t)
{
    (void)d;
    return !t->mark || tarnk_cuda_event_passed(t->mark);
}

void tarni_cuda_forget(tarni_device *d, tarni_transfer *t)
{
    (void)d;
    if (t->mark)
        tarnk_cuda_event_free(t->mark);
    t->mark = NULL;
}
