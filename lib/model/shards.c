/* shards.c - the files of a checkpoint folder as one set of tensors.
 *
 * The index is checked both ways against the headers of the files it names: a tensor it places in
 * the wrong file, or a file holding one it does not name, is an error, since a folder where they
 * disagree is half of one checkpoint and half of another. */
#include "shards.h"
#include "fields.h"
#include "jsonload.h"
#include "paths.h"
#include "readfile.h"

#include <stdlib.h>
#include <string.h>

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME  "model.safetensors.index.json"

static int by_name(const void *a, const void *b)
{
    const tarni_safetensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

const tarni_safetensor *tarni_safetensors_find(const tarni_safetensors *set, const char *name)
{
    tarni_safetensor key = {.name = name};
    if (set->n_tensors == 0)
        return NULL;
    return bsearch(&key, set->tensors, set->n_tensors, sizeof key, by_name);
}

const char *tarni_safetensors_origin(const tarni_safetensors *set, const tarni_safetensor *tensor)
{
    return tarni_path_tail(set->files[tensor->file_idx].path);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Sorts by name and refuses a name that two files hold. */
static tarn_status sort_tensors(tarni_safetensors *set, tarn_error *err)
{
    qsort(set->tensors, set->n_tensors, sizeof *set->tensors, by_name);
    for (size_t i = 1; i < set->n_tensors; i++) {
        const tarni_safetensor *a = &set->tensors[i - 1], *b = &set->tensors[i];
        if (strcmp(a->name, b->name) == 0)
            return tarni_fail(err, TARN_E_FORMAT, "%s: tensor %.100s is in %.60s too",
                              tarni_safetensors_origin(set, a), a->name,
                              base_name(set->files[b->file_idx].path));
    }
    return TARN_OK;
}

/* ---- the index ------------------------------------------------------------------------------- */

/* A plain name inside the folder; the file itself may be a symbolic link, as in hub caches. */
static bool is_plain_name(const char *name)
{
    return name && *name && strlen(name) <= 255 && !strchr(name, '/') && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static bool has_file(const tarni_safetensors *set, const char *name)
{
    for (size_t i = 0; i < set->n_files; i++)
        if (strcmp(base_name(set->files[i].path), name) == 0)
            return true;
    return false;
}

static tarn_status add_shards(tarni_safetensors *set, const char *dir, const char *origin,
                              json_t *map, tarn_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (!is_plain_name(file))
            return tarni_fail(err, TARN_E_FORMAT,
                              "%s: weight_map, tensor %.80s: \"%.60s\" is not a file name", origin,
                              name, file ? file : "(no string)");
        if (has_file(set, file))
            continue;
        if (set->n_files == TARNI_SAFETENSORS_FILES_MAX)
            return tarni_fail(err, TARN_E_FORMAT, "%s: weight_map names more than %d files", origin,
                              TARNI_SAFETENSORS_FILES_MAX);
        char *path;
        TARNI_TRY(tarni_path_join(set->allocator, dir, file, &path, err));
        TARNI_TRY(tarni_safetensors_add(set, path, err));
    }
    return TARN_OK;
}

static tarn_status compare_index(const tarni_safetensors *set, const char *origin, json_t *map,
                                 tarn_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        const tarni_safetensor *tensor = tarni_safetensors_find(set, name);
        if (!tensor)
            return tarni_fail(err, TARN_E_FORMAT, "%s: tensor %.100s is not in %.60s", origin, name,
                              file);
        const char *found = base_name(set->files[tensor->file_idx].path);
        if (strcmp(found, file) != 0)
            return tarni_fail(err, TARN_E_FORMAT, "%s: tensor %.80s is in %.50s, not in %.50s",
                              origin, name, found, file);
    }
    for (size_t i = 0; i < set->n_tensors; i++)
        if (!json_object_get(map, set->tensors[i].name))
            return tarni_fail(err, TARN_E_FORMAT, "%s: tensor %.100s is not in the index",
                              tarni_safetensors_origin(set, &set->tensors[i]),
                              set->tensors[i].name);
    return TARN_OK;
}

static tarn_status open_index(tarni_safetensors *set, const char *dir, const char *path,
                              tarn_error *err)
{
    const char *origin = tarni_path_tail(path);
    char *text = NULL;
    size_t n_bytes;
    TARNI_TRY(
        tarni_read_file(path, TARNI_SAFETENSORS_HEADER_MAX, set->allocator, &text, &n_bytes, err));
    json_t *root, *map;
    tarn_status status =
        tarni_json_load(origin, text, n_bytes, TARNI_SAFETENSORS_VALUES_MAX, 0, &root, err);
    tarni_free(set->allocator, text);
    if (status != TARN_OK)
        return status;
    tarni_fields fields = {.object = root, .origin = path, .prefix = ""};
    TARNI_TRY_GOTO(tarni_field_container(&fields, "weight_map", JSON_OBJECT, &map, err));
    if (json_object_size(map) == 0) {
        status = tarni_fail(err, TARN_E_FORMAT, "%s: weight_map is empty", origin);
        goto fail;
    }
    TARNI_TRY_GOTO(add_shards(set, dir, origin, map, err));
    TARNI_TRY_GOTO(sort_tensors(set, err));
    TARNI_TRY_GOTO(compare_index(set, origin, map, err));
fail:
    json_decref(root);
    return status;
}

tarn_status tarni_safetensors_open(const char *dir, const tarn_allocator *allocator,
                                   tarni_safetensors *out, tarn_error *err)
{
    char *path = NULL;
    tarn_status status;
    *out = (tarni_safetensors){.allocator = allocator};
    TARNI_TRY_GOTO(tarni_path_join(allocator, dir, SINGLE_NAME, &path, err));
    status = tarni_safetensors_add(out, path, err);
    if (status == TARN_OK) {
        TARNI_TRY_GOTO(sort_tensors(out, err));
    } else if (status == TARN_E_NOT_FOUND) {
        tarni_safetensors_close(out);
        out->allocator = allocator;
        TARNI_TRY_GOTO(tarni_path_join(allocator, dir, INDEX_NAME, &path, err));
        status = open_index(out, dir, path, err);
        if (status == TARN_E_NOT_FOUND && out->n_files == 0)
            tarni_fail(err, TARN_E_NOT_FOUND, "%s: neither " SINGLE_NAME " nor " INDEX_NAME,
                       tarni_path_tail(dir));
        tarni_free(allocator, path);
    }
fail:
    if (status != TARN_OK)
        tarni_safetensors_close(out);
    return status;
}
