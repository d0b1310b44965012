/* tensors.h - safetensors files of float32 tensors, written as the numbers come.
 *
 * The header names all tensors before the first number, so they are declared first. The file is
 * written under a temporary name beside its place and renamed when it is whole; a place that is no
 * ordinary file (a pipe, /dev/null, "-" for standard output) is written directly. */
#ifndef TARN_COMMAND_TENSORS_H
#define TARN_COMMAND_TENSORS_H

#include <jansson.h>
#include <stdio.h>

#include "tarn.h"

typedef struct tensors {
    const char *path;
    char *temporary; /* NULL: written directly */
    FILE *stream;
    json_t *header;
    uint64_t n_bytes; /* of the tensors declared */
    tarn_error err;   /* the first failure; everything after it does nothing */
} tensors;

/* Opens the file, so that a wrong path shows before the work. */
bool tensors_begin(tensors *t, const char *path);
void tensors_declare(tensors *t, const char *name, const uint64_t *dims, uint32_t n_dims);
/* After the last declaration. */
void tensors_write_header(tensors *t);
void tensors_write(tensors *t, const float *data, uint64_t n);
/* Puts the file in its place. False, with t->err set, if anything failed; then no file is left. */
bool tensors_end(tensors *t);
/* Gives up: closes and removes. Harmless after tensors_end and on a zeroed struct. */
void tensors_drop(tensors *t);

/* One file with the tensor "logits" [1, vocab]: what is pending in the session. */
bool tensors_save_logits(tensors *t, const tarn_session *session);
/* One file with the session's state. */
bool tensors_save_state(tensors *t, const tarn_session *session);

#endif
