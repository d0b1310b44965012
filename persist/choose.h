/* choose.h - which parts go first when there is too little room. */
#ifndef TARNP_CHOOSE_H
#define TARNP_CHOOSE_H

#include "forest.h"

typedef struct tarnp_choice {
    const char *group;    /* only nodes that its sessions wrote; NULL: all */
    uint64_t writer;      /* the session a commit is for, 0: none */
    uint64_t writer_base; /* the node it goes on from */
    uint64_t now_ms;
} tarnp_choice;

/* Gives verdicts until they free n_bytes or nothing more may go; *freed is what they free. */
tarn_status tarnp_choose(tarnp_forest *f, const tarnp_choice *choice, uint64_t n_bytes,
                         uint64_t *freed, tarn_error *err);

#endif
