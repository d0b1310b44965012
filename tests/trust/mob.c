#include "mob.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct process {
    pid_t pid;
    int out;
    bool dead;
} process;

static bool start(const mob *m, size_t who, process *p)
{
    int ends[2];
    char self[400];
    const char *argv[MOB_ARGS + 1] = {self};
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0 || pipe(ends) != 0)
        return false;
    self[n] = 0;
    for (size_t i = 0; i < MOB_ARGS; i++)
        argv[i + 1] = m->args[who][i];
    fflush(stdout);
    p->pid = fork();
    if (p->pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execv(self, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(ends[1]);
    p->out = ends[0];
    p->dead = false;
    return p->pid > 0;
}

static void kill_one(trust *t, process *p)
{
    int status;
    if (p->dead)
        return;
    p->dead = true;
    if (kill(p->pid, SIGKILL) != 0 || waitpid(p->pid, &status, 0) != p->pid)
        trust_bad(t, "cannot kill %d", (int)p->pid);
    else if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        trust_bad(t, "a process ended by itself, with %#x", (unsigned)status);
}

static void pause_for(uint64_t ns)
{
    const struct timespec wait = {0, (long)ns};
    nanosleep(&wait, NULL);
}

void mob_play(trust *t, const mob *m, uint64_t *random, mob_fn told, void *user)
{
    process all[MOB_MOST];
    uint8_t record[MOB_RECORD];
    ssize_t size = (ssize_t)m->record_bytes;
    for (size_t i = 0; i < m->n; i++)
        if (!start(m, i, &all[i])) {
            trust_bad(t, "cannot start a process");
            return;
        }
    for (size_t i = 0; i < m->n; i++) { /* each has done something */
        if (read(all[i].out, record, m->record_bytes) != size)
            trust_bad(t, "process %zu did not begin", i);
        else
            told(user, i, record);
    }
    pause_for(trust_below(random, 12000000));
    uint64_t everybody = (1u << m->n) - 1, victims = 1 + trust_below(random, everybody);
    for (size_t i = 0; i < m->n; i++)
        if (victims >> i & 1)
            kill_one(t, &all[i]);
    if (victims != everybody) /* the others go on for a while */
        pause_for(trust_below(random, 4000000));
    for (size_t i = 0; i < m->n; i++)
        kill_one(t, &all[i]);
    for (size_t i = 0; i < m->n; i++) {
        while (read(all[i].out, record, m->record_bytes) == size)
            told(user, i, record);
        close(all[i].out);
    }
}
