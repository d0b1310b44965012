/* sampler.c
 *
 * Filters never sort the vocabulary: candidates go into a max-heap (linear time) and are popped
 * until a filter is satisfied, which for real distributions is a few dozen pops. Without filters
 * the draw walks the ids in order. Sums are double and in a fixed order. */
#include "sampler.h"

#include <math.h>
#include <string.h>

tarn_status tarni_sampler_init(tarni_sampler *s, uint32_t vocab, const tarn_allocator *allocator,
                               tarn_error *err)
{
    *s = (tarni_sampler){.allocator = *allocator, .vocab = vocab};
    tarn_status status = tarni_alloc(allocator, vocab, sizeof *s->work, &s->work, err);
    if (status == TARN_OK)
        status = tarni_alloc(allocator, vocab, sizeof *s->order, &s->order, err);
    if (status == TARN_OK)
        status = tarni_alloc(allocator, vocab / 64 + 1, sizeof *s->seen, &s->seen, err);
    if (status != TARN_OK)
        tarni_sampler_fini(s);
    return status;
}

void tarni_sampler_fini(tarni_sampler *s)
{
    if (s->vocab > 0) {
        tarni_free(&s->allocator, s->work);
        tarni_free(&s->allocator, s->order);
        tarni_free(&s->allocator, s->seen);
    }
    *s = (tarni_sampler){0};
}

void tarni_sampling_defaults(tarn_sampling *out)
{
    memset(out, 0, sizeof *out);
    out->size = sizeof *out;
    out->top_p = 1.0f;
    out->repeat_penalty = 1.0f;
}

tarn_status tarni_sampling_check(const tarn_sampling *p, uint32_t vocab, tarn_error *err)
{
    if (!(p->temperature >= 0.0f && p->temperature <= 100.0f))
        return tarni_fail(err, TARN_E_INVALID, "temperature is %g, must be 0 to 100",
                          (double)p->temperature);
    if (!(p->top_p > 0.0f && p->top_p <= 1.0f))
        return tarni_fail(err, TARN_E_INVALID, "top_p is %g, must be above 0 and up to 1",
                          (double)p->top_p);
    if (!(p->min_p >= 0.0f && p->min_p <= 1.0f))
        return tarni_fail(err, TARN_E_INVALID, "min_p is %g, must be 0 to 1", (double)p->min_p);
    if (!(p->repeat_penalty > 0.0f && p->repeat_penalty <= 100.0f))
        return tarni_fail(err, TARN_E_INVALID,
                          "repeat_penalty is %g, must be above 0 and up to 100",
                          (double)p->repeat_penalty);
    if (p->n_bias > TARN_LOGIT_BIAS_MAX)
        return tarni_fail(err, TARN_E_INVALID, "n_bias is %zu, the limit is %d", p->n_bias,
                          TARN_LOGIT_BIAS_MAX);
    for (size_t i = 0; i < p->n_bias; i++) {
        float b = p->bias[i].bias;
        if (p->bias[i].id >= vocab || isnan(b) || b == INFINITY)
            return tarni_fail(err, TARN_E_INVALID,
                              "bias %zu: id %u (vocabulary %u), bias %g: not usable", i,
                              p->bias[i].id, vocab, (double)b);
    }
    return TARN_OK;
}

bool tarni_sampling_equal(const tarn_sampling *a, const tarn_sampling *b)
{
    if (a->temperature != b->temperature || a->top_p != b->top_p || a->top_k != b->top_k ||
        a->min_p != b->min_p || a->repeat_penalty != b->repeat_penalty ||
        a->repeat_last_n != b->repeat_last_n || a->seed != b->seed || a->n_bias != b->n_bias)
        return false;
    for (size_t i = 0; i < a->n_bias; i++)
        if (a->bias[i].id != b->bias[i].id || a->bias[i].bias != b->bias[i].bias)
            return false;
    return true;
}

double tarni_sampler_uniform(uint64_t seed, uint64_t position)
{
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ key[0], (uint32_t)b,
                            (uint32_t)(a >> 32) ^ c[3] ^ key[1], (uint32_t)a};
        memcpy(c, next, sizeof c);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    uint64_t bits = (uint64_t)c[0] << 32 | c[1];
    return (double)(bits >> 11) * 0x1p-53;
}

/* Bias and penalty into s->work. */
static void adjust(tarni_sampler *s, const tarn_sampling *p, const float *logits,
                   const uint32_t *tokens, size_t n_tokens)
{
    memcpy(s->work, logits, s->vocab * sizeof *logits);
    for (size_t i = 0; i < p->n_bias; i++)
        s->work[p->bias[i].id] += p->bias[i].bias;
    if (p->repeat_penalty == 1.0f)
        return;
    size_t first = 0;
    if (p->repeat_last_n > 0 && p->repeat_last_n < n_tokens)
        first = n_tokens - p->repeat_last_n;
    for (size_t i = first; i < n_tokens; i++) {
        uint32_t id = tokens[i];
        if (s->seen[id / 64] >> (id % 64) & 1)
            continue;
        s->seen[id / 64] |= 1ULL << (id % 64);
        float *l = &s->work[id];
        *l = *l > 0.0f ? *l / p->repeat_penalty : *l * p->repeat_penalty;
    }
    for (size_t i = first; i < n_tokens; i++)
        s->seen[tokens[i] / 64] = 0;
}

static uint32_t best_of(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

static bool before(const float *weight, uint32_t a, uint32_t b)
{
    return weight[a] > weight[b] || (weight[a] == weight[b] && a < b);
}

static void sift_down(const float *weight, uint32_t *heap, uint32_t n, uint32_t at)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n)
            return;
        if (child + 1 < n && before(weight, heap[child + 1], heap[child]))
            child++;
        if (before(weight, heap[at], heap[child]))
            return;
        uint32_t t = heap[at];
        heap[at] = heap[child];
        heap[child] = t;
        at = child;
    }
}

/* Takes the best id off the heap of *n and puts it where the heap ended. */
static double pop(tarni_sampler *s, uint32_t *n)
{
    uint32_t best = s->order[0];
    s->order[0] = s->order[--*n];
    s->order[*n] = best;
    sift_down(s->work, s->order, *n, 0);
    return (double)s->work[best];
}

/* Leaves the *n_kept ids the filters keep in s->order, the best one last, and returns where they
 * end; *total is the sum of their weights. Weights are relative to the best, which is 1. */
static uint32_t filter(tarni_sampler *s, const tarn_sampling *p, uint32_t *n_kept, double *total)
{
    uint32_t n = 0;
    double sum = 0;
    for (uint32_t i = 0; i < s->vocab; i++) {
        if (s->work[i] > 0.0f) {
            s->order[n++] = i;
            sum += (double)s->work[i];
        }
    }
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(s->work, s->order, n, i);
    uint32_t heap = n, limit = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    if (limit < n) { /* top-p is a share of what top-k leaves */
        sum = 0;
        while (n - heap < limit)
            sum += pop(s, &heap);
    }
    double goal = (double)p->top_p * sum, running = 0;
    uint32_t kept = 0;
    while (kept < limit && (kept == 0 || running < goal)) {
        uint32_t next = limit < n ? s->order[n - 1 - kept] : s->order[0];
        if (s->work[next] < p->min_p)
            break;
        running += limit < n ? (double)s->work[next] : pop(s, &heap);
        kept++;
    }
    *total = running;
    *n_kept = kept;
    return n;
}

uint32_t tarni_sampler_draw(tarni_sampler *s, const tarn_sampling *p, const float *logits,
                            const uint32_t *tokens, size_t n_tokens, uint64_t position)
{
    adjust(s, p, logits, tokens, n_tokens);
    uint32_t best = best_of(s->work, s->vocab);
    if (p->temperature == 0.0f)
        return best;
    double top = (double)s->work[best], sum = 0;
    for (uint32_t i = 0; i < s->vocab; i++) {
        s->work[i] = (float)exp(((double)s->work[i] - top) / (double)p->temperature);
        sum += (double)s->work[i];
    }
    double u = tarni_sampler_uniform(p->seed, position);
    if (p->top_k == 0 && p->top_p == 1.0f && p->min_p == 0.0f) {
        double left = u * sum;
        for (uint32_t i = 0; i < s->vocab; i++) {
            left -= (double)s->work[i];
            if (left < 0)
                return i;
        }
        return best;
    }
    double total;
    uint32_t kept, n = filter(s, p, &kept, &total);
    double left = u * total;
    for (uint32_t i = n; i-- > n - kept;) {
        left -= (double)s->work[s->order[i]];
        if (left < 0)
            return s->order[i];
    }
    return best;
}

/* OFFSET SIZE FIELD: 0 1 version (1); 1 4 temperature f32; 5 4 top_p; 9 4 top_k u32; 13 4 min_p;
 * 17 4 repeat_penalty; 21 4 repeat_last_n; 25 8 seed; 33 4 n_bias; then n_bias x (4 id, 4 f32). */
void tarni_sampling_put(const tarn_sampling *p, tarni_writer *w)
{
    tarni_put_u8(w, 1);
    tarni_put_f32(w, p->temperature);
    tarni_put_f32(w, p->top_p);
    tarni_put_u32(w, p->top_k);
    tarni_put_f32(w, p->min_p);
    tarni_put_f32(w, p->repeat_penalty);
    tarni_put_u32(w, p->repeat_last_n);
    tarni_put_u64(w, p->seed);
    tarni_put_u32(w, (uint32_t)p->n_bias);
    for (size_t i = 0; i < p->n_bias; i++) {
        tarni_put_u32(w, p->bias[i].id);
        tarni_put_f32(w, p->bias[i].bias);
    }
}

tarn_status tarni_sampling_get(const void *data, size_t n_bytes, uint32_t vocab, tarn_sampling *out,
                               tarn_error *err)
{
    tarni_reader r;
    tarni_reader_init(&r, data, n_bytes);
    tarni_sampling_defaults(out);
    uint8_t version = tarni_get_u8(&r);
    if (version != 1)
        return tarni_fail(err, TARN_E_FORMAT, "sampler record has version %u, this reads 1",
                          version);
    out->temperature = tarni_get_f32(&r);
    out->top_p = tarni_get_f32(&r);
    out->top_k = tarni_get_u32(&r);
    out->min_p = tarni_get_f32(&r);
    out->repeat_penalty = tarni_get_f32(&r);
    out->repeat_last_n = tarni_get_u32(&r);
    out->seed = tarni_get_u64(&r);
    out->n_bias = tarni_get_u32(&r);
    if (out->n_bias > TARN_LOGIT_BIAS_MAX)
        return tarni_fail(err, TARN_E_CORRUPT, "sampler record has %zu biases, the limit is %d",
                          out->n_bias, TARN_LOGIT_BIAS_MAX);
    for (size_t i = 0; i < out->n_bias; i++) {
        out->bias[i].id = tarni_get_u32(&r);
        out->bias[i].bias = tarni_get_f32(&r);
    }
    if (r.failed || tarni_reader_left(&r) != 0)
        return tarni_fail(err, TARN_E_CORRUPT, "sampler record of %zu bytes has a wrong length",
                          n_bytes);
    if (tarni_sampling_check(out, vocab, err) == TARN_OK)
        return TARN_OK;
    tarn_error what = *err;
    return tarni_fail(err, TARN_E_CORRUPT, "sampler record: %.200s", what.detail);
}
