/* moe.c - the experts; see tarnk_moe_args in moe.h.
 *
 * (row, slot) pairs are sorted by expert with a counting sort; `place` of a pair is where it stands
 * then, and the hidden values and results of an expert's rows lie together at their places. Three
 * parallel loops: gate, up and SiLU in one pass over w1 and w3; w2; the weighted sum of a row's
 * results, by slot, which is by ascending expert. A task of the first two is some outputs of one
 * chosen expert, for all its rows: its weights come from memory once for each block of rows.
 *
 * The workspace holds hidden, result, place_of, row_at, active and packed, in this order. Where
 * bf16 pairs are multiplied (w1, w3 for x, w2 for hidden), x is packed first and hidden kept
 * packed. */
#include "moe.h"

#include "tile.h"
#include "workspace.h"

#include "simd.h"

#define GATE_OUTS    16 /* outputs of gate and up computed at a time, at least */
#define GATE_FLOATS  (TILE_ROWS_MAX * GATE_OUTS) /* on the stack, of each */
#define COMBINE_COLS 1024
#define PACK_ROWS    8

typedef struct moe_job {
    const tarnk_moe_args *args;
    moe_active *active;
    uint32_t n_active;
    uint32_t piece;
    uint32_t *row_at;   /* [n_pairs]: the row of each place */
    uint32_t *place_of; /* [n_rows][top_k] */
    uint16_t *packed;   /* [n_rows] rows of x, if w1 and w3 want them so */
    float *hidden;      /* [n_pairs][width], by place; or packed rows */
    float *result;      /* [n_pairs][n], by place */
} moe_job;

static uint16_t *packed_hidden(const moe_job *job, uint32_t place)
{
    return (uint16_t *)job->hidden + place * packed_stride(job->args->width);
}

/* The rows of x of n_places places, as dots wants them for such weights. */
static void rows_of(const moe_job *job, tarnk_dtype dtype, uint32_t place, uint32_t n_places,
                    const void **out)
{
    const tarnk_moe_args *a = job->args;
    for (uint32_t r = 0; r < n_places; r++) {
        const size_t row = job->row_at[place + r];
        out[r] = tile_packs(dtype) ? (const void *)(job->packed + row * packed_stride(a->n))
                                   : a->x + row * a->n;
    }
}

/* silu(w1 x) * w3 x for n_outs outputs from `first` of one expert and up to TILE_ROWS_MAX of its
 * places. */
static void gate_up_block(const moe_job *job, uint32_t expert, uint32_t place, uint32_t n_places,
                          uint32_t first, uint32_t n_outs)
{
    const tarnk_moe_args *a = job->args;
    const void *x1[TILE_ROWS_MAX] = {NULL}, *x3[TILE_ROWS_MAX] = {NULL};
    float gate[GATE_FLOATS], up[GATE_FLOATS];
    tile_weights w1 = tile_weights_of(&a->w1[expert], first);
    tile_weights w3 = tile_weights_of(&a->w3[expert], first);
    rows_of(job, w1.dtype, place, n_places, x1);
    rows_of(job, w3.dtype, place, n_places, x3);
    TARNK(tile_dots)(&w1, n_outs, x1, n_places, a->n, gate, n_outs, TILE_STORE);
    TARNK(tile_dots)(&w3, n_outs, x3, n_places, a->n, up, n_outs, TILE_STORE);
    for (uint32_t r = 0; r < n_places; r++)
        for (uint32_t o = 0; o < n_outs; o += SIMD_LANES) {
            const uint32_t lanes = simd_lanes_left(n_outs, o);
            v16 h = v16_mul(v16_silu(v16_load_upto(gate + r * n_outs + o, lanes)),
                            v16_load_upto(up + r * n_outs + o, lanes));
#if TILE_PAIRS
            if (tile_packs(a->w2[expert].dtype)) {
                pairs_store_rounded(packed_hidden(job, place + r) + first + o, h, lanes);
                continue;
            }
#endif
            v16_store_upto(job->hidden + (size_t)(place + r) * a->width + first + o,
                           a->round ? v16_round_bf16(h) : h, lanes);
        }
}

static void gate_up_task(void *arg, uint32_t task_idx)
{
    const moe_job *job = arg;
    const tarnk_moe_args *a = job->args;
    const uint32_t pieces = div_up(a->width, job->piece);
    const moe_active *e = &job->active[task_idx / pieces];
    const uint32_t first = task_idx % pieces * job->piece;
    const uint32_t end = min_u32(first + job->piece, a->width),
                   block = tile_rows_for(a->n, e->end - e->begin);
    for (uint32_t place = e->begin; place < e->end; place += block) {
        const uint32_t n_places = min_u32(block, e->end - place);
        const uint32_t outs = GATE_FLOATS / n_places / GATE_OUTS * GATE_OUTS; /* long streams */
        for (uint32_t o = first; o < end; o += outs)
            gate_up_block(job, e->expert, place, n_places, o, min_u32(outs, end - o));
    }
}

static void down_task(void *arg, uint32_t task_idx)
{
    const moe_job *job = arg;
    const tarnk_moe_args *a = job->args;
    const uint32_t pieces = div_up(a->n, job->piece);
    const moe_active *e = &job->active[task_idx / pieces];
    const uint32_t first = task_idx % pieces * job->piece,
                   block = tile_rows_for(a->width, e->end - e->begin);
    const void *x[TILE_ROWS_MAX];
    tile_weights w2 = tile_weights_of(&a->w2[e->expert], first);
    for (uint32_t place = e->begin; place < e->end; place += block) {
        uint32_t n_places = min_u32(block, e->end - place);
        for (uint32_t r = 0; r < n_places; r++)
            x[r] = tile_packs(w2.dtype) ? (const void *)packed_hidden(job, place + r)
                                        : job->hidden + (size_t)(place + r) * a->width;
        TARNK(tile_dots)
        (&w2, min_u32(job->piece, a->n - first), x, n_places, a->width,
         job->result + (size_t)place * a->n + first, a->n, TILE_STORE);
    }
}

#if TILE_PAIRS
/* Rows of x, and the zeros behind the hidden values of their places. */
static void pack_task(void *arg, uint32_t task_idx)
{
    const moe_job *job = arg;
    const tarnk_moe_args *a = job->args;
    const uint32_t end = min_u32((task_idx + 1) * PACK_ROWS, a->n_rows);
    const size_t pad = packed_stride(a->width) - a->width;
    for (uint32_t r = task_idx * PACK_ROWS; r < end; r++) {
        TARNK(tile_pack)(a->x + (size_t)r * a->n, a->n, job->packed + r * packed_stride(a->n));
        for (uint32_t s = 0; s < a->top_k; s++)
            if (tile_packs(a->w2[a->experts[r * a->top_k + s]].dtype))
                memset(packed_hidden(job, job->place_of[r * a->top_k + s]) + a->width, 0, 2 * pad);
    }
}
#endif

static void combine_task(void *arg, uint32_t task_idx)
{
    const moe_job *job = arg;
    const tarnk_moe_args *a = job->args;
    const uint32_t pieces = div_up(a->n, COMBINE_COLS);
    const uint32_t row = task_idx / pieces, first = task_idx % pieces * COMBINE_COLS;
    const uint32_t end = min_u32(first + COMBINE_COLS, a->n);
    const uint32_t *place = job->place_of + (size_t)row * a->top_k;
    const float *weight = a->weights + (size_t)row * a->top_k;
    for (uint32_t i = first; i < end; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(end, i);
        v16 sum = v16_set1(0.0F);
        for (uint32_t s = 0; s < a->top_k; s++) {
            const float *result = job->result + (size_t)place[s] * a->n + i;
            sum = v16_fma(v16_set1(weight[s]), v16_load_upto(result, lanes), sum);
        }
        float *out = a->out + (size_t)row * a->n + i;
        v16_store_upto(out, v16_add(v16_load_upto(out, lanes), sum), lanes);
    }
}

/* Counting sort; `active` has room for n_experts and serves as the counts meanwhile. */
static void sort_pairs(moe_job *job)
{
    const tarnk_moe_args *a = job->args;
    const uint32_t n_pairs = a->n_rows * a->top_k;
    moe_active *at = job->active;
    for (uint32_t e = 0; e < a->n_experts; e++)
        at[e] = (moe_active){e, 0, 0};
    for (uint32_t i = 0; i < n_pairs; i++)
        at[a->experts[i]].end++;
    for (uint32_t e = 0, sum = 0; e < a->n_experts; e++) {
        at[e].begin = sum;
        sum += at[e].end;
        at[e].end = at[e].begin;
    }
    for (uint32_t i = 0; i < n_pairs; i++) {
        uint32_t place = at[a->experts[i]].end++;
        job->place_of[i] = place;
        job->row_at[place] = i / a->top_k;
    }
    job->n_active = 0;
    for (uint32_t e = 0; e < a->n_experts; e++)
        if (at[e].end > at[e].begin)
            at[job->n_active++] = at[e];
}

int TARNK(moe)(const tarnk_moe_args *a, const tarnk_context *context)
{
    const size_t n_pairs = (size_t)a->n_rows * a->top_k;
    moe_job job = {.args = a};
    job.hidden = a->workspace;
    job.result = job.hidden + n_pairs * row_floats(a->width);
    job.place_of = (uint32_t *)(job.result + n_pairs * a->n);
    job.row_at = job.place_of + n_pairs;
    job.active = (moe_active *)(void *)(job.row_at + n_pairs);
    job.packed = (uint16_t *)(void *)(job.active + a->n_experts);
    sort_pairs(&job);
#if TILE_PAIRS
    context->run(context->pool, div_up(a->n_rows, PACK_ROWS), pack_task, &job);
#endif
    job.piece = piece_size(context, a->width, job.n_active, GATE_OUTS, 128);
    context->run(context->pool, job.n_active * div_up(a->width, job.piece), gate_up_task, &job);
    job.piece = piece_size(context, a->n, job.n_active, 8, 256);
    context->run(context->pool, job.n_active * div_up(a->n, job.piece), down_task, &job);
    context->run(context->pool, a->n_rows * div_up(a->n, COMBINE_COLS), combine_task, &job);
    return 0;
}
