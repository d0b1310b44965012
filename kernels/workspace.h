/* workspace.h - sizes the CPU ops and their callers must agree on. */
#ifndef TARNK_WORKSPACE_H
#define TARNK_WORKSPACE_H

#include <stddef.h>
#include <stdint.h>

#define TILE_PAIR_STEP 32 /* bf16 elements of a register */

#define MLA_BLOCK_ROWS 64 /* rows of mla computed at a time; bounds its workspace */

/* bf16 elements from one packed row of k to the next: whole registers, and one more so that rows of
 * 4 KiB or 8 KiB do not all fall on the same cache lines (186 GFLOP/s a core at k 4096 without, 220
 * with it). */
static inline size_t packed_stride(uint32_t k)
{
    return ((size_t)k / TILE_PAIR_STEP + 2) * TILE_PAIR_STEP;
}

/* Room for a row of k values, as fp32 or packed. */
static inline size_t row_floats(uint32_t k)
{
    size_t packed = packed_stride(k) / 2;
    return packed > k ? packed : k;
}

#define MLA_PARTS     8 /* of a row's keys */
#define MLA_PART_ROWS 8 /* rows at most that are attended by parts at once */

/* Rows of results of a block: PARTS for each of few rows, two for each of many. Never fewer than
 * for a smaller block. */
static inline uint32_t mla_result_rows(uint32_t n_rows)
{
    const uint32_t most = MLA_PART_ROWS * MLA_PARTS;
    if (n_rows <= MLA_PART_ROWS)
        return n_rows * MLA_PARTS;
    return 2 * n_rows > most ? 2 * n_rows : most;
}

/* An expert some row chose, and where its (row, slot) pairs stand when sorted: [begin, end). */
typedef struct moe_active {
    uint32_t expert;
    uint32_t begin;
    uint32_t end;
} moe_active;

#endif
