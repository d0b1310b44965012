/* generate.c - tarn generate, tarn dump: the verbs that read a session out.
 *
 * An interrupt (ctrl-C) while generating ends the generation at the last token fed and commits
 * what there is; a second one ends the process as usual. The handler only sets a flag: the next
 * event, one a token at most, passes it on to the library. */
#include "input.h"
#include "open.h"
#include "print.h"
#include "result.h"
#include "sampling.h"
#include "tensors.h"
#include "verbs.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static void catch_interrupt(void)
{
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

/* ---- generate ---------------------------------------------------------------------------------
 */

typedef struct generation {
    bool stream; /* text goes out as it comes */
    json_t *ids; /* so far */
    char *text;  /* so far */
    size_t n_text, text_capacity;
    tarn_stop stop;
    bool out_of_memory;
} generation;

static void add_text(generation *g, const char *text, size_t n_bytes)
{
    if (g->text_capacity - g->n_text < n_bytes) {
        size_t capacity = 2 * (g->n_text + n_bytes) + 256;
        char *larger = realloc(g->text, capacity);
        if (!larger) {
            g->out_of_memory = true;
            return;
        }
        g->text = larger;
        g->text_capacity = capacity;
    }
    memcpy(g->text + g->n_text, text, n_bytes);
    g->n_text += n_bytes;
}

static void take_event(void *user, const tarn_event *event)
{
    generation *g = user;
    if (event->kind == TARN_EVENT_TOKEN) {
        if (json_array_append_new(g->ids, json_integer(event->id)) != 0)
            g->out_of_memory = true;
    } else if (event->kind == TARN_EVENT_TEXT && g->stream) {
        fwrite(event->text, 1, event->text_bytes, stdout);
        fflush(stdout);
    } else if (event->kind == TARN_EVENT_TEXT) {
        add_text(g, event->text, event->text_bytes);
    } else if (event->kind == TARN_EVENT_STOP) {
        g->stop = event->stop;
    }
    if (interrupted)
        tarn_session_cancel(event->session);
}

/* Generates and commits; with -n 0 only what a resume has to compute is computed. */
static tarn_status generate(const arguments *args, const id_list *stop, tarn_session *session,
                            generation *g, tarn_committed *committed, tarn_error *err)
{
    tarn_status status = sampling_set(args, session, err);
    bool only_resume = given(args, OPTION_N) && args->options[OPTION_N].number == 0;
    g->stop = TARN_STOP_LENGTH;
    if (status == TARN_OK && !only_resume) {
        tarn_generate_options options = {.size = sizeof options,
                                         .n_tokens_max = (uint32_t)args->options[OPTION_N].number,
                                         .stop_ids = stop->ids,
                                         .n_stop_ids = stop->n_ids};
        status = tarn_session_generate(session, &options, err);
    }
    catch_interrupt();
    if (status == TARN_OK)
        status = tarn_session_run(session, take_event, g, err);
    if (g->stream && json_array_size(g->ids) > 0)
        putchar('\n');
    if (status == TARN_OK && g->out_of_memory) {
        input_fail(err, ENOMEM, "text");
        status = err->status;
    }
    return status == TARN_OK ? tarn_session_commit(session, committed, err) : status;
}

static const char *stop_name(tarn_stop stop)
{
    switch (stop) {
    case TARN_STOP_TOKEN:
        return "stop";
    case TARN_STOP_TOOL_CALL:
        return "tool_call";
    case TARN_STOP_CANCELLED:
        return "cancelled";
    case TARN_STOP_NONE:
    case TARN_STOP_LENGTH:
    case TARN_STOP_FAILED:
        break;
    }
    return "length";
}

static json_t *tool_calls(const tarn_session *session, tarn_stop stop)
{
    json_t *list = json_array();
    const tarn_tool_call *calls = NULL;
    size_t n_calls = 0;
    if (stop == TARN_STOP_TOOL_CALL)
        tarn_session_tool_calls(session, &calls, &n_calls, NULL);
    for (size_t i = 0; i < n_calls; i++) {
        const tarn_tool_call *c = &calls[i];
        json_t *call = json_pack("{s:o, s:o, s:o}", "id", result_text(c->id, strlen(c->id)), "name",
                                 result_text(c->name, strlen(c->name)), "arguments",
                                 result_text(c->arguments, c->arguments_bytes));
        if (c->problem)
            json_object_set_new(call, "problem", json_string(c->problem));
        json_array_append_new(list, call);
    }
    return list;
}

static int answer_generate(const arguments *args, const opened *o, generation *g,
                           const tarn_committed *committed)
{
    if (given(args, OPTION_JSON)) {
        json_t *ids = g->ids;
        g->ids = NULL;
        return result_print(
            json_pack("{s:o, s:o, s:o, s:o, s:s, s:o, s:o}", "at", result_at(&committed->at),
                      "reuse", result_reuse(&o->reuse), "ids", ids, "text",
                      result_text(g->text ? g->text : "", g->n_text), "stop", stop_name(g->stop),
                      "tool_calls", tool_calls(o->session, g->stop), "bytes_written",
                      result_number(committed->bytes_written)),
            0);
    }
    char size[PRINT_TEXT_MAX];
    int code = result_flush();
    print_at(stderr, &committed->at);
    fprintf(stderr, ": %zu generated (%s), ", json_array_size(g->ids), stop_name(g->stop));
    print_reuse(stderr, &o->reuse);
    fprintf(stderr, ", %s written\n", print_bytes(committed->bytes_written, size));
    return code;
}

int verb_generate(const arguments *args)
{
    opened o = {0};
    id_list stop = {0};
    tensors logits = {0};
    tarn_error err = {0};
    tarn_committed committed = {.size = sizeof committed};
    const char *file = args->options[OPTION_LOGITS].text;
    if (file && strcmp(file, "-") == 0)
        return options_wrong(args, "--logits: standard output is taken by the answer");
    generation g = {.stream = !given(args, OPTION_JSON), .ids = json_array()};
    int code = given(args, OPTION_STOP) ? input_option_ids(args, OPTION_STOP, "--stop", &stop) : 0;
    if (code == 0)
        code = open_existing(args, args->positionals[0], &o);
    if (code == 0 && file && !tensors_begin(&logits, file))
        code = result_error(args, &logits.err);
    if (code == 0 && generate(args, &stop, o.session, &g, &committed, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && file && !tensors_save_logits(&logits, o.session))
        code = result_error(args, &logits.err);
    if (code == 0)
        code = answer_generate(args, &o, &g, &committed);
    tensors_drop(&logits);
    open_close(&o);
    input_free_ids(&stop);
    json_decref(g.ids);
    free(g.text);
    return code;
}

/* ---- dump -------------------------------------------------------------------------------------
 */

static int dump_files(const arguments *args, const char *logits, const char *state,
                      const tarn_session *session)
{
    tensors t = {0};
    if (state && !(tensors_begin(&t, state) && tensors_save_state(&t, session)))
        return result_error(args, &t.err);
    if (logits && !(tensors_begin(&t, logits) && tensors_save_logits(&t, session)))
        return result_error(args, &t.err);
    return 0;
}

static int answer_dump(const arguments *args, const opened *o, bool out_taken)
{
    tarn_session_info info = {.size = sizeof info};
    tarn_session_get_info(o->session, &info);
    if (given(args, OPTION_JSON))
        return result_print(
            json_pack("{s:o, s:o}", "at", result_at(&info.at), "reuse", result_reuse(&o->reuse)),
            0);
    FILE *people = out_taken ? stderr : stdout;
    print_at(people, &info.at);
    fputs(": ", people);
    print_reuse(people, &o->reuse);
    fputc('\n', people);
    return result_flush();
}

int verb_dump(const arguments *args)
{
    opened o = {0};
    place from;
    tarn_error err = {0};
    const char *logits = args->options[OPTION_LOGITS].text;
    const char *state = args->options[OPTION_STATE].text;
    if (!logits && !state)
        return options_wrong(args, "give --state, --logits or both");
    bool logits_out = logits && strcmp(logits, "-") == 0;
    bool state_out = state && strcmp(state, "-") == 0;
    if (logits_out + state_out + given(args, OPTION_JSON) > 1)
        return options_wrong(args, "standard output can take one of --json, --logits - and "
                                   "--state -");
    int code = open_split(args, args->positionals[0], &from);
    tarn_session_options options = {
        .size = sizeof options, .flags = TARN_SESSION_READ_ONLY, .where = from.where};
    if (code == 0)
        code = open_store(args, 0, &o);
    if (code == 0)
        code = open_engine(args, &o);
    if (code == 0)
        code = open_session(args, from.session, &options, &o);
    if (code == 0 && tarn_session_run(o.session, NULL, NULL, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0)
        code = dump_files(args, logits, state, o.session);
    if (code == 0)
        code = answer_dump(args, &o, logits_out || state_out);
    open_close(&o);
    return code;
}
