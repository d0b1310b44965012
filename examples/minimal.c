/* minimal.c - ask a question; asked again, the session goes on from where it was.
 *
 *     minimal MODEL STORE QUESTION */
#include <tarn.h>

#include <stdio.h>
#include <string.h>

static void print_text(void *user, const tarn_event *event)
{
    (void)user;
    if (event->kind == TARN_EVENT_TEXT)
        fwrite(event->text, 1, event->text_bytes, stdout);
}

int main(int argc, char **argv)
{
    tarn_model *model = NULL;
    tarn_engine *engine = NULL;
    tarn_store *store = NULL;
    tarn_session *session = NULL;
    tarn_reuse reuse;
    tarn_error err;
    if (argc != 4) {
        fprintf(stderr, "usage: minimal MODEL STORE QUESTION\n");
        return 2;
    }
    tarn_store_options in_store = {.size = sizeof in_store, .flags = TARN_STORE_CREATE};
    tarn_session_options at_session = {.size = sizeof at_session, .flags = TARN_SESSION_CREATE};
    tarn_message question = {.size = sizeof question,
                             .role = TARN_ROLE_USER,
                             .text = argv[3],
                             .text_bytes = strlen(argv[3])};

    bool ok = tarn_model_open(argv[1], NULL, &model, &err) == TARN_OK &&
              tarn_engine_open(model, NULL, &engine, &err) == TARN_OK &&
              tarn_store_open(argv[2], &in_store, &store, &err) == TARN_OK &&
              tarn_session_open(engine, store, "minimal", &at_session, &session, &reuse, &err) ==
                  TARN_OK &&
              tarn_session_append_message(session, &question, NULL, &err) == TARN_OK &&
              tarn_session_generate(session, NULL, &err) == TARN_OK &&
              tarn_session_run(session, print_text, NULL, &err) == TARN_OK &&
              tarn_session_commit(session, NULL, &err) == TARN_OK;
    if (ok)
        printf("\n");
    else
        fprintf(stderr, "minimal: %s\n", err.detail);

    tarn_session_close(session);
    tarn_store_close(store);
    tarn_engine_close(engine);
    tarn_model_close(model);
    return ok ? 0 : 1;
}
