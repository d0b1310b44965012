#include "api.h"
#include "branch.h"
#include "feed.h"
#include "intake.h"
#include "keep.h"
#include "opening.h"
#include "parking.h"
#include "plan.h"
#include "schedule.h"
#include "sync.h"
#include "tensors_out.h"

#include <string.h>

/* ---- engines ---- */

tarn_status tarn_engine_open(tarn_model *model, const tarn_engine_options *options,
                             tarn_engine **out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = NULL;
    TARNI_API_REQUIRE(model);
    tarn_engine_options o;
    TARNI_TRY(tarni_api_options(&o, sizeof o, options, "tarn_engine_options", err));
    return tarni_engine_open(&model->model, &o, out, err);
}

void tarn_engine_close(tarn_engine *engine)
{
    tarni_engine_close(engine);
}

/* A caller's function runs inside a step or a run: only looking is allowed. */
static tarn_status not_reentered(const tarn_engine *engine, tarn_error *err)
{
    if (engine->in_callback)
        return tarni_fail(err, TARN_E_INVALID, "called from inside a callback of the same engine");
    return TARN_OK;
}

tarn_status tarn_engine_step(tarn_engine *engine, tarn_step *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(engine);
    TARNI_TRY(not_reentered(engine, err));
    tarn_step step = {.size = sizeof step};
    TARNI_TRY(tarni_engine_step(engine, &step, err));
    if (out)
        tarni_api_result(out, &step, sizeof step);
    return TARN_OK;
}

bool tarn_engine_poll(tarn_engine *engine, tarn_event *out)
{
    if (tarni_events_poll(&engine->events, out))
        return true;
    for (tarn_session *s = engine->first; s && !engine->in_callback; s = s->next)
        tarni_session_reap(s);
    return tarni_events_poll(&engine->events, out);
}

const char *tarn_engine_device(const tarn_engine *engine)
{
    return engine->device.name;
}

const char *tarn_engine_numerics(const tarn_engine *engine)
{
    return engine->pools.numerics;
}

uint32_t tarn_engine_threads(const tarn_engine *engine)
{
    return engine->device.n_threads;
}

void tarn_engine_get_stat(const tarn_engine *engine, tarn_engine_stat *out)
{
    const tarni_pools *p = &engine->pools;
    uint64_t n_pages_max = p->pages.n_max, host_max = engine->budget.bytes_max;
    uint32_t n_commits = 0;
    for (const tarn_session *s = engine->first; s; s = s->next)
        n_commits += s->capture != NULL;
    tarn_engine_stat stat = {
        .size = out->size,
        .sessions = engine->n_sessions,
        .slots = p->slots.n_used - 1, /* but for the zero slot */
        .slots_bytes = (p->slots.n_used - 1) * (uint64_t)p->slots.slot_bytes,
        .pages = p->pages.n_used,
        .pages_bytes = p->pages.n_used * p->layout.page_bytes,
        .rows_computed = engine->rows_computed,
        .parked = engine->n_parked,
        .commits = n_commits,
        .slots_bytes_max = p->slots.n_max * (uint64_t)p->slots.slot_bytes,
        .pages_bytes_max = n_pages_max == UINT64_MAX ? 0 : n_pages_max * p->layout.page_bytes,
        .host_bytes_max = host_max == UINT64_MAX ? 0 : host_max,
        .host_bytes = atomic_load(&engine->budget.bytes),
        .pinned_bytes = engine->tier.bytes,
        .pinned_bytes_max = engine->tier.bytes_max,
        .pinned = engine->tier.n,
        .pool_bytes_max = tarni_trade_bytes(&p->trade, p->trade.n_chunks),
        .slots_pool_bytes = tarni_trade_bytes(&p->trade, p->trade.ranges[TARNI_SLOTS].n_chunks),
        .pages_pool_bytes = tarni_trade_bytes(&p->trade, p->trade.ranges[TARNI_PAGES].n_chunks),
        .pool_chunk_bytes = p->trade.chunk_bytes,
        .pool_trades = p->trade.n_traded};
    tarni_api_result(out, &stat, sizeof stat);
}

tarn_status tarn_plan(const tarn_model *model, const tarn_plan_options *options,
                      tarn_plan_report *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    TARNI_API_REQUIRE(model);
    tarn_plan_options o;
    tarn_plan_report report = {.size = out->size};
    TARNI_TRY(tarni_api_options(&o, sizeof o, options, "tarn_plan_options", err));
    if (!model->model.has_spec)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "%s was opened for its tokenizer only",
                          model->model.dir);
    TARNI_TRY(tarni_plan(&model->model.spec, &o, &report, err));
    tarni_api_result(out, &report, sizeof report);
    return TARN_OK;
}

/* ---- sessions ---- */

static tarn_status check_open(const tarn_session_options *o, bool stored, tarn_error *err)
{
    const uint32_t known = TARN_SESSION_CREATE | TARN_SESSION_EXCLUSIVE | TARN_SESSION_READ_ONLY |
                           TARN_SESSION_NO_PREFIX;
    if (o->flags & ~known)
        return tarni_fail(err, TARN_E_INVALID, "tarn_session_options: flags are %#x", o->flags);
    if ((o->flags & TARN_SESSION_EXCLUSIVE) && !(o->flags & TARN_SESSION_CREATE))
        return tarni_fail(err, TARN_E_INVALID, "EXCLUSIVE needs CREATE");
    if (o->where && *o->where && !(o->flags & TARN_SESSION_READ_ONLY))
        return tarni_fail(err, TARN_E_INVALID,
                          "a place can be opened READ_ONLY: fork or rewind "
                          "first to go on from there");
    if (!stored && (o->where || (o->flags & TARN_SESSION_READ_ONLY)))
        return tarni_fail(err, TARN_E_INVALID, "a session without a store has no place to open");
    if (o->n_tags > 0 && !o->tags)
        return tarni_fail(err, TARN_E_INVALID, "tags is NULL and n_tags is %zu", o->n_tags);
    return TARN_OK;
}

tarn_status tarn_session_open(tarn_engine *engine, tarn_store *store, const char *name,
                              const tarn_session_options *options, tarn_session **out,
                              tarn_reuse *reuse, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(reuse);
    TARNI_API_REQUIRE(out);
    *out = NULL;
    TARNI_API_REQUIRE(engine);
    TARNI_API_REQUIRE(name);
    tarn_session_options o;
    tarn_reuse unwanted;
    TARNI_TRY(not_reentered(engine, err));
    TARNI_TRY(tarni_api_options(&o, sizeof o, options, "tarn_session_options", err));
    TARNI_TRY(check_open(&o, store != NULL, err));
    return tarni_session_open(engine, store ? store->desk : NULL, name, &o, out,
                              reuse ? reuse : &unwanted, err);
}

void tarn_session_close(tarn_session *session)
{
    tarni_session_close(session);
}

void tarn_session_get_info(const tarn_session *s, tarn_session_info *out)
{
    tarn_session_info info = {
        .size = out->size,
        .at = tarni_session_at(s),
        .turns = s->live.turns,
        .tokens_waiting = tarni_session_waiting(s),
        .committed = s->live.base_node != 0 && !tarni_timeline_dirty(&s->live) &&
                     s->head == s->live.base_node,
        .has_logits = s->live.has_logits && tarni_session_waiting(s) == 0,
        .turn_open = s->live.tail_role == TARN_ROLE_ASSISTANT && !s->live.tail_closed,
        .reuse = s->reuse,
        .appending = s->intake.open};
    if (s->poisoned)
        info.state = TARN_SESSION_POISONED;
    else if (tarni_session_waiting(s) > 0)
        info.state = TARN_SESSION_APPENDING;
    else if (s->generation.active)
        info.state = TARN_SESSION_GENERATING;
    else if (s->parked)
        info.state = TARN_SESSION_PARKED;
    tarni_api_result(out, &info, sizeof info);
}

void tarn_session_failure(const tarn_session *s, tarn_error *out)
{
    *out = s->poisoned ? s->failure : (tarn_error){0};
}

tarn_status tarn_session_append_tokens(tarn_session *s, const uint32_t *ids, size_t n_ids,
                                       tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    if (n_ids > 0)
        TARNI_API_REQUIRE(ids);
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_feed_tokens(s, ids, n_ids, err);
}

tarn_status tarn_session_append_message(tarn_session *s, const tarn_message *message,
                                        size_t *n_tokens, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(n_tokens);
    TARNI_API_REQUIRE(s);
    TARNI_API_REQUIRE(message);
    tarn_message m;
    TARNI_TRY(not_reentered(s->engine, err));
    TARNI_TRY(tarni_api_options(&m, sizeof m, message, "tarn_message", err));
    return tarni_feed_message(s, &m, n_tokens, err);
}

tarn_status tarn_session_append_begin(tarn_session *s, const tarn_message *message, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    TARNI_API_REQUIRE(message);
    tarn_message m;
    TARNI_TRY(not_reentered(s->engine, err));
    TARNI_TRY(tarni_api_options(&m, sizeof m, message, "tarn_message", err));
    return tarni_intake_begin(s, &m, err);
}

tarn_status tarn_session_append_bytes(tarn_session *s, const char *text, size_t n_bytes,
                                      size_t *n_tokens, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(n_tokens);
    TARNI_API_REQUIRE(s);
    if (n_bytes > 0)
        TARNI_API_REQUIRE(text);
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_intake_bytes(s, text, n_bytes, n_tokens, err);
}

tarn_status tarn_session_append_end(tarn_session *s, size_t *n_tokens, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(n_tokens);
    TARNI_API_REQUIRE(s);
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_intake_end(s, n_tokens, err);
}

tarn_status tarn_session_append_tools(tarn_session *s, const char *json, size_t n_bytes,
                                      size_t *n_tokens, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(n_tokens);
    TARNI_API_REQUIRE(s);
    TARNI_API_REQUIRE(json);
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_feed_tools(s, json, n_bytes, n_tokens, err);
}

tarn_status tarn_session_sync(tarn_session *s, const char *json, size_t n_bytes, tarn_sync *out,
                              tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    TARNI_API_REQUIRE(json);
    tarn_sync result = {.size = sizeof result};
    TARNI_TRY(not_reentered(s->engine, err));
    TARNI_TRY(tarni_sync_json(s, json, n_bytes, &result, err));
    if (out)
        tarni_api_result(out, &result, sizeof result);
    return TARN_OK;
}

tarn_status tarn_session_sync_messages(tarn_session *s, const tarn_message *messages,
                                       size_t n_messages, tarn_sync *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    if (n_messages > 0)
        TARNI_API_REQUIRE(messages);
    tarn_sync result = {.size = sizeof result};
    TARNI_TRY(not_reentered(s->engine, err));
    TARNI_TRY(tarni_sync_messages(s, messages, n_messages, &result, err));
    if (out)
        tarni_api_result(out, &result, sizeof result);
    return TARN_OK;
}

void tarn_session_get_sampling(const tarn_session *s, tarn_sampling *out)
{
    tarni_api_result(out, &s->live.sampling, sizeof s->live.sampling);
}

tarn_status tarn_session_set_sampling(tarn_session *s, const tarn_sampling *sampling,
                                      tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    TARNI_API_REQUIRE(sampling);
    tarn_sampling p;
    TARNI_TRY(not_reentered(s->engine, err));
    TARNI_TRY(tarni_api_options(&p, sizeof p, sampling, "tarn_sampling", err));
    if (p.top_p == 0.0f)
        p.top_p = 1.0f;
    if (p.repeat_penalty == 0.0f)
        p.repeat_penalty = 1.0f;
    TARNI_TRY(tarni_sampling_check(&p, s->engine->pools.spec.vocab, err));
    s->live.sampling = p;
    return TARN_OK;
}

tarn_status tarn_session_generate(tarn_session *s, const tarn_generate_options *options,
                                  tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    tarn_generate_options o;
    TARNI_TRY(not_reentered(s->engine, err));
    TARNI_TRY(tarni_api_options(&o, sizeof o, options, "tarn_generate_options", err));
    return tarni_feed_generation(s, &o, err);
}

static void hand_out(tarn_engine *e, tarn_event_fn fn, void *user)
{
    tarn_event event;
    e->in_callback = true;
    while (tarni_events_poll(&e->events, &event))
        if (fn)
            fn(user, &event);
    e->in_callback = false;
}

tarn_status tarn_session_run(tarn_session *s, tarn_event_fn fn, void *user, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    tarn_engine *e = s->engine;
    tarn_step step;
    TARNI_TRY(not_reentered(e, err));
    do {
        TARNI_TRY(tarni_engine_step(e, &step, err));
        hand_out(e, fn, user);
    } while (tarni_session_has_work(s));
    if (!s->poisoned)
        return TARN_OK;
    *err = s->failure;
    return err->status;
}

void tarn_session_cancel(tarn_session *s)
{
    atomic_store(&s->cancelled, true);
}

void tarn_session_tool_calls(const tarn_session *s, const tarn_tool_call **calls, size_t *n_calls,
                             bool *malformed)
{
    *calls = s->public_calls;
    *n_calls = s->calls.n_calls;
    if (malformed)
        *malformed = s->calls.malformed;
}

/* Looking at a parked session brings it back, which changes nothing that can be looked at; what a
 * failed step left is nothing to look at. */
static tarn_status look(const tarn_session *s, tarn_error *err)
{
    if (s->poisoned)
        return tarni_fail(err, TARN_E_POISONED, "session %s failed earlier: %.150s", s->name,
                          s->failure.detail);
    if (!s->parked)
        return TARN_OK;
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_parking_wake((tarn_session *)(uintptr_t)s, err);
}

tarn_status tarn_session_logits(const tarn_session *s, const float **logits, uint32_t *vocab,
                                tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(vocab);
    TARNI_API_REQUIRE(logits);
    *logits = NULL;
    TARNI_API_REQUIRE(s);
    TARNI_TRY(look(s, err));
    if (!s->live.has_logits || tarni_session_waiting(s) > 0)
        return tarni_fail(err, TARN_E_NOT_FOUND,
                          "session %s has no pending logits: position %zu, %zu tokens wait",
                          s->name, s->live.tokens.n_ids, tarni_session_waiting(s));
    TARNI_TRY(tarni_pools_read_logits(&s->engine->pools, s->live.slot, logits, err));
    if (vocab)
        *vocab = s->engine->pools.spec.vocab;
    return TARN_OK;
}

void tarn_session_on_logits(tarn_session *s, tarn_logits_fn fn, void *user)
{
    s->on_logits = fn;
    s->on_logits_user = user;
}

tarn_status tarn_session_tensors(const tarn_session *s, tarn_tensor_fn fn, void *user,
                                 tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    TARNI_API_REQUIRE(fn);
    TARNI_TRY(look(s, err));
    if (tarni_session_waiting(s) > 0)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s: %zu tokens wait", s->name,
                          tarni_session_waiting(s));
    return tarni_timeline_tensors(&s->live, fn, user, err);
}

tarn_status tarn_session_commit(tarn_session *s, tarn_committed *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    TARNI_TRY(not_reentered(s->engine, err));
    tarn_committed committed = {.size = sizeof committed};
    TARNI_TRY(tarni_session_commit(s, &committed, err));
    if (out)
        tarni_api_result(out, &committed, sizeof committed);
    return TARN_OK;
}

tarn_status tarn_session_commit_begin(tarn_session *s, tarn_ticket *ticket, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(ticket);
    *ticket = 0;
    TARNI_API_REQUIRE(s);
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_session_commit_begin(s, ticket, err);
}

tarn_status tarn_session_wait(tarn_session *s, tarn_ticket ticket, tarn_commit_level level,
                              uint32_t timeout_ms, tarn_committed *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    TARNI_TRY(not_reentered(s->engine, err));
    if (level < TARN_COMMIT_MEMORY || level > TARN_COMMIT_SYNCED)
        return tarni_fail(err, TARN_E_INVALID, "no such level of a commit: %d", (int)level);
    tarn_committed committed = {.size = sizeof committed};
    TARNI_TRY(tarni_session_wait(s, ticket, level, timeout_ms, &committed, err));
    if (out)
        tarni_api_result(out, &committed, sizeof committed);
    return TARN_OK;
}

tarn_status tarn_session_fork(tarn_session *s, const char *new_name, tarn_session **out,
                              tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = NULL;
    TARNI_API_REQUIRE(s);
    TARNI_API_REQUIRE(new_name);
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_session_fork(s, new_name, out, err);
}

tarn_status tarn_session_rewind(tarn_session *s, const char *where, tarn_reuse *reuse,
                                tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(reuse);
    TARNI_API_REQUIRE(s);
    tarn_reuse unwanted;
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_session_rewind(s, where, reuse ? reuse : &unwanted, err);
}

tarn_status tarn_session_reset(tarn_session *s, tarn_reuse *reuse, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(reuse);
    TARNI_API_REQUIRE(s);
    tarn_reuse unwanted;
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_session_reset(s, reuse ? reuse : &unwanted, err);
}

tarn_status tarn_session_price(tarn_session *s, const char *where, tarn_at *at, tarn_price *price,
                               tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(at);
    TARNI_API_CLEAR(price);
    TARNI_API_REQUIRE(s);
    tarn_at place;
    tarn_price cost;
    TARNI_TRY(not_reentered(s->engine, err));
    TARNI_TRY(tarni_session_price(s, where, &place, &cost, err));
    if (at)
        *at = place;
    if (price)
        *price = cost;
    return TARN_OK;
}

tarn_status tarn_session_park(tarn_session *s, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(s);
    TARNI_TRY(not_reentered(s->engine, err));
    return tarni_parking_park(s, err);
}
