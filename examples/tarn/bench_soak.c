/* bench_soak.c - tarn bench soak: many sessions append, generate, commit, fork, park, leave and
 * come back for --seconds, in an engine that has room for half of them; and does anything grow?
 *
 * What grew is the most of the last quarter less the most of the second: in the first everything
 * fills up. The file of a store has grown into its pages by then, too. */
#include "bench_bed.h"
#include "print.h"
#include "verbs.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SESSIONS = 48, ACTIVE = 8, LONGEST = 2048, APPEND = 128, ANSWER = 16, QUARTERS = 4 };
enum { BRIEF_SESSIONS = 6, BRIEF_ACTIVE = 2, BRIEF_LONGEST = 96, BRIEF_APPEND = 16 };

#define SECONDS      480
#define PINNED_BYTES ((uint64_t)512 << 20)

typedef struct level {
    double resident, host, file;
} level;

typedef struct soak {
    bench b;
    tarn_session *sessions[SESSIONS];
    uint32_t n, active, longest, append;
    level most[QUARTERS];
    uint32_t n_over; /* looks that found more than a ceiling */
    uint64_t n_tokens, n_parked, n_forked, n_removed;
} soak;

static void name_of(char name[16], uint32_t i)
{
    snprintf(name, 16, "s%u", i);
}

static double resident_bytes(void)
{
    unsigned long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%lu %lu", &all, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static void raise_to(double *most, double now)
{
    *most = now > *most ? now : *most;
}

static tarn_status look(soak *k, int quarter)
{
    tarn_engine_stat e = {.size = sizeof e};
    tarn_store_stat store = {.size = sizeof store};
    tarn_engine_get_stat(k->b.o.engine, &e);
    BENCH_TRY(tarn_store_get_stat(k->b.o.store, &store, &k->b.err));
    k->n_over += e.slots_bytes > e.slots_bytes_max || e.pages_bytes > e.pages_bytes_max ||
                 e.pinned_bytes > e.pinned_bytes_max;
    level *most = &k->most[quarter < QUARTERS ? quarter : QUARTERS - 1];
    raise_to(&most->resident, resident_bytes());
    raise_to(&most->host, (double)e.host_bytes);
    raise_to(&most->file, (double)store.file_bytes);
    return TARN_OK;
}

/* Its name is free after that. */
static tarn_status remove_one(soak *k, uint32_t i)
{
    char name[16];
    name_of(name, i);
    tarn_session_close(k->sessions[i]);
    k->sessions[i] = NULL;
    k->n_removed++;
    return tarn_store_remove(k->b.o.store, name, &k->b.err);
}

static tarn_status fork_one(soak *k, uint32_t from, uint32_t to)
{
    char name[16];
    name_of(name, to);
    if (from == to)
        return TARN_OK;
    BENCH_TRY(remove_one(k, to));
    k->n_forked++;
    return tarn_session_fork(k->sessions[from], name, &k->sessions[to], &k->b.err);
}

static tarn_status come_back(soak *k, uint32_t i)
{
    char name[16];
    name_of(name, i);
    tarn_session_close(k->sessions[i]);
    k->sessions[i] = NULL;
    return bench_open_kept(&k->b, name, &k->sessions[i]);
}

static tarn_status feed_one(soak *k, uint32_t i)
{
    char name[16];
    const tarn_generate_options o = {.size = sizeof o,
                                     .n_tokens_max = 1 + bench_any(&k->b, ANSWER)};
    uint32_t n = 1 + bench_any(&k->b, k->append);
    if (bench_position(k->sessions[i]) + n + ANSWER > k->longest) {
        name_of(name, i);
        BENCH_TRY(remove_one(k, i));
        BENCH_TRY(bench_open_kept(&k->b, name, &k->sessions[i]));
    }
    BENCH_TRY(bench_append(&k->b, k->sessions[i], n));
    return tarn_session_generate(k->sessions[i], &o, &k->b.err);
}

/* Some at once, then one of each of the other things. */
static tarn_status turn(soak *k)
{
    tarn_engine_stat before = {.size = sizeof before}, after = before;
    const uint32_t first = bench_any(&k->b, k->n);
    tarn_ticket ticket;
    tarn_engine_get_stat(k->b.o.engine, &before);
    for (uint32_t i = 0; i < k->active; i++)
        BENCH_TRY(feed_one(k, (first + i) % k->n));
    BENCH_TRY(bench_drain(&k->b));
    for (uint32_t i = 0; i < k->active; i++)
        BENCH_TRY(tarn_session_commit_begin(k->sessions[(first + i) % k->n], &ticket, &k->b.err));
    BENCH_TRY(fork_one(k, first, bench_any(&k->b, k->n)));
    BENCH_TRY(come_back(k, bench_any(&k->b, k->n)));
    uint32_t parks = bench_any(&k->b, k->n);
    BENCH_TRY(tarn_session_commit(k->sessions[parks], NULL, &k->b.err));
    BENCH_TRY(tarn_session_park(k->sessions[parks], &k->b.err));
    k->n_parked++;
    tarn_engine_get_stat(k->b.o.engine, &after);
    k->n_tokens += after.rows_computed - before.rows_computed;
    return TARN_OK;
}

static tarn_status go_on(soak *k, double seconds)
{
    char name[16];
    for (uint32_t i = 0; i < k->n; i++) {
        name_of(name, i);
        BENCH_TRY(bench_open_kept(&k->b, name, &k->sessions[i]));
    }
    const double start = bench_now_ms();
    for (double gone = 0; gone < seconds; gone = (bench_now_ms() - start) / 1e3) {
        BENCH_TRY(turn(k));
        BENCH_TRY(look(k, (int)(QUARTERS * gone / seconds)));
        print_progress("soaking", "seconds", (uint64_t)gone, (uint64_t)seconds);
    }
    return TARN_OK;
}

static void tell(soak *k, double took_s)
{
    tarn_engine_stat e = {.size = sizeof e};
    const level *early = &k->most[1], *late = &k->most[QUARTERS - 1];
    rows *r = k->b.rows;
    bench_close_all(k->sessions, k->n);
    tarn_engine_get_stat(k->b.o.engine, &e);
    rows_add(r, "soak_seconds", took_s, "s", 0);
    rows_add(r, "soak_tok_s", (double)k->n_tokens / took_s, "tok/s", 0);
    rows_add(r, "soak_parked", (double)k->n_parked, "sessions", 0);
    rows_add(r, "soak_forked", (double)k->n_forked, "sessions", 0);
    rows_add(r, "soak_removed", (double)k->n_removed, "sessions", 0);
    rows_add(r, "soak_over_ceiling", k->n_over, "looks", 0);
    rows_add(r, "soak_resident_bytes", late->resident, "bytes", 0);
    rows_add(r, "soak_resident_growth_pct", 100 * (late->resident / early->resident - 1), "percent",
             0);
    rows_add(r, "soak_host_growth_bytes", late->host - early->host, "bytes", 0);
    rows_add(r, "soak_file_bytes", late->file, "bytes", 0);
    rows_add(r, "soak_file_growth_pct", 100 * (late->file / early->file - 1), "percent", 0);
    rows_add(r, "soak_left_on_device", (double)(e.slots + e.pages), "slots and pages", 0);
}

int verb_bench_soak(const arguments *args)
{
    soak k = {.n = SESSIONS, .active = ACTIVE, .longest = LONGEST, .append = APPEND};
    static const rows_peer none = {NULL, {{NULL, 0}}};
    const bool brief = given(args, OPTION_QUICK);
    const double seconds =
        given(args, OPTION_SECONDS) ? (double)args->options[OPTION_SECONDS].number : SECONDS;
    if (brief) {
        k.n = BRIEF_SESSIONS;
        k.active = BRIEF_ACTIVE;
        k.longest = BRIEF_LONGEST;
        k.append = BRIEF_APPEND;
    }
    const tarn_engine_options options = {.pinned_bytes_max = PINNED_BYTES,
                                         .tokens_max = k.n / 2 * (uint64_t)k.longest};
    int code = bench_begin(&k.b, args, &options, &none);
    double start = bench_now_ms();
    if (code == 0)
        code = bench_code(&k.b, go_on(&k, seconds));
    if (code == 0)
        tell(&k, (bench_now_ms() - start) / 1e3);
    bench_close_all(k.sessions, k.n);
    return bench_end(&k.b, code);
}
