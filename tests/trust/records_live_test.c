/* Sessions in a store whose records lie (lies.h): each is opened, looked at, continued, committed,
 * taken back, forked and parked. Each time:
 *
 *   - nothing crashes, and nothing goes on for ever;
 *   - a call succeeds, or says what is wrong in one line;
 *   - when all is closed, all memory has been given back. */
#include "check.h"
#include "fixture.h"
#include "lies.h"
#include "refuse.h"
#include "trust.h"

#include <unistd.h>

enum { N_KEPT = 24, N_NEW = 10, PIECE_SECONDS = 120 };

static purse money;
static tarn_allocator allocator;

static const char question[] = "Read the log.";
static const tarn_message user_message = {.size = sizeof user_message,
                                          .role = TARN_ROLE_USER,
                                          .text = question,
                                          .text_bytes = sizeof question - 1};

/* A session of three nodes with a message and an answer, and a branch of it. */
static void fill(rig *r)
{
    uint32_t ids[N_KEPT];
    rig_ids(r, 1, ids, N_KEPT);
    tarn_session *s = rig_session(r, "main", NULL);
    rig_feed(s, ids, N_KEPT / 2);
    rig_commit(s);
    rig_feed(s, ids + N_KEPT / 2, N_KEPT / 2);
    rig_commit(s);
    OK(tarn_session_append_message(s, &user_message, NULL, ERR));
    OK(tarn_session_generate(
        s, &(tarn_generate_options){.size = sizeof(tarn_generate_options), .n_tokens_max = 4},
        ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    tarn_session *child = rig_fork(s, "branch");
    rig_commit(s);
    rig_commit(child);
    tarn_session_close(child);
    tarn_session_close(s);
}

static bool lie(const char *path, uint64_t seed, tarn_error *err)
{
    const tarnp_options o = {.map_bytes = (size_t)1 << 26};
    tarnp_store *store;
    if (tarnp_store_open(path, &o, &store, err) != TARN_OK)
        return false;
    bool told = lies_tell(store, seed, err);
    tarnp_store_close(store);
    return told;
}

/* ---- trying ---------------------------------------------------------------------------------- */

typedef struct place {
    tarn_engine *engine;
    tarn_store *store;
    uint32_t ids[N_NEW];
    tarn_error err;
} place;

/* One call; whether it was done. */
static bool done(trust *t, place *p, const char *call, tarn_status status)
{
    trust_note(t, "%s", call);
    t->n++;
    trust_count(t, status == TARN_OK ? "done" : "refused", 1);
    if (status != TARN_OK &&
        (p->err.status != status || !p->err.detail[0] || strchr(p->err.detail, '\n')))
        trust_bad(t, "%s without a line of detail", tarn_status_name(status));
    return status == TARN_OK;
}

#define TRY(call) done(t, p, #call, (trust_note(t, "%s", #call), (call)))

static void use(trust *t, place *p, tarn_session *s)
{
    tarn_at at;
    tarn_price price;
    tarn_session *child;
    (void)TRY(tarn_session_price(s, "@t:15", &at, &price, &p->err));
    (void)TRY(tarn_session_price(s, "@turn:1", &at, &price, &p->err));
    if (TRY(tarn_session_append_tokens(s, p->ids, N_NEW, &p->err)))
        (void)TRY(tarn_session_run(s, NULL, NULL, &p->err));
    (void)TRY(tarn_session_commit(s, NULL, &p->err));
    (void)TRY(tarn_session_rewind(s, "@t:15", NULL, &p->err));
    (void)TRY(tarn_session_run(s, NULL, NULL, &p->err));
    if (TRY(tarn_session_append_message(s, &user_message, NULL, &p->err)))
        (void)TRY(tarn_session_run(s, NULL, NULL, &p->err));
    (void)TRY(tarn_session_park(s, &p->err));
    (void)TRY(tarn_session_rewind(s, "@t:12", NULL, &p->err));
    if (TRY(tarn_session_fork(s, "child", &child, &p->err)))
        tarn_session_close(child);
    (void)TRY(tarn_session_reset(s, NULL, &p->err));
    (void)TRY(tarn_session_run(s, NULL, NULL, &p->err));
    (void)TRY(tarn_session_sync_messages(s, &user_message, 1, NULL, &p->err));
}

static void use_store(trust *t, place *p)
{
    static const tarn_session_options look = {
        .size = sizeof look, .flags = TARN_SESSION_READ_ONLY, .where = "@t:15"};
    static const tarn_session_options create = {.size = sizeof create,
                                                .flags = TARN_SESSION_CREATE};
    tarn_session *s;
    tarn_explanation explained;
    if (TRY(tarn_store_explain(p->store, "main", NULL, &explained, &p->err)))
        tarn_explanation_free(&explained);
    if (TRY(tarn_session_open(p->engine, p->store, "main", &look, &s, NULL, &p->err))) {
        (void)TRY(tarn_session_run(s, NULL, NULL, &p->err));
        tarn_session_close(s);
    }
    static const char *const names[] = {"main", "branch"};
    for (size_t i = 0; i < 2; i++) {
        if (TRY(tarn_session_open(p->engine, p->store, names[i], NULL, &s, NULL, &p->err))) {
            use(t, p, s);
            tarn_session_close(s);
        }
    }
    if (TRY(tarn_session_open(p->engine, p->store, "new", &create, &s, NULL, &p->err))) {
        uint32_t ids[N_KEPT];
        tarn_ids all; /* as "main" begins, from which it goes on */
        if (TRY(tarn_store_tokens(p->store, "main", "@t:14", &all, &p->err))) {
            size_t n = all.n_ids < N_KEPT ? all.n_ids : N_KEPT;
            memcpy(ids, all.ids, n * sizeof *ids);
            tarn_ids_free(&all);
            if (n > 0 && TRY(tarn_session_append_tokens(s, ids, n, &p->err)))
                (void)TRY(tarn_session_run(s, NULL, NULL, &p->err));
        }
        tarn_session_close(s);
    }
}

static void piece(trust *t, uint64_t seed)
{
    rig r;
    char path[160];
    place p = {0};
    size_t n_bytes;
    trust_note(t, "making the store");
    rig_open(&r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1});
    fill(&r);
    rig_ids(&r, 2, p.ids, N_NEW);
    tarn_store_close(r.store);
    r.store = NULL;
    snprintf(path, sizeof path, "%s/data.mdb", r.store_path);
    char *file = rig_read_file(path, &n_bytes);
    allocator = refuse_allocator(&money);
    const tarn_store_options so = {
        .size = sizeof so, .allocator = &allocator, .map_bytes = (uint64_t)1 << 26};
    const tarn_engine_options eo = {.size = sizeof eo,
                                    .device = "cpu",
                                    .n_threads = 1,
                                    .keep_every = 8,
                                    .allocator = &allocator};
    for (uint64_t i = 0; i < 20 && !trust_enough(t); i++) {
        alarm(PIECE_SECONDS);
        rig_write_file(path, file, n_bytes);
        trust_note(t, "lie %d", (int)i);
        if (!lie(r.store_path, seed * 1000 + i, &p.err)) {
            trust_bad(t, "%s", p.err.detail);
            break;
        }
        OK(tarn_engine_open(r.model, &eo, &p.engine, ERR));
        if (tarn_store_open(r.store_path, &so, &p.store, &p.err) == TARN_OK)
            use_store(t, &p);
        else
            trust_count(t, "not opened", 1);
        tarn_store_close(p.store);
        p.store = NULL;
        tarn_engine_close(p.engine);
        if (money.live != 0)
            trust_bad(t, "lie %d: %ld blocks are still held", (int)i, (long)money.live);
        money.live = 0;
    }
    free(file);
    rig_close(&r);
}

/* Ids that no model has rows for: the least that is too large, and the largest. */
CASE(ids_beyond_the_model)
{
    for (int largest = 0; largest < 2; largest++) {
        rig r;
        tarn_session *s;
        tarnp_store *store;
        tarnp_session kept;
        tarnp_committed made;
        rig_open(&r, RIG_TINY, NULL);
        tarn_session_close(rig_session(&r, "main", NULL));
        tarn_store_close(r.store);
        const tarnp_options o = {.map_bytes = (size_t)1 << 26};
        const uint32_t id = largest ? UINT32_MAX : r.vocab;
        OK(tarnp_store_open(r.store_path, &o, &store, ERR));
        OK(tarnp_session_find(store, "main", &kept, ERR));
        const tarnp_segment segment = {.role = TARN_ROLE_TOKENS, .n_tokens = 1};
        tarnp_commit c = {.key = {1},
                          .session_id = kept.id,
                          .expected_head = kept.head,
                          .move_head = true,
                          .parent = kept.head,
                          .tokens = &id,
                          .n_tokens = 1,
                          .segments = &segment,
                          .n_segments = 1};
        memcpy(c.fp, kept.fp, sizeof c.fp);
        OK(tarnp_commit_node(store, &c, &made, ERR));
        tarnp_session_fini(&kept);
        tarnp_store_close(store);
        const tarn_store_options so = {.size = sizeof so};
        OK(tarn_store_open(r.store_path, &so, &r.store, ERR));
        REFUSED(tarn_session_open(r.engine, r.store, "main", NULL, &s, NULL, ERR), TARN_E_CORRUPT,
                "session main: token 0 is id");
        rig_close(&r);
    }
}

CASE(sessions)
{
    CHECK(trust_run("records_live.sessions", 4000, piece));
}

CHECK_MAIN(ENTRY(ids_beyond_the_model), ENTRY(sessions))
