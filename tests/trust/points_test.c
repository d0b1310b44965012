/* Every point at which a call on a store may be refused something: memory of the caller's
 * allocator, memory of any library, a file, a map, a byte. For each verb the first is refused, then
 * the second, and so on, once and for good, until the verb does not ask so often. Each time:
 *
 *   - it succeeds, or says what failed in one line, and gives back all it took;
 *   - the store is as before or as after (in part only where the verb says so), and verifies;
 *   - unless the handle is poisoned, the same call then works. */
#include "trust.h"
#include "verbs.h"

/* ---- trying ---------------------------------------------------------------------------------- */

/* Everything there is to see of the store, as text. */
static bool describe(bench *b, char *out, size_t n, char why[200])
{
    kit *k = &b->k;
    tarnp_session *list;
    tarnp_policy policy;
    size_t n_list, at = 0;
    uint64_t quota = 0;
    why[0] = 0;
    if (tarnp_store_open(k->path, &k->options, &k->store, &k->err) != TARN_OK) {
        snprintf(why, 200, "does not open: %.150s", k->err.detail);
        k->store = NULL;
        return false;
    }
    bool good = kit_verify(k, true) == 0 &&
                tarnp_session_list(k->store, &list, &n_list, &k->err) == TARN_OK &&
                tarnp_policy_get(k->store, &policy, &k->err) == TARN_OK &&
                tarnp_quota_get(k->store, "g", &quota, &k->err) == TARN_OK;
    if (!good) {
        snprintf(why, 200, "is damaged: %.150s", k->err.detail);
    } else {
        at += (size_t)snprintf(out, n, "%llu nodes, policy %d, quota %llu",
                               (unsigned long long)kit_stat(k).nodes, (int)policy.state_codec,
                               (unsigned long long)quota);
        for (size_t i = 0; i < n_list && at < n; i++)
            at += (size_t)snprintf(
                out + at, n - at, "; %s at %llu pin %d exp %llu group %s tags %zu", list[i].name,
                (unsigned long long)list[i].position, list[i].pinned,
                (unsigned long long)list[i].expires_ms, list[i].group, list[i].n_tags);
        tarnp_sessions_free(list, n_list);
    }
    tarnp_store_close(k->store);
    k->store = NULL;
    return good;
}

typedef struct expected {
    char before[1000], after[1000];
} expected;

static void judge(trust *t, bench *b, const verb *trial, const expected *e, tarn_status status,
                  bool again, const tarn_error *err)
{
    char now[1000], why[200];
    if (status != TARN_OK && !again &&
        (err->status != status || !err->detail[0] || strchr(err->detail, '\n')))
        trust_bad(t, "%s without a line of detail", tarn_status_name(status));
    if (status == TARN_E_CORRUPT || status == TARN_E_NOT_FOUND)
        trust_bad(t, "says %s: %s", tarn_status_name(status), err->detail);
    if (b->purse.live != 0)
        trust_bad(t, "%ld blocks are still held", (long)b->purse.live);
    if (!describe(b, now, sizeof now, why)) {
        trust_bad(t, "the store %s", why);
        return;
    }
    bool is_before = strcmp(now, e->before) == 0, is_after = strcmp(now, e->after) == 0;
    bool partly = (trial->flags & PARTLY) && (again || status != TARN_OK);
    if (!partly && (status == TARN_OK ? !is_after : !is_before && !is_after))
        trust_bad(t, "after %s the store is: %s", tarn_status_name(status), now);
    if (status == TARN_E_NO_MEMORY && !is_before && !(trial->flags & PARTLY))
        trust_bad(t, "without memory, yet it was done");
}

/* One refusal; false where the verb did not come so far. */
static bool refuse(trust *t, bench *b, const verb *trial, const refusal *r, uint64_t at,
                   bool for_good, const expected *e)
{
    if (!bench_reset(b) || !bench_open(b, trial)) {
        trust_bad(t, "cannot begin: %s", b->err.detail);
        bench_close(b);
        return false;
    }
    unsigned n_fds = refuse_open_files();
    memset(&b->err, 0, sizeof b->err);
    refuse_begin(&b->purse, r, at, for_good);
    tarn_status status = trial->run(b);
    uint64_t n_calls = refuse_end(&b->purse, r);
    tarn_error err = b->err;
    t->n++;
    trust_count(t, status == TARN_OK ? "borne" : "refused", 1);
    if (refuse_open_files() != n_fds)
        trust_bad(t, "%u files are open, %u were", refuse_open_files(), n_fds);
    bool again = false,
         done = status == TARN_OK || status == TARN_E_IO || status == TARN_E_POISONED;
    if (!done) {
        tarn_status second = trial->run(b);
        again = second == TARN_OK;
        if (second == TARN_E_POISONED || (!again && (trial->flags & PARTLY)))
            trust_count(t, "not again", 1);
        else if (!again)
            trust_bad(t, "%s (%s); done again it says %s", tarn_status_name(status), err.detail,
                      b->err.detail);
        else
            status = TARN_OK;
    }
    bench_close(b);
    judge(t, b, trial, e, status, again, &err);
    return n_calls > at;
}

static bool expect(bench *b, const verb *trial, expected *e, char why[200])
{
    if (!bench_reset(b) || !bench_open(b, trial)) {
        snprintf(why, 200, "cannot begin: %.150s", b->err.detail);
        return false;
    }
    bench_close(b);
    if (!describe(b, e->before, sizeof e->before, why) || !bench_reset(b) || !bench_open(b, trial))
        return false;
    tarn_status status = trial->run(b);
    bench_close(b);
    if (status != TARN_OK)
        snprintf(why, 200, "fails by itself: %.150s", b->err.detail);
    return status == TARN_OK && describe(b, e->after, sizeof e->after, why);
}

/* All refusals of one kind, for one verb. */
static void try_all(trust *t, uint64_t seed, unsigned kinds)
{
    static bench b;
    static expected e;
    char why[200] = "";
    if (seed > N_VERBS) {
        t->wanted = t->n;
        return;
    }
    const verb *trial = &verbs[seed - 1];
    bool quick = !getenv("TARN_TRUST_COUNT");
    trust_note(t, "%s", trial->name);
    if (!bench_make(&b) || !expect(&b, trial, &e, why)) {
        trust_bad(t, "%s", why);
        return;
    }
    t->n++;
    for (int i = 0; i < N_REFUSALS; i++) {
        if (!(kinds & 1u << i))
            continue;
        for (int for_good = 0; for_good < 2; for_good++)
            for (uint64_t at = 0; at < 3000; at += quick ? 1 + at / 8 : 1) {
                trust_note(t, "%s, %s %llu%s", trial->name, refusals[i].name,
                           (unsigned long long)at, for_good ? " and after" : "");
                if (!refuse(t, &b, trial, &refusals[i], at, for_good, &e))
                    break;
            }
    }
    bench_free(&b);
}

static void memory_piece(trust *t, uint64_t seed)
{
    try_all(t, seed, 3);
}

static void calls_piece(trust *t, uint64_t seed)
{
    try_all(t, seed, ~3u);
}

/* ---- a store that must be searched ------------------------------------------------------------
 */

static tarn_status salvage(bench *b)
{
    for (size_t i = 0; i < N_VERBS; i++)
        if (strcmp(verbs[i].name, "salvage") == 0)
            return verbs[i].run(b);
    return TARN_E_NOT_FOUND;
}

/* One refusal while what is left of a store without its first pages is looked for; false where the
 * search did not come so far. */
static bool refuse_search(trust *t, bench *b, const refusal *r, uint64_t at, bool for_good)
{
    bench_reset(b);
    unsigned n_fds = refuse_open_files();
    memset(&b->err, 0, sizeof b->err);
    refuse_begin(&b->purse, r, at, for_good);
    tarn_status status = salvage(b);
    uint64_t n_calls = refuse_end(&b->purse, r);
    t->n++;
    trust_count(t, status == TARN_OK ? "borne" : "refused", 1);
    if (status != TARN_OK && (b->err.status != status || !b->err.detail[0]))
        trust_bad(t, "%s without a line of detail", tarn_status_name(status));
    if (refuse_open_files() != n_fds)
        trust_bad(t, "%u files are open, %u were", refuse_open_files(), n_fds);
    if (b->purse.live != 0)
        trust_bad(t, "%ld blocks are still held", (long)b->purse.live);
    b->purse.live = 0;
    return n_calls > at;
}

/* Seed 1: in clear, 2: encrypted. */
static void search_piece(trust *t, uint64_t seed)
{
    static bench b;
    enum { META_BYTES = 2 * 4096 };
    bool quick = !getenv("TARN_TRUST_COUNT");
    if (seed > 2) {
        t->wanted = t->n;
        return;
    }
    if (seed == 2)
        setenv("TARN_TEST_KEY", "1", 1);
    trust_note(t, "search");
    if (!bench_make(&b)) {
        trust_bad(t, "%s", b.k.err.detail);
        return;
    }
    memset(b.file, 0, META_BYTES);
    if (!bench_reset(&b) || salvage(&b) != TARN_OK) {
        trust_bad(t, "fails by itself: %s", b.err.detail);
        return;
    }
    for (int i = 0; i < N_REFUSALS; i++)
        for (int for_good = 0; for_good < 2; for_good++)
            for (uint64_t at = 0; at < 3000; at += quick ? 1 + at / 4 : 1) {
                trust_note(t, "search, %s %llu%s", refusals[i].name, (unsigned long long)at,
                           for_good ? " and after" : "");
                if (!refuse_search(t, &b, &refusals[i], at, for_good))
                    break;
            }
    bench_free(&b);
}

CASE(search)
{
    CHECK(trust_run("points.search", 1000000, search_piece));
}

CASE(memory)
{
    CHECK(trust_run("points.memory", 1000000, memory_piece));
}

CASE(calls)
{
    CHECK(trust_run("points.calls", 1000000, calls_piece));
}

CHECK_MAIN(ENTRY(memory), ENTRY(calls), ENTRY(search))
