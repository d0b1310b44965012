#include "api.h"

#include <string.h>

#define TEXT_OF(x)            #x
#define VERSION_TEXT(a, b, c) TEXT_OF(a) "." TEXT_OF(b) "." TEXT_OF(c)

const char *tarn_version(void)
{
    return VERSION_TEXT(TARN_VERSION_MAJOR, TARN_VERSION_MINOR, TARN_VERSION_PATCH);
}

tarn_status tarni_api_options(void *out, size_t out_bytes, const void *given, const char *name,
                              tarn_error *err)
{
    memset(out, 0, out_bytes);
    if (!given)
        return TARN_OK;
    size_t size;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size)
        return tarni_fail(err, TARN_E_INVALID, "%s: size is %zu, set it to sizeof the struct", name,
                          size);
    for (size_t i = out_bytes; i < size; i++)
        if (((const unsigned char *)given)[i] != 0)
            return tarni_fail(err, TARN_E_INVALID,
                              "%s: byte %zu is set, this version knows %zu bytes", name, i,
                              out_bytes);
    memcpy(out, given, size < out_bytes ? size : out_bytes);
    return TARN_OK;
}

void tarni_api_result(void *out, const void *result, size_t result_bytes)
{
    size_t size;
    memcpy(&size, out, sizeof size);
    size_t known = size < result_bytes ? size : result_bytes;
    if (known > sizeof size)
        memcpy((char *)out + sizeof size, (const char *)result + sizeof size, known - sizeof size);
}

void tarni_api_enter(const tarn_store *store)
{
    tarni_desk_enter(store->desk);
}

tarn_status tarni_api_leave(const tarn_store *store, tarn_status status)
{
    tarni_desk_leave(store->desk);
    return status;
}

void tarni_api_give_ids(tarni_ids *from, tarn_ids *out)
{
    *out = (tarn_ids){.ids = from->ids, .n_ids = from->n_ids, .allocator = *from->allocator};
    *from = (tarni_ids){0};
}

void tarn_ids_free(tarn_ids *ids)
{
    if (ids && ids->ids)
        tarni_free(&ids->allocator, ids->ids);
    if (ids)
        *ids = (tarn_ids){0};
}

void tarn_text_free(tarn_text *text)
{
    if (text && text->data)
        tarni_free(&text->allocator, text->data);
    if (text)
        *text = (tarn_text){0};
}

const char *tarn_reason_name(tarn_reason reason)
{
    switch (reason) {
    case TARN_REASON_NONE:
        return "none";
    case TARN_REASON_EXACT:
        return "exact";
    case TARN_REASON_ANCESTOR:
        return "ancestor";
    case TARN_REASON_PREFIX:
        return "prefix";
    case TARN_REASON_CHECKSUM:
        return "checksum";
    case TARN_REASON_EVICTED:
        return "evicted";
    case TARN_REASON_NUMERICS:
        return "numerics";
    }
    return "unknown";
}
