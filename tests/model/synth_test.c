#include "check.h"
#include "draw.h"
#include "scratch.h"
#include "small_disk.h"
#include "synth.h"

#include <sys/resource.h>
#include <signal.h>

static tarn_status write_preset(const char *dir, const char *preset, tarni_synth_options options,
                                tarn_error *err)
{
    tarni_spec spec;
    uint64_t n_parameters, n_bytes;
    tarn_status status = tarni_synth_preset(preset, &spec, err);
    return status != TARN_OK
               ? status
               : tarni_synth_write(dir, &spec, &options, &tarni_heap, &n_parameters, &n_bytes, err);
}

CASE(presets_are_consistent_specs)
{
    static const char *const names[] = {"tiny", "recall", "geo48", "moe1b", "48b"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        tarni_spec spec, again;
        tarni_writer w;
        tarn_error err;
        uint8_t a[32], b[32];
        REQUIRE_OK(tarni_synth_preset(names[i], &spec, &err), &err);
        tarni_writer_init(&w, &tarni_heap);
        REQUIRE_OK(tarni_spec_write(&spec, &w, &err), &err);
        REQUIRE_OK(tarni_spec_parse((char *)w.data, w.n_bytes, names[i], &again, &err), &err);
        tarni_spec_digest(&spec, a);
        tarni_spec_digest(&again, b);
        CHECK_BYTES(a, b, 32);
        CHECK_EQ(spec.eos_id, spec.vocab - 254);
        tarni_writer_fini(&w);
    }
    tarni_spec spec;
    tarn_error err;
    CHECK_STATUS(tarni_synth_preset("huge", &spec, &err), TARN_E_NOT_FOUND);
    CHECK_HAS(err.detail, "geo48");
}

CASE(recall_has_the_shapes_of_the_bundled_model)
{
    tarni_spec spec, bundled;
    tarn_error err;
    uint8_t a[32], b[32];
    REQUIRE_OK(tarni_synth_preset("recall", &spec, &err), &err);
    REQUIRE_OK(tarni_spec_load(TEST_EXAMPLES "/model", &tarni_heap, &bundled, &err), &err);
    tarni_spec_digest(&spec, a);
    tarni_spec_digest(&bundled, b);
    CHECK_BYTES(a, b, 32);
}

CASE(writes_a_checkpoint_that_opens)
{
    scratch s;
    tarn_error err;
    tarni_spec spec;
    tarni_weights w;
    char dir[128];
    uint64_t n_parameters, n_bytes;
    REQUIRE(scratch_make(&s));
    snprintf(dir, sizeof dir, "%s/new", s.dir);
    REQUIRE_OK(write_preset(dir, "tiny", (tarni_synth_options){.seed = 20}, &err), &err);
    REQUIRE_OK(tarni_spec_load(dir, &tarni_heap, &spec, &err), &err);
    REQUIRE_OK(tarni_weights_open(dir, &spec, &tarni_heap, &w, &err), &err);
    tarni_spec_sizes(&spec, &n_parameters, &n_bytes);
    CHECK_EQ(w.n_parameters, n_parameters);
    CHECK_EQ(w.n_bytes, n_bytes);
    tarni_weights_close(&w);
    CHECK_STATUS(write_preset(dir, "tiny", (tarni_synth_options){.seed = 20}, &err), TARN_E_EXISTS);
    CHECK_HAS(err.detail, "config.json");
    REQUIRE_OK(tarni_weights_open(dir, &spec, &tarni_heap, &w, &err), &err); /* untouched */
    tarni_weights_close(&w);
    scratch_remove(&s);
}

/* The bytes are a promise: the same call writes them on any machine and compiler. */
CASE(same_seed_same_bytes_everywhere)
{
    static const uint8_t want[32] = {0x64, 0xff, 0xd2, 0xa8, 0x41, 0x03, 0x3d, 0x39,
                                     0x88, 0x8a, 0xb4, 0x56, 0xf6, 0x84, 0x4b, 0x88,
                                     0x3c, 0xf2, 0x75, 0xc0, 0x42, 0xda, 0xc5, 0x8f,
                                     0xfe, 0x38, 0xbe, 0x31, 0x98, 0xb9, 0x4d, 0x74};
    scratch s;
    tarn_error err;
    tarni_spec spec;
    tarni_weights w;
    uint8_t digest[32];
    char dir[128];
    REQUIRE(scratch_make(&s));
    for (uint64_t seed = 20; seed < 22; seed++) {
        snprintf(dir, sizeof dir, "%s/%d", s.dir, (int)seed);
        REQUIRE_OK(write_preset(dir, "tiny", (tarni_synth_options){.seed = seed}, &err), &err);
        REQUIRE_OK(tarni_spec_load(dir, &tarni_heap, &spec, &err), &err);
        REQUIRE_OK(tarni_weights_open(dir, &spec, &tarni_heap, &w, &err), &err);
        REQUIRE_OK(tarni_weights_digest(&w, NULL, false, digest, &err), &err);
        CHECK((memcmp(digest, want, 32) == 0) == (seed == 20));
        if (seed == 20 && memcmp(digest, want, 32) != 0)
            for (int i = 0; i < 32; i++)
                printf("0x%02x,%s", digest[i], i % 8 == 7 ? "\n" : " ");
        tarni_weights_close(&w);
    }
    scratch_remove(&s);
}

/* ---- the draws ------------------------------------------------------------------------------- */

typedef struct wanted_tensor {
    const char *name;
    tarni_tensor tensor;
} wanted_tensor;

static tarn_status pick_tensor(void *user, const tarni_tensor *t)
{
    wanted_tensor *w = user;
    if (strcmp(t->name, w->name) == 0)
        w->tensor = *t;
    return TARN_OK;
}

/* n fp32 items of the named tensor of geo48. */
static float *draw_floats(const char *name, size_t n)
{
    tarni_spec spec;
    tarn_error err;
    tarni_draw draw;
    wanted_tensor wanted = {.name = name};
    CHECK_STATUS(tarni_synth_preset("geo48", &spec, &err), TARN_OK);
    CHECK_STATUS(tarni_spec_tensors(&spec, pick_tensor, &wanted), TARN_OK);
    CHECK_TEXT(wanted.tensor.name, name);
    wanted.tensor.dtype = TARNK_F32;
    float *out = malloc(n * sizeof *out);
    tarni_draw_init(&draw, 1, &spec, &wanted.tensor);
    tarni_draw_items(&draw, n / 2, (uint8_t *)out);
    tarni_draw_items(&draw, n - n / 2, (uint8_t *)(out + n / 2));
    return out;
}

CASE(draws_have_the_stated_moments)
{
    static const struct {
        const char *name;
        double mean, deviation;
    } cases[] = {
        {"model.embed_tokens.weight", 0, 1},
        {"lm_head.weight", 0, 2 / 48.0},
        {"model.norm.weight", 1, 0.1},
        {"model.layers.1.self_attn.q_proj.weight", 0, 1 / 48.0},
        {"model.layers.1.self_attn.f_b_proj.weight", 0, 0.5 / 11.3137084990},
        {"model.layers.1.self_attn.o_proj.weight", 0, 2 / 7.3484692283 / 64},
        {"model.layers.1.self_attn.q_conv1d.weight", 0, 0.5},
        {"model.layers.1.block_sparse_moe.gate.e_score_correction_bias", 0, 0.02},
    };
    const size_t n = 400000;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float *x = draw_floats(cases[i].name, n);
        double sum = 0, squares = 0, fourth = 0, top = 0;
        for (size_t k = 0; k < n; k++)
            sum += x[k];
        for (size_t k = 0; k < n; k++) {
            double y = (x[k] - cases[i].mean) / cases[i].deviation;
            squares += y * y;
            fourth += y * y * y * y;
            top = fmax(top, fabs(y));
        }
        double mean_error = (sum / (double)n - cases[i].mean) / cases[i].deviation;
        double kurtosis = fourth / (double)n;
        if (fabs(mean_error) > 0.01 || fabs(squares / (double)n - 1) > 0.01 ||
            fabs(kurtosis - 2.85) > 0.06 || top > 4.9 || top < 3.9)
            CHECK_FAIL("%s: mean off by %g deviations, variance %g, kurtosis %g, top %g",
                       cases[i].name, mean_error, squares / (double)n, kurtosis, top);
        free(x);
    }
}

CASE(gates_start_as_published)
{
    const size_t n = 20000;
    float *a_log = draw_floats("model.layers.0.self_attn.A_log", n);
    float *dt_bias = draw_floats("model.layers.0.self_attn.dt_bias", n);
    double mean_a = 0, mean_log_dt = 0;
    for (size_t i = 0; i < n; i++) {
        double a = exp((double)a_log[i]), dt = log1p(exp((double)dt_bias[i]));
        CHECK(a >= 1 - 1e-6 && a <= 16 + 1e-5 && dt >= 1e-3 * (1 - 1e-5) && dt <= 0.1 * (1 + 1e-5));
        mean_a += a / (double)n;
        mean_log_dt += log(dt) / (double)n;
    }
    CHECK(fabs(mean_a - 8.5) < 0.15);
    CHECK(fabs(mean_log_dt - log(1e-2)) < 0.05);
    free(a_log);
    free(dt_bias);
}

/* ---- failures -------------------------------------------------------------------------------- */

static bool is_empty(const char *dir)
{
    return rmdir(dir) == 0; /* refuses where there is a file */
}

CASE(a_dry_run_only_counts)
{
    tarni_spec spec;
    tarn_error err;
    uint64_t n_parameters, n_bytes;
    tarni_synth_options options = {.dry_run = true};
    REQUIRE_OK(tarni_synth_preset("geo48", &spec, &err), &err);
    REQUIRE_OK(tarni_synth_write("/proc/nowhere", &spec, &options, &tarni_heap, &n_parameters,
                                 &n_bytes, &err),
               &err);
    CHECK(n_bytes > UINT64_C(2800000000) && n_bytes < UINT64_C(3000000000));
}

CASE(refuses_a_disk_too_small)
{
    scratch s;
    tarni_spec spec;
    tarn_error err;
    uint64_t n_parameters, n_bytes;
    tarni_synth_options options = {.seed = 1};
    char dir[128];
    REQUIRE(scratch_make(&s));
    snprintf(dir, sizeof dir, "%s/new", s.dir);
    REQUIRE_OK(tarni_synth_preset("tiny", &spec, &err), &err);
    spec.n_experts = 512;
    spec.n_layers = 400;
    memset(spec.kinds, TARNI_LAYER_KDA, 400);
    spec.hidden = spec.expert_width = TARNI_DIM_MAX / 4;
    CHECK_STATUS(
        tarni_synth_write(dir, &spec, &options, &tarni_heap, &n_parameters, &n_bytes, &err),
        TARN_E_NO_SPACE);
    CHECK_HAS(err.detail, "bytes wanted");
    CHECK(access(dir, F_OK) != 0);
    scratch_remove(&s);
}

static bool stop_after(void *user, uint64_t done_bytes, uint64_t all_bytes)
{
    (void)all_bytes;
    return done_bytes < *(uint64_t *)user;
}

CASE(cancelling_leaves_nothing)
{
    scratch s;
    tarn_error err;
    REQUIRE(scratch_make(&s));
    for (uint64_t limit = 1; limit < 4000000; limit = limit * 7 + 1000) {
        tarni_synth_options options = {.seed = 1, .progress = stop_after, .user = &limit};
        CHECK_STATUS(write_preset(s.dir, "tiny", options, &err), TARN_E_CANCELLED);
        CHECK(is_empty(s.dir) && mkdir(s.dir, 0777) == 0);
    }
    scratch_remove(&s);
}

/* The folder is left as it was where the disk, or what this process may write, is too small. */
CASE(refuses_before_the_first_byte)
{
    scratch s;
    tarn_error err;
    struct rlimit old, small;
    small_disk disk;
    REQUIRE(scratch_make(&s) && getrlimit(RLIMIT_FSIZE, &old) == 0);
    small = (struct rlimit){3 << 20, old.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0); /* one byte more would end the process */
    tarn_status status = write_preset(s.dir, "tiny", (tarni_synth_options){.seed = 1}, &err);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK_STATUS(status, TARN_E_NO_SPACE);
    CHECK_HAS(err.detail, "this process may write 3145728");
    CHECK(is_empty(s.dir));
    if (!small_disk_mount(&disk, 16))
        SKIP(SMALL_DISK_REFUSED);
    char dir[256];
    snprintf(dir, sizeof dir, "%s/model", disk.folder);
    REQUIRE(mkdir(dir, 0777) == 0);
    CHECK_STATUS(write_preset(dir, "48b", (tarni_synth_options){.seed = 1}, &err), TARN_E_NO_SPACE);
    CHECK_HAS(err.detail, "bytes wanted");
    CHECK(is_empty(dir));
    CHECK(small_disk_unmount(&disk));
}

static bool shrink_the_limit(void *user, uint64_t done_bytes, uint64_t all_bytes)
{
    struct rlimit *small = user;
    return done_bytes < all_bytes / 2 || setrlimit(RLIMIT_FSIZE, small) == 0;
}

CASE(a_disk_that_fills_leaves_nothing)
{
    scratch s;
    tarn_error err;
    struct rlimit old, small = {3 << 20, 0};
    REQUIRE(scratch_make(&s));
    signal(SIGXFSZ, SIG_IGN);
    REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
    small.rlim_max = old.rlim_max;
    tarni_synth_options options = {.seed = 1, .progress = shrink_the_limit, .user = &small};
    tarn_status status = write_preset(s.dir, "tiny", options, &err);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK_STATUS(status, TARN_E_IO);
    CHECK_HAS(err.detail, "model.safetensors");
    CHECK(is_empty(s.dir));
}

CASE(survives_missing_memory)
{
    scratch s;
    tarni_spec spec;
    tarn_error err;
    tarn_status status = TARN_E_NO_MEMORY;
    uint64_t n_parameters, n_bytes;
    tarni_synth_options options = {.seed = 1};
    REQUIRE(scratch_make(&s));
    REQUIRE_OK(tarni_synth_preset("tiny", &spec, &err), &err);
    for (long n = 0; n < 200 && status != TARN_OK; n++) {
        failing f = {n, 0};
        tarn_allocator a = failing_allocator(&f);
        status = tarni_synth_write(s.dir, &spec, &options, &a, &n_parameters, &n_bytes, &err);
        if (status != TARN_OK) {
            CHECK_STATUS(status, TARN_E_NO_MEMORY);
            CHECK(is_empty(s.dir) && mkdir(s.dir, 0777) == 0);
        }
        CHECK_EQ(f.blocks, 0);
    }
    CHECK_STATUS(status, TARN_OK);
    scratch_remove(&s);
}

CASE(shards_where_one_file_would_be_too_large)
{
    scratch s;
    tarni_spec spec;
    tarn_error err;
    tarni_weights w;
    uint8_t sharded[32], whole[32];
    uint64_t n_parameters, n_bytes;
    char dir[128];
    tarni_synth_options options = {.seed = 3, .shard_bytes = 600000};
    REQUIRE(scratch_make(&s));
    REQUIRE_OK(tarni_synth_preset("recall", &spec, &err), &err);
    snprintf(dir, sizeof dir, "%s/sharded", s.dir);
    REQUIRE_OK(tarni_synth_write(dir, &spec, &options, &tarni_heap, &n_parameters, &n_bytes, &err),
               &err);
    CHECK(access(scratch_path(&s, "sharded/model-00002-of-00007.safetensors"), F_OK) == 0);
    CHECK(access(scratch_path(&s, "sharded/model.safetensors"), F_OK) != 0);
    REQUIRE_OK(tarni_weights_open(dir, &spec, &tarni_heap, &w, &err), &err);
    CHECK_EQ(w.n_bytes, n_bytes);
    REQUIRE_OK(tarni_weights_digest(&w, NULL, false, sharded, &err), &err);
    tarni_weights_close(&w);
    options.shard_bytes = 0;
    snprintf(dir, sizeof dir, "%s/whole", s.dir);
    REQUIRE_OK(tarni_synth_write(dir, &spec, &options, &tarni_heap, &n_parameters, &n_bytes, &err),
               &err);
    REQUIRE_OK(tarni_weights_open(dir, &spec, &tarni_heap, &w, &err), &err);
    REQUIRE_OK(tarni_weights_digest(&w, NULL, false, whole, &err), &err);
    CHECK_BYTES(sharded, whole, 32);
    tarni_weights_close(&w);
    scratch_remove(&s);
}

CHECK_MAIN(ENTRY(presets_are_consistent_specs), ENTRY(recall_has_the_shapes_of_the_bundled_model),
           ENTRY(writes_a_checkpoint_that_opens), ENTRY(same_seed_same_bytes_everywhere),
           ENTRY(draws_have_the_stated_moments), ENTRY(gates_start_as_published),
           ENTRY(a_dry_run_only_counts), ENTRY(refuses_a_disk_too_small),
           ENTRY(cancelling_leaves_nothing), ENTRY(refuses_before_the_first_byte),
           ENTRY(a_disk_that_fills_leaves_nothing), ENTRY(survives_missing_memory),
           ENTRY(shards_where_one_file_would_be_too_large))
