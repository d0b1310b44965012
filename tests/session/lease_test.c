/* F3: one writer a session, through the library: two engines, two processes, and commits that are
 * handed to the store's writer. */
#include "check.h"
#include "fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static tarn_status open_with(rig *r, tarn_engine *engine, const char *name, uint32_t flags,
                             uint32_t lease_ms, tarn_session **out)
{
    tarn_session_options o = {.size = sizeof o, .flags = flags, .lease_ms = lease_ms};
    return tarn_session_open(engine, r->store, name, &o, out, NULL, ERR);
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Opens a session when the lease of who has it is over. */
static tarn_session *take_over(rig *r, tarn_engine *engine, const char *name)
{
    tarn_session *s;
    tarn_status status;
    uint64_t give_up = now_ms() + 60000;
    do {
        status = open_with(r, engine, name, 0, 0, &s);
    } while (status == TARN_E_BUSY && now_ms() < give_up);
    OK(status);
    return s;
}

/* Another engine on the same model, with the store shared. */
static tarn_engine *second_engine(rig *r)
{
    tarn_engine *engine;
    tarn_engine_options o = {.size = sizeof o, .n_threads = 1};
    OK(tarn_engine_open(r->model, &o, &engine, ERR));
    return engine;
}

CASE(open_for_writing_once)
{
    rig r;
    uint32_t ids[40];
    tarn_session *b, *look;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 1, ids, 40);
    tarn_session *a = rig_session(&r, "a", NULL);
    rig_feed(a, ids, 20);
    rig_commit(a);
    tarn_engine *other = second_engine(&r);
    REFUSED(open_with(&r, other, "a", 0, 0, &b), TARN_E_BUSY, "open for writing in this process");
    REFUSED(open_with(&r, r.engine, "a", 0, 0, &b), TARN_E_BUSY, "session a");
    CHECK(b == NULL);
    REFUSED(tarn_store_rewind(r.store, "a", "@t:5", NULL, NULL, NULL, ERR), TARN_E_BUSY, "a");
    REFUSED(tarn_store_rewind(r.store, "a", "@t:0", NULL, NULL, NULL, ERR), TARN_E_BUSY, "a");
    REFUSED(tarn_store_rename(r.store, "a", "z", ERR), TARN_E_BUSY, "a");
    REFUSED(tarn_store_remove(r.store, "a", ERR), TARN_E_BUSY, "a");
    /* Looking and forking, also between nodes, go on; so do the holder and what is forked from it.
     */
    OK(open_with(&r, other, "a", TARN_SESSION_READ_ONLY, 0, &look));
    OK(tarn_store_fork(r.store, "a", "@t:7", "between", NULL, NULL, NULL, ERR));
    OK(open_with(&r, other, "between", 0, 0, &b));
    tarn_session *fork = rig_fork(a, "fork");
    REFUSED(tarn_store_remove(r.store, "fork", ERR), TARN_E_BUSY, "fork");
    rig_feed(a, ids + 20, 10);
    CHECK_EQ(rig_commit(a).at.position, 30);
    rig_feed(fork, ids + 30, 5);
    CHECK_EQ(rig_commit(fork).at.position, 25);
    OK(tarn_session_rewind(a, "@t:11", NULL, ERR));
    rig_drain(&r);
    tarn_session *all[] = {a, b, look, fork};
    for (int i = 0; i < 4; i++)
        tarn_session_close(all[i]);
    OK(open_with(&r, other, "a", 0, 0, &a)); /* closed: free again */
    tarn_session_close(a);
    OK(tarn_store_rename(r.store, "a", "z", ERR));
    OK(tarn_store_rewind(r.store, "z", "@t:3", NULL, NULL, NULL, ERR));
    OK(tarn_store_remove(r.store, "z", ERR));
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_engine_close(other);
    rig_close(&r);
}

/* A session that is not stepped for longer than its lease, and somebody else meanwhile. */
CASE(a_lost_lease)
{
    rig r;
    uint32_t ids[60];
    tarn_session *slow, *quick;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 2, ids, 60);
    tarn_engine *other = second_engine(&r);
    OK(open_with(&r, r.engine, "a", TARN_SESSION_CREATE, 30, &slow));
    rig_feed(slow, ids, 20);
    rig_commit(slow);
    quick = take_over(&r, other, "a");
    /* Its steps go on; its commit does not, and takes nothing from it. */
    rig_feed(slow, ids + 20, 10);
    CHECK_EQ(rig_info(slow).at.position, 30);
    REFUSED(tarn_session_commit(slow, NULL, ERR), TARN_E_BUSY, "open for writing");
    OK(tarn_session_append_tokens(quick, ids + 40, 5, ERR));
    OK(tarn_session_run(quick, NULL, NULL, ERR));
    OK(tarn_session_commit(quick, NULL, ERR));
    tarn_session_close(quick);
    REFUSED(tarn_session_commit(slow, NULL, ERR), TARN_E_CONFLICT, "the head is");
    CHECK_EQ(rig_info(slow).at.position, 30);
    OK(tarn_session_reset(slow, NULL, ERR));
    rig_drain(&r);
    CHECK_EQ(rig_info(slow).at.position, 25);
    tarn_session_close(slow);
    /* Nobody took it: nothing is lost, and the next step or commit has it again. */
    OK(open_with(&r, r.engine, "a", 0, 5, &slow));
    tarn_status status;
    uint64_t give_up = now_ms() + 60000;
    for (uint64_t until = now_ms() + 10; now_ms() < until && now_ms() < give_up;)
        ;
    rig_feed(slow, ids, 3);
    CHECK_EQ(rig_commit(slow).at.position, 28);
    /* Removed when the lease was over. */
    do {
        status = tarn_store_remove(r.store, "a", ERR);
    } while (status == TARN_E_BUSY && now_ms() < give_up);
    OK(status);
    rig_feed(slow, ids, 3);
    REFUSED(tarn_session_commit(slow, NULL, ERR), TARN_E_NOT_FOUND, "");
    tarn_session_close(slow);
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_engine_close(other);
    rig_close(&r);
}

/* What would be adopted needs the head moved, and that is another's now: it is computed. */
CASE(no_prefix_without_the_lease)
{
    rig r;
    uint32_t ids[40];
    tarn_sampling p = {.size = sizeof p, .temperature = 0.5F, .seed = 9};
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 2, ids, 40);
    tarn_engine *other = second_engine(&r);
    tarn_session *a = rig_session(&r, "a", NULL), *slow, *quick;
    rig_feed(a, ids, 30);
    rig_commit(a);
    for (int sampled = 0; sampled < 2; sampled++) {
        const char *name = sampled ? "c" : "b";
        OK(open_with(&r, r.engine, name, TARN_SESSION_CREATE, 400, &slow));
        if (sampled) { /* the head is moved to a node that holds it */
            OK(tarn_session_set_sampling(slow, &p, ERR));
            rig_commit(slow);
        }
        quick = take_over(&r, other, name);
        rig_feed(slow, ids, 30);
        CHECK_EQ(rig_info(slow).at.position, 30);
        CHECK_EQ(rig_info(slow).reuse.tokens_reused, 0);
        CHECK(rig_same_logits(slow, a));
        for (int i = 0; i < 5; i++) /* without it steps go on */
            rig_feed(slow, ids + 30 + i, 1);
        CHECK_EQ(rig_info(slow).at.position, 35);
        tarn_session_close(slow);
        tarn_session_close(quick);
    }
    tarn_session_close(a);
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_engine_close(other);
    rig_close(&r);
}

/* A state was kept on the way and nothing has come since: all a commit has to do is move the head,
 * and that is another's now. */
CASE(a_head_that_cannot_be_moved)
{
    rig r;
    uint32_t ids[32];
    tarn_session *slow, *quick;
    tarn_ticket ticket;
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .keep_every = 16});
    rig_ids(&r, 2, ids, 32);
    tarn_engine *other = second_engine(&r);
    OK(open_with(&r, r.engine, "a", TARN_SESSION_CREATE, 30, &slow));
    OK(tarn_session_append_tokens(slow, ids, 32, ERR));
    OK(tarn_engine_step(r.engine, NULL, ERR));
    tarn_session_cancel(slow);
    OK(tarn_session_run(slow, NULL, NULL, ERR));
    CHECK_EQ(rig_info(slow).at.position, 16);
    OK(tarn_store_flush(r.store, ERR)); /* the state at 16 is kept: only the head is to be moved */
    quick = take_over(&r, other, "a");
    REFUSED(tarn_session_commit(slow, NULL, ERR), TARN_E_BUSY, "open for writing");
    REFUSED(tarn_session_commit_begin(slow, &ticket, ERR), TARN_E_BUSY, "open for writing");
    CHECK_EQ(rig_info(slow).at.position, 16);
    tarn_session_close(quick);
    CHECK_EQ(rig_commit(slow).at.position, 16); /* nobody moved it */
    tarn_session_close(slow);
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_engine_close(other);
    rig_close(&r);
}

/* Steps renew it: a session that works keeps its lease for longer than it lasts. */
CASE(steps_renew_the_lease)
{
    rig r;
    uint32_t id = 5;
    tarn_session *a, *b;
    enum { LEASE_MS = 400 };
    rig_open(&r, RIG_TINY, NULL);
    tarn_engine *other = second_engine(&r);
    OK(open_with(&r, r.engine, "a", TARN_SESSION_CREATE, LEASE_MS, &a));
    uint64_t begun = now_ms(), longest = 0;
    for (uint64_t last = begun, now = begun; now < begun + 2 * LEASE_MS; last = now) {
        rig_feed(a, &id, 1);
        usleep(2000); /* within the context */
        now = now_ms();
        longest = now - last > longest ? now - last : longest;
    }
    if (longest < LEASE_MS / 2) /* else this machine slept, and so did the session */
        REFUSED(open_with(&r, other, "a", 0, 0, &b), TARN_E_BUSY, "open for writing");
    CHECK(rig_commit(a).at.position > 0);
    tarn_session_close(a);
    tarn_engine_close(other);
    rig_close(&r);
}

/* ---- two processes ---- */

/* Opens "a", commits once, and goes on until it is killed. */
static int child_writes(rig_kind kind, const char *dir)
{
    rig r;
    uint32_t ids[3];
    rig_join(&r, kind, dir, NULL);
    rig_ids(&r, 100, ids, 3);
    tarn_session *s = rig_session(&r, "a", NULL);
    for (;;) {
        rig_feed(s, ids, 3);
        uint64_t done = rig_commit(s).at.position;
        if (write(1, &done, sizeof done) != sizeof done)
            return 1;
    }
}

static void f3(rig_kind kind)
{
    rig r;
    const char *args[] = {"--child", rig_kind_name(kind), NULL, NULL};
    char holder[64];
    int out, status;
    uint64_t done;
    tarn_session *s;
    rig_open(&r, kind, NULL);
    args[2] = r.dir;
    tarn_session_close(rig_session(&r, "a", NULL));
    pid_t pid = rig_start(args, &out);
    REQUIRE(read(out, &done, sizeof done) == sizeof done);
    snprintf(holder, sizeof holder, "held by process %ld on host ", (long)pid);
    REFUSED(open_with(&r, r.engine, "a", 0, 0, &s), TARN_E_BUSY, holder);
    REFUSED(tarn_store_remove(r.store, "a", ERR), TARN_E_BUSY, holder);
    for (int i = 0; i < 10; i++) {
        char name[16];
        tarn_session_list list;
        snprintf(name, sizeof name, "fork-%d", i);
        OK(tarn_store_fork(r.store, "a", i % 2 ? "@t:1" : NULL, name, NULL, NULL, NULL, ERR));
        OK(tarn_store_list(r.store, NULL, &list, ERR));
        CHECK_EQ(list.n_entries, i + 2);
        tarn_session_list_free(&list);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    while (read(out, &done, sizeof done) == sizeof done)
        ;
    close(out);
    OK(open_with(&r, r.engine, "a", 0, 0, &s)); /* at once */
    CHECK(rig_info(s).at.position >= done);
    rig_feed(s, (uint32_t[]){1}, 1);
    rig_commit(s);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(another_process_writes_tiny) /* F3 */
{
    f3(RIG_TINY);
}

CASE(another_process_writes_recall) /* F3 */
{
    RIG_SKIP_REDUCED();
    f3(RIG_RECALL);
}

/* ---- commits that are begun ---- */

CASE(commits_that_are_begun)
{
    enum { N = 8 };
    rig r;
    uint32_t ids[60];
    tarn_session *s[N];
    tarn_ticket tickets[N], again;
    tarn_committed made = {.size = sizeof made};
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 3, ids, 60);
    for (int i = 0; i < N; i++) {
        char name[8];
        snprintf(name, sizeof name, "s%d", i);
        s[i] = rig_session(&r, name, NULL);
        rig_feed(s[i], ids + i, 20);
    }
    for (int i = 0; i < N; i++)
        OK(tarn_session_commit_begin(s[i], &tickets[i], ERR));
    for (int i = 0; i < N; i++) {
        OK(tarn_session_wait(s[i], tickets[i], TARN_COMMIT_MEMORY, 1, NULL, ERR));
        OK(tarn_session_wait(s[i], tickets[i], TARN_COMMIT_SYNCED, 0, &made, ERR));
        CHECK(made.at.position == 20 && made.at.node > 0 && made.bytes_written > 0);
        CHECK(rig_info(s[i]).committed);
    }
    /* Without anything new, an old ticket, no ticket. */
    OK(tarn_session_commit_begin(s[0], &again, ERR));
    OK(tarn_session_wait(s[0], again, TARN_COMMIT_WRITTEN, 0, &made, ERR));
    CHECK_EQ(made.bytes_written, 0);
    REFUSED(tarn_session_wait(s[0], tickets[0], TARN_COMMIT_WRITTEN, 0, &made, ERR),
            TARN_E_NOT_FOUND, "ticket");
    REFUSED(tarn_session_wait(s[0], 0, TARN_COMMIT_WRITTEN, 0, &made, ERR), TARN_E_NOT_FOUND, "0");
    REFUSED(tarn_session_wait(s[0], again, (tarn_commit_level)4, 0, &made, ERR), TARN_E_INVALID,
            "level");
    /* Begun, then stepped, forked, committed, rewound: each sees the node first. */
    rig_feed(s[1], ids + 30, 7);
    OK(tarn_session_commit_begin(s[1], &tickets[1], ERR));
    rig_feed(s[1], ids + 40, 5);
    OK(tarn_session_wait(s[1], tickets[1], TARN_COMMIT_WRITTEN, 0, &made, ERR));
    CHECK_EQ(made.at.position, 27);
    CHECK_EQ(rig_info(s[1]).at.position, 32);
    CHECK(!rig_info(s[1]).committed && rig_info(s[1]).at.node == made.at.node);
    OK(tarn_session_commit_begin(s[1], &tickets[1], ERR));
    CHECK(rig_commit(s[1]).at.node > made.at.node);
    rig_feed(s[1], ids + 50, 5);
    OK(tarn_session_commit_begin(s[1], &tickets[1], ERR));
    tarn_session *fork = rig_fork(s[1], "fork");
    CHECK(rig_info(fork).committed);
    OK(tarn_session_commit_begin(s[1], &tickets[1], ERR));
    OK(tarn_session_rewind(s[1], "@t:27", NULL, ERR));
    rig_feed(s[2], ids, 9);
    OK(tarn_session_commit_begin(s[2], &tickets[2], ERR));
    OK(tarn_store_flush(r.store, ERR));
    rig_feed(s[3], ids, 9);
    OK(tarn_session_commit_begin(s[3], &tickets[3], ERR)); /* and closed without a wait */
    tarn_session_close(fork);
    for (int i = 0; i < N; i++)
        tarn_session_close(s[i]);
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_session *back = rig_session(&r, "s3", NULL);
    CHECK_EQ(rig_info(back).at.position, 29);
    tarn_session_close(back);
    rig_close(&r);
}

/* What cannot be committed is said by the wait; the session goes on, and its next commit holds all.
 */
CASE(a_begun_commit_that_is_refused)
{
    rig r;
    uint32_t ids[60];
    tarn_session *slow, *quick;
    tarn_ticket ticket;
    tarn_committed made = {.size = sizeof made};
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 4, ids, 60);
    tarn_engine *other = second_engine(&r);
    OK(open_with(&r, r.engine, "a", TARN_SESSION_CREATE, 5, &slow));
    rig_feed(slow, ids, 20);
    tarn_status status;
    do {
        status = open_with(&r, other, "a", 0, 0, &quick);
    } while (status == TARN_E_BUSY);
    OK(status);
    OK(tarn_session_commit_begin(slow, &ticket, ERR));
    REFUSED(tarn_session_wait(slow, ticket, TARN_COMMIT_SYNCED, 0, &made, ERR), TARN_E_BUSY, "a");
    CHECK(!rig_info(slow).committed);
    rig_feed(slow, ids + 20, 10);
    tarn_session_close(quick);
    CHECK_EQ(rig_commit(slow).at.position, 30); /* the head had not moved */
    tarn_session_close(slow);
    tarn_ids all;
    OK(tarn_store_tokens(r.store, "a", NULL, &all, ERR));
    CHECK_EQ(all.n_ids, 30);
    CHECK_IDS(all.ids, ids, 30);
    tarn_ids_free(&all);
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_engine_close(other);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {
        ENTRY(open_for_writing_once),          ENTRY(a_lost_lease),
        ENTRY(a_head_that_cannot_be_moved),    ENTRY(no_prefix_without_the_lease),
        ENTRY(steps_renew_the_lease),          ENTRY(another_process_writes_tiny),
        ENTRY(another_process_writes_recall),  ENTRY(commits_that_are_begun),
        ENTRY(a_begun_commit_that_is_refused),
    };
    if (argc == 4 && strcmp(argv[1], "--child") == 0)
        return child_writes(rig_kind_named(argv[2]), argv[3]);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
