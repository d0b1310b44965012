/* trust.h - long runs in numbered pieces, each in a child process that may die.
 *
 * How long and with which seed is said by the environment, so that the same program is the short
 * test of every build and the long run on demand (tests/trust.sh):
 *
 *     TARN_TRUST_SEED      of the first piece, default 1
 *     TARN_TRUST_COUNT     cases wanted, default the test's own
 *     TARN_TRUST_SECONDS   stop after so long even if there are fewer; default: never
 *
 * A piece is all that follows from one seed. What it finds wrong it says with trust_bad; a signal
 * that ends it is counted as a crash, with the last note it made, and the next piece goes on. */
#ifndef TARN_TESTS_TRUST_H
#define TARN_TESTS_TRUST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TRUST_COUNTS = 12, TRUST_NAME = 24, TRUST_NOTE = 240 };

/* In memory shared with the children. */
typedef struct trust {
    uint64_t n, bad, crashes;
    uint64_t seed; /* of the piece that runs */
    struct {
        char name[TRUST_NAME];
        uint64_t n;
    } counts[TRUST_COUNTS];
    char note[TRUST_NOTE]; /* what is being tried */
    uint64_t until_ms, wanted;
} trust;

/* Runs pieces until `count` cases (trust.n) have been tried, then prints
 *
 *     trust NAME seeds A..B cases N bad N crashes N [COUNT N]...
 *
 * and returns whether nothing was bad. The piece itself counts its cases. */
bool trust_run(const char *name, uint64_t count, void (*piece)(trust *t, uint64_t seed));
/* A piece that is long asks between cases. */
bool trust_enough(const trust *t);

void trust_count(trust *t, const char *name, uint64_t n);
void trust_note(trust *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints seed, note and text. */
void trust_bad(trust *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What a list of things to do comes to: the index of the one that went wrong with `why`, n if none
 * did. `t` is NULL where nothing is to be counted. */
enum { TRUST_WHY = 240 };
typedef size_t (*trust_list_fn)(trust *t, const void *list, size_t n, char why[TRUST_WHY]);

/* The same in a child, so that a crash is something that went wrong too; *at_idx is where fn says
 * it is, with trust_at. */
size_t trust_try(trust *t, trust_list_fn fn, const void *list, size_t n, char why[TRUST_WHY]);
void trust_at(size_t at_idx);

/* Leaves out what is not needed for it to go wrong: halves, quarters, ..., single items. Returns
 * how many are left at the beginning of the list. */
size_t trust_shrink(trust_list_fn fn, void *list, size_t n, size_t item_bytes, char why[TRUST_WHY]);

uint64_t trust_random(uint64_t *state);
uint64_t trust_below(uint64_t *state, uint64_t n); /* 0 where n is */

#endif
