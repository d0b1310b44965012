/* mob.h - processes of this program that are killed. */
#ifndef TARN_TESTS_MOB_H
#define TARN_TESTS_MOB_H

#include "trust.h"

enum { MOB_MOST = 4, MOB_ARGS = 6, MOB_RECORD = 32 };

/* Arguments of a process behind the program's name, NULL at the end. It tells what it does in
 * records of record_bytes on its standard output, and never ends by itself. */
typedef struct mob {
    size_t n, record_bytes;
    const char *args[MOB_MOST][MOB_ARGS];
} mob;

/* What process number `who` told. */
typedef void (*mob_fn)(void *user, size_t who, const void *record);

/* Starts them; lets each tell something; kills some at a random moment, and a little later the
 * others; then hands out all they told. One that ended by itself is bad. */
void mob_play(trust *t, const mob *m, uint64_t *random, mob_fn told, void *user);

#endif
