/* Going back to any place of a history, and forward again to any branch. */
#include "check.h"
#include "fixture.h"

enum { N = 300, KEEP = 64, SAID = 5 };

/* What a session that never was in a store says after t tokens. */
typedef struct cold_run {
    rig_told told;
    rig_trace rows;
} cold_run;

static void run_cold(tarn_session *at_t, cold_run *out)
{
    tarn_session *s = rig_fork(at_t, "cold");
    rig_trace_begin(&out->rows, s);
    rig_generate(s, SAID, &out->told);
    tarn_session_close(s);
}

/* Every `stride`-th place of n tokens. */
static void c1(rig_kind kind, tarn_numerics numerics, uint64_t n, uint64_t stride)
{
    const uint64_t keep = RIG_FEW(KEEP, KEEP / 4);
    rig r;
    uint32_t ids[N];
    char where[32];
    static cold_run cold;
    static rig_told told;
    tarn_reuse reuse;
    rig_open(
        &r, kind,
        &(tarn_engine_options){.n_threads = 1, .numerics = numerics, .keep_every = (uint32_t)keep});
    rig_ids(&r, 40, ids, n);
    tarn_session *s = rig_session(&r, "a", NULL), *at_t = rig_loose(&r, "t");
    rig_feed(s, ids, n);
    uint64_t head = rig_commit(s).at.node;
    for (uint64_t t = 1; t <= n; t++) {
        rig_feed(at_t, &ids[t - 1], 1);
        if (t % stride != 0 && t != n && t != 1)
            continue;
        run_cold(at_t, &cold);
        snprintf(where, sizeof where, "@t:%" PRIu64, t);
        OK(tarn_session_rewind(s, where, &reuse, ERR));
        CHECK_EQ(reuse.tokens_reused + reuse.tokens_replayed, t);
        CHECK(reuse.tokens_replayed < keep);
        CHECK_EQ(reuse.reason, t % keep == 0 || t == n ? TARN_REASON_EXACT : TARN_REASON_ANCESTOR);
        CHECK_EQ(rig_info(s).tokens_waiting, reuse.tokens_replayed);
        rig_trace rows;
        OK(tarn_session_run(s, NULL, NULL, ERR)); /* the replay */
        CHECK(rig_same_logits(s, at_t));
        rig_trace_begin(&rows, s);
        rig_generate(s, SAID, &told);
        CHECK_IDS(told.ids, cold.told.ids, SAID);
        CHECK(rig_same_rows(&rows, &cold.rows, t + 1, t + SAID + 1));
        rig_trace_free(&rows);
        rig_trace_free(&cold.rows);
        tarn_session_on_logits(s, NULL, NULL);
        OK(tarn_session_reset(s, &reuse, ERR)); /* the five are forgotten */
        CHECK_EQ(rig_info(s).tokens_waiting, reuse.tokens_replayed);
        snprintf(where, sizeof where, "@n:%" PRIu64, head);
        OK(tarn_session_rewind(s, where, &reuse, ERR));
        CHECK_EQ(reuse.tokens_reused, n);
    }
    OK(tarn_session_rewind(s, "@t:0", &reuse, ERR));
    CHECK_EQ(reuse.tokens_reused + reuse.tokens_replayed, 0);
    CHECK(!rig_info(s).has_logits);
    CHECK_STATUS(tarn_session_generate(s, NULL, ERR), TARN_E_INVALID);
    rig_feed(s, ids, n);
    CHECK(rig_same_logits(s, at_t));
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_session_close(s);
    tarn_session_close(at_t);
    rig_close(&r);
}

CASE(every_place_of_300_tokens_native) /* C1 */
{
    c1(RIG_TINY, TARN_NUMERICS_NATIVE, RIG_FEW(N, 64), RIG_FEW(1, 7));
}

CASE(every_place_of_300_tokens_f32) /* C1 */
{
    c1(RIG_TINY, TARN_NUMERICS_F32, RIG_FEW(N, 64), RIG_FEW(1, 7));
}

CASE(places_of_300_tokens_recall) /* C1 */
{
    c1(RIG_RECALL, TARN_NUMERICS_NATIVE, RIG_FEW(N, 64), RIG_FEW(1, 31));
}

/* C1 through the store and read-only sessions: a fork at a place, and a look at one. */
CASE(a_fork_and_a_look_at_any_place)
{
    rig r;
    uint32_t ids[N];
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .keep_every = KEEP});
    rig_ids(&r, 41, ids, N);
    tarn_session *s = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    rig_trace rows;
    rig_trace_begin(&rows, cold);
    rig_feed(cold, ids, N);
    rig_feed(s, ids, N);
    rig_commit(s);
    tarn_session_close(s);
    for (uint64_t t = 1; t <= N; t += RIG_FEW(23, 101)) {
        char where[32], name[32];
        tarn_at at;
        tarn_price price, before;
        tarn_reuse reuse;
        uint64_t written;
        snprintf(where, sizeof where, "@t:%" PRIu64, t);
        snprintf(name, sizeof name, "b%" PRIu64, t);
        OK(tarn_store_price(r.store, "a", where, &at, &before, ERR));
        CHECK_EQ(at.position, t);
        CHECK(at.bit_exact);
        tarn_session_options look = {
            .size = sizeof look, .flags = TARN_SESSION_READ_ONLY, .where = where};
        OK(tarn_session_open(r.engine, r.store, "a", &look, &s, &reuse, ERR));
        CHECK_EQ(reuse.tokens_replayed, before.replay_tokens);
        CHECK(reuse.bytes_read >= before.bytes_read); /* and the sampler */
        rig_drain(&r);
        CHECK(rig_logits_are(s, &rows, t));
        rig_feed(s, ids + t, N - t < 3 ? N - t : 3);
        REFUSED(tarn_session_commit(s, NULL, ERR), TARN_E_INVALID, "read-only");
        OK(tarn_session_reset(s, &reuse, ERR)); /* back to the place that was opened */
        CHECK_EQ(reuse.tokens_reused + reuse.tokens_replayed, t);
        tarn_session_close(s);
        OK(tarn_store_fork(r.store, "a", where, name, &at, &price, &written, ERR));
        CHECK_TEXT(at.session, name);
        CHECK_EQ(at.position, t);
        CHECK_EQ(price.replay_tokens, before.replay_tokens);
        CHECK(written > 0 && written < 2000);
        s = rig_session(&r, name, &reuse);
        CHECK_EQ(reuse.tokens_replayed, price.replay_tokens);
        CHECK_EQ(rig_info(s).at.node, at.node);
        rig_drain(&r);
        CHECK(rig_logits_are(s, &rows, t));
        rig_feed(s, ids + t, N - t);
        CHECK(rig_logits_are(s, &rows, N));
        rig_commit(s);
        tarn_session_close(s);
        s = rig_session(&r, name, &reuse); /* its commit holds a state, replayed or not */
        CHECK_EQ(reuse.tokens_reused, N);
        CHECK(rig_logits_are(s, &rows, N));
        tarn_session_close(s);
    }
    rig_trace_free(&rows);
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_session_close(cold);
    rig_close(&r);
}

static void c3(rig_kind kind)
{
    rig r;
    uint32_t ids[100];
    tarn_reuse reuse;
    rig_open(&r, kind, NULL);
    rig_ids(&r, 42, ids, 100);
    tarn_session *s = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    rig_trace rows;
    rig_trace_begin(&rows, cold);
    rig_feed(cold, ids, 100);
    rig_feed(s, ids, 50);
    rig_commit(s);
    rig_feed(s, ids + 50, 50); /* not committed: rewinding does that */
    OK(tarn_session_rewind(s, "@t:80", &reuse, ERR));
    CHECK_EQ(reuse.tokens_reused, 50);
    CHECK_EQ(reuse.tokens_replayed, 30);
    CHECK_EQ(rig_commit(s).at.position, 50); /* so far; nothing is to be written */
    OK(tarn_session_append_tokens(s, ids, 5, ERR));
    REFUSED(tarn_session_rewind(s, "@t:20", &reuse, ERR), TARN_E_CONFLICT, "35 tokens waiting");
    tarn_session_cancel(s);
    OK(tarn_engine_step(r.engine, NULL, ERR));
    OK(tarn_session_rewind(s, "@t:70", &reuse, ERR)); /* in the middle of a replay */
    OK(tarn_session_rewind(s, "@n:3", &reuse, ERR));
    OK(tarn_session_rewind(s, "@t:80", &reuse, ERR));
    rig_drain(&r);
    CHECK(rig_logits_are(s, &rows, 80));
    tarn_session_info before = rig_info(s);
    REFUSED(tarn_session_rewind(s, "@t:81", &reuse, ERR), TARN_E_NOT_FOUND, "ends at 80");
    REFUSED(tarn_session_rewind(s, "@turn:1", &reuse, ERR), TARN_E_NOT_FOUND, "0 turns");
    REFUSED(tarn_session_rewind(s, "back", &reuse, ERR), TARN_E_INVALID, "back");
    tarn_session_info after = rig_info(s);
    CHECK_EQ(after.at.node, before.at.node);
    CHECK_EQ(after.at.position, 80);
    CHECK(rig_logits_are(s, &rows, 80)); /* as before */
    uint64_t written = rig_store_stat(&r).bytes_written;
    OK(tarn_session_rewind(s, "@t:80", &reuse, ERR)); /* to where it is */
    CHECK_EQ(reuse.tokens_reused + reuse.tokens_replayed, 80);
    CHECK_EQ(rig_info(s).at.node, before.at.node);
    CHECK_EQ(rig_store_stat(&r).bytes_written, written);
    rig_drain(&r);
    OK(tarn_session_rewind(s, "@t:50", &reuse, ERR)); /* twice with nothing fed between */
    CHECK_EQ(reuse.reason, TARN_REASON_EXACT);
    OK(tarn_session_rewind(s, "@t:50", NULL, ERR));
    CHECK(rig_logits_are(s, &rows, 50));
    OK(tarn_session_rewind(s, "@t:0", &reuse, ERR));
    CHECK_EQ(rig_info(s).at.position, 0);
    OK(tarn_session_rewind(s, "@t:0", &reuse, ERR));
    rig_feed(s, ids, 100);
    CHECK(rig_logits_are(s, &rows, 100));
    rig_commit(s);
    tarn_node_list tree; /* root, 50, 100, 80, 70, 80 again; the last feed found 100 */
    OK(tarn_store_tree(r.store, "a", &tree, ERR));
    CHECK_EQ(tree.n_entries, 6);
    tarn_node_list_free(&tree);
    tarn_session_close(s);
    tarn_session_close(cold);
    rig_trace_free(&rows);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(twice_to_the_same_to_nothing_and_too_far_tiny) /* C3 */
{
    c3(RIG_TINY);
}

CASE(twice_to_the_same_to_nothing_and_too_far_recall) /* C3 */
{
    c3(RIG_RECALL);
}

CASE(a_replay_is_not_an_append)
{
    rig r;
    uint32_t ids[70];
    static rig_told told;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 47, ids, 70);
    tarn_session *s = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    rig_feed(s, ids, 60);
    OK(tarn_session_rewind(s, "@t:40", NULL, ERR));
    OK(tarn_session_append_tokens(s, ids + 40, 30, ERR)); /* behind 40 that are replayed */
    CHECK_EQ(rig_info(s).tokens_waiting, 70);
    OK(tarn_session_run(s, rig_hear, &told, ERR));
    CHECK_EQ(told.n_appended, 30);
    rig_feed(cold, ids, 70);
    CHECK(rig_same_logits(s, cold));
    tarn_session_close(s);
    tarn_session_close(cold);
    rig_close(&r);
}

/* The newer branch stays: listed, and reachable by its node, also from another session. */
CASE(the_branch_that_was_left_stays)
{
    rig r;
    uint32_t ids[90];
    tarn_reuse reuse;
    char where[32];
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 43, ids, 90);
    tarn_session *s = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    rig_feed(cold, ids, 90);
    rig_feed(s, ids, 60);
    rig_commit(s);
    rig_feed(s, ids + 60, 30);
    uint64_t left = rig_commit(s).at.node;
    OK(tarn_session_rewind(s, "@t:60", &reuse, ERR));
    rig_feed(s, ids, 10);
    uint64_t now = rig_commit(s).at.node;
    CHECK(now != left);
    tarn_node_list tree;
    OK(tarn_store_tree(r.store, "a", &tree, ERR));
    size_t n_heads = 0, n_left = 0;
    for (size_t i = 0; i < tree.n_entries; i++) {
        n_heads += tree.entries[i].n_sessions;
        n_left += tree.entries[i].node == left;
        if (tree.entries[i].node == now && tree.entries[i].n_sessions == 1)
            CHECK_TEXT(tree.entries[i].sessions[0], "a");
    }
    CHECK_EQ(tree.n_entries, 4);
    CHECK_EQ(n_heads, 1);
    CHECK_EQ(n_left, 1);
    tarn_node_list_free(&tree);
    snprintf(where, sizeof where, "@n:%" PRIu64, left);
    OK(tarn_store_fork(r.store, "a", where, "b", NULL, NULL, NULL, ERR));
    tarn_session *b = rig_session(&r, "b", &reuse);
    CHECK_EQ(reuse.tokens_reused, 90);
    CHECK(rig_same_logits(b, cold));
    OK(tarn_session_rewind(s, where, &reuse, ERR));
    CHECK(rig_same_logits(s, cold));
    tarn_session_close(s);
    tarn_session_close(b);
    tarn_at at;
    tarn_price price;
    snprintf(where, sizeof where, "@n:%" PRIu64, now);
    OK(tarn_store_rewind(r.store, "a", where, &at, &price, NULL, ERR)); /* without a model */
    CHECK_EQ(at.node, now);
    CHECK_EQ(price.replay_tokens, 0);
    uint64_t written;
    OK(tarn_store_rewind(r.store, "a", "@t:65", &at, &price, &written, ERR));
    CHECK_EQ(at.position, 65);
    CHECK_EQ(price.replay_tokens, 5);
    CHECK(written > 0);
    tarn_ids got;
    OK(tarn_store_tokens(r.store, "a", NULL, &got, ERR));
    CHECK_EQ(got.n_ids, 65);
    CHECK_IDS(got.ids, ids, 60);
    CHECK_IDS(got.ids + 60, ids, 5);
    tarn_ids_free(&got);
    tarn_session_close(cold);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* States are kept inside a long append and a long generation. */
CASE(kept_states_inside_long_runs)
{
    rig r;
    uint32_t ids[200];
    tarn_node_list list;
    rig_open(&r, RIG_TINY,
             &(tarn_engine_options){.n_threads = 1, .keep_every = 50, .step_tokens_max = 64});
    rig_ids(&r, 44, ids, 200);
    tarn_session *s = rig_session(&r, "a", NULL);
    OK(tarn_session_append_tokens(s, ids, 120, ERR));
    OK(tarn_session_append_tokens(s, ids + 120, 60, ERR)); /* 180 waiting tokens */
    rig_drain(&r);
    rig_generate(s, 130, NULL);
    rig_commit(s);
    static const uint64_t positions[] = {0, 50, 100, 150, 200, 250, 300, 310};
    OK(tarn_store_log(r.store, "a", NULL, &list, ERR));
    CHECK_EQ(list.n_entries, sizeof positions / sizeof positions[0]);
    for (size_t i = 0; i < list.n_entries && i < 8; i++) {
        CHECK_EQ(list.entries[i].position, positions[i]);
        CHECK(list.entries[i].has_state);
        CHECK(list.entries[i].bit_exact);
    }
    CHECK_EQ(list.entries[3].n_segments, 2); /* 100 to 120 goes on, 120 to 150 is new */
    CHECK(list.entries[3].segments[0].continues);
    CHECK_EQ(list.entries[3].segments[0].n_tokens, 20);
    CHECK(!list.entries[3].segments[1].continues);
    CHECK_EQ(list.entries[3].segments[1].n_tokens, 30);
    CHECK_EQ(list.entries[5].segments[0].role, TARN_ROLE_ASSISTANT);
    CHECK(list.entries[5].segments[0].continues);
    tarn_node_list_free(&list);
    tarn_session_close(s);
    for (uint64_t t = 0; t <= 310; t++) {
        char where[32];
        tarn_price price;
        snprintf(where, sizeof where, "@t:%" PRIu64, t);
        OK(tarn_store_price(r.store, "a", where, NULL, &price, ERR));
        CHECK(price.replay_tokens < 50);
    }
    rig_close(&r);
}

/* An append that ends on a border leaves the state to the commit; one that is not committed leaves
 * the head where it was. */
CASE(what_is_kept_on_the_way_is_not_the_head)
{
    rig r;
    uint32_t ids[100];
    tarn_reuse reuse;
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .keep_every = 16});
    rig_ids(&r, 45, ids, 100);
    tarn_session *s = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    rig_feed(s, ids, 90);
    tarn_session_close(s);
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.tokens_reused + reuse.tokens_replayed, 0);
    rig_feed(s, ids, 96);
    CHECK(!rig_info(s).committed);
    tarn_committed c = rig_commit(s);
    CHECK_EQ(c.at.position, 96);
    CHECK(rig_info(s).committed);
    tarn_session_close(s);
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.tokens_reused, 96);
    rig_feed(cold, ids, 96);
    CHECK(rig_same_logits(s, cold));
    tarn_session_close(s);
    tarn_session_close(cold);
    OK(tarn_store_remove(r.store, "a", ERR)); /* with what was kept and never committed */
    CHECK_EQ(rig_store_stat(&r).nodes, 0);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(sampling_settings_go_back_too)
{
    rig r;
    uint32_t ids[60];
    tarn_sampling p = {
        .size = sizeof p, .temperature = 0.5f, .top_p = 1, .repeat_penalty = 1, .seed = 1};
    tarn_sampling got = {.size = sizeof got};
    tarn_reuse reuse;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 46, ids, 60);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, ids, 30);
    OK(tarn_session_set_sampling(s, &p, ERR));
    rig_commit(s);
    rig_feed(s, ids + 30, 30);
    rig_commit(s);
    p.seed = 2;
    OK(tarn_session_set_sampling(s, &p, ERR)); /* alone it makes a node, a small one */
    CHECK(!rig_info(s).committed);
    tarn_committed c = rig_commit(s);
    CHECK(c.bytes_written > 0 && c.bytes_written < 2000);
    tarn_session_close(s);
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.tokens_reused, 60); /* it needs no state of its own */
    CHECK_EQ(reuse.reason, TARN_REASON_EXACT);
    CHECK(rig_info(s).committed);
    CHECK_EQ(rig_commit(s).bytes_written, 0);
    tarn_session_get_sampling(s, &got);
    CHECK_EQ(got.seed, 2);
    OK(tarn_session_rewind(s, "@t:30", &reuse, ERR));
    tarn_session_get_sampling(s, &got);
    CHECK_EQ(got.seed, 1);
    OK(tarn_session_rewind(s, "@t:0", &reuse, ERR));
    tarn_session_get_sampling(s, &got);
    CHECK(got.temperature == 0.0f);
    OK(tarn_session_rewind(s, "@n:3", &reuse, ERR));
    OK(tarn_session_rewind(s, "@t:40", &reuse, ERR));
    p.seed = 3;
    OK(tarn_session_set_sampling(s, &p, ERR)); /* while 10 tokens wait to be replayed */
    CHECK(rig_commit(s).bytes_written > 0);
    tarn_session_close(s);
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.tokens_reused + reuse.tokens_replayed, 40);
    tarn_session_get_sampling(s, &got);
    CHECK_EQ(got.seed, 3);
    tarn_session_close(s);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(every_place_of_300_tokens_native), ENTRY(every_place_of_300_tokens_f32),
           ENTRY(places_of_300_tokens_recall), ENTRY(a_fork_and_a_look_at_any_place),
           ENTRY(twice_to_the_same_to_nothing_and_too_far_tiny),
           ENTRY(twice_to_the_same_to_nothing_and_too_far_recall), ENTRY(a_replay_is_not_an_append),
           ENTRY(the_branch_that_was_left_stays), ENTRY(kept_states_inside_long_runs),
           ENTRY(what_is_kept_on_the_way_is_not_the_head), ENTRY(sampling_settings_go_back_too))
