/* safetensors.h - the tensors of a folder of safetensors files, mapped read-only and checked.
 *
 * A file is an 8-byte little-endian header length, a JSON header {name: {dtype, shape,
 * data_offsets}}, then the data section. Knows files, never a model: any name and shape passes. */
#ifndef TARNI_SAFETENSORS_H
#define TARNI_SAFETENSORS_H

#include "filemap.h"

#define TARNI_SAFETENSORS_DIMS_MAX 8
#define TARNI_SAFETENSORS_HEADER_MAX                                                               \
    100000000u                                  /* bytes, as in the reference; also of the index   \
                                                 */
#define TARNI_SAFETENSORS_VALUES_MAX (1u << 22) /* in a header or index: some 400,000 tensors */
#define TARNI_SAFETENSORS_FILES_MAX  4096

typedef struct tarni_safetensors_file {
    char *path;         /* owned */
    char *names;        /* owned: the names of its tensors, each with its NUL */
    tarni_filemap *map; /* owned */
} tarni_safetensors_file;

typedef struct tarni_safetensor {
    const char *name; /* lives as long as the set */
    uint32_t file_idx;
    char dtype[12]; /* "F32", "BF16", ... */
    uint32_t n_dims;
    uint64_t dims[TARNI_SAFETENSORS_DIMS_MAX];
    const uint8_t *data; /* any alignment; to be read between tarni_filemap_enter and leave */
    uint64_t n_bytes;
} tarni_safetensor;

typedef struct tarni_safetensors {
    const tarn_allocator *allocator; /* borrowed */
    tarni_safetensors_file *files;   /* owned */
    size_t n_files, files_capacity;
    tarni_safetensor *tensors; /* owned, in name order */
    size_t n_tensors, tensors_capacity;
} tarni_safetensors;

/* Maps DIR/model.safetensors, or else the files of DIR/model.safetensors.index.json. Checks header
 * lengths, dtypes, shapes against byte ranges, that the ranges tile the data section, that no name
 * comes twice, and that the index and the files agree. NOT_FOUND, FORMAT, UNSUPPORTED, IO. */
tarn_status tarni_safetensors_open(const char *dir, const tarn_allocator *allocator,
                                   tarni_safetensors *out, tarn_error *err);
void tarni_safetensors_close(tarni_safetensors *set);

/* IO if a file was changed since it was opened, or could not be read: what was made of the data is
 * worth nothing then. */
tarn_status tarni_safetensors_check(const tarni_safetensors *set, tarn_error *err);

/* NULL if there is none. */
const tarni_safetensor *tarni_safetensors_find(const tarni_safetensors *set, const char *name);

/* The file's path, short, for errors. */
const char *tarni_safetensors_origin(const tarni_safetensors *set, const tarni_safetensor *tensor);

/* "[2, 3]" into `out`, cut to fit. */
void tarni_shape_text(const uint64_t *dims, uint32_t n_dims, char *out, size_t size);

#endif
