/* A committed session, opened again, goes on as if it had never been away. */
#include "check.h"
#include "fixture.h"

#include <unistd.h>

#define N_PROMPT 200
#define N_MORE   30
#define N_SAID   20

/* ---- A1: another process resumes ---- */

static void write_outcome(const char *path, const rig_told *first, const rig_trace *t)
{
    size_t ids_bytes = N_SAID * sizeof first->ids[0], rows_bytes = t->n * t->vocab * sizeof(float);
    char *out = malloc(ids_bytes + rows_bytes);
    if (!out)
        exit(1);
    memcpy(out, first->ids, ids_bytes);
    memcpy(out + ids_bytes, t->rows, rows_bytes);
    rig_write_file(path, out, ids_bytes + rows_bytes);
    free(out);
}

/* Goes on from 220 tokens: appends, generates, and writes ids and rows into a file. */
static void go_on(rig *r, tarn_session *s, const char *path)
{
    uint32_t more[N_MORE];
    rig_trace t;
    static rig_told told;
    rig_ids(r, 2, more, N_MORE);
    rig_trace_begin(&t, s);
    rig_feed(s, more, N_MORE);
    rig_generate(s, N_SAID, &told);
    write_outcome(path, &told, &t);
    rig_trace_free(&t);
}

static int child_goes_on(const char *dir, rig_kind kind)
{
    rig r;
    char path[128];
    tarn_reuse reuse;
    rig_join(&r, kind, dir, NULL);
    tarn_session *s = rig_session(&r, "a", &reuse);
    snprintf(path, sizeof path, "%s/child", dir);
    go_on(&r, s, path);
    tarn_session_close(s);
    rig_leave(&r);
    bool exact = reuse.tokens_replayed == 0 && reuse.tokens_reused == N_PROMPT + N_SAID &&
                 reuse.reason == TARN_REASON_EXACT && reuse.bytes_read > 0;
    return exact ? 0 : 3;
}

static void a1(rig_kind kind)
{
    rig r;
    uint32_t prompt[N_PROMPT];
    char path[128], child_path[128];
    rig_open(&r, kind, NULL);
    rig_ids(&r, 1, prompt, N_PROMPT);
    tarn_session *kept = rig_session(&r, "a", NULL), *whole = rig_loose(&r, "whole");
    rig_feed(kept, prompt, N_PROMPT);
    rig_generate(kept, N_SAID, NULL);
    rig_commit(kept);
    rig_feed(whole, prompt, N_PROMPT);
    rig_generate(whole, N_SAID, NULL);
    snprintf(path, sizeof path, "%s/whole", r.dir);
    snprintf(child_path, sizeof child_path, "%s/child", r.dir);
    go_on(&r, whole, path);
    tarn_session_close(kept);
    tarn_session_close(whole);
    rig_leave(&r);
    const char *args[] = {"--child", rig_kind_name(kind), r.dir, NULL};
    CHECK_EQ(rig_rerun(args), 0);
    size_t n = 0, n_child = 0;
    char *want = rig_read_file(path, &n), *got = rig_read_file(child_path, &n_child);
    CHECK_EQ(n_child, n);
    CHECK_EQ(n, (size_t)N_SAID * 4 + (size_t)(N_MORE + N_SAID) * r.vocab * 4);
    if (n == n_child)
        CHECK_BYTES(got, want, n);
    free(want);
    free(got);
    rig_close(&r);
}

CASE(another_process_goes_on_tiny) /* A1 */
{
    a1(RIG_TINY);
}

CASE(another_process_goes_on_recall) /* A1 */
{
    a1(RIG_RECALL);
}

/* ---- A2: the pending logits are part of what is kept ---- */

static void a2(rig_kind kind)
{
    rig r;
    uint32_t prompt[N_PROMPT];
    static rig_told want, got;
    rig_open(&r, kind, NULL);
    rig_ids(&r, 3, prompt, N_PROMPT);
    tarn_session *s = rig_session(&r, "a", NULL), *whole = rig_loose(&r, "whole");
    rig_feed(s, prompt, N_PROMPT);
    rig_commit(s);
    tarn_session_close(s);
    rig_feed(whole, prompt, N_PROMPT);
    s = rig_session(&r, "a", NULL);
    CHECK(rig_info(s).has_logits);
    CHECK(rig_same_logits(s, whole));
    rig_generate(s, 1, &got);
    rig_generate(whole, 1, &want);
    CHECK_IDS(got.ids, want.ids, 1);
    CHECK(rig_same_logits(s, whole));
    tarn_session_close(s);
    tarn_session_close(whole);
    rig_close(&r);
}

CASE(first_id_without_feeding_tiny) /* A2 */
{
    a2(RIG_TINY);
}

CASE(first_id_without_feeding_recall) /* A2 */
{
    RIG_SKIP_REDUCED();
    a2(RIG_RECALL);
}

/* ---- A3: sampling goes on with the same numbers ---- */

static void a3(rig_kind kind)
{
    rig r;
    uint32_t prompt[40];
    static rig_told want, first, rest;
    tarn_sampling sampling = {.size = sizeof sampling,
                              .temperature = 0.8f,
                              .top_p = 0.9f,
                              .repeat_penalty = 1.1f,
                              .seed = 20240601};
    rig_open(&r, kind, NULL);
    rig_ids(&r, 4, prompt, 40);
    tarn_session *s = rig_session(&r, "a", NULL), *whole = rig_loose(&r, "whole");
    rig_feed(whole, prompt, 40);
    OK(tarn_session_set_sampling(whole, &sampling, ERR));
    rig_generate(whole, 67, &want);
    rig_feed(s, prompt, 40);
    OK(tarn_session_set_sampling(s, &sampling, ERR));
    rig_generate(s, 17, &first);
    rig_commit(s);
    tarn_session_close(s);
    tarn_session_close(whole);
    rig_restart(&r, NULL);
    s = rig_session(&r, "a", NULL); /* its sampling comes with it */
    rig_generate(s, 50, &rest);
    CHECK_IDS(first.ids, want.ids, 17);
    CHECK_IDS(rest.ids, want.ids + 17, 50);
    size_t n_changes = 0;
    for (size_t i = 1; i < 67; i++)
        n_changes += want.ids[i] != want.ids[i - 1];
    CHECK(n_changes > 10); /* else the case says nothing */
    tarn_session_close(s);
    rig_close(&r);
}

CASE(sampled_text_goes_on_tiny) /* A3 */
{
    a3(RIG_TINY);
}

CASE(sampled_text_goes_on_recall) /* A3 */
{
    RIG_SKIP_REDUCED();
    a3(RIG_RECALL);
}

/* ---- A4: nothing is taken from memory that was not restored ---- */

/* Fresh and given back memory is full of NaNs. */
static void *nan_alloc(void *user, size_t n_bytes)
{
    (void)user;
    size_t *block = malloc(n_bytes + 16);
    if (!block)
        return NULL;
    block[0] = n_bytes;
    memset(block + 2, 0xFF, n_bytes);
    return block + 2;
}

static void nan_release(void *user, void *memory)
{
    (void)user;
    if (!memory)
        return;
    size_t *block = (size_t *)memory - 2;
    memset(memory, 0xFF, block[0]);
    free(block);
}

static void *nan_resize(void *user, void *memory, size_t n_bytes)
{
    void *out = nan_alloc(user, n_bytes);
    if (!out || !memory)
        return out;
    size_t had = ((size_t *)memory - 2)[0];
    memcpy(out, memory, had < n_bytes ? had : n_bytes);
    nan_release(user, memory);
    return out;
}

static void a4(rig_kind kind)
{
    rig r;
    uint32_t prompt[150], other[400];
    static rig_told want, got;
    rig_trace a, b;
    tarn_allocator nan_heap = {nan_alloc, nan_resize, nan_release, NULL};
    tarn_engine_options options = {.n_threads = 2, .allocator = &nan_heap};
    rig_open(&r, kind, &options);
    rig_ids(&r, 5, prompt, 150);
    rig_ids(&r, 6, other, 400);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, prompt, 150);
    rig_commit(s);
    rig_trace_begin(&a, s);
    rig_generate(s, 80, &want);
    tarn_session_close(s);
    rig_restart(&r, &options);
    tarn_session *dirt[3];
    for (size_t i = 0; i < 3; i++) { /* slots and pages that hold another session's numbers */
        dirt[i] = rig_loose(&r, "dirt");
        rig_feed(dirt[i], other + i, 397);
    }
    for (size_t i = 0; i < 3; i++)
        tarn_session_close(dirt[i]);
    s = rig_session(&r, "a", NULL);
    rig_trace_begin(&b, s);
    rig_generate(s, 80, &got);
    CHECK_IDS(got.ids, want.ids, 80);
    CHECK(rig_same_rows(&a, &b, 151, 231));
    rig_trace_free(&a);
    rig_trace_free(&b);
    tarn_session_close(s);
    rig_close(&r);
}

CASE(dirty_and_poisoned_memory_tiny) /* A4 */
{
    a4(RIG_TINY);
}

CASE(dirty_and_poisoned_memory_recall) /* A4 */
{
    RIG_SKIP_REDUCED();
    a4(RIG_RECALL);
}

/* ---- A7, A8, A9, C5 ---- */

static void a7(rig_kind kind)
{
    rig r;
    uint32_t ids[300];
    tarn_session *s;
    tarn_reuse reuse;
    rig_open(&r, kind, NULL);
    rig_ids(&r, 7, ids, 300);
    s = rig_session(&r, "a", NULL);
    rig_feed(s, ids, 300);
    rig_commit(s);
    tarn_session_close(s);
    rig_restart_engine(&r, &(tarn_engine_options){.n_threads = 1, .tokens_max = 128});
    REFUSED(tarn_session_open(r.engine, r.store, "a", NULL, &s, &reuse, ERR), TARN_E_LIMIT,
            "tokens_max");
    CHECK(s == NULL);
    CHECK_EQ(rig_stat(&r).sessions, 0);
    CHECK_EQ(rig_stat(&r).pages, 0);
    CHECK_EQ(rig_stat(&r).slots, 0);
    s = rig_session(&r, "b", NULL);
    rig_feed(s, ids, 128);
    CHECK_EQ(rig_info(s).at.position, 128);
    REFUSED(tarn_session_append_tokens(s, ids, 1, ERR), TARN_E_LIMIT, "tokens_max");
    CHECK_EQ(rig_info(s).at.position, 128);
    static rig_told told;
    rig_answer(s, 5, &told); /* no room for a sampled token either: the generation ends */
    CHECK_EQ(told.n_ids, 0);
    CHECK_EQ(told.stop, TARN_STOP_LENGTH);
    tarn_session_close(s);
    rig_restart_engine(&r, &(tarn_engine_options){.n_threads = 1, .tokens_max = 300});
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.tokens_reused, 300);
    tarn_session_close(s);
    rig_close(&r);
}

CASE(too_small_an_engine_says_so_and_works_tiny) /* A7 */
{
    a7(RIG_TINY);
}

CASE(too_small_an_engine_says_so_and_works_recall) /* A7 */
{
    RIG_SKIP_REDUCED();
    a7(RIG_RECALL);
}

static void a8(rig_kind kind)
{
    rig r;
    uint32_t ids[100];
    rig_open(&r, kind, NULL);
    rig_ids(&r, 8, ids, 100);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, ids, 100);
    tarn_committed first = rig_commit(s);
    tarn_store_stat before = rig_store_stat(&r);
    tarn_committed second = rig_commit(s);
    tarn_store_stat after = rig_store_stat(&r);
    CHECK(first.bytes_written > 0);
    CHECK_EQ(second.bytes_written, 0);
    CHECK_EQ(second.at.node, first.at.node);
    CHECK_EQ(after.bytes_written, before.bytes_written);
    CHECK_EQ(after.nodes, before.nodes);
    tarn_session_close(s);
    s = rig_session(&r, "a", NULL);
    CHECK_EQ(rig_commit(s).bytes_written, 0); /* nor after a resume */
    CHECK(rig_info(s).committed);
    tarn_session_close(s);
    rig_close(&r);
}

CASE(second_commit_writes_nothing_tiny) /* A8 */
{
    a8(RIG_TINY);
}

CASE(second_commit_writes_nothing_recall) /* A8 */
{
    a8(RIG_RECALL);
}

static void a9(rig_kind kind)
{
    rig r;
    uint32_t prompt[100], more[5];
    rig_open(&r, kind, NULL);
    rig_ids(&r, 9, prompt, 100);
    tarn_session *s = rig_session(&r, "a", NULL), *base = rig_loose(&r, "base");
    rig_feed(s, prompt, 100);
    rig_commit(s);
    tarn_session_close(s);
    rig_feed(base, prompt, 100);
    tarn_store_stat before = rig_store_stat(&r);
    for (uint64_t i = 0; i < 100; i++) {
        tarn_reuse reuse;
        rig_ids(&r, 1000 + i, more, 5);
        s = rig_session(&r, "a", &reuse);
        tarn_session *cold = rig_fork(base, "cold");
        CHECK_EQ(reuse.tokens_reused, 100);
        rig_feed(s, more, 5);
        rig_feed(cold, more, 5);
        CHECK(rig_same_logits(s, cold));
        tarn_session_close(s);
        tarn_session_close(cold);
    }
    tarn_store_stat after = rig_store_stat(&r);
    CHECK_EQ(after.bytes_written, before.bytes_written);
    CHECK_EQ(after.bytes_stored, before.bytes_stored);
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_session_close(base);
    rig_close(&r);
}

CASE(one_snapshot_serves_a_hundred_continuations_tiny) /* A9 */
{
    a9(RIG_TINY);
}

CASE(one_snapshot_serves_a_hundred_continuations_recall) /* A9 */
{
    RIG_SKIP_REDUCED();
    a9(RIG_RECALL);
}

static void c5(rig_kind kind)
{
    static const size_t sizes[] = {0, 1, 2, 3, 4, 63, 64, 65};
    rig r;
    uint32_t ids[80];
    rig_open(&r, kind, NULL);
    rig_ids(&r, 10, ids, 80);
    tarn_session *cold = rig_loose(&r, "cold");
    rig_trace t;
    rig_trace_begin(&t, cold);
    rig_feed(cold, ids, 80);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char name[16];
        tarn_reuse reuse;
        snprintf(name, sizeof name, "s%zu", sizes[i]);
        tarn_session *s = rig_session(&r, name, &reuse);
        CHECK_EQ(reuse.reason, TARN_REASON_NONE);
        CHECK(rig_info(s).committed);
        if (sizes[i] > 0)
            rig_feed(s, ids, sizes[i]);
        rig_commit(s);
        tarn_session_close(s);
        s = rig_session(&r, name, &reuse);
        CHECK_EQ(reuse.tokens_reused, sizes[i]);
        CHECK_EQ(reuse.tokens_replayed, 0);
        CHECK_EQ(rig_info(s).has_logits, sizes[i] > 0);
        if (sizes[i] > 0)
            CHECK(rig_logits_are(s, &t, sizes[i]));
        else
            REFUSED(tarn_session_generate(s, NULL, ERR), TARN_E_INVALID, "empty");
        rig_feed(s, ids + sizes[i], 80 - sizes[i]);
        CHECK(rig_logits_are(s, &t, 80));
        tarn_session_close(s);
    }
    rig_trace_free(&t);
    tarn_session_close(cold);
    rig_close(&r);
}

CASE(sessions_of_no_and_of_few_tokens_tiny) /* C5 */
{
    c5(RIG_TINY);
}

CASE(sessions_of_no_and_of_few_tokens_recall) /* C5 */
{
    RIG_SKIP_REDUCED();
    c5(RIG_RECALL);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {
        ENTRY(another_process_goes_on_tiny),
        ENTRY(another_process_goes_on_recall),
        ENTRY(first_id_without_feeding_tiny),
        ENTRY(first_id_without_feeding_recall),
        ENTRY(sampled_text_goes_on_tiny),
        ENTRY(sampled_text_goes_on_recall),
        ENTRY(dirty_and_poisoned_memory_tiny),
        ENTRY(dirty_and_poisoned_memory_recall),
        ENTRY(too_small_an_engine_says_so_and_works_tiny),
        ENTRY(too_small_an_engine_says_so_and_works_recall),
        ENTRY(second_commit_writes_nothing_tiny),
        ENTRY(second_commit_writes_nothing_recall),
        ENTRY(one_snapshot_serves_a_hundred_continuations_tiny),
        ENTRY(one_snapshot_serves_a_hundred_continuations_recall),
        ENTRY(sessions_of_no_and_of_few_tokens_tiny),
        ENTRY(sessions_of_no_and_of_few_tokens_recall),
    };
    if (argc == 4 && strcmp(argv[1], "--child") == 0)
        return child_goes_on(argv[3], rig_kind_named(argv[2]));
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
