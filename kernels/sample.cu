/* sample.cu - see tarnk_sample_args in cuda.h.
 *
 * A block is a row. Nothing is sorted: the smallest weight that top-k keeps is found by halving the
 * range of the logits' bits, which order as the logits do, counting what lies above; then the same
 * for top-p with sums. Equal logits at the edge are kept by lowest index, by counting them in
 * order. Sums are double, per thread over its contiguous share of the row, then over the threads in
 * order.
 *
 * Bytes: the row once from memory, then up to 70 times from the second-level cache. Shared: 17 KB.
 */
#include "launch.cuh"

#define THREADS 1024u

struct sample_work {
    double sums[THREADS];
    uint32_t counts[THREADS];
    double total;
    uint32_t count;
};

/* Larger floats have larger keys. */
TARNK_DEVICE uint32_t key_of(float x)
{
    const uint32_t u = __float_as_uint(x + 0.0f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

TARNK_DEVICE float of_key(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct sample_row {
    const float *logits;
    uint32_t begin, end; /* of this thread's share */
    float top, temperature;
};

TARNK_DEVICE double weight_of(const sample_row &r, float logit)
{
    return exp((static_cast<double>(logit) - static_cast<double>(r.top)) /
               static_cast<double>(r.temperature));
}

/* Adds up over all threads, in order; the total in every thread. */
TARNK_DEVICE void total_of(sample_work *w, double sum, uint32_t count)
{
    w->sums[threadIdx.x] = sum;
    w->counts[threadIdx.x] = count;
    __syncthreads();
    if (threadIdx.x < 32) {
        constexpr uint32_t each = THREADS / 32;
        double part = 0;
        uint32_t n = 0;
        for (uint32_t i = 0; i < each; i++) {
            part += w->sums[threadIdx.x * each + i];
            n += w->counts[threadIdx.x * each + i];
        }
#pragma unroll
        for (int bit = 16; bit > 0; bit >>= 1) {
            part += __shfl_xor_sync(TARNK_WARP_ALL, part, bit);
            n += __shfl_xor_sync(TARNK_WARP_ALL, n, bit);
        }
        if (threadIdx.x == 0) {
            w->total = part;
            w->count = n;
        }
    }
    __syncthreads();
}

/* How many logits have at least this key, and the sum of their weights if asked. */
TARNK_DEVICE void count_from(sample_work *w, const sample_row &r, uint32_t key, bool weigh)
{
    double sum = 0;
    uint32_t count = 0;
    for (uint32_t i = r.begin; i < r.end; i++)
        if (key_of(r.logits[i]) >= key) {
            count++;
            if (weigh)
                sum += weight_of(r, r.logits[i]);
        }
    total_of(w, sum, count);
}

/* What is kept: all above `key`, and the first n_equal of those that equal it. */
struct sample_edge {
    uint32_t key;
    uint32_t n_equal;
};

/* The k largest. */
TARNK_DEVICE sample_edge edge_of_count(sample_work *w, const sample_row &r, uint32_t k)
{
    uint32_t low = 0, high = key_of(r.top); /* count_from(low) >= k > count_from(high + 1) */
    while (low < high) {
        const uint32_t middle = low + (high - low + 1) / 2;
        count_from(w, r, middle, false);
        const bool enough = w->count >= k;
        __syncthreads();
        if (enough)
            low = middle;
        else
            high = middle - 1;
    }
    count_from(w, r, low + 1, false);
    const uint32_t above = low == 0xffffffffu ? 0 : w->count;
    __syncthreads();
    return {low, k - above};
}

/* Of what `within` keeps, the largest whose weights reach `goal`. */
TARNK_DEVICE sample_edge edge_of_sum(sample_work *w, const sample_row &r, sample_edge within,
                                     double goal)
{
    uint32_t low = within.key, high = key_of(r.top);
    while (low < high) {
        const uint32_t middle = low + (high - low + 1) / 2; /* above within.key: all are kept */
        count_from(w, r, middle, true);
        const bool enough = w->total >= goal;
        __syncthreads();
        if (enough)
            low = middle;
        else
            high = middle - 1;
    }
    count_from(w, r, low + 1, true);
    const double above = w->total, one = weight_of(r, of_key(low));
    __syncthreads();
    double n = one > 0 ? ceil((goal - above) / one) : 1;
    count_from(w, r, low, false);
    uint32_t equal = w->count;
    __syncthreads();
    count_from(w, r, low + 1, false);
    equal -= w->count;
    __syncthreads();
    if (low == within.key && within.n_equal < equal)
        equal = within.n_equal;
    n = n < 1 ? 1 : n;
    return {low, n < equal ? static_cast<uint32_t>(n) : equal};
}

/* Where the running sum of kept weights passes u times their total. */
TARNK_DEVICE uint32_t draw_from(sample_work *w, const sample_row &r, sample_edge edge, double u,
                                uint32_t best)
{
    uint32_t equal = 0, before = 0;
    for (uint32_t i = r.begin; i < r.end; i++)
        equal += key_of(r.logits[i]) == edge.key;
    total_of(w, 0, equal);
    for (uint32_t t = 0; t < threadIdx.x; t++)
        before += w->counts[t];
    __syncthreads();
    double sum = 0;
    uint32_t seen = before;
    for (uint32_t i = r.begin; i < r.end; i++) {
        const uint32_t key = key_of(r.logits[i]);
        if (key > edge.key || (key == edge.key && seen++ < edge.n_equal))
            sum += weight_of(r, r.logits[i]);
    }
    total_of(w, sum, 0);
    const double goal = u * w->total;
    double running = 0;
    for (uint32_t t = 0; t < threadIdx.x; t++)
        running += w->sums[t];
    seen = before;
    uint32_t found = TARNK_ID_NONE;
    for (uint32_t i = r.begin; i < r.end && found == TARNK_ID_NONE; i++) {
        const uint32_t key = key_of(r.logits[i]);
        if (key > edge.key || (key == edge.key && seen++ < edge.n_equal)) {
            running += weight_of(r, r.logits[i]);
            if (running > goal)
                found = i;
        }
    }
    __syncthreads();
    w->counts[threadIdx.x] = found;
    __syncthreads();
    for (uint32_t t = 0; t < THREADS; t++)
        if (w->counts[t] != TARNK_ID_NONE)
            return w->counts[t];
    return best; /* u so near to 1 that rounding took the last one */
}

/* The largest logit's lowest index in every thread; TARNK_ID_NONE if one is NaN or +inf. */
TARNK_DEVICE uint32_t best_of(sample_work *w, const float *logits, uint32_t vocab, uint32_t begin,
                              uint32_t end)
{
    uint32_t best = begin < end ? begin : vocab - 1;
    bool bad = false;
    for (uint32_t i = begin; i < end; i++) {
        bad = bad || logits[i] != logits[i] || logits[i] == INFINITY;
        best = logits[i] > logits[best] ? i : best;
    }
    w->counts[threadIdx.x] = bad ? TARNK_ID_NONE : best;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (uint32_t t = 0; t < THREADS && best != TARNK_ID_NONE; t++) {
            const uint32_t other = w->counts[t];
            best = other == TARNK_ID_NONE ? other : logits[other] > logits[best] ? other : best;
        }
        w->count = best;
    }
    __syncthreads();
    best = w->count;
    __syncthreads();
    return best;
}

/* What tarnk_stop_of says; in thread 0. */
TARNK_DEVICE uint32_t stop_of(sample_work *w, const tarnk_sample_args &a, uint32_t row, uint32_t id)
{
    static_assert(TARNK_STOPS_MAX <= THREADS, "a thread compares one of them");
    const tarnk_stop_range stops = a.stops[row];
    __syncthreads(); /* the counts may still be read */
    if (threadIdx.x < stops.n)
        w->counts[threadIdx.x] = a.stop_ids[stops.begin + threadIdx.x] == id;
    __syncthreads();
    for (uint32_t i = 0; threadIdx.x == 0 && i < stops.n; i++)
        if (w->counts[i])
            return i < stops.n_turn_ends ? TARNK_STOP_TURN : TARNK_STOP_ID;
    return TARNK_STOP_NONE;
}

static __global__ void __launch_bounds__(THREADS) sample_kernel(tarnk_sample_args a)
{
    auto *w = reinterpret_cast<sample_work *>(shared_bytes());
    previous_wait();
    next_start();
    const uint32_t row = blockIdx.x, each = (a.vocab + THREADS - 1) / THREADS;
    sample_row r;
    r.logits = a.rows ? a.rows[row] : a.logits + row * a.stride;
    if (!r.logits) /* padding */
        return;
    r.begin = min_u32(threadIdx.x * each, a.vocab);
    r.end = min_u32(r.begin + each, a.vocab);
    const tarnk_sample_params p = a.params[row];
    const uint32_t best = best_of(w, r.logits, a.vocab, r.begin, r.end);
    uint32_t id = best;
    if (best != TARNK_ID_NONE && p.temperature > 0) {
        r.top = r.logits[best];
        r.temperature = p.temperature;
        sample_edge edge = {0, a.vocab};
        if (p.top_k > 0 && p.top_k < a.vocab)
            edge = edge_of_count(w, r, p.top_k);
        if (p.top_p < 1) {
            double sum = 0, one = weight_of(r, of_key(edge.key));
            count_from(w, r, edge.key == 0 ? 0 : edge.key + 1, true);
            sum = w->total + (edge.key == 0 ? 0 : edge.n_equal * one);
            __syncthreads();
            edge = edge_of_sum(w, r, edge, static_cast<double>(p.top_p) * sum);
        }
        if (p.min_p > 0) {
            /* Weights fall with logits: the least logit that is kept, from above. */
            uint32_t low = edge.key, high = key_of(r.top);
            while (low < high) {
                const uint32_t middle = low + (high - low) / 2;
                if (weight_of(r, of_key(middle)) >= static_cast<double>(p.min_p))
                    high = middle;
                else
                    low = middle + 1;
            }
            if (low > edge.key)
                edge = {low, a.vocab};
        }
        id = draw_from(w, r, edge, a.u[row], best);
    }
    const uint32_t place = a.places ? a.places[row] : row;
    uint32_t stop = TARNK_STOP_NONE;
    if (a.results)
        stop = stop_of(w, a, row, id);
    if (threadIdx.x > 0)
        return;
    a.ids[place] = id;
    if (a.results) {
        a.results[place].id = id;
        a.results[place].stop = stop;
    }
}

extern "C" int tarnk_cuda_sample(const tarnk_sample_args *a, const tarnk_context *context)
{
    return LAUNCH(sample_kernel, a->n_rows, THREADS, sizeof(sample_work), context, *a);
}

#define PUT_THREADS 1024u

/* A block is a row: the flag has one writer. */
static __global__ void __launch_bounds__(PUT_THREADS) put_rows_kernel(tarnk_put_rows_args a)
{
    auto *bad = reinterpret_cast<uint32_t *>(shared_bytes());
    previous_wait();
    next_start();
    float *to = a.to[blockIdx.x];
    if (!to)
        return;
    const float *from = a.from + static_cast<size_t>(blockIdx.x) * a.n;
    bool wrong = false;
    for (uint32_t i = threadIdx.x; i < a.n; i += PUT_THREADS) {
        const float x = from[i];
        wrong = wrong || !(fabsf(x) < INFINITY);
        to[i] = x;
    }
    bad[threadIdx.x] = wrong;
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t n = 0;
        for (uint32_t t = 0; t < PUT_THREADS; t++)
            n += bad[t];
        a.results[blockIdx.x].finite = n == 0;
    }
}

extern "C" int tarnk_cuda_put_rows(const tarnk_put_rows_args *a, const tarnk_context *context)
{
    return LAUNCH(put_rows_kernel, a->n_rows, PUT_THREADS, PUT_THREADS * sizeof(uint32_t), context,
                  *a);
}
