/* open.h - opening what a verb works on, from its options. */
#ifndef TARN_COMMAND_OPEN_H
#define TARN_COMMAND_OPEN_H

#include "options.h"
#include "tarn.h"

/* Everything a verb may have open. Zero it, and give it to open_close in any state. */
typedef struct opened {
    tarn_model *model;
    tarn_engine *engine;
    tarn_store *store;
    tarn_session *session;
    tarn_reuse reuse;
} opened;

/* A session and the place in it: "agent@turn:2". */
typedef struct place {
    char session[256];
    const char *where; /* NULL: the head */
} place;

/* What --store, --key-file, --model, --device, --numerics, --threads and --exact take. */
#define OPTIONS_STORE (OPTION_BIT(OPTION_STORE) | OPTION_BIT(OPTION_KEY_FILE))
#define OPTIONS_MODEL                                                                              \
    (OPTION_BIT(OPTION_MODEL) | OPTION_BIT(OPTION_DEVICE) | OPTION_BIT(OPTION_NUMERICS) |          \
     OPTION_BIT(OPTION_THREADS) | OPTION_BIT(OPTION_EXACT))

/* Each returns an exit code and has said what was wrong if it is not 0. */
int open_model(const arguments *args, const char *dir, uint32_t flags, opened *o);
int open_engine(const arguments *args, opened *o); /* the model of --model and an engine on it */
/* The same with the ceilings of `with`; what arguments say is filled in. */
int open_engine_with(const arguments *args, const tarn_engine_options *with, opened *o);
/* What a store without a key is opened with; warnings go to standard error. */
tarn_store_options open_store_options(uint32_t flags);

/* The key of --key-file; forget it as soon as the store is open. */
typedef struct store_key {
    uint8_t bytes[65];
} store_key;

/* The same with that key. Exit code 2 where its file may be read by others or holds no key. */
int open_keyed_options(const arguments *args, uint32_t flags, store_key *key,
                       tarn_store_options *out);
void open_forget(store_key *key);
int open_store(const arguments *args, uint32_t flags, opened *o);
int open_session(const arguments *args, const char *name, const tarn_session_options *options,
                 opened *o); /* needs the engine; with a store if one is open */
/* Store, engine and the session `name`, which must exist. */
int open_existing(const arguments *args, const char *name, opened *o);
/* What the session took over when it was opened, or from another's prefix since. */
tarn_reuse open_reuse(const opened *o);
/* Feeds what --tools and --system say, in the order the chat format has them. */
bool open_feed_new(const arguments *args, tarn_session *session, tarn_error *err);
void open_close(opened *o);

/* Splits NAME[WHERE]; exit code 1 where the name is too long. */
int open_split(const arguments *args, const char *text, place *out);
tarn_numerics open_numerics(const arguments *args);

#endif
