/* text.c - tarn tokenize, tarn detokenize.
 *
 * One text comes as bytes, exact, from the argument, --file or standard input. With --jsonl every
 * line is a question and gets one line of answer; a line that is wrong gets {"error":..} and the
 * next one is read. Bytes that are no UTF-8 travel as {"base64":..}. */
#include "input.h"
#include "open.h"
#include "print.h"
#include "result.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool invalid(tarn_error *err, const char *what)
{
    err->status = TARN_E_INVALID;
    snprintf(err->detail, sizeof err->detail, "%s", what);
    return false;
}

/* The ids as an answer; frees them. NULL, with err set, where `status` is an error. */
static json_t *answer_ids(tarn_status status, tarn_ids *ids)
{
    if (status != TARN_OK)
        return NULL;
    json_t *answer = json_pack("{s:o}", "ids", result_ids(ids->ids, ids->n_ids));
    tarn_ids_free(ids);
    return answer;
}

static json_t *answer_text(tarn_status status, tarn_text *text)
{
    if (status != TARN_OK)
        return NULL;
    json_t *answer = result_bytes(text->data, text->n_bytes);
    tarn_text_free(text);
    return answer;
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes in place of `data`, which holds n digits with their padding. */
static bool base64_decode(char *data, size_t n, size_t *n_out)
{
    size_t out = 0, padding = 0;
    uint32_t word = 0;
    while (padding < 2 && n > 0 && data[n - 1] == '=')
        n--, padding++;
    if ((n + padding) % 4 != 0 || n % 4 == 1)
        return false;
    for (size_t i = 0; i < n; i++) {
        int digit = base64_digit(data[i]);
        if (digit < 0)
            return false;
        word = word << 6 | (uint32_t)digit;
        if (i % 4 != 0)
            data[out++] = (char)(word >> (6 - 2 * (i % 4)) & 255);
    }
    *n_out = out;
    return true;
}

/* {"text"|"base64":..,"specials":bool} */
static json_t *answer_encode(const tarn_model *model, const json_t *question, tarn_error *err)
{
    const json_t *text = json_object_get(question, "text");
    const json_t *coded = json_object_get(question, "base64");
    const json_t *specials = json_object_get(question, "specials");
    const json_t *source = text ? text : coded;
    if ((text && coded) || !json_is_string(source) || (specials && !json_is_boolean(specials))) {
        invalid(err, "the line needs \"text\" or \"base64\", a string, and may have \"specials\", "
                     "a boolean");
        return NULL;
    }
    size_t n_bytes = json_string_length(source);
    char *bytes = malloc(n_bytes + 1);
    json_t *answer = NULL;
    if (!bytes) {
        input_fail(err, ENOMEM, "line");
        return NULL;
    }
    memcpy(bytes, json_string_value(source), n_bytes);
    if (text || base64_decode(bytes, n_bytes, &n_bytes)) {
        tarn_ids ids;
        answer = answer_ids(
            tarn_model_tokenize(model, bytes, n_bytes, json_is_true(specials), &ids, err), &ids);
    } else {
        invalid(err, "\"base64\" is not base64");
    }
    free(bytes);
    return answer;
}

/* {"ids":[..]} */
static json_t *answer_decode(const tarn_model *model, const json_t *question, tarn_error *err)
{
    const json_t *list = json_object_get(question, "ids");
    if (!json_is_array(list)) {
        invalid(err, "the line needs \"ids\", a list");
        return NULL;
    }
    size_t n = json_array_size(list);
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    json_t *answer = NULL;
    bool ok = ids || input_fail(err, ENOMEM, "line");
    for (size_t i = 0; ok && i < n; i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value > UINT32_MAX)
            ok = invalid(err, "\"ids\" holds something that is no id");
        else
            ids[i] = (uint32_t)value;
    }
    if (ok) {
        tarn_text text;
        answer = answer_text(tarn_model_detokenize(model, ids, n, &text, err), &text);
    }
    free(ids);
    return answer;
}

typedef json_t *(*answer_fn)(const tarn_model *model, const json_t *question, tarn_error *err);

/* Answers one line; `answer` NULL: the line is a conversation for the library to read. */
static json_t *answer_line(const tarn_model *model, answer_fn answer, const char *line,
                           size_t n_bytes, tarn_error *err)
{
    if (!answer) {
        tarn_ids ids;
        return answer_ids(tarn_model_render_chat(model, line, n_bytes, &ids, err), &ids);
    }
    json_error_t where;
    json_t *question = json_loadb(line, n_bytes, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &where);
    if (!question) {
        err->status = TARN_E_INVALID;
        snprintf(err->detail, sizeof err->detail, "not JSON: %.200s", where.text);
        return NULL;
    }
    json_t *result = answer(model, question, err);
    json_decref(question);
    return result;
}

static int answer_lines(const tarn_model *model, answer_fn answer)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    int code = 0;
    while (code == 0 && (n = getline(&line, &capacity, stdin)) > 0) {
        tarn_error err = {0};
        size_t n_bytes = (size_t)n;
        if (line[n_bytes - 1] == '\n')
            n_bytes--;
        if (n_bytes == 0)
            continue;
        json_t *result = answer_line(model, answer, line, n_bytes, &err);
        if (!result && err.status != TARN_OK)
            result = json_pack("{s:o}", "error", result_error_object(&err));
        code = result_print(result, 0);
    }
    free(line);
    return code;
}

static bool tokenize_one(const arguments *args, const tarn_model *model, tarn_ids *ids,
                         tarn_error *err)
{
    input in;
    if (!input_text(args, args->positionals[0], &in, err))
        return false;
    tarn_status status = given(args, OPTION_CHAT)
                             ? tarn_model_render_chat(model, in.data, in.n_bytes, ids, err)
                             : tarn_model_tokenize(model, in.data, in.n_bytes,
                                                   given(args, OPTION_SPECIALS), ids, err);
    input_free(&in);
    return status == TARN_OK;
}

int verb_tokenize(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    tarn_ids ids;
    if (given(args, OPTION_CHAT) && given(args, OPTION_SPECIALS))
        return options_wrong(args, "--specials and --chat exclude each other: a conversation's "
                                   "markers are special, its texts never are");
    int code = open_model(args, NULL, TARN_MODEL_TOKENIZER_ONLY, &o);
    if (code == 0 && given(args, OPTION_JSONL)) {
        code = answer_lines(o.model, given(args, OPTION_CHAT) ? NULL : answer_encode);
    } else if (code == 0) {
        if (!tokenize_one(args, o.model, &ids, &err)) {
            code = result_error(args, &err);
        } else if (given(args, OPTION_JSON)) {
            code = result_print(answer_ids(TARN_OK, &ids), 0);
        } else {
            print_ids(stdout, ids.ids, ids.n_ids);
            tarn_ids_free(&ids);
            code = result_flush();
        }
    }
    open_close(&o);
    return code;
}

static bool detokenize_one(const arguments *args, const tarn_model *model, tarn_text *text,
                           tarn_error *err)
{
    input in;
    id_list list;
    if (!input_text(args, args->positionals[0], &in, err))
        return false;
    bool ok = input_parse_ids(&in, "ids", &list, err);
    input_free(&in);
    ok = ok && tarn_model_detokenize(model, list.ids, list.n_ids, text, err) == TARN_OK;
    input_free_ids(&list);
    return ok;
}

int verb_detokenize(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    tarn_text text;
    int code = open_model(args, NULL, TARN_MODEL_TOKENIZER_ONLY, &o);
    if (code == 0 && given(args, OPTION_JSONL)) {
        code = answer_lines(o.model, answer_decode);
    } else if (code == 0) {
        if (!detokenize_one(args, o.model, &text, &err)) {
            code = result_error(args, &err);
        } else if (given(args, OPTION_JSON)) {
            code = result_print(answer_text(TARN_OK, &text), 0);
        } else {
            fwrite(text.data, 1, text.n_bytes, stdout);
            tarn_text_free(&text);
            code = result_flush();
        }
    }
    open_close(&o);
    return code;
}
