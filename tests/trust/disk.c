/* disk.c
 *
 * The recorder keeps writes and syncs of one file in their order. An image is built from the file
 * as it was at the start:
 *
 *     events before the last sync        applied
 *     a write with O_DSYNC that ended    its sectors are at least as new as it
 *     every other sector                 its state after any of the writes since the sync
 *
 * A sector goes through its states in the order of the writes, since the kernel writes out what its
 * page holds at the time; it never mixes two of them. The size of the file follows the sectors that
 * arrived, or is that of all. */
#include "disk.h"

#include "trust.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define IN_FRONT __attribute__((visibility("default")))

/* ---- failing -------------------------------------------------------------------------------- */

/* What is planned (disk_fault); other threads call too. */
static atomic_uint to_fail;
static atomic_ullong fail_at, n_calls;
static atomic_bool fails_for_good, is_cut;
static atomic_int fail_errno;

void disk_fail(disk_fault fault)
{
    to_fail = 0;
    n_calls = 0;
    fail_at = fault.at;
    fails_for_good = fault.for_good;
    is_cut = fault.is_short;
    fail_errno = fault.error;
    to_fail = fault.calls;
}

uint64_t disk_fail_end(void)
{
    to_fail = 0;
    return n_calls;
}

bool disk_fails(unsigned call)
{
    if (!(to_fail & call))
        return false;
    uint64_t now = n_calls++;
    if (now < fail_at || (now > fail_at && !fails_for_good))
        return false;
    errno = fail_errno;
    return true;
}

/* The bytes of a read or write that are let through; -1: it fails. */
static ssize_t let(unsigned call, size_t n)
{
    if (!disk_fails(call))
        return (ssize_t)n;
    return is_cut && n > 1 ? (ssize_t)(n / 2) : -1;
}

/* ---- recording ------------------------------------------------------------------------------ */

typedef struct event {
    uint8_t *data; /* NULL: a sync */
    size_t at, n_bytes;
    bool synced; /* by its descriptor's O_DSYNC */
} event;

static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER; /* what follows, while it is on */
static struct {
    atomic_bool on;
    dev_t device;
    ino_t inode;
    uint8_t *base;
    size_t base_bytes;
    event *events;
    size_t n_events, capacity;
} trace;

enum { FDS = 1024 };
static atomic_bool dsync_fd[FDS]; /* opened with O_DSYNC, which was left out */

static bool is_traced(int fd)
{
    struct stat info;
    return trace.on && syscall(SYS_newfstatat, fd, "", &info, AT_EMPTY_PATH) == 0 &&
           info.st_dev == trace.device && info.st_ino == trace.inode;
}

static void add_event(event e)
{
    if (trace.n_events == trace.capacity) {
        trace.capacity = trace.capacity ? 2 * trace.capacity : 256;
        trace.events = realloc(trace.events, trace.capacity * sizeof e);
        if (!trace.events)
            _exit(3);
    }
    trace.events[trace.n_events++] = e;
}

static void record_sync(int fd)
{
    pthread_mutex_lock(&recording);
    if (is_traced(fd))
        add_event((event){0});
    pthread_mutex_unlock(&recording);
}

static void record_write(int fd, size_t at, const struct iovec *parts, int n_parts, size_t n)
{
    pthread_mutex_lock(&recording);
    if (!is_traced(fd)) {
        pthread_mutex_unlock(&recording);
        return;
    }
    event e = {.data = malloc(n + 1), .at = at, .synced = fd < FDS && dsync_fd[fd]};
    for (int i = 0; i < n_parts && e.n_bytes < n; i++) {
        size_t part = parts[i].iov_len < n - e.n_bytes ? parts[i].iov_len : n - e.n_bytes;
        memcpy(e.data + e.n_bytes, parts[i].iov_base, part);
        e.n_bytes += part;
    }
    add_event(e);
    pthread_mutex_unlock(&recording);
}

static void forget(void)
{
    for (size_t i = 0; i < trace.n_events; i++)
        free(trace.events[i].data);
    trace.n_events = 0;
    free(trace.base);
    trace.base = NULL;
}

bool disk_record(const char *path)
{
    struct stat info;
    forget();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        return false;
    trace.base_bytes = (size_t)info.st_size;
    trace.base = malloc(trace.base_bytes + 1);
    bool whole = trace.base && pread(fd, trace.base, trace.base_bytes, 0) == info.st_size;
    close(fd);
    trace.device = info.st_dev;
    trace.inode = info.st_ino;
    trace.on = whole;
    return whole;
}

size_t disk_recorded(void)
{
    pthread_mutex_lock(&recording);
    size_t n = trace.n_events;
    pthread_mutex_unlock(&recording);
    return n;
}

void disk_record_end(void)
{
    pthread_mutex_lock(&recording); /* who is at it comes to its end */
    trace.on = false;
    pthread_mutex_unlock(&recording);
}

/* ---- images --------------------------------------------------------------------------------- */

static void extend(disk_image *image, size_t n_bytes)
{
    if (n_bytes > image->capacity) {
        image->capacity = n_bytes + n_bytes / 2;
        image->data = realloc(image->data, image->capacity);
        if (!image->data)
            _exit(3);
    }
    if (n_bytes > image->n_bytes)
        memset(image->data + image->n_bytes, 0, n_bytes - image->n_bytes);
    if (n_bytes > image->n_bytes)
        image->n_bytes = n_bytes;
}

static void apply(disk_image *image, const event *e, size_t from, size_t to)
{
    extend(image, e->at + to);
    memcpy(image->data + e->at + from, e->data + from, to - from);
}

/* The event whose state a sector has: one of [first, end), or first - 1 for none of them. */
static size_t arrival(uint64_t salt, unsigned eagerness, size_t sector, size_t first, size_t end)
{
    uint64_t r = salt + sector * 0x9E3779B97F4A7C15u;
    uint64_t dice = trust_random(&r) % 8;
    if (dice < eagerness)
        return end - 1;
    if (dice < 7)
        return first - 1;
    return first - 1 + (size_t)trust_below(&r, end - first + 1);
}

typedef struct choice {
    size_t first, end; /* the events a sector can be at */
    size_t sector_bytes;
    uint64_t salt;
    unsigned eagerness;
    bool lies;
} choice;

/* Whether the event at `i` arrived in this sector: chosen, or forced by a later synced write. */
static bool arrived(const choice *c, size_t i, size_t sector)
{
    if (arrival(c->salt, c->eagerness, sector, c->first, c->end) >= i)
        return true;
    for (size_t later = i; later + 1 < c->end && !c->lies; later++) {
        const event *e = &trace.events[later];
        if (e->data && e->synced && sector >= e->at / c->sector_bytes &&
            sector <= (e->at + e->n_bytes - 1) / c->sector_bytes)
            return true;
    }
    return false;
}

static void apply_sectors(disk_image *image, const choice *c, size_t i)
{
    const event *e = &trace.events[i];
    for (size_t at = e->at; at < e->at + e->n_bytes;) {
        size_t sector = at / c->sector_bytes, end = (sector + 1) * c->sector_bytes;
        if (end > e->at + e->n_bytes)
            end = e->at + e->n_bytes;
        if (arrived(c, i, sector))
            apply(image, e, at - e->at, end - e->at);
        at = end;
    }
}

/* A write of LMDB's meta page that arrives word by word: a beginning, or any of its words. */
static void apply_torn(disk_image *image, uint64_t *random, const event *e)
{
    size_t n_words = e->n_bytes / 8,
           cut = trust_below(random, 2) ? trust_below(random, n_words) : 0;
    for (size_t i = 0; i < n_words; i++)
        if (cut ? i < cut : trust_below(random, 2))
            apply(image, e, 8 * i, 8 * i + 8);
}

bool disk_image_make(uint64_t *random, size_t n_events, size_t sector_bytes, unsigned flags,
                     disk_image *out)
{
    choice c = {.first = 0, .end = n_events, .sector_bytes = sector_bytes};
    for (size_t i = 0; i + 1 < n_events && !(flags & DISK_LIES); i++)
        if (!trace.events[i].data)
            c.first = i + 1;
    c.lies = flags & DISK_LIES;
    c.salt = trust_random(random);
    c.eagerness = (unsigned)trust_below(random, 8);
    const event *last = n_events > 0 ? &trace.events[n_events - 1] : NULL;
    bool meta = last && last->data && last->at < 2 * 4096 && last->n_bytes < 512;
    if ((flags & DISK_TORN) && !meta)
        return false;
    out->n_bytes = 0;
    extend(out, trace.base_bytes);
    memcpy(out->data, trace.base, trace.base_bytes);
    size_t all_bytes = out->n_bytes;
    for (size_t i = 0; i < n_events; i++) {
        const event *e = &trace.events[i];
        if (!e->data)
            continue;
        if (e->at + e->n_bytes > all_bytes)
            all_bytes = e->at + e->n_bytes;
        if (i + 1 == n_events && (flags & DISK_TORN))
            apply_torn(out, random, e);
        else if (i < c.first)
            apply(out, e, 0, e->n_bytes);
        else
            apply_sectors(out, &c, i);
    }
    if (trust_below(random, 2))
        extend(out, all_bytes);
    return true;
}

/* ---- watching renames ----------------------------------------------------------------------- */

enum { FILES = 64 };

static struct {
    bool on;
    struct {
        dev_t device;
        ino_t inode;
        bool is_folder;
    } dirty[FILES]; /* written to, not synced; a folder: something in it was renamed */
    size_t n_dirty;
    unsigned renames, bad;
} watch;

static bool identify(int fd, const char *path, struct stat *out)
{
    return syscall(SYS_newfstatat, fd, path, out, fd == AT_FDCWD ? 0 : AT_EMPTY_PATH) == 0;
}

static size_t dirty_at(const struct stat *file)
{
    size_t i = 0;
    while (i < watch.n_dirty &&
           (watch.dirty[i].device != file->st_dev || watch.dirty[i].inode != file->st_ino))
        i++;
    return i;
}

static void set_dirty(const struct stat *file)
{
    size_t i = dirty_at(file);
    if (i == watch.n_dirty && i < FILES) {
        watch.dirty[i].device = file->st_dev;
        watch.dirty[i].inode = file->st_ino;
        watch.dirty[i].is_folder = S_ISDIR(file->st_mode);
        watch.n_dirty++;
    }
}

static void set_clean(const struct stat *file)
{
    size_t i = dirty_at(file);
    if (i < watch.n_dirty)
        watch.dirty[i] = watch.dirty[--watch.n_dirty];
}

static void watch_fd(int fd, bool written)
{
    struct stat file;
    if (!watch.on || !identify(fd, "", &file))
        return;
    if (!written)
        set_clean(&file);
    else if (S_ISREG(file.st_mode) && !(fd < FDS && dsync_fd[fd]))
        set_dirty(&file);
}

/* A store's folder is renamed as a whole: then it is data.mdb that counts. */
static void watch_rename(const char *from, const char *to)
{
    struct stat file;
    char path[4200];
    if (!watch.on || !identify(AT_FDCWD, from, &file))
        return;
    watch.renames++;
    if (S_ISDIR(file.st_mode)) {
        watch.bad += dirty_at(&file) < watch.n_dirty;
        snprintf(path, sizeof path, "%s/data.mdb", from);
        if (!identify(AT_FDCWD, path, &file))
            return;
    }
    watch.bad += dirty_at(&file) < watch.n_dirty;
    snprintf(path, sizeof path, "%s", to);
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    if (identify(AT_FDCWD, slash ? path : ".", &file))
        set_dirty(&file);
}

void disk_watch(void)
{
    watch.n_dirty = watch.renames = watch.bad = 0;
    watch.on = true;
}

void disk_watch_end(unsigned *renames, unsigned *bad)
{
    watch.on = false;
    *renames = watch.renames;
    *bad = watch.bad;
    for (size_t i = 0; i < watch.n_dirty; i++)
        *bad += watch.dirty[i].is_folder;
}

/* ---- in front of the C library --------------------------------------------------------------- */

IN_FRONT int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? (mode_t)va_arg(args, int) : 0;
    va_end(args);
    if (disk_fails(DISK_OPEN))
        return -1;
    bool dsync = (flags & O_DSYNC) == O_DSYNC;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags & ~O_DSYNC, mode);
    if (fd >= 0 && fd < FDS)
        dsync_fd[fd] = dsync;
    return fd;
}

IN_FRONT int mkdir(const char *path, mode_t mode)
{
    return disk_fails(DISK_OPEN) ? -1 : (int)syscall(SYS_mkdir, path, mode);
}

IN_FRONT ssize_t read(int fd, void *data, size_t n)
{
    ssize_t some = let(DISK_READ, n);
    return some < 0 ? -1 : syscall(SYS_read, fd, data, (size_t)some);
}

IN_FRONT ssize_t pread(int fd, void *data, size_t n, off_t at)
{
    ssize_t some = let(DISK_READ, n);
    return some < 0 ? -1 : syscall(SYS_pread64, fd, data, (size_t)some, at);
}

IN_FRONT ssize_t write(int fd, const void *data, size_t n)
{
    ssize_t some = let(DISK_WRITE, n);
    if (some < 0)
        return -1;
    watch_fd(fd, true);
    if (trace.on) {
        const struct iovec part = {(void *)(uintptr_t)data, (size_t)some};
        record_write(fd, (size_t)lseek(fd, 0, SEEK_CUR), &part, 1, (size_t)some);
    }
    return syscall(SYS_write, fd, data, (size_t)some);
}

IN_FRONT ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    ssize_t some = let(DISK_WRITE, n);
    if (some < 0)
        return -1;
    watch_fd(fd, true);
    if (trace.on) {
        const struct iovec part = {(void *)(uintptr_t)data, (size_t)some};
        record_write(fd, (size_t)at, &part, 1, (size_t)some);
    }
    return syscall(SYS_pwrite64, fd, data, (size_t)some, at);
}

IN_FRONT ssize_t writev(int fd, const struct iovec *parts, int n_parts)
{
    size_t n = 0;
    for (int i = 0; i < n_parts; i++)
        n += parts[i].iov_len;
    ssize_t some = let(DISK_WRITE, n);
    if (some < 0)
        return -1;
    watch_fd(fd, true);
    if ((size_t)some < n) /* the first part of it alone */
        return syscall(SYS_write, fd, parts[0].iov_base, (parts[0].iov_len + 1) / 2);
    if (trace.on)
        record_write(fd, (size_t)lseek(fd, 0, SEEK_CUR), parts, n_parts, n);
    return syscall(SYS_writev, fd, parts, n_parts);
}

static int sync_call(int fd)
{
    if (disk_fails(DISK_SYNC))
        return -1;
    if (trace.on)
        record_sync(fd);
    watch_fd(fd, false);
    return 0;
}

IN_FRONT int fsync(int fd)
{
    return sync_call(fd);
}

IN_FRONT int fdatasync(int fd)
{
    return sync_call(fd);
}

IN_FRONT void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    if (fd >= 0 && disk_fails(DISK_MAP))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}

IN_FRONT int ftruncate(int fd, off_t n)
{
    return disk_fails(DISK_SIZE) ? -1 : (int)syscall(SYS_ftruncate, fd, n);
}

IN_FRONT int fallocate(int fd, int mode, off_t at, off_t n)
{
    return disk_fails(DISK_SIZE) ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, n);
}

IN_FRONT int rename(const char *from, const char *to)
{
    if (disk_fails(DISK_NAME))
        return -1;
    watch_rename(from, to);
    return (int)syscall(SYS_rename, from, to);
}

IN_FRONT int stat(const char *path, struct stat *out)
{
    return disk_fails(DISK_LOOK) ? -1 : (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, 0);
}

IN_FRONT int fstat(int fd, struct stat *out)
{
    return disk_fails(DISK_LOOK) ? -1 : (int)syscall(SYS_newfstatat, fd, "", out, AT_EMPTY_PATH);
}

IN_FRONT int statfs(const char *path, struct statfs *out)
{
    return disk_fails(DISK_LOOK) ? -1 : (int)syscall(SYS_statfs, path, out);
}

#if !SANITIZED /* a sanitizer has its own */
/* Names of the C library for its own functions. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *memory, size_t n);
extern void *__libc_memalign(size_t alignment, size_t n);

IN_FRONT void *malloc(size_t n)
{
    return disk_fails(DISK_MEMORY) ? NULL : __libc_malloc(n);
}

IN_FRONT void *calloc(size_t n, size_t size)
{
    return disk_fails(DISK_MEMORY) ? NULL : __libc_calloc(n, size);
}

IN_FRONT void *realloc(void *memory, size_t n)
{
    return disk_fails(DISK_MEMORY) ? NULL : __libc_realloc(memory, n);
}

IN_FRONT int posix_memalign(void **out, size_t alignment, size_t n)
{
    if (disk_fails(DISK_MEMORY))
        return ENOMEM;
    *out = __libc_memalign(alignment, n);
    return *out ? 0 : ENOMEM;
}
#endif
