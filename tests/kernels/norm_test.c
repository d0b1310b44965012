#include "check.h"
#include "bed.h"
#include "oracle.h"
#include "twin.h"

/* Row by row, largest difference over the row's largest value. */
static void check_rows(const char *name, const float *got, const double *want, uint32_t n_rows,
                       uint32_t n, double bound)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        double error = bed_error(got + (size_t)r * n, want + (size_t)r * n, n);
        if (!(error <= bound))
            CHECK_FAIL("%s: row %u is off by %.3g, the bound is %.3g", name, r, error, bound);
    }
}

static void check_stored(const oracle *o, const tarnk_ops *ops, const char *tensor, float eps)
{
    uint32_t n_rows = oracle_dim(o, "", "x", 0), n = oracle_dim(o, "", "x", 1);
    const float *stored = oracle_f32(o, "", tensor);
    float *out = bed_alloc((size_t)n_rows * n * sizeof *out);
    double *want = bed_alloc((size_t)n_rows * n * sizeof *want);
    for (size_t i = 0; i < (size_t)n_rows * n; i++)
        want[i] = (double)stored[i];
    if (strncmp(tensor, "gated", 5) == 0) {
        tarnk_norm_gated_args args = {oracle_f32(o, "", "x"),
                                      oracle_f32(o, "", "gate"),
                                      oracle_f32(o, "", "weight"),
                                      out,
                                      n_rows,
                                      1,
                                      n,
                                      eps,
                                      false};
        CHECK_EQ(ops->norm_gated(&args, bed_context(2)), 0);
    } else {
        tarnk_norm_rms_args args = {
            oracle_f32(o, "", "x"), n, oracle_f32(o, "", "weight"), out, n_rows, n, eps, false};
        CHECK_EQ(ops->norm_rms(&args, bed_context(2)), 0);
    }
    check_rows(tensor, out, want, n_rows, n, 1e-6);
}

CASE(stored_cases)
{
    oracle o;
    REQUIRE(oracle_open(&o, "norm"));
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        check_stored(&o, tables[t], "rms_1e-5", 1e-5F);
        check_stored(&o, tables[t], "rms_1e-6", 1e-6F);
        check_stored(&o, tables[t], "gated_1e-5", 1e-5F);
    }
    oracle_close(&o);
    bed_end();
}

CASE(strided_rows_of_any_length_match_the_twin)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    const uint32_t lengths[] = {1, 15, 16, 17, 90, 2304};
    for (int t = 0; t < n_tables; t++)
        for (int l = 0; l < 6; l++) {
            uint32_t n = lengths[l], stride = n + 5, n_rows = 3;
            float *x = bed_floats((size_t)stride * n_rows, n, 2);
            float *weight = bed_floats(n, n + 1, 1), *out = bed_alloc((size_t)n * n_rows * 4);
            double *want = bed_alloc((size_t)n * n_rows * sizeof *want);
            tarnk_norm_rms_args args = {x, stride, weight, out, n_rows, n, 1e-5F, false};
            CHECK_EQ(tables[t]->norm_rms(&args, bed_context(1)), 0);
            twin_norm_rms(&args, want);
            check_rows(tables[t]->name, out, want, n_rows, n, 1e-6);
            float *rounded = bed_alloc((size_t)n * n_rows * 4);
            args.out = rounded;
            args.round = true;
            CHECK_EQ(tables[t]->norm_rms(&args, bed_context(3)), 0);
            bed_round_all(out, (size_t)n * n_rows);
            CHECK_BYTES(rounded, out, (size_t)n * n_rows * 4);
        }
    bed_end();
}

CASE(gated_heads_match_the_twin_in_place_and_rounded)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++)
        for (uint32_t n = 24; n <= 60; n += 36) {
            const uint32_t n_rows = 4, n_heads = 11;
            size_t all = (size_t)n_rows * n_heads * n;
            float *x = bed_floats(all, 3, 2), *gate = bed_floats(all, 4, 5);
            float *out = bed_alloc(all * 4), *weight = bed_floats(n, 5, 1);
            double *want = bed_alloc(all * sizeof *want);
            tarnk_norm_gated_args args = {x, gate, weight, out, n_rows, n_heads, n, 1e-5F, false};
            CHECK_EQ(tables[t]->norm_gated(&args, bed_context(2)), 0);
            twin_norm_gated(&args, want);
            check_rows(tables[t]->name, out, want, n_rows * n_heads, n, 1e-6);
            args.out = x;
            args.round = true;
            CHECK_EQ(tables[t]->norm_gated(&args, bed_context(1)), 0);
            bed_round_all(out, all);
            CHECK_BYTES(x, out, all * 4);
        }
    bed_end();
}

CHECK_MAIN(ENTRY(stored_cases), ENTRY(strided_rows_of_any_length_match_the_twin),
           ENTRY(gated_heads_match_the_twin_in_place_and_rounded))
