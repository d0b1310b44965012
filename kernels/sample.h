/* sample.h - what a step tells of a row: the id that was drawn there, what it ends, and whether the
 * row's logits can be used. One record a row, whoever draws: the device in the step, or the host
 * before it. Nobody compares the id with a stop id again after that.
 *
 * What ends a generation and is not an id (a budget of tokens, a cancel, the context's end) is not
 * told here: only who gives out events knows of it. */
#ifndef TARNK_SAMPLE_H
#define TARNK_SAMPLE_H

#include <stdint.h>

typedef enum tarnk_stop {
    TARNK_STOP_NONE = 0,
    TARNK_STOP_TURN = 1, /* the id ends the turn */
    TARNK_STOP_ID = 2    /* the caller wants to stop there */
} tarnk_stop;

/* The ids a row stops at, at most TARNK_STOPS_MAX; an id that ends a turn and is asked for too ends
 * the turn. */
#define TARNK_STOPS_MAX 1024
typedef struct tarnk_stops {
    const uint32_t *ids;  /* first those that end a turn */
    uint32_t n;           /* all */
    uint32_t n_turn_ends; /* of them */
} tarnk_stops;

typedef struct tarnk_row_result {
    uint32_t id;     /* of a row that drew one */
    uint32_t stop;   /* tarnk_stop, of such a row */
    uint32_t finite; /* 1: all of the logits after the row are */
} tarnk_row_result;

static inline uint32_t tarnk_stop_of(const tarnk_stops *stops, uint32_t id)
{
    for (uint32_t i = 0; i < stops->n; i++)
        if (stops->ids[i] == id)
            return i < stops->n_turn_ends ? TARNK_STOP_TURN : TARNK_STOP_ID;
    return TARNK_STOP_NONE;
}

#endif
