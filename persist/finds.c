#include "finds.h"

tarn_status tarnp_remains_add_node(tarnp_remains *r, tarnp_span value, uint64_t id, tarn_error *err)
{
    tarnp_manifest m = {0};
    tarnp_node node;
    tarn_error damage;
    tarnp_found_node found = {.id = id};
    TARNI_TRY(tarni_grow(&r->allocator, &r->nodes, &r->nodes_capacity, r->n_nodes + 1,
                         sizeof *r->nodes, err));
    tarn_status status = tarnp_manifest_node(value, id, &r->allocator, &node, &damage);
    if (status == TARN_E_NO_MEMORY) {
        *err = damage;
        return status;
    }
    if (status == TARN_OK) {
        tarnp_node_fini(&node);
        status = tarnp_manifest_get(value, id, &m, &damage);
    }
    found.readable = status == TARN_OK;
    if (found.readable) {
        found.parent = m.parent;
        found.session_id = m.session_id;
        found.position = m.position;
        found.n_tokens = m.n_tokens;
    } else if (value.n_bytes >= TARNP_MANIFEST_HEAD_BYTES) {
        found.n_tokens = tarni_load_u32(value.data + 12);
        found.parent = tarni_load_u64(value.data + 24);
        found.session_id = tarni_load_u64(value.data + 32);
    }
    r->nodes[r->n_nodes++] = found;
    return TARN_OK;
}

tarn_status tarnp_remains_add_session(tarnp_remains *r, tarnp_span record, uint64_t id,
                                      tarn_error *err)
{
    tarn_error damage;
    tarnp_session s = {0};
    TARNI_TRY(tarni_grow(&r->allocator, &r->sessions, &r->sessions_capacity, r->n_sessions + 1,
                         sizeof *r->sessions, err));
    if (record.data &&
        tarnp_session_record_get(record, id, &r->allocator, &s, &damage) == TARN_E_NO_MEMORY) {
        *err = damage;
        return damage.status;
    }
    s.id = id;
    r->sessions[r->n_sessions++] = s;
    return TARN_OK;
}

tarn_status tarnp_remains_add_tip(tarnp_remains *r, uint64_t session_id, uint64_t node,
                                  tarn_error *err)
{
    TARNI_TRY(tarni_grow(&r->allocator, &r->tips, &r->tips_capacity, r->n_tips + 1, sizeof *r->tips,
                         err));
    r->tips[r->n_tips++] = (tarnp_found_tip){session_id, node};
    return TARN_OK;
}
