/* A text that streams in, behind one byte that says how it is cut: whatever the pieces, and with
 * some of them taken back and given again, its ids are those of the whole. */
#include "chat_fuzz.h"

#include "encoder.h"

static void stream(uint32_t cuts, const char *text, size_t n_bytes, tarni_ids *out)
{
    tarni_encoder e;
    tarn_error err;
    tarni_encoder_init(&e, fuzz_chat()->tokenizer, &tarni_heap);
    for (size_t at = 0; at < n_bytes;) {
        cuts = cuts * 1664525u + 1013904223u;
        size_t n = 1 + (cuts >> 24) % 7, before = out->n_ids;
        n = n < n_bytes - at ? n : n_bytes - at;
        MUST(tarni_encoder_feed(&e, text + at, n, out, &err) == TARN_OK);
        if ((cuts >> 16) % 4 == 0) { /* taken back, and given again */
            tarni_encoder_undo(&e);
            out->n_ids = before;
            MUST(tarni_encoder_feed(&e, text + at, n, out, &err) == TARN_OK);
        }
        at += n;
    }
    MUST(tarni_encoder_end(&e, out, &err) == TARN_OK);
    MUST(tarni_encoder_held(&e) == 0);
    tarni_encoder_fini(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    tarn_error err;
    tarni_ids want, got;
    if (n_bytes == 0)
        return 0;
    const char *text = (const char *)data + 1;
    tarni_ids_init(&want, &tarni_heap);
    tarni_ids_init(&got, &tarni_heap);
    MUST(tarni_tokenizer_encode(fuzz_chat()->tokenizer, text, n_bytes - 1, false, &want, &err) ==
         TARN_OK);
    stream(data[0], text, n_bytes - 1, &got);
    MUST(got.n_ids == want.n_ids);
    MUST(want.n_ids == 0 || memcmp(got.ids, want.ids, want.n_ids * sizeof *want.ids) == 0);
    tarni_ids_fini(&want);
    tarni_ids_fini(&got);
    return 0;
}
