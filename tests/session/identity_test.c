/* D6: a session is opened with the model it was made with, or refused by the name of what differs.
 */
#include "check.h"
#include "fixture.h"

typedef struct copy {
    rig r; /* with a session "a" of the bundled model in its store */
    char dir[128];
} copy;

static void make_copy(copy *c, const char *name)
{
    snprintf(c->dir, sizeof c->dir, "%s/%s", c->r.dir, name);
    rig_copy_folder(c->r.model_dir, c->dir);
}

static void replace(const copy *c, const char *file, const char *from, const char *to)
{
    char path[256];
    size_t n_bytes;
    snprintf(path, sizeof path, "%s/%s", c->dir, file);
    char *data = rig_read_file(path, &n_bytes), *at = strstr(data, from);
    if (!at || strlen(from) != strlen(to)) {
        printf("%s has no %s\n", path, from);
        exit(1);
    }
    memcpy(at, to, strlen(to));
    rig_write_file(path, data, n_bytes);
    free(data);
}

static tarn_status open_with(const copy *c, const char *cache_dir, uint32_t flags,
                             tarn_numerics numerics)
{
    tarn_model *model;
    tarn_engine *engine;
    tarn_session *s;
    tarn_reuse reuse;
    tarn_model_options m = {.size = sizeof m, .cache_dir = cache_dir, .flags = flags};
    tarn_engine_options e = {.size = sizeof e, .n_threads = 1, .numerics = numerics};
    OK(tarn_model_open(c->dir, &m, &model, ERR));
    OK(tarn_engine_open(model, &e, &engine, ERR));
    tarn_status status = tarn_session_open(engine, c->r.store, "a", NULL, &s, &reuse, ERR);
    CHECK_EQ(s != NULL, status == TARN_OK);
    if (status == TARN_OK)
        CHECK_EQ(reuse.tokens_reused, 50);
    else
        CHECK_EQ(reuse.tokens_reused + reuse.bytes_read, 0);
    tarn_session_close(s);
    tarn_engine_close(engine);
    tarn_model_close(model);
    return status;
}

static void begin(copy *c)
{
    uint32_t ids[50];
    rig_open(&c->r, RIG_RECALL, NULL);
    rig_ids(&c->r, 90, ids, 50);
    tarn_session *s = rig_session(&c->r, "a", NULL);
    rig_feed(s, ids, 50);
    rig_commit(s);
    tarn_session_close(s);
}

static void flip_last_weight(const copy *c)
{
    char path[256];
    size_t n_bytes;
    snprintf(path, sizeof path, "%s/model.safetensors", c->dir);
    char *data = rig_read_file(path, &n_bytes);
    data[n_bytes - 1] ^= 1;
    rig_write_file(path, data, n_bytes);
    free(data);
}

CASE(each_part_is_refused_by_name)
{
    copy c;
    begin(&c);
    make_copy(&c, "same"); /* another folder, the same model */
    CHECK_STATUS(open_with(&c, "", 0, TARN_NUMERICS_NATIVE), TARN_OK);
    REFUSED(open_with(&c, "", 0, TARN_NUMERICS_F32), TARN_E_MISMATCH, "dtype differs");
    make_copy(&c, "weight");
    flip_last_weight(&c);
    REFUSED(open_with(&c, "", 0, TARN_NUMERICS_NATIVE), TARN_E_MISMATCH, "weights differs");
    static const char *const config[][2] = {
        {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 2e-05"},
        {"\"routed_scaling_factor\": 1.5", "\"routed_scaling_factor\": 1.6"},
        {"\"num_experts_per_token\": 2", "\"num_experts_per_token\": 3"},
        {"\"moe_renormalize\": true,", "\"moe_renormalize\":false,"},
    };
    for (size_t i = 0; i < sizeof config / sizeof config[0]; i++) {
        char name[16];
        snprintf(name, sizeof name, "config%zu", i);
        make_copy(&c, name);
        replace(&c, "config.json", config[i][0], config[i][1]);
        REFUSED(open_with(&c, "", 0, TARN_NUMERICS_NATIVE), TARN_E_MISMATCH, "config differs");
        CHECK_HAS(rig_error.detail, "a was made with another model");
    }
    make_copy(&c, "tokenizer");
    replace(&c, "tiktoken.model", "IGl0 1023", "IGlX 1023");
    REFUSED(open_with(&c, "", 0, TARN_NUMERICS_NATIVE), TARN_E_MISMATCH, "tokenizer differs");
    make_copy(&c, "special");
    replace(&c, "tokenizer_config.json", "[BOS]", "[BOX]");
    REFUSED(open_with(&c, "", 0, TARN_NUMERICS_NATIVE), TARN_E_MISMATCH, "tokenizer differs");
    make_copy(&c, "untouched"); /* and after all that */
    CHECK_STATUS(open_with(&c, "", 0, TARN_NUMERICS_NATIVE), TARN_OK);
    CHECK_EQ(rig_verify(c.r.store), 0);
    rig_close(&c.r);
}

/* The remembered checksum is bound to the file; what does not matter to the maths is no part. */
CASE(a_remembered_sum_does_not_hide_a_change)
{
    copy c;
    char cache[128];
    begin(&c);
    snprintf(cache, sizeof cache, "%s/cache", c.r.dir);
    make_copy(&c, "model");
    for (size_t i = 0; i < 2; i++) /* remembered, then taken from memory */
        CHECK_STATUS(open_with(&c, cache, 0, TARN_NUMERICS_NATIVE), TARN_OK);
    flip_last_weight(&c);
    REFUSED(open_with(&c, cache, 0, TARN_NUMERICS_NATIVE), TARN_E_MISMATCH, "weights differs");
    REFUSED(open_with(&c, cache, TARN_MODEL_VERIFY, TARN_NUMERICS_NATIVE), TARN_E_MISMATCH,
            "weights differs");
    flip_last_weight(&c);
    CHECK_STATUS(open_with(&c, cache, TARN_MODEL_VERIFY, TARN_NUMERICS_NATIVE), TARN_OK);
    replace(&c, "config.json", "\"use_cache\": true,", "\"use_cache\":false,");
    CHECK_STATUS(open_with(&c, cache, 0, TARN_NUMERICS_NATIVE), TARN_OK);
    rig_close(&c.r);
}

CASE(a_name_taken_by_another_model)
{
    copy c;
    begin(&c);
    make_copy(&c, "weight");
    flip_last_weight(&c);
    tarn_model *model;
    tarn_engine *engine;
    tarn_session *s;
    tarn_model_options m = {.size = sizeof m, .cache_dir = ""};
    tarn_engine_options e = {.size = sizeof e, .n_threads = 1};
    tarn_session_options create = {.size = sizeof create, .flags = TARN_SESSION_CREATE};
    tarn_session_options look = {.size = sizeof look, .flags = TARN_SESSION_READ_ONLY};
    OK(tarn_model_open(c.dir, &m, &model, ERR));
    OK(tarn_engine_open(model, &e, &engine, ERR));
    REFUSED(tarn_session_open(engine, c.r.store, "a", &create, &s, NULL, ERR), TARN_E_MISMATCH,
            "weights");
    REFUSED(tarn_session_open(engine, c.r.store, "a", &look, &s, NULL, ERR), TARN_E_MISMATCH,
            "weights");
    OK(tarn_session_open(engine, c.r.store, "b", &create, &s, NULL, ERR)); /* side by side */
    const uint32_t id = 5;
    rig_feed(s, &id, 1);
    rig_commit(s);
    REFUSED(tarn_session_rewind(s, "@n:2", NULL, ERR), TARN_E_MISMATCH, "another model");
    CHECK_EQ(rig_info(s).at.position, 1);
    tarn_session_close(s);
    CHECK_STATUS(tarn_session_open(c.r.engine, c.r.store, "b", NULL, &s, NULL, ERR),
                 TARN_E_MISMATCH);
    tarn_engine_close(engine);
    tarn_model_close(model);
    CHECK_EQ(rig_verify(c.r.store), 0);
    rig_close(&c.r);
}

CHECK_MAIN(ENTRY(each_part_is_refused_by_name), ENTRY(a_remembered_sum_does_not_hide_a_change),
           ENTRY(a_name_taken_by_another_model))
