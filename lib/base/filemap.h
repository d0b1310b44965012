/* filemap.h - a file mapped read-only that another process may cut short or write over.
 *
 * Reading a map behind the end of its file raises SIGBUS, which ends a process by default. Between
 * tarni_filemap_enter and tarni_filemap_leave it does not: a map that cannot be read is given up as
 * a whole, what is read from it is zeros from then on, and tarni_filemap_check says so. Whoever
 * reads a map enters first, checks after he has left, and throws away what he made if that fails.
 *
 * Any thread may enter, any number at once; a faulting thread need not be the one that entered. */
#ifndef TARN_BASE_FILEMAP_H
#define TARN_BASE_FILEMAP_H

#include "memory.h"

#include <signal.h>

typedef struct tarni_filemap {
    const uint8_t *data; /* NULL for an empty file */
    uint64_t n_bytes;
    uint64_t device, inode; /* with size and time: is it still the same file? */
    int64_t mtime_s, mtime_ns;
    int fd; /* owned: tells changes of this file from a new one under its name */
    _Atomic bool is_lost;
    struct tarni_filemap *prev, *next; /* all maps of the process */
} tarni_filemap;

/* Maps the regular file `path`; `what` names it in errors. FORMAT if it is no regular file; the
 * system's errors. */
tarn_status tarni_filemap_open(const char *path, const char *what, const tarn_allocator *allocator,
                               tarni_filemap **out, tarn_error *err);
void tarni_filemap_close(tarni_filemap *map, const tarn_allocator *allocator); /* NULL is allowed */

/* IO if the file has another size or time than when it was mapped, or the map was given up. */
tarn_status tarni_filemap_check(const tarni_filemap *map, const char *what, tarn_error *err);

/* The signal mask of the thread that entered. */
typedef struct tarni_filemap_entry {
    sigset_t mask;
} tarni_filemap_entry;

/* The handler of SIGBUS is ours while anyone is inside, and what it was before when the last has
 * left, unless the host changed it meanwhile: then the host's stays. A SIGBUS that is about none of
 * these maps goes to the handler found when the first entered, as if ours were not there. */
void tarni_filemap_enter(tarni_filemap_entry *entry);
void tarni_filemap_leave(const tarni_filemap_entry *entry);

/* For threads of our own: they take no SIGBUS mask over from a host that blocks it. */
void tarni_filemap_unblock(void);

#endif
