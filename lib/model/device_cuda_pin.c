/* device_cuda_pin.c - pinned host memory, which copies beside the steps go from and to.
 *
 * Pinning takes milliseconds, so a few blocks are kept for the next transfer: one is used again
 * where it fits. All of it is counted against the ceiling of the host's memory, kept blocks too;
 * where that is in the way they go first. */
#include "device_cuda.h"

#include <string.h>

static bool count(const tarni_cuda *c, size_t n_bytes)
{
    return !c->needs.count || c->needs.count(c->needs.count_user, n_bytes);
}

static void uncount(const tarni_cuda *c, size_t n_bytes)
{
    if (c->needs.uncount)
        c->needs.uncount(c->needs.count_user, n_bytes);
}

static void drop(tarni_cuda *c, tarni_pin *p)
{
    tarnk_cuda_unpin(p->memory);
    uncount(c, p->n_bytes);
    *p = (tarni_pin){0};
}

static void drop_unused(tarni_cuda *c)
{
    for (size_t i = 0; i < TARNI_PINS_MAX; i++)
        if (c->pins[i].memory && !c->pins[i].used)
            drop(c, &c->pins[i]);
}

void tarni_cuda_drop_pins(tarni_device *d)
{
    tarni_cuda *c = tarni_cuda_of(d);
    for (size_t i = 0; i < TARNI_PINS_MAX; i++)
        if (c->pins[i].memory)
            drop(c, &c->pins[i]);
}

/* *refused: by the ceiling, not by the system. */
static int take(tarni_device *d, size_t n_bytes, void **out, bool *refused)
{
    tarni_cuda *c = tarni_cuda_of(d);
    *out = NULL;
    *refused = false;
    for (int again = 0; again < 2; again++, drop_unused(c)) {
        *refused = !count(c, n_bytes);
        if (*refused)
            continue;
        int error = tarnk_cuda_pin(out, n_bytes);
        if (error) {
            *out = NULL;
            uncount(c, n_bytes);
        }
        return error;
    }
    return 0;
}

static tarn_status fail(const tarni_device *d, size_t n_bytes, bool refused, int error,
                        tarn_error *err)
{
    return tarni_fail(err, TARN_E_NO_MEMORY, "%s: %zu KiB of pinned host memory: %s", d->name,
                      n_bytes >> 10,
                      refused ? "host_bytes_max is reached" : tarnk_cuda_error(error));
}

tarn_status tarni_cuda_pin_block(tarni_device *d, size_t n_bytes, void **out, tarn_error *err)
{
    bool refused;
    int error = take(d, n_bytes, out, &refused);
    return error || refused ? fail(d, n_bytes, refused, error, err) : TARN_OK;
}

void tarni_cuda_unpin_block(tarni_device *d, void *memory, size_t n_bytes)
{
    if (!memory)
        return;
    tarnk_cuda_unpin(memory);
    uncount(tarni_cuda_of(d), n_bytes);
}

/* The smallest kept block that is large enough. */
static tarni_pin *find_kept(tarni_cuda *c, size_t n_bytes)
{
    tarni_pin *best = NULL;
    for (size_t i = 0; i < TARNI_PINS_MAX; i++) {
        tarni_pin *p = &c->pins[i];
        if (p->memory && !p->used && p->n_bytes >= n_bytes && (!best || p->n_bytes < best->n_bytes))
            best = p;
    }
    return best;
}

tarn_status tarni_cuda_pin(tarni_device *d, size_t n_bytes, void *out_pointer, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_enter(d);
    tarni_pin *kept = find_kept(c, n_bytes);
    void *memory = kept ? kept->memory : NULL;
    bool refused = false;
    int error = kept ? 0 : take(d, n_bytes, &memory, &refused);
    memcpy(out_pointer, &memory, sizeof memory);
    if (error || refused)
        return fail(d, n_bytes, refused, error, err);
    for (size_t i = 0; !kept && i < TARNI_PINS_MAX; i++) {
        tarni_pin *p = &c->pins[i];
        if (p->used)
            continue;
        if (p->memory)
            drop(c, p); /* too small, or it would have been taken */
        *p = (tarni_pin){.memory = memory, .n_bytes = n_bytes};
        kept = p;
    }
    if (kept)
        kept->used = true;
    return TARN_OK;
}

void tarni_cuda_unpin(tarni_device *d, void *memory, size_t n_bytes)
{
    tarni_cuda *c = tarni_cuda_of(d);
    for (size_t i = 0; i < TARNI_PINS_MAX; i++) {
        if (memory && c->pins[i].memory == memory) {
            c->pins[i].used = false;
            return;
        }
    }
    tarni_cuda_unpin_block(d, memory, n_bytes);
}

tarn_status tarni_cuda_pin_apart(tarni_device *d, size_t n_bytes, void *out_pointer,
                                 tarn_error *err)
{
    void *memory = NULL;
    int error = tarnk_cuda_pin(&memory, n_bytes);
    if (error)
        memory = NULL;
    memcpy(out_pointer, &memory, sizeof memory);
    return error ? fail(d, n_bytes, false, error, err) : TARN_OK;
}

void tarni_cuda_unpin_apart(tarni_device *d, void *memory)
{
    (void)d;
    if (memory)
        tarnk_cuda_unpin(memory);
}
