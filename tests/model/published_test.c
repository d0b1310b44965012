/* What ports of this model got wrong above its ops, one case each: which layer is what, what goes
 * where, what ends a turn, which ids there are. */
#include "check.h"
#include "model.h"
#include "model_run.h"
#include "scratch.h"
#include "synth.h"

#define ODD    TEST_DATA "/oracle/odd-bf16/model"
#define TOKENS 70 /* into a second latent page */

CASE(layers_are_counted_from_one_and_the_last_breaks_the_rule)
{
    static const uint32_t mla[] = {3, 7, 11, 15, 19, 23, 26}; /* 0-based */
    tarni_spec spec, again;
    tarni_writer text;
    tarn_error err;
    REQUIRE_OK(tarni_synth_preset("48b", &spec, &err), &err);
    tarni_writer_init(&text, &tarni_heap);
    REQUIRE_OK(tarni_spec_write(&spec, &text, &err), &err);
    char *json = calloc(text.n_bytes + 1, 1);
    memcpy(json, text.data, text.n_bytes);
    REQUIRE_OK(tarni_spec_parse(json, text.n_bytes, "c", &again, &err), &err);
    for (uint32_t l = 0, i = 0; l < 27; l++) {
        bool is_mla = i < 7 && mla[i] == l;
        CHECK_EQ(again.kinds[l], is_mla ? TARNI_LAYER_MLA : TARNI_LAYER_KDA);
        CHECK_EQ(tarni_spec_is_moe(&again, l), l > 0); /* the first is dense */
        i += is_mla;
    }
    CHECK(again.n_mla == 7 && again.n_kda == 20);
    free(json);
    tarni_writer_fini(&text);
}

/* Each kind of layer is counted by itself. */
CASE(sizes_of_a_session_follow_the_kinds_of_layers)
{
    tarni_spec spec;
    tarni_layout layout;
    tarn_error err;
    REQUIRE_OK(tarni_synth_preset("48b", &spec, &err), &err);
    tarni_layout_init(&spec, TARNI_NUMERICS_NATIVE, &layout);
    CHECK_EQ(layout.n_kda * layout.state_bytes, 41943040);
    CHECK_EQ(layout.n_kda * layout.conv_bytes, 1474560);
    CHECK_EQ(layout.n_mla * layout.latent_row_bytes, 8064);
    CHECK_EQ(layout.slot_bytes, 41943040 + 1474560);
    CHECK_EQ(layout.page_bytes, 64 * 8064);
    tarni_layout_init(&spec, TARNI_NUMERICS_F32, &layout);
    CHECK_EQ(layout.n_kda * layout.conv_bytes, 2949120);
    CHECK_EQ(layout.n_mla * layout.latent_row_bytes, 16128);
}

/* ---- what the ops are told ------------------------------------------------------------------- */

static float latent_eps, norm_eps_low, norm_eps_high, gated_eps;
static bool latent_is_raw;

static int seeing_latent(const tarnk_mla_latent_args *a, const tarnk_context *context)
{
    float before[64];
    memcpy(before, a->kv + a->rank, a->rope * sizeof(float));
    latent_eps = a->eps;
    int error = tarnk_cpu_ops(TARNK_ISA_BEST)->mla_latent(a, context);
    const float *stored = (const float *)(const void *)(a->seqs[0].pages[0] + a->latent_offset);
    latent_is_raw = latent_is_raw && memcmp(stored + a->rank, before, a->rope * sizeof(float)) == 0;
    return error;
}

static int seeing_norm(const tarnk_norm_rms_args *a, const tarnk_context *context)
{
    norm_eps_low = fminf(norm_eps_low, a->eps);
    norm_eps_high = fmaxf(norm_eps_high, a->eps);
    return tarnk_cpu_ops(TARNK_ISA_BEST)->norm_rms(a, context);
}

static int seeing_gated(const tarnk_norm_gated_args *a, const tarnk_context *context)
{
    gated_eps = a->eps;
    return tarnk_cpu_ops(TARNK_ISA_BEST)->norm_gated(a, context);
}

CASE(the_norm_of_latents_has_an_epsilon_of_its_own)
{
    tarnk_ops ops = *tarnk_cpu_ops(TARNK_ISA_BEST);
    model_run m;
    session_memory s;
    const uint32_t id = 3;
    ops.mla_latent = seeing_latent;
    ops.norm_rms = seeing_norm;
    ops.norm_gated = seeing_gated;
    REQUIRE(model_run_open(&m, ODD, TARNI_NUMERICS_F32, &ops, 1, 4));
    REQUIRE(m.spec.rope <= 64);
    norm_eps_low = INFINITY;
    norm_eps_high = 0;
    latent_is_raw = true;
    m.spec.eps = 1e-5F;
    session_memory_init(&s, &m.layout, 1);
    CHECK_EQ(model_run_feed(&m, &s, &id, 1, NULL), 0);
    CHECK(latent_eps == 1e-6F);
    CHECK(norm_eps_low == 1e-5F && norm_eps_high == 1e-5F && gated_eps == 1e-5F);
    CHECK(latent_is_raw); /* the shared part of the keys is neither normed nor rotated */
    session_memory_fini(&s);
    model_run_close(&m);
}

/* ---- odd sizes ------------------------------------------------------------------------------- */

/* No size divides another, none is a power of two; keys and values differ. */
static bool write_odd(scratch *s)
{
    tarni_spec spec;
    tarn_error err;
    uint64_t n_parameters, n_bytes;
    tarni_synth_options options = {.seed = 11};
    if (tarni_synth_preset("tiny", &spec, &err) != TARN_OK || !scratch_make(s))
        return false;
    spec.vocab = 301;
    spec.hidden = 35;
    spec.kda_heads = 3;
    spec.kda_dim = 13;
    spec.conv_width = 3;
    spec.mla_heads = 5;
    spec.nope = 11;
    spec.rope = 3;
    spec.v_dim = 7;
    spec.rank = 19;
    spec.dense_width = 41;
    spec.n_experts = 9;
    spec.top_k = 3;
    spec.expert_width = 17;
    spec.bos_id = spec.eos_id = spec.pad_id = UINT32_MAX;
    return tarni_synth_write(s->dir, &spec, &options, &tarni_heap, &n_parameters, &n_bytes, &err) ==
           TARN_OK;
}

/* All at once and one by one, in memory that was NaN: the same bits, and all of them numbers. */
static void check_odd(const char *dir, tarni_numerics numerics, tarnk_isa isa)
{
    model_run m;
    session_memory whole, single;
    uint32_t ids[TOKENS];
    if (!tarnk_cpu_ops(isa))
        return;
    REQUIRE(model_run_open(&m, dir, numerics, tarnk_cpu_ops(isa), 2, TOKENS));
    size_t n = (size_t)TOKENS * m.spec.vocab;
    float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
    for (uint32_t i = 0; i < TOKENS; i++)
        ids[i] = i * 17 % 301;
    session_memory_init(&whole, &m.layout, TOKENS);
    session_memory_init(&single, &m.layout, TOKENS);
    CHECK_EQ(model_run_feed(&m, &whole, ids, TOKENS, want), 0);
    for (uint32_t i = 0; i < TOKENS; i++)
        CHECK_EQ(model_run_feed(&m, &single, ids + i, 1, got + (size_t)i * m.spec.vocab), 0);
    CHECK_BYTES(got, want, n * sizeof *got);
    CHECK_BYTES(single.slot, whole.slot, m.layout.slot_bytes);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(want[i])) {
            CHECK_FAIL("logit %zu is not finite", i);
            break;
        }
    session_memory_fini(&whole);
    session_memory_fini(&single);
    free(want);
    free(got);
    model_run_close(&m);
}

CASE(head_sizes_may_differ_and_be_no_powers_of_two)
{
    scratch s;
    REQUIRE(write_odd(&s));
    for (int numerics = TARNI_NUMERICS_NATIVE; numerics <= TARNI_NUMERICS_F32; numerics++) {
        check_odd(s.dir, (tarni_numerics)numerics, TARNK_ISA_GENERIC);
        check_odd(s.dir, (tarni_numerics)numerics, TARNK_ISA_BEST);
    }
    scratch_remove(&s);
}

/* ---- ids ------------------------------------------------------------------------------------- */

CASE(every_end_of_text_ends_a_turn_and_nothing_else)
{
    static const char *const ends[] = {"<|im_end|>", "[EOS]", "[EOT]"};
    tarni_model model;
    tarni_ids comma;
    tarn_error err;
    REQUIRE_OK(
        tarni_model_init(&model, TEST_EXAMPLES "/model", false, false, "", &tarni_heap, NULL, &err),
        &err);
    for (size_t i = 0; i < 3; i++) {
        uint32_t id = 0;
        if (tarni_tokenizer_special(model.tokenizer, ends[i], &id))
            CHECK(tarni_model_is_stop(&model, id));
        else
            CHECK_FAIL("%s is no name of the bundled model", ends[i]);
    }
    CHECK_EQ(model.n_stop_ids, 3);
    CHECK(tarni_model_is_stop(&model, model.spec.eos_id));
    tarni_ids_init(&comma, &tarni_heap);
    REQUIRE_OK(tarni_tokenizer_encode(model.tokenizer, ",", 1, false, &comma, &err), &err);
    CHECK(!tarni_model_is_stop(&model, comma.ids[0]));
    CHECK(!tarni_model_is_stop(&model, model.spec.bos_id));
    CHECK(!tarni_model_is_stop(&model, UINT32_MAX)); /* what an absent id is */
    tarni_ids_fini(&comma);
    tarni_model_fini(&model);
}

/* The tokenizer has 258 special slots, the embedding rows for 256. */
CASE(ids_without_a_row_are_no_ids)
{
    tarni_tokenizer *t;
    tarni_ids ids;
    tarni_writer text;
    tarn_error err;
    const uint32_t n_ranks = 2304, last = n_ranks + 255, beyond[] = {last + 1, last + 2};
    REQUIRE_OK(tarni_tokenizer_open(TEST_DATA "/tokenizer", 0, &tarni_heap, &t, &err), &err);
    CHECK_EQ(tarni_tokenizer_rows(t), n_ranks + 256);
    tarni_ids_init(&ids, &tarni_heap);
    tarni_writer_init(&text, &tarni_heap);
    REQUIRE_OK(tarni_tokenizer_decode(t, &last, 1, &text, &err), &err);
    for (size_t i = 0; i < 2; i++) {
        char name[40];
        CHECK_STATUS(tarni_tokenizer_decode(t, &beyond[i], 1, &text, &err), TARN_E_INVALID);
        CHECK_HAS(err.detail, "ids run from 0 to 2559");
        snprintf(name, sizeof name, "<|reserved_token_%u|>", beyond[i]);
        ids.n_ids = 0;
        REQUIRE_OK(tarni_tokenizer_encode(t, name, strlen(name), true, &ids, &err), &err);
        CHECK(ids.n_ids > 1);
        for (size_t k = 0; k < ids.n_ids; k++)
            CHECK(ids.ids[k] < n_ranks);
    }
    tarni_writer_fini(&text);
    tarni_ids_fini(&ids);
    tarni_tokenizer_free(t);
}

CHECK_MAIN(ENTRY(layers_are_counted_from_one_and_the_last_breaks_the_rule),
           ENTRY(sizes_of_a_session_follow_the_kinds_of_layers),
           ENTRY(the_norm_of_latents_has_an_epsilon_of_its_own),
           ENTRY(head_sizes_may_differ_and_be_no_powers_of_two),
           ENTRY(every_end_of_text_ends_a_turn_and_nothing_else),
           ENTRY(ids_without_a_row_are_no_ids))
