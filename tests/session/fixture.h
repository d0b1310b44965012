/* fixture.h - a model, an engine and a store in a temporary folder, and the few moves every test of
 * sessions makes with them.
 *
 * Test programs include check.h first. A rig function that cannot do its work prints why and ends
 * the program: nothing a case checks after that would mean anything. */
#ifndef TARN_TESTS_SESSION_FIXTURE_H
#define TARN_TESTS_SESSION_FIXTURE_H

#include "tarn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* A call that must succeed. ERR is the error all tests share. */
#define OK(call) rig_must((call), #call, __FILE__, __LINE__)
#define ERR      (&rig_error)

/* A call that must fail so, with these words in the detail. */
#define REFUSED(call, want, words)                                                                 \
    do {                                                                                           \
        CHECK_STATUS((call), (want));                                                              \
        CHECK_HAS(rig_error.detail, (words));                                                      \
    } while (0)

/* The tests on a CUDA device, or on an emulated one, are these programs with another name here. */
#if !defined(RIG_DEVICE)
#    define RIG_DEVICE "cpu"
#endif
#define RIG_ON_HOST (strcmp(RIG_DEVICE, "cpu") == 0)

/* A number that is made smaller where the device is emulated and a token takes a millisecond. */
#if defined(RIG_REDUCED)
#    define RIG_FEW(all, few) (few)
#else
#    define RIG_FEW(all, few) (all)
#endif
/* Leaves out a case whose smaller sister says as much there. */
#define RIG_SKIP_REDUCED()                                                                         \
    do {                                                                                           \
        if (RIG_FEW(0, 1))                                                                         \
            SKIP("one of its kind is enough on an emulated device");                               \
    } while (0)

extern tarn_error rig_error;
void rig_must(tarn_status status, const char *call, const char *file, int line);

typedef enum rig_kind {
    RIG_TINY,  /* random bf16 weights, 160 ids, no tokenizer; no stop id is likely */
    RIG_WIDE,  /* the same with heads of 128 */
    RIG_RECALL /* the bundled model */
} rig_kind;

/* A kind as an argument of another process, and back. */
const char *rig_kind_name(rig_kind kind);
rig_kind rig_kind_named(const char *name);

typedef struct rig {
    rig_kind kind;
    char dir[64];         /* the temporary folder */
    char model_dir[128];  /* given, or dir/model */
    char store_path[128]; /* dir/store */
    tarn_engine_options options;
    tarn_model *model;
    tarn_engine *engine;
    tarn_store *store;
    uint32_t vocab;
    uint32_t session_flags; /* of the sessions rig_session opens */
} rig;

/* options NULL: one thread, all else default. `size` is filled in. */
void rig_open(rig *r, rig_kind kind, const tarn_engine_options *options);
/* The same in a folder that another rig made and keeps. */
void rig_join(rig *r, rig_kind kind, const char *dir, const tarn_engine_options *options);
void rig_close(rig *r); /* and removes the folder */
void rig_leave(rig *r); /* closes, and leaves the folder */

/* Closes engine, model and store and opens them again; options NULL: as before. */
void rig_restart(rig *r, const tarn_engine_options *options);
void rig_restart_engine(rig *r, const tarn_engine_options *options);
/* The tiny model, with room for so many states and pages (0: no ceiling), and no prefix adopted. */
void rig_open_room(rig *r, const tarn_engine_options *options, uint32_t n_slots, uint64_t n_pages);

/* A session in the store, made if need be; *reuse may be NULL. */
tarn_session *rig_session(rig *r, const char *name, tarn_reuse *reuse);
/* One that is not kept. */
tarn_session *rig_loose(rig *r, const char *name);
tarn_session *rig_fork(tarn_session *s, const char *name);
tarn_session_info rig_info(const tarn_session *s);
tarn_committed rig_commit(tarn_session *s);
tarn_engine_stat rig_stat(const rig *r);
tarn_plan_report rig_plan(const rig *r); /* one session on a CPU: what a slot and a page take */
tarn_store_stat rig_store_stat(rig *r);

/* Pseudo-random ids of the model, the same for the same seed. */
void rig_ids(const rig *r, uint64_t seed, uint32_t *out, size_t n);
uint64_t rig_random(uint64_t *state);

void rig_feed(tarn_session *s, const uint32_t *ids, size_t n);
/* A session of the store with n tokens, committed. */
tarn_session *rig_kept(rig *r, const char *name, uint64_t seed, size_t n);

#define RIG_TOLD_IDS   2048
#define RIG_TOLD_TEXT  8192
#define RIG_TOLD_CALLS 4096
typedef struct rig_told {
    uint32_t ids[RIG_TOLD_IDS];
    size_t n_ids;
    uint64_t n_appended;
    char text[RIG_TOLD_TEXT];
    size_t text_bytes;
    char
        calls[RIG_TOLD_CALLS]; /* what tells of tool calls: "[id name]arguments=all arguments\n" and
                                  "!problem: text\n" */
    size_t calls_bytes;
    size_t in_calls_bytes; /* of the text */
    size_t n_stops;
    tarn_stop stop;
    size_t n_committed, n_parked, n_resumed;
    tarn_event committed; /* the last */
} rig_told;

/* Adds what an event tells to a rig_told; a tarn_event_fn. */
void rig_hear(void *told, const tarn_event *event);
/* n ids, going on after a stop id; told may be NULL. */
void rig_generate(tarn_session *s, size_t n, rig_told *told);
/* From now on greedy, and never the stop id: generations end where they are told to. */
void rig_never_stop(const rig *r, tarn_session *s);
/* One generation of at most n (0: no bound). */
void rig_answer(tarn_session *s, uint32_t n, rig_told *told);
/* Steps until no session has work. */
void rig_drain(rig *r);

/* Every row of logits from now on. */
typedef struct rig_trace {
    uint32_t vocab;
    uint64_t first; /* position of rows[0] */
    size_t n, capacity;
    float *rows; /* [n][vocab] */
} rig_trace;

void rig_trace_begin(rig_trace *t, tarn_session *s);
void rig_trace_free(rig_trace *t);
/* Are the rows after positions [begin, end) in both, and bitwise equal? Prints the first that is
 * not. */
bool rig_same_rows(const rig_trace *a, const rig_trace *b, uint64_t begin, uint64_t end);

/* The pending logits of two sessions, bitwise. */
bool rig_same_logits(const tarn_session *a, const tarn_session *b);
/* The pending logits against row `position` of a trace. */
bool rig_logits_are(const tarn_session *s, const rig_trace *t, uint64_t position);

#define CHECK_IDS(got, want, n)                                                                    \
    do {                                                                                           \
        for (size_t check_i = 0; check_i < (size_t)(n); check_i++) {                               \
            if ((got)[check_i] != (want)[check_i]) {                                               \
                CHECK_FAIL("%s[%zu] is %u, should be %u", #got, check_i, (got)[check_i],           \
                           (want)[check_i]);                                                       \
                break;                                                                             \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* Number of damages a verification of the store lists; must find none where 0 is wanted. */
size_t rig_verify(tarn_store *store);

/* This program again, in a process of its own, with these arguments. Returns its exit status, 128 +
 * signal, or with `out` not NULL its process id at once and the reading end of its output. */
int rig_rerun(const char *const *args);
pid_t rig_start(const char *const *args, int *out);

void rig_copy_folder(const char *from, const char *to);
/* An empty one, in memory where there is such a folder: a thousand durable commits need no disk to
 * be tested. */
void rig_make_folder(char dir[64]);
void rig_remove_folder(const char *path);
char *rig_read_file(const char *path, size_t *n_bytes); /* to be freed; NUL behind it */
void rig_write_file(const char *path, const void *data, size_t n_bytes);

#endif
