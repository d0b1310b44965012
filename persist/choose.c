/* choose.c
 *
 * Four classes, each only when the one before is used up:
 *
 *     1. states of nodes that are no head
 *     2. those of the session that is being written, but for the place it goes on from
 *     3. latents
 *     4. states of heads
 *
 * Nothing in the history of a pinned session is in any of them, nor are the latents of the session
 * that is being written. Within a class the cheapest goes first: the tokens that must be computed
 * again without it, by how recently its history was used, per byte. A state behind lost latents
 * costs nothing more. What a part costs depends on what went before it, so costs are worked out
 * anew after each choice: one pass over the nodes, and few choices are needed for a commit. */
#include "choose.h"

#include <math.h>
#include <string.h>

enum { CLASS_STATES, CLASS_WRITER, CLASS_LATENTS, CLASS_HEADS, CLASSES_COUNT, CLASS_NONE = -1 };

/* What a part of the nodes before costs, by index. */
typedef struct outlook {
    uint64_t state_at; /* position of the last state that can be used */
    uint64_t gap_at;   /* the first token whose latents are lost; UINT64_MAX: none */
    bool is_written;   /* in the history of the session that is being written */
} outlook;

typedef struct chooser {
    tarnp_forest *f;
    const tarnp_choice *choice;
    outlook *seen;
} chooser;

static void mark_written(chooser *c, uint32_t at)
{
    for (; at != TARNP_NO_INDEX && !c->seen[at].is_written; at = c->f->nodes[at].parent)
        c->seen[at].is_written = true;
}

static void look_ahead(chooser *c)
{
    for (size_t i = 0; i < c->f->n_nodes; i++) {
        const tarnp_forest_node *n = &c->f->nodes[i];
        outlook *o = &c->seen[i], root = {0, UINT64_MAX, false};
        const outlook *p = n->parent == TARNP_NO_INDEX ? &root : &c->seen[n->parent];
        bool ever = n->latent_end > n->latent_begin;
        bool lost = ever && ((n->flags & TARNP_NODE_LATENTS_EVICTED) || n->latents.why);
        o->gap_at = p->gap_at;
        if (lost && n->latent_begin < o->gap_at)
            o->gap_at = n->latent_begin;
        else if (ever && !lost && n->latent_begin <= o->gap_at)
            o->gap_at = UINT64_MAX;
        bool usable = tarnp_forest_has_state(n) && o->gap_at >= n->position;
        o->state_at = usable ? n->position : p->state_at;
    }
}

static bool of_group(const chooser *c, const tarnp_forest_node *n)
{
    if (!c->choice->group)
        return true;
    const tarnp_forest_session *s = tarnp_forest_find_session(c->f, n->session_id);
    return s && strcmp(s->record.group, c->choice->group) == 0;
}

static int class_of(const chooser *c, size_t i, bool latents)
{
    const tarnp_forest_node *n = &c->f->nodes[i];
    bool written = c->seen[i].is_written;
    if (n->is_dead || n->is_pinned)
        return CLASS_NONE;
    if (latents)
        return n->latent_bytes == 0 || n->latents.why || written ? CLASS_NONE : CLASS_LATENTS;
    if (n->state_bytes == 0 || n->state.why)
        return CLASS_NONE;
    if (!written)
        return n->is_head ? CLASS_HEADS : CLASS_STATES;
    const tarnp_forest_session *s = tarnp_forest_find_session(c->f, c->choice->writer);
    bool goes_on = n->id == c->choice->writer_base || (s && s->record.head == n->id);
    return goes_on ? CLASS_NONE : n->is_head ? CLASS_HEADS : CLASS_WRITER;
}

static uint64_t cost_of(const chooser *c, size_t i, bool latents)
{
    const tarnp_forest_node *n = &c->f->nodes[i];
    const outlook root = {0, UINT64_MAX, false};
    const outlook *p = n->parent == TARNP_NO_INDEX ? &root : &c->seen[n->parent];
    if (latents)
        return p->gap_at < n->latent_begin ? 0 : n->latent_end - n->latent_begin;
    return c->seen[i].gap_at < n->position ? 0 : n->position - p->state_at;
}

/* The cheapest of a class; TARNP_NO_INDEX if it is used up. */
static uint32_t cheapest(const chooser *c, int class)
{
    uint32_t best = TARNP_NO_INDEX;
    double best_worth = INFINITY;
    bool latents = class == CLASS_LATENTS;
    for (size_t i = 0; i < c->f->n_nodes; i++) {
        const tarnp_forest_node *n = &c->f->nodes[i];
        if (class_of(c, i, latents) != class || !of_group(c, n))
            continue;
        uint64_t now = c->choice->now_ms;
        double age_s = now > n->last_use_ms ? (double)(now - n->last_use_ms) / 1000 : 0;
        double n_bytes = (double)(latents ? n->latent_bytes : n->state_bytes);
        double worth = (double)cost_of(c, i, latents) / (1 + age_s) / n_bytes;
        if (worth < best_worth) {
            best = (uint32_t)i;
            best_worth = worth;
        }
    }
    return best;
}

static void decide(chooser *c, uint32_t i, bool latents)
{
    tarnp_forest_node *n = &c->f->nodes[i];
    tarnp_verdict v = {c->choice->group ? TARNP_WHY_GROUP_QUOTA : TARNP_WHY_STORE_QUOTA,
                       cost_of(c, i, latents)};
    *(latents ? &n->latents : &n->state) = v;
}

tarn_status tarnp_choose(tarnp_forest *f, const tarnp_choice *choice, uint64_t n_bytes,
                         uint64_t *freed, tarn_error *err)
{
    chooser c = {.f = f, .choice = choice};
    *freed = 0;
    TARNI_TRY(tarni_alloc(&f->store->allocator, f->n_nodes, sizeof *c.seen, &c.seen, err));
    const tarnp_forest_session *s = tarnp_forest_find_session(f, choice->writer);
    if (s)
        mark_written(&c, s->head);
    if (choice->writer_base != TARNP_NODE_NONE)
        mark_written(&c, tarnp_forest_find(f, choice->writer_base));
    look_ahead(&c);
    for (int class = 0; class < CLASSES_COUNT && *freed < n_bytes;) {
        bool latents = class == CLASS_LATENTS;
        uint32_t i = cheapest(&c, class);
        if (i == TARNP_NO_INDEX) {
            class ++;
            continue;
        }
        decide(&c, i, latents);
        *freed += latents ? f->nodes[i].latent_bytes : f->nodes[i].state_bytes;
        look_ahead(&c);
    }
    tarni_free(&f->store->allocator, c.seen);
    return TARN_OK;
}
