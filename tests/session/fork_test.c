/* Forks share everything and influence nothing. */
#include "check.h"
#include "fixture.h"

/* A fork goes its way, and so does what it was forked from. */
static void b1(rig_kind kind)
{
    rig r;
    uint32_t prompt[150], left[20], right[33];
    static rig_told want, got;
    rig_trace whole, a_rows, b_rows, cold_rows;
    rig_open(&r, kind, NULL);
    rig_ids(&r, 20, prompt, 150);
    rig_ids(&r, 21, left, 20);
    rig_ids(&r, 22, right, 33);
    tarn_session *never = rig_loose(&r, "never forked"), *cold = rig_loose(&r, "cold b");
    tarn_session *a = rig_session(&r, "a", NULL);
    rig_feed(a, prompt, 150);
    rig_commit(a);
    uint64_t rows = rig_stat(&r).rows_computed, stored = rig_store_stat(&r).bytes_written;
    tarn_session *b = rig_fork(a, "b");
    CHECK_EQ(rig_stat(&r).rows_computed, rows);
    CHECK(rig_store_stat(&r).bytes_written - stored < 2000); /* one small record */
    rig_trace_begin(&a_rows, a);
    rig_trace_begin(&b_rows, b);
    OK(tarn_session_append_tokens(a, left, 20, ERR));
    OK(tarn_session_append_tokens(b, right, 33, ERR));
    rig_drain(&r);
    CHECK_EQ(rig_stat(&r).rows_computed - rows, 20 + 33); /* nothing of the prompt again */
    rig_generate(a, 20, &got);
    rig_feed(never, prompt, 150);
    rig_trace_begin(&whole, never);
    rig_feed(never, left, 20);
    rig_generate(never, 20, &want);
    CHECK_IDS(got.ids, want.ids, 20);
    CHECK(rig_same_rows(&a_rows, &whole, 151, 191));
    rig_feed(cold, prompt, 150);
    rig_trace_begin(&cold_rows, cold);
    rig_feed(cold, right, 33);
    CHECK(rig_same_rows(&b_rows, &cold_rows, 151, 184));
    rig_commit(b);
    tarn_session_close(b);
    tarn_reuse reuse;
    b = rig_session(&r, "b", &reuse);
    CHECK_EQ(reuse.tokens_reused, 183);
    CHECK(rig_same_logits(b, cold));
    tarn_session_close(a);
    tarn_session_close(b);
    tarn_session_close(never);
    tarn_session_close(cold);
    rig_trace_free(&whole);
    rig_trace_free(&a_rows);
    rig_trace_free(&b_rows);
    rig_trace_free(&cold_rows);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(two_ways_from_one_place_tiny) /* B1 */
{
    b1(RIG_TINY);
}

CASE(two_ways_from_one_place_recall) /* B1 */
{
    RIG_SKIP_REDUCED();
    b1(RIG_RECALL);
}

/* Sixteen forks of 1,000 tokens in one batch equal each one alone. */
static void b2(rig_kind kind, uint32_t n_threads)
{
    enum { CHILDREN = 16, STEPS = RIG_FEW(12, 4), PROMPT = RIG_FEW(1000, 150) };
    rig r;
    uint32_t prompt[PROMPT], first[CHILDREN];
    rig_trace together[CHILDREN], alone;
    tarn_session *child[CHILDREN];
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = n_threads});
    rig_ids(&r, 23, prompt, PROMPT);
    rig_ids(&r, 24, first, CHILDREN);
    tarn_session *base = rig_loose(&r, "base");
    rig_feed(base, prompt, PROMPT);
    for (size_t i = 0; i < CHILDREN; i++) {
        tarn_generate_options o = {.size = sizeof o, .n_tokens_max = STEPS};
        child[i] = rig_fork(base, "child");
        rig_trace_begin(&together[i], child[i]);
        OK(tarn_session_append_tokens(child[i], &first[i], 1, ERR));
        OK(tarn_session_generate(child[i], &o, ERR));
    }
    tarn_step step = {.size = sizeof step};
    OK(tarn_engine_step(r.engine, &step, ERR));
    CHECK_EQ(step.n_rows, CHILDREN);
    CHECK_EQ(step.n_sessions, CHILDREN);
    rig_drain(&r);
    for (size_t i = 0; i < CHILDREN; i++) {
        tarn_session *s = rig_fork(base, "alone");
        rig_trace_begin(&alone, s);
        rig_feed(s, &first[i], 1);
        tarn_generate_options o = {.size = sizeof o, .n_tokens_max = STEPS};
        OK(tarn_session_generate(s, &o, ERR));
        OK(tarn_session_run(s, NULL, NULL, ERR));
        CHECK_EQ(alone.n, together[i].n);
        CHECK(rig_same_rows(&together[i], &alone, PROMPT + 1, PROMPT + 1 + alone.n));
        rig_trace_free(&alone);
        rig_trace_free(&together[i]);
        tarn_session_close(s);
        tarn_session_close(child[i]);
    }
    tarn_session_close(base);
    rig_close(&r);
}

CASE(sixteen_children_in_one_batch_tiny) /* B2 */
{
    b2(RIG_TINY, 1);
}

CASE(sixteen_children_in_one_batch_recall) /* B2 */
{
    RIG_SKIP_REDUCED();
    b2(RIG_RECALL, 2);
}

static void b4(rig_kind kind)
{
    rig r;
    uint32_t prompt[200], more[10];
    rig_open(&r, kind, NULL);
    rig_ids(&r, 25, prompt, 200);
    rig_ids(&r, 26, more, 10);
    tarn_session *a = rig_session(&r, "a", NULL);
    rig_feed(a, prompt, 200);
    rig_commit(a);
    tarn_session *b = rig_fork(a, "b"), *c = rig_fork(a, "c");
    rig_feed(b, more, 10);
    rig_commit(b);
    tarn_session_close(a);
    tarn_session_close(b);
    tarn_session_close(c);
    uint64_t with_a = rig_store_stat(&r).bytes_stored;
    OK(tarn_store_remove(r.store, "a", ERR));
    CHECK(with_a - rig_store_stat(&r).bytes_stored < 2000); /* at most its record */
    REFUSED(tarn_session_open(r.engine, r.store, "a", NULL, &a, NULL, ERR), TARN_E_NOT_FOUND, "a");
    rig_restart(&r, NULL);
    tarn_session *cold = rig_loose(&r, "cold");
    rig_feed(cold, prompt, 200);
    tarn_reuse reuse;
    c = rig_session(&r, "c", &reuse);
    CHECK_EQ(reuse.tokens_reused, 200);
    CHECK(rig_same_logits(c, cold));
    rig_feed(cold, more, 10);
    b = rig_session(&r, "b", &reuse);
    CHECK_EQ(reuse.tokens_reused, 210);
    CHECK(rig_same_logits(b, cold));
    tarn_session_close(b);
    tarn_session_close(c);
    tarn_session_close(cold);
    OK(tarn_store_remove(r.store, "c", ERR));
    CHECK(rig_store_stat(&r).nodes > 0);
    OK(tarn_store_remove(r.store, "b", ERR));
    tarn_store_stat end = rig_store_stat(&r);
    CHECK_EQ(end.nodes, 0);
    CHECK_EQ(end.sessions, 0);
    CHECK(end.bytes_stored < with_a / 10);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(children_outlive_their_parent_tiny) /* B4 */
{
    b4(RIG_TINY);
}

CASE(children_outlive_their_parent_recall) /* B4 */
{
    b4(RIG_RECALL);
}

static void b5(rig_kind kind)
{
    rig r;
    uint32_t ids[50];
    tarn_session *out;
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 1, .sessions_max = 2});
    rig_ids(&r, 27, ids, 50);
    tarn_session *a = rig_session(&r, "a", NULL);
    rig_feed(a, ids, 50);
    rig_commit(a);
    tarn_store_stat before = rig_store_stat(&r);
    REFUSED(tarn_session_fork(a, "a", &out, ERR), TARN_E_EXISTS, "a");
    CHECK(out == NULL);
    REFUSED(tarn_session_fork(a, "b@c", &out, ERR), TARN_E_INVALID, "@");
    REFUSED(tarn_session_fork(a, "", &out, ERR), TARN_E_INVALID, "");
    CHECK_EQ(rig_stat(&r).sessions, 1);
    REFUSED(tarn_store_fork(r.store, "zz", NULL, "b", NULL, NULL, NULL, ERR), TARN_E_NOT_FOUND,
            "zz");
    REFUSED(tarn_store_fork(r.store, "a", "@t:51", "b", NULL, NULL, NULL, ERR), TARN_E_NOT_FOUND,
            "51");
    REFUSED(tarn_store_fork(r.store, "a", "@n:999", "b", NULL, NULL, NULL, ERR), TARN_E_NOT_FOUND,
            "999");
    REFUSED(tarn_store_fork(r.store, "a", "@t:-1", "b", NULL, NULL, NULL, ERR), TARN_E_INVALID,
            "@t:");
    REFUSED(tarn_store_fork(r.store, "a", "@t:20", "a", NULL, NULL, NULL, ERR), TARN_E_EXISTS, "a");
    OK(tarn_session_append_tokens(a, ids, 5, ERR));
    REFUSED(tarn_session_fork(a, "b", &out, ERR), TARN_E_CONFLICT, "5 tokens");
    rig_drain(&r);
    tarn_session *second = rig_loose(&r, "second");
    REFUSED(tarn_session_fork(a, "b", &out, ERR), TARN_E_LIMIT, "sessions_max");
    tarn_session_close(second);
    tarn_store_stat after = rig_store_stat(&r);
    CHECK_EQ(after.bytes_written, before.bytes_written);
    CHECK_EQ(after.nodes, before.nodes);
    CHECK_EQ(after.sessions, before.sessions);
    REFUSED(tarn_store_remove(r.store, "a", ERR), TARN_E_BUSY, "open for writing");
    tarn_session_close(a);
    OK(tarn_store_remove(r.store, "a", ERR));
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(forks_that_are_refused_tiny) /* B5 */
{
    b5(RIG_TINY);
}

CASE(forks_that_are_refused_recall) /* B5 */
{
    b5(RIG_RECALL);
}

static void b6(rig_kind kind)
{
    enum { DEPTH = RIG_FEW(1000, 100) };
    rig r;
    uint32_t ids[DEPTH];
    tarn_node_list list;
    rig_open(&r, kind, NULL);
    rig_ids(&r, 28, ids, DEPTH);
    tarn_session *s = rig_session(&r, "f0", NULL);
    for (size_t i = 0; i < DEPTH; i++) {
        char name[16];
        rig_feed(s, &ids[i], 1);
        rig_commit(s);
        snprintf(name, sizeof name, "f%zu", i + 1);
        tarn_session *next = rig_fork(s, name);
        tarn_session_close(s);
        s = next;
    }
    tarn_session_close(s);
    rig_restart(&r, NULL);
    tarn_reuse reuse;
    tarn_session *cold = rig_loose(&r, "cold");
    s = rig_session(&r, RIG_FEW("f1000", "f100"), &reuse);
    CHECK_EQ(reuse.tokens_reused, DEPTH);
    rig_feed(cold, ids, DEPTH);
    CHECK(rig_same_logits(s, cold));
    tarn_session_close(s);
    tarn_session_close(cold);
    OK(tarn_store_log(r.store, RIG_FEW("f1000", "f100"), NULL, &list, ERR));
    CHECK_EQ(list.n_entries, DEPTH + 1);
    for (size_t i = 0; i < list.n_entries && i <= DEPTH; i++) {
        CHECK_EQ(list.entries[i].position, i);
        CHECK_EQ(list.entries[i].parent, i == 0 ? 0 : list.entries[i - 1].node);
    }
    tarn_node_list_free(&list);
    tarn_session_list sessions;
    OK(tarn_store_list(r.store, NULL, &sessions, ERR));
    CHECK_EQ(sessions.n_entries, DEPTH + 1);
    tarn_session_list_free(&sessions);
    rig_close(&r);
}

CASE(a_thousand_forks_of_forks_tiny) /* B6 */
{
    b6(RIG_TINY);
}

CASE(a_thousand_forks_of_forks_recall) /* B6 */
{
    b6(RIG_RECALL);
}

/* A fork shares slot and pages until someone steps; then one slot more, and a copy of nothing but
 * the latents of the page that is partly filled. */
CASE(memory_is_shared_until_someone_steps)
{
    rig r;
    uint32_t ids[100];
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 29, ids, 100);
    tarn_session *a = rig_loose(&r, "a");
    rig_feed(a, ids, 100);
    CHECK_EQ(rig_stat(&r).slots, 1);
    CHECK_EQ(rig_stat(&r).pages, 2);
    tarn_session *b = rig_fork(a, "b"), *c = rig_fork(b, "c");
    CHECK_EQ(rig_stat(&r).sessions, 3);
    CHECK_EQ(rig_stat(&r).slots, 1);
    CHECK_EQ(rig_stat(&r).pages, 2);
    rig_feed(a, ids, 1); /* the one that was forked writes elsewhere too */
    CHECK_EQ(rig_stat(&r).slots, 2);
    CHECK_EQ(rig_stat(&r).pages, 3);
    CHECK(rig_same_logits(b, c));
    rig_feed(b, ids, 1);
    CHECK_EQ(rig_stat(&r).slots, 3);
    CHECK_EQ(rig_stat(&r).pages, 4);
    rig_feed(c, ids, 1); /* the last one owns what is left */
    CHECK_EQ(rig_stat(&r).slots, 3);
    CHECK_EQ(rig_stat(&r).pages, 4);
    CHECK(rig_same_logits(a, b));
    CHECK(rig_same_logits(a, c));
    tarn_session_close(a);
    tarn_session_close(c);
    CHECK_EQ(rig_stat(&r).slots, 1);
    CHECK_EQ(rig_stat(&r).pages, 2);
    tarn_session_close(b);
    CHECK_EQ(rig_stat(&r).slots, 0);
    CHECK_EQ(rig_stat(&r).pages, 0);
    rig_close(&r);
}

CASE(a_fork_takes_along_what_is_not_committed)
{
    rig r;
    uint32_t ids[120];
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .keep_every = 32});
    rig_ids(&r, 30, ids, 120);
    tarn_session *a = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    tarn_sampling sampling = {
        .size = sizeof sampling, .temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 5};
    rig_feed(cold, ids, 120);
    rig_feed(a, ids, 40);
    rig_commit(a);
    OK(tarn_session_set_sampling(a, &sampling, ERR));
    rig_feed(a, ids + 40, 60);
    tarn_session *b = rig_fork(a, "b");
    CHECK_EQ(rig_info(b).at.position, 100);
    CHECK(!rig_info(b).committed);
    tarn_sampling got = {.size = sizeof got};
    tarn_session_get_sampling(b, &got);
    CHECK_EQ(got.seed, 5);
    tarn_session_close(a); /* drops its 60 tokens; the fork has its own */
    rig_feed(b, ids + 100, 20);
    rig_commit(b);
    tarn_session_close(b);
    tarn_reuse reuse;
    b = rig_session(&r, "b", &reuse);
    CHECK_EQ(reuse.tokens_reused, 120);
    CHECK(rig_same_logits(b, cold));
    tarn_session_close(b);
    a = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.tokens_reused, 40);
    tarn_session_close(a);
    tarn_session_close(cold);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(two_ways_from_one_place_tiny), ENTRY(two_ways_from_one_place_recall),
           ENTRY(sixteen_children_in_one_batch_tiny), ENTRY(sixteen_children_in_one_batch_recall),
           ENTRY(children_outlive_their_parent_tiny), ENTRY(children_outlive_their_parent_recall),
           ENTRY(forks_that_are_refused_tiny), ENTRY(forks_that_are_refused_recall),
           ENTRY(a_thousand_forks_of_forks_tiny), ENTRY(a_thousand_forks_of_forks_recall),
           ENTRY(memory_is_shared_until_someone_steps),
           ENTRY(a_fork_takes_along_what_is_not_committed))
