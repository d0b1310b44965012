#include "paths.h"
#include "readfile.h"
#include "vectors.h"

CASE(reads_a_whole_file)
{
    scratch dir;
    char *data;
    size_t n_bytes;
    REQUIRE(scratch_make(&dir));
    const char *path = scratch_path(&dir, "file");
    scratch_write(&dir, "file", "a\0bc", 4);
    CHECK_STATUS(tarni_read_file(path, 4, &tarni_heap, &data, &n_bytes, &error), TARN_OK);
    CHECK_EQ(n_bytes, 4);
    CHECK_BYTES(data, "a\0bc", 5);
    tarni_free(&tarni_heap, data);
    scratch_write(&dir, "file", "", 0);
    CHECK_STATUS(tarni_read_file(path, 0, &tarni_heap, &data, &n_bytes, &error), TARN_OK);
    CHECK(n_bytes == 0 && data[0] == 0);
    tarni_free(&tarni_heap, data);
    scratch_remove(&dir);
}

CASE(a_file_is_called_by_its_folder_and_its_name)
{
    static const char *const paths[][2] = {
        {"/a/b/c/config.json", "c/config.json"},
        {"b/config.json", "b/config.json"},
        {"config.json", "config.json"},
        {"/config.json", "/config.json"},
        {"/a/b/c/", "b/c/"},
        {"/", "/"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        CHECK_TEXT(tarni_path_tail(paths[i][0]), paths[i][1]);
    char path[301];
    for (size_t i = 0; i < 300; i++)
        path[i] = "\xe4\xb8\xad"[i % 3];
    path[300] = 0;
    CHECK(strlen(tarni_path_tail(path)) <= 96);
    CHECK((uint8_t)*tarni_path_tail(path) == 0xe4);
}

CASE(refuses_what_is_no_such_file)
{
    scratch dir;
    char *data;
    size_t n_bytes;
    REQUIRE(scratch_make(&dir));
    const char *path = scratch_path(&dir, "file");
    CHECK_STATUS(tarni_read_file(path, 9, &tarni_heap, &data, &n_bytes, &error), TARN_E_NOT_FOUND);
    CHECK_HAS(error.detail, "file: No such file");
    CHECK(!strstr(error.detail, path));
    CHECK(data == NULL);
    CHECK_STATUS(tarni_read_file(dir.dir, 9, &tarni_heap, &data, &n_bytes, &error), TARN_E_FORMAT);
    CHECK_HAS(error.detail, "no regular file");
    CHECK(mkfifo(path, 0600) == 0);
    CHECK_STATUS(tarni_read_file(path, 9, &tarni_heap, &data, &n_bytes, &error), TARN_E_FORMAT);
    unlink(path);
    scratch_write(&dir, "file", "12345", 5);
    CHECK_STATUS(tarni_read_file(path, 4, &tarni_heap, &data, &n_bytes, &error), TARN_E_FORMAT);
    CHECK_HAS(error.detail, "is 5 bytes, the limit is 4");
    failing heap = {0};
    tarn_allocator a = failing_allocator(&heap);
    CHECK_STATUS(tarni_read_file(path, 5, &a, &data, &n_bytes, &error), TARN_E_NO_MEMORY);
    CHECK(data == NULL);
    scratch_remove(&dir);
}

CHECK_MAIN(ENTRY(reads_a_whole_file), ENTRY(a_file_is_called_by_its_folder_and_its_name),
           ENTRY(refuses_what_is_no_such_file))
