/* api_move.c - sessions into files and back, and whole stores rescued or compacted.
 *
 * The store knows streams only. The two functions that take a path are its first users: a file is
 * written under another name beside its own and renamed when it is whole and on disk. */
#include "api.h"
#include "bundle.h"
#include "compact.h"
#include "salvage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4096

/* ---- files ---------------------------------------------------------------------------------- */

typedef struct file {
    const char *path;
    int fd;
} file;

static tarn_status write_file(void *user, const void *data, size_t n_bytes, tarn_error *err)
{
    const file *f = user;
    const uint8_t *at = data;
    while (n_bytes > 0) {
        ssize_t n = write(f->fd, at, n_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return tarni_fail_errno(err, errno, "%s", f->path);
        at += n;
        n_bytes -= (size_t)n;
    }
    return TARN_OK;
}

static tarn_status read_file(void *user, void *data, size_t n_bytes, size_t *n_read,
                             tarn_error *err)
{
    const file *f = user;
    ssize_t n;
    do
        n = read(f->fd, data, n_bytes);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return tarni_fail_errno(err, errno, "%s", f->path);
    *n_read = (size_t)n;
    return TARN_OK;
}

/* The name is on disk only when its folder is. */
static tarn_status sync_parent(const char *path, tarn_error *err)
{
    char parent[PATH_BYTES];
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash)
        slash[slash == parent] = 0;
    int fd = open(slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", path);
    int failed = fsync(fd) != 0 ? errno : 0;
    close(fd);
    return failed ? tarni_fail_errno(err, failed, "%s: cannot sync its folder", path) : TARN_OK;
}

/* ---- export and import ---------------------------------------------------------------------- */

static tarn_status move_options(const tarn_move_options *given, tarn_move_options *out,
                                tarn_error *err)
{
    return tarni_api_options(out, sizeof *out, given, "tarn_move_options", err);
}

static tarn_status describe(tarnp_store *store, const char *session, tarn_at *at, tarn_error *err)
{
    tarnp_session s;
    tarnp_node node;
    if (!at)
        return TARN_OK;
    TARNI_TRY(tarnp_session_find(store, session, &s, err));
    tarn_status status = tarnp_node_read(store, s.head, &node, err);
    if (status == TARN_OK) {
        *at = (tarn_at){
            .node = s.head, .position = s.position, .bit_exact = node.flags & TARNP_NODE_BIT_EXACT};
        memcpy(at->session, s.name, sizeof at->session);
        tarnp_node_fini(&node);
    }
    tarnp_session_fini(&s);
    return status;
}

tarn_status tarn_store_export(tarn_store *store, const char *session, tarn_write_fn write_fn,
                              void *write_user, const tarn_move_options *options, tarn_at *at,
                              uint64_t *bytes, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(at);
    TARNI_API_CLEAR(bytes);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    TARNI_API_REQUIRE(write_fn);
    tarn_move_options o;
    tarn_at found;
    uint64_t n_bytes;
    TARNI_TRY(move_options(options, &o, err));
    tarni_api_enter(store);
    tarn_status status = describe(store->store, session, at ? &found : NULL, err);
    if (status == TARN_OK)
        status = tarnp_export(store->store, session, write_fn, write_user, o.progress, o.user,
                              &n_bytes, err);
    TARNI_TRY(tarni_api_leave(store, status));
    if (at)
        *at = found;
    if (bytes)
        *bytes = n_bytes;
    return TARN_OK;
}

/* A pipe or a device is written to, not replaced. */
static tarn_status export_to_device(tarn_store *store, const char *session, const char *path,
                                    const tarn_move_options *options, tarn_at *at, uint64_t *bytes,
                                    tarn_error *err)
{
    file f = {path, open(path, O_WRONLY | O_CLOEXEC)};
    if (f.fd < 0)
        return tarni_fail_errno(err, errno, "%s", path);
    tarn_status status = tarn_store_export(store, session, write_file, &f, options, at, bytes, err);
    if (close(f.fd) != 0 && status == TARN_OK)
        status = tarni_fail_errno(err, errno, "%s", path);
    return status;
}

tarn_status tarn_store_export_file(tarn_store *store, const char *session, const char *path,
                                   const tarn_move_options *options, tarn_at *at, uint64_t *bytes,
                                   tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(at);
    TARNI_API_CLEAR(bytes);
    TARNI_API_REQUIRE(path);
    char draft[PATH_BYTES];
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return export_to_device(store, session, path, options, at, bytes, err);
    int n = snprintf(draft, sizeof draft, "%s.XXXXXX", path);
    if (n < 0 || (size_t)n >= sizeof draft)
        return tarni_fail(err, TARN_E_INVALID, "the path is longer than %d bytes", PATH_BYTES);
    file f = {path, mkostemp(draft, O_CLOEXEC)};
    if (f.fd < 0)
        return tarni_fail_errno(err, errno, "%s", path);
    tarn_status status = tarn_store_export(store, session, write_file, &f, options, at, bytes, err);
    if (status == TARN_OK && fsync(f.fd) != 0)
        status = tarni_fail_errno(err, errno, "%s", path);
    if (close(f.fd) != 0 && status == TARN_OK)
        status = tarni_fail_errno(err, errno, "%s", path);
    if (status == TARN_OK && rename(draft, path) != 0)
        status = tarni_fail_errno(err, errno, "%s", path);
    if (status != TARN_OK) {
        unlink(draft);
        return status;
    }
    return sync_parent(path, err);
}

tarn_status tarn_store_import(tarn_store *store, tarn_read_fn read_fn, void *read_user,
                              const char *new_name, const tarn_move_options *options, tarn_at *at,
                              uint64_t *bytes, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(at);
    TARNI_API_CLEAR(bytes);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(read_fn);
    tarn_move_options o;
    tarnp_session made;
    uint64_t n_bytes;
    TARNI_TRY(move_options(options, &o, err));
    tarni_api_enter(store);
    tarn_status status = tarnp_import(store->store, read_fn, read_user, new_name, o.progress,
                                      o.user, &made, &n_bytes, err);
    if (status == TARN_OK) {
        status = describe(store->store, made.name, at, err);
        tarnp_session_fini(&made);
    } else {
        n_bytes = 0;
    }
    tarni_api_leave(store, status);
    if (bytes)
        *bytes = n_bytes;
    return status;
}

tarn_status tarn_store_import_file(tarn_store *store, const char *path, const char *new_name,
                                   const tarn_move_options *options, tarn_at *at, uint64_t *bytes,
                                   tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(at);
    TARNI_API_CLEAR(bytes);
    TARNI_API_REQUIRE(path);
    file f = {path, open(path, O_RDONLY | O_CLOEXEC)};
    if (f.fd < 0)
        return tarni_fail_errno(err, errno, "%s", path);
    tarn_status status = tarn_store_import(store, read_file, &f, new_name, options, at, bytes, err);
    close(f.fd);
    return status;
}

/* ---- whole stores --------------------------------------------------------------------------- */

static tarn_status store_options(const tarn_store_options *given, tarnp_options *out,
                                 tarn_error *err)
{
    tarn_store_options o;
    TARNI_TRY(tarni_api_options(&o, sizeof o, given, "tarn_store_options", err));
    *out = (tarnp_options){.allocator = o.allocator,
                           .log = o.log,
                           .map_bytes = (size_t)o.map_bytes,
                           .secret = o.key,
                           .secret_bytes = o.key_bytes};
    return TARN_OK;
}

tarn_status tarn_store_salvage(const char *path, const char *out_path,
                               const tarn_store_options *options, const tarn_move_options *move,
                               tarn_salvage_report *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(path);
    TARNI_API_REQUIRE(out_path);
    TARNI_API_REQUIRE(out);
    tarnp_options o;
    tarn_move_options m;
    tarnp_salvaged found;
    TARNI_TRY(store_options(options, &o, err));
    TARNI_TRY(move_options(move, &m, err));
    TARNI_TRY(tarnp_salvage(path, out_path, &o, m.progress, m.user, &found, err));
    tarn_salvage_report report = {.size = out->size,
                                  .saved = found.saved,
                                  .lost = found.lost,
                                  .without_state = found.without_state};
    tarni_api_result(out, &report, sizeof report);
    return TARN_OK;
}

tarn_status tarn_store_compact(const char *path, const tarn_store_options *options,
                               const tarn_move_options *move, uint64_t *bytes_before,
                               uint64_t *bytes_after, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(bytes_before);
    TARNI_API_CLEAR(bytes_after);
    TARNI_API_REQUIRE(path);
    tarnp_options o;
    tarn_move_options m;
    uint64_t before, after;
    TARNI_TRY(store_options(options, &o, err));
    TARNI_TRY(move_options(move, &m, err));
    TARNI_TRY(tarnp_compact(path, &o, m.progress, m.user, &before, &after, err));
    if (bytes_before)
        *bytes_before = before;
    if (bytes_after)
        *bytes_after = after;
    return TARN_OK;
}
