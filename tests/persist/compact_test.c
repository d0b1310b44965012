/* A store after compacting: the same in less, and never while anybody has it open. */
#include "compact.h"
#include "store_kit.h"

#include "handle.h"

#include <sys/wait.h>

/* Twenty sessions, of which two are left: most of the file is free. */
static bool begin(kit *k)
{
    char name[20];
    if (!kit_begin(k))
        return false;
    kit_floats = 4096;
    for (uint64_t i = 1; i <= 20; i++) {
        snprintf(name, sizeof name, "s%d", (int)i);
        kit_create(k, name);
        kit_append(k, name, i);
    }
    for (uint64_t i = 3; i <= 20; i++) {
        snprintf(name, sizeof name, "s%d", (int)i);
        CHECK_STATUS(tarnp_session_remove(k->store, name, &k->err), TARN_OK);
    }
    kit_floats = 4096;
    return true;
}

static void close_store(kit *k)
{
    tarnp_store_close(k->store);
    k->store = NULL;
}

static void end(kit *k)
{
    kit_floats = 256;
    kit_end(k);
}

CASE(smaller_and_the_same)
{
    kit k;
    uint64_t before, after;
    REQUIRE(begin(&k));
    tarnp_stat was = kit_stat(&k);
    close_store(&k);
    REQUIRE_OK(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err), &k.err);
    CHECK_EQ(before, was.file_bytes);
    CHECK(after < before / 4);
    REQUIRE(kit_reopen(&k));
    tarnp_stat now = kit_stat(&k);
    CHECK_EQ(now.file_bytes, after);
    CHECK_EQ(now.nodes, was.nodes);
    CHECK_EQ(now.bytes_stored, was.bytes_stored);
    kit_check_node(&k, kit_head(&k, "s1"), 1);
    kit_check_node(&k, kit_head(&k, "s2"), 2);
    KIT_CLEAN(&k);
    /* It is written and compacted again, and ids go on. */
    for (uint64_t i = 30; i < 40; i++)
        CHECK(kit_append(&k, "s1", i) > was.nodes);
    KIT_CLEAN(&k);
    REQUIRE(kit_reopen(&k));
    KIT_CLEAN(&k);
    close_store(&k);
    REQUIRE_OK(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err), &k.err);
    REQUIRE(kit_reopen(&k));
    KIT_CLEAN(&k);
    kit_check_node(&k, kit_head(&k, "s1"), 39);
    end(&k);
}

/* Another process has it open: it goes on working, and so does the store after it. */
CASE(while_others_have_it_open)
{
    kit k;
    uint64_t before, after;
    int to_child[2], to_parent[2];
    char c = 0;
    REQUIRE(begin(&k));
    CHECK_STATUS(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err), TARN_E_BUSY);
    CHECK_EQ(before, 0);
    close_store(&k);
    REQUIRE(pipe(to_child) == 0 && pipe(to_parent) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        bool ok = tarnp_store_open(k.path, &k.options, &k.store, &k.err) == TARN_OK;
        ok = write(to_parent[1], "x", 1) == 1 && read(to_child[0], &c, 1) == 1 && ok;
        kit_append(&k, "s1", 50);
        tarnp_store_close(k.store);
        exit(ok && check_failures == 0 ? 0 : 1);
    }
    CHECK(read(to_parent[0], &c, 1) == 1);
    CHECK_STATUS(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err), TARN_E_BUSY);
    CHECK_HAS(k.err.detail, "another process");
    CHECK(write(to_child[1], "x", 1) == 1);
    int result = 1;
    waitpid(child, &result, 0);
    CHECK_EQ(result, 0);
    REQUIRE_OK(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err), &k.err);
    REQUIRE(kit_reopen(&k));
    kit_check_node(&k, kit_head(&k, "s1"), 50);
    KIT_CLEAN(&k);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(to_parent[i]);
    }
    end(&k);
}

typedef struct opening {
    const char *path;
    int calls;
} opening;

/* While it runs nobody gets in. */
static bool try_open(void *user, uint64_t done, uint64_t all)
{
    opening *o = user;
    tarnp_store *store;
    tarn_error err;
    (void)done, (void)all;
    if (o->calls++ == 0) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            exit(tarnp_store_open(o->path, NULL, &store, &err) == TARN_E_BUSY ? 0 : 1);
        int result = 1;
        waitpid(child, &result, 0);
        CHECK_EQ(result, 0);
    }
    return o->calls < 2;
}

CASE(cancelled_and_left_over)
{
    kit k;
    uint64_t before, after;
    char folder[240], file[280];
    REQUIRE(begin(&k));
    tarnp_stat was = kit_stat(&k);
    close_store(&k);
    opening o = {k.path, 0};
    CHECK_STATUS(tarnp_compact(k.path, NULL, try_open, &o, &before, &after, &k.err),
                 TARN_E_CANCELLED);
    CHECK(o.calls > 0);
    REQUIRE(kit_reopen(&k));
    CHECK_EQ(kit_stat(&k).file_bytes, was.file_bytes);
    KIT_CLEAN(&k);
    close_store(&k);
    /* What a killed one left is in nobody's way. */
    snprintf(folder, sizeof folder, "%s.compact", k.path);
    snprintf(file, sizeof file, "%s/data.mdb", folder);
    CHECK(mkdir(folder, 0700) == 0);
    FILE *f = fopen(file, "wb");
    fputs("half", f);
    fclose(f);
    REQUIRE_OK(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err), &k.err);
    CHECK(access(folder, F_OK) != 0);
    REQUIRE(kit_reopen(&k));
    KIT_CLEAN(&k);
    end(&k);
}

CASE(damage_stays_where_it_is)
{
    kit k;
    uint64_t before, after;
    tarnp_write w;
    REQUIRE(begin(&k));
    uint64_t size = kit_stat(&k).file_bytes;
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    CHECK_STATUS(tarnp_put_id(&w.txn, TARNP_TABLE_CHUNK, 2, "x", 1, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_write_commit(&w, NULL, &k.err), TARN_OK);
    close_store(&k);
    CHECK_STATUS(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err), TARN_E_CORRUPT);
    CHECK_HAS(k.err.detail, "damages");
    REQUIRE(kit_reopen(&k));
    CHECK(kit_stat(&k).file_bytes >= size);
    kit_check_node(&k, kit_head(&k, "s2"), 2);
    close_store(&k);
    CHECK_STATUS(tarnp_compact("/nonexistent/x", NULL, NULL, NULL, &before, &after, &k.err),
                 TARN_E_NOT_FOUND);
    end(&k);
}

CHECK_MAIN(ENTRY(smaller_and_the_same), ENTRY(while_others_have_it_open),
           ENTRY(cancelled_and_left_over), ENTRY(damage_stays_where_it_is))
