/* Nothing of one tenant comes to light at another's: two stores on one engine, whose slots and
 * pages go from one to the other, and memory that was somebody's before. What a tenant computes and
 * keeps must be what it is on an engine that nobody used, bit for bit; its files and what is logged
 * hold none of the other's words, nor the logs its own. */
#include "check.h"
#include "fixture.h"

#include <unistd.h>

enum { N = 150 };

static const char needle[] = "needle-of-the-first-tenant";

/* ---- memory that is never clean -------------------------------------------------------------- */

/* Every block comes full of NaNs, and is full of something else when it goes. */
static void *dirty_resize(void *user, void *memory, size_t n)
{
    size_t *was = memory ? (size_t *)memory - 2 : NULL;
    size_t *now = malloc(n + 2 * sizeof *now);
    (void)user;
    if (!now)
        return NULL;
    memset(now, 0xFF, n + 2 * sizeof *now);
    *now = n;
    if (was) {
        memcpy(now + 2, was + 2, *was < n ? *was : n);
        memset(was + 2, 0xA5, *was);
        free(was);
    }
    return now + 2;
}

static void *dirty_alloc(void *user, size_t n)
{
    return dirty_resize(user, NULL, n);
}

static void dirty_release(void *user, void *memory)
{
    size_t *was = memory ? (size_t *)memory - 2 : NULL;
    (void)user;
    if (was)
        memset(was + 2, 0xA5, *was);
    free(was);
}

static const tarn_allocator dirty = {dirty_alloc, dirty_resize, dirty_release, NULL};

/* ---- what a session has ---------------------------------------------------------------------- */

typedef struct belongings {
    uint64_t hash; /* of all tensors and the logits */
    size_t n;
} belongings;

static void add(belongings *b, const void *data, size_t n_bytes)
{
    const uint8_t *at = data;
    for (size_t i = 0; i < n_bytes; i++)
        b->hash = (b->hash ^ at[i]) * 0x100000001B3u;
    b->n += n_bytes;
}

static void add_tensor(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                       const float *data)
{
    size_t n = 1;
    (void)name;
    for (uint32_t i = 0; i < n_dims; i++)
        n *= (size_t)dims[i];
    add(user, data, n * sizeof *data);
}

static belongings all_of(tarn_session *s)
{
    belongings b = {0};
    const float *logits;
    uint32_t vocab;
    OK(tarn_session_tensors(s, add_tensor, &b, ERR));
    OK(tarn_session_logits(s, &logits, &vocab, ERR));
    add(&b, logits, vocab * sizeof *logits);
    return b;
}

/* Fed in two pieces, forked in the middle, committed, and read back from the store. */
static void live(rig *r, belongings out[3])
{
    uint32_t ids[N];
    rig_ids(r, 3, ids, N);
    tarn_session *s = rig_session(r, "second", NULL);
    rig_feed(s, ids, N / 2);
    tarn_session *child = rig_fork(s, "child");
    rig_feed(child, ids + 7, 10);
    out[0] = all_of(child);
    rig_feed(s, ids + N / 2, N / 2);
    out[1] = all_of(s);
    rig_commit(s);
    tarn_session_close(s);
    tarn_session_close(child);
    s = rig_session(r, "second", NULL);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    out[2] = all_of(s);
    tarn_session_close(s);
}

/* Another tenant's sessions, which leave their states and latents in the pools. */
static void somebody_else(rig *r, tarn_store *store)
{
    uint32_t ids[N];
    tarn_session *s[6];
    for (size_t i = 0; i < 6; i++) {
        char name[16];
        const tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_CREATE};
        snprintf(name, sizeof name, "first-%zu", i);
        OK(tarn_session_open(r->engine, store, name, &o, &s[i], NULL, ERR));
        rig_ids(r, 50 + i, ids, N);
        rig_feed(s[i], ids, N);
        rig_commit(s[i]);
    }
    for (size_t i = 0; i < 6; i++)
        tarn_session_close(s[i]);
}

static tarn_store *another_store(const rig *r, char path[160])
{
    tarn_store *store;
    const tarn_store_options o = {
        .size = sizeof o, .flags = TARN_STORE_CREATE, .map_bytes = (uint64_t)1 << 28};
    snprintf(path, 160, "%s/first", r->dir);
    OK(tarn_store_open(path, &o, &store, ERR));
    return store;
}

static void slots_and_pages(rig_kind kind)
{
    belongings clean[3], used[3], unclean[3];
    char path[160];
    rig r;
    rig_open(&r, kind, NULL);
    live(&r, clean);
    rig_close(&r);

    rig_open(&r, kind, NULL);
    tarn_store *first = another_store(&r, path);
    somebody_else(&r, first);
    live(&r, used);
    tarn_store_close(first);
    rig_close(&r);

    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 1, .allocator = &dirty});
    live(&r, unclean);
    rig_close(&r);
    CHECK(clean[0].n > 0 && clean[1].n > clean[0].n);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(used[i].hash, clean[i].hash);
        CHECK_EQ(unclean[i].hash, clean[i].hash);
        CHECK_EQ(used[i].n, clean[i].n);
    }
    CHECK_EQ(clean[2].hash, clean[1].hash);
}

CASE(slots_and_pages_of_the_tiny_model)
{
    slots_and_pages(RIG_TINY);
}

CASE(slots_and_pages_of_the_bundled_model)
{
    slots_and_pages(RIG_RECALL);
}

/* ---- words ----------------------------------------------------------------------------------- */

static char logged[1 << 18];
static size_t n_logged;

static void remember(void *user, tarn_log_level level, const char *message, const char *file,
                     int line)
{
    (void)user, (void)level, (void)file, (void)line;
    size_t n = strlen(message);
    if (n_logged + n < sizeof logged) {
        memcpy(logged + n_logged, message, n);
        n_logged += n;
    }
}

static bool file_holds(const char *store, const char *words)
{
    char path[200];
    size_t n;
    snprintf(path, sizeof path, "%s/data.mdb", store);
    char *data = rig_read_file(path, &n);
    bool found = memmem(data, n, words, strlen(words)) != NULL;
    free(data);
    return found;
}

/* A session whose system text, tag, tool call and its answer all say the words. */
static void say(rig *r, tarn_store *store, const char *words)
{
    const tarn_tag tag = {"k", words};
    const tarn_session_options o = {
        .size = sizeof o, .flags = TARN_SESSION_CREATE, .tags = &tag, .n_tags = 1};
    const tarn_tool_call call = {.id = words, .arguments = "{}", .arguments_bytes = 2};
    const tarn_message messages[] = {
        {.size = sizeof *messages,
         .role = TARN_ROLE_SYSTEM,
         .text = words,
         .text_bytes = strlen(words)},
        {.size = sizeof *messages, .role = TARN_ROLE_ASSISTANT, .calls = &call, .n_calls = 1},
        {.size = sizeof *messages,
         .role = TARN_ROLE_TOOL,
         .call_id = words,
         .text = words,
         .text_bytes = strlen(words)}};
    tarn_session *s;
    OK(tarn_session_open(r->engine, store, "s", &o, &s, NULL, ERR));
    for (size_t i = 0; i < 3; i++)
        OK(tarn_session_append_message(s, &messages[i], NULL, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    rig_commit(s);
    OK(tarn_session_park(s, ERR));
    tarn_session_close(s);
}

/* Sessions that meet damage say so, and nothing else. */
static void damage(rig *r, const tarn_store_options *o)
{
    char path[200];
    size_t n;
    tarn_store_close(r->store);
    snprintf(path, sizeof path, "%s/data.mdb", r->store_path);
    char *data = rig_read_file(path, &n);
    for (size_t at = 8192; at < n; at += 307) {
        tarn_session *s;
        data[at] ^= 16;
        rig_write_file(path, data, n);
        data[at] ^= 16;
        if (tarn_store_open(r->store_path, o, &r->store, ERR) != TARN_OK)
            continue;
        if (tarn_session_open(r->engine, r->store, "s", NULL, &s, NULL, ERR) == TARN_OK)
            tarn_session_close(s);
        CHECK(!strstr(rig_error.detail, needle));
        tarn_store_close(r->store);
    }
    r->store = NULL;
    free(data);
}

CASE(words_of_two_tenants)
{
    static const char other[] = "words-of-the-second-one";
    const tarn_log log = {remember, NULL, TARN_LOG_DEBUG};
    const tarn_store_options o = {.size = sizeof o, .map_bytes = (uint64_t)1 << 28, .log = &log};
    char path[160];
    rig r;
    rig_open(&r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1, .log = &log});
    tarn_store *second = another_store(&r, path);
    say(&r, r.store, needle);
    say(&r, second, other);
    CHECK(file_holds(r.store_path, needle)); /* tags and calls are kept as they are */
    CHECK(!file_holds(r.store_path, other));
    CHECK(file_holds(path, other));
    CHECK(!file_holds(path, needle));
    tarn_store_close(second);
    damage(&r, &o);
    CHECK(n_logged > 0);
    CHECK(memmem(logged, n_logged, needle, sizeof needle - 1) == NULL);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(slots_and_pages_of_the_tiny_model), ENTRY(slots_and_pages_of_the_bundled_model),
           ENTRY(words_of_two_tenants))
