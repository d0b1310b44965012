/* The files of a model change while sessions use it. */
#include "check.h"
#include "fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *weights_path(const rig *r)
{
    static char path[192];
    snprintf(path, sizeof path, "%s/model.safetensors", r->model_dir);
    return path;
}

static volatile sig_atomic_t host_calls;

static void count_signal(int signo)
{
    (void)signo;
    host_calls++;
}

/* What every kind of change must lead to: the step's session fails with the file's name and keeps
 * nothing of the step, others fail when they step, and a reset does not bring the model back. */
static void check_failed(rig *r, tarn_session *s, tarn_session *other, const char *words)
{
    tarn_error failure;
    tarn_reuse reuse;
    uint32_t id = 5;
    CHECK_EQ(rig_info(s).state, TARN_SESSION_POISONED);
    tarn_session_failure(s, &failure);
    CHECK_EQ(failure.status, TARN_E_IO);
    CHECK_HAS(failure.detail, "model.safetensors");
    CHECK_HAS(failure.detail, words);
    CHECK_STATUS(tarn_session_commit(s, NULL, ERR), TARN_E_POISONED);
    OK(tarn_session_append_tokens(other, &id, 1, ERR));
    REFUSED(tarn_session_run(other, NULL, NULL, ERR), TARN_E_IO, words);
    OK(tarn_session_reset(s, &reuse, ERR));
    CHECK_EQ(reuse.tokens_reused, 40);
    OK(tarn_session_append_tokens(s, &id, 1, ERR));
    REFUSED(tarn_session_run(s, NULL, NULL, ERR), TARN_E_IO, words);
    tarn_session_close(s);
    tarn_session_close(other);
    CHECK_EQ(rig_verify(r->store), 0);
}

typedef struct cutter {
    const char *path;
    off_t n_bytes;
    uint64_t after; /* tokens */
    uint64_t n_tokens;
} cutter;

static void cut_when_told(void *user, const tarn_event *event)
{
    cutter *c = user;
    c->n_tokens += event->kind == TARN_EVENT_TOKEN;
    if (event->kind == TARN_EVENT_TOKEN && c->n_tokens == c->after &&
        truncate(c->path, c->n_bytes) != 0)
        CHECK_FAIL("%s could not be cut", c->path);
}

static void start(rig *r, uint32_t n_threads, tarn_session **s, tarn_session **other)
{
    tarn_engine_options options = {.n_threads = n_threads};
    uint32_t ids[40];
    rig_open(r, RIG_TINY, &options);
    rig_ids(r, 3, ids, 40);
    *s = rig_session(r, "s", NULL);
    *other = rig_session(r, "other", NULL);
    rig_feed(*s, ids, 40);
    rig_feed(*other, ids, 40);
    rig_commit(*s);
    rig_commit(*other);
}

CASE(a_file_cut_short_while_decoding_fails_the_session)
{
    static const off_t lengths[] = {0, 4096, 70001};
    signal(SIGBUS, count_signal);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        rig r;
        tarn_session *s, *other;
        tarn_generate_options generation = {.size = sizeof generation, .n_tokens_max = 100};
        start(&r, i == 1 ? 4 : 1, &s, &other);
        cutter c = {weights_path(&r), lengths[i], 10, 0};
        OK(tarn_session_generate(s, &generation, ERR));
        REFUSED(tarn_session_run(s, cut_when_told, &c, ERR), TARN_E_IO, "had");
        CHECK_EQ(c.n_tokens, 10); /* the step that read the cut file gave nothing out */
        check_failed(&r, s, other, "had");
        rig_close(&r);
    }
    struct sigaction now;
    CHECK_EQ(host_calls, 0);
    REQUIRE(sigaction(SIGBUS, NULL, &now) == 0);
    CHECK(now.sa_handler == count_signal);
    signal(SIGBUS, SIG_DFL);
}

static void *cut_soon(void *path)
{
    usleep(20000);
    if (truncate(path, 0) != 0)
        CHECK_FAIL("%s could not be cut", (char *)path);
    return NULL;
}

CASE(a_file_cut_short_within_a_step)
{
    rig r;
    tarn_session *s, *other;
    pthread_t thread;
    char path[192];
    tarn_generate_options generation = {.size = sizeof generation, .n_tokens_max = 4000};
    start(&r, 3, &s, &other);
    snprintf(path, sizeof path, "%s", weights_path(&r));
    OK(tarn_session_generate(s, &generation, ERR));
    REQUIRE(pthread_create(&thread, NULL, cut_soon, path) == 0);
    tarn_status status = tarn_session_run(s, NULL, NULL, ERR);
    pthread_join(thread, NULL);
    while (status == TARN_OK) { /* it stopped at a stop id before */
        OK(tarn_session_generate(s, &generation, ERR));
        status = tarn_session_run(s, NULL, NULL, ERR);
    }
    CHECK_STATUS(status, TARN_E_IO);
    check_failed(&r, s, other, "had");
    rig_close(&r);
}

CASE(a_file_written_over_fails_the_session)
{
    rig r;
    tarn_session *s, *other;
    uint32_t id = 9;
    size_t n_bytes;
    start(&r, 1, &s, &other);
    char *data = rig_read_file(weights_path(&r), &n_bytes);
    struct timespec later[2] = {{.tv_sec = 2000000000}, {.tv_sec = 2000000000}};
    rig_write_file(weights_path(&r), data, n_bytes); /* the same bytes: nobody can know that */
    REQUIRE(utimensat(AT_FDCWD, weights_path(&r), later, 0) == 0);
    OK(tarn_session_append_tokens(s, &id, 1, ERR));
    REFUSED(tarn_session_run(s, NULL, NULL, ERR), TARN_E_IO, "was written to");
    check_failed(&r, s, other, "was written to");
    free(data);
    rig_close(&r);
}

CASE(a_new_file_under_the_name_changes_nothing)
{
    rig r;
    tarn_session *s, *other;
    rig_told before = {0}, after = {0};
    char aside[200];
    start(&r, 1, &s, &other);
    rig_generate(s, 20, &before);
    snprintf(aside, sizeof aside, "%s.new", weights_path(&r));
    rig_write_file(aside, "not weights", 11);
    REQUIRE(rename(aside, weights_path(&r)) == 0);
    rig_generate(other, 20, &after);
    CHECK_IDS(after.ids, before.ids, 20);
    tarn_session_close(s);
    tarn_session_close(other);
    rig_close(&r);
}

CASE(a_cut_file_is_never_given_a_fingerprint)
{
    rig r;
    tarn_session *s, *other;
    tarn_model *model;
    tarn_engine *engine;
    tarn_model_options options = {.size = sizeof options, .cache_dir = ""};
    tarn_model_info info = {.size = sizeof info};
    start(&r, 1, &s, &other);
    tarn_session_close(s);
    tarn_session_close(other);
    OK(tarn_model_open(r.model_dir, &options, &model, ERR));
    REQUIRE(truncate(weights_path(&r), 50000) == 0);
    CHECK(tarn_model_describe(model, TARN_NUMERICS_NATIVE, &info, ERR) != TARN_OK);
    CHECK_HAS(rig_error.detail, "model.safetensors");
    CHECK(tarn_engine_open(model, NULL, &engine, ERR) != TARN_OK);
    tarn_model_close(model);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(a_file_cut_short_while_decoding_fails_the_session),
           ENTRY(a_file_cut_short_within_a_step), ENTRY(a_file_written_over_fails_the_session),
           ENTRY(a_new_file_under_the_name_changes_nothing),
           ENTRY(a_cut_file_is_never_given_a_fingerprint))
