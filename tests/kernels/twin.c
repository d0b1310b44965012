#include "twin.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *doubles(size_t n)
{
    double *x = calloc(n > 0 ? n : 1, sizeof *x);
    if (!x)
        exit(1);
    return x;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

double twin_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

static double element(const void *data, tarnk_dtype dtype, size_t i)
{
    if (dtype == TARNK_BF16) {
        uint16_t half;
        memcpy(&half, (const uint8_t *)data + 2 * i, sizeof half);
        return twin_bf16(half);
    }
    float value;
    memcpy(&value, (const uint8_t *)data + 4 * i, sizeof value);
    return (double)value;
}

double twin_weight(const tarnk_matrix *m, uint32_t o, uint32_t i)
{
    return element(m->data, m->dtype, (size_t)o * m->n_in + i);
}

void twin_silu_mul(const tarnk_silu_mul_args *a, double *out)
{
    for (size_t i = 0; i < (size_t)a->n_rows * a->n; i++)
        out[i] = (double)a->gate[i] * sigmoid((double)a->gate[i]) * (double)a->up[i];
}

static double rms_factor(const float *x, uint32_t n, double eps)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return 1 / sqrt(sum / n + eps);
}

void twin_norm_rms(const tarnk_norm_rms_args *a, double *out)
{
    for (uint32_t r = 0; r < a->n_rows; r++) {
        const float *x = a->x + r * a->x_stride;
        double factor = rms_factor(x, a->n, (double)a->eps);
        for (uint32_t i = 0; i < a->n; i++)
            out[(size_t)r * a->n + i] = (double)x[i] * factor * (double)a->weight[i];
    }
}

void twin_norm_gated(const tarnk_norm_gated_args *a, double *out)
{
    for (size_t h = 0; h < (size_t)a->n_rows * a->n_heads; h++) {
        double factor = rms_factor(a->x + h * a->n, a->n, (double)a->eps);
        for (uint32_t i = 0; i < a->n; i++) {
            size_t at = h * a->n + i;
            out[at] =
                (double)a->x[at] * factor * (double)a->weight[i] * sigmoid((double)a->gate[at]);
        }
    }
}

void twin_matmul(const tarnk_matmul_args *a, double *out, double *sizes)
{
    for (uint32_t r = 0; r < a->n_rows; r++)
        for (uint32_t o = 0; o < a->w.n_out; o++) {
            double old = a->accumulate ? (double)a->out[r * a->out_stride + o] : 0;
            double sum = old, size = fabs(old);
            for (uint32_t i = 0; i < a->w.n_in; i++) {
                double product = (double)a->x[r * a->x_stride + i] * twin_weight(&a->w, o, i);
                sum += product;
                size += fabs(product);
            }
            out[(size_t)r * a->w.n_out + o] = sum;
            sizes[(size_t)r * a->w.n_out + o] = size;
        }
}

/* Input t of a session for tap arithmetic: from the tail while t is negative. */
static double conv_input(const tarnk_conv1d_args *a, const tarnk_seq *s, uint32_t part, int t,
                         uint32_t c)
{
    int taps = (int)a->width - 1;
    if (t >= 0)
        return (double)a->x[part][((size_t)s->row_begin + (size_t)t) * a->n + c];
    size_t at = ((size_t)part * (size_t)taps + (size_t)(taps + t)) * a->n + c;
    return element(s->state_read + a->conv_offset, a->conv_dtype, at);
}

void twin_conv1d(const tarnk_conv1d_args *a, double *const *out)
{
    for (uint32_t i = 0; i < a->n_seqs; i++)
        for (uint32_t part = 0; part < TARNK_CONV_PARTS; part++)
            for (uint32_t t = 0; t < a->seqs[i].n_rows; t++)
                for (uint32_t c = 0; c < a->n; c++) {
                    double y = 0;
                    for (uint32_t j = 0; j < a->width; j++)
                        y += (double)a->weight[part][(size_t)c * a->width + j] *
                             conv_input(a, &a->seqs[i], part, (int)t - (int)(a->width - 1 - j), c);
                    out[part][((size_t)a->seqs[i].row_begin + t) * a->n + c] = y * sigmoid(y);
                }
}

void twin_kda_gate(const tarnk_kda_gate_args *a, double *q, double *k, double *g, double *beta)
{
    const uint32_t n = a->head_dim;
    for (size_t h = 0; h < (size_t)a->n_rows * a->n_heads; h++) {
        double qq = 0, kk = 0, rate = exp((double)a->a_log[h % a->n_heads]);
        for (size_t i = h * n; i < (h + 1) * n; i++) {
            qq += (double)a->q[i] * (double)a->q[i];
            kk += (double)a->k[i] * (double)a->k[i];
        }
        for (uint32_t i = 0; i < n; i++) {
            size_t at = h * n + i;
            double z = (double)a->f[at] + (double)a->dt_bias[h % a->n_heads * n + i];
            q[at] = (double)a->q[at] / sqrt(qq + 1e-6) / sqrt(n);
            k[at] = (double)a->k[at] / sqrt(kk + 1e-6);
            g[at] = a->gate_kind == TARNK_GATE_BOUNDED ? (double)a->lower_bound * sigmoid(rate * z)
                                                       : -rate * (z > 20 ? z : log1p(exp(z)));
        }
        beta[h] = sigmoid((double)a->b[h]);
    }
}

void twin_kda(const tarnk_kda_args *a, double *state, double *out)
{
    double *u = doubles(a->v_dim);
    for (uint32_t t = 0; t < a->seqs[0].n_rows; t++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            size_t at = ((size_t)a->seqs[0].row_begin + t) * a->n_heads + h;
            double *s = state + (size_t)h * a->k_dim * a->v_dim;
            double *o = out + at * a->v_dim;
            for (uint32_t j = 0; j < a->v_dim; j++) {
                double predicted = 0;
                for (uint32_t i = 0; i < a->k_dim; i++) {
                    s[i * a->v_dim + j] *= exp((double)a->g[at * a->k_dim + i]);
                    predicted += (double)a->k[at * a->k_dim + i] * s[i * a->v_dim + j];
                }
                u[j] = (double)a->beta[at] * ((double)a->v[at * a->v_dim + j] - predicted);
            }
            for (uint32_t j = 0; j < a->v_dim; j++) {
                o[j] = 0;
                for (uint32_t i = 0; i < a->k_dim; i++) {
                    s[i * a->v_dim + j] += (double)a->k[at * a->k_dim + i] * u[j];
                    o[j] += (double)a->q[at * a->k_dim + i] * s[i * a->v_dim + j];
                }
            }
        }
    free(u);
}

/* c|p of token t. */
static double latent(const tarnk_mla_args *a, uint32_t t, uint32_t i)
{
    size_t n = (size_t)a->rank + a->rope;
    return element(a->seqs[0].pages[t / TARNK_PAGE_TOKENS] + a->latent_offset, a->latent_dtype,
                   t % TARNK_PAGE_TOKENS * n + i);
}

/* Row `o` of kv_b times the latent of token t. */
static double expand(const tarnk_mla_args *a, uint32_t o, uint32_t t)
{
    double sum = 0;
    for (uint32_t i = 0; i < a->rank; i++)
        sum += twin_weight(&a->kv_b, o, i) * latent(a, t, i);
    return sum;
}

static void attend(const tarnk_mla_args *a, uint32_t h, const double *keys, const double *values,
                   uint32_t row, double *out)
{
    const uint32_t dim = a->nope + a->rope, n_keys = a->seqs[0].position + row + 1;
    const float *q = a->q + (((size_t)a->seqs[0].row_begin + row) * a->n_heads + h) * dim;
    double *p = doubles(n_keys), top = -INFINITY, sum = 0;
    for (uint32_t t = 0; t < n_keys; t++) {
        for (uint32_t i = 0; i < dim; i++)
            p[t] += (double)q[i] * keys[(size_t)t * dim + i];
        p[t] /= sqrt(dim);
        top = fmax(top, p[t]);
    }
    for (uint32_t t = 0; t < n_keys; t++)
        sum += p[t] = exp(p[t] - top);
    for (uint32_t j = 0; j < a->v_dim; j++) {
        out[j] = 0;
        for (uint32_t t = 0; t < n_keys; t++)
            out[j] += p[t] / sum * values[(size_t)t * a->v_dim + j];
    }
    free(p);
}

void twin_mla(const tarnk_mla_args *a, double *out)
{
    const uint32_t dim = a->nope + a->rope, n_rows = a->seqs[0].n_rows;
    const uint32_t n_keys = a->seqs[0].position + n_rows;
    double *keys = doubles((size_t)n_keys * dim), *values = doubles((size_t)n_keys * a->v_dim);
    for (uint32_t h = 0; h < a->n_heads; h++) {
        uint32_t first = h * (a->nope + a->v_dim);
        for (uint32_t t = 0; t < n_keys; t++) {
            for (uint32_t i = 0; i < dim; i++)
                keys[(size_t)t * dim + i] =
                    i < a->nope ? expand(a, first + i, t) : latent(a, t, a->rank + i - a->nope);
            for (uint32_t j = 0; j < a->v_dim; j++)
                values[(size_t)t * a->v_dim + j] = expand(a, first + a->nope + j, t);
        }
        for (uint32_t r = 0; r < n_rows; r++)
            attend(a, h, keys, values, r,
                   out + (((size_t)a->seqs[0].row_begin + r) * a->n_heads + h) * a->v_dim);
    }
    free(keys);
    free(values);
}

/* Is expert or group `i` among the k best? Counts those before it: plain, and quadratic. */
static bool among_best(const double *values, uint32_t n, uint32_t i, uint32_t k)
{
    uint32_t before = 0;
    for (uint32_t j = 0; j < n; j++)
        before += values[j] > values[i] || (values[j] == values[i] && j < i);
    return before < k;
}

static double group_total(const double *choice, uint32_t n)
{
    double first = -INFINITY, second = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        second = fmax(second, fmin(first, choice[i]));
        first = fmax(first, choice[i]);
    }
    return n > 1 ? first + second : first;
}

static void route_row(const tarnk_moe_route_args *a, const float *logits, double *scores,
                      double *choice, double *totals, uint32_t *experts, double *weights)
{
    const uint32_t n = a->n_experts;
    double top = -INFINITY, total = 0, sum = 0;
    for (uint32_t e = 0; e < n; e++)
        top = fmax(top, (double)logits[e]);
    for (uint32_t e = 0; e < n; e++)
        total += exp((double)logits[e] - top);
    for (uint32_t e = 0; e < n; e++) {
        scores[e] = a->kind == TARNK_ROUTER_SOFTMAX ? exp((double)logits[e] - top) / total
                                                    : sigmoid((double)logits[e]);
        choice[e] = scores[e] + (double)a->bias[e];
    }
    if (a->n_groups > 1) {
        uint32_t size = n / a->n_groups;
        for (uint32_t g = 0; g < a->n_groups; g++)
            totals[g] = group_total(choice + g * size, size);
        for (uint32_t e = 0; e < n; e++)
            if (!among_best(totals, a->n_groups, e / size, a->groups_kept))
                choice[e] = -INFINITY;
    }
    uint32_t kept = 0;
    for (uint32_t e = 0; e < n; e++)
        if (among_best(choice, n, e, a->top_k))
            experts[kept++] = e;
    for (uint32_t i = 0; i < a->top_k; i++)
        sum += scores[experts[i]];
    for (uint32_t i = 0; i < a->top_k; i++)
        weights[i] = scores[experts[i]] / (a->renormalize ? sum + 1e-20 : 1) * (double)a->scale;
}

void twin_moe_route(const tarnk_moe_route_args *a, uint32_t *experts, double *weights)
{
    double *work = doubles(3 * (size_t)a->n_experts);
    for (uint32_t r = 0; r < a->n_rows; r++)
        route_row(a, a->logits + (size_t)r * a->n_experts, work, work + a->n_experts,
                  work + 2 * (size_t)a->n_experts, experts + (size_t)r * a->top_k,
                  weights + (size_t)r * a->top_k);
    free(work);
}

static double product(const tarnk_matrix *w, uint32_t o, const float *x, const double *y)
{
    double sum = 0;
    for (uint32_t i = 0; i < w->n_in; i++)
        sum += twin_weight(w, o, i) * (x ? (double)x[i] : y[i]);
    return sum;
}

void twin_moe(const tarnk_moe_args *a, double *out)
{
    double *hidden = doubles(a->width);
    for (uint32_t r = 0; r < a->n_rows; r++) {
        const float *x = a->x + (size_t)r * a->n;
        double *y = out + (size_t)r * a->n;
        memset(y, 0, a->n * sizeof *y);
        for (uint32_t s = 0; s < a->top_k; s++) {
            uint32_t e = a->experts[(size_t)r * a->top_k + s];
            for (uint32_t i = 0; i < a->width; i++) {
                double gate = product(&a->w1[e], i, x, NULL);
                hidden[i] = gate * sigmoid(gate) * product(&a->w3[e], i, x, NULL);
            }
            for (uint32_t i = 0; i < a->n; i++)
                y[i] += (double)a->weights[(size_t)r * a->top_k + s] *
                        product(&a->w2[e], i, NULL, hidden);
        }
    }
    free(hidden);
}
