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
    size_t end = strlen(path), begin;
    int n_slashes = 0;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (begin = end; begin > 0; begin--)
        if (path[begin - 1] == '/' && ++n_slashes == 2)
            break;
    size_t length = strlen(path + begin);
    if (length > TAIL_BYTES_MAX)
        begin += length - TAIL_BYTES_MAX;
    while (((unsigned char)path[begin] & 0xC0) == 0x80)
        begin++;
    return path + begin;
}
