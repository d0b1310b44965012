/* rows.h - one line a metric: a table for eyes, JSON objects, or a TSV; and the peers' figures.
 *
 *     {"metric","value","unit","floor","ratio","model","numerics","threads","device"}
 *
 * floor: what the machine allowed in the same run, in the same unit; ratio: the share of it that
 * was reached, 1 is the limit. Both are null where nothing bounds the metric. */
#ifndef TARN_BENCH_ROWS_H
#define TARN_BENCH_ROWS_H

#include <stdbool.h>
#include <stddef.h>

#define ROWS_MAX 128

typedef struct rows rows;

/* `tsv` and `peers` are paths, NULL for none; `source` is a folder of the repository. Ends the
 * program where a file cannot be opened. */
rows *rows_begin(bool json, const char *tsv, const char *peers, const char *source);
void rows_set(rows *r, const char *model, const char *numerics);

/* floor 0: none. More than 0: value is better when smaller; less: when larger, and the floor is
 * -floor. */
void rows_add(rows *r, const char *metric, double value, const char *unit, double floor,
              unsigned threads);
/* A line for eyes only. */
void rows_note(rows *r, const char *text);
/* Prints `metric` beside every row of the peers' file whose name has `part` in it: how many times
 * as long (or as large) theirs is. */
void rows_compare(rows *r, const char *metric, const char *part);
void rows_end(rows *r);

double now_ms(void);
/* Sorts. */
double median_of(double *samples, size_t n);

#endif
