#include "api.h"
#include "lineage.h"
#include "listing.h"

#include <assert.h>
#include <string.h>

tarn_status tarn_store_open(const char *path, const tarn_store_options *options, tarn_store **out,
                            tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = NULL;
    TARNI_API_REQUIRE(path);
    tarn_store_options o;
    tarn_allocator a;
    tarn_store *store;
    TARNI_TRY(tarni_api_options(&o, sizeof o, options, "tarn_store_options", err));
    if (o.flags & ~(uint32_t)TARN_STORE_CREATE)
        return tarni_fail(err, TARN_E_INVALID, "tarn_store_options: flags are %#x", o.flags);
    TARNI_TRY(tarni_allocator_check(o.allocator, &a, err));
    TARNI_TRY(tarni_alloc(&a, 1, sizeof *store, &store, err));
    store->allocator = a;
    tarnp_options p = {.allocator = &store->allocator,
                       .log = o.log,
                       .create = o.flags & TARN_STORE_CREATE,
                       .map_bytes = (size_t)o.map_bytes,
                       .durability = (tarnp_durability)o.durability,
                       .secret = o.key,
                       .secret_bytes = o.key_bytes};
    tarn_status status = tarnp_store_open(path, &p, &store->store, err);
    if (status == TARN_OK) {
        status = tarni_desk_open(store->store, &a, &store->desk, err);
        if (status != TARN_OK)
            tarnp_store_close(store->store);
    }
    if (status != TARN_OK) {
        tarni_free(&a, store);
        return status;
    }
    *out = store;
    return TARN_OK;
}

void tarn_store_close(tarn_store *store)
{
    if (!store)
        return;
    tarn_allocator a = store->allocator;
    tarni_desk_close(store->desk);
    tarni_free(&a, store);
}

tarn_status tarn_store_flush(tarn_store *store, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    tarni_desk_drain(store->desk); /* what was begun and nobody has encoded yet */
    return TARNI_API_IN_TURN(store, tarnp_store_flush(store->store, err));
}

tarn_status tarn_store_list(tarn_store *store, const char *tag, tarn_session_list *out,
                            tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_session_list){0};
    TARNI_API_REQUIRE(store);
    return TARNI_API_IN_TURN(store, tarni_list_sessions(store->store, tag, out, err));
}

tarn_status tarn_store_log(tarn_store *store, const char *session, const char *where,
                           tarn_node_list *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_node_list){0};
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    return TARNI_API_IN_TURN(store, tarni_list_log(store->store, session, where, out, err));
}

tarn_status tarn_store_tree(tarn_store *store, const char *session, tarn_node_list *out,
                            tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_node_list){0};
    TARNI_API_REQUIRE(store);
    return TARNI_API_IN_TURN(store, tarni_list_tree(store->store, session, out, err));
}

static tarn_status tokens_of(tarn_store *store, const char *session, const char *where,
                             tarn_ids *out, tarn_error *err)
{
    tarni_lineage lineage;
    tarni_ids ids;
    TARNI_TRY(tarni_lineage_open(store->store, session, where, &lineage, err));
    tarni_ids_init(&ids, &store->allocator);
    tarn_status status = tarni_lineage_tokens(&lineage, &ids, err);
    if (status == TARN_OK)
        tarni_api_give_ids(&ids, out);
    tarni_ids_fini(&ids);
    tarni_lineage_fini(&lineage);
    return status;
}

tarn_status tarn_store_tokens(tarn_store *store, const char *session, const char *where,
                              tarn_ids *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_ids){0};
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    return TARNI_API_IN_TURN(store, tokens_of(store, session, where, out, err));
}

static tarn_at at_of(const char *session, const tarni_lineage *lineage, uint64_t node)
{
    tarn_at at = {.node = node,
                  .position = lineage->position,
                  .bit_exact = tarni_lineage_node(lineage)->flags & TARNP_NODE_BIT_EXACT};
    strncpy(at.session, session, sizeof at.session - 1);
    return at;
}

static tarn_status price_of(tarn_store *store, const char *session, const char *where, tarn_at *at,
                            tarn_price *price, tarn_error *err)
{
    tarni_lineage lineage;
    tarn_price found;
    TARNI_TRY(tarni_lineage_open(store->store, session, where, &lineage, err));
    tarn_status status = tarni_lineage_price(&lineage, 0, &found, err);
    if (status == TARN_OK && at)
        *at = at_of(session, &lineage, tarni_lineage_node(&lineage)->id);
    if (status == TARN_OK && price)
        *price = found;
    tarni_lineage_fini(&lineage);
    return status;
}

tarn_status tarn_store_price(tarn_store *store, const char *session, const char *where, tarn_at *at,
                             tarn_price *price, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(at);
    TARNI_API_CLEAR(price);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    return TARNI_API_IN_TURN(store, price_of(store, session, where, at, price, err));
}

/* The node of a place, made if there is none. */
static tarn_status place_node(const tarni_lineage *lineage, bool move, uint64_t *node,
                              uint64_t *bytes_written, tarn_error *err)
{
    *node = tarni_lineage_node(lineage)->id;
    if (tarni_lineage_at_node(lineage))
        return TARN_OK;
    tarnp_committed made;
    TARNI_TRY(tarni_lineage_make_node(lineage, move, NULL, &made, err));
    *node = made.node;
    *bytes_written += made.bytes_written;
    return TARN_OK;
}

static tarn_status fork_place(tarni_lineage *lineage, const char *new_name, uint64_t *node,
                              uint64_t *bytes_written, tarn_error *err)
{
    tarnp_session made, taken;
    uint64_t bytes = 0;
    TARNI_TRY(tarnp_name_check(new_name, err));
    tarn_error ignored;
    if (tarnp_session_find(lineage->store, new_name, &taken, &ignored) == TARN_OK) {
        tarnp_session_fini(&taken);
        return tarni_fail(err, TARN_E_EXISTS, "session %s exists", new_name);
    }
    TARNI_TRY(place_node(lineage, false, node, bytes_written, err));
    TARNI_TRY(tarnp_session_fork(lineage->store, *node, new_name, &made, &bytes, err));
    *bytes_written += bytes;
    tarnp_session_fini(&made);
    return TARN_OK;
}

static tarn_status fork_at(tarn_store *store, const char *session, const char *where,
                           const char *new_name, tarn_at *at, tarn_price *price,
                           uint64_t *bytes_written, tarn_error *err)
{
    tarni_lineage lineage;
    tarn_price cost;
    uint64_t node = 0, bytes = 0;
    TARNI_TRY(tarni_lineage_open(store->store, session, where, &lineage, err));
    tarn_status status = tarni_lineage_price(&lineage, 0, &cost, err);
    if (status == TARN_OK)
        status = fork_place(&lineage, new_name, &node, &bytes, err);
    if (status == TARN_OK && at)
        *at = at_of(new_name, &lineage, node);
    if (status == TARN_OK && price)
        *price = cost;
    if (status == TARN_OK && bytes_written)
        *bytes_written = bytes;
    tarni_lineage_fini(&lineage);
    return status;
}

tarn_status tarn_store_fork(tarn_store *store, const char *session, const char *where,
                            const char *new_name, tarn_at *at, tarn_price *price,
                            uint64_t *bytes_written, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(at);
    TARNI_API_CLEAR(price);
    TARNI_API_CLEAR(bytes_written);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    TARNI_API_REQUIRE(new_name);
    return TARNI_API_IN_TURN(
        store, fork_at(store, session, where, new_name, at, price, bytes_written, err));
}

static tarn_status rewind_to(const tarni_lineage *lineage, uint64_t *node, uint64_t *bytes_written,
                             tarn_error *err)
{
    TARNI_TRY(place_node(lineage, true, node, bytes_written, err));
    if (!tarni_lineage_at_node(lineage)) /* making the node moved the head */
        return TARN_OK;
    uint64_t bytes = 0;
    TARNI_TRY(tarnp_session_move(lineage->store, lineage->session.id, lineage->session.head, *node,
                                 &bytes, err));
    *bytes_written += bytes;
    return TARN_OK;
}

static tarn_status rewind_at(tarn_store *store, const char *session, const char *where, tarn_at *at,
                             tarn_price *price, uint64_t *bytes_written, tarn_error *err)
{
    tarni_lineage lineage;
    tarn_price cost;
    uint64_t node = 0, bytes = 0;
    TARNI_TRY(tarni_lineage_open(store->store, session, where, &lineage, err));
    tarn_status status = tarni_lineage_price(&lineage, 0, &cost, err);
    if (status == TARN_OK)
        status = rewind_to(&lineage, &node, &bytes, err);
    if (status == TARN_OK && at)
        *at = at_of(session, &lineage, node);
    if (status == TARN_OK && price)
        *price = cost;
    if (status == TARN_OK && bytes_written)
        *bytes_written = bytes;
    tarni_lineage_fini(&lineage);
    return status;
}

tarn_status tarn_store_rewind(tarn_store *store, const char *session, const char *where,
                              tarn_at *at, tarn_price *price, uint64_t *bytes_written,
                              tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(at);
    TARNI_API_CLEAR(price);
    TARNI_API_CLEAR(bytes_written);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    return TARNI_API_IN_TURN(store,
                             rewind_at(store, session, where, at, price, bytes_written, err));
}

tarn_status tarn_store_rename(tarn_store *store, const char *session, const char *new_name,
                              tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    TARNI_API_REQUIRE(new_name);
    return TARNI_API_IN_TURN(store, tarnp_session_rename(store->store, session, new_name, err));
}

tarn_status tarn_store_remove(tarn_store *store, const char *session, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    return TARNI_API_IN_TURN(store, tarnp_session_remove(store->store, session, err));
}

tarn_status tarn_store_get_stat(tarn_store *store, tarn_store_stat *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(out);
    tarnp_stat s;
    TARNI_TRY(TARNI_API_IN_TURN(store, tarnp_store_stat(store->store, &s, err)));
    tarn_store_stat stat = {.size = out->size,
                            .sessions = s.sessions,
                            .nodes = s.nodes,
                            .bytes_stored = s.bytes_stored,
                            .bytes_shared = s.bytes_shared,
                            .bytes_written = s.bytes_written,
                            .map_bytes = s.map_bytes,
                            .file_bytes = s.file_bytes};
    tarni_api_result(out, &stat, sizeof stat);
    return TARN_OK;
}

static_assert((int)TARN_STATE_LOSSLESS == (int)TARNP_STATE_LOSSLESS &&
                  (int)TARN_STATE_BF16 == (int)TARNP_STATE_BF16 &&
                  (int)TARN_STATE_FP16 == (int)TARNP_STATE_FP16 &&
                  (int)TARN_STATE_INT8 == (int)TARNP_STATE_INT8,
              "the codecs have the store's numbers");

tarn_status tarn_store_get_policy(tarn_store *store, tarn_store_policy *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(out);
    tarnp_policy p;
    TARNI_TRY(TARNI_API_IN_TURN(store, tarnp_policy_get(store->store, &p, err)));
    tarn_store_policy policy = {.size = out->size,
                                .state_codec = (tarn_state_codec)p.state_codec,
                                .latent_codec = (tarn_state_codec)p.latent_codec};
    tarni_api_result(out, &policy, sizeof policy);
    return TARN_OK;
}

tarn_status tarn_store_set_policy(tarn_store *store, const tarn_store_policy *policy,
                                  tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(policy);
    tarn_store_policy o;
    TARNI_TRY(tarni_api_options(&o, sizeof o, policy, "tarn_store_policy", err));
    const tarnp_policy p = {.state_codec = (tarnp_state_codec)o.state_codec,
                            .latent_codec = (tarnp_state_codec)o.latent_codec};
    return TARNI_API_IN_TURN(store, tarnp_policy_set(store->store, &p, err));
}

tarn_status tarn_store_verify(tarn_store *store,
                              bool (*progress)(void *user, uint64_t done, uint64_t all), void *user,
                              tarn_verify_report *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_verify_report){0};
    TARNI_API_REQUIRE(store);
    return TARNI_API_IN_TURN(store, tarni_list_verified(store->store, progress, user, out, err));
}

/* ---- keeping it small ----------------------------------------------------------------------- */

tarn_status tarn_store_tag(tarn_store *store, const char *session, const char *key,
                           const char *value, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    TARNI_API_REQUIRE(key);
    return TARNI_API_IN_TURN(store, tarnp_session_tag(store->store, session, key, value, err));
}

tarn_status tarn_store_pin(tarn_store *store, const char *session, bool pinned, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    return TARNI_API_IN_TURN(store, tarnp_session_pin(store->store, session, pinned, err));
}

tarn_status tarn_store_ttl(tarn_store *store, const char *session, uint64_t expires_ms,
                           tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    return TARNI_API_IN_TURN(store, tarnp_session_expire(store->store, session, expires_ms, err));
}

tarn_status tarn_store_group(tarn_store *store, const char *session, const char *group,
                             tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    TARNI_API_REQUIRE(group);
    return TARNI_API_IN_TURN(store, tarnp_session_set_group(store->store, session, group, err));
}

tarn_status tarn_store_set_quota(tarn_store *store, const char *group, uint64_t bytes,
                                 tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(store);
    return TARNI_API_IN_TURN(store, tarnp_quota_set(store->store, group, bytes, err));
}

tarn_status tarn_store_get_quota(tarn_store *store, const char *group, uint64_t *bytes,
                                 tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(bytes);
    *bytes = 0;
    TARNI_API_REQUIRE(store);
    return TARNI_API_IN_TURN(store, tarnp_quota_get(store->store, group, bytes, err));
}

tarn_status tarn_store_gc(tarn_store *store, const tarn_gc_options *options, tarn_gc_report *out,
                          tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_gc_report){0};
    TARNI_API_REQUIRE(store);
    tarn_gc_options o;
    TARNI_TRY(tarni_api_options(&o, sizeof o, options, "tarn_gc_options", err));
    if (o.flags & ~(uint32_t)TARN_GC_DRY_RUN)
        return tarni_fail(err, TARN_E_INVALID, "tarn_gc_options: flags are %#x", o.flags);
    tarnp_gc_options p = {.dry_run = o.flags & TARN_GC_DRY_RUN,
                          .now_ms = o.now_ms,
                          .keep_newest = o.keep_newest,
                          .rung_tokens = o.rung_tokens};
    return TARNI_API_IN_TURN(store, tarni_list_gc(store->store, &p, out, err));
}

tarn_status tarn_store_explain(tarn_store *store, const char *session, const char *where,
                               tarn_explanation *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_explanation){0};
    TARNI_API_REQUIRE(store);
    TARNI_API_REQUIRE(session);
    return TARNI_API_IN_TURN(store, tarni_list_turns(store->store, session, where, out, err));
}
