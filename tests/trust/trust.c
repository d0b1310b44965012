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
