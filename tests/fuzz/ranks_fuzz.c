/* A rank file: refused with its line, or a vocabulary that finds each token and loses no byte. */
#include "bpe.h"
#include "fuzz.h"
#include "vocab.h"

#include <string.h>

static void check_tokens(const tarni_vocab *v)
{
    for (uint32_t r = 0; r < v->n_ranks; r++)
        MUST(tarni_vocab_rank(v, v->bytes + v->starts[r], v->starts[r + 1] - v->starts[r]) == r);
}

static void check_piece(const tarni_vocab *v, const uint8_t *bytes, size_t n_bytes)
{
    tarn_error err;
    tarni_ids ids;
    tarni_bpe bpe;
    tarni_ids_init(&ids, &tarni_heap);
    tarni_bpe_init(&bpe, v, n_bytes, &tarni_heap);
    MUST(tarni_bpe_piece(&bpe, bytes, n_bytes, &ids, &err) == TARN_OK);
    size_t at = 0;
    for (size_t i = 0; i < ids.n_ids; i++) {
        size_t size = v->starts[ids.ids[i] + 1] - v->starts[ids.ids[i]];
        MUST(size <= n_bytes - at);
        MUST(memcmp(bytes + at, v->bytes + v->starts[ids.ids[i]], size) == 0);
        at += size;
    }
    MUST(at == n_bytes);
    tarni_bpe_fini(&bpe);
    tarni_ids_fini(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    tarni_vocab v;
    tarn_error err = {TARN_OK, ""};
    if (tarni_vocab_open(&v, fuzz_file(data, n_bytes), &tarni_heap, &err) != TARN_OK) {
        MUST(err.status == TARN_E_FORMAT);
        return 0;
    }
    check_tokens(&v);
    for (size_t n = 1; n <= n_bytes; n *= 3)
        check_piece(&v, data, n);
    tarni_vocab_fini(&v, &tarni_heap);
    return 0;
}
