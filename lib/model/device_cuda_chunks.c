/* device_cuda_chunks.c - chunks of a CUDA device: its virtual memory management.
 *
 * A chunk is taken away only after both streams have been waited for: the driver does not look
 * whether work in flight still touches it. That stops a step's thread for as long as copies beside
 * the steps take, so chunks move only when a pool runs short. */
#include "device_cuda.h"

static tarn_status unit(tarni_device *d, size_t *out, tarn_error *err)
{
    char why[96] = "";
    if (tarnk_cuda_chunk_unit(&tarni_cuda_enter(d)->cuda, out, why, sizeof why))
        return tarni_fail(err, TARN_E_UNSUPPORTED, "%s: %s", d->name, why);
    return TARN_OK;
}

static tarn_status fail(const tarni_device *d, const char *what, size_t n_bytes, int error,
                        tarn_error *err)
{
    size_t left = 0, all = 0;
    tarnk_cuda_memory(&left, &all);
    return tarni_fail(err, TARN_E_NO_MEMORY, "%s: %zu MiB %s, %zu of %zu MiB are free: %s", d->name,
                      n_bytes >> 20, what, left >> 20, all >> 20, tarnk_cuda_error(error));
}

static tarn_status fail_move(const char *what, size_t n_bytes, int error, tarn_error *err)
{
    return tarni_fail(err, TARN_E_NO_MEMORY, "%zu KiB cannot be %s: %s", n_bytes >> 10, what,
                      tarnk_cuda_error(error));
}

static tarn_status reserve(tarni_device *d, size_t n_bytes, uint8_t **out, tarn_error *err)
{
    void *range;
    tarni_cuda_enter(d);
    int error = tarnk_cuda_range_reserve(&range, n_bytes);
    *out = range;
    return error ? fail(d, "of addresses", n_bytes, error, err) : TARN_OK;
}

static void unreserve(tarni_device *d, uint8_t *range, size_t n_bytes)
{
    tarni_cuda_enter(d);
    (void)tarnk_cuda_range_free(range, n_bytes); /* after a fault it goes with the process */
}

static tarn_status create(tarni_device *d, size_t n_bytes, uint64_t *out, tarn_error *err)
{
    int error = tarnk_cuda_chunk_create(&tarni_cuda_enter(d)->cuda, out, n_bytes);
    return error ? fail(d, "for states and latents", n_bytes, error, err) : TARN_OK;
}

static void destroy(tarni_device *d, uint64_t chunk)
{
    tarni_cuda_enter(d);
    (void)tarnk_cuda_chunk_free(chunk);
}

static tarn_status map(tarni_device *d, uint8_t *at, size_t n_bytes, uint64_t chunk,
                       tarn_error *err)
{
    int error = tarnk_cuda_chunk_map(&tarni_cuda_enter(d)->cuda, at, n_bytes, chunk);
    return error ? fail_move("mapped", n_bytes, error, err) : TARN_OK;
}

static tarn_status unmap(tarni_device *d, uint8_t *at, size_t n_bytes, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_enter(d);
    tarni_cuda_note(d, tarnk_cuda_wait(c->stream)); /* a device that has failed runs nothing */
    tarni_cuda_note(d, tarnk_cuda_wait(c->copies));
    int error = tarnk_cuda_chunk_unmap(at, n_bytes);
    return error ? fail_move("unmapped", n_bytes, error, err) : TARN_OK;
}

const tarni_chunk_class tarni_cuda_chunks = {
    .unit = unit,
    .reserve = reserve,
    .unreserve = unreserve,
    .create = create,
    .destroy = destroy,
    .map = map,
    .unmap = unmap,
};
