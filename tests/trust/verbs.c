#include "verbs.h"

#include "salvage.h"

#define STORE b->store
#define ERR   &b->err

static tarn_status list(bench *b)
{
    tarn_session_list l;
    tarn_status status = tarn_store_list(STORE, NULL, &l, ERR);
    tarn_session_list_free(&l);
    return status;
}

static tarn_status history(bench *b)
{
    tarn_node_list l;
    tarn_status status = tarn_store_log(STORE, "main", NULL, &l, ERR);
    tarn_node_list_free(&l);
    return status;
}

static tarn_status tree(bench *b)
{
    tarn_node_list l;
    tarn_status status = tarn_store_tree(STORE, NULL, &l, ERR);
    tarn_node_list_free(&l);
    return status;
}

static tarn_status tokens(bench *b)
{
    tarn_ids ids;
    tarn_status status = tarn_store_tokens(STORE, "main", NULL, &ids, ERR);
    tarn_ids_free(&ids);
    return status;
}

static tarn_status price(bench *b)
{
    tarn_at at;
    tarn_price p;
    return tarn_store_price(STORE, "main", "@turn:1", &at, &p, ERR);
}

static tarn_status explain(bench *b)
{
    tarn_explanation e;
    tarn_status status = tarn_store_explain(STORE, "main", NULL, &e, ERR);
    tarn_explanation_free(&e);
    return status;
}

static tarn_status fork_node(bench *b)
{
    return tarn_store_fork(STORE, "main", "@turn:2", "new", NULL, NULL, NULL, ERR);
}

static tarn_status fork_between(bench *b)
{
    return tarn_store_fork(STORE, "main", "@t:1", "new", NULL, NULL, NULL, ERR);
}

static tarn_status rewind_node(bench *b)
{
    return tarn_store_rewind(STORE, "main", "@turn:1", NULL, NULL, NULL, ERR);
}

static tarn_status rewind_between(bench *b)
{
    return tarn_store_rewind(STORE, "main", "@t:1", NULL, NULL, NULL, ERR);
}

static tarn_status rename_session(bench *b)
{
    return tarn_store_rename(STORE, "main", "new", ERR);
}

static tarn_status remove_session(bench *b)
{
    return tarn_store_remove(STORE, "main", ERR);
}

static tarn_status tag(bench *b)
{
    return tarn_store_tag(STORE, "main", "other", "value", ERR);
}

static tarn_status pin(bench *b)
{
    return tarn_store_pin(STORE, "main", true, ERR);
}

static tarn_status ttl(bench *b)
{
    return tarn_store_ttl(STORE, "main", (uint64_t)1 << 50, ERR);
}

static tarn_status group(bench *b)
{
    return tarn_store_group(STORE, "main", "team", ERR);
}

static tarn_status set_quota(bench *b)
{
    return tarn_store_set_quota(STORE, "g", 1 << 20, ERR);
}

static tarn_status get_quota(bench *b)
{
    uint64_t n;
    return tarn_store_get_quota(STORE, NULL, &n, ERR);
}

static tarn_status collect(bench *b)
{
    const tarn_gc_options o = {.size = sizeof o, .keep_newest = 1, .rung_tokens = 1000};
    tarn_gc_report report;
    tarn_status status = tarn_store_gc(STORE, &o, &report, ERR);
    tarn_gc_report_free(&report);
    return status;
}

static tarn_status figures(bench *b)
{
    tarn_store_stat stat = {.size = sizeof stat};
    return tarn_store_get_stat(STORE, &stat, ERR);
}

static tarn_status get_policy(bench *b)
{
    tarn_store_policy p = {.size = sizeof p};
    return tarn_store_get_policy(STORE, &p, ERR);
}

static tarn_status set_policy(bench *b)
{
    const tarn_store_policy p = {.size = sizeof p, .state_codec = TARN_STATE_BF16};
    return tarn_store_set_policy(STORE, &p, ERR);
}

static tarn_status verify(bench *b)
{
    tarn_verify_report report;
    tarn_status status = tarn_store_verify(STORE, NULL, NULL, &report, ERR);
    tarn_verify_report_free(&report);
    return status;
}

static tarn_status flush(bench *b)
{
    return tarn_store_flush(STORE, ERR);
}

static tarn_status take_all(void *user, const void *data, size_t n, tarn_error *err)
{
    (void)err, (void)data;
    *(size_t *)user += n;
    return TARN_OK;
}

static tarn_status export_stream(bench *b)
{
    size_t n = 0;
    return tarn_store_export(STORE, "main", take_all, &n, NULL, NULL, NULL, ERR);
}

static tarn_status export_file(bench *b)
{
    return tarn_store_export_file(STORE, "main", b->other, NULL, NULL, NULL, ERR);
}

static tarn_status import_stream(bench *b)
{
    b->bundle.at = 0;
    return tarn_store_import(STORE, kit_bundle_read, &b->bundle, "new", NULL, NULL, NULL, ERR);
}

/* Into a store that has none of its nodes. */
static tarn_status import_file(bench *b)
{
    return tarn_store_import_file(STORE, b->other, "new", NULL, NULL, NULL, ERR);
}

static bool before_import_file(bench *b)
{
    FILE *out = fopen(b->other, "wb");
    bool whole = out && fwrite(b->bundle.data, 1, b->bundle.n_bytes, out) == b->bundle.n_bytes;
    return out && fclose(out) == 0 && whole && tarn_store_remove(STORE, "main", ERR) == TARN_OK &&
           tarn_store_remove(STORE, "branch", ERR) == TARN_OK;
}

static tarn_status open_store(bench *b)
{
    tarn_store *store;
    tarn_status status = tarn_store_open(b->k.path, &b->options, &store, ERR);
    tarn_store_close(store);
    return status;
}

static tarn_status make_store(bench *b)
{
    tarn_store *store;
    tarn_store_options o = b->options;
    o.flags = TARN_STORE_CREATE;
    tarn_status status = tarn_store_open(b->other, &o, &store, ERR);
    tarn_store_close(store);
    return status;
}

static tarn_status make_scratch(bench *b)
{
    tarn_store *store;
    tarn_store_options o = b->options;
    o.flags = TARN_STORE_CREATE;
    o.durability = TARN_SCRATCH;
    tarn_status status = tarn_store_open(b->other, &o, &store, ERR);
    tarn_store_close(store);
    return status;
}

static tarn_status salvage(bench *b)
{
    tarn_salvage_report r = {.size = sizeof r};
    return tarn_store_salvage(b->k.path, b->other, &b->options, NULL, &r, ERR);
}

static tarn_status compact(bench *b)
{
    return tarn_store_compact(b->k.path, &b->options, NULL, NULL, NULL, ERR);
}

/* Below the public store: what sessions do with it. */
static tarn_status commit(bench *b)
{
    tarnp_committed made;
    return tarnp_commit_node(b->k.store, &b->ready.commit, &made, ERR);
}

static tarn_status submit(bench *b)
{
    tarnp_ticket *ticket;
    tarn_status status = tarnp_commit_submit(b->k.store, &b->ready.commit, &ticket, ERR);
    if (status != TARN_OK)
        return status;
    status =
        tarnp_ticket_wait(b->k.store, ticket, TARNP_TICKET_SYNCED, TARNP_WAIT_FOREVER, NULL, ERR);
    tarnp_ticket_free(ticket);
    return status;
}

static tarn_status read_node(bench *b)
{
    static uint8_t raw[TARNP_CHUNK_BYTES_MAX];
    tarnp_node node;
    tarni_ids ids;
    tarn_status status = tarnp_node_read(b->k.store, b->nodes[3], &node, ERR);
    if (status != TARN_OK)
        return status;
    tarni_ids_init(&ids, b->k.options.allocator);
    status = tarnp_node_tokens(b->k.store, &node, &ids, ERR);
    for (size_t i = 0; status == TARN_OK && i < node.n_sections; i++) {
        tarnp_chunk chunk = node.sections[i].chunks[0];
        const tarnp_piece piece = {raw, chunk.raw_bytes};
        chunk.pieces = &piece;
        chunk.n_pieces = 1;
        status =
            tarnp_node_read_chunks(b->k.store, &node, node.sections[i].elem, &chunk, 1, NULL, ERR);
        if (status == TARN_OK && node.sections[i].kind == TARNP_SECTION_STATE &&
            memcmp(raw, b->fourth.state, chunk.raw_bytes) != 0)
            status = tarni_fail(ERR, TARN_E_CORRUPT, "other bytes");
    }
    tarni_ids_fini(&ids);
    tarnp_node_fini(&node);
    return status;
}

static tarn_status create(bench *b)
{
    tarnp_session s;
    tarn_status status = tarnp_session_create(b->k.store, "new", kit_fp, "n", NULL, 0, &s, ERR);
    if (status == TARN_OK)
        tarnp_session_fini(&s);
    return status;
}

static tarn_status lease(bench *b)
{
    tarnp_lease l;
    tarn_status status = tarnp_lease_take(b->k.store, b->id, 10000, "n", &l, ERR);
    if (status != TARN_OK)
        return status;
    tarn_error unlucky;
    status = tarnp_lease_renew(b->k.store, &l, 20000, ERR);
    tarn_status last = tarnp_lease_release(b->k.store, &l, &unlucky);
    if (status == TARN_OK && last != TARN_OK)
        b->err = unlucky;
    return status == TARN_OK ? last : status;
}

static tarn_status model(bench *b)
{
    tarni_writer w;
    tarni_writer_init(&w, b->k.options.allocator);
    tarn_status status = tarnp_model_put(b->k.store, kit_fp, "descriptor", 10, ERR);
    if (status == TARN_OK)
        status = tarnp_model_get(b->k.store, kit_fp, &w, ERR);
    tarni_writer_fini(&w);
    return status;
}

static tarn_status evict(bench *b)
{
    uint64_t freed;
    return tarnp_node_evict(b->k.store, b->nodes[2], TARNP_PART_STATE, &freed, ERR);
}

static tarn_status prefix(bench *b)
{
    const uint32_t ids[3] = {1, 2, 3};
    uint64_t node;
    size_t n;
    return tarnp_prefix_find(b->k.store, kit_fp, "cpu/f32", ids, 3, &node, &n, ERR);
}

/* Two nodes more for the branch, and its group's quota so that a third has room only where the
 * states of others go. */
static bool before_commit_in_group(bench *b)
{
    kit *k = &b->k;
    tarnp_committed made = {0};
    tarnp_session s = {0};
    tarn_status status = tarnp_session_find(k->store, "branch", &s, &k->err);
    kit_floats = 64;
    for (uint64_t seed = 20; seed < 22 && status == TARN_OK; seed++) {
        status = kit_commit(k->store, s.id, s.head, s.head, seed, true, &made, &k->err);
        tarnp_session_fini(&s);
        if (status == TARN_OK)
            status = tarnp_session_find(k->store, "branch", &s, &k->err);
    }
    free(b->next.c.state);
    oracle_prepare(&b->next, s.id, s.head, 0x122); /* a small one */
    b->next.commit.expected_head = s.head;
    b->next.commit.move_head = true;
    if (status == TARN_OK)
        status = tarnp_quota_set(k->store, "g", s.bytes_owned + 300, &k->err);
    tarnp_session_fini(&s);
    return status == TARN_OK;
}

static tarn_status commit_in_group(bench *b)
{
    tarnp_committed made;
    return tarnp_commit_node(b->k.store, &b->next.commit, &made, ERR);
}

/* The same of the store's quota. */
static bool before_commit_under_quota(bench *b)
{
    kit *k = &b->k;
    enum { LEFT = 9500 }; /* of some 14,000 it takes */
    tarnp_stat stat;
    return tarnp_store_stat(k->store, &stat, &k->err) == TARN_OK &&
           tarnp_quota_set(k->store, NULL, stat.bytes_stored + LEFT, &k->err) == TARN_OK;
}

static tarn_status move(bench *b)
{
    return tarnp_session_move(b->k.store, b->id, b->nodes[3], b->nodes[1], NULL, ERR);
}

static tarn_status look_at_collection(bench *b)
{
    const tarn_gc_options o = {
        .size = sizeof o, .keep_newest = 1, .rung_tokens = 1000, .flags = TARN_GC_DRY_RUN};
    tarn_gc_report report;
    tarn_status status = tarn_store_gc(STORE, &o, &report, ERR);
    tarn_gc_report_free(&report);
    return status;
}

/* Less than there is: a collection goes by it too. */
static bool before_collect_under_quota(bench *b)
{
    return tarn_store_group(STORE, "main", "g", ERR) == TARN_OK &&
           tarn_store_set_quota(STORE, "g", 6000, ERR) == TARN_OK &&
           tarn_store_set_quota(STORE, NULL, 9000, ERR) == TARN_OK;
}

const verb verbs[N_VERBS] = {
    {"list", list, 0, NULL},
    {"log", history, 0, NULL},
    {"tree", tree, 0, NULL},
    {"tokens", tokens, 0, NULL},
    {"price", price, 0, NULL},
    {"explain", explain, 0, NULL},
    {"fork at a node", fork_node, AGAIN_BAD, NULL},
    {"fork between nodes", fork_between, AGAIN_BAD | PARTLY, NULL},
    {"rewind to a node", rewind_node, AGAIN_BAD, NULL},
    {"rewind between nodes", rewind_between, AGAIN_BAD, NULL},
    {"rename", rename_session, AGAIN_BAD, NULL},
    {"remove", remove_session, AGAIN_BAD, NULL},
    {"tag", tag, 0, NULL},
    {"pin", pin, 0, NULL},
    {"ttl", ttl, 0, NULL},
    {"group", group, 0, NULL},
    {"set_quota", set_quota, 0, NULL},
    {"get_quota", get_quota, 0, NULL},
    {"gc", collect, PARTLY, NULL},
    {"get_stat", figures, 0, NULL},
    {"get_policy", get_policy, 0, NULL},
    {"set_policy", set_policy, 0, NULL},
    {"verify", verify, 0, NULL},
    {"flush", flush, 0, NULL},
    {"export", export_stream, 0, NULL},
    {"export_file", export_file, 0, NULL},
    {"import", import_stream, AGAIN_BAD, NULL},
    {"import_file", import_file, AGAIN_BAD | PARTLY, before_import_file},
    {"open", open_store, CLOSED, NULL},
    {"create a store", make_store, CLOSED, NULL},
    {"create a scratch store", make_scratch, CLOSED, NULL},
    {"salvage", salvage, CLOSED | AGAIN_BAD, NULL},
    {"compact", compact, CLOSED, NULL},
    {"commit", commit, LOWER, NULL},
    {"submit", submit, LOWER, NULL},
    {"read", read_node, LOWER, NULL},
    {"create", create, LOWER | AGAIN_BAD, NULL},
    {"lease", lease, LOWER | PARTLY, NULL},
    {"model", model, LOWER, NULL},
    {"evict", evict, LOWER | PARTLY, NULL},
    {"prefix", prefix, LOWER, NULL},
    {"commit in a group", commit_in_group, LOWER | PARTLY, before_commit_in_group},
    {"commit under a quota", commit, LOWER | PARTLY, before_commit_under_quota},
    {"move", move, LOWER | AGAIN_BAD, NULL},
    {"gc, looking", look_at_collection, 0, NULL},
    {"gc under quotas", collect, PARTLY, before_collect_under_quota},
};
