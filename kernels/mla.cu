/* mla.cu - attention over the latents; see tarnk_mla_args in mla.h.
 *
 * Appends of TARNK_MLA_APPEND_MIN rows go to mla_append.cu where it can; what follows is for all
 * other rows. They are taken 64 at a time, which bounds the workspace. Four kernels a block of
 * rows, fp32 but for attend.
 * - query: qa_h = Wk_h^T q_h with q_h's shared part behind it (mla_absorb.cu).
 * - attend: below.
 * - combine: the partial results of a row's splits, in the order of the splits.
 * - value: Wv_h o_h (mla_absorb.cu).
 *
 * attend, fast (native, bf16 latents, rank 512, rope 64, room for it in shared memory): keys are
 * the 16 rows of an mma and heads its columns, so 32 heads fill it without padding. A row's keys
 * are cut into splits whose length depends on their number alone (split_keys); a block walks one
 * split of one row for 32 heads, a page of 64 keys at a time: S = K Q^T, softmax in base 2, O +=
 * K^T P with O [512][32] in registers over 8 warps. Half pages come by cp.async into a ring, so
 * that three of them are under way while a page is computed. As many blocks as the device has
 * multiprocessors take the (row, head group, split) items in turn; how many there are is worked out
 * by each block from `seqs`, so a graph serves any lengths. Keys behind the row's own are zeros,
 * never read: they may be NaN. Bytes: 1152 a key, split partials 64 KB each, written and read.
 * FLOPs: 2 * 1088 a key and head. Shared: 225 KB with five halves, 152 KB with three. Registers: at
 * most 200. attend, any: a block is one row and head, fp32, keys in order, 64 at a time.
 *
 * What attend can reach on an H200: a page is 74 KB, 2.3 us of a multiprocessor's share of 4.3
 * TB/s. Shared memory gives it up at 128 bytes a clock: scores 2300 clocks, values 770, the copies
 * 580; with the softmax between them about 4300, 2.3 us. So 110 KB, four times what has to be under
 * way, hide the memory, and memory and multiprocessor are done together: 85 % and more of the copy
 * rate, less what the partials cost: 11 % up to 64K keys, 5 % above, less
 * what of them stays in the second-level cache, which lets go of latents first. One session of 32K
 * keys is 64 items for 132 multiprocessors and reaches half of that; from 64K on, and for two
 * sessions and more, all are busy. */
#include "mla_append.cuh"
#include "mla_block.cuh"
#include "product.cuh"

#define RANK         512u
#define ROPE         64u
#define WIDTH        (RANK + ROPE)
#define STRIDE       (WIDTH + 8u) /* of a latent in shared memory: 8 rows meet no bank twice */
#define HEADS        32u
#define KEYS         64u /* of a page */
#define HALF         32u
#define P_STRIDE     (KEYS + 8u)
#define FAST_THREADS 256u
#define ANY_THREADS  128u
#define LOG2_E       1.44269504088896340736f

/* Keys of a split: enough splits to fill a device at one long row, few enough that their partial
 * results stay small beside the latents. */
static inline
#if !defined(TARN_CUDA_EMU)
    __host__ __device__
#endif
        uint32_t
        split_keys(uint32_t n_keys)
{
    return n_keys <= 16384 ? 256 : n_keys <= 65536 ? 512 : n_keys <= 262144 ? 1024 : 2048;
}

/* ---- any shape ------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(ANY_THREADS) mla_any_kernel(tarnk_mla_args a, mla_block b)
{
    auto *scores = reinterpret_cast<float *>(shared_bytes()); /* [KEYS] */
    auto *mixed = scores + KEYS;                              /* [rank] */
    auto *query = mixed + a.rank;                             /* [rank + rope] */
    const uint32_t head = blockIdx.x, row = blockIdx.y, lane = threadIdx.x % 32;
    const uint32_t len = a.rank + a.rope;
    previous_wait();
    next_start();
    const uint32_t step_row = row_of(a, b, row), idx = seq_of_row(a.seqs, a.n_seqs, step_row);
    const size_t at = static_cast<size_t>(row) * a.n_heads + head;
    const tarnk_seq s = a.seqs[idx == a.n_seqs ? 0 : idx];
    const uint32_t n_keys = idx == a.n_seqs ? 0 : s.position + (step_row - s.row_begin) + 1;
    const float scale = LOG2_E / sqrtf(static_cast<float>(a.nope + a.rope));
    float top = -INFINITY, sum = 0;
    for (uint32_t i = threadIdx.x; i < len; i += ANY_THREADS)
        query[i] = b.query[at * len + i];
    for (uint32_t i = threadIdx.x; i < a.rank; i += ANY_THREADS)
        mixed[i] = 0;
    __syncthreads();
    for (uint32_t key = 0; key < n_keys; key += KEYS) {
        const uint8_t *page = s.pages[key / TARNK_PAGE_TOKENS] + a.latent_offset;
        const uint32_t n = min_u32(KEYS, n_keys - key);
        for (uint32_t i = threadIdx.x / 32; i < n; i += ANY_THREADS / 32) {
            float dot = 0;
            for (uint32_t d = lane; d < len; d += 32)
                dot = fmaf(query[d],
                           load_as(page, a.latent_dtype, static_cast<size_t>(i) * len + d), dot);
            dot = warp_sum(dot);
            if (lane == 0)
                scores[i] = dot * scale;
        }
        __syncthreads();
        float new_top = top;
        for (uint32_t i = 0; i < n; i++)
            new_top = fmaxf(new_top, scores[i]);
        const float shrink = exp2f(top - new_top);
        sum *= shrink;
        top = new_top;
        for (uint32_t i = 0; i < n; i++)
            sum += exp2f(scores[i] - top);
        for (uint32_t d = threadIdx.x; d < a.rank; d += ANY_THREADS) {
            float o = mixed[d] * shrink;
            for (uint32_t i = 0; i < n; i++)
                o = fmaf(exp2f(scores[i] - top),
                         load_as(page, a.latent_dtype, static_cast<size_t>(i) * len + d), o);
            mixed[d] = o;
        }
        __syncthreads();
    }
    for (uint32_t d = threadIdx.x; d < a.rank; d += ANY_THREADS)
        b.mixed[at * a.rank + d] = n_keys > 0 ? mixed[d] / sum : 0.0f;
}

/* ---- fast ------------------------------------------------------------------------------------ */

struct fast_work {
    uint16_t query[HEADS * STRIDE];
    uint16_t probs[HEADS * P_STRIDE];
    float tops[4 * HEADS]; /* of 16 keys each */
    float sums[4 * HEADS];
    float top[HEADS];                /* up to this page */
    float shrink[HEADS];             /* what all before is to be multiplied by */
    uint32_t begins[BLOCK_ROWS + 4]; /* of items, by row */
};

/* A ring of half pages. */
template <int HALVES> struct fast_shared {
    uint16_t keys[HALVES][HALF * STRIDE];
    fast_work work;
};
static_assert(sizeof(fast_shared<5>) <= 227 * 1024, "a block of 9.0 has no more");
static_assert(sizeof(fast_shared<3>) <= 163 * 1024, "a block of 8.0 has no more");

/* The softmax so far of head `lane`, kept by warp 0. */
struct fast_sum {
    float top, sum;
};

struct fast_item {
    uint32_t row, group, split, n_splits;
    uint32_t key, key_end;
    const tarnk_seq *seq;
};

TARNK_DEVICE uint32_t keys_of_row(const tarnk_mla_args &a, uint32_t row)
{
    const uint32_t idx = seq_of_row(a.seqs, a.n_seqs, row);
    return idx == a.n_seqs ? 0 : a.seqs[idx].position + (row - a.seqs[idx].row_begin) + 1;
}

/* begins[r]: (split) items of the rows before r. */
TARNK_DEVICE void count_items(const tarnk_mla_args &a, const mla_block &b, uint32_t *begins)
{
    if (threadIdx.x < b.n_rows) {
        const uint32_t n = keys_of_row(a, row_of(a, b, threadIdx.x));
        begins[threadIdx.x + 1] = n == 0 ? 0 : (n - 1) / split_keys(n) + 1;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        begins[0] = 0;
        for (uint32_t r = 0; r < b.n_rows; r++)
            begins[r + 1] += begins[r];
    }
    __syncthreads();
}

TARNK_DEVICE fast_item item_at(const tarnk_mla_args &a, const mla_block &b, const uint32_t *begins,
                               uint32_t i, uint32_t n_groups)
{
    fast_item item;
    const uint32_t place = i / n_groups;
    uint32_t low = 0, high = b.n_rows - 1;
    while (low < high) {
        const uint32_t middle = (low + high + 1) / 2;
        if (begins[middle] <= place)
            low = middle;
        else
            high = middle - 1;
    }
    item.row = low;
    item.group = i % n_groups;
    item.split = place - begins[low];
    item.n_splits = begins[low + 1] - begins[low];
    const uint32_t row = row_of(a, b, low);
    item.seq = &a.seqs[seq_of_row(a.seqs, a.n_seqs, row)];
    const uint32_t n = item.seq->position + (row - item.seq->row_begin) + 1;
    item.key = item.split * split_keys(n);
    item.key_end = min_u32(item.key + split_keys(n), n);
    return item;
}

/* Starts the copy of half a page, from `key` on; keys from key_end on become zeros, unless the page
 * has none at all. */
TARNK_DEVICE void fetch_half(const tarnk_mla_args &a, const fast_item &item, uint32_t key,
                             uint16_t *to)
{
    constexpr uint32_t EIGHTS = WIDTH / 8;
    if (key - key % KEYS < item.key_end) {
        const uint8_t *page = item.seq->pages[key / TARNK_PAGE_TOKENS] + a.latent_offset;
        const uint32_t n = item.key_end > key ? item.key_end - key : 0;
        const uint64_t once = policy_once(); /* the partial results stay in the cache instead */
        for (uint32_t i = threadIdx.x; i < HALF * EIGHTS; i += FAST_THREADS) {
            const uint32_t row = i / EIGHTS, at = i % EIGHTS;
            copy_async16(to + row * STRIDE + at * 8,
                         page + ((key % KEYS + row) * WIDTH + at * 8) * 2, row < n, once);
        }
    }
    copy_commit();
}

TARNK_DEVICE void fetch_query(const tarnk_mla_args &a, const mla_block &b, const fast_item &item,
                              uint16_t *to)
{
    constexpr uint32_t EIGHTS = WIDTH / 8;
    for (uint32_t i = threadIdx.x; i < HEADS * EIGHTS; i += FAST_THREADS) {
        const uint32_t h = i / EIGHTS, at = i % EIGHTS * 8, head = item.group * HEADS + h;
        uint4 q = make_uint4(0, 0, 0, 0);
        if (head < a.n_heads)
            q = load_eight(b.query + (static_cast<size_t>(item.row) * a.n_heads + head) * WIDTH +
                           at);
        *reinterpret_cast<uint4 *>(to + h * STRIDE + at) = q;
    }
}

/* 16 keys times 16 heads of this warp. */
TARNK_DEVICE void page_scores(float score[2][4], const uint16_t *const keys[2],
                              const uint16_t *query, uint32_t warp, uint32_t lane)
{
    const uint16_t *half = warp / 2 % 2 == 0 ? keys[0] : keys[1];
    const uint16_t *key = half + (warp % 2 * 16 + lane % 16) * STRIDE + lane / 16 * 8;
    const uint16_t *q =
        query + (warp / 4 * 16 + lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll 4
    for (uint32_t k = 0; k < WIDTH; k += 16) {
        uint32_t x[4], w[4];
        load_tiles<false>(x, key + k);
        load_tiles<false>(w, q + k);
        mma_bf16(score[0], x, w);
        mma_bf16(score[1], x, w + 2);
    }
}

/* out [64 dims of this warp][32 heads] += keys^T probs. */
TARNK_DEVICE void page_values(float out[4][4][4], const uint16_t *const keys[2],
                              const uint16_t *probs, uint32_t warp, uint32_t lane)
{
#pragma unroll
    for (uint32_t k = 0; k < KEYS; k += 16) {
        uint32_t p[2][4];
#pragma unroll
        for (uint32_t half = 0; half < 2; half++)
            load_tiles<false>(p[half], probs + (half * 16 + lane / 16 * 8 + lane % 8) * P_STRIDE +
                                           k + lane / 8 % 2 * 8);
#pragma unroll
        for (uint32_t m = 0; m < 4; m++) {
            uint32_t v[4];
            load_tiles<true>(v, keys[k / HALF] + (k % HALF + lane / 16 * 8 + lane % 8) * STRIDE +
                                    warp * 64 + m * 16 + lane / 8 % 2 * 8);
#pragma unroll
            for (uint32_t n = 0; n < 4; n++)
                mma_bf16(out[m][n], v, p[n / 2] + n % 2 * 2);
        }
    }
}

/* The two heads of a lane in each of two tiles. */
#define EACH_HEAD(n, c)                                                                            \
    _Pragma("unroll") for (int n = 0; n < 2; n++) _Pragma("unroll") for (int c = 0; c < 2; c++)

/* Scores to probabilities, which page_values reads after a barrier. n_keys: of this page. */
TARNK_DEVICE void page_softmax(float score[2][4], fast_work *work, fast_sum *state, uint32_t n_keys,
                               float scale, uint32_t warp, uint32_t lane)
{
    const uint32_t g = lane / 4, t = lane % 4, keys = warp % 4, first = keys * 16 + g;
    EACH_HEAD(n, c)
    {
        const uint32_t head = warp / 4 * 16 + n * 8 + t * 2 + c;
        score[n][c] = first < n_keys ? score[n][c] * scale : -INFINITY;
        score[n][c + 2] = first + 8 < n_keys ? score[n][c + 2] * scale : -INFINITY;
        float most = fmaxf(score[n][c], score[n][c + 2]);
#pragma unroll
        for (int bit = 4; bit < 32; bit *= 2)
            most = fmaxf(most, __shfl_xor_sync(TARNK_WARP_ALL, most, bit));
        if (g == 0)
            work->tops[keys * HEADS + head] = most;
    }
    __syncthreads();
    if (warp == 0) {
        float top = state->top;
#pragma unroll
        for (int w = 0; w < 4; w++)
            top = fmaxf(top, work->tops[w * HEADS + lane]);
        work->top[lane] = top;
        work->shrink[lane] = exp2_fast(state->top - top);
        state->top = top;
    }
    __syncthreads();
    EACH_HEAD(n, c)
    {
        const uint32_t head = warp / 4 * 16 + n * 8 + t * 2 + c;
        const float low = exp2_fast(score[n][c] - work->top[head]);
        const float high = exp2_fast(score[n][c + 2] - work->top[head]);
        uint16_t *to = work->probs + head * P_STRIDE + first;
        to[0] = static_cast<uint16_t>(bf16_bits(low));
        to[8] = static_cast<uint16_t>(bf16_bits(high));
        float part = low + high;
#pragma unroll
        for (int bit = 4; bit < 32; bit *= 2)
            part += __shfl_xor_sync(TARNK_WARP_ALL, part, bit);
        if (g == 0)
            work->sums[keys * HEADS + head] = part;
    }
    __syncthreads();
    if (warp == 0)
        state->sum = state->sum * work->shrink[lane] +
                     (work->sums[lane] + work->sums[HEADS + lane]) +
                     (work->sums[2 * HEADS + lane] + work->sums[3 * HEADS + lane]);
}

TARNK_DEVICE void shrink_values(float out[4][4][4], const float *shrink, uint32_t t)
{
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const float factor = shrink[n * 8 + t * 2 + c % 2];
#pragma unroll
            for (int m = 0; m < 4; m++)
                out[m][n][c] *= factor;
        }
}

TARNK_DEVICE void put_part(const tarnk_mla_args &a, const mla_block &b, const fast_item &item,
                           const float out[4][4][4], const fast_sum &state, uint32_t warp,
                           uint32_t lane)
{
    const uint32_t g = lane / 4, t = lane % 4, first = item.group * HEADS;
    const size_t part =
        (static_cast<size_t>(item.row) * b.splits_max + item.split) * a.n_heads + first;
    if (warp == 0 && first + lane < a.n_heads) {
        b.limits[(part + lane) * 2] = state.top;
        b.limits[(part + lane) * 2 + 1] = state.sum;
    }
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const uint32_t head = n * 8 + t * 2 + c % 2;
            if (first + head < a.n_heads)
#pragma unroll
                for (int m = 0; m < 4; m++)
                    b.parts[(part + head) * RANK + warp * 64 + m * 16 + g + c / 2 * 8] =
                        out[m][n][c];
        }
}

template <int HALVES>
static __global__ void __launch_bounds__(FAST_THREADS, 1)
    mla_fast_kernel(tarnk_mla_args a, mla_block b)
{
    auto *shared = reinterpret_cast<fast_shared<HALVES> *>(shared_bytes());
    fast_work *work = &shared->work;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t n_groups = (a.n_heads + HEADS - 1) / HEADS;
    const float scale = LOG2_E / sqrtf(static_cast<float>(a.nope + a.rope));
    previous_wait();
    next_start();
    count_items(a, b, work->begins);
    const uint32_t n_items = work->begins[b.n_rows] * n_groups;
    for (uint32_t i = blockIdx.x; i < n_items; i += gridDim.x) {
        const fast_item item = item_at(a, b, work->begins, i, n_groups);
        float out[4][4][4] = {};
        fast_sum state = {-INFINITY, 0};
        for (uint32_t h = 0; h + 2 < HALVES; h++)
            fetch_half(a, item, item.key + h * HALF, shared->keys[h]);
        fetch_query(a, b, item, work->query);
        for (uint32_t key = item.key, half = 0; key < item.key_end; key += KEYS, half += 2) {
            const uint16_t *keys[2] = {shared->keys[half % HALVES],
                                       shared->keys[(half + 1) % HALVES]};
            /* Into the places of the two of the page before. */
            for (uint32_t h = half + HALVES - 2; h < half + HALVES; h++)
                fetch_half(a, item, item.key + h * HALF, shared->keys[h % HALVES]);
            copy_wait<HALVES - 2>();
            __syncthreads();
            float score[2][4] = {};
            page_scores(score, keys, work->query, warp, lane);
            page_softmax(score, work, &state, item.key_end - key, scale, warp, lane);
            shrink_values(out, work->shrink, lane % 4);
            page_values(out, keys, work->probs, warp, lane);
            __syncthreads(); /* the page's place, and all else, is free */
        }
        copy_wait<0>();
        put_part(a, b, item, out, state, warp, lane);
    }
}

static __global__ void __launch_bounds__(128) mla_combine_kernel(tarnk_mla_args a, mla_block b)
{
    const uint32_t head = blockIdx.x, row = blockIdx.y;
    previous_wait();
    next_start();
    const uint32_t n = keys_of_row(a, row_of(a, b, row));
    const uint32_t n_splits = n == 0 ? 0 : (n - 1) / split_keys(n) + 1;
    const size_t first = static_cast<size_t>(row) * b.splits_max * a.n_heads + head;
    float top = -INFINITY, sum = 0, mixed[RANK / 128] = {};
    for (uint32_t s = 0; s < n_splits; s++)
        top = fmaxf(top, b.limits[(first + static_cast<size_t>(s) * a.n_heads) * 2]);
    for (uint32_t s = 0; s < n_splits; s++) {
        const size_t part = first + static_cast<size_t>(s) * a.n_heads;
        const float weight = exp2_fast(b.limits[part * 2] - top);
        sum = fmaf(weight, b.limits[part * 2 + 1], sum);
#pragma unroll
        for (uint32_t i = 0; i < RANK / 128; i++)
            mixed[i] = fmaf(weight, b.parts[part * RANK + i * 128 + threadIdx.x], mixed[i]);
    }
#pragma unroll
    for (uint32_t i = 0; i < RANK / 128; i++)
        b.mixed[(static_cast<size_t>(row) * a.n_heads + head) * RANK + i * 128 + threadIdx.x] =
            n > 0 ? mixed[i] / sum : 0.0f;
}

/* ---- the host's part ------------------------------------------------------------------------- */

static uint32_t splits_bound(uint32_t keys_max)
{
    static const uint32_t edges[] = {16384, 65536, 262144, 0xffffffffu};
    uint32_t most = 1;
    for (uint32_t edge : edges) {
        const uint32_t keys = min_u32(edge, keys_max);
        const uint32_t n = keys == 0 ? 0 : (keys - 1) / split_keys(keys) + 1;
        most = n > most ? n : most;
    }
    return most;
}

/* The next n floats of `base`, which is NULL where only sizes are wanted. */
static float *take(float *base, size_t *at, size_t n)
{
    float *part = base ? base + *at : nullptr;
    *at += (n + 63) / 64 * 64;
    return part;
}

static size_t carve(mla_block *b, float *base, uint32_t n_rows, uint32_t n_heads, uint32_t rank,
                    uint32_t rope, uint32_t keys_max)
{
    const size_t rows = static_cast<size_t>(min_u32(n_rows, BLOCK_ROWS)) * n_heads;
    size_t at = 0;
    b->splits_max = splits_bound(keys_max);
    b->query = take(base, &at, rows * (rank + rope));
    b->mixed = take(base, &at, rows * rank);
    b->limits = take(base, &at, rows * b->splits_max * 2);
    b->parts = take(base, &at, rows * b->splits_max * rank);
    return at;
}

extern "C" size_t tarnk_cuda_mla_workspace(uint32_t n_rows, uint32_t n_heads, uint32_t rank,
                                           uint32_t rope, uint32_t v_dim, uint32_t keys_max)
{
    mla_block b;
    (void)v_dim;
    return carve(&b, nullptr, n_rows, n_heads, rank, rope, keys_max);
}

static int halves_that_fit(const tarnk_mla_args *a, const tarnk_cuda *cuda)
{
    if (!cuda->native || a->latent_dtype != TARNK_BF16 || a->rank != RANK || a->rope != ROPE ||
        a->latent_offset % 16 != 0 || !aligned16(a->workspace))
        return 0;
    return sizeof(fast_shared<5>) <= cuda->shared_bytes_max   ? 5
           : sizeof(fast_shared<3>) <= cuda->shared_bytes_max ? 3
                                                              : 0;
}

extern "C" int tarnk_mla_cuda(const tarnk_mla_args *a, const tarnk_context *context)
{
    const tarnk_cuda *cuda = cuda_of(context);
    const int halves = halves_that_fit(a, cuda);
    mla_block b;
    carve(&b, a->workspace, a->n_rows, a->n_heads, a->rank, a->rope, cuda->step.keys_max);
    b.compact = cuda->step.rows_max >= TARNK_MLA_APPEND_MIN && mla_append_can(a, cuda);
    uint32_t n_rows = a->n_rows;
    if (b.compact) {
        TRY_LAUNCH(mla_append_run(a, context));
        const uint64_t most = static_cast<uint64_t>(a->n_seqs) * (TARNK_MLA_APPEND_MIN - 1);
        n_rows = most < n_rows ? static_cast<uint32_t>(most) : n_rows;
    }
    for (b.row = 0; b.row < n_rows; b.row += BLOCK_ROWS) {
        b.n_rows = min_u32(BLOCK_ROWS, n_rows - b.row);
        TRY_LAUNCH(mla_query(a, &b, context));
        if (halves == 5)
            TRY_LAUNCH(LAUNCH(mla_fast_kernel<5>, cuda->n_sms, FAST_THREADS, sizeof(fast_shared<5>),
                              context, *a, b));
        else if (halves == 3)
            TRY_LAUNCH(LAUNCH(mla_fast_kernel<3>, cuda->n_sms, FAST_THREADS, sizeof(fast_shared<3>),
                              context, *a, b));
        else
            TRY_LAUNCH(LAUNCH(mla_any_kernel, dim3(a->n_heads, b.n_rows), ANY_THREADS,
                              (KEYS + 2 * static_cast<size_t>(a->rank) + a->rope) * sizeof(float),
                              context, *a, b));
        if (halves > 0)
            TRY_LAUNCH(
                LAUNCH(mla_combine_kernel, dim3(a->n_heads, b.n_rows), 128, 0, context, *a, b));
        TRY_LAUNCH(mla_value(a, &b, context));
    }
    return 0;
}
