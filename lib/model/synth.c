/* synth.c - writing a synthetic checkpoint to disk.
 *
 * The list of tensors is planned first: sizes, shards, headers and the disk's free space are known
 * before the first byte. Then each tensor is drawn and written a block at a time, so memory stays
 * at one block however large the model. Each file is written as NAME.part and renamed; config.json
 * comes last, so a folder that has one has everything. Nothing is synced: the files can be written
 * again by the same call. */
#include "synth.h"
#include "draw.h"
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SHARD_BYTES  (UINT64_C(1) << 30)
#define BLOCK_BYTES  ((size_t)1 << 20)
#define SINGLE_NAME  "model.safetensors"
#define INDEX_NAME   "model.safetensors.index.json"
#define CONFIG_NAME  "config.json"
#define HEADER_GUESS 300 /* bytes of header and index for one tensor */

typedef struct planned {
    tarni_tensor tensor;
    uint64_t n_bytes;
    uint32_t shard_idx;
} planned;

typedef struct synth {
    const char *dir;
    const tarni_spec *spec;
    const tarni_synth_options *options;
    const tarn_allocator *allocator;
    planned *plan; /* owned */
    size_t n_plan, plan_capacity;
    uint32_t n_shards;
    uint64_t shard_bytes; /* of the last shard, while planning */
    uint64_t file_bytes;  /* of the largest shard */
    uint64_t all_bytes, done_bytes;
    uint8_t *block; /* owned, BLOCK_BYTES */
    int dir_fd;
    tarn_error *err;
} synth;

static tarn_status plan_tensor(void *user, const tarni_tensor *tensor)
{
    synth *s = user;
    uint64_t n_bytes = tensor->dtype == TARNK_BF16 ? 2 : 4;
    uint64_t limit = s->options->shard_bytes > 0 ? s->options->shard_bytes : SHARD_BYTES;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        n_bytes *= tensor->dims[i];
    TARNI_TRY(tarni_grow(s->allocator, &s->plan, &s->plan_capacity, s->n_plan + 1, sizeof *s->plan,
                         s->err));
    if (s->n_shards == 0 || (s->shard_bytes > 0 && s->shard_bytes + n_bytes > limit)) {
        s->n_shards++;
        s->shard_bytes = 0;
    }
    s->plan[s->n_plan++] =
        (planned){.tensor = *tensor, .n_bytes = n_bytes, .shard_idx = s->n_shards - 1};
    s->shard_bytes += n_bytes;
    if (s->shard_bytes > s->file_bytes)
        s->file_bytes = s->shard_bytes;
    return TARN_OK;
}

static void shard_name(const synth *s, uint32_t shard_idx, char out[64])
{
    if (s->n_shards == 1)
        snprintf(out, 64, SINGLE_NAME);
    else
        snprintf(out, 64, "model-%05u-of-%05u.safetensors", shard_idx + 1, s->n_shards);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static void put_format(tarni_writer *out, const char *format, ...) TARN_PRINTF(2, 3);

static void put_format(tarni_writer *out, const char *format, ...)
{
    char text[384];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    TARN_ASSERT(length >= 0 && (size_t)length < sizeof text);
    tarni_put_bytes(out, text, (size_t)length);
}

/* The length and JSON header of the shard whose first planned tensor is `first`. */
static void put_header(tarni_writer *out, const synth *s, size_t first)
{
    uint64_t at = 0;
    tarni_put_u64(out, 0);
    put_format(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = first; i < s->n_plan && s->plan[i].shard_idx == s->plan[first].shard_idx; i++) {
        const tarni_tensor *t = &s->plan[i].tensor;
        put_format(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name,
                   t->dtype == TARNK_BF16 ? "BF16" : "F32");
        for (uint32_t d = 0; d < t->n_dims; d++)
            put_format(out, "%s%u", d > 0 ? "," : "", t->dims[d]);
        put_format(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                   (unsigned long long)(at + s->plan[i].n_bytes));
        at += s->plan[i].n_bytes;
    }
    put_format(out, "}");
    while (!out->failed && out->n_bytes % 8 != 0)
        put_format(out, " ");
    if (!out->failed)
        tarni_store_u64(out->data, out->n_bytes - 8);
}

static void put_index(tarni_writer *out, const synth *s)
{
    char file[64];
    put_format(out, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
               (unsigned long long)s->all_bytes);
    for (size_t i = 0; i < s->n_plan; i++) {
        shard_name(s, s->plan[i].shard_idx, file);
        put_format(out, "%s\n    \"%s\": \"%s\"", i > 0 ? "," : "", s->plan[i].tensor.name, file);
    }
    put_format(out, "\n  }\n}\n");
}

/* ---- files ----------------------------------------------------------------------------------- */

static tarn_status fail_file(const synth *s, const char *name)
{
    return tarni_fail_errno(s->err, errno, "%s/%s", tarni_path_tail(s->dir), name);
}

static tarn_status write_all(const synth *s, int fd, const char *name, const uint8_t *data,
                             size_t n_bytes)
{
    while (n_bytes > 0) {
        ssize_t done = write(fd, data, n_bytes);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return fail_file(s, name);
        data += done;
        n_bytes -= (size_t)done;
    }
    return TARN_OK;
}

static tarn_status write_tensor(synth *s, int fd, const char *name, const planned *p)
{
    tarni_draw draw;
    size_t item = p->tensor.dtype == TARNK_BF16 ? 2 : 4;
    tarni_draw_init(&draw, s->options->seed, s->spec, &p->tensor);
    for (uint64_t left = p->n_bytes; left > 0;) {
        size_t n_bytes = left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES;
        tarni_draw_items(&draw, n_bytes / item, s->block);
        TARNI_TRY(write_all(s, fd, name, s->block, n_bytes));
        left -= n_bytes;
        s->done_bytes += n_bytes;
        if (s->options->progress &&
            !s->options->progress(s->options->user, s->done_bytes, s->all_bytes))
            return tarni_fail(s->err, TARN_E_CANCELLED, "%s: cancelled after %llu bytes",
                              tarni_path_tail(s->dir), (unsigned long long)s->done_bytes);
    }
    return TARN_OK;
}

/* Writes `text`, then the tensors of the shard that begins at `first` (none if it is n_plan), as
 * DIR/NAME. */
static tarn_status write_file(synth *s, const char *name, const tarni_writer *text, size_t first)
{
    char part[80];
    snprintf(part, sizeof part, "%s.part", name);
    int fd = openat(s->dir_fd, part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return fail_file(s, name);
    tarn_status status;
    TARNI_TRY_GOTO(write_all(s, fd, name, text->data, text->n_bytes));
    for (size_t i = first; i < s->n_plan && s->plan[i].shard_idx == s->plan[first].shard_idx; i++)
        TARNI_TRY_GOTO(write_tensor(s, fd, name, &s->plan[i]));
    int closed = close(fd);
    fd = -1;
    if (closed != 0 || renameat(s->dir_fd, part, s->dir_fd, name) != 0)
        status = fail_file(s, name);
fail:
    if (fd >= 0)
        close(fd);
    if (status != TARN_OK)
        unlinkat(s->dir_fd, part, 0);
    return status;
}

static tarn_status write_text(synth *s, const char *name, tarni_writer *text, size_t first)
{
    tarn_status status =
        text->failed ? tarni_fail_memory(s->err, text->n_bytes) : write_file(s, name, text, first);
    tarni_writer_fini(text);
    return status;
}

static tarn_status write_files(synth *s)
{
    tarni_writer text;
    char name[64];
    for (size_t i = 0; i < s->n_plan; i++) {
        if (i > 0 && s->plan[i].shard_idx == s->plan[i - 1].shard_idx)
            continue;
        shard_name(s, s->plan[i].shard_idx, name);
        tarni_writer_init(&text, s->allocator);
        put_header(&text, s, i);
        TARNI_TRY(write_text(s, name, &text, i));
    }
    if (s->n_shards > 1) {
        tarni_writer_init(&text, s->allocator);
        put_index(&text, s);
        TARNI_TRY(write_text(s, INDEX_NAME, &text, s->n_plan));
    }
    tarni_writer_init(&text, s->allocator);
    tarn_status status = tarni_spec_write(s->spec, &text, s->err);
    if (status != TARN_OK) {
        tarni_writer_fini(&text);
        return status;
    }
    return write_text(s, CONFIG_NAME, &text, s->n_plan);
}

static void remove_files(const synth *s)
{
    char name[64];
    for (uint32_t i = 0; i < s->n_shards; i++) {
        shard_name(s, i, name);
        unlinkat(s->dir_fd, name, 0);
    }
    unlinkat(s->dir_fd, INDEX_NAME, 0);
}

/* What is written beside tensors, at most. */
static uint64_t with_headers(const synth *s, uint64_t tensor_bytes)
{
    uint64_t all;
    return __builtin_add_overflow(tensor_bytes, s->n_plan * HEADER_GUESS, &all) ? UINT64_MAX : all;
}

/* A process that writes beyond its limit for files is sent a signal that ends it. */
static tarn_status check_file_limit(const synth *s, const char *tail)
{
    struct rlimit limit;
    uint64_t wanted = with_headers(s, s->file_bytes);
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        limit.rlim_cur >= wanted)
        return TARN_OK;
    return tarni_fail(s->err, TARN_E_NO_SPACE,
                      "%s: a file of %llu bytes wanted, this process may write %llu", tail,
                      (unsigned long long)wanted, (unsigned long long)limit.rlim_cur);
}

/* The folder is open: nothing of a checkpoint may be in it, and it must have room. */
static tarn_status check_dir(const synth *s)
{
    static const char *const names[] = {CONFIG_NAME, SINGLE_NAME, INDEX_NAME};
    const char *tail = tarni_path_tail(s->dir);
    struct stat info;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (fstatat(s->dir_fd, names[i], &info, AT_SYMLINK_NOFOLLOW) == 0)
            return tarni_fail(s->err, TARN_E_EXISTS, "%s: holds a %s already", tail, names[i]);
    struct statvfs disk;
    if (fstatvfs(s->dir_fd, &disk) != 0)
        return tarni_fail_errno(s->err, errno, "%s", tail);
    uint64_t free_bytes, wanted = with_headers(s, s->all_bytes);
    if (__builtin_mul_overflow(disk.f_bavail, disk.f_frsize, &free_bytes))
        free_bytes = UINT64_MAX;
    if (free_bytes < wanted)
        return tarni_fail(s->err, TARN_E_NO_SPACE, "%s: %llu bytes wanted, %llu free", tail,
                          (unsigned long long)wanted, (unsigned long long)free_bytes);
    return check_file_limit(s, tail);
}

static tarn_status write_dir(synth *s)
{
    bool is_new = mkdir(s->dir, 0777) == 0;
    if (!is_new && errno != EEXIST)
        return tarni_fail_errno(s->err, errno, "%s", tarni_path_tail(s->dir));
    s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0)
        return tarni_fail_errno(s->err, errno, "%s", tarni_path_tail(s->dir));
    tarn_status status = check_dir(s);
    if (status == TARN_OK) {
        status = write_files(s);
        if (status != TARN_OK)
            remove_files(s);
    }
    close(s->dir_fd);
    if (status != TARN_OK && is_new)
        rmdir(s->dir);
    return status;
}

tarn_status tarni_synth_write(const char *dir, const tarni_spec *spec,
                              const tarni_synth_options *options, const tarn_allocator *allocator,
                              uint64_t *n_parameters, uint64_t *n_bytes, tarn_error *err)
{
    synth s = {.dir = dir, .spec = spec, .options = options, .allocator = allocator, .err = err};
    tarn_status status;
    tarni_spec_sizes(spec, n_parameters, n_bytes);
    s.all_bytes = *n_bytes;
    if (options->dry_run)
        return TARN_OK;
    TARNI_TRY_GOTO(tarni_spec_tensors(spec, plan_tensor, &s));
    TARNI_TRY_GOTO(tarni_alloc(allocator, BLOCK_BYTES, 1, &s.block, err));
    status = write_dir(&s);
fail:
    tarni_free(allocator, s.block);
    tarni_free(allocator, s.plan);
    return status;
}
