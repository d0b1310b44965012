/* salvage.c
 *
 *     for each session: walk from the head to the root -> cut -> graft into the new store
 *
 * A node that is in the new store already is not read again: a chain goes on from the deepest such
 * node. What is known of a node (which sections are bad, how far latents reach) follows from the
 * node and its ancestors alone, so it is the same for all chains through it. */
#include "salvage.h"

#include "admit.h"
#include "chains.h"
#include "folder.h"
#include "graft.h"
#include "log.h"

#include <errno.h>
#include <stdio.h>
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
    bool probed, any_latents, lost_state;
    bool latents_evicted; /* of it or of a node before it: no state from here on is of use */
} fate;

typedef struct rescue {
    tarnp_remains *from;
    tarnp_store *to;
    fate *fates;
    tarnp_chains chains;
    size_t n_taken; /* nodes of the chain that the graft has taken */
    tarnp_progress_fn progress;
    void *user;
    uint64_t n_done;
    tarnp_salvaged *out;
    tarn_error *err;
} rescue;

/* ---- what is whole of a node ---------------------------------------------------------------- */

static bool is_damage(tarn_status status)
{
    return status == TARN_E_CORRUPT || status == TARN_E_FORMAT || status == TARN_E_NOT_FOUND;
}

static tarn_status probe_chunk(rescue *r, tarnp_extract *x, const tarnp_chunk_ref *ref,
                               void *scratch)
{
    TARNI_TRY(x->source.chunk(x->source.from, ref->id, SIZE_MAX, &x->chunk, r->err));
    return tarnp_admit_chunk(r->to, (tarnp_span){x->chunk.data, x->chunk.n_bytes}, ref, scratch,
                             r->err);
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
    fate *f = &r->fates[r->chains.chain[k]];
    if (f->probed)
        return TARN_OK;
    if (k > 0) {
        f->latents = r->fates[r->chains.chain[k - 1]].latents;
        f->any_latents = r->fates[r->chains.chain[k - 1]].any_latents;
        f->latents_evicted = r->fates[r->chains.chain[k - 1]].latents_evicted;
    }
    TARNI_TRY(tarnp_extract_look(x, r->from->nodes[r->chains.chain[k]].id, &m, &node, r->err));
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
    for (size_t k = 0; k < r->chains.n_chain && status == TARN_OK; k++) {
        status = probe(r, &x, k, scratch);
        if (is_damage(status)) {
            r->fates[r->chains.chain[k]].without = TOKENS_BIT;
            status = TARN_OK;
        }
        if (status == TARN_OK && (r->fates[r->chains.chain[k]].without & TOKENS_BIT))
            r->chains.n_chain = k;
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
    size_t k = r->chains.n_chain;
    while (k > 0 && r->fates[r->chains.chain[k - 1]].saved_as == 0)
        k--;
    *n_known = k;
    tarnp_extract_init(&x, r->from->source, &r->from->allocator);
    tarn_status status = TARN_OK;
    if (k > 0) {
        status = tarnp_graft_go_on(g, r->fates[r->chains.chain[k - 1]].saved_as, r->err);
        x.last = r->from->nodes[r->chains.chain[k - 1]].id;
        x.n_nodes = 1;
    }
    for (; k < r->chains.n_chain && status == TARN_OK; k++) {
        r->n_taken = k;
        status = tarnp_extract_node(&x, r->from->nodes[r->chains.chain[k]].id,
                                    r->fates[r->chains.chain[k]].without, &sink, r->err);
        r->n_done++;
        if (status == TARN_OK && r->progress &&
            !r->progress(r->user, r->n_done < r->from->n_nodes ? r->n_done : r->from->n_nodes,
                         r->from->n_nodes))
            status = tarni_fail(r->err, TARN_E_CANCELLED, "the salvage was cancelled");
    }
    if (status == TARN_OK)
        r->n_taken = r->chains.n_chain;
    tarnp_extract_fini(&x);
    return status;
}

static void note_saved(rescue *r, const tarnp_graft *g, size_t n_known)
{
    for (size_t k = n_known; k < r->chains.n_chain; k++) {
        fate *f = &r->fates[r->chains.chain[k]];
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
        r->n_taken = r->chains.n_chain;
        tarn_status status = graft_chain(r, like, made, id);
        if (!is_damage(status) || r->n_taken == r->chains.n_chain || r->n_taken == 0)
            return status;
        TARNI_LOG(&r->from->log, TARN_LOG_WARN, "%s", r->err->detail);
        r->fates[r->chains.chain[r->n_taken]].without = TOKENS_BIT;
        r->chains.n_chain = r->n_taken;
    }
}

/* A session whose record is lost: its newest node that is no tip. */
static uint64_t guess_head(const rescue *r, uint64_t session_id)
{
    for (size_t i = r->from->n_nodes; i-- > 0;)
        if (r->from->nodes[i].readable && r->from->nodes[i].session_id == session_id &&
            !r->chains.places[i].is_tip)
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
    tarn_status status =
        tarnp_extract_look(&x, r->from->nodes[r->chains.chain[0]].id, &m, &node, r->err);
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
        size_t at = tarnp_found_at(r->from, r->from->tips[i].node);
        if (at != SIZE_MAX)
            branch.position = r->from->nodes[at].position;
        TARNI_TRY(tarnp_chains_walk(&r->chains, r->from->tips[i].node, &branch, r->err));
        if (made == 0)
            continue; /* they are needed, and lost with the session */
        TARNI_TRY(probe_chain(r));
        if (r->chains.n_chain == 0 ||
            r->fates[r->chains.chain[r->chains.n_chain - 1]].saved_as != 0)
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
    TARNI_TRY(tarnp_chains_walk(&r->chains, s.head, &s, r->err));
    TARNI_TRY(probe_chain(r));
    if (r->chains.n_chain == 0) {
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

static void count_lost(rescue *r)
{
    for (size_t i = 0; i < r->from->n_nodes; i++)
        r->out->lost += r->chains.places[i].needed && r->fates[i].saved_as == 0;
    r->out->lost += tarnp_chains_missing(&r->chains);
}

static tarn_status save_all(rescue *r)
{
    const tarnp_remains *from = r->from;
    TARNI_TRY(tarnp_chains_init(&r->chains, from, r->err));
    TARNI_TRY(tarni_alloc(&from->allocator, from->n_nodes, sizeof *r->fates, &r->fates, r->err));
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
        tarnp_chains_fini(&r.chains);
        tarnp_store_close(r.to);
    }
    if (status != TARN_OK) /* it may have been made and then not be opened */
        tarnp_folder_remove(clean);
    tarni_free(&from.allocator, r.fates);
    tarnp_remains_close(&from);
    if (status != TARN_OK)
        *out = (tarnp_salvaged){0};
    return status;
}
