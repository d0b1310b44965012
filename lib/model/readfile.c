#include "readfile.h"
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static tarn_status read_open_file(int fd, const char *name, size_t n_bytes_max,
                                  const tarn_allocator *allocator, char **out, size_t *n_bytes,
                                  tarn_error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return tarni_fail_errno(err, errno, "%s", name);
    if (!S_ISREG(info.st_mode))
        return tarni_fail(err, TARN_E_FORMAT, "%s: is no regular file", name);
    if (info.st_size < 0 || (uint64_t)info.st_size > n_bytes_max)
        return tarni_fail(err, TARN_E_FORMAT, "%s: is %lld bytes, the limit is %zu", name,
                          (long long)info.st_size, n_bytes_max);
    size_t size = (size_t)info.st_size, at = 0;
    char *data;
    TARNI_TRY(tarni_alloc(allocator, size + 1, 1, &data, err));
    while (at < size) {
        ssize_t got = read(fd, data + at, size - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            tarn_status status =
                got < 0
                    ? tarni_fail_errno(err, errno, "%s", name)
                    : tarni_fail(err, TARN_E_FORMAT, "%s: ends at byte %zu of %zu", name, at, size);
            tarni_free(allocator, data);
            return status;
        }
        at += (size_t)got;
    }
    *out = data;
    *n_bytes = size;
    return TARN_OK;
}

tarn_status tarni_read_file(const char *path, size_t n_bytes_max, const tarn_allocator *allocator,
                            char **out, size_t *n_bytes, tarn_error *err)
{
    *out = NULL;
    *n_bytes = 0;
    /* Not blocking: opening a FIFO nobody writes to must fail here, not hang. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", tarni_path_tail(path));
    tarn_status status =
        read_open_file(fd, tarni_path_tail(path), n_bytes_max, allocator, out, n_bytes, err);
    close(fd);
    return status;
}
