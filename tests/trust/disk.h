/* disk.h - the C library's calls on files and memory, counted, failed and recorded.
 *
 * disk.c defines functions of the C library's names, which so stand in front of them for this
 * program and every library in it. By itself it changes nothing but that syncs are left out: what
 * a test needs of them is their order, not the wait. */
#ifndef TARN_TESTS_DISK_H
#define TARN_TESTS_DISK_H

#include "sanitized.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- failing -------------------------------------------------------------------------------- */

enum {
    DISK_OPEN = 1,     /* open, mkdtemp, mkdir */
    DISK_READ = 2,     /* read, pread */
    DISK_WRITE = 4,    /* write, pwrite, writev */
    DISK_SYNC = 8,     /* fsync, fdatasync */
    DISK_MAP = 16,     /* mmap of a file */
    DISK_SIZE = 32,    /* ftruncate, fallocate */
    DISK_NAME = 64,    /* rename, link */
    DISK_LOOK = 128,   /* stat, fstat, statfs */
    DISK_MEMORY = 256, /* malloc, calloc, realloc, posix_memalign of any library */
    DISK_TABLES = 512, /* LMDB (below.c) */
    DISK_START = 1024  /* pthread_create, sodium_init (below.c) */
};

typedef struct disk_fault {
    unsigned calls; /* of these kinds; 0: nothing fails */
    uint64_t at;    /* the call that fails, from 0 */
    bool for_good;  /* and all after */
    bool is_short;  /* reads and writes are not refused but cut to half; of one byte: refused */
    int error;      /* errno */
} disk_fault;

/* From now on; counts calls from 0 again. */
void disk_fail(disk_fault fault);
/* Calls of these kinds since then. Ends the failing. */
uint64_t disk_fail_end(void);
/* Counts a call; whether it is one to fail, with errno set. */
bool disk_fails(unsigned call);

/* ---- recording ------------------------------------------------------------------------------ */

/* Records what is written to this file from now on, which holds what it holds. The file is the
 * one there now (by its inode). */
bool disk_record(const char *path);
size_t disk_recorded(void); /* writes and syncs so far */
void disk_record_end(void); /* nothing more is recorded; images can be made */

typedef struct disk_image {
    uint8_t *data; /* owned: free */
    size_t n_bytes, capacity;
} disk_image;

enum {
    DISK_TORN = 1, /* the last write, if it is of a meta page, arrives in part even of a sector */
    DISK_LIES = 2  /* syncs did nothing */
};

/* What the file may be after a power cut during the last of the first n_events events: everything
 * a sync came after, what was written through a descriptor with O_DSYNC, and of the rest for each
 * sector of sector_bytes any state it has had since. False with DISK_TORN where the last event is
 * no write of a meta page. */
bool disk_image_make(uint64_t *random, size_t n_events, size_t sector_bytes, unsigned flags,
                     disk_image *out);

/* ---- watching renames ----------------------------------------------------------------------- */

/* From now on: what was written to and not synced may not be renamed, and after a rename its folder
 * must be synced. */
void disk_watch(void);
/* Ends it: how many renames there were, and how many were not as they should be. */
void disk_watch_end(unsigned *renames, unsigned *bad);

#endif
