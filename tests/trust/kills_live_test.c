/* kill -9 at any moment of processes that compute: two engines, each with a session of its own on
 * one store, which append, generate, fork, park, and commit at once and in the background; and one
 * that only looks. What an engine was told is kept must be there, every session must resume where
 * its store says, and what it has then must be what the same ids give from the first one on
 * (cold.h). */
#include "check.h"
#include "cold.h"
#include "fixture.h"
#include "mob.h"

#include <unistd.h>

enum { ROUNDS_A_STORE = 20, PROCESSES = 3, WRITERS = 2, MOST = 2500, EXIT_DAMAGE = 9 };

static const tarn_engine_options options = {.n_threads = 1, .keep_every = 16};
static const char *const names[WRITERS] = {"w0", "w1"};

/* What a session is fed, whoever does it. */
static void stream_of(const rig *r, size_t who, uint32_t ids[MOST])
{
    rig_ids(r, 500 + who, ids, MOST);
}

/* ---- the processes --------------------------------------------------------------------------- */

/* How many ids are kept for sure; 0: nothing new is. */
static void tell(uint64_t position)
{
    if (write(STDOUT_FILENO, &position, sizeof position) != sizeof position)
        _exit(EXIT_DAMAGE);
}

/* Forks, after what an earlier round forked is gone; the child goes back and on. */
static void branch_off(rig *r, tarn_session *s, const char *name)
{
    static const uint32_t ids[] = {7, 8, 9};
    char other[16], where[32];
    snprintf(other, sizeof other, "%s-b", name);
    (void)!tarn_store_remove(r->store, other, ERR); /* it may not be there */
    tarn_session *child = rig_fork(s, other);
    snprintf(where, sizeof where, "@t:%llu", (unsigned long long)rig_info(s).at.position / 2);
    OK(tarn_session_rewind(child, where, NULL, ERR));
    rig_feed(child, ids, 3);
    rig_commit(child);
    tarn_session_close(child);
}

static void write_some(rig *r, tarn_session *s, size_t who, const uint32_t *ids, uint64_t *random)
{
    uint64_t at = rig_info(s).at.position, dice = trust_below(random, 12), n;
    tarn_ticket ticket;
    n = 1 + trust_below(random, 9);
    if (at + n + 10 < MOST)
        rig_feed(s, ids + at, (size_t)n);
    if (dice == 0) {
        OK(tarn_session_commit_begin(s, &ticket, ERR));
        return;
    }
    at = rig_info(s).at.position;
    if (dice < 3) {
        OK(tarn_session_commit_begin(s, &ticket, ERR));
        OK(tarn_session_wait(s, ticket, TARN_COMMIT_WRITTEN, 0, NULL, ERR));
    } else {
        rig_commit(s);
    }
    tell(at);
    if (dice == 3) { /* what is generated is given up */
        rig_generate(s, 3, NULL);
        OK(tarn_session_reset(s, NULL, ERR));
    } else if (dice == 4) {
        branch_off(r, s, names[who]);
    } else if (dice == 5) {
        OK(tarn_session_park(s, ERR));
    }
}

static void writer_main(rig *r, size_t who, uint64_t random)
{
    static uint32_t ids[MOST];
    stream_of(r, who, ids);
    tarn_session *s = rig_session(r, names[who], NULL);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    tell(0);
    for (;;)
        write_some(r, s, who, ids, &random);
}

/* A session may be gone or the head elsewhere between two calls; damage there must not be. */
static void reader_main(rig *r, uint64_t random)
{
    const tarn_session_options look = {.size = sizeof look, .flags = TARN_SESSION_READ_ONLY};
    for (;;) {
        tarn_session *s;
        const char *name = names[trust_below(&random, WRITERS)];
        tarn_status status = tarn_session_open(r->engine, r->store, name, &look, &s, NULL, ERR);
        if (status == TARN_OK) {
            OK(tarn_session_run(s, NULL, NULL, ERR));
            tarn_session_close(s);
        } else if (status != TARN_E_NOT_FOUND) {
            return;
        }
        if (rig_verify(r->store) > 0)
            return;
        tell(0);
    }
}

static int child_main(char **argv)
{
    static rig r;
    uint64_t who = strtoull(argv[3], NULL, 10), random = strtoull(argv[4], NULL, 10);
    rig_join(&r, RIG_TINY, argv[2], &options);
    if (who < WRITERS)
        writer_main(&r, who, random);
    else
        reader_main(&r, random);
    return EXIT_DAMAGE;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

typedef struct told {
    uint64_t n, most[PROCESSES];
} told;

static void note(void *user, size_t who, const void *record)
{
    told *all = user;
    uint64_t position;
    memcpy(&position, record, sizeof position);
    all->n += position > 0;
    if (position > all->most[who])
        all->most[who] = position;
}

/* A session, resumed, against its ids computed anew. */
static void check_session(trust *t, rig *r, cold *c, const tarn_session_entry *entry)
{
    const tarn_session_options look = {.size = sizeof look, .flags = TARN_SESSION_READ_ONLY};
    tarn_session *s;
    tarn_ids ids;
    const float *logits;
    uint32_t vocab;
    if (entry->position == 0)
        return;
    tarn_status status = tarn_store_tokens(r->store, entry->name, NULL, &ids, ERR);
    if (status == TARN_OK)
        status = tarn_session_open(r->engine, r->store, entry->name, &look, &s, NULL, ERR);
    if (status == TARN_OK) {
        status = tarn_session_run(s, NULL, NULL, ERR);
        if (status == TARN_OK)
            status = tarn_session_logits(s, &logits, &vocab, ERR);
        if (status == TARN_OK &&
            cold_hash(logits, vocab * sizeof *logits) != cold_row(c, ids.ids, ids.n_ids))
            trust_bad(t, "%s resumes with other logits at %zu", entry->name, ids.n_ids);
        tarn_session_close(s);
    }
    if (status != TARN_OK)
        trust_bad(t, "%s: %s", entry->name, rig_error.detail);
    tarn_ids_free(&ids);
}

static void check_store(trust *t, rig *r, cold *c, const told *all)
{
    tarn_session_list list;
    if (rig_verify(r->store) > 0)
        trust_bad(t, "the store is damaged");
    if (tarn_store_list(r->store, NULL, &list, ERR) != TARN_OK) {
        trust_bad(t, "list: %s", rig_error.detail);
        return;
    }
    for (size_t i = 0; i < list.n_entries; i++) {
        const tarn_session_entry *entry = &list.entries[i];
        for (size_t who = 0; who < WRITERS; who++)
            if (strcmp(entry->name, names[who]) == 0 && entry->position < all->most[who])
                trust_bad(t, "%s has %llu ids, was told %llu are kept", entry->name,
                          (unsigned long long)entry->position, (unsigned long long)all->most[who]);
        check_session(t, r, c, entry);
    }
    if (list.n_entries < WRITERS)
        trust_bad(t, "%zu sessions are there", list.n_entries);
    tarn_session_list_free(&list);
}

static void play_round(trust *t, rig *r, cold *c, uint64_t *random)
{
    static const char *const who[PROCESSES] = {"0", "1", "2"};
    char seeds[PROCESSES][24];
    mob m = {.n = PROCESSES, .record_bytes = sizeof(uint64_t)};
    told all = {0};
    for (size_t i = 0; i < PROCESSES; i++) {
        snprintf(seeds[i], sizeof seeds[i], "%llu", (unsigned long long)trust_random(random));
        const char *args[] = {"--child", r->dir, who[i], seeds[i]};
        memcpy(m.args[i], args, sizeof args);
    }
    mob_play(t, &m, random, note, &all);
    const tarn_store_options o = {.size = sizeof o, .map_bytes = (uint64_t)1 << 30};
    if (tarn_store_open(r->store_path, &o, &r->store, ERR) != TARN_OK) {
        r->store = NULL;
        trust_bad(t, "does not open: %s", rig_error.detail);
        return;
    }
    check_store(t, r, c, &all);
    trust_count(t, "acknowledged", all.n);
    tarn_store_close(r->store);
    r->store = NULL;
}

static void piece(trust *t, uint64_t seed)
{
    static rig r;
    static cold c;
    static uint32_t ids[MOST];
    uint64_t random = seed;
    rig_open(&r, RIG_TINY, &options);
    if (!cold_open(&c, r.model))
        trust_bad(t, "%s", c.err.detail);
    for (size_t i = 0; i < WRITERS; i++) {
        tarn_session_close(rig_session(&r, names[i], NULL));
        stream_of(&r, i, ids);
        cold_row(&c, ids, MOST / 4);
    }
    tarn_store_close(r.store);
    r.store = NULL;
    for (uint64_t round = 0; round < ROUNDS_A_STORE && !trust_enough(t); round++) {
        trust_note(t, "round %llu", (unsigned long long)round);
        play_round(t, &r, &c, &random);
        t->n++;
    }
    cold_close(&c);
    rig_close(&r);
}

CASE(engines)
{
    CHECK(trust_run("kills_live.engines", 60, piece));
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {ENTRY(engines)};
    if (argc == 5 && strcmp(argv[1], "--child") == 0)
        return child_main(argv);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
