/* extract.h - nodes taken out of a store one after the other, root first, numbered anew.
 *
 * What comes out means the same wherever it goes: node i of a chain (from 1) has the id i and the
 * parent i - 1, its chunks go on counting where those of its parent ended (from 1), and all of it
 * belongs to session 1. Payloads are never decoded. Two stores that hold the same nodes give the
 * same bytes. */
#ifndef TARNP_EXTRACT_H
#define TARNP_EXTRACT_H

#include "handle.h"
#include "node.h"

/* Where nodes come from: a store, or the remains of one. Each call replaces what `out` holds by the
 * stored bytes; NOT_FOUND where there are none. Nothing has been checked yet. */
typedef struct tarnp_source {
    tarn_status (*manifest)(void *from, uint64_t node, tarni_writer *out, tarn_error *err);
    /* At most n_max bytes. */
    tarn_status (*chunk)(void *from, uint64_t chunk, size_t n_max, tarni_writer *out,
                         tarn_error *err);
    void *from;
} tarnp_source;

/* Reads in short transactions, one a call. The store must outlive the source. */
tarnp_source tarnp_source_store(tarnp_store *store);

/* Where nodes go. Spans are valid for the call. */
typedef struct tarnp_sink {
    tarn_status (*node)(void *to, tarnp_span manifest, tarn_error *err);
    tarn_status (*chunk)(void *to, tarnp_span value, tarn_error *err);
    void *to;
} tarnp_sink;

typedef struct tarnp_extract {
    const tarn_allocator *allocator;
    tarnp_source source;
    uint64_t last; /* id in the source of the node taken last, 0 before the first */
    uint64_t n_nodes, n_chunks;
    tarni_writer manifest, chunk; /* buffers */
} tarnp_extract;

void tarnp_extract_init(tarnp_extract *x, tarnp_source source, const tarn_allocator *allocator);
void tarnp_extract_fini(tarnp_extract *x);

#define TARNP_SECTION_BIT(kind) (1u << (kind))

/* What a node looks like before it is taken out: its manifest, checked. `out` is freed with
 * tarnp_node_fini, and x->manifest holds the bytes. NOT_FOUND, CORRUPT, FORMAT. */
tarn_status tarnp_extract_look(tarnp_extract *x, uint64_t node, tarnp_manifest *m, tarnp_node *out,
                               tarn_error *err);
/* The same, with what is not there any more taken off `m`: counts and n_bytes are those that the
 * node will be taken out with, without anything left out. */
tarn_status tarnp_extract_measure(tarnp_extract *x, uint64_t node, tarnp_manifest *m,
                                  tarn_error *err);
/* Takes out a node whose parent was taken out last (or a root, first of all), without the sections
 * of the kinds in `without`, a set of TARNP_SECTION_BITs. What is left out, and what had been
 * evicted, has no entry any more, and the flags call it evicted. CORRUPT names node and chunk. */
tarn_status tarnp_extract_node(tarnp_extract *x, uint64_t node, unsigned without,
                               const tarnp_sink *sink, tarn_error *err);

#endif
