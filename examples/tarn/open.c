/* open.c - model, engine, store and session, in the order the library wants them opened, and
 * closed in the opposite one.
 *
 * The store is opened first where both are needed: a wrong path should not cost the time that
 * a large model takes to be read. Warnings of the library go to standard error. */
#include "open.h"
#include "input.h"
#include "print.h"
#include "result.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void print_log(void *user, tarn_log_level level, const char *message, const char *file,
                      int line)
{
    (void)user, (void)level, (void)file, (void)line;
    fprintf(stderr, "tarn: %s\n", message);
}

static const tarn_log log_to_stderr = {.fn = print_log, .level = TARN_LOG_WARN};

tarn_numerics open_numerics(const arguments *args)
{
    const char *text = args->options[OPTION_NUMERICS].text;
    return text && strcmp(text, "f32") == 0 ? TARN_NUMERICS_F32 : TARN_NUMERICS_NATIVE;
}

int open_model(const arguments *args, const char *dir, uint32_t flags, opened *o)
{
    tarn_error err = {0};
    tarn_model_options options = {.size = sizeof options, .flags = flags, .log = &log_to_stderr};
    if (!dir)
        dir = args->options[OPTION_MODEL].text;
    if (!dir)
        return options_wrong(args, "no model: give --model DIR or set TARN_MODEL");
    if (tarn_model_open(dir, &options, &o->model, &err) != TARN_OK)
        return result_error(args, &err);
    return 0;
}

int open_engine(const arguments *args, opened *o)
{
    const tarn_engine_options none = {0};
    return open_engine_with(args, &none, o);
}

static bool show_loading(void *user, uint64_t done, uint64_t all)
{
    (void)user;
    print_progress("weights to the device", "bytes", done, all);
    return true;
}

int open_engine_with(const arguments *args, const tarn_engine_options *with, opened *o)
{
    tarn_error err = {0};
    const char *shape = args->options[OPTION_SHAPE].text;
    int code = open_model(args, shape, shape ? TARN_MODEL_SHAPE : 0, o);
    if (code != 0)
        return code;
    tarn_engine_options options = *with;
    options.size = sizeof options;
    options.device = args->options[OPTION_DEVICE].text;
    options.numerics = open_numerics(args);
    options.n_threads = (uint32_t)args->options[OPTION_THREADS].number;
    options.log = &log_to_stderr;
    options.exact = given(args, OPTION_EXACT);
    options.progress = show_loading;
    if (tarn_engine_open(o->model, &options, &o->engine, &err) != TARN_OK)
        return result_error(args, &err);
    return 0;
}

tarn_store_options open_store_options(uint32_t flags)
{
    return (tarn_store_options){
        .size = sizeof(tarn_store_options), .flags = flags, .log = &log_to_stderr};
}

/* A key that others may read is refused, as a private key of ssh would be. */
static int read_key(const arguments *args, const char *path, store_key *key, size_t *n_bytes)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = -1;
    bool found = fd >= 0 && fstat(fd, &info) == 0;
    bool own = found && S_ISREG(info.st_mode) && (info.st_mode & (S_IRWXG | S_IRWXO)) == 0;
    int failed = errno;
    if (own)
        n = read(fd, key->bytes, sizeof key->bytes);
    if (fd >= 0)
        close(fd);
    if (!found)
        return options_wrong(args, "%s: cannot read the key: %s", path, strerror(failed));
    if (!own)
        return options_wrong(args, "%s: a key must be a file that nobody else may read: chmod 600",
                             path);
    if (n < 32 || n > 64)
        return options_wrong(args, "%s: a key has 32 to 64 bytes: head -c 32 /dev/urandom", path);
    *n_bytes = (size_t)n;
    return 0;
}

int open_keyed_options(const arguments *args, uint32_t flags, store_key *key,
                       tarn_store_options *out)
{
    const char *path = args->options[OPTION_KEY_FILE].text;
    *out = open_store_options(flags);
    if (!path)
        return 0;
    out->key = key->bytes;
    return read_key(args, path, key, &out->key_bytes);
}

void open_forget(store_key *key)
{
    explicit_bzero(key, sizeof *key);
}

int open_store(const arguments *args, uint32_t flags, opened *o)
{
    tarn_error err = {0};
    tarn_store_options options;
    store_key key;
    const char *path = args->options[OPTION_STORE].text;
    if (!path)
        return options_wrong(args, "no store: give --store PATH or set TARN_STORE");
    int code = open_keyed_options(args, flags, &key, &options);
    if (code == 0 && tarn_store_open(path, &options, &o->store, &err) != TARN_OK)
        code = result_error(args, &err);
    open_forget(&key);
    return code;
}

int open_session(const arguments *args, const char *name, const tarn_session_options *options,
                 opened *o)
{
    tarn_error err = {0};
    if (tarn_session_open(o->engine, o->store, name, options, &o->session, &o->reuse, &err) !=
        TARN_OK)
        return result_error(args, &err);
    return 0;
}

int open_existing(const arguments *args, const char *name, opened *o)
{
    int code = open_store(args, 0, o);
    if (code == 0)
        code = open_engine(args, o);
    if (code == 0)
        code = open_session(args, name, NULL, o);
    return code;
}

static tarn_status feed_system(tarn_session *session, const input *text, tarn_error *err)
{
    tarn_message message = {.size = sizeof message,
                            .role = TARN_ROLE_SYSTEM,
                            .text = text->data,
                            .text_bytes = text->n_bytes};
    return tarn_session_append_message(session, &message, NULL, err);
}

bool open_feed_new(const arguments *args, tarn_session *session, tarn_error *err)
{
    const char *system = args->options[OPTION_SYSTEM].text;
    const char *tools = args->options[OPTION_TOOLS].text;
    input in;
    bool ok = true;
    if (tools) {
        ok = input_read(tools, &in, err);
        ok = ok && tarn_session_append_tools(session, in.data, in.n_bytes, NULL, err) == TARN_OK;
        input_free(&in);
    }
    if (ok && system) {
        ok = input_text(args, system, &in, err);
        ok = ok && feed_system(session, &in, err) == TARN_OK;
        input_free(&in);
    }
    return ok && tarn_session_run(session, NULL, NULL, err) == TARN_OK;
}

tarn_reuse open_reuse(const opened *o)
{
    tarn_session_info info = {.size = sizeof info};
    tarn_session_get_info(o->session, &info);
    return info.reuse.reason == TARN_REASON_PREFIX ? info.reuse : o->reuse;
}

void open_close(opened *o)
{
    if (o->session)
        tarn_session_close(o->session);
    if (o->engine)
        tarn_engine_close(o->engine);
    if (o->store)
        tarn_store_close(o->store);
    if (o->model)
        tarn_model_close(o->model);
    *o = (opened){0};
}

int open_split(const arguments *args, const char *text, place *out)
{
    size_t n = strcspn(text, "@");
    if (n >= sizeof out->session) { /* as the library says it of the verbs without a place */
        tarn_error err = {.status = TARN_E_INVALID};
        snprintf(err.detail, sizeof err.detail,
                 "the session's name has %zu bytes, should have 1 to %zu", n,
                 sizeof out->session - 1);
        return result_error(args, &err);
    }
    memcpy(out->session, text, n);
    out->session[n] = '\0';
    out->where = text[n] == '@' ? text + n : NULL;
    return 0;
}
