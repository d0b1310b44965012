/* session.h - one open session: what is live, what waits, and the states it goes through.
 *
 *                  append                generate
 *       +------+ --------> +-----------+ -------> +------------+
 *       | IDLE |           | APPENDING |          | GENERATING |
 *       +------+ <-------- +-----------+          +------------+
 *       ^  ^  ^    all fed, or cancel                |
 *       |  |  +--------------------------------------+  stop id, length, cancel
 *       |  |
 *       |  +-- reset -- POISONED <--- non-finite logits, device fault, out of memory in a step
 *       |
 *       +--- next use --- PARKED <--- park, or another session needs the memory (parking.h)
 *
 * APPENDING: the queue holds ids to feed: first those that are replayed after a resume, then those
 * appended, planned as segments. GENERATING: a generation was asked for; it begins when the queue
 * is empty. A step takes rows from here (begin), and brings their results back (end); in between
 * nothing of the session is changed, so a step that fails can be given up. PARKED: all is in the
 * store; slot and pages are given back, ids and sampling stay.
 *
 * What may fail after a step has been computed is provided for before it: room for ids, segments,
 * pages and events is made when tokens are queued or the step begins. */
#ifndef TARNI_SESSION_H
#define TARNI_SESSION_H

#include "desk.h"
#include "engine.h"
#include "timeline.h"

#include <stdatomic.h>

typedef struct tarni_generation {
    bool active;
    bool bounded;
    uint32_t n_left;                    /* of a bounded one */
    uint32_t stop_ids[TARNI_STOPS_MAX]; /* the model's, then the caller's */
    uint32_t n_stop_ids;
    uint32_t n_turn_ends; /* of them: the model's */
    tarni_text_stream text;
} tarni_generation;

/* Tool calls of the turn that is generated (watch.c). */
typedef struct tarni_watch {
    tarni_call_parser parser; /* zeroed: nothing is watched */
    uint64_t turn_begin, position;
    tarni_text_stream text; /* of the arguments that are told */
} tarni_watch;

/* A message that streams in (intake.c). */
typedef struct tarni_intake {
    bool open;
    bool cancelled; /* one was given up, and no other began */
    bool begun;     /* its segment is queued */
    tarn_role role;
    tarni_encoder encoder;
    tarni_ids closing;   /* what its end writes */
    tarni_segments made; /* one, of the calls it makes; or none */
    uint64_t n_tokens;   /* of it that were queued */
} tarni_intake;

/* The last commit that was begun. While it is on its way it is also the session's capture. */
typedef struct tarni_pending {
    uint64_t number;       /* 0: none was ever begun */
    tarnp_ticket *ticket;  /* once it has landed; NULL: there was nothing to write */
    tarn_error error;      /* status OK: none */
    tarn_committed result; /* of one that landed */
} tarni_pending;

struct tarn_session {
    tarn_engine *engine;
    tarn_session *next, *prev; /* of the engine, in the order they were opened */
    char name[TARNP_NAME_BYTES_MAX + 1];

    tarnp_store *store; /* borrowed; NULL: not kept */
    tarni_desk *desk;   /* whose turn at the store it is */
    uint64_t store_id;
    uint64_t head; /* as we know it */
    bool read_only;
    char *where;            /* of a read-only session, NULL: the head */
    uint64_t bytes_written; /* since the last commit was reported */
    uint32_t lease_ms;      /* 0: the default */
    tarnp_lease lease;      /* session_id 0: none is held */
    uint64_t lease_tried_ms;
    struct tarni_capture *capture; /* a commit on its way (keep.h); NULL: none */
    tarni_pending pending;

    bool no_prefix;     /* the caller wants everything computed */
    bool prefix_sought; /* adopt.c has done what it can */

    tarni_timeline live;
    bool parked;
    tarni_tier_place tier; /* while it is parked */
    uint32_t
        next_slot;    /* what a step will write if live.slot is shared; TARNI_SLOT_NONE: not yet */
    uint64_t used_at; /* the engine's clock */
    tarn_reuse reuse; /* of the last time it was brought to life */
    tarni_ids queue;
    size_t queue_at;     /* the first id not fed */
    size_t n_replay;     /* of the ids from queue_at on */
    size_t run_rows;     /* of them: that wait to be computed together (share.c) */
    tarni_segments plan; /* of the queued ids behind the replayed ones */
    size_t plan_at;
    uint32_t plan_fed; /* ids of plan.items[plan_at] that are fed */
    tarni_generation generation;
    tarni_intake intake;
    tarni_watch watch;

    bool poisoned;
    tarn_error failure;
    atomic_bool cancelled;

    tarni_tool_calls calls;       /* of the last finished turn */
    tarn_tool_call *public_calls; /* the same as the caller sees them */
    tarn_logits_fn on_logits;
    void *on_logits_user;

    uint32_t step_slot;  /* written by the step that runs */
    uint32_t step_wants; /* rows it could take part with */
    uint32_t step_rows;  /* that it was given */
};

void tarni_session_forget_calls(tarn_session *s);
/* The calls of the last finished turn, out of its tokens. */
tarn_status tarni_session_read_calls(tarn_session *s, tarn_error *err);
tarn_at tarni_session_at(const tarn_session *s);
size_t tarni_session_waiting(const tarn_session *s); /* ids in the queue */
bool tarni_session_has_work(const tarn_session *s);
/* Forgets what is queued and not fed, but not a replay that is under way. A message that is open is
 * given up: its bytes and end are CANCELLED from now on. */
void tarni_session_drop_waiting(tarn_session *s);
/* Frees what one holds that is open, or was about to be. */
void tarni_intake_release(tarni_intake *in);
/* No message is open, and none was given up. */
void tarni_session_end_intake(tarn_session *s);
/* No failure, nothing queued, no generation: POISONED, CONFLICT. `replaying` is allowed where the
 * replay is given up anyway: it holds nothing new. */
tarn_status tarni_session_check_idle(const tarn_session *s, bool replaying, tarn_error *err);
/* Tells what happened to the session's memory. Dropped where there is no memory for the event. */
void tarni_session_tell(tarn_session *s, const tarn_event *event);

#endif
