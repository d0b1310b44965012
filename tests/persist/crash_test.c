/* kill -9 while a child process commits, forks and removes. Whatever it acknowledged must be there,
 * whatever is there must be whole. The child is this program run anew: an LMDB environment does not
 * survive fork(). */
#include "store_kit.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define ROUNDS 240

typedef struct ack {
    uint64_t seed, node;
} ack;

/* Commits on "main" for ever; every tenth round trip makes or removes a branch. */
static int child_main(const char *path, const char *first_seed)
{
    kit k = {0};
    snprintf(k.path, sizeof k.path, "%s", path);
    k.options.map_bytes = (size_t)1 << 30;
    if (!kit_reopen(&k))
        return 1;
    for (uint64_t seed = strtoull(first_seed, NULL, 10); check_failures == 0; seed++) {
        ack done = {seed, kit_append(&k, "main", seed)};
        if (write(STDOUT_FILENO, &done, sizeof done) != (ssize_t)sizeof done)
            return 1;
        if (seed % 10 == 0 && kit_id(&k, "branch") == 0) {
            kit_fork(&k, done.node, "branch");
        } else if (seed % 10 == 3) {
            kit_append(&k, "branch", seed + 1000000000);
        } else if (seed % 10 == 5) {
            tarnp_session_remove(k.store, "branch", &k.err);
        }
        if (seed % 10 == 5 && !kit_id(&k, "branch") && !kit_fork(&k, done.node, "branch"))
            return 1;
    }
    return 1;
}

static pid_t start_child(const char *path, uint64_t seed, int *acks)
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
        execl(self, self, "--child", path, text, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *acks = ends[0];
    return child;
}

CASE(killed_at_any_moment)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    kit_append(&k, "main", 1);
    kit_fork(&k, kit_head(&k, "main"), "branch");
    tarnp_store_close(k.store);
    k.store = NULL;
    uint64_t random = 17, n_acks = 0;
    for (uint64_t round = 1; round <= ROUNDS && check_failures == 0; round++) {
        int acks = -1, status;
        pid_t child = start_child(k.path, round * 100000, &acks);
        REQUIRE(child > 0);
        ack list[512];
        size_t n = 0;
        /* The first acknowledgement says that it runs; then it dies within 0 to 25 ms. */
        REQUIRE(read(acks, &list[n], sizeof list[0]) == (ssize_t)sizeof list[0]);
        n++;
        struct timespec wait = {0, (long)(kit_random(&random) % 25000000)};
        nanosleep(&wait, NULL);
        REQUIRE(kill(child, SIGKILL) == 0);
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        while (n < 512 && read(acks, &list[n], sizeof list[0]) == (ssize_t)sizeof list[0])
            n++;
        close(acks);
        REQUIRE(kit_reopen(&k));
        KIT_CLEAN(&k);
        for (size_t i = 0; i < n; i++) {
            uint8_t key[TARNP_KEY_BYTES];
            uint64_t node;
            kit_key(key, list[i].seed);
            CHECK_STATUS(tarnp_commit_find(k.store, key, &node, &k.err), TARN_OK);
            CHECK_EQ(node, list[i].node);
            kit_check_node(&k, list[i].node, list[i].seed);
        }
        n_acks += n;
        CHECK(kit_head(&k, "main") >= list[n - 1].node);
        if (round % 30 == 0) { /* keep the chain short */
            uint64_t head = kit_head(&k, "main");
            /* the child may have died between removing its branch and forking the next */
            tarn_status gone = tarnp_session_remove(k.store, "branch", &k.err);
            CHECK(gone == TARN_OK || gone == TARN_E_NOT_FOUND);
            CHECK_STATUS(tarnp_session_remove(k.store, "main", &k.err), TARN_OK);
            CHECK_EQ(kit_stat(&k).bytes_stored, 0);
            CHECK(head > 0 && kit_create(&k, "main") > head);
            kit_fork(&k, kit_head(&k, "main"), "branch");
        }
        tarnp_store_close(k.store);
        k.store = NULL;
    }
    printf("    %d rounds, %llu acknowledged commits\n", ROUNDS, (unsigned long long)n_acks);
    kit_end(&k);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {ENTRY(killed_at_any_moment)};
    if (argc == 4 && strcmp(argv[1], "--child") == 0)
        return child_main(argv[2], argv[3]);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
