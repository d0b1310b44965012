/* Power cuts. A run of random operations is recorded write by write; then the file is put together
 * as any of the ways a disk may hold it after a cut, at any moment of the run, and opened. It must
 * hold what was acknowledged before the cut, whole, or that and the operation under way.
 *
 * Relaxed, the last commit may be missing. A meta page torn inside a sector is not among what disks
 * do; there, refusing the store is an answer too, but never a wrong one. */
#include "disk.h"
#include "oracle.h"
#include "salvage.h"
#include "trust.h"

enum { OPS = 40, IMAGES_A_RUN = 400 };

static oracle states[OPS + 1]; /* states[i]: after operation i - 1 */
static size_t marks[OPS + 1];  /* events when it was acknowledged */
static op ops[OPS];

/* A run of operations under the recorder; false after a failure. */
static bool record_run(trust *t, kit *k, uint64_t seed)
{
    uint64_t random = seed;
    char why[200], file[260];
    kit_file(k, "data.mdb", file);
    memset(&states[0], 0, sizeof states[0]);
    if (!kit_reopen(k) || !disk_record(file))
        return false;
    for (size_t i = 0; i < OPS; i++) {
        do
            ops[i] = op_random(&random);
        while (ops[i].kind == OP_COMPACT); /* it is another file then */
        if (i < 3)
            ops[i].kind = i < 2 ? OP_CREATE : OP_APPEND;
        states[i + 1] = states[i];
        trust_note(t, "operation %zu, %s", i, op_name(ops[i].kind));
        if (!oracle_apply(&states[i + 1], k, ops[i], why)) {
            trust_bad(t, "%s", why);
            return false;
        }
        marks[i + 1] = disk_recorded();
    }
    disk_record_end();
    tarnp_store_close(k->store);
    k->store = NULL;
    return true;
}

static bool put_image(const kit *k, const disk_image *image)
{
    char file[260];
    kit_file(k, "data.mdb", file);
    FILE *out = fopen(file, "wb");
    bool whole = out && fwrite(image->data, 1, image->n_bytes, out) == image->n_bytes;
    return out && fclose(out) == 0 && whole;
}

/* States between operation i and the next, which may be several transactions: number `part` of
 * them, 0 the state after operation i itself. False where there are no more. */
static bool between(size_t i, unsigned part, oracle *out)
{
    if (i == OPS && part > 0)
        return false;
    return oracle_between(&states[i], i < OPS ? &states[i + 1] : NULL, ops[i % OPS].kind, part,
                          out);
}

/* Which of the states from `least` on, the one after operation `most` last, the store is in. */
static bool find_state(trust *t, kit *k, size_t least, size_t most, oracle *now)
{
    char why[200], first[200] = "";
    for (size_t i = most + 1; i-- > least;) {
        for (unsigned part = 0; part == 0 || i < most; part++) {
            if (!between(i, part, now))
                break;
            const oracle *next = i < OPS ? &states[i + 1] : NULL;
            if (oracle_match(now, next, k, false, why)) {
                trust_count(t, i == most ? "after" : i + 1 < most ? "last lost" : "before", 1);
                if (oracle_match(now, next, k, true, why))
                    return true;
                trust_bad(t, "%s", why);
                return false;
            }
            if (!first[0])
                memcpy(first, why, sizeof why);
        }
    }
    trust_bad(t, "in none of the states %zu to %zu: %s; %s", least, most, first, why);
    return false;
}

/* Opens the image in place and compares it with the states that are allowed. */
static void check_image(trust *t, kit *k, size_t least, size_t most, bool may_refuse)
{
    static oracle now;
    if (tarnp_store_open(k->path, &k->options, &k->store, &k->err) != TARN_OK) {
        k->store = NULL;
        if (may_refuse)
            trust_count(t, "refused", 1);
        else
            trust_bad(t, "does not open: %s", k->err.detail);
        return;
    }
    if (find_state(t, k, least, most, &now) && t->n % 4 == 0 && now.n_sessions > 0) {
        tarnp_committed made; /* and it goes on */
        const oracle_session *s = &now.sessions[0];
        kit_floats = 640;
        if (kit_commit(k->store, s->id, s->head, s->head, t->seed << 40 | t->n, true, &made,
                       &k->err) != TARN_OK ||
            kit_verify(k, true) != 0)
            trust_bad(t, "does not go on: %s", k->err.detail);
    }
    tarnp_store_close(k->store);
    k->store = NULL;
}

/* The state before the last commit that ended: operations that wrote nothing are no commits. */
static size_t before_last_commit(size_t done)
{
    while (done > 0 && marks[done] == marks[done - 1])
        done--;
    return done > 0 ? done - 1 : 0;
}

/* Images of one run, at moments spread over it. */
static void check_images(trust *t, kit *k, uint64_t seed, unsigned flags)
{
    static const size_t sectors[] = {512, 4096};
    uint64_t random = ~seed;
    disk_image image = {0};
    size_t n_events = disk_recorded();
    bool relaxed = k->options.durability == TARNP_RELAXED;
    for (int n = 0; n < IMAGES_A_RUN && n_events > 0 && !trust_enough(t); n++) {
        size_t under_way = (size_t)trust_below(&random, n_events), done = 0;
        size_t sector = sectors[trust_below(&random, 2)];
        if (!disk_image_make(&random, under_way + 1, sector, flags, &image))
            continue;
        while (done < OPS && marks[done + 1] <= under_way)
            done++;
        size_t least = relaxed ? before_last_commit(done) : done;
        trust_note(t, "image %d, event %zu of %zu, sector %zu%s, after operation %zu (%s)", n,
                   under_way, n_events, sector, flags & DISK_TORN ? ", torn" : "", done,
                   done < OPS ? op_name(ops[done].kind) : "end");
        t->n++;
        if (!put_image(k, &image))
            trust_bad(t, "cannot write the image");
        else
            check_image(t, k, least, done < OPS ? done + 1 : done, flags & DISK_TORN);
    }
    free(image.data);
}

/* Whether the checks see what they are for: with a disk that does not sync, they must. */
static void lying_piece(trust *t, uint64_t seed)
{
    kit k;
    uint64_t bad = t->bad;
    trust quiet = *t;
    kit_folder(&k);
    k.options.map_bytes = (size_t)64 << 20;
    quiet.bad = 1000; /* prints nothing */
    if (record_run(t, &k, seed))
        check_images(&quiet, &k, seed, DISK_LIES);
    t->n = quiet.n;
    trust_count(t, "caught", quiet.bad - 1000);
    t->bad = bad;
    check_failures = 0;
    kit_end(&k);
}

static void run_piece(trust *t, uint64_t seed, tarnp_durability level, unsigned flags)
{
    kit k;
    kit_folder(&k);
    k.options.durability = level;
    k.options.map_bytes = (size_t)64 << 20;
    if (record_run(t, &k, seed))
        check_images(t, &k, seed, flags);
    else if (check_failures)
        trust_bad(t, "the run failed");
    check_failures = 0;
    kit_end(&k);
}

static void durable_piece(trust *t, uint64_t seed)
{
    run_piece(t, seed, seed % 2 ? TARNP_DURABLE : TARNP_DEFERRED, 0);
}

static void relaxed_piece(trust *t, uint64_t seed)
{
    run_piece(t, seed, TARNP_RELAXED, 0);
}

static void torn_piece(trust *t, uint64_t seed)
{
    run_piece(t, seed, TARNP_DURABLE, DISK_TORN);
}

CASE(durable)
{
    CHECK(trust_run("images.durable", 1200, durable_piece));
}

CASE(relaxed)
{
    CHECK(trust_run("images.relaxed", 800, relaxed_piece));
}

CASE(torn)
{
    CHECK(trust_run("images.torn", 400, torn_piece));
}

CASE(a_disk_that_lies_is_caught)
{
    enum { IMAGES = 60 };
    trust t = {.seed = 1, .wanted = IMAGES};
    lying_piece(&t, 1);
    printf("    %llu of %llu images of a disk that does not sync are bad\n",
           (unsigned long long)t.counts[0].n, (unsigned long long)t.n);
    CHECK(t.n == IMAGES && t.counts[0].n > IMAGES / 4);
}

/* What is put in place by a rename was synced before, and its folder after. */
CASE(what_is_renamed_was_synced)
{
    kit k;
    unsigned renames, bad;
    uint64_t before, after;
    tarnp_salvaged found;
    kit_folder(&k);
    disk_watch();
    REQUIRE(kit_reopen(&k));
    kit_create(&k, "main");
    kit_append(&k, "main", 8);
    tarnp_store_close(k.store);
    k.store = NULL;
    CHECK_STATUS(tarnp_compact(k.path, &k.options, NULL, NULL, &before, &after, &k.err), TARN_OK);
    kit saved = k;
    snprintf(saved.path, sizeof saved.path, "%s/saved", k.folder);
    CHECK_STATUS(tarnp_salvage(k.path, saved.path, &k.options, NULL, NULL, &found, &k.err),
                 TARN_OK);
    disk_watch_end(&renames, &bad);
    CHECK(renames >= 3);
    CHECK_EQ(bad, 0);
    kit_remove(&saved);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(durable), ENTRY(relaxed), ENTRY(torn), ENTRY(a_disk_that_lies_is_caught),
           ENTRY(what_is_renamed_was_synced))
