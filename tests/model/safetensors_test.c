#include "check.h"
#include "bytes.h"
#include "safetensors.h"
#include "scratch.h"

/* A file with this header and n bytes of data. */
static void write_file(scratch *s, const char *name, const char *header, size_t data_bytes)
{
    size_t header_bytes = strlen(header), n_bytes = 8 + header_bytes + data_bytes;
    uint8_t *file = calloc(n_bytes, 1);
    tarni_store_u64(file, header_bytes);
    memcpy(file + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++)
        file[8 + header_bytes + i] = (uint8_t)i;
    scratch_write(s, name, file, n_bytes);
    free(file);
}

static tarn_status open_header(const char *header, size_t data_bytes, tarn_error *err)
{
    scratch s;
    tarni_safetensors set;
    if (!scratch_make(&s))
        return TARN_E_IO;
    memset(err, 0, sizeof *err);
    write_file(&s, "model.safetensors", header, data_bytes);
    tarn_status status = tarni_safetensors_open(s.dir, &tarni_heap, &set, err);
    CHECK(status == TARN_OK || (set.n_files == 0 && set.n_tensors == 0));
    tarni_safetensors_close(&set);
    scratch_remove(&s);
    return status;
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define B "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]}"

CASE(reads_one_file)
{
    scratch s;
    tarn_error err;
    tarni_safetensors set;
    REQUIRE(scratch_make(&s));
    write_file(&s, "model.safetensors", "{\"__metadata__\":{\"format\":\"pt\"}," B "," A "}   ",
               20);
    REQUIRE_OK(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), &err);
    CHECK_EQ(set.n_tensors, 2);
    const tarni_safetensor *b = tarni_safetensors_find(&set, "b");
    REQUIRE(b != NULL);
    CHECK_TEXT(b->dtype, "BF16");
    CHECK_EQ(b->n_dims, 2);
    CHECK(b->dims[0] == 2 && b->dims[1] == 3 && b->n_bytes == 12 && b->data[0] == 8);
    CHECK_HAS(tarni_safetensors_origin(&set, b), "model.safetensors");
    CHECK(tarni_safetensors_find(&set, "c") == NULL);
    CHECK(tarni_safetensors_find(&set, "__metadata__") == NULL);
    tarni_safetensors_close(&set);
    scratch_remove(&s);
}

CASE(accepts_scalars_and_empty_tensors)
{
    tarn_error err;
    REQUIRE_OK(open_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                           "\"b\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
                           "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]}}",
                           5, &err),
               &err);
}

typedef struct refusal {
    const char *header;
    size_t data_bytes;
    tarn_status status;
    const char *names;
} refusal;

#define ENTRY_OF(dtype, shape, offsets)                                                            \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const refusal REFUSALS[] = {
    {"", 0, TARN_E_FORMAT, "header"},
    {"{", 8, TARN_E_FORMAT, "header"},
    {"[]", 0, TARN_E_FORMAT, "header: is not a JSON object"},
    {"{}", 0, TARN_E_FORMAT, "holds no tensor"},
    {"{\"__metadata__\":{}}", 0, TARN_E_FORMAT, "holds no tensor"},
    {"{" A "," A "}", 8, TARN_E_FORMAT, "duplicate"},
    {"{\"a\":7}", 8, TARN_E_FORMAT, "tensor a: has no dtype"},
    {ENTRY_OF("\"F31\"", "[2]", "[0,8]"), 8, TARN_E_UNSUPPORTED, "tensor a: dtype F31"},
    {ENTRY_OF("3", "[2]", "[0,8]"), 8, TARN_E_FORMAT, "tensor a: has no dtype"},
    {ENTRY_OF("\"F32\"", "2", "[0,8]"), 8, TARN_E_FORMAT, "tensor a: shape"},
    {ENTRY_OF("\"F32\"", "[-2]", "[0,8]"), 8, TARN_E_FORMAT, "tensor a: shape"},
    {ENTRY_OF("\"F32\"", "[2.0]", "[0,8]"), 8, TARN_E_FORMAT, "tensor a: shape"},
    {ENTRY_OF("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8, TARN_E_FORMAT, "tensor a: shape"},
    {ENTRY_OF("\"F32\"", "[4294967296,4294967296]", "[0,8]"), 8, TARN_E_FORMAT, "tensor a: shape"},
    {ENTRY_OF("\"F32\"", "[4611686018427387906]", "[0,8]"), 8, TARN_E_FORMAT,
     "does not fit 8 bytes"},
    {ENTRY_OF("\"F32\"", "[3]", "[0,8]"), 8, TARN_E_FORMAT, "F32 [3] does not fit 8 bytes"},
    {ENTRY_OF("\"F32\"", "[2]", "[0]"), 8, TARN_E_FORMAT, "tensor a: data_offsets"},
    {ENTRY_OF("\"F32\"", "[2]", "7"), 8, TARN_E_FORMAT, "tensor a: data_offsets"},
    {ENTRY_OF("\"F32\"", "[2]", "[-8,0]"), 8, TARN_E_FORMAT, "tensor a: data_offsets"},
    {ENTRY_OF("\"F32\"", "[2]", "[8,0]"), 8, TARN_E_FORMAT, "bytes 8 to 0"},
    {ENTRY_OF("\"F32\"", "[2]", "[0,8]"), 7, TARN_E_FORMAT, "bytes 0 to 8 are not within the 7"},
    {ENTRY_OF("\"F32\"", "[2]", "[9223372036854775800,9223372036854775807]"), 8, TARN_E_FORMAT,
     "not within"},
    {ENTRY_OF("\"F32\"", "[2]", "[0,99999999999999999999]"), 8, TARN_E_FORMAT, "header"},
    {ENTRY_OF("\"F32\"", "[2]", "[0,8]"), 9, TARN_E_FORMAT, "1 bytes at the end"},
    {ENTRY_OF("\"F32\"", "[2]", "[1,9]"), 9, TARN_E_FORMAT, "tensor a: bytes before it"},
    {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, TARN_E_FORMAT,
     "tensor b: its bytes overlap"},
    {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, TARN_E_FORMAT,
     "overlap"},
    {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}", 16, TARN_E_FORMAT,
     "tensor b: bytes before it belong to no tensor"},
};

CASE(refuses_hostile_headers)
{
    tarn_error err;
    for (size_t i = 0; i < sizeof REFUSALS / sizeof REFUSALS[0]; i++) {
        const refusal *r = &REFUSALS[i];
        tarn_status status = open_header(r->header, r->data_bytes, &err);
        if (status != r->status || !strstr(err.detail, r->names) ||
            !strstr(err.detail, "model.safetensors"))
            CHECK_FAIL("%s: %s \"%s\", should be %s with \"%s\"", r->header,
                       tarn_status_name(status), err.detail, tarn_status_name(r->status), r->names);
    }
}

CASE(refuses_lengths_beyond_the_file)
{
    static const uint64_t lengths[] = {3, UINT64_MAX, UINT64_MAX - 7, UINT64_C(1) << 63,
                                       UINT64_C(257) << 20};
    scratch s;
    tarn_error err;
    tarni_safetensors set;
    uint8_t file[10] = {0};
    REQUIRE(scratch_make(&s));
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        tarni_store_u64(file, lengths[i]);
        scratch_write(&s, "model.safetensors", file, sizeof file);
        CHECK_STATUS(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), TARN_E_FORMAT);
        CHECK_HAS(err.detail, "header length is");
    }
    for (size_t n = 0; n < 8; n++) {
        scratch_write(&s, "model.safetensors", file, n);
        CHECK_STATUS(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), TARN_E_FORMAT);
        CHECK_HAS(err.detail, "too short");
    }
    scratch_remove(&s);
}

CASE(refuses_folders_and_fifos)
{
    scratch s;
    tarn_error err;
    tarni_safetensors set;
    REQUIRE(scratch_make(&s));
    CHECK_STATUS(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), TARN_E_NOT_FOUND);
    CHECK_HAS(err.detail, "neither model.safetensors nor");
    REQUIRE(mkdir(scratch_path(&s, "model.safetensors"), 0777) == 0);
    CHECK_STATUS(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), TARN_E_FORMAT);
    CHECK_HAS(err.detail, "no regular file");
    REQUIRE(rmdir(s.path) == 0 && mkfifo(s.path, 0666) == 0);
    CHECK_STATUS(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), TARN_E_FORMAT);
    scratch_remove(&s);
}

/* ---- folders with an index ------------------------------------------------------------------- */

#define C "\"c\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}"

static void write_shards(scratch *s, const char *index)
{
    write_file(s, "x.safetensors", "{" A "," B "}", 20);
    write_file(s, "y.safetensors", "{" C "}", 4);
    scratch_write(s, "model.safetensors.index.json", index, strlen(index));
}

CASE(reads_shards_through_links)
{
    scratch s;
    tarn_error err;
    tarni_safetensors set;
    char real[256];
    REQUIRE(scratch_make(&s));
    write_shards(&s, "{\"metadata\":{},\"weight_map\":{\"a\":\"x.safetensors\","
                     "\"c\":\"y.safetensors\",\"b\":\"x.safetensors\"}}");
    snprintf(real, sizeof real, "%s/blob", s.dir);
    REQUIRE(rename(scratch_path(&s, "y.safetensors"), real) == 0);
    REQUIRE(symlink("blob", s.path) == 0);
    REQUIRE_OK(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), &err);
    CHECK_EQ(set.n_files, 2);
    CHECK_EQ(set.n_tensors, 3);
    CHECK_TEXT(set.tensors[0].name, "a");
    CHECK_TEXT(set.tensors[2].name, "c");
    tarni_safetensors_close(&set);
    scratch_remove(&s);
}

CASE(refuses_an_index_that_disagrees)
{
    static const struct {
        const char *index;
        tarn_status status;
        const char *names;
    } cases[] = {
        {"", TARN_E_FORMAT, "index.json"},
        {"[]", TARN_E_FORMAT, "not a JSON object"},
        {"{}", TARN_E_FORMAT, "field weight_map is missing"},
        {"{\"weight_map\":[]}", TARN_E_FORMAT, "field weight_map is []"},
        {"{\"weight_map\":{}}", TARN_E_FORMAT, "weight_map is empty"},
        {"{\"weight_map\":{\"a\":7}}", TARN_E_FORMAT, "tensor a"},
        {"{\"weight_map\":{\"a\":\"\"}}", TARN_E_FORMAT, "tensor a: \"\" is not a file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", TARN_E_FORMAT, "\"..\" is not a file name"},
        {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", TARN_E_FORMAT, "not a file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", TARN_E_FORMAT, "not a file name"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"x.safetensors\"}}", TARN_E_FORMAT,
         "duplicate"},
        {"{\"weight_map\":{\"a\":\"z.safetensors\"}}", TARN_E_NOT_FOUND, "z.safetensors"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"y.safetensors\","
         "\"c\":\"y.safetensors\"}}",
         TARN_E_FORMAT, "tensor b is in x.safetensors, not in y.safetensors"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\"}}", TARN_E_FORMAT,
         "tensor b is not in the index"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"x.safetensors\","
         "\"d\":\"x.safetensors\"}}",
         TARN_E_FORMAT, "tensor d is not in x.safetensors"},
    };
    scratch s;
    tarn_error err;
    tarni_safetensors set;
    REQUIRE(scratch_make(&s));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_shards(&s, cases[i].index);
        tarn_status status = tarni_safetensors_open(s.dir, &tarni_heap, &set, &err);
        if (status != cases[i].status || !strstr(err.detail, cases[i].names))
            CHECK_FAIL("%s: %s \"%s\", should be %s with \"%s\"", cases[i].index,
                       tarn_status_name(status), err.detail, tarn_status_name(cases[i].status),
                       cases[i].names);
        tarni_safetensors_close(&set);
    }
    scratch_remove(&s);
}

CASE(refuses_a_tensor_in_two_files)
{
    scratch s;
    tarn_error err;
    tarni_safetensors set;
    REQUIRE(scratch_make(&s));
    write_shards(&s, "{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"x.safetensors\","
                     "\"c\":\"y.safetensors\"}}");
    write_file(&s, "y.safetensors", "{" A "}", 8);
    CHECK_STATUS(tarni_safetensors_open(s.dir, &tarni_heap, &set, &err), TARN_E_FORMAT);
    CHECK_HAS(err.detail, "tensor a is in");
    scratch_remove(&s);
}

CASE(survives_missing_memory)
{
    scratch s;
    tarn_error err;
    tarni_safetensors set;
    tarn_status status = TARN_E_NO_MEMORY;
    REQUIRE(scratch_make(&s));
    write_shards(&s, "{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"x.safetensors\","
                     "\"c\":\"y.safetensors\"}}");
    for (long n = 0; n < 100 && status != TARN_OK; n++) {
        failing f = {n, 0};
        tarn_allocator a = failing_allocator(&f);
        status = tarni_safetensors_open(s.dir, &a, &set, &err);
        if (status != TARN_OK)
            CHECK_STATUS(status, TARN_E_NO_MEMORY);
        tarni_safetensors_close(&set);
        CHECK_EQ(f.blocks, 0);
    }
    CHECK_STATUS(status, TARN_OK);
    scratch_remove(&s);
}

CHECK_MAIN(ENTRY(reads_one_file), ENTRY(accepts_scalars_and_empty_tensors),
           ENTRY(refuses_hostile_headers), ENTRY(refuses_lengths_beyond_the_file),
           ENTRY(refuses_folders_and_fifos), ENTRY(reads_shards_through_links),
           ENTRY(refuses_an_index_that_disagrees), ENTRY(refuses_a_tensor_in_two_files),
           ENTRY(survives_missing_memory))
