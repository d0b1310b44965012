#include "paths.h"

#include <stdio.h>
#include <string.h>

#define TAIL_BYTES_MAX 96

tarn_status tarni_path_join(const tarn_allocator *a, const char *dir, const char *name, char **out,
                            tarn_error *err)
{
    *out = NULL;
    size_t n_bytes = strlen(dir) + 1 + strlen(name) + 1;
    char *path;
    TARNI_TRY(tarni_alloc(a, n_bytes, 1, &path, err));
    snprintf(path, n_bytes, "%s/%s", dir, name);
    *out = path;
    return TARN_OK;
}

const char *tarni_path_tail(const char *path)
{
    size_t length = strlen(path);
    if (length <= TAIL_BYTES_MAX)
        return path;
    const char *tail = path + length - TAIL_BYTES_MAX;
    const char *slash = strchr(tail, '/');
    if (slash)
        return slash + 1;
    while (((unsigned char)*tail & 0xC0) == 0x80)
        tail++;
    return tail;
}
