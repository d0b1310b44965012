/* store_folder.h - a folder for one store, below TMPDIR or /tmp. */
#ifndef TARN_TESTS_STORE_FOLDER_H
#define TARN_TESTS_STORE_FOLDER_H

#include "fuzz_input.h"

#include <unistd.h>

typedef struct fuzz_folder {
    char path[200];
    char store[220]; /* in it, not made yet */
} fuzz_folder;

static inline void fuzz_folder_make(fuzz_folder *f)
{
    const char *base = getenv("TMPDIR");
    snprintf(f->path, sizeof f->path, "%s/tarn-fuzz-XXXXXX", base ? base : "/tmp");
    FUZZ_CHECK(mkdtemp(f->path), "%s", f->path);
    snprintf(f->store, sizeof f->store, "%s/store", f->path);
}

static inline void fuzz_folder_file(const fuzz_folder *f, const char *name, char out[260])
{
    snprintf(out, 260, "%s/%s", f->store, name);
}

/* Removes the store; what is not of a store stays in the way. */
static inline void fuzz_folder_empty(const fuzz_folder *f)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", "reserve", "scratch", "clean"};
    char file[260];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        fuzz_folder_file(f, files[i], file);
        unlink(file);
    }
    rmdir(f->store);
}

static inline void fuzz_folder_remove(const fuzz_folder *f)
{
    fuzz_folder_empty(f);
    FUZZ_CHECK(rmdir(f->path) == 0, "%s is not empty", f->path);
}

#endif
