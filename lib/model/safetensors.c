/* safetensors.c - mapping and checking one file.
 *
 * Everything in a header is hostile: every length is compared with what the file holds before it is
 * used, and sums are checked for overflow. The data section must be tiled without gap or overlap,
 * so a header that points two names at one range, or hides bytes between them, is refused. Maps
 * instead of reads: the page cache is shared by processes and nothing is loaded that is not used
 * (what a map costs where a file changes under it: filemap.c).
 * The folder and its index are in shards.c. */
#include "safetensors.h"
#include "bytes.h"
#include "jsonload.h"
#include "paths.h"
#include "shards.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX_BYTES 8 /* the header's length */

static const struct {
    const char *name;
    uint32_t n_bytes;
} DTYPES[] = {{"F32", 4}, {"BF16", 2}, {"F16", 2},  {"F64", 8},     {"I64", 8},
              {"I32", 4}, {"I16", 2},  {"I8", 1},   {"U64", 8},     {"U32", 4},
              {"U16", 2}, {"U8", 1},   {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

static uint32_t dtype_bytes(const char *name)
{
    for (size_t i = 0; i < sizeof DTYPES / sizeof DTYPES[0]; i++)
        if (strcmp(name, DTYPES[i].name) == 0)
            return DTYPES[i].n_bytes;
    return 0;
}

void tarni_shape_text(const uint64_t *dims, uint32_t n_dims, char *out, size_t size)
{
    size_t at = (size_t)snprintf(out, size, "[");
    for (uint32_t i = 0; i < n_dims && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%llu", i > 0 ? ", " : "",
                               (unsigned long long)dims[i]);
    if (at < size)
        snprintf(out + at, size - at, "]");
}

/* ---- one file -------------------------------------------------------------------------------- */

typedef struct parser {
    const char *origin; /* short path, for errors */
    const uint8_t *data;
    uint64_t data_bytes;
    tarn_error *err;
} parser;

static tarn_status bad(const parser *p, const char *name, const char *what)
{
    return tarni_fail(p->err, TARN_E_FORMAT, "%s: tensor %.100s: %s", p->origin, name, what);
}

/* A JSON integer that is a size. */
static bool size_of(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static tarn_status parse_shape(const parser *p, const json_t *shape, tarni_safetensor *out,
                               uint64_t *n_items)
{
    if (!json_is_array(shape) || json_array_size(shape) > TARNI_SAFETENSORS_DIMS_MAX)
        return bad(p, out->name, "shape is not an array of at most 8 sizes");
    out->n_dims = (uint32_t)json_array_size(shape);
    *n_items = 1;
    for (uint32_t i = 0; i < out->n_dims; i++)
        if (!size_of(json_array_get(shape, i), &out->dims[i]) ||
            __builtin_mul_overflow(*n_items, out->dims[i], n_items))
            return bad(p, out->name, "shape is not an array of sizes that a file can hold");
    return TARN_OK;
}

/* A field that is not known may say that the bytes mean something else. */
static tarn_status refuse_other_fields(const parser *p, json_t *entry, const char *name)
{
    const char *field;
    json_t *value;
    json_object_foreach(entry, field, value) {
        if (strcmp(field, "dtype") != 0 && strcmp(field, "shape") != 0 &&
            strcmp(field, "data_offsets") != 0)
            return tarni_fail(p->err, TARN_E_UNSUPPORTED, "%s: tensor %.100s: field %.40s",
                              p->origin, name, field);
    }
    return TARN_OK;
}

static tarn_status parse_entry(const parser *p, json_t *entry, tarni_safetensor *out)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype)
        return bad(p, out->name, "has no dtype");
    TARNI_TRY(refuse_other_fields(p, entry, out->name));
    uint32_t item = dtype_bytes(dtype);
    if (item == 0)
        return tarni_fail(p->err, TARN_E_UNSUPPORTED, "%s: tensor %.100s: dtype %.20s is not known",
                          p->origin, out->name, dtype);
    snprintf(out->dtype, sizeof out->dtype, "%s", dtype);
    uint64_t n_items = 0, begin, end;
    TARNI_TRY(parse_shape(p, json_object_get(entry, "shape"), out, &n_items));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (json_array_size(offsets) != 2 || !size_of(json_array_get(offsets, 0), &begin) ||
        !size_of(json_array_get(offsets, 1), &end))
        return bad(p, out->name, "data_offsets is not an array of two sizes");
    if (begin > end || end > p->data_bytes)
        return tarni_fail(
            p->err, TARN_E_FORMAT,
            "%s: tensor %.100s: bytes %llu to %llu are not within the %llu of the file", p->origin,
            out->name, (unsigned long long)begin, (unsigned long long)end,
            (unsigned long long)p->data_bytes);
    uint64_t n_bytes;
    if (__builtin_mul_overflow(n_items, item, &n_bytes) || n_bytes != end - begin) {
        char shape[64];
        tarni_shape_text(out->dims, out->n_dims, shape, sizeof shape);
        return tarni_fail(p->err, TARN_E_FORMAT, "%s: tensor %.100s: %s %s does not fit %llu bytes",
                          p->origin, out->name, dtype, shape, (unsigned long long)(end - begin));
    }
    out->data = p->data + begin;
    out->n_bytes = n_bytes;
    return TARN_OK;
}

static int by_place(const void *a, const void *b)
{
    const tarni_safetensor *x = a, *y = b;
    const uint8_t *x_end = x->data + x->n_bytes, *y_end = y->data + y->n_bytes;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x_end < y_end ? -1 : x_end > y_end;
}

static tarn_status check_tiling(const parser *p, tarni_safetensor *tensors, size_t n)
{
    const uint8_t *at = p->data;
    qsort(tensors, n, sizeof *tensors, by_place);
    for (size_t i = 0; i < n; i++) {
        if (tensors[i].data < at)
            return bad(p, tensors[i].name, "its bytes overlap another tensor's");
        if (tensors[i].data > at)
            return bad(p, tensors[i].name, "bytes before it belong to no tensor");
        at += tensors[i].n_bytes;
    }
    if (at != p->data + p->data_bytes)
        return tarni_fail(p->err, TARN_E_FORMAT, "%s: %llu bytes at the end belong to no tensor",
                          p->origin, (unsigned long long)(p->data + p->data_bytes - at));
    return TARN_OK;
}

/* Appends the tensors of a header to the set; their names move to the file's own block. */
static tarn_status parse_header(const parser *p, json_t *header, tarni_safetensors *set,
                                tarni_safetensors_file *file)
{
    const char *name;
    json_t *entry;
    size_t names_bytes = 0, wanted, first = set->n_tensors;
    json_object_foreach(header, name, entry) {
        names_bytes += strlen(name) + 1;
    }
    if (!tarni_add_size(set->n_tensors, json_object_size(header), &wanted))
        return tarni_fail_memory(p->err, SIZE_MAX);
    TARNI_TRY(tarni_alloc(set->allocator, names_bytes, 1, &file->names, p->err));
    TARNI_TRY(tarni_grow(set->allocator, &set->tensors, &set->tensors_capacity, wanted,
                         sizeof *set->tensors, p->err));
    char *at = file->names;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        size_t n_bytes = strlen(name) + 1;
        memcpy(at, name, n_bytes);
        tarni_safetensor tensor = {.name = at, .file_idx = (uint32_t)set->n_files - 1};
        at += n_bytes;
        TARNI_TRY(parse_entry(p, entry, &tensor));
        set->tensors[set->n_tensors++] = tensor;
    }
    if (set->n_tensors == first)
        return tarni_fail(p->err, TARN_E_FORMAT, "%s: holds no tensor", p->origin);
    return check_tiling(p, set->tensors + first, set->n_tensors - first);
}

static tarn_status parse_file(tarni_safetensors *set, tarni_safetensors_file *file, tarn_error *err)
{
    parser p = {.origin = tarni_path_tail(file->path), .err = err};
    const uint8_t *text = file->map->data;
    uint64_t n_bytes = file->map->n_bytes;
    if (n_bytes < PREFIX_BYTES)
        return tarni_fail(err, TARN_E_FORMAT, "%s: is %llu bytes, too short for safetensors",
                          p.origin, (unsigned long long)n_bytes);
    uint64_t header_bytes = tarni_load_u64(text);
    if (header_bytes > TARNI_SAFETENSORS_HEADER_MAX || header_bytes > n_bytes - PREFIX_BYTES)
        return tarni_fail(err, TARN_E_FORMAT,
                          "%s: header length is %llu, the file has %llu bytes, the limit is %u",
                          p.origin, (unsigned long long)header_bytes, (unsigned long long)n_bytes,
                          TARNI_SAFETENSORS_HEADER_MAX);
    text += PREFIX_BYTES;
    p.data = text + header_bytes;
    p.data_bytes = n_bytes - PREFIX_BYTES - header_bytes;
    char what[160];
    json_t *header;
    snprintf(what, sizeof what, "%s: header", p.origin);
    TARNI_TRY(tarni_json_load(what, (const char *)text, (size_t)header_bytes,
                              TARNI_SAFETENSORS_VALUES_MAX, 0, &header, err));
    tarn_status status = parse_header(&p, header, set, file);
    json_decref(header);
    return status;
}

tarn_status tarni_safetensors_add(tarni_safetensors *set, char *path, tarn_error *err)
{
    tarn_status status = tarni_grow(set->allocator, &set->files, &set->files_capacity,
                                    set->n_files + 1, sizeof *set->files, err);
    if (status != TARN_OK) {
        tarni_free(set->allocator, path);
        return status;
    }
    tarni_safetensors_file *file = &set->files[set->n_files++];
    *file = (tarni_safetensors_file){.path = path};
    TARNI_TRY(tarni_filemap_open(path, tarni_path_tail(path), set->allocator, &file->map, err));
    tarni_filemap_entry entry;
    tarn_error changed;
    tarni_filemap_enter(&entry);
    status = parse_file(set, file, err);
    tarni_filemap_leave(&entry);
    /* A file that changed meanwhile is the cause of whatever else is wrong. */
    if (tarni_filemap_check(file->map, tarni_path_tail(path), &changed) == TARN_OK)
        return status;
    *err = changed;
    return changed.status;
}

tarn_status tarni_safetensors_check(const tarni_safetensors *set, tarn_error *err)
{
    for (size_t i = 0; i < set->n_files; i++)
        TARNI_TRY(tarni_filemap_check(set->files[i].map, tarni_path_tail(set->files[i].path), err));
    return TARN_OK;
}

void tarni_safetensors_close(tarni_safetensors *set)
{
    for (size_t i = 0; i < set->n_files; i++) {
        tarni_safetensors_file *file = &set->files[i];
        tarni_filemap_close(file->map, set->allocator);
        tarni_free(set->allocator, file->names);
        tarni_free(set->allocator, file->path);
    }
    if (set->allocator) {
        tarni_free(set->allocator, set->files);
        tarni_free(set->allocator, set->tensors);
    }
    memset(set, 0, sizeof *set);
}
