/* oracle_match.c - a store beside what the oracle says of it. */
#include "oracle.h"

static bool match_session(const oracle_session *want, const tarnp_session *got, char why[200])
{
    const char *tag = "";
    for (size_t i = 0; i < got->n_tags; i++)
        if (strcmp(got->tags[i].key, "key") == 0)
            tag = got->tags[i].value;
    if (want->id == got->id && want->head == got->head && want->pinned == got->pinned &&
        want->expires_ms == got->expires_ms && strcmp(want->group, got->group) == 0 &&
        strcmp(want->tag, tag) == 0)
        return true;
    snprintf(why, 200, "session %.60s: id %llu, head %llu, should be %llu, %llu; or a mark differs",
             got->name, (unsigned long long)got->id, (unsigned long long)got->head,
             (unsigned long long)want->id, (unsigned long long)want->head);
    return false;
}

static bool match_sessions(const oracle *o, kit *k, char why[200])
{
    tarnp_session *list;
    size_t n;
    if (tarnp_session_list(k->store, &list, &n, &k->err) != TARN_OK) {
        snprintf(why, 200, "list: %.180s", k->err.detail);
        return false;
    }
    bool good = n == o->n_sessions;
    if (!good)
        snprintf(why, 200, "%zu sessions, should be %zu", n, o->n_sessions);
    for (size_t i = 0; good && i < n; i++) {
        const oracle_session *want = oracle_session_named((oracle *)(uintptr_t)o, list[i].name);
        if (!want)
            snprintf(why, 200, "there is a session %.150s", list[i].name);
        good = want && match_session(want, &list[i], why);
    }
    tarnp_sessions_free(list, n);
    return good;
}

static bool match_node(const oracle_node *want, bool may_lack_state, kit *k, char why[200])
{
    tarnp_node node;
    tarni_ids ids;
    kit_content c;
    bool equal = true;
    if (tarnp_node_read(k->store, want->id, &node, &k->err) != TARN_OK) {
        snprintf(why, 200, "node %llu: %.150s", (unsigned long long)want->id, k->err.detail);
        return false;
    }
    bool lacks = node.flags & TARNP_NODE_STATE_EVICTED;
    bool good =
        node.parent == want->parent && node.session_id == want->owner && (!lacks || may_lack_state);
    tarni_ids_init(&ids, tarnp_store_allocator(k->store));
    if (good && want->seed && lacks) { /* tokens alone */
        oracle_size(want->seed);
        kit_fill(&c, want->seed);
        good = tarnp_node_tokens(k->store, &node, &ids, &k->err) == TARN_OK &&
               ids.n_ids == c.n_tokens && memcmp(ids.ids, c.tokens, 4 * ids.n_ids) == 0;
        free(c.state);
    } else if (good && want->seed) {
        oracle_size(want->seed);
        good = kit_read(k->store, want->id, want->seed, &equal, &k->err) == TARN_OK && equal;
    }
    if (!good)
        snprintf(why, 200, "node %llu of seed %llu is not what was written%s",
                 (unsigned long long)want->id, (unsigned long long)want->seed,
                 lacks ? " (its state is evicted)" : "");
    tarni_ids_fini(&ids);
    tarnp_node_fini(&node);
    return good;
}

bool oracle_match(const oracle *o, const oracle *next, kit *k, bool deep, char why[200])
{
    tarnp_stat stat;
    tarnp_verified v;
    why[0] = 0;
    if (!match_sessions(o, k, why))
        return false;
    if (tarnp_store_stat(k->store, &stat, &k->err) != TARN_OK) {
        snprintf(why, 200, "stat: %.180s", k->err.detail);
        return false;
    }
    if (stat.nodes != o->n_nodes || stat.sessions != o->n_sessions) {
        snprintf(why, 200, "%llu nodes and %llu sessions, should be %zu and %zu",
                 (unsigned long long)stat.nodes, (unsigned long long)stat.sessions, o->n_nodes,
                 o->n_sessions);
        return false;
    }
    if (!deep)
        return true;
    if (tarnp_store_verify(k->store, NULL, NULL, &v, &k->err) != TARN_OK) {
        snprintf(why, 200, "verify: %.180s", k->err.detail);
        return false;
    }
    size_t n_bad = v.n_bad;
    if (n_bad > 0)
        snprintf(why, 200, "verify: node %llu, chunk %llu: %s", (unsigned long long)v.bad[0].node,
                 (unsigned long long)v.bad[0].chunk, v.bad[0].reason);
    tarni_free(tarnp_store_allocator(k->store), v.bad);
    for (size_t i = 0; n_bad == 0 && i < o->n_nodes; i++) {
        const oracle_node *after = next ? oracle_node_of(next, o->nodes[i].id) : NULL;
        bool lacks = o->nodes[i].lacking || (after && after->lacking) || (next && !after);
        if (!match_node(&o->nodes[i], lacks, k, why))
            return false;
    }
    return n_bad == 0;
}

bool oracle_between(const oracle *before, const oracle *after, op_kind kind, unsigned part,
                    oracle *out)
{
    *out = *before;
    if (part == 0)
        return true;
    if (kind == OP_SUBMIT && part < 3 && after->n_nodes == before->n_nodes + 3) {
        *out = *after;
        out->n_nodes -= 3 - part;
        return true;
    }
    return kind == OP_COLLECT && oracle_expire(out, part);
}
