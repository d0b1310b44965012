/* small_disk.h - a file system of a few MiB, for tests of full disks.
 *
 * It is mounted where only this process sees it, so that tests which fill one do not meet, and it
 * goes with the process. Includes nothing but C and Linux; _GNU_SOURCE must be set. */
#ifndef TARN_TESTS_SMALL_DISK_H
#define TARN_TESTS_SMALL_DISK_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#define SMALL_DISK_REFUSED "no file system may be mounted here"

typedef struct small_disk {
    char folder[32];
    char filler[48]; /* the file small_disk_fill makes */
} small_disk;

/* False where this process may not mount one. */
static inline bool small_disk_mount(small_disk *d, unsigned mib)
{
    char options[32];
    snprintf(d->folder, sizeof d->folder, "/tmp/tarn-small-XXXXXX");
    snprintf(options, sizeof options, "size=%um,mode=700", mib);
    if (!mkdtemp(d->folder))
        return false;
    snprintf(d->filler, sizeof d->filler, "%s/filler", d->folder);
    if ((unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
        mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount("tmpfs", d->folder, "tmpfs", 0, options) == 0)
        return true;
    rmdir(d->folder);
    return false;
}

/* Writes until it is full to the last block; false if it did not get so far. */
static inline bool small_disk_fill(const small_disk *d)
{
    static const char block[4096];
    int fd = open(d->filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (fd >= 0 && write(fd, block, sizeof block) == (ssize_t)sizeof block)
        ;
    bool full = fd >= 0 && errno == ENOSPC;
    if (fd >= 0)
        close(fd);
    return full;
}

static inline bool small_disk_unmount(const small_disk *d)
{
    return umount(d->folder) == 0 && rmdir(d->folder) == 0;
}

#endif
