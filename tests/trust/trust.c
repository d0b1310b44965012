#include "trust.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BAD_PRINTED 20
#define IDLE_MAX    20 /* pieces that try nothing */

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

bool trust_enough(const trust *t)
{
    return t->n >= t->wanted || (t->until_ms && now_ms() >= t->until_ms);
}

static void run_piece(trust *t, void (*piece)(trust *t, uint64_t seed), uint64_t seed)
{
    int status;
    t->seed = seed;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        piece(t, seed);
        fflush(stdout);
        exit(0); /* not _exit: coverage is written on the way out */
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        trust_bad(t, "cannot start a child");
        t->n = t->wanted;
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        t->crashes++;
        trust_bad(t, "ended by %s %d", WIFSIGNALED(status) ? "signal" : "exit",
                  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
}

bool trust_run(const char *name, uint64_t count, void (*piece)(trust *t, uint64_t seed))
{
    trust *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (t == MAP_FAILED)
        return false;
    uint64_t first = number_from("TARN_TRUST_SEED", 1), seed = first;
    uint64_t seconds = number_from("TARN_TRUST_SECONDS", 0);
    t->wanted = number_from("TARN_TRUST_COUNT", count);
    t->until_ms = seconds ? now_ms() + 1000 * seconds : 0;
    for (int idle = 0; !trust_enough(t) && idle < IDLE_MAX; seed++) {
        uint64_t before = t->n;
        run_piece(t, piece, seed);
        if (t->n == before && !trust_enough(t)) {
            idle++;
            trust_bad(t, "the piece tried nothing");
        }
    }
    printf("trust %s seeds %" PRIu64 "..%" PRIu64 " cases %" PRIu64 " bad %" PRIu64
           " crashes %" PRIu64,
           name, first, seed - 1, t->n, t->bad, t->crashes);
    for (int i = 0; i < TRUST_COUNTS && t->counts[i].name[0]; i++)
        printf(" %s %" PRIu64, t->counts[i].name, t->counts[i].n);
    printf("\n");
    bool good = t->bad == 0 && t->n > 0;
    munmap(t, sizeof *t);
    return good;
}

void trust_count(trust *t, const char *name, uint64_t n)
{
    for (int i = 0; i < TRUST_COUNTS; i++) {
        if (!t->counts[i].name[0])
            snprintf(t->counts[i].name, TRUST_NAME, "%s", name);
        if (strcmp(t->counts[i].name, name) == 0) {
            t->counts[i].n += n;
            return;
        }
    }
}

void trust_note(trust *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(t->note, sizeof t->note, format, args);
    va_end(args);
}

void trust_bad(trust *t, const char *format, ...)
{
    va_list args;
    if (t->bad++ >= BAD_PRINTED)
        return;
    va_start(args, format);
    printf("    seed %" PRIu64 ", %s: ", t->seed, t->note);
    vprintf(format, args);
    printf("\n");
    fflush(stdout);
    va_end(args);
}

/* ---- lists ----------------------------------------------------------------------------------- */

typedef struct outcome {
    size_t at_idx, result;
    bool done;
    char why[TRUST_WHY];
} outcome;

static outcome *child_outcome; /* shared with the parent */

void trust_at(size_t at_idx)
{
    if (child_outcome)
        child_outcome->at_idx = at_idx;
}

size_t trust_try(trust *t, trust_list_fn fn, const void *list, size_t n, char why[TRUST_WHY])
{
    int status = 0;
    outcome *o = mmap(NULL, sizeof *o, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (o == MAP_FAILED)
        return 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        child_outcome = o;
        o->result = fn(t, list, n, o->why);
        o->done = true;
        fflush(stdout);
        exit(0); /* a sanitizer may still change that */
    }
    size_t result = n;
    why[0] = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0 || !o->done) {
        result = o->at_idx < n ? o->at_idx : n - 1;
        snprintf(why, TRUST_WHY, "ended by %s %d", WIFSIGNALED(status) ? "signal" : "exit",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    } else if (o->result < n) {
        result = o->result;
        memcpy(why, o->why, TRUST_WHY);
    }
    munmap(o, sizeof *o);
    return result;
}

size_t trust_shrink(trust_list_fn fn, void *list, size_t n, size_t item_bytes, char why[TRUST_WHY])
{
    uint8_t *items = list, *shorter = malloc(n * item_bytes);
    for (size_t size = n / 2; shorter && size > 0; size /= 2)
        for (size_t at = 0; at + size <= n;) {
            size_t left = n - size, behind = left - at;
            char other[TRUST_WHY];
            memcpy(shorter, items, at * item_bytes);
            memcpy(shorter + at * item_bytes, items + (at + size) * item_bytes,
                   behind * item_bytes);
            if (trust_try(NULL, fn, shorter, left, other) < left) {
                memcpy(items, shorter, left * item_bytes);
                memcpy(why, other, TRUST_WHY);
                n = left;
            } else {
                at += size;
            }
        }
    free(shorter);
    return n;
}

/* ---- numbers --------------------------------------------------------------------------------- */

uint64_t trust_random(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t trust_below(uint64_t *state, uint64_t n)
{
    return n ? trust_random(state) % n : 0;
}
