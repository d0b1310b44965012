/* Where the rows of an append are cut into steps, on a device whose long appends take another form:
 * what a session computes is decided by its own appends alone, and with `exact` by its ids alone.
 */
#include "check.h"
#include "fixture.h"

enum { N = 200, N_OTHERS = 3 };

typedef struct outcome {
    uint64_t hash; /* of all tensors and the logits */
} outcome;

static void add_bytes(outcome *o, const void *data, size_t n)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < n; i++)
        o->hash = (o->hash ^ bytes[i]) * 0x100000001B3u;
}

static void add_tensor(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                       const float *data)
{
    size_t n = 1;
    (void)name;
    for (uint32_t i = 0; i < n_dims; i++)
        n *= dims[i];
    add_bytes(user, data, n * sizeof *data);
}

static outcome outcome_of(const tarn_session *s)
{
    outcome o = {0xCBF29CE484222325u};
    const float *logits;
    uint32_t vocab;
    OK(tarn_session_tensors(s, add_tensor, &o, ERR));
    OK(tarn_session_logits(s, &logits, &vocab, ERR));
    add_bytes(&o, logits, vocab * sizeof *logits);
    return o;
}

/* Sessions that append and generate while the one that is looked at appends. */
static void add_others(rig *r, tarn_session **others)
{
    uint32_t noise[200];
    for (uint32_t i = 0; i < N_OTHERS; i++) {
        tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 3};
        others[i] = rig_loose(r, "other");
        rig_ids(r, 500 + i, noise, 200);
        OK(tarn_session_append_tokens(others[i], noise, i == 0 ? 1 : 30 + 65 * i, ERR));
        OK(tarn_session_generate(others[i], &o, ERR));
    }
}

/* After ids that are appended in pieces, each run before the next. */
static outcome fed(rig *r, const uint32_t *ids, const size_t *pieces, bool with_others)
{
    tarn_session *others[N_OTHERS], *s;
    if (with_others) {
        add_others(r, others);
        OK(tarn_engine_step(r->engine, NULL, ERR)); /* one of them generates by now */
    }
    s = rig_loose(r, "s");
    for (size_t at = 0; *pieces > 0; at += *pieces++)
        rig_feed(s, ids + at, *pieces);
    rig_drain(r);
    outcome o = outcome_of(s);
    tarn_session_close(s);
    for (size_t i = 0; with_others && i < N_OTHERS; i++)
        tarn_session_close(others[i]);
    return o;
}

static const size_t whole[] = {N, 0}, halves[] = {70, N - 70, 0};

static void open_wide(rig *r, bool exact)
{
    rig_open(r, RIG_WIDE, &(tarn_engine_options){.n_threads = 1, .exact = exact});
}

CASE(a_long_append_does_not_depend_on_others)
{
    rig r;
    uint32_t ids[N];
    open_wide(&r, false);
    rig_ids(&r, 1, ids, N);
    outcome alone = fed(&r, ids, whole, false), among = fed(&r, ids, whole, true);
    CHECK(alone.hash == among.hash);
    rig_close(&r);
}

/* The other form is really there, or the case above says nothing. */
CASE(how_an_append_is_cut_shows_in_fast_numerics_alone)
{
    rig r;
    uint32_t ids[N];
    for (int exact = 0; exact < 2; exact++) {
        open_wide(&r, exact);
        rig_ids(&r, 1, ids, N);
        outcome one = fed(&r, ids, whole, false), two = fed(&r, ids, halves, true);
        CHECK_EQ(one.hash == two.hash, RIG_ON_HOST || exact);
        if (!RIG_ON_HOST)
            CHECK_HAS(tarn_engine_numerics(r.engine), exact ? "-exact" : "-fast4096");
        rig_close(&r);
    }
}

static void check_cuts(const rig *r, const char *numerics)
{
    const char *got = tarn_engine_numerics(r->engine), *last = strrchr(got, '-');
    if (!RIG_ON_HOST)
        CHECK_TEXT(last ? last : got, numerics);
}

static void pieces(uint32_t step_tokens_max, uint32_t keep_every, const char *numerics)
{
    rig r;
    uint32_t ids[N];
    outcome alone = {0};
    rig_open(&r, RIG_WIDE,
             &(tarn_engine_options){.n_threads = 1,
                                    .step_tokens_max = step_tokens_max,
                                    .sessions_max = 8,
                                    .keep_every = keep_every});
    rig_ids(&r, 2, ids, N);
    for (int with_others = 0; with_others < 2; with_others++) {
        tarn_session *others[N_OTHERS], *s;
        tarn_step step = {.size = sizeof step};
        if (with_others)
            add_others(&r, others);
        s = rig_loose(&r, "s"); /* the last in the round */
        OK(tarn_session_append_tokens(s, ids, 100, ERR));
        OK(tarn_engine_step(r.engine, &step, ERR));
        OK(tarn_session_append_tokens(s, ids + 100, 50, ERR));
        rig_drain(&r);
        outcome o = outcome_of(s);
        if (with_others)
            CHECK(o.hash == alone.hash);
        alone = o;
        tarn_session_close(s);
        for (size_t i = 0; with_others && i < N_OTHERS; i++)
            tarn_session_close(others[i]);
    }
    check_cuts(&r, numerics);
    rig_close(&r);
}

/* A step that holds less than an append: it is cut where the position says, whoever else is there,
 * and a session that has to wait gets no more rows into its piece than it had. */
CASE(pieces_end_where_the_position_says)
{
    pieces(138, 0, "-fast128");
}

/* States are kept where no piece would end, or before the first does; and a step that could not
 * hold a piece in another form makes none. */
static const struct {
    uint32_t step_tokens_max, keep_every;
    const char *numerics;
} cuts[] = {{138, 140, "-fast128.140"}, {138, 100, "-fast100"}, {70, 0, "-exact"}};
#define EACH_CUT (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++)

CASE(pieces_end_where_states_are_kept)
{
    RIG_SKIP_REDUCED();
    for
        EACH_CUT
    pieces(cuts[i].step_tokens_max, cuts[i].keep_every, cuts[i].numerics);
}

CASE(where_pieces_end_is_told)
{
    rig r;
    if (RIG_ON_HOST)
        SKIP("cuts do not show on the CPU");
    rig_open(&r, RIG_WIDE, NULL);
    for
        EACH_CUT
        {
            rig_restart_engine(&r,
                               &(tarn_engine_options){.n_threads = 1,
                                                      .step_tokens_max = cuts[i].step_tokens_max,
                                                      .sessions_max = 8,
                                                      .keep_every = cuts[i].keep_every});
            check_cuts(&r, cuts[i].numerics);
        }
    rig_close(&r);
}

/* Nodes hold no cuts: what is computed again is the same state only where cuts do not show. */
CASE(a_replay_is_called_exact_where_it_is)
{
    rig r;
    uint32_t ids[N];
    tarn_reuse reuse;
    for (int exact = 0; exact < 2; exact++) {
        open_wide(&r, exact);
        rig_ids(&r, 3, ids, N);
        tarn_session *s = rig_session(&r, "a", NULL);
        rig_feed(s, ids, 90);
        CHECK(rig_commit(s).at.bit_exact);
        OK(tarn_session_rewind(s, "@t:80", &reuse, ERR));
        CHECK_EQ(reuse.tokens_replayed, 80);
        OK(tarn_session_run(s, NULL, NULL, ERR));
        CHECK_EQ(rig_info(s).at.bit_exact, RIG_ON_HOST || exact);
        if (!RIG_ON_HOST && !exact)
            REFUSED(tarn_session_park(s, ERR), TARN_E_UNSUPPORTED, "would not come back the same");
        rig_feed(s, ids, 3);
        CHECK_EQ(rig_commit(s).at.bit_exact, RIG_ON_HOST || exact);
        OK(tarn_session_park(s, ERR)); /* its state is kept, whatever it was made by */
        rig_feed(s, ids, 1);
        CHECK_EQ(rig_info(s).reuse.tokens_replayed, 0);
        tarn_session_close(s);
        rig_close(&r);
    }
}

/* Fast and exact are two numerics of one model. */
CASE(each_resumes_what_the_other_kept)
{
    rig r;
    uint32_t ids[N];
    tarn_reuse reuse;
    if (RIG_ON_HOST)
        SKIP("on the CPU there is one");
    open_wide(&r, false);
    rig_ids(&r, 4, ids, N);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, ids, 70);
    rig_commit(s);
    tarn_session_close(s);
    for (int exact = 0; exact < 2; exact++) {
        tarn_engine_options o = {.n_threads = 1, .exact = exact};
        rig_restart(&r, &o);
        s = rig_session(&r, "a", &reuse);
        CHECK_EQ(reuse.reason, exact ? TARN_REASON_NUMERICS : TARN_REASON_EXACT);
        CHECK_EQ(reuse.tokens_replayed, 0);
        CHECK_EQ(rig_info(s).at.bit_exact, !exact);
        tarn_session_close(s);
    }
    rig_close(&r);
}

CHECK_MAIN(ENTRY(a_long_append_does_not_depend_on_others),
           ENTRY(how_an_append_is_cut_shows_in_fast_numerics_alone),
           ENTRY(pieces_end_where_the_position_says), ENTRY(pieces_end_where_states_are_kept),
           ENTRY(where_pieces_end_is_told), ENTRY(a_replay_is_called_exact_where_it_is),
           ENTRY(each_resumes_what_the_other_kept))
