/* Bits that turn over in a store's file and in exported files. Whatever is answered afterwards must
 * be what was written; saying that something is damaged is an answer, saying that it is not there
 * is none. And what verify calls clean must be so. */
#include "oracle.h"
#include "salvage.h"
#include "trust.h"

#include <stdarg.h>

enum { OPS = 60, FLIPS_A_STORE = 500 };

typedef struct subject {
    kit k;
    oracle o;
    uint8_t *file; /* the store's, whole */
    size_t n_bytes;
} subject;

static bool read_file(const char *path, uint8_t **data, size_t *n)
{
    FILE *in = fopen(path, "rb");
    struct stat info;
    if (!in || fstat(fileno(in), &info) != 0)
        return false;
    *n = (size_t)info.st_size;
    *data = malloc(*n + 1);
    bool whole = fread(*data, 1, *n, in) == *n;
    fclose(in);
    return whole;
}

static bool write_file(const char *path, const uint8_t *data, size_t n)
{
    FILE *out = fopen(path, "wb");
    bool whole = out && fwrite(data, 1, n, out) == n;
    return out && fclose(out) == 0 && whole;
}

/* A store after random operations. */
static bool make_subject(trust *t, subject *s, uint64_t seed)
{
    uint64_t random = seed;
    char why[200], file[260];
    memset(s, 0, sizeof *s);
    kit_folder(&s->k);
    s->k.options.map_bytes = (size_t)64 << 20;
    if (!kit_reopen(&s->k))
        return false;
    for (int i = 0; i < OPS; i++) {
        op what = op_random(&random);
        if (i < 3)
            what.kind = i < 2 ? OP_CREATE : OP_APPEND;
        if (!oracle_apply(&s->o, &s->k, what, why)) {
            trust_bad(t, "%s", why);
            return false;
        }
    }
    tarnp_store_close(s->k.store);
    s->k.store = NULL;
    kit_file(&s->k, "data.mdb", file);
    return read_file(file, &s->file, &s->n_bytes);
}

/* ---- what it answers ------------------------------------------------------------------------- */

typedef struct tally {
    unsigned wrong, refused; /* answers */
    char first[160];
} tally;

__attribute__((format(printf, 2, 3))) static void wrong(tally *a, const char *format, ...)
{
    va_list args;
    if (a->wrong++ > 0)
        return;
    va_start(args, format);
    vsnprintf(a->first, sizeof a->first, format, args);
    va_end(args);
}

/* Counts an error; true where there is an answer to look at. NOT_FOUND is a wrong one. */
static bool answered(tally *a, tarn_status status, const char *what, uint64_t which)
{
    if (status == TARN_OK)
        return true;
    if (status == TARN_E_NOT_FOUND)
        wrong(a, "%s %llu is not found", what, (unsigned long long)which);
    else
        a->refused++;
    return false;
}

static void ask_sessions(subject *s, tally *a)
{
    tarnp_session *list, one;
    size_t n;
    kit *k = &s->k;
    if (answered(a, tarnp_session_list(k->store, &list, &n, &k->err), "list", 0)) {
        if (n != s->o.n_sessions)
            wrong(a, "%zu sessions are listed of %zu", n, s->o.n_sessions);
        tarnp_sessions_free(list, n);
    }
    for (size_t i = 0; i < s->o.n_sessions; i++) {
        const oracle_session *want = &s->o.sessions[i];
        if (!answered(a, tarnp_session_find(k->store, want->name, &one, &k->err), "session", i))
            continue;
        const char *tag = one.n_tags ? one.tags[0].value : "";
        if (one.id != want->id || one.head != want->head || one.pinned != want->pinned ||
            one.expires_ms != want->expires_ms || strcmp(one.group, want->group) != 0 ||
            strcmp(tag, want->tag) != 0)
            wrong(a, "session %s is another", want->name);
        tarnp_session_fini(&one);
    }
}

static void ask_node(subject *s, const oracle_node *want, tally *a)
{
    kit *k = &s->k;
    tarnp_node node;
    bool equal = true;
    if (!answered(a, tarnp_node_read(k->store, want->id, &node, &k->err), "node", want->id))
        return;
    bool lacks = node.flags & TARNP_NODE_STATE_EVICTED;
    if (node.parent != want->parent || node.session_id != want->owner || (lacks && !want->lacking))
        wrong(a, "node %llu is another", (unsigned long long)want->id);
    tarnp_node_fini(&node);
    if (!want->seed || lacks)
        return;
    oracle_size(want->seed);
    tarn_status status = kit_read(k->store, want->id, want->seed, &equal, &k->err);
    if (answered(a, status, "a part of node", want->id) && !equal)
        wrong(a, "node %llu holds something else", (unsigned long long)want->id);
    uint8_t key[TARNP_KEY_BYTES];
    uint64_t found = 0;
    kit_key(key, want->seed);
    status = tarnp_commit_find(k->store, key, &found, &k->err);
    if (want->keyed && answered(a, status, "the key of node", want->id) && found != want->id)
        wrong(a, "the key of node %llu is of node %llu", (unsigned long long)want->id,
              (unsigned long long)found);
}

static void ask_all(subject *s, tally *a)
{
    tarnp_stat stat;
    kit *k = &s->k;
    ask_sessions(s, a);
    for (size_t i = 0; i < s->o.n_nodes; i++)
        ask_node(s, &s->o.nodes[i], a);
    if (answered(a, tarnp_store_stat(k->store, &stat, &k->err), "stat", 0) &&
        (stat.nodes != s->o.n_nodes || stat.sessions != s->o.n_sessions))
        wrong(a, "%llu nodes are counted of %zu", (unsigned long long)stat.nodes, s->o.n_nodes);
}

/* What the damaged store says; then what a salvage of it holds. */
static void ask(trust *t, subject *s)
{
    kit *k = &s->k;
    tally a = {0};
    if (tarnp_store_open(k->path, &k->options, &k->store, &k->err) != TARN_OK) {
        k->store = NULL;
        trust_count(t, "refused", 1);
        if (k->err.status == TARN_E_NOT_FOUND)
            trust_bad(t, "open: %s", k->err.detail);
        return;
    }
    long n_bad = kit_verify(k, true);
    ask_all(s, &a);
    if (a.wrong > 0)
        trust_bad(t, "%u wrong answers: %s (verify: %ld)", a.wrong, a.first, n_bad);
    if (n_bad == 0 && a.refused > 0)
        trust_bad(t, "verify is clean, but %u answers are errors: %s", a.refused, k->err.detail);
    trust_count(t, n_bad != 0 ? "reported" : "harmless", 1);
    if (t->n % 4 == 0 && s->o.n_sessions > 0) { /* may fail, may not crash */
        const oracle_session *first = &s->o.sessions[0];
        tarnp_committed made;
        (void)!kit_commit(k->store, first->id, first->head, first->head, t->n << 8, true, &made,
                          &k->err);
        (void)!tarnp_session_remove(k->store, first->name, &k->err);
    }
    tarnp_store_close(k->store);
    k->store = NULL;
}

static void salvage(trust *t, subject *s)
{
    kit saved = s->k;
    tarnp_salvaged found;
    snprintf(saved.path, sizeof saved.path, "%s/saved", s->k.folder);
    trust_count(t, "salvaged", 1);
    if (tarnp_salvage(s->k.path, saved.path, &s->k.options, NULL, NULL, &found, &s->k.err) !=
        TARN_OK) {
        trust_bad(t, "salvage: %s", s->k.err.detail);
        return;
    }
    if (!kit_reopen(&saved) || kit_verify(&saved, true) != 0)
        trust_bad(t, "what was saved is damaged: %s", saved.err.detail);
    for (size_t i = 0; saved.store && i < s->o.n_nodes; i++) {
        uint8_t key[TARNP_KEY_BYTES];
        uint64_t id, seed = s->o.nodes[i].seed;
        bool equal = false;
        tarnp_node node;
        kit_key(key, seed);
        if (seed == 0 || tarnp_commit_find(saved.store, key, &id, &saved.err) != TARN_OK ||
            tarnp_node_read(saved.store, id, &node, &saved.err) != TARN_OK)
            continue;
        oracle_size(seed);
        bool whole = (node.flags & TARNP_NODE_HAS_STATE) && node.n_sections == 4;
        tarnp_node_fini(&node);
        if (whole && kit_read(saved.store, id, seed, &equal, &saved.err) == TARN_OK && !equal)
            trust_bad(t, "what was saved of seed %llu is wrong", (unsigned long long)seed);
    }
    kit_remove(&saved);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void turn_bit(trust *t, uint64_t *random, uint8_t *data, size_t n)
{
    size_t at = (size_t)trust_below(random, n);
    unsigned bit = (unsigned)trust_below(random, 8);
    data[at] ^= (uint8_t)(1u << bit);
    trust_note(t, "bit %u of byte %zu (page %zu + %zu)", bit, at, at / 4096, at % 4096);
}

/* A few bytes, a sector, or a page in the place of another. */
static void spoil(trust *t, uint64_t *random, uint8_t *data, size_t n)
{
    size_t at = (size_t)trust_below(random, n), page = at / 4096 * 4096;
    uint64_t kind = trust_below(random, 3);
    if (kind == 0) {
        size_t some = 1 + (size_t)trust_below(random, 32);
        for (size_t i = at; i < n && i < at + some; i++)
            data[i] = (uint8_t)trust_random(random);
        trust_note(t, "%zu bytes at %zu", some, at);
    } else if (kind == 1) {
        memset(data + at / 512 * 512, 0, 512);
        trust_note(t, "no sector at %zu", at / 512 * 512);
    } else {
        size_t from = (size_t)trust_below(random, n / 4096) * 4096;
        memcpy(data + page, data + from, 4096);
        trust_note(t, "page %zu in the place of %zu", from / 4096, page / 4096);
    }
}

static void damage_store(trust *t, uint64_t seed,
                         void (*damage)(trust *, uint64_t *, uint8_t *, size_t))
{
    static subject s;
    uint64_t random = ~seed;
    char file[260];
    if (make_subject(t, &s, seed)) {
        uint8_t *copy = malloc(s.n_bytes);
        kit_file(&s.k, "data.mdb", file);
        for (int i = 0; i < FLIPS_A_STORE && !trust_enough(t); i++) {
            memcpy(copy, s.file, s.n_bytes);
            damage(t, &random, copy, s.n_bytes);
            t->n++;
            if (memcmp(copy, s.file, s.n_bytes) == 0)
                continue;
            if (!write_file(file, copy, s.n_bytes))
                trust_bad(t, "cannot write the file");
            if (i % 16 == 0)
                salvage(t, &s);
            ask(t, &s);
        }
        free(copy);
    }
    free(s.file);
    kit_end(&s.k);
}

static void bits_piece(trust *t, uint64_t seed)
{
    damage_store(t, seed, turn_bit);
}

static void spoil_piece(trust *t, uint64_t seed)
{
    damage_store(t, seed, spoil);
}

/* Every session of a store as a file, and each with bits turned over into an empty store. */
static void bundle_piece(trust *t, uint64_t seed)
{
    static subject s;
    uint64_t random = ~seed;
    kit other;
    kit_folder(&other);
    if (make_subject(t, &s, seed) && kit_reopen(&s.k) && kit_reopen(&other)) {
        for (size_t i = 0; i < s.o.n_sessions; i++) {
            kit_bundle f;
            if (!kit_export(&s.k, s.o.sessions[i].name, &f))
                trust_bad(t, "cannot export");
            for (int n = 0; n < FLIPS_A_STORE / 4 && !trust_enough(t); n++) {
                kit_bundle copy = kit_bundle_copy(&f);
                uint64_t head;
                turn_bit(t, &random, copy.data, copy.n_bytes);
                t->n++;
                if (kit_import(&other, &copy, NULL, &head) == TARN_OK)
                    trust_bad(t, "a changed file was taken");
                free(copy.data);
            }
            free(f.data);
        }
        tarnp_stat stat = kit_stat(&other);
        if (stat.sessions + stat.nodes + stat.chunks > 0 || kit_verify(&other, true) != 0)
            trust_bad(t, "something was left of refused files");
    }
    free(s.file);
    kit_end(&s.k);
    kit_end(&other);
}

CASE(bits)
{
    CHECK(trust_run("flips.bits", 1500, bits_piece));
}

CASE(spoilt)
{
    CHECK(trust_run("flips.spoilt", 1000, spoil_piece));
}

CASE(bundles)
{
    CHECK(trust_run("flips.bundles", 3000, bundle_piece));
}

CHECK_MAIN(ENTRY(bits), ENTRY(spoilt), ENTRY(bundles))
