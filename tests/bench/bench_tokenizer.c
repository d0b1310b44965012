/* bench_tokenizer.c - bytes a second of one core, there and back.
 *
 *     bench_tokenizer MODEL_DIR [FILE...]
 *
 * Each FILE is repeated or cut to 1 MB. Without files four texts are made from the vocabulary
 * itself, the more frequent (lower) ranks more often: English words, Chinese words with their
 * punctuation, source code, and 10 MB of one letter. Medians of RUNS. */
#include "bench.h"
#include "tokenizer.h"
#include "vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES ((size_t)1000000)
#define RUN_BYTES  ((size_t)10000000)
#define RUNS       9
#define WORDS_MAX  8192

typedef struct words {
    uint32_t ranks[WORDS_MAX];
    size_t n;
} words;

static tarn_error error;

static void give_up(const char *what)
{
    printf("%s: %s\n", what, error.detail);
    exit(1);
}

static void *must_alloc(size_t n_bytes)
{
    void *memory = malloc(n_bytes);
    if (!memory)
        give_up("out of memory");
    return memory;
}

static int compare_times(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *times_s, size_t n)
{
    qsort(times_s, n, sizeof *times_s, compare_times);
    return times_s[n / 2];
}

static void measure(const tarni_tokenizer *t, const char *name, const char *text, size_t n_bytes)
{
    double encode_s[RUNS], decode_s[RUNS];
    size_t n_runs = n_bytes > TEXT_BYTES ? 3 : RUNS;
    tarni_ids ids;
    tarni_ids_init(&ids, &tarni_heap);
    for (size_t i = 0; i < n_runs; i++) {
        ids.n_ids = 0;
        double start = bench_now_s();
        if (tarni_tokenizer_encode(t, text, n_bytes, false, &ids, &error) != TARN_OK)
            give_up(name);
        encode_s[i] = bench_now_s() - start;
        tarni_writer back;
        tarni_writer_init(&back, &tarni_heap);
        start = bench_now_s();
        if (tarni_tokenizer_decode(t, ids.ids, ids.n_ids, &back, &error) != TARN_OK)
            give_up(name);
        decode_s[i] = bench_now_s() - start;
        if (back.n_bytes != n_bytes || memcmp(back.data, text, n_bytes) != 0)
            give_up("the text does not come back");
        tarni_writer_fini(&back);
    }
    double encode = median(encode_s, n_runs), decode = median(decode_s, n_runs);
    printf("%-24s %9zu bytes %8zu ids  encode %7.1f MB/s %8.4f s  decode %7.1f MB/s\n", name,
           n_bytes, ids.n_ids, (double)n_bytes / encode / 1e6, encode,
           (double)n_bytes / decode / 1e6);
    fflush(stdout);
    tarni_ids_fini(&ids);
}

/* ---- texts ----------------------------------------------------------------------------------- */

/* Cubes of uniform numbers: low ranks often, high ones now and then. */
static uint32_t draw(const words *w, uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
    double u = (double)(*state >> 11) / 9007199254740992.0;
    return w->ranks[(size_t)(u * u * u * (double)w->n)];
}

static bool is_english(const uint8_t *bytes, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (bytes[i] < 'a' || bytes[i] > 'z')
            return false;
    return n > 2 && bytes[0] == ' ';
}

static bool is_code(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] >= 0x7f || (bytes[i] < ' ' && bytes[i] != '\n' && bytes[i] != '\t'))
            return false;
    return n > 1;
}

/* U+4E00 to U+9FFF. */
static bool is_chinese(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i += 3)
        if (bytes[i] < 0xe4 || bytes[i] > 0xe9)
            return false;
    return n % 3 == 0;
}

static size_t make_text(const tarni_vocab *v, bool (*fits)(const uint8_t *, size_t),
                        const char *ends, size_t words_a_clause, char *text)
{
    static words w;
    uint64_t state = 5;
    size_t n = 0, end_bytes = strlen(ends);
    w.n = 0;
    for (uint32_t r = 0; r < v->n_ranks && w.n < WORDS_MAX; r++)
        if (fits(v->bytes + v->starts[r], v->starts[r + 1] - v->starts[r]))
            w.ranks[w.n++] = r;
    for (size_t i = 1; w.n > 0; i++) {
        uint32_t r = draw(&w, &state), size = v->starts[r + 1] - v->starts[r];
        if (n + size + end_bytes > TEXT_BYTES)
            break;
        memcpy(text + n, v->bytes + v->starts[r], size);
        n += size;
        if (i % words_a_clause == 0) {
            memcpy(text + n, ends, end_bytes);
            n += end_bytes;
        }
    }
    return n;
}

static void measure_made(const tarni_tokenizer *t, const char *dir)
{
    char path[4096], *text = must_alloc(RUN_BYTES);
    tarni_vocab v;
    snprintf(path, sizeof path, "%s/tiktoken.model", dir);
    if (tarni_vocab_open(&v, path, &tarni_heap, &error) != TARN_OK)
        give_up(path);
    measure(t, "English words", text, make_text(&v, is_english, ".", 11, text));
    measure(t, "code", text, make_text(&v, is_code, ";\n", 9, text));
    measure(t, "Chinese words", text, make_text(&v, is_chinese, "，", 6, text));
    memset(text, 'a', RUN_BYTES);
    measure(t, "one letter", text, RUN_BYTES);
    memset(text, ' ', RUN_BYTES);
    measure(t, "one space", text, RUN_BYTES);
    for (size_t i = 0; i + 3 <= RUN_BYTES; i += 3)
        memcpy(text + i, "中", 3);
    measure(t, "one Han letter", text, RUN_BYTES / 3 * 3);
    tarni_vocab_fini(&v, &tarni_heap);
    free(text);
}

static void measure_file(const tarni_tokenizer *t, const char *path)
{
    char *text = must_alloc(2 * TEXT_BYTES);
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(text, 1, TEXT_BYTES, file) : 0, whole = n;
    if (n == 0)
        give_up(path);
    fclose(file);
    while (n < TEXT_BYTES) {
        memcpy(text + n, text, whole);
        n += whole;
    }
    while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
        n--; /* not within a character */
    const char *slash = strrchr(path, '/');
    measure(t, slash ? slash + 1 : path, text, n);
    free(text);
}

int main(int argc, char **argv)
{
    tarni_tokenizer *t;
    if (argc < 2) {
        printf("usage: bench_tokenizer MODEL_DIR [FILE...]\n");
        return 2;
    }
    double start = bench_now_s();
    if (tarni_tokenizer_open(argv[1], 0, &tarni_heap, &t, &error) != TARN_OK)
        give_up(argv[1]);
    printf("opened in %.1f ms\n", (bench_now_s() - start) * 1e3);
    for (int i = 2; i < argc; i++)
        measure_file(t, argv[i]);
    if (argc == 2)
        measure_made(t, argv[1]);
    tarni_tokenizer_free(t);
    return 0;
}
