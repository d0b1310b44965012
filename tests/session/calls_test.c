/* Tool calls: told while they are generated, malformed ones too, and answered by their ids. What
 * the model says is forced with a bias where it would not say it by itself. */
#include "check.h"
#include "fixture.h"

enum {
    IM_END = 1026,
    CALLS_BEGIN = 1035,
    CALLS_END,
    CALL_BEGIN,
    CALL_ARGUMENTS,
    CALL_END,
    STOP = 0 /* ends a list of parts */
};

static void open_f32(rig *r)
{
    rig_open(r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32});
}

static tarn_status answer(tarn_session *s, const char *call_id, const char *text, uint32_t flags)
{
    tarn_message m = {.size = sizeof m,
                      .role = TARN_ROLE_TOOL,
                      .text = text,
                      .text_bytes = strlen(text),
                      .call_id = call_id,
                      .flags = flags};
    return tarn_session_append_message(s, &m, NULL, ERR);
}

static void ask(tarn_session *s, const char *text)
{
    tarn_message m = {
        .size = sizeof m, .role = TARN_ROLE_USER, .text = text, .text_bytes = strlen(text)};
    OK(tarn_session_append_message(s, &m, NULL, ERR));
}

/* The model says just this id. */
static void say(tarn_session *s, uint32_t id, rig_told *told)
{
    tarn_sampling p = {.size = sizeof p, .n_bias = 1, .bias = {{id, 1e9f}}};
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 1};
    OK(tarn_session_set_sampling(s, &p, ERR));
    OK(tarn_session_generate(s, &o, ERR));
    OK(tarn_session_run(s, rig_hear, told, ERR));
    CHECK_EQ(told->ids[told->n_ids - 1], id);
}

static void say_text(rig *r, tarn_session *s, const char *text, rig_told *told)
{
    tarn_ids ids;
    OK(tarn_model_tokenize(r->model, text, strlen(text), false, &ids, ERR));
    for (size_t i = 0; i < ids.n_ids; i++)
        say(s, ids.ids[i], told);
    tarn_ids_free(&ids);
}

static void say_call(rig *r, tarn_session *s, const char *id, const char *arguments, rig_told *told)
{
    say(s, CALL_BEGIN, told);
    say_text(r, s, id, told);
    say(s, CALL_ARGUMENTS, told);
    say_text(r, s, arguments, told);
    say(s, CALL_END, told);
}

#define DEMO                                                                                       \
    "10:12:45 INFO billing listens on port 4821\n10:12:46 INFO worker heartbeat ok\n"              \
    "10:12:51 INFO owner of parser is Ines\n10:13:02 INFO staging runs on host falcon"

CASE(a_call_is_told_while_it_is_made)
{
    rig r;
    static rig_told told;
    open_f32(&r);
    tarn_session *s = rig_session(&r, "s", NULL);
    ask(s, "Read the log.");
    OK(answer(s, "functions.read:0", DEMO, 0)); /* the host tells something: nothing waits */
    ask(s, "Look up mailer and tell me the port.");
    rig_answer(s, 0, &told);
    CHECK_EQ(told.stop, TARN_STOP_TOOL_CALL);
    CHECK_TEXT(told.calls,
               "[functions.lookup:1 lookup]{\"key\": \"mailer\"}={\"key\": \"mailer\"}\n");
    CHECK_EQ(told.in_calls_bytes, told.text_bytes); /* it said nothing else */
    tarn_session_close(s);
    rig_close(&r);
}

CASE(calls_good_and_bad)
{
    rig r;
    static rig_told told;
    open_f32(&r);
    tarn_session *s = rig_session(&r, "s", NULL);
    ask(s, "Go.");
    memset(&told, 0, sizeof told);
    say_text(&r, s, "Hm ", &told);
    CHECK_EQ(told.in_calls_bytes, 0);
    say(s, CALLS_BEGIN, &told);
    say_call(&r, s, "functions.a:0", "{\"x\":\"\xe6\xbc\xa3\xf0\x9f\x98\x80\"}", &told);
    say_call(&r, s, "b", "{oops", &told);
    say_text(&r, s, "what", &told);
    say(s, CALL_BEGIN, &told);
    say_text(&r, s, "functions.c:2", &told);
    say(s, CALL_BEGIN, &told); /* before its arguments */
    say_text(&r, s, "functions.d:3", &told);
    say(s, CALL_ARGUMENTS, &told);
    say_text(&r, s, "[1", &told);
    say(s, IM_END, &told);
    const char *want = "[functions.a:0 a]{\"x\":\"\xe6\xbc\xa3\xf0\x9f\x98\x80\"}"
                       "={\"x\":\"\xe6\xbc\xa3\xf0\x9f\x98\x80\"}\n"
                       "[b b]{oops={oops!the arguments are no JSON\n";
    CHECK(strncmp(told.calls, want, strlen(want)) == 0);
    CHECK_HAS(told.calls, "!text between calls: ");
    CHECK_HAS(told.calls, "!a marker out of place: functions.c:2\n");
    CHECK_HAS(told.calls, "[functions.d:3 d][1!cut off by the end of the turn: functions.d:3[1\n");
    CHECK_EQ(told.stop, TARN_STOP_TOOL_CALL);
    const tarn_tool_call *calls;
    size_t n;
    bool malformed;
    tarn_session_tool_calls(s, &calls, &n, &malformed);
    CHECK(malformed);
    CHECK_EQ(n, 2);
    CHECK(calls[0].problem == NULL);
    CHECK_TEXT(calls[1].problem, "the arguments are no JSON");
    OK(answer(s, "b", "error: no JSON", 0)); /* it was made, and can be answered */
    OK(tarn_session_run(s, NULL, NULL, ERR));
    tarn_session_close(s);
    rig_close(&r);
}

/* A call cut by the end of a generation goes on in the next, here or in another process. */
CASE(a_call_across_generations)
{
    rig r;
    static rig_told told;
    open_f32(&r);
    tarn_session *s = rig_session(&r, "s", NULL);
    ask(s, "Go.");
    memset(&told, 0, sizeof told);
    say(s, CALLS_BEGIN, &told);
    say(s, CALL_BEGIN, &told);
    say_text(&r, s, "functions.a:0", &told);
    say(s, CALL_ARGUMENTS, &told);
    say_text(&r, s, "{\"k\"", &told);
    tarn_session *f = rig_fork(s, "f");
    rig_commit(s);
    say_text(&r, s, ":1}", &told);
    say(s, CALL_END, &told);
    CHECK_TEXT(told.calls, "[functions.a:0 a]{\"k\":1}={\"k\":1}\n");
    tarn_session_close(s);
    s = rig_session(&r, "s", NULL);
    tarn_session *both[] = {s, f};
    for (size_t i = 0; i < 2; i++) {
        memset(&told, 0, sizeof told);
        say_text(&r, both[i], ":22}", &told);
        say(both[i], CALL_END, &told);
        say(both[i], CALLS_END, &told);
        say(both[i], IM_END, &told);
        CHECK_TEXT(told.calls, "[functions.a:0 a]{\"k\":22}={\"k\":22}\n");
        CHECK_EQ(told.stop, TARN_STOP_TOOL_CALL);
        REFUSED(answer(both[i], "functions.a:1", "x", 0), TARN_E_INVALID, "functions.a:0");
        OK(answer(both[i], "functions.a:0", "x", 0));
        tarn_session_close(both[i]);
    }
    rig_close(&r);
}

/* The rule of tarn_session_append_message, and that it is the history's, not the process's. */
CASE(answers_name_calls_that_wait)
{
    rig r;
    static rig_told told;
    open_f32(&r);
    tarn_session *s = rig_session(&r, "s", NULL);
    const tarn_tool_call made[] = {
        {.id = "functions.a:0", .arguments = "{}", .arguments_bytes = 2},
        {.id = "functions.b:1", .arguments = "{}", .arguments_bytes = 2}};
    tarn_message m = {.size = sizeof m, .role = TARN_ROLE_ASSISTANT, .calls = made, .n_calls = 2};
    OK(answer(s, "functions.x:9", "told", 0)); /* nothing waits */
    OK(answer(s, "functions.x:9", "told again", 0));
    OK(tarn_session_append_message(s, &m, NULL, ERR));
    for (int round = 0; round < 3; round++) { /* queued, fed, resumed */
        if (round == 1)
            OK(tarn_session_run(s, NULL, NULL, ERR));
        if (round == 2) {
            rig_commit(s);
            tarn_session_close(s);
            s = rig_session(&r, "s", NULL);
        }
        REFUSED(answer(s, "functions.x:9", "no", 0), TARN_E_INVALID, "2 wait");
    }
    OK(answer(s, "functions.b:1", "first", 0));
    REFUSED(answer(s, "functions.b:1", "twice", 0), TARN_E_EXISTS, "functions.b:1");
    REFUSED(answer(s, "functions.x:9", "no", 0), TARN_E_INVALID, "1 wait");
    OK(answer(s, "functions.b:1", "twice", TARN_MESSAGE_ANY_CALL));
    REFUSED(answer(s, "functions.b:1", "x", 2), TARN_E_INVALID, "flags");
    OK(tarn_session_run(s, NULL, NULL, ERR));
    REFUSED(answer(s, "functions.b:1", "twice", 0), TARN_E_EXISTS, "functions.b:1");
    uint64_t one_waits = rig_commit(s).at.position;
    OK(answer(s, "functions.a:0", "second", 0));
    OK(answer(s, "functions.x:9", "told", 0)); /* nothing waits any more */
    OK(tarn_session_run(s, NULL, NULL, ERR));
    rig_commit(s);
    REFUSED(answer(s, "functions.a:0", "twice", 0), TARN_E_EXISTS, "functions.a:0");
    char where[32];
    snprintf(where, sizeof where, "@t:%u", (unsigned)one_waits);
    OK(tarn_session_rewind(s, where, NULL, ERR)); /* the answer is not there yet */
    tarn_session *f = rig_fork(s, "f");
    OK(answer(s, "functions.a:0", "second", 0));
    REFUSED(answer(f, "functions.x:9", "no", 0), TARN_E_INVALID, "1 wait");
    rig_answer(f, 1, &told); /* the next turn: the call no longer waits, but may be answered */
    OK(answer(f, "functions.x:9", "told", 0));
    OK(answer(f, "functions.a:0", "late", 0));
    OK(tarn_session_append_message(f, &m, NULL, ERR)); /* called again: waits again */
    REFUSED(answer(f, "functions.x:9", "no", 0), TARN_E_INVALID, "2 wait");
    OK(answer(f, "functions.a:0", "again", 0));
    tarn_message t = {.size = sizeof t, .role = TARN_ROLE_TOOL, .call_id = "functions.x:9"};
    REFUSED(tarn_session_append_begin(f, &t, ERR), TARN_E_INVALID, "1 wait");
    t.call_id = "functions.b:1";
    OK(tarn_session_append_begin(f, &t, ERR)); /* streamed answers count as well */
    OK(tarn_session_append_bytes(f, "text", 4, NULL, ERR));
    OK(tarn_session_append_end(f, NULL, ERR));
    REFUSED(answer(f, "functions.b:1", "no", 0), TARN_E_EXISTS, "functions.b:1");
    OK(tarn_session_run(f, NULL, NULL, ERR));
    tarn_session_close(f);
    tarn_session_close(s);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(a_call_is_told_while_it_is_made), ENTRY(calls_good_and_bad),
           ENTRY(a_call_across_generations), ENTRY(answers_name_calls_that_wait))
