/* What can go wrong while a session goes to a file or comes from one. */
#include "bundle_bad.h"

typedef struct limited {
    kit_bundle *f;
    uint64_t left;
} limited;

static tarn_status limited_write(void *user, const void *data, size_t n, tarn_error *err)
{
    limited *l = user;
    if (n > l->left)
        return tarni_fail(err, TARN_E_NO_SPACE, "the disk of this test is full");
    l->left -= n;
    return kit_bundle_write(l->f, data, n, err);
}

static tarn_status limited_read(void *user, void *data, size_t n, size_t *n_read, tarn_error *err)
{
    limited *l = user;
    if (l->left < n)
        return tarni_fail(err, TARN_E_IO, "the tape of this test is torn");
    l->left -= n;
    return kit_bundle_read(l->f, data, n, n_read, err);
}

static bool stop_late(void *user, uint64_t done, uint64_t all)
{
    CHECK(done <= all);
    return --*(int *)user > 0;
}

CASE(callbacks_that_fail)
{
    bad b;
    uint64_t n_bytes;
    tarnp_session s;
    REQUIRE(bad_begin(&b));
    CHECK_STATUS(kit_import(&b.k, &b.file, NULL, NULL), TARN_OK);
    for (uint64_t n = 0; n < b.good.n_bytes; n += 97) {
        kit_bundle out = {0};
        limited l = {&out, n};
        CHECK_STATUS(
            tarnp_export(b.k.store, "a", limited_write, &l, NULL, NULL, &n_bytes, &b.k.err),
            TARN_E_NO_SPACE);
        CHECK_EQ(n_bytes, 0);
        free(out.data);
    }
    CHECK_STATUS(tarnp_session_remove(b.k.store, "a", &b.k.err), TARN_OK);
    for (uint64_t n = 0; n < b.good.n_bytes; n += 97) {
        limited l = {&b.file, n};
        b.file.at = 0;
        CHECK_STATUS(
            tarnp_import(b.k.store, limited_read, &l, NULL, NULL, NULL, &s, &n_bytes, &b.k.err),
            TARN_E_IO);
    }
    bad_check_untouched(&b);
    for (int n = 1; n < 20; n++) {
        int left = n;
        b.file.at = 0;
        CHECK_STATUS(tarnp_import(b.k.store, kit_bundle_read, &b.file, NULL, stop_late, &left, &s,
                                  &n_bytes, &b.k.err),
                     TARN_E_CANCELLED);
    }
    bad_check_untouched(&b);
    bad_end(&b);
}

typedef struct failing {
    uint64_t left;
} failing;

/* Told as an export comes along, to its end; and one that is ended half way. */
typedef struct course {
    uint64_t last, all, stop_at;
} course;

static bool follow(void *user, uint64_t n, uint64_t all)
{
    course *c = user;
    CHECK(n >= c->last && n <= all);
    c->last = n;
    c->all = all;
    return c->stop_at == 0 || n < c->stop_at;
}

/* Claims to have read more than there was room for. */
static tarn_status boast(void *user, void *data, size_t n, size_t *n_read, tarn_error *err)
{
    (void)user, (void)err;
    memset(data, 0, n);
    *n_read = n + 1;
    return TARN_OK;
}

CASE(an_export_tells_how_far_it_is)
{
    kit k;
    kit_bundle f = {0};
    course c = {0};
    uint64_t n_bytes;
    tarnp_session made;
    REQUIRE(kit_begin(&k));
    kit_fill_session(&k, "a");
    REQUIRE_OK(tarnp_export(k.store, "a", kit_bundle_write, &f, follow, &c, &n_bytes, &k.err),
               &k.err);
    CHECK_EQ(c.last, n_bytes);
    CHECK_EQ(c.all, n_bytes);
    c = (course){.stop_at = n_bytes / 2};
    f.n_bytes = 0;
    CHECK_STATUS(tarnp_export(k.store, "a", kit_bundle_write, &f, follow, &c, &n_bytes, &k.err),
                 TARN_E_CANCELLED);
    CHECK(c.last >= c.stop_at && c.last < c.all);
    CHECK_STATUS(tarnp_import(k.store, boast, NULL, "b", NULL, NULL, &made, &n_bytes, &k.err),
                 TARN_E_CORRUPT);
    free(f.data);
    KIT_CLEAN(&k);
    kit_end(&k);
}

static void *failing_alloc(void *user, size_t n)
{
    failing *f = user;
    return f->left == 0 ? NULL : (f->left--, malloc(n));
}

static void *failing_resize(void *user, void *memory, size_t n)
{
    failing *f = user;
    return f->left == 0 ? NULL : (f->left--, realloc(memory, n));
}

static void failing_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

CASE(memory_that_fails)
{
    bad b;
    failing f = {UINT64_MAX};
    const tarn_allocator allocator = {failing_alloc, failing_resize, failing_release, &f};
    REQUIRE(bad_begin(&b));
    b.k.options.allocator = &allocator;
    REQUIRE(kit_reopen(&b.k));
    tarn_status status = TARN_E_NO_MEMORY;
    uint64_t n = 0;
    for (; status == TARN_E_NO_MEMORY && n < 10000; n++) {
        f.left = n;
        status = kit_import(&b.k, &b.file, NULL, NULL);
        f.left = UINT64_MAX;
        if (status == TARN_E_NO_MEMORY)
            bad_check_untouched(&b);
    }
    CHECK_STATUS(status, TARN_OK);
    CHECK(n > 10);
    status = TARN_E_NO_MEMORY;
    for (n = 0; status == TARN_E_NO_MEMORY && n < 10000; n++) {
        kit_bundle out = {0};
        uint64_t n_bytes;
        f.left = n;
        status =
            tarnp_export(b.k.store, "a", kit_bundle_write, &out, NULL, NULL, &n_bytes, &b.k.err);
        f.left = UINT64_MAX;
        free(out.data);
    }
    CHECK_STATUS(status, TARN_OK);
    CHECK_STATUS(tarnp_session_remove(b.k.store, "a", &b.k.err), TARN_OK);
    bad_end(&b);
}

/* A store whose map is too small for the session keeps what it has, and goes on. */
CASE(no_space)
{
    kit a, b;
    kit_bundle f;
    REQUIRE(kit_begin(&a));
    kit_floats = 16384;
    kit_create(&a, "large");
    for (uint64_t i = 1; i <= 80; i++)
        kit_append(&a, "large", i);
    REQUIRE(kit_export(&a, "large", &f));
    kit_folder(&b);
    CHECK(f.n_bytes > (size_t)24 << 20);
    b.options.map_bytes = (size_t)20 << 20; /* the first transaction of 16 MiB fits */
    REQUIRE(kit_reopen(&b));
    kit_create(&b, "mine");
    kit_append(&b, "mine", 101);
    tarnp_stat before = kit_stat(&b);
    CHECK_STATUS(kit_import(&b, &f, NULL, NULL), TARN_E_NO_SPACE);
    CHECK_EQ(kit_stat(&b).chunks, before.chunks);
    CHECK_EQ(kit_stat(&b).bytes_stored, before.bytes_stored);
    KIT_CLEAN(&b);
    CHECK_EQ(kit_stat(&b).map_bytes, b.options.map_bytes); /* what was lent is given back */
    for (uint64_t i = 102; i < 150; i++) /* 16 of 20 MiB: all that was freed can be used */
        kit_append(&b, "mine", i);
    kit_check_node(&b, kit_head(&b, "mine"), 149);
    KIT_CLEAN(&b);
    kit_floats = 256;
    free(f.data);
    kit_end(&a);
    kit_end(&b);
}

CHECK_MAIN(ENTRY(callbacks_that_fail), ENTRY(an_export_tells_how_far_it_is),
           ENTRY(memory_that_fails), ENTRY(no_space))
