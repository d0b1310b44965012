/* live_ops.c - what is done to one session (live.h). */
#include "live.h"

#include <inttypes.h>

static bool is_busy(const live_session *x)
{
    return x->in_generation || rig_info(x->s).tokens_waiting > 0;
}

/* 0 and 1 mean the same of some. */
static bool same_factor(float a, float b)
{
    return (a == 0 ? 1 : a) == (b == 0 ? 1 : b);
}

static bool same_sampling(const tarn_sampling *a, const tarn_sampling *b)
{
    return a->size == 0 || b->size == 0 ||
           (a->temperature == b->temperature && same_factor(a->top_p, b->top_p) &&
            a->top_k == b->top_k && a->min_p == b->min_p && a->seed == b->seed &&
            same_factor(a->repeat_penalty, b->repeat_penalty) &&
            a->repeat_last_n == b->repeat_last_n && a->n_bias == b->n_bias);
}

/* ---- being open ------------------------------------------------------------------------------ */

void live_close(live_session *x)
{
    tarn_session_close(x->s);
    x->s = NULL;
    x->ticket = 0;
    x->in_message = x->in_generation = false;
    if (x->being == LIVE_LOOSE)
        x->being = LIVE_NONE;
}

static bool open_twice(live *l, live_session *x, char why[LIVE_WHY])
{
    char name[LIVE_NAME];
    tarn_session *other;
    live_name_of(l, x, name);
    if (x->being == LIVE_LOOSE)
        return true;
    tarn_status status = tarn_session_open(l->r.engine, l->r.store, name, NULL, &other, NULL, ERR);
    if (status == TARN_OK)
        tarn_session_close(other);
    return status == TARN_E_BUSY || LIVE_SAY("opened twice, it says %s", tarn_status_name(status));
}

static bool op_open(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char name[LIVE_NAME];
    tarn_reuse reuse;
    tarn_session_options o = {.size = sizeof o};
    if (x->s)
        return open_twice(l, x, why);
    bool is_new = x->being == LIVE_NONE, is_loose = is_new && b % 8 == 0;
    if (is_new && !is_loose)
        o.flags |= TARN_SESSION_CREATE;
    if (b % 5 == 0)
        o.flags |= TARN_SESSION_NO_PREFIX;
    live_name_of(l, x, name);
    tarn_status status =
        tarn_session_open(l->r.engine, is_loose ? NULL : l->r.store, name, &o, &x->s, &reuse, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, TARN_OK, why);
    if (is_new)
        *x = (live_session){
            .being = is_loose ? LIVE_LOOSE : LIVE_STORED, .renamed = x->renamed, .s = x->s};
    x->now = x->kept;
    live_read_sampling(x);
    if (!same_sampling(&x->sampling, &x->kept_sampling))
        return LIVE_SAY("it draws otherwise than when it was kept");
    x->kept_sampling = x->sampling;
    if (reuse.tokens_reused + reuse.tokens_replayed != x->kept.n)
        return LIVE_SAY("%" PRIu64 " ids are reused and %" PRIu64 " replayed of %zu",
                        reuse.tokens_reused, reuse.tokens_replayed, x->kept.n);
    return true;
}

static bool op_look(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char name[LIVE_NAME], where[32];
    live_session y = {.being = LIVE_LOOSE};
    if (x->being != LIVE_STORED || !live_settle(l, x, why))
        return x->being != LIVE_STORED;
    live_name_of(l, x, name);
    y.now = x->kept;
    live_cut(&y.now, (size_t)(b % (x->kept.n + 1)));
    snprintf(where, sizeof where, "@t:%zu", y.now.n);
    const tarn_session_options o = {
        .size = sizeof o, .flags = TARN_SESSION_READ_ONLY, .where = where};
    tarn_status status = tarn_session_open(l->r.engine, l->r.store, name, &o, &y.s, NULL, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, TARN_OK, why);
    bool good = tarn_session_run(y.s, live_event, l, ERR) == TARN_OK && live_check(l, &y, why);
    if (!good && !why[0])
        LIVE_SAY("looked at %s of %s: %.150s", where, name, rig_error.detail);
    live_close(&y);
    return good;
}

/* ---- feeding and generating ------------------------------------------------------------------ */

/* What a session that generates, or has a message open, may say. */
static tarn_status if_taken(const live_session *x)
{
    return x->in_generation || x->in_message ? TARN_E_CONFLICT : TARN_OK;
}

static bool op_append(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    const live_ids *stream = &l->streams[(b >> 8) % 3];
    size_t n = 1 + (size_t)(b % 24);
    if (!x->s || x->now.n + n > LIVE_IDS || x->in_message)
        return true;
    tarn_status status = tarn_session_append_tokens(x->s, stream->ids + x->now.n, n, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, if_taken(x), why);
    if (x->in_generation)
        return LIVE_SAY("ids are taken in the middle of a generation");
    live_add(&x->now, stream->ids + x->now.n, n);
    return true;
}

static bool op_step(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    (void)x, (void)b;
    return tarn_engine_step(l->r.engine, NULL, ERR) == TARN_OK ||
           LIVE_SAY("step: %.200s", rig_error.detail);
}

static bool op_run(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    (void)b;
    if (!x->s)
        return true;
    if (tarn_session_run(x->s, live_event, l, ERR) != TARN_OK)
        return LIVE_SAY("run: %.200s", rig_error.detail);
    return !x->in_generation || LIVE_SAY("a generation did not end");
}

static bool op_generate(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    const tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 1 + (uint32_t)(b % 8)};
    if (!x->s || x->now.n > LIVE_IDS)
        return true;
    tarn_status status = tarn_session_generate(x->s, &o, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status,
                            x->now.n == 0 && !x->in_message ? TARN_E_INVALID : if_taken(x), why);
    if (x->in_generation || x->in_message || x->now.n == 0)
        return LIVE_SAY("a generation begins where none can");
    tarn_session_info info = rig_info(x->s);
    uint64_t all = info.at.position + info.tokens_waiting;
    if (all == x->now.n + l->header.n)
        live_add(&x->now, l->header.ids, l->header.n);
    else if (all != x->now.n)
        return LIVE_SAY("a generation queues %" PRIu64 " ids", all - x->now.n);
    x->generation_from = x->now.n;
    x->generation_max = o.n_tokens_max;
    x->in_generation = true;
    x->stop = TARN_STOP_NONE;
    return true;
}

static bool op_sample(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    static const float temperatures[] = {0, 0.8F, 1.5F}, top_ps[] = {0, 0.9F, 1};
    tarn_sampling p = {.size = sizeof p,
                       .temperature = temperatures[b % 3],
                       .top_p = top_ps[(b >> 2) % 3],
                       .top_k = (uint32_t)((b >> 4) % 3 * 5),
                       .repeat_penalty = (b >> 6) % 3 == 0 ? 1.2F : 0,
                       .seed = b >> 8};
    if (!x->s || x->in_generation)
        return true;
    tarn_status status = tarn_session_set_sampling(x->s, &p, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, TARN_OK, why);
    live_read_sampling(x);
    return same_sampling(&x->sampling, &p) || LIVE_SAY("the sampling is another than was set");
}

static bool op_cancel(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    live_ids all;
    (void)b;
    if (!x->s)
        return true;
    tarn_session_cancel(x->s);
    if (!op_run(l, x, 0, why))
        return false;
    if (x->in_message) { /* the message does not know yet where nothing of it waited */
        tarn_status status = tarn_session_append_end(x->s, NULL, ERR);
        if (status != TARN_E_CANCELLED)
            return LIVE_SAY("a message that was given up ends with %s", tarn_status_name(status));
    }
    live_all_ids(l, x, &all);
    x->in_message = false;
    live_cut(&all, (size_t)rig_info(x->s).at.position);
    x->now = all;
    return x->now.n >= x->kept.n || LIVE_SAY("what was kept is gone");
}

/* ---- messages -------------------------------------------------------------------------------- */

/* What a message adds, with the end of a turn that was open. */
static bool add_message(live *l, live_session *x, const live_ids *message, size_t n_queued,
                        char why[LIVE_WHY])
{
    if (n_queued == message->n + 1)
        live_add(&x->now, &l->im_end, 1);
    else if (n_queued != message->n)
        return LIVE_SAY("a message is %zu ids, should be %zu", n_queued, message->n);
    live_add(&x->now, message->ids, message->n);
    return true;
}

static bool op_message(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    const tarn_message m = {.size = sizeof m,
                            .role = TARN_ROLE_USER,
                            .text = live_text(b),
                            .text_bytes = strlen(live_text(b))};
    live_ids message;
    size_t n;
    if (!x->s || !l->talks || x->now.n > LIVE_IDS)
        return true;
    tarn_status status = tarn_session_append_message(x->s, &m, &n, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, if_taken(x), why);
    return live_message_ids(l, b, m.text_bytes, &message) && add_message(l, x, &message, n, why);
}

static bool begin_message(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    const tarn_message m = {.size = sizeof m, .role = TARN_ROLE_USER};
    live_ids message;
    tarn_status status = tarn_session_append_begin(x->s, &m, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, if_taken(x), why);
    tarn_session_info info = rig_info(x->s);
    x->message = b;
    x->text_bytes = 0;
    if (!live_message_ids(l, b, 0, &message)) /* header and end marker */
        return LIVE_SAY("render_chat: %.200s", rig_error.detail);
    if (info.at.position + info.tokens_waiting == x->now.n + message.n)
        live_add(&x->now, &l->im_end, 1); /* the header, and the end of a turn that was open */
    x->in_message = true;
    return true;
}

/* Begins a message; then gives it some of its text; at last ends it. */
static bool op_pieces(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    live_ids message;
    if (!x->s || !l->talks || x->now.n > LIVE_IDS)
        return true;
    if (!x->in_message)
        return begin_message(l, x, b, why);
    const char *text = live_text(x->message) + x->text_bytes;
    size_t left = strlen(text), n = 1 + (size_t)(b % 9);
    if (left > 0) {
        n = n < left ? n : left;
        tarn_status status = tarn_session_append_bytes(x->s, text, n, NULL, ERR);
        if (status != TARN_OK)
            return live_refusal(l, status, TARN_OK, why);
        x->text_bytes += n;
        return true;
    }
    tarn_status status = tarn_session_append_end(x->s, NULL, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, TARN_OK, why);
    x->in_message = false;
    if (!live_message_ids(l, x->message, x->text_bytes, &message))
        return LIVE_SAY("render_chat: %.200s", rig_error.detail);
    live_add(&x->now, message.ids, message.n);
    return true;
}

/* A conversation of one to four messages. */
static void write_list(uint64_t b, char json[1024])
{
    static const char *const words[] = {"Read the log.", "Noted.", "caf\xc3\xa9", "Which failed?"};
    size_t at = (size_t)snprintf(json, 1024, "{\"messages\":[");
    for (uint64_t i = 0; i < 1 + b % 4; i++)
        at += (size_t)snprintf(json + at, 1024 - at, "%s{\"role\":\"%s\",\"content\":\"%s\"}",
                               i ? "," : "", i % 2 ? "assistant" : "user",
                               words[(b >> (4 + 2 * i)) % 4]);
    snprintf(json + at, 1024 - at, "]}");
}

static bool op_sync(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char json[1024];
    live_ids list;
    tarn_sync out = {.size = sizeof out};
    if (!x->s || !l->talks)
        return true;
    write_list(b, json);
    if (!live_render(l, json, &list))
        return LIVE_SAY("render_chat: %.200s", rig_error.detail);
    bool taken = is_busy(x) || x->in_message;
    tarn_status status = tarn_session_sync(x->s, json, strlen(json), &out, ERR);
    if (status != TARN_OK) {
        if (x->being == LIVE_STORED && !live_read_kept(l, x, x->kept.n, why))
            return false; /* it may have been committed */
        return live_refusal(l, status, taken ? TARN_E_CONFLICT : TARN_OK, why);
    }
    if (out.tokens_appended > list.n || out.tokens_kept > x->now.n)
        return LIVE_SAY("sync keeps %" PRIu64 " ids and appends %" PRIu64, out.tokens_kept,
                        out.tokens_appended);
    live_cut(&x->now, (size_t)out.tokens_kept);
    if (out.kind == TARN_SYNC_MOVED || out.kind == TARN_SYNC_REBUILT) {
        if (x->being == LIVE_STORED)
            x->kept = x->now;
        live_read_sampling(x);
        x->kept_sampling = x->sampling;
    }
    live_add(&x->now, list.ids + list.n - out.tokens_appended, (size_t)out.tokens_appended);
    return true;
}

/* ---- keeping --------------------------------------------------------------------------------- */

static bool op_commit(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    tarn_committed made = {.size = sizeof made};
    live_ids all;
    (void)b;
    if (!x->s)
        return true;
    tarn_status status = tarn_session_commit(x->s, &made, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, x->being == LIVE_LOOSE ? TARN_E_UNSUPPORTED : TARN_OK, why);
    if (made.at.position != rig_info(x->s).at.position)
        return LIVE_SAY("a commit is of %" PRIu64 " ids", made.at.position);
    live_all_ids(l, x, &all);
    live_cut(&all, (size_t)made.at.position);
    x->kept_sampling = x->sampling;
    if (all.n < x->kept.n) /* what was kept is still being replayed: nothing is new */
        return true;
    x->kept = x->node = all;
    x->node_id = made.at.node;
    return true;
}

static bool op_begin(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    live_ids all;
    (void)b;
    if (!x->s)
        return true;
    tarn_status status = tarn_session_commit_begin(x->s, &x->ticket, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, x->being == LIVE_LOOSE ? TARN_E_UNSUPPORTED : TARN_OK, why);
    live_all_ids(l, x, &all);
    live_cut(&all, (size_t)rig_info(x->s).at.position);
    x->begun = all;
    x->kept_sampling = x->sampling;
    if (all.n > x->kept.n) /* else what was kept is still being replayed */
        x->kept = all;
    return true;
}

static bool op_wait(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    tarn_committed made = {.size = sizeof made};
    tarn_commit_level level = (tarn_commit_level)(TARN_COMMIT_MEMORY + b % 3);
    if (!x->s || !x->ticket)
        return true;
    tarn_status status = tarn_session_wait(x->s, x->ticket, level, 0, &made, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, TARN_OK, why);
    return level == TARN_COMMIT_MEMORY || made.at.position == x->begun.n ||
           LIVE_SAY("the commit that was begun is of %" PRIu64 " ids, should be %zu",
                    made.at.position, x->begun.n);
}

static bool op_fork(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char name[LIVE_NAME];
    live_session *y = live_vacant(l);
    tarn_session *child;
    (void)b;
    if (!x->s || !y)
        return true;
    live_name_of(l, y, name);
    bool busy = is_busy(x);
    tarn_status status = tarn_session_fork(x->s, name, &child, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, busy ? TARN_E_CONFLICT : TARN_OK, why);
    *y = (live_session){.being = x->being, .renamed = y->renamed, .s = child};
    live_all_ids(l, x, &y->now);
    live_cut(&y->now, (size_t)rig_info(child).at.position);
    live_read_sampling(y);
    if (!same_sampling(&y->sampling, &x->sampling))
        return LIVE_SAY("the child draws otherwise");
    if (x->being == LIVE_LOOSE)
        return true;
    /* It begins at the last node, which may be a state kept on the way, behind the head. */
    return live_settle(l, x, why) && live_read_kept(l, y, x->kept.n, why);
}

static bool op_rewind(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    char where[32];
    live_ids to;
    if (!x->s || x->in_message)
        return true;
    bool busy = is_busy(x), forward = x->node_id && (b >> 16) % 4 == 0;
    to = forward ? x->node : x->now;
    if (!forward)
        live_cut(&to, (size_t)(b % (x->now.n + 1)));
    snprintf(where, sizeof where, forward ? "@n:%llu" : "@t:%llu",
             forward ? (unsigned long long)x->node_id : (unsigned long long)to.n);
    tarn_status status = tarn_session_rewind(x->s, where, NULL, ERR);
    tarn_error err = rig_error;
    if (status != TARN_OK) {
        if (x->being == LIVE_STORED && !live_read_kept(l, x, x->kept.n, why))
            return false; /* it was committed before it was refused */
        rig_error = err;
        if (x->being == LIVE_LOOSE && status == TARN_E_UNSUPPORTED)
            return true;
        return live_refusal(l, status, busy ? TARN_E_CONFLICT : TARN_OK, why);
    }
    x->now = x->kept = to;
    live_read_sampling(x);
    x->kept_sampling = x->sampling;
    return true;
}

static bool op_reset(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    (void)b;
    if (!x->s)
        return true;
    tarn_status status = tarn_session_reset(x->s, NULL, ERR);
    if (status != TARN_OK)
        return live_refusal(l, status, TARN_OK, why);
    x->now = x->kept;
    x->in_message = x->in_generation = false;
    live_read_sampling(x);
    return same_sampling(&x->sampling, &x->kept_sampling) ||
           LIVE_SAY("after a reset it draws otherwise than when it was kept");
}

static bool op_park(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    (void)b;
    if (!x->s)
        return true;
    tarn_session_info info = rig_info(x->s);
    bool may_not = !info.committed || is_busy(x) || x->in_message;
    tarn_status status = tarn_session_park(x->s, ERR);
    if (status == TARN_OK)
        return x->being == LIVE_STORED || LIVE_SAY("parked without a store");
    if (x->being == LIVE_LOOSE && status == TARN_E_UNSUPPORTED)
        return true;
    return live_refusal(l, status, may_not ? TARN_E_CONFLICT : TARN_OK, why);
}

static bool op_close(live *l, live_session *x, uint64_t b, char why[LIVE_WHY])
{
    (void)l, (void)b, (void)why;
    if (x->s)
        live_close(x);
    return true;
}

/* A new session whose first ids another one's node stands for begins at that node. */
static bool note_adopted(live *l, char why[LIVE_WHY])
{
    for (size_t i = 0; i < LIVE_SESSIONS; i++) {
        live_session *x = &l->sessions[i];
        if (!x->s || x->being == LIVE_LOOSE || x->kept.n > 0)
            continue;
        tarn_session_info info = rig_info(x->s);
        if (info.reuse.reason != TARN_REASON_PREFIX || info.at.node == 0)
            continue;
        if (!live_read_kept(l, x, 0, why))
            return false;
        l->n_adopted += x->kept.n > 0;
    }
    return true;
}

bool live_apply(live *l, live_op op, char why[LIVE_WHY])
{
    static bool (*const does[])(live *, live_session *, uint64_t, char *) = {
        op_open,   op_append, op_step,    op_run,    op_generate, op_sample, op_cancel,
        op_commit, op_begin,  op_wait,    op_fork,   op_rewind,   op_reset,  op_park,
        op_close,  op_look,   op_message, op_pieces, op_sync};
    live_session *x = &l->sessions[op.a % LIVE_SESSIONS];
    live_session *other = &l->sessions[(op.a >> 8) % LIVE_SESSIONS];
    why[0] = 0;
    if (!x->s && op.kind < LIVE_BRANCH && op.kind != LIVE_CLOSE && op.kind != LIVE_LOOK)
        op.kind = LIVE_OPEN;
    bool good =
        op.kind < LIVE_BRANCH ? does[op.kind](l, x, op.b, why) : live_store_apply(l, op, why);
    if (!good && !why[0])
        LIVE_SAY("%s", rig_error.detail);
    return good && live_hear(l, why) && note_adopted(l, why) && live_check(l, x, why) &&
           live_check(l, other, why);
}
