#include "check.h"
#include "bytes.h"
#include "layout.h"
#include "safetensors.h"
#include "scratch.h"
#include "synth.h"
#include "weights.h"

#include <fcntl.h>

/* ---- a small checkpoint and changed copies of it --------------------------------------------- */

static void toy_spec(tarni_spec *out)
{
    tarn_error err;
    CHECK_STATUS(tarni_synth_preset("tiny", out, &err), TARN_OK);
    out->vocab = 300;
    out->hidden = 32;
    out->n_layers = 3;
    out->dense_width = 48;
    out->rank = 16;
    out->kda_dim = 16;
    out->n_experts = 4;
    out->expert_width = 8;
    memset(out->kinds, TARNI_LAYER_KDA, sizeof out->kinds);
    out->kinds[2] = TARNI_LAYER_MLA;
    out->n_kda = 2;
    out->n_mla = 1;
    out->bos_id = out->eos_id = out->pad_id = UINT32_MAX;
}

static bool write_toy(scratch *s, const tarni_spec *spec)
{
    tarn_error err = {TARN_OK, ""};
    tarni_synth_options options = {.seed = 7};
    uint64_t n_parameters, n_bytes;
    tarn_status status = scratch_make(s) ? tarni_synth_write(s->dir, spec, &options, &tarni_heap,
                                                             &n_parameters, &n_bytes, &err)
                                         : TARN_E_IO;
    if (status != TARN_OK)
        CHECK_FAIL("writing the toy: %s", err.detail);
    return status == TARN_OK;
}

/* How one tensor is changed on its way to a copy; NULL and 0: not. */
typedef struct change {
    const char *name;
    const char *rename; /* "" drops it */
    const char *dtype;  /* items keep their bytes unless they are converted below */
    const char *shape;
    bool to_f32, to_bf16; /* converts the items */
    size_t more_zeros;    /* F32 zeros put behind */
    float last;           /* and the last of them */
    const char *extra;    /* one more tensor of this name */
} change;

static size_t put_tensor(tarni_writer *header, tarni_writer *data, const char *name,
                         const char *dtype, const char *shape, size_t begin)
{
    char text[512];
    int n = snprintf(text, sizeof text,
                     "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,"
                     "\"data_offsets\":[%zu,%zu]}",
                     header->n_bytes > 9 ? "," : "", name, dtype, shape, begin, data->n_bytes);
    tarni_put_bytes(header, text, (size_t)n);
    return data->n_bytes;
}

static void put_items(tarni_writer *data, const tarni_safetensor *t, const change *c)
{
    if (c->to_f32)
        for (size_t i = 0; i < t->n_bytes / 2; i++)
            tarni_put_u32(data, (uint32_t)tarni_load_u16(t->data + 2 * i) << 16);
    else if (c->to_bf16)
        for (size_t i = 0; i < t->n_bytes / 4; i++)
            tarni_put_u16(data, (uint16_t)(tarni_load_u32(t->data + 4 * i) >> 16));
    else
        tarni_put_bytes(data, t->data, (size_t)t->n_bytes);
    for (size_t i = 0; i < c->more_zeros; i++)
        tarni_put_f32(data, i + 1 == c->more_zeros ? c->last : 0);
}

/* Writes to DIR a copy of the checkpoint in FROM with the change. */
static void write_changed(scratch *to, const char *from, const change *c)
{
    static const change none = {0};
    tarni_safetensors set;
    tarn_error err;
    tarni_writer header, data;
    size_t begin = 0;
    char shape[64];
    REQUIRE_OK(tarni_safetensors_open(from, &tarni_heap, &set, &err), &err);
    tarni_writer_init(&header, &tarni_heap);
    tarni_writer_init(&data, &tarni_heap);
    tarni_put_u64(&header, 0);
    tarni_put_bytes(&header, "{", 1);
    for (size_t i = 0; i < set.n_tensors; i++) {
        const tarni_safetensor *t = &set.tensors[i];
        const change *now = c->name && strcmp(t->name, c->name) == 0 ? c : &none;
        if (now->rename && !*now->rename)
            continue;
        tarni_shape_text(t->dims, t->n_dims, shape, sizeof shape);
        put_items(&data, t, now);
        begin =
            put_tensor(&header, &data, now->rename ? now->rename : t->name,
                       now->dtype ? now->dtype : t->dtype, now->shape ? now->shape : shape, begin);
    }
    if (c->extra) {
        tarni_put_f32(&data, 1);
        put_tensor(&header, &data, c->extra, "F32", "[1]", begin);
    }
    tarni_put_bytes(&header, "}", 1);
    tarni_store_u64(header.data, header.n_bytes - 8);
    tarni_put_bytes(&header, data.data, data.n_bytes);
    scratch_write(to, "model.safetensors", header.data, header.n_bytes);
    tarni_writer_fini(&header);
    tarni_writer_fini(&data);
    tarni_safetensors_close(&set);
}

/* ---- opening --------------------------------------------------------------------------------- */

CASE(opens_the_checkpoints_of_the_tests)
{
    static const char *const dirs[] = {
        TEST_DATA "/oracle/tiny-f32/model", TEST_DATA "/oracle/odd-bf16/model",
        TEST_DATA "/oracle/real-heads-bf16/model", TEST_EXAMPLES "/model"};
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
        tarni_spec spec;
        tarni_weights w;
        tarn_error err;
        uint64_t n_parameters, n_bytes;
        REQUIRE_OK(tarni_spec_load(dirs[i], &tarni_heap, &spec, &err), &err);
        REQUIRE_OK(tarni_weights_open(dirs[i], &spec, &tarni_heap, &w, &err), &err);
        tarni_spec_sizes(&spec, &n_parameters, &n_bytes);
        CHECK_EQ(w.n_parameters, n_parameters);
        CHECK_EQ(w.n_bytes, n_bytes);
        CHECK_EQ(w.embed.n_out, spec.vocab);
        CHECK_EQ(w.embed.dtype, spec.dtype);
        CHECK(w.lm_head.data != w.embed.data);
        for (uint32_t l = 0; l < spec.n_layers; l++) {
            const tarni_layer_weights *layer = &w.layers[l];
            CHECK_EQ(layer->is_mla, spec.kinds[l] == TARNI_LAYER_MLA);
            CHECK_EQ(layer->is_moe, l > 0);
            CHECK(layer->attn_norm && layer->ffn_norm);
            CHECK(layer->is_mla ? layer->mla.kv_norm && layer->mla.o.data
                                : layer->kda.conv[2] && layer->kda.a_log && layer->kda.dt_bias);
            CHECK(layer->is_moe ? layer->moe.w2[spec.n_experts - 1].n_in == spec.expert_width &&
                                      layer->moe.has_shared
                                : layer->mlp.down.n_in == spec.dense_width);
        }
        tarni_weights_close(&w);
    }
}

CASE(binds_every_tensor_to_its_own_bytes)
{
    tarni_spec spec;
    scratch s;
    tarni_weights w;
    tarni_safetensors set;
    tarn_error err;
    toy_spec(&spec);
    REQUIRE(write_toy(&s, &spec));
    REQUIRE_OK(tarni_weights_open(s.dir, &spec, &tarni_heap, &w, &err), &err);
    REQUIRE_OK(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), &err);
    const tarni_layer_weights *kda = &w.layers[1], *mla = &w.layers[2];
    const struct {
        const char *name;
        const void *data;
    } matrices[] = {
        {"model.embed_tokens.weight", w.embed.data},
        {"lm_head.weight", w.lm_head.data},
        {"model.layers.1.self_attn.q_proj.weight", kda->kda.q.data},
        {"model.layers.1.self_attn.k_proj.weight", kda->kda.k.data},
        {"model.layers.1.self_attn.v_proj.weight", kda->kda.v.data},
        {"model.layers.1.self_attn.f_a_proj.weight", kda->kda.f_a.data},
        {"model.layers.1.self_attn.f_b_proj.weight", kda->kda.f_b.data},
        {"model.layers.1.self_attn.b_proj.weight", kda->kda.b.data},
        {"model.layers.1.self_attn.g_a_proj.weight", kda->kda.g_a.data},
        {"model.layers.1.self_attn.g_b_proj.weight", kda->kda.g_b.data},
        {"model.layers.1.self_attn.o_proj.weight", kda->kda.o.data},
        {"model.layers.2.self_attn.q_proj.weight", mla->mla.q.data},
        {"model.layers.2.self_attn.kv_a_proj_with_mqa.weight", mla->mla.kv_a.data},
        {"model.layers.2.self_attn.kv_b_proj.weight", mla->mla.kv_b.data},
        {"model.layers.2.self_attn.o_proj.weight", mla->mla.o.data},
        {"model.layers.0.mlp.gate_proj.weight", w.layers[0].mlp.gate.data},
        {"model.layers.0.mlp.up_proj.weight", w.layers[0].mlp.up.data},
        {"model.layers.0.mlp.down_proj.weight", w.layers[0].mlp.down.data},
        {"model.layers.1.block_sparse_moe.gate.weight", kda->moe.router.data},
        {"model.layers.1.block_sparse_moe.experts.3.w1.weight", kda->moe.w1[3].data},
        {"model.layers.1.block_sparse_moe.experts.0.w3.weight", kda->moe.w3[0].data},
        {"model.layers.2.block_sparse_moe.experts.2.w2.weight", mla->moe.w2[2].data},
        {"model.layers.2.block_sparse_moe.shared_experts.gate_proj.weight",
         mla->moe.shared.gate.data},
        {"model.layers.2.block_sparse_moe.shared_experts.up_proj.weight", mla->moe.shared.up.data},
        {"model.layers.2.block_sparse_moe.shared_experts.down_proj.weight",
         mla->moe.shared.down.data},
    };
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
        const tarni_safetensor *t = tarni_safetensors_find(&set, matrices[i].name);
        REQUIRE(t != NULL);
        if (memcmp(t->data, matrices[i].data, (size_t)t->n_bytes) != 0)
            CHECK_FAIL("%s has other bytes", matrices[i].name);
    }
    const struct {
        const char *name;
        const float *data;
    } vectors[] = {
        {"model.norm.weight", w.norm},
        {"model.layers.1.input_layernorm.weight", kda->attn_norm},
        {"model.layers.1.post_attention_layernorm.weight", kda->ffn_norm},
        {"model.layers.1.self_attn.q_conv1d.weight", kda->kda.conv[0]},
        {"model.layers.1.self_attn.k_conv1d.weight", kda->kda.conv[1]},
        {"model.layers.1.self_attn.v_conv1d.weight", kda->kda.conv[2]},
        {"model.layers.1.self_attn.A_log", kda->kda.a_log},
        {"model.layers.1.self_attn.dt_bias", kda->kda.dt_bias},
        {"model.layers.1.self_attn.o_norm.weight", kda->kda.o_norm},
        {"model.layers.2.self_attn.kv_a_layernorm.weight", mla->mla.kv_norm},
        {"model.layers.2.block_sparse_moe.gate.e_score_correction_bias", mla->moe.bias},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        const tarni_safetensor *t = tarni_safetensors_find(&set, vectors[i].name);
        REQUIRE(t != NULL);
        bool is_bf16 = strcmp(t->dtype, "BF16") == 0;
        for (size_t k = 0; k < t->n_bytes / (is_bf16 ? 2 : 4); k++) {
            uint32_t bits, want = is_bf16 ? (uint32_t)tarni_load_u16(t->data + 2 * k) << 16
                                          : tarni_load_u32(t->data + 4 * k);
            memcpy(&bits, &vectors[i].data[k], 4);
            if (bits != want)
                CHECK_FAIL("%s differs at %zu", vectors[i].name, k);
        }
    }
    tarni_safetensors_close(&set);
    tarni_weights_close(&w);
    scratch_remove(&s);
}

static tarn_status count_one(void *user, const tarni_tensor *t)
{
    (void)t;
    ++*(uint32_t *)user;
    return TARN_OK;
}

CASE(counts_the_published_model)
{
    tarni_spec spec;
    tarn_error err;
    uint64_t n_parameters, n_bytes;
    uint32_t n_tensors = 0;
    REQUIRE_OK(tarni_synth_preset("48b", &spec, &err), &err);
    tarni_spec_sizes(&spec, &n_parameters, &n_bytes);
    CHECK_EQ(n_parameters, 49122681728);
    CHECK_EQ(n_bytes, 98245528576);
    CHECK_STATUS(tarni_spec_tensors(&spec, count_one, &n_tensors), TARN_OK);
    CHECK_EQ(n_tensors, 20493);
}

CASE(sizes_beyond_64_bits_stick)
{
    tarni_spec spec;
    tarn_error err;
    uint64_t n_parameters, n_bytes;
    REQUIRE_OK(tarni_synth_preset("48b", &spec, &err), &err);
    spec.dtype = TARNK_F32;
    spec.hidden = spec.expert_width = TARNI_DIM_MAX;
    spec.n_experts = TARNK_EXPERTS_MAX;
    spec.n_layers = TARNI_LAYERS_MAX;
    tarni_spec_sizes(&spec, &n_parameters, &n_bytes);
    CHECK(n_bytes == UINT64_MAX);
}

/* ---- changed checkpoints --------------------------------------------------------------------- */

#define L1 "model.layers.1."

CASE(accepts_the_variants_of_relatives)
{
    static const change changes[] = {
        {.name = L1 "self_attn.A_log", .shape = "[2]"},
        {.name = L1 "self_attn.A_log", .shape = "[5]", .more_zeros = 3},
        {.name = L1 "self_attn.A_log", .shape = "[1,1,4,1]", .more_zeros = 2},
        {.name = L1 "self_attn.A_log", .dtype = "BF16", .to_bf16 = true},
        {.name = L1 "self_attn.dt_bias", .dtype = "BF16", .to_bf16 = true},
        {.name = L1 "self_attn.q_conv1d.weight", .dtype = "F32", .to_f32 = true},
        {.name = L1 "block_sparse_moe.gate.e_score_correction_bias",
         .dtype = "F32",
         .to_f32 = true},
        {.name = L1 "block_sparse_moe.experts.1.w2.weight", .dtype = "F32", .to_f32 = true},
        {.name = "model.embed_tokens.weight", .dtype = "F32", .to_f32 = true},
    };
    tarni_spec spec;
    scratch from, to;
    tarn_error err;
    toy_spec(&spec);
    REQUIRE(write_toy(&from, &spec) && scratch_make(&to));
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        tarni_weights w;
        write_changed(&to, from.dir, &changes[i]);
        REQUIRE_OK(tarni_weights_open(to.dir, &spec, &tarni_heap, &w, &err), &err);
        tarni_weights_close(&w);
    }
    scratch_remove(&from);
    scratch_remove(&to);
}

CASE(refuses_what_is_not_the_model)
{
    static const struct {
        change change;
        tarn_status status;
        const char *names;
    } cases[] = {
        {{.name = "lm_head.weight", .rename = ""},
         TARN_E_FORMAT,
         "tensor lm_head.weight is missing, should be [300, 32]"},
        {{.name = L1 "self_attn.A_log", .rename = ""},
         TARN_E_FORMAT,
         L1 "self_attn.A_log is missing"},
        {{.name = L1 "block_sparse_moe.experts.3.w1.weight", .rename = "model.w9"},
         TARN_E_FORMAT,
         L1 "block_sparse_moe.experts.3.w1.weight is missing"},
        {{.extra = "model.layers.1.rotary_emb.inv_freq"},
         TARN_E_FORMAT,
         "tensor model.layers.1.rotary_emb.inv_freq is not one of this model's"},
        {{.extra = "aaa"}, TARN_E_FORMAT, "tensor aaa is not"},
        {{.extra = "zzz"}, TARN_E_FORMAT, "tensor zzz is not"},
        {{.name = "model.norm.weight", .shape = "[32,1]"},
         TARN_E_FORMAT,
         "tensor model.norm.weight is [32, 1], should be [32]"},
        {{.name = L1 "self_attn.q_proj.weight", .shape = "[16,64]"},
         TARN_E_FORMAT,
         "is [16, 64], should be [32, 32]"},
        {{.name = L1 "self_attn.q_conv1d.weight", .shape = "[32,4]"},
         TARN_E_FORMAT,
         "is [32, 4], should be [32, 1, 4]"},
        {{.name = "lm_head.weight", .dtype = "F16"},
         TARN_E_UNSUPPORTED,
         "tensor lm_head.weight is F16, should be BF16 or F32"},
        {{.name = L1 "self_attn.dt_bias", .dtype = "I32"}, TARN_E_UNSUPPORTED, "is I32"},
        {{.name = L1 "self_attn.A_log", .shape = "[3]", .more_zeros = 1, .last = 0.5f},
         TARN_E_FORMAT,
         "A_log is [3], should be [1, 1, 2, 1]"},
        {{.name = L1 "self_attn.A_log", .shape = "[2,2]", .more_zeros = 2},
         TARN_E_FORMAT,
         "A_log is [2, 2]"},
        {{.name = L1 "self_attn.A_log", .shape = "[1048578]", .more_zeros = 1048576},
         TARN_E_FORMAT,
         "A_log is [1048578], should be [1, 1, 2, 1]"}, /* zeros, but who would read a terabyte */
    };
    tarni_spec spec;
    scratch from, to;
    tarn_error err;
    toy_spec(&spec);
    REQUIRE(write_toy(&from, &spec) && scratch_make(&to));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tarni_weights w;
        write_changed(&to, from.dir, &cases[i].change);
        tarn_status status = tarni_weights_open(to.dir, &spec, &tarni_heap, &w, &err);
        if (status != cases[i].status || !strstr(err.detail, cases[i].names))
            CHECK_FAIL("case %zu: %s \"%s\", should be %s with \"%s\"", i, tarn_status_name(status),
                       err.detail, tarn_status_name(cases[i].status), cases[i].names);
        CHECK(w.files == NULL && w.layers == NULL);
        tarni_weights_close(&w);
    }
    scratch_remove(&from);
    scratch_remove(&to);
}

CASE(tied_models_have_no_lm_head)
{
    tarni_spec spec;
    scratch s;
    tarni_weights w;
    tarn_error err;
    toy_spec(&spec);
    spec.tied = true;
    spec.n_shared = 0;
    REQUIRE(write_toy(&s, &spec));
    REQUIRE_OK(tarni_weights_open(s.dir, &spec, &tarni_heap, &w, &err), &err);
    CHECK(w.lm_head.data == w.embed.data && w.lm_head.n_out == 300);
    CHECK(!w.layers[1].moe.has_shared);
    tarni_weights_close(&w);
    spec.tied = false;
    CHECK_STATUS(tarni_weights_open(s.dir, &spec, &tarni_heap, &w, &err), TARN_E_FORMAT);
    CHECK_HAS(err.detail, "lm_head.weight is missing");
    scratch_remove(&s);
}

CASE(opening_survives_missing_memory)
{
    tarni_spec spec;
    scratch s;
    tarn_error err;
    tarn_status status = TARN_E_NO_MEMORY;
    toy_spec(&spec);
    REQUIRE(write_toy(&s, &spec));
    for (long n = 0; n < 100 && status != TARN_OK; n++) {
        failing f = {n, 0};
        tarn_allocator a = failing_allocator(&f);
        tarni_weights w;
        status = tarni_weights_open(s.dir, &spec, &a, &w, &err);
        if (status != TARN_OK)
            CHECK_STATUS(status, TARN_E_NO_MEMORY);
        tarni_weights_close(&w);
        CHECK_EQ(f.blocks, 0);
    }
    CHECK_STATUS(status, TARN_OK);
    scratch_remove(&s);
}

/* ---- the digest ------------------------------------------------------------------------------ */

static bool digest_of(const char *dir, const char *cache, bool fresh, uint8_t out[32])
{
    tarni_spec spec;
    tarni_weights w;
    tarn_error err = {TARN_OK, ""};
    memset(out, 0, 32);
    if (tarni_spec_load(dir, &tarni_heap, &spec, &err) != TARN_OK ||
        tarni_weights_open(dir, &spec, &tarni_heap, &w, &err) != TARN_OK) {
        CHECK_FAIL("%s", err.detail);
        return false;
    }
    tarn_status status = tarni_weights_digest(&w, cache, fresh, out, &err);
    CHECK_STATUS(status, TARN_OK);
    tarni_weights_close(&w);
    return status == TARN_OK;
}

/* Changes the last byte of the file and keeps its time of change. */
static void flip_last_byte(const char *path)
{
    struct stat info;
    uint8_t byte;
    int fd = open(path, O_RDWR);
    REQUIRE(fd >= 0 && fstat(fd, &info) == 0);
    REQUIRE(pread(fd, &byte, 1, info.st_size - 1) == 1);
    byte ^= 1;
    REQUIRE(pwrite(fd, &byte, 1, info.st_size - 1) == 1);
    struct timespec times[2] = {info.st_atim, info.st_mtim};
    CHECK(futimens(fd, times) == 0);
    close(fd);
}

CASE(digest_is_of_the_tensors_not_the_files)
{
    tarni_spec spec;
    scratch one, copy;
    uint8_t a[32], b[32];
    size_t n_bytes;
    toy_spec(&spec);
    REQUIRE(write_toy(&one, &spec) && scratch_make(&copy));
    char *config = scratch_read(scratch_path(&one, "config.json"), &n_bytes);
    scratch_write(&copy, "config.json", config, n_bytes);
    free(config);
    write_changed(&copy, one.dir, &(change){0}); /* in name order, with another header */
    REQUIRE(digest_of(one.dir, NULL, false, a) && digest_of(copy.dir, NULL, false, b));
    CHECK_BYTES(a, b, 32);
    flip_last_byte(scratch_path(&copy, "model.safetensors"));
    REQUIRE(digest_of(copy.dir, NULL, false, b));
    CHECK(memcmp(a, b, 32) != 0);
    scratch_remove(&one);
    scratch_remove(&copy);
}

CASE(digest_cache_serves_the_same_files_only)
{
    tarni_spec spec;
    scratch s;
    uint8_t first[32], again[32], fresh[32], plain[32];
    char cache[128];
    toy_spec(&spec);
    REQUIRE(write_toy(&s, &spec));
    snprintf(cache, sizeof cache, "%s/cache", s.dir);
    REQUIRE(digest_of(s.dir, NULL, false, plain) && digest_of(s.dir, cache, false, first));
    CHECK_BYTES(first, plain, 32);
    flip_last_byte(scratch_path(&s, "model.safetensors"));
    REQUIRE(digest_of(s.dir, cache, false, again)); /* same identity: the remembered sum */
    CHECK_BYTES(again, first, 32);
    REQUIRE(digest_of(s.dir, cache, true, fresh));
    CHECK(memcmp(fresh, first, 32) != 0);
    REQUIRE(digest_of(s.dir, cache, false, again)); /* and the fresh one replaced it */
    CHECK_BYTES(again, fresh, 32);
    struct timespec times[2] = {{1, 0}, {1, 1}};
    flip_last_byte(scratch_path(&s, "model.safetensors"));
    CHECK(utimensat(AT_FDCWD, s.path, times, 0) == 0);
    REQUIRE(digest_of(s.dir, cache, false, again)); /* another time: another file */
    CHECK_BYTES(again, plain, 32);
    scratch_remove(&s);
}

static char found_path[512];

static int find_sum(const char *path, const struct stat *info, int type, struct FTW *place)
{
    (void)info;
    (void)place;
    if (type == FTW_F)
        snprintf(found_path, sizeof found_path, "%s", path);
    return 0;
}

CASE(digest_cache_may_be_broken_or_missing)
{
    tarni_spec spec;
    scratch s;
    uint8_t plain[32], got[32];
    char cache[128];
    size_t n_bytes;
    toy_spec(&spec);
    REQUIRE(write_toy(&s, &spec));
    snprintf(cache, sizeof cache, "%s/cache", s.dir);
    REQUIRE(digest_of(s.dir, NULL, false, plain) && digest_of(s.dir, cache, false, got));
    nftw(cache, find_sum, 4, FTW_PHYS);
    char *text = scratch_read(found_path, &n_bytes);
    REQUIRE(text != NULL);
    for (size_t i = 0; i <= n_bytes; i += 5) { /* cut there, and one bit flipped there */
        for (int flip = 0; flip < 2 && i + (size_t)flip <= n_bytes; flip++) {
            FILE *file = fopen(found_path, "wb");
            REQUIRE(file != NULL);
            text[i] ^= (char)flip;
            fwrite(text, 1, flip ? n_bytes : i, file);
            text[i] ^= (char)flip;
            fclose(file);
            REQUIRE(digest_of(s.dir, cache, false, got));
            CHECK_BYTES(got, plain, 32);
        }
    }
    free(text);
    REQUIRE(digest_of(s.dir, "/proc/no such folder/cache", false, got));
    CHECK_BYTES(got, plain, 32);
    scratch_remove(&s);
}

/* ---- layout ---------------------------------------------------------------------------------- */

CASE(layout_of_the_published_model)
{
    tarni_spec spec;
    tarni_layout layout;
    tarn_error err;
    REQUIRE_OK(tarni_synth_preset("48b", &spec, &err), &err);
    tarni_layout_init(&spec, TARNI_NUMERICS_NATIVE, &layout);
    CHECK(layout.round && layout.conv_dtype == TARNK_BF16 && layout.latent_dtype == TARNK_BF16);
    CHECK_EQ(layout.state_bytes, 2097152);
    CHECK_EQ(layout.conv_bytes, 3 * 4096 * 3 * 2);
    CHECK_EQ(layout.slot_bytes, 43417600);
    CHECK_EQ(layout.latent_row_bytes, 1152);
    CHECK_EQ(layout.page_bytes, 7 * 64 * 1152);
    CHECK_EQ(layout.conv_begin, 20 * 2097152);
    tarni_layout_init(&spec, TARNI_NUMERICS_F32, &layout);
    CHECK(!layout.round && layout.conv_dtype == TARNK_F32 && layout.latent_dtype == TARNK_F32);
    CHECK_EQ(layout.conv_bytes, 3 * 4096 * 3 * 4);
    CHECK_EQ(layout.page_bytes, 7 * 64 * 2304);
    spec.dtype = TARNK_F32;
    tarni_layout_init(&spec, TARNI_NUMERICS_NATIVE, &layout);
    CHECK(!layout.round && layout.conv_dtype == TARNK_F32);
}

CASE(layout_keeps_parts_on_cache_lines)
{
    tarni_spec spec;
    tarni_layout layout;
    toy_spec(&spec);
    spec.kda_heads = 1;
    spec.kda_dim = 5;
    spec.rank = 3;
    spec.rope = 2;
    tarni_layout_init(&spec, TARNI_NUMERICS_NATIVE, &layout);
    CHECK_EQ(layout.state_bytes, 100);
    CHECK_EQ(layout.state_stride, 128);
    CHECK_EQ(layout.conv_begin, 256);
    CHECK_EQ(layout.conv_bytes, 90);
    CHECK_EQ(layout.conv_stride, 128);
    CHECK_EQ(layout.slot_bytes, 512);
    CHECK_EQ(layout.latent_row_bytes, 10);
    CHECK_EQ(layout.latent_stride, 640);
}

CHECK_MAIN(ENTRY(opens_the_checkpoints_of_the_tests), ENTRY(binds_every_tensor_to_its_own_bytes),
           ENTRY(counts_the_published_model), ENTRY(sizes_beyond_64_bits_stick),
           ENTRY(accepts_the_variants_of_relatives), ENTRY(refuses_what_is_not_the_model),
           ENTRY(tied_models_have_no_lm_head), ENTRY(opening_survives_missing_memory),
           ENTRY(digest_is_of_the_tensors_not_the_files),
           ENTRY(digest_cache_serves_the_same_files_only),
           ENTRY(digest_cache_may_be_broken_or_missing), ENTRY(layout_of_the_published_model),
           ENTRY(layout_keeps_parts_on_cache_lines))
