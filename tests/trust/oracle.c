#include "oracle.h"

#include "prefix.h"
#include "trust.h"

#define PAST_MS   1000
#define FUTURE_MS ((uint64_t)1 << 50)

static const char *const op_names[OP_KINDS] = {
    "append", "branch", "submit",  "create", "fork",  "move", "rename", "remove",
    "mark",   "evict",  "collect", "import", "lease", "look", "reopen", "compact"};

const char *op_name(op_kind kind)
{
    return op_names[kind];
}

op op_random(uint64_t *random)
{
    static const uint8_t weights[OP_KINDS] = {40, 6, 6, 8, 10, 8, 4, 6, 8, 4, 2, 3, 3, 4, 2, 1};
    unsigned all = 0;
    op o = {0};
    for (int i = 0; i < OP_KINDS; i++)
        all += weights[i];
    uint64_t dice = trust_below(random, all);
    while (dice >= weights[o.kind])
        dice -= weights[o.kind++];
    o.a = trust_random(random) >> 16;
    o.b = trust_random(random) >> 16;
    return o;
}

/* ---- the oracle ----------------------------------------------------------------------------- */

static oracle_session *session_at(oracle *o, uint64_t i)
{
    return o->n_sessions ? &o->sessions[i % o->n_sessions] : NULL;
}

oracle_session *oracle_session_named(oracle *o, const char *name)
{
    for (size_t i = 0; i < o->n_sessions; i++)
        if (strcmp(o->sessions[i].name, name) == 0)
            return &o->sessions[i];
    return NULL;
}

const oracle_node *oracle_node_of(const oracle *o, uint64_t id)
{
    for (size_t i = 0; i < o->n_nodes; i++)
        if (o->nodes[i].id == id)
            return &o->nodes[i];
    return NULL;
}

static uint64_t node_at(const oracle *o, uint64_t i)
{
    return o->n_nodes ? o->nodes[i % o->n_nodes].id : 0;
}

static void add_node(oracle *o, uint64_t id, uint64_t parent, uint64_t owner, uint64_t seed)
{
    if (o->n_nodes < ORACLE_NODES)
        o->nodes[o->n_nodes++] = (oracle_node){id, parent, owner, seed, 0, seed != 0};
}

static void keep(oracle_session *s, uint64_t node)
{
    for (size_t i = 0; i < s->n_kept; i++)
        if (s->kept[i] == node)
            return;
    if (s->n_kept < ORACLE_KEPT)
        s->kept[s->n_kept++] = node;
}

/* Nodes stand in the order of their ids, so one pass from the end reaches all ancestors. */
static void drop_dead(oracle *o)
{
    bool alive[ORACLE_NODES] = {0};
    size_t n = 0;
    for (size_t i = o->n_nodes; i-- > 0;) {
        const oracle_node *node = &o->nodes[i];
        for (size_t s = 0; s < o->n_sessions && !alive[i]; s++) {
            const oracle_session *session = &o->sessions[s];
            alive[i] = session->head == node->id || session->id == node->owner;
            for (size_t j = 0; j < session->n_kept; j++)
                alive[i] = alive[i] || session->kept[j] == node->id;
        }
        for (size_t j = i; alive[i] && j-- > 0;)
            alive[j] = alive[j] || o->nodes[j].id == node->parent;
    }
    for (size_t i = 0; i < o->n_nodes; i++)
        if (alive[i])
            o->nodes[n++] = o->nodes[i];
    o->n_nodes = n;
}

static bool is_full(const oracle *o)
{
    return o->n_nodes + 16 > ORACLE_NODES;
}

/* ---- operations ------------------------------------------------------------------------------ */

/* What an operation works on; `want` is the status it must return. */
typedef struct act {
    oracle *o;
    kit *k;
    uint64_t a, b;
    char *why;
} act;

static bool differs(const act *x, const char *what, tarn_status got, tarn_status want)
{
    if (got == want)
        return false;
    snprintf(x->why, 200, "%s is %s, should be %s: %.120s", what, tarn_status_name(got),
             tarn_status_name(want), got ? x->k->err.detail : "");
    return true;
}

static void name_from(char out[16], uint64_t i)
{
    snprintf(out, 16, "s%u", (unsigned)(i % (ORACLE_SESSIONS - 2)));
}

static tarn_status commit(const act *x, uint64_t session, uint64_t head, uint64_t parent,
                          uint64_t seed, bool move, tarnp_committed *made)
{
    oracle_size(seed);
    return kit_commit(x->k->store, session, head, parent, seed, move, made, &x->k->err);
}

static uint64_t seed_from(const act *x)
{
    return x->b << 8 | 1;
}

static bool append(const act *x)
{
    oracle_session *s = session_at(x->o, x->a);
    tarnp_committed made;
    if (!s || is_full(x->o))
        return true;
    uint64_t stale = x->b % 7 == 0 ? s->head + 1000000 : s->head;
    tarn_status status = commit(x, s->id, stale, s->head, seed_from(x), true, &made);
    if (stale != s->head)
        return !differs(x, "a commit on a stale head", status, TARN_E_CONFLICT);
    if (differs(x, "commit", status, TARN_OK))
        return false;
    add_node(x->o, made.node, s->head, s->id, seed_from(x));
    s->head = made.node;
    /* The same key again is the same node. */
    status = commit(x, s->id, made.node, made.node, seed_from(x), true, &made);
    if (differs(x, "commit again", status, TARN_OK))
        return false;
    if (!made.existed || made.node != s->head)
        snprintf(x->why, 200, "a commit done again made node %llu", (unsigned long long)made.node);
    return made.existed && made.node == s->head;
}

static bool branch(const act *x)
{
    oracle_session *s = session_at(x->o, x->a);
    tarnp_committed made;
    if (!s || is_full(x->o))
        return true;
    uint64_t parent = node_at(x->o, x->b);
    if (differs(x, "commit beside", commit(x, s->id, 0, parent, seed_from(x), false, &made),
                TARN_OK))
        return false;
    add_node(x->o, made.node, parent, s->id, seed_from(x));
    return true;
}

void oracle_prepare(oracle_commit *x, uint64_t session, uint64_t parent, uint64_t seed)
{
    oracle_size(seed);
    kit_fill(&x->c, seed);
    kit_lay(&x->l, &x->c);
    x->ids[0] = x->c.call_id;
    x->segments[0] = (tarnp_segment){
        .role = TARN_ROLE_USER, .flags = TARNP_SEGMENT_CLOSED, .n_tokens = x->c.n_tokens - 1};
    x->segments[1] = (tarnp_segment){
        .role = TARN_ROLE_ASSISTANT, .n_tokens = 1, .n_call_ids = 1, .call_ids = x->ids};
    x->commit = (tarnp_commit){.session_id = session,
                               .parent = parent,
                               .flags = TARNP_NODE_HAS_STATE,
                               .numerics = "cpu/f32",
                               .tokens = x->c.tokens,
                               .n_tokens = x->c.n_tokens,
                               .segments = x->segments,
                               .n_segments = 2,
                               .sections = x->l.sections,
                               .n_sections = 3};
    kit_key(x->commit.key, seed);
    memcpy(x->commit.fp, kit_fp, sizeof kit_fp);
}

static tarn_status submit_one(const act *x, const oracle_session *s, uint64_t parent, uint64_t seed,
                              tarnp_ticket **ticket)
{
    oracle_commit one;
    oracle_prepare(&one, s->id, parent, seed);
    tarn_status status = tarnp_commit_submit(x->k->store, &one.commit, ticket, &x->k->err);
    free(one.c.state);
    return status;
}

/* Nodes on one parent, written by the store's own thread, maybe in one transaction. */
static bool submit(const act *x)
{
    oracle_session *s = session_at(x->o, x->a);
    tarnp_ticket *tickets[3] = {0};
    uint64_t parent = node_at(x->o, x->b);
    bool good = true;
    if (!s || is_full(x->o))
        return true;
    for (uint64_t i = 0; i < 3; i++)
        good = good &&
               !differs(x, "submit",
                        submit_one(x, s, parent, seed_from(x) + 2 * i + 2, &tickets[i]), TARN_OK);
    for (uint64_t i = 0; i < 3 && tickets[i]; i++) {
        tarnp_committed made;
        good = good && !differs(x, "wait",
                                tarnp_ticket_wait(x->k->store, tickets[i], TARNP_TICKET_SYNCED,
                                                  TARNP_WAIT_FOREVER, &made, &x->k->err),
                                TARN_OK);
        if (good)
            add_node(x->o, made.node, parent, s->id, seed_from(x) + 2 * i + 2);
        tarnp_ticket_free(tickets[i]);
    }
    return good;
}

static bool create(const act *x)
{
    char name[16];
    tarnp_session s;
    name_from(name, x->a);
    bool taken = oracle_session_named(x->o, name);
    if (is_full(x->o))
        return true;
    tarn_status status =
        tarnp_session_create(x->k->store, name, kit_fp, "cpu/f32", NULL, 0, &s, &x->k->err);
    if (differs(x, "create", status, taken ? TARN_E_EXISTS : TARN_OK))
        return false;
    if (taken)
        return true;
    oracle_session *made = &x->o->sessions[x->o->n_sessions++];
    *made = (oracle_session){.id = s.id, .head = s.head};
    memcpy(made->name, name, sizeof name);
    add_node(x->o, s.head, 0, s.id, 0);
    tarnp_session_fini(&s);
    return true;
}

static bool fork_at(const act *x)
{
    char name[16];
    tarnp_session s;
    name_from(name, x->a);
    bool taken = oracle_session_named(x->o, name);
    uint64_t node = node_at(x->o, x->b);
    if (node == 0)
        return true;
    tarn_status status = tarnp_session_fork(x->k->store, node, name, &s, NULL, &x->k->err);
    if (differs(x, "fork", status, taken ? TARN_E_EXISTS : TARN_OK))
        return false;
    if (taken)
        return true;
    oracle_session *made = &x->o->sessions[x->o->n_sessions++];
    *made = (oracle_session){.id = s.id, .head = s.head};
    memcpy(made->name, name, sizeof name);
    tarnp_session_fini(&s);
    return true;
}

static bool move(const act *x)
{
    oracle_session *s = session_at(x->o, x->a);
    if (!s)
        return true;
    uint64_t node = x->b % 11 == 0 ? 1u << 30 : node_at(x->o, x->b);
    tarn_status status = tarnp_session_move(x->k->store, s->id, s->head, node, NULL, &x->k->err);
    if (differs(x, "move", status, node == 1u << 30 ? TARN_E_NOT_FOUND : TARN_OK))
        return false;
    if (status == TARN_OK && s->head != node) {
        keep(s, s->head);
        s->head = node;
    }
    return true;
}

static bool rename_one(const act *x)
{
    char name[16];
    oracle_session *s = session_at(x->o, x->a);
    if (!s)
        return true;
    name_from(name, x->b);
    bool same = strcmp(name, s->name) == 0, taken = oracle_session_named(x->o, name);
    tarn_status status = tarnp_session_rename(x->k->store, s->name, name, &x->k->err);
    if (same ? status != TARN_OK && differs(x, "rename", status, TARN_E_EXISTS)
             : differs(x, "rename", status, taken ? TARN_E_EXISTS : TARN_OK))
        return false;
    if (status == TARN_OK)
        memcpy(s->name, name, sizeof name);
    return true;
}

static void forget_session(oracle *o, oracle_session *s)
{
    *s = o->sessions[--o->n_sessions];
    drop_dead(o);
}

static bool remove_one(const act *x)
{
    char name[16];
    name_from(name, x->a);
    oracle_session *s = oracle_session_named(x->o, name);
    tarn_status status = tarnp_session_remove(x->k->store, name, &x->k->err);
    if (differs(x, "remove", status, s ? TARN_OK : TARN_E_NOT_FOUND))
        return false;
    if (s)
        forget_session(x->o, s);
    return true;
}

static bool mark(const act *x)
{
    oracle_session *s = session_at(x->o, x->a);
    tarnp_store *store = x->k->store;
    tarn_error *err = &x->k->err;
    char text[8];
    if (!s)
        return true;
    snprintf(text, sizeof text, "v%u", (unsigned)(x->b / 8 % 5));
    switch (x->b % 5) {
    case 0:
        memcpy(s->tag, text, sizeof text);
        return !differs(x, "tag", tarnp_session_tag(store, s->name, "key", text, err), TARN_OK);
    case 1:
        s->tag[0] = 0;
        return !differs(x, "untag", tarnp_session_tag(store, s->name, "key", NULL, err), TARN_OK);
    case 2:
        s->pinned = x->b / 8 % 2;
        return !differs(x, "pin", tarnp_session_pin(store, s->name, s->pinned, err), TARN_OK);
    case 3:
        s->expires_ms = x->b / 8 % 3 == 0 ? PAST_MS : x->b / 8 % 3 == 1 ? FUTURE_MS : 0;
        return !differs(x, "expire", tarnp_session_expire(store, s->name, s->expires_ms, err),
                        TARN_OK);
    default:
        memcpy(s->group, text, sizeof text);
        return !differs(x, "group", tarnp_session_set_group(store, s->name, text, err), TARN_OK);
    }
}

static void may_lack(oracle *o, uint64_t id)
{
    for (size_t i = 0; i < o->n_nodes; i++)
        if (o->nodes[i].id == id && o->nodes[i].lacking == 0)
            o->nodes[i].lacking = o->n_ops;
}

static bool evict(const act *x)
{
    uint64_t node = node_at(x->o, x->b), freed;
    if (node == 0)
        return true;
    may_lack(x->o, node);
    return !differs(x, "evict",
                    tarnp_node_evict(x->k->store, node, TARNP_PART_STATE, &freed, &x->k->err),
                    TARN_OK);
}

/* Whether a session that is pinned needs the node. */
static bool is_pinned(const oracle *o, uint64_t id)
{
    for (size_t i = 0; i < o->n_sessions; i++)
        for (uint64_t at = o->sessions[i].pinned ? o->sessions[i].head : 0; at;) {
            const oracle_node *node = oracle_node_of(o, at);
            if (at == id)
                return true;
            at = node ? node->parent : 0;
        }
    return false;
}

bool oracle_expire(oracle *o, unsigned which)
{
    unsigned bit = 1;
    for (size_t i = 0; i < o->n_sessions; i++)
        bit <<= o->sessions[i].expires_ms == PAST_MS && !o->sessions[i].pinned;
    if (which >= bit)
        return false;
    for (size_t i = o->n_sessions; i-- > 0;) {
        oracle_session *s = &o->sessions[i];
        if (s->expires_ms != PAST_MS || s->pinned)
            continue;
        bit >>= 1;
        if (which & bit)
            forget_session(o, s);
    }
    return true;
}

static void expire_all(oracle *o)
{
    for (unsigned which = 1 << ORACLE_SESSIONS; which-- > 1;)
        if (oracle_expire(o, which))
            return;
}

static bool collect(const act *x)
{
    const tarnp_gc_options options = {.now_ms = FUTURE_MS - 1,
                                      .keep_newest = 1 + (uint32_t)(x->b % 3),
                                      .rung_tokens = 1 + (uint32_t)(x->a % 200)};
    tarnp_gc_report report;
    if (differs(x, "gc", tarnp_store_gc(x->k->store, &options, &report, &x->k->err), TARN_OK))
        return false;
    bool good = true;
    expire_all(x->o);
    for (size_t i = 0; i < report.n_dropped; i++) {
        const tarnp_dropped *d = &report.dropped[i];
        if (d->what == TARNP_DROPPED_STATE || d->what == TARNP_DROPPED_LATENTS) {
            may_lack(x->o, d->node);
            if (is_pinned(x->o, d->node) && good) {
                snprintf(x->why, 200, "gc took the state of node %llu, which is pinned",
                         (unsigned long long)d->node);
                good = false;
            }
        }
    }
    tarni_free(tarnp_store_allocator(x->k->store), report.dropped);
    return good;
}

/* Of a chain that came in again: nodes with new ids hold what the nodes they were exported from do.
 */
static bool follow_import(const act *x, uint64_t from, const tarnp_session *made)
{
    uint64_t *old = NULL, *now = NULL;
    size_t n_old = 0, n_now = 0;
    tarnp_store *store = x->k->store;
    tarn_error *err = &x->k->err;
    bool good =
        !differs(x, "chain", tarnp_node_chain(store, from, &old, &n_old, err), TARN_OK) &&
        !differs(x, "chain", tarnp_node_chain(store, made->head, &now, &n_now, err), TARN_OK);
    if (good && n_old != n_now)
        snprintf(x->why, 200, "%zu nodes were imported of %zu", n_now, n_old);
    good = good && n_old == n_now;
    for (size_t i = 0; good && i < n_now; i++) {
        const oracle_node *source = oracle_node_of(x->o, old[i]);
        if (oracle_node_of(x->o, now[i]))
            continue;
        add_node(x->o, now[i], i ? now[i - 1] : 0, made->id, source ? source->seed : 0);
        x->o->nodes[x->o->n_nodes - 1].keyed = false;
        if (source && source->lacking)
            may_lack(x->o, now[i]);
    }
    tarni_free(tarnp_store_allocator(store), old);
    tarni_free(tarnp_store_allocator(store), now);
    return good;
}

static bool import(const act *x)
{
    char name[16];
    oracle_session *s = session_at(x->o, x->a);
    name_from(name, x->b);
    if (!s || oracle_session_named(x->o, name) || is_full(x->o) || x->o->n_nodes > ORACLE_NODES / 2)
        return true;
    kit_bundle f = {0};
    uint64_t n_bytes, head = s->head;
    tarnp_session made = {0};
    bool good = !differs(x, "export",
                         tarnp_export(x->k->store, s->name, kit_bundle_write, &f, NULL, NULL,
                                      &n_bytes, &x->k->err),
                         TARN_OK) &&
                !differs(x, "import",
                         tarnp_import(x->k->store, kit_bundle_read, &f, name, NULL, NULL, &made,
                                      &n_bytes, &x->k->err),
                         TARN_OK);
    free(f.data);
    if (good) {
        oracle_session *now = &x->o->sessions[x->o->n_sessions++];
        *now = (oracle_session){.id = made.id, .head = made.head};
        memcpy(now->name, name, sizeof name);
        memcpy(now->tag, s->tag, sizeof s->tag);
        good = follow_import(x, head, &made);
    }
    tarnp_session_fini(&made);
    return good;
}

static bool lease(const act *x)
{
    oracle_session *s = session_at(x->o, x->a);
    tarnp_lease l;
    tarnp_committed made;
    if (!s)
        return true;
    tarnp_store *store = x->k->store;
    if (differs(x, "lease", tarnp_lease_take(store, s->id, 60000, "oracle", &l, &x->k->err),
                TARN_OK))
        return false;
    tarn_status busy = commit(x, s->id, s->head, s->head, seed_from(x), true, &made);
    tarn_status gone = tarnp_session_remove(store, s->name, &x->k->err);
    if (differs(x, "release", tarnp_lease_release(store, &l, &x->k->err), TARN_OK))
        return false;
    return !differs(x, "a commit without the lease", busy, TARN_E_BUSY) &&
           !differs(x, "a removal without the lease", gone, TARN_E_BUSY);
}

static bool look(const act *x)
{
    oracle_session *s = session_at(x->o, x->a);
    uint64_t node = 0, quota = 1;
    size_t n = 0;
    uint8_t key[TARNP_KEY_BYTES];
    const uint32_t ids[2] = {1, 2};
    tarnp_store *store = x->k->store;
    tarn_error *err = &x->k->err;
    const tarnp_policy policy = {.state_codec = TARNP_STATE_LOSSLESS};
    tarnp_policy now;
    if (s && oracle_node_of(x->o, s->head) && oracle_node_of(x->o, s->head)->seed &&
        oracle_node_of(x->o, s->head)->owner == s->id) {
        kit_key(key, oracle_node_of(x->o, s->head)->seed);
        tarn_status found = tarnp_commit_find(store, key, &node, err);
        /* An imported twin has no key where the key is another's. */
        if (found != TARN_E_NOT_FOUND && differs(x, "find by key", found, TARN_OK))
            return false;
    }
    return !differs(x, "prefix", tarnp_prefix_find(store, kit_fp, "none", ids, 2, &node, &n, err),
                    TARN_OK) &&
           !differs(x, "policy", tarnp_policy_set(store, &policy, err), TARN_OK) &&
           !differs(x, "policy", tarnp_policy_get(store, &now, err), TARN_OK) &&
           !differs(x, "quota", tarnp_quota_set(store, "g", (uint64_t)1 << 40, err), TARN_OK) &&
           !differs(x, "quota", tarnp_quota_get(store, "g", &quota, err), TARN_OK) &&
           quota == (uint64_t)1 << 40 &&
           !differs(x, "flush", tarnp_store_flush(store, err), TARN_OK);
}

static bool reopen(const act *x)
{
    tarnp_store_close(x->k->store);
    x->k->store = NULL;
    return !differs(
        x, "open", tarnp_store_open(x->k->path, &x->k->options, &x->k->store, &x->k->err), TARN_OK);
}

static bool compact(const act *x)
{
    uint64_t before, after;
    tarnp_store_close(x->k->store);
    x->k->store = NULL;
    tarn_status status =
        tarnp_compact(x->k->path, &x->k->options, NULL, NULL, &before, &after, &x->k->err);
    return !differs(x, "compact", status, TARN_OK) && reopen(x);
}

bool oracle_apply(oracle *o, kit *k, op what, char why[200])
{
    static bool (*const acts[OP_KINDS])(const act *) = {
        append, branch, submit,  create, fork_at, move, rename_one, remove_one,
        mark,   evict,  collect, import, lease,   look, reopen,     compact};
    const act x = {o, k, what.a, what.b, why};
    why[0] = 0;
    o->n_ops++;
    if (acts[what.kind](&x))
        return true;
    if (!why[0])
        snprintf(why, 200, "it returned something else");
    return false;
}
