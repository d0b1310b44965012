/* fuzz.h - one input to one reader of files or texts.
 *
 * Each *_fuzz.c defines the function below, as libFuzzer wants it. With TARN_FUZZ (clang) it
 * becomes a fuzzer, fuzz_NAME; always it is linked to replay.c, which feeds it the inputs kept in
 * tests/data/fuzz/NAME. What an input must not do is crash, or break one of the MUSTs. */
#ifndef TARN_TESTS_FUZZ_H
#define TARN_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* Ends the process as a crash does, so that the fuzzer keeps the input. */
#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #cond);                  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Makes the input a file in memory; returns its path, which lasts until the next call. */
const char *fuzz_file(const uint8_t *data, size_t n_bytes);

#endif
