/* salvage.c
 *
 *     for each session: walk from the head to the root -> cut -> graft into the new store
 *
 * A node that is in the new store already is not read again: a chain goes on from the deepest such
 * node. What is known of a node (which sections are bad, how far latents reach) follows from the
 * node and its ancestors alone, so it is the same for all chains through it.
 *
 * A damaged manifest in the middle hides its parent. One bit of it is wrong, as a rule, so what it
 * says of its parent and of its tokens is compared with what its child, or the
 * session, says of it; the node that fits best is its parent. Where that leaves several, the chain
 * goes on from what they have in common: never from a branch that may be another. */
#include "salvage.h"

#include "folder.h"
#include "graft.h"
#include "log.h"
#include "remains.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define STATE_KINDS                                                                                \
    (TARNP_SECTION_BIT(TARNP_SECTION_STATE) | TARNP_SECTION_BIT(TARNP_SECTION_CONV) |              \
     TARNP_SECTION_BIT(TARNP_SECTION_LOGITS))
#define TOKENS_BIT  TARNP_SECTION_BIT(TARNP_SECTION_TOKENS)
#define LATENTS_BIT TARNP_SECTION_BIT(TARNP_SECTION_LATENT)

/* What has been found out about nodes[i] of the remains. */
typedef struct fate {
    uint64_t saved_as; /* in the new store; 0: not */
    uint64_t latents;  /* tokens whose latents are there, from the first on */
    unsigned without;  /* kinds of sections that are lost */
    bool needed, probed, has_own_child, is_tip, any_latents, lost_state;
    bool latents_evicted; /* of it or of a node before it: no state from here on is of use */
} fate;

/* A node that cannot be read, and where its chain goes on. */
typedef struct gap {
    uint64_t lost;
    size_t parent; /* index */
} gap;

typedef struct rescue {
    tarnp_remains *from;
    tarnp_store *to;
    fate *fates;
    uint64_t *missing; /* ids that are needed and of which nothing is there */
    size_t n_missing, missing_capacity;
    gap *gaps;
    size_t n_gaps, gaps_capacity;
    size_t *chain; /* indices, root first */
    size_t n_chain, chain_capacity;
    size_t n_taken; /* nodes of the chain that the graft has taken */
    tarnp_progress_fn progress;
    void *user;
    uint64_t n_done;
    tarnp_salvaged *out;
    tarn_error *err;
} rescue;

static size_t find_node(const tarnp_remains *r, uint64_t id)
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

/* ---- the chain ------------------------------------------------------------------------------ */

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
        *younger = from->nodes[*younger].readable ? find_node(from, from->nodes[*younger].parent)
                                                  : SIZE_MAX;
    }
    return a == b ? a : SIZE_MAX;
}

/* By what the damaged manifest says: the nodes that fit best. Where several do, the nearest node
 * that is sure to lie on the way. */
static size_t parent_by_words(const rescue *r, size_t lost, const tarnp_found_node *child,
                              const tarnp_session *s)
{
    const tarnp_remains *from = r->from;
    size_t found = SIZE_MAX;
    int best = 1;
    for (size_t i = 0; i < lost; i++) {
        if (!from->nodes[i].readable || r->fates[i].is_tip)
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
static size_t parent_by_elimination(const rescue *r, uint64_t lost_id, uint64_t owner)
{
    const tarnp_remains *from = r->from;
    size_t found = SIZE_MAX;
    for (size_t i = 0; i < from->n_nodes && from->nodes[i].id < lost_id; i++) {
        const tarnp_found_node *n = &from->nodes[i];
        if (!n->readable || n->session_id != owner || r->fates[i].has_own_child ||
            r->fates[i].is_tip)
            continue;
        if (found != SIZE_MAX)
            return SIZE_MAX;
        found = i;
    }
    return found;
}

/* The parent of a node that cannot be read, or a node farther back that is sure to lie on the way,
 * or SIZE_MAX. `child` is NULL for a head. */
static tarn_status find_parent(rescue *r, uint64_t lost_id, const tarnp_found_node *child,
                               const tarnp_session *s, size_t *out)
{
    for (size_t i = 0; i < r->n_gaps; i++) {
        if (r->gaps[i].lost == lost_id) {
            *out = r->gaps[i].parent;
            return TARN_OK;
        }
    }
    size_t lost = find_node(r->from, lost_id);
    *out = lost != SIZE_MAX ? parent_by_words(r, lost, child, s) : SIZE_MAX;
    if (*out == SIZE_MAX)
        *out = parent_by_elimination(r, lost_id, child ? child->session_id : s->id);
    if (*out == SIZE_MAX)
        return TARN_OK; /* another session may know more */
    TARNI_TRY(tarni_grow(&r->from->allocator, &r->gaps, &r->gaps_capacity, r->n_gaps + 1,
                         sizeof *r->gaps, r->err));
    r->gaps[r->n_gaps++] = (gap){lost_id, *out};
    return TARN_OK;
}

static tarn_status note_missing(rescue *r, uint64_t id)
{
    TARNI_TRY(tarni_grow(&r->from->allocator, &r->missing, &r->missing_capacity, r->n_missing + 1,
                         sizeof *r->missing, r->err));
    r->missing[r->n_missing++] = id;
    return TARN_OK;
}

/* Fills r->chain with the longest chain from the root towards `head` whose manifests are whole. */
static tarn_status walk(rescue *r, uint64_t head, const tarnp_session *s)
{
    const tarnp_remains *from = r->from;
    const tarnp_found_node *child = NULL;
    uint64_t id = head;
    r->n_chain = 0;
    while (id != TARNP_NODE_NONE) {
        size_t i = find_node(from, id);
        if (i == SIZE_MAX)
            TARNI_TRY(note_missing(r, id));
        else
            r->fates[i].needed = true;
        if (i != SIZE_MAX && from->nodes[i].readable) {
            TARNI_TRY(tarni_grow(&from->allocator, &r->chain, &r->chain_capacity, r->n_chain + 1,
                                 sizeof *r->chain, r->err));
            r->chain[r->n_chain++] = i;
            child = &from->nodes[i];
            id = child->parent; /* smaller: this ends */
            continue;
        }
        r->n_chain = 0; /* what comes after it is lost */
        size_t parent;
        TARNI_TRY(find_parent(r, id, child, s, &parent));
        if (parent == SIZE_MAX)
            return TARN_OK;
        id = from->nodes[parent].id;
        child = NULL;
    }
    for (size_t i = 0; i < r->n_chain / 2; i++) {
        size_t other = r->chain[r->n_chain - 1 - i];
        r->chain[r->n_chain - 1 - i] = r->chain[i];
        r->chain[i] = other;
    }
    return TARN_OK;
}

/* ---- what is whole of a node ---------------------------------------------------------------- */

typedef struct trial {
    const uint8_t *payload;
    tarnp_chunk_head head;
    void *scratch;
} trial;

static tarn_status decode_chunk(void *arg, tarnp_codec *codec, size_t i, tarn_error *err)
{
    const trial *t = arg;
    tarnp_piece piece = {t->scratch, t->head.raw_bytes};
    (void)i;
    return tarnp_decode(codec, t->head.codec, t->payload, t->head.payload_bytes, &piece, 1,
                        t->head.raw_bytes, err);
}

static bool is_damage(tarn_status status)
{
    return status == TARN_E_CORRUPT || status == TARN_E_FORMAT || status == TARN_E_NOT_FOUND;
}

static tarn_status probe_chunk(rescue *r, tarnp_extract *x, const tarnp_chunk_ref *ref,
                               void *scratch)
{
    trial t = {.scratch = scratch};
    TARNI_TRY(x->source.chunk(x->source.from, ref->id, SIZE_MAX, &x->chunk, r->err));
    TARNI_TRY(
        tarnp_chunk_check((tarnp_span){x->chunk.data, x->chunk.n_bytes}, ref, &t.head, r->err));
    t.payload = x->chunk.data + TARNP_CHUNK_HEAD_BYTES;
    return tarnp_each(r->to, 1, decode_chunk, &t, r->err);
}

/* Which kinds of sections of the node are bad, and how far latents reach with it. */
static tarn_status probe_sections(rescue *r, tarnp_extract *x, const tarnp_manifest *m,
                                  const tarnp_node *node, fate *f, void *scratch)
{
    for (size_t i = 0; i < node->n_sections; i++) {
        const tarnp_section *s = &node->sections[i];
        for (size_t k = 0; k < s->n_chunks; k++) {
            tarnp_chunk_ref ref;
            uint32_t at = (uint32_t)(s->chunks[k].id - m->first_chunk);
            tarnp_manifest_chunk((tarnp_span){x->manifest.data, x->manifest.n_bytes}, m, at, &ref);
            tarn_status status = probe_chunk(r, x, &ref, scratch);
            if (status != TARN_OK && !is_damage(status))
                return status;
            if (status != TARN_OK) {
                TARNI_LOG(&r->from->log, TARN_LOG_WARN, "node %llu: chunk %llu: %s",
                          (unsigned long long)m->id, (unsigned long long)ref.id, r->err->detail);
                f->without |= TARNP_SECTION_BIT(s->kind);
            }
        }
        if (s->kind != TARNP_SECTION_LATENT || s->n_chunks == 0)
            continue;
        f->any_latents = true;
        const tarnp_chunk *last = &s->chunks[s->n_chunks - 1];
        if (!(f->without & LATENTS_BIT) && s->chunks[0].first <= f->latents)
            f->latents = (uint64_t)last->first + last->count;
    }
    return TARN_OK;
}

/* Fills in the fate of chain[k], whose parent's is known. */
static tarn_status probe(rescue *r, tarnp_extract *x, size_t k, void *scratch)
{
    tarnp_manifest m;
    tarnp_node node;
    fate *f = &r->fates[r->chain[k]];
    if (f->probed)
        return TARN_OK;
    if (k > 0) {
        f->latents = r->fates[r->chain[k - 1]].latents;
        f->any_latents = r->fates[r->chain[k - 1]].any_latents;
        f->latents_evicted = r->fates[r->chain[k - 1]].latents_evicted;
    }
    TARNI_TRY(tarnp_extract_look(x, r->from->nodes[r->chain[k]].id, &m, &node, r->err));
    tarn_status status = probe_sections(r, x, &m, &node, f, scratch);
    tarnp_node_fini(&node);
    if (status != TARN_OK)
        return status;
    bool reaches = !f->any_latents || f->latents >= m.position;
    if ((f->without & (STATE_KINDS | LATENTS_BIT)) != 0 || !reaches)
        f->without |= STATE_KINDS;
    f->latents_evicted = f->latents_evicted || (m.flags & TARNP_NODE_LATENTS_EVICTED);
    f->lost_state =
        (m.flags & TARNP_NODE_HAS_STATE) && (f->without & STATE_KINDS) != 0 && !f->latents_evicted;
    f->probed = true;
    return TARN_OK;
}

/* Cuts the chain before the first node whose tokens are lost. */
static tarn_status probe_chain(rescue *r)
{
    tarnp_extract x;
    void *scratch;
    tarn_status status = TARN_OK;
    TARNI_TRY(tarni_alloc(&r->from->allocator, TARNP_CHUNK_BYTES_MAX, 1, &scratch, r->err));
    tarnp_extract_init(&x, r->from->source, &r->from->allocator);
    for (size_t k = 0; k < r->n_chain && status == TARN_OK; k++) {
        status = probe(r, &x, k, scratch);
        if (is_damage(status)) {
            r->fates[r->chain[k]].without = TOKENS_BIT;
            status = TARN_OK;
        }
        if (status == TARN_OK && (r->fates[r->chain[k]].without & TOKENS_BIT))
            r->n_chain = k;
    }
    tarnp_extract_fini(&x);
    tarni_free(&r->from->allocator, scratch);
    return status;
}

/* ---- into the new store --------------------------------------------------------------------- */

static tarn_status take_node(void *to, tarnp_span manifest, tarn_error *err)
{
    return tarnp_graft_put_node(to, manifest, err);
}

static tarn_status take_chunk(void *to, tarnp_span value, tarn_error *err)
{
    return tarnp_graft_put_chunk(to, value, err);
}

/* Takes the chain to the graft, going on from the deepest node that was saved before. */
static tarn_status take_chain(rescue *r, tarnp_graft *g, size_t *n_known)
{
    tarnp_extract x;
    const tarnp_sink sink = {take_node, take_chunk, g};
    size_t k = r->n_chain;
    while (k > 0 && r->fates[r->chain[k - 1]].saved_as == 0)
        k--;
    *n_known = k;
    tarnp_extract_init(&x, r->from->source, &r->from->allocator);
    tarn_status status = TARN_OK;
    if (k > 0) {
        status = tarnp_graft_go_on(g, r->fates[r->chain[k - 1]].saved_as, r->err);
        x.last = r->from->nodes[r->chain[k - 1]].id;
        x.n_nodes = 1;
    }
    for (; k < r->n_chain && status == TARN_OK; k++) {
        r->n_taken = k;
        status = tarnp_extract_node(&x, r->from->nodes[r->chain[k]].id,
                                    r->fates[r->chain[k]].without, &sink, r->err);
        r->n_done++;
        if (status == TARN_OK && r->progress &&
            !r->progress(r->user, r->n_done < r->from->n_nodes ? r->n_done : r->from->n_nodes,
                         r->from->n_nodes))
            status = tarni_fail(r->err, TARN_E_CANCELLED, "the salvage was cancelled");
    }
    if (status == TARN_OK)
        r->n_taken = r->n_chain;
    tarnp_extract_fini(&x);
    return status;
}

static void note_saved(rescue *r, const tarnp_graft *g, size_t n_known)
{
    for (size_t k = n_known; k < r->n_chain; k++) {
        fate *f = &r->fates[r->chain[k]];
        f->saved_as = tarnp_graft_node_id(g, k - n_known + (n_known > 0));
        r->out->saved++;
        r->out->without_state += f->lost_state;
    }
}

/* Makes the session of r->chain, or (made != 0) a tip of the session `made`. */
static tarn_status graft_chain(rescue *r, const tarnp_session *like, uint64_t made, uint64_t *id)
{
    tarnp_graft g;
    size_t n_known;
    tarnp_session s = {0};
    tarni_writer model;
    const uint8_t *fp = like->fp;
    tarni_writer_init(&model, &r->from->allocator);
    tarnp_graft_begin(&g, r->to, fp);
    tarn_status status = take_chain(r, &g, &n_known);
    if (status == TARN_OK && made != 0) {
        status = tarnp_graft_tip(&g, made, r->err);
    } else if (status == TARN_OK) {
        tarn_error absent;
        tarnp_span descriptor = {0};
        static const uint8_t nothing[1];
        if (tarnp_remains_model(r->from, fp, &model, &absent) == TARN_OK)
            descriptor = (tarnp_span){model.data ? model.data : nothing, model.n_bytes};
        else
            TARNI_LOG(&r->from->log, TARN_LOG_WARN, "session %s: %s", like->name, absent.detail);
        status = tarnp_graft_session(&g, like, descriptor, &s, r->err);
        *id = s.id;
        tarnp_session_fini(&s);
    }
    if (status == TARN_OK)
        note_saved(r, &g, n_known);
    tarnp_graft_end(&g);
    tarni_writer_fini(&model);
    return status;
}

/* A node may match its checksums and still be none that a store would have written. The chain then
 * ends before it. */
static tarn_status save_chain(rescue *r, const tarnp_session *like, uint64_t made, uint64_t *id)
{
    for (;;) {
        r->n_taken = r->n_chain;
        tarn_status status = graft_chain(r, like, made, id);
        if (!is_damage(status) || r->n_taken == r->n_chain || r->n_taken == 0)
            return status;
        TARNI_LOG(&r->from->log, TARN_LOG_WARN, "%s", r->err->detail);
        r->fates[r->chain[r->n_taken]].without = TOKENS_BIT;
        r->n_chain = r->n_taken;
    }
}

/* A session whose record is lost: its newest node that is no tip. */
static uint64_t guess_head(const rescue *r, uint64_t session_id)
{
    for (size_t i = r->from->n_nodes; i-- > 0;)
        if (r->from->nodes[i].readable && r->from->nodes[i].session_id == session_id &&
            !r->fates[i].is_tip)
            return r->from->nodes[i].id;
    return TARNP_NODE_NONE;
}

static bool name_is_taken(rescue *r, const char *name)
{
    tarnp_session other;
    tarn_error err;
    tarn_status status = tarnp_session_find(r->to, name, &other, &err);
    tarnp_session_fini(&other);
    return status != TARN_E_NOT_FOUND;
}

/* The name is lost or taken by a session of the same name: the number tells them apart. */
static void rename_session(rescue *r, tarnp_session *s)
{
    char name[TARNP_NAME_BYTES_MAX + 1];
    tarn_error err;
    snprintf(name, sizeof name, "%.200s (session %llu)", s->name, (unsigned long long)s->id);
    if (s->name[0] == 0 || tarnp_name_check(name, &err) != TARN_OK || name_is_taken(r, name))
        snprintf(name, sizeof name, "session %llu", (unsigned long long)s->id);
    memcpy(s->name, name, sizeof name);
}

/* The model of a chain is in its manifests. */
static tarn_status find_model(rescue *r, tarnp_session *s)
{
    tarnp_extract x;
    tarnp_manifest m;
    tarnp_node node;
    tarnp_extract_init(&x, r->from->source, &r->from->allocator);
    tarn_status status = tarnp_extract_look(&x, r->from->nodes[r->chain[0]].id, &m, &node, r->err);
    tarnp_node_fini(&node);
    tarnp_extract_fini(&x);
    if (status == TARN_OK)
        memcpy(s->fp, m.fp, sizeof s->fp);
    return status;
}

/* The branches a session has left; `made` is what it is in the new store, 0 for nothing. */
static tarn_status save_tips(rescue *r, const tarnp_session *s, uint64_t made)
{
    for (size_t i = 0; i < r->from->n_tips; i++) {
        uint64_t id;
        if (r->from->tips[i].session_id != s->id)
            continue;
        tarnp_session branch = {.id = s->id};
        memcpy(branch.fp, s->fp, sizeof branch.fp);
        size_t at = find_node(r->from, r->from->tips[i].node);
        if (at != SIZE_MAX)
            branch.position = r->from->nodes[at].position;
        TARNI_TRY(walk(r, r->from->tips[i].node, &branch));
        if (made == 0)
            continue; /* they are needed, and lost with the session */
        TARNI_TRY(probe_chain(r));
        if (r->n_chain == 0 || r->fates[r->chain[r->n_chain - 1]].saved_as != 0)
            continue;
        TARNI_TRY(save_chain(r, &branch, made, &id));
    }
    return TARN_OK;
}

static tarn_status save_session(rescue *r, const tarnp_session *found)
{
    tarnp_session s = *found;
    uint64_t made = 0;
    if (s.head == TARNP_NODE_NONE)
        s.head = guess_head(r, s.id);
    if (s.head == TARNP_NODE_NONE)
        return save_tips(r, &s, 0);
    TARNI_TRY(walk(r, s.head, &s));
    TARNI_TRY(probe_chain(r));
    if (r->n_chain == 0) {
        TARNI_LOG(&r->from->log, TARN_LOG_WARN, "session %s: nothing is left of it", s.name);
        return save_tips(r, &s, 0);
    }
    if (s.name[0] == 0 || name_is_taken(r, s.name))
        rename_session(r, &s);
    TARNI_TRY(find_model(r, &s));
    TARNI_TRY(save_chain(r, &s, 0, &made));
    return save_tips(r, &s, made);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void count_lost(rescue *r)
{
    for (size_t i = 0; i < r->from->n_nodes; i++)
        r->out->lost += r->fates[i].needed && r->fates[i].saved_as == 0;
    if (r->n_missing > 0)
        qsort(r->missing, r->n_missing, sizeof *r->missing, by_number);
    for (size_t i = 0; i < r->n_missing; i++)
        r->out->lost += i == 0 || r->missing[i] != r->missing[i - 1];
}

static tarn_status save_all(rescue *r)
{
    const tarnp_remains *from = r->from;
    TARNI_TRY(tarni_alloc(&from->allocator, from->n_nodes, sizeof *r->fates, &r->fates, r->err));
    for (size_t i = 0; i < from->n_tips; i++) {
        size_t at = find_node(from, from->tips[i].node);
        if (at != SIZE_MAX && from->nodes[at].session_id == from->tips[i].session_id)
            r->fates[at].is_tip = true;
    }
    for (size_t i = 0; i < from->n_nodes; i++) {
        size_t parent = from->nodes[i].readable ? find_node(from, from->nodes[i].parent) : SIZE_MAX;
        if (parent != SIZE_MAX && from->nodes[parent].session_id == from->nodes[i].session_id)
            r->fates[parent].has_own_child = true;
    }
    for (size_t i = 0; i < from->n_sessions; i++)
        TARNI_TRY(save_session(r, &from->sessions[i]));
    count_lost(r);
    if (r->progress)
        r->progress(r->user, from->n_nodes, from->n_nodes); /* too late to cancel */
    return TARN_OK;
}

tarn_status tarnp_salvage(const char *path, const char *out_path, const tarnp_options *options,
                          tarnp_progress_fn progress, void *user, tarnp_salvaged *out,
                          tarn_error *err)
{
    tarnp_remains from;
    rescue r = {.from = &from, .progress = progress, .user = user, .out = out, .err = err};
    tarnp_options o = options ? *options : (tarnp_options){0};
    char clean[TARNP_PATH_BYTES];
    struct stat info;
    *out = (tarnp_salvaged){0};
    TARNI_TRY(tarnp_path_clean(out_path, clean, err));
    if (lstat(clean, &info) == 0)
        return tarni_fail(err, TARN_E_EXISTS, "%s is there already", clean);
    TARNI_TRY(tarnp_remains_open(path, options, &from, err));
    o.create = true;
    o.read_only = false;
    tarn_status status = tarnp_store_open(clean, &o, &r.to, err);
    if (status == TARN_OK) {
        status = save_all(&r);
        tarnp_store_close(r.to);
        if (status != TARN_OK)
            tarnp_folder_remove(clean);
    }
    tarni_free(&from.allocator, r.fates);
    tarni_free(&from.allocator, r.missing);
    tarni_free(&from.allocator, r.gaps);
    tarni_free(&from.allocator, r.chain);
    tarnp_remains_close(&from);
    if (status != TARN_OK)
        *out = (tarnp_salvaged){0};
    return status;
}
