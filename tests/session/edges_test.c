/* Calls that ask for what cannot be, in every place where that is said: arguments, plans, waiting,
 * sessions without a store or for looking only, and a process that is not the one that opened. */
#include "check.h"
#include "fixture.h"

#include <sys/wait.h>
#include <unistd.h>

CASE(nothing_is_freed_twice)
{
    tarn_session_list sessions = {0};
    tarn_node_list nodes = {0};
    tarn_verify_report verified = {0};
    tarn_gc_report collected = {0};
    tarn_explanation explained = {0};
    for (int i = 0; i < 2; i++) {
        tarn_session_list_free(i ? &sessions : NULL);
        tarn_node_list_free(i ? &nodes : NULL);
        tarn_verify_report_free(i ? &verified : NULL);
        tarn_gc_report_free(i ? &collected : NULL);
        tarn_explanation_free(i ? &explained : NULL);
    }
    tarn_session_close(NULL);
    tarn_engine_close(NULL);
    tarn_store_close(NULL);
    tarn_model_close(NULL);
}

/* ---- arguments ------------------------------------------------------------------------------- */

CASE(messages_that_are_none)
{
    rig r;
    rig_open(&r, RIG_RECALL, NULL);
    tarn_session *s = rig_session(&r, "a", NULL);
    tarn_tool_call call = {.name = "f", .arguments = "{}", .arguments_bytes = 2};
    tarn_message m = {
        .size = sizeof m, .role = TARN_ROLE_ASSISTANT, .text = "", .calls = &call, .n_calls = 1};
    REFUSED(tarn_session_append_message(s, &m, NULL, ERR), TARN_E_INVALID,
            "call 0 has no id or no arguments");
    call = (tarn_tool_call){.id = "functions.f:0", .arguments_bytes = 2};
    REFUSED(tarn_session_append_message(s, &m, NULL, ERR), TARN_E_INVALID, "no arguments");
    m.role = TARN_ROLE_USER;
    REFUSED(tarn_session_append_message(s, &m, NULL, ERR), TARN_E_INVALID,
            "only an assistant message has calls");
    m = (tarn_message){.size = sizeof m, .role = TARN_ROLE_TOKENS, .calls = &call, .n_calls = 1};
    REFUSED(tarn_session_append_begin(s, &m, ERR), TARN_E_INVALID, "makes no calls");
    m = (tarn_message){.size = sizeof m, .role = TARN_ROLE_TOKENS, .text_bytes = 3};
    REFUSED(tarn_session_append_begin(s, &m, ERR), TARN_E_INVALID, "makes no calls");
    m = (tarn_message){.size = sizeof m, .role = TARN_ROLE_USER, .text_bytes = 3};
    REFUSED(tarn_session_append_message(s, &m, NULL, ERR), TARN_E_INVALID, "text is NULL");
    CHECK_EQ(rig_info(s).at.position + rig_info(s).tokens_waiting, 0);
    /* A call without arguments is one. */
    call = (tarn_tool_call){.id = "functions.f:0", .name = "f"};
    m = (tarn_message){
        .size = sizeof m, .role = TARN_ROLE_ASSISTANT, .text = "", .calls = &call, .n_calls = 1};
    OK(tarn_session_append_message(s, &m, NULL, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    tarn_generate_options o = {.size = sizeof o, .n_stop_ids = 1};
    REFUSED(tarn_session_generate(s, &o, ERR), TARN_E_INVALID, "stop_ids is NULL");
    tarn_sync synced;
    tarn_message old = {.size = sizeof(size_t) - 1};
    REFUSED(tarn_session_sync_messages(s, &old, 1, &synced, ERR), TARN_E_INVALID, "size is");
    old.size = sizeof old + 1;
    REFUSED(tarn_session_sync_messages(s, &old, 1, &synced, ERR), TARN_E_INVALID, "size is");
    tarn_session_close(s);
    rig_close(&r);
}

static void *no_alloc(void *user, size_t n)
{
    (void)user, (void)n;
    return NULL;
}

CASE(engines_and_plans)
{
    rig r;
    tarn_engine *engine;
    const tarn_allocator part = {.alloc = no_alloc};
    rig_open(&r, RIG_TINY, NULL);
    tarn_engine_options o = {.size = sizeof o, .n_threads = 1, .allocator = &part};
    REFUSED(tarn_engine_open(r.model, &o, &engine, ERR), TARN_E_INVALID, "allocator");
    /* More than all sessions could want, and the lower of two ceilings on pages. */
    tarn_engine_options wide = {
        .size = sizeof wide, .n_threads = 1, .slots_bytes_max = (uint64_t)1 << 40};
    OK(tarn_engine_open(r.model, &wide, &engine, ERR));
    tarn_engine_close(engine);
    for (int i = 0; i < 2; i++) {
        wide.tokens_max = i ? 64 : 6400;
        wide.pages_bytes_max = i ? (uint64_t)1 << 30 : (uint64_t)1 << 14;
        OK(tarn_engine_open(r.model, &wide, &engine, ERR));
        tarn_engine_close(engine);
    }
    wide.pages_bytes_max = 1;
    REFUSED(tarn_engine_open(r.model, &wide, &engine, ERR), TARN_E_LIMIT, "pages_bytes_max is 1");
    tarn_plan_report few = {.size = sizeof few}, many = {.size = sizeof many};
    tarn_plan_options p = {.size = sizeof p, .device_bytes = (uint64_t)1 << 30, .sessions = 2};
    OK(tarn_plan(r.model, &p, &few, ERR));
    CHECK(few.fits && few.wanted_bytes > few.floor_bytes);
    p.sessions = 100;
    OK(tarn_plan(r.model, &p, &many, ERR));
    CHECK(many.workspace_bytes >= few.workspace_bytes);
    p.sessions = UINT32_MAX; /* more than rows in a step */
    OK(tarn_plan(r.model, &p, &many, ERR));
    CHECK(!many.fits && many.wanted_bytes > few.wanted_bytes);
    p.step_tokens_max = 16;
    OK(tarn_plan(r.model, &p, &many, ERR));
    CHECK(many.workspace_bytes < few.workspace_bytes);
    p.numerics = (tarn_numerics)7;
    REFUSED(tarn_plan(r.model, &p, &many, ERR), TARN_E_INVALID, "numerics is 7");
    p = (tarn_plan_options){.size = sizeof p, .device = "tpu:0"};
    CHECK(tarn_plan(r.model, &p, &many, ERR) != TARN_OK);
    p = (tarn_plan_options){.size = sizeof p, .context = UINT64_MAX};
    REFUSED(tarn_plan(r.model, &p, &many, ERR), TARN_E_INVALID, "context is");
    rig_close(&r);
}

/* What has no weights computes nothing. */
CASE(a_tokenizer_alone)
{
    tarn_model *model;
    tarn_engine *e;
    tarn_plan_report plan = {.size = sizeof plan};
    tarn_model_options m = {.size = sizeof m, .flags = TARN_MODEL_TOKENIZER_ONLY, .cache_dir = ""};
    tarn_engine_options o = {.size = sizeof o, .n_threads = 1, .device = RIG_DEVICE};
    char dir[64], path[96], from[256];
    rig_make_folder(dir);
    static const char *const files[] = {"tiktoken.model", "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        size_t n;
        snprintf(from, sizeof from, "%s/model/%s", TEST_EXAMPLES, files[i]);
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        char *data = rig_read_file(from, &n);
        rig_write_file(path, data, n);
        free(data);
    }
    OK(tarn_model_open(dir, &m, &model, ERR));
    REFUSED(tarn_engine_open(model, &o, &e, ERR), TARN_E_UNSUPPORTED, "for its tokenizer only");
    REFUSED(tarn_plan(model, NULL, &plan, ERR), TARN_E_UNSUPPORTED, "for its tokenizer only");
    tarn_model_close(model);
    rig_remove_folder(dir);
}

/* ---- waiting --------------------------------------------------------------------------------- */

CASE(waiting_for_commits)
{
    rig r;
    uint32_t ids[30];
    tarn_ticket first, second;
    tarn_committed out = {.size = sizeof out};
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 3, ids, 30);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, ids, 10);
    OK(tarn_session_commit_begin(s, &first, ERR));
    OK(tarn_session_wait(s, first, TARN_COMMIT_MEMORY, 0, NULL, ERR));
    tarn_status status = tarn_session_wait(s, first, TARN_COMMIT_WRITTEN, 1, &out, ERR);
    CHECK(status == TARN_OK || status == TARN_E_BUSY);
    OK(tarn_session_wait(s, first, TARN_COMMIT_WRITTEN, 60000, &out, ERR));
    CHECK_EQ(out.at.position, 10);
    OK(tarn_session_wait(s, first, TARN_COMMIT_SYNCED, 60000, &out, ERR));
    OK(tarn_session_wait(s, first, TARN_COMMIT_SYNCED, 0, &out, ERR)); /* once more */
    rig_feed(s, ids + 10, 10);
    OK(tarn_session_commit_begin(s, &second, ERR));
    REFUSED(tarn_session_wait(s, first, TARN_COMMIT_WRITTEN, 0, &out, ERR), TARN_E_NOT_FOUND,
            "not that of its last commit");
    REFUSED(tarn_session_wait(s, 0, TARN_COMMIT_WRITTEN, 0, &out, ERR), TARN_E_NOT_FOUND, "ticket");
    OK(tarn_session_wait(s, second, TARN_COMMIT_SYNCED, 0, &out, ERR));
    CHECK_EQ(out.at.position, 20);
    OK(tarn_session_commit_begin(s, &second, ERR)); /* nothing new */
    OK(tarn_session_wait(s, second, TARN_COMMIT_SYNCED, 1, &out, ERR));
    CHECK_EQ(out.bytes_written, 0);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* ---- sessions that cannot -------------------------------------------------------------------- */

CASE(without_a_store)
{
    rig r;
    uint32_t ids[10];
    tarn_at at;
    tarn_price price;
    tarn_ticket ticket;
    tarn_reuse reuse;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 3, ids, 10);
    tarn_session *s = rig_loose(&r, "a");
    rig_feed(s, ids, 10);
    REFUSED(tarn_session_price(s, NULL, &at, &price, ERR), TARN_E_UNSUPPORTED, "has no store");
    REFUSED(tarn_session_commit(s, NULL, ERR), TARN_E_UNSUPPORTED, "has no store");
    REFUSED(tarn_session_commit_begin(s, &ticket, ERR), TARN_E_UNSUPPORTED, "has no store");
    CHECK(tarn_session_rewind(s, "@t:5", &reuse, ERR) != TARN_OK);
    CHECK(tarn_session_park(s, ERR) != TARN_OK);
    CHECK_EQ(rig_info(s).at.position, 10);
    tarn_session *child = rig_fork(s, "b");
    CHECK(rig_same_logits(s, child));
    tarn_session_close(child);
    tarn_session_close(s);
    rig_close(&r);
}

/* Made for others to write, and looked at meanwhile. */
CASE(made_for_looking)
{
    rig r;
    uint32_t ids[10];
    tarn_reuse reuse;
    tarn_session *look;
    const tarn_session_options o = {.size = sizeof o,
                                    .flags = TARN_SESSION_CREATE | TARN_SESSION_READ_ONLY};
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 3, ids, 10);
    OK(tarn_session_open(r.engine, r.store, "a", &o, &look, &reuse, ERR));
    CHECK_EQ(rig_info(look).at.position, 0);
    tarn_session *s = rig_session(&r, "a", NULL); /* nobody has its lease */
    rig_feed(s, ids, 10);
    rig_commit(s);
    OK(tarn_session_reset(look, NULL, ERR));
    CHECK_EQ(rig_info(look).at.position, 10);
    CHECK(rig_same_logits(look, s));
    tarn_session_close(look);
    tarn_session_close(s);
    rig_close(&r);
}

/* Trees of one session each; names of what a collection drops; turns that end behind a place. */
CASE(told_of_a_store)
{
    rig r;
    uint32_t ids[20];
    tarn_node_list tree;
    tarn_explanation explained;
    rig_open(&r, RIG_RECALL, NULL);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    rig_ids(&r, 3, ids, 20);
    for (int k = 0; k < 2; k++) {
        tarn_session *s = rig_session(&r, k ? "b" : "a", NULL);
        rig_feed(s, ids, 10);
        rig_commit(s);
        rig_feed(s, ids + 10, k ? 6 : 5);
        rig_commit(s);
        tarn_session_close(s);
    }
    OK(tarn_store_tree(r.store, NULL, &tree, ERR));
    CHECK_EQ(tree.n_entries, 6);
    tarn_node_list_free(&tree);
    OK(tarn_store_tree(r.store, "b", &tree, ERR));
    REQUIRE(tree.n_entries == 3);
    CHECK_EQ(tree.entries[2].position, 16);
    CHECK_EQ(tree.entries[2].n_sessions, 1);
    tarn_node_list_free(&tree);
    CHECK_TEXT(tarn_dropped_name(TARN_DROPPED_SESSION), "session");
    CHECK_TEXT(tarn_dropped_name(TARN_DROPPED_NODE), "node");
    CHECK_TEXT(tarn_dropped_name(TARN_DROPPED_STATE), "state");
    CHECK_TEXT(tarn_dropped_name(TARN_DROPPED_LATENTS), "latents");
    CHECK_TEXT(tarn_dropped_name((tarn_dropped_what)9), "unknown");
    tarn_session *s = rig_session(&r, "turns", NULL);
    uint64_t ends[2];
    for (int k = 0; k < 2; k++) {
        const tarn_message m = {
            .size = sizeof m, .role = TARN_ROLE_ASSISTANT, .text = "Noted.", .text_bytes = 6};
        OK(tarn_session_append_message(s, &m, NULL, ERR));
        OK(tarn_session_run(s, NULL, NULL, ERR));
        ends[k] = rig_info(s).at.position;
    }
    rig_commit(s);
    OK(tarn_store_explain(r.store, "turns", NULL, &explained, ERR));
    REQUIRE(explained.n_turns == 2);
    CHECK_EQ(explained.turns[1].position, ends[1]);
    tarn_explanation_free(&explained);
    OK(tarn_store_explain(r.store, "turns", "@turn:1", &explained, ERR));
    REQUIRE(explained.n_turns == 1);
    CHECK_EQ(explained.turns[0].position, ends[0]);
    tarn_explanation_free(&explained);
    OK(tarn_store_explain(r.store, "turns", "@t:1", &explained, ERR));
    CHECK_EQ(explained.n_turns, 0);
    tarn_explanation_free(&explained);
    tarn_session_close(s);
    rig_close(&r);
}

/* A text that streams in without markers: plain ids in the end. */
CASE(a_text_of_its_own)
{
    rig r;
    tarn_ids ids;
    static const char text[] = "billing listens on port 4821";
    rig_open(&r, RIG_RECALL, NULL);
    OK(tarn_model_tokenize(r.model, text, sizeof text - 1, 0, &ids, ERR));
    tarn_session *whole = rig_loose(&r, "whole"), *s = rig_loose(&r, "s");
    rig_feed(whole, ids.ids, ids.n_ids);
    const tarn_message m = {
        .size = sizeof m, .role = TARN_ROLE_TOKENS, .text = text, .text_bytes = 12};
    OK(tarn_session_append_begin(s, &m, ERR));
    OK(tarn_session_append_bytes(s, text + 12, sizeof text - 13, NULL, ERR));
    OK(tarn_session_append_end(s, NULL, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK_EQ(rig_info(s).at.position, ids.n_ids);
    CHECK(rig_same_logits(s, whole));
    REFUSED(tarn_session_append_end(s, NULL, ERR), TARN_E_CONFLICT, "");
    tarn_ids_free(&ids);
    tarn_session_close(s);
    tarn_session_close(whole);
    rig_close(&r);
}

/* What was cancelled takes no more ids into the message it was in. */
CASE(ids_behind_a_cancel)
{
    rig r;
    const uint32_t ids[] = {300, 301};
    const tarn_message m = {
        .size = sizeof m, .role = TARN_ROLE_ASSISTANT, .text = "It is", .text_bytes = 5};
    rig_open(&r, RIG_RECALL, NULL);
    tarn_session *s = rig_loose(&r, "s");
    OK(tarn_session_append_begin(s, &m, ERR));
    OK(tarn_session_append_tokens(s, ids, 2, ERR));
    tarn_session_cancel(s);
    REFUSED(tarn_session_append_tokens(s, ids, 2, ERR), TARN_E_CANCELLED, "cancelled");
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK_EQ(rig_info(s).tokens_waiting, 0);
    tarn_session_close(s);
    rig_close(&r);
}

/* A session that was opened for looking at an older place, and its children. */
CASE(for_looking_only)
{
    rig r;
    uint32_t ids[20];
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 3, ids, 20);
    tarn_session *s = rig_session(&r, "a", NULL), *look, *child;
    rig_feed(s, ids, 10);
    rig_commit(s);
    rig_feed(s, ids + 10, 10);
    rig_commit(s);
    const tarn_session_options o = {
        .size = sizeof o, .flags = TARN_SESSION_READ_ONLY, .where = "@t:10"};
    OK(tarn_session_open(r.engine, r.store, "a", &o, &look, NULL, ERR));
    CHECK_EQ(rig_info(look).at.position, 10);
    CHECK(tarn_session_commit(look, NULL, ERR) != TARN_OK);
    REFUSED(tarn_session_park(look, ERR), TARN_E_UNSUPPORTED, "has no node to come back to");
    OK(tarn_session_fork(look, "aside", &child, ERR));
    CHECK_EQ(rig_info(child).at.position, 10);
    CHECK(rig_same_logits(look, child));
    OK(tarn_session_reset(look, NULL, ERR));
    CHECK_EQ(rig_info(look).at.position, 10); /* where it was opened */
    tarn_session_close(child);
    tarn_session_close(look);
    tarn_session_close(s);
    rig_close(&r);
}

/* ---- no chat --------------------------------------------------------------------------------- */

/* The bundled model without a tokenizer, or with other special ids in place of some. */
typedef enum lack { LACK_TOKENIZER, LACK_MESSAGES, LACK_CALLS } lack;

static void open_lacking(rig *r, lack what)
{
    static const char *const names[][2] = {
        [LACK_MESSAGES] = {"<|im_middle|>", "<|xx_middle|>"},
        [LACK_CALLS] = {"<|tool_call_begin|>", "<|xxxx_call_begin|>"}};
    char path[160];
    size_t n_bytes;
    rig_leave(r);
    if (strncmp(r->model_dir, r->dir, strlen(r->dir)) == 0)
        rig_remove_folder(r->model_dir);
    snprintf(r->model_dir, sizeof r->model_dir, "%s/model", r->dir);
    rig_copy_folder(TEST_EXAMPLES "/model", r->model_dir);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", r->model_dir);
    if (what == LACK_TOKENIZER) {
        remove(path);
        snprintf(path, sizeof path, "%s/tiktoken.model", r->model_dir);
        remove(path);
    } else {
        char *text = rig_read_file(path, &n_bytes);
        for (char *at = text; (at = strstr(at, names[what][0]));)
            memcpy(at, names[what][1], strlen(names[what][1]));
        rig_write_file(path, text, n_bytes);
        free(text);
    }
    rig_restart(r, NULL);
}

/* Ids and answers go on without; messages need what they are made of. */
CASE(without_a_chat)
{
    rig r;
    static rig_told told;
    static const char question[] = "Which port does billing use?", list[] = "{\"messages\":[]}";
    const tarn_message m = {.size = sizeof m,
                            .role = TARN_ROLE_USER,
                            .text = question,
                            .text_bytes = sizeof question - 1};
    rig_open(&r, RIG_RECALL, NULL);
    tarn_session_close(rig_session(&r, "a", NULL));
    for (lack what = LACK_TOKENIZER; what <= LACK_CALLS; what++) {
        const char *word = what == LACK_TOKENIZER ? "no tokenizer" : "im_middle";
        tarn_session *s;
        open_lacking(&r, what);
        REFUSED(tarn_session_open(r.engine, r.store, "a", NULL, &s, NULL, ERR), TARN_E_MISMATCH,
                "tokenizer");
        s = rig_loose(&r, "s");
        if (what == LACK_CALLS) {
            OK(tarn_session_append_message(s, &m, NULL, ERR));
        } else {
            REFUSED(tarn_session_append_message(s, &m, NULL, ERR), TARN_E_UNSUPPORTED, word);
            REFUSED(tarn_session_append_begin(s, &m, ERR), TARN_E_UNSUPPORTED, word);
            REFUSED(tarn_session_sync(s, list, sizeof list - 1, NULL, ERR), TARN_E_UNSUPPORTED,
                    word);
            OK(tarn_session_append_tokens(s, (const uint32_t[]){300, 301}, 2, ERR));
        }
        rig_answer(s, 200, &told);
        CHECK(told.n_ids > 0);
        CHECK_EQ(told.calls_bytes, 0);
        tarn_session_close(s);
    }
    rig_close(&r);
}

/* ---- another process ------------------------------------------------------------------------- */

/* The number of the first call that was not refused, 0 if all were. */
static int call_all(rig *r, tarn_session *s)
{
    tarn_session *other;
    tarn_at at;
    tarn_price price;
    tarn_reuse reuse;
    tarn_session_list list;
    int n = 0;
#define NOT_HERE(call)                                                                             \
    do {                                                                                           \
        n++;                                                                                       \
        if ((call) != TARN_E_INVALID)                                                              \
            return n;                                                                              \
    } while (0)
    tarn_ticket ticket;
    NOT_HERE(tarn_session_commit(s, NULL, ERR));
    NOT_HERE(tarn_session_commit_begin(s, &ticket, ERR));
    NOT_HERE(tarn_session_price(s, "@t:5", &at, &price, ERR));
    NOT_HERE(tarn_session_rewind(s, "@t:5", &reuse, ERR));
    NOT_HERE(tarn_session_fork(s, "b", &other, ERR));
    NOT_HERE(tarn_session_open(r->engine, r->store, "c", NULL, &other, NULL, ERR));
    NOT_HERE(tarn_store_list(r->store, NULL, &list, ERR));
    NOT_HERE(tarn_store_remove(r->store, "a", ERR));
    return 0;
}

CASE(a_child_is_refused)
{
    rig r;
    uint32_t ids[20];
    int status = -1;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 3, ids, 20);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, ids, 10);
    rig_commit(s);
    rig_feed(s, ids + 10, 10);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(30); /* it must not wait for threads that are not there */
        exit(call_all(&r, s));
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status), 0);
    rig_commit(s); /* nothing of it has changed */
    CHECK_EQ(rig_info(s).at.position, 20);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(without_a_chat), ENTRY(nothing_is_freed_twice), ENTRY(messages_that_are_none),
           ENTRY(engines_and_plans), ENTRY(a_tokenizer_alone), ENTRY(waiting_for_commits),
           ENTRY(without_a_store), ENTRY(made_for_looking), ENTRY(ids_behind_a_cancel),
           ENTRY(told_of_a_store), ENTRY(a_text_of_its_own), ENTRY(for_looking_only),
           ENTRY(a_child_is_refused))
