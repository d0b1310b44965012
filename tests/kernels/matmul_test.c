#include "check.h"
#include "bed.h"
#include "twin.h"

/* An element's error is bounded by a few roundings of the sum of its |x| |w|: each of the 16 lanes
 * adds k / 16 products, the tree four more. */
static void check_products(const tarnk_ops *ops, const tarnk_matmul_args *a, const float *got)
{
    size_t all = (size_t)a->n_rows * a->w.n_out;
    double *want = bed_alloc(all * sizeof *want), *sizes = bed_alloc(all * sizeof *sizes);
    twin_matmul(a, want, sizes);
    double bound = 1.2e-7 * (2 + sqrt((double)a->w.n_in / 16));
    for (uint32_t r = 0; r < a->n_rows; r++)
        for (uint32_t o = 0; o < a->w.n_out; o++) {
            size_t i = (size_t)r * a->w.n_out + o;
            double error = fabs((double)got[r * a->out_stride + o] - want[i]);
            if (!(error <= bound * sizes[i])) {
                CHECK_FAIL("%s: %u rows, k %u: [%u][%u] is off by %.3g of %.3g", ops->name,
                           a->n_rows, a->w.n_in, r, o, error, sizes[i]);
                return;
            }
        }
}

static void check_shape(const tarnk_ops *ops, uint32_t n_rows, uint32_t n_out, uint32_t n_in,
                        tarnk_dtype dtype, size_t misaligned)
{
    size_t x_stride = n_in + 3, out_stride = n_out + 2;
    float *x = bed_floats(x_stride * n_rows, n_rows, 1);
    float *out = bed_alloc(out_stride * n_rows * 4);
    if (dtype == TARNK_BF16 && bed_rounds(ops))
        bed_round_all(x, x_stride * n_rows);
    tarnk_matmul_args a = {.workspace = bed_workspace(n_rows, n_in),
                           .x = x,
                           .x_stride = x_stride,
                           .out = out,
                           .out_stride = out_stride};
    a.w = bed_matrix(n_out, n_in, dtype, misaligned, n_out);
    a.n_rows = n_rows;
    CHECK_EQ(ops->matmul(&a, 1, bed_context(2)), 0);
    check_products(ops, &a, out);
    for (uint32_t r = 0; r < n_rows; r++) /* the gaps between rows were not touched */
        CHECK(isnan(out[r * out_stride + n_out]) && isnan(out[r * out_stride + n_out + 1]));
}

CASE(shapes_with_edges_match_the_twin)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    const uint32_t ks[] = {1, 15, 16, 33, 90, 400};
    for (int t = 0; t < n_tables; t++) {
        for (uint32_t n_rows = 1; n_rows <= 14; n_rows++)
            for (int k = 0; k < 6; k++)
                check_shape(tables[t], n_rows, 11 + n_rows % 4, ks[k], n_rows % 2, (size_t)k);
        for (uint32_t n_out = 1; n_out <= 9; n_out++)
            check_shape(tables[t], 1 + n_out % 2 * 6, n_out, 90, TARNK_BF16, 1);
        check_shape(tables[t], 150, 70, 90, TARNK_BF16, 7);
        check_shape(tables[t], 70, 17, 9300, TARNK_F32, 0); /* several row blocks */
        bed_end();
    }
}

CASE(several_parts_in_one_go_add_and_round)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        const uint32_t n_rows = 5, k = 64;
        float *x = bed_floats((size_t)n_rows * k, 1, 1);
        void *workspace = bed_workspace(n_rows, k);
        const uint32_t n_outs[] = {300, 3, 48};
        tarnk_matmul_args parts[3];
        float *outs[3], *alone[3];
        for (int p = 0; p < 3; p++) {
            outs[p] = bed_floats((size_t)n_rows * n_outs[p], 7, 1);
            alone[p] = bed_copy(outs[p], (size_t)n_rows * n_outs[p] * 4);
            parts[p] = (tarnk_matmul_args){
                .x = x, .x_stride = k, .out = outs[p], .out_stride = n_outs[p], .n_rows = n_rows};
            parts[p].workspace = workspace;
            parts[p].w = bed_matrix(n_outs[p], k, p != 1, 0, (uint64_t)p);
            parts[p].accumulate = p == 1;
            parts[p].round = p == 2;
        }
        double want[15], sizes[15];
        twin_matmul(&parts[1], want, sizes);
        CHECK_EQ(tables[t]->matmul(parts, 3, bed_context(3)), 0);
        for (int i = 0; i < 15; i++)
            CHECK(fabs((double)outs[1][i] - want[i]) <= 5e-7 * sizes[i]);
        for (int p = 0; p < 3; p++) {
            parts[p].out = alone[p];
            parts[p].round = false;
            CHECK_EQ(tables[t]->matmul(&parts[p], 1, bed_context(1)), 0);
            if (p == 2)
                bed_round_all(alone[p], (size_t)n_rows * n_outs[p]);
            CHECK_BYTES(outs[p], alone[p], (size_t)n_rows * n_outs[p] * 4);
        }
        bed_end();
    }
}

CASE(rounding_to_bf16_is_nearest_even)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    const uint32_t bits[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff,
                             0x7f7fffff, 0x7f7f0000, 0x7f800000, 0xff800000,
                             0x00008001, 0x7fffffff, 0x7f800001, 0xbf818000};
    const uint32_t want[] = {0x3f800000, 0x3f820000, 0x3f810000, 0x3f800000,
                             0x7f800000, 0x7f7f0000, 0x7f800000, 0xff800000,
                             0x00010000, 0,          0,          0xbf820000};
    float x[12], one[] = {1.0F}, out[12];
    memcpy(x, bits, sizeof x);
    for (int t = 0; t < n_tables; t++) {
        tarnk_matmul_args a = {.x = x, .x_stride = 1, .out = out, .out_stride = 1, .n_rows = 12};
        a.w = bed_matrix_of(one, 1, 1, TARNK_F32);
        a.round = true;
        CHECK_EQ(tables[t]->matmul(&a, 1, bed_context(1)), 0);
        for (int i = 0; i < 12; i++) {
            uint32_t got;
            memcpy(&got, &out[i], sizeof got);
            if (want[i] == 0 ? !isnan(out[i]) || (got & 0xffff) != 0 : got != want[i])
                CHECK_FAIL("%s: %08x became %08x", tables[t]->name, bits[i], got);
        }
    }
    bed_end();
}

/* Any processor's bf16 products must be those of its contract: sixteen lane sums, of each pair the
 * second product first, each one fused. */
CASE(bf16_products_are_fused_in_the_stated_order)
{
    const tarnk_ops *ops = tarnk_cpu_ops(TARNK_ISA_AVX512BF16);
    if (!ops)
        SKIP("no AVX512-BF16 here");
    const uint32_t k = 33 + 64, n_out = 9, n_rows = 5;
    float *x = bed_floats((size_t)n_rows * k, 1, 1), *out = bed_alloc(n_rows * n_out * 4);
    float *w = bed_floats((size_t)n_out * k, 2, 1);
    bed_round_all(x, (size_t)n_rows * k);
    bed_round_all(w, (size_t)n_out * k);
    tarnk_matmul_args a = {
        .x = x, .x_stride = k, .out = out, .out_stride = n_out, .n_rows = n_rows};
    a.workspace = bed_workspace(n_rows, k);
    a.w = bed_matrix_of(w, n_out, k, TARNK_BF16);
    CHECK_EQ(ops->matmul(&a, 1, bed_context(2)), 0);
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t o = 0; o < n_out; o++) {
            float lanes[16] = {0};
            for (uint32_t i = 0; i < 2 * 64; i++) {
                uint32_t at = i ^ 1U; /* 1, 0, 3, 2, ... */
                if (at < k)
                    lanes[at % 32 / 2] = fmaf(x[r * k + at], w[o * k + at], lanes[at % 32 / 2]);
            }
            for (uint32_t width = 8; width > 0; width /= 2)
                for (uint32_t i = 0; i < width; i++)
                    lanes[i] += lanes[i + width];
            CHECK_BYTES(&out[r * n_out + o], &lanes[0], 4);
        }
    bed_end();
}

/* A NaN or infinity in one row stays there, and masked tails bring none in. */
CASE(rows_do_not_leak_into_each_other)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        const uint32_t k = 23, n_out = 9, n_rows = 8;
        float *x = bed_filled((size_t)n_rows * k, 1.0F), *out = bed_alloc(n_rows * n_out * 4);
        for (uint32_t i = 0; i < k; i++)
            x[3 * k + i] = NAN;
        tarnk_matmul_args a = {
            .x = x, .x_stride = k, .out = out, .out_stride = n_out, .n_rows = n_rows};
        a.workspace = bed_workspace(n_rows, k);
        a.w = bed_matrix(n_out, k, TARNK_BF16, 1, 5);
        CHECK_EQ(tables[t]->matmul(&a, 1, bed_context(2)), 0);
        for (uint32_t r = 0; r < n_rows; r++)
            for (uint32_t o = 0; o < n_out; o++)
                CHECK(isnan(out[r * n_out + o]) == (r == 3));
    }
    bed_end();
}

CHECK_MAIN(ENTRY(shapes_with_edges_match_the_twin), ENTRY(several_parts_in_one_go_add_and_round),
           ENTRY(rounding_to_bf16_is_nearest_even),
           ENTRY(bf16_products_are_fused_in_the_stated_order),
           ENTRY(rows_do_not_leak_into_each_other))
