/* An engine on a CUDA device beside one on the CPU: stores that go from one to the other, devices
 * that are not there, memory that is not enough, a device that fails. */
#include "check.h"
#include "fixture.h"

#include <math.h>

/* From hooks.cpp. */
void emu_break(void);
unsigned mirror_faults(const char **first);

#define N_PROMPT 150

static void on(rig *r, const char *device)
{
    tarn_engine_options o = {.n_threads = 1, .device = device};
    rig_restart(r, &o);
}

static void open_on(rig *r, const char *device)
{
    tarn_engine_options o = {.n_threads = 1, .device = device};
    rig_open(r, RIG_TINY, &o);
}

/* All numbers of a session's state, one tensor behind the other. */
typedef struct numbers {
    float *x;
    size_t n;
} numbers;

static void take_tensor(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                        const float *data)
{
    numbers *all = user;
    size_t n = 1;
    (void)name;
    for (uint32_t i = 0; i < n_dims; i++)
        n *= dims[i];
    all->x = realloc(all->x, (all->n + n) * sizeof *all->x);
    if (!all->x)
        exit(1);
    memcpy(all->x + all->n, data, n * sizeof *data);
    all->n += n;
}

static numbers numbers_of(const tarn_session *s)
{
    numbers all = {0};
    OK(tarn_session_tensors(s, take_tensor, &all, ERR));
    const float *logits;
    uint32_t vocab;
    OK(tarn_session_logits(s, &logits, &vocab, ERR));
    const uint64_t dims[] = {vocab};
    take_tensor(&all, "logits", dims, 1, logits);
    return all;
}

static double distance(const numbers *a, const numbers *b)
{
    double wrong = 0, all = 0;
    if (a->n != b->n)
        return INFINITY;
    for (size_t i = 0; i < a->n; i++) {
        wrong += ((double)a->x[i] - (double)b->x[i]) * ((double)a->x[i] - (double)b->x[i]);
        all += (double)a->x[i] * (double)a->x[i];
    }
    return sqrt(wrong / all);
}

/* What `from` has committed is what `to` resumes from, number by number. */
static void carry(const char *from, const char *to)
{
    rig r;
    uint32_t prompt[N_PROMPT];
    tarn_reuse reuse;
    open_on(&r, from);
    rig_ids(&r, 1, prompt, N_PROMPT);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, prompt, N_PROMPT);
    rig_generate(s, 3, NULL);
    numbers before = numbers_of(s);
    CHECK(rig_commit(s).at.bit_exact);
    tarn_session_close(s);
    on(&r, to);
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.reason, TARN_REASON_NUMERICS);
    CHECK_EQ(reuse.tokens_replayed, 0);
    CHECK(!rig_info(s).at.bit_exact);
    numbers after = numbers_of(s);
    CHECK_EQ(after.n, before.n);
    CHECK_BYTES(after.x, before.x, before.n * sizeof *before.x);
    rig_generate(s, 3, NULL);
    CHECK(!rig_commit(s).at.bit_exact);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    free(before.x);
    free(after.x);
    rig_close(&r);
}

CASE(a_store_of_the_cpu_resumes_on_cuda)
{
    carry("cpu", "cuda:0");
}

CASE(a_store_of_cuda_resumes_on_the_cpu)
{
    carry("cuda:0", "cpu");
}

/* The same tokens on both: near one another, by the rounding of sums. */
CASE(both_compute_the_same_model)
{
    rig r;
    uint32_t prompt[N_PROMPT];
    numbers all[2];
    const char *const devices[] = {"cpu", "cuda:0"};
    for (int i = 0; i < 2; i++) {
        tarn_engine_options o = {
            .n_threads = 1, .device = devices[i], .numerics = TARN_NUMERICS_F32};
        rig_open(&r, RIG_TINY, &o);
        CHECK(strncmp(tarn_engine_device(r.engine), devices[i], strlen(devices[i])) == 0);
        rig_ids(&r, 1, prompt, N_PROMPT);
        tarn_session *s = rig_loose(&r, "a");
        rig_feed(s, prompt, N_PROMPT);
        all[i] = numbers_of(s);
        tarn_session_close(s);
        rig_close(&r);
    }
    double d = distance(&all[0], &all[1]);
    CHECK(d < 1e-5);
    printf("rms of the difference: %.3g of the numbers\n", d);
    free(all[0].x);
    free(all[1].x);
}

CASE(devices_that_are_refused)
{
    rig r;
    open_on(&r, "cpu");
    tarn_engine *e;
    tarn_engine_options o = {.size = sizeof o, .n_threads = 1, .device = "cuda:1"};
    REFUSED(tarn_engine_open(r.model, &o, &e, ERR), TARN_E_NO_DEVICE, "there are 1");
    o.device = "cuda:x";
    REFUSED(tarn_engine_open(r.model, &o, &e, ERR), TARN_E_NO_DEVICE, "cuda:N");
    o.device = "cuda:";
    REFUSED(tarn_engine_open(r.model, &o, &e, ERR), TARN_E_NO_DEVICE, "cuda:N");
    o.device = "cuda:0";
    o.pages_bytes_max = (uint64_t)64 << 30;
    REFUSED(tarn_engine_open(r.model, &o, &e, ERR), TARN_E_NO_MEMORY, "MiB for states and latents");
    CHECK_HAS(rig_error.detail, "MiB are free");
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    o.pages_bytes_max = 0;
    REFUSED(tarn_engine_open(r.model, &o, &e, ERR), TARN_E_NO_DEVICE, "no CUDA device");
    o.device = "auto";
    OK(tarn_engine_open(r.model, &o, &e, ERR));
    CHECK(strncmp(tarn_engine_device(e), "cpu", 3) == 0);
    tarn_engine_close(e);
    unsetenv("CUDA_VISIBLE_DEVICES");
    rig_close(&r);
}

static bool stop_at_half(void *user, uint64_t done, uint64_t all)
{
    uint64_t *told = user;
    CHECK(done > *told && done <= all);
    *told = done;
    return false;
}

CASE(loading_weights_tells_and_can_be_cancelled)
{
    rig r;
    uint64_t told = 0;
    tarn_engine *e;
    open_on(&r, "cpu");
    tarn_engine_options o = {.size = sizeof o,
                             .n_threads = 1,
                             .device = "cuda:0",
                             .progress = stop_at_half,
                             .progress_user = &told};
    REFUSED(tarn_engine_open(r.model, &o, &e, ERR), TARN_E_CANCELLED, "bytes of weights");
    CHECK(told > 0);
    rig_close(&r);
}

/* The device fails in a step, with a second session idle beside. */
CASE(a_device_that_fails_poisons_and_the_store_is_whole)
{
    rig r;
    uint32_t prompt[N_PROMPT];
    static rig_told told;
    const char *fault;
    open_on(&r, "cuda:0");
    rig_ids(&r, 1, prompt, N_PROMPT);
    tarn_session *s = rig_session(&r, "a", NULL), *idle = rig_session(&r, "b", NULL);
    rig_feed(s, prompt, N_PROMPT);
    numbers kept = numbers_of(s);
    rig_commit(s);
    rig_feed(idle, prompt, 20);
    OK(tarn_session_append_tokens(s, prompt, 10, ERR));
    emu_break();
    (void)!tarn_session_run(s, rig_hear, &told, ERR);
    CHECK_EQ(told.stop, TARN_STOP_FAILED);
    tarn_committed committed = {.size = sizeof committed};
    REFUSED(tarn_session_commit(s, &committed, ERR), TARN_E_POISONED, "cudaErrorIllegalAddress");
    REFUSED(tarn_session_commit(idle, &committed, ERR), TARN_E_DEVICE, "cudaErrorIllegalAddress");
    tarn_session_close(s);
    tarn_session_close(idle);
    REFUSED(tarn_session_open(r.engine, r.store, "a", NULL, &s, NULL, ERR), TARN_E_DEVICE,
            "cudaErrorIllegalAddress");
    CHECK(mirror_faults(&fault) > 0); /* a new process finds a whole device */
    on(&r, "cuda:0");
    CHECK_EQ(rig_verify(r.store), 0);
    s = rig_session(&r, "a", NULL);
    numbers again = numbers_of(s);
    CHECK_EQ(again.n, kept.n);
    CHECK_BYTES(again.x, kept.x, kept.n * sizeof *kept.x);
    tarn_session_close(s);
    free(kept.x);
    free(again.x);
    rig_close(&r);
}

/* Of a preset there are no files: its weights are made where they lie. */
CASE(a_shape_without_a_checkpoint)
{
    tarn_model_options options = {.size = sizeof options, .flags = TARN_MODEL_SHAPE};
    tarn_engine_options o = {.size = sizeof o, .n_threads = 1, .device = "cpu"};
    tarn_model *model;
    tarn_engine *e;
    tarn_session *s;
    uint32_t ids[20], vocab;
    const float *logits;
    double sum = 0, squares = 0;
    REFUSED(tarn_model_open("huge", &options, &model, ERR), TARN_E_NOT_FOUND, "48b");
    OK(tarn_model_open("tiny", &options, &model, ERR));
    REFUSED(tarn_engine_open(model, &o, &e, ERR), TARN_E_UNSUPPORTED, "CUDA device");
    o.device = "cuda:0";
    OK(tarn_engine_open(model, &o, &e, ERR));
    OK(tarn_session_open(e, NULL, "a", NULL, &s, NULL, ERR));
    for (uint32_t i = 0; i < 20; i++)
        ids[i] = 7 * i % 50;
    OK(tarn_session_append_tokens(s, ids, 20, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    OK(tarn_session_logits(s, &logits, &vocab, ERR));
    for (uint32_t i = 0; i < vocab; i++) {
        sum += (double)logits[i];
        squares += (double)logits[i] * (double)logits[i];
    }
    double deviation = sqrt(squares / vocab - sum / vocab * (sum / vocab));
    CHECK(deviation > 0.5 && deviation < 8); /* as of a model: 2, about */
    tarn_session_close(s);
    tarn_engine_close(e);
    tarn_model_close(model);
}

CASE(a_plan_knows_the_device)
{
    rig r;
    open_on(&r, "cpu");
    tarn_plan_report cpu = {.size = sizeof cpu}, cuda = {.size = sizeof cuda};
    tarn_plan_options o = {.size = sizeof o, .sessions = 3};
    OK(tarn_plan(r.model, &o, &cpu, ERR));
    CHECK_EQ(cpu.sessions, 0); /* of a host nobody knows how much it may have */
    o.device = "cuda:0";
    OK(tarn_plan(r.model, &o, &cuda, ERR));
    CHECK(cuda.sessions > 0 && cuda.fits);
    CHECK(cuda.workspace_bytes != cpu.workspace_bytes);
    CHECK_EQ(cuda.per_session_bytes, cpu.per_session_bytes);
    o.device = "gpu";
    REFUSED(tarn_plan(r.model, &o, &cuda, ERR), TARN_E_NO_DEVICE, "gpu");
    rig_close(&r);
}

CHECK_MAIN(ENTRY(a_store_of_the_cpu_resumes_on_cuda), ENTRY(a_store_of_cuda_resumes_on_the_cpu),
           ENTRY(both_compute_the_same_model), ENTRY(devices_that_are_refused),
           ENTRY(loading_weights_tells_and_can_be_cancelled),
           ENTRY(a_device_that_fails_poisons_and_the_store_is_whole),
           ENTRY(a_shape_without_a_checkpoint), ENTRY(a_plan_knows_the_device))
