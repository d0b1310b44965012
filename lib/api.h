/* api.h - what the files behind tarn.h share: taking options, giving results, checking arguments.
 *
 * The functions of tarn.h check their arguments, translate between the public structs and those of
 * the layers, and call one function below. No logic lives here. */
#ifndef TARNI_API_H
#define TARNI_API_H

#include "desk.h"
#include "model.h"
#include "store.h"
#include "tarn.h"

#include <string.h>

struct tarn_model {
    tarni_model model;
};

struct tarn_store {
    tarnp_store *store;
    tarni_desk *desk; /* owns the store */
    tarn_allocator allocator;
};

/* Copies an options struct the caller may have compiled against another version: missing fields are
 * zero, unknown ones must be. NULL gives all zeros. INVALID names the struct. */
tarn_status tarni_api_options(void *out, size_t out_bytes, const void *given, const char *name,
                              tarn_error *err);
/* Copies a result into a struct whose first member says how much of it the caller knows. */
void tarni_api_result(void *out, const void *result, size_t result_bytes);

/* A call on a store, in its turn. */
#define TARNI_API_IN_TURN(store, call) (tarni_api_enter(store), tarni_api_leave((store), (call)))
void tarni_api_enter(const tarn_store *store);
tarn_status tarni_api_leave(const tarn_store *store, tarn_status status);

/* The caller's err, or a scratch one. */
#define TARNI_API_ERROR(err)                                                                       \
    tarn_error scratch_error;                                                                      \
    if (!(err))                                                                                    \
    (err) = &scratch_error

#define TARNI_API_REQUIRE(pointer)                                                                 \
    do {                                                                                           \
        if (!(pointer))                                                                            \
            return tarni_fail(err, TARN_E_INVALID, "%s: %s is NULL", __func__, #pointer);          \
    } while (0)

/* An out parameter that may be NULL and is zero after an error. */
#define TARNI_API_CLEAR(out)                                                                       \
    do {                                                                                           \
        if (out)                                                                                   \
            memset((out), 0, sizeof *(out));                                                       \
    } while (0)

/* Hands an id array over to the caller. */
void tarni_api_give_ids(tarni_ids *from, tarn_ids *out);

#endif
