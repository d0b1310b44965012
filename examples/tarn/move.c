/* move.c - the verbs that move sessions between stores and rescue stores.
 *
 * A session exported to "-" takes standard output; then the answer, JSON or not, goes to standard
 * error. */
#include "input.h"
#include "open.h"
#include "print.h"
#include "result.h"
#include "verbs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct bar {
    const char *what, *unit;
} bar;

static bool show_bar(void *user, uint64_t done, uint64_t all)
{
    const bar *b = user;
    print_progress(b->what, b->unit, done, all);
    return true;
}

static bool is_stream(const char *path)
{
    return strcmp(path, "-") == 0;
}

static tarn_status to_stdout(void *user, const void *data, size_t n_bytes, tarn_error *err)
{
    (void)user;
    if (fwrite(data, 1, n_bytes, stdout) == n_bytes)
        return TARN_OK;
    input_fail(err, errno, "standard output");
    return err->status;
}

static tarn_status from_stdin(void *user, void *data, size_t n_bytes, size_t *n_read,
                              tarn_error *err)
{
    (void)user;
    *n_read = fread(data, 1, n_bytes, stdin);
    if (*n_read > 0 || !ferror(stdin))
        return TARN_OK;
    input_fail(err, errno, "standard input");
    return err->status;
}

static int answer(const arguments *args, const tarn_at *at, uint64_t n_bytes, FILE *stream)
{
    char size[PRINT_TEXT_MAX];
    if (given(args, OPTION_JSON))
        return result_print(
            json_pack("{s:o, s:o}", "at", result_at(at), "bytes", result_number(n_bytes)), 0);
    print_at(stream, at);
    fprintf(stream, "; %s\n", print_bytes(n_bytes, size));
    return result_flush();
}

int verb_export(const arguments *args)
{
    opened o = {0};
    tarn_at at;
    tarn_error err = {0};
    uint64_t n_bytes = 0;
    bar b = {"exporting", "B"};
    const char *name = args->positionals[0], *path = args->positionals[1];
    tarn_move_options options = {.size = sizeof options, .progress = show_bar, .user = &b};
    bool stream = is_stream(path);
    if (stream)
        result_to_stderr();
    int code = open_store(args, 0, &o);
    if (code == 0) {
        tarn_status status =
            stream
                ? tarn_store_export(o.store, name, to_stdout, NULL, &options, &at, &n_bytes, &err)
                : tarn_store_export_file(o.store, name, path, &options, &at, &n_bytes, &err);
        if (status == TARN_OK && stream && fflush(stdout) != 0) {
            input_fail(&err, errno, "standard output");
            status = err.status;
        }
        code = status == TARN_OK ? answer(args, &at, n_bytes, stream ? stderr : stdout)
                                 : result_error(args, &err);
    }
    open_close(&o);
    return code;
}

int verb_import(const arguments *args)
{
    opened o = {0};
    tarn_at at;
    tarn_error err = {0};
    uint64_t n_bytes = 0;
    bar b = {"importing", "B"};
    const char *path = args->positionals[0], *as = args->options[OPTION_AS].text;
    tarn_move_options options = {.size = sizeof options, .progress = show_bar, .user = &b};
    int code = open_store(args, TARN_STORE_CREATE, &o);
    if (code == 0) {
        tarn_status status =
            is_stream(path)
                ? tarn_store_import(o.store, from_stdin, NULL, as, &options, &at, &n_bytes, &err)
                : tarn_store_import_file(o.store, path, as, &options, &at, &n_bytes, &err);
        code = status == TARN_OK ? answer(args, &at, n_bytes, stdout) : result_error(args, &err);
    }
    open_close(&o);
    return code;
}

/* The store's path, NULL after saying that there is none. */
static const char *store_path(const arguments *args)
{
    const char *path = args->options[OPTION_STORE].text;
    if (!path)
        options_wrong(args, "no store: give --store PATH or set TARN_STORE");
    return path;
}

int verb_salvage(const arguments *args)
{
    tarn_error err = {0};
    bar b = {"salvaging", "nodes"};
    tarn_salvage_report r = {.size = sizeof r};
    tarn_store_options options;
    store_key key;
    tarn_move_options move = {.size = sizeof move, .progress = show_bar, .user = &b};
    const char *path = store_path(args);
    if (!path)
        return 2;
    int code = open_keyed_options(args, 0, &key, &options);
    if (code == 0 &&
        tarn_store_salvage(path, args->positionals[0], &options, &move, &r, &err) != TARN_OK)
        code = result_error(args, &err);
    open_forget(&key);
    if (code != 0)
        return code;
    if (given(args, OPTION_JSON))
        return result_print(
            json_pack("{s:o, s:o}", "saved", result_number(r.saved), "lost", result_number(r.lost)),
            0);
    printf("%" PRIu64 " nodes saved, %" PRIu64 " of them without their state; %" PRIu64 " lost\n",
           r.saved, r.without_state, r.lost);
    return result_flush();
}

int verb_compact(const arguments *args)
{
    tarn_error err = {0};
    bar b = {"verifying", "B"};
    uint64_t before, after;
    char size[PRINT_TEXT_MAX];
    tarn_store_options options;
    store_key key;
    tarn_move_options move = {.size = sizeof move, .progress = show_bar, .user = &b};
    const char *path = store_path(args);
    if (!path)
        return 2;
    int code = open_keyed_options(args, 0, &key, &options);
    if (code == 0 && tarn_store_compact(path, &options, &move, &before, &after, &err) != TARN_OK)
        code = result_error(args, &err);
    open_forget(&key);
    if (code != 0)
        return code;
    if (given(args, OPTION_JSON))
        return result_print(json_pack("{s:o, s:o}", "bytes_before", result_number(before),
                                      "bytes_after", result_number(after)),
                            0);
    printf("%s before", print_bytes(before, size));
    printf(", %s after\n", print_bytes(after, size));
    return result_flush();
}
