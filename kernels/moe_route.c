/* moe_route.c - see tarnk_moe_route_args in moe.h. A task is one row.
 *
 * The choice keeps a list of the best so far, worst last; experts come by ascending index and only
 * a strictly better one enters, so equal scores go to the lowest index. NaN never compares as
 * better: it is put in as minus infinity, and every index in the list is valid whatever comes. */
#include "moe.h"

#include "isa.h"
#include "simd.h"

#define WORST (-__builtin_inff())

static void scores_sigmoid(float *scores, const float *logits, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(n, i);
        v16_store_upto(scores + i, v16_sigmoid(v16_load_upto(logits + i, lanes)), lanes);
    }
}

static void scores_softmax(float *scores, const float *logits, uint32_t n)
{
    float top = logits[0], lanes16[SIMD_LANES];
    for (uint32_t i = 1; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    v16 sum = v16_set1(0.0F);
    for (uint32_t i = 0; i < n; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(n, i);
        v16 e = v16_exp(v16_sub(v16_load_upto(logits + i, lanes), v16_set1(top)));
        v16_store_upto(scores + i, e, lanes);
        v16_store(lanes16, e);
        for (uint32_t l = lanes; l < SIMD_LANES; l++)
            lanes16[l] = 0; /* the zeros loaded behind the end count for nothing */
        sum = v16_add(sum, v16_load(lanes16));
    }
    v16 total = v16_set1(v16_sum(sum));
    for (uint32_t i = 0; i < n; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(n, i);
        v16_store_upto(scores + i, v16_div(v16_load_upto(scores + i, lanes), total), lanes);
    }
}

/* Indices of the k best of n, best first. */
static void choose(const float *values, uint32_t n, uint32_t k, uint32_t *best)
{
    for (uint32_t i = 0, kept = 0; i < n; i++) {
        if (kept == k && !(values[i] > values[best[k - 1]]))
            continue;
        uint32_t at = kept < k ? kept++ : k - 1;
        for (; at > 0 && values[i] > values[best[at - 1]]; at--)
            best[at] = best[at - 1];
        best[at] = i;
    }
}

/* Leaves the experts of the best groups their choice scores, gives all others the worst. */
static void keep_groups(const tarnk_moe_route_args *a, float *choice, uint32_t *best)
{
    float totals[TARNK_EXPERTS_MAX];
    const uint32_t size = a->n_experts / a->n_groups;
    for (uint32_t g = 0; g < a->n_groups; g++) {
        float first = WORST, second = WORST;
        for (uint32_t i = 0; i < size; i++) {
            float c = choice[g * size + i];
            if (c > first) {
                second = first;
                first = c;
            } else if (c > second) {
                second = c;
            }
        }
        totals[g] = size > 1 ? first + second : first;
    }
    choose(totals, a->n_groups, a->groups_kept, best);
    bool kept[TARNK_EXPERTS_MAX] = {false};
    for (uint32_t i = 0; i < a->groups_kept; i++)
        kept[best[i]] = true;
    for (uint32_t e = 0; e < a->n_experts; e++)
        if (!kept[e / size])
            choice[e] = WORST;
}

static void sort_ascending(uint32_t *experts, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = i; j > 0 && experts[j - 1] > experts[j]; j--) {
            uint32_t swap = experts[j];
            experts[j] = experts[j - 1];
            experts[j - 1] = swap;
        }
}

static void route_task(void *arg, uint32_t row)
{
    const tarnk_moe_route_args *a = arg;
    const float *logits = a->logits + (size_t)row * a->n_experts;
    uint32_t *experts = a->experts + (size_t)row * a->top_k;
    float *weights = a->weights + (size_t)row * a->top_k;
    float scores[TARNK_EXPERTS_MAX], choice[TARNK_EXPERTS_MAX];
    uint32_t best[TARNK_EXPERTS_MAX];
    if (a->kind == TARNK_ROUTER_SOFTMAX)
        scores_softmax(scores, logits, a->n_experts);
    else
        scores_sigmoid(scores, logits, a->n_experts);
    for (uint32_t e = 0; e < a->n_experts; e++) {
        choice[e] = scores[e] + a->bias[e];
        if (choice[e] != choice[e])
            choice[e] = WORST;
    }
    if (a->n_groups > 1)
        keep_groups(a, choice, best);
    choose(choice, a->n_experts, a->top_k, best);
    memcpy(experts, best, a->top_k * sizeof *experts);
    sort_ascending(experts, a->top_k);
    float sum = 0;
    for (uint32_t i = 0; i < a->top_k; i++)
        sum += scores[experts[i]];
    for (uint32_t i = 0; i < a->top_k; i++) {
        float w = scores[experts[i]];
        weights[i] = (a->renormalize ? w / (sum + 1e-20F) : w) * a->scale;
    }
}

int TARNK(moe_route)(const tarnk_moe_route_args *args, const tarnk_context *context)
{
    tarnk_moe_route_args job = *args;
    context->run(context->pool, job.n_rows, route_task, &job);
    return 0;
}
