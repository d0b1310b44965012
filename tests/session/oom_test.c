/* Every allocation of a whole life fails once: the call says NO_MEMORY, nothing leaks, what the
 * call was about is as before, and the same call then works. */
#include "check.h"
#include "fixture.h"

#include <stdatomic.h>

enum { N = 40 };

/* Workers of the store allocate too. */
typedef struct failing {
    atomic_long calls_left; /* that succeed */
    bool once;              /* later ones succeed again */
    atomic_bool failed;
    atomic_long blocks;
} failing;

static bool fails(failing *f)
{
    if (f->calls_left-- > 0 || (f->once && f->failed))
        return false;
    f->failed = true;
    return true;
}

static void *failing_alloc(void *user, size_t n_bytes)
{
    failing *f = user;
    if (fails(f))
        return NULL;
    f->blocks++;
    return malloc(n_bytes);
}

static void *failing_resize(void *user, void *memory, size_t n_bytes)
{
    failing *f = user;
    if (fails(f))
        return NULL;
    f->blocks += memory == NULL;
    return realloc(memory, n_bytes);
}

static void failing_release(void *user, void *memory)
{
    failing *f = user;
    f->blocks -= memory != NULL;
    free(memory);
}

typedef enum life_kind { LIVES, TALKS, LEAVES } life_kind;

typedef struct life {
    rig *r; /* model folder, ids and the heap's own handles */
    life_kind kind;
    const tarn_allocator *allocator;
    char store_path[128];
    uint32_t ids[N];
    tarn_model *model;
    tarn_engine *engine;
    tarn_store *store;
    tarn_session *s, *child;
    float *logits; /* of the end: s, then child */
} life;

/* The call, and once more if there was no memory for it. */
#define AGAIN(call)                                                                                \
    do {                                                                                           \
        tarn_status again = (call);                                                                \
        if (again == TARN_E_NO_MEMORY)                                                             \
            again = (call);                                                                        \
        if (again != TARN_OK)                                                                      \
            return again;                                                                          \
    } while (0)

static tarn_status open_all(life *l)
{
    const tarn_tag tag = {"kind", "test"};
    tarn_model_options m = {.size = sizeof m, .allocator = l->allocator, .cache_dir = ""};
    tarn_engine_options e = {.size = sizeof e,
                             .device = RIG_DEVICE,
                             .allocator = l->allocator,
                             .n_threads = 1,
                             .keep_every = l->kind == TALKS ? 0 : 16};
    if (l->kind != LIVES) /* opening the tokenizer is a test of its own layer */
        m.allocator = NULL;
    if (l->kind == LEAVES) { /* small: each of some hundred engines has all it may have at once */
        e.pinned_bytes_max = 1 << 20;
        e.sessions_max = 4;
        e.step_tokens_max = 64;
        e.exact = true; /* the same bits, however often a call is repeated */
    }
    tarn_store_options st = {.size = sizeof st,
                             .allocator = l->kind == LEAVES ? NULL : l->allocator,
                             .flags = TARN_STORE_CREATE,
                             .map_bytes = (uint64_t)1 << 26};
    tarn_session_options o = {
        .size = sizeof o, .flags = TARN_SESSION_CREATE, .tags = &tag, .n_tags = 1};
    AGAIN(tarn_model_open(l->r->model_dir, &m, &l->model, ERR));
    AGAIN(tarn_engine_open(l->model, &e, &l->engine, ERR));
    AGAIN(tarn_store_open(l->store_path, &st, &l->store, ERR));
    AGAIN(tarn_session_open(l->engine, l->store, "a", &o, &l->s, NULL, ERR));
    return TARN_OK;
}

static tarn_status list_all(life *l)
{
    tarn_session_list sessions;
    tarn_node_list nodes;
    tarn_ids ids;
    tarn_verify_report report;
    AGAIN(tarn_store_list(l->store, "kind=test", &sessions, ERR));
    CHECK_EQ(sessions.n_entries, 1);
    tarn_session_list_free(&sessions);
    AGAIN(tarn_store_log(l->store, "a", NULL, &nodes, ERR));
    CHECK(nodes.n_entries >= 2); /* 0, 20, and 16 if there was memory to keep it */
    tarn_node_list_free(&nodes);
    AGAIN(tarn_store_tree(l->store, "a", &nodes, ERR));
    tarn_node_list_free(&nodes);
    AGAIN(tarn_store_tokens(l->store, "b", NULL, &ids, ERR));
    CHECK_EQ(ids.n_ids, N + 8);
    tarn_ids_free(&ids);
    AGAIN(tarn_store_verify(l->store, NULL, NULL, &report, ERR));
    CHECK_EQ(report.n_bad, 0);
    tarn_verify_report_free(&report);
    return TARN_OK;
}

static tarn_status keep_logits(life *l)
{
    const float *logits;
    uint32_t vocab;
    AGAIN(tarn_session_logits(l->s, &logits, &vocab, ERR));
    memcpy(l->logits, logits, vocab * sizeof *logits);
    AGAIN(tarn_session_logits(l->child, &logits, &vocab, ERR));
    memcpy(l->logits + vocab, logits, vocab * sizeof *logits);
    return TARN_OK;
}

static tarn_status live(life *l)
{
    tarn_sampling p = {
        .size = sizeof p, .temperature = 1, .top_p = 0.9f, .repeat_penalty = 1, .seed = 3};
    tarn_generate_options g = {.size = sizeof g, .n_tokens_max = 5};
    tarn_status status = open_all(l);
    if (status != TARN_OK)
        return status;
    p.n_bias = 1;
    p.bias[0] = (tarn_logit_bias){157, -INFINITY};
    AGAIN(tarn_session_set_sampling(l->s, &p, ERR));
    AGAIN(tarn_session_append_tokens(l->s, l->ids, N, ERR));
    AGAIN(tarn_session_generate(l->s, &g, ERR));
    AGAIN(tarn_session_run(l->s, NULL, NULL, ERR));
    AGAIN(tarn_session_commit(l->s, NULL, ERR));
    AGAIN(tarn_session_fork(l->s, "b", &l->child, ERR));
    AGAIN(tarn_session_append_tokens(l->child, l->ids, 3, ERR));
    AGAIN(tarn_session_run(l->child, NULL, NULL, ERR));
    AGAIN(tarn_session_commit(l->child, NULL, ERR));
    AGAIN(tarn_session_rewind(l->s, "@t:20", NULL, ERR));
    AGAIN(tarn_session_run(l->s, NULL, NULL, ERR));
    status = list_all(l);
    if (status != TARN_OK)
        return status;
    AGAIN(tarn_store_fork(l->store, "b", "@t:33", "c", NULL, NULL, NULL, ERR));
    AGAIN(tarn_store_rewind(l->store, "c", "@t:32", NULL, NULL, NULL, ERR));
    AGAIN(tarn_session_reset(l->s, NULL, ERR));
    AGAIN(tarn_session_run(l->s, NULL, NULL, ERR));
    return keep_logits(l);
}

/* A turn given up behind a whole call, one that calls in pieces, and what was called is answered.
 */
static tarn_status cut_off(life *l)
{
    const uint32_t ids[] = {1035, 1037, 'a', 1038, '{', '}', 1039}; /* a call with its markers */
    const tarn_tool_call call = {.id = "b", .arguments = "[]", .arguments_bytes = 2};
    tarn_message turn = {.size = sizeof turn, .role = TARN_ROLE_ASSISTANT};
    tarn_message result = {.size = sizeof result, .role = TARN_ROLE_TOOL, .call_id = "a"};
    AGAIN(tarn_session_append_begin(l->child, &turn, ERR));
    AGAIN(tarn_session_append_tokens(l->child, ids, sizeof ids / sizeof ids[0], ERR));
    AGAIN(tarn_session_run(l->child, NULL, NULL, ERR));
    tarn_session_cancel(l->child);
    AGAIN(tarn_session_run(l->child, NULL, NULL, ERR));
    AGAIN(tarn_session_append_message(l->child, &result, NULL, ERR));
    turn.calls = &call;
    turn.n_calls = 1;
    AGAIN(tarn_session_append_begin(l->child, &turn, ERR));
    AGAIN(tarn_session_append_end(l->child, NULL, ERR));
    result.call_id = "b";
    AGAIN(tarn_session_append_message(l->child, &result, NULL, ERR));
    AGAIN(tarn_session_run(l->child, NULL, NULL, ERR));
    AGAIN(tarn_session_commit(l->child, NULL, ERR));
    return TARN_OK;
}

/* A result that streams in, a conversation given whole, and another session that begins like it. */
static tarn_status talk_on(life *l)
{
    static const char list[] = "{\"tools\":[{\"name\":\"lookup\"}],\"messages\":[{\"role\":"
                               "\"user\",\"content\":\"Read the "
                               "log.\"},{\"role\":\"assistant\",\"content\":\"Noted.\"}]}";
    static const char *const pieces[] = {"don't pan", "ic: it's ", "\xf0\x9f\x98", "\x80 fine 123"};
    const uint32_t ids[] = {300, 301};
    tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_CREATE};
    tarn_message m = {.size = sizeof m, .role = TARN_ROLE_TOOL, .call_id = "functions.x:7"};
    AGAIN(tarn_session_append_begin(l->s, &m, ERR));
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++)
        AGAIN(tarn_session_append_bytes(l->s, pieces[i], strlen(pieces[i]), NULL, ERR));
    AGAIN(tarn_session_append_tokens(l->s, ids, 2, ERR));
    AGAIN(tarn_session_append_end(l->s, NULL, ERR));
    AGAIN(tarn_session_run(l->s, NULL, NULL, ERR));
    AGAIN(tarn_session_sync(l->s, list, sizeof list - 1, NULL, ERR));
    AGAIN(tarn_session_run(l->s, NULL, NULL, ERR));
    AGAIN(tarn_session_commit(l->s, NULL, ERR));
    AGAIN(tarn_session_open(l->engine, l->store, "b", &o, &l->child, NULL, ERR));
    AGAIN(tarn_session_sync(l->child, list, sizeof list - 1, NULL, ERR));
    AGAIN(tarn_session_run(l->child, NULL, NULL, ERR));
    AGAIN(tarn_session_commit(l->child, NULL, ERR));
    return cut_off(l);
}

/* A message, an answer that calls a tool, and the call's answer. */
static tarn_status talk(life *l)
{
    static const char tools[] = "[{\"name\":\"lookup\"}]", question[] = "Look up mailer.";
    static const char made[] = "functions.read:0", arguments[] = "{}";
    tarn_tool_call call = {
        .id = made, .name = "read", .arguments = arguments, .arguments_bytes = 2};
    tarn_message messages[] = {
        {.role = TARN_ROLE_ASSISTANT, .calls = &call, .n_calls = 1},
        {.role = TARN_ROLE_TOOL, .call_id = made, .text = "ok", .text_bytes = 2},
        {.role = TARN_ROLE_USER, .text = question, .text_bytes = sizeof question - 1},
    };
    tarn_generate_options g = {.size = sizeof g, .n_tokens_max = 20};
    const float *logits;
    uint32_t vocab;
    tarn_status status = open_all(l);
    if (status != TARN_OK)
        return status;
    AGAIN(tarn_session_append_tools(l->s, tools, sizeof tools - 1, NULL, ERR));
    for (size_t i = 0; i < sizeof messages / sizeof messages[0]; i++) {
        messages[i].size = sizeof messages[i];
        AGAIN(tarn_session_append_message(l->s, &messages[i], NULL, ERR));
    }
    AGAIN(tarn_session_generate(l->s, &g, ERR));
    AGAIN(tarn_session_run(l->s, NULL, NULL, ERR));
    AGAIN(tarn_session_commit(l->s, NULL, ERR));
    AGAIN(tarn_session_rewind(l->s, "@before:functions.read:0", NULL, ERR));
    AGAIN(tarn_session_run(l->s, NULL, NULL, ERR));
    status = talk_on(l);
    if (status != TARN_OK)
        return status;
    AGAIN(tarn_session_logits(l->child, &logits, &vocab, ERR));
    memcpy(l->logits, logits, vocab * sizeof *logits);
    return TARN_OK;
}

static void count_tensor(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                         const float *data)
{
    (void)name, (void)dims, (void)n_dims, (void)data;
    ++*(int *)user;
}

/* Two that are parked: one is used while what it held is on its way, the other when it has left. */
static tarn_status leave(life *l)
{
    enum { AT_ONCE = 18, LOOKS = 30, TENSORS = 3 * 4 + 2 };
    tarn_step done = {.size = sizeof done};
    tarn_session_options o = {.size = sizeof o,
                              .flags = TARN_SESSION_CREATE | TARN_SESSION_NO_PREFIX};
    int n_tensors = 0;
    tarn_status status = open_all(l);
    if (status != TARN_OK)
        return status;
    AGAIN(tarn_session_open(l->engine, l->store, "b", &o, &l->child, NULL, ERR));
    AGAIN(tarn_session_append_tokens(l->s, l->ids, AT_ONCE, ERR));
    AGAIN(tarn_session_append_tokens(l->child, l->ids, 3, ERR));
    AGAIN(tarn_session_run(l->s, NULL, NULL, ERR));
    AGAIN(tarn_session_run(l->child, NULL, NULL, ERR));
    AGAIN(tarn_session_commit(l->s, NULL, ERR));
    AGAIN(tarn_session_commit(l->child, NULL, ERR));
    AGAIN(tarn_session_park(l->s, ERR));
    AGAIN(tarn_session_park(l->child, ERR));
    AGAIN(tarn_session_tensors(l->s, count_tensor, &n_tensors, ERR));
    CHECK_EQ(n_tensors, TENSORS); /* all of them, or none */
    for (int i = 0; i < LOOKS; i++)
        AGAIN(tarn_engine_step(l->engine, &done, ERR));
    AGAIN(tarn_session_append_tokens(l->child, l->ids + 3, 2, ERR));
    AGAIN(tarn_session_run(l->child, NULL, NULL, ERR));
    AGAIN(tarn_session_rewind(l->s, "@t:17", NULL, ERR)); /* from the state at 16 */
    AGAIN(tarn_session_run(l->s, NULL, NULL, ERR));
    return keep_logits(l);
}

static tarn_status whole_life(life *l)
{
    static tarn_status (*const lives[])(life *) = {live, talk, leave};

    l->model = NULL;
    l->engine = NULL;
    l->store = NULL;
    l->s = l->child = NULL;
    tarn_status status = lives[l->kind](l);
    if (status != TARN_OK && status != TARN_E_NO_MEMORY)
        CHECK_FAIL("%s: %s", tarn_status_name(status), rig_error.detail);
    bool poisoned = (l->s && rig_info(l->s).state == TARN_SESSION_POISONED) ||
                    (l->child && rig_info(l->child).state == TARN_SESSION_POISONED);
    tarn_session_close(l->child);
    tarn_session_close(l->s);
    tarn_engine_close(l->engine);
    tarn_store_close(l->store);
    tarn_model_close(l->model);
    return poisoned ? TARN_E_POISONED : status;
}

/* What is in the store after a failure is whole: sessions open, and verification finds nothing. */
static void check_store(life *l)
{
    tarn_store *store;
    tarn_session_list list;
    if (tarn_store_open(l->store_path, NULL, &store, ERR) != TARN_OK) {
        CHECK_EQ(rig_error.status, TARN_E_NOT_FOUND);
        return;
    }
    CHECK_EQ(rig_verify(store), 0);
    OK(tarn_store_list(store, NULL, &list, ERR));
    for (size_t i = 0; i < list.n_entries; i++) {
        tarn_session *s;
        tarn_reuse reuse;
        OK(tarn_session_open(l->r->engine, store, list.entries[i].name, NULL, &s, &reuse, ERR));
        CHECK_EQ(reuse.tokens_reused + reuse.tokens_replayed, list.entries[i].position);
        tarn_session_close(s);
    }
    tarn_session_list_free(&list);
    tarn_store_close(store);
}

/* One call after another fails; returns how many calls there are. */
static long sweep(life_kind kind, bool once)
{
    rig r;
    static life l;
    static float want[1280], got[1280];
    failing f;
    long n, n_poisoned = 0;
    tarn_allocator allocator = {failing_alloc, failing_resize, failing_release, &f};
    rig_open(&r, kind == TALKS ? RIG_RECALL : RIG_TINY, NULL);
    tarn_store_close(r.store);
    r.store = NULL;
    l = (life){.r = &r, .kind = kind, .allocator = &allocator, .logits = want};
    rig_ids(&r, 120, l.ids, N);
    snprintf(l.store_path, sizeof l.store_path, "%s/life", r.dir);
    f = (failing){.calls_left = 1L << 40};
    CHECK_STATUS(whole_life(&l), TARN_OK);
    CHECK_EQ(f.blocks, 0);
    l.logits = got;
    for (n = 0;; n++) {
        rig_remove_folder(l.store_path);
        f = (failing){.calls_left = n, .once = once};
        tarn_status status = whole_life(&l);
        if (f.blocks != 0)
            CHECK_FAIL("call %ld: %ld blocks are left over", n, f.blocks);
        if (!f.failed)
            break;
        check_store(&l);
        if (status == TARN_E_POISONED)
            n_poisoned++;
        else if (once)
            CHECK_STATUS(status, TARN_OK);
        if (status == TARN_OK)
            CHECK_BYTES(got, want, sizeof got);
        if (check_failures > 0) {
            printf("when call %ld failed\n", n);
            break;
        }
    }
    printf("%ld calls, %ld of those that failed poisoned a session\n", n, n_poisoned);
    rig_close(&r);
    return n;
}

CASE(each_call_of_a_life_fails_once)
{
    RIG_SKIP_REDUCED();
    CHECK(sweep(LIVES, true) > 300);
}

CASE(nothing_works_from_a_call_of_a_life_on)
{
    RIG_SKIP_REDUCED();
    CHECK(sweep(LIVES, false) > 300);
}

CASE(each_call_of_a_talk_fails_once)
{
    RIG_SKIP_REDUCED();
    CHECK(sweep(TALKS, true) > 150);
}

CASE(nothing_works_from_a_call_of_a_talk_on)
{
    RIG_SKIP_REDUCED();
    CHECK(sweep(TALKS, false) > 150);
}

CASE(each_call_of_leaving_fails_once)
{
    CHECK(sweep(LEAVES, true) > 100);
}

CASE(nothing_works_from_a_call_of_leaving_on)
{
    CHECK(sweep(LEAVES, false) > 100);
}

CHECK_MAIN(ENTRY(each_call_of_a_life_fails_once), ENTRY(nothing_works_from_a_call_of_a_life_on),
           ENTRY(each_call_of_a_talk_fails_once), ENTRY(nothing_works_from_a_call_of_a_talk_on),
           ENTRY(each_call_of_leaving_fails_once), ENTRY(nothing_works_from_a_call_of_leaving_on))
