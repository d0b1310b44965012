/* import.c - a stream into the store.
 *
 * Nothing in the file is believed. A length only says how much is asked of the stream: memory grows
 * with what has really come. The frames go to a graft, which checks what they say and stages it;
 * the digest, which comes last, decides whether the graft is linked. */
#include "bundle.h"
#include "graft.h"
#include "names.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define STEP_BYTES ((size_t)256 << 10) /* read at once before anything of a frame has come */

typedef struct input {
    const tarn_allocator *allocator;
    tarnp_read_fn read;
    void *from;
    tarnp_progress_fn progress;
    void *user;
    crypto_generichash_blake2b_state digest;
    uint64_t n_bytes;                      /* read so far */
    uint64_t all_bytes, n_nodes, n_chunks; /* as the head says */
    uint32_t n_models;
    uint8_t *frame; /* of the last frame, what follows its head */
    size_t frame_bytes, frame_capacity;
    tarni_writer descriptor;
    bool has_descriptor;
    tarnp_session session;
} input;

/* ---- bytes ---------------------------------------------------------------------------------- */

static tarn_status get(input *in, uint8_t *to, size_t n_bytes, tarn_error *err)
{
    for (size_t n = 0; n < n_bytes;) {
        size_t n_read = 0;
        TARNI_TRY(in->read(in->from, to + n, n_bytes - n, &n_read, err));
        if (n_read == 0 || n_read > n_bytes - n)
            return tarni_fail(err, TARN_E_CORRUPT, "the file ends after %llu bytes",
                              (unsigned long long)in->n_bytes);
        n += n_read;
        in->n_bytes += n_read;
    }
    return TARN_OK;
}

static tarn_status get_summed(input *in, uint8_t *to, size_t n_bytes, tarn_error *err)
{
    TARNI_TRY(get(in, to, n_bytes, err));
    crypto_generichash_blake2b_update(&in->digest, to, n_bytes);
    return TARN_OK;
}

static tarn_status get_frame_head(input *in, uint32_t *kind, uint32_t *n_bytes, tarn_error *err)
{
    uint8_t head[TARNP_BUNDLE_FRAME_BYTES];
    TARNI_TRY(get_summed(in, head, sizeof head, err));
    *kind = tarni_load_u32(head);
    *n_bytes = tarni_load_u32(head + 4);
    return TARN_OK;
}

/* The next frame must be of this kind, of least to most bytes. */
static tarn_status get_frame(input *in, uint32_t kind, const char *name, uint32_t least,
                             uint32_t most, tarn_error *err)
{
    uint32_t found, n_bytes;
    uint64_t at = in->n_bytes;
    TARNI_TRY(get_frame_head(in, &found, &n_bytes, err));
    if (found != kind)
        return tarni_fail(err, TARN_E_CORRUPT, "byte %llu: frame 0x%08x, should be %s",
                          (unsigned long long)at, found, name);
    if (n_bytes < least || n_bytes > most)
        return tarni_fail(err, TARN_E_CORRUPT,
                          "byte %llu: a frame %s of %u bytes, should be %u to %u",
                          (unsigned long long)at, name, n_bytes, least, most);
    for (in->frame_bytes = 0; in->frame_bytes < n_bytes;) {
        size_t step = in->frame_bytes > STEP_BYTES ? in->frame_bytes : STEP_BYTES;
        if (step > n_bytes - in->frame_bytes)
            step = n_bytes - in->frame_bytes;
        TARNI_TRY(tarni_grow(in->allocator, &in->frame, &in->frame_capacity, in->frame_bytes + step,
                             1, err));
        TARNI_TRY(get_summed(in, in->frame + in->frame_bytes, step, err));
        in->frame_bytes += step;
    }
    if (in->progress && !in->progress(in->user, in->n_bytes, in->all_bytes))
        return tarni_fail(err, TARN_E_CANCELLED, "the import was cancelled after %llu bytes",
                          (unsigned long long)in->n_bytes);
    return TARN_OK;
}

/* ---- what comes before the nodes ------------------------------------------------------------ */

static tarn_status get_head(input *in, tarn_error *err)
{
    uint8_t head[TARNP_BUNDLE_HEAD_BYTES];
    TARNI_TRY(get_summed(in, head, 10, err));
    if (memcmp(head, TARNP_BUNDLE_MAGIC, 8) != 0)
        return tarni_fail(err, TARN_E_FORMAT, "not an exported session: wrong magic");
    if (tarni_load_u16(head + 8) != TARNP_BUNDLE_VERSION)
        return tarni_fail(err, TARN_E_FORMAT, "the file's version is %u, this reads %d",
                          tarni_load_u16(head + 8), TARNP_BUNDLE_VERSION);
    TARNI_TRY(get_summed(in, head + 10, sizeof head - 10, err));
    if (tarni_load_u64(head + 24) != 0)
        return tarni_fail(err, TARN_E_FORMAT,
                          "the file uses features 0x%llx, which this version does not know",
                          (unsigned long long)tarni_load_u64(head + 24));
    in->n_models = tarni_load_u32(head + 12);
    in->all_bytes = tarni_load_u64(head + 32);
    in->n_nodes = tarni_load_u64(head + 40);
    in->n_chunks = tarni_load_u64(head + 48);
    if (tarni_load_u16(head + 10) != sizeof head || in->n_models > 1 || in->n_nodes == 0 ||
        tarni_load_u64(head + 56) != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "the head says %u models and %llu nodes",
                          in->n_models, (unsigned long long)in->n_nodes);
    return TARN_OK;
}

/* Names are never used as paths here, but whoever makes files of them should not be led astray. */
static tarn_status check_name(const char *name, tarn_error *err)
{
    TARNI_TRY(tarnp_name_check(name, err));
    for (const char *part = name, *end = name; *end; part = end + 1) {
        size_t n = strcspn(part, "/");
        end = part + n;
        if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
            return tarni_fail(err, TARN_E_INVALID,
                              "the name in the file, \"%.100s\", looks like a path: give another",
                              name);
    }
    return TARN_OK;
}

static tarn_status copy_tags(input *in, tarni_reader *r, tarn_error *err)
{
    uint32_t n = tarni_get_u32(r);
    size_t left = tarni_reader_left(r);
    if (n > TARNP_TAGS_MAX || r->failed)
        return tarni_fail(err, TARN_E_CORRUPT, "frame SESS: %u tags, the limit is %d", n,
                          TARNP_TAGS_MAX);
    in->session.allocator = in->allocator;
    TARNI_TRY(
        tarni_alloc(in->allocator, n * sizeof(tarnp_tag) + left + 1, 1, &in->session.tags, err));
    char *text = (char *)(in->session.tags + n);
    in->session.n_tags = n;
    for (uint32_t i = 0; i < 2 * n; i++) {
        const char *at;
        size_t size;
        tarni_get_text(r, &at, &size);
        if (r->failed || memchr(at, 0, size))
            return tarni_fail(err, TARN_E_CORRUPT, "frame SESS: tag %u does not fit", i / 2);
        *(i % 2 == 0 ? &in->session.tags[i / 2].key : &in->session.tags[i / 2].value) = text;
        memcpy(text, at, size);
        text[size] = 0;
        text += size + 1;
    }
    return tarnp_tags_check(in->session.tags, n, err);
}

static tarn_status get_session(input *in, const char *name, tarn_error *err)
{
    enum { FIXED_BYTES = 48 };
    tarnp_session *s = &in->session;
    const char *at;
    size_t size;
    TARNI_TRY(get_frame(in, TARNP_FRAME_SESS, "SESS", FIXED_BYTES + 8, TARNP_BUNDLE_SESS_MAX, err));
    tarni_reader r;
    tarni_reader_init(&r, in->frame, in->frame_bytes);
    s->created_ms = tarni_get_u64(&r);
    s->updated_ms = tarni_get_u64(&r);
    memcpy(s->fp, tarni_get_bytes(&r, sizeof s->fp), sizeof s->fp);
    tarni_get_text(&r, &at, &size);
    if (r.failed || size > TARNP_NAME_BYTES_MAX || memchr(at, 0, size))
        return tarni_fail(err, TARN_E_CORRUPT, "frame SESS: a name of %zu bytes", size);
    memcpy(s->name, at, size);
    TARNI_TRY(name ? tarnp_name_check(s->name, err) : check_name(s->name, err));
    TARNI_TRY(copy_tags(in, &r, err));
    if (tarni_reader_left(&r) != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "frame SESS: %zu bytes too long",
                          tarni_reader_left(&r));
    if (name)
        snprintf(s->name, sizeof s->name, "%s", name);
    return TARN_OK;
}

static tarn_status get_model(input *in, tarn_error *err)
{
    if (in->n_models == 0)
        return TARN_OK;
    TARNI_TRY(get_frame(in, TARNP_FRAME_MODL, "MODL", TARNP_FP_BYTES,
                        TARNP_FP_BYTES + TARNP_MODEL_BYTES_MAX, err));
    if (memcmp(in->frame, in->session.fp, TARNP_FP_BYTES) != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "frame MODL: of another model than the session's");
    tarni_put_bytes(&in->descriptor, in->frame + TARNP_FP_BYTES, in->frame_bytes - TARNP_FP_BYTES);
    in->has_descriptor = true;
    return in->descriptor.failed ? tarni_fail_memory(err, in->frame_bytes) : TARN_OK;
}

/* ---- nodes and end -------------------------------------------------------------------------- */

static tarn_status get_nodes(input *in, tarnp_graft *g, tarn_error *err)
{
    uint64_t n_chunks = 0;
    for (uint64_t i = 0; i < in->n_nodes; i++) {
        TARNI_TRY(get_frame(in, TARNP_FRAME_NODE, "NODE", 1, TARNP_BUNDLE_NODE_MAX, err));
        TARNI_TRY(tarnp_graft_put_node(g, (tarnp_span){in->frame, in->frame_bytes}, err));
        for (; n_chunks < g->n_chunks; n_chunks++) {
            TARNI_TRY(get_frame(in, TARNP_FRAME_CHNK, "CHNK", TARNP_CHUNK_HEAD_BYTES,
                                TARNP_CHUNK_HEAD_BYTES + TARNP_CHUNK_BYTES_MAX, err));
            TARNI_TRY(tarnp_graft_put_chunk(g, (tarnp_span){in->frame, in->frame_bytes}, err));
        }
    }
    if (n_chunks != in->n_chunks)
        return tarni_fail(err, TARN_E_CORRUPT, "%llu chunks, the head says %llu",
                          (unsigned long long)n_chunks, (unsigned long long)in->n_chunks);
    return TARN_OK;
}

static tarn_status get_end(input *in, tarn_error *err)
{
    uint8_t tail[TARNP_BUNDLE_TEND_BYTES], sum[TARNP_BUNDLE_SUM_BYTES], more;
    uint32_t kind, n_bytes;
    size_t n_summed = sizeof tail - sizeof sum, n_read = 0;
    TARNI_TRY(get_frame_head(in, &kind, &n_bytes, err));
    if (kind != TARNP_FRAME_TEND || n_bytes != sizeof tail)
        return tarni_fail(err, TARN_E_CORRUPT, "frame 0x%08x of %u bytes, should be TEND of %zu",
                          kind, n_bytes, sizeof tail);
    TARNI_TRY(get_summed(in, tail, n_summed, err));
    TARNI_TRY(get(in, tail + n_summed, sizeof sum, err));
    crypto_generichash_blake2b_final(&in->digest, sum, sizeof sum);
    if (memcmp(sum, tail + n_summed, sizeof sum) != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "the file does not match its digest");
    if (tarni_load_u64(tail) != in->n_nodes || tarni_load_u64(tail + 8) != in->n_chunks ||
        in->n_bytes != in->all_bytes)
        return tarni_fail(err, TARN_E_CORRUPT, "head and end disagree about %llu bytes",
                          (unsigned long long)in->n_bytes);
    TARNI_TRY(in->read(in->from, &more, 1, &n_read, err));
    if (n_read != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "something follows the end at byte %llu",
                          (unsigned long long)in->n_bytes);
    return TARN_OK;
}

/* A name that is taken is refused before the rest is read. */
static tarn_status check_free(tarnp_store *store, const char *name, tarn_error *err)
{
    tarnp_session other;
    tarn_status status = tarnp_session_find(store, name, &other, err);
    if (status == TARN_E_NOT_FOUND)
        return TARN_OK;
    tarnp_session_fini(&other);
    return status != TARN_OK
               ? status
               : tarni_fail(err, TARN_E_EXISTS, "there is a session \"%s\" already", name);
}

static tarn_status import_stream(input *in, tarnp_store *store, const char *name,
                                 tarnp_session *out, tarn_error *err)
{
    tarnp_graft g;
    TARNI_TRY(get_head(in, err));
    TARNI_TRY(get_session(in, name, err));
    TARNI_TRY(check_free(store, in->session.name, err));
    TARNI_TRY(get_model(in, err));
    tarnp_graft_begin(&g, store, in->session.fp);
    tarn_status status = get_nodes(in, &g, err);
    if (status == TARN_OK)
        status = get_end(in, err);
    if (status == TARN_OK) {
        static const uint8_t nothing[1];
        tarnp_span descriptor = {in->descriptor.data ? in->descriptor.data : nothing,
                                 in->descriptor.n_bytes};
        status = tarnp_graft_session(&g, &in->session,
                                     in->has_descriptor ? descriptor : (tarnp_span){0}, out, err);
    }
    tarnp_graft_end(&g);
    return status;
}

tarn_status tarnp_import(tarnp_store *store, tarnp_read_fn read, void *from, const char *name,
                         tarnp_progress_fn progress, void *user, tarnp_session *out,
                         uint64_t *bytes, tarn_error *err)
{
    *out = (tarnp_session){0};
    *bytes = 0;
    TARNI_TRY(tarnp_store_enter(store, err));
    if (name)
        TARNI_TRY(tarnp_name_check(name, err));
    if (sodium_init() < 0)
        return tarni_fail(err, TARN_E_IO, "libsodium cannot start");
    input in = {.allocator = &store->allocator,
                .read = read,
                .from = from,
                .progress = progress,
                .user = user};
    crypto_generichash_blake2b_init(&in.digest, NULL, 0, TARNP_BUNDLE_SUM_BYTES);
    tarni_writer_init(&in.descriptor, &store->allocator);
    tarn_status status = import_stream(&in, store, name, out, err);
    if (status == TARN_OK)
        *bytes = in.n_bytes;
    tarni_writer_fini(&in.descriptor);
    tarnp_session_fini(&in.session);
    tarni_free(&store->allocator, in.frame);
    return status;
}
