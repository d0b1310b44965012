/* folder.c
 *
 * The lock of a scratch store: whoever opens it tries to lock alone. Who succeeds is the only one:
 * without the mark `clean` the contents are of an unclean stop. The mark is put under the lock of
 * one and taken away by everyone who has got a lock (one may have waited while the last one left),
 * so it is there only while nobody has written anything after it. These are locks of the open file,
 * not of the process: a process that dies leaves them, a second handle in one process does not drop
 * them, and turning one into the other is one step, which flock's are not.
 *
 * The reserve is real blocks (fallocate), not a sparse file; file systems that cannot promise
 * blocks get none. */
#include "folder.h"

#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESERVE_BYTES ((off_t)4 << 20)
#define RESERVE_LEAST ((off_t)256 << 10) /* what is left on a full disk is better than nothing */
#define FILE_BYTES    (TARNP_PATH_BYTES + 32)

static void file_path(char out[FILE_BYTES], const char *folder, const char *name)
{
    snprintf(out, FILE_BYTES, "%s/%s", folder, name);
}

void tarnp_streams_take(int taken[TARNP_STREAMS])
{
    for (int i = 0; i < TARNP_STREAMS; i++) {
        bool closed = fcntl(i, F_GETFD) < 0 && errno == EBADF;
        taken[i] = closed ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;
    }
}

void tarnp_streams_release(const int taken[TARNP_STREAMS])
{
    for (int i = 0; i < TARNP_STREAMS; i++)
        if (taken[i] >= 0)
            close(taken[i]);
}

tarn_status tarnp_folder_sync(const char *folder, tarn_error *err)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", folder);
    int failed = fsync(fd) != 0 ? errno : 0;
    close(fd);
    return failed ? tarni_fail_errno(err, failed, "%s: cannot sync", folder) : TARN_OK;
}

tarn_status tarnp_folder_sync_parent(const char *path, tarn_error *err)
{
    char parent[TARNP_PATH_BYTES];
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (!slash)
        return tarnp_folder_sync(".", err);
    slash[slash == parent ? 1 : 0] = 0;
    return tarnp_folder_sync(parent, err);
}

tarn_status tarnp_path_clean(const char *path, char out[TARNP_PATH_BYTES], tarn_error *err)
{
    size_t n = path ? strlen(path) : 0;
    if (n == 0 || n > TARNP_PATH_BYTES - 32)
        return tarni_fail(err, TARN_E_INVALID, "the store's path has %zu bytes, the limit is %d", n,
                          TARNP_PATH_BYTES - 32);
    while (n > 1 && path[n - 1] == '/')
        n--;
    memcpy(out, path, n);
    out[n] = 0;
    return TARN_OK;
}

tarn_status tarnp_path_whole(const char *clean, char out[TARNP_PATH_BYTES], tarn_error *err)
{
    size_t n = 0;
    out[0] = 0;
    if (clean[0] != '/') {
        if (!getcwd(out, TARNP_PATH_BYTES))
            return tarni_fail_errno(err, errno, "%s: the working folder", clean);
        n = strlen(out);
    }
    const size_t all = n + (n > 0) + strlen(clean);
    if (all > TARNP_PATH_BYTES - 32)
        return tarni_fail(err, TARN_E_INVALID, "the store's path has %zu bytes, the limit is %d",
                          all, TARNP_PATH_BYTES - 32);
    snprintf(out + n, TARNP_PATH_BYTES - n, "%s%s", n > 0 ? "/" : "", clean);
    return TARN_OK;
}

void tarnp_folder_remove(const char *folder)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", "reserve", "scratch", "clean"};
    char file[FILE_BYTES];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        file_path(file, folder, files[i]);
        unlink(file);
    }
    rmdir(folder);
}

/* ---- room ----------------------------------------------------------------------------------- */

void tarnp_reserve_make(const char *folder)
{
    char file[FILE_BYTES];
    struct stat info;
    file_path(file, folder, "reserve");
    if (stat(file, &info) == 0 && (off_t)info.st_blocks * 512 >= RESERVE_BYTES)
        return;
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    int failed = -1;
    for (off_t size = RESERVE_BYTES; failed && size >= RESERVE_LEAST; size /= 2)
        if (ftruncate(fd, 0) == 0)
            failed = fallocate(fd, 0, 0, size);
    close(fd);
    if (failed)
        unlink(file);
}

static void move_end(tarnp_store *store, bool lend)
{
    tarn_error err;
    if (tarnp_tables_reserve(store->tables, lend, &err) != TARN_OK)
        TARNI_LOG(&store->log, TARN_LOG_WARN, "%s", err.detail);
}

void tarnp_room_lend(tarnp_store *store)
{
    char file[FILE_BYTES];
    file_path(file, store->path, "reserve");
    if (unlink(file) == 0)
        TARNI_LOG(&store->log, TARN_LOG_INFO, "%s: the disk is full, the reserve is used",
                  store->path);
    move_end(store, true);
}

void tarnp_room_return(tarnp_store *store)
{
    move_end(store, false);
    tarnp_reserve_make(store->path);
}

/* ---- scratch stores ------------------------------------------------------------------------- */

static tarn_status make_file(const char *folder, const char *name, tarn_error *err)
{
    char file[FILE_BYTES];
    file_path(file, folder, name);
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", file);
    close(fd);
    return TARN_OK;
}

bool tarnp_scratch_is(const char *folder)
{
    char file[FILE_BYTES];
    file_path(file, folder, "scratch");
    return access(file, F_OK) == 0;
}

tarn_status tarnp_scratch_mark(const char *folder, tarn_error *err)
{
    TARNI_TRY(make_file(folder, "scratch", err));
    return make_file(folder, "clean", err);
}

/* False where another has a lock that is in the way; with `wait` only on an error. */
static bool lock_file(int fd, short kind, bool wait)
{
    struct flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_len = 1};
    int failed;
    do {
        failed = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
    } while (failed && errno == EINTR);
    return !failed;
}

static tarn_status take_mark(const char *folder, bool *was_there, tarn_error *err)
{
    char file[FILE_BYTES];
    file_path(file, folder, "clean");
    *was_there = unlink(file) == 0;
    if (!*was_there)
        return errno == ENOENT ? TARN_OK : tarni_fail_errno(err, errno, "%s", file);
    return tarnp_folder_sync(folder, err);
}

tarn_status tarnp_scratch_lock(const char *folder, bool wanted, int *fd, bool *unclean,
                               tarn_error *err)
{
    char file[FILE_BYTES];
    *unclean = false;
    file_path(file, folder, "scratch");
    *fd = open(file, O_RDWR | O_CLOEXEC);
    if (*fd < 0 && errno != ENOENT)
        return tarni_fail_errno(err, errno, "%s", file);
    if ((*fd >= 0) != wanted) {
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
        return tarni_fail(err, TARN_E_INVALID, "%s is %s scratch store and was opened as %s",
                          folder, wanted ? "no" : "a", wanted ? "one" : "another");
    }
    if (!wanted)
        return TARN_OK;
    bool clean = true, alone = lock_file(*fd, F_WRLCK, false);
    tarn_status status = alone ? TARN_OK : tarnp_scratch_share(folder, *fd, err);
    if (status == TARN_OK)
        status = take_mark(folder, &clean, err);
    *unclean = status == TARN_OK && alone && !clean;
    if (status == TARN_OK && alone && clean)
        status = tarnp_scratch_share(folder, *fd, err);
    if (status != TARN_OK) {
        close(*fd);
        *fd = -1;
    }
    return status;
}

tarn_status tarnp_scratch_share(const char *folder, int fd, tarn_error *err)
{
    return lock_file(fd, F_RDLCK, true) ? TARN_OK
                                        : tarni_fail_errno(err, errno, "%s: cannot lock", folder);
}

void tarnp_scratch_leave(const char *folder, int fd, bool synced)
{
    tarn_error ignored;
    if (fd < 0)
        return;
    if (synced && lock_file(fd, F_WRLCK, false) && make_file(folder, "clean", &ignored) == TARN_OK)
        (void)tarnp_folder_sync(folder, &ignored);
    close(fd);
}
