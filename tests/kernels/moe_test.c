#include "check.h"
#include "bed.h"
#include "oracle.h"
#include "twin.h"

static void check_stored(const oracle *o, const char *name, void *user)
{
    const tarnk_ops *ops = user;
    const uint32_t n_rows = oracle_dim(o, name, "logits", 0);
    const uint32_t n_experts = oracle_dim(o, name, "logits", 1);
    const uint32_t top_k = (uint32_t)*oracle_i32(o, name, "top_k");
    const size_t all = (size_t)n_rows * top_k;
    tarnk_moe_route_args a = {.logits = oracle_f32(o, name, "logits"),
                              .bias = oracle_f32(o, name, "bias"),
                              .experts = bed_alloc(all * 4),
                              .weights = bed_alloc(all * 4),
                              .n_rows = n_rows,
                              .n_experts = n_experts,
                              .top_k = top_k,
                              .n_groups = 1,
                              .groups_kept = 1,
                              .renormalize = *oracle_i32(o, name, "renormalize") != 0,
                              .scale = *oracle_f32(o, name, "scale")};
    CHECK_EQ(ops->moe_route(&a, bed_context(2)), 0);
    for (size_t i = 0; i < all; i++)
        if (a.experts[i] != (uint32_t)oracle_i32(o, name, "experts")[i]) {
            CHECK_FAIL("%s: %s: choice %zu is expert %u", ops->name, name, i, a.experts[i]);
            return;
        }
    CHECK_CLOSE(a.weights, oracle_f32(o, name, "weights"), all, 1e-6);
}

CASE(stored_routes)
{
    oracle o;
    REQUIRE(oracle_open(&o, "router"));
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++)
        CHECK_EQ(oracle_each(&o, "logits", check_stored, (void *)(uintptr_t)tables[t]), 10);
    oracle_close(&o);
    bed_end();
}

CASE(groups_and_softmax_match_the_twin)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++)
        for (uint32_t groups = 1; groups <= 24; groups *= 2) {
            const uint32_t n_rows = 30, n_experts = 48, top_k = 3;
            uint32_t experts[90];
            double want[90];
            tarnk_moe_route_args a = {.logits = bed_floats((size_t)n_rows * n_experts, groups, 2),
                                      .bias = bed_floats(n_experts, 9, 0.3F),
                                      .experts = bed_alloc(sizeof experts),
                                      .weights = bed_alloc(90 * 4),
                                      .n_rows = n_rows,
                                      .n_experts = n_experts,
                                      .top_k = top_k,
                                      .n_groups = groups,
                                      .groups_kept = groups / 2 + 1,
                                      .scale = 2.5F,
                                      .kind = groups % 3 == 1 ? TARNK_ROUTER_SOFTMAX
                                                              : TARNK_ROUTER_SIGMOID,
                                      .renormalize = groups > 2};
            if (groups == 16)
                a.n_groups = 12;
            if (groups == 8)
                a.n_groups = 48, a.groups_kept = 7; /* groups of one */
            twin_moe_route(&a, experts, want);
            CHECK_EQ(tables[t]->moe_route(&a, bed_context(2)), 0);
            CHECK_BYTES(a.experts, experts, sizeof experts);
            CHECK(bed_error(a.weights, want, 90) <= 1e-6);
        }
    bed_end();
}

CASE(nan_logits_choose_valid_distinct_experts)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++)
        for (int kind = 0; kind < 2; kind++)
            for (uint32_t groups = 1; groups <= 4; groups += 3) {
                const uint32_t n_experts = 20, top_k = 6;
                float *logits = bed_filled(3 * n_experts, NAN);
                for (uint32_t e = 0; e < n_experts; e++) {
                    logits[n_experts + e] = e % 7 == 3 ? NAN : (float)e;
                    logits[2 * n_experts + e] = e % 2 ? INFINITY : -INFINITY;
                }
                tarnk_moe_route_args a = {.logits = logits,
                                          .bias = bed_filled(n_experts, 0),
                                          .experts = bed_alloc(18 * 4),
                                          .weights = bed_alloc(18 * 4),
                                          .n_rows = 3,
                                          .n_experts = n_experts,
                                          .top_k = top_k,
                                          .n_groups = groups,
                                          .groups_kept = 1,
                                          .scale = 1,
                                          .kind = (tarnk_router_kind)kind,
                                          .renormalize = true};
                CHECK_EQ(tables[t]->moe_route(&a, bed_context(1)), 0);
                for (uint32_t i = 0; i < 18; i++) {
                    CHECK(a.experts[i] < n_experts);
                    CHECK(i % top_k == 0 || a.experts[i] > a.experts[i - 1]);
                }
                CHECK(isnan(a.weights[0])); /* it shows, rather than routing to expert 0 for ever */
            }
    bed_end();
}

/* Rows share experts unevenly: some experts get none, one gets nearly all rows. */
static void check_experts(const tarnk_ops *ops, tarnk_dtype dtype, uint32_t n_rows, uint32_t n,
                          uint32_t width)
{
    const uint32_t n_experts = 12, top_k = 3;
    tarnk_matrix w1[12], w3[12], w2[12];
    for (uint32_t e = 0; e < n_experts; e++) {
        w1[e] = bed_matrix(width, n, dtype, e % 3, e);
        w3[e] = bed_matrix(width, n, dtype, e % 2, 100 + e);
        w2[e] = bed_matrix(n, width, dtype, e % 5, 200 + e);
    }
    const size_t all = (size_t)n_rows * n;
    float *start = bed_floats(all, 8, 1);
    tarnk_moe_args a = {.x = bed_floats(all, 7, 1),
                        .w1 = w1,
                        .w3 = w3,
                        .w2 = w2,
                        .out = bed_copy(start, all * 4),
                        .n_rows = n_rows,
                        .n = n,
                        .width = width,
                        .n_experts = n_experts,
                        .top_k = top_k};
    uint32_t *experts = bed_alloc((size_t)n_rows * top_k * 4);
    for (uint32_t r = 0; r < n_rows; r++) {
        experts[r * top_k] = r % 9 == 5 ? 1 : 2;
        experts[r * top_k + 1] = 3 + r % 3;
        experts[r * top_k + 2] = 7 + r % 4;
    }
    a.experts = experts;
    a.weights = bed_floats((size_t)n_rows * top_k, 9, 1);
    a.workspace = bed_alloc(tarnk_moe_workspace(n_rows, n, width, n_experts, top_k));
    CHECK_EQ(ops->moe(&a, bed_context(3)), 0);
    double *want = bed_alloc(all * sizeof *want);
    twin_moe(&a, want);
    for (size_t i = 0; i < all; i++)
        want[i] += (double)start[i];
    double error = bed_error(a.out, want, all);
    const bool rounds = bed_rounds(ops) && dtype == TARNK_BF16;
    if (!(error <= (rounds ? 8e-3 : 1e-6)))
        CHECK_FAIL("%s: %u rows, n %u, width %u: off by %.3g", ops->name, n_rows, n, width, error);
    float *fine = bed_copy(a.out, all * 4);
    memcpy(a.out, start, all * 4);
    a.round = true; /* the product before w2 in bf16: near, but not the same */
    CHECK_EQ(ops->moe(&a, bed_context(1)), 0);
    error = bed_error(a.out, want, all);
    CHECK(error <= 8e-3);
    CHECK((memcmp(a.out, fine, all * 4) == 0) == rounds);
}

CASE(experts_match_the_twin)
{
    const tarnk_ops *tables[BED_TABLES_MAX];
    int n_tables = bed_tables(tables);
    for (int t = 0; t < n_tables; t++) {
        check_experts(tables[t], TARNK_F32, 1, 90, 20);
        check_experts(tables[t], TARNK_BF16, 2, 64, 24);
        check_experts(tables[t], TARNK_BF16, 100, 90, 20); /* two row blocks of one expert */
        check_experts(tables[t], TARNK_F32, 7, 1100, 33);
        bed_end();
    }
}

CHECK_MAIN(ENTRY(stored_routes), ENTRY(groups_and_softmax_match_the_twin),
           ENTRY(nan_logits_choose_valid_distinct_experts), ENTRY(experts_match_the_twin))
