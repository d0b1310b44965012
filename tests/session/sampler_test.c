#include "sampler.h"

#include "check.h"

#include <string.h>

#define VOCAB 200

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static float random_logit(uint64_t *state)
{
    return (float)next_random(state) / (float)(1u << 31) * 12.0f - 6.0f;
}

static tarn_sampling defaults(void)
{
    tarn_sampling p;
    tarni_sampling_defaults(&p);
    return p;
}

static tarni_sampler sampler(void)
{
    tarni_sampler s;
    tarn_error err;
    CHECK_STATUS(tarni_sampler_init(&s, VOCAB, &tarni_heap, &err), TARN_OK);
    return s;
}

/* Philox-4x32-10; the first is the known answer of its authors, the others come from a second
 * implementation. */
CASE(uniform_is_a_fixed_function)
{
    static const struct {
        uint64_t seed, position, bits;
    } known[] = {
        {0, 0, 0x6627e8d5e169c58d >> 11},
        {0, 1, 0x1f1c99948b9640},
        {1, 0, 0x1c7d00ce1ca141},
        {42, 1000, 0x18fe72af15c897},
        {0x123456789abcdef0, 0xfedcba9876543210, 0x1df1c0364665d3},
        {UINT64_MAX, UINT64_MAX, 0x9a31afa486158},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        double u = tarni_sampler_uniform(known[i].seed, known[i].position);
        CHECK(u == (double)known[i].bits * 0x1p-53);
    }
}

CASE(greedy_takes_the_lowest_of_the_best)
{
    tarni_sampler s = sampler();
    tarn_sampling p = defaults();
    float logits[VOCAB];
    for (size_t i = 0; i < VOCAB; i++)
        logits[i] = -1.0f;
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, NULL, 0, 0), 0);
    logits[70] = logits[71] = logits[199] = 3.0f;
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, NULL, 0, 0), 70);
    logits[199] = 3.5f;
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, NULL, 0, 0), 199);
    p.n_bias = 1;
    p.bias[0] = (tarn_logit_bias){199, -INFINITY};
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, NULL, 0, 0), 70);
    tarni_sampler_fini(&s);
}

/* ---- the filters against sorting ---- */

typedef struct ranked {
    uint32_t id;
    float weight;
} ranked;

static int by_weight(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight > y->weight ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void adjust_naively(const tarn_sampling *p, const uint32_t *tokens, size_t n_tokens,
                           float *logits)
{
    for (size_t i = 0; i < p->n_bias; i++)
        logits[p->bias[i].id] += p->bias[i].bias;
    for (uint32_t id = 0; id < VOCAB; id++) {
        bool seen = false;
        for (size_t i = 0; i < n_tokens; i++)
            seen = seen ||
                   (tokens[i] == id && (p->repeat_last_n == 0 || n_tokens - i <= p->repeat_last_n));
        if (seen)
            logits[id] =
                logits[id] > 0 ? logits[id] / p->repeat_penalty : logits[id] * p->repeat_penalty;
    }
}

/* The ids that may be drawn, best first; returns how many and the sum of their weights. */
static size_t filter_naively(const tarn_sampling *p, const float *logits, ranked *out, double *sum)
{
    float top = logits[0];
    for (uint32_t id = 1; id < VOCAB; id++)
        top = logits[id] > top ? logits[id] : top;
    for (uint32_t id = 0; id < VOCAB; id++)
        out[id] =
            (ranked){id, (float)exp(((double)logits[id] - (double)top) / (double)p->temperature)};
    qsort(out, VOCAB, sizeof *out, by_weight);
    size_t n = p->top_k > 0 && p->top_k < VOCAB ? p->top_k : VOCAB;
    double all = 0, running = 0;
    for (size_t i = 0; i < n; i++)
        all += (double)out[i].weight;
    size_t kept = 0;
    while (kept < n && (kept == 0 || p->top_p == 1.0f || running < (double)p->top_p * all))
        running += (double)out[kept++].weight;
    while (kept > 1 && out[kept - 1].weight < p->min_p)
        kept--;
    *sum = 0;
    for (size_t i = 0; i < kept; i++)
        *sum += (double)out[i].weight;
    return kept;
}

static uint32_t draw_naively(const tarn_sampling *p, const float *given, const uint32_t *tokens,
                             size_t n_tokens, uint64_t position)
{
    float logits[VOCAB];
    ranked order[VOCAB];
    double sum;
    memcpy(logits, given, sizeof logits);
    adjust_naively(p, tokens, n_tokens, logits);
    size_t n = filter_naively(p, logits, order, &sum);
    double left = tarni_sampler_uniform(p->seed, position) * sum;
    for (size_t i = 0; i < n; i++) {
        left -= (double)order[i].weight;
        if (left < 0)
            return order[i].id;
    }
    return order[0].id;
}

static void compare_with_naive(tarn_sampling p, uint64_t seed)
{
    tarni_sampler s = sampler();
    float logits[VOCAB];
    uint32_t tokens[60];
    size_t n_different = 0;
    for (uint64_t round = 0; round < 400; round++) {
        for (size_t i = 0; i < VOCAB; i++)
            logits[i] = random_logit(&seed);
        if (round % 4 == 0) /* ties */
            for (size_t i = 0; i < VOCAB; i++)
                logits[i] = roundf(logits[i]);
        for (size_t i = 0; i < 60; i++)
            tokens[i] = (uint32_t)(next_random(&seed) % VOCAB);
        p.seed = seed;
        uint32_t got = tarni_sampler_draw(&s, &p, logits, tokens, 60, round);
        n_different += got != draw_naively(&p, logits, tokens, 60, round);
    }
    CHECK_EQ(n_different, 0);
    tarni_sampler_fini(&s);
}

CASE(top_k_as_by_sorting)
{
    static const uint32_t ks[] = {1, 2, 7, 50, 199, 200, 5000};
    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++) {
        tarn_sampling p = defaults();
        p.temperature = 1.3f;
        p.top_k = ks[i];
        if (ks[i] < VOCAB) /* else nothing is filtered, and ids are walked in order */
            compare_with_naive(p, i);
    }
}

CASE(top_p_as_by_sorting)
{
    static const float shares[] = {1e-6f, 0.1f, 0.5f, 0.9f, 0.999f};
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        tarn_sampling p = defaults();
        p.temperature = 0.7f;
        p.top_p = shares[i];
        compare_with_naive(p, 10 + i);
    }
}

CASE(min_p_as_by_sorting)
{
    static const float shares[] = {1e-4f, 0.05f, 0.5f, 1.0f};
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        tarn_sampling p = defaults();
        p.temperature = 2.0f;
        p.min_p = shares[i];
        compare_with_naive(p, 20 + i);
    }
}

CASE(all_filters_as_by_sorting)
{
    tarn_sampling p = defaults();
    p.temperature = 1.5f;
    p.top_k = 40;
    p.top_p = 0.85f;
    p.min_p = 0.2f;
    p.repeat_penalty = 1.2f;
    p.repeat_last_n = 20;
    p.n_bias = 3;
    p.bias[0] = (tarn_logit_bias){3, 4.0f};
    p.bias[1] = (tarn_logit_bias){4, -INFINITY};
    p.bias[2] = (tarn_logit_bias){3, 1.0f};
    compare_with_naive(p, 30);
    p.top_k = 0;
    compare_with_naive(p, 31);
    p.top_p = 1.0f;
    compare_with_naive(p, 32);
}

/* top-p takes its share of what top-k left, and min-p does not change what that share is of. */
CASE(filters_apply_in_their_order)
{
    tarni_sampler s = sampler();
    tarn_sampling p = defaults();
    float logits[VOCAB];
    for (size_t i = 0; i < VOCAB; i++)
        logits[i] = logf(0.01f);
    logits[5] = 0.0f;
    logits[9] = logf(0.5f);
    p.temperature = 1.0f;
    p.top_p = 0.35f; /* of 1 + 0.5 + 198 x 0.01 = 3.48: 1.22, so both */
    p.min_p = 0.1f;
    size_t n_second = 0;
    for (uint64_t at = 0; at < 1000; at++) {
        uint32_t id = tarni_sampler_draw(&s, &p, logits, NULL, 0, at);
        CHECK(id == 5 || id == 9);
        n_second += id == 9;
    }
    CHECK(n_second > 280 && n_second < 390); /* a third */
    tarni_sampler_fini(&s);
}

/* ---- frequencies ---- */

CASE(draws_are_as_frequent_as_probable)
{
    enum { DRAWS = 200000, KINDS = 8 };
    tarni_sampler s = sampler();
    tarn_sampling p = defaults();
    float logits[VOCAB];
    double weight[KINDS], sum = 0;
    size_t count[VOCAB] = {0};
    for (size_t i = 0; i < VOCAB; i++)
        logits[i] = -INFINITY;
    for (size_t i = 0; i < KINDS; i++) {
        logits[i * 20] = (float)i * 0.5f;
        weight[i] = exp((double)i * 0.5 / 0.9);
        sum += weight[i];
    }
    p.temperature = 0.9f;
    p.seed = 77;
    for (uint64_t at = 0; at < DRAWS; at++)
        count[tarni_sampler_draw(&s, &p, logits, NULL, 0, at)]++;
    double chi = 0;
    for (size_t i = 0; i < KINDS; i++) {
        double expected = DRAWS * weight[i] / sum, off = (double)count[i * 20] - expected;
        chi += off * off / expected;
        count[i * 20] = 0;
    }
    CHECK(chi < 24.3); /* 7 degrees of freedom, one in a thousand; the seed is fixed */
    for (size_t i = 0; i < VOCAB; i++)
        CHECK_EQ(count[i], 0);
    tarni_sampler_fini(&s);
}

CASE(a_bias_of_minus_infinity_forbids)
{
    tarni_sampler s = sampler();
    tarn_sampling p = defaults();
    float logits[VOCAB] = {0};
    p.temperature = 5.0f;
    p.n_bias = VOCAB - 2;
    for (uint32_t i = 0; i < VOCAB - 2; i++)
        p.bias[i] = (tarn_logit_bias){i < 100 ? i : i + 1, -INFINITY};
    size_t count[2] = {0};
    for (uint64_t at = 0; at < 1000; at++) {
        p.top_p = at % 2 ? 1.0f : 0.99f;
        uint32_t id = tarni_sampler_draw(&s, &p, logits, NULL, 0, at);
        CHECK(id == 100 || id == 199);
        count[id == 199]++;
    }
    CHECK(count[0] > 400 && count[1] > 400);
    for (uint32_t i = 0; i < VOCAB; i++) /* everything forbidden: still an id, and no crash */
        p.bias[i] = (tarn_logit_bias){i, -INFINITY};
    p.n_bias = VOCAB;
    for (uint64_t at = 0; at < 4; at++) {
        p.top_k = at % 2 ? 3 : 0;
        CHECK(tarni_sampler_draw(&s, &p, logits, NULL, 0, at) < VOCAB);
    }
    tarni_sampler_fini(&s);
}

CASE(the_penalty_looks_back_so_far)
{
    tarni_sampler s = sampler();
    tarn_sampling p = defaults();
    float logits[VOCAB] = {0};
    const uint32_t tokens[] = {7, 8, 8, 9, 8};
    logits[7] = 10.0f;
    logits[8] = 12.0f;
    logits[9] = 11.0f;
    p.repeat_penalty = 2.0f;
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, tokens, 0, 0), 8);
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, tokens, 1, 0), 8);
    p.repeat_last_n = 1; /* 8 falls to 6, once however often it came */
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, tokens, 5, 0), 9);
    p.repeat_last_n = 2;
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, tokens, 5, 0), 7);
    p.repeat_last_n = 0; /* 7, 8, 9 at 5, 6, 5.5 */
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, tokens, 5, 0), 8);
    p.repeat_last_n = 100;
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, tokens, 5, 0), 8);
    for (size_t i = 0; i < VOCAB; i++) /* a negative logit is made smaller */
        logits[i] = -4.0f;
    logits[0] = -3.0f;
    const uint32_t zero[] = {0};
    CHECK_EQ(tarni_sampler_draw(&s, &p, logits, zero, 1, 0), 1);
    tarni_sampler_fini(&s);
}

/* ---- the record ---- */

static tarn_sampling full(void)
{
    tarn_sampling p = defaults();
    p.temperature = 0.75f;
    p.top_p = 0.9f;
    p.top_k = 33;
    p.min_p = 0.01f;
    p.repeat_penalty = 1.125f;
    p.repeat_last_n = 64;
    p.seed = 0x1122334455667788;
    p.n_bias = 2;
    p.bias[0] = (tarn_logit_bias){7, -INFINITY};
    p.bias[1] = (tarn_logit_bias){199, 1.5f};
    return p;
}

CASE(record_round_trip_and_pinned_bytes)
{
    tarn_sampling p = full(), q;
    tarn_error err;
    tarni_writer w;
    tarni_writer_init(&w, &tarni_heap);
    tarni_sampling_put(&p, &w);
    CHECK_EQ(w.n_bytes, 37 + 2 * 8);
    static const uint8_t begin[] = {1, 0, 0, 0x40, 0x3f}; /* version, 0.75f little-endian */
    CHECK_BYTES(w.data, begin, sizeof begin);
    CHECK_EQ(w.data[25], 0x88);
    CHECK_EQ(w.data[32], 0x11);
    CHECK_STATUS(tarni_sampling_get(w.data, w.n_bytes, VOCAB, &q, &err), TARN_OK);
    CHECK(tarni_sampling_equal(&p, &q));
    tarni_writer_fini(&w);
}

CASE(every_field_counts_in_a_comparison)
{
    tarn_sampling p = full();
    for (int field = 0; field < 10; field++) {
        tarn_sampling q = full();
        switch (field) {
        case 0:
            q.temperature = 0.5f;
            break;
        case 1:
            q.top_p = 0.5f;
            break;
        case 2:
            q.top_k = 1;
            break;
        case 3:
            q.min_p = 0.5f;
            break;
        case 4:
            q.repeat_penalty = 1.5f;
            break;
        case 5:
            q.repeat_last_n = 1;
            break;
        case 6:
            q.seed = 1;
            break;
        case 7:
            q.n_bias = 1;
            break;
        case 8:
            q.bias[1].id = 1;
            break;
        default:
            q.bias[1].bias = 2;
            break;
        }
        CHECK(!tarni_sampling_equal(&p, &q));
    }
    tarn_sampling same = full();
    same.bias[2] = (tarn_logit_bias){9, 9}; /* behind n_bias: says nothing */
    CHECK(tarni_sampling_equal(&p, &same));
}

CASE(hostile_records)
{
    tarn_sampling p = full(), q;
    tarn_error err;
    tarni_writer w;
    tarni_writer_init(&w, &tarni_heap);
    tarni_sampling_put(&p, &w);
    for (size_t n = 0; n < w.n_bytes; n++) { /* in memory of just that size, for the sanitizer */
        uint8_t *part = malloc(n + 1);
        REQUIRE(part != NULL);
        memmove(part + 1, w.data, n);
        CHECK(tarni_sampling_get(part + 1, n, VOCAB, &q, &err) != TARN_OK);
        free(part);
    }
    uint8_t bad[128];
    memcpy(bad, w.data, w.n_bytes);
    CHECK(tarni_sampling_get(bad, w.n_bytes + 1, VOCAB, &q, &err) == TARN_E_CORRUPT);
    bad[0] = 2;
    CHECK_STATUS(tarni_sampling_get(bad, w.n_bytes, VOCAB, &q, &err), TARN_E_FORMAT);
    CHECK_HAS(err.detail, "version 2");
    bad[0] = 1;
    bad[33] = 0; /* 256 biases are the most, in a record that has two */
    bad[34] = 1;
    CHECK_STATUS(tarni_sampling_get(bad, w.n_bytes, VOCAB, &q, &err), TARN_E_CORRUPT);
    bad[33] = 1;
    CHECK_STATUS(tarni_sampling_get(bad, w.n_bytes, VOCAB, &q, &err), TARN_E_CORRUPT);
    CHECK_HAS(err.detail, "257");
    bad[33] = bad[34] = bad[35] = bad[36] = 0xFF;
    CHECK_STATUS(tarni_sampling_get(bad, w.n_bytes, VOCAB, &q, &err), TARN_E_CORRUPT);
    static const size_t floats[] = {1, 5, 13, 17, 41};
    static const uint8_t nan_bytes[] = {0, 0, 0xC0, 0x7F};
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        memcpy(bad, w.data, w.n_bytes);
        memcpy(bad + floats[i], nan_bytes, 4);
        CHECK_STATUS(tarni_sampling_get(bad, w.n_bytes, VOCAB, &q, &err), TARN_E_CORRUPT);
    }
    memcpy(bad, w.data, w.n_bytes);
    bad[37] = VOCAB; /* a bias on an id that is none */
    CHECK_STATUS(tarni_sampling_get(bad, w.n_bytes, VOCAB, &q, &err), TARN_E_CORRUPT);
    tarni_writer_fini(&w);
}

CASE(settings_out_of_range_are_named)
{
    tarn_error err;
#define BAD(setting, words)                                                                        \
    do {                                                                                           \
        tarn_sampling p = full();                                                                  \
        setting;                                                                                   \
        CHECK_STATUS(tarni_sampling_check(&p, VOCAB, &err), TARN_E_INVALID);                       \
        CHECK_HAS(err.detail, words);                                                              \
    } while (0)
    BAD(p.temperature = -0.1f, "temperature is -0.1");
    BAD(p.temperature = NAN, "temperature");
    BAD(p.temperature = 101, "temperature");
    BAD(p.top_p = 0, "top_p is 0");
    BAD(p.top_p = 1.01f, "top_p");
    BAD(p.top_p = NAN, "top_p");
    BAD(p.min_p = -1, "min_p");
    BAD(p.min_p = 2, "min_p");
    BAD(p.min_p = NAN, "min_p");
    BAD(p.repeat_penalty = 0, "repeat_penalty");
    BAD(p.repeat_penalty = INFINITY, "repeat_penalty");
    BAD(p.n_bias = TARN_LOGIT_BIAS_MAX + 1, "n_bias is 257");
    BAD(p.bias[1].id = VOCAB, "id 200");
    BAD(p.bias[1].bias = NAN, "bias 1");
    BAD(p.bias[1].bias = INFINITY, "bias 1");
#undef BAD
    tarn_sampling p = full();
    CHECK_STATUS(tarni_sampling_check(&p, VOCAB, &err), TARN_OK);
}

CHECK_MAIN(ENTRY(uniform_is_a_fixed_function), ENTRY(greedy_takes_the_lowest_of_the_best),
           ENTRY(top_k_as_by_sorting), ENTRY(top_p_as_by_sorting), ENTRY(min_p_as_by_sorting),
           ENTRY(all_filters_as_by_sorting), ENTRY(filters_apply_in_their_order),
           ENTRY(draws_are_as_frequent_as_probable), ENTRY(a_bias_of_minus_infinity_forbids),
           ENTRY(the_penalty_looks_back_so_far), ENTRY(record_round_trip_and_pinned_bytes),
           ENTRY(every_field_counts_in_a_comparison), ENTRY(hostile_records),
           ENTRY(settings_out_of_range_are_named))
