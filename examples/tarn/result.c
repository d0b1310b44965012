/* result.c - the JSON that scripts read. Key names are fixed: they are the command's promise. */
#include "result.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *result_number(uint64_t value)
{
    return json_integer((json_int_t)(value > INT64_MAX ? INT64_MAX : value));
}

json_t *result_at(const tarn_at *at)
{
    return json_pack("{s:o, s:o, s:o, s:b}", "session",
                     result_text(at->session, strlen(at->session)), "node", result_number(at->node),
                     "position", result_number(at->position), "bit_exact", at->bit_exact);
}

json_t *result_reuse(const tarn_reuse *reuse)
{
    return json_pack("{s:o, s:o, s:o, s:s}", "reused", result_number(reuse->tokens_reused),
                     "replayed", result_number(reuse->tokens_replayed), "bytes_read",
                     result_number(reuse->bytes_read), "reason", tarn_reason_name(reuse->reason));
}

json_t *result_price(const tarn_price *price)
{
    return json_pack("{s:o, s:o}", "replay_tokens", result_number(price->replay_tokens),
                     "bytes_read", result_number(price->bytes_read));
}

json_t *result_ids(const uint32_t *ids, size_t n_ids)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < n_ids; i++) {
        if (json_array_append_new(list, json_integer(ids[i])) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

json_t *result_text(const char *data, size_t n_bytes)
{
    json_t *text = json_stringn(data, n_bytes);
    if (text)
        return text;
    char *plain = malloc(n_bytes + 1);
    if (!plain)
        return NULL;
    for (size_t i = 0; i < n_bytes; i++)
        plain[i] = (unsigned char)data[i] < 0x80 ? data[i] : '?';
    text = json_stringn(plain, n_bytes);
    free(plain);
    return text;
}

static json_t *base64(const unsigned char *data, size_t n_bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = malloc((n_bytes + 2) / 3 * 4 + 1);
    if (!out)
        return NULL;
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i += 3) {
        size_t left = n_bytes - i;
        uint32_t word = (uint32_t)data[i] << 16 | (uint32_t)(left > 1 ? data[i + 1] : 0) << 8 |
                        (uint32_t)(left > 2 ? data[i + 2] : 0);
        out[n++] = digits[word >> 18];
        out[n++] = digits[word >> 12 & 63];
        out[n++] = left > 1 ? digits[word >> 6 & 63] : '=';
        out[n++] = left > 2 ? digits[word & 63] : '=';
    }
    json_t *text = json_stringn(out, n);
    free(out);
    return text;
}

json_t *result_bytes(const char *data, size_t n_bytes)
{
    /* jansson takes UTF-8 only, and so tells which bytes are. */
    json_t *text = json_stringn(data, n_bytes);
    return text ? json_pack("{s:o}", "text", text)
                : json_pack("{s:o}", "base64", base64((const unsigned char *)data, n_bytes));
}

json_t *result_error_object(const tarn_error *err)
{
    return json_pack("{s:s, s:o}", "status", tarn_status_name(err->status), "detail",
                     result_text(err->detail, strlen(err->detail)));
}

static bool to_stderr;

void result_to_stderr(void)
{
    to_stderr = true;
}

int result_print(json_t *object, int code)
{
    if (!object) {
        fprintf(stderr, "tarn: out of memory\n");
        return 1;
    }
    FILE *stream = to_stderr ? stderr : stdout;
    bool ok = json_dumpf(object, stream, JSON_COMPACT) == 0;
    json_decref(object);
    ok = ok && fputc('\n', stream) != EOF;
    int flushed = result_flush();
    return ok && flushed == 0 ? code : 1;
}

int result_error(const arguments *args, const tarn_error *err)
{
    if (given(args, OPTION_JSON) || given(args, OPTION_JSONL))
        return result_print(json_pack("{s:o}", "error", result_error_object(err)), 1);
    fflush(stdout);
    fprintf(stderr, "tarn %s: %s: %s\n", args->verb->name, tarn_status_name(err->status),
            err->detail);
    return 1;
}

int result_flush(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    fprintf(stderr, "tarn: standard output: %s\n", strerror(errno));
    return 1;
}
