/* How much a commit writes: what came since the one before, and one state, however long the session
 * is. */
#include "check.h"
#include "fixture.h"

enum { PIECE = 50, PIECES = 60, SLACK = 8192 /* manifest, heads of chunks, indexes */ };

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
    /* The last, behind 2,950 tokens, is no larger than the first but for how well it packs. */
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

CASE(nothing_new_writes_nothing) /* A8 */
{
    rig r;
    uint32_t ids[PIECE];
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 1, ids, PIECE);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, ids, PIECE);
    rig_commit(s);
    uint64_t before = rig_store_stat(&r).bytes_written;
    for (int i = 0; i < 3; i++)
        CHECK_EQ(rig_commit(s).bytes_written, 0);
    CHECK_EQ(rig_store_stat(&r).bytes_written, before);
    tarn_session_close(s);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {ENTRY(appends_write_what_is_new_tiny),
                                       ENTRY(appends_write_what_is_new_recall),
                                       ENTRY(nothing_new_writes_nothing)};
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
