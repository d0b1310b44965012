/* soak.h - a session made, fed, forked and removed, again and again. */
#ifndef TARN_TESTS_SESSION_SOAK_H
#define TARN_TESTS_SESSION_SOAK_H

#include <stddef.h>

/* E6: after n cycles resident memory, slots, pages and the store are where they were after some. */
void soak(size_t n_cycles);

#endif
