/* What a step as a whole relies on: states left inside an append, and graphs that are replayed with
 * other sessions, other lengths and padding. Runs on the emulator and on a device. */
#include "check.h"
#include "bed.h"
#include "mirror.h"

#define HEADS       2
#define DIM         128
#define CHANNELS    (HEADS * DIM)
#define WIDTH       4
#define OFFSET      (3 * (WIDTH - 1) * CHANNELS * 4) /* of the state in a slot, behind the tails */
#define STATE_BYTES (HEADS * DIM * DIM * 4)
#define SLOT_BYTES  (OFFSET + STATE_BYTES)

static void must(int error)
{
    if (error != 0) {
        printf("%s\n", tarnk_cuda_error(error));
        exit(1);
    }
}

static void *device_copy(const void *from, size_t n_bytes)
{
    void *to;
    must(tarnk_cuda_alloc(&to, n_bytes));
    must(tarnk_cuda_upload(to, from, n_bytes, mirror_context()->stream));
    must(tarnk_cuda_wait(mirror_context()->stream));
    return to;
}

static void fetch(void *to, const void *from, size_t n_bytes)
{
    must(tarnk_cuda_download(to, from, n_bytes, mirror_context()->stream));
    must(tarnk_cuda_wait(mirror_context()->stream));
}

typedef struct rows {
    float *q, *k, *v, *g, *beta, *x[TARNK_CONV_PARTS], *weight[TARNK_CONV_PARTS];
} rows;

static rows make_rows(uint32_t n)
{
    const size_t all = (size_t)n * CHANNELS;
    rows r = {bed_floats(all, 1, 0.088F),
              bed_floats(all, 2, 0.088F),
              bed_floats(all, 3, 1),
              bed_floats(all, 4, 0.2F),
              bed_filled((size_t)n * HEADS, 0.5F),
              {0},
              {0}};
    for (size_t i = 0; i < all; i++)
        r.g[i] = -fabsf(r.g[i]);
    for (uint64_t p = 0; p < TARNK_CONV_PARTS; p++) {
        r.x[p] = bed_floats(all, 10 + p, 1);
        r.weight[p] = bed_floats(CHANNELS * WIDTH, 20 + p, 1);
    }
    return r;
}

static tarnk_kda_args kda_of(const rows *r, const tarnk_seq *seqs, uint32_t n_seqs, float *out)
{
    return (tarnk_kda_args){r->q, r->k,   r->v,  r->g, r->beta, out,
                            seqs, n_seqs, HEADS, DIM,  DIM,     OFFSET};
}

/* Conv tails and states after n rows of a session from `read`, by the ops, into `write`. */
static void run_rows(const tarnk_ops *ops, const rows *r, uint32_t n, uint8_t *read, uint8_t *write)
{
    tarnk_seq seq = {.n_rows = n, .state_read = read, .state_write = write};
    float *out = bed_alloc((size_t)n * CHANNELS * 4);
    tarnk_conv1d_args conv = {
        .x = {r->x[0], r->x[1], r->x[2]},
        .weight = {r->weight[0], r->weight[1], r->weight[2]},
        .out = {out, bed_alloc((size_t)n * CHANNELS * 4), bed_alloc((size_t)n * CHANNELS * 4)},
        .seqs = &seq,
        .n_seqs = 1,
        .n = CHANNELS,
        .width = WIDTH};
    tarnk_kda_args kda = kda_of(r, &seq, 1, out);
    CHECK_EQ(ops->conv1d(&conv, mirror_context()), 0);
    CHECK_EQ(ops->kda(&kda, mirror_context()), 0);
}

CASE(states_inside_an_append_are_those_of_a_shorter_one)
{
    const uint32_t n = 200;
    const tarnk_ops *ops = mirror_ops(true, (size_t)74240 * HEADS * 2); /* two chunks a segment */
    REQUIRE(ops);
    rows r = make_rows(n);
    uint8_t *read = bed_alloc(SLOT_BYTES), *write = bed_alloc(SLOT_BYTES);
    memcpy(read, bed_floats(SLOT_BYTES / 4, 5, 0.3F), SLOT_BYTES);
    uint8_t *plain = bed_copy(write, SLOT_BYTES);
    run_rows(ops, &r, n, read, plain);
    tarnk_export exports[2] = {{0, 64, NULL}, {0, 192, NULL}};
    for (int e = 0; e < 2; e++)
        exports[e].slot = device_copy(write, SLOT_BYTES);
    tarnk_cuda_step *step = &mirror_cuda()->step;
    step->exports = device_copy(exports, sizeof exports);
    step->n_exports = 2;
    run_rows(ops, &r, n, read, write);
    CHECK_BYTES(write, plain, SLOT_BYTES); /* asking changes nothing else */
    tarnk_cuda_free((void *)(uintptr_t)step->exports);
    step->exports = NULL;
    step->n_exports = 0;
    for (int e = 0; e < 2; e++) {
        float *got = bed_alloc(SLOT_BYTES), *want = bed_alloc(SLOT_BYTES);
        fetch(got, exports[e].slot, SLOT_BYTES);
        run_rows(ops, &r, exports[e].row, read, (uint8_t *)want);
        CHECK_BYTES(got, want, OFFSET);
        size_t wrong = 0;
        for (size_t h = 0; h < HEADS; h++)
            for (size_t i = 0; i < DIM; i++)
                for (size_t j = 0; j < DIM; j++)
                    wrong += got[OFFSET / 4 + (h * DIM + j) * DIM + i] !=
                             want[OFFSET / 4 + (h * DIM + i) * DIM + j];
        CHECK_EQ(wrong, 0);
        tarnk_cuda_free(exports[e].slot);
    }
    bed_end();
}

#define SESSIONS 4

/* Decode rows of up to 4 sessions through one recorded step: `used` of them, the rest padding. */
static void replay(const tarnk_ops *ops, void *graph, const rows *r, uint8_t *const *slots,
                   tarnk_seq *seqs_on_device, const float *out_on_device, const uint32_t *order,
                   uint32_t used)
{
    tarnk_seq seqs[SESSIONS];
    uint8_t *before[SESSIONS];
    void *stream = mirror_context()->stream;
    for (uint32_t i = 0; i < SESSIONS; i++) {
        seqs[i] = (tarnk_seq){.row_begin = i < used ? i : used, .n_rows = i < used};
        if (i < used) {
            seqs[i].state_read = seqs[i].state_write = slots[order[i]];
            before[i] = bed_alloc(SLOT_BYTES);
            fetch(before[i], slots[order[i]], SLOT_BYTES);
        }
    }
    must(tarnk_cuda_upload(seqs_on_device, seqs, sizeof seqs, stream));
    must(tarnk_cuda_graph_run(graph, stream));
    CHECK_EQ(mirror_end(tarnk_cuda_wait(stream)), 0);
    float out[SESSIONS * CHANNELS];
    fetch(out, out_on_device, sizeof out);
    for (uint32_t i = 0; i < used; i++) {
        rows one = *r;
        float *slot = bed_alloc(SLOT_BYTES), *want = bed_alloc(CHANNELS * 4), *after, *state;
        one.q += (size_t)i * CHANNELS;
        one.k += (size_t)i * CHANNELS;
        one.v += (size_t)i * CHANNELS;
        one.g += (size_t)i * CHANNELS;
        one.beta += (size_t)i * HEADS;
        memcpy(slot, before[i], SLOT_BYTES);
        for (size_t h = 0; h < HEADS; h++) /* as the host keeps it */
            for (size_t a = 0; a < DIM; a++)
                for (size_t b = 0; b < DIM; b++)
                    memcpy(&slot[OFFSET / 4 + (h * DIM + b) * DIM + a],
                           before[i] + OFFSET + ((h * DIM + a) * DIM + b) * 4, 4);
        tarnk_seq seq = {
            .n_rows = 1, .state_read = (uint8_t *)slot, .state_write = (uint8_t *)slot};
        tarnk_kda_args kda = kda_of(&one, &seq, 1, want);
        CHECK_EQ(ops->kda(&kda, mirror_context()), 0);
        CHECK_BYTES(out + (size_t)i * CHANNELS, want, CHANNELS * 4);
        after = bed_alloc(SLOT_BYTES);
        fetch(after, slots[order[i]], SLOT_BYTES);
        state = slot + OFFSET / 4;
        CHECK(after[OFFSET / 4 + 5 * DIM + 9] == state[9 * DIM + 5]);
    }
}

CASE(a_graph_serves_other_sessions_and_fewer)
{
    const tarnk_ops *ops = mirror_ops(true, 0);
    REQUIRE(ops);
    rows r = make_rows(SESSIONS);
    const size_t all = SESSIONS * CHANNELS * 4;
    uint8_t *slots[SESSIONS];
    for (uint64_t i = 0; i < SESSIONS; i++)
        slots[i] = device_copy(bed_floats(SLOT_BYTES / 4, 30 + i, 0.3F), SLOT_BYTES);
    tarnk_seq none[SESSIONS] = {{0}};
    rows on_device = {device_copy(r.q, all),
                      device_copy(r.k, all),
                      device_copy(r.v, all),
                      device_copy(r.g, all),
                      device_copy(r.beta, SESSIONS * HEADS * 4),
                      {0},
                      {0}};
    float *out = device_copy(bed_filled(SESSIONS * CHANNELS, 0), all);
    tarnk_seq *seqs = device_copy(none, sizeof none);
    void *stream = mirror_context()->stream, *graph;
    tarnk_kda_args kda = kda_of(&on_device, seqs, SESSIONS, out);
    mirror_cuda()->step = (tarnk_cuda_step){.n_rows = SESSIONS, .rows_max = 1, .keys_max = 1};
    must(tarnk_cuda_record_begin(stream));
    CHECK_EQ(tarnk_cuda_ops()->kda(&kda, mirror_context()), 0);
    must(tarnk_cuda_record_end(stream, &graph));
    const uint32_t first[] = {2, 0}, second[] = {3, 2, 1, 0}, third[] = {1};
    replay(ops, graph, &r, slots, seqs, out, first, 2);
    replay(ops, graph, &r, slots, seqs, out, second, 4);
    replay(ops, graph, &r, slots, seqs, out, third, 1);
    tarnk_cuda_graph_free(graph);
    for (uint32_t i = 0; i < SESSIONS; i++)
        tarnk_cuda_free(slots[i]);
    float *const given[] = {on_device.q, on_device.k,    on_device.v,
                            on_device.g, on_device.beta, out};
    for (size_t i = 0; i < sizeof given / sizeof given[0]; i++)
        tarnk_cuda_free(given[i]);
    tarnk_cuda_free(seqs);
    bed_end();
}

CASE(workspaces_grow_with_rows_and_stay_bounded_by_keys)
{
    tarnk_cuda_sizes s = {1, 8, 4096, 32, 32};
    CHECK_EQ(tarnk_cuda_workspace(&s), 2 * 4096 * 2);
    s.n_rows_max = 8192;
    s.n_seqs_max = 1;
    CHECK(tarnk_cuda_workspace(&s) >= (size_t)16 * 32 * 74240);
    CHECK(tarnk_cuda_workspace(&s) <= (size_t)192 << 20);
    CHECK(tarnk_cuda_mla_workspace(1, 32, 512, 64, 128, 16384) >= (size_t)64 * 32 * 512);
    CHECK(tarnk_cuda_mla_workspace(1, 32, 512, 64, 128, 1 << 20) <= (size_t)516 * 32 * 514);
    CHECK_EQ(tarnk_cuda_mla_workspace(64, 32, 512, 64, 128, 9),
             tarnk_cuda_mla_workspace(100000, 32, 512, 64, 128, 9));
}

CHECK_MAIN(ENTRY(states_inside_an_append_are_those_of_a_shorter_one),
           ENTRY(a_graph_serves_other_sessions_and_fewer),
           ENTRY(workspaces_grow_with_rows_and_stay_bounded_by_keys))
