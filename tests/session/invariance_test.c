/* The state is a pure function of the ids: no cut, no neighbour and no number of threads changes a
 * bit. */
#include "check.h"
#include "fixture.h"

enum { N = 260 };

/* Rows of logits after ids fed in pieces drawn from `seed` (0: all at once), beside `n_others`
 * sessions that feed and generate. */
static void run(rig *r, const uint32_t *ids, uint64_t seed, size_t n_others, bool scored,
                rig_trace *out)
{
    tarn_session *others[4], *s = rig_loose(r, "s");
    uint32_t noise[N];
    for (size_t i = 0; i < n_others; i++) {
        tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 40};
        others[i] = rig_loose(r, "other");
        rig_ids(r, 500 + i, noise, N);
        OK(tarn_session_append_tokens(others[i], noise, 30 * (i + 1), ERR));
        OK(tarn_session_generate(others[i], &o, ERR));
    }
    if (scored)
        rig_trace_begin(out, s);
    for (size_t at = 0, n; at < N; at += n) {
        n = seed == 0 ? N : 1 + rig_random(&seed) % 70;
        n = n > N - at ? N - at : n;
        if (!scored && at + n == N && n > 1)
            n--; /* the last row alone, so that there is one to look at */
        else if (!scored && at + n == N)
            rig_trace_begin(out, s);
        OK(tarn_session_append_tokens(s, ids + at, n, ERR));
        if (!scored || seed % 3 != 0) /* else several pieces wait together */
            OK(tarn_session_run(s, NULL, NULL, ERR));
    }
    OK(tarn_session_run(s, NULL, NULL, ERR));
    rig_drain(r);
    tarn_session_close(s);
    for (size_t i = 0; i < n_others; i++)
        tarn_session_close(others[i]);
}

static void neutral(rig_kind kind, tarn_numerics numerics)
{
    static const struct {
        uint32_t n_threads, step_tokens_max, keep_every;
        uint64_t seed;
        size_t n_others;
        bool scored;
    } ways[] = {
        {1, 256, 1024, 0, 0, false}, {1, 256, 1024, 1, 0, true},  {2, 256, 1024, 0, 0, true},
        {2, 256, 1024, 2, 3, true},  {3, 256, 1024, 3, 0, false}, {3, 7, 1024, 0, 4, true},
        {1, 1, 1024, 4, 0, true},    {2, 64, 10, 5, 2, true},     {3, 100, 33, 6, 4, false},
    };
    rig r;
    uint32_t ids[N];
    rig_trace want, got;
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 1, .numerics = numerics});
    rig_ids(&r, 60, ids, N);
    run(&r, ids, 0, 0, true, &want);
    CHECK_EQ(want.n, N);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        rig_restart_engine(&r, &(tarn_engine_options){.numerics = numerics,
                                                      .n_threads = ways[i].n_threads,
                                                      .step_tokens_max = ways[i].step_tokens_max,
                                                      .keep_every = ways[i].keep_every});
        run(&r, ids, ways[i].seed, ways[i].n_others, ways[i].scored, &got);
        CHECK_EQ(got.n, ways[i].scored ? N : 1);
        if (!rig_same_rows(&got, &want, got.first, N + 1))
            CHECK_FAIL("way %zu differs", i);
        rig_trace_free(&got);
    }
    rig_trace_free(&want);
    rig_close(&r);
}

CASE(any_cut_batch_and_threads_tiny)
{
    neutral(RIG_TINY, TARN_NUMERICS_NATIVE);
}

CASE(any_cut_batch_and_threads_tiny_f32)
{
    RIG_SKIP_REDUCED();
    neutral(RIG_TINY, TARN_NUMERICS_F32);
}

CASE(any_cut_batch_and_threads_recall)
{
    RIG_SKIP_REDUCED();
    neutral(RIG_RECALL, TARN_NUMERICS_NATIVE);
}

/* Not the logits alone: every tensor of the state. */
typedef struct tensor_sum {
    uint64_t hash;
    size_t n_tensors, n_floats;
    bool shapes_right;
} tensor_sum;

static void add_tensor(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                       const float *data)
{
    tensor_sum *sum = user;
    size_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        n *= dims[i];
    const uint8_t *bytes = (const uint8_t *)data;
    for (size_t i = 0; i < n * sizeof *data; i++)
        sum->hash = (sum->hash ^ bytes[i]) * 0x100000001B3u;
    for (const char *c = name; *c; c++)
        sum->hash = (sum->hash ^ (uint8_t)*c) * 0x100000001B3u;
    sum->n_tensors++;
    sum->n_floats += n;
    if (strstr(name, "kda.state"))
        sum->shapes_right = sum->shapes_right && n_dims == 3 && dims[0] == 4 && dims[1] == 16;
    else if (strstr(name, "mla.latent"))
        sum->shapes_right = sum->shapes_right && n_dims == 2 && dims[1] == 32;
    else
        sum->shapes_right = sum->shapes_right && n_dims == 2 && dims[0] == 64 && dims[1] == 3;
}

static tensor_sum sum_tensors(const tarn_session *s)
{
    tensor_sum sum = {.hash = 0xCBF29CE484222325u, .shapes_right = true};
    OK(tarn_session_tensors(s, add_tensor, &sum, ERR));
    return sum;
}

CASE(the_whole_state_is_the_same)
{
    rig r;
    uint32_t ids[N];
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 2});
    rig_ids(&r, 61, ids, N);
    tarn_session *s = rig_session(&r, "a", NULL), *t = rig_loose(&r, "t");
    tensor_sum empty = sum_tensors(s);
    CHECK_EQ(empty.n_tensors, 3 * 4 + 2);
    CHECK_EQ(empty.n_floats, 3 * (4 * 16 * 16 + 3 * 64 * 3));
    CHECK(empty.shapes_right);
    rig_feed(s, ids, N);
    for (size_t i = 0; i < N; i++)
        rig_feed(t, ids + i, 1);
    tensor_sum whole = sum_tensors(s), single = sum_tensors(t);
    CHECK_EQ(whole.n_floats, empty.n_floats + 2 * (size_t)N * 32);
    CHECK(whole.hash == single.hash);
    CHECK(whole.hash != empty.hash);
    rig_commit(s);
    tarn_session_close(s);
    s = rig_session(&r, "a", NULL);
    tensor_sum kept = sum_tensors(s);
    CHECK(kept.hash == whole.hash);
    OK(tarn_session_append_tokens(s, ids, 1, ERR));
    REFUSED(tarn_session_tensors(s, add_tensor, &kept, ERR), TARN_E_CONFLICT, "1 tokens wait");
    tarn_session_close(s);
    tarn_session_close(t);
    rig_close(&r);
}

typedef struct tails {
    float rows[9][64][3]; /* q, k, v of three layers */
    size_t n;
} tails;

static void take_tails(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                       const float *data)
{
    tails *t = user;
    if (n_dims == 2 && dims[1] == 3 && strstr(name, "kda.conv_") && t->n < 9)
        memcpy(t->rows[t->n++], data, sizeof t->rows[0]);
}

/* Tails are given oldest first: a token moves all inputs one place down. */
CASE(tails_are_given_oldest_first)
{
    static tails before, after;
    rig r;
    uint32_t ids[10];
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 62, ids, 10);
    tarn_session *s = rig_loose(&r, "a");
    rig_feed(s, ids, 9);
    OK(tarn_session_tensors(s, take_tails, &before, ERR));
    rig_feed(s, ids + 9, 1);
    OK(tarn_session_tensors(s, take_tails, &after, ERR));
    CHECK_EQ(after.n, 9);
    for (size_t i = 0; i < 9; i++)
        for (size_t c = 0; c < 64; c++)
            if (memcmp(&after.rows[i][c][0], &before.rows[i][c][1], 2 * sizeof(float)) != 0)
                CHECK_FAIL("tail %zu, channel %zu was not moved", i, c);
    tarn_session_close(s);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(any_cut_batch_and_threads_tiny), ENTRY(any_cut_batch_and_threads_tiny_f32),
           ENTRY(any_cut_batch_and_threads_recall), ENTRY(the_whole_state_is_the_same),
           ENTRY(tails_are_given_oldest_first))
