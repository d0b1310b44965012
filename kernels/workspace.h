/* workspace.h - sizes the CPU ops and their callers must agree on. */
#ifndef TARNK_WORKSPACE_H
#define TARNK_WORKSPACE_H

#include <stdint.h>

#define MLA_BLOCK_ROWS 64 /* rows of mla computed at a time; bounds its workspace */

/* An expert some row chose, and where its (row, slot) pairs stand when sorted: [begin, end). */
typedef struct moe_active {
    uint32_t expert;
    uint32_t begin;
    uint32_t end;
} moe_active;

#endif
