#include "remains.h"

#include "log.h"
#include "scan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- from the tables ------------------------------------------------------------------------ */

static tarn_status see_node(tarnp_remains *r, tarnp_span key, tarnp_span value, tarn_error *err)
{
    return tarnp_remains_add_node(r, value, tarni_load_u64_be(key.data), err);
}

static tarn_status see_session(tarnp_remains *r, tarnp_span key, tarnp_span value, tarn_error *err)
{
    return tarnp_remains_add_session(r, value, tarni_load_u64_be(key.data), err);
}

static tarn_status see_tip(tarnp_remains *r, tarnp_span key, tarnp_span value, tarn_error *err)
{
    (void)value;
    return tarnp_remains_add_tip(r, tarni_load_u64_be(key.data), tarni_load_u64_be(key.data + 8),
                                 err);
}

/* A session whose record is damaged still has its name in the table of names. */
static tarn_status see_name(tarnp_remains *r, tarnp_span key, tarnp_span value, tarn_error *err)
{
    (void)err;
    uint64_t id = value.n_bytes == 8 ? tarni_load_u64(value.data) : 0;
    for (size_t i = 0; i < r->n_sessions; i++) {
        tarnp_session *s = &r->sessions[i];
        if (s->id == id && s->name[0] == 0 && key.n_bytes < sizeof s->name)
            memcpy(s->name, key.data, key.n_bytes);
    }
    return TARN_OK;
}

static tarn_status for_each(tarnp_remains *r, tarnp_txn *txn, tarnp_table table,
                            tarn_status (*fn)(tarnp_remains *, tarnp_span key, tarnp_span value,
                                              tarn_error *),
                            tarn_error *err)
{
    tarnp_cursor cursor;
    tarnp_span key, value;
    TARNI_TRY(tarnp_cursor_open(txn, table, &cursor, err));
    tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, err);
    while (key.data && (status == TARN_OK || status == TARN_E_CORRUPT)) {
        /* Of a damaged record only the key is handed on; a tip is nothing but its key. */
        if (status == TARN_E_CORRUPT) {
            TARNI_LOG(&r->log, TARN_LOG_WARN, "%s", err->detail);
            value = (tarnp_span){0};
        }
        status = fn(r, key, value, err);
        if (status == TARN_OK)
            status = tarnp_cursor_next(&cursor, &key, &value, err);
    }
    tarnp_cursor_close(&cursor);
    return status;
}

static tarn_status read_tables(tarnp_remains *r, tarn_error *err)
{
    static const struct {
        tarnp_table table;
        tarn_status (*fn)(tarnp_remains *, tarnp_span, tarnp_span, tarn_error *);
    } steps[] = {{TARNP_TABLE_NODE, see_node},
                 {TARNP_TABLE_SESSION, see_session},
                 {TARNP_TABLE_NAME, see_name},
                 {TARNP_TABLE_TIP, see_tip}};
    tarnp_txn txn;
    r->source = tarnp_source_store(r->store);
    TARNI_TRY(tarnp_tables_check(r->store->tables, err));
    TARNI_TRY(tarnp_read_begin(r->store, &txn, err));
    tarn_status status = TARN_OK;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && status == TARN_OK; i++)
        status = for_each(r, &txn, steps[i].table, steps[i].fn, err);
    tarnp_txn_abort(&txn);
    return status;
}

/* ---- either way ----------------------------------------------------------------------------- */

static int by_node_id(const void *a, const void *b)
{
    const tarnp_found_node *x = a, *y = b;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (int)y->readable - (int)x->readable;
}

/* The newest version of each session first. */
static int by_session_id(const void *a, const void *b)
{
    const tarnp_session *x = a, *y = b;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    if (x->updated_ms != y->updated_ms)
        return x->updated_ms > y->updated_ms ? -1 : 1;
    return (x->head < y->head) - (x->head > y->head);
}

static void sort_out(tarnp_remains *r)
{
    size_t n = 0;
    if (r->n_nodes > 0)
        qsort(r->nodes, r->n_nodes, sizeof *r->nodes, by_node_id);
    for (size_t i = 0; i < r->n_nodes; i++)
        if (n == 0 || r->nodes[n - 1].id != r->nodes[i].id)
            r->nodes[n++] = r->nodes[i];
    r->n_nodes = n;
    n = 0;
    if (r->n_sessions > 0)
        qsort(r->sessions, r->n_sessions, sizeof *r->sessions, by_session_id);
    for (size_t i = 0; i < r->n_sessions; i++) {
        if (n == 0 || r->sessions[n - 1].id != r->sessions[i].id)
            r->sessions[n++] = r->sessions[i];
        else
            tarnp_session_fini(&r->sessions[i]);
    }
    r->n_sessions = n;
}

static void forget(tarnp_remains *r)
{
    for (size_t i = 0; i < r->n_sessions; i++)
        tarnp_session_fini(&r->sessions[i]);
    r->n_nodes = r->n_sessions = r->n_tips = 0;
}

tarn_status tarnp_remains_open(const char *path, const tarnp_options *options, tarnp_remains *out,
                               tarn_error *err)
{
    tarnp_options o = options ? *options : (tarnp_options){0};
    o.create = false;
    o.read_only = true;
    *out = (tarnp_remains){0};
    TARNI_TRY(tarni_allocator_check(o.allocator, &out->allocator, err));
    if (o.log)
        out->log = *o.log;
    tarn_status status = tarnp_store_open(path, &o, &out->store, err);
    if (status == TARN_OK)
        status = read_tables(out, err);
    if (status == TARN_E_CORRUPT || status == TARN_E_FORMAT || status == TARN_E_IO) {
        TARNI_LOG(&out->log, TARN_LOG_WARN, "%s; searching the file", err->detail);
        tarnp_store_close(out->store);
        out->store = NULL;
        forget(out);
        status = tarnp_scan_open(path, &o, out, &out->scan, err);
        if (status == TARN_OK)
            out->source = tarnp_scan_source(out->scan);
    }
    if (status != TARN_OK) {
        tarnp_remains_close(out);
        return status;
    }
    sort_out(out);
    return TARN_OK;
}

void tarnp_remains_close(tarnp_remains *r)
{
    forget(r);
    tarnp_scan_close(r->scan);
    tarnp_store_close(r->store);
    if (r->allocator.release) {
        tarni_free(&r->allocator, r->nodes);
        tarni_free(&r->allocator, r->sessions);
        tarni_free(&r->allocator, r->tips);
    }
    *r = (tarnp_remains){0};
}

tarn_status tarnp_remains_model(tarnp_remains *r, const uint8_t fp[TARNP_FP_BYTES],
                                tarni_writer *out, tarn_error *err)
{
    return r->store ? tarnp_model_get(r->store, fp, out, err)
                    : tarnp_scan_model(r->scan, fp, out, err);
}
