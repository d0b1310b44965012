/* What another session computed: a new one with the same beginning goes on from there, and nothing
 * but the price tells. */
#include "check.h"
#include "fixture.h"

#include <inttypes.h>

static tarn_session *open_with(rig *r, const char *name, uint32_t flags)
{
    tarn_session *s;
    tarn_session_options o = {.size = sizeof o, .flags = flags | TARN_SESSION_CREATE};
    OK(tarn_session_open(r->engine, r->store, name, &o, &s, NULL, ERR));
    return s;
}

/* Feeds and returns how many rows that took. */
static uint64_t rows_of(rig *r, tarn_session *s, const uint32_t *ids, size_t n)
{
    uint64_t before = rig_stat(r).rows_computed;
    rig_feed(s, ids, n);
    return rig_stat(r).rows_computed - before;
}

static void beginnings(rig_kind kind)
{
    enum { N = 300 };
    rig r;
    uint32_t ids[N], other[N];
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 1, .keep_every = 64});
    rig_ids(&r, 1, ids, N);
    rig_ids(&r, 1, other, N);
    other[200] ^= 1;
    tarn_session *a = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    CHECK_EQ(rows_of(&r, a, ids, 100), 100);
    rig_commit(a);
    rig_feed(a, ids + 100, 200);
    rig_commit(a);

    tarn_session *b = rig_session(&r, "b", NULL); /* all of it */
    CHECK_EQ(rig_info(b).reuse.reason, TARN_REASON_NONE);
    CHECK_EQ(rows_of(&r, b, ids, N), 0);
    tarn_session_info info = rig_info(b);
    CHECK_EQ(info.reuse.reason, TARN_REASON_PREFIX);
    CHECK_EQ(info.reuse.tokens_reused, N);
    CHECK_EQ(info.reuse.tokens_replayed, 0);
    CHECK(info.reuse.bytes_read > 0);
    CHECK(rig_same_logits(a, b));
    CHECK_EQ(info.at.node, rig_info(a).at.node);
    tarn_committed committed = rig_commit(b);
    CHECK_EQ(committed.at.node, info.at.node); /* nothing new */

    tarn_session *c = rig_session(&r, "c", NULL); /* up to the last kept state before they differ */
    CHECK_EQ(rows_of(&r, c, other, N), N - 192);
    CHECK_EQ(rig_info(c).reuse.tokens_reused, 192);
    rig_feed(cold, other, N);
    CHECK(rig_same_logits(c, cold));
    rig_commit(c);

    tarn_session *d = open_with(&r, "d", TARN_SESSION_NO_PREFIX);
    CHECK_EQ(rows_of(&r, d, ids, N), N);
    CHECK(rig_same_logits(a, d));
    CHECK_EQ(rig_info(d).reuse.reason, TARN_REASON_NONE);

    tarn_session *e = rig_session(&r, "e", NULL); /* no beginning is the same */
    CHECK_EQ(rows_of(&r, e, ids + 1, 50), 50);
    CHECK_EQ(rig_info(e).reuse.reason, TARN_REASON_NONE);

    OK(tarn_store_remove(r.store, "b", ERR) == TARN_E_BUSY ? TARN_OK : TARN_E_IO);
    tarn_session_close(a);
    OK(tarn_store_remove(r.store, "a", ERR)); /* the others stand on its nodes */
    rig_feed(b, ids, 20);
    rig_commit(b);
    tarn_session_close(b);
    b = rig_session(&r, "b", NULL);
    CHECK_EQ(rig_info(b).at.position, N + 20);
    tarn_session *all[] = {b, c, d, e, cold};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tarn_session_close(all[i]);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(beginnings_of_the_tiny_model)
{
    beginnings(RIG_TINY);
}

CASE(beginnings_of_the_bundled_model)
{
    beginnings(RIG_RECALL);
}

/* Everything queued before the first step counts, and the session's own sampling stays. */
CASE(messages_and_answers)
{
    rig r;
    static rig_told told, cold_told;
    rig_open(&r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32});
    static const char *const texts[] = {"You are a deploy agent.", "Read the log."};
    tarn_session *s[3];
    const char *names[] = {"a", "b", "c"};
    uint64_t position = 0;
    for (int k = 0; k < 3; k++) {
        if (k == 2) {
            uint64_t computed = rig_stat(&r).rows_computed;
            rig_answer(s[1], 8, &told);
            CHECK_EQ(rig_stat(&r).rows_computed - computed, 3 + told.n_ids); /* header, answer */
            CHECK_EQ(rig_info(s[1]).reuse.tokens_reused, position);
        }
        s[k] = k < 2 ? rig_session(&r, names[k], NULL) : rig_loose(&r, names[k]);
        tarn_sampling p = {.size = sizeof p, .temperature = 0.8f, .seed = 5};
        OK(tarn_session_set_sampling(s[k], &p, ERR));
        for (int i = 0; i < 2; i++) {
            tarn_message m = {.size = sizeof m,
                              .role = i ? TARN_ROLE_USER : TARN_ROLE_SYSTEM,
                              .text = texts[i],
                              .text_bytes = strlen(texts[i])};
            OK(tarn_session_append_message(s[k], &m, NULL, ERR));
        }
        if (k == 0) { /* greedy in the store, and committed in the middle of what b queues */
            tarn_sampling greedy = {.size = sizeof greedy};
            OK(tarn_session_run(s[k], NULL, NULL, ERR));
            OK(tarn_session_set_sampling(s[k], &greedy, ERR));
            position = rig_commit(s[k]).at.position;
        }
    }
    rig_answer(s[2], 8, &cold_told);
    CHECK_EQ(told.n_ids, cold_told.n_ids);
    CHECK_IDS(told.ids, cold_told.ids, told.n_ids);
    CHECK(rig_same_logits(s[1], s[2]));
    CHECK_EQ(rig_info(s[1]).turns, 1);
    rig_commit(s[1]);
    tarn_node_list list;
    OK(tarn_store_log(r.store, "b", NULL, &list, ERR));
    CHECK_EQ(list.n_entries, 3); /* a's root and node, and the answer */
    CHECK_EQ(list.entries[2].n_segments, 1);
    CHECK_EQ(list.entries[2].segments[0].role, TARN_ROLE_ASSISTANT);
    tarn_node_list_free(&list);
    for (int k = 0; k < 3; k++)
        tarn_session_close(s[k]);
    rig_close(&r);
}

/* Cut in the middle of a message: it goes on as the same one. */
CASE(a_prefix_inside_a_message)
{
    rig r;
    rig_open(
        &r, RIG_RECALL,
        &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32, .keep_every = 16});
    static const char text[] = "one two three four five six seven eight nine ten eleven twelve";
    for (int k = 0; k < 2; k++) {
        tarn_session *s = rig_session(&r, k ? "b" : "a", NULL);
        tarn_message m = {.size = sizeof m,
                          .role = TARN_ROLE_TOOL,
                          .call_id = "functions.a:0",
                          .text = text,
                          .text_bytes = sizeof text - 1 - (k ? 4 : 0)};
        size_t n;
        OK(tarn_session_append_message(s, &m, &n, ERR));
        OK(tarn_session_run(s, NULL, NULL, ERR));
        if (k)
            CHECK_EQ(rig_info(s).reuse.tokens_reused, 16 * ((n - 1) / 16));
        rig_commit(s);
        tarn_node_list list;
        uint32_t n_tokens = 0, n_begun = 0;
        bool closed = false;
        OK(tarn_store_log(r.store, k ? "b" : "a", NULL, &list, ERR));
        for (size_t i = 0; i < list.n_entries; i++)
            for (size_t j = 0; j < list.entries[i].n_segments; j++) {
                n_tokens += list.entries[i].segments[j].n_tokens;
                n_begun += !list.entries[i].segments[j].continues;
                closed = list.entries[i].segments[j].closed;
            }
        CHECK_EQ(n_tokens, n);
        CHECK_EQ(n_begun, 1);
        CHECK(closed);
        tarn_node_list_free(&list);
        tarn_session_close(s);
    }
    rig_close(&r);
}

/* The same inside a turn that makes calls: they stand behind its end, which is not adopted. */
CASE(a_prefix_inside_a_turn)
{
    static const char text[] = "one two three four five six seven eight nine ten eleven twelve";
    const tarn_tool_call calls[] = {
        {.id = "functions.look:0", .name = "look", .arguments = "{}", .arguments_bytes = 2},
        {.id = "functions.look:1", .name = "look", .arguments = "{}", .arguments_bytes = 2}};
    rig r;
    rig_open(
        &r, RIG_RECALL,
        &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32, .keep_every = 16});
    uint64_t position[2];
    tarn_session *s[2];
    for (int k = 0; k < 2; k++) {
        const tarn_message m = {.size = sizeof m,
                                .role = TARN_ROLE_ASSISTANT,
                                .text = text,
                                .text_bytes = sizeof text - 1 - (k ? 4 : 0),
                                .calls = calls,
                                .n_calls = 2};
        tarn_message result = {.size = sizeof result,
                               .role = TARN_ROLE_TOOL,
                               .call_id = calls[1].id,
                               .text = "x",
                               .text_bytes = 1};
        s[k] = rig_session(&r, k ? "b" : "a", NULL);
        OK(tarn_session_append_message(s[k], &m, NULL, ERR));
        OK(tarn_session_run(s[k], NULL, NULL, ERR));
        if (k)
            CHECK(rig_info(s[k]).reuse.tokens_reused >= 16);
        CHECK_EQ(rig_info(s[k]).turns, 1);
        rig_commit(s[k]);
        position[k] = rig_info(s[k]).at.position;
        OK(tarn_session_append_message(s[k], &result, NULL, ERR));
        result.call_id = "functions.look:2";
        REFUSED(tarn_session_append_message(s[k], &result, NULL, ERR), TARN_E_INVALID,
                "no call functions.look:2");
        OK(tarn_session_run(s[k], NULL, NULL, ERR));
        rig_commit(s[k]);
        OK(tarn_session_rewind(s[k], "@before:functions.look:1", NULL, ERR));
        rig_drain(&r);
        CHECK_EQ(rig_info(s[k]).at.position, 0); /* the turn begins there */
    }
    CHECK(position[1] < position[0]);
    tarn_session_close(s[0]);
    tarn_session_close(s[1]);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* Sampling that was committed before the first token is not lost to what is adopted. */
CASE(committed_sampling_stays)
{
    rig r;
    uint32_t ids[60];
    tarn_reuse reuse;
    tarn_sampling p = {.size = sizeof p, .temperature = 0.5F, .seed = 9}, other = p, got = p;
    other.seed = 10;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 1, ids, 60);
    tarn_session *a = rig_session(&r, "a", NULL), *b = rig_session(&r, "b", NULL);
    OK(tarn_session_set_sampling(a, &other, ERR));
    rig_feed(a, ids, 40);
    rig_commit(a);
    OK(tarn_session_set_sampling(b, &p, ERR));
    rig_commit(b);
    CHECK_EQ(rows_of(&r, b, ids, 60), 20);
    CHECK_EQ(rig_info(b).reuse.reason, TARN_REASON_PREFIX);
    tarn_session_close(b); /* as if it had been killed */
    b = rig_session(&r, "b", &reuse);
    CHECK_EQ(rig_info(b).at.position, 40);
    CHECK_EQ(reuse.tokens_replayed, 0);
    tarn_session_get_sampling(b, &got);
    CHECK_EQ(got.seed, p.seed);
    CHECK(rig_same_logits(a, b));
    CHECK_EQ(rig_commit(b).bytes_written, 0);
    tarn_session_close(a);
    tarn_session_close(b);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* F2: cancelled before anything was computed, nothing is adopted either. */
CASE(a_cancel_comes_first)
{
    rig r;
    uint32_t ids[40];
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 3, ids, 40);
    tarn_session *a = rig_session(&r, "a", NULL), *b = rig_session(&r, "b", NULL);
    rig_feed(a, ids, 40);
    rig_commit(a);
    OK(tarn_session_append_tokens(b, ids, 40, ERR));
    tarn_session_cancel(b);
    OK(tarn_session_run(b, NULL, NULL, ERR));
    CHECK_EQ(rig_info(b).at.position, 0);
    CHECK_EQ(rows_of(&r, b, ids, 40), 0);
    CHECK(rig_same_logits(a, b));
    tarn_session_close(a);
    tarn_session_close(b);
    rig_close(&r);
}

/* A state that was evicted is computed again; what stays of the way is used. */
CASE(an_evicted_state)
{
    rig r;
    uint32_t ids[200];
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1});
    rig_ids(&r, 3, ids, 200);
    tarn_session *a = rig_session(&r, "a", NULL);
    for (size_t at = 0; at < 200; at += 20) {
        rig_feed(a, ids + at, 20);
        rig_commit(a);
    }
    tarn_session_close(a);
    tarn_gc_options gc = {.size = sizeof gc, .keep_newest = 1, .rung_tokens = 64};
    tarn_gc_report report;
    OK(tarn_store_gc(r.store, &gc, &report, ERR));
    CHECK(report.n_dropped > 0);
    tarn_gc_report_free(&report);
    for (size_t n = 20; n <= 200; n += 20) {
        char name[16];
        snprintf(name, sizeof name, "b%zu", n);
        tarn_session *b = rig_session(&r, name, NULL), *cold = rig_loose(&r, "cold");
        rig_feed(b, ids, n);
        rig_feed(cold, ids, n);
        CHECK(rig_same_logits(b, cold));
        CHECK_EQ(rig_info(b).at.position, n);
        rig_commit(b);
        tarn_session_close(b);
        tarn_session_close(cold);
    }
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* A system message, a question and an answer, as messages or as the ids these are. */
static void feed_parts(rig *r, tarn_session *s, int first, int n, bool as_tokens)
{
    static const char *const texts[] = {"You are a deploy agent.", "Read the log.", "All is well."};
    static const tarn_role roles[] = {TARN_ROLE_SYSTEM, TARN_ROLE_USER, TARN_ROLE_ASSISTANT};
    static const char *const names[] = {"system", "user", "assistant"};
    for (int i = first; i < n; i++) {
        if (as_tokens) {
            char json[200];
            tarn_ids ids;
            snprintf(json, sizeof json, "{\"messages\":[{\"role\":\"%s\",\"content\":\"%s\"}]}",
                     names[i], texts[i]);
            OK(tarn_model_render_chat(r->model, json, strlen(json), &ids, ERR));
            OK(tarn_session_append_tokens(s, ids.ids, ids.n_ids, ERR));
            tarn_ids_free(&ids);
        } else {
            tarn_message m = {.size = sizeof m,
                              .role = roles[i],
                              .text = texts[i],
                              .text_bytes = strlen(texts[i])};
            OK(tarn_session_append_message(s, &m, NULL, ERR));
        }
    }
}

/* Ids alone do not say what they are: messages do not go on from a session that was fed the same
 * ids as plain tokens, nor these from messages, for what follows them would be another. */
CASE(the_same_ids_as_something_else)
{
    static rig_told told, cold_told;
    for (int way = 0; way < 6; way++) {
        rig r;
        bool as_tokens = way % 2;
        int n = 1 + way / 2;
        rig_open(&r, RIG_RECALL,
                 &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32});
        tarn_session *a = rig_session(&r, "a", NULL), *b = rig_session(&r, "b", NULL);
        tarn_session *cold = rig_loose(&r, "cold");
        feed_parts(&r, a, 0, n, !as_tokens);
        OK(tarn_session_run(a, NULL, NULL, ERR));
        rig_commit(a);
        feed_parts(&r, b, 0, n, as_tokens);
        feed_parts(&r, cold, 0, n, as_tokens);
        OK(tarn_session_run(b, NULL, NULL, ERR));
        OK(tarn_session_run(cold, NULL, NULL, ERR));
        CHECK_EQ(rig_info(b).at.position, rig_info(cold).at.position);
        CHECK_EQ(rig_info(b).turns, rig_info(cold).turns);
        rig_answer(b, 6, &told);
        rig_answer(cold, 6, &cold_told);
        CHECK_EQ(rig_info(b).at.position, rig_info(cold).at.position);
        CHECK_EQ(told.n_ids, cold_told.n_ids);
        CHECK_IDS(told.ids, cold_told.ids, cold_told.n_ids);
        CHECK_EQ(rig_info(b).turns, rig_info(cold).turns);
        tarn_session_close(a);
        tarn_session_close(b);
        tarn_session_close(cold);
        rig_close(&r);
    }
}

/* Up to where they mean the same they have it in common. */
CASE(partly_the_same)
{
    rig r;
    rig_open(&r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32});
    tarn_session *a = rig_session(&r, "a", NULL), *b = rig_session(&r, "b", NULL);
    tarn_session *first = rig_loose(&r, "first"), *cold = rig_loose(&r, "cold");
    feed_parts(&r, first, 0, 1, true);
    OK(tarn_session_run(first, NULL, NULL, ERR));
    uint64_t n_first = rig_info(first).at.position;
    feed_parts(&r, a, 0, 1, false);
    OK(tarn_session_run(a, NULL, NULL, ERR));
    rig_commit(a);
    feed_parts(&r, a, 1, 3, true);
    OK(tarn_session_run(a, NULL, NULL, ERR));
    rig_commit(a);
    feed_parts(&r, cold, 0, 3, true);
    OK(tarn_session_run(cold, NULL, NULL, ERR));
    feed_parts(&r, b, 0, 3, false);
    OK(tarn_session_run(b, NULL, NULL, ERR));
    CHECK_EQ(rig_info(b).reuse.reason, TARN_REASON_PREFIX);
    CHECK_EQ(rig_info(b).reuse.tokens_reused, n_first);
    CHECK(rig_same_logits(b, cold));
    tarn_session *s[] = {a, b, first, cold};
    for (size_t i = 0; i < 4; i++)
        tarn_session_close(s[i]);
    rig_close(&r);
}

/* A result that answers another call is another, though it says the same. */
CASE(results_and_calls_that_differ)
{
    rig r;
    rig_open(&r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32});
    static const char said[] = "## Return of a\nx";
    tarn_message m[] = {{.size = sizeof *m, .role = TARN_ROLE_SYSTEM, .name = "tool", .text = said},
                        {.size = sizeof *m, .role = TARN_ROLE_TOOL, .call_id = "a", .text = "x"}};
    m[0].text_bytes = strlen(m[0].text);
    m[1].text_bytes = strlen(m[1].text);
    size_t n[2];
    for (int k = 0; k < 2; k++) {
        tarn_session *s = rig_session(&r, k ? "b" : "a", NULL);
        OK(tarn_session_append_message(s, &m[k], &n[k], ERR));
        OK(tarn_session_run(s, NULL, NULL, ERR));
        rig_commit(s);
        tarn_node_list list;
        OK(tarn_store_log(r.store, k ? "b" : "a", NULL, &list, ERR));
        CHECK_EQ(list.entries[list.n_entries - 1].segments[0].role, m[k].role);
        CHECK_EQ(list.entries[list.n_entries - 1].segments[0].n_call_ids, k);
        tarn_node_list_free(&list);
        tarn_session_close(s);
    }
    CHECK_EQ(n[0], n[1]);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(beginnings_of_the_tiny_model), ENTRY(beginnings_of_the_bundled_model),
           ENTRY(messages_and_answers), ENTRY(a_prefix_inside_a_message),
           ENTRY(a_prefix_inside_a_turn), ENTRY(committed_sampling_stays),
           ENTRY(a_cancel_comes_first), ENTRY(an_evicted_state),
           ENTRY(the_same_ids_as_something_else), ENTRY(partly_the_same),
           ENTRY(results_and_calls_that_differ))
