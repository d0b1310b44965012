/* stream.c - a long text is computed while it still comes in, then asked about; the answer is
 * printed as it comes out.
 *
 *     make test 2>&1 | stream MODEL "Which test failed?"
 *
 * Nothing is kept: the session has no store. */
#include <tarn.h>

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static tarn_error err;

static bool input_waits(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&input, 1, 0) > 0;
}

/* Reads while there is something to read, and computes while there is not. */
static bool take_input(tarn_engine *engine, tarn_session *session, uint64_t *computed_early)
{
    char piece[4096];
    tarn_message log = {.size = sizeof log, .role = TARN_ROLE_TOOL, .call_id = "functions.read:0"};
    tarn_session_info info = {.size = sizeof info};
    if (tarn_session_append_begin(session, &log, &err) != TARN_OK)
        return false;
    for (;;) {
        tarn_session_get_info(session, &info);
        if (info.tokens_waiting > 0 && !input_waits()) {
            if (tarn_engine_step(engine, NULL, &err) != TARN_OK)
                return false;
            continue;
        }
        ssize_t n = read(STDIN_FILENO, piece, sizeof piece);
        if (n <= 0)
            break;
        if (tarn_session_append_bytes(session, piece, (size_t)n, NULL, &err) != TARN_OK)
            return false;
    }
    *computed_early = info.at.position;
    return tarn_session_append_end(session, NULL, &err) == TARN_OK;
}

/* The engine never blocks: a program with work of its own does that between the steps. */
static bool print_answer(tarn_engine *engine, tarn_session *session)
{
    if (tarn_session_generate(session, NULL, &err) != TARN_OK)
        return false;
    for (bool over = false; !over;) {
        tarn_event event;
        if (tarn_engine_step(engine, NULL, &err) != TARN_OK)
            return false;
        while (tarn_engine_poll(engine, &event)) {
            if (event.kind == TARN_EVENT_TEXT)
                fwrite(event.text, 1, event.text_bytes, stdout);
            over = over || event.kind == TARN_EVENT_STOP;
        }
        fflush(stdout);
    }
    printf("\n");
    return true;
}

int main(int argc, char **argv)
{
    tarn_model *model = NULL;
    tarn_engine *engine = NULL;
    tarn_session *session = NULL;
    uint64_t computed_early = 0;
    if (argc != 3) {
        fprintf(stderr, "usage: stream MODEL QUESTION < TEXT\n");
        return 2;
    }
    tarn_message question = {.size = sizeof question,
                             .role = TARN_ROLE_USER,
                             .text = argv[2],
                             .text_bytes = strlen(argv[2])};
    bool ok = tarn_model_open(argv[1], NULL, &model, &err) == TARN_OK &&
              tarn_engine_open(model, NULL, &engine, &err) == TARN_OK &&
              tarn_session_open(engine, NULL, "stream", NULL, &session, NULL, &err) == TARN_OK &&
              take_input(engine, session, &computed_early) &&
              tarn_session_append_message(session, &question, NULL, &err) == TARN_OK &&
              print_answer(engine, session);
    if (ok)
        fprintf(stderr, "%llu tokens were computed before the text ended\n",
                (unsigned long long)computed_early);
    else
        fprintf(stderr, "stream: %s\n", err.detail);
    tarn_session_close(session);
    tarn_engine_close(engine);
    tarn_model_close(model);
    return ok ? 0 : 1;
}
