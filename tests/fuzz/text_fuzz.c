/* A text, behind one byte that says whether special names count: its ids decode to it again, and
 * come to the same text one by one. */
#include "fuzz.h"
#include "tokenizer.h"
#include "utf8.h"

#include <string.h>

static const tarni_tokenizer *tokenizer(void)
{
    static tarni_tokenizer *t;
    tarn_error err = {TARN_OK, ""};
    if (!t && tarni_tokenizer_open(TEST_DATA "/tokenizer", 0, &tarni_heap, &t, &err) != TARN_OK)
        fprintf(stderr, "%s\n", err.detail);
    MUST(t != NULL);
    return t;
}

/* The text with every maximal broken part replaced. */
static void repair(const uint8_t *text, size_t n_bytes, tarni_writer *out)
{
    for (size_t at = 0; at < n_bytes;) {
        tarni_utf8 c = tarni_utf8_read(text + at, n_bytes - at);
        if (c.kind == TARNI_UTF8_WHOLE)
            tarni_put_bytes(out, text + at, c.n_bytes);
        else
            tarni_put_bytes(out, TARNI_REPLACEMENT, TARNI_REPLACEMENT_BYTES);
        at += c.n_bytes;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    const tarni_tokenizer *t = tokenizer();
    tarn_error err;
    tarni_ids ids;
    tarni_writer want, got, streamed;
    tarni_text_stream stream = {{0}, 0};
    if (n_bytes == 0)
        return 0;
    tarni_ids_init(&ids, &tarni_heap);
    tarni_writer_init(&want, &tarni_heap);
    tarni_writer_init(&got, &tarni_heap);
    tarni_writer_init(&streamed, &tarni_heap);
    repair(data + 1, n_bytes - 1, &want);
    MUST(tarni_tokenizer_encode(t, (const char *)data + 1, n_bytes - 1, data[0] & 1, &ids, &err) ==
         TARN_OK);
    MUST(tarni_tokenizer_decode(t, ids.ids, ids.n_ids, &got, &err) == TARN_OK);
    MUST(got.n_bytes == want.n_bytes);
    MUST(got.n_bytes == 0 || memcmp(got.data, want.data, got.n_bytes) == 0);
    for (size_t i = 0; i < ids.n_ids; i++)
        MUST(tarni_text_stream_feed(&stream, t, ids.ids[i], &streamed, &err) == TARN_OK);
    tarni_text_stream_flush(&stream, &streamed);
    MUST(streamed.n_bytes == want.n_bytes);
    MUST(want.n_bytes == 0 || memcmp(streamed.data, want.data, want.n_bytes) == 0);
    tarni_writer_fini(&streamed);
    tarni_writer_fini(&got);
    tarni_writer_fini(&want);
    tarni_ids_fini(&ids);
    return 0;
}
