#include "check.h"
#include "bed.h"
#include "oracle.h"
#include "twin.h"

/* A stored case has one part and its tail as [C][3]; it is given as all three parts. */
static void check_stored(const oracle *o, const char *name, void *user)
{
    const tarnk_ops *ops = user;
    const uint32_t n_rows = oracle_dim(o, name, "x", 0), n = oracle_dim(o, name, "x", 1), taps = 3;
    const float *tail = oracle_f32(o, name, "tail"), *tail_out = oracle_f32(o, name, "tail_out");
    float *slot = bed_alloc((size_t)TARNK_CONV_PARTS * taps * n * 4);
    tarnk_conv1d_args a = {.n_seqs = 1, .n = n, .width = 4};
    for (uint32_t p = 0; p < TARNK_CONV_PARTS; p++) {
        a.x[p] = oracle_f32(o, name, "x");
        a.weight[p] = oracle_f32(o, name, "weight");
        a.out[p] = bed_alloc((size_t)n_rows * n * 4);
        for (uint32_t j = 0; j < taps; j++)
            for (uint32_t c = 0; c < n; c++)
                slot[(p * taps + j) * n + c] = tail[c * taps + j];
    }
    tarnk_seq seq = {
        .n_rows = n_rows, .state_read = (uint8_t *)slot, .state_write = (uint8_t *)slot};
    a.seqs = &seq;
    CHECK_EQ(ops->conv1d(&a, bed_context(2)), 0);
    for (uint32_t p = 0; p < TARNK_CONV_PARTS; p++) {
        CHECK_CLOSE(a.out[p], oracle_f32(o, name, "y"), (size_t)n_rows * n, 1e-6);
        for (uint32_t j = 0; j < taps; j++)
            for (uint32_t c = 0; c < n; c++)
                CHECK(slot[(p * taps + j) * n + c] == tail_out[c * taps + j]);
    }
}

CASE(stored_cases)
{
    oracle o;
    REQUIRE(oracle_open(&o, "conv"));
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++)
        CHECK_EQ(oracle_each(&o, "y", check_stored, (void *)(uintptr_t)tables[t]), 5);
    oracle_close(&o);
    bed_end();
}

/* Two sessions, odd sizes, a slot pair that differs, both tail dtypes. */
static void check_twin(const tarnk_ops *ops, tarnk_dtype dtype, uint32_t width, uint32_t n,
                       uint32_t n_rows)
{
    const size_t offset = 40, taps = width - 1, item = dtype == TARNK_BF16 ? 2 : 4;
    const size_t tail_items = TARNK_CONV_PARTS * taps * n, slot_bytes = offset + tail_items * item;
    uint8_t *read[2], *write[2];
    tarnk_seq seqs[2];
    for (uint32_t s = 0; s < 2; s++) {
        read[s] = bed_alloc(slot_bytes);
        write[s] = bed_alloc(slot_bytes);
        float *values = bed_floats(tail_items, s + 3, 1);
        tarnk_matrix tail = bed_matrix_of(values, 1, (uint32_t)tail_items, dtype);
        memcpy(read[s] + offset, tail.data, tail_items * item);
        seqs[s] = (tarnk_seq){.row_begin = s == 0 ? 0 : n_rows,
                              .n_rows = s == 0 ? n_rows : 1,
                              .state_read = read[s],
                              .state_write = write[s]};
    }
    uint8_t *before = bed_copy(read[0], slot_bytes);
    tarnk_conv1d_args a = {.seqs = seqs,
                           .n_seqs = 2,
                           .n = n,
                           .width = width,
                           .conv_offset = offset,
                           .conv_dtype = dtype};
    double *want[TARNK_CONV_PARTS];
    const size_t all = (size_t)(n_rows + 1) * n;
    for (uint32_t p = 0; p < TARNK_CONV_PARTS; p++) {
        float *x = bed_floats(all, p + 10, 1);
        if (dtype == TARNK_BF16)
            bed_round_all(x, all);
        a.x[p] = x;
        a.weight[p] = bed_floats((size_t)n * width, p + 20, 1);
        a.out[p] = bed_alloc(all * 4);
        want[p] = bed_alloc(all * sizeof(double));
    }
    twin_conv1d(&a, want);
    CHECK_EQ(ops->conv1d(&a, bed_context(3)), 0);
    CHECK_BYTES(read[0], before, slot_bytes);
    for (uint32_t p = 0; p < TARNK_CONV_PARTS; p++) {
        double error = bed_error(a.out[p], want[p], all);
        if (!(error <= 1e-6))
            CHECK_FAIL("%s: width %u, part %u is off by %.3g", ops->name, width, p, error);
        for (size_t j = 0; j < taps; j++) /* the new tail: the last inputs, old tail included */
            for (uint32_t c = 0; c < n; c++) {
                int from = (int)n_rows - (int)taps + (int)j;
                size_t at = offset + ((p * taps + j) * n + c) * item;
                size_t old = at + (size_t)(n_rows * n) * item;
                const float *x = &a.x[p][(from < 0 ? 0 : (size_t)from) * n + c];
                uint32_t bits;
                memcpy(&bits, x, sizeof bits);
                uint16_t half = (uint16_t)(bits >> 16);
                const void *value = from < 0              ? (void *)(read[0] + old)
                                    : dtype == TARNK_BF16 ? (void *)&half
                                                          : (void *)&bits;
                CHECK(memcmp(write[0] + at, value, item) == 0);
            }
    }
}

CASE(all_widths_lengths_and_tail_dtypes_match_the_twin)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        for (uint32_t width = 2; width <= TARNK_CONV_WIDTH_MAX; width++)
            for (uint32_t n_rows = 1; n_rows <= 9; n_rows++)
                check_twin(tables[t], n_rows % 2, width, 70, n_rows);
        check_twin(tables[t], TARNK_BF16, 4, 129, 2);
        check_twin(tables[t], TARNK_F32, 4, 1, 3);
        bed_end();
    }
}

CHECK_MAIN(ENTRY(stored_cases), ENTRY(all_widths_lengths_and_tail_dtypes_match_the_twin))
