/* eval.c - tarn eval: feed ids to a session that is not kept and write what came out.
 *
 * For checks against other implementations, so ids are fed as they are and stop ids stop nothing.
 * Rows of logits go to the file as they are computed: n rows of a large vocabulary would not fit
 * in memory. */
#include "input.h"
#include "open.h"
#include "print.h"
#include "result.h"
#include "tensors.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct evaluation {
    id_list tokens, cuts;
    uint32_t *greedy;
    uint32_t n_greedy;
    uint32_t argmax;
    tensors logits, state;
} evaluation;

/* The ids and where to cut them, all checked; returns the exit code. */
static int read_input(const arguments *args, evaluation *e)
{
    if (!given(args, OPTION_TOKENS))
        return options_wrong(args, "--tokens is missing");
    const char *logits = args->options[OPTION_LOGITS].text;
    const char *state = args->options[OPTION_STATE].text;
    bool logits_out = logits && strcmp(logits, "-") == 0,
         state_out = state && strcmp(state, "-") == 0;
    if (logits_out + state_out + given(args, OPTION_JSON) > 1)
        return options_wrong(args, "standard output can take one of --json, --logits - and "
                                   "--state -");
    int code = input_option_ids(args, OPTION_TOKENS, "--tokens", &e->tokens);
    if (code == 0 && e->tokens.n_ids == 0)
        return options_wrong(args, "--tokens: the list is empty");
    if (code == 0 && given(args, OPTION_SPLIT))
        code = input_option_ids(args, OPTION_SPLIT, "--split", &e->cuts);
    for (size_t i = 0; code == 0 && i < e->cuts.n_ids; i++) {
        uint32_t cut = e->cuts.ids[i];
        if (cut <= (i ? e->cuts.ids[i - 1] : 0) || cut >= e->tokens.n_ids)
            return options_wrong(args,
                                 "--split: %u is not between the cut before it and the "
                                 "%zu tokens",
                                 cut, e->tokens.n_ids);
    }
    e->n_greedy = (uint32_t)args->options[OPTION_GREEDY].number;
    return code;
}

static void write_row(void *user, uint64_t position, const float *logits, uint32_t vocab)
{
    evaluation *e = user;
    if (position == 1) {
        tensors_declare(&e->logits, "logits", (const uint64_t[]){e->tokens.n_ids, vocab}, 2);
        tensors_write_header(&e->logits);
    }
    tensors_write(&e->logits, logits, vocab);
    print_progress("evaluating", "tokens", position, e->tokens.n_ids);
}

/* The highest of the pending logits; the lowest id of equal ones. */
static tarn_status find_argmax(const tarn_session *session, uint32_t *out, tarn_error *err)
{
    const float *logits;
    uint32_t vocab, best = 0;
    tarn_status status = tarn_session_logits(session, &logits, &vocab, err);
    if (status != TARN_OK)
        return status;
    for (uint32_t i = 1; i < vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    *out = best;
    return TARN_OK;
}

static tarn_status feed(tarn_session *session, const uint32_t *ids, size_t n_ids, tarn_error *err)
{
    tarn_status status = tarn_session_append_tokens(session, ids, n_ids, err);
    return status == TARN_OK ? tarn_session_run(session, NULL, NULL, err) : status;
}

/* Feeds the tokens piece by piece, and writes both files. */
static tarn_status evaluate(evaluation *e, tarn_session *session, tarn_error *err)
{
    tarn_status status = TARN_OK;
    size_t from = 0;
    if (e->logits.stream)
        tarn_session_on_logits(session, write_row, e);
    for (size_t i = 0; status == TARN_OK && i <= e->cuts.n_ids; i++) {
        size_t to = i < e->cuts.n_ids ? e->cuts.ids[i] : e->tokens.n_ids;
        status = feed(session, e->tokens.ids + from, to - from, err);
        from = to;
    }
    tarn_session_on_logits(session, NULL, NULL);
    if (status == TARN_OK)
        status = find_argmax(session, &e->argmax, err);
    if (status == TARN_OK && e->logits.stream && !tensors_end(&e->logits)) {
        *err = e->logits.err;
        status = err->status;
    }
    if (status == TARN_OK && e->state.stream && !tensors_save_state(&e->state, session)) {
        *err = e->state.err;
        status = err->status;
    }
    return status;
}

/* Goes on from the argmax, feeding each id. */
static tarn_status go_on(evaluation *e, tarn_session *session, tarn_error *err)
{
    tarn_status status = TARN_OK;
    uint32_t next = e->argmax;
    for (uint32_t i = 0; status == TARN_OK && i < e->n_greedy; i++) {
        e->greedy[i] = next;
        status = feed(session, &next, 1, err);
        if (status == TARN_OK)
            status = find_argmax(session, &next, err);
    }
    return status;
}

static int open_files(const arguments *args, evaluation *e)
{
    const char *logits = args->options[OPTION_LOGITS].text;
    const char *state = args->options[OPTION_STATE].text;
    tarn_error err = {0};
    if (logits && !tensors_begin(&e->logits, logits))
        return result_error(args, &e->logits.err);
    if (state && !tensors_begin(&e->state, state))
        return result_error(args, &e->state.err);
    e->greedy = malloc((e->n_greedy + (size_t)1) * sizeof *e->greedy);
    if (!e->greedy) {
        input_fail(&err, ENOMEM, "--greedy");
        return result_error(args, &err);
    }
    return 0;
}

static int answer(const arguments *args, const evaluation *e)
{
    if (given(args, OPTION_JSON))
        return result_print(json_pack("{s:o, s:o, s:o}", "tokens", result_number(e->tokens.n_ids),
                                      "argmax", result_number(e->argmax), "greedy",
                                      result_ids(e->greedy, e->n_greedy)),
                            0);
    const char *logits = args->options[OPTION_LOGITS].text;
    const char *state = args->options[OPTION_STATE].text;
    bool out_taken = (logits && strcmp(logits, "-") == 0) || (state && strcmp(state, "-") == 0);
    FILE *people = out_taken ? stderr : stdout;
    fprintf(people, "%zu tokens, argmax %u\n", e->tokens.n_ids, e->argmax);
    if (e->n_greedy > 0) {
        fprintf(people, "greedy ");
        print_ids(people, e->greedy, e->n_greedy);
    }
    return result_flush();
}

int verb_eval(const arguments *args)
{
    evaluation e = {0};
    opened o = {0};
    tarn_error err = {0};
    int code = read_input(args, &e);
    if (code == 0)
        code = open_engine(args, &o);
    if (code == 0)
        code = open_session(args, "eval", NULL, &o);
    if (code == 0)
        code = open_files(args, &e);
    if (code == 0 &&
        (evaluate(&e, o.session, &err) != TARN_OK || go_on(&e, o.session, &err) != TARN_OK))
        code = result_error(args, &err);
    if (code == 0)
        code = answer(args, &e);
    tensors_drop(&e.logits);
    tensors_drop(&e.state);
    open_close(&o);
    input_free_ids(&e.tokens);
    input_free_ids(&e.cuts);
    free(e.greedy);
    return code;
}
