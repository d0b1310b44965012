/* device_chunks.c - chunks of the host.
 *
 * A reserved range is address space that nobody may touch. Mapping makes a part of it usable, and
 * the system finds memory for it when it is written; taking it away gives that back, and whoever
 * still touches it is stopped. It does not come from the caller's allocator, which knows no
 * addresses: it is bounded by the number of chunks. */
#include "device_chunks.h"

#include "device.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static tarn_status fail(const tarni_device *d, const char *what, size_t n_bytes, tarn_error *err)
{
    return tarni_fail(err, TARN_E_NO_MEMORY, "%s: %zu KiB cannot be %s: %s", d->name, n_bytes >> 10,
                      what, strerror(errno));
}

static tarn_status unit(tarni_device *d, size_t *out, tarn_error *err)
{
    (void)d, (void)err;
    *out = (size_t)sysconf(_SC_PAGESIZE);
    return TARN_OK;
}

static tarn_status reserve(tarni_device *d, size_t n_bytes, uint8_t **out, tarn_error *err)
{
    void *range =
        mmap(NULL, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *out = range == MAP_FAILED ? NULL : range;
    return *out ? TARN_OK : fail(d, "reserved", n_bytes, err);
}

static void unreserve(tarni_device *d, uint8_t *range, size_t n_bytes)
{
    (void)d;
    munmap(range, n_bytes);
}

static tarn_status create(tarni_device *d, size_t n_bytes, uint64_t *out, tarn_error *err)
{
    (void)d, (void)n_bytes, (void)err;
    *out = 0;
    return TARN_OK;
}

static void destroy(tarni_device *d, uint64_t chunk)
{
    (void)d, (void)chunk;
}

static tarn_status map(tarni_device *d, uint8_t *at, size_t n_bytes, uint64_t chunk,
                       tarn_error *err)
{
    (void)chunk;
    if (mprotect(at, n_bytes, PROT_READ | PROT_WRITE) != 0)
        return fail(d, "mapped", n_bytes, err);
    tarni_ask_huge_pages(at, n_bytes);
    return TARN_OK;
}

static tarn_status unmap(tarni_device *d, uint8_t *at, size_t n_bytes, tarn_error *err)
{
    if (mprotect(at, n_bytes, PROT_NONE) != 0)
        return fail(d, "unmapped", n_bytes, err);
    (void)madvise(at, n_bytes, MADV_DONTNEED); /* what it cannot give back is written over later */
    return TARN_OK;
}

const tarni_chunk_class tarni_cpu_chunks = {
    .unit = unit,
    .reserve = reserve,
    .unreserve = unreserve,
    .create = create,
    .destroy = destroy,
    .map = map,
    .unmap = unmap,
};
