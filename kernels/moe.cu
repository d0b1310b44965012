/* moe.cu - the experts; see tarnk_moe_args in moe.h; how sums are made is in product.cuh.
 *
 * Four kernels. plan: one block sorts the (row, slot) pairs by expert; `place` of a pair is where
 * it stands then. Two rows of one expert may stand in either order: no sum crosses rows, so it does
 * not show. One row needs no plan: its pairs stand in the order of their slots. gate_up: the rows i
 * of w1 and of w3 in one block, so that SiLU finds both sums; down; combine: a row's results in the
 * order of its slots, which ascend by expert. No float atomics. The grid has room for as many
 * experts as the step could choose; blocks beyond the chosen leave, so a graph serves any routing.
 * From 24 rows an expert on gate_up and down are those of wide.cuh: the plan then cuts an expert's
 * places into tiles of 128, and x is turned to bf16 once.
 *
 * Bytes: the weights of each chosen expert once for each NT x 8 of its rows (wide: 128); FLOPs: 6
 * n_rows top_k n width. Shared: 5 KB at most, wide 96 KB, plan 16 bytes an expert. Registers: at
 * most 88 for few rows (two blocks a multiprocessor, 64 KB of weights under way), 168 for more.
 *
 * What it can reach on an H200, one row, 8 experts of 1024 x 2304: gate_up reads 75.5 MB in 512
 * blocks, 1.94 rounds of two a multiprocessor; 17.6 us at 4.3 TB/s, before it three reads that wait
 * for each other (2 us, from the second-level cache), after it the last blocks (1 us): 21 of 24 us.
 * down reads 37.7 MB in 576 blocks, 8.8 us; it asks for its first weights before gate_up has ended,
 * which it may because what chose the experts ended before gate_up passed its wait: 11 of 13 us. At
 * 64 rows an expert wide reaches half of its 350 TFLOP/s, as half of each tile is empty.
 *
 * Workspace: hidden (bf16 or fp32), result, x as bf16, place_of, row_at, active, n_active. */
#include "wide.cuh"

#define PLAN_THREADS 1024u
#define PLAIN_WARPS  8u
#define PLAIN_ROWS   4

#define WIDE_FROM 24 /* rows an expert, on average */
#define NO_TILES  0xffffffffu

struct moe_expert {
    uint32_t expert, begin, end; /* places; of a tile where experts are cut into such */
};

struct moe_work {
    void *hidden;  /* [n_pairs][width] */
    float *result; /* [n_pairs][n] */
    uint16_t *x;   /* [n_rows][n], for wide alone */
    uint32_t *place_of;
    uint32_t *row_at;
    moe_expert *active;
    uint32_t *n_active;
};

static __global__ void __launch_bounds__(PLAN_THREADS)
    moe_plan_kernel(tarnk_moe_args a, moe_work w, uint32_t tile)
{
    auto *count = reinterpret_cast<uint32_t *>(shared_bytes()); /* then where the next one goes */
    const uint32_t n_pairs = a.n_rows * a.top_k;
    previous_wait();
    next_start();
    for (uint32_t e = threadIdx.x; e < a.n_experts; e += PLAN_THREADS)
        count[e] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n_pairs; i += PLAN_THREADS)
        atomicAdd(&count[a.experts[i]], 1u);
    __syncthreads();
    if (threadIdx.x < 32) { /* a warp turns counts to begins, 32 experts at a time */
        const uint32_t lane = threadIdx.x;
        uint32_t begin = 0, n_active = 0;
        for (uint32_t base = 0; base < a.n_experts; base += 32) {
            const uint32_t e = base + lane, n = e < a.n_experts ? count[e] : 0;
            uint32_t upto = n;
#pragma unroll
            for (uint32_t by = 1; by < 32; by *= 2) {
                uint32_t other = __shfl_up_sync(TARNK_WARP_ALL, upto, by);
                upto += lane >= by ? other : 0;
            }
            const uint32_t at = begin + upto - n, n_tiles = n / tile + (n % tile > 0 ? 1 : 0);
            uint32_t tiles_upto = n_tiles;
#pragma unroll
            for (uint32_t by = 1; by < 32; by *= 2) {
                uint32_t other = __shfl_up_sync(TARNK_WARP_ALL, tiles_upto, by);
                tiles_upto += lane >= by ? other : 0;
            }
            for (uint32_t i = 0; i < n_tiles; i++) {
                moe_expert *to = w.active + n_active + tiles_upto - n_tiles + i;
                to->expert = e;
                to->begin = at + i * tile;
                to->end = at + (n - i * tile < tile ? n : (i + 1) * tile);
            }
            if (e < a.n_experts)
                count[e] = at;
            begin += __shfl_sync(TARNK_WARP_ALL, upto, 31);
            n_active += __shfl_sync(TARNK_WARP_ALL, tiles_upto, 31);
        }
        if (lane == 0)
            *w.n_active = n_active;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n_pairs; i += PLAN_THREADS) {
        uint32_t place = atomicAdd(&count[a.experts[i]], 1u);
        w.place_of[i] = place;
        w.row_at[place] = i / a.top_k;
    }
}

/* The i-th expert of the step; begin == end if there are not so many. A block's first reads: those
 * of one row take one less. */
TARNK_DEVICE moe_expert expert_at(const tarnk_moe_args &a, const moe_work &w, uint32_t i)
{
    if (a.n_rows == 1)
        return {a.experts[i], i, i + 1};
    return i < *w.n_active ? w.active[i] : moe_expert{0, 0, 0};
}

TARNK_DEVICE const uint16_t *bf16_data(const tarnk_matrix &m)
{
    return static_cast<const uint16_t *>(m.data);
}

TARNK_DEVICE const float *row_at(const tarnk_moe_args &a, const moe_work &w, uint32_t place)
{
    return a.x + (a.n_rows == 1 ? 0 : static_cast<size_t>(w.row_at[place]) * a.n);
}

/* MT tiles: the first half rows of w1, the second half the same rows of w3. */
template <int MT, int NT, int AHEAD>
static __global__ void __launch_bounds__(PRODUCT_THREADS)
    moe_gate_up_kernel(tarnk_moe_args a, moe_work w)
{
    auto *sums = reinterpret_cast<float *>(shared_bytes());
    constexpr uint32_t OUTS = MT * 8, STRIDE = NT * 8 + 1;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    const uint32_t first = blockIdx.x * OUTS;
    previous_wait();
    next_start();
    const moe_expert e = expert_at(a, w, blockIdx.y);
    if (e.begin == e.end)
        return;
    const uint16_t *rows[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t row = first + m % (MT / 2) * 16 + h * 8 + g;
            const uint16_t *data = bf16_data((m < MT / 2 ? a.w1 : a.w3)[e.expert]);
            rows[m][h] = row < a.width ? data + static_cast<size_t>(row) * a.n : nullptr;
        }
    for (uint32_t place = e.begin; place < e.end; place += NT * 8) {
        const float *tokens[NT];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint32_t at = place + n * 8 + g;
            tokens[n] = at < e.end ? row_at(a, w, at) : nullptr;
        }
        float acc[MT][NT][4] = {};
        product_slice<MT, NT, AHEAD, float>(acc, rows, tokens, a.n, warp, lane);
        product_gather<MT, NT>(sums, acc, warp, lane);
        for (uint32_t i = threadIdx.x; i < OUTS * NT * 8; i += PRODUCT_THREADS) {
            const uint32_t o = i % OUTS, at = i / OUTS;
            const float gate = sums[o * STRIDE + at], up = sums[(o + OUTS) * STRIDE + at];
            if (first + o < a.width && place + at < e.end)
                static_cast<uint16_t *>(
                    w.hidden)[static_cast<size_t>(place + at) * a.width + first + o] =
                    static_cast<uint16_t>(bf16_bits(silu(gate) * up));
        }
        __syncthreads();
    }
}

template <int MT, int NT, int AHEAD>
static __global__ void __launch_bounds__(PRODUCT_THREADS)
    moe_down_kernel(tarnk_moe_args a, moe_work w)
{
    auto *sums = reinterpret_cast<float *>(shared_bytes());
    constexpr uint32_t OUTS = MT * 16, STRIDE = NT * 8 + 1;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    const uint32_t first = blockIdx.x * OUTS;
    /* Before the wait: what wrote these had ended when the kernel before this one began. */
    const moe_expert e = expert_at(a, w, blockIdx.y);
    if (e.begin == e.end) {
        previous_wait();
        return;
    }
    const uint16_t *data = bf16_data(a.w2[e.expert]);
    const uint16_t *rows[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t row = first + m * 16 + h * 8 + g;
            rows[m][h] = row < a.n ? data + static_cast<size_t>(row) * a.width : nullptr;
        }
    for (uint32_t place = e.begin; place < e.end; place += NT * 8) {
        const uint16_t *tokens[NT];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint32_t at = place + n * 8 + g;
            tokens[n] = at < e.end ? static_cast<const uint16_t *>(w.hidden) +
                                         static_cast<size_t>(at) * a.width
                                   : nullptr;
        }
        float acc[MT][NT][4] = {};
        product_slice<MT, NT, AHEAD, uint16_t>(acc, rows, tokens, a.width, warp, lane);
        next_start();
        product_gather<MT, NT>(sums, acc, warp, lane);
        for (uint32_t i = threadIdx.x; i < OUTS * NT * 8; i += PRODUCT_THREADS) {
            const uint32_t o = i % OUTS, at = i / OUTS;
            if (first + o < a.n && place + at < e.end)
                w.result[static_cast<size_t>(place + at) * a.n + first + o] = sums[o * STRIDE + at];
        }
        __syncthreads();
    }
}

/* A tile of an expert's places; of 128 rows the first 32 of each half are of w1, the next of w3, so
 * that a lane has both sums. */
static __global__ void __launch_bounds__(WIDE_THREADS, 1)
    moe_wide_gate_up_kernel(tarnk_moe_args a, moe_work w)
{
    auto *stages = reinterpret_cast<wide_stage *>(shared_bytes());
    const uint32_t first = blockIdx.x * (WIDE_SIDE / 2);
    previous_wait();
    next_start();
    const moe_expert e = expert_at(a, w, blockIdx.y);
    if (e.begin == e.end)
        return;
    const uint16_t *w1 = bf16_data(a.w1[e.expert]), *w3 = bf16_data(a.w3[e.expert]);
    wide_rows from = {{}, {}, w1};
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t r = wide_row(i), row = first + r / 64 * 32 + r % 32, at = e.begin + r;
        from.row[i] =
            row < a.width ? (r % 64 < 32 ? w1 : w3) + static_cast<size_t>(row) * a.n : nullptr;
        from.token[i] = at < e.end ? w.x + static_cast<size_t>(w.row_at[at]) * a.n : nullptr;
    }
    float total[4][4][4] = {};
    wide_product(total, stages, from, a.n);
#pragma unroll
    for (uint32_t m = 0; m < 2; m++)
#pragma unroll
        for (uint32_t n = 0; n < 4; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t r = wide_out(m, i), o = first + r / 64 * 32 + r % 32;
                const uint32_t at = e.begin + wide_token(n, i);
                if (o < a.width && at < e.end)
                    static_cast<uint16_t *>(w.hidden)[static_cast<size_t>(at) * a.width + o] =
                        static_cast<uint16_t>(bf16_bits(silu(total[m][n][i]) * total[m + 2][n][i]));
            }
}

static __global__ void __launch_bounds__(WIDE_THREADS, 1)
    moe_wide_down_kernel(tarnk_moe_args a, moe_work w)
{
    auto *stages = reinterpret_cast<wide_stage *>(shared_bytes());
    const uint32_t first = blockIdx.x * WIDE_SIDE;
    previous_wait();
    next_start();
    const moe_expert e = expert_at(a, w, blockIdx.y);
    if (e.begin == e.end)
        return;
    const uint16_t *w2 = bf16_data(a.w2[e.expert]);
    const auto *hidden = static_cast<const uint16_t *>(w.hidden);
    wide_rows from = {{}, {}, w2};
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t row = first + wide_row(i), at = e.begin + wide_row(i);
        from.row[i] = row < a.n ? w2 + static_cast<size_t>(row) * a.width : nullptr;
        from.token[i] = at < e.end ? hidden + static_cast<size_t>(at) * a.width : nullptr;
    }
    float total[4][4][4] = {};
    wide_product(total, stages, from, a.width);
#pragma unroll
    for (uint32_t m = 0; m < 4; m++)
#pragma unroll
        for (uint32_t n = 0; n < 4; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t o = first + wide_out(m, i), at = e.begin + wide_token(n, i);
                if (o < a.n && at < e.end)
                    w.result[static_cast<size_t>(at) * a.n + o] = total[m][n][i];
            }
}

/* fp32, any shape: a warp is one output of an expert, PLAIN_ROWS of its places at a time. */
template <bool DOWN>
static __global__ void __launch_bounds__(PLAIN_WARPS * 32)
    moe_plain_kernel(tarnk_moe_args a, moe_work w)
{
    const uint32_t lane = threadIdx.x % 32, o = blockIdx.x * PLAIN_WARPS + threadIdx.x / 32;
    const uint32_t n_out = DOWN ? a.n : a.width, n_in = DOWN ? a.width : a.n;
    auto *hidden = static_cast<float *>(w.hidden);
    previous_wait();
    next_start();
    const moe_expert e = expert_at(a, w, blockIdx.y);
    if (e.begin == e.end || o >= n_out)
        return;
    const tarnk_matrix first = DOWN ? a.w2[e.expert] : a.w1[e.expert], up = a.w3[e.expert];
    const size_t row = static_cast<size_t>(o) * n_in;
    for (uint32_t place = e.begin; place < e.end; place += PLAIN_ROWS) {
        const float *tokens[PLAIN_ROWS];
        float sums[PLAIN_ROWS], ups[PLAIN_ROWS];
#pragma unroll
        for (int n = 0; n < PLAIN_ROWS; n++) {
            tokens[n] = nullptr;
            if (place + n < e.end)
                tokens[n] =
                    DOWN ? hidden + static_cast<size_t>(place + n) * n_in : row_at(a, w, place + n);
        }
        product_plain<PLAIN_ROWS>(sums, first.data, first.dtype, row, tokens, n_in, lane);
        if (!DOWN)
            product_plain<PLAIN_ROWS>(ups, up.data, up.dtype, row, tokens, n_in, lane);
#pragma unroll
        for (uint32_t n = 0; n < PLAIN_ROWS; n++) {
            if (lane != n || place + n >= e.end)
                continue;
            const size_t to = static_cast<size_t>(place + n) * n_out + o;
            if (DOWN) {
                w.result[to] = sums[n];
            } else {
                const float h = silu(sums[n]) * ups[n];
                hidden[to] = a.round ? bf16_round(h) : h;
            }
        }
    }
}

static __global__ void __launch_bounds__(256) moe_combine_kernel(tarnk_moe_args a, moe_work w)
{
    const uint32_t i = blockIdx.x * 256 + threadIdx.x, row = blockIdx.y;
    previous_wait();
    next_start();
    if (i >= a.n)
        return;
    for (uint32_t r = row; r < a.n_rows; r += gridDim.y) {
        float sum = 0;
        for (uint32_t s = 0; s < a.top_k; s++) {
            const size_t pair = static_cast<size_t>(r) * a.top_k + s;
            const size_t place = a.n_rows == 1 ? s : w.place_of[pair];
            sum = fmaf(a.weights[pair], w.result[place * a.n + i], sum);
        }
        a.out[static_cast<size_t>(r) * a.n + i] += sum;
    }
}

/* ---- the host's part ------------------------------------------------------------------------- */

/* The next n_bytes of `base`, which is NULL where only sizes are wanted. */
static void *take(uint8_t *base, size_t *at, size_t n_bytes)
{
    void *part = base ? base + *at : nullptr;
    *at += (n_bytes + 255) / 256 * 256;
    return part;
}

static size_t carve(moe_work *w, uint8_t *base, uint32_t n_rows, uint32_t n, uint32_t width,
                    uint32_t n_experts, uint32_t top_k)
{
    const size_t n_pairs = static_cast<size_t>(n_rows) * top_k, n_tiles = n_pairs / WIDE_SIDE;
    const bool wide = n_pairs >= static_cast<size_t>(WIDE_FROM) * n_experts;
    size_t at = 0;
    w->hidden = take(base, &at, n_pairs * width * sizeof(float));
    w->result = static_cast<float *>(take(base, &at, n_pairs * n * sizeof(float)));
    w->x = static_cast<uint16_t *>(
        take(base, &at, wide ? static_cast<size_t>(n_rows) * n * sizeof(uint16_t) : 0));
    w->place_of = static_cast<uint32_t *>(take(base, &at, n_pairs * sizeof(uint32_t)));
    w->row_at = static_cast<uint32_t *>(take(base, &at, n_pairs * sizeof(uint32_t)));
    w->active =
        static_cast<moe_expert *>(take(base, &at, (n_tiles + n_experts) * sizeof(moe_expert)));
    w->n_active = static_cast<uint32_t *>(take(base, &at, sizeof(uint32_t)));
    return at;
}

extern "C" size_t tarnk_cuda_moe_workspace(uint32_t n_rows, uint32_t n, uint32_t width,
                                           uint32_t n_experts, uint32_t top_k)
{
    moe_work w;
    return carve(&w, nullptr, n_rows, n, width, n_experts, top_k);
}

template <int NT>
static int run_stream(const tarnk_moe_args *a, const moe_work *w, uint32_t n_experts,
                      tarnk_moe_part part, const tarnk_context *context)
{
    constexpr int MT = 2, AHEAD = 2;
    if (part == TARNK_MOE_GATE_UP)
        return LAUNCH((moe_gate_up_kernel<MT, NT, AHEAD>),
                      dim3(div_up(a->width, MT * 8), n_experts), PRODUCT_THREADS,
                      (product_shared<MT, NT>()), context, *a, *w);
    return LAUNCH((moe_down_kernel<MT, NT, AHEAD>), dim3(div_up(a->n, MT * 16), n_experts),
                  PRODUCT_THREADS, (product_shared<MT, NT>()), context, *a, *w);
}

static int run_wide(const tarnk_moe_args *a, const moe_work *w, uint32_t n_tiles,
                    tarnk_moe_part part, const tarnk_context *context)
{
    if (part == TARNK_MOE_DOWN)
        return LAUNCH(moe_wide_down_kernel, dim3(div_up(a->n, WIDE_SIDE), n_tiles), WIDE_THREADS,
                      WIDE_SHARED, context, *a, *w);
    TRY_LAUNCH(launch_narrow(a->x, a->n, w->x, a->n, a->n_rows, context));
    return LAUNCH(moe_wide_gate_up_kernel, dim3(div_up(a->width, WIDE_SIDE / 2), n_tiles),
                  WIDE_THREADS, WIDE_SHARED, context, *a, *w);
}

static int run_plain(const tarnk_moe_args *a, const moe_work *w, uint32_t n_experts,
                     tarnk_moe_part part, const tarnk_context *context)
{
    if (part == TARNK_MOE_GATE_UP)
        return LAUNCH(moe_plain_kernel<false>, dim3(div_up(a->width, PLAIN_WARPS), n_experts),
                      PLAIN_WARPS * 32, 0, context, *a, *w);
    return LAUNCH(moe_plain_kernel<true>, dim3(div_up(a->n, PLAIN_WARPS), n_experts),
                  PLAIN_WARPS * 32, 0, context, *a, *w);
}

/* Expert matrices cannot be looked at from here: where the device is native and their dtype bf16,
 * they begin at multiples of 16 bytes. */
static bool can_stream(const tarnk_moe_args *a, const tarnk_cuda *cuda)
{
    return cuda->native && cuda->expert_dtype == TARNK_BF16 && a->n % 8 == 0 && a->width % 8 == 0 &&
           aligned16(a->x);
}

extern "C" int tarnk_cuda_moe_part(const tarnk_moe_args *a, tarnk_moe_part part,
                                   const tarnk_context *context)
{
    const size_t n_pairs = static_cast<size_t>(a->n_rows) * a->top_k;
    const auto n_experts = static_cast<uint32_t>(n_pairs < a->n_experts ? n_pairs : a->n_experts);
    const double each = static_cast<double>(n_pairs) / a->n_experts;
    const bool stream = can_stream(a, cuda_of(context)), wide = stream && each >= WIDE_FROM;
    moe_work w;
    carve(&w, static_cast<uint8_t *>(a->workspace), a->n_rows, a->n, a->width, a->n_experts,
          a->top_k);
    if (part == TARNK_MOE_PLAN)
        return a->n_rows == 1
                   ? 0
                   : LAUNCH(moe_plan_kernel, 1, PLAN_THREADS, a->n_experts * sizeof(uint32_t),
                            context, *a, w, wide ? WIDE_SIDE : NO_TILES);
    if (part == TARNK_MOE_COMBINE)
        return LAUNCH(moe_combine_kernel, dim3(div_up(a->n, 256), min_u32(a->n_rows, 65535)), 256,
                      0, context, *a, w);
    if (!stream)
        return run_plain(a, &w, n_experts, part, context);
    if (wide)
        return run_wide(a, &w, static_cast<uint32_t>(n_pairs / WIDE_SIDE) + n_experts, part,
                        context);
    return each <= 4    ? run_stream<1>(a, &w, n_experts, part, context)
           : each <= 12 ? run_stream<2>(a, &w, n_experts, part, context)
                        : run_stream<4>(a, &w, n_experts, part, context);
}

extern "C" int tarnk_moe_cuda(const tarnk_moe_args *a, const tarnk_context *context)
{
    for (int part = TARNK_MOE_PLAN; part <= TARNK_MOE_COMBINE; part++)
        TRY_LAUNCH(tarnk_cuda_moe_part(a, static_cast<tarnk_moe_part>(part), context));
    return 0;
}
