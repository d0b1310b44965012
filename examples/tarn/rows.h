/* rows.h - what benchmarks print: a row a metric, beside what the machine allows and what others
 * reach. With --quick on a device names begin with quick_: its sizes are not those of the name. As
 * text or JSON, and with --tsv as lines of a table; --peers names a table of others. */
#ifndef TARN_COMMAND_ROWS_H
#define TARN_COMMAND_ROWS_H

#include "options.h"
#include "tarn.h"

typedef struct rows rows;

/* What a peer needs for the same thing: the sum of its rows of these names. A row may be a rate of
 * tokens: then `tokens` says how many of them. For a metric that is a rate itself, one name. */
#define ROWS_TERMS_MAX 3
typedef struct rows_peer {
    const char *metric;
    struct {
        const char *name; /* METRIC of PEER.MODEL.TYPE.METRIC.tTHREADS; NULL: no more */
        double tokens;    /* 0: the row is in milliseconds */
    } terms[ROWS_TERMS_MAX];
} rows_peer;

/* The engine and `peers` (ending with a metric NULL) are borrowed. NULL after saying why. */
rows *rows_begin(const arguments *args, const tarn_engine *engine, const rows_peer *peers);
/* `floor` in the same unit, 0: none. The ratio is the share of the floor that was reached: of rates
 * (units that end in /s) value / floor, of all else floor / value. Peers' ratios are how many times
 * as fast this is. */
void rows_add(rows *r, const char *metric, double value, const char *unit, double floor);
/* Ends the table; `code`, or 1 if a row could not be written. NULL: just `code`. */
int rows_end(rows *r, int code);

double rows_median(double *values, size_t n); /* sorts them; 0 of none */

#endif
