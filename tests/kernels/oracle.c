#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t *read_file(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    uint8_t *bytes = size > 0 ? malloc((size_t)size) : NULL;
    if (bytes && fread(bytes, 1, (size_t)size, file) != (size_t)size) {
        free(bytes);
        bytes = NULL;
    }
    fclose(file);
    *n_bytes = (size_t)size;
    return bytes;
}

bool oracle_open(oracle *o, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/oracle/ops/%s.safetensors", TEST_DATA, name);
    *o = (oracle){0};
    size_t n_bytes = 0;
    uint64_t header_bytes = 0;
    uint8_t *bytes = read_file(path, &n_bytes);
    if (bytes && n_bytes > 8) {
        memcpy(&header_bytes, bytes, 8); /* little-endian, as this machine is */
        if (header_bytes < n_bytes - 8)
            o->header = json_loadb((char *)bytes + 8, header_bytes, 0, NULL);
        if (o->header)
            o->data = malloc(n_bytes - 8 - header_bytes);
        if (o->data)
            memcpy(o->data, bytes + 8 + header_bytes, n_bytes - 8 - header_bytes);
    }
    free(bytes);
    if (!o->data)
        printf("cannot read %s\n", path);
    return o->data != NULL;
}

void oracle_close(oracle *o)
{
    json_decref(o->header);
    free(o->data);
}

static json_t *entry_of(const oracle *o, const char *case_name, const char *tensor)
{
    char name[ORACLE_NAME_MAX];
    snprintf(name, sizeof name, "%s%s%s", case_name, *case_name ? "." : "", tensor);
    json_t *entry = json_object_get(o->header, name);
    if (!entry)
        printf("there is no tensor %s\n", name);
    return entry;
}

static const void *values_of(const oracle *o, const char *case_name, const char *tensor)
{
    json_t *entry = entry_of(o, case_name, tensor);
    if (!entry)
        return NULL;
    json_int_t begin =
        json_integer_value(json_array_get(json_object_get(entry, "data_offsets"), 0));
    return o->data + begin;
}

const float *oracle_f32(const oracle *o, const char *case_name, const char *tensor)
{
    return values_of(o, case_name, tensor);
}

const int32_t *oracle_i32(const oracle *o, const char *case_name, const char *tensor)
{
    return values_of(o, case_name, tensor);
}

uint32_t oracle_dim(const oracle *o, const char *case_name, const char *tensor, size_t dim)
{
    json_t *shape = json_object_get(entry_of(o, case_name, tensor), "shape");
    return (uint32_t)json_integer_value(json_array_get(shape, dim));
}

int oracle_each(const oracle *o, const char *tensor,
                void (*fn)(const oracle *o, const char *case_name, void *user), void *user)
{
    const char *key;
    json_t *value;
    int n = 0;
    json_object_foreach(o->header, key, value) {
        const char *dot = strrchr(key, '.');
        if (!dot || strcmp(dot + 1, tensor) != 0)
            continue;
        char name[ORACLE_NAME_MAX];
        snprintf(name, sizeof name, "%.*s", (int)(dot - key), key);
        fn(o, name, user);
        n++;
    }
    return n;
}
