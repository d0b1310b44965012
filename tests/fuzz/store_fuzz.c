/* A data.mdb from anywhere: the golden store with changes, opened, verified, read and salvaged.
 *
 * The input is a list of changes:
 *
 *     0    3 offset, 1 n, n bytes      bytes are replaced
 *     1    1 to, 1 from                a page is another page's copy
 *     2    1 page                      a page of zeros
 *     3    3 bytes                     the file ends there
 *     4    1 page, 1 slot, 2 word      a 16-bit word of a page's head or its table of entries
 *     5    1 page, 2 offset, 8 word    an aligned 64-bit word (page numbers, sizes)
 *
 * Other first bytes are taken modulo 6. Nothing of it may crash; a store that verifies as clean is
 * read in full; and what a salvage saves is a store without damage. */
#include "store_folder.h"

#include "salvage.h"

#include <fcntl.h>
#include <sys/stat.h>

enum { PAGE = 4096, FILE_MAX = 1 << 20 };

static uint8_t golden[FILE_MAX], file[FILE_MAX];
static size_t golden_bytes, file_bytes;
static fuzz_folder from, to;
static const tarnp_options options = {.map_bytes = (size_t)1 << 30};

static void remove_folders(void)
{
    fuzz_folder_remove(&from);
    fuzz_folder_remove(&to);
}

static void begin(void)
{
    if (golden_bytes > 0)
        return;
    FILE *in = fopen(TEST_DATA "/golden/store-1/data.mdb", "rb");
    FUZZ_CHECK(in, "no golden store");
    golden_bytes = fread(golden, 1, sizeof golden, in);
    fclose(in);
    FUZZ_CHECK(golden_bytes > 0 && golden_bytes < FILE_MAX, "%zu bytes", golden_bytes);
    fuzz_folder_make(&from);
    fuzz_folder_make(&to);
    atexit(remove_folders);
}

/* ---- changes -------------------------------------------------------------------------------- */

static uint8_t *page_at(uint32_t page)
{
    return file + (size_t)(page % (golden_bytes / PAGE)) * PAGE;
}

static void replace(fuzz_input *in)
{
    size_t at = fuzz_take(in, 3) % golden_bytes, n = fuzz_take(in, 1);
    for (size_t i = 0; i < n && at + i < golden_bytes; i++)
        file[at + i] = (uint8_t)fuzz_take(in, 1);
}

static void put_word(fuzz_input *in, size_t n)
{
    uint8_t *page = page_at(fuzz_take(in, 1));
    size_t slots = n == 2 ? 64 : PAGE / n, at = fuzz_take(in, n == 2 ? 1 : 2) % slots * n;
    for (size_t i = 0; i < n; i++)
        page[at + i] = (uint8_t)fuzz_take(in, 1);
}

static void change(fuzz_input in)
{
    memcpy(file, golden, golden_bytes);
    file_bytes = golden_bytes;
    while (in.n_bytes > 0) {
        uint8_t *page;
        switch (fuzz_take(&in, 1) % 6) {
        case 0:
            replace(&in);
            break;
        case 1:
            page = page_at(fuzz_take(&in, 1));
            memmove(page, page_at(fuzz_take(&in, 1)), PAGE);
            break;
        case 2:
            memset(page_at(fuzz_take(&in, 1)), 0, PAGE);
            break;
        case 3:
            file_bytes = fuzz_take(&in, 3) % (golden_bytes + 1);
            break;
        case 4:
            put_word(&in, 2);
            break;
        default:
            put_word(&in, 8);
        }
    }
}

static void write_file(void)
{
    char path[260];
    fuzz_folder_empty(&from);
    FUZZ_CHECK(mkdir(from.store, 0700) == 0, "%s", from.store);
    fuzz_folder_file(&from, "data.mdb", path);
    FILE *out = fopen(path, "wb");
    FUZZ_CHECK(out && fwrite(file, 1, file_bytes, out) == file_bytes && fclose(out) == 0, "%s",
               path);
}

/* ---- what is done with it ------------------------------------------------------------------- */

static tarn_status read_section(tarnp_store *store, const tarnp_node *node, const tarnp_section *s,
                                tarn_error *err)
{
    static uint8_t raw[TARNP_CHUNK_BYTES_MAX];
    for (size_t i = 0; i < s->n_chunks; i++) {
        tarnp_chunk chunk = s->chunks[i];
        const tarnp_piece piece = {raw, chunk.raw_bytes};
        chunk.pieces = &piece;
        chunk.n_pieces = 1;
        TARNI_TRY(tarnp_node_read_chunks(store, node, s->elem, &chunk, 1, NULL, err));
    }
    return TARN_OK;
}

static tarn_status read_node(tarnp_store *store, uint64_t id, tarn_error *err)
{
    tarnp_node node;
    tarni_ids ids;
    TARNI_TRY(tarnp_node_read(store, id, &node, err));
    tarni_ids_init(&ids, &tarni_heap);
    tarn_status status = tarnp_node_tokens(store, &node, &ids, err);
    for (size_t i = 0; status == TARN_OK && i < node.n_sections; i++)
        status = read_section(store, &node, &node.sections[i], err);
    tarni_ids_fini(&ids);
    tarnp_node_fini(&node);
    return status;
}

/* All sessions, from their roots to their heads. */
static tarn_status read_all(tarnp_store *store, tarn_error *err)
{
    tarnp_session *list;
    size_t n;
    TARNI_TRY(tarnp_session_list(store, &list, &n, err));
    tarn_status status = TARN_OK;
    for (size_t i = 0; status == TARN_OK && i < n; i++) {
        uint64_t *ids = NULL;
        size_t n_ids = 0;
        status = tarnp_node_chain(store, list[i].head, &ids, &n_ids, err);
        for (size_t k = 0; status == TARN_OK && k < n_ids; k++)
            status = read_node(store, ids[k], err);
        tarni_free(tarnp_store_allocator(store), ids);
    }
    tarnp_sessions_free(list, n);
    return status;
}

/* Opens, verifies, reads. Returns whether it is clean; false too where it does not open. */
static bool look(const fuzz_folder *folder, tarn_error *err)
{
    tarnp_store *store;
    tarnp_verified v;
    if (tarnp_store_open(folder->store, &options, &store, err) != TARN_OK)
        return false;
    bool clean = tarnp_store_verify(store, NULL, NULL, &v, err) == TARN_OK && v.n_bad == 0;
    if (v.n_bad > 0)
        snprintf(err->detail, sizeof err->detail, "%s", v.bad[0].reason);
    tarni_free(tarnp_store_allocator(store), v.bad);
    tarn_error cause;
    tarn_status status = read_all(store, &cause);
    FUZZ_CHECK(!clean || status == TARN_OK, "clean, but: %s", cause.detail);
    tarnp_store_close(store);
    return clean;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    tarn_error err;
    tarnp_salvaged found;
    begin();
    change((fuzz_input){data, n_bytes});
    write_file();
    tarn_status status = tarnp_salvage(from.store, to.store, &options, NULL, NULL, &found, &err);
    if (status == TARN_OK)
        FUZZ_CHECK(look(&to, &err), "what was saved is damaged: %s", err.detail);
    else
        FUZZ_CHECK(access(to.store, F_OK) != 0, "a salvage that failed left something");
    fuzz_folder_empty(&to);
    look(&from, &err);
    fuzz_folder_empty(&from);
    return 0;
}
