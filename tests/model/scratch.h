/* scratch.h - a temporary folder, and an allocator that fails the Nth call and counts leaks. */
#ifndef TARN_TESTS_MODEL_SCRATCH_H
#define TARN_TESTS_MODEL_SCRATCH_H

#include "check.h"
#include "memory.h"

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct scratch {
    char dir[64];
    char path[256]; /* of scratch_path */
} scratch;

static inline bool scratch_make(scratch *s)
{
    snprintf(s->dir, sizeof s->dir, "/tmp/tarn-model-XXXXXX");
    return mkdtemp(s->dir) != NULL;
}

static inline const char *scratch_path(scratch *s, const char *name)
{
    snprintf(s->path, sizeof s->path, "%s/%s", s->dir, name);
    return s->path;
}

static inline void scratch_write(scratch *s, const char *name, const void *data, size_t n_bytes)
{
    FILE *file = fopen(scratch_path(s, name), "wb");
    if (!file || fwrite(data, 1, n_bytes, file) != n_bytes)
        CHECK_FAIL("%s could not be written", s->path);
    if (file && fclose(file) != 0)
        CHECK_FAIL("%s could not be closed", s->path);
}

/* The whole file with a NUL behind it, to be freed; NULL after a failed check. */
static inline char *scratch_read(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    *n_bytes = 0;
    if (!file) {
        CHECK_FAIL("%s could not be opened", path);
        return NULL;
    }
    fseek(file, 0, SEEK_END);
    *n_bytes = (size_t)ftell(file);
    rewind(file);
    char *data = calloc(*n_bytes + 1, 1);
    if (data && fread(data, 1, *n_bytes, file) != *n_bytes)
        CHECK_FAIL("%s could not be read", path);
    fclose(file);
    return data;
}

static inline int scratch_remove_one(const char *path, const struct stat *info, int type,
                                     struct FTW *place)
{
    (void)info;
    (void)type;
    (void)place;
    return remove(path);
}

static inline void scratch_remove(scratch *s)
{
    nftw(s->dir, scratch_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

typedef struct failing {
    long calls_left; /* calls that succeed */
    long blocks;     /* not yet released */
} failing;

static inline void *failing_alloc(void *user, size_t n_bytes)
{
    failing *f = user;
    if (f->calls_left-- <= 0)
        return NULL;
    f->blocks++;
    return malloc(n_bytes);
}

static inline void *failing_resize(void *user, void *memory, size_t n_bytes)
{
    failing *f = user;
    if (f->calls_left-- <= 0)
        return NULL;
    f->blocks += memory == NULL;
    return realloc(memory, n_bytes);
}

static inline void failing_release(void *user, void *memory)
{
    failing *f = user;
    f->blocks -= memory != NULL;
    free(memory);
}

static inline tarn_allocator failing_allocator(failing *f)
{
    return (tarn_allocator){failing_alloc, failing_resize, failing_release, f};
}

#endif
