/* From a list of messages to a session.
 *
 * The list is rendered into a draft, a segment a message, and laid beside the session's tokens.
 * They are compared as text: a special id equals itself only, between two of them the bytes count.
 * So a turn the model spelled with other ids than the encoder would is the same turn, and its ids
 * and state stay. What is compared is the session's whole history, not its segments: where a node
 * was made, or how the tokens once came in, does not matter.
 *
 * Rejected: comparing ids alone. A sampled turn is often not what the encoder makes of its text, so
 * every second turn of a conversation would have been computed anew. */
#include "sync.h"

#include "branch.h"
#include "conversation.h"
#include "drafts.h"
#include "keep.h"
#include "log.h"
#include "message.h"
#include "parking.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The conversation as it would be appended to an empty session. */
typedef struct script {
    tarn_session *session;
    tarni_draft draft;
    int64_t *indices; /* of each segment: the message it is; [indices_max] */
    size_t indices_max;
} script;

static tarn_status remember_index(script *c, int64_t idx, tarn_error *err)
{
    size_t n = c->draft.segments.n;
    TARNI_TRY(
        tarni_grow(c->draft.allocator, &c->indices, &c->indices_max, n, sizeof *c->indices, err));
    c->indices[n - 1] = idx;
    return TARN_OK;
}

static tarn_status script_part(void *user, const tarni_conversation_part *part, tarn_error *err)
{
    script *c = user;
    tarni_draft *d = &c->draft;
    if (part->tools) {
        size_t before = d->ids.n_ids;
        TARNI_TRY(tarni_chat_declare(&c->session->engine->model->chat, part->tools, &d->ids, err));
        TARNI_TRY(tarni_draft_segment(d, TARN_ROLE_TOOLS, TARNP_SEGMENT_CLOSED, NULL, before, err));
    } else {
        TARNI_TRY(tarni_message_draft(d, c->session, part->message, err));
    }
    return remember_index(c, part->idx, err);
}

static void script_fini(script *c)
{
    tarni_free(c->draft.allocator, c->indices);
    tarni_draft_fini(&c->draft);
}

/* ---- comparing ---- */

/* Ids read as text. */
typedef struct reading {
    const tarn_session *session; /* whose tokens they are, if `ids` is NULL */
    const uint32_t *ids;
    size_t at, end;
    const uint8_t *bytes; /* of the id before `at`, not all compared; NULL: at an id's beginning */
    size_t n_bytes;
} reading;

/* Tokens that are still to be replayed count as the session's. */
static size_t session_tokens(const tarn_session *s)
{
    return s->live.tokens.n_ids + s->n_replay;
}

static uint32_t id_at(const reading *r, size_t at)
{
    if (r->ids)
        return r->ids[at];
    const tarni_ids *fed = &r->session->live.tokens;
    return at < fed->n_ids ? fed->ids[at]
                           : r->session->queue.ids[r->session->queue_at + at - fed->n_ids];
}

static bool begin_id(reading *r, const tarni_tokenizer *t)
{
    tarn_error unwanted;
    if (r->at == r->end || tarni_tokenizer_is_special(t, id_at(r, r->at)) ||
        tarni_tokenizer_bytes(t, id_at(r, r->at), &r->bytes, &r->n_bytes, &unwanted) != TARN_OK)
        return false;
    r->at++;
    return true;
}

/* Goes on in both as long as they are the same. */
static void go_on(reading *a, reading *b, const tarni_tokenizer *t)
{
    for (;;) {
        if (!a->bytes && !b->bytes && a->at < a->end && b->at < b->end &&
            id_at(a, a->at) == id_at(b, b->at)) {
            a->at++;
            b->at++;
            continue;
        }
        if ((!a->bytes && !begin_id(a, t)) || (!b->bytes && !begin_id(b, t)))
            return;
        size_t n = a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes;
        if (memcmp(a->bytes, b->bytes, n) != 0)
            return;
        a->n_bytes -= n;
        b->n_bytes -= n;
        a->bytes = a->n_bytes > 0 ? a->bytes + n : NULL;
        b->bytes = b->n_bytes > 0 ? b->bytes + n : NULL;
    }
}

/* Where session and script part. */
typedef struct fork_place {
    size_t n_segments;  /* of the script that are the same */
    size_t n_ids;       /* of the script that these are */
    uint64_t kept;      /* tokens of the session that these are */
    uint64_t position;  /* the first token that differs */
    size_t more_ids;    /* of the next segment that the session's open turn has */
    bool session_ended; /* it has nothing that differs */
} fork_place;

/* Does the session end inside the next segment, where that could go on? A turn makes its calls when
 * it ends; the call a result answers is known by its segment, which has begun. */
static bool can_go_on(const tarn_session *s, const tarnp_segment *next)
{
    return s->live.tail_role == next->role && !s->live.tail_closed &&
           (next->n_call_ids == 0 || next->role == TARN_ROLE_ASSISTANT);
}

/* Is the session's last segment this message, as what follows it depends on? The same ids may have
 * come in as plain tokens. */
static bool ends_as(const tarn_session *s, const tarnp_segment *last)
{
    return s->live.tail_role == last->role && s->live.tail_closed;
}

static fork_place find_fork(const script *c)
{
    const tarn_session *s = c->session;
    const tarni_tokenizer *t = s->engine->model->tokenizer;
    fork_place f = {0}, before_last = {0};
    reading ours = {.session = s, .end = session_tokens(s)};
    for (; f.n_segments < c->draft.segments.n; f.n_segments++) {
        const tarnp_segment *segment = &c->draft.segments.items[f.n_segments];
        reading theirs = {.ids = c->draft.ids.ids, .at = f.n_ids};
        theirs.end = f.n_ids + segment->n_tokens;
        ours.at = f.kept;
        ours.bytes = NULL;
        go_on(&ours, &theirs, t);
        f.position = ours.at - (ours.bytes != NULL);
        if (theirs.at == theirs.end && !theirs.bytes && !ours.bytes) {
            before_last = f;
            before_last.position = f.kept;
            f.n_ids = theirs.end;
            f.kept = ours.at;
            continue;
        }
        f.session_ended = ours.at == ours.end && !ours.bytes;
        f.more_ids = theirs.at - f.n_ids;
        if (f.session_ended && f.more_ids > 0)
            f.session_ended = !theirs.bytes && can_go_on(s, segment);
        return f;
    }
    f.position = f.kept;
    f.session_ended = f.kept == ours.end;
    if (f.session_ended && f.n_segments > 0 &&
        !ends_as(s, &c->draft.segments.items[f.n_segments - 1]))
        return before_last;
    return f;
}

/* ---- doing ---- */

/* The script from the place on, as what is appended. */
static tarn_status queue_rest(script *c, const fork_place *f, uint64_t *n_tokens, tarn_error *err)
{
    tarn_session *s = c->session;
    tarni_draft *d = &c->draft;
    size_t more = f->session_ended ? f->more_ids : 0, drop = f->n_ids + more;
    tarni_segments dropped = {.items = d->segments.items, .n = f->n_segments};
    if (f->n_segments == d->segments.n)
        return TARN_OK;
    tarni_segments_clear(&dropped, d->allocator);
    d->segments.n -= f->n_segments;
    memmove(d->segments.items, d->segments.items + f->n_segments,
            d->segments.n * sizeof *d->segments.items);
    if (more > 0) {
        d->segments.items[0].n_tokens -= (uint32_t)more;
        d->segments.items[0].flags |= TARNP_SEGMENT_CONTINUES;
    }
    d->ids.n_ids -= drop;
    memmove(d->ids.ids, d->ids.ids + drop, d->ids.n_ids * sizeof *d->ids.ids);
    *n_tokens = d->ids.n_ids;
    return tarni_draft_queue(d, s, err);
}

/* To the end of what is the same. *head: where the session was, to come back to. */
static tarn_status go_back(tarn_session *s, uint64_t position, uint64_t *head, tarn_reuse *reuse,
                           tarn_error *err)
{
    char where[32];
    tarn_committed committed;
    if (!s->store)
        return tarni_session_reset(s, reuse, err);
    TARNI_TRY(tarni_session_commit(s, &committed, err));
    s->bytes_written += committed.bytes_written; /* the caller has not seen them yet */
    *head = s->head;
    snprintf(where, sizeof where, "@t:%" PRIu64, position);
    return tarni_session_rewind(s, where, reuse, err);
}

/* What was to be appended found no room. Where the way back finds none either, the session stays
 * where it is: before what differs. */
static void come_back(tarn_session *s, uint64_t head)
{
    char where[32];
    tarn_reuse reuse;
    tarn_error ignored;
    snprintf(where, sizeof where, "@n:%" PRIu64, head);
    if (s->store && tarni_session_rewind(s, where, &reuse, &ignored) != TARN_OK)
        TARNI_LOG(&s->engine->pools.log, TARN_LOG_WARN, "session %s: sync: it stays at %zu: %s",
                  s->name, s->live.tokens.n_ids, ignored.detail);
}

static tarn_status check_ready(const tarn_session *s, tarn_error *err)
{
    TARNI_TRY(tarni_draft_ready(s, err));
    TARNI_TRY(tarni_draft_need_chat(s, err));
    if (tarni_session_waiting(s) > s->n_replay)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s has %zu tokens waiting", s->name,
                          tarni_session_waiting(s));
    return TARN_OK;
}

/* Which message a segment is, or would be behind the last. */
static int64_t index_of(const script *c, size_t segment)
{
    size_t n = c->draft.segments.n;
    if (segment < n)
        return c->indices[segment];
    return n > 0 ? c->indices[n - 1] + 1 : 0;
}

static tarn_status apply(script *c, tarn_sync *out, tarn_error *err)
{
    tarn_session *s = c->session;
    fork_place f = find_fork(c);
    int64_t message = index_of(c, f.n_segments);
    bool all = f.n_segments == c->draft.segments.n;
    uint32_t context = s->engine->pools.spec.context;
    if (!f.session_ended && !s->store) /* nothing to go back in: everything is appended again */
        f = (fork_place){.position = f.position, .n_segments = 0};
    uint64_t then = f.kept + c->draft.ids.n_ids - f.n_ids, head = 0;
    if (then > context)
        return tarni_fail(err, TARN_E_LIMIT,
                          "session %s would have %" PRIu64 " tokens, the context is %u", s->name,
                          then, context);
    *out = (tarn_sync){.size = sizeof *out, .tokens_kept = f.kept, .position = f.position};
    if (f.session_ended) {
        out->kind = all ? TARN_SYNC_SAME : TARN_SYNC_EXTENDED;
        out->tokens_kept = session_tokens(s);
        out->reuse = (tarn_reuse){.tokens_reused = s->live.tokens.n_ids,
                                  .tokens_replayed = s->n_replay,
                                  .reason = out->tokens_kept ? TARN_REASON_EXACT : 0};
    } else {
        out->kind = f.kept > 0 ? TARN_SYNC_MOVED : TARN_SYNC_REBUILT;
        out->differs = true;
        out->message = message;
        /* What a parked session needs to go on it must be able to have before it is moved. */
        TARNI_TRY(tarni_parking_wake(s, err));
        TARNI_TRY(go_back(s, f.kept, &head, &out->reuse, err));
    }
    tarn_status status = queue_rest(c, &f, &out->tokens_appended, err);
    if (status != TARN_OK && !f.session_ended)
        come_back(s, head);
    return status;
}

tarn_status tarni_sync_json(tarn_session *s, const char *json, size_t n_bytes, tarn_sync *out,
                            tarn_error *err)
{
    json_t *parsed;
    script c = {.session = s};
    TARNI_TRY(check_ready(s, err));
    TARNI_TRY(tarni_json_parse("conversation", json, n_bytes, &parsed, err));
    tarni_draft_init(&c.draft, s);
    tarn_status status = tarni_conversation_parts(parsed, c.draft.allocator, script_part, &c, err);
    if (status == TARN_OK && json_is_true(json_object_get(parsed, "add_generation_prompt")))
        status = tarni_fail(err, TARN_E_INVALID,
                            "add_generation_prompt: a session writes that when it generates");
    json_decref(parsed);
    if (status == TARN_OK)
        status = apply(&c, out, err);
    script_fini(&c);
    return status;
}

tarn_status tarni_sync_messages(tarn_session *s, const tarn_message *messages, size_t n_messages,
                                tarn_sync *out, tarn_error *err)
{
    script c = {.session = s};
    size_t stride = n_messages > 0 ? messages[0].size : sizeof *messages; /* as it was compiled */
    if (stride < sizeof stride || stride > sizeof *messages)
        return tarni_fail(err, TARN_E_INVALID, "tarn_message: size is %zu, this version knows %zu",
                          stride, sizeof *messages);
    TARNI_TRY(check_ready(s, err));
    tarni_draft_init(&c.draft, s);
    tarn_status status = TARN_OK;
    for (size_t i = 0; i < n_messages && status == TARN_OK; i++) {
        tarn_message given = {0};
        tarni_message m = {0};
        memcpy(&given, (const char *)messages + i * stride, stride);
        given.flags |= TARN_MESSAGE_ANY_CALL;
        status = tarni_message_check(s, &given, err);
        if (status == TARN_OK)
            status = tarni_message_translate(&given, c.draft.allocator, &m, err);
        if (status == TARN_OK)
            status =
                script_part(&c, &(tarni_conversation_part){.message = &m, .idx = (int64_t)i}, err);
        tarni_message_free(c.draft.allocator, &m);
    }
    if (status == TARN_OK)
        status = apply(&c, out, err);
    script_fini(&c);
    return status;
}
