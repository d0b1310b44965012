#include "bytes.h"

#include <string.h>

void tarni_store_u16(uint8_t *at, uint16_t v)
{
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

void tarni_store_u32(uint8_t *at, uint32_t v)
{
    tarni_store_u16(at, (uint16_t)v);
    tarni_store_u16(at + 2, (uint16_t)(v >> 16));
}

void tarni_store_u64(uint8_t *at, uint64_t v)
{
    tarni_store_u32(at, (uint32_t)v);
    tarni_store_u32(at + 4, (uint32_t)(v >> 32));
}

uint16_t tarni_load_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

uint32_t tarni_load_u32(const uint8_t *at)
{
    return tarni_load_u16(at) | (uint32_t)tarni_load_u16(at + 2) << 16;
}

uint64_t tarni_load_u64(const uint8_t *at)
{
    return tarni_load_u32(at) | (uint64_t)tarni_load_u32(at + 4) << 32;
}

void tarni_store_u32_be(uint8_t *at, uint32_t v)
{
    for (int i = 3; i >= 0; i--, v >>= 8)
        at[i] = (uint8_t)v;
}

uint32_t tarni_load_u32_be(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

void tarni_store_u64_be(uint8_t *at, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        at[i] = (uint8_t)v;
}

uint64_t tarni_load_u64_be(const uint8_t *at)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | at[i];
    return v;
}

void tarni_reader_init(tarni_reader *r, const void *data, size_t n_bytes)
{
    *r = (tarni_reader){.data = data, .n_bytes = n_bytes};
}

size_t tarni_reader_left(const tarni_reader *r)
{
    return r->failed ? 0 : r->n_bytes - r->at;
}

const uint8_t *tarni_get_bytes(tarni_reader *r, size_t n_bytes)
{
    if (n_bytes > tarni_reader_left(r)) {
        r->failed = true;
        return NULL;
    }
    if (r->failed)
        return NULL;
    const uint8_t *at = r->data + r->at;
    r->at += n_bytes;
    return at;
}

uint8_t tarni_get_u8(tarni_reader *r)
{
    const uint8_t *at = tarni_get_bytes(r, 1);
    return at ? *at : 0;
}

uint16_t tarni_get_u16(tarni_reader *r)
{
    const uint8_t *at = tarni_get_bytes(r, 2);
    return at ? tarni_load_u16(at) : 0;
}

uint32_t tarni_get_u32(tarni_reader *r)
{
    const uint8_t *at = tarni_get_bytes(r, 4);
    return at ? tarni_load_u32(at) : 0;
}

uint64_t tarni_get_u64(tarni_reader *r)
{
    const uint8_t *at = tarni_get_bytes(r, 8);
    return at ? tarni_load_u64(at) : 0;
}

float tarni_get_f32(tarni_reader *r)
{
    uint32_t bits = tarni_get_u32(r);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

void tarni_get_text(tarni_reader *r, const char **out, size_t *n_bytes)
{
    uint32_t size = tarni_get_u32(r);
    const uint8_t *at = tarni_get_bytes(r, size);
    *out = at ? (const char *)at : "";
    *n_bytes = at ? size : 0;
}

void tarni_writer_init(tarni_writer *w, const tarn_allocator *allocator)
{
    *w = (tarni_writer){.allocator = allocator};
}

void tarni_writer_init_counting(tarni_writer *w)
{
    *w = (tarni_writer){.counting = true};
}

void tarni_writer_fini(tarni_writer *w)
{
    if (w->allocator)
        tarni_free(w->allocator, w->data);
    *w = (tarni_writer){0};
}

void tarni_put_bytes(tarni_writer *w, const void *data, size_t n_bytes)
{
    size_t end;
    if (w->failed || n_bytes == 0)
        return;
    if (!tarni_add_size(w->n_bytes, n_bytes, &end)) {
        w->failed = true;
        return;
    }
    if (!w->counting) {
        tarn_error err;
        if (tarni_grow(w->allocator, &w->data, &w->capacity, end, 1, &err) != TARN_OK) {
            w->failed = true;
            return;
        }
        memcpy(w->data + w->n_bytes, data, n_bytes);
    }
    w->n_bytes = end;
}

void tarni_put_u8(tarni_writer *w, uint8_t v)
{
    tarni_put_bytes(w, &v, 1);
}

void tarni_put_u16(tarni_writer *w, uint16_t v)
{
    uint8_t at[2];
    tarni_store_u16(at, v);
    tarni_put_bytes(w, at, sizeof at);
}

void tarni_put_u32(tarni_writer *w, uint32_t v)
{
    uint8_t at[4];
    tarni_store_u32(at, v);
    tarni_put_bytes(w, at, sizeof at);
}

void tarni_put_u64(tarni_writer *w, uint64_t v)
{
    uint8_t at[8];
    tarni_store_u64(at, v);
    tarni_put_bytes(w, at, sizeof at);
}

void tarni_put_f32(tarni_writer *w, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    tarni_put_u32(w, bits);
}

void tarni_put_text(tarni_writer *w, const char *text, size_t n_bytes)
{
    TARN_ASSERT(n_bytes <= UINT32_MAX);
    tarni_put_u32(w, (uint32_t)n_bytes);
    tarni_put_bytes(w, text, n_bytes);
}
