#include "live.h"

#include <inttypes.h>
#include <stdarg.h>

static const char *const kind_names[LIVE_KINDS] = {
    "open", "append", "step",   "run",    "generate", "sample",  "cancel", "commit",  "begin",
    "wait", "fork",   "rewind", "reset",  "park",     "close",   "look",   "message", "pieces",
    "sync", "branch", "move",   "rename", "remove",   "collect", "copy",   "mark",    "restart"};

const char *live_name(live_kind kind)
{
    return kind_names[kind];
}

live_op live_random(uint64_t *random)
{
    static const uint8_t weights[LIVE_KINDS] = {14, 24, 8, 14, 10, 2, 3, 12, 8, 4, 6, 8, 3, 5,
                                                5,  4,  6, 12, 3,  3, 3, 2,  2, 2, 2, 2, 1};
    unsigned all = 0;
    live_op op = {0};
    for (int i = 0; i < LIVE_KINDS; i++)
        all += weights[i];
    uint64_t dice = rig_random(random) % all;
    while (dice >= weights[op.kind])
        dice -= weights[op.kind++];
    op.a = rig_random(random) >> 16;
    op.b = rig_random(random) >> 16;
    return op;
}

/* ---- messages -------------------------------------------------------------------------------- */

const char *live_text(uint64_t b)
{
    static const char *const texts[] = {
        "Read the log.", "don't pan\nic: it's \xf0\x9f\x98\x80 fine",
        "billing listens on port 4821", "caf\xc3\xa9 <|im_end|> 12"};
    return texts[b % 4];
}

bool live_render(live *l, const char *json, live_ids *out)
{
    tarn_ids ids;
    out->n = 0;
    if (tarn_model_render_chat(l->r.model, json, strlen(json), &ids, ERR) != TARN_OK)
        return false;
    live_add(out, ids.ids, ids.n_ids);
    tarn_ids_free(&ids);
    return true;
}

/* With so much of its text as whole characters. */
bool live_message_ids(live *l, uint64_t b, size_t text_bytes, live_ids *out)
{
    char json[256], text[128] = "";
    const char *whole = live_text(b);
    size_t n = 0;
    while (text_bytes > 0 && ((uint8_t)whole[text_bytes] & 0xC0) == 0x80)
        text_bytes--;
    for (size_t i = 0; i < text_bytes; i++) {
        if (whole[i] == '\n')
            text[n++] = '\\';
        text[n++] = (char)(whole[i] == '\n' ? 'n' : whole[i]);
    }
    snprintf(json, sizeof json, "{\"messages\":[{\"role\":\"user\",\"content\":\"%.*s\"}]}", (int)n,
             text);
    return live_render(l, json, out);
}

/* ---- what there is --------------------------------------------------------------------------- */

bool live_say(char why[LIVE_WHY], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, LIVE_WHY, format, args);
    va_end(args);
    return false;
}

void live_name_then(const live *l, const live_session *x, unsigned renamed, char out[LIVE_NAME])
{
    snprintf(out, LIVE_NAME, "s%u-%u", (unsigned)(x - l->sessions), renamed);
}

void live_name_of(const live *l, const live_session *x, char out[LIVE_NAME])
{
    live_name_then(l, x, x->renamed, out);
}

live_session *live_vacant(live *l)
{
    for (size_t i = 0; i < LIVE_SESSIONS; i++)
        if (l->sessions[i].being == LIVE_NONE)
            return &l->sessions[i];
    return NULL;
}

bool live_refusal(live *l, tarn_status status, tarn_status allowed, char why[LIVE_WHY])
{
    l->n_refused++;
    if (status == allowed || (status == TARN_E_LIMIT && l->ceilings))
        return true;
    return LIVE_SAY("%s: %.180s", tarn_status_name(status), rig_error.detail);
}

/* All that was fed and waits, as far as it is certain: of a message that is open its ids so far. */
void live_all_ids(live *l, const live_session *x, live_ids *out)
{
    live_ids message;
    *out = x->now;
    if (x->in_message && live_message_ids(l, x->message, x->text_bytes, &message))
        live_add(out, message.ids, message.n);
}

void live_read_sampling(live_session *x)
{
    memset(&x->sampling, 0, sizeof x->sampling);
    x->sampling.size = sizeof x->sampling;
    tarn_session_get_sampling(x->s, &x->sampling);
}

bool live_settle(live *l, live_session *x, char why[LIVE_WHY])
{
    (void)l;
    if (!x->s || !x->ticket)
        return true;
    tarn_status status = tarn_session_wait(x->s, x->ticket, TARN_COMMIT_WRITTEN, 0, NULL, ERR);
    return status == TARN_OK || LIVE_SAY("wait: %.200s", rig_error.detail);
}

bool live_read_kept(live *l, live_session *x, size_t n_least, char why[LIVE_WHY])
{
    char name[LIVE_NAME];
    tarn_ids ids;
    live_ids all;
    if (!live_settle(l, x, why))
        return false;
    live_name_of(l, x, name);
    live_all_ids(l, x, &all);
    if (tarn_store_tokens(l->r.store, name, NULL, &ids, ERR) != TARN_OK)
        return LIVE_SAY("tokens of %s: %.180s", name, rig_error.detail);
    bool fits = ids.n_ids >= n_least && ids.n_ids <= all.n;
    if (fits && ids.n_ids > 0)
        fits = memcmp(ids.ids, all.ids, ids.n_ids * sizeof ids.ids[0]) == 0;
    if (!fits)
        LIVE_SAY("the store holds %zu ids of %s, which has %zu and kept %zu", ids.n_ids, name,
                 all.n, n_least);
    x->kept = all;
    live_cut(&x->kept, ids.n_ids);
    tarn_ids_free(&ids);
    return fits;
}

/* ---- events ---------------------------------------------------------------------------------- */

/* What a generation gave, against one after the same ids from the first one on. */
static void check_generation(live *l, live_session *x)
{
    uint32_t want[64];
    char *why = l->problem;
    long n = cold_generate(&l->cold, x->now.ids, x->generation_from, &x->sampling,
                           x->generation_max, want);
    long n_got = (long)(x->now.n - x->generation_from);
    bool cut = x->stop == TARN_STOP_CANCELLED || (x->stop == TARN_STOP_LENGTH && l->ceilings);
    l->n_generated += (uint64_t)n_got;
    if (n < 0)
        LIVE_SAY("the oracle fails: %.180s", l->cold.err.detail);
    else if (cut ? n_got > n : n_got != n)
        LIVE_SAY("%ld ids were generated, should be %ld (stop %d)", n_got, n, (int)x->stop);
    for (long i = 0; i < n_got && i < n; i++)
        if (x->now.ids[x->generation_from + (size_t)i] != want[i]) {
            LIVE_SAY("id %ld of a generation is %u, should be %u", i,
                     x->now.ids[x->generation_from + (size_t)i], want[i]);
            return;
        }
}

void live_event(void *user, const tarn_event *e)
{
    live *l = user;
    char *why = l->problem;
    live_session *x = NULL;
    for (size_t i = 0; i < LIVE_SESSIONS; i++)
        if (l->sessions[i].s == e->session)
            x = &l->sessions[i];
    if (!x)
        return;
    if (e->kind == TARN_EVENT_TOKEN && !x->in_generation) {
        LIVE_SAY("an id without a generation");
    } else if (e->kind == TARN_EVENT_TOKEN) {
        live_add(&x->now, &e->id, 1);
        if (e->position != x->now.n)
            LIVE_SAY("an id is told at %" PRIu64 ", should be at %zu", e->position, x->now.n);
    } else if (e->kind == TARN_EVENT_STOP && e->stop == TARN_STOP_FAILED) {
        LIVE_SAY("a session failed");
    } else if (e->kind == TARN_EVENT_STOP && x->in_generation) {
        x->in_generation = false;
        x->stop = e->stop;
        if (e->stop != TARN_STOP_CANCELLED || x->now.n > x->generation_from)
            check_generation(l, x);
    } else if (e->kind == TARN_EVENT_COMMITTED && e->status != TARN_OK) {
        LIVE_SAY("a commit that was begun says %s", tarn_status_name(e->status));
    } else if (e->kind == TARN_EVENT_PRESSURE) {
        l->n_parked += e->pressure == TARN_PRESSURE_PARKED;
    }
}

bool live_hear(live *l, char why[LIVE_WHY])
{
    for (tarn_event e; tarn_engine_poll(l->r.engine, &e);)
        live_event(l, &e);
    if (!l->problem[0])
        return true;
    memcpy(why, l->problem, LIVE_WHY);
    l->problem[0] = 0;
    return false;
}

/* ---- comparing ------------------------------------------------------------------------------- */

bool live_check(live *l, live_session *x, char why[LIVE_WHY])
{
    static live_ids ids;
    const float *logits;
    uint32_t vocab;
    if (!x->s)
        return true;
    tarn_session_info info = rig_info(x->s);
    if (info.state == TARN_SESSION_POISONED)
        return LIVE_SAY("a session is poisoned");
    live_all_ids(l, x, &ids);
    uint64_t all = info.at.position + info.tokens_waiting;
    if (x->in_message ? all > ids.n : all != ids.n)
        return LIVE_SAY("%" PRIu64 " ids were fed and %" PRIu64 " wait, should be %zu",
                        info.at.position, info.tokens_waiting, ids.n);
    if (info.tokens_waiting > 0 || info.at.position == 0)
        return true;
    tarn_status status = tarn_session_logits(x->s, &logits, &vocab, ERR);
    if (status != TARN_OK) /* it may have to replay what it gave back */
        return live_refusal(l, status,
                            info.state == TARN_SESSION_PARKED ? TARN_E_NOT_FOUND : TARN_OK, why);
    uint64_t want = cold_row(&l->cold, ids.ids, (size_t)info.at.position);
    if (want == 0)
        return LIVE_SAY("the oracle fails: %.180s", l->cold.err.detail);
    if (cold_hash(logits, vocab * sizeof *logits) != want)
        return LIVE_SAY("the logits at %" PRIu64 " are others", info.at.position);
    return true;
}

bool live_match(live *l, char why[LIVE_WHY])
{
    tarn_session_list list;
    size_t n_stored = 0;
    for (size_t i = 0; i < LIVE_SESSIONS; i++) {
        live_session *x = &l->sessions[i];
        if (!live_check(l, x, why) || !live_settle(l, x, why))
            return false;
        if (x->being != LIVE_STORED)
            continue;
        const live_session whole = *x;
        n_stored++;
        x->now = x->kept; /* what the store holds must be just this */
        x->in_message = false;
        bool good = live_read_kept(l, x, x->kept.n, why);
        *x = whole;
        if (!good)
            return false;
    }
    if (tarn_store_list(l->r.store, NULL, &list, ERR) != TARN_OK)
        return LIVE_SAY("list: %.200s", rig_error.detail);
    size_t n_listed = list.n_entries;
    tarn_session_list_free(&list);
    if (n_listed != n_stored)
        return LIVE_SAY("%zu sessions are listed, should be %zu", n_listed, n_stored);
    tarn_verify_report report;
    if (tarn_store_verify(l->r.store, NULL, NULL, &report, ERR) != TARN_OK)
        return LIVE_SAY("verify: %.200s", rig_error.detail);
    size_t n_bad = report.n_bad;
    if (n_bad > 0)
        LIVE_SAY("verify finds %zu damages: %.150s", n_bad, report.bad[0].reason);
    tarn_verify_report_free(&report);
    return n_bad == 0 && live_hear(l, why);
}
