/* A store that rounds states: sessions go on near to what they would have been, and nothing that
 * came from a rounded state is called bit-exact. */
#include "check.h"
#include "fixture.h"

#include <math.h>

#define N 150

static void set_policy(rig *r, tarn_state_codec codec)
{
    const tarn_store_policy policy = {.size = sizeof policy, .state_codec = codec};
    OK(tarn_store_set_policy(r->store, &policy, ERR));
}

static bool node_is_exact(rig *r, const char *where)
{
    tarn_at at;
    OK(tarn_store_price(r->store, "a", where, &at, NULL, ERR));
    return at.bit_exact;
}

static double off_by(const tarn_session *got, const tarn_session *want)
{
    const float *x, *y;
    uint32_t vocab;
    OK(tarn_session_logits(got, &x, &vocab, ERR));
    OK(tarn_session_logits(want, &y, &vocab, ERR));
    return check_rel(x, y, vocab);
}

/* The model computes in bf16: there the smallest difference may flip the rounding of an activation,
 * or the choice between two experts that are nearly equal, so fp16 has no tighter bound than bf16.
 */
CASE(rounded_states_go_on)
{
    static const struct {
        tarn_state_codec codec;
        double bound;
    } list[] = {{TARN_STATE_BF16, 0.05}, {TARN_STATE_FP16, 0.05}, {TARN_STATE_INT8, 0.2}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        rig r;
        uint32_t ids[N], more[8];
        /* In fp32, so that no rounding on the way is taken for what the codec lost. */
        rig_open(&r, RIG_TINY,
                 &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32});
        rig_ids(&r, 1, ids, N);
        rig_ids(&r, 2, more, 8);
        set_policy(&r, list[i].codec);
        tarn_session *s = rig_session(&r, "a", NULL), *whole = rig_loose(&r, "whole");
        rig_feed(s, ids, N);
        rig_feed(whole, ids, N);
        tarn_committed kept = rig_commit(s);
        CHECK(!kept.at.bit_exact);
        CHECK(!node_is_exact(&r, NULL));
        CHECK(rig_same_logits(s, whole)); /* memory is not rounded */
        CHECK(rig_info(s).at.bit_exact);
        tarn_session_close(s);
        s = rig_session(&r, "a", NULL);
        CHECK(!rig_info(s).at.bit_exact);
        CHECK(rig_same_logits(s, whole)); /* pending logits are kept as they are */
        rig_feed(s, more, 8);
        rig_feed(whole, more, 8);
        double off = off_by(s, whole);
        printf("    codec %d: logits off by %.2g\n", (int)list[i].codec, off);
        CHECK(off > 0 && off <= list[i].bound);
        set_policy(&r, TARN_STATE_LOSSLESS); /* too late: what was lost stays lost */
        CHECK(!rig_commit(s).at.bit_exact);
        CHECK(!node_is_exact(&r, NULL));
        CHECK_EQ(rig_verify(r.store), 0);
        tarn_session_close(s);
        tarn_session_close(whole);
        rig_close(&r);
    }
}

/* A session that never left memory is exact, whatever its earlier commits lost. */
CASE(memory_stays_exact)
{
    rig r;
    uint32_t ids[N];
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 1, ids, N);
    tarn_session *s = rig_session(&r, "a", NULL), *whole = rig_loose(&r, "whole");
    set_policy(&r, TARN_STATE_BF16);
    rig_feed(s, ids, 40);
    CHECK(!rig_commit(s).at.bit_exact);
    tarn_sampling sampling = {.size = sizeof sampling};
    tarn_session_get_sampling(s, &sampling);
    sampling.seed += 1;
    OK(tarn_session_set_sampling(s, &sampling, ERR));
    CHECK(!rig_commit(s).at.bit_exact); /* a node without a state, on one that is rounded */
    CHECK(!node_is_exact(&r, NULL));
    set_policy(&r, TARN_STATE_LOSSLESS);
    rig_feed(s, ids + 40, N - 40);
    CHECK(rig_commit(s).at.bit_exact);
    CHECK(node_is_exact(&r, NULL));
    tarn_session_close(s);
    s = rig_session(&r, "a", NULL);
    rig_feed(whole, ids, N);
    CHECK(rig_info(s).at.bit_exact);
    CHECK(rig_same_logits(s, whole));
    tarn_session_close(s);
    tarn_at at;
    OK(tarn_store_rewind(r.store, "a", "@t:100", &at, NULL, NULL,
                         ERR)); /* replayed from the rounded */
    CHECK(!node_is_exact(&r, NULL));
    s = rig_session(&r, "a", NULL);
    CHECK(!rig_info(s).at.bit_exact);
    tarn_session_close(s);
    tarn_session_close(whole);
    rig_close(&r);
}

CASE(the_policy_is_checked)
{
    rig r;
    rig_open(&r, RIG_TINY, NULL);
    tarn_store_policy policy = {.size = sizeof policy};
    OK(tarn_store_get_policy(r.store, &policy, ERR));
    CHECK_EQ(policy.state_codec, TARN_STATE_LOSSLESS);
    CHECK_EQ(policy.latent_codec, TARN_STATE_LOSSLESS);
    policy.latent_codec = TARN_STATE_BF16;
    REFUSED(tarn_store_set_policy(r.store, &policy, ERR), TARN_E_UNSUPPORTED, "latent_codec is 4");
    policy.latent_codec = 0;
    policy.state_codec = (tarn_state_codec)9;
    REFUSED(tarn_store_set_policy(r.store, &policy, ERR), TARN_E_INVALID, "state_codec is 9");
    policy.size = 3;
    REFUSED(tarn_store_set_policy(r.store, &policy, ERR), TARN_E_INVALID, "tarn_store_policy");
    REFUSED(tarn_store_set_policy(r.store, NULL, ERR), TARN_E_INVALID, "policy is NULL");
    REFUSED(tarn_store_get_policy(NULL, &policy, ERR), TARN_E_INVALID, "store is NULL");
    rig_close(&r);
}

CHECK_MAIN(ENTRY(rounded_states_go_on), ENTRY(memory_stays_exact), ENTRY(the_policy_is_checked))
