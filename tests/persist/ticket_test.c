/* Commits that are submitted: one writer, many tickets. */
#include "draft.h"
#include "handle.h"
#include "store_kit.h"

#include <pthread.h>
#include <sys/wait.h>
#include <signal.h>
#include <sys/resource.h>

#define MANY 20

/* A commit with its own memory, so that it can be spoilt after it was submitted. */
typedef struct order {
    kit_content content;
    kit_layout layout;
    char *call_ids[1];
    tarnp_segment segments[2];
    char numerics[16];
    tarnp_commit commit;
    tarnp_ticket *ticket;
    uint64_t seed;
} order;

static void prepare(order *o, uint64_t id, uint64_t head, uint64_t seed)
{
    memset(o, 0, sizeof *o);
    kit_fill(&o->content, seed);
    kit_lay(&o->layout, &o->content);
    o->seed = seed;
    o->call_ids[0] = o->content.call_id;
    o->segments[0] = (tarnp_segment){
        .role = TARN_ROLE_USER, .flags = TARNP_SEGMENT_CLOSED, .n_tokens = o->content.n_tokens - 1};
    o->segments[1] = (tarnp_segment){
        .role = TARN_ROLE_ASSISTANT, .n_tokens = 1, .n_call_ids = 1, .call_ids = o->call_ids};
    snprintf(o->numerics, sizeof o->numerics, "cpu/f32");
    o->commit = (tarnp_commit){.session_id = id,
                               .expected_head = head,
                               .move_head = true,
                               .parent = head,
                               .flags = TARNP_NODE_HAS_STATE,
                               .numerics = o->numerics,
                               .tokens = o->content.tokens,
                               .n_tokens = o->content.n_tokens,
                               .segments = o->segments,
                               .n_segments = 2,
                               .sections = o->layout.sections,
                               .n_sections = 3};
    kit_key(o->commit.key, seed);
    memcpy(o->commit.fp, kit_fp, sizeof kit_fp);
}

/* Everything the caller gave becomes something else. */
static void spoil(order *o)
{
    memset(o->content.state, 0xAA, 8 * kit_floats * sizeof(float));
    free(o->content.state);
    tarnp_ticket *ticket = o->ticket;
    uint64_t seed = o->seed;
    memset(o, 0xAA, sizeof *o);
    o->ticket = ticket;
    o->seed = seed;
}

static tarn_status submit(kit *k, order *o, uint64_t id, uint64_t head, uint64_t seed)
{
    prepare(o, id, head, seed);
    tarn_status status = tarnp_commit_submit(k->store, &o->commit, &o->ticket, &k->err);
    spoil(o);
    return status;
}

static uint64_t last_transaction(kit *k)
{
    tarnp_txn txn;
    if (tarnp_read_begin(k->store, &txn, &k->err) != TARN_OK)
        return 0;
    uint64_t id = tarnp_txn_id(&txn);
    tarnp_txn_abort(&txn);
    return id;
}

/* Sessions s0, s1, ... */
static void make_sessions(kit *k, uint64_t ids[MANY], uint64_t heads[MANY])
{
    for (int i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        heads[i] = kit_create(k, name);
        ids[i] = kit_id(k, name);
    }
}

CASE(submitted_commits_are_written)
{
    static const tarnp_durability levels[] = {TARNP_DURABLE, TARNP_RELAXED, TARNP_DEFERRED,
                                              TARNP_SCRATCH};
    for (size_t l = 0; l < 4; l++) {
        kit k;
        uint64_t ids[MANY], heads[MANY];
        order orders[MANY];
        kit_folder(&k);
        k.options.durability = levels[l];
        REQUIRE(kit_reopen(&k));
        make_sessions(&k, ids, heads);
        for (uint64_t i = 0; i < MANY; i++)
            REQUIRE_OK(submit(&k, &orders[i], ids[i], heads[i], 100 + i), &k.err);
        for (int i = 0; i < MANY; i++) {
            tarnp_committed made, polled;
            uint64_t node;
            uint8_t key[TARNP_KEY_BYTES];
            REQUIRE_OK(tarnp_ticket_wait(k.store, orders[i].ticket, TARNP_TICKET_WRITTEN,
                                         TARNP_WAIT_FOREVER, &made, &k.err),
                       &k.err);
            CHECK(made.node > heads[i] && !made.existed && made.bytes_written > 4096);
            kit_check_node(&k, made.node, orders[i].seed);
            kit_key(key, orders[i].seed);
            CHECK_STATUS(tarnp_commit_find(k.store, key, &node, &k.err), TARN_OK);
            CHECK_EQ(node, made.node);
            tarnp_ticket_state state = tarnp_ticket_poll(orders[i].ticket, &polled, &k.err);
            bool lazy = levels[l] == TARNP_RELAXED || levels[l] == TARNP_SCRATCH;
            if (i == 0)
                CHECK_EQ(state, lazy ? TARNP_TICKET_WRITTEN : TARNP_TICKET_SYNCED);
            CHECK_EQ(polled.node, made.node);
            tarn_status synced = tarnp_ticket_wait(k.store, orders[i].ticket, TARNP_TICKET_SYNCED,
                                                   1000, NULL, &k.err);
            CHECK_STATUS(synced, levels[l] == TARNP_SCRATCH ? TARN_E_UNSUPPORTED : TARN_OK);
            if (levels[l] != TARNP_SCRATCH)
                CHECK_EQ(tarnp_ticket_poll(orders[i].ticket, NULL, NULL), TARNP_TICKET_SYNCED);
            tarnp_ticket_free(orders[i].ticket);
        }
        CHECK_STATUS(tarnp_store_flush(k.store, &k.err), TARN_OK);
        KIT_CLEAN(&k);
        kit_end(&k);
    }
}

/* Twenty commits, one transaction; and what one wrote is in the counters once. */
CASE(many_share_a_transaction)
{
    kit k;
    uint64_t ids[MANY], heads[MANY];
    order orders[MANY];
    kit_folder(&k);
    k.options.durability = TARNP_DEFERRED;
    REQUIRE(kit_reopen(&k));
    make_sessions(&k, ids, heads);
    tarnp_stat before = kit_stat(&k);
    uint64_t txn = last_transaction(&k), sum = 0, put = tarnp_store_bytes_put(k.store);
    tarnp_write w; /* the writer cannot begin while this one is open */
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    for (uint64_t i = 0; i < MANY; i++) {
        REQUIRE_OK(submit(&k, &orders[i], ids[i], heads[i], 100 + i), &k.err);
        CHECK_EQ(tarnp_ticket_poll(orders[i].ticket, NULL, NULL), TARNP_TICKET_MEMORY);
    }
    CHECK_STATUS(tarnp_ticket_wait(k.store, orders[3].ticket, TARNP_TICKET_MEMORY, 0, NULL, &k.err),
                 TARN_OK);
    CHECK_STATUS(
        tarnp_ticket_wait(k.store, orders[3].ticket, TARNP_TICKET_WRITTEN, 5, NULL, &k.err),
        TARN_E_BUSY);
    CHECK_HAS(k.err.detail, "not written within 5 ms");
    CHECK_EQ(tarnp_ticket_poll(orders[3].ticket, NULL, NULL), TARNP_TICKET_MEMORY);
    tarnp_write_abort(&w, TARN_OK);
    REQUIRE_OK(tarnp_store_flush(k.store, &k.err), &k.err);
    for (int i = 0; i < MANY; i++) {
        tarnp_committed made;
        CHECK_EQ(tarnp_ticket_poll(orders[i].ticket, &made, &k.err), TARNP_TICKET_SYNCED);
        sum += made.bytes_written;
        tarnp_ticket_free(orders[i].ticket);
    }
    /* The first may have gone alone if the writer was very quick. */
    CHECK(last_transaction(&k) - txn <= 2);
    CHECK_EQ(kit_stat(&k).bytes_written - before.bytes_written, sum);
    CHECK_EQ(tarnp_store_bytes_put(k.store) - put, sum);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(a_refused_commit_fails_alone)
{
    kit k;
    uint64_t ids[MANY], heads[MANY];
    order o[6];
    tarnp_lease lease;
    tarnp_committed made, first = {0};
    tarnp_write w;
    REQUIRE(kit_begin(&k));
    make_sessions(&k, ids, heads);
    REQUIRE_OK(tarnp_lease_take(k.store, ids[3], 3600000, NULL, &lease, &k.err), &k.err);
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    REQUIRE_OK(submit(&k, &o[0], ids[0], heads[0], 1), &k.err);
    REQUIRE_OK(submit(&k, &o[1], ids[1], heads[0], 2), &k.err); /* not its head */
    REQUIRE_OK(submit(&k, &o[2], 9999, heads[0], 3), &k.err);
    REQUIRE_OK(submit(&k, &o[3], ids[3], heads[3], 4), &k.err); /* leased */
    REQUIRE_OK(submit(&k, &o[4], ids[4], heads[4], 5), &k.err);
    REQUIRE_OK(submit(&k, &o[5], ids[0], heads[0], 1), &k.err); /* the first again */
    tarnp_write_abort(&w, TARN_OK);
    static const tarn_status want[] = {TARN_OK,     TARN_E_CONFLICT, TARN_E_NOT_FOUND,
                                       TARN_E_BUSY, TARN_OK,         TARN_OK};
    for (int i = 0; i < 6; i++) {
        CHECK_STATUS(tarnp_ticket_wait(k.store, o[i].ticket, TARNP_TICKET_WRITTEN,
                                       TARNP_WAIT_FOREVER, &made, &k.err),
                     want[i]);
        CHECK((tarnp_ticket_poll(o[i].ticket, NULL, NULL) == TARNP_TICKET_FAILED) ==
              (want[i] != TARN_OK));
        if (i == 0)
            first = made;
        if (i == 3)
            CHECK_HAS(k.err.detail, "session s3 is open for writing in this process");
        if (i == 5)
            CHECK(made.existed && made.bytes_written == 0 && made.node == first.node);
        tarnp_ticket_free(o[i].ticket);
    }
    CHECK_EQ(kit_head(&k, "s0"), first.node);
    CHECK_EQ(kit_head(&k, "s1"), heads[1]);
    /* What is wrong by itself is said by submit. */
    order bad;
    prepare(&bad, ids[0], first.node, 6);
    bad.commit.n_tokens++;
    CHECK_STATUS(tarnp_commit_submit(k.store, &bad.commit, &bad.ticket, &k.err), TARN_E_INVALID);
    CHECK(bad.ticket == NULL);
    spoil(&bad);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* What is wrong only in its place: another model's, and a prefix that does not lead there. */
CASE(refused_by_the_writer)
{
    kit k;
    uint64_t ids[MANY], heads[MANY];
    order o[4];
    tarnp_committed made;
    static const tarn_status want[] = {TARN_E_MISMATCH, TARN_E_INVALID, TARN_OK, TARN_OK};
    REQUIRE(kit_begin(&k));
    make_sessions(&k, ids, heads);
    for (int i = 0; i < 4; i++) {
        prepare(&o[i], ids[i], heads[i], (uint64_t)i + 1);
        if (i == 0)
            o[i].commit.fp[31] ^= 1;
        if (i == 3)
            o[i].commit.numerics = NULL; /* said nowhere, which is allowed */
        uint32_t longer[KIT_TOKENS_MAX + 1] = {7};
        memcpy(longer + 1, o[i].commit.tokens, o[i].commit.n_tokens * sizeof *longer);
        if (i == 1) {
            o[i].commit.prefix = longer;
            o[i].commit.n_prefix = (size_t)o[i].commit.n_tokens + 1;
        }
        REQUIRE_OK(tarnp_commit_submit(k.store, &o[i].commit, &o[i].ticket, &k.err), &k.err);
        spoil(&o[i]);
    }
    for (int i = 0; i < 4; i++) {
        CHECK_STATUS(tarnp_ticket_wait(k.store, o[i].ticket, TARNP_TICKET_WRITTEN,
                                       TARNP_WAIT_FOREVER, &made, &k.err),
                     want[i]);
        tarnp_ticket_free(o[i].ticket);
    }
    CHECK_EQ(kit_head(&k, "s0"), heads[0]);
    CHECK_EQ(kit_head(&k, "s1"), heads[1]);
    CHECK(kit_head(&k, "s2") != heads[2]);
    tarnp_ticket_free(NULL);
    tarnp_draft_free(k.store, NULL);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* A child has no writer: it is told so, and its tickets are the parent's to free. */
CASE(tickets_in_a_child)
{
    kit k;
    uint64_t ids[MANY], heads[MANY];
    order o;
    int status = -1;
    tarnp_committed made;
    REQUIRE(kit_begin(&k));
    make_sessions(&k, ids, heads);
    REQUIRE_OK(submit(&k, &o, ids[0], heads[0], 1), &k.err);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        bool told = tarnp_ticket_wait(k.store, o.ticket, TARNP_TICKET_SYNCED, TARNP_WAIT_FOREVER,
                                      &made, &k.err) == TARN_E_INVALID;
        told = told && tarnp_store_flush(k.store, &k.err) == TARN_E_INVALID;
        tarnp_ticket_free(o.ticket);
        exit(told && made.node == 0 ? 0 : 1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_STATUS(tarnp_ticket_wait(k.store, o.ticket, TARNP_TICKET_SYNCED, TARNP_WAIT_FOREVER,
                                   &made, &k.err),
                 TARN_OK);
    tarnp_ticket_free(o.ticket);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* Nothing is collected, evicted or freed through a handle that only reads. */
CASE(a_handle_that_only_reads)
{
    kit k;
    uint64_t freed;
    tarnp_gc_report report;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t node = kit_append(&k, "main", 1);
    k.options.create = false;
    k.options.read_only = true;
    REQUIRE(kit_reopen(&k));
    const tarnp_gc_options dry = {.dry_run = true};
    CHECK_STATUS(tarnp_store_gc(k.store, NULL, &report, &k.err), TARN_E_INVALID);
    CHECK_HAS(k.err.detail, "for reading only");
    CHECK_STATUS(tarnp_store_gc(k.store, &dry, &report, &k.err), TARN_OK);
    tarni_free(tarnp_store_allocator(k.store), report.dropped);
    CHECK_STATUS(tarnp_node_evict(k.store, node, TARNP_PART_STATE, &freed, &k.err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_session_remove(k.store, "main", &k.err), TARN_E_INVALID);
    kit_check_node(&k, node, 1);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* One that does not fit must not take the others with it. */
CASE(one_that_does_not_fit)
{
    kit k;
    uint64_t ids[MANY], heads[MANY];
    order o[3];
    tarnp_write w;
    kit_folder(&k);
    k.options.map_bytes = (size_t)640 << 10;
    REQUIRE(kit_reopen(&k));
    make_sessions(&k, ids, heads);
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    REQUIRE_OK(submit(&k, &o[0], ids[0], heads[0], 1), &k.err);
    kit_floats = 32768; /* 1 MiB of state */
    REQUIRE_OK(submit(&k, &o[1], ids[1], heads[1], 2), &k.err);
    kit_floats = 256;
    REQUIRE_OK(submit(&k, &o[2], ids[2], heads[2], 3), &k.err);
    tarnp_write_abort(&w, TARN_OK);
    for (int i = 0; i < 3; i++) {
        tarnp_committed made;
        tarn_status status = tarnp_ticket_wait(k.store, o[i].ticket, TARNP_TICKET_SYNCED,
                                               TARNP_WAIT_FOREVER, &made, &k.err);
        CHECK_STATUS(status, i == 1 ? TARN_E_NO_SPACE : TARN_OK);
        if (i != 1)
            kit_check_node(&k, made.node, o[i].seed);
        tarnp_ticket_free(o[i].ticket);
    }
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* The disk refuses in the middle of a transaction: nobody is told it went well. */
CASE(an_unknown_outcome_reaches_every_ticket)
{
    kit k;
    uint64_t ids[MANY], heads[MANY], node;
    order o[4];
    struct rlimit before, small;
    kit_folder(&k);
    REQUIRE(kit_reopen(&k));
    make_sessions(&k, ids, heads);
    kit_floats = 32768;
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = before;
    small.rlim_cur = kit_stat(&k).file_bytes;
    signal(SIGXFSZ, SIG_IGN);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    tarnp_write w;
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    for (uint64_t i = 0; i < 4; i++)
        REQUIRE_OK(submit(&k, &o[i], ids[i], heads[i], 1 + i), &k.err);
    tarnp_write_abort(&w, TARN_OK);
    for (int i = 0; i < 4; i++) {
        tarn_status status = tarnp_ticket_wait(k.store, o[i].ticket, TARNP_TICKET_WRITTEN,
                                               TARNP_WAIT_FOREVER, NULL, &k.err);
        CHECK(status == TARN_E_IO || (i > 0 && status == TARN_E_POISONED));
        CHECK_EQ(tarnp_ticket_poll(o[i].ticket, NULL, &k.err), TARNP_TICKET_FAILED);
        tarnp_ticket_free(o[i].ticket);
    }
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK_STATUS(submit(&k, &o[0], ids[0], heads[0], 9), TARN_E_POISONED);
    CHECK_STATUS(tarnp_store_flush(k.store, &k.err), TARN_E_POISONED);
    REQUIRE(kit_reopen(&k));
    KIT_CLEAN(&k);
    for (uint64_t i = 0; i < 4; i++) {
        uint8_t key[TARNP_KEY_BYTES];
        kit_key(key, 1 + i);
        CHECK_STATUS(tarnp_commit_find(k.store, key, &node, &k.err), TARN_E_NOT_FOUND);
    }
    kit_floats = 256;
    kit_end(&k);
}

/* A queue of two, then of one byte: submit waits, and everything arrives. */
CASE(a_full_queue)
{
    for (int by_bytes = 0; by_bytes < 2; by_bytes++) {
        kit k;
        uint64_t ids[MANY], heads[MANY];
        kit_folder(&k);
        k.options.durability = TARNP_DEFERRED;
        k.options.queue_length_max = by_bytes ? 0 : 2;
        k.options.queue_bytes_max = by_bytes ? 1 : 0;
        REQUIRE(kit_reopen(&k));
        make_sessions(&k, ids, heads);
        for (uint64_t i = 0; i < MANY; i++) {
            order o;
            REQUIRE_OK(submit(&k, &o, ids[i], heads[i], 100 + i), &k.err);
            tarnp_ticket_free(o.ticket); /* nobody waits for it */
        }
        REQUIRE(kit_reopen(&k)); /* close writes what is left */
        for (uint64_t i = 0; i < MANY; i++) {
            char name[16];
            snprintf(name, sizeof name, "s%d", (int)i);
            CHECK(kit_head(&k, name) > heads[i]);
            kit_check_node(&k, kit_head(&k, name), 100 + i);
        }
        KIT_CLEAN(&k);
        kit_end(&k);
    }
}

typedef struct watch {
    kit *k;
    order *orders;
    pthread_mutex_t mutex;
    pthread_cond_t more;
    int n_submitted;
    uint64_t nodes[200];
} watch;

/* Waits for each ticket in turn while the other thread goes on calling the store. */
static void *watch_tickets(void *arg)
{
    watch *w = arg;
    tarn_error err;
    for (int i = 0; i < 200; i++) {
        tarnp_committed made = {0};
        pthread_mutex_lock(&w->mutex);
        while (w->n_submitted <= i)
            pthread_cond_wait(&w->more, &w->mutex);
        pthread_mutex_unlock(&w->mutex);
        while (tarnp_ticket_poll(w->orders[i].ticket, NULL, NULL) == TARNP_TICKET_MEMORY)
            if (tarnp_ticket_wait(w->k->store, w->orders[i].ticket, TARNP_TICKET_SYNCED,
                                  TARNP_WAIT_FOREVER, &made, &err) != TARN_OK)
                break;
        (void)tarnp_ticket_poll(w->orders[i].ticket, &made, NULL);
        w->nodes[i] = made.node;
        tarnp_ticket_free(w->orders[i].ticket);
    }
    return NULL;
}

CASE(one_thread_submits_another_waits)
{
    static const tarnp_durability levels[] = {TARNP_DURABLE, TARNP_RELAXED, TARNP_DEFERRED};
    for (size_t l = 0; l < 3; l++) {
        kit k;
        static order orders[200];
        watch w = {.k = &k, .orders = orders};
        pthread_t thread;
        kit_folder(&k);
        k.options.durability = levels[l];
        REQUIRE(kit_reopen(&k));
        kit_create(&k, "a");
        uint64_t id = kit_id(&k, "a"), root = kit_head(&k, "a");
        pthread_mutex_init(&w.mutex, NULL);
        pthread_cond_init(&w.more, NULL);
        REQUIRE(pthread_create(&thread, NULL, watch_tickets, &w) == 0);
        for (uint64_t i = 0; i < 200; i++) {
            prepare(&orders[i], id, TARNP_NODE_NONE, 100 + i);
            orders[i].commit.parent = root;
            orders[i].commit.move_head = false;
            tarn_status status =
                tarnp_commit_submit(k.store, &orders[i].commit, &orders[i].ticket, &k.err);
            spoil(&orders[i]);
            REQUIRE_OK(status, &k.err);
            pthread_mutex_lock(&w.mutex);
            w.n_submitted++;
            pthread_cond_signal(&w.more);
            pthread_mutex_unlock(&w.mutex);
            if (i % 10 == 0)
                kit_append(&k, "a", 10000 + i); /* and writes of its own */
            CHECK_EQ(kit_stat(&k).sessions, 1);
        }
        pthread_join(thread, NULL);
        for (uint64_t i = 0; i < 200; i++)
            kit_check_node(&k, w.nodes[i], 100 + i);
        pthread_mutex_destroy(&w.mutex);
        pthread_cond_destroy(&w.more);
        KIT_CLEAN(&k);
        kit_end(&k);
    }
}

/* ---- memory --------------------------------------------------------------------------------- */

typedef struct meter {
    pthread_mutex_t mutex; /* the writer allocates too */
    long left;             /* calls until one fails; negative: none fails */
    long live;
} meter;

static void *meter_resize(void *user, void *memory, size_t n)
{
    meter *m = user;
    pthread_mutex_lock(&m->mutex);
    bool fails = m->left >= 0 && m->left-- == 0;
    m->live += !fails && memory == NULL;
    pthread_mutex_unlock(&m->mutex);
    return fails ? NULL : realloc(memory, n);
}

static void *meter_alloc(void *user, size_t n)
{
    return meter_resize(user, NULL, n);
}

static void meter_release(void *user, void *memory)
{
    meter *m = user;
    pthread_mutex_lock(&m->mutex);
    m->live -= memory != NULL;
    pthread_mutex_unlock(&m->mutex);
    free(memory);
}

/* Leases and tickets, until the first error. */
static tarn_status call_all(kit *k)
{
    tarnp_session s;
    tarnp_lease lease;
    order o;
    TARNI_TRY(tarnp_store_open(k->path, &k->options, &k->store, &k->err));
    TARNI_TRY(tarnp_session_create(k->store, "a", kit_fp, "n", NULL, 0, &s, &k->err));
    uint64_t id = s.id, head = s.head;
    tarnp_session_fini(&s);
    TARNI_TRY(tarnp_lease_take(k->store, id, 1000, "n", &lease, &k->err));
    TARNI_TRY(tarnp_lease_renew(k->store, &lease, 1000, &k->err));
    TARNI_TRY(tarnp_lease_release(k->store, &lease, &k->err));
    TARNI_TRY(submit(k, &o, id, head, 1));
    tarn_status status = tarnp_ticket_wait(k->store, o.ticket, TARNP_TICKET_SYNCED,
                                           TARNP_WAIT_FOREVER, NULL, &k->err);
    tarnp_ticket_free(o.ticket);
    return status;
}

CASE(every_allocation_fails)
{
    for (long at = 0;; at++) {
        kit k;
        meter m = {PTHREAD_MUTEX_INITIALIZER, at, 0};
        const tarn_allocator allocator = {meter_alloc, meter_resize, meter_release, &m};
        kit_folder(&k);
        k.options.allocator = &allocator;
        tarn_status status = call_all(&k);
        tarnp_store_close(k.store);
        k.store = NULL;
        CHECK_EQ(m.live, 0);
        CHECK(status == TARN_OK || status == TARN_E_NO_MEMORY);
        k.options.allocator = NULL;
        if (kit_reopen(&k))
            KIT_CLEAN(&k);
        kit_end(&k);
        if (m.left >= 0 || check_failures > 20) {
            CHECK_STATUS(status, TARN_OK);
            printf("    %ld allocations\n", at);
            return;
        }
    }
}

CHECK_MAIN(ENTRY(submitted_commits_are_written), ENTRY(many_share_a_transaction),
           ENTRY(a_refused_commit_fails_alone), ENTRY(refused_by_the_writer),
           ENTRY(tickets_in_a_child), ENTRY(a_handle_that_only_reads), ENTRY(one_that_does_not_fit),
           ENTRY(an_unknown_outcome_reaches_every_ticket), ENTRY(a_full_queue),
           ENTRY(one_thread_submits_another_waits), ENTRY(every_allocation_fails))
