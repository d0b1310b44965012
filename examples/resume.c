/* resume.c - a process is killed in the middle of an answer; the next one goes on.
 *
 *     resume MODEL STORE QUESTION
 *
 * The program starts itself again as the process that dies. What was committed is there, exactly;
 * the half answer is not, and nothing is computed twice. */
#include <tarn.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static tarn_error err;

typedef struct opened {
    tarn_model *model;
    tarn_engine *engine;
    tarn_store *store;
    tarn_session *session;
    tarn_reuse reuse;
} opened;

static bool open_all(opened *o, const char *model, const char *store)
{
    tarn_store_options so = {.size = sizeof so, .flags = TARN_STORE_CREATE};
    tarn_session_options at = {.size = sizeof at, .flags = TARN_SESSION_CREATE};
    return tarn_model_open(model, NULL, &o->model, &err) == TARN_OK &&
           tarn_engine_open(o->model, NULL, &o->engine, &err) == TARN_OK &&
           tarn_store_open(store, &so, &o->store, &err) == TARN_OK &&
           tarn_session_open(o->engine, o->store, "resume", &at, &o->session, &o->reuse, &err) ==
               TARN_OK;
}

static void close_all(opened *o)
{
    tarn_session_close(o->session);
    tarn_store_close(o->store);
    tarn_engine_close(o->engine);
    tarn_model_close(o->model);
}

static void print_text(void *user, const tarn_event *event)
{
    (void)user;
    if (event->kind == TARN_EVENT_TEXT)
        fwrite(event->text, 1, event->text_bytes, stdout);
}

static void die_at_third(void *user, const tarn_event *event)
{
    int *n = user;
    print_text(NULL, event);
    if (event->kind == TARN_EVENT_TOKEN && ++*n == 3) {
        printf("...\n");
        fflush(stdout);
        raise(SIGKILL);
    }
}

/* Commits the question, and dies while it answers. */
static int ask_and_die(char **argv)
{
    opened o = {0};
    int n = 0;
    tarn_message m = {
        .size = sizeof m, .role = TARN_ROLE_USER, .text = argv[3], .text_bytes = strlen(argv[3])};
    bool ok = open_all(&o, argv[1], argv[2]) &&
              tarn_session_append_message(o.session, &m, NULL, &err) == TARN_OK &&
              tarn_session_run(o.session, NULL, NULL, &err) == TARN_OK &&
              tarn_session_commit(o.session, NULL, &err) == TARN_OK &&
              tarn_session_generate(o.session, NULL, &err) == TARN_OK &&
              tarn_session_run(o.session, die_at_third, &n, &err) == TARN_OK;
    fprintf(stderr, "resume: %s\n", ok ? "the answer was too short to die in" : err.detail);
    close_all(&o);
    return 1;
}

static int go_on(char **argv)
{
    opened o = {0};
    bool ok = open_all(&o, argv[1], argv[2]);
    if (ok)
        fprintf(stderr, "resumed: %llu tokens reused, %llu replayed\n",
                (unsigned long long)o.reuse.tokens_reused,
                (unsigned long long)o.reuse.tokens_replayed);
    ok = ok && tarn_session_generate(o.session, NULL, &err) == TARN_OK &&
         tarn_session_run(o.session, print_text, NULL, &err) == TARN_OK &&
         tarn_session_commit(o.session, NULL, &err) == TARN_OK;
    if (ok)
        printf("\n");
    else
        fprintf(stderr, "resume: %s\n", err.detail);
    close_all(&o);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    int status = 0;
    if (argc == 5 && strcmp(argv[4], "die") == 0)
        return ask_and_die(argv);
    if (argc != 4)
        return fprintf(stderr, "usage: resume MODEL STORE QUESTION\n"), 2;
    pid_t child = fork(); /* before anything is opened: no store may cross a fork */
    if (child == 0) {
        execl("/proc/self/exe", argv[0], argv[1], argv[2], argv[3], "die", (char *)NULL);
        _exit(127);
    }
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status))
        return 1;
    fprintf(stderr, "killed by signal %d\n", WTERMSIG(status));
    return go_on(argv);
}
