/* digest.c - which weights are these: one sum over all tensors, remembered by file identity.
 *
 * Each tensor is summed with XXH3-128, which runs at memory speed, and the sums with BLAKE2b. The
 * sum tells checkpoints apart; it does not defend against someone who forges one.
 *
 * The cache holds one text file for each set of files, named after the BLAKE2b of their real paths,
 * sizes, times, devices and inodes. It is written beside and renamed, and carries its own check, so
 * a torn or foreign file is only a miss. */
#include "weight_files.h"

#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define SUM_BYTES   32
#define HEX_BYTES   (2 * SUM_BYTES + 1) /* with the NUL */
#define CACHE_TITLE "tarn weights 1"
#define ENTRY_BYTES 256

static void hash_u64(crypto_generichash_state *state, uint64_t value)
{
    uint8_t bytes[8];
    tarni_store_u64(bytes, value);
    crypto_generichash_update(state, bytes, sizeof bytes);
}

static void hash_text(crypto_generichash_state *state, const char *text)
{
    hash_u64(state, strlen(text));
    crypto_generichash_update(state, (const uint8_t *)text, strlen(text));
}

static tarn_status sum_tensors(const tarni_safetensors *set, uint8_t out[SUM_BYTES],
                               tarn_error *err)
{
    crypto_generichash_state state;
    tarni_filemap_entry entry;
    tarni_filemap_enter(&entry);
    crypto_generichash_init(&state, NULL, 0, SUM_BYTES);
    for (size_t i = 0; i < set->n_tensors; i++) {
        const tarni_safetensor *t = &set->tensors[i];
        XXH128_canonical_t sum;
        XXH128_canonicalFromHash(&sum, XXH3_128bits(t->data, (size_t)t->n_bytes));
        hash_text(&state, t->name);
        hash_text(&state, t->dtype);
        crypto_generichash_update(&state, sum.digest, sizeof sum.digest);
    }
    crypto_generichash_final(&state, out, SUM_BYTES);
    tarni_filemap_leave(&entry);
    return tarni_safetensors_check(set, err);
}

/* ---- the cache ------------------------------------------------------------------------------- */

static void key_of_files(const tarni_safetensors *set, uint8_t out[SUM_BYTES])
{
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, SUM_BYTES);
    for (size_t i = 0; i < set->n_files; i++) {
        const tarni_safetensors_file *file = &set->files[i];
        const tarni_filemap *map = file->map;
        char real[PATH_MAX];
        hash_text(&state, realpath(file->path, real) ? real : file->path);
        hash_u64(&state, map->n_bytes);
        hash_u64(&state, (uint64_t)map->mtime_s);
        hash_u64(&state, (uint64_t)map->mtime_ns);
        hash_u64(&state, map->device);
        hash_u64(&state, map->inode);
    }
    crypto_generichash_final(&state, out, SUM_BYTES);
}

/* The whole text of an entry: title, key, sum, and the BLAKE2b of those three lines. */
static size_t format_entry(const char *key, const char *sum, char out[ENTRY_BYTES])
{
    snprintf(out, ENTRY_BYTES, CACHE_TITLE "\n%s\n%s\n", key, sum);
    size_t n_bytes = strlen(out);
    uint8_t check[SUM_BYTES];
    char hex[HEX_BYTES];
    crypto_generichash(check, sizeof check, (const uint8_t *)out, n_bytes, NULL, 0);
    sodium_bin2hex(hex, sizeof hex, check, sizeof check);
    snprintf(out + n_bytes, ENTRY_BYTES - n_bytes, "%s\n", hex);
    return strlen(out);
}

static bool read_entry(const char *path, const char *key, uint8_t out[SUM_BYTES])
{
    char text[ENTRY_BYTES], again[ENTRY_BYTES], sum[HEX_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, text, sizeof text);
    close(fd);
    size_t sum_begin = strlen(CACHE_TITLE) + 1 + HEX_BYTES;
    if (got < (ssize_t)(sum_begin + HEX_BYTES))
        return false;
    memcpy(sum, text + sum_begin, HEX_BYTES - 1);
    sum[HEX_BYTES - 1] = 0;
    size_t n_bytes = format_entry(key, sum, again), n_sum = 0;
    return (size_t)got == n_bytes && memcmp(text, again, n_bytes) == 0 &&
           sodium_hex2bin(out, SUM_BYTES, sum, HEX_BYTES - 1, NULL, &n_sum, NULL) == 0 &&
           n_sum == SUM_BYTES;
}

/* With its parents: a fresh account has no ~/.cache yet. */
static void make_folders(const char *dir)
{
    char path[PATH_MAX];
    size_t n_bytes = strlen(dir);
    if (n_bytes == 0 || n_bytes >= sizeof path)
        return;
    memcpy(path, dir, n_bytes + 1);
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        mkdir(path, 0700);
        *at = '/';
    }
    mkdir(path, 0700);
}

/* A failure here costs the next run time and nothing else. */
static void write_entry(const char *cache_dir, const char *path, const char *key,
                        const uint8_t sum[SUM_BYTES])
{
    char temporary[PATH_MAX], text[ENTRY_BYTES], hex[HEX_BYTES];
    sodium_bin2hex(hex, sizeof hex, sum, SUM_BYTES);
    size_t n_bytes = format_entry(key, hex, text);
    int length = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    if (length < 0 || (size_t)length >= sizeof temporary)
        return;
    make_folders(cache_dir);
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return;
    bool complete = write(fd, text, n_bytes) == (ssize_t)n_bytes;
    complete = close(fd) == 0 && complete;
    if (!complete || rename(temporary, path) != 0)
        unlink(temporary);
}

tarn_status tarni_weights_digest(const tarni_weights *weights, const char *cache_dir, bool fresh,
                                 uint8_t out[SUM_BYTES], tarn_error *err)
{
    const tarni_weight_files *files = weights->files;
    if (!cache_dir)
        return sum_tensors(&files->set, out, err);
    uint8_t key[SUM_BYTES];
    char hex[HEX_BYTES], name[HEX_BYTES + 8], *path;
    key_of_files(&files->set, key);
    sodium_bin2hex(hex, sizeof hex, key, sizeof key);
    snprintf(name, sizeof name, "%s.sum", hex);
    TARNI_TRY(tarni_path_join(files->allocator, cache_dir, name, &path, err));
    tarn_status status = TARN_OK;
    if (fresh || !read_entry(path, hex, out)) {
        status = sum_tensors(&files->set, out, err);
        if (status == TARN_OK)
            write_entry(cache_dir, path, hex, out);
    }
    tarni_free(files->allocator, path);
    return status;
}
