/* matmul.c - see matmul.h; the arithmetic is tile.c's.
 *
 * A task is a piece of one part's outputs for one block of rows: few enough rows that their x stays
 * in the second-level cache while the weights stream past once. Row blocks are the outer order, so
 * that a core keeps its x over consecutive tasks. The cut never shows in the bits.
 *
 * Bf16 products read x from the workspace, packed there first: by the caller alone if it is a few
 * rows, as waking others takes longer. */
#include "matmul.h"

#include "tile.h"

#define PACK_ROWS 8

typedef struct matmul_job {
    const tarnk_matmul_args *parts;
    uint32_t n_parts;
    uint32_t piece; /* outputs of a task */
} matmul_job;

static uint32_t part_tasks(const tarnk_matmul_args *a, uint32_t piece)
{
    return div_up(a->w.n_out, piece) * div_up(a->n_rows, tile_rows_for(a->w.n_in, a->n_rows));
}

/* Row r of x as tile_dots wants it. */
static const void *row_of(const tarnk_matmul_args *a, uint32_t r)
{
    if (tile_packs(a->w.dtype))
        return (const uint16_t *)a->workspace + r * packed_stride(a->w.n_in);
    return a->x + r * a->x_stride;
}

#if TILE_PAIRS
static void pack_task(void *arg, uint32_t task_idx)
{
    const tarnk_matmul_args *a = arg;
    const uint32_t end = min_u32((task_idx + 1) * PACK_ROWS, a->n_rows);
    for (uint32_t r = task_idx * PACK_ROWS; r < end; r++)
        TARNK(tile_pack)
    (a->x + r * a->x_stride, a->w.n_in, (uint16_t *)a->workspace + r * packed_stride(a->w.n_in));
}

/* Fills each part's workspace, a shared one once. */
static void pack_parts(const tarnk_matmul_args *parts, uint32_t n_parts,
                       const tarnk_context *context)
{
    const void *packed = NULL;
    for (uint32_t p = 0; p < n_parts; p++) {
        const tarnk_matmul_args *a = &parts[p];
        if (!tile_packs(a->w.dtype) || a->workspace == packed)
            continue;
        packed = a->workspace;
        const uint32_t n_tasks = div_up(a->n_rows, PACK_ROWS);
        if (n_tasks > 1)
            context->run(context->pool, n_tasks, pack_task, (void *)(uintptr_t)a);
        else
            pack_task((void *)(uintptr_t)a, 0);
    }
}
#endif

static void matmul_task(void *arg, uint32_t task_idx)
{
    const matmul_job *job = arg;
    const tarnk_matmul_args *a = job->parts;
    for (uint32_t n; task_idx >= (n = part_tasks(a, job->piece)); a++)
        task_idx -= n;
    uint32_t n_pieces = div_up(a->w.n_out, job->piece);
    uint32_t block = tile_rows_for(a->w.n_in, a->n_rows);
    uint32_t row = task_idx / n_pieces * block;
    uint32_t first_out = task_idx % n_pieces * job->piece;
    uint32_t n_rows = min_u32(block, a->n_rows - row);
    const void *x[TILE_ROWS_MAX];
    for (uint32_t r = 0; r < n_rows; r++)
        x[r] = row_of(a, row + r);
    tile_weights w = tile_weights_of(&a->w, first_out);
    TARNK(tile_dots)
    (&w, min_u32(job->piece, a->w.n_out - first_out), x, n_rows, a->w.n_in,
     a->out + row * a->out_stride + first_out, a->out_stride,
     a->accumulate ? TILE_ADD
     : a->round    ? TILE_ROUND
                   : TILE_STORE);
}

int TARNK(matmul)(const tarnk_matmul_args *parts, uint32_t n_parts, const tarnk_context *context)
{
    uint32_t n_out = 0, n_tasks = 0;
    for (uint32_t p = 0; p < n_parts; p++)
        n_out += parts[p].w.n_out *
                 div_up(parts[p].n_rows, tile_rows_for(parts[p].w.n_in, parts[p].n_rows));
    matmul_job job = {parts, n_parts, piece_size(context, n_out, 1, 8, 256)};
    for (uint32_t p = 0; p < n_parts; p++)
        n_tasks += part_tasks(&parts[p], job.piece);
#if TILE_PAIRS
    pack_parts(parts, n_parts, context);
#endif
    context->run(context->pool, n_tasks, matmul_task, &job);
    return 0;
}
