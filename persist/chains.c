#include "chains.h"

#include <stdlib.h>

size_t tarnp_found_at(const tarnp_remains *r, uint64_t id)
{
    size_t low = 0, high = r->n_nodes;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (r->nodes[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < r->n_nodes && r->nodes[low].id == id ? low : SIZE_MAX;
}

tarn_status tarnp_chains_init(tarnp_chains *c, const tarnp_remains *from, tarn_error *err)
{
    *c = (tarnp_chains){.from = from};
    TARNI_TRY(tarni_alloc(&from->allocator, from->n_nodes, sizeof *c->places, &c->places, err));
    for (size_t i = 0; i < from->n_tips; i++) {
        size_t at = tarnp_found_at(from, from->tips[i].node);
        if (at != SIZE_MAX && from->nodes[at].session_id == from->tips[i].session_id)
            c->places[at].is_tip = true;
    }
    for (size_t i = 0; i < from->n_nodes; i++) {
        size_t parent =
            from->nodes[i].readable ? tarnp_found_at(from, from->nodes[i].parent) : SIZE_MAX;
        if (parent != SIZE_MAX && from->nodes[parent].session_id == from->nodes[i].session_id)
            c->places[parent].has_own_child = true;
    }
    return TARN_OK;
}

void tarnp_chains_fini(tarnp_chains *c)
{
    const tarn_allocator *a = &c->from->allocator;
    tarni_free(a, c->places);
    tarni_free(a, c->missing);
    tarni_free(a, c->gaps);
    tarni_free(a, c->chain);
}

/* How much of what is known of a lost node says that `n` is its parent. */
static int fit(const tarnp_found_node *n, const tarnp_found_node *lost,
               const tarnp_found_node *child, const tarnp_session *s)
{
    uint64_t position = child ? child->position - child->n_tokens : s->position;
    return (n->id == lost->parent) + (n->position + lost->n_tokens == position);
}

/* The nearest node that both descend from, or SIZE_MAX: ids grow from parent to child. */
static size_t common_ancestor(const tarnp_remains *from, size_t a, size_t b)
{
    while (a != b && a != SIZE_MAX && b != SIZE_MAX) {
        size_t *younger = from->nodes[a].id > from->nodes[b].id ? &a : &b;
        *younger = from->nodes[*younger].readable
                       ? tarnp_found_at(from, from->nodes[*younger].parent)
                       : SIZE_MAX;
    }
    return a == b ? a : SIZE_MAX;
}

/* By what the damaged manifest says: the nodes that fit best. Where several do, the nearest node
 * that is sure to lie on the way. */
static size_t parent_by_words(const tarnp_chains *c, size_t lost, const tarnp_found_node *child,
                              const tarnp_session *s)
{
    const tarnp_remains *from = c->from;
    size_t found = SIZE_MAX;
    int best = 1;
    for (size_t i = 0; i < lost; i++) {
        if (!from->nodes[i].readable || c->places[i].is_tip)
            continue;
        int fits = fit(&from->nodes[i], &from->nodes[lost], child, s);
        if (fits < best)
            continue;
        found = fits > best || found == SIZE_MAX ? i : common_ancestor(from, found, i);
        best = fits;
        if (found == SIZE_MAX)
            break;
    }
    return found;
}

/* By what must be: every node of a session is its head, a tip, or the parent of one of its own. */
static size_t parent_by_elimination(const tarnp_chains *c, uint64_t lost_id, uint64_t owner)
{
    const tarnp_remains *from = c->from;
    size_t found = SIZE_MAX;
    for (size_t i = 0; i < from->n_nodes && from->nodes[i].id < lost_id; i++) {
        const tarnp_found_node *n = &from->nodes[i];
        if (!n->readable || n->session_id != owner || c->places[i].has_own_child ||
            c->places[i].is_tip)
            continue;
        if (found != SIZE_MAX)
            return SIZE_MAX;
        found = i;
    }
    return found;
}

/* The parent of a node that cannot be read, or a node farther back that is sure to lie on the way,
 * or SIZE_MAX. `child` is NULL for a head. */
static tarn_status find_parent(tarnp_chains *c, uint64_t lost_id, const tarnp_found_node *child,
                               const tarnp_session *s, size_t *out, tarn_error *err)
{
    for (size_t i = 0; i < c->n_gaps; i++) {
        if (c->gaps[i].lost == lost_id) {
            *out = c->gaps[i].parent;
            return TARN_OK;
        }
    }
    size_t lost = tarnp_found_at(c->from, lost_id);
    *out = lost != SIZE_MAX ? parent_by_words(c, lost, child, s) : SIZE_MAX;
    if (*out == SIZE_MAX)
        *out = parent_by_elimination(c, lost_id, child ? child->session_id : s->id);
    if (*out == SIZE_MAX)
        return TARN_OK; /* another session may know more */
    TARNI_TRY(tarni_grow(&c->from->allocator, &c->gaps, &c->gaps_capacity, c->n_gaps + 1,
                         sizeof *c->gaps, err));
    c->gaps[c->n_gaps++] = (tarnp_gap){lost_id, *out};
    return TARN_OK;
}

static tarn_status note_missing(tarnp_chains *c, uint64_t id, tarn_error *err)
{
    TARNI_TRY(tarni_grow(&c->from->allocator, &c->missing, &c->missing_capacity, c->n_missing + 1,
                         sizeof *c->missing, err));
    c->missing[c->n_missing++] = id;
    return TARN_OK;
}

tarn_status tarnp_chains_walk(tarnp_chains *c, uint64_t head, const tarnp_session *s,
                              tarn_error *err)
{
    const tarnp_remains *from = c->from;
    const tarnp_found_node *child = NULL;
    uint64_t id = head;
    c->n_chain = 0;
    while (id != TARNP_NODE_NONE) {
        size_t i = tarnp_found_at(from, id);
        if (i == SIZE_MAX)
            TARNI_TRY(note_missing(c, id, err));
        else
            c->places[i].needed = true;
        if (i != SIZE_MAX && from->nodes[i].readable) {
            TARNI_TRY(tarni_grow(&from->allocator, &c->chain, &c->chain_capacity, c->n_chain + 1,
                                 sizeof *c->chain, err));
            c->chain[c->n_chain++] = i;
            child = &from->nodes[i];
            id = child->parent; /* smaller: this ends */
            continue;
        }
        c->n_chain = 0; /* what comes after it is lost */
        size_t parent;
        TARNI_TRY(find_parent(c, id, child, s, &parent, err));
        if (parent == SIZE_MAX)
            return TARN_OK;
        id = from->nodes[parent].id;
        child = NULL;
    }
    for (size_t i = 0; i < c->n_chain / 2; i++) {
        size_t other = c->chain[c->n_chain - 1 - i];
        c->chain[c->n_chain - 1 - i] = c->chain[i];
        c->chain[i] = other;
    }
    return TARN_OK;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

size_t tarnp_chains_missing(tarnp_chains *c)
{
    size_t n = 0;
    if (c->n_missing > 0)
        qsort(c->missing, c->n_missing, sizeof *c->missing, by_number);
    for (size_t i = 0; i < c->n_missing; i++)
        n += i == 0 || c->missing[i] != c->missing[i - 1];
    return n;
}
