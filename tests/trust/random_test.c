/* Random operations on a store and on plain arrays (oracle.h), with reopening, compacting and power
 * cuts in between. What goes wrong is tried again with fewer operations, and the least list that
 * still goes wrong is printed. */
#include "disk.h"
#include "oracle.h"
#include "trust.h"

enum { OPS = 500, DEEP_EVERY = 125, CUT_ONE_IN = 40 };

static op ops[OPS];
static uint64_t n_done, n_cuts, n_lost; /* of a run */
static oracle before, now, part;

static void pull_plug(kit *k, uint64_t seed)
{
    disk_image image = {0};
    uint64_t random = seed;
    char file[260];
    size_t n = disk_recorded();
    kit_file(k, "data.mdb", file);
    disk_record_end();
    tarnp_store_close(k->store);
    k->store = NULL;
    if (n == 0)
        return;
    disk_image_make(&random, 1 + (size_t)trust_below(&random, n), seed % 2 ? 512 : 4096, 0, &image);
    FILE *out = fopen(file, "wb");
    if (!out || fwrite(image.data, 1, image.n_bytes, out) != image.n_bytes || fclose(out) != 0)
        CHECK_FAIL("%s: cannot write the image", file);
    free(image.data);
}

/* An operation during which the power fails: it was done, or not, or in part. */
static bool apply_cut(kit *k, op what, char why[200])
{
    char file[260], first[200] = "";
    kit_file(k, "data.mdb", file);
    before = now;
    if (!disk_record(file) || !oracle_apply(&now, k, what, why))
        return false;
    pull_plug(k, what.b ^ what.a);
    n_cuts++;
    if (tarnp_store_open(k->path, &k->options, &k->store, &k->err) != TARN_OK) {
        k->store = NULL;
        snprintf(why, 200, "does not open after the cut: %.150s", k->err.detail);
        return false;
    }
    if (oracle_match(&now, NULL, k, true, why))
        return true;
    memcpy(first, why, sizeof first);
    for (unsigned i = 0; oracle_between(&before, &now, what.kind, i, &part); i++)
        if (oracle_match(&part, &now, k, true, why)) {
            n_lost++;
            now = part;
            return true;
        }
    snprintf(why, 200, "after the cut: %.90s; %.90s", first, part.n_ops ? why : "");
    return false;
}

static size_t run(trust *t, const void *operations, size_t n, char why[TRUST_WHY])
{
    kit k;
    const op *list = operations;
    size_t i = 0;
    n_done = n_cuts = n_lost = 0;
    kit_folder(&k);
    k.options.map_bytes = (size_t)64 << 20;
    memset(&now, 0, sizeof now);
    why[0] = 0;
    if (!kit_reopen(&k))
        return 0;
    for (; i < n; i++) {
        bool cut = list[i].cut && list[i].kind != OP_COMPACT;
        trust_at(i);
        bool good = cut ? apply_cut(&k, list[i], why) : oracle_apply(&now, &k, list[i], why);
        disk_record_end();
        if (!good || !oracle_match(&now, NULL, &k, i % DEEP_EVERY == DEEP_EVERY - 1, why))
            break;
        n_done++;
    }
    if (i == n && !oracle_match(&now, NULL, &k, true, why))
        i--;
    kit_end(&k);
    if (t) {
        t->n += n_done;
        trust_count(t, "power cuts", n_cuts);
        trust_count(t, "undone", n_lost);
    }
    return i;
}

static void piece(trust *t, uint64_t seed)
{
    uint64_t random = seed;
    char why[TRUST_WHY];
    for (size_t i = 0; i < OPS; i++) {
        ops[i] = op_random(&random);
        ops[i].cut = trust_below(&random, CUT_ONE_IN) == 0;
    }
    size_t n = trust_try(t, run, ops, OPS, why);
    if (n == OPS)
        return;
    trust_note(t, "operation %zu, %s%s", n, op_name(ops[n].kind), ops[n].cut ? " (cut)" : "");
    trust_bad(t, "%s", why);
    n = trust_shrink(run, ops, n + 1, sizeof ops[0], why);
    printf("    %zu operations are enough: %s\n", n, why);
    for (size_t i = 0; i < n; i++)
        printf("        {%s, %llu, %llu}%s\n", op_name(ops[i].kind), (unsigned long long)ops[i].a,
               (unsigned long long)ops[i].b, ops[i].cut ? " cut" : "");
    t->n++;
}

CASE(operations)
{
    CHECK(trust_run("random.operations", 6000, piece));
}

CHECK_MAIN(ENTRY(operations))
