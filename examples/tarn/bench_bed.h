/* bench_bed.h - an engine, a store of its own in a temporary folder, and the few moves that what
 * measures sessions makes with them. */
#ifndef TARN_COMMAND_BENCH_BED_H
#define TARN_COMMAND_BENCH_BED_H

#include "open.h"
#include "rows.h"

#define BENCH_SESSIONS_MAX 64

typedef struct bench {
    const arguments *args;
    opened o; /* its store is the temporary one */
    char dir[64];
    bool brief; /* --quick on a device: sizes for one that is only emulated */
    uint32_t vocab, context;
    uint32_t random;
    double step_ms; /* a decode step of one session; 0: not measured */
    rows *rows;
    tarn_error err;
} bench;

#define BENCH_TRY(call)                                                                            \
    do {                                                                                           \
        tarn_status bench_status = (call);                                                         \
        if (bench_status != TARN_OK)                                                               \
            return bench_status;                                                                   \
    } while (0)

/* Opens what the arguments name, for these sessions, and rows. `options` has ceilings for the
 * engine, or is NULL. An exit code; bench_end in any case. */
int bench_begin(bench *b, const arguments *args, const tarn_engine_options *options,
                const rows_peer *peers);
int bench_end(bench *b, int code);
/* Does `status` end in an exit code? Says why. */
int bench_code(const bench *b, tarn_status status);

bool bench_on_host(const bench *b);
double bench_now_ms(void);

tarn_status bench_open_kept(bench *b, const char *name, tarn_session **out);
tarn_status bench_open_loose(bench *b, tarn_session **out);
uint32_t bench_any(bench *b, uint32_t below); /* a number drawn from b->random */
/* n ids that any vocabulary has: others each time, or the same for the same *random. */
tarn_status bench_append(bench *b, tarn_session *s, uint32_t n);
uint64_t bench_position(const tarn_session *s);
/* One step; fails where a session did. n_rows may be NULL. */
tarn_status bench_step(bench *b, uint32_t *n_rows);
tarn_status bench_drain(bench *b);
/* Up to the next token of a session, which is generated. */
tarn_status bench_next_token(bench *b, tarn_session *s);
/* Parks, and steps until what the session held on the device is free. */
tarn_status bench_park(bench *b, tarn_session *s);
void bench_close_all(tarn_session **s, uint32_t n); /* NULL ones are allowed */

#endif
