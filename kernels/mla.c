/* mla.c - attention over the latents; see tarnk_mla_args in mla.h.
 *
 * Rows are taken MLA_BLOCK_ROWS at a time, which bounds the workspace; each block has three
 * parallel loops:
 *  1. queries: qa_h = Wk_h^T q_h, and q_h's shared part behind it, so that a score is one dot
 *     product of a latent of rank + rope with a query of the same length;
 *  2. attention: a task is up to GROUP_ROWS rows of one session for up to GROUP_HEADS heads. It
 *     walks the pages; a page comes from memory once for the whole group. For each row: scores of
 *     all heads (a product of 64 latents with the queries), running maximum and sum, then
 *     o_h <- exp(m_old - m_new) o_h + p c;
 *  3. values: o_h / sum times Wv_h.
 * Where bf16 pairs are multiplied, queries are packed for bf16 latents (their absorbed part passes
 * through `mixed`, which is free until then), and mixed latents for bf16 kv_b (in the query's
 * place, which is free by then). All products are tile.c's, so a row's bits do not depend on its
 * group. A row sees only as many latents of its last page as it has keys: what lies behind may be
 * NaN.
 *
 * The pages of a row are dealt to PARTS parts, page p to part p mod PARTS; each has a softmax of
 * its own, and the parts are merged in order. With few rows and a long context a part is a task, so
 * that more threads than groups of heads work on one session and a page serves more heads; else one
 * task walks its parts one after another. Which of both never shows in the bits, and as there are
 * never more than PARTS, the memory of their results does not grow with context.
 */
#include "mla.h"

#include "tile.h"
#include "workspace.h"

#include "simd.h"

#define GROUP_ROWS  4
#define GROUP_HEADS 16
#define KEYS        TARNK_PAGE_TOKENS
#define PARTS       MLA_PARTS
#define PART_KEYS   1024 /* a row with fewer is one task's */

/* The running softmax of one row and head. */
typedef struct softmax {
    float top;
    float sum;
} softmax;

/* Slots hold what comes of a part: slot s of part s if that is a task, else 0 what is merged so far
 * and 1 the part being walked. */
typedef struct mla_job {
    const tarnk_mla_args *args;
    uint32_t row; /* of the block */
    uint32_t n_rows;
    uint32_t query_cols;  /* of rank in a query task */
    uint32_t group_heads; /* in an attention task */
    uint32_t value_outs;  /* of v_dim in a value task */
    float *query;         /* [n_rows][n_heads], row_floats(rank + rope) apart */
    float *mixed;         /* [slots][n_rows][n_heads][rank]: sum p c; in the end over sum p */
    softmax *states;      /* [slots][n_rows][n_heads] */
} mla_job;

static size_t query_len(const tarnk_mla_args *a)
{
    return (size_t)a->rank + a->rope;
}

/* The query of a row of the block; later its mixed latents, packed. */
static float *query_of(const mla_job *job, uint32_t row, uint32_t head)
{
    const tarnk_mla_args *a = job->args;
    return job->query + ((size_t)row * a->n_heads + head) * row_floats(a->rank + a->rope);
}

static size_t result_index(const mla_job *job, uint32_t slot, uint32_t row, uint32_t head)
{
    return ((size_t)slot * job->n_rows + row) * job->args->n_heads + head;
}

static float *part_of(const mla_job *job, uint32_t slot, uint32_t row, uint32_t head)
{
    return job->mixed + result_index(job, slot, row, head) * job->args->rank;
}

static float *mixed_of(const mla_job *job, uint32_t row, uint32_t head)
{
    return part_of(job, 0, row, head);
}

/* Rows of head h of kv_b from row `first` of that head on. */
static tile_weights head_weights(const tarnk_mla_args *a, uint32_t head, uint32_t first)
{
    tarnk_matrix m = a->kv_b;
    m.n_in = a->rank;
    return tile_weights_of(&m, head * (a->nope + a->v_dim) + first);
}

#if TILE_PAIRS
/* n_cols absorbed values to their place, and with the first of them the shared part and zeros. */
static void pack_query(const tarnk_mla_args *a, uint16_t *query, const float *absorbed,
                       uint32_t col, uint32_t n_cols, const float *shared)
{
    for (uint32_t i = 0; i < n_cols; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(n_cols, i);
        pairs_store_rounded(query + col + i, v16_load_upto(absorbed + i, lanes), lanes);
    }
    if (col > 0)
        return;
    for (uint32_t i = 0; i < a->rope; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(a->rope, i);
        pairs_store_rounded(query + a->rank + i, v16_load_upto(shared + i, lanes), lanes);
    }
    memset(query + query_len(a), 0, TILE_PAIR_STEP * sizeof *query);
}
#endif

static void query_task(void *arg, uint32_t task_idx)
{
    const mla_job *job = arg;
    const tarnk_mla_args *a = job->args;
    const uint32_t pieces = div_up(a->rank, job->query_cols);
    const uint32_t head = task_idx / pieces, col = task_idx % pieces * job->query_cols;
    const uint32_t n_cols = min_u32(job->query_cols, a->rank - col);
    const size_t q_dim = (size_t)a->nope + a->rope;
    const bool packs = tile_packs(a->latent_dtype);
    const float *q[MLA_BLOCK_ROWS];
    float *out[MLA_BLOCK_ROWS];
    for (uint32_t r = 0; r < job->n_rows; r++) {
        q[r] = a->q + ((size_t)(job->row + r) * a->n_heads + head) * q_dim;
        out[r] = (packs ? mixed_of(job, r, head) : query_of(job, r, head)) + col;
        if (col == 0 && !packs)
            memcpy(query_of(job, r, head) + a->rank, q[r] + a->nope, a->rope * sizeof *q[r]);
    }
    tile_weights w = head_weights(a, head, 0);
    w.data += col * dtype_bytes(a->kv_b.dtype);
    TARNK(tile_sums)(&w, a->nope, n_cols, q, job->n_rows, out, NULL);
#if TILE_PAIRS
    for (uint32_t r = 0; packs && r < job->n_rows; r++)
        pack_query(a, (uint16_t *)query_of(job, r, head), out[r], col, n_cols, q[r] + a->nope);
#endif
}

/* Turns n scores into exp(scale score - top) and returns what the old sums are to be scaled by. */
static float softmax_block(softmax *s, float *scores, uint32_t n, float scale)
{
    for (uint32_t i = n; i < KEYS; i++)
        scores[i] = -__builtin_inff(); /* exp gives 0: the sum below always has 64 terms */
    v16 top = v16_set1(s->top);
    for (uint32_t i = 0; i < KEYS; i += SIMD_LANES) {
        v16 scaled = v16_mul(v16_load(scores + i), v16_set1(scale));
        v16_store(scores + i, scaled);
        top = v16_max(top, scaled);
    }
    float lanes[SIMD_LANES], new_top = s->top;
    v16_store(lanes, top);
    for (uint32_t i = 0; i < SIMD_LANES; i++)
        new_top = lanes[i] > new_top ? lanes[i] : new_top;
    v16 sum = v16_set1(0.0F);
    for (uint32_t i = 0; i < KEYS; i += SIMD_LANES) {
        v16 p = v16_exp(v16_sub(v16_load(scores + i), v16_set1(new_top)));
        v16_store(scores + i, p);
        sum = v16_add(sum, p);
    }
    float shrink = simd_exp1(s->top - new_top);
    s->sum = s->sum * shrink + v16_sum(sum);
    s->top = new_top;
    return shrink;
}

/* One row's next n_keys latents for n_heads heads; query and mixed are those of the first. */
static void attend(const tarnk_mla_args *a, const tile_weights *latents, uint32_t n_keys,
                   bool first, const float *query, float *mixed, softmax *state, uint32_t n_heads)
{
    /* The square root is exact; a division too. */
    const float scale = 1.0F / __builtin_sqrtf((float)(a->nope + a->rope));
    float scores[GROUP_HEADS][KEYS], shrink[GROUP_HEADS];
    const void *x[GROUP_HEADS] = {NULL};
    const float *p[GROUP_HEADS];
    float *out[GROUP_HEADS];
    for (uint32_t h = 0; h < n_heads; h++) {
        x[h] = query + h * row_floats(a->rank + a->rope);
        p[h] = scores[h];
        out[h] = mixed + (size_t)h * a->rank;
    }
    TARNK(tile_dots)(latents, n_keys, x, n_heads, a->rank + a->rope, scores[0], KEYS, TILE_STORE);
    for (uint32_t h = 0; h < n_heads; h++)
        shrink[h] = softmax_block(&state[h], scores[h], n_keys, scale);
    TARNK(tile_sums)(latents, n_keys, a->rank, p, n_heads, out, first ? NULL : shrink);
}

/* Rows of one session that are attended together. */
typedef struct mla_group {
    const tarnk_seq *seq;
    uint32_t row; /* of the block */
    uint32_t n_rows;
    uint32_t position; /* of the first of them */
    uint32_t head;
    uint32_t n_heads;
} mla_group;

/* The keys of one part; a page that only later rows reach is left out for the earlier ones. */
static void walk_part(const mla_job *job, const mla_group *g, uint32_t part, uint32_t slot)
{
    const tarnk_mla_args *a = job->args;
    for (uint32_t r = 0; r < g->n_rows; r++)
        for (uint32_t h = 0; h < g->n_heads; h++)
            job->states[result_index(job, slot, g->row + r, g->head + h)] =
                (softmax){-__builtin_inff(), 0.0F};
    const uint32_t end = g->position + g->n_rows;
    for (uint32_t key = part * KEYS; key < end; key += PARTS * KEYS) {
        const uint32_t page = key / KEYS, next = page + PARTS;
        const tile_weights latents = {
            g->seq->pages[page] + a->latent_offset, query_len(a) * dtype_bytes(a->latent_dtype),
            a->latent_dtype, next * KEYS < end ? g->seq->pages[next] + a->latent_offset : NULL};
        for (uint32_t r = 0; r < g->n_rows; r++) {
            if (g->position + r < key)
                continue;
            uint32_t n_keys = min_u32(KEYS, g->position + r + 1 - key);
            attend(a, &latents, n_keys, key == part * KEYS, query_of(job, g->row + r, g->head),
                   part_of(job, slot, g->row + r, g->head),
                   &job->states[result_index(job, slot, g->row + r, g->head)], g->n_heads);
        }
    }
}

/* Adds a slot to slot 0. */
static void merge(const mla_job *job, uint32_t slot, uint32_t row, uint32_t head)
{
    softmax *to = &job->states[result_index(job, 0, row, head)];
    const softmax from = job->states[result_index(job, slot, row, head)];
    const float top = from.top > to->top ? from.top : to->top;
    const float shrink_to = simd_exp1(to->top - top), shrink = simd_exp1(from.top - top);
    float *mixed = mixed_of(job, row, head);
    const float *part = part_of(job, slot, row, head);
    for (uint32_t i = 0; i < job->args->rank; i += SIMD_LANES) {
        const uint32_t lanes = simd_lanes_left(job->args->rank, i);
        v16 sum = v16_mul(v16_load_upto(mixed + i, lanes), v16_set1(shrink_to));
        sum = v16_fma(v16_load_upto(part + i, lanes), v16_set1(shrink), sum);
        v16_store_upto(mixed + i, sum, lanes);
    }
    *to = (softmax){top, to->sum * shrink_to + from.sum * shrink};
}

/* Divides by the sum, and packs for the value product. */
static void finish(const mla_job *job, uint32_t row, uint32_t head)
{
    const tarnk_mla_args *a = job->args;
    float *mixed = mixed_of(job, row, head);
    v16 inverse = v16_set1(1.0F / job->states[result_index(job, 0, row, head)].sum);
    for (uint32_t i = 0; i < a->rank; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(a->rank, i);
        v16_store_upto(mixed + i, v16_mul(v16_load_upto(mixed + i, lanes), inverse), lanes);
    }
#if TILE_PAIRS
    if (tile_packs(a->kv_b.dtype))
        TARNK(tile_pack)(mixed, a->rank, (uint16_t *)query_of(job, row, head));
#endif
}

/* The rows of a session that fall in the block: first one, counted in the step, and how many. */
static uint32_t rows_in_block(const mla_job *job, const tarnk_seq *seq, uint32_t *row)
{
    uint32_t end = min_u32(seq->row_begin + seq->n_rows, job->row + job->n_rows);
    *row = seq->row_begin > job->row ? seq->row_begin : job->row;
    return end > *row ? end - *row : 0;
}

/* Groups of n_rows rows at most, numbered through the sessions; all heads. */
static mla_group group_at(const mla_job *job, uint32_t group, uint32_t n_rows)
{
    const tarnk_seq *seq = job->args->seqs;
    for (;; seq++) {
        uint32_t row, n = rows_in_block(job, seq, &row), n_groups = div_up(n, n_rows);
        if (group < n_groups) {
            row += group * n_rows;
            return (mla_group){.seq = seq,
                               .row = row - job->row,
                               .n_rows = min_u32(n_rows, n - group * n_rows),
                               .position = seq->position + (row - seq->row_begin),
                               .n_heads = job->args->n_heads};
        }
        group -= n_groups;
    }
}

static mla_group group_of_heads(const mla_job *job, uint32_t group)
{
    const uint32_t n_heads = job->args->n_heads, head_groups = div_up(n_heads, job->group_heads);
    mla_group g = group_at(job, group / head_groups, GROUP_ROWS);
    g.head = group % head_groups * job->group_heads;
    g.n_heads = min_u32(job->group_heads, n_heads - g.head);
    return g;
}

static void attention_task(void *arg, uint32_t task_idx)
{
    const mla_job *job = arg;
    const mla_group g = group_of_heads(job, task_idx);
    walk_part(job, &g, 0, 0);
    for (uint32_t part = 1; part < PARTS && part * KEYS < g.position + g.n_rows; part++) {
        walk_part(job, &g, part, 1);
        for (uint32_t r = 0; r < g.n_rows; r++)
            for (uint32_t h = 0; h < g.n_heads && g.position + r >= part * KEYS; h++)
                merge(job, 1, g.row + r, g.head + h);
    }
    for (uint32_t r = 0; r < g.n_rows; r++)
        for (uint32_t h = 0; h < g.n_heads; h++)
            finish(job, g.row + r, g.head + h);
}

static void part_task(void *arg, uint32_t task_idx)
{
    const mla_job *job = arg;
    const mla_group g = group_of_heads(job, task_idx / PARTS);
    walk_part(job, &g, task_idx % PARTS, task_idx % PARTS);
}

static void merge_task(void *arg, uint32_t task_idx)
{
    const mla_job *job = arg;
    const uint32_t head = task_idx % job->args->n_heads;
    const mla_group g = group_at(job, task_idx / job->args->n_heads, 1);
    for (uint32_t part = 1; part < PARTS && g.position >= part * KEYS; part++)
        merge(job, part, g.row, head);
    finish(job, g.row, head);
}

static void value_task(void *arg, uint32_t task_idx)
{
    const mla_job *job = arg;
    const tarnk_mla_args *a = job->args;
    const uint32_t pieces = div_up(a->v_dim, job->value_outs);
    const uint32_t head = task_idx / pieces, first = task_idx % pieces * job->value_outs;
    const void *x[MLA_BLOCK_ROWS];
    for (uint32_t r = 0; r < job->n_rows; r++)
        x[r] = tile_packs(a->kv_b.dtype) ? query_of(job, r, head) : mixed_of(job, r, head);
    tile_weights w = head_weights(a, head, a->nope + first);
    size_t stride = (size_t)a->n_heads * a->v_dim;
    TARNK(tile_dots)
    (&w, min_u32(job->value_outs, a->v_dim - first), x, job->n_rows, a->rank,
     a->out + job->row * stride + (size_t)head * a->v_dim + first, stride,
     a->round ? TILE_ROUND : TILE_STORE);
}

/* How many heads share the reading of a page: as many as leave each thread a task of n_groups.
 * Measured with 16,384 keys and two threads (Zen 4): 16 heads 245 to 299 GFLOP/s, 8 heads 200 to
 * 216, 4 heads 174. */
static uint32_t heads_of_group(const tarnk_mla_args *a, const tarnk_context *context,
                               uint32_t n_groups)
{
    const uint32_t threads = context->n_threads > 0 ? context->n_threads : 1;
    const uint64_t heads = (uint64_t)a->n_heads * n_groups / threads / 4 * 4;
    return heads < 4 ? 4 : heads > GROUP_HEADS ? GROUP_HEADS : (uint32_t)heads;
}

/* Is there more to gain than merging costs, and room for every part? */
static bool wants_parts(const mla_job *job)
{
    uint32_t row, longest = 0;
    for (uint32_t s = 0; s < job->args->n_seqs; s++) {
        const tarnk_seq *seq = &job->args->seqs[s];
        if (rows_in_block(job, seq, &row) > 0 && seq->position + seq->n_rows > longest)
            longest = seq->position + seq->n_rows;
    }
    return job->n_rows <= MLA_PART_ROWS && longest > PART_KEYS;
}

static void attend_block(mla_job *job, const tarnk_context *context)
{
    const tarnk_mla_args *a = job->args;
    uint32_t n_groups = 0, row;
    for (uint32_t s = 0; s < a->n_seqs; s++)
        n_groups += div_up(rows_in_block(job, &a->seqs[s], &row), GROUP_ROWS);
    const bool by_part = wants_parts(job);
    const uint32_t parts = by_part ? PARTS : 1;
    job->group_heads = heads_of_group(a, context, n_groups * parts);
    const uint32_t n_tasks = n_groups * div_up(a->n_heads, job->group_heads) * parts;
    context->run(context->pool, n_tasks, by_part ? part_task : attention_task, job);
    if (by_part)
        context->run(context->pool, job->n_rows * a->n_heads, merge_task, job);
}

int TARNK(mla)(const tarnk_mla_args *a, const tarnk_context *context)
{
    const uint32_t block = min_u32(a->n_rows, MLA_BLOCK_ROWS);
    const size_t n_results = (size_t)mla_result_rows(block) * a->n_heads;
    mla_job job = {.args = a, .query = a->workspace};
    job.mixed = job.query + (size_t)block * a->n_heads * row_floats(a->rank + a->rope);
    job.states = (softmax *)(void *)(job.mixed + n_results * a->rank);
    job.query_cols = piece_size(context, a->rank, a->n_heads, 64, a->rank);
    job.value_outs = piece_size(context, a->v_dim, a->n_heads, 8, a->v_dim);
    for (; job.row < a->n_rows; job.row += MLA_BLOCK_ROWS) {
        job.n_rows = min_u32(MLA_BLOCK_ROWS, a->n_rows - job.row);
        context->run(context->pool, a->n_heads * div_up(a->rank, job.query_cols), query_task, &job);
        attend_block(&job, context);
        context->run(context->pool, a->n_heads * div_up(a->v_dim, job.value_outs), value_task,
                     &job);
    }
    return 0;
}
