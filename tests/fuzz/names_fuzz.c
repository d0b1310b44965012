/* A tokenizer_config.json: refused with its field, or names that are found where they stand. */
#include "fuzz.h"
#include "specials.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static tarni_specials s;
    tarn_error err = {TARN_OK, ""};
    if (tarni_specials_open(&s, fuzz_file(data, n_bytes), 100, TARNI_SPECIAL_ROWS, &tarni_heap,
                            &err) != TARN_OK) {
        MUST(err.status == TARN_E_FORMAT);
        return 0;
    }
    for (uint32_t i = 0; i < TARNI_SPECIAL_ROWS; i++) {
        const tarni_special_name *name = &s.names[i];
        size_t at = 1, found_bytes = 0;
        uint32_t id =
            tarni_specials_find(&s, (const uint8_t *)name->text, name->n_bytes, &at, &found_bytes);
        MUST(id == 100 + i && at == 0 && found_bytes == name->n_bytes);
    }
    size_t at = 0, found_bytes = 0;
    if (n_bytes > 0 && tarni_specials_find(&s, data, n_bytes, &at, &found_bytes) != UINT32_MAX)
        MUST(at + found_bytes <= n_bytes);
    tarni_specials_fini(&s, &tarni_heap);
    return 0;
}
