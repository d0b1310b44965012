/* input.c - what the command reads besides its arguments is read whole: prompts and id lists are
 * small beside the model. Only `append` takes its text as it comes. */
#include "input.h"
#include "result.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool input_fail(tarn_error *err, int errno_value, const char *path)
{
    switch (errno_value) {
    case ENOENT:
        err->status = TARN_E_NOT_FOUND;
        break;
    case ENOMEM:
        err->status = TARN_E_NO_MEMORY;
        break;
    case ENOSPC:
    case EDQUOT:
        err->status = TARN_E_NO_SPACE;
        break;
    default:
        err->status = TARN_E_IO;
        break;
    }
    snprintf(err->detail, sizeof err->detail, "%s: %s", path, strerror(errno_value));
    return false;
}

static bool read_stream(FILE *stream, const char *path, input *out, tarn_error *err)
{
    size_t capacity = 0, n = 0, got;
    char *data = NULL;
    do {
        if (capacity - n < 4096) {
            capacity = capacity ? 2 * capacity : 65536;
            char *larger = realloc(data, capacity);
            if (!larger) {
                free(data);
                return input_fail(err, ENOMEM, path);
            }
            data = larger;
        }
        got = fread(data + n, 1, capacity - n - 1, stream);
        n += got;
    } while (got > 0);
    if (ferror(stream)) {
        int code = errno;
        free(data);
        return input_fail(err, code, path);
    }
    data[n] = '\0';
    *out = (input){data, n};
    return true;
}

bool input_read(const char *path, input *out, tarn_error *err)
{
    *out = (input){0};
    if (strcmp(path, "-") == 0)
        return read_stream(stdin, "standard input", out, err);
    FILE *stream = fopen(path, "rb");
    if (!stream)
        return input_fail(err, errno, path);
    bool ok = read_stream(stream, path, out, err);
    fclose(stream);
    return ok;
}

bool input_copy(const char *text, input *out, tarn_error *err)
{
    size_t n = strlen(text);
    *out = (input){malloc(n + 1), n};
    if (!out->data)
        return input_fail(err, ENOMEM, "text");
    memcpy(out->data, text, n + 1);
    return true;
}

void input_free(input *in)
{
    free(in->data);
    *in = (input){0};
}

bool input_text(const arguments *args, const char *text, input *out, tarn_error *err)
{
    if (text && strcmp(text, "-") != 0)
        return input_copy(text, out, err);
    const char *file = args->options[OPTION_FILE].text;
    return input_read(file && !text ? file : "-", out, err);
}

int input_open(const arguments *args, const char **path, tarn_error *err)
{
    const char *file = args->options[OPTION_FILE].text;
    *path = "standard input";
    if (!file || strcmp(file, "-") == 0)
        return STDIN_FILENO;
    *path = file;
    int descriptor = open(file, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        input_fail(err, errno, file);
    return descriptor;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && is_space(*at))
        at++;
    return at;
}

static bool parse_id(const char **at, const char *end, uint32_t *out)
{
    uint64_t value = 0;
    const char *c = *at;
    for (; c < end && *c >= '0' && *c <= '9' && value <= UINT32_MAX; c++)
        value = value * 10 + (uint64_t)(*c - '0');
    if (c == *at || value > UINT32_MAX || (c < end && !is_space(*c) && *c != ','))
        return false;
    *at = c;
    *out = (uint32_t)value;
    return true;
}

bool input_parse_ids(const input *in, const char *what, id_list *out, tarn_error *err)
{
    const char *at = in->data, *end = at + in->n_bytes;
    /* An id takes at least one digit and, but for the last, one separator. */
    *out = (id_list){malloc((in->n_bytes / 2 + 1) * sizeof(uint32_t)), 0};
    if (!out->ids)
        return input_fail(err, ENOMEM, what);
    at = skip_space(at, end);
    while (end > at && is_space(end[-1]))
        end--;
    if (end - at >= 2 && *at == '[' && end[-1] == ']')
        at = skip_space(at + 1, --end);
    bool wanted = false; /* a comma promises another id */
    while (at < end || wanted) {
        if (!parse_id(&at, end, &out->ids[out->n_ids])) {
            err->status = TARN_E_INVALID;
            snprintf(err->detail, sizeof err->detail, "%s: no id at byte %zu of the list", what,
                     (size_t)(at - in->data));
            input_free_ids(out);
            return false;
        }
        out->n_ids++;
        at = skip_space(at, end);
        wanted = at < end && *at == ',';
        at = skip_space(at + wanted, end);
    }
    return true;
}

int input_option_ids(const arguments *args, option_id id, const char *name, id_list *out)
{
    const char *text = args->options[id].text;
    tarn_error err = {0};
    input in;
    *out = (id_list){0};
    bool file = text[0] == '@';
    if (!(file ? input_read(text + 1, &in, &err) : input_copy(text, &in, &err)))
        return result_error(args, &err);
    bool ok = input_parse_ids(&in, file ? text + 1 : name, out, &err);
    input_free(&in);
    if (ok)
        return 0;
    if (!file && err.status == TARN_E_INVALID)
        return options_wrong(args, "%s", err.detail);
    return result_error(args, &err);
}

void input_free_ids(id_list *list)
{
    free(list->ids);
    *list = (id_list){0};
}
