/* The conventions of tarn.h: options of other sizes, callbacks, what calls report. */
#include "check.h"
#include "fixture.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- options ---- */

CASE(options_of_other_versions)
{
    rig r;
    tarn_engine *engine;
    rig_open(&r, RIG_TINY, NULL);
    struct {
        tarn_engine_options known;
        unsigned char more[24];
    } larger = {.known = {.size = sizeof larger, .n_threads = 1}};
    OK(tarn_engine_open(r.model, &larger.known, &engine, ERR)); /* a tail of zeros says nothing */
    tarn_engine_close(engine);
    larger.more[23] = 1;
    REFUSED(tarn_engine_open(r.model, &larger.known, &engine, ERR), TARN_E_INVALID,
            "tarn_engine_options");
    CHECK(engine == NULL);
    larger.known.size = sizeof larger - 1; /* it is told to end before that byte */
    OK(tarn_engine_open(r.model, &larger.known, &engine, ERR));
    tarn_engine_close(engine);
    tarn_engine_options smaller = {.size = offsetof(tarn_engine_options, sessions_max),
                                   .n_threads = 1,
                                   .sessions_max = UINT32_MAX}; /* behind its end: not read */
    OK(tarn_engine_open(r.model, &smaller, &engine, ERR));
    tarn_engine_close(engine);
    tarn_engine_options none = {.size = 0};
    REFUSED(tarn_engine_open(r.model, &none, &engine, ERR), TARN_E_INVALID, "size is 0");
    rig_close(&r);
}

CASE(results_of_other_versions)
{
    rig r;
    uint32_t ids[10];
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 80, ids, 10);
    tarn_session *s = rig_loose(&r, "a");
    rig_feed(s, ids, 10);
    struct {
        tarn_session_info known;
        unsigned char more[16];
    } larger;
    memset(&larger, 0xAA, sizeof larger);
    larger.known.size = sizeof larger;
    tarn_session_get_info(s, &larger.known);
    CHECK_EQ(larger.known.at.position, 10);
    CHECK_EQ(larger.known.size, sizeof larger);
    CHECK_EQ(larger.more[0], 0xAA); /* unknown fields are left alone */
    tarn_session_info smaller;
    memset(&smaller, 0xAA, sizeof smaller);
    smaller.size = offsetof(tarn_session_info, turns);
    tarn_session_get_info(s, &smaller);
    CHECK_EQ(smaller.at.position, 10);
    CHECK_EQ(smaller.turns, 0xAAAAAAAA);
    tarn_session_close(s);
    rig_close(&r);
}

CASE(options_that_are_refused)
{
    rig r;
    tarn_engine *e;
    tarn_session *s;
    tarn_store *store;
    tarn_model *model;
    rig_open(&r, RIG_TINY, NULL);
#define BAD_ENGINE(status, words, ...)                                                             \
    do {                                                                                           \
        tarn_engine_options o = {.size = sizeof o, __VA_ARGS__};                                   \
        REFUSED(tarn_engine_open(r.model, &o, &e, ERR), status, words);                            \
        CHECK(e == NULL);                                                                          \
    } while (0)
    BAD_ENGINE(TARN_E_NO_DEVICE, "cuda:0", .device = "cuda:0");
    BAD_ENGINE(TARN_E_INVALID, "numerics is 7", .numerics = (tarn_numerics)7);
    BAD_ENGINE(TARN_E_INVALID, "sessions_max", .sessions_max = 1u << 30);
    BAD_ENGINE(TARN_E_INVALID, "step_tokens_max", .step_tokens_max = 1u << 30);
    REFUSED(tarn_engine_open(NULL, NULL, &e, ERR), TARN_E_INVALID, "model is NULL");
    tarn_model_info about = {.size = sizeof about};
    REFUSED(tarn_model_describe(r.model, (tarn_numerics)7, &about, ERR), TARN_E_INVALID,
            "numerics is 7");
#define BAD_SESSION(words, ...)                                                                    \
    do {                                                                                           \
        tarn_session_options o = {.size = sizeof o, __VA_ARGS__};                                  \
        REFUSED(tarn_session_open(r.engine, r.store, "a", &o, &s, NULL, ERR), TARN_E_INVALID,      \
                words);                                                                            \
        CHECK(s == NULL);                                                                          \
    } while (0)
    BAD_SESSION("flags", .flags = 64);
    BAD_SESSION("EXCLUSIVE", .flags = TARN_SESSION_EXCLUSIVE);
    BAD_SESSION("READ_ONLY", .where = "@t:0");
    BAD_SESSION("tags", .n_tags = 1);
    tarn_session_options look = {.size = sizeof look, .flags = TARN_SESSION_READ_ONLY};
    REFUSED(tarn_session_open(r.engine, NULL, "a", &look, &s, NULL, ERR), TARN_E_INVALID, "store");
    REFUSED(tarn_session_open(r.engine, r.store, "a", NULL, &s, NULL, ERR), TARN_E_NOT_FOUND, "a");
    REFUSED(tarn_session_open(r.engine, r.store, "a@b", NULL, &s, NULL, ERR), TARN_E_INVALID, "@");
    REFUSED(tarn_session_open(r.engine, r.store, NULL, NULL, &s, NULL, ERR), TARN_E_INVALID, "");
    REFUSED(tarn_store_open(r.store_path, NULL, &store, ERR), TARN_E_BUSY, "");
    REFUSED(tarn_model_open("/nowhere", NULL, &model, ERR), TARN_E_NOT_FOUND,
            "nowhere/config.json");
    s = rig_session(&r, "a", NULL);
    tarn_session *again;
    tarn_session_options only_new = {.size = sizeof only_new,
                                     .flags = TARN_SESSION_CREATE | TARN_SESSION_EXCLUSIVE};
    REFUSED(tarn_session_open(r.engine, r.store, "a", &only_new, &again, NULL, ERR), TARN_E_EXISTS,
            "a");
    tarn_generate_options g = {.size = sizeof g, .n_stop_ids = TARN_STOP_IDS_MAX + 1};
    const uint32_t ids[] = {1, 2, 160};
    REFUSED(tarn_session_append_tokens(s, ids, 3, ERR), TARN_E_INVALID, "id 160 at 2");
    REFUSED(tarn_session_append_tokens(s, NULL, 3, ERR), TARN_E_INVALID, "ids is NULL");
    OK(tarn_session_append_tokens(s, NULL, 0, ERR));
    CHECK_EQ(rig_info(s).tokens_waiting, 0);
    rig_feed(s, ids, 2);
    REFUSED(tarn_session_generate(s, &g, ERR), TARN_E_INVALID, "n_stop_ids is 65");
    tarn_sampling p = {.size = sizeof p, .top_p = 2, .repeat_penalty = 1};
    REFUSED(tarn_session_set_sampling(s, &p, ERR), TARN_E_INVALID, "top_p is 2");
    CHECK(tarn_session_append_tokens(s, ids, 3, NULL) == TARN_E_INVALID); /* err may be NULL */
    OK(tarn_session_generate(s, NULL, ERR));
    CHECK_STATUS(tarn_session_append_tokens(s, ids, 1, ERR), TARN_E_CONFLICT);
    CHECK_STATUS(tarn_session_generate(s, NULL, ERR), TARN_E_CONFLICT);
    tarn_session_close(s); /* in the middle of it */
    CHECK_EQ(rig_stat(&r).sessions, 0);
    rig_close(&r);
}

static tarn_status no_bytes(void *user, const void *data, size_t n_bytes, tarn_error *err)
{
    (void)user, (void)data, (void)n_bytes;
    *err = (tarn_error){.status = TARN_E_IO, .detail = "full"};
    return TARN_E_IO;
}

static tarn_status no_more(void *user, void *data, size_t n_bytes, size_t *n_read, tarn_error *err)
{
    (void)user, (void)data, (void)n_bytes, (void)err;
    *n_read = 0;
    return TARN_OK;
}

/* What was in them before is no answer. */
CASE(out_parameters_after_an_error)
{
    rig r;
    rig_open(&r, RIG_RECALL, NULL);
    tarn_session *s = rig_session(&r, "s", NULL);
    const tarn_message m = {.size = sizeof m};
    tarn_at at;
    tarn_price price;
    tarn_reuse reuse;
    tarn_session *other;
    size_t n;
    uint64_t bytes, more;
    uint32_t vocab;
    const float *logits;
#define FAILS(call)                                                                                \
    do {                                                                                           \
        memset(&at, 0xAA, sizeof at);                                                              \
        memset(&price, 0xAA, sizeof price);                                                        \
        memset(&reuse, 0xAA, sizeof reuse);                                                        \
        n = vocab = 0xAA;                                                                          \
        bytes = more = 0xAA;                                                                       \
        CHECK((call) != TARN_OK);                                                                  \
    } while (0)
#define NO_PLACE() CHECK(!at.node && !at.position && !at.session[0] && !at.bit_exact)
#define NO_PRICE() CHECK(!price.replay_tokens && !price.bytes_read)
#define NO_REUSE() CHECK(!reuse.tokens_reused && !reuse.bytes_read && !reuse.reason)
    FAILS(tarn_session_open(r.engine, r.store, "none", NULL, &other, &reuse, ERR));
    NO_REUSE();
    FAILS(tarn_session_append_message(s, &m, &n, ERR));
    CHECK_EQ(n, 0);
    FAILS(tarn_session_append_bytes(s, "x", 1, &n, ERR));
    CHECK_EQ(n, 0);
    FAILS(tarn_session_append_end(s, &n, ERR));
    CHECK_EQ(n, 0);
    FAILS(tarn_session_append_tools(s, "{", 1, &n, ERR));
    CHECK_EQ(n, 0);
    FAILS(tarn_session_logits(s, &logits, &vocab, ERR));
    CHECK_EQ(vocab, 0);
    FAILS(tarn_session_rewind(s, "@t:7", &reuse, ERR));
    NO_REUSE();
    FAILS(tarn_session_price(s, "@t:7", &at, &price, ERR));
    NO_PLACE();
    NO_PRICE();
    FAILS(tarn_store_price(r.store, "s", "@t:7", &at, &price, ERR));
    NO_PLACE();
    NO_PRICE();
    FAILS(tarn_store_fork(r.store, "s", "@t:7", "t", &at, &price, &bytes, ERR));
    NO_PLACE();
    NO_PRICE();
    CHECK_EQ(bytes, 0);
    FAILS(tarn_store_rewind(r.store, "s", "@t:7", &at, &price, &bytes, ERR));
    NO_PLACE();
    NO_PRICE();
    CHECK_EQ(bytes, 0);
    FAILS(tarn_store_export(r.store, "s", no_bytes, NULL, NULL, &at, &bytes, ERR));
    NO_PLACE();
    CHECK_EQ(bytes, 0);
    FAILS(tarn_store_export_file(r.store, "s", "/nowhere/x", NULL, &at, &bytes, ERR));
    NO_PLACE();
    CHECK_EQ(bytes, 0);
    FAILS(tarn_store_import(r.store, no_more, NULL, NULL, NULL, &at, &bytes, ERR));
    NO_PLACE();
    CHECK_EQ(bytes, 0);
    FAILS(tarn_store_import_file(r.store, "/nowhere/x", NULL, NULL, &at, &bytes, ERR));
    NO_PLACE();
    CHECK_EQ(bytes, 0);
    FAILS(tarn_store_compact(r.store_path, NULL, NULL, &bytes, &more, ERR)); /* it is open */
    CHECK_EQ(bytes + more, 0);
    tarn_synth_options synth = {.size = sizeof synth, .preset = "none"};
    FAILS(tarn_model_synth("/nowhere", &synth, &bytes, &more, ERR));
    CHECK_EQ(bytes + more, 0);
    tarn_session_close(s);
    rig_close(&r);
}

/* ---- several engines, and the order of closing ---- */

static atomic_long n_blocks;

static void *counted_alloc(void *user, size_t n_bytes)
{
    (void)user;
    void *p = calloc(1, n_bytes);
    atomic_fetch_add(&n_blocks, p != NULL);
    return p;
}

static void *counted_resize(void *user, void *p, size_t n_bytes)
{
    (void)user;
    atomic_fetch_add(&n_blocks, p == NULL);
    return realloc(p, n_bytes);
}

static void counted_free(void *user, void *p)
{
    (void)user;
    atomic_fetch_sub(&n_blocks, p != NULL);
    free(p);
}

typedef struct opener {
    pthread_barrier_t *start;
    tarn_model *model;
    tarn_status status;
} opener;

static void *open_engine(void *argument)
{
    opener *o = argument;
    tarn_engine *engine;
    tarn_error err;
    pthread_barrier_wait(o->start);
    o->status = tarn_engine_open(
        o->model, &(tarn_engine_options){.size = sizeof(tarn_engine_options), .n_threads = 1},
        &engine, &err);
    tarn_engine_close(engine);
    return NULL;
}

/* Any thread may be the one that maps the weights. */
CASE(engines_of_many_threads)
{
    enum { N_THREADS = 6, ROUNDS = 30 };
    rig r;
    rig_open(&r, RIG_TINY, NULL);
    const tarn_allocator counted = {
        .alloc = counted_alloc, .resize = counted_resize, .release = counted_free};
    for (int round = 0; round < ROUNDS; round++) {
        tarn_model_options o = {.size = sizeof o, .allocator = &counted, .cache_dir = ""};
        pthread_barrier_t start;
        pthread_t threads[N_THREADS];
        opener openers[N_THREADS];
        tarn_model *model;
        OK(tarn_model_open(r.model_dir, &o, &model, ERR));
        pthread_barrier_init(&start, NULL, N_THREADS);
        for (int i = 0; i < N_THREADS; i++) {
            openers[i] = (opener){.start = &start, .model = model};
            REQUIRE(pthread_create(&threads[i], NULL, open_engine, &openers[i]) == 0);
        }
        for (int i = 0; i < N_THREADS; i++) {
            pthread_join(threads[i], NULL);
            CHECK_STATUS(openers[i].status, TARN_OK);
        }
        pthread_barrier_destroy(&start);
        tarn_model_close(model);
        CHECK_EQ(atomic_load(&n_blocks), 0);
    }
    rig_close(&r);
}

/* In a process of its own, whose words nobody hears. */
static int signal_of(void (*call)(void *object), void *object)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        if (freopen("/dev/null", "w", stderr))
            call(object);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void close_model(void *model)
{
    tarn_model_close(model);
}

static void close_engine(void *engine)
{
    tarn_engine_close(engine);
}

static void close_store(void *store)
{
    tarn_store_close(store);
}

CASE(children_are_closed_first)
{
    rig r;
    rig_open(&r, RIG_TINY, NULL);
    tarn_session *s = rig_session(&r, "s", NULL), *loose = rig_loose(&r, "loose");
    CHECK_EQ(signal_of(close_model, r.model), SIGABRT);
    CHECK_EQ(signal_of(close_engine, r.engine), SIGABRT);
    CHECK_EQ(signal_of(close_store, r.store), SIGABRT);
    tarn_session *f = rig_fork(s, "f");
    tarn_session_close(s);
    CHECK_EQ(signal_of(close_store, r.store), SIGABRT);
    tarn_session *none;
    REFUSED(tarn_session_open(r.engine, r.store, "none", NULL, &none, NULL, ERR), TARN_E_NOT_FOUND,
            "none");
    tarn_session_close(f);
    CHECK_EQ(signal_of(close_store, r.store), 0); /* the loose one does not use it */
    tarn_session_close(loose);
    tarn_model_close(NULL);
    tarn_engine_close(NULL);
    tarn_store_close(NULL);
    tarn_session_close(NULL);
    rig_close(&r);
}

CASE(the_context_is_a_limit)
{
    rig r;
    static uint32_t ids[4096];
    static rig_told told;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 81, ids, 4096);
    tarn_session *s = rig_loose(&r, "a");
    rig_feed(s, ids, 4090);
    REFUSED(tarn_session_append_tokens(s, ids, 7, ERR), TARN_E_LIMIT, "4097 tokens");
    CHECK_EQ(rig_info(s).tokens_waiting, 0);
    rig_generate(s, 5, NULL);
    rig_answer(s, 10, &told);
    CHECK_EQ(told.stop, TARN_STOP_LENGTH);
    CHECK_EQ(told.n_ids, 1);
    CHECK_EQ(rig_info(s).at.position, 4096);
    tarn_session_close(s);
    rig_close(&r);
}

/* ---- stop ids of the caller ---- */

CASE(stop_ids_of_the_caller)
{
    rig r;
    uint32_t ids[30];
    static rig_told free_run, told;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 82, ids, 30);
    tarn_session *s = rig_loose(&r, "a");
    rig_feed(s, ids, 30);
    tarn_session *t = rig_fork(s, "b");
    rig_generate(s, 10, &free_run);
    uint32_t stop[] = {free_run.ids[4], free_run.ids[7]};
    size_t first = 0;
    while (free_run.ids[first] != stop[0] && free_run.ids[first] != stop[1])
        first++;
    tarn_generate_options o = {.size = sizeof o, .stop_ids = stop, .n_stop_ids = 2};
    OK(tarn_session_generate(t, &o, ERR));
    stop[0] = stop[1] = 0; /* they were copied */
    OK(tarn_session_run(t, rig_hear, &told, ERR));
    CHECK_EQ(told.stop, TARN_STOP_TOKEN);
    CHECK_EQ(told.n_ids, first + 1);
    CHECK(rig_info(t).turn_open); /* not a marker of the model's */
    tarn_session_close(s);
    tarn_session_close(t);
    rig_close(&r);
}

/* ---- callbacks ---- */

typedef struct nosy {
    rig *r;
    tarn_session *s;
    size_t n_calls;
} nosy;

/* Everything that would change something is refused; looking is not. */
static void try_everything(nosy *n)
{
    const uint32_t id = 1;
    tarn_session *out;
    tarn_reuse reuse;
    const tarn_tool_call *calls;
    size_t n_tool_calls;
    tarn_sampling p = {.size = sizeof p, .top_p = 1, .repeat_penalty = 1};
    tarn_message m = {.size = sizeof m, .role = TARN_ROLE_USER};
    n->n_calls++;
    CHECK_STATUS(tarn_session_append_tokens(n->s, &id, 1, ERR), TARN_E_INVALID);
    CHECK_HAS(rig_error.detail, "callback");
    CHECK_STATUS(tarn_session_append_message(n->s, &m, NULL, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_session_append_tools(n->s, "[]", 2, NULL, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_session_generate(n->s, NULL, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_session_run(n->s, NULL, NULL, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_engine_step(n->r->engine, NULL, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_session_set_sampling(n->s, &p, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_session_commit(n->s, NULL, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_session_fork(n->s, "x", &out, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_session_rewind(n->s, "@t:0", &reuse, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_session_reset(n->s, &reuse, ERR), TARN_E_INVALID);
    CHECK_STATUS(tarn_session_open(n->r->engine, NULL, "x", NULL, &out, NULL, ERR), TARN_E_INVALID);
    CHECK(rig_info(n->s).at.position > 0);
    tarn_session_tool_calls(n->s, &calls, &n_tool_calls, NULL);
}

static void on_event(void *user, const tarn_event *event)
{
    (void)event;
    try_everything(user);
}

static void on_logits(void *user, uint64_t position, const float *logits, uint32_t vocab)
{
    (void)position;
    (void)logits;
    (void)vocab;
    try_everything(user);
}

static void cancel_at_third(void *user, const tarn_event *event)
{
    size_t *n = user;
    *n += event->kind == TARN_EVENT_TOKEN;
    if (*n == 3)
        tarn_session_cancel(event->session);
}

CASE(callbacks_may_only_look)
{
    rig r;
    uint32_t ids[20];
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 83, ids, 20);
    tarn_session *s = rig_session(&r, "a", NULL);
    nosy n = {&r, s, 0};
    OK(tarn_session_append_tokens(s, ids, 20, ERR));
    OK(tarn_session_run(s, on_event, &n, ERR));
    CHECK_EQ(n.n_calls, 1);
    tarn_session_on_logits(s, on_logits, &n);
    OK(tarn_session_append_tokens(s, ids, 20, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK_EQ(n.n_calls, 21);
    tarn_session_on_logits(s, NULL, NULL);
    size_t n_tokens = 0;
    OK(tarn_session_generate(s, NULL, ERR));
    OK(tarn_session_run(s, cancel_at_third, &n_tokens, ERR)); /* cancel is allowed */
    CHECK_EQ(n_tokens, 3);
    CHECK_EQ(rig_info(s).at.position, 43);
    tarn_session_close(s);
    rig_close(&r);
}

CASE(events_of_a_closed_session_are_dropped)
{
    rig r;
    uint32_t ids[20];
    tarn_event event;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 87, ids, 20);
    tarn_session *a = rig_loose(&r, "a"), *b = rig_loose(&r, "b");
    OK(tarn_session_append_tokens(a, ids, 20, ERR));
    OK(tarn_session_append_tokens(b, ids, 10, ERR));
    OK(tarn_engine_step(r.engine, NULL, ERR));
    tarn_session_close(a);
    CHECK(tarn_engine_poll(r.engine, &event));
    CHECK(event.session == b);
    CHECK_EQ(event.kind, TARN_EVENT_APPENDED);
    CHECK_EQ(event.n_tokens, 10);
    CHECK(!tarn_engine_poll(r.engine, &event));
    tarn_session_close(b);
    rig_close(&r);
}

CASE(lists_and_tags)
{
    rig r;
    uint32_t ids[50];
    tarn_session_list list;
    tarn_session *s;
    const tarn_tag tags[] = {{"team", "red"}, {"kind", "test"}};
    tarn_session_options o = {
        .size = sizeof o, .flags = TARN_SESSION_CREATE, .tags = tags, .n_tags = 2};
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 85, ids, 50);
    OK(tarn_session_open(r.engine, r.store, "b", &o, &s, NULL, ERR));
    rig_feed(s, ids, 50);
    rig_commit(s);
    tarn_session_close(rig_fork(s, "c"));
    tarn_session_close(rig_session(&r, "a", NULL));
    OK(tarn_store_list(r.store, NULL, &list, ERR));
    CHECK_EQ(list.n_entries, 3);
    CHECK_TEXT(list.entries[0].name, "a");
    CHECK_EQ(list.entries[1].position, 50);
    CHECK_EQ(list.entries[1].n_tags, 2);
    CHECK(list.entries[1].bytes_owned > 0);
    CHECK_EQ(list.entries[1].bytes_shared, 0);
    CHECK_EQ(list.entries[2].bytes_owned, 0);
    CHECK_EQ(list.entries[2].bytes_shared, list.entries[1].bytes_owned);
    CHECK_EQ(rig_store_stat(&r).bytes_shared, list.entries[2].bytes_shared);
    CHECK(list.entries[1].created_ms > 1600000000000u);
    tarn_session_list_free(&list);
    static const char *const wanted[] = {"team=red", "kind", "team=blue", "team=", "te"};
    static const size_t n_wanted[] = {1, 1, 0, 0, 0};
    for (size_t i = 0; i < 5; i++) {
        OK(tarn_store_list(r.store, wanted[i], &list, ERR));
        CHECK_EQ(list.n_entries, n_wanted[i]);
        tarn_session_list_free(&list);
    }
    REFUSED(tarn_store_rename(r.store, "b", "z", ERR), TARN_E_BUSY, "open for writing");
    rig_feed(s, ids, 10);
    OK(tarn_session_rewind(s, "@t:55", NULL, ERR)); /* it is still itself */
    rig_drain(&r);
    CHECK_EQ(rig_info(s).at.position, 55);
    OK(tarn_session_reset(s, NULL, ERR));
    rig_drain(&r);
    CHECK_EQ(rig_info(s).at.position, 55);
    tarn_session_close(s);
    rig_close(&r);
}

/* ---- E1: many sessions and a budget ---- */

CASE(many_sessions_within_a_budget) /* E1 */
{
    enum { SESSIONS = 64, PAGES = 20 };
    rig r;
    uint32_t ids[130];
    tarn_session *s[SESSIONS + 1];
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .tokens_max = PAGES * 64});
    rig_ids(&r, 86, ids, 130);
    size_t n_refused = 0, n_fed = 0;
    for (size_t i = 0; i < SESSIONS; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%zu", i);
        s[i] = rig_session(&r, name, NULL);
        tarn_status status = tarn_session_append_tokens(s[i], ids, 65 + i, ERR);
        if (status == TARN_E_LIMIT)
            n_refused++;
        else
            n_fed++;
        CHECK(rig_stat(&r).pages <= PAGES);
    }
    CHECK_EQ(n_fed, PAGES / 2);
    CHECK_EQ(n_refused, SESSIONS - PAGES / 2);
    tarn_session *one_more;
    REFUSED(tarn_session_open(r.engine, NULL, "x", NULL, &one_more, NULL, ERR), TARN_E_LIMIT,
            "sessions_max");
    rig_drain(&r);
    for (size_t i = 0; i < SESSIONS; i++) { /* whoever closes makes room for the next */
        if (rig_info(s[i]).at.position == 0)
            rig_feed(s[i], ids, 65 + i);
        rig_commit(s[i]);
        tarn_session_close(s[i]);
        CHECK(rig_stat(&r).pages <= PAGES);
    }
    CHECK_EQ(rig_stat(&r).pages, 0);
    tarn_session *cold = rig_loose(&r, "cold");
    rig_trace rows;
    rig_trace_begin(&rows, cold);
    rig_feed(cold, ids, 130);
    for (size_t i = 0; i < SESSIONS; i += 9) {
        char name[16];
        tarn_reuse reuse;
        snprintf(name, sizeof name, "s%zu", i);
        s[i] = rig_session(&r, name, &reuse);
        CHECK_EQ(reuse.tokens_reused, 65 + i);
        CHECK(rig_logits_are(s[i], &rows, 65 + i));
        tarn_session_close(s[i]);
    }
    rig_trace_free(&rows);
    tarn_session_close(cold);
    rig_close(&r);
}

/* By hand, from the tensors of the tiny model: 3 KDA layers and one of MLA. */
CASE(what_a_step_costs_is_described)
{
    rig r;
    tarn_model_info info = {.size = sizeof info};
    enum {
        MLA_Q = 96 * 64,
        KV_B = 112 * 24,
        O = 64 * 48,
        ROUTER = 8 * 64 + 8,
        EXPERT = 3 * 24 * 64
    };
    rig_open(&r, RIG_TINY, NULL);
    OK(tarn_model_describe(r.model, TARN_NUMERICS_F32, &info, ERR));
    CHECK_EQ(info.tail_weight_bytes, 2 * (MLA_Q + KV_B + O + ROUTER + EXPERT + 64));
    CHECK_EQ(info.expert_bytes, 2 * EXPERT);
    CHECK_EQ(info.n_moe_layers, 4);
    CHECK_EQ(info.logits_weight_bytes, 2 * 64 * (uint64_t)info.vocab);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(options_of_other_versions), ENTRY(results_of_other_versions),
           ENTRY(options_that_are_refused), ENTRY(out_parameters_after_an_error),
           ENTRY(engines_of_many_threads), ENTRY(children_are_closed_first),
           ENTRY(the_context_is_a_limit), ENTRY(stop_ids_of_the_caller),
           ENTRY(callbacks_may_only_look), ENTRY(events_of_a_closed_session_are_dropped),
           ENTRY(lists_and_tags), ENTRY(many_sessions_within_a_budget),
           ENTRY(what_a_step_costs_is_described))
