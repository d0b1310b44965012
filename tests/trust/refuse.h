/* refuse.h - what a call may be refused, at the point where it asks for the nth time: memory of the
 * caller's allocator, memory of any library, a file, a map, a byte (disk.h). */
#ifndef TARN_TESTS_REFUSE_H
#define TARN_TESTS_REFUSE_H

#include "tarn_base.h"

#include <stdatomic.h>

/* An allocator's state; other threads allocate too. */
typedef struct purse {
    atomic_ullong n_calls, at;
    atomic_bool on, for_good;
    atomic_long live; /* blocks */
} purse;

tarn_allocator refuse_allocator(purse *p);

typedef struct refusal {
    const char *name;
    unsigned calls; /* DISK_...; 0: the caller's allocator */
    int error;
    bool is_short;
} refusal;

enum { N_REFUSALS = 15, N_REFUSALS_MEMORY = 2 }; /* those of memory stand first */
extern const refusal refusals[N_REFUSALS];

/* The call number `at` from now on fails, and all after it, or not. */
void refuse_begin(purse *p, const refusal *r, uint64_t at, bool for_good);
/* How many such calls there were. */
uint64_t refuse_end(purse *p, const refusal *r);

unsigned refuse_open_files(void); /* of this process */

#endif
