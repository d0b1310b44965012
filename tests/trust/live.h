/* live.h - sessions of an engine and a store, and what they must be, kept in plain arrays of ids.
 *
 * An operation is three numbers; what they mean depends on what there is, so any part of a list of
 * operations is a list of operations. Six places stand for a session each, which may not be there,
 * be in the store, or be open. Of an open one the ids that were fed and that wait are known, and
 * those the store holds at its head; what it computes must be what a session that is given these
 * ids from the first one on computes (cold.h), bit for bit.
 *
 * What must succeed is said by the state the operation meets; what may be refused (CONFLICT,
 * LIMIT under a ceiling) must have changed nothing. */
#ifndef TARN_TESTS_LIVE_H
#define TARN_TESTS_LIVE_H

#include "cold.h"
#include "fixture.h"

enum { LIVE_SESSIONS = 6, LIVE_IDS = 150, LIVE_WHY = 240, LIVE_NAME = 24 };

typedef enum live_kind {
    LIVE_OPEN, /* makes it where it is not there */
    LIVE_APPEND,
    LIVE_STEP,
    LIVE_RUN,
    LIVE_GENERATE,
    LIVE_SAMPLE,
    LIVE_CANCEL,
    LIVE_COMMIT,
    LIVE_BEGIN, /* a commit in the background */
    LIVE_WAIT,
    LIVE_FORK,
    LIVE_REWIND,
    LIVE_RESET,
    LIVE_PARK,
    LIVE_CLOSE,
    LIVE_LOOK, /* another handle, read-only, anywhere in its history */
    LIVE_MESSAGE,
    LIVE_PIECES, /* of a message: its beginning, some of its text, its end */
    LIVE_SYNC,
    LIVE_BRANCH, /* from here on by the store alone */
    LIVE_MOVE,
    LIVE_RENAME,
    LIVE_REMOVE,
    LIVE_COLLECT,
    LIVE_COPY, /* exported and imported */
    LIVE_MARK,
    LIVE_RESTART, /* everything closed and opened, the engine with other options */
    LIVE_KINDS
} live_kind;

typedef struct live_op {
    live_kind kind;
    uint64_t a, b;
    bool cut; /* the power fails during it */
} live_op;

typedef struct live_ids {
    size_t n;
    uint32_t ids[COLD_IDS];
} live_ids;

typedef enum live_being { LIVE_NONE, LIVE_STORED, LIVE_LOOSE } live_being;

typedef struct live_session {
    live_being being;
    unsigned renamed; /* how often: part of its name */
    tarn_session *s;  /* NULL: not open */
    live_ids now;     /* fed and waiting */
    live_ids kept;    /* what the store holds at its head */
    live_ids begun;   /* of the commit that was begun last */
    tarn_ticket ticket;
    tarn_sampling sampling, kept_sampling, begun_sampling;
    live_ids node; /* of the last commit, wherever the head went since */
    uint64_t node_id;
    bool in_message, in_generation;
    uint64_t message;       /* the one that is open */
    size_t text_bytes;      /* of it */
    size_t generation_from; /* now.ids[..] before it */
    uint32_t generation_max;
    tarn_stop stop;
} live_session;

typedef struct live {
    rig r;
    bool talks;    /* the model has a tokenizer */
    bool ceilings; /* of the engine as it is */
    cold cold;
    live_session sessions[LIVE_SESSIONS];
    live_ids header;     /* of an answer */
    live_ids streams[3]; /* what is appended begins one of these, so that sessions begin alike */
    uint32_t im_end;
    uint64_t n_generated, n_refused, n_parked, n_adopted;
    char problem[LIVE_WHY]; /* found while an event was heard */
} live;

/* The next operation; mixes them as programs do. */
live_op live_random(uint64_t *random);
const char *live_name(live_kind kind);

/* A fresh folder with a model, engine and store; `talks`: the bundled model. */
void live_begin(live *l, bool talks);
void live_end(live *l);

/* Does one operation and compares; on a session that is not open it opens it. False: `why`. */
bool live_apply(live *l, live_op op, char why[LIVE_WHY]);
/* Compares everything there is, with a verification of the store. */
bool live_match(live *l, char why[LIVE_WHY]);

/* After a power cut: the store is open again and no session is. What it holds must be what `before`
 * or `after` say it may; *l becomes what it is. */
bool live_recover(live *l, const live_session before[LIVE_SESSIONS], char why[LIVE_WHY]);
/* Closes every session without a comparison, engine and store too. */
void live_drop(live *l);
/* Opens the store, and an engine picked by b. */
bool live_raise(live *l, uint64_t b, char why[LIVE_WHY]);

/* ---- between the files of this ---- */

#define LIVE_SAY(...) live_say(why, __VA_ARGS__)
bool live_say(char why[LIVE_WHY], const char *format, ...) __attribute__((format(printf, 2, 3)));

bool live_store_apply(live *l, live_op op, char why[LIVE_WHY]);
/* Events to their sessions. */
bool live_hear(live *l, char why[LIVE_WHY]);
/* Whether a refusal is one that may be: `allowed`, or LIMIT under a ceiling. */
bool live_refusal(live *l, tarn_status status, tarn_status allowed, char why[LIVE_WHY]);
/* A place for a session that is not there; NULL: there is none. */
live_session *live_vacant(live *l);
/* Waits until what was committed of a session is in the store. */
bool live_settle(live *l, live_session *x, char why[LIVE_WHY]);
/* Sets kept to what the store holds; it must begin what is live and not be shorter than n_least. */
bool live_read_kept(live *l, live_session *x, size_t n_least, char why[LIVE_WHY]);
/* Closes one and knows what is left of it. */
void live_close(live_session *x);
/* As it is, and after a renaming. */
void live_name_of(const live *l, const live_session *x, char out[LIVE_NAME]);
void live_name_then(const live *l, const live_session *x, unsigned renamed, char out[LIVE_NAME]);
/* All a list of messages is in ids; one message with so much of its text, as whole characters. */
bool live_render(live *l, const char *json, live_ids *out);
bool live_message_ids(live *l, uint64_t b, size_t text_bytes, live_ids *out);
const char *live_text(uint64_t b);
/* All that was fed and waits, as far as it is certain: of a message that is open its ids so far. */
void live_all_ids(live *l, const live_session *x, live_ids *out);
void live_read_sampling(live_session *x);
void live_event(void *user, const tarn_event *e); /* user: the live */
/* What waits, and the logits where there are any. */
bool live_check(live *l, live_session *x, char why[LIVE_WHY]);

static inline void live_cut(live_ids *ids, size_t n)
{
    ids->n = n < ids->n ? n : ids->n;
}

static inline void live_add(live_ids *ids, const uint32_t *more, size_t n)
{
    for (size_t i = 0; i < n && ids->n < COLD_IDS; i++)
        ids->ids[ids->n++] = more[i];
}

static inline bool live_same(const live_ids *a, const live_ids *b)
{
    return a->n == b->n && memcmp(a->ids, b->ids, a->n * sizeof a->ids[0]) == 0;
}

#endif
