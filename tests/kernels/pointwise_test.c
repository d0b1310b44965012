#include "check.h"
#include "bed.h"
#include "twin.h"

CASE(embed_copies_and_widens_rows)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    const uint32_t ids[] = {6, 0, 3, 3};
    for (int t = 0; t < n_tables; t++)
        for (uint32_t n = 16; n <= 90; n += 37)
            for (int dtype = 0; dtype < 2; dtype++) {
                tarnk_matrix table = bed_matrix(7, n, (tarnk_dtype)dtype, 3, n);
                float *out = bed_alloc(4 * n * sizeof *out);
                tarnk_embed_args args = {table, ids, out, 4};
                CHECK_EQ(tables[t]->embed(&args, bed_context(2)), 0);
                for (uint32_t r = 0; r < 4; r++)
                    for (uint32_t i = 0; i < n; i++)
                        if ((double)out[r * n + i] != twin_weight(&table, ids[r], i))
                            CHECK_FAIL("%s: row %u element %u is %g", tables[t]->name, r, i,
                                       (double)out[r * n + i]);
            }
    bed_end();
}

/* Relative to each value, over all of silu's range: this is also the test of exp. */
CASE(silu_mul_is_right_in_each_element)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    const uint32_t n = 9001, n_rows = 2, all = n * n_rows;
    float *gate = bed_alloc(all * sizeof *gate), *up = bed_filled(all, 1.5F);
    double *want = bed_alloc(all * sizeof *want);
    for (uint32_t i = 0; i < all; i++)
        gate[i] = -86.0F + 172.0F * (float)i / (float)all;
    for (int t = 0; t < n_tables; t++) {
        float *out = bed_alloc(all * sizeof *out);
        tarnk_silu_mul_args args = {gate, up, out, n_rows, n, false};
        CHECK_EQ(tables[t]->silu_mul(&args, bed_context(2)), 0);
        twin_silu_mul(&args, want);
        double worst = 0;
        for (uint32_t i = 0; i < all; i++)
            worst = fmax(worst, fabs((double)out[i] - want[i]) / (fabs(want[i]) + 1e-37));
        if (!(worst <= 5e-7))
            CHECK_FAIL("%s: relative error %.3g", tables[t]->name, worst);
        args.out = bed_copy(up, all * sizeof *up); /* in place */
        args.up = args.out;
        CHECK_EQ(tables[t]->silu_mul(&args, bed_context(1)), 0);
        CHECK_BYTES(args.out, out, all * sizeof *out);
    }
    bed_end();
}

CASE(silu_mul_of_special_values)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        float gate[] = {0.0F, -1000.0F, 1000.0F, NAN, INFINITY, -104.5F, -90.0F};
        float up[] = {1, 1, 1, 1, 1, 1, 1};
        tarnk_silu_mul_args args = {gate, up, gate, 1, 7, false};
        CHECK_EQ(tables[t]->silu_mul(&args, bed_context(1)), 0);
        CHECK(gate[0] == 0);
        CHECK(gate[1] == 0); /* no NaN, no infinity on the way */
        CHECK(gate[2] == 1000.0F);
        CHECK(isnan(gate[3]));
        CHECK(gate[4] == INFINITY);
        CHECK(fabs((double)gate[5]) < 1e-40);
        CHECK(fabs((double)gate[6] / (-90 * exp(-90)) - 1) < 1e-4); /* still there as a denormal */
    }
    bed_end();
}

CASE(silu_mul_rounds_to_bf16)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    float *gate = bed_floats(517, 1, 3), *up = bed_floats(517, 2, 3);
    for (int t = 0; t < n_tables; t++) {
        float *out = bed_alloc(517 * sizeof *out), *rounded = bed_alloc(517 * sizeof *out);
        tarnk_silu_mul_args args = {gate, up, out, 11, 47, false};
        CHECK_EQ(tables[t]->silu_mul(&args, bed_context(1)), 0);
        args.out = rounded;
        args.round = true;
        CHECK_EQ(tables[t]->silu_mul(&args, bed_context(1)), 0);
        bed_round_all(out, 517);
        CHECK_BYTES(rounded, out, 517 * sizeof *out);
    }
    bed_end();
}

CASE(best_table_is_one_of_those_that_run_here)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    CHECK(n_tables >= 1);
#if defined(TARN_BED_CUDA)
    SKIP("of CPU tables");
#endif
    const tarnk_ops *exact = tarnk_cpu_ops(TARNK_ISA_BEST);
    CHECK(tarnk_cpu_ops(TARNK_ISA_BEST_BF16) == tables[n_tables - 1]);
    if (bed_rounds(tables[n_tables - 1]))
        n_tables--;
    CHECK(exact == tables[n_tables - 1]);
    CHECK_TEXT(tables[0]->name, "cpu-generic");
    CHECK_TEXT(tables[0]->numerics, "cpu-plain16.2");
    for (int t = 1; t < n_tables; t++)
        CHECK_TEXT(tables[t]->numerics, "cpu-fma16.2");
}

CHECK_MAIN(ENTRY(embed_copies_and_widens_rows), ENTRY(silu_mul_is_right_in_each_element),
           ENTRY(silu_mul_of_special_values), ENTRY(silu_mul_rounds_to_bf16),
           ENTRY(best_table_is_one_of_those_that_run_here))
