/* kill -9 at any moment: two writers and two readers on one store, processes of their own, of which
 * some die and then the others. What a writer was told is done must be there, whole; a reader that
 * lives must never have seen damage; and the next four go on where these ended. */
#include "store_kit.h"
#include "trust.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { ROUNDS_A_STORE = 25, PROCESSES = 4, ACKS = 2000, EXIT_DAMAGE = 9 };

typedef struct ack {
    uint64_t seed, node;
} ack;

/* ---- the processes --------------------------------------------------------------------------- */

static int writer_main(kit *k, const char *name, uint64_t seed)
{
    char other[16];
    snprintf(other, sizeof other, "%s-b", name);
    for (;; seed++) {
        ack done = {seed, kit_append(k, name, seed)};
        if (check_failures || write(STDOUT_FILENO, &done, sizeof done) != (ssize_t)sizeof done)
            return EXIT_DAMAGE;
        uint64_t freed;
        tarnp_session s;
        switch (seed % 9) { /* whatever is left of the last round may make these fail */
        case 1:
            if (tarnp_session_fork(k->store, done.node, other, &s, NULL, &k->err) == TARN_OK)
                tarnp_session_fini(&s);
            break;
        case 4:
            (void)!tarnp_session_remove(k->store, other, &k->err);
            break;
        case 6:
            (void)!tarnp_node_evict(k->store, done.node, TARNP_PART_STATE, &freed, &k->err);
            break;
        case 8:
            (void)!tarnp_session_tag(k->store, name, "k", seed % 2 ? "v" : NULL, &k->err);
            break;
        default:
            break;
        }
    }
}

static int reader_main(kit *k)
{
    for (;;) {
        const ack looked = {0};
        if (kit_verify(k, false) != 0 ||
            write(STDOUT_FILENO, &looked, sizeof looked) != (ssize_t)sizeof looked)
            return EXIT_DAMAGE;
    }
}

static int child_main(char **argv)
{
    kit k = {0};
    snprintf(k.path, sizeof k.path, "%s", argv[2]);
    k.options.map_bytes = (size_t)1 << 28;
    kit_floats = 32;
    if (!kit_reopen(&k))
        return EXIT_DAMAGE;
    return argv[3][0] == 'w' ? writer_main(&k, argv[3], strtoull(argv[4], NULL, 10))
                             : reader_main(&k);
}

static pid_t start(const char *path, const char *role, uint64_t seed, int *acks)
{
    int ends[2];
    char text[32], self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0 || pipe(ends) != 0)
        return -1;
    self[n] = 0;
    snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(self, self, "--child", path, role, text, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *acks = ends[0];
    return child;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

typedef struct process {
    pid_t pid;
    int acks;
    bool dead;
} process;

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

static void start_all(const kit *k, process all[PROCESSES], uint64_t seed)
{
    static const char *const roles[PROCESSES] = {"w0", "w1", "r", "r"};
    for (uint64_t i = 0; i < PROCESSES; i++) {
        all[i].dead = false;
        all[i].pid = start(k->path, roles[i], seed + i * 100000, &all[i].acks);
    }
}

static void pause_for(uint64_t ns)
{
    const struct timespec wait = {0, (long)ns};
    nanosleep(&wait, NULL);
}

/* What the writers were told, against the store. */
static void check_acks(trust *t, kit *k, const ack *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t key[TARNP_KEY_BYTES];
        uint64_t node = 0;
        tarnp_node read;
        kit_key(key, list[i].seed);
        if (tarnp_commit_find(k->store, key, &node, &k->err) != TARN_OK || node != list[i].node) {
            trust_bad(t, "the commit of seed %llu is lost", (unsigned long long)list[i].seed);
            continue;
        }
        if (tarnp_node_read(k->store, node, &read, &k->err) != TARN_OK) {
            trust_bad(t, "node %llu: %s", (unsigned long long)node, k->err.detail);
            continue;
        }
        bool lacks = read.flags & TARNP_NODE_STATE_EVICTED, equal = false;
        tarnp_node_fini(&read);
        if (!lacks &&
            (kit_read(k->store, node, list[i].seed, &equal, &k->err) != TARN_OK || !equal))
            trust_bad(t, "node %llu is not what was written", (unsigned long long)node);
    }
}

static void play_round(trust *t, kit *k, uint64_t *random, uint64_t seed)
{
    process all[PROCESSES];
    static ack acks[ACKS];
    size_t n = 0;
    start_all(k, all, seed);
    for (int i = 0; i < PROCESSES; i++) { /* each has done something */
        ack one;
        if (read(all[i].acks, &one, sizeof one) != (ssize_t)sizeof one)
            trust_bad(t, "process %d did not begin", i);
        else if (i < 2)
            acks[n++] = one;
    }
    pause_for(trust_below(random, 12000000));
    uint64_t victims = 1 + trust_below(random, (1 << PROCESSES) - 1);
    for (int i = 0; i < PROCESSES; i++)
        if (victims >> i & 1)
            kill_one(t, &all[i]);
    if (victims + 1 != 1 << PROCESSES) /* the others go on for a while */
        pause_for(trust_below(random, 4000000));
    for (int i = 0; i < PROCESSES; i++)
        kill_one(t, &all[i]);
    for (int i = 0; i < PROCESSES; i++) {
        ack one;
        while (read(all[i].acks, &one, sizeof one) == (ssize_t)sizeof one)
            if (i < 2 && n < ACKS)
                acks[n++] = one;
        close(all[i].acks);
    }
    if (!kit_reopen(k)) {
        trust_bad(t, "does not open: %s", k->err.detail);
        return;
    }
    if (kit_verify(k, true) != 0)
        trust_bad(t, "damaged: %s", k->err.detail);
    check_acks(t, k, acks, n);
    trust_count(t, "acknowledged", n);
    tarnp_store_close(k->store);
    k->store = NULL;
}

static void piece(trust *t, uint64_t seed)
{
    kit k;
    uint64_t random = seed;
    kit_floats = 32;
    if (!kit_begin(&k))
        return;
    k.options.map_bytes = (size_t)1 << 28;
    kit_create(&k, "w0");
    kit_create(&k, "w1");
    tarnp_store_close(k.store);
    k.store = NULL;
    for (uint64_t round = 0; round < ROUNDS_A_STORE && !trust_enough(t); round++) {
        trust_note(t, "round %llu", (unsigned long long)round);
        play_round(t, &k, &random, (round + 1) * 1000000);
        t->n++;
    }
    if (check_failures)
        trust_bad(t, "a check failed");
    kit_end(&k);
}

CASE(processes)
{
    CHECK(trust_run("kills.processes", 150, piece));
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {ENTRY(processes)};
    if (argc == 5 && strcmp(argv[1], "--child") == 0)
        return child_main(argv);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
