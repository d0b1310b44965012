/* bytes.h - little-endian reading and writing with bounds.
 *
 * Reader: a cursor over borrowed bytes. A read past the end returns zeros and sets `failed`, which
 * stays set: decode a whole record, then ask once. Sizes read from the bytes are hostile; compare
 * them with tarni_reader_left before allocating.
 *
 * Writer: appends to a buffer it owns and grows. A writer with `counting` set only counts, so the
 * size of a record is its own writer run dry. A failed allocation sets `failed`, which stays set.
 */
#ifndef TARN_BASE_BYTES_H
#define TARN_BASE_BYTES_H

#include "memory.h"

typedef struct tarni_reader {
    const uint8_t *data;
    size_t n_bytes;
    size_t at;
    bool failed;
} tarni_reader;

void tarni_reader_init(tarni_reader *r, const void *data, size_t n_bytes);
size_t tarni_reader_left(const tarni_reader *r);
uint8_t tarni_get_u8(tarni_reader *r);
uint16_t tarni_get_u16(tarni_reader *r);
uint32_t tarni_get_u32(tarni_reader *r);
uint64_t tarni_get_u64(tarni_reader *r);
float tarni_get_f32(tarni_reader *r);
/* Borrowed pointer to the next n bytes, or NULL (and `failed`) where fewer are left. */
const uint8_t *tarni_get_bytes(tarni_reader *r, size_t n_bytes);
/* u32 length, then the bytes. *out is borrowed and not terminated. */
void tarni_get_text(tarni_reader *r, const char **out, size_t *n_bytes);

typedef struct tarni_writer {
    const tarn_allocator *allocator;
    uint8_t *data; /* owned; NULL while counting */
    size_t n_bytes;
    size_t capacity;
    bool counting;
    bool failed;
} tarni_writer;

void tarni_writer_init(tarni_writer *w, const tarn_allocator *allocator);
void tarni_writer_init_counting(tarni_writer *w);
void tarni_writer_fini(tarni_writer *w); /* frees the buffer */
void tarni_put_u8(tarni_writer *w, uint8_t v);
void tarni_put_u16(tarni_writer *w, uint16_t v);
void tarni_put_u32(tarni_writer *w, uint32_t v);
void tarni_put_u64(tarni_writer *w, uint64_t v);
void tarni_put_f32(tarni_writer *w, float v);
void tarni_put_bytes(tarni_writer *w, const void *data, size_t n_bytes);
void tarni_put_text(tarni_writer *w, const char *text, size_t n_bytes); /* u32 length, bytes */

/* Fixed places, for records whose layout is an OFFSET SIZE FIELD table. */
void tarni_store_u16(uint8_t *at, uint16_t v);
void tarni_store_u32(uint8_t *at, uint32_t v);
void tarni_store_u64(uint8_t *at, uint64_t v);
uint16_t tarni_load_u16(const uint8_t *at);
uint32_t tarni_load_u32(const uint8_t *at);
uint64_t tarni_load_u64(const uint8_t *at);
/* Big-endian, for keys whose byte order must be their numeric order. */
void tarni_store_u32_be(uint8_t *at, uint32_t v);
uint32_t tarni_load_u32_be(const uint8_t *at);
void tarni_store_u64_be(uint8_t *at, uint64_t v);
uint64_t tarni_load_u64_be(const uint8_t *at);

#endif
