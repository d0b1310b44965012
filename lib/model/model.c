/* model.c - opening a checkpoint folder, and the record that says which model it is. */
#include "model.h"

#include "synth.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static tarn_status choose_cache_dir(tarni_model *model, const char *given, tarn_error *err)
{
    char path[4096];
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (given)
        n = snprintf(path, sizeof path, "%s", given);
    else if (base && base[0] == '/')
        n = snprintf(path, sizeof path, "%s/tarn", base);
    else if (home && home[0] == '/')
        n = snprintf(path, sizeof path, "%s/.cache/tarn", home);
    if (n <= 0 || (size_t)n >= sizeof path)
        return TARN_OK;
    return tarni_copy_text(&model->allocator, path, (size_t)n, &model->cache_dir, err);
}

static void add_stop_id(tarni_model *model, uint32_t id)
{
    if (id >= model->spec.vocab || tarni_model_is_stop(model, id))
        return;
    if (model->n_stop_ids < TARNI_STOP_IDS_MAX)
        model->stop_ids[model->n_stop_ids++] = id;
}

/* The config's end of text and the tokenizer's own: either may be what the model emits. */
static void find_stop_ids(tarni_model *model)
{
    static const char *const names[] = {"<|im_end|>", "[EOS]", "[EOT]"};
    add_stop_id(model, model->spec.eos_id);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        uint32_t id;
        if (model->tokenizer && tarni_tokenizer_special(model->tokenizer, names[i], &id))
            add_stop_id(model, id);
    }
}

static bool file_exists(const char *dir, const char *name)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path && access(path, F_OK) == 0;
}

static tarn_status open_parts(tarni_model *model, bool tokenizer_only, tarn_error *err)
{
    const char *dir = model->dir;
    if (!tokenizer_only || file_exists(dir, "config.json")) {
        TARNI_TRY(tarni_spec_load(dir, &model->allocator, &model->spec, err));
        model->has_spec = true;
    }
    if (tokenizer_only || file_exists(dir, "tiktoken.model")) {
        uint32_t n_rows = model->has_spec ? model->spec.vocab : 0;
        TARNI_TRY(tarni_tokenizer_open(dir, n_rows, &model->allocator, &model->tokenizer, err));
        tarn_error ignored;
        model->has_chat = tarni_chat_init(&model->chat, model->tokenizer, &ignored) == TARN_OK;
    }
    if (model->has_spec)
        find_stop_ids(model);
    return TARN_OK;
}

tarn_status tarni_model_init(tarni_model *model, const char *dir, bool tokenizer_only, bool verify,
                             const char *cache_dir, const tarn_allocator *allocator,
                             const tarn_log *log, tarn_error *err)
{
    *model = (tarni_model){.allocator = *allocator, .verify = verify};
    pthread_mutex_init(&model->lock, NULL);
    if (log)
        model->log = *log;
    if (sodium_init() < 0) {
        tarni_model_fini(model);
        return tarni_fail(err, TARN_E_UNSUPPORTED, "libsodium could not be initialised");
    }
    tarn_status status = tarni_copy_text(allocator, dir, strlen(dir), &model->dir, err);
    if (status == TARN_OK)
        status = choose_cache_dir(model, cache_dir, err);
    if (status == TARN_OK)
        status = open_parts(model, tokenizer_only, err);
    if (status != TARN_OK)
        tarni_model_fini(model);
    return status;
}

tarn_status tarni_model_init_shape(tarni_model *model, const char *preset,
                                   const tarn_allocator *allocator, const tarn_log *log,
                                   tarn_error *err)
{
    *model = (tarni_model){.allocator = *allocator, .is_shape = true, .has_spec = true};
    if (log)
        model->log = *log;
    if (sodium_init() < 0)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "libsodium could not be initialised");
    TARNI_TRY(tarni_synth_preset(preset, &model->spec, err));
    find_stop_ids(model);
    return tarni_copy_text(allocator, preset, strlen(preset), &model->dir, err);
}

void tarni_model_fini(tarni_model *model)
{
    TARN_ASSERT(atomic_load(&model->n_engines) == 0);
    pthread_mutex_destroy(&model->lock);
    if (model->weights_open)
        tarni_weights_close(&model->weights);
    tarni_tokenizer_free(model->tokenizer);
    tarni_free(&model->allocator, model->cache_dir);
    tarni_free(&model->allocator, model->dir);
    *model = (tarni_model){0};
}

static tarn_status open_weights(tarni_model *model, tarn_error *err)
{
    if (model->weights_open)
        return TARN_OK;
    TARNI_TRY(model->is_shape
                  ? tarni_weights_shape(&model->spec, 1, &model->allocator, &model->weights, err)
                  : tarni_weights_open(model->dir, &model->spec, &model->allocator, &model->weights,
                                       err));
    model->weights_open = true;
    model->weights_summed = model->is_shape; /* zeros: no checkpoint has that sum */
    return TARN_OK;
}

tarn_status tarni_model_need_weights(tarni_model *model, tarn_error *err)
{
    if (!model->has_spec)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "%s was opened for its tokenizer only",
                          model->dir);
    pthread_mutex_lock(&model->lock);
    tarn_status status = open_weights(model, err);
    pthread_mutex_unlock(&model->lock);
    return status;
}

static tarn_status sum_weights(tarni_model *model, tarn_error *err)
{
    if (model->weights_summed)
        return TARN_OK;
    TARNI_TRY(tarni_weights_digest(&model->weights, model->cache_dir, model->verify,
                                   model->weights_sum, err));
    model->weights_summed = true;
    return TARN_OK;
}

bool tarni_model_is_stop(const tarni_model *model, uint32_t id)
{
    for (uint32_t i = 0; i < model->n_stop_ids; i++)
        if (model->stop_ids[i] == id)
            return true;
    return false;
}

/* The identity record, little-endian:
 *   OFFSET SIZE FIELD
 *        0    4 magic "TNID"
 *        4    4 version, 1
 *        8   32 weights digest
 *       40   32 config digest
 *       72   32 tokenizer digest, zeros without a tokenizer
 *      104   24 layout: sizes of one layer's state, tails and latent row (u64 each)
 *      128    4 dtype of the state (0: fp32)
 *      132    4 dtype of the convolution tails
 *      136    4 dtype of the latents
 *      140   24 name of the state's axis order, zero padded */
#define IDENTITY_MAGIC 0x44494E54u
#define STATE_ORDER    "layer,head,k,v"

typedef struct identity_part {
    const char *name;
    size_t offset, n_bytes;
} identity_part;

/* In the order they are compared: causes before what follows from them. */
static const identity_part parts[] = {
    {"config", 40, 32},
    {"weights", 8, 32},
    {"tokenizer", 72, 32},
    {"state dtype", 128, 4},
    {"convolution tail dtype", 132, 4},
    {"latent dtype", 136, 4},
    {"state axis order", 140, 24},
    {"bytes of a layer's state", 104, 8},
    {"bytes of a layer's convolution tails", 112, 8},
    {"bytes of a latent row", 120, 8},
};

tarn_status tarni_model_identity(tarni_model *model, const tarni_layout *layout,
                                 tarni_identity *out, tarn_error *err)
{
    TARNI_TRY(tarni_model_need_weights(model, err));
    pthread_mutex_lock(&model->lock);
    tarn_status status = sum_weights(model, err);
    pthread_mutex_unlock(&model->lock);
    if (status != TARN_OK)
        return status;
    uint8_t *r = out->record;
    memset(r, 0, sizeof out->record);
    tarni_store_u32(r, IDENTITY_MAGIC);
    tarni_store_u32(r + 4, 1);
    memcpy(r + 8, model->weights_sum, 32);
    tarni_spec_digest(&model->spec, r + 40);
    if (model->tokenizer)
        tarni_tokenizer_digest(model->tokenizer, r + 72);
    tarni_store_u64(r + 104, layout->state_bytes);
    tarni_store_u64(r + 112, layout->conv_bytes);
    tarni_store_u64(r + 120, layout->latent_row_bytes);
    tarni_store_u32(r + 128, TARNK_F32);
    tarni_store_u32(r + 132, layout->conv_dtype);
    tarni_store_u32(r + 136, layout->latent_dtype);
    static_assert(sizeof STATE_ORDER <= 24, "the axis order fits its field");
    memcpy(r + 140, STATE_ORDER, sizeof STATE_ORDER);
    crypto_generichash(out->fp, sizeof out->fp, r, sizeof out->record, NULL, 0);
    return TARN_OK;
}

static void short_hex(const uint8_t *bytes, size_t n_bytes, char out[17])
{
    size_t shown = n_bytes < 8 ? n_bytes : 8;
    sodium_bin2hex(out, 17, bytes, shown);
}

tarn_status tarni_identity_explain(const tarni_identity *ours, const uint8_t *stored,
                                   size_t stored_bytes, const char *what, tarn_error *err)
{
    if (stored_bytes != TARNI_IDENTITY_BYTES || tarni_load_u32(stored) != IDENTITY_MAGIC)
        return tarni_fail(err, TARN_E_FORMAT, "%s: the stored model record is of another kind",
                          what);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const identity_part *p = &parts[i];
        if (memcmp(ours->record + p->offset, stored + p->offset, p->n_bytes) == 0)
            continue;
        char theirs[17], mine[17];
        short_hex(stored + p->offset, p->n_bytes, theirs);
        short_hex(ours->record + p->offset, p->n_bytes, mine);
        return tarni_fail(err, TARN_E_MISMATCH,
                          "%s was made with another model: %s differs (stored %s, this model %s)",
                          what, p->name, theirs, mine);
    }
    return tarni_fail(err, TARN_E_MISMATCH, "%s was made with another model: record version", what);
}
