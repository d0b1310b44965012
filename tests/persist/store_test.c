/* Opening: what is a store, what is not, and who may have it open. */
#include "datafile.h"
#include "store_kit.h"

#include "handle.h"

#include <fcntl.h>
#include <sys/wait.h>

static tarn_status try_open(kit *k, bool create)
{
    tarnp_options options = k->options;
    options.create = create;
    tarnp_store_close(k->store);
    k->store = NULL;
    return tarnp_store_open(k->path, &options, &k->store, &k->err);
}

CASE(made_only_when_asked)
{
    kit k;
    kit_folder(&k);
    CHECK_STATUS(try_open(&k, false), TARN_E_NOT_FOUND);
    CHECK_HAS(k.err.detail, k.path);
    REQUIRE_OK(try_open(&k, true), &k.err);
    struct stat info;
    char file[260];
    CHECK(stat(k.path, &info) == 0 && (info.st_mode & 0777) == 0700);
    kit_file(&k, "data.mdb", file);
    CHECK(stat(file, &info) == 0 && (info.st_mode & 0777) == 0600);
    kit_file(&k, "lock.mdb", file);
    CHECK(stat(file, &info) == 0 && (info.st_mode & 0777) == 0600);
    REQUIRE_OK(try_open(&k, false), &k.err);
    REQUIRE_OK(try_open(&k, true), &k.err);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(paths)
{
    kit k;
    kit_folder(&k);
    char longest[5000];
    memset(longest, 'x', 4999);
    longest[4999] = 0;
    CHECK_STATUS(tarnp_store_open("", &k.options, &k.store, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_store_open(NULL, &k.options, &k.store, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_store_open(longest, &k.options, &k.store, &k.err), TARN_E_INVALID);
    longest[4064] = 0; /* as long as a path may be */
    for (size_t i = 0; i < 4064; i += 2)
        longest[i] = '/';
    CHECK_STATUS(tarnp_store_open(longest, &k.options, &k.store, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_store_open("/nowhere/at/all", &k.options, &k.store, &k.err),
                 TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_store_open(k.path, NULL, &k.store, &k.err), TARN_E_NOT_FOUND);
    const tarn_allocator half = {.alloc = tarni_heap.alloc};
    tarnp_options options = {.allocator = &half, .create = true};
    CHECK_STATUS(tarnp_store_open(k.path, &options, &k.store, &k.err), TARN_E_INVALID);
    /* An empty folder becomes a store, slashes at the end do not matter. */
    char slashes[240];
    CHECK(mkdir(k.path, 0755) == 0);
    snprintf(slashes, sizeof slashes, "%s//", k.path);
    REQUIRE_OK(tarnp_store_open(slashes, &k.options, &k.store, &k.err), &k.err);
    tarnp_store_close(NULL);
    kit_end(&k);
}

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    REQUIRE(f);
    CHECK(fwrite(data, 1, n, f) == n);
    fclose(f);
}

CASE(the_working_folder_may_change)
{
    kit k;
    kit_folder(&k);
    char folder[sizeof k.path];
    snprintf(folder, sizeof folder, "%s", k.path);
    char *name = strrchr(folder, '/');
    *name++ = 0;
    const int before = open(".", O_RDONLY | O_DIRECTORY);
    REQUIRE(before >= 0 && chdir(folder) == 0);
    k.options.create = true;
    REQUIRE_OK(tarnp_store_open(name, &k.options, &k.store, &k.err), &k.err);
    /* Longer than the limit together with the folder it is in. */
    char longest[4061] = "";
    memset(longest, 'x', sizeof longest - 1);
    for (size_t i = 1; i < sizeof longest - 1; i += 2)
        longest[i] = '/';
    tarnp_store *none;
    CHECK_STATUS(tarnp_store_open(longest, &k.options, &none, &k.err), TARN_E_INVALID);
    REQUIRE(chdir("/") == 0);
    KIT_CLEAN(&k);
    REQUIRE(fchdir(before) == 0 && close(before) == 0);
    kit_end(&k);
}

CASE(not_a_store)
{
    kit k;
    char file[260], junk[10000];
    kit_folder(&k);
    memset(junk, 'j', sizeof junk);
    write_file(k.path, junk, 10);
    CHECK_STATUS(try_open(&k, true), TARN_E_FORMAT);
    unlink(k.path);
    CHECK(mkdir(k.path, 0700) == 0);
    kit_file(&k, "letters", file);
    write_file(file, junk, 10);
    CHECK_STATUS(try_open(&k, true), TARN_E_FORMAT);
    CHECK_HAS(k.err.detail, "something else in it");
    unlink(file);
    kit_file(&k, "data.mdb", file);
    write_file(file, junk, sizeof junk);
    CHECK_STATUS(try_open(&k, true), TARN_E_FORMAT);
    CHECK_HAS(k.err.detail, "not an LMDB file");
    write_file(file, junk, 0);
    CHECK_STATUS(try_open(&k, true), TARN_E_CORRUPT);
    /* An LMDB environment of somebody else. */
    unlink(file);
    tarnp_tables *tables;
    REQUIRE_OK(tarnp_tables_open(k.path, true, 1 << 20, &tarni_heap, NULL, &tables, &k.err),
               &k.err);
    tarnp_tables_close(tables);
    CHECK_STATUS(try_open(&k, true), TARN_E_FORMAT);
    CHECK_HAS(k.err.detail, "no format record");
    kit_end(&k);
}

static void set_format(kit *k, void (*change)(tarnp_format *))
{
    tarnp_write w;
    REQUIRE_OK(tarnp_write_begin(k->store, &w, &k->err), &k->err);
    tarnp_format format = k->store->format;
    change(&format);
    REQUIRE_OK(tarnp_format_put(&w.txn, &format, &k->err), &k->err);
    REQUIRE_OK(tarnp_write_commit(&w, NULL, &k->err), &k->err);
}

static void newer_major(tarnp_format *f)
{
    f->major = 2;
}

static void unknown_incompatible(tarnp_format *f)
{
    f->incompat = 4;
}

static void unknown_for_writers(tarnp_format *f)
{
    f->minor = 7;
    f->compat = 1;
    f->ro_compat = 2;
}

CASE(newer_formats)
{
    kit k;
    REQUIRE(kit_begin(&k));
    set_format(&k, newer_major);
    CHECK_STATUS(try_open(&k, false), TARN_E_FORMAT);
    CHECK_HAS(k.err.detail, "format is 2.0");
    kit_end(&k);
    REQUIRE(kit_begin(&k));
    set_format(&k, unknown_incompatible);
    CHECK_STATUS(try_open(&k, false), TARN_E_FORMAT);
    CHECK_HAS(k.err.detail, "0x4");
    kit_end(&k);
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = kit_append(&k, "main", 1);
    set_format(&k, unknown_for_writers);
    REQUIRE_OK(try_open(&k, false), &k.err);
    kit_check_node(&k, first, 1);
    KIT_CLEAN(&k);
    CHECK_STATUS(tarnp_session_remove(k.store, "main", &k.err), TARN_E_FORMAT);
    CHECK_HAS(k.err.detail, "only reads it");
    kit_end(&k);
}

CASE(truncated_files)
{
    kit k;
    char file[260];
    REQUIRE(kit_begin(&k));
    kit_floats = 4096;
    kit_create(&k, "main");
    kit_append(&k, "main", 1);
    kit_append(&k, "main", 2);
    kit_floats = 256;
    tarnp_store_close(k.store);
    k.store = NULL;
    kit_file(&k, "data.mdb", file);
    struct stat info;
    REQUIRE(stat(file, &info) == 0);
    for (off_t size = info.st_size - 4096; size >= 0; size -= 4096) {
        REQUIRE(truncate(file, size) == 0);
        CHECK_STATUS(try_open(&k, false), TARN_E_CORRUPT);
        REQUIRE(truncate(file, size + 100 < info.st_size ? size + 100 : size) == 0);
        CHECK_STATUS(try_open(&k, false), TARN_E_CORRUPT);
    }
    kit_end(&k);
}

CASE(one_handle_a_process)
{
    kit k;
    REQUIRE(kit_begin(&k));
    tarnp_store *second;
    char link[240];
    CHECK_STATUS(tarnp_store_open(k.path, &k.options, &second, &k.err), TARN_E_BUSY);
    snprintf(link, sizeof link, "%s/link", k.folder);
    REQUIRE(symlink(k.path, link) == 0);
    CHECK_STATUS(tarnp_store_open(link, &k.options, &second, &k.err), TARN_E_BUSY);
    CHECK(second == NULL);
    unlink(link);
    kit_create(&k, "main");
    REQUIRE(kit_reopen(&k));
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(a_forked_child_must_open_anew)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        tarnp_session s;
        tarnp_store *own = NULL;
        int bad = tarnp_session_find(k.store, "main", &s, &k.err) != TARN_E_INVALID;
        bad |= tarnp_session_remove(k.store, "main", &k.err) != TARN_E_INVALID;
        tarnp_store_close(k.store);
        bad |= tarnp_store_open(k.path, &k.options, &own, &k.err) != TARN_OK;
        if (!bad) {
            bad |= tarnp_session_find(own, "main", &s, &k.err) != TARN_OK;
            tarnp_session_fini(&s);
        }
        tarnp_store_close(own);
        exit(bad);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    kit_append(&k, "main", 1);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* The child appends, this process reads what is there meanwhile. */
CASE(a_reader_beside_a_writer)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    enum { NODES = 150 };
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        k.store = NULL;
        check_failures = 0;
        if (!kit_reopen(&k))
            exit(1);
        for (uint64_t i = 1; i <= NODES; i++)
            kit_append(&k, "main", i);
        tarnp_store_close(k.store);
        exit(check_failures ? 1 : 0);
    }
    int status = 0;
    uint64_t seen = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        uint64_t head = kit_head(&k, "main");
        if (head > 1) {
            kit_check_node(&k, head, head - 1); /* node 1 is the root */
            seen += head > seen ? 1 : 0;
        }
        KIT_CLEAN(&k);
    }
    CHECK_EQ(status, 0);
    CHECK(seen > 0);
    CHECK_EQ(kit_head(&k, "main"), NODES + 1);
    for (uint64_t i = 1; i <= NODES; i++)
        kit_check_node(&k, i + 1, i);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(models)
{
    kit k;
    REQUIRE(kit_begin(&k));
    const uint8_t fp[TARNP_FP_BYTES] = {8};
    tarni_writer w;
    tarni_writer_init(&w, &tarni_heap);
    static uint8_t large[TARNP_MODEL_BYTES_MAX + 1];
    CHECK_STATUS(tarnp_model_get(k.store, fp, &w, &k.err), TARN_E_NOT_FOUND);
    REQUIRE_OK(tarnp_model_put(k.store, fp, "abc", 3, &k.err), &k.err);
    tarnp_stat before = kit_stat(&k);
    REQUIRE_OK(tarnp_model_put(k.store, fp, "abc", 3, &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).bytes_written, before.bytes_written);
    CHECK_STATUS(tarnp_model_put(k.store, fp, "abd", 3, &k.err), TARN_E_CONFLICT);
    CHECK_STATUS(tarnp_model_put(k.store, fp, "abcd", 4, &k.err), TARN_E_CONFLICT);
    CHECK_STATUS(tarnp_model_put(k.store, kit_fp, large, sizeof large, &k.err), TARN_E_LIMIT);
    REQUIRE_OK(tarnp_model_put(k.store, kit_fp, large, sizeof large - 1, &k.err), &k.err);
    REQUIRE_OK(tarnp_model_get(k.store, fp, &w, &k.err), &k.err);
    CHECK_EQ(w.n_bytes, 3);
    CHECK_BYTES(w.data, "abc", 3);
    tarni_writer_fini(&w);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* A process that closed its standard streams and prints all the same: not into the store. */
CASE(streams_that_are_closed)
{
    kit k;
    REQUIRE(kit_begin(&k));
    REQUIRE(kit_create(&k, "a") > 0);
    uint64_t node = kit_append(&k, "a", 1);
    tarnp_store_close(k.store);
    k.store = NULL;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        static const char noise[4096] = "not a store any more";
        for (int i = 0; i <= 2; i++)
            close(i);
        if (tarnp_store_open(k.path, &k.options, &k.store, &k.err) != TARN_OK)
            exit(1);
        for (int i = 0; i <= 2; i++)
            if (write(i, noise, sizeof noise) >= 0)
                exit(2);
        kit_append(&k, "a", 2);
        tarnp_store_close(k.store);
        exit(check_failures > 0 ? 3 : 0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    REQUIRE(kit_reopen(&k));
    kit_check_node(&k, node, 1);
    kit_check_node(&k, kit_head(&k, "a"), 2);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(network_file_systems)
{
    CHECK_TEXT(tarnp_network_filesystem(0x6969), "NFS");
    CHECK_TEXT(tarnp_network_filesystem(0xFFFFFFFFFF534D42u), "CIFS"); /* as a signed word */
    CHECK_TEXT(tarnp_network_filesystem(0x65735546), "FUSE");
    CHECK_TEXT(tarnp_network_filesystem(0x01021997), "9P");
    CHECK(tarnp_network_filesystem(0xEF53) == NULL);
    CHECK(tarnp_network_filesystem(0x01021994) == NULL); /* tmpfs */
}

CHECK_MAIN(ENTRY(made_only_when_asked), ENTRY(paths), ENTRY(the_working_folder_may_change),
           ENTRY(not_a_store), ENTRY(newer_formats), ENTRY(truncated_files),
           ENTRY(one_handle_a_process), ENTRY(a_forked_child_must_open_anew),
           ENTRY(a_reader_beside_a_writer), ENTRY(models), ENTRY(network_file_systems),
           ENTRY(streams_that_are_closed))
