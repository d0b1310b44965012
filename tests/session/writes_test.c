/* How much a commit writes: what came since the one before, and one state, however long the session
 * is. */
#include "check.h"
#include "fixture.h"
#include "small_disk.h"

enum {
    PIECE = 50,
    PIECES = RIG_FEW(60, 12),
    SLACK = 8192 /* manifest, heads of chunks, indexes */
};

static void appends_of_fifty(rig_kind kind, bool is_long)
{
    rig r;
    uint32_t ids[PIECE];
    tarn_engine_options o = {.n_threads = 1, .keep_every = UINT32_MAX};
    rig_open(&r, kind, &o);
    tarn_model_info info = {.size = sizeof info};
    OK(tarn_model_describe(r.model, TARN_NUMERICS_NATIVE, &info, ERR));
    uint64_t once = info.state_bytes + info.conv_bytes + (uint64_t)info.vocab * 4,
             per_token = info.latent_bytes_per_token + 4, first = 0, last = 0, sum = 0;
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_commit(s);
    tarn_store_stat before = rig_store_stat(&r);
    int pieces = is_long ? PIECES : 8;
    for (int i = 0; i < pieces; i++) {
        rig_ids(&r, (uint64_t)i, ids, PIECE);
        rig_feed(s, ids, PIECE);
        last = rig_commit(s).bytes_written;
        first = i == 0 ? last : first;
        sum += last;
        CHECK(last <= once + PIECE * per_token + SLACK);
    }
    /* The last, behind all others, is no larger than the first but for how well it packs. */
    CHECK(last < first + first / 4);
    CHECK(sum <= (uint64_t)pieces * (once + PIECE * per_token + SLACK));
    CHECK_EQ(rig_store_stat(&r).bytes_written - before.bytes_written, sum);
    CHECK_EQ(rig_info(s).at.position, (uint64_t)pieces * PIECE);
    tarn_session_close(s);
    rig_close(&r);
}

CASE(appends_write_what_is_new_tiny) /* E5 */
{
    appends_of_fifty(RIG_TINY, true);
}

CASE(appends_write_what_is_new_recall) /* E5 */
{
    RIG_SKIP_REDUCED();
    appends_of_fifty(RIG_RECALL, false);
}

/* A full disk: the commit is refused, what was committed is whole, and so is what was not. */
static void full_disk(rig_kind kind)
{
    enum { DONE = 40, MOST = 4000 };
    rig r;
    small_disk disk;
    static uint32_t ids[MOST];
    rig_trace rows;
    tarn_reuse reuse;
    if (!small_disk_mount(&disk, 24))
        SKIP(SMALL_DISK_REFUSED);
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 1});
    snprintf(r.store_path, sizeof r.store_path, "%s/store", disk.folder);
    rig_restart(&r, NULL);
    rig_ids(&r, 9, ids, MOST);
    tarn_session *s = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    rig_trace_begin(&rows, cold);
    rig_feed(s, ids, DONE);
    rig_feed(cold, ids, DONE);
    rig_commit(s);
    CHECK(small_disk_fill(&disk));
    tarn_status status = TARN_OK;
    uint64_t at = DONE, committed = DONE;
    while (status == TARN_OK && at < MOST) { /* until the pages free within the file are used up */
        rig_feed(s, ids + at, 10);
        rig_feed(cold, ids + at, 10);
        at += 10;
        status = tarn_session_commit(s, NULL, ERR);
        committed = status == TARN_OK ? at : committed;
    }
    CHECK_STATUS(status, TARN_E_NO_SPACE);
    CHECK_EQ(rig_info(s).at.position, at); /* nothing is lost while it is open */
    CHECK(!rig_info(s).committed);
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_session_options look = {.size = sizeof look, .flags = TARN_SESSION_READ_ONLY};
    tarn_session *before;
    OK(tarn_session_open(r.engine, r.store, "a", &look, &before, &reuse, ERR));
    CHECK_EQ(rig_info(before).at.position, committed);
    CHECK_EQ(reuse.tokens_replayed, 0);
    CHECK(rig_logits_are(before, &rows, committed));
    tarn_session_close(before);
    CHECK(unlink(disk.filler) == 0);
    CHECK_EQ(rig_commit(s).at.position, at); /* again, and there is room */
    tarn_session_close(s);
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.tokens_reused, at);
    CHECK(rig_same_logits(s, cold));
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_session_close(s);
    tarn_session_close(cold);
    rig_trace_free(&rows);
    char store[sizeof r.store_path];
    memcpy(store, r.store_path, sizeof store);
    rig_close(&r);
    rig_remove_folder(store);
    CHECK(small_disk_unmount(&disk));
}

CASE(a_full_disk_tiny) /* D5 */
{
    full_disk(RIG_TINY);
}

CASE(a_full_disk_recall) /* D5 */
{
    RIG_SKIP_REDUCED();
    full_disk(RIG_RECALL);
}

/* ---- what calls report ---- */

static void g1(rig_kind kind)
{
    rig r;
    uint32_t ids[200];
    uint64_t sum, bytes;
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 1, .keep_every = 32});
    rig_ids(&r, 84, ids, 200);
    sum = rig_store_stat(&r).bytes_written; /* of the store's own record */
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, ids, 100);
    sum += rig_commit(s).bytes_written; /* making the session among them */
    CHECK_EQ(rig_store_stat(&r).bytes_written, sum);
    tarn_session *b = rig_fork(s, "b");
    rig_feed(b, ids, 70);
    sum += rig_commit(b).bytes_written; /* the fork's own record among them */
    CHECK_EQ(rig_store_stat(&r).bytes_written, sum);
    OK(tarn_session_rewind(b, "@t:57", NULL, ERR)); /* its node is reported by the next commit */
    OK(tarn_session_run(b, NULL, NULL, ERR));
    rig_feed(b, ids, 3);
    OK(tarn_session_rewind(b, "@t:58", NULL, ERR)); /* commits the three first */
    sum += rig_commit(b).bytes_written;
    CHECK_EQ(rig_store_stat(&r).bytes_written, sum);
    OK(tarn_store_fork(r.store, "a", "@t:77", "c", NULL, NULL, &bytes, ERR));
    sum += bytes;
    CHECK_EQ(rig_store_stat(&r).bytes_written, sum);
    OK(tarn_store_fork(r.store, "a", NULL, "d", NULL, NULL, &bytes, ERR));
    sum += bytes;
    OK(tarn_store_rewind(r.store, "d", "@t:96", NULL, NULL, &bytes, ERR));
    sum += bytes;
    OK(tarn_store_rewind(r.store, "c", "@t:70", NULL, NULL, &bytes, ERR));
    sum += bytes;
    CHECK_EQ(rig_store_stat(&r).bytes_written, sum);
    tarn_session_close(s);
    tarn_session_close(b);
    rig_close(&r);
}

CASE(written_bytes_add_up_tiny) /* G1 */
{
    g1(RIG_TINY);
}

CASE(written_bytes_add_up_recall) /* G1 */
{
    RIG_SKIP_REDUCED();
    g1(RIG_RECALL);
}

CHECK_MAIN(ENTRY(written_bytes_add_up_tiny), ENTRY(written_bytes_add_up_recall),
           ENTRY(appends_write_what_is_new_tiny), ENTRY(appends_write_what_is_new_recall),
           ENTRY(a_full_disk_tiny), ENTRY(a_full_disk_recall))
