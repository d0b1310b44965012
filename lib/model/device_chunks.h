/* device_chunks.h - a device's memory in chunks that move: addresses are reserved once, a chunk is
 * memory where it is mapped, and can be taken from there and mapped elsewhere.
 *
 * So what lies in a range keeps its address, which steps, page tables and recorded graphs hold,
 * while the memory behind unused parts of it serves another range. Reserving costs no memory;
 * creating a chunk takes it from the device for good, so that moving it later needs none.
 *
 *     reserve --> [range] <-- map --- [chunk] <-- create
 *                         --- unmap ->
 *
 * On the host a chunk is a number, and memory is taken from the system as it is written. */
#ifndef TARNI_DEVICE_CHUNKS_H
#define TARNI_DEVICE_CHUNKS_H

#include "status.h"

struct tarni_device;

typedef struct tarni_chunk_class {
    /* Lengths of ranges and chunks are multiples of *out. UNSUPPORTED says what is missing. */
    tarn_status (*unit)(struct tarni_device *d, size_t *out, tarn_error *err);
    tarn_status (*reserve)(struct tarni_device *d, size_t n_bytes, uint8_t **out, tarn_error *err);
    void (*unreserve)(struct tarni_device *d, uint8_t *range, size_t n_bytes);
    tarn_status (*create)(struct tarni_device *d, size_t n_bytes, uint64_t *out, tarn_error *err);
    void (*destroy)(struct tarni_device *d, uint64_t chunk);
    /* What it holds then is anything. After an error nothing is mapped. */
    tarn_status (*map)(struct tarni_device *d, uint8_t *at, size_t n_bytes, uint64_t chunk,
                       tarn_error *err);
    /* Waits for what was asked of the device, which may still use what is there. After an error the
     * chunk is where it was. */
    tarn_status (*unmap)(struct tarni_device *d, uint8_t *at, size_t n_bytes, tarn_error *err);
} tarni_chunk_class;

extern const tarni_chunk_class tarni_cpu_chunks;

#endif
