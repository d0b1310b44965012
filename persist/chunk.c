#include "chunk.h"

#include "bytes.h"

#include <string.h>

#define MAGIC   0x4B484354u /* "TCHK" */
#define VERSION 1
#define AT_KEY  52 /* key id and nonce, up to the sum */
#define AT_SUM  72

void tarnp_chunk_head_put(const tarnp_chunk_head *head, uint8_t out[TARNP_CHUNK_HEAD_BYTES])
{
    memset(out, 0, TARNP_CHUNK_HEAD_BYTES);
    tarni_store_u32(out, MAGIC);
    out[4] = VERSION;
    out[5] = (uint8_t)head->codec;
    out[6] = (uint8_t)head->elem;
    tarni_store_u32(out + 8, head->raw_bytes);
    tarni_store_u32(out + 12, head->payload_bytes);
    tarni_store_u64(out + 16, head->id);
    memcpy(out + 24, head->payload_sum, TARNP_SUM_BYTES);
    out[40] = (uint8_t)head->kind;
    tarni_store_u32(out + 44, head->first);
    tarni_store_u32(out + 48, head->count);
    tarni_store_u64(out + AT_SUM, tarnp_sum64(out, AT_SUM, 0));
}

tarn_status tarnp_chunk_head_get(const uint8_t at[TARNP_CHUNK_HEAD_BYTES], tarnp_chunk_head *out,
                                 tarn_error *err)
{
    if (tarni_load_u32(at) != MAGIC)
        return tarni_fail(err, TARN_E_CORRUPT, "header: wrong magic");
    if (tarni_load_u64(at + AT_SUM) != tarnp_sum64(at, AT_SUM, 0))
        return tarni_fail(err, TARN_E_CORRUPT, "header: does not match its checksum");
    bool plain = at[7] == 0 && at[41] == 0 && at[42] == 0 && at[43] == 0;
    for (size_t i = AT_KEY; i < AT_SUM; i++)
        plain = plain && at[i] == 0;
    if (at[4] != VERSION || !plain)
        return tarni_fail(err, TARN_E_FORMAT, "header: version %u, this reads %d", at[4], VERSION);
    *out = (tarnp_chunk_head){.id = tarni_load_u64(at + 16),
                              .codec = at[5],
                              .elem = (tarnp_elem)at[6],
                              .kind = (tarnp_section_kind)at[40],
                              .first = tarni_load_u32(at + 44),
                              .count = tarni_load_u32(at + 48),
                              .raw_bytes = tarni_load_u32(at + 8),
                              .payload_bytes = tarni_load_u32(at + 12)};
    memcpy(out->payload_sum, at + 24, TARNP_SUM_BYTES);
    return TARN_OK;
}

void tarnp_chunk_renumber(uint8_t *value, uint64_t id, uint8_t sum[TARNP_SUM_BYTES])
{
    tarni_store_u64(value + 16, id);
    tarni_store_u64(value + AT_SUM, tarnp_sum64(value, AT_SUM, 0));
    tarnp_sum128(value, TARNP_CHUNK_HEAD_BYTES, sum);
}

tarn_status tarnp_chunk_check(tarnp_span value, const tarnp_chunk_ref *want, tarnp_chunk_head *out,
                              tarn_error *err)
{
    uint8_t sum[TARNP_SUM_BYTES];
    if (!value.data)
        return tarni_fail(err, TARN_E_CORRUPT, "missing");
    if (value.n_bytes != want->stored_bytes || value.n_bytes < TARNP_CHUNK_HEAD_BYTES)
        return tarni_fail(err, TARN_E_CORRUPT, "%zu bytes stored, should be %u", value.n_bytes,
                          want->stored_bytes);
    tarnp_sum128(value.data, TARNP_CHUNK_HEAD_BYTES, sum);
    if (memcmp(sum, want->sum, sizeof sum) != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "the header does not match the manifest");
    TARNI_TRY(tarnp_chunk_head_get(value.data, out, err));
    if (out->id != want->id || out->raw_bytes != want->raw_bytes || out->kind != want->kind ||
        out->elem != want->elem || out->first != want->first || out->count != want->count ||
        out->payload_bytes != value.n_bytes - TARNP_CHUNK_HEAD_BYTES)
        return tarni_fail(err, TARN_E_CORRUPT, "the header is of chunk %llu, %u raw bytes",
                          (unsigned long long)out->id, out->raw_bytes);
    tarnp_sum128(value.data + TARNP_CHUNK_HEAD_BYTES, out->payload_bytes, sum);
    if (memcmp(sum, out->payload_sum, sizeof sum) != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "the payload does not match its checksum");
    return TARN_OK;
}
