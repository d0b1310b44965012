/* kill -9 at any moment: two writers and two readers on one store, processes of their own, of which
 * some die and then the others. What a writer was told is done must be there, whole; a reader that
 * lives must never have seen damage; and the next four go on where these ended. */
#include "mob.h"
#include "store_kit.h"

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

/* ---- rounds ---------------------------------------------------------------------------------- */

typedef struct acks {
    size_t n;
    ack list[ACKS];
} acks;

static void note_ack(void *user, size_t who, const void *record)
{
    acks *a = user;
    if (who < 2 && a->n < ACKS)
        memcpy(&a->list[a->n++], record, sizeof(ack));
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
    static acks told;
    static const char *const roles[PROCESSES] = {"w0", "w1", "r", "r"};
    char seeds[PROCESSES][24];
    mob m = {.n = PROCESSES, .record_bytes = sizeof(ack)};
    told.n = 0;
    for (uint64_t i = 0; i < PROCESSES; i++) {
        snprintf(seeds[i], sizeof seeds[i], "%llu", (unsigned long long)(seed + i * 100000));
        const char *args[] = {"--child", k->path, roles[i], seeds[i]};
        memcpy(m.args[i], args, sizeof args);
    }
    mob_play(t, &m, random, note_ack, &told);
    if (!kit_reopen(k)) {
        trust_bad(t, "does not open: %s", k->err.detail);
        return;
    }
    if (kit_verify(k, true) != 0)
        trust_bad(t, "damaged: %s", k->err.detail);
    check_acks(t, k, told.list, told.n);
    trust_count(t, "acknowledged", told.n);
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
