/* Making a store, and being killed in the middle of it. Functions in front of the C library's end
 * the process, or make it wait, where it has made a folder, before it renames it, and after. */
#include "store_kit.h"

#include <dirent.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define IN_FRONT __attribute__((visibility("default")))

typedef enum point { NOWHERE, BEFORE_LOCK, AFTER_LOCK, BEFORE_RENAME, AFTER_RENAME, POINTS } point;

static point kill_at, wait_at;
static int told[2], go[2]; /* pipes: the child is there; it may go on */
static void (*on_flock)(void);

static void reach(point here)
{
    char byte = 0;
    if (kill_at == here)
        kill(getpid(), SIGKILL);
    if (wait_at == here && (write(told[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1))
        _exit(9);
}

IN_FRONT int flock(int fd, int how)
{
    if (on_flock)
        on_flock();
    reach(BEFORE_LOCK);
    int result = (int)syscall(SYS_flock, fd, how);
    reach(AFTER_LOCK);
    return result;
}

IN_FRONT int rename(const char *from, const char *to)
{
    reach(BEFORE_RENAME);
    int result = (int)syscall(SYS_rename, from, to);
    reach(AFTER_RENAME);
    return result;
}

/* Of the folder's entries those whose name goes on behind "store". */
static int count_others(const kit *k, char found[300])
{
    int n = 0;
    DIR *all = opendir(k->folder);
    for (const struct dirent *e = readdir(all); e; e = readdir(all)) {
        if (strncmp(e->d_name, "store", 5) != 0 || !e->d_name[5])
            continue;
        snprintf(found, 300, "%s/%.60s", k->folder, e->d_name);
        n++;
    }
    closedir(all);
    return n;
}

/* Makes the store in a child. */
static pid_t make_in_child(kit *k, point killed, point waits)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        kill_at = killed;
        wait_at = waits;
        bool good = tarnp_store_open(k->path, &k->options, &k->store, &k->err) == TARN_OK;
        tarnp_store_close(k->store);
        _exit(good ? 0 : 1);
    }
    return child;
}

static int end_of(pid_t child)
{
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    return status;
}

static bool killed(int status)
{
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void kill_everywhere(tarnp_durability durability)
{
    for (point at = BEFORE_LOCK; at < POINTS; at++) {
        kit k;
        char found[300];
        kit_folder(&k);
        k.options.durability = durability;
        CHECK(killed(end_of(make_in_child(&k, at, NOWHERE))));
        CHECK_EQ(count_others(&k, found), at < AFTER_RENAME);
        CHECK(killed(end_of(make_in_child(&k, at < AFTER_RENAME ? BEFORE_RENAME : at, NOWHERE))) ||
              at == AFTER_RENAME);
        CHECK_EQ(count_others(&k, found), at < AFTER_RENAME); /* of the second */
        REQUIRE(kit_reopen(&k));
        CHECK_EQ(count_others(&k, found), 0);
        KIT_CLEAN(&k);
        kit_end(&k);
    }
}

CASE(killed_while_it_is_made)
{
    kill_everywhere(TARNP_DURABLE);
}

CASE(killed_while_a_scratch_store_is_made)
{
    kill_everywhere(TARNP_SCRATCH);
}

/* Made empty again, a scratch store is made anew beside itself. */
CASE(killed_while_it_is_made_empty)
{
    kit k;
    char found[300];
    kit_folder(&k);
    k.options.durability = TARNP_SCRATCH;
    REQUIRE(kit_reopen(&k));
    kit_create(&k, "main");
    char clean[260];
    tarnp_store_close(k.store);
    k.store = NULL;
    kit_file(&k, "clean", clean);
    CHECK_EQ(unlink(clean), 0);
    CHECK(killed(end_of(make_in_child(&k, BEFORE_RENAME, NOWHERE))));
    CHECK_EQ(count_others(&k, found), 1);
    k.options.create = false; /* which does not look for such, but to make it empty does */
    REQUIRE(kit_reopen(&k));
    CHECK_EQ(count_others(&k, found), 0);
    CHECK_EQ(kit_stat(&k).sessions, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* While somebody is at work in it nobody removes it; who comes second uses what the first made. */
CASE(one_that_is_being_made_stays)
{
    for (point at = AFTER_LOCK; at <= BEFORE_RENAME; at += BEFORE_RENAME - AFTER_LOCK) {
        kit k;
        char found[300], byte = 0;
        kit_folder(&k);
        CHECK_EQ(pipe(told) + pipe(go), 0);
        pid_t child = make_in_child(&k, NOWHERE, at);
        CHECK_EQ(read(told[0], &byte, 1), 1);
        CHECK_EQ(count_others(&k, found), 1);
        REQUIRE(kit_reopen(&k));
        kit_create(&k, "ours");
        CHECK_EQ(count_others(&k, found), 1);
        for (int i = 0; i < 8; i++) /* it comes by more than once */
            CHECK_EQ(write(go[1], &byte, 1), 1);
        CHECK_EQ(end_of(child), 0);
        CHECK_EQ(count_others(&k, found), 0);
        CHECK_EQ(kit_stat(&k).sessions, 1);
        KIT_CLEAN(&k);
        kit_end(&k);
        for (int i = 0; i < 2; i++)
            close(told[i]), close(go[i]);
    }
}

static kit *swept;
static int n_swept;

/* Between a folder's making and its lock another process comes and finds it: twice. */
static void sweep_meanwhile(void)
{
    char found[300];
    if (n_swept < 2 && count_others(swept, found) > 0) {
        n_swept++;
        CHECK_EQ(rmdir(found), 0);
    }
}

CASE(found_before_it_is_locked)
{
    kit k;
    char found[300];
    kit_folder(&k);
    swept = &k;
    on_flock = sweep_meanwhile;
    REQUIRE(kit_reopen(&k));
    on_flock = NULL;
    CHECK_EQ(n_swept, 2);
    CHECK_EQ(count_others(&k, found), 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* Only what has a draft's name, and only a store's own files. */
CASE(what_is_not_ours_stays)
{
    static const char *const others[] = {"storehouse",
                                         "store.being-made-",
                                         "store.being-made-a",
                                         "store.being-made-1234567",
                                         "store2.being-made-123456",
                                         "store.backup"};
    kit k;
    char path[300], found[300];
    kit_folder(&k);
    for (size_t i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/%s", k.folder, others[i]);
        CHECK_EQ(mkdir(path, 0700), 0);
    }
    snprintf(path, sizeof path, "%s/store.being-made-123456", k.folder);
    CHECK_EQ(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/store.being-made-123456/notes", k.folder);
    FILE *notes = fopen(path, "w");
    CHECK(notes && fclose(notes) == 0);
    REQUIRE(kit_reopen(&k));
    CHECK_EQ(count_others(&k, found), 7);
    CHECK_EQ(unlink(path), 0);
    REQUIRE(kit_reopen(&k));
    CHECK_EQ(count_others(&k, found), 6);
    for (size_t i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/%s", k.folder, others[i]);
        CHECK_EQ(rmdir(path), 0);
    }
    kit_end(&k);
}

CHECK_MAIN(ENTRY(killed_while_it_is_made), ENTRY(killed_while_a_scratch_store_is_made),
           ENTRY(killed_while_it_is_made_empty), ENTRY(one_that_is_being_made_stays),
           ENTRY(found_before_it_is_locked), ENTRY(what_is_not_ours_stays))
