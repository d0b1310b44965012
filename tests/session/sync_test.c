/* A session made to hold a conversation that is given whole: extended, moved or rebuilt, as little
 * as possible computed, and equal to the conversation appended to an empty session. */
#include "check.h"
#include "fixture.h"

#include <inttypes.h>

enum { IM_END = 1026 };

#define SYSTEM          "{\"role\":\"system\",\"content\":\"You are a deploy agent.\"}"
#define USER(text)      "{\"role\":\"user\",\"content\":\"" text "\"}"
#define ASSISTANT(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define TOOL(id, text)  "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"" text "\"}"
#define CALLING                                                                                    \
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"functions.lookup:0\","     \
    "\"function\":{\"name\":\"lookup\",\"arguments\":\"{}\"}}]}"
#define LIST(messages) "{\"messages\":[" messages "]}"

static void open_f32(rig *r)
{
    rig_open(r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32});
}

static tarn_sync sync_to(tarn_session *s, const char *json)
{
    tarn_sync out = {.size = sizeof out};
    OK(tarn_session_sync(s, json, strlen(json), &out, ERR));
    return out;
}

/* The pending logits are those of the conversation in an empty session. */
static void check_cold(rig *r, tarn_session *s, const char *json)
{
    tarn_session *cold = rig_loose(r, "cold");
    tarn_sync all = sync_to(cold, json);
    CHECK_EQ(all.kind, TARN_SYNC_EXTENDED);
    OK(tarn_session_run(cold, NULL, NULL, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK_EQ(rig_info(s).at.position, all.tokens_appended);
    CHECK(rig_same_logits(s, cold));
    tarn_session_close(cold);
}

CASE(extended_moved_and_rebuilt)
{
    rig r;
    open_f32(&r);
    static const char one[] = LIST(SYSTEM "," USER("Read the log."));
    static const char two[] = LIST(SYSTEM "," USER("Read the log.") "," TOOL(
        "functions.read:0", "billing listens on port 4821") "," ASSISTANT("Noted."));
    static const char edited[] = LIST(SYSTEM "," USER("Read the log.") "," TOOL(
        "functions.read:0", "billing listens on port 9999") "," ASSISTANT("Noted."));
    static const char other[] = LIST(USER("Hello."));
    tarn_session *s = rig_session(&r, "s", NULL);
    CHECK_EQ(sync_to(s, "{\"messages\":[]}").kind, TARN_SYNC_SAME);
    tarn_sync out = sync_to(s, one);
    CHECK_EQ(out.kind, TARN_SYNC_EXTENDED); /* an empty session lacks everything */
    CHECK_EQ(out.tokens_kept, 0);
    CHECK(!out.differs);
    uint64_t n_one = out.tokens_appended;
    check_cold(&r, s, one);
    out = sync_to(s, one);
    CHECK_EQ(out.kind, TARN_SYNC_SAME);
    CHECK_EQ(out.tokens_kept, n_one);
    CHECK_EQ(out.tokens_appended, 0);
    CHECK_EQ(rig_commit(s).at.position, n_one);
    out = sync_to(s, two);
    CHECK_EQ(out.kind, TARN_SYNC_EXTENDED);
    CHECK_EQ(out.tokens_kept, n_one);
    CHECK_EQ(out.reuse.tokens_reused, n_one);
    check_cold(&r, s, two);
    uint64_t head = rig_commit(s).at.node, computed = rig_stat(&r).rows_computed;

    out = sync_to(s, edited);
    CHECK_EQ(out.kind, TARN_SYNC_MOVED);
    CHECK(out.differs);
    CHECK_EQ(out.message, 2);
    CHECK_EQ(out.tokens_kept, n_one);
    CHECK(out.position > n_one);
    CHECK_EQ(out.reuse.tokens_reused, n_one); /* there is a node */
    CHECK_EQ(out.reuse.tokens_replayed, 0);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK_EQ(rig_stat(&r).rows_computed - computed, out.tokens_appended);
    check_cold(&r, s, edited);
    rig_commit(s);
    char where[32];
    snprintf(where, sizeof where, "@n:%" PRIu64, head); /* nothing is lost */
    tarn_at at;
    OK(tarn_store_fork(r.store, "s", where, "newer", &at, NULL, NULL, ERR));
    tarn_session *newer = rig_session(&r, "newer", NULL);
    CHECK_EQ(sync_to(newer, two).kind, TARN_SYNC_SAME);
    check_cold(&r, newer, two);
    tarn_session_close(newer);

    out = sync_to(s, one); /* the list is shorter */
    CHECK_EQ(out.kind, TARN_SYNC_MOVED);
    CHECK_EQ(out.message, 2);
    CHECK_EQ(out.position, n_one);
    CHECK_EQ(out.tokens_appended, 0);
    check_cold(&r, s, one);
    out = sync_to(s, other);
    CHECK_EQ(out.kind, TARN_SYNC_REBUILT);
    CHECK_EQ(out.message, 0);
    CHECK_EQ(out.position, 0);
    CHECK_EQ(out.tokens_kept, 0);
    CHECK_EQ(out.reuse.reason, TARN_REASON_NONE);
    check_cold(&r, s, other);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* A session that is kept nowhere has nothing to go back to: it is empty then. */
CASE(no_room_and_no_store)
{
    static char longer[4096];
    static const char one[] = LIST(SYSTEM "," USER("Read the log."));
    rig r;
    size_t at = (size_t)snprintf(longer, sizeof longer, "{\"messages\":[");
    for (int i = 0; i < 30; i++)
        at += (size_t)snprintf(longer + at, sizeof longer - at, "%s" USER("Hello."), i ? "," : "");
    snprintf(longer + at, sizeof longer - at, "]}");
    rig_open(
        &r, RIG_RECALL,
        &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32, .tokens_max = 128});
    tarn_session *s = rig_loose(&r, "s");
    sync_to(s, one);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK(rig_info(s).at.position > 8);
    tarn_sync out = {.size = sizeof out};
    REFUSED(tarn_session_sync(s, longer, strlen(longer), &out, ERR), TARN_E_LIMIT, "tokens_max");
    CHECK_EQ(rig_info(s).at.position, 0);
    sync_to(s, one);
    check_cold(&r, s, one);
    tarn_session_close(s);
    rig_close(&r);
}

/* Where there is no room for what the list adds, the session is what it was. */
CASE(no_room_behind_what_is_the_same)
{
    static const char one[] = LIST(SYSTEM "," USER("Read the log."));
    static const char other[] = LIST(USER("Hello."));
    rig r;
    uint32_t ids[8];
    tarn_session *busy[8];
    size_t n = 0;
    open_f32(&r);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    tarn_plan_report plan = {.size = sizeof plan};
    tarn_plan_options want = {.size = sizeof want, .numerics = TARN_NUMERICS_F32};
    OK(tarn_plan(r.model, &want, &plan, ERR));
    rig_restart_engine(&r, &(tarn_engine_options){.n_threads = 1,
                                                  .numerics = TARN_NUMERICS_F32,
                                                  .slots_bytes_max = 6 * plan.slot_bytes});
    rig_ids(&r, 1, ids, 8);
    tarn_session *s = rig_session(&r, "s", NULL), *cold = rig_loose(&r, "cold");
    sync_to(cold, one);
    OK(tarn_session_run(cold, NULL, NULL, ERR));
    static float logits[1280];
    const float *row;
    uint32_t vocab;
    OK(tarn_session_logits(cold, &row, &vocab, ERR));
    memcpy(logits, row, vocab * sizeof *row);
    tarn_session_close(cold);
    sync_to(s, one);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    tarn_committed kept = rig_commit(s);
    for (; n < 8; n++) { /* until they hold all there is; s is parked for them */
        busy[n] = rig_loose(&r, "busy");
        if (tarn_session_append_tokens(busy[n], ids, 8, ERR) != TARN_OK)
            break;
        OK(tarn_session_run(busy[n], NULL, NULL, ERR));
    }
    REQUIRE(n > 0 && n < 8);
    CHECK_EQ(rig_info(s).state, TARN_SESSION_PARKED);
    tarn_sync out = {.size = sizeof out};
    REFUSED(tarn_session_sync(s, other, sizeof other - 1, &out, ERR), TARN_E_LIMIT, "slots");
    tarn_at at;
    tarn_price price;
    OK(tarn_store_price(r.store, "s", NULL, &at, &price, ERR));
    CHECK_EQ(at.position, kept.at.position);
    CHECK_EQ(rig_info(s).at.position, kept.at.position);
    for (size_t i = 0; i <= n; i++)
        tarn_session_close(busy[i]);
    OK(tarn_session_logits(s, &row, &vocab, ERR));
    CHECK_BYTES(row, logits, vocab * sizeof *row);
    CHECK_EQ(sync_to(s, one).kind, TARN_SYNC_SAME);
    tarn_session_close(s);
    rig_close(&r);
}

/* Back to any message, with kept states and without: never more than what differs and G. */
CASE(every_message_edited)
{
    enum { N = 8 };
    rig r;
    rig_open(
        &r, RIG_RECALL,
        &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32, .keep_every = 16});
    for (int edit = 0; edit < N; edit++) {
        char list[2][2048];
        for (int k = 0; k < 2; k++) {
            int n = snprintf(list[k], sizeof list[k], "{\"messages\":[");
            for (int i = 0; i < N; i++)
                n += snprintf(list[k] + n, sizeof list[k] - (size_t)n,
                              "%s{\"role\":\"%s\",\"content\":\"message %d%s\"}", i ? "," : "",
                              i % 2 ? "assistant" : "user", i, k && i == edit ? " edited" : "");
            snprintf(list[k] + n, sizeof list[k] - (size_t)n, "]}");
        }
        tarn_session *s = rig_session(&r, "s", NULL);
        sync_to(s, list[0]);
        OK(tarn_session_run(s, NULL, NULL, ERR));
        tarn_sync out = sync_to(s, list[1]);
        CHECK_EQ(out.kind, edit ? TARN_SYNC_MOVED : TARN_SYNC_REBUILT);
        CHECK_EQ(out.message, edit);
        CHECK_EQ(out.reuse.tokens_reused + out.reuse.tokens_replayed, out.tokens_kept);
        CHECK(out.reuse.tokens_replayed < 16);
        check_cold(&r, s, list[1]);
        rig_commit(s);
        tarn_session_close(s);
        OK(tarn_store_remove(r.store, "s", ERR));
    }
    rig_close(&r);
}

/* The model says just this id. */
static void say(tarn_session *s, uint32_t id)
{
    tarn_sampling p = {.size = sizeof p, .n_bias = 1, .bias = {{id, 1e9f}}};
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 1};
    OK(tarn_session_set_sampling(s, &p, ERR));
    OK(tarn_session_generate(s, &o, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
}

/* A turn spelled with ids the encoder would not choose is the same turn, whole or not. */
CASE(texts_are_compared_not_ids)
{
    static const char answer[] = "billing uses port 4821.";
    rig r;
    open_f32(&r);
    tarn_session *s = rig_session(&r, "s", NULL);
    sync_to(s, LIST(USER("Which port does billing use?")));
    for (size_t i = 0; i < sizeof answer - 1; i++)
        say(s, (uint8_t)answer[i]); /* the first 256 ids are bytes */
    uint64_t fed = rig_info(s).at.position;
    tarn_session *f = rig_fork(s, "f");
    tarn_session *g = rig_fork(s, "g");
    tarn_session *h = rig_fork(s, "h");
    say(s, IM_END);
    static const char list[] =
        LIST(USER("Which port does billing use?") "," ASSISTANT("billing uses port 4821."));
    static const char more[] = LIST(USER("Which port does billing use?") "," ASSISTANT(
        "billing uses port 4821.") "," USER("Thanks."));
    CHECK_EQ(sync_to(s, list).kind, TARN_SYNC_SAME);
    CHECK_EQ(sync_to(s, more).kind, TARN_SYNC_EXTENDED);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    tarn_sync out = sync_to(f, more); /* left open: it ends here */
    CHECK_EQ(out.kind, TARN_SYNC_EXTENDED);
    CHECK_EQ(out.tokens_kept, fed);
    OK(tarn_session_run(f, NULL, NULL, ERR));
    CHECK(rig_same_logits(s, f));
    CHECK_EQ(rig_info(f).turns, 1);
    static const char longer[] =
        LIST(USER("Which port does billing use?") "," ASSISTANT("billing uses port 4821. Yes."));
    out = sync_to(g, longer); /* or goes on */
    CHECK(out.kind == TARN_SYNC_EXTENDED || out.kind == TARN_SYNC_MOVED);
    OK(tarn_session_run(g, NULL, NULL, ERR));
    CHECK_EQ(sync_to(g, longer).kind, TARN_SYNC_SAME);
    CHECK_EQ(rig_info(g).turns, 1);
    CHECK(!rig_info(g).turn_open);
    static const char shorter[] =
        LIST(USER("Which port does billing use?") "," ASSISTANT("billing uses"));
    out = sync_to(h, shorter);
    CHECK_EQ(out.kind, TARN_SYNC_MOVED);
    CHECK_EQ(out.message, 1);
    CHECK_EQ(out.position, fed - strlen(" port 4821."));
    check_cold(&r, h, shorter);
    tarn_session *all[] = {s, f, g, h};
    for (size_t i = 0; i < 4; i++)
        tarn_session_close(all[i]);
    rig_close(&r);
}

CASE(tools_and_calls)
{
    rig r;
    open_f32(&r);
#define WITH_TOOLS(tools, messages) "{\"tools\":" tools ",\"messages\":[" messages "]}"
    static const char list[] = WITH_TOOLS("[{\"name\":\"lookup\"}]", USER("Go.") "," CALLING);
    static const char answered[] = WITH_TOOLS(
        "[{\"name\":\"lookup\"}]", USER("Go.") "," CALLING "," TOOL("functions.lookup:0", "x"));
    static const char retold[] = WITH_TOOLS(
        "[{\"name\":\"find\"}]", USER("Go.") "," CALLING "," TOOL("functions.lookup:0", "x"));
    tarn_session *s = rig_session(&r, "s", NULL);
    sync_to(s, list);
    check_cold(&r, s, list);
    tarn_message wrong = {.size = sizeof wrong, .role = TARN_ROLE_TOOL, .call_id = "functions.x:1"};
    REFUSED(tarn_session_append_message(s, &wrong, NULL, ERR), TARN_E_INVALID, "1 wait");
    CHECK_EQ(sync_to(s, answered).kind, TARN_SYNC_EXTENDED);
    check_cold(&r, s, answered);
    wrong.call_id = "functions.lookup:0";
    REFUSED(tarn_session_append_message(s, &wrong, NULL, ERR), TARN_E_EXISTS, "lookup");
    tarn_sync out = sync_to(s, retold);
    CHECK_EQ(out.kind, TARN_SYNC_REBUILT);
    CHECK_EQ(out.message, -1);
    CHECK(out.position > 0);
    check_cold(&r, s, retold);
    tarn_session_close(s);
    rig_close(&r);
}

/* The turn was cut off behind its call: the list says how it ends. */
CASE(a_turn_cut_off_behind_its_call)
{
    rig r;
    open_f32(&r);
    static const char asked[] = LIST(USER("Go.")), called[] = LIST(USER("Go.") "," CALLING);
    tarn_session *s = rig_session(&r, "s", NULL);
    sync_to(s, asked);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    uint64_t begin = rig_info(s).at.position;
    tarn_ids ids;
    OK(tarn_model_render_chat(r.model, called, strlen(called), &ids, ERR));
    for (size_t i = begin + 3; i + 1 < ids.n_ids; i++) /* behind the header, all but the end */
        say(s, ids.ids[i]);
    CHECK_EQ(rig_info(s).at.position, ids.n_ids - 1);
    CHECK(rig_info(s).turn_open);
    tarn_sync out = sync_to(s, called);
    CHECK_EQ(out.kind, TARN_SYNC_EXTENDED);
    CHECK_EQ(out.tokens_appended, 1);
    check_cold(&r, s, called);
    rig_commit(s);
    tarn_message wrong = {.size = sizeof wrong, .role = TARN_ROLE_TOOL, .call_id = "functions.x:1"};
    REFUSED(tarn_session_append_message(s, &wrong, NULL, ERR), TARN_E_INVALID, "1 wait");
    tarn_at at;
    tarn_price price;
    OK(tarn_store_price(r.store, "s", "@before:functions.lookup:0", &at, &price, ERR));
    CHECK_EQ(at.position, begin);
    tarn_ids_free(&ids);
    tarn_session_close(s);
    rig_close(&r);
}

/* Messages that came in as plain ids: the last is made one, and the answer begins as it should. */
CASE(ids_that_spell_the_messages)
{
    rig r;
    static rig_told told, cold_told;
    open_f32(&r);
    static const char list[] = LIST(SYSTEM "," USER("Which port does billing use?"));
    tarn_ids ids;
    OK(tarn_model_render_chat(r.model, list, strlen(list), &ids, ERR));
    for (int stored = 0; stored < 2; stored++) {
        tarn_session *s = stored ? rig_session(&r, "s", NULL) : rig_loose(&r, "s");
        tarn_session *cold = rig_loose(&r, "cold");
        rig_feed(s, ids.ids, ids.n_ids);
        sync_to(cold, list);
        tarn_sync out = sync_to(s, list);
        CHECK_EQ(out.kind, stored ? TARN_SYNC_MOVED : TARN_SYNC_REBUILT);
        CHECK_EQ(out.message, 1);
        if (stored)
            CHECK_EQ(out.tokens_kept + out.tokens_appended, ids.n_ids);
        rig_answer(s, 8, &told);
        rig_answer(cold, 8, &cold_told);
        CHECK_EQ(told.n_ids, cold_told.n_ids);
        CHECK_IDS(told.ids, cold_told.ids, cold_told.n_ids);
        CHECK(rig_same_logits(s, cold));
        CHECK_EQ(rig_info(s).turns, 1);
        tarn_session_close(s);
        tarn_session_close(cold);
    }
    tarn_ids_free(&ids);
    rig_close(&r);
}

/* Plain ids that spell the beginning of a message, whole ids that no text has, and a turn that was
 * left open: what comes after depends on more than the ids. */
CASE(ids_that_go_no_further)
{
    rig r;
    open_f32(&r);
    static const char list[] = LIST(SYSTEM "," USER("Which port does billing use?"));
    static const char turn[] = LIST(USER("Go.") "," ASSISTANT("It listens on port 4821."));
    tarn_ids ids, turn_ids;
    OK(tarn_model_render_chat(r.model, list, strlen(list), &ids, ERR));
    OK(tarn_model_render_chat(r.model, turn, strlen(turn), &turn_ids, ERR));
    tarn_session *s = rig_session(&r, "half", NULL);
    rig_feed(s, ids.ids, ids.n_ids - 4);
    CHECK_EQ(sync_to(s, list).kind, TARN_SYNC_MOVED);
    check_cold(&r, s, list);
    tarn_session_close(s);
    s = rig_session(&r, "nowhere", NULL);
    rig_feed(s, ids.ids, ids.n_ids - 4);
    rig_feed(s, (const uint32_t[]){1100, 1101}, 2); /* the model has them, the tokenizer has not */
    CHECK_EQ(sync_to(s, list).kind, TARN_SYNC_MOVED);
    check_cold(&r, s, list);
    tarn_session_close(s);
    s = rig_session(&r, "open", NULL);
    sync_to(s, LIST(USER("Go.")));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    tarn_message m = {.size = sizeof m, .role = TARN_ROLE_ASSISTANT};
    OK(tarn_session_append_begin(s, &m, ERR));
    OK(tarn_session_append_bytes(s, "It listens on", 13, NULL, ERR));
    OK(tarn_session_append_end(s, NULL, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK_EQ(sync_to(s, turn).kind, TARN_SYNC_MOVED); /* it ended there: another turn */
    check_cold(&r, s, turn);
    tarn_session_close(s);
    tarn_ids_free(&ids);
    tarn_ids_free(&turn_ids);
    rig_close(&r);
}

CASE(messages_that_are_no_json)
{
    rig r;
    open_f32(&r);
    tarn_message list[] = {
        {.size = sizeof *list, .role = TARN_ROLE_USER, .text = "Go.", .text_bytes = 3},
        {.size = sizeof *list, .role = TARN_ROLE_ASSISTANT, .text = "Noted.", .text_bytes = 6},
        {.size = sizeof *list,
         .role = TARN_ROLE_TOOL,
         .text = "x",
         .text_bytes = 1,
         .call_id = "functions.a:0"}};
    static const char same[] =
        LIST(USER("Go.") "," ASSISTANT("Noted.") "," TOOL("functions.a:0", "x"));
    tarn_session *s = rig_loose(&r, "s");
    tarn_sync out = {.size = sizeof out};
    OK(tarn_session_sync_messages(s, list, 3, &out, ERR));
    CHECK_EQ(out.kind, TARN_SYNC_EXTENDED);
    check_cold(&r, s, same);
    CHECK_EQ(sync_to(s, same).kind, TARN_SYNC_SAME);
    list[1].text = "Notes.";
    OK(tarn_session_sync_messages(s, list, 3, &out, ERR)); /* without a store: all anew */
    CHECK_EQ(out.kind, TARN_SYNC_REBUILT);
    CHECK_EQ(out.message, 1);
    CHECK(out.position > 3);
    check_cold(&r, s, LIST(USER("Go.") "," ASSISTANT("Notes.") "," TOOL("functions.a:0", "x")));
    list[2].call_id = NULL;
    REFUSED(tarn_session_sync_messages(s, list, 3, &out, ERR), TARN_E_INVALID, "id of its call");
    list[0].role = TARN_ROLE_TOOL;
    REFUSED(tarn_session_sync_messages(s, list, 3, &out, ERR), TARN_E_INVALID, "id of its call");
    OK(tarn_session_append_tokens(s, (const uint32_t[]){300}, 1, ERR));
    REFUSED(tarn_session_sync_messages(s, list, 3, &out, ERR), TARN_E_CONFLICT, "waiting");
    OK(tarn_session_run(s, NULL, NULL, ERR));
    list[0].size = 9999;
    REFUSED(tarn_session_sync_messages(s, list, 3, &out, ERR), TARN_E_INVALID, "size");
    OK(tarn_session_sync_messages(s, NULL, 0, &out, ERR)); /* nothing is a conversation, too */
    CHECK_EQ(out.kind, TARN_SYNC_REBUILT);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK_EQ(rig_info(s).at.position, 0);
    tarn_session_close(s);
    rig_close(&r);
}

/* A session that has tokens to compute again is extended behind them. */
CASE(behind_a_replay)
{
    static const char two[] = LIST(USER("Read the log.") "," ASSISTANT("Noted."));
    static const char three[] =
        LIST(USER("Read the log.") "," ASSISTANT("Noted.") "," USER("Thanks."));
    rig r;
    open_f32(&r);
    tarn_session *s = rig_session(&r, "s", NULL);
    uint64_t n = sync_to(s, two).tokens_appended;
    OK(tarn_session_run(s, NULL, NULL, ERR));
    rig_feed(s, (const uint32_t[]){300, 301, 302}, 3);
    rig_commit(s);
    tarn_session_close(s);
    char where[32];
    tarn_at at;
    snprintf(where, sizeof where, "@t:%" PRIu64, n);
    OK(tarn_store_fork(r.store, "s", where, "f", &at, NULL, NULL, ERR));
    s = rig_session(&r, "f", NULL);
    CHECK_EQ(rig_info(s).tokens_waiting, n);
    tarn_sync out = sync_to(s, three);
    CHECK_EQ(out.kind, TARN_SYNC_EXTENDED);
    CHECK_EQ(out.tokens_kept, n);
    CHECK_EQ(out.reuse.tokens_replayed, n);
    check_cold(&r, s, three);
    tarn_session_close(s);
    rig_close(&r);
}

CASE(what_is_refused_changes_nothing)
{
    static const char list[] = LIST(USER("Read the log."));
    static char large[70000];
    rig r;
    open_f32(&r);
    tarn_session *s = rig_session(&r, "s", NULL);
    tarn_sync out = {.size = sizeof out};
    sync_to(s, list);
    REFUSED(tarn_session_sync(s, list, strlen(list), &out, ERR), TARN_E_CONFLICT, "waiting");
    OK(tarn_session_run(s, NULL, NULL, ERR));
    uint64_t position = rig_info(s).at.position;
    static const char *const bad[][2] = {
        {"{", "JSON"},
        {"[]", "no object"},
        {"{\"messages\":[{}]}", "messages[0].role"},
        {"{\"messages\":[],\"add_generation_prompt\":true}", "add_generation_prompt"},
        {"{\"messages\":[],\"tools\":{}}", "tools"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        REFUSED(tarn_session_sync(s, bad[i][0], strlen(bad[i][0]), &out, ERR), TARN_E_INVALID,
                bad[i][1]);
    int n = snprintf(large, sizeof large, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    memset(large + n, '7', 60000);
    snprintf(large + n + 60000, sizeof large - (size_t)n - 60000, "\"}]}");
    tarn_model_info info = {.size = sizeof info};
    OK(tarn_model_describe(r.model, TARN_NUMERICS_F32, &info, ERR));
    if (info.context < 20000)
        REFUSED(tarn_session_sync(s, large, strlen(large), &out, ERR), TARN_E_LIMIT, "context");
    tarn_message m = {.size = sizeof m, .role = TARN_ROLE_USER};
    OK(tarn_session_append_begin(s, &m, ERR));
    REFUSED(tarn_session_sync(s, list, strlen(list), &out, ERR), TARN_E_CONFLICT, "end it first");
    tarn_session_cancel(s);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK_EQ(rig_info(s).at.position, position);
    CHECK_EQ(sync_to(s, list).kind, TARN_SYNC_SAME);
    tarn_session_close(s);
    rig_close(&r);
    rig tiny;
    rig_open(&tiny, RIG_TINY, NULL);
    s = rig_loose(&tiny, "s");
    REFUSED(tarn_session_sync(s, list, strlen(list), &out, ERR), TARN_E_UNSUPPORTED, "tokenizer");
    tarn_session_close(s);
    rig_close(&tiny);
}

CHECK_MAIN(ENTRY(extended_moved_and_rebuilt), ENTRY(no_room_and_no_store),
           ENTRY(no_room_behind_what_is_the_same), ENTRY(every_message_edited),
           ENTRY(texts_are_compared_not_ids), ENTRY(tools_and_calls),
           ENTRY(a_turn_cut_off_behind_its_call), ENTRY(ids_that_spell_the_messages),
           ENTRY(ids_that_go_no_further), ENTRY(messages_that_are_no_json), ENTRY(behind_a_replay),
           ENTRY(what_is_refused_changes_nothing))
