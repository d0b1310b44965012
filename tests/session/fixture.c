#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

tarn_error rig_error;

/* Small enough that a thousand tokens take a blink; two MLA layers, so that latents have strides.
 */
static const char tiny_config[] =
    "{\"architectures\": [\"KimiLinearForCausalLM\"], \"model_type\": \"kimi_linear\",\n"
    " \"dtype\": \"bfloat16\", \"hidden_size\": 64, \"vocab_size\": 160, \"num_hidden_layers\": "
    "5,\n"
    " \"linear_attn_config\": {\"full_attn_layers\": [3, 5], \"kda_layers\": [1, 2, 4],\n"
    "  \"head_dim\": 16, \"num_heads\": 4, \"short_conv_kernel_size\": 4},\n"
    " \"num_attention_heads\": 4, \"num_key_value_heads\": 4, \"head_dim\": 16,\n"
    " \"kv_lora_rank\": 24, \"q_lora_rank\": null, \"qk_nope_head_dim\": 16,\n"
    " \"qk_rope_head_dim\": 8, \"v_head_dim\": 12, \"mla_use_nope\": true,\n"
    " \"intermediate_size\": 96, \"moe_intermediate_size\": 24, \"num_experts\": 8,\n"
    " \"num_experts_per_token\": 2, \"num_shared_experts\": 1, \"num_expert_group\": 1,\n"
    " \"topk_group\": 1, \"first_k_dense_replace\": 1, \"moe_layer_freq\": 1,\n"
    " \"moe_renormalize\": true, \"moe_router_activation_func\": \"sigmoid\",\n"
    " \"routed_scaling_factor\": 2.446, \"use_grouped_topk\": true, \"hidden_act\": \"silu\",\n"
    " \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"tie_word_embeddings\": false,\n"
    " \"model_max_length\": 4096, \"num_nextn_predict_layers\": 0,\n"
    " \"bos_token_id\": 156, \"eos_token_id\": 157, \"pad_token_id\": 159}\n";

/* Heads as wide as those of large models: the shapes that devices have other kernels for. */
static const char wide_config[] =
    "{\"architectures\": [\"KimiLinearForCausalLM\"], \"model_type\": \"kimi_linear\",\n"
    " \"dtype\": \"bfloat16\", \"hidden_size\": 64, \"vocab_size\": 160, \"num_hidden_layers\": "
    "3,\n"
    " \"linear_attn_config\": {\"full_attn_layers\": [3], \"kda_layers\": [1, 2],\n"
    "  \"head_dim\": 128, \"num_heads\": 1, \"short_conv_kernel_size\": 4},\n"
    " \"num_attention_heads\": 1, \"num_key_value_heads\": 1, \"head_dim\": 128,\n"
    " \"kv_lora_rank\": 512, \"q_lora_rank\": null, \"qk_nope_head_dim\": 128,\n"
    " \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, \"mla_use_nope\": true,\n"
    " \"intermediate_size\": 96, \"moe_intermediate_size\": 24, \"num_experts\": 8,\n"
    " \"num_experts_per_token\": 2, \"num_shared_experts\": 1, \"num_expert_group\": 1,\n"
    " \"topk_group\": 1, \"first_k_dense_replace\": 1, \"moe_layer_freq\": 1,\n"
    " \"moe_renormalize\": true, \"moe_router_activation_func\": \"sigmoid\",\n"
    " \"routed_scaling_factor\": 2.446, \"use_grouped_topk\": true, \"hidden_act\": \"silu\",\n"
    " \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"tie_word_embeddings\": false,\n"
    " \"model_max_length\": 4096, \"num_nextn_predict_layers\": 0,\n"
    " \"bos_token_id\": 156, \"eos_token_id\": 157, \"pad_token_id\": 159}\n";

static const char *const kind_names[] = {
    [RIG_TINY] = "tiny", [RIG_WIDE] = "wide", [RIG_RECALL] = "recall"};

const char *rig_kind_name(rig_kind kind)
{
    return kind_names[kind];
}

rig_kind rig_kind_named(const char *name)
{
    rig_kind kind = RIG_TINY;
    while (kind < RIG_RECALL && strcmp(kind_names[kind], name) != 0)
        kind++;
    return kind;
}

void rig_must(tarn_status status, const char *call, const char *file, int line)
{
    if (status == TARN_OK)
        return;
    printf("%s:%d: %s is %s: %s\n", file, line, call, tarn_status_name(status), rig_error.detail);
    exit(1);
}

static void give_up(const char *what, const char *path)
{
    printf("%s: %s\n", what, path);
    exit(1);
}

/* ---- files ---- */

char *rig_read_file(const char *path, size_t *n_bytes)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &info) != 0)
        give_up("cannot be opened", path);
    *n_bytes = (size_t)info.st_size;
    char *data = malloc(*n_bytes + 1);
    if (!data || fread(data, 1, *n_bytes, file) != *n_bytes)
        give_up("cannot be read", path);
    data[*n_bytes] = 0;
    fclose(file);
    return data;
}

void rig_write_file(const char *path, const void *data, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, n_bytes, file) != n_bytes || fclose(file) != 0)
        give_up("cannot be written", path);
}

void rig_copy_folder(const char *from, const char *to)
{
    DIR *folder = opendir(from);
    if (!folder || mkdir(to, 0700) != 0)
        give_up("cannot be copied", from);
    for (struct dirent *entry; (entry = readdir(folder));) {
        char source[512], target[512];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(source, sizeof source, "%s/%s", from, entry->d_name);
        snprintf(target, sizeof target, "%s/%s", to, entry->d_name);
        size_t n_bytes;
        char *data = rig_read_file(source, &n_bytes);
        rig_write_file(target, data, n_bytes);
        free(data);
    }
    closedir(folder);
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *place)
{
    (void)info;
    (void)type;
    (void)place;
    return remove(path);
}

void rig_remove_folder(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- opening and closing ---- */

static void open_engine(rig *r, const tarn_engine_options *options)
{
    if (options) {
        r->options = *options;
        r->options.size = sizeof r->options;
    }
    if (!r->options.device)
        r->options.device = RIG_DEVICE;
    OK(tarn_engine_open(r->model, &r->options, &r->engine, ERR));
}

static void open_all(rig *r, const tarn_engine_options *options)
{
    static const tarn_engine_options one_thread = {.n_threads = 1};
    tarn_model_options model = {.size = sizeof model, .cache_dir = ""};
    tarn_store_options store = {
        .size = sizeof store, .flags = TARN_STORE_CREATE, .map_bytes = (uint64_t)1 << 30};
    if (!options && r->options.size == 0)
        options = &one_thread;
    model.allocator = store.allocator = options ? options->allocator : r->options.allocator;
    OK(tarn_model_open(r->model_dir, &model, &r->model, ERR));
    open_engine(r, options);
    OK(tarn_store_open(r->store_path, &store, &r->store, ERR));
    tarn_model_info info = {.size = sizeof info};
    OK(tarn_model_describe(r->model, r->options.numerics, &info, ERR));
    r->vocab = info.vocab;
}

static void set_paths(rig *r, rig_kind kind, const char *dir)
{
    *r = (rig){.kind = kind};
    snprintf(r->dir, sizeof r->dir, "%s", dir);
    snprintf(r->store_path, sizeof r->store_path, "%s/store", dir);
    if (kind == RIG_RECALL)
        snprintf(r->model_dir, sizeof r->model_dir, "%s/model", TEST_EXAMPLES);
    else
        snprintf(r->model_dir, sizeof r->model_dir, "%s/model", dir);
}

void rig_make_folder(char dir[64])
{
    const char *where = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, 64, "%s/tarn-session-XXXXXX", where);
    if (!mkdtemp(dir))
        give_up("cannot be made", dir);
}

void rig_open(rig *r, rig_kind kind, const tarn_engine_options *options)
{
    char dir[64], config[96];
    rig_make_folder(dir);
    set_paths(r, kind, dir);
    if (kind != RIG_RECALL) {
        const char *text = kind == RIG_TINY ? tiny_config : wide_config;
        snprintf(config, sizeof config, "%s/config.json", dir);
        rig_write_file(config, text, strlen(text));
        tarn_synth_options synth = {.size = sizeof synth, .config = config, .seed = 7};
        OK(tarn_model_synth(r->model_dir, &synth, NULL, NULL, ERR));
    }
    open_all(r, options);
}

void rig_join(rig *r, rig_kind kind, const char *dir, const tarn_engine_options *options)
{
    set_paths(r, kind, dir);
    open_all(r, options);
}

void rig_leave(rig *r)
{
    tarn_engine_close(r->engine);
    tarn_model_close(r->model);
    tarn_store_close(r->store);
    r->engine = NULL;
    r->model = NULL;
    r->store = NULL;
}

void rig_close(rig *r)
{
    rig_leave(r);
    rig_remove_folder(r->dir);
}

void rig_restart(rig *r, const tarn_engine_options *options)
{
    rig_leave(r);
    open_all(r, options);
}

void rig_restart_engine(rig *r, const tarn_engine_options *options)
{
    tarn_engine_close(r->engine);
    open_engine(r, options);
}

/* ---- sessions ---- */

tarn_session *rig_session(rig *r, const char *name, tarn_reuse *reuse)
{
    tarn_session *s;
    tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_CREATE | r->session_flags};
    OK(tarn_session_open(r->engine, r->store, name, &o, &s, reuse, ERR));
    return s;
}

tarn_session *rig_loose(rig *r, const char *name)
{
    tarn_session *s;
    OK(tarn_session_open(r->engine, NULL, name, NULL, &s, NULL, ERR));
    return s;
}

tarn_session *rig_fork(tarn_session *s, const char *name)
{
    tarn_session *child;
    OK(tarn_session_fork(s, name, &child, ERR));
    return child;
}

tarn_session_info rig_info(const tarn_session *s)
{
    tarn_session_info info = {.size = sizeof info};
    tarn_session_get_info(s, &info);
    return info;
}

tarn_committed rig_commit(tarn_session *s)
{
    tarn_committed committed = {.size = sizeof committed};
    OK(tarn_session_commit(s, &committed, ERR));
    return committed;
}

tarn_engine_stat rig_stat(const rig *r)
{
    tarn_engine_stat stat = {.size = sizeof stat};
    tarn_engine_get_stat(r->engine, &stat);
    return stat;
}

tarn_plan_report rig_plan(const rig *r)
{
    tarn_plan_report plan = {.size = sizeof plan};
    OK(tarn_plan(r->model, NULL, &plan, ERR));
    return plan;
}

void rig_open_room(rig *r, const tarn_engine_options *options, uint32_t n_slots, uint64_t n_pages)
{
    tarn_engine_options o = *options;
    rig_open(r, RIG_TINY, options);
    r->session_flags = TARN_SESSION_NO_PREFIX;
    const tarn_plan_report plan = rig_plan(r);
    o.slots_bytes_max = n_slots * plan.slot_bytes;
    o.pages_bytes_max = n_pages * plan.page_bytes;
    rig_restart_engine(r, &o);
}

tarn_store_stat rig_store_stat(rig *r)
{
    tarn_store_stat stat = {.size = sizeof stat};
    OK(tarn_store_get_stat(r->store, &stat, ERR));
    return stat;
}

uint64_t rig_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

void rig_ids(const rig *r, uint64_t seed, uint32_t *out, size_t n)
{
    uint32_t plain = r->kind == RIG_RECALL ? 1024 : 156; /* ids below the special ones */
    for (size_t i = 0; i < n; i++)
        out[i] = (uint32_t)(rig_random(&seed) % plain);
}

void rig_feed(tarn_session *s, const uint32_t *ids, size_t n)
{
    OK(tarn_session_append_tokens(s, ids, n, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
}

tarn_session *rig_kept(rig *r, const char *name, uint64_t seed, size_t n)
{
    tarn_session *s = rig_session(r, name, NULL);
    uint32_t *ids = malloc(n * sizeof *ids);
    if (!ids)
        exit(1);
    rig_ids(r, seed, ids, n);
    rig_feed(s, ids, n);
    rig_commit(s);
    free(ids);
    return s;
}

static void note_call(rig_told *t, const tarn_event *e)
{
    char line[1024];
    int n = 0;
    int bytes = (int)e->text_bytes;
    const char *problem = e->problem ? e->problem : "";
    if (e->kind == TARN_EVENT_CALL_BEGIN)
        n = snprintf(line, sizeof line, "[%s %s]", e->call_id, e->call_name);
    else if (e->kind == TARN_EVENT_CALL_ARGUMENTS)
        n = snprintf(line, sizeof line, "%.*s", bytes, e->text);
    else if (e->kind == TARN_EVENT_CALL_END)
        n = snprintf(line, sizeof line, "=%.*s%s%s\n", bytes, e->text, *problem ? "!" : "",
                     problem);
    else
        n = snprintf(line, sizeof line, "!%s: %.*s\n", problem, bytes, e->text);
    if (n > 0 && (size_t)n < sizeof line && t->calls_bytes + (size_t)n < sizeof t->calls) {
        memcpy(t->calls + t->calls_bytes, line, (size_t)n);
        t->calls_bytes += (size_t)n;
    }
}

void rig_hear(void *told, const tarn_event *event)
{
    rig_told *t = told;
    switch (event->kind) {
    case TARN_EVENT_TOKEN:
        if (t->n_ids < RIG_TOLD_IDS)
            t->ids[t->n_ids++] = event->id;
        break;
    case TARN_EVENT_TEXT:
        if (event->text && t->text_bytes + event->text_bytes < RIG_TOLD_TEXT) {
            memcpy(t->text + t->text_bytes, event->text, event->text_bytes);
            t->text_bytes += event->text_bytes;
            t->in_calls_bytes += event->in_calls ? event->text_bytes : 0;
        }
        break;
    case TARN_EVENT_APPENDED:
        t->n_appended += event->n_tokens;
        break;
    case TARN_EVENT_STOP:
        t->n_stops++;
        t->stop = event->stop;
        break;
    case TARN_EVENT_COMMITTED:
        t->n_committed++;
        t->committed = *event;
        break;
    case TARN_EVENT_PRESSURE:
        t->n_parked += event->pressure == TARN_PRESSURE_PARKED;
        t->n_resumed += event->pressure == TARN_PRESSURE_RESUMED;
        break;
    case TARN_EVENT_CALL_BEGIN:
    case TARN_EVENT_CALL_ARGUMENTS:
    case TARN_EVENT_CALL_END:
    case TARN_EVENT_CALL_MALFORMED:
        note_call(t, event);
        break;
    }
}

void rig_never_stop(const rig *r, tarn_session *s)
{
    tarn_sampling sampling = {.size = sizeof sampling, .n_bias = 1};
    sampling.bias[0] = (tarn_logit_bias){r->kind == RIG_TINY ? 157 : 1026, -INFINITY};
    OK(tarn_session_set_sampling(s, &sampling, ERR));
}

void rig_answer(tarn_session *s, uint32_t n, rig_told *told)
{
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = n};
    memset(told, 0, sizeof *told);
    OK(tarn_session_generate(s, &o, ERR));
    OK(tarn_session_run(s, rig_hear, told, ERR));
}

void rig_generate(tarn_session *s, size_t n, rig_told *told)
{
    static rig_told unwanted;
    if (!told)
        told = &unwanted;
    memset(told, 0, sizeof *told);
    while (told->n_ids < n) {
        tarn_generate_options o = {.size = sizeof o, .n_tokens_max = (uint32_t)(n - told->n_ids)};
        OK(tarn_session_generate(s, &o, ERR));
        OK(tarn_session_run(s, rig_hear, told, ERR));
    }
}

void rig_drain(rig *r)
{
    tarn_step step = {.size = sizeof step};
    tarn_event event;
    do {
        OK(tarn_engine_step(r->engine, &step, ERR));
        while (tarn_engine_poll(r->engine, &event))
            ;
    } while (step.n_rows > 0);
}

/* ---- logits ---- */

static void trace_row(void *user, uint64_t position, const float *logits, uint32_t vocab)
{
    rig_trace *t = user;
    if (t->n == 0) {
        t->first = position;
        t->vocab = vocab;
    }
    if (position != t->first + t->n)
        give_up("rows of logits out of order", "on_logits");
    if (t->n == t->capacity) {
        t->capacity = 2 * t->capacity + 64;
        t->rows = realloc(t->rows, t->capacity * vocab * sizeof *t->rows);
        if (!t->rows)
            give_up("out of memory", "trace");
    }
    memcpy(t->rows + t->n * vocab, logits, vocab * sizeof *logits);
    t->n++;
}

void rig_trace_begin(rig_trace *t, tarn_session *s)
{
    *t = (rig_trace){0};
    tarn_session_on_logits(s, trace_row, t);
}

void rig_trace_free(rig_trace *t)
{
    free(t->rows);
    *t = (rig_trace){0};
}

static const float *row_at(const rig_trace *t, uint64_t position)
{
    if (position < t->first || position >= t->first + t->n)
        return NULL;
    return t->rows + (position - t->first) * t->vocab;
}

static bool same_row(const float *a, const float *b, uint32_t vocab, uint64_t position)
{
    if (!a || !b) {
        printf("no row of logits at position %" PRIu64 "\n", position);
        return false;
    }
    if (memcmp(a, b, vocab * sizeof *a) == 0)
        return true;
    uint32_t i = 0;
    while (memcmp(&a[i], &b[i], sizeof *a) == 0)
        i++;
    printf("logits differ at position %" PRIu64 ": id %u has %.9g and %.9g\n", position, i,
           (double)a[i], (double)b[i]);
    return false;
}

bool rig_same_rows(const rig_trace *a, const rig_trace *b, uint64_t begin, uint64_t end)
{
    for (uint64_t p = begin; p < end; p++)
        if (!same_row(row_at(a, p), row_at(b, p), a->vocab, p))
            return false;
    return true;
}

bool rig_same_logits(const tarn_session *a, const tarn_session *b)
{
    const float *x, *y;
    uint32_t vocab;
    OK(tarn_session_logits(a, &x, &vocab, ERR));
    OK(tarn_session_logits(b, &y, &vocab, ERR));
    return same_row(x, y, vocab, rig_info(a).at.position);
}

bool rig_logits_are(const tarn_session *s, const rig_trace *t, uint64_t position)
{
    const float *x;
    uint32_t vocab;
    OK(tarn_session_logits(s, &x, &vocab, ERR));
    return same_row(x, row_at(t, position), vocab, position);
}

size_t rig_verify(tarn_store *store)
{
    tarn_verify_report report;
    OK(tarn_store_verify(store, NULL, NULL, &report, ERR));
    size_t n = report.n_bad;
    for (size_t i = 0; i < report.n_listed; i++)
        printf("damaged: node %" PRIu64 " chunk %" PRIu64 ": %s\n", report.bad[i].node,
               report.bad[i].chunk, report.bad[i].reason);
    tarn_verify_report_free(&report);
    return n;
}

/* ---- other processes ---- */

pid_t rig_start(const char *const *args, int *out)
{
    char *argv[16] = {"session-test"};
    size_t n = 1;
    int ends[2] = {-1, -1};
    for (; args[n - 1]; n++)
        argv[n] = (char *)(uintptr_t)args[n - 1];
    if (out && pipe(ends) != 0)
        give_up("no pipe", "rig_start");
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (out) {
            dup2(ends[1], 1);
            close(ends[0]);
            close(ends[1]);
        }
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    if (pid < 0)
        give_up("no process", "rig_start");
    if (out) {
        close(ends[1]);
        *out = ends[0];
    }
    return pid;
}

int rig_rerun(const char *const *args)
{
    int status;
    pid_t pid = rig_start(args, NULL);
    if (waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
