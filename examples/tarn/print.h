/* print.h - what people see. */
#ifndef TARN_COMMAND_PRINT_H
#define TARN_COMMAND_PRINT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "tarn.h"

enum { PRINT_TEXT_MAX = 32 };

/* "4.1 MB" (powers of ten); returns `out`. */
const char *print_bytes(uint64_t n_bytes, char out[PRINT_TEXT_MAX]);
/* "2026-11-21 10:56:45", local time; returns `out`. */
const char *print_time(uint64_t unix_ms, char out[PRINT_TEXT_MAX]);
/* "1,2,3" and a newline. */
void print_ids(FILE *stream, const uint32_t *ids, size_t n_ids);
/* "agent@n:5, 158 tokens" */
void print_at(FILE *stream, const tarn_at *at);
/* "133 reused, 0 replayed (exact), 1.2 MB read" */
void print_reuse(FILE *stream, const tarn_reuse *reuse);
void print_price(FILE *stream, const tarn_price *price);

/* Where standard error is a terminal, a bar with rate and time left there; else nothing. `unit` is
 * what is counted: "B" for bytes, or a word. done == all ends its line. */
void print_progress(const char *what, const char *unit, uint64_t done, uint64_t all);

/* The nodes (parents before children) as a tree drawn with box characters. False: no memory. */
bool print_tree(const tarn_node_entry *nodes, size_t n_nodes);
/* The same in the language of graphviz. */
void print_dot(const tarn_node_entry *nodes, size_t n_nodes);

#endif
