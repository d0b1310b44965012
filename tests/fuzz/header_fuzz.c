/* A safetensors file: refused with a reason, or every byte of every tensor can be read. */
#include "fuzz.h"
#include "paths.h"
#include "safetensors.h"
#include "shards.h"

#include <string.h>

static void read_all(const tarni_safetensors *set)
{
    uint64_t n_bytes = 0;
    for (size_t i = 0; i < set->n_tensors; i++) {
        const tarni_safetensor *t = &set->tensors[i];
        n_bytes += t->n_bytes;
        MUST(n_bytes <= set->files[t->file_idx].map->n_bytes);
        MUST(t->n_dims <= TARNI_SAFETENSORS_DIMS_MAX && strlen(t->name) < SIZE_MAX);
        for (uint64_t k = 0; k < t->n_bytes; k++)
            (void)((const volatile uint8_t *)t->data)[k];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    tarni_safetensors set = {.allocator = &tarni_heap};
    tarn_error err = {TARN_OK, ""};
    char *path;
    const char *file = fuzz_file(data, n_bytes);
    MUST(tarni_copy_text(&tarni_heap, file, strlen(file), &path, &err) == TARN_OK);
    if (tarni_safetensors_add(&set, path, &err) == TARN_OK) {
        read_all(&set);
        MUST(tarni_safetensors_check(&set, &err) == TARN_OK);
    } else {
        MUST(err.status == TARN_E_FORMAT || err.status == TARN_E_UNSUPPORTED);
        MUST(strstr(err.detail, tarni_path_tail(file)) != NULL);
    }
    tarni_safetensors_close(&set);
    return 0;
}
