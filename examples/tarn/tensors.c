/* tensors.c - the writer, and the two files that several verbs write.
 *
 * Numbers go out as they lie in memory: tarn runs on little-endian machines only, and safetensors
 * is little-endian. A state is walked twice, once for the shapes and once for the numbers; keeping
 * a copy instead would double the memory of a long session. */
#include "tensors.h"
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors is little-endian");

static void fail(tensors *t, int errno_value)
{
    if (t->err.status == TARN_OK)
        input_fail(&t->err, errno_value, t->path);
}

/* A new file beside `path`; its name is left in t->temporary. */
static int open_beside(tensors *t)
{
    size_t size = strlen(t->path) + 40;
    t->temporary = malloc(size);
    if (!t->temporary)
        return -1;
    for (int i = 0; i < 100; i++) {
        snprintf(t->temporary, size, "%s.%ld.%d.tmp", t->path, (long)getpid(), i);
        int fd = open(t->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

bool tensors_begin(tensors *t, const char *path)
{
    *t = (tensors){.path = strcmp(path, "-") == 0 ? "standard output" : path};
    struct stat info;
    int fd;
    if (t->path != path)
        fd = dup(STDOUT_FILENO);
    else if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        fd = open(path, O_WRONLY | O_CLOEXEC);
    else
        fd = open_beside(t);
    t->stream = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!t->stream) {
        fail(t, errno);
        if (fd >= 0)
            close(fd);
        else if (t->temporary) {
            free(t->temporary);
            t->temporary = NULL;
        }
        return false;
    }
    t->header = json_object();
    return true;
}

void tensors_declare(tensors *t, const char *name, const uint64_t *dims, uint32_t n_dims)
{
    uint64_t n_bytes = sizeof(float);
    json_t *shape = json_array();
    for (uint32_t i = 0; i < n_dims; i++) {
        n_bytes *= dims[i];
        json_array_append_new(shape, json_integer((json_int_t)dims[i]));
    }
    json_t *entry =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                  (json_int_t)t->n_bytes, (json_int_t)(t->n_bytes + n_bytes));
    if (!entry || json_object_set_new(t->header, name, entry) != 0)
        fail(t, ENOMEM);
    t->n_bytes += n_bytes;
}

void tensors_write_header(tensors *t)
{
    char *text = json_dumps(t->header, JSON_COMPACT);
    if (!text) {
        fail(t, ENOMEM);
        return;
    }
    /* Padded with spaces, so that the numbers stand on a multiple of 8. */
    uint64_t n_text = strlen(text), n_bytes = (n_text + 7) / 8 * 8;
    if (fwrite(&n_bytes, sizeof n_bytes, 1, t->stream) != 1 ||
        fwrite(text, 1, n_text, t->stream) != n_text ||
        fprintf(t->stream, "%*s", (int)(n_bytes - n_text), "") < 0)
        fail(t, errno);
    free(text);
}

void tensors_write(tensors *t, const float *data, uint64_t n)
{
    if (t->err.status == TARN_OK && fwrite(data, sizeof *data, n, t->stream) != n)
        fail(t, errno);
}

bool tensors_end(tensors *t)
{
    if (fclose(t->stream) != 0)
        fail(t, errno);
    t->stream = NULL;
    if (t->err.status == TARN_OK && t->temporary) {
        if (rename(t->temporary, t->path) == 0) {
            free(t->temporary);
            t->temporary = NULL;
        } else {
            fail(t, errno);
        }
    }
    tensors_drop(t);
    return t->err.status == TARN_OK;
}

void tensors_drop(tensors *t)
{
    if (t->stream)
        fclose(t->stream);
    if (t->temporary)
        unlink(t->temporary);
    free(t->temporary);
    json_decref(t->header);
    t->stream = NULL;
    t->temporary = NULL;
    t->header = NULL;
}

bool tensors_save_logits(tensors *t, const tarn_session *session)
{
    const float *logits;
    uint32_t vocab;
    if (tarn_session_logits(session, &logits, &vocab, &t->err) != TARN_OK) {
        tensors_drop(t);
        return false;
    }
    tensors_declare(t, "logits", (const uint64_t[]){1, vocab}, 2);
    tensors_write_header(t);
    tensors_write(t, logits, vocab);
    return tensors_end(t);
}

static void declare_tensor(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                           const float *data)
{
    (void)data;
    tensors_declare(user, name, dims, n_dims);
}

static void write_tensor(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                         const float *data)
{
    (void)name;
    uint64_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        n *= dims[i];
    tensors_write(user, data, n);
}

bool tensors_save_state(tensors *t, const tarn_session *session)
{
    tarn_error err = {0};
    tarn_status status = tarn_session_tensors(session, declare_tensor, t, &err);
    if (status == TARN_OK) {
        tensors_write_header(t);
        status = tarn_session_tensors(session, write_tensor, t, &err);
    }
    if (status != TARN_OK) {
        t->err = err;
        tensors_drop(t);
        return false;
    }
    return tensors_end(t);
}
