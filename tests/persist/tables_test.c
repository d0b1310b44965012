/* The environment beneath the store: what LMDB's errors become, maps that another process has made
 * larger, little address space, and environments that are no store. */
#include "environment.h"

#include "sanitized.h"
#include "store_kit.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>

CASE(errors)
{
    static const struct {
        int rc;
        tarn_status want;
    } list[] = {{MDB_MAP_FULL, TARN_E_NO_SPACE},
                {ENOSPC, TARN_E_NO_SPACE},
                {EDQUOT, TARN_E_NO_SPACE},
                {ENOMEM, TARN_E_NO_MEMORY},
                {MDB_READERS_FULL, TARN_E_BUSY},
                {MDB_PANIC, TARN_E_POISONED},
                {MDB_INVALID, TARN_E_FORMAT},
                {MDB_VERSION_MISMATCH, TARN_E_FORMAT},
                {EIO, TARN_E_IO},
                {EACCES, TARN_E_IO},
                {MDB_CORRUPTED, TARN_E_CORRUPT},
                {MDB_PAGE_NOTFOUND, TARN_E_CORRUPT},
                {MDB_BAD_VALSIZE, TARN_E_CORRUPT}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        tarn_error err = {0};
        CHECK_STATUS(tarnp_fail_lmdb(&err, list[i].rc, "here"), list[i].want);
        CHECK_STATUS(err.status, list[i].want);
        CHECK_HAS(err.detail, "here: ");
    }
}

/* In a child: appends so much that its file is larger than a map of 1 MiB. */
static int grow(kit *k)
{
    k->options.map_bytes = (size_t)1 << 28;
    kit_floats = 8192;
    bool good = tarnp_store_open(k->path, &k->options, &k->store, &k->err) == TARN_OK;
    for (uint64_t seed = 10; good && seed < 22; seed++)
        good = kit_append(k, "main", seed) != 0;
    tarnp_store_close(k->store);
    return good ? 0 : 1;
}

CASE(another_process_has_a_larger_map)
{
    for (int writes = 0; writes < 2; writes++) {
        kit k;
        int go[2], status = -1;
        char byte = 0;
        kit_folder(&k);
        k.options.map_bytes = (size_t)1 << 20;
        REQUIRE(kit_reopen(&k));
        kit_create(&k, "main");
        tarnp_store_close(k.store);
        k.store = NULL;
        REQUIRE(pipe(go) == 0);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            exit(read(go[0], &byte, 1) == 1 ? grow(&k) : 1);
        REQUIRE(kit_reopen(&k)); /* with the small map */
        CHECK_EQ(write(go[1], &byte, 1), 1);
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        CHECK(kit_stat(&k).file_bytes > (uint64_t)1 << 20);
        if (writes)
            CHECK(kit_append(&k, "main", 1) != 0);
        CHECK_EQ(kit_stat(&k).nodes, 13 + (uint64_t)writes);
        CHECK(kit_stat(&k).map_bytes > (uint64_t)1 << 20);
        KIT_CLEAN(&k);
        kit_end(&k);
        close(go[0]);
        close(go[1]);
    }
}

/* In a child with so much address space: the default map is halved until it fits, if 1 GiB does. */
static int open_within(kit *k, rlim_t n_bytes)
{
    const struct rlimit limit = {n_bytes, n_bytes};
    k->options.map_bytes = 0;
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        return 2;
    tarn_status status = tarnp_store_open(k->path, &k->options, &k->store, &k->err);
    tarnp_stat stat = {0};
    if (status == TARN_OK)
        status = tarnp_store_stat(k->store, &stat, &k->err);
    tarnp_store_close(k->store);
    if (status == TARN_E_NO_MEMORY)
        return 3;
    return status == TARN_OK && stat.map_bytes >= (uint64_t)1 << 30 &&
                   stat.map_bytes < (uint64_t)1 << 40
               ? 0
               : 1;
}

CASE(little_address_space)
{
    if (SANITIZED)
        SKIP("a sanitizer has taken the address space");
    static const struct {
        rlim_t n_bytes;
        int want;
    } list[] = {{(rlim_t)5 << 30, 0}, {(rlim_t)700 << 20, 3}};
    kit k;
    REQUIRE(kit_begin(&k));
    tarnp_store_close(k.store);
    k.store = NULL;
    for (size_t i = 0; i < 2; i++) {
        int status = -1;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            exit(open_within(&k, list[i].n_bytes));
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(WEXITSTATUS(status), list[i].want);
    }
    kit_end(&k);
}

/* An environment of LMDB's with other tables, or with none. */
CASE(no_store_of_ours)
{
    kit k;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    kit_folder(&k);
    REQUIRE(mkdir(k.path, 0700) == 0);
    REQUIRE(mdb_env_create(&env) == 0 && mdb_env_set_maxdbs(env, 4) == 0 &&
            mdb_env_open(env, k.path, 0, 0600) == 0);
    REQUIRE(mdb_txn_begin(env, NULL, 0, &txn) == 0 &&
            mdb_dbi_open(txn, "others", MDB_CREATE, &dbi) == 0 && mdb_txn_commit(txn) == 0);
    mdb_env_close(env);
    CHECK_STATUS(tarnp_store_open(k.path, &k.options, &k.store, &k.err), TARN_E_FORMAT);
    CHECK_HAS(k.err.detail, "not a tarn store");
    kit_end(&k);
}

CASE(paths_and_options)
{
    kit k;
    kit_folder(&k);
    char *path = malloc(5000);
    memset(path, 'x', 4999);
    path[4999] = 0;
    CHECK_STATUS(tarnp_store_open(path, &k.options, &k.store, &k.err), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "4999 bytes");
    CHECK_STATUS(tarnp_store_open("", &k.options, &k.store, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_store_open(NULL, &k.options, &k.store, &k.err), TARN_E_INVALID);
    k.options.durability = (tarnp_durability)77;
    CHECK_STATUS(tarnp_store_open(k.path, &k.options, &k.store, &k.err), TARN_E_INVALID);
    k.options.durability = (tarnp_durability)((int)TARNP_DURABLE - 1);
    CHECK_STATUS(tarnp_store_open(k.path, &k.options, &k.store, &k.err), TARN_E_INVALID);
    k.options.durability = TARNP_DURABLE;
    tarnp_store_close(NULL);
    /* Beside the working folder, and with slashes behind. */
    char *from = getcwd(NULL, 0);
    REQUIRE(from && chdir(k.folder) == 0);
    REQUIRE_OK(tarnp_store_open("store///", &k.options, &k.store, &k.err), &k.err);
    KIT_CLEAN(&k);
    CHECK_EQ(chdir(from), 0);
    free(from);
    free(path);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(errors), ENTRY(another_process_has_a_larger_map), ENTRY(little_address_space),
           ENTRY(no_store_of_ours), ENTRY(paths_and_options))
