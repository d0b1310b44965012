/* Leases: one writer a session, dead holders, two processes. */
#include "lease.h"
#include "store_kit.h"

#include <signal.h>
#include <sys/wait.h>

#define LONG_MS 3600000

static const uint8_t nobody[TARNP_TOKEN_BYTES];

/* Commits the node of `seed` on the head, as the holder of `token`. */
static tarn_status commit_as(kit *k, const char *name, uint64_t seed, const uint8_t *token,
                             tarnp_committed *out)
{
    tarnp_commit c = {.session_id = kit_id(k, name),
                      .expected_head = kit_head(k, name),
                      .move_head = true,
                      .parent = kit_head(k, name)};
    kit_key(c.key, seed);
    memcpy(c.fp, kit_fp, sizeof kit_fp);
    memcpy(c.lease, token, sizeof c.lease);
    return tarnp_commit_node(k->store, &c, out, &k->err);
}

/* Writes a lease as another process would have. */
static void plant(kit *k, uint64_t session_id, const tarnp_process *holder, uint64_t taken_ms,
                  uint64_t ends_ms)
{
    tarnp_write w;
    tarnp_lease_record r = {.holder = *holder};
    r.lease = (tarnp_lease){.session_id = session_id,
                            .token = {9, 9},
                            .host = "elsewhere",
                            .note = "nightly",
                            .pid = holder->pid,
                            .taken_ms = taken_ms,
                            .ends_ms = ends_ms};
    CHECK_STATUS(tarnp_write_begin(k->store, &w, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_lease_put(&w.txn, &r, &k->store->allocator, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_write_commit(&w, NULL, &k->err), TARN_OK);
}

/* Everything that changes a session, by one who holds nothing; all must give `want`. */
static void try_everything(kit *k, const char *name, uint64_t older, tarn_status want)
{
    uint64_t id = kit_id(k, name), head = kit_head(k, name);
    tarnp_committed made;
    tarnp_lease lease;
    CHECK_STATUS(tarnp_lease_take(k->store, id, LONG_MS, NULL, &lease, &k->err), want);
    CHECK(want != TARN_OK || tarnp_lease_release(k->store, &lease, &k->err) == TARN_OK);
    CHECK_STATUS(commit_as(k, name, 77, nobody, &made), want);
    if (want == TARN_OK)
        head = made.node;
    CHECK_STATUS(tarnp_session_move(k->store, id, head, older, NULL, &k->err), want);
    CHECK_STATUS(tarnp_session_rename(k->store, name, "renamed", &k->err), want);
    CHECK_STATUS(tarnp_session_remove(k->store, want == TARN_OK ? "renamed" : name, &k->err), want);
}

CASE(only_the_holder_changes_a_session)
{
    kit k;
    tarnp_lease lease, again;
    tarnp_committed made;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "a"), first = kit_append(&k, "a", 1);
    uint64_t id = kit_id(&k, "a");
    kit_create(&k, "b");
    CHECK_STATUS(tarnp_lease_find(k.store, id, &lease, &k.err), TARN_E_NOT_FOUND);
    REQUIRE_OK(tarnp_lease_take(k.store, id, LONG_MS, "the engine", &lease, &k.err), &k.err);
    CHECK_EQ(lease.pid, getpid());
    CHECK(lease.ends_ms == lease.taken_ms + LONG_MS && lease.host[0] != 0);
    tarnp_stat before = kit_stat(&k);
    try_everything(&k, "a", root, TARN_E_BUSY);
    CHECK_HAS(k.err.detail, "session a is open for writing in this process");
    CHECK_HAS(k.err.detail, "the engine");
    tarnp_stat after = kit_stat(&k);
    CHECK_EQ(after.bytes_written, before.bytes_written); /* nothing was changed */
    CHECK_EQ(kit_head(&k, "a"), first);
    /* The holder may, by its token. Others may read, fork, and put a node aside. */
    CHECK_STATUS(commit_as(&k, "a", 2, lease.token, &made), TARN_OK);
    CHECK_STATUS(
        tarnp_session_move_leased(k.store, id, lease.token, made.node, first, NULL, &k.err),
        TARN_OK);
    CHECK(kit_fork(&k, first, "fork"));
    CHECK_STATUS(kit_commit(k.store, id, TARNP_NODE_NONE, first, 3, false, &made, &k.err), TARN_OK);
    CHECK_STATUS(kit_commit(k.store, id, TARNP_NODE_NONE, first, 4, true, &made, &k.err),
                 TARN_E_INVALID);
    CHECK_STATUS(kit_commit(k.store, id, first, first, 5, false, &made, &k.err), TARN_E_BUSY);
    CHECK_STATUS(commit_as(&k, "b", 6, nobody, &made), TARN_OK); /* another session */
    CHECK_STATUS(tarnp_lease_find(k.store, id, &again, &k.err), TARN_OK);
    CHECK_TEXT(again.note, "the engine");
    KIT_CLEAN(&k);
    CHECK_STATUS(tarnp_lease_release(k.store, &lease, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_lease_release(k.store, &lease, &k.err), TARN_OK); /* gone already */
    try_everything(&k, "a", root, TARN_OK);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(renewing)
{
    kit k;
    tarnp_lease lease, other, old;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    uint64_t id = kit_id(&k, "a");
    CHECK_STATUS(tarnp_lease_take(k.store, id, 0, NULL, &lease, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_lease_take(k.store, 99, 1000, NULL, &lease, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_lease_renew(k.store, &lease, 1000, &k.err), TARN_E_INVALID);
    REQUIRE_OK(tarnp_lease_take(k.store, id, 1000, NULL, &lease, &k.err), &k.err);
    old = lease;
    CHECK_STATUS(tarnp_lease_renew(k.store, &lease, 0, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_lease_renew(k.store, &lease, LONG_MS, &k.err), TARN_OK);
    CHECK(lease.ends_ms >= old.ends_ms + LONG_MS - 1000);
    CHECK_BYTES(lease.token, old.token, sizeof old.token);
    /* Given up, then taken by another: the old token is worth nothing. */
    CHECK_STATUS(tarnp_lease_release(k.store, &lease, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_lease_renew(k.store, &lease, LONG_MS, &k.err), TARN_OK); /* nobody had it */
    CHECK_STATUS(tarnp_lease_release(k.store, &lease, &k.err), TARN_OK);
    REQUIRE_OK(tarnp_lease_take(k.store, id, LONG_MS, NULL, &other, &k.err), &k.err);
    old = lease;
    CHECK_STATUS(tarnp_lease_renew(k.store, &lease, LONG_MS, &k.err), TARN_E_BUSY);
    CHECK_BYTES(&lease, &old, sizeof old);
    CHECK_STATUS(tarnp_lease_release(k.store, &lease, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_lease_find(k.store, id, &old, &k.err), TARN_OK); /* the other's stays */
    CHECK_BYTES(old.token, other.token, sizeof old.token);
    kit_end(&k);
}

CASE(a_lease_ends)
{
    kit k;
    tarnp_lease lease;
    tarnp_process self;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "a"), id = kit_id(&k, "a"), now = tarnp_now_ms();
    tarnp_process_self(&self);
    CHECK(self.started > 0 && self.pid_space > 0);
    tarnp_process far = self; /* another boot: whether it lives cannot be known */
    far.boot[3] ^= 1;
    far.pid = 4711;
    plant(&k, id, &far, now, now + LONG_MS);
    try_everything(&k, "a", root, TARN_E_BUSY);
    CHECK_HAS(k.err.detail, "held by process 4711 on host elsewhere, nightly; the lease ends in 3");
    KIT_CLEAN(&k);
    tarnp_process container = self;
    container.pid_space++;
    container.pid = 4711;
    plant(&k, id, &container, now, now + LONG_MS);
    CHECK_STATUS(tarnp_lease_take(k.store, id, 1, NULL, &lease, &k.err), TARN_E_BUSY);
    plant(&k, id, &far, now - 2000, now - 1000);
    CHECK_STATUS(tarnp_lease_find(k.store, id, &lease, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), TARN_OK);
    /* Taken in the future, and of no length: clocks that were put back, not leases. */
    plant(&k, id, &far, now + 10 * (uint64_t)LONG_MS, now + 11 * (uint64_t)LONG_MS);
    CHECK_STATUS(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), TARN_OK);
    plant(&k, id, &far, now + LONG_MS, now + 1000);
    CHECK_STATUS(tarnp_lease_take(k.store, id, 5, NULL, &lease, &k.err), TARN_OK);
    /* Ours, by the real clock: it binds, then it does not. */
    tarnp_lease next;
    tarn_status status;
    do {
        status = tarnp_lease_take(k.store, id, LONG_MS, NULL, &next, &k.err);
    } while (status == TARN_E_BUSY && tarnp_now_ms() < lease.ends_ms + 60000);
    CHECK_STATUS(status, TARN_OK);
    CHECK(next.taken_ms >= lease.ends_ms);
    kit_end(&k);
}

CASE(dead_holders)
{
    kit k;
    tarnp_lease lease;
    tarnp_process self, dead;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    uint64_t id = kit_id(&k, "a"), now = tarnp_now_ms();
    tarnp_process_self(&self);
    CHECK(tarnp_process_may_run(&self, &self));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    dead = self;
    dead.pid = (uint32_t)child;
    dead.started = 0; /* only the process id says it */
    siginfo_t info;
    REQUIRE(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
    tarnp_process zombie = dead;
    zombie.started = self.started;
    CHECK(!tarnp_process_may_run(&zombie, &self)); /* dead, but nobody has waited for it */
    REQUIRE(waitpid(child, NULL, 0) == child);
    CHECK(!tarnp_process_may_run(&dead, &self));
    plant(&k, id, &dead, now, now + LONG_MS);
    CHECK_STATUS(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), TARN_OK);
    tarnp_process reused = self; /* the process id lives, as another process */
    reused.pid = (uint32_t)getppid();
    reused.started = 1;
    plant(&k, id, &reused, now, now + LONG_MS);
    CHECK_STATUS(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), TARN_OK);
    reused.pid = self.pid;
    plant(&k, id, &reused, now, now + LONG_MS);
    CHECK_STATUS(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), TARN_OK);
    reused.boot[0] ^= 1;
    reused.pid = (uint32_t)child; /* of another boot: may run for all we know */
    plant(&k, id, &reused, now, now + LONG_MS);
    CHECK_STATUS(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), TARN_E_BUSY);
    plant(&k, id, &self, now, now + LONG_MS); /* this process, a handle that is no more */
    CHECK_STATUS(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), TARN_OK);
    REQUIRE(kit_reopen(&k)); /* without a release */
    CHECK_STATUS(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), TARN_OK);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* A lease that cannot be read must not lock a session for ever; verify names it. */
CASE(damaged_leases)
{
    kit k;
    tarnp_write w;
    tarnp_lease lease;
    tarnp_lease_record r;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    uint64_t id = kit_id(&k, "a");
    REQUIRE_OK(tarnp_lease_take(k.store, id, LONG_MS, "n", &lease, &k.err), &k.err);
    tarnp_txn txn;
    tarnp_span value;
    uint8_t bytes[300] = {0};
    REQUIRE_OK(tarnp_read_begin(k.store, &txn, &k.err), &k.err);
    REQUIRE_OK(tarnp_get_id(&txn, TARNP_TABLE_LEASE, id, &value, &k.err), &k.err);
    size_t n = value.n_bytes;
    memcpy(bytes, value.data, n);
    tarnp_txn_abort(&txn);
    for (size_t i = 0; i < n; i++)
        CHECK(tarnp_lease_decode((tarnp_span){bytes, i}, id, &r, &k.err) != TARN_OK);
    CHECK_STATUS(tarnp_lease_decode((tarnp_span){bytes, n + 1}, id, &r, &k.err), TARN_E_CORRUPT);
    CHECK_STATUS(tarnp_lease_decode((tarnp_span){bytes, n}, id, &r, &k.err), TARN_OK);
    bytes[72] = 200; /* the host's length */
    CHECK_STATUS(tarnp_lease_decode((tarnp_span){bytes, sizeof bytes}, id, &r, &k.err),
                 TARN_E_CORRUPT);
    bytes[0] = 2;
    CHECK_STATUS(tarnp_lease_decode((tarnp_span){bytes, n}, id, &r, &k.err), TARN_E_FORMAT);
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    CHECK_STATUS(tarnp_put_id(&w.txn, TARNP_TABLE_LEASE, id, "\1", 2, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_put_id(&w.txn, TARNP_TABLE_LEASE, 5000, bytes, n, &k.err), TARN_OK);
    REQUIRE_OK(tarnp_write_commit(&w, NULL, &k.err), &k.err);
    CHECK_EQ(kit_verify(&k, true), 2);
    CHECK_STATUS(tarnp_lease_find(k.store, id, &lease, &k.err), TARN_E_CORRUPT);
    CHECK_STATUS(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), TARN_OK);
    CHECK_EQ(kit_verify(&k, true), 1);
    kit_end(&k);
}

/* A note is cut at a character. */
CASE(labels)
{
    kit k;
    tarnp_lease lease;
    char note[100];
    memset(note, 'x', sizeof note);
    memcpy(note + TARNP_NOTE_BYTES - 3, "\xE2\x82\xAC", 3); /* its last byte has no room */
    note[99] = 0;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    CHECK_STATUS(tarnp_lease_take(k.store, kit_id(&k, "a"), LONG_MS, note, &lease, &k.err),
                 TARN_OK);
    CHECK_EQ(strlen(lease.note), TARNP_NOTE_BYTES - 3);
    kit_end(&k);
}

/* ---- two processes -------------------------------------------------------------------------- */

static pid_t start_child(const char *path, const char *what, int *out)
{
    int ends[2];
    char self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0 || pipe(ends) != 0)
        return -1;
    self[n] = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(self, self, "--child", path, what, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *out = ends[0];
    return child;
}

/* Holds "a" and commits to it until it is killed; a byte after each commit. */
static int child_main(const char *path, const char *what)
{
    kit k = {0};
    tarnp_lease lease;
    tarnp_committed made;
    snprintf(k.path, sizeof k.path, "%s", path);
    k.options.map_bytes = (size_t)1 << 30;
    if (!kit_reopen(&k) ||
        tarnp_lease_take(k.store, kit_id(&k, "a"), LONG_MS, what, &lease, &k.err) != TARN_OK)
        return 1;
    for (uint64_t seed = 1000;; seed++)
        if (commit_as(&k, "a", seed, lease.token, &made) != TARN_OK || write(1, "", 1) != 1)
            return 1;
}

CASE(one_writes_another_lists_and_forks) /* F3 */
{
    kit k;
    char byte, holder[64], name[32];
    int out = -1;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "a");
    uint64_t id = kit_id(&k, "a"), root = kit_head(&k, "a");
    pid_t child = start_child(k.path, "child", &out);
    REQUIRE(child > 0 && read(out, &byte, 1) == 1);
    uint64_t before = kit_head(&k, "a"), head = before;
    for (int i = 0; i < 20 || head == before; i++) {
        tarnp_session *list;
        size_t n;
        REQUIRE_OK(tarnp_session_list(k.store, &list, &n, &k.err), &k.err);
        CHECK_EQ(n, i + 1);
        tarnp_sessions_free(list, n);
        head = kit_head(&k, "a");
        snprintf(name, sizeof name, "fork %d", i);
        CHECK(kit_fork(&k, head, name));
    }
    CHECK(head > before); /* it went on writing */
    try_everything(&k, "a", root, TARN_E_BUSY);
    snprintf(holder, sizeof holder, "session a is held by process %ld on host ", (long)child);
    CHECK_HAS(k.err.detail, holder);
    CHECK_HAS(k.err.detail, ", child; the lease ends in 3");
    REQUIRE(kill(child, SIGKILL) == 0);
    close(out);
    siginfo_t info;
    tarnp_lease lease;
    REQUIRE(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0); /* dead, not yet buried */
    REQUIRE_OK(tarnp_lease_take(k.store, id, LONG_MS, NULL, &lease, &k.err), &k.err); /* at once */
    CHECK(waitpid(child, NULL, 0) == child);
    tarnp_committed made;
    CHECK_STATUS(commit_as(&k, "a", 5, lease.token, &made), TARN_OK);
    KIT_CLEAN(&k);
    kit_end(&k);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {ENTRY(only_the_holder_changes_a_session),
                                       ENTRY(renewing),
                                       ENTRY(a_lease_ends),
                                       ENTRY(dead_holders),
                                       ENTRY(damaged_leases),
                                       ENTRY(labels),
                                       ENTRY(one_writes_another_lists_and_forks)};
    if (argc == 4 && strcmp(argv[1], "--child") == 0)
        return child_main(argv[2], argv[3]);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
