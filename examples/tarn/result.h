/* result.h - what a verb answers: one JSON object, or an error in the form that was asked for. */
#ifndef TARN_COMMAND_RESULT_H
#define TARN_COMMAND_RESULT_H

#include <jansson.h>

#include "options.h"
#include "tarn.h"

/* The objects every verb shares. NULL only when there is no memory. */
json_t *result_at(const tarn_at *at);
json_t *result_reuse(const tarn_reuse *reuse);
json_t *result_price(const tarn_price *price);
json_t *result_ids(const uint32_t *ids, size_t n_ids);
/* Text that may not be UTF-8: broken bytes become '?'. For names and words of a model, never for
 * what must come back exact. */
json_t *result_text(const char *data, size_t n_bytes);
/* {"text":..} where the bytes are UTF-8, {"base64":..} where they are not. */
json_t *result_bytes(const char *data, size_t n_bytes);
/* {"status":..,"detail":..} */
json_t *result_error_object(const tarn_error *err);
json_t *result_number(uint64_t value);

/* From now on answers go to standard error: standard output carries something else. */
void result_to_stderr(void);
/* Prints `object` (taken) on one line of standard output; returns the exit code `code`, or 1 if
 * that failed. */
int result_print(json_t *object, int code);
/* Prints the error as --json asks or for people; returns 1. */
int result_error(const arguments *args, const tarn_error *err);
/* Ends people's output: 0, or 1 after saying that standard output could not be written. */
int result_flush(void);

#endif
