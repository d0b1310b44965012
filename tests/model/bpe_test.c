/* Merging, against a plain rendering of its rule. */
#include "bpe.h"
#include "vectors.h"

/* The rule as it is told: while some adjacent pair has a rank, merge the leftmost of lowest rank.
 */
static void merge_plainly(const tarni_vocab *v, const uint8_t *bytes, uint32_t n, tarni_ids *out)
{
    uint32_t cuts[1025], n_parts = n;
    REQUIRE(n <= 1024);
    for (uint32_t i = 0; i <= n; i++)
        cuts[i] = i;
    if (tarni_vocab_rank(v, bytes, n) != TARNI_NO_RANK) {
        cuts[1] = n;
        n_parts = 1;
    }
    for (;;) {
        uint32_t best = TARNI_NO_RANK, best_at = 0;
        for (uint32_t i = 0; i + 1 < n_parts; i++) {
            uint32_t rank = tarni_vocab_rank(v, bytes + cuts[i], cuts[i + 2] - cuts[i]);
            if (rank < best) {
                best = rank;
                best_at = i;
            }
        }
        if (best == TARNI_NO_RANK)
            break;
        n_parts--;
        memmove(&cuts[best_at + 1], &cuts[best_at + 2], (n_parts - best_at) * sizeof *cuts);
    }
    for (uint32_t i = 0; i < n_parts; i++)
        REQUIRE(tarni_ids_push(out, tarni_vocab_rank(v, bytes + cuts[i], cuts[i + 1] - cuts[i]),
                               &error) == TARN_OK);
}

static void compare(tarni_bpe *b, const uint8_t *bytes, uint32_t n)
{
    tarni_ids got, want;
    tarni_ids_init(&got, &tarni_heap);
    tarni_ids_init(&want, &tarni_heap);
    merge_plainly(b->vocab, bytes, n, &want);
    CHECK_STATUS(tarni_bpe_piece(b, bytes, n, &got, &error), TARN_OK);
    if (got.n_ids != want.n_ids || memcmp(got.ids, want.ids, got.n_ids * sizeof *got.ids) != 0)
        CHECK_FAIL("%u bytes: other merges", n);
    tarni_ids_fini(&want);
    tarni_ids_fini(&got);
}

/* Short and long pieces take different ways through the code; ranks of the vocabulary, put one
 * behind the other, make them full of merges that compete. */
CASE(same_merges_as_the_rule)
{
    tarni_vocab v;
    tarni_bpe b;
    uint64_t seed = 5;
    REQUIRE_OK(tarni_vocab_open(&v, SMALL_VOCABULARY "/tiktoken.model", &tarni_heap, &error),
               &error);
    tarni_bpe_init(&b, &v, 1000, &tarni_heap);
    for (int round = 0; round < 3000; round++) {
        uint8_t bytes[1024];
        uint32_t n = 0, size = 1 + next_random(&seed) % (round % 4 == 0 ? 400 : 30);
        uint32_t spread = round % 3 == 0 ? v.n_ranks : 3 + next_random(&seed) % 700;
        while (n < size) {
            uint32_t rank = next_random(&seed) % spread;
            uint32_t rank_bytes = v.starts[rank + 1] - v.starts[rank];
            if (round % 5 == 0)
                rank_bytes = 1;
            memcpy(bytes + n, v.bytes + v.starts[rank], rank_bytes);
            n += rank_bytes;
        }
        compare(&b, bytes, n);
    }
    for (uint32_t n = 1; n <= 600; n++) { /* ties all along */
        uint8_t bytes[600];
        memset(bytes, n % 2 ? 'a' : '!', n);
        compare(&b, bytes, n);
    }
    for (int round = 0; round < 3000; round++) { /* a few tokens again and again */
        uint8_t bytes[1024];
        uint32_t n = 0, unit = 0, n_tokens = 1 + next_random(&seed) % 4;
        for (uint32_t i = 0; i < n_tokens; i++) {
            uint32_t rank = next_random(&seed) % (3 + next_random(&seed) % v.n_ranks);
            uint32_t rank_bytes = v.starts[rank + 1] - v.starts[rank];
            memcpy(bytes + unit, v.bytes + v.starts[rank], rank_bytes);
            unit += rank_bytes;
        }
        while (n < unit || n < 97 + next_random(&seed) % 300) {
            bytes[n] = bytes[n % unit];
            n++;
        }
        compare(&b, bytes, n);
    }
    tarni_bpe_fini(&b);
    tarni_vocab_fini(&v, &tarni_heap);
}

/* These ranks are found whole, though no merge leads to them. */
CASE(whole_pieces_come_first)
{
    static const char *const whole[] = {" tarnish", "Quetzal", "\xe6\xbc\xa3\xe6\xbc\xaa", "::=>"};
    tarni_vocab v;
    tarni_bpe b;
    tarni_ids ids;
    REQUIRE_OK(tarni_vocab_open(&v, SMALL_VOCABULARY "/tiktoken.model", &tarni_heap, &error),
               &error);
    tarni_bpe_init(&b, &v, 100, &tarni_heap);
    tarni_ids_init(&ids, &tarni_heap);
    for (size_t i = 0; i < 4; i++)
        CHECK_STATUS(tarni_bpe_piece(&b, (const uint8_t *)whole[i], strlen(whole[i]), &ids, &error),
                     TARN_OK);
    CHECK_EQ(ids.n_ids, 4);
    CHECK_STATUS(tarni_bpe_piece(&b, (const uint8_t *)"Quetzals", 8, &ids, &error), TARN_OK);
    CHECK(ids.n_ids > 6);
    tarni_ids_fini(&ids);
    tarni_bpe_fini(&b);
    tarni_vocab_fini(&v, &tarni_heap);
}

CASE(a_large_piece_is_no_square)
{
    tarni_vocab v;
    tarni_bpe b;
    tarni_ids ids;
    size_t n = 4000000; /* minutes, if the cost were quadratic */
    uint8_t *bytes = malloc(n);
    memset(bytes, 'a', n);
    REQUIRE_OK(tarni_vocab_open(&v, SMALL_VOCABULARY "/tiktoken.model", &tarni_heap, &error),
               &error);
    tarni_bpe_init(&b, &v, n, &tarni_heap);
    tarni_ids_init(&ids, &tarni_heap);
    CHECK_STATUS(tarni_bpe_piece(&b, bytes, n, &ids, &error), TARN_OK);
    CHECK_EQ(ids.n_ids, n / 2);
    tarni_ids_fini(&ids);
    tarni_bpe_fini(&b);
    tarni_vocab_fini(&v, &tarni_heap);
    free(bytes);
}

CHECK_MAIN(ENTRY(same_merges_as_the_rule), ENTRY(whole_pieces_come_first),
           ENTRY(a_large_piece_is_no_square))
