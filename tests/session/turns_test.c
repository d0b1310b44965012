/* Turns and messages on the bundled model: headers, end markers, tool calls, and the places they
 * name. The expected answers are those of examples/model/samples.json, group demo. */
#include "check.h"
#include "fixture.h"

enum { IM_END = 1026, IM_USER, IM_ASSISTANT, IM_SYSTEM = 1034, IM_MIDDLE = 1041 };

#define LOG_TEXT                                                                                   \
    "10:12:45 INFO billing listens on port 4821\n10:12:46 INFO worker heartbeat ok\n"              \
    "10:12:51 INFO owner of parser is Ines\n10:13:02 INFO staging runs on host falcon"
#define LOOKUP "functions.lookup:1"

static size_t tell(tarn_session *s, tarn_role role, const char *text, const char *call_id)
{
    size_t n;
    tarn_message m = {.size = sizeof m,
                      .role = role,
                      .text = text,
                      .text_bytes = strlen(text),
                      .call_id = call_id};
    OK(tarn_session_append_message(s, &m, &n, ERR));
    return n;
}

/* The head of the demo: everything before the first question. */
static tarn_session *demo(rig *r, const char *name)
{
    tarn_session *s = rig_session(r, name, NULL);
    tell(s, TARN_ROLE_SYSTEM,
         "You are a deploy agent. You keep track of services and answer from what you have read.",
         NULL);
    tell(s, TARN_ROLE_USER, "Read the log.", NULL);
    tell(s, TARN_ROLE_TOOL, LOG_TEXT, "functions.read:0");
    tell(s, TARN_ROLE_ASSISTANT, "Noted.", NULL);
    return s;
}

static void open_f32(rig *r)
{
    rig_open(r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32});
}

/* The last n ids of a session's head, at most 32; returns how many there are. */
static uint32_t last_ids(rig *r, const char *name, uint32_t *out, size_t n)
{
    tarn_ids ids;
    OK(tarn_store_tokens(r->store, name, NULL, &ids, ERR));
    for (size_t i = 0; i < n && i < ids.n_ids; i++)
        out[i] = ids.ids[ids.n_ids - n + i];
    uint32_t all = (uint32_t)ids.n_ids;
    tarn_ids_free(&ids);
    return all;
}

CASE(an_answer_is_a_turn)
{
    rig r;
    static rig_told told;
    uint32_t tail[1] = {0};
    open_f32(&r);
    tarn_session *s = demo(&r, "a");
    CHECK_EQ(rig_info(s).state, TARN_SESSION_APPENDING);
    tell(s, TARN_ROLE_USER, "Which port does billing use?", NULL);
    rig_answer(s, 0, &told);
    CHECK_EQ(told.n_appended, 146); /* the header included */
    CHECK_EQ(told.n_ids, 12);
    CHECK_EQ(told.ids[11], IM_END); /* the stop id is fed, and no text */
    CHECK_TEXT(told.text, "billing uses port 4821.");
    CHECK_EQ(told.stop, TARN_STOP_TOKEN);
    CHECK_EQ(told.n_stops, 1);
    tarn_session_info info = rig_info(s);
    CHECK_EQ(info.turns, 2);
    CHECK(!info.turn_open);
    CHECK_EQ(info.at.position, 158);
    CHECK_EQ(info.state, TARN_SESSION_IDLE);
    rig_commit(s);
    CHECK_EQ(last_ids(&r, "a", tail, 1), 158);
    CHECK_EQ(tail[0], IM_END);
    tell(s, TARN_ROLE_USER, "Who owns parser?", NULL); /* nothing to close */
    OK(tarn_session_run(s, NULL, NULL, ERR));
    rig_commit(s);
    last_ids(&r, "a", tail, 1);
    CHECK_EQ(tail[0], IM_END);
    tarn_session_list list;
    OK(tarn_store_list(r.store, NULL, &list, ERR));
    CHECK_EQ(list.entries[0].turns, 2);
    tarn_session_list_free(&list);
    tarn_session_close(s);
    rig_close(&r);
}

CASE(a_header_is_written_only_where_one_belongs)
{
    rig r;
    static rig_told told;
    uint32_t tail[32] = {0};
    open_f32(&r);
    tarn_session *s = rig_session(&r, "a", NULL);
    size_t n = tell(s, TARN_ROLE_USER, "Read the log.", NULL);
    rig_answer(s, 1, &told); /* after a user's message: <|im_assistant|>assistant<|im_middle|> */
    CHECK_EQ(told.n_appended, n + 3);
    CHECK_EQ(told.stop, TARN_STOP_LENGTH);
    CHECK(rig_info(s).turn_open);
    rig_commit(s);
    last_ids(&r, "a", tail, 4);
    CHECK_EQ(tail[0], IM_ASSISTANT);
    CHECK_EQ(tail[2], IM_MIDDLE);
    rig_answer(s, 1, &told); /* inside an open turn: none */
    CHECK_EQ(told.n_appended, 0);
    CHECK_EQ(rig_info(s).turns, 1);
    const uint32_t ids[] = {300, 301};
    OK(tarn_session_append_tokens(s, ids, 2, ERR));
    rig_answer(s, 1, &told); /* after ids: none, and the answer is a turn of its own */
    CHECK_EQ(told.n_appended, 2);
    CHECK_EQ(rig_info(s).turns, 2);
    tarn_session_close(s);
    s = rig_session(&r, "b", NULL);
    OK(tarn_session_append_tools(s, "[]", 2, &n, ERR)); /* no tools: nothing */
    CHECK_EQ(n, 0);
    CHECK_EQ(rig_info(s).tokens_waiting, 0);
    static const char tools[] = "[{\"name\":\"lookup\"}]";
    OK(tarn_session_append_tools(s, tools, sizeof tools - 1, &n, ERR));
    CHECK(n > 3);
    rig_answer(s, 1, &told);
    CHECK_EQ(told.n_appended, n + 3);
    REFUSED(tarn_session_append_tools(s, "{}", 2, &n, ERR), TARN_E_INVALID, "");
    tarn_session_close(s);
    s = rig_session(&r, "c", NULL);
    static const tarn_role before[] = {TARN_ROLE_SYSTEM, TARN_ROLE_TOOL};
    for (size_t i = 0; i < 2; i++) {
        tarn_session *t = rig_loose(&r, "t");
        n = tell(t, before[i], "x", "functions.read:0");
        rig_answer(t, 1, &told);
        CHECK_EQ(told.n_appended, n + 3);
        tarn_session_close(t);
    }
    tell(s, TARN_ROLE_ASSISTANT, "Noted.", NULL); /* a closed turn of ours: none */
    rig_answer(s, 1, &told);
    CHECK_EQ(rig_info(s).turns, 2);
    tarn_session_close(s);
    rig_close(&r);
}

/* An answer cut short is ended before what comes next, and belongs to its turn. */
CASE(an_open_turn_is_closed_before_the_next_message)
{
    rig r;
    static rig_told told;
    uint32_t tail[32] = {0};
    open_f32(&r);
    tarn_session *s = demo(&r, "a");
    tell(s, TARN_ROLE_USER, "Which port does billing use?", NULL);
    rig_answer(s, 4, &told);
    CHECK(rig_info(s).turn_open);
    rig_commit(s); /* the marker goes into the next node */
    size_t n = tell(s, TARN_ROLE_USER, "Stop.", NULL);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK(!rig_info(s).turn_open);
    CHECK_EQ(rig_info(s).turns, 2);
    rig_commit(s);
    REQUIRE(n <= 32);
    last_ids(&r, "a", tail, n);
    CHECK_EQ(tail[0], IM_END);
    CHECK_EQ(tail[1], IM_USER);
    tarn_node_list list;
    OK(tarn_store_log(r.store, "a", NULL, &list, ERR));
    const tarn_node_entry *last = &list.entries[list.n_entries - 1];
    CHECK_EQ(last->n_segments, 2);
    CHECK_EQ(last->segments[0].role, TARN_ROLE_ASSISTANT);
    CHECK_EQ(last->segments[0].n_tokens, 1);
    CHECK(last->segments[0].continues);
    CHECK(last->segments[0].closed);
    CHECK_EQ(last->segments[1].role, TARN_ROLE_USER);
    CHECK_EQ(last->segments[1].n_tokens, n - 1);
    tarn_node_list_free(&list);
    tarn_at at;
    OK(tarn_store_price(r.store, "a", "@turn:2", &at, NULL, ERR));
    CHECK_EQ(at.position, 146 + 4 + 1);
    tarn_session_close(s);
    s = rig_session(&r, "a", NULL); /* what is open and closed survives */
    CHECK(!rig_info(s).turn_open);
    OK(tarn_session_rewind(s, "@t:148", NULL, ERR)); /* inside the answer */
    CHECK(rig_info(s).turn_open);
    CHECK_EQ(rig_info(s).turns, 2);
    tell(s, TARN_ROLE_TOOL, "x", "functions.read:0");
    OK(tarn_session_run(s, NULL, NULL, ERR));
    rig_commit(s);
    tarn_ids ids;
    OK(tarn_store_tokens(r.store, "a", NULL, &ids, ERR));
    CHECK_EQ(ids.ids[148], IM_END);
    CHECK_EQ(ids.ids[149], IM_SYSTEM);
    tarn_ids_free(&ids);
    tarn_session_close(s);
    rig_close(&r);
}

/* Asks for a lookup, and gives the call's answer. */
static tarn_session *demo_call(rig *r, const char *name, rig_told *told)
{
    tarn_session *s = demo(r, name);
    tell(s, TARN_ROLE_USER, "Look up mailer and tell me the port.", NULL);
    rig_answer(s, 0, told);
    return s;
}

CASE(tool_calls_are_found)
{
    rig r;
    static rig_told told;
    const tarn_tool_call *calls;
    size_t n;
    bool malformed;
    open_f32(&r);
    tarn_session *s = demo_call(&r, "a", &told);
    CHECK_EQ(told.stop, TARN_STOP_TOOL_CALL);
    CHECK_EQ(told.n_ids, 18);
    tarn_session_tool_calls(s, &calls, &n, &malformed);
    CHECK_EQ(n, 1);
    CHECK(!malformed);
    if (n == 1) {
        CHECK_TEXT(calls[0].id, LOOKUP);
        CHECK_TEXT(calls[0].name, "lookup");
        CHECK_EQ(calls[0].arguments_bytes, strlen("{\"key\": \"mailer\"}"));
        CHECK(memcmp(calls[0].arguments, "{\"key\": \"mailer\"}", calls[0].arguments_bytes) == 0);
    }
    rig_commit(s);
    for (int how = 0; how < 4; how++) { /* the calls are there however the session came here */
        tarn_session *again = s, *fork = NULL;
        if (how == 0) {
            tarn_session_close(s);
            s = again = rig_session(&r, "a", NULL);
        } else if (how == 1) {
            OK(tarn_session_park(s, ERR));
            const float *unused;
            OK(tarn_session_logits(s, &unused, NULL, ERR));
        } else if (how == 2) {
            tarn_reuse reuse;
            OK(tarn_session_reset(s, &reuse, ERR));
        } else {
            again = fork = rig_fork(s, "child");
        }
        tarn_session_tool_calls(again, &calls, &n, &malformed);
        CHECK_EQ(n, 1);
        CHECK(n != 1 || strcmp(calls[0].id, LOOKUP) == 0);
        tarn_session_close(fork);
    }
    tell(s, TARN_ROLE_TOOL, "mailer listens on port 9000", LOOKUP);
    rig_commit(s);
    tarn_session_close(s);
    s = rig_session(&r, "a", NULL);
    tarn_session_tool_calls(s, &calls, &n, &malformed); /* its answer is there, not another turn */
    CHECK_EQ(n, 1);
    rig_answer(s, 30, &told);
    rig_commit(s);
    tarn_node_list list;
    OK(tarn_store_log(r.store, "a", NULL, &list, ERR));
    const tarn_segment *segments = list.entries[1].segments;
    size_t n_segments = list.entries[1].n_segments;
    CHECK_EQ(n_segments, 6);
    CHECK_EQ(segments[2].role, TARN_ROLE_TOOL);
    CHECK_EQ(segments[2].n_call_ids, 1);
    CHECK_TEXT(segments[2].call_ids[0], "functions.read:0");
    CHECK_EQ(segments[5].role, TARN_ROLE_ASSISTANT);
    CHECK_EQ(segments[5].n_tokens, 3 + 18);
    CHECK(segments[5].closed);
    CHECK_EQ(segments[5].n_call_ids, 1);
    CHECK_TEXT(segments[5].call_ids[0], LOOKUP);
    tarn_node_list_free(&list);
    tarn_session_close(s);
    rig_close(&r);
}

/* A turn that was appended is a turn: fed here, gone on from where another session fed it, or read
 * from the store. */
CASE(calls_of_appended_turns)
{
    rig r;
    open_f32(&r);
    static const tarn_reason reasons[] = {TARN_REASON_NONE, TARN_REASON_PREFIX, TARN_REASON_EXACT};
    const tarn_tool_call asked = {.id = LOOKUP, .arguments = "{\"key\": 1}", .arguments_bytes = 10};
    const tarn_message m = {
        .size = sizeof m, .role = TARN_ROLE_ASSISTANT, .calls = &asked, .n_calls = 1};
    for (int i = 0; i < 3; i++) {
        const tarn_tool_call *calls;
        size_t n;
        bool malformed;
        tarn_session *s = rig_session(&r, i == 0 ? "a" : "b", NULL);
        if (i < 2) {
            tell(s, TARN_ROLE_USER, "Look up mailer.", NULL);
            OK(tarn_session_append_message(s, &m, NULL, ERR));
            tarn_session_tool_calls(s, &calls, &n, &malformed);
            CHECK_EQ(n, 0); /* not fed yet */
            OK(tarn_session_run(s, NULL, NULL, ERR));
        }
        CHECK_EQ(rig_info(s).reuse.reason, reasons[i]);
        tarn_session_tool_calls(s, &calls, &n, &malformed);
        CHECK_EQ(n, 1);
        CHECK(n != 1 || strcmp(calls[0].id, LOOKUP) == 0);
        CHECK(n != 1 || strcmp(calls[0].arguments, asked.arguments) == 0);
        rig_commit(s);
        tarn_session_close(s);
    }
    rig_close(&r);
}

/* C2 and every form of a place, with kept states in between so that turns lie across nodes. */
static void places(uint32_t keep_every)
{
    rig r;
    static rig_told told;
    tarn_reuse reuse;
    tarn_at at;
    rig_open(&r, RIG_RECALL,
             &(tarn_engine_options){
                 .n_threads = 1, .numerics = TARN_NUMERICS_F32, .keep_every = keep_every});
    tarn_session *s = demo(&r, "a");
    OK(tarn_session_run(s, NULL, NULL, ERR));
    uint64_t turn_1 = rig_info(s).at.position;
    tell(s, TARN_ROLE_USER, "Look up mailer and tell me the port.", NULL);
    rig_answer(s, 0, &told);
    uint64_t turn_2 = rig_info(s).at.position, before_call = turn_2 - 18 - 3;
    rig_commit(s);
    tell(s, TARN_ROLE_TOOL, "mailer listens on port 9000", LOOKUP);
    rig_answer(s, 20, &told);
    uint64_t turn_3 = rig_info(s).at.position, head = rig_commit(s).at.node;
    static const char *const forms[] = {"@turn:1",  "@turn:2",  "@turn:3", "@turn:-1",
                                        "@turn:-2", "@turn:-3", "@turn:0", ("@before:" LOOKUP)};
    const uint64_t want[] = {turn_1, turn_2, turn_3, turn_3, turn_2, turn_1, 0, before_call};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        char name[16], back[32];
        OK(tarn_session_rewind(s, forms[i], &reuse, ERR));
        CHECK_EQ(reuse.tokens_reused + reuse.tokens_replayed, want[i]);
        CHECK(reuse.tokens_replayed < keep_every);
        rig_drain(&r);
        CHECK_EQ(rig_info(s).at.position, want[i]);
        snprintf(back, sizeof back, "@n:%" PRIu64, head);
        OK(tarn_session_rewind(s, back, &reuse, ERR)); /* the newer branch is there still */
        CHECK_EQ(reuse.tokens_reused, turn_3);
        snprintf(name, sizeof name, "fork%zu", i);
        OK(tarn_store_fork(r.store, "a", forms[i], name, &at, NULL, NULL, ERR));
        CHECK_EQ(at.position, want[i]);
    }
    char inside[32];
    snprintf(inside, sizeof inside, "@t:%" PRIu64, turn_2 - 2);
    OK(tarn_store_fork(r.store, "a", inside, "half", &at, NULL, NULL, ERR));
    REFUSED(tarn_store_price(r.store, "half", "@before:" LOOKUP, &at, NULL, ERR), TARN_E_NOT_FOUND,
            LOOKUP); /* the call is not whole there */
    tarn_session *half = rig_session(&r, "half", NULL);
    CHECK(rig_info(half).turn_open);
    tarn_session_close(half);
    OK(tarn_session_rewind(s, inside, &reuse, ERR));
    CHECK(rig_info(s).turn_open);
    CHECK_EQ(rig_info(s).turns, 2);
    tarn_session *b = rig_session(&r, "fork7", &reuse); /* before the call: asked again */
    rig_drain(&r);
    rig_answer(b, 0, &told);
    CHECK_EQ(told.n_appended, 3);
    CHECK_EQ(told.stop, TARN_STOP_TOOL_CALL);
    CHECK_EQ(told.n_ids, 18);
    CHECK_EQ(rig_info(b).turns, 2);
    tarn_session_close(b);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(places_by_turn_and_by_call) /* C2 */
{
    places(1024);
}

CASE(places_by_turn_across_kept_states) /* C2 */
{
    places(7);
}

/* The demo of branches: each remembers what it was told, and nothing of the other. */
CASE(branches_remember_their_own)
{
    static const char *const told_port[] = {"billing listens on port 5310",
                                            "billing listens on port 7296"};
    rig r;
    static rig_told told, want;
    open_f32(&r);
    tarn_session *s = demo(&r, "a");
    OK(tarn_session_run(s, NULL, NULL, ERR));
    rig_commit(s);
    for (size_t i = 0; i < 2; i++) {
        tarn_session *b = rig_fork(s, told_port[i]), *cold = demo(&r, i ? "cold1" : "cold0");
        tell(b, TARN_ROLE_USER, told_port[i], NULL);
        tell(b, TARN_ROLE_USER, "Which port does billing use?", NULL);
        tell(cold, TARN_ROLE_USER, told_port[i], NULL);
        tell(cold, TARN_ROLE_USER, "Which port does billing use?", NULL);
        rig_answer(b, 20, &told);
        rig_answer(cold, 20, &want);
        CHECK_TEXT(told.text, want.text);
        CHECK(rig_same_logits(b, cold));
        tarn_session_close(b);
        tarn_session_close(cold);
    }
    tell(s, TARN_ROLE_USER, "Which port does billing use?", NULL);
    rig_answer(s, 0, &told);
    CHECK_TEXT(told.text, "billing uses port 4821.");
    tarn_session_close(s);
    rig_close(&r);
}

CASE(messages_that_are_refused)
{
    rig r;
    tarn_session *s;
    rig_open(&r, RIG_RECALL, NULL);
    s = rig_loose(&r, "a");
#define BAD(words, ...)                                                                            \
    do {                                                                                           \
        tarn_message m = {.size = sizeof m, __VA_ARGS__};                                          \
        REFUSED(tarn_session_append_message(s, &m, NULL, ERR), TARN_E_INVALID, words);             \
        CHECK_EQ(rig_info(s).tokens_waiting, 0);                                                   \
    } while (0)
    tarn_tool_call no_id = {.arguments = "{}", .arguments_bytes = 2};
    tarn_tool_call call = {.id = "functions.a:0"};
    BAD("role", .role = TARN_ROLE_TOOLS);
    BAD("role", .role = TARN_ROLE_TOKENS);
    BAD("role", .role = (tarn_role)0);
    BAD("call", .role = TARN_ROLE_TOOL, .text = "x", .text_bytes = 1);
    BAD("call", .role = TARN_ROLE_TOOL, .call_id = "");
    BAD("calls", .role = TARN_ROLE_USER, .calls = &call, .n_calls = 1);
    BAD("calls", .role = TARN_ROLE_ASSISTANT, .n_calls = 1);
    BAD("call 0", .role = TARN_ROLE_ASSISTANT, .calls = &no_id, .n_calls = 1);
    BAD("text", .role = TARN_ROLE_USER, .text_bytes = 5);
#undef BAD
    REFUSED(tarn_session_append_message(s, NULL, NULL, ERR), TARN_E_INVALID, "NULL");
    tarn_session_close(s);
    rig_close(&r);
    rig_open(&r, RIG_TINY, NULL); /* no tokenizer, no messages */
    s = rig_loose(&r, "a");
    tarn_message m = {.size = sizeof m, .role = TARN_ROLE_USER};
    REFUSED(tarn_session_append_message(s, &m, NULL, ERR), TARN_E_UNSUPPORTED, "tokenizer");
    REFUSED(tarn_session_append_tools(s, "[]", 2, NULL, ERR), TARN_E_UNSUPPORTED, "tokenizer");
    tarn_session_close(s);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(an_answer_is_a_turn), ENTRY(a_header_is_written_only_where_one_belongs),
           ENTRY(an_open_turn_is_closed_before_the_next_message), ENTRY(tool_calls_are_found),
           ENTRY(calls_of_appended_turns), ENTRY(places_by_turn_and_by_call),
           ENTRY(places_by_turn_across_kept_states), ENTRY(branches_remember_their_own),
           ENTRY(messages_that_are_refused))
