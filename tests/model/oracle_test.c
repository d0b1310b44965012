/* Whole models against expected logits and session states, made by an fp64 implementation. */
#include "check.h"
#include "model_run.h"
#include "scratch.h"
#include "shards.h"

#include <jansson.h>
#include <stdarg.h>

#define F32_BOUND  2e-5
#define BF16_SLACK 1.5 /* the reference's own bf16 run, whose error is the measure, is one draw */

/* Bounds of each kind of value, in the order of KINDS. */
static const char *const KINDS[] = {"logits",     "kda.state",  "kda.conv_q",
                                    "kda.conv_k", "kda.conv_v", "mla.latent"};
enum { LOGITS, STATE, CONV, LATENT = CONV + 3, N_KINDS };

typedef struct oracle {
    model_run model;
    tarni_safetensors expected;
    double bounds[N_KINDS];
    char name[32];
} oracle;

static const tarni_safetensor *expected(const oracle *o, const char *format, ...) TARN_PRINTF(2, 3);

static const tarni_safetensor *expected(const oracle *o, const char *format, ...)
{
    char name[128];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    for (size_t i = 0; i < o->expected.n_tensors; i++)
        if (strcmp(o->expected.tensors[i].name, name) == 0)
            return &o->expected.tensors[i];
    return NULL;
}

/* An aligned copy, to be freed. */
static void *copy_of(const tarni_safetensor *t)
{
    void *copy = malloc((size_t)t->n_bytes);
    memcpy(copy, t->data, (size_t)t->n_bytes);
    return copy;
}

static bool read_bounds(oracle *o, const char *path, bool is_bf16)
{
    for (int i = 0; i < N_KINDS; i++)
        o->bounds[i] = F32_BOUND;
    if (!is_bf16)
        return true;
    json_t *root = json_load_file(path, 0, NULL);
    json_t *bf16 = json_object_get(json_object_get(root, "tolerance"), "bf16");
    for (int i = 0; i < N_KINDS; i++)
        o->bounds[i] = BF16_SLACK * json_number_value(json_object_get(bf16, KINDS[i]));
    json_decref(root);
    CHECK(o->bounds[LATENT] > 0);
    return bf16 != NULL;
}

static bool oracle_open(oracle *o, const char *name, tarni_numerics numerics, tarnk_isa isa)
{
    char path[512], *owned;
    tarn_error err;
    memset(o, 0, sizeof *o);
    snprintf(o->name, sizeof o->name, "%s", name);
    snprintf(path, sizeof path, "%s/oracle/%s/model", TEST_DATA, name);
    if (!model_run_open(&o->model, path, numerics, tarnk_cpu_ops(isa), 2, 256))
        return false;
    snprintf(path, sizeof path, "%s/oracle/%s/measured.json", TEST_DATA, name);
    bool ok = read_bounds(o, path, o->model.layout.round);
    snprintf(path, sizeof path, "%s/oracle/%s/expected.safetensors", TEST_DATA, name);
    o->expected.allocator = &tarni_heap;
    if (tarni_copy_text(&tarni_heap, path, strlen(path), &owned, &err) != TARN_OK ||
        tarni_safetensors_add(&o->expected, owned, &err) != TARN_OK) {
        CHECK_FAIL("%s", err.detail);
        ok = false;
    }
    return ok;
}

static void oracle_close(oracle *o)
{
    tarni_safetensors_close(&o->expected);
    model_run_close(&o->model);
}

static void report(const oracle *o, const char *what, int kind, double error)
{
    if (!(error <= o->bounds[kind]))
        CHECK_FAIL("%s: %s is off by %.3g, the bound is %.3g", o->name, what, error,
                   o->bounds[kind]);
}

static float value_at(const void *data, tarnk_dtype dtype, size_t i)
{
    uint32_t bits;
    float value;
    if (dtype == TARNK_F32)
        return ((const float *)data)[i];
    bits = (uint32_t)((const uint16_t *)data)[i] << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- the state ------------------------------------------------------------------------------- */

static void check_kda(const oracle *o, const session_memory *s, const char *at, uint32_t l,
                      uint32_t kda_idx)
{
    const tarni_spec *spec = &o->model.spec;
    const tarni_layout *layout = &o->model.layout;
    size_t head = (size_t)spec->kda_dim * spec->kda_dim, taps = spec->conv_width - 1;
    size_t channels = (size_t)spec->kda_heads * spec->kda_dim;
    const float *state = (const float *)(s->slot + kda_idx * layout->state_stride);
    const tarni_safetensor *t = expected(o, "%slayers.%u.kda.state", at, l);
    REQUIRE(t != NULL && t->n_bytes == layout->state_bytes);
    float *want = copy_of(t);
    for (size_t h = 0; h < spec->kda_heads; h++)
        report(o, t->name, STATE, check_rel(state + h * head, want + h * head, head));
    free(want);
    const uint8_t *tail = s->slot + layout->conv_begin + kda_idx * layout->conv_stride;
    float *got = malloc(channels * taps * sizeof *got);
    for (size_t part = 0; part < 3; part++) {
        t = expected(o, "%slayers.%u.%s", at, l, KINDS[CONV + part]);
        REQUIRE(t != NULL && t->n_bytes == channels * taps * sizeof *got);
        want = copy_of(t);
        for (size_t c = 0; c < channels; c++)
            for (size_t j = 0; j < taps; j++)
                got[c * taps + j] =
                    value_at(tail, layout->conv_dtype, (part * taps + j) * channels + c);
        report(o, t->name, CONV + (int)part, check_rel(got, want, channels * taps));
        free(want);
    }
    free(got);
}

static void check_mla(const oracle *o, const session_memory *s, const char *at, uint32_t l,
                      uint32_t mla_idx)
{
    const tarni_spec *spec = &o->model.spec;
    const tarni_layout *layout = &o->model.layout;
    const tarni_safetensor *t = expected(o, "%slayers.%u.mla.latent", at, l);
    size_t n = s->position, rank = spec->rank, rope = spec->rope, width = rank + rope;
    REQUIRE(t != NULL && t->n_bytes == n * width * sizeof(float));
    float *want = copy_of(t), *got = malloc(4 * n * width * sizeof *got), *at_got = got;
    float *want_parts = got + 2 * n * width, *at_want = want_parts;
    for (int part = 0; part < 2; part++) /* the latent of all rows, then the shared key part */
        for (size_t row = 0; row < n; row++)
            for (size_t i = part ? rank : 0; i < (part ? width : rank); i++) {
                const uint8_t *page =
                    s->pages[row / TARNK_PAGE_TOKENS] + mla_idx * layout->latent_stride;
                *at_got++ =
                    value_at(page, layout->latent_dtype, row % TARNK_PAGE_TOKENS * width + i);
                *at_want++ = want[row * width + i];
            }
    report(o, t->name, LATENT, check_rel(got, want_parts, n * rank));
    report(o, t->name, LATENT, check_rel(got + n * rank, want_parts + n * rank, n * rope));
    free(got);
    free(want);
}

static void check_state(const oracle *o, const session_memory *s, const char *at)
{
    uint32_t kda_idx = 0, mla_idx = 0;
    for (uint32_t l = 0; l < o->model.spec.n_layers; l++) {
        if (o->model.spec.kinds[l] == TARNI_LAYER_KDA)
            check_kda(o, s, at, l, kda_idx++);
        else
            check_mla(o, s, at, l, mla_idx++);
    }
}

/* ---- sequences ------------------------------------------------------------------------------- */

/* Appends the tokens of `prefix`, stopping wherever a state is stored, and compares everything. */
static void check_sequence(oracle *o, const char *prefix)
{
    const tarni_safetensor *t = expected(o, "%stokens", prefix);
    REQUIRE(t != NULL);
    uint32_t n = (uint32_t)(t->n_bytes / 4), vocab = o->model.spec.vocab, n_states = 0;
    uint32_t *ids = copy_of(t);
    float *logits = malloc((size_t)n * vocab * sizeof *logits);
    session_memory s;
    session_memory_init(&s, &o->model.layout, n);
    for (uint32_t end = 1; end <= n; end++) {
        char at[32];
        snprintf(at, sizeof at, "%sat.%u.", prefix, end);
        bool has_state = expected(o, "%slayers.0.kda.state", at) != NULL;
        if (!has_state && end < n)
            continue;
        int error = model_run_feed(&o->model, &s, ids + s.position, end - s.position,
                                   logits + (size_t)s.position * vocab);
        CHECK_EQ(error, 0);
        if (has_state)
            check_state(o, &s, at);
        n_states += has_state;
    }
    CHECK(n_states > 0 || (*prefix && strcmp(o->name, "real-heads-bf16") == 0));
    t = expected(o, "%slogits", prefix);
    REQUIRE(t != NULL && t->n_bytes == (uint64_t)n * vocab * 4);
    float *want = copy_of(t);
    report(o, t->name, LOGITS, check_rel(logits, want, (size_t)n * vocab));
    session_memory_fini(&s);
    free(want);
    free(logits);
    free(ids);
}

static void check_set(const char *name, tarni_numerics numerics)
{
    /* Bf16 products are for numerics that round. */
    static const tarnk_isa isas[] = {TARNK_ISA_GENERIC, TARNK_ISA_BEST, TARNK_ISA_BEST_BF16};
    for (int i = 0; i < (numerics == TARNI_NUMERICS_F32 ? 2 : 3); i++) {
        oracle o;
        REQUIRE(oracle_open(&o, name, numerics, isas[i]));
        check_sequence(&o, "");
        check_sequence(&o, "len1.");
        check_sequence(&o, "len3.");
        oracle_close(&o);
    }
}

CASE(tiny_f32)
{
    check_set("tiny-f32", TARNI_NUMERICS_F32);
    check_set("tiny-f32", TARNI_NUMERICS_NATIVE);
}

CASE(odd_bf16_in_f32)
{
    check_set("odd-bf16", TARNI_NUMERICS_F32);
}

CASE(odd_bf16_native)
{
    check_set("odd-bf16", TARNI_NUMERICS_NATIVE);
}

CASE(real_heads_bf16_in_f32)
{
    check_set("real-heads-bf16", TARNI_NUMERICS_F32);
}

CASE(real_heads_bf16_native)
{
    check_set("real-heads-bf16", TARNI_NUMERICS_NATIVE);
}

CASE(greedy_continuations)
{
    static const char *const names[] = {"tiny-f32", "odd-bf16", "real-heads-bf16"};
    for (int i = 0; i < 3; i++) {
        oracle o;
        REQUIRE(oracle_open(&o, names[i], TARNI_NUMERICS_F32, TARNK_ISA_BEST));
        const tarni_safetensor *t = expected(&o, "tokens"), *g = expected(&o, "greedy");
        REQUIRE(t != NULL && g != NULL);
        uint32_t n = (uint32_t)(t->n_bytes / 4), n_greedy = (uint32_t)(g->n_bytes / 4);
        uint32_t *ids = copy_of(t), *want = copy_of(g), vocab = o.model.spec.vocab;
        float *last = malloc(vocab * sizeof *last);
        session_memory s;
        session_memory_init(&s, &o.model.layout, n + n_greedy);
        CHECK_EQ(model_run_append(&o.model, &s, ids, n, 256, last), 0);
        for (uint32_t k = 0; k < n_greedy; k++) {
            uint32_t id = argmax(last, vocab);
            CHECK_EQ(id, want[k]);
            CHECK_EQ(model_run_append(&o.model, &s, &id, 1, 1, last), 0);
        }
        session_memory_fini(&s);
        free(last);
        free(want);
        free(ids);
        oracle_close(&o);
    }
}

/* ---- the bundled model ----------------------------------------------------------------------- */

/* Rounding to bf16 moves its logits, up to 24, by less than this. */
#define NATIVE_MARGIN 1.5

static uint32_t *ids_of(const json_t *list, uint32_t *n)
{
    *n = (uint32_t)json_array_size(list);
    uint32_t *ids = malloc((*n + 1) * sizeof *ids);
    for (uint32_t i = 0; i < *n; i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

static void check_sample(model_run *m, const json_t *sample)
{
    uint32_t n, n_want, vocab = m->spec.vocab;
    uint32_t *ids = ids_of(json_object_get(sample, "prompt_ids"), &n);
    uint32_t *want = ids_of(json_object_get(sample, "expected_ids"), &n_want);
    float *last = malloc(vocab * sizeof *last);
    session_memory s;
    session_memory_init(&s, &m->layout, n + n_want);
    CHECK(n > 0 && n_want > 0);
    CHECK_EQ(model_run_append(m, &s, ids, n, 256, last), 0);
    for (uint32_t k = 0; k < n_want; k++) {
        uint32_t id = argmax(last, vocab);
        if (id != want[k]) {
            CHECK_FAIL("sample %s: id %u is %u, should be %u",
                       json_string_value(json_object_get(sample, "name")), k, id, want[k]);
            break;
        }
        CHECK_EQ(model_run_append(m, &s, &id, 1, 1, last), 0);
    }
    session_memory_fini(&s);
    free(last);
    free(want);
    free(ids);
}

static void check_samples(tarni_numerics numerics, double margin)
{
    model_run m;
    json_t *root = json_load_file(TEST_EXAMPLES "/model/samples.json", 0, NULL), *sample;
    json_t *samples = json_object_get(root, "samples");
    size_t i;
    CHECK_EQ(json_array_size(samples), 30);
    REQUIRE(model_run_open(&m, TEST_EXAMPLES "/model", numerics, tarnk_cpu_ops(TARNK_ISA_BEST), 2,
                           256));
    json_array_foreach(samples, i, sample) {
        if (json_number_value(json_object_get(sample, "min_margin")) >= margin)
            check_sample(&m, sample);
    }
    model_run_close(&m);
    json_decref(root);
}

CASE(bundled_model_answers_in_f32)
{
    check_samples(TARNI_NUMERICS_F32, 0);
}

CASE(bundled_model_answers_natively)
{
    check_samples(TARNI_NUMERICS_NATIVE, NATIVE_MARGIN);
}

CHECK_MAIN(ENTRY(tiny_f32), ENTRY(odd_bf16_in_f32), ENTRY(odd_bf16_native),
           ENTRY(real_heads_bf16_in_f32), ENTRY(real_heads_bf16_native),
           ENTRY(greedy_continuations), ENTRY(bundled_model_answers_in_f32),
           ENTRY(bundled_model_answers_natively))
