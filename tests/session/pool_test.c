/* One budget for states and latents: many short sessions and a few long ones in turn, in memory
 * that is not enough for both, and nobody can tell from the logits. */
#include "check.h"
#include "fixture.h"
#include "resident.h"

/* Of the emulated device (tests/cuda_emu/emu.hpp); NULL elsewhere. */
void emu_range_unit(size_t n_bytes) __attribute__((weak));
void emu_fail_maps(int after) __attribute__((weak));
void emu_range_support(bool value) __attribute__((weak));
void emu_hide_entry(const char *name) __attribute__((weak));
unsigned mirror_faults(const char **first) __attribute__((weak));

enum { SHORT = 3, LONG = RIG_FEW(320, 192), SHORTS_MAX = 32, LONGS_MAX = 16, BUDGET = 384 << 10 };

typedef struct pool {
    rig r;
    tarn_plan_report plan;
    uint64_t bytes;
    size_t n_shorts, n_longs; /* as many as there is room for, of the one or the other */
    uint32_t ids[LONG + 64];
    rig_trace rows; /* of an engine with room for all */
} pool;

static void check_stat(const pool *p)
{
    tarn_engine_stat stat = rig_stat(&p->r);
    CHECK(stat.pool_bytes_max <= p->bytes &&
          stat.pool_bytes_max + stat.pool_chunk_bytes > p->bytes);
    CHECK(stat.slots_pool_bytes + stat.pages_pool_bytes <= stat.pool_bytes_max);
    CHECK(stat.slots_bytes + p->plan.slot_bytes <= stat.slots_pool_bytes); /* the zero slot too */
    CHECK(stat.pages_bytes <= stat.pages_pool_bytes);
    CHECK(stat.slots_bytes <= stat.slots_bytes_max && stat.pages_bytes <= stat.pages_bytes_max);
}

static void open_pool(pool *p, const tarn_log *log)
{
    memset(p, 0, sizeof *p);
    if (emu_range_unit)
        emu_range_unit(8 << 10);
    rig_open(&p->r, RIG_TINY, NULL);
    p->r.session_flags = TARN_SESSION_NO_PREFIX;
    p->plan.size = sizeof p->plan;
    OK(tarn_plan(p->r.model, NULL, &p->plan, ERR));
    rig_ids(&p->r, 3, p->ids, LONG + 64);
    tarn_session *cold = rig_loose(&p->r, "cold");
    rig_trace_begin(&p->rows, cold);
    rig_feed(cold, p->ids, LONG + 64);
    tarn_session_close(cold);
    p->bytes = BUDGET;
    uint64_t slot = p->plan.slot_bytes, page = p->plan.page_bytes, left = p->bytes - 4 * slot;
    p->n_shorts = (size_t)(left / (slot + page));
    p->n_longs = (size_t)(left / (slot + LONG / 64 * page));
    REQUIRE(p->n_shorts > 4 && p->n_shorts <= SHORTS_MAX);
    REQUIRE(p->n_longs > 1 && p->n_longs <= LONGS_MAX);
    rig_restart_engine(
        &p->r, &(tarn_engine_options){.n_threads = 1, .pool_bytes_max = p->bytes, .log = log});
}

static void close_pool(pool *p)
{
    CHECK_EQ(rig_stat(&p->r).slots, 0);
    CHECK_EQ(rig_stat(&p->r).pages, 0);
    rig_trace_free(&p->rows);
    if (mirror_faults)
        CHECK_EQ(mirror_faults(NULL), 0);
    rig_close(&p->r);
    if (emu_range_unit)
        emu_range_unit(0);
}

/* So many sessions of so many tokens at once, each with the logits it must have. Returns what most
 * of it is: bytes of states or of latents. */
static uint64_t fill(pool *p, size_t n_sessions, size_t n_tokens)
{
    tarn_session *s[SHORTS_MAX];
    for (size_t i = 0; i < n_sessions; i++) {
        s[i] = rig_loose(&p->r, "loose");
        rig_feed(s[i], p->ids, n_tokens);
        check_stat(p);
    }
    for (size_t i = 0; i < n_sessions; i++) {
        CHECK(rig_logits_are(s[i], &p->rows, n_tokens));
        rig_feed(s[i], p->ids + n_tokens, 1);
        CHECK(rig_logits_are(s[i], &p->rows, n_tokens + 1));
    }
    tarn_engine_stat stat = rig_stat(&p->r);
    for (size_t i = 0; i < n_sessions; i++)
        tarn_session_close(s[i]);
    return n_tokens == SHORT ? stat.slots_bytes : stat.pages_bytes;
}

CASE(two_hundred_swings)
{
    enum { SWINGS = RIG_FEW(200, 2), WARM = RIG_FEW(20, 1) };
    static pool p;
    tarn_engine_stat before = {0};
    uint64_t rss = 0;
    open_pool(&p, NULL);
    for (int i = 0; i < SWINGS + WARM; i++) {
        if (i == WARM) {
            before = rig_stat(&p.r);
            rss = rss_bytes();
        }
        uint64_t slots = fill(&p, p.n_shorts, SHORT), pages = fill(&p, p.n_longs, LONG - 1);
        CHECK(slots + pages > p.bytes); /* with a part for each there is no room for both */
    }
    tarn_engine_stat now = rig_stat(&p.r);
    CHECK(now.pool_trades >= before.pool_trades + SWINGS);
    CHECK_EQ(now.pool_bytes_max, before.pool_bytes_max);
    CHECK(now.host_bytes <= before.host_bytes);
    CHECK(!RSS_COUNTS || rss_bytes() <= rss + ((uint64_t)2 << 20));
    printf("%d swings, %llu trades of %llu bytes\n", SWINGS,
           (unsigned long long)(now.pool_trades - before.pool_trades),
           (unsigned long long)now.pool_chunk_bytes);
    close_pool(&p);
}

/* They stay open and are parked to make room, and come back. */
CASE(open_ones_are_parked_and_come_back)
{
    enum { SWINGS = RIG_FEW(8, 2) };
    static pool p;
    static rig_told told;
    tarn_session *shorts[SHORTS_MAX], *longs[LONGS_MAX];
    open_pool(&p, NULL);
    for (size_t i = 0; i < p.n_shorts + p.n_longs; i++) {
        char name[32];
        snprintf(name, sizeof name, "s%zu", i);
        *(i < p.n_shorts ? &shorts[i] : &longs[i - p.n_shorts]) = rig_session(&p.r, name, NULL);
    }
    for (size_t swing = 0; swing < SWINGS; swing++) {
        for (size_t i = 0; i < p.n_shorts; i++) {
            tarn_ticket ticket; /* copies are on their way while chunks move */
            rig_feed(shorts[i], p.ids + swing, 1);
            OK(tarn_session_commit_begin(shorts[i], &ticket, ERR));
            check_stat(&p);
        }
        for (size_t i = 0; i < p.n_shorts; i++)
            CHECK(rig_logits_are(shorts[i], &p.rows, swing + 1));
        for (size_t i = 0; i < p.n_longs; i++) {
            size_t begin = swing > 0 ? LONG - 1 + swing : 0, end = LONG + swing;
            memset(&told, 0, sizeof told);
            OK(tarn_session_append_tokens(longs[i], p.ids + begin, end - begin, ERR));
            OK(tarn_session_run(longs[i], rig_hear, &told, ERR));
            CHECK(rig_logits_are(longs[i], &p.rows, end));
            rig_commit(longs[i]);
            check_stat(&p);
        }
    }
    CHECK(rig_stat(&p.r).pool_trades > SWINGS);
    CHECK(rig_stat(&p.r).parked > 0);
    for (size_t i = 0; i < p.n_shorts; i++)
        tarn_session_close(shorts[i]);
    for (size_t i = 0; i < p.n_longs; i++)
        tarn_session_close(longs[i]);
    CHECK_EQ(rig_verify(p.r.store), 0);
    close_pool(&p);
}

/* Generations go on, on a device as recorded graphs, while chunks move under them. */
CASE(generations_while_chunks_move)
{
    enum { N = RIG_FEW(24, 16), EACH = 4 };
    static pool p;
    static rig_told want, got;
    open_pool(&p, NULL);
    tarn_engine *small = p.r.engine;
    tarn_engine_options roomy = {.size = sizeof roomy, .n_threads = 1, .device = RIG_DEVICE};
    OK(tarn_engine_open(p.r.model, &roomy, &p.r.engine, ERR));
    tarn_session *s = rig_loose(&p.r, "a");
    rig_never_stop(&p.r, s);
    rig_feed(s, p.ids, 60);
    rig_answer(s, N, &want);
    tarn_session_close(s);
    tarn_engine_close(p.r.engine);
    p.r.engine = small;
    s = rig_loose(&p.r, "a");
    rig_never_stop(&p.r, s);
    rig_feed(s, p.ids, 60);
    for (size_t at = 0; at < N; at += EACH) {
        rig_answer(s, EACH, &got);
        CHECK_EQ(got.n_ids, EACH);
        CHECK_IDS(got.ids, want.ids + at, EACH);
        tarn_session *others[SHORTS_MAX];
        size_t n = at / EACH % 2 ? p.n_longs - 1 : p.n_shorts - 2;
        for (size_t i = 0; i < n; i++) {
            others[i] = rig_loose(&p.r, "b");
            rig_feed(others[i], p.ids, at / EACH % 2 ? LONG : SHORT);
        }
        for (size_t i = 0; i < n; i++)
            tarn_session_close(others[i]);
    }
    CHECK(rig_stat(&p.r).pool_trades > 2);
    tarn_session_close(s);
    close_pool(&p);
}

/* Nobody can be parked: what is asked is refused with the budget and what both kinds hold, and
 * granted when something comes free of the other kind. */
CASE(a_refusal_names_the_budget_and_both)
{
    static pool p;
    tarn_session *s[SHORTS_MAX];
    size_t n = 0;
    char words[64];
    open_pool(&p, NULL);
    snprintf(words, sizeof words, "share %llu bytes",
             (unsigned long long)rig_stat(&p.r).pool_bytes_max);
    tarn_session *grows = rig_loose(&p.r, "grows");
    rig_feed(grows, p.ids, 1);
    for (; n < p.n_longs - 1; n++) {
        s[n] = rig_loose(&p.r, "long");
        rig_feed(s[n], p.ids, LONG);
    }
    uint64_t left = rig_stat(&p.r).pool_bytes_max - rig_stat(&p.r).pages_bytes;
    REQUIRE(left < 64 * p.plan.page_bytes); /* its context would be 64 pages */
    uint32_t many[4095] = {0};
    REFUSED(tarn_session_append_tokens(grows, many, 4095, ERR), TARN_E_LIMIT, words);
    CHECK_HAS(rig_error.detail, "no room for a latent page beside ");
    CHECK_HAS(rig_error.detail, " slots of ");
    rig_feed(grows, p.ids + 1, 9); /* it is as it was */
    CHECK(rig_logits_are(grows, &p.rows, 10));
    size_t n_longs = n;
    for (tarn_status status = TARN_OK; status == TARN_OK; n++) {
        REQUIRE(n < SHORTS_MAX);
        s[n] = rig_loose(&p.r, "short");
        status = tarn_session_append_tokens(s[n], p.ids, SHORT, ERR);
        if (status == TARN_OK)
            rig_drain(&p.r);
    }
    CHECK_STATUS(rig_error.status, TARN_E_LIMIT);
    CHECK_HAS(rig_error.detail, words);
    CHECK_EQ(rig_info(s[n - 1]).at.position, 0);
    uint64_t n_trades = rig_stat(&p.r).pool_trades;
    tarn_session_close(s[0]); /* long ones: their chunks become slots */
    tarn_session_close(s[1]);
    rig_feed(s[n - 1], p.ids, SHORT);
    for (size_t i = 0; i < 2; i++) {
        s[i] = rig_loose(&p.r, "short");
        rig_feed(s[i], p.ids, SHORT);
    }
    CHECK(rig_stat(&p.r).pool_trades > n_trades);
    for (size_t i = 0; i < n; i++) {
        CHECK(rig_logits_are(s[i], &p.rows, i > 1 && i < n_longs ? LONG : SHORT));
        tarn_session_close(s[i]);
    }
    tarn_session_close(grows);
    close_pool(&p);
}

CASE(budgets_that_are_refused)
{
    static pool p;
    tarn_engine *e;
    open_pool(&p, NULL);
    tarn_engine_options o = {
        .size = sizeof o, .n_threads = 1, .device = RIG_DEVICE, .pool_bytes_max = 20000};
    REFUSED(tarn_engine_open(p.r.model, &o, &e, ERR), TARN_E_LIMIT,
            "pool_bytes_max is 20000: one session needs 4 slots");
    /* ceilings of their own hold as before */
    o.pool_bytes_max = p.bytes;
    o.slots_bytes_max = 5 * p.plan.slot_bytes;
    o.pages_bytes_max = 3 * p.plan.page_bytes;
    OK(tarn_engine_open(p.r.model, &o, &e, ERR));
    tarn_engine_stat stat = {.size = sizeof stat};
    tarn_engine_get_stat(e, &stat);
    CHECK_EQ(stat.slots_bytes_max, 5 * p.plan.slot_bytes);
    CHECK_EQ(stat.pages_bytes_max, 3 * p.plan.page_bytes);
    CHECK(stat.pool_bytes_max < p.bytes);
    tarn_session *s;
    OK(tarn_session_open(e, NULL, "a", NULL, &s, NULL, ERR));
    REFUSED(tarn_session_append_tokens(s, p.ids, 193, ERR), TARN_E_LIMIT, "all 3 latent pages");
    OK(tarn_session_append_tokens(s, p.ids, 192, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK(rig_logits_are(s, &p.rows, 192));
    tarn_session_close(s);
    tarn_engine_close(e);
    close_pool(&p);
}

/* ---- the emulated device alone ---- */

#define NEEDS_THE_EMULATOR()                                                                       \
    do {                                                                                           \
        if (!emu_range_unit)                                                                       \
            SKIP("asks the emulated device to fail");                                              \
    } while (0)

/* Memory that cannot be mapped: refused, nothing is lost, and granted later. */
CASE(a_chunk_that_cannot_be_mapped)
{
    NEEDS_THE_EMULATOR();
    for (int after = 0; after < 2; after++) {
        static pool p;
        tarn_session *shorts[SHORTS_MAX];
        open_pool(&p, NULL);
        (void)fill(&p, p.n_longs, LONG - 1);
        tarn_session *s = rig_loose(&p.r, "a");
        rig_feed(s, p.ids, LONG / 2);
        emu_fail_maps(after);
        size_t n = 0;
        tarn_status status = TARN_OK;
        while (status == TARN_OK && n < p.n_shorts - 2) {
            shorts[n] = rig_loose(&p.r, "short");
            status = tarn_session_append_tokens(shorts[n], p.ids, SHORT, ERR);
            if (status == TARN_OK)
                rig_drain(&p.r);
            n++;
        }
        CHECK_STATUS(status, TARN_E_LIMIT);
        CHECK_HAS(rig_error.detail, "cudaErrorMemoryAllocation");
        CHECK_EQ(rig_info(shorts[n - 1]).at.position, 0);
        check_stat(&p);
        rig_feed(s, p.ids + LONG / 2, 1);
        CHECK(rig_logits_are(s, &p.rows, LONG / 2 + 1));
        emu_fail_maps(-1);
        rig_feed(shorts[n - 1], p.ids, SHORT);
        for (size_t i = 0; i < n; i++) {
            CHECK(rig_logits_are(shorts[i], &p.rows, SHORT));
            tarn_session_close(shorts[i]);
        }
        rig_feed(s, p.ids + LONG / 2 + 1, LONG / 2 - 1);
        CHECK(rig_logits_are(s, &p.rows, LONG));
        tarn_session_close(s);
        close_pool(&p);
    }
}

static char warning[512];

static void keep_warning(void *user, tarn_log_level level, const char *message, const char *file,
                         int line)
{
    (void)user, (void)file, (void)line;
    if (level == TARN_LOG_WARN)
        snprintf(warning, sizeof warning, "%s", message);
}

/* One piece, split for good, and a line in the log. */
CASE(a_device_that_cannot_move_memory)
{
    NEEDS_THE_EMULATOR();
    const tarn_log log = {.fn = keep_warning, .level = TARN_LOG_WARN};
    for (int i = 0; i < 2; i++) {
        static pool p;
        if (i == 0)
            emu_range_support(false);
        else
            emu_hide_entry("cuMemMap");
        open_pool(&p, &log);
        CHECK_HAS(warning, i == 0 ? "no virtual memory management" : "no cuMemMap");
        CHECK_HAS(warning, "for good");
        CHECK_EQ(rig_stat(&p.r).pool_chunk_bytes, 0);
        tarn_session *s[4];
        for (size_t k = 0; k < 4; k++) {
            s[k] = rig_loose(&p.r, "a");
            rig_feed(s[k], p.ids, 70);
            CHECK(rig_logits_are(s[k], &p.rows, 70));
        }
        for (size_t k = 0; k < 4; k++)
            tarn_session_close(s[k]);
        close_pool(&p);
        emu_range_support(true);
        emu_hide_entry(NULL);
    }
}

CHECK_MAIN(ENTRY(two_hundred_swings), ENTRY(open_ones_are_parked_and_come_back),
           ENTRY(generations_while_chunks_move), ENTRY(a_refusal_names_the_budget_and_both),
           ENTRY(budgets_that_are_refused), ENTRY(a_chunk_that_cannot_be_mapped),
           ENTRY(a_device_that_cannot_move_memory))
