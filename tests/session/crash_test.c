/* Processes that die while they write, and files that are damaged while nobody looks. */
#include "check.h"
#include "fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = RIG_FEW(2000, 300), PIECE = 3 };

/* ---- D1: kill -9 ---- */

static const tarn_engine_options writer_options = {.n_threads = 1, .keep_every = 16};

/* Feeds and commits until it is killed, and says after each commit how far it is. */
static int child_writes(rig_kind kind, const char *dir)
{
    rig r;
    static uint32_t ids[N];
    rig_join(&r, kind, dir, &writer_options);
    rig_ids(&r, 100, ids, N);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_drain(&r);
    for (;;) {
        uint64_t at = rig_info(s).at.position;
        if (at + 2 * PIECE > N)
            return 0;
        rig_feed(s, ids + at, at % 2 ? PIECE : 2 * PIECE);
        uint64_t done = rig_commit(s).at.position;
        if (write(1, &done, sizeof done) != sizeof done)
            return 1;
    }
}

/* Starts a writer, kills it a little after its n-th commit, and returns what it said it had done.
 */
static uint64_t kill_after(const rig *r, uint32_t n_commits, useconds_t later)
{
    const char *args[] = {"--child", rig_kind_name(r->kind), r->dir, NULL};
    int out, status;
    uint64_t done = 0, next;
    pid_t pid = rig_start(args, &out);
    for (uint32_t i = 0; i < n_commits && read(out, &next, sizeof next) == sizeof next; i++)
        done = next;
    usleep(later);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    while (read(out, &next, sizeof next) == sizeof next) /* what it said before it died */
        done = next;
    close(out);
    return done;
}

static void d1(rig_kind kind)
{
    rig r;
    static uint32_t ids[N];
    rig_trace rows;
    uint64_t seed = 1, before = 0;
    rig_open(&r, kind, &writer_options);
    rig_ids(&r, 100, ids, N);
    tarn_session *cold = rig_loose(&r, "cold");
    rig_trace_begin(&rows, cold);
    rig_feed(cold, ids, N);
    tarn_session_close(cold);
    for (uint32_t round = 0; round < RIG_FEW(20, 5); round++) {
        rig_leave(&r);
        uint64_t done = kill_after(&r, 1 + round % 4, (useconds_t)(rig_random(&seed) % 1500));
        rig_restart(&r, NULL);
        CHECK_EQ(rig_verify(r.store), 0);
        tarn_reuse reuse;
        tarn_session *s = rig_session(&r, "a", &reuse);
        uint64_t at = rig_info(s).at.position;
        CHECK(at >= done); /* what was acknowledged is there */
        CHECK(at >= before && at % PIECE == 0);
        CHECK_EQ(reuse.tokens_reused, at); /* with its state */
        if (at > 0)
            CHECK(rig_logits_are(s, &rows, at));
        before = at;
        tarn_session_close(s);
    }
    CHECK(before > RIG_FEW(60, 5));
    rig_trace_free(&rows);
    rig_close(&r);
}

CASE(killed_while_committing_tiny) /* D1 */
{
    d1(RIG_TINY);
}

CASE(killed_while_committing_recall) /* D1 */
{
    RIG_SKIP_REDUCED();
    d1(RIG_RECALL);
}

/* ---- D2, D4: damaged bytes ---- */

typedef struct scene {
    rig r; /* a: 100 tokens, 60 more; b: a's first 100 and 20 of its own; c: 40 of its own */
    rig_trace a_rows, b_rows, c_rows;
    uint64_t a_head;
    char *data; /* the store's file */
    size_t n_bytes;
    size_t changed; /* the first byte that a's last commit changed behind the meta pages */
    char path[192];
} scene;

static void begin(scene *c, rig_kind kind)
{
    uint32_t ids[200];
    size_t n_before;
    rig_open(&c->r, kind, NULL);
    rig_ids(&c->r, 110, ids, 200);
    tarn_session *cold = rig_loose(&c->r, "cold");
    tarn_session *a = rig_session(&c->r, "a", NULL), *other = rig_session(&c->r, "c", NULL);
    rig_trace_begin(&c->a_rows, cold);
    rig_feed(cold, ids, 100);
    tarn_session *cold_b = rig_fork(cold, "cold b"), *cold_c = rig_loose(&c->r, "cold c");
    rig_feed(cold, ids + 100, 60);
    rig_trace_begin(&c->b_rows, cold_b);
    rig_feed(cold_b, ids + 160, 20);
    rig_trace_begin(&c->c_rows, cold_c);
    rig_feed(cold_c, ids + 150, 40);
    rig_feed(other, ids + 150, 40);
    rig_commit(other);
    rig_feed(a, ids, 100);
    rig_commit(a);
    tarn_session *b = rig_fork(a, "b");
    rig_feed(b, ids + 160, 20);
    rig_commit(b);
    snprintf(c->path, sizeof c->path, "%s/data.mdb", c->r.store_path);
    char *before = rig_read_file(c->path, &n_before);
    rig_feed(a, ids + 100, 60);
    c->a_head = rig_commit(a).at.node;
    tarn_session *all[] = {a, b, other, cold, cold_b, cold_c};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tarn_session_close(all[i]);
    tarn_store_close(c->r.store);
    c->r.store = NULL;
    c->data = rig_read_file(c->path, &c->n_bytes);
    c->changed = 8192;
    while (c->changed < n_before && before[c->changed] == c->data[c->changed])
        c->changed++;
    free(before);
}

static void end(scene *c)
{
    rig_trace_free(&c->a_rows);
    rig_trace_free(&c->b_rows);
    rig_trace_free(&c->c_rows);
    free(c->data);
    rig_close(&c->r);
}

/* Writes the file with one byte changed and opens it. */
static tarn_status open_damaged(scene *c, size_t at, char flip)
{
    char lock[192];
    tarn_store_options o = {.size = sizeof o, .map_bytes = (uint64_t)1 << 30};
    tarn_store_close(c->r.store);
    snprintf(lock, sizeof lock, "%s/lock.mdb", c->r.store_path);
    unlink(lock);
    c->data[at] ^= flip;
    rig_write_file(c->path, c->data, c->n_bytes);
    c->data[at] ^= flip;
    return tarn_store_open(c->r.store_path, &o, &c->r.store, ERR);
}

typedef struct outcome {
    size_t n_refused_store, n_refused_session, n_fallen_back, n_exact, n_unnoticed;
} outcome;

static void open_one(scene *c, const char *name, const rig_trace *rows, outcome *seen,
                     bool *damage_met)
{
    tarn_session *s;
    tarn_reuse reuse;
    tarn_session_options look = {.size = sizeof look, .flags = TARN_SESSION_READ_ONLY};
    tarn_status status = tarn_session_open(c->r.engine, c->r.store, name, &look, &s, &reuse, ERR);
    if (status != TARN_OK) {
        if (status != TARN_E_CORRUPT && status != TARN_E_NOT_FOUND && status != TARN_E_FORMAT)
            CHECK_FAIL("%s: %s: %s", name, tarn_status_name(status), rig_error.detail);
        seen->n_refused_session++;
        *damage_met = true;
        return;
    }
    rig_drain(&c->r);
    uint64_t at = rig_info(s).at.position;
    if (at > 0)
        CHECK(rig_logits_are(s, rows, at)); /* whatever was damaged */
    CHECK_EQ(reuse.tokens_reused + reuse.tokens_replayed, at);
    seen->n_fallen_back += reuse.reason == TARN_REASON_CHECKSUM;
    seen->n_exact += reuse.reason == TARN_REASON_EXACT;
    *damage_met = *damage_met || reuse.reason == TARN_REASON_CHECKSUM;
    tarn_session_close(s);
}

/* One byte after another all over the file: a session is equal, or refused, or resumed from an
 * earlier state; never wrong. And what any session meets, a verification has found. */
static void d2(rig_kind kind)
{
    scene c;
    outcome seen = {0};
    begin(&c, kind);
    uint64_t seed = 3;
    size_t n_tried = 0;
    for (size_t at = 0; at < c.n_bytes; at += 1 + rig_random(&seed) % 1100) {
        char flip = (char)(1u << rig_random(&seed) % 8);
        bool damage_met = false;
        tarn_verify_report report = {0};
        n_tried++;
        tarn_status status = open_damaged(&c, at, flip);
        if (status != TARN_OK) {
            if (status != TARN_E_CORRUPT && status != TARN_E_FORMAT)
                CHECK_FAIL("byte %zu: %s: %s", at, tarn_status_name(status), rig_error.detail);
            seen.n_refused_store++;
            continue;
        }
        OK(tarn_store_verify(c.r.store, NULL, NULL, &report, ERR));
        open_one(&c, "a", &c.a_rows, &seen, &damage_met);
        open_one(&c, "b", &c.b_rows, &seen, &damage_met);
        open_one(&c, "c", &c.c_rows, &seen, &damage_met);
        if (damage_met && report.n_bad == 0)
            CHECK_FAIL("byte %zu: a session met damage that no verification finds", at);
        seen.n_unnoticed += report.n_bad == 0;
        tarn_verify_report_free(&report);
    }
    printf("%zu bytes of %zu: store refused %zu, sessions refused %zu, fallen back %zu, exact "
           "%zu, no damage found %zu\n",
           n_tried, c.n_bytes, seen.n_refused_store, seen.n_refused_session, seen.n_fallen_back,
           seen.n_exact, seen.n_unnoticed);
    CHECK(seen.n_refused_store > 0);
    CHECK(seen.n_refused_session > 0);
    CHECK(seen.n_fallen_back > 0);
    CHECK(seen.n_exact > n_tried);
    CHECK_EQ(rig_stat(&c.r).pages, 0);
    CHECK_EQ(rig_stat(&c.r).slots, 0);
    OK(open_damaged(&c, 0, 0)); /* the control: nothing changed, nothing wrong */
    CHECK_EQ(rig_verify(c.r.store), 0);
    end(&c);
}

CASE(a_changed_byte_anywhere_tiny) /* D2 */
{
    d2(RIG_TINY);
}

CASE(a_changed_byte_anywhere_recall) /* D2 */
{
    RIG_SKIP_REDUCED();
    d2(RIG_RECALL);
}

/* A byte of a's newest state, as a verification names it; false at the end of the file. */
static bool find_damage(scene *c, size_t *at)
{
    for (; *at < c->n_bytes; *at += 64) {
        tarn_verify_report report;
        if (open_damaged(c, *at, 16) != TARN_OK)
            continue;
        OK(tarn_store_verify(c->r.store, NULL, NULL, &report, ERR));
        bool found = report.n_bad == 1 && report.bad[0].node == c->a_head && report.bad[0].chunk;
        tarn_verify_report_free(&report);
        tarn_session *s;
        tarn_reuse reuse = {0};
        if (found &&
            tarn_session_open(c->r.engine, c->r.store, "a", NULL, &s, &reuse, ERR) == TARN_OK)
            tarn_session_close(s); /* else it was in the tokens */
        if (reuse.reason == TARN_REASON_CHECKSUM && reuse.tokens_replayed > 0)
            return true; /* and not the sampler's record, without which nothing is replayed */
    }
    return false;
}

static void d4_state(rig_kind kind)
{
    scene c;
    uint32_t ids[200];
    size_t at;
    tarn_reuse reuse;
    begin(&c, kind);
    rig_ids(&c.r, 110, ids, 200);
    at = c.changed / 64 * 64;
    REQUIRE(find_damage(&c, &at));
    tarn_session *s = rig_session(&c.r, "a", &reuse);
    CHECK_EQ(reuse.reason, TARN_REASON_CHECKSUM);
    CHECK_EQ(reuse.tokens_reused, 100);
    CHECK_EQ(reuse.tokens_replayed, 60);
    rig_drain(&c.r);
    CHECK(rig_logits_are(s, &c.a_rows, 160));
    CHECK_EQ(rig_commit(s).bytes_written, 0); /* nothing is new */
    tarn_session *cold = rig_loose(&c.r, "cold");
    rig_feed(cold, ids, 170);
    rig_feed(s, ids + 160, 10);
    CHECK(rig_same_logits(s, cold));
    rig_commit(s); /* a state that is whole, with all latents it needs */
    tarn_session_close(s);
    s = rig_session(&c.r, "a", &reuse);
    CHECK_EQ(reuse.reason, TARN_REASON_EXACT);
    CHECK_EQ(reuse.tokens_reused, 170);
    CHECK(rig_same_logits(s, cold));
    tarn_session_close(s);
    tarn_session_close(cold);
    s = rig_session(&c.r, "b", &reuse); /* the sibling knows nothing of it */
    CHECK_EQ(reuse.reason, TARN_REASON_EXACT);
    CHECK(rig_logits_are(s, &c.b_rows, 120));
    tarn_session_close(s);
    CHECK_EQ(rig_verify(c.r.store), 1);
    end(&c);
}

CASE(a_damaged_state_is_replaced_by_a_replay_tiny) /* D4 */
{
    d4_state(RIG_TINY);
}

CASE(a_damaged_state_is_replaced_by_a_replay_recall) /* D4 */
{
    RIG_SKIP_REDUCED();
    d4_state(RIG_RECALL);
}

static void d4_tokens(rig_kind kind)
{
    scene c;
    begin(&c, kind);
    size_t n_refused = 0;
    for (size_t at = c.changed / 64 * 64; at < c.n_bytes && n_refused < 3; at += 32) {
        tarn_session *s;
        tarn_verify_report report;
        if (open_damaged(&c, at, 4) != TARN_OK)
            continue;
        OK(tarn_store_verify(c.r.store, NULL, NULL, &report, ERR));
        bool in_chunk = report.n_bad == 1 && report.bad[0].node == c.a_head && report.bad[0].chunk;
        char chunk[32];
        snprintf(chunk, sizeof chunk, "chunk %" PRIu64,
                 report.n_listed > 0 ? report.bad[0].chunk : 0);
        tarn_verify_report_free(&report);
        if (!in_chunk ||
            tarn_session_open(c.r.engine, c.r.store, "a", NULL, &s, NULL, ERR) == TARN_OK) {
            if (in_chunk)
                tarn_session_close(s);
            continue;
        }
        n_refused++;
        CHECK_EQ(rig_error.status, TARN_E_CORRUPT);
        CHECK_HAS(rig_error.detail, chunk);
        s = rig_session(&c.r, "b", NULL);
        CHECK(rig_logits_are(s, &c.b_rows, 120));
        tarn_session_close(s);
    }
    CHECK(n_refused > 0);
    end(&c);
}

CASE(damaged_tokens_are_refused_tiny) /* D4 */
{
    d4_tokens(RIG_TINY);
}

CASE(damaged_tokens_are_refused_recall) /* D4 */
{
    RIG_SKIP_REDUCED();
    d4_tokens(RIG_RECALL);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {
        ENTRY(killed_while_committing_tiny),
        ENTRY(killed_while_committing_recall),
        ENTRY(a_changed_byte_anywhere_tiny),
        ENTRY(a_changed_byte_anywhere_recall),
        ENTRY(a_damaged_state_is_replaced_by_a_replay_tiny),
        ENTRY(a_damaged_state_is_replaced_by_a_replay_recall),
        ENTRY(damaged_tokens_are_refused_tiny),
        ENTRY(damaged_tokens_are_refused_recall),
    };
    if (argc == 4 && strcmp(argv[1], "--child") == 0)
        return child_writes(rig_kind_named(argv[2]), argv[3]);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
