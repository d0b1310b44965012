/* config.json: refused with a reason, or a spec whose sizes fit and that survives being written. */
#include "forward.h"
#include "fuzz.h"
#include "layout.h"
#include "spec.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    tarni_spec spec, again;
    tarni_layout layout;
    tarni_writer text;
    tarn_error err = {TARN_OK, ""};
    uint8_t digest[32], digest_again[32];
    if (tarni_spec_parse((const char *)data, n_bytes, "config.json", &spec, &err) != TARN_OK) {
        MUST(err.status == TARN_E_FORMAT || err.status == TARN_E_UNSUPPORTED);
        MUST(strstr(err.detail, "config.json") != NULL);
        return 0;
    }
    for (int numerics = TARNI_NUMERICS_NATIVE; numerics <= TARNI_NUMERICS_F32; numerics++) {
        tarni_layout_init(&spec, (tarni_numerics)numerics, &layout);
        MUST(layout.slot_bytes > 0 && layout.slot_bytes < (size_t)1 << 50);
        MUST(layout.page_bytes > 0 && layout.page_bytes < (size_t)1 << 50);
    }
    MUST(tarni_forward_bytes(&tarni_cpu_class, &spec, 512, 0) >
         tarni_forward_bytes(&tarni_cpu_class, &spec, 1, 0));
    tarni_writer_init(&text, &tarni_heap);
    MUST(tarni_spec_write(&spec, &text, &err) == TARN_OK);
    MUST(tarni_spec_parse((char *)text.data, text.n_bytes, "again", &again, &err) == TARN_OK);
    tarni_spec_digest(&spec, digest);
    tarni_spec_digest(&again, digest_again);
    MUST(memcmp(digest, digest_again, sizeof digest) == 0);
    tarni_writer_fini(&text);
    return 0;
}
