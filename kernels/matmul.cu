/* matmul.cu - see matmul.h; how sums are made is in product.cuh.
 *
 * stream, up to 64 rows: a block is 8 warps, one slice each, over MT x 16 rows of weights and NT x
 * 8 tokens. Bytes: the weights once, x from the second-level cache once for each MT x 16 outputs; 2
 * n_rows n_out n_in FLOPs. Shared: up to 17 KB. Registers: at most 80 for up to 16 rows, 192 above.
 * wide, more rows: wide.cuh. The weights once, x from the second-level cache once for each 128
 * outputs. Blocks of the same outputs run side by side, so that weights are read once.
 * plain: a warp is one output for 8 tokens, fp32.
 * More than 16 rows are first turned to bf16, once, as each block reads all of them.
 *
 * What stream can reach on an H200: one row of 2304 x 163,840 weights is 755 MB, 176 us at 4.3
 * TB/s. That wants 26 KB under way on each multiprocessor at any time. A block asks for 32 KB ahead
 * and three fit side by side (78 registers), so there are up to 96 KB; a warp spends about 100
 * clocks on the 1 KB of a unit, 24 warps 240 bytes a clock, the memory gives 19. 10,240 blocks are
 * 26 waves: the last one costs 2 %. 75 % of a wide margin is what 200 us asks for.
 *
 * Rejected: cuBLASLt for many rows. Its algorithms change with the number of rows and so do a row's
 * bits; until one is shown, on the device, to give bits that do not, these kernels serve all. */
#include "wide.cuh"

#include <cstring>

#define PARTS_MAX   8u
#define PLAIN_WARPS 8u
#define PLAIN_ROWS  8

struct product_part {
    const void *w;
    const void *x; /* fp32, or bf16 in the workspace */
    float *out;
    size_t x_stride;
    size_t out_stride;
    uint32_t n_out, n_in, n_rows;
    uint32_t first_block; /* of the blocks along the outputs */
    tarnk_dtype dtype;
    uint32_t accumulate, round;
};

struct product_parts {
    product_part part[PARTS_MAX];
    uint32_t n;
};

TARNK_DEVICE uint32_t part_of_block(const product_parts &p, uint32_t block)
{
    uint32_t i = 0;
    while (i + 1 < p.n && block >= p.part[i + 1].first_block)
        i++;
    return i;
}

TARNK_DEVICE void put(const product_part &p, uint32_t row, uint32_t o, float y)
{
    float *to = p.out + row * p.out_stride + o;
    *to = p.accumulate ? *to + y : p.round ? bf16_round(y) : y;
}

template <int MT, int NT, int AHEAD, typename X>
static __global__ void __launch_bounds__(PRODUCT_THREADS)
    matmul_stream_kernel(const __grid_constant__ product_parts parts)
{
    auto *sums = reinterpret_cast<float *>(shared_bytes());
    const product_part &p = parts.part[part_of_block(parts, blockIdx.x)];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    const uint32_t first = (blockIdx.x - p.first_block) * (MT * 16), token = blockIdx.y * (NT * 8);
    if (token >= p.n_rows) {
        previous_wait();
        return;
    }
    const auto *w = static_cast<const uint16_t *>(p.w);
    const uint16_t *rows[MT][2];
    const X *tokens[NT];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t row = first + m * 16 + h * 8 + g;
            rows[m][h] = row < p.n_out ? w + static_cast<size_t>(row) * p.n_in : nullptr;
        }
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const uint32_t row = token + n * 8 + g;
        tokens[n] = row < p.n_rows ? static_cast<const X *>(p.x) + row * p.x_stride : nullptr;
    }
    float acc[MT][NT][4] = {};
    product_slice<MT, NT, AHEAD, X>(acc, rows, tokens, p.n_in, warp, lane);
    next_start();
    product_gather<MT, NT>(sums, acc, warp, lane);
    for (uint32_t i = threadIdx.x; i < MT * 16 * NT * 8; i += PRODUCT_THREADS) {
        const uint32_t o = i % (MT * 16), row = i / (MT * 16);
        if (first + o < p.n_out && token + row < p.n_rows)
            put(p, token + row, first + o, sums[o * (NT * 8 + 1) + row]);
    }
}

static __global__ void __launch_bounds__(PLAIN_WARPS * 32)
    matmul_plain_kernel(const __grid_constant__ product_parts parts)
{
    const product_part &p = parts.part[part_of_block(parts, blockIdx.x)];
    const uint32_t lane = threadIdx.x % 32, token = blockIdx.y * PLAIN_ROWS;
    const uint32_t o = (blockIdx.x - p.first_block) * PLAIN_WARPS + threadIdx.x / 32;
    previous_wait();
    next_start();
    if (o >= p.n_out || token >= p.n_rows)
        return;
    const float *tokens[PLAIN_ROWS];
    float sums[PLAIN_ROWS];
#pragma unroll
    for (int n = 0; n < PLAIN_ROWS; n++)
        tokens[n] = token + n < p.n_rows
                        ? static_cast<const float *>(p.x) + (token + n) * p.x_stride
                        : nullptr;
    product_plain<PLAIN_ROWS>(sums, p.w, p.dtype, static_cast<size_t>(o) * p.n_in, tokens, p.n_in,
                              lane);
#pragma unroll
    for (uint32_t n = 0; n < PLAIN_ROWS; n++)
        if (lane == n && token + n < p.n_rows)
            put(p, token + n, o, sums[n]);
}

static __global__ void __launch_bounds__(WIDE_THREADS, 1)
    matmul_wide_kernel(const __grid_constant__ product_parts parts)
{
    auto *stages = reinterpret_cast<wide_stage *>(shared_bytes());
    const product_part &p = parts.part[part_of_block(parts, blockIdx.y)];
    const uint32_t first = (blockIdx.y - p.first_block) * WIDE_SIDE, token = blockIdx.x * WIDE_SIDE;
    previous_wait();
    next_start();
    if (token >= p.n_rows)
        return;
    const auto *w = static_cast<const uint16_t *>(p.w), *x = static_cast<const uint16_t *>(p.x);
    wide_rows from = {{}, {}, w};
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t o = first + wide_row(i), row = token + wide_row(i);
        from.row[i] = o < p.n_out ? w + static_cast<size_t>(o) * p.n_in : nullptr;
        from.token[i] = row < p.n_rows ? x + row * p.x_stride : nullptr;
    }
    float total[4][4][4] = {};
    wide_product(total, stages, from, p.n_in);
#pragma unroll
    for (uint32_t m = 0; m < 4; m++)
#pragma unroll
        for (uint32_t n = 0; n < 4; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t o = first + wide_out(m, i), row = token + wide_token(n, i);
                if (o < p.n_out && row < p.n_rows)
                    put(p, row, o, total[m][n][i]);
            }
}

static bool can_stream(const tarnk_matmul_args *a, const tarnk_cuda *cuda)
{
    return cuda->native && a->w.dtype == TARNK_BF16 && a->w.n_in % 8 == 0 && a->x_stride % 4 == 0 &&
           aligned16(a->w.data) && aligned16(a->x);
}

static product_part part_from(const tarnk_matmul_args *a)
{
    product_part p = {};
    p.w = a->w.data;
    p.x = a->x;
    p.out = a->out;
    p.x_stride = a->x_stride;
    p.out_stride = a->out_stride;
    p.n_out = a->w.n_out;
    p.n_in = a->w.n_in;
    p.n_rows = a->n_rows;
    p.dtype = a->w.dtype;
    p.accumulate = a->accumulate;
    p.round = a->round;
    return p;
}

/* Gives each part its blocks of `rows` outputs; returns how many blocks and the most tokens. */
static uint32_t place_blocks(product_parts *parts, uint32_t rows, uint32_t *n_tokens)
{
    uint32_t n_blocks = 0;
    *n_tokens = 0;
    for (uint32_t i = 0; i < parts->n; i++) {
        parts->part[i].first_block = n_blocks;
        n_blocks += div_up(parts->part[i].n_out, rows);
        *n_tokens = parts->part[i].n_rows > *n_tokens ? parts->part[i].n_rows : *n_tokens;
    }
    return n_blocks;
}

template <int MT, int NT, int AHEAD, typename X>
static int launch_stream(product_parts *parts, const tarnk_context *context)
{
    uint32_t n_tokens, n_blocks = place_blocks(parts, MT * 16, &n_tokens);
    return LAUNCH((matmul_stream_kernel<MT, NT, AHEAD, X>),
                  dim3(n_blocks, div_up(n_tokens, NT * 8)), PRODUCT_THREADS,
                  (product_shared<MT, NT>()), context, *parts);
}

/* Turns x of the parts to bf16 in the workspace as far as it reaches; equal x only once. */
static int narrow_inputs(product_parts *parts, const tarnk_context *context, bool *all)
{
    const tarnk_cuda *cuda = cuda_of(context);
    product_part before[PARTS_MAX];
    size_t at = 0;
    *all = true;
    for (uint32_t i = 0; i < parts->n; i++) {
        product_part *p = &parts->part[i];
        before[i] = *p;
        for (uint32_t j = 0; j < i; j++)
            if (before[j].x == p->x && before[j].x_stride == p->x_stride &&
                before[j].n_in == p->n_in && before[j].n_rows == p->n_rows) {
                p->x = parts->part[j].x;
                p->x_stride = p->n_in;
            }
        if (p->x != before[i].x)
            continue;
        size_t n_bytes = (static_cast<size_t>(p->n_rows) * p->n_in * 2 + 255) / 256 * 256;
        if (n_bytes > cuda->workspace_bytes - at) {
            *all = false;
            break;
        }
        auto *to = reinterpret_cast<uint16_t *>(static_cast<uint8_t *>(cuda->workspace) + at);
        TRY_LAUNCH(launch_narrow(static_cast<const float *>(p->x), p->x_stride, to, p->n_in,
                                 p->n_rows, context));
        p->x = to;
        p->x_stride = p->n_in;
        at += n_bytes;
    }
    if (!*all)
        memcpy(parts->part, before, parts->n * sizeof before[0]);
    return 0;
}

static int launch_wide(product_parts *parts, const tarnk_context *context)
{
    uint32_t n_tokens, n_blocks = place_blocks(parts, WIDE_SIDE, &n_tokens);
    return LAUNCH(matmul_wide_kernel, dim3(div_up(n_tokens, WIDE_SIDE), n_blocks), WIDE_THREADS,
                  WIDE_SHARED, context, *parts);
}

static int run_stream(product_parts *parts, const tarnk_context *context)
{
    uint32_t n_tokens;
    bool narrow = false;
    place_blocks(parts, 16, &n_tokens);
    if (n_tokens <= 8)
        return launch_stream<1, 1, 4, float>(parts, context);
    if (n_tokens <= 16)
        return launch_stream<1, 2, 4, float>(parts, context);
    product_parts wide = *parts;
    TRY_LAUNCH(narrow_inputs(&wide, context, &narrow));
    if (!narrow)
        return launch_stream<1, 2, 4, float>(parts, context);
    if (n_tokens <= 32)
        return launch_stream<2, 4, 2, uint16_t>(&wide, context);
    if (n_tokens <= 64)
        return launch_stream<2, 8, 2, uint16_t>(&wide, context);
    return launch_wide(&wide, context);
}

static int run_plain(product_parts *parts, const tarnk_context *context)
{
    uint32_t n_tokens, n_blocks = place_blocks(parts, PLAIN_WARPS, &n_tokens);
    return LAUNCH(matmul_plain_kernel, dim3(n_blocks, div_up(n_tokens, PLAIN_ROWS)),
                  PLAIN_WARPS * 32, 0, context, *parts);
}

extern "C" int tarnk_matmul_cuda(const tarnk_matmul_args *parts, uint32_t n_parts,
                                 const tarnk_context *context)
{
    for (int streams = 0; streams < 2; streams++) {
        product_parts some;
        some.n = 0;
        for (uint32_t i = 0; i < n_parts; i++) {
            if (can_stream(&parts[i], cuda_of(context)) == (streams == 1))
                some.part[some.n++] = part_from(&parts[i]);
            if (some.n == PARTS_MAX || (i + 1 == n_parts && some.n > 0)) {
                TRY_LAUNCH(streams ? run_stream(&some, context) : run_plain(&some, context));
                some.n = 0;
            }
        }
    }
    return 0;
}
