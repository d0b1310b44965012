/* Operations on sessions (tests/trust/live.h), five bytes each: which, on what, and three of how.
 * What every session computes is held against the same ids computed from the first one on. */
#include "fuzz.h"
#include "live.h"

enum { OP_BYTES = 5, OPS_MAX = 60 };

static live all;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    char why[LIVE_WHY];
    size_t n = n_bytes > 0 ? (n_bytes - 1) / OP_BYTES : 0;
    if (n == 0)
        return 0;
    live_begin(&all, data[0] % 2);
    for (size_t i = 0; i < n && i < OPS_MAX; i++) {
        const uint8_t *at = data + 1 + OP_BYTES * i;
        live_op op = {.kind = (live_kind)(at[0] % LIVE_KINDS), .a = at[1]};
        op.b = at[2] | (uint64_t)at[3] << 8 | (uint64_t)at[4] << 16;
        if (!live_apply(&all, op, why)) {
            fprintf(stderr, "operation %zu, %s: %s\n", i, live_name(op.kind), why);
            abort();
        }
    }
    if (!live_match(&all, why)) {
        fprintf(stderr, "at the end: %s\n", why);
        abort();
    }
    live_end(&all);
    return 0;
}
