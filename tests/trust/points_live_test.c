/* Every point at which a call on a model, an engine or a session may be refused something
 * (refuse.h). For each verb the first is refused, then the second, and so on, once and for good,
 * until the verb does not ask so often. Each time:
 *
 *   - it succeeds, or says what failed in one line;
 *   - the session is as before, or is poisoned, and a reset brings its last commit back;
 *   - unless it or the store is poisoned, the same call then works, and what the session computes
 *     is what it computes when nothing fails;
 *   - the store verifies and its sessions are those from before or after;
 *   - when engine and model are closed, all memory has been given back. */
#include "check.h"
#include "cold.h"
#include "disk.h"
#include "fixture.h"
#include "refuse.h"
#include "trust.h"

#include <unistd.h>

enum { N_KEPT = 24, N_NEW = 20 };

typedef struct bench {
    rig r; /* its folder; what nothing is refused to */
    char path[160], other[160];
    char *file; /* data.mdb as every trial finds it */
    size_t n_bytes;
    purse purse;
    tarn_allocator allocator;
    tarn_model *model;
    tarn_engine *engine;
    tarn_store *store;
    tarn_session *s, *child;
    uint32_t ids[N_NEW];
    tarn_error err;
} bench;

/* ---- a session to try things on -------------------------------------------------------------- */

static const char question[] = "Read the log.";
static const tarn_message user_message = {.size = sizeof user_message,
                                          .role = TARN_ROLE_USER,
                                          .text = question,
                                          .text_bytes = sizeof question - 1};

static void make_bench(bench *b)
{
    uint32_t ids[N_KEPT];
    memset(b, 0, sizeof *b);
    rig_open(&b->r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1});
    rig_ids(&b->r, 1, ids, N_KEPT);
    rig_ids(&b->r, 2, b->ids, N_NEW);
    tarn_session *s = rig_session(&b->r, "main", NULL);
    rig_feed(s, ids, N_KEPT / 2);
    rig_commit(s);
    rig_feed(s, ids + N_KEPT / 2, N_KEPT / 4);
    OK(tarn_session_append_message(s, &user_message, NULL, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    rig_commit(s);
    tarn_session_close(s);
    tarn_store_close(b->r.store);
    b->r.store = NULL;
    snprintf(b->path, sizeof b->path, "%s/data.mdb", b->r.store_path);
    snprintf(b->other, sizeof b->other, "%s/made", b->r.dir);
    b->file = rig_read_file(b->path, &b->n_bytes);
    b->allocator = refuse_allocator(&b->purse);
}

static tarn_status open_model(bench *b)
{
    const tarn_model_options o = {
        .size = sizeof o, .allocator = &b->allocator, .cache_dir = b->r.dir};
    return tarn_model_open(b->r.model_dir, &o, &b->model, &b->err);
}

static tarn_status open_engine(bench *b, bool keeps)
{
    const tarn_engine_options o = {.size = sizeof o,
                                   .device = "cpu",
                                   .n_threads = 1,
                                   .keep_every = keeps ? 16 : 0,
                                   .allocator = &b->allocator};
    return tarn_engine_open(b->model, &o, &b->engine, &b->err);
}

static tarn_status open_session(bench *b)
{
    return tarn_session_open(b->engine, b->store, "main", NULL, &b->s, NULL, &b->err);
}

static tarn_status open_store(bench *b)
{
    const tarn_store_options o = {
        .size = sizeof o, .allocator = &b->allocator, .map_bytes = (uint64_t)1 << 26};
    return tarn_store_open(b->r.store_path, &o, &b->store, &b->err);
}

static void reset_store(bench *b)
{
    char lock[160];
    snprintf(lock, sizeof lock, "%s/lock.mdb", b->r.store_path);
    unlink(lock);
    rig_write_file(b->path, b->file, b->n_bytes);
    rig_remove_folder(b->other);
}

static void close_all(bench *b)
{
    tarn_session_close(b->child);
    tarn_session_close(b->s);
    tarn_store_close(b->store);
    b->child = b->s = NULL;
    b->store = NULL;
}

/* ---- what is tried --------------------------------------------------------------------------- */

#define ERRB &b->err

static tarn_status run(bench *b)
{
    return tarn_session_run(b->s, NULL, NULL, ERRB);
}

static tarn_status append_tokens(bench *b)
{
    return tarn_session_append_tokens(b->s, b->ids, N_NEW, ERRB);
}

static tarn_status append_message(bench *b)
{
    return tarn_session_append_message(b->s, &user_message, NULL, ERRB);
}

static tarn_status append_begin(bench *b)
{
    return tarn_session_append_begin(b->s, &user_message, ERRB);
}

static tarn_status append_bytes(bench *b)
{
    static const char piece[] = "caf\xc3\xa9 and more of it, ";
    return tarn_session_append_bytes(b->s, piece, sizeof piece - 1, NULL, ERRB);
}

static tarn_status append_end(bench *b)
{
    return tarn_session_append_end(b->s, NULL, ERRB);
}

static tarn_status append_tools(bench *b)
{
    static const char tools[] = "[{\"name\":\"lookup\",\"parameters\":{\"a\":[1,2.5,true]}}]";
    return tarn_session_append_tools(b->s, tools, sizeof tools - 1, NULL, ERRB);
}

static tarn_status sync_json(bench *b)
{
    static const char list[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello.\"},{\"role\":\"assistant\","
        "\"content\":null,\"tool_calls\":[{\"id\":\"functions.a:0\",\"function\":{\"name\":\"a\","
        "\"arguments\":{\"b\":1}}}]}]}";
    return tarn_session_sync(b->s, list, sizeof list - 1, NULL, ERRB);
}

static tarn_status sync_messages(bench *b)
{
    return tarn_session_sync_messages(b->s, &user_message, 1, NULL, ERRB);
}

static tarn_status set_sampling(bench *b)
{
    const tarn_sampling p = {.size = sizeof p, .temperature = 0.7F, .seed = 3};
    return tarn_session_set_sampling(b->s, &p, ERRB);
}

static tarn_status generate(bench *b)
{
    const tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 4};
    return tarn_session_generate(b->s, &o, ERRB);
}

static tarn_status step(bench *b)
{
    return tarn_engine_step(b->engine, NULL, ERRB);
}

static tarn_status logits(bench *b)
{
    const float *row;
    uint32_t vocab;
    return tarn_session_logits(b->s, &row, &vocab, ERRB);
}

static void look_at(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                    const float *data)
{
    (void)user, (void)name, (void)dims, (void)n_dims, (void)data;
}

static tarn_status tensors(bench *b)
{
    return tarn_session_tensors(b->s, look_at, NULL, ERRB);
}

static tarn_status commit(bench *b)
{
    return tarn_session_commit(b->s, NULL, ERRB);
}

static tarn_status commit_begin(bench *b)
{
    tarn_ticket ticket;
    tarn_status status = tarn_session_commit_begin(b->s, &ticket, ERRB);
    if (status == TARN_OK)
        status = tarn_session_wait(b->s, ticket, TARN_COMMIT_SYNCED, 0, NULL, ERRB);
    return status;
}

static tarn_status fork_session(bench *b)
{
    return tarn_session_fork(b->s, "new", &b->child, ERRB);
}

static tarn_status rewind_node(bench *b)
{
    return tarn_session_rewind(b->s, "@t:12", NULL, ERRB);
}

static tarn_status rewind_between(bench *b)
{
    return tarn_session_rewind(b->s, "@t:15", NULL, ERRB);
}

static tarn_status price(bench *b)
{
    tarn_at at;
    tarn_price p;
    return tarn_session_price(b->s, "@t:15", &at, &p, ERRB);
}

static tarn_status park(bench *b)
{
    return tarn_session_park(b->s, ERRB);
}

static tarn_status reset(bench *b)
{
    return tarn_session_reset(b->s, NULL, ERRB);
}

static tarn_status create(bench *b)
{
    const tarn_tag tag = {"k", "v"};
    const tarn_session_options o = {
        .size = sizeof o, .flags = TARN_SESSION_CREATE, .tags = &tag, .n_tags = 1};
    return tarn_session_open(b->engine, b->store, "new", &o, &b->child, NULL, ERRB);
}

static tarn_status look(bench *b)
{
    const tarn_session_options o = {
        .size = sizeof o, .flags = TARN_SESSION_READ_ONLY, .where = "@t:15"};
    return tarn_session_open(b->engine, b->store, "main", &o, &b->child, NULL, ERRB);
}

/* Another session with the same beginning, which goes on from this one's. */
static tarn_status adopt(bench *b)
{
    uint32_t ids[N_KEPT];
    rig_ids(&b->r, 1, ids, N_KEPT);
    tarn_status status = create(b);
    if (status == TARN_OK)
        status = tarn_session_append_tokens(b->child, ids, N_KEPT / 2 + 2, ERRB);
    return status == TARN_OK ? tarn_session_run(b->child, NULL, NULL, ERRB) : status;
}

static tarn_status engine(bench *b)
{
    tarn_engine *kept = b->engine;
    tarn_status status = open_engine(b, false);
    if (status == TARN_OK)
        tarn_engine_close(b->engine);
    b->engine = kept;
    return status;
}

static tarn_status model(bench *b)
{
    tarn_model *kept = b->model;
    tarn_model_info info = {.size = sizeof info};
    tarn_status status = open_model(b);
    if (status == TARN_OK) {
        status = tarn_model_describe(b->model, TARN_NUMERICS_NATIVE, &info, ERRB);
        tarn_model_close(b->model);
    }
    b->model = kept;
    return status;
}

static tarn_status tokenize(bench *b)
{
    tarn_ids ids;
    tarn_text text = {0};
    tarn_status status =
        tarn_model_tokenize(b->model, question, sizeof question - 1, true, &ids, ERRB);
    if (status == TARN_OK)
        status = tarn_model_detokenize(b->model, ids.ids, ids.n_ids, &text, ERRB);
    tarn_ids_free(&ids);
    tarn_text_free(&text);
    return status;
}

static tarn_status render(bench *b)
{
    static const char chat[] = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
                               "\"text\":\"Hi\"}]}],\"tools\":[{\"name\":\"x\"}]}";
    tarn_ids ids;
    tarn_status status = tarn_model_render_chat(b->model, chat, sizeof chat - 1, &ids, ERRB);
    tarn_ids_free(&ids);
    return status;
}

static tarn_status plan(bench *b)
{
    tarn_plan_report report = {.size = sizeof report};
    return tarn_plan(b->model, NULL, &report, ERRB);
}

static tarn_status synth(bench *b)
{
    const tarn_synth_options o = {
        .size = sizeof o, .preset = "tiny", .seed = 1, .allocator = &b->allocator};
    rig_remove_folder(b->other); /* what is done again begins anew */
    return tarn_model_synth(b->other, &o, NULL, NULL, ERRB);
}

enum {
    CLOSED = 1,    /* the session is opened by the verb */
    AGAIN_BAD = 2, /* done twice it is refused */
    COMMITS = 4,   /* may have committed before it failed */
    KEEPS = 8,     /* with states kept on the way */
    LEAVES = 16,   /* what it does in the store it may leave undone, and says so in the log */
    ONCE = 32,     /* in parts: the second time is another call */
    BACK = 64,     /* without memory it may not come back from where it went */
    JSON = 128     /* parses JSON: jansson 2.14 ends the process itself where malloc, not the
                      allocator, fails while it grows a string (load.c, lex_scan_string) */
};

static const struct trial {
    const char *name;
    tarn_status (*run)(bench *b);
    unsigned flags;
    tarn_status (*before[3])(bench *b);
} trials[] = {
    {"append_tokens", append_tokens, 0, {NULL}},
    {"append_message", append_message, 0, {NULL}},
    {"append_begin", append_begin, AGAIN_BAD, {NULL}},
    {"append_bytes", append_bytes, 0, {append_begin}},
    {"append_end", append_end, AGAIN_BAD, {append_begin, append_bytes}},
    {"append_tools", append_tools, JSON, {NULL}},
    {"sync", sync_json, COMMITS | BACK | JSON, {NULL}},
    {"sync_messages", sync_messages, COMMITS | BACK, {append_tokens, run}},
    {"set_sampling", set_sampling, 0, {NULL}},
    {"generate", generate, AGAIN_BAD, {NULL}},
    {"step", step, COMMITS | KEEPS, {append_tokens}},
    {"run", run, COMMITS | KEEPS, {append_tokens, generate}},
    {"logits of a parked session", logits, 0, {park}},
    {"tensors of a parked session", tensors, 0, {park}},
    {"commit", commit, COMMITS, {append_tokens, run}},
    {"commit_begin, wait", commit_begin, COMMITS, {append_tokens, run}},
    {"fork", fork_session, AGAIN_BAD, {append_tokens, run}},
    {"rewind to a node", rewind_node, COMMITS, {append_tokens, run}},
    {"rewind between nodes", rewind_between, COMMITS, {NULL}},
    {"price", price, 0, {NULL}},
    {"park", park, 0, {NULL}},
    {"reset", reset, 0, {append_tokens, run}},
    {"open", open_session, CLOSED | AGAIN_BAD, {NULL}},
    {"open, new", create, CLOSED | AGAIN_BAD, {NULL}},
    {"open, read-only", look, CLOSED | AGAIN_BAD, {NULL}},
    {"a prefix adopted", adopt, CLOSED | COMMITS | LEAVES | ONCE, {NULL}},
    {"engine_open", engine, CLOSED, {NULL}},
    {"model_open, describe", model, CLOSED | JSON, {NULL}},
    {"tokenize, detokenize", tokenize, CLOSED, {NULL}},
    {"render_chat", render, CLOSED | JSON, {NULL}},
    {"plan", plan, CLOSED | JSON, {NULL}},
    {"synth", synth, CLOSED | JSON, {NULL}},
};

enum { N_TRIALS = sizeof trials / sizeof trials[0] };

/* ---- comparing ------------------------------------------------------------------------------- */

/* What a session is and, after what waits has been computed, gives; 0 after an error. */
static uint64_t fingerprint_of(tarn_session *s)
{
    const float *row;
    uint64_t hash = 0;
    uint32_t vocab;
    tarn_error err;
    if (!s)
        return 1;
    if (tarn_session_run(s, NULL, NULL, &err) != TARN_OK)
        return 0;
    if (tarn_session_logits(s, &row, &vocab, &err) == TARN_OK)
        hash = cold_hash(row, vocab * sizeof *row);
    tarn_session_info is = rig_info(s);
    uint64_t all[] = {hash, is.at.position, is.turns, is.appending, is.turn_open};
    return cold_hash(all, sizeof all);
}

static uint64_t fingerprint(bench *b)
{
    uint64_t both[] = {fingerprint_of(b->s), fingerprint_of(b->child)};
    return both[0] && both[1] ? cold_hash(both, sizeof both) : 0;
}

static bool describe(bench *b, char *out, size_t n, char why[200])
{
    const tarn_store_options o = {.size = sizeof o, .map_bytes = (uint64_t)1 << 26};
    tarn_session_list list;
    tarn_store *store;
    size_t at = 0;
    if (tarn_store_open(b->r.store_path, &o, &store, ERR) != TARN_OK) {
        snprintf(why, 200, "does not open: %.150s", rig_error.detail);
        return false;
    }
    bool good = rig_verify(store) == 0 && tarn_store_list(store, NULL, &list, ERR) == TARN_OK;
    snprintf(why, 200, "is damaged");
    for (size_t i = 0; good && i < list.n_entries && at < n; i++)
        at += (size_t)snprintf(out + at, n - at, "%s at %llu; ", list.entries[i].name,
                               (unsigned long long)list.entries[i].position);
    if (good)
        tarn_session_list_free(&list);
    tarn_store_close(store);
    return good;
}

typedef struct expected {
    char before[300], after[300];
    uint64_t print;
} expected;

/* Opens what the trial needs and does what comes before it. */
static bool prepare(bench *b, const struct trial *trial)
{
    reset_store(b);
    tarn_status status = open_store(b);
    if (status == TARN_OK && !(trial->flags & CLOSED))
        status = open_session(b);
    for (size_t i = 0; i < 3 && status == TARN_OK && trial->before[i]; i++)
        status = trial->before[i](b);
    return status == TARN_OK;
}

static bool expect(bench *b, const struct trial *trial, expected *e, char why[200])
{
    reset_store(b);
    if (!describe(b, e->before, sizeof e->before, why))
        return false;
    bool good = prepare(b, trial) && trial->run(b) == TARN_OK;
    e->print = good ? fingerprint(b) : 0;
    close_all(b);
    if (e->print == 0) {
        snprintf(why, 200, "fails by itself: %.150s", b->err.detail);
        return false;
    }
    return describe(b, e->after, sizeof e->after, why);
}

/* ---- trying ---------------------------------------------------------------------------------- */

static void check_unchanged(trust *t, const struct trial *trial, const tarn_session_info *was,
                            const tarn_session_info *is)
{
    if (is->at.position + is->tokens_waiting != was->at.position + was->tokens_waiting ||
        is->appending != was->appending ||
        (!(trial->flags & COMMITS) && is->committed != was->committed))
        trust_bad(t, "after the error it is at %llu and %llu wait; it was at %llu and %llu waited",
                  (unsigned long long)is->at.position, (unsigned long long)is->tokens_waiting,
                  (unsigned long long)was->at.position, (unsigned long long)was->tokens_waiting);
}

/* A session that failed comes back to what is kept of it. */
static void check_reset(trust *t, bench *b)
{
    if (tarn_session_reset(b->s, NULL, ERRB) == TARN_OK) {
        trust_count(t, "poisoned and reset", 1);
        if (fingerprint_of(b->s) == 0)
            trust_bad(t, "after a reset: %s", b->err.detail);
    } else if (b->err.status != TARN_E_POISONED) {
        trust_bad(t, "reset: %s", b->err.detail);
    }
}

/* The verb failed; whether it was done after all, at the second time. */
static bool try_again(trust *t, bench *b, const struct trial *trial, const tarn_session_info *was,
                      bool was_for_good)
{
    tarn_error first = b->err;
    if (b->s && !(trial->flags & CLOSED)) {
        tarn_session_info is = rig_info(b->s);
        bool stayed = (trial->flags & BACK) && was_for_good && is.at.position == 0;
        if (stayed)
            trust_count(t, "not back", 1);
        else
            check_unchanged(t, trial, was, &is);
    }
    if (first.status == TARN_E_POISONED || (trial->flags & ONCE))
        return false;
    tarn_session_close(b->child);
    b->child = NULL;
    tarn_status status = trial->run(b);
    if (status == TARN_OK)
        return true;
    /* BUSY: no lease can be given back without memory; it lasts until it ends */
    if (status == TARN_E_POISONED || status == TARN_E_BUSY ||
        ((trial->flags & AGAIN_BAD) && status == TARN_E_EXISTS))
        trust_count(t, "not again", 1);
    else
        trust_bad(t, "%s (%s); done again it says %s", tarn_status_name(first.status), first.detail,
                  b->err.detail);
    return false;
}

static void judge_store(trust *t, bench *b, const struct trial *trial, const expected *e, bool done)
{
    char now[300] = "", why[200];
    if (!describe(b, now, sizeof now, why))
        trust_bad(t, "the store %s", why);
    else if (strcmp(now, e->after) != 0 && !(trial->flags & LEAVES) &&
             (done || (strcmp(now, e->before) != 0 && !(trial->flags & COMMITS))))
        trust_bad(t, "the store holds %s", now);
}

/* One refusal; false where the verb did not come so far. */
static bool refuse(trust *t, bench *b, const struct trial *trial, const refusal *r, uint64_t at,
                   bool for_good, const expected *e)
{
    if (!prepare(b, trial)) {
        trust_bad(t, "cannot begin: %s", b->err.detail);
        close_all(b);
        return false;
    }
    tarn_session_info was = {0};
    if (b->s)
        was = rig_info(b->s);
    unsigned n_files = refuse_open_files();
    memset(&b->err, 0, sizeof b->err);
    refuse_begin(&b->purse, r, at, for_good);
    tarn_status status = trial->run(b);
    uint64_t n_calls = refuse_end(&b->purse, r);
    bool failed = b->s && rig_info(b->s).state == TARN_SESSION_POISONED; /* by a step */
    bool done = status == TARN_OK && !failed;
    t->n++;
    trust_count(t, done ? "borne" : "refused", 1);
    if (!(trial->flags & KEEPS) && refuse_open_files() != n_files) /* the encoder may be at work */
        trust_bad(t, "%u files are open, %u were", refuse_open_files(), n_files);
    if (failed) {
        check_reset(t, b);
    } else if (!done) {
        if (b->err.status != status || !b->err.detail[0] || strchr(b->err.detail, '\n'))
            trust_bad(t, "%s without a line of detail", tarn_status_name(status));
        if (status == TARN_E_CORRUPT || status == TARN_E_NOT_FOUND)
            trust_bad(t, "says %s: %s", tarn_status_name(status), b->err.detail);
        done = try_again(t, b, trial, &was, for_good);
    }
    if (done && fingerprint(b) != e->print)
        trust_bad(t, "done, it is not what it is when nothing fails (%s)", b->err.detail);
    close_all(b);
    judge_store(t, b, trial, e, done);
    return n_calls > at;
}

/* All refusals of some kinds, for one verb. */
static void try_all(trust *t, uint64_t seed, int first, int behind)
{
    static bench b;
    static expected e;
    char why[200] = "";
    if (seed > N_TRIALS) {
        t->wanted = t->n;
        return;
    }
    const struct trial *trial = &trials[seed - 1];
    bool quick = !getenv("TARN_TRUST_COUNT");
    make_bench(&b);
    for (int i = first; i < behind; i++)
        for (int for_good = (trial->flags & JSON) && refusals[i].calls == DISK_MEMORY ? 2 : 0;
             for_good < 2; for_good++) {
            trust_note(t, "%s, %s", trial->name, refusals[i].name);
            if (open_model(&b) != TARN_OK || open_engine(&b, trial->flags & KEEPS) != TARN_OK ||
                !expect(&b, trial, &e, why)) {
                trust_bad(t, "%s %s", why, b.err.detail);
                return;
            }
            for (uint64_t at = 0; at < 3000; at += quick ? 1 + at / 2 : 1) {
                trust_note(t, "%s, %s %llu%s", trial->name, refusals[i].name,
                           (unsigned long long)at, for_good ? " and after" : "");
                if (!refuse(t, &b, trial, &refusals[i], at, for_good, &e))
                    break;
            }
            tarn_engine_close(b.engine);
            tarn_model_close(b.model);
            if (b.purse.live != 0)
                trust_bad(t, "%ld blocks are still held", (long)b.purse.live);
            b.purse.live = 0;
        }
    free(b.file);
    rig_close(&b.r);
}

static void memory_piece(trust *t, uint64_t seed)
{
    try_all(t, seed, 0, N_REFUSALS_MEMORY);
}

static void calls_piece(trust *t, uint64_t seed)
{
    try_all(t, seed, N_REFUSALS_MEMORY, N_REFUSALS);
}

CASE(memory)
{
    CHECK(trust_run("points_live.memory", 1000000, memory_piece));
}

CASE(calls)
{
    CHECK(trust_run("points_live.calls", 1000000, calls_piece));
}

CHECK_MAIN(ENTRY(memory), ENTRY(calls))
