/* Stores whose records lie (lies.h), in every other one beneath encryption; every verb is tried on
 * each. Each time:
 *
 *   - nothing crashes, and nothing goes on for ever;
 *   - the verb succeeds, or says what is wrong in one line;
 *   - it gives back all memory and closes all files it opened. */
#include "lease.h"
#include "lies.h"
#include "trust.h"
#include "verbs.h"

#include <unistd.h>

enum { PIECE_SECONDS = 120 };

static bool good(tarn_status status)
{
    return status == TARN_OK;
}

/* ---- what the store also holds --------------------------------------------------------------- */

static bool furnish(bench *b)
{
    kit *k = &b->k;
    tarnp_lease lease;
    const tarnp_policy policy = {TARNP_STATE_BF16, TARNP_STATE_LOSSLESS};
    return good(tarnp_policy_set(k->store, &policy, &k->err)) &&
           good(tarnp_lease_take(k->store, b->branch_id, 10000, "n", &lease, &k->err));
}

static bool change(bench *b, uint64_t seed)
{
    kit *k = &b->k;
    bool done = kit_reopen(k) && furnish(b) && lies_tell(k->store, seed, &k->err) && bench_read(b);
    tarnp_store_close(k->store);
    k->store = NULL;
    return done;
}

/* ---- trying ---------------------------------------------------------------------------------- */

static void try_verb(trust *t, bench *b, const verb *v)
{
    trust_note(t, "%s", v->name);
    bool is_open = bench_reset(b) && bench_open(b, v);
    unsigned n_files = refuse_open_files();
    memset(&b->err, 0, sizeof b->err);
    tarn_status status = is_open ? v->run(b) : b->k.err.status;
    t->n++;
    trust_count(t, !is_open ? "not opened" : good(status) ? "done" : "refused", 1);
    if (is_open && !good(status) &&
        (b->err.status != status || !b->err.detail[0] || strchr(b->err.detail, '\n')))
        trust_bad(t, "%s without a line of detail", tarn_status_name(status));
    if (is_open && refuse_open_files() != n_files)
        trust_bad(t, "%u files are open, %u were", refuse_open_files(), n_files);
    bench_close(b);
    if (b->purse.live != 0)
        trust_bad(t, "%ld blocks are still held", (long)b->purse.live);
    b->purse.live = 0;
}

/* Verify may find nothing in what it can read, but must come to an end with every byte seen. */
static void try_verify(trust *t, bench *b)
{
    kit *k = &b->k;
    trust_note(t, "verify");
    if (bench_reset(b) && good(tarnp_store_open(k->path, &k->options, &k->store, &k->err)))
        trust_count(t, kit_verify(k, true) == 0 ? "verified" : "found", 1);
    tarnp_store_close(k->store);
    k->store = NULL;
}

static void piece(trust *t, uint64_t seed)
{
    static bench b;
    alarm(PIECE_SECONDS);
    if (seed % 2)
        setenv("TARN_TEST_KEY", "1", 1);
    trust_note(t, "making the store");
    if (!bench_make(&b) || !change(&b, seed)) {
        trust_bad(t, "%s", b.k.err.detail);
        return;
    }
    try_verify(t, &b);
    for (size_t i = 0; i < N_VERBS; i++)
        try_verb(t, &b, &verbs[i]);
    bench_free(&b);
}

CASE(records)
{
    CHECK(trust_run("records.records", 3000, piece));
}

CHECK_MAIN(ENTRY(records))
