/* Messages that stream in: ids, segments and logits are those of the whole message, bit for bit,
 * whatever the pieces and wherever steps run in between. */
#include "check.h"
#include "fixture.h"

static const char *const texts[] = {
    "The build failed: 3 of 120 tests.\n\n    retry_count = 0  # it's wrong\n",
    ("\xe6\xbc\xa3\xe6\xbc\xaa\xe4\xb8\xad\xe6\x96\x87\xe6\xb5\x8b\xe8\xaf\x95 \xf0\x9f\x98\x80"
     "\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd, e\xcc\x81t\xc3\xa9  end"),
    "        \t\t\n\n\r\n      x=<|im_end|>;;;   ",
    "int main(void) { return 0xFFu >> 2; } // ok?",
    "we're it'LL they've \xff broken \xc3",
    ""};
enum { N_TEXTS = sizeof texts / sizeof texts[0] };

static void open_f32(rig *r)
{
    rig_open(r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32});
}

static tarn_message message(tarn_role role, const char *text, const char *call_id)
{
    return (tarn_message){.size = sizeof(tarn_message),
                          .role = role,
                          .text = text,
                          .text_bytes = text ? strlen(text) : 0,
                          .call_id = call_id};
}

static size_t whole(tarn_session *s, tarn_role role, const char *text, const char *call_id)
{
    size_t n;
    tarn_message m = message(role, text, call_id);
    OK(tarn_session_append_message(s, &m, &n, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    return n;
}

/* The same in pieces of `piece` bytes (0: of random sizes); steps run between some of them. */
static size_t pieces(rig *r, tarn_session *s, tarn_role role, const char *text, const char *call_id,
                     size_t piece, uint64_t seed)
{
    size_t n = 0, n_bytes = strlen(text);
    tarn_message m = message(role, NULL, call_id);
    OK(tarn_session_append_begin(s, &m, ERR));
    CHECK(rig_info(s).appending);
    for (size_t at = 0; at < n_bytes;) {
        size_t now = piece ? piece : 1 + rig_random(&seed) % 6;
        if (now > n_bytes - at)
            now = n_bytes - at;
        OK(tarn_session_append_bytes(s, text + at, now, NULL, ERR));
        at += now;
        if (rig_random(&seed) % 2)
            OK(tarn_engine_step(r->engine, NULL, ERR));
    }
    OK(tarn_session_append_end(s, &n, ERR));
    CHECK(!rig_info(s).appending);
    OK(tarn_session_run(s, NULL, NULL, ERR));
    return n;
}

/* Segments since the root, in one line. */
static void segments_of(rig *r, const char *name, char *out, size_t n_out)
{
    tarn_node_list list;
    size_t n = 0;
    out[0] = 0;
    OK(tarn_store_log(r->store, name, NULL, &list, ERR));
    for (size_t i = 0; i < list.n_entries; i++)
        for (size_t k = 0; k < list.entries[i].n_segments; k++) {
            const tarn_segment *g = &list.entries[i].segments[k];
            n += (size_t)snprintf(out + n, n_out - n, "%s%s %u%s%s|", g->continues ? "+" : "",
                                  tarn_role_name(g->role), g->n_tokens, g->closed ? "." : "",
                                  g->n_call_ids ? g->call_ids[0] : "");
        }
    tarn_node_list_free(&list);
}

static void check_same(rig *r, const char *text, size_t piece)
{
    char a_segments[512], b_segments[512];
    tarn_ids a_ids, b_ids;
    tarn_session *a = rig_session(r, "whole", NULL), *b = rig_session(r, "pieces", NULL);
    static const tarn_role roles[] = {TARN_ROLE_SYSTEM, TARN_ROLE_USER, TARN_ROLE_TOOL,
                                      TARN_ROLE_ASSISTANT};
    for (size_t i = 0; i < 4; i++) {
        const char *call_id = roles[i] == TARN_ROLE_TOOL ? "functions.read:0" : NULL;
        size_t n = whole(a, roles[i], text, call_id);
        CHECK_EQ(pieces(r, b, roles[i], text, call_id, piece, 77 * i + piece), n);
    }
    CHECK(rig_same_logits(a, b));
    rig_commit(a);
    rig_commit(b);
    OK(tarn_store_tokens(r->store, "whole", NULL, &a_ids, ERR));
    OK(tarn_store_tokens(r->store, "pieces", NULL, &b_ids, ERR));
    CHECK_EQ(a_ids.n_ids, b_ids.n_ids);
    CHECK_IDS(b_ids.ids, a_ids.ids, a_ids.n_ids < b_ids.n_ids ? a_ids.n_ids : b_ids.n_ids);
    segments_of(r, "whole", a_segments, sizeof a_segments);
    segments_of(r, "pieces", b_segments, sizeof b_segments);
    CHECK_TEXT(b_segments, a_segments);
    tarn_ids_free(&a_ids);
    tarn_ids_free(&b_ids);
    tarn_session_close(a);
    tarn_session_close(b);
    OK(tarn_store_remove(r->store, "whole", ERR));
    OK(tarn_store_remove(r->store, "pieces", ERR));
}

CASE(pieces_equal_the_whole)
{
    rig r;
    open_f32(&r);
    for (size_t i = 0; i < N_TEXTS; i++)
        for (size_t piece = 0; piece < 4; piece++)
            check_same(&r, texts[i], piece);
    rig_close(&r);
}

/* A text without markers is what tokenizing gives; ids within it end the stretch. */
CASE(a_bare_text)
{
    rig r;
    open_f32(&r);
    for (size_t i = 0; i < N_TEXTS; i++) {
        tarn_ids want;
        tarn_session *s = rig_loose(&r, "s"), *t = rig_loose(&r, "t");
        OK(tarn_model_tokenize(r.model, texts[i], strlen(texts[i]), false, &want, ERR));
        CHECK_EQ(pieces(&r, s, TARN_ROLE_TOKENS, texts[i], NULL, 1, i), want.n_ids);
        rig_feed(t, want.ids, want.n_ids);
        if (want.n_ids > 0)
            CHECK(rig_same_logits(s, t));
        tarn_ids_free(&want);
        tarn_session_close(s);
        tarn_session_close(t);
    }
    const uint32_t ids[] = {300, 301};
    size_t n;
    tarn_session *s = rig_session(&r, "mixed", NULL);
    tarn_message m = message(TARN_ROLE_USER, "don", NULL);
    OK(tarn_session_append_begin(s, &m, ERR)); /* its text is the first piece */
    OK(tarn_session_append_bytes(s, "'", 1, &n, ERR));
    CHECK_EQ(n, 0); /* don't may come yet */
    OK(tarn_session_append_tokens(s, ids, 2, ERR));
    OK(tarn_session_append_bytes(s, "t", 1, NULL, ERR));
    OK(tarn_session_append_end(s, &n, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    rig_commit(s);
    tarn_ids all, a, b;
    OK(tarn_store_tokens(r.store, "mixed", NULL, &all, ERR));
    OK(tarn_model_tokenize(r.model, "don'", 4, false, &a, ERR));
    OK(tarn_model_tokenize(r.model, "t", 1, false, &b, ERR));
    size_t text = 3; /* behind the header */
    CHECK_EQ(all.n_ids, n);
    CHECK_EQ(all.n_ids, text + a.n_ids + 2 + b.n_ids + 1);
    CHECK_IDS(all.ids + text, a.ids, a.n_ids);
    CHECK_IDS(all.ids + text + a.n_ids, ids, 2);
    CHECK_IDS(all.ids + text + a.n_ids + 2, b.ids, b.n_ids);
    tarn_ids_free(&all);
    tarn_ids_free(&a);
    tarn_ids_free(&b);
    char segments[128], want[128];
    segments_of(&r, "mixed", segments, sizeof segments);
    snprintf(want, sizeof want, "user %zu.|", n);
    CHECK_TEXT(segments, want);
    tarn_session_close(s);
    rig_close(&r);
}

/* What is safe is computed before the end is known, and kept by a commit in between. */
CASE(computed_while_it_streams)
{
    rig r;
    open_f32(&r);
    tarn_session *s = rig_session(&r, "s", NULL), *t = rig_session(&r, "t", NULL);
    static const char text[] = "billing listens on port 4821 and the worker is ok";
    tarn_message m = message(TARN_ROLE_TOOL, NULL, "functions.read:0");
    OK(tarn_session_append_begin(s, &m, ERR));
    uint64_t before = 0;
    for (size_t i = 0; i < sizeof text - 1; i += 10) {
        size_t n = sizeof text - 1 - i < 10 ? sizeof text - 1 - i : 10;
        OK(tarn_session_append_bytes(s, text + i, n, NULL, ERR));
        OK(tarn_session_run(s, NULL, NULL, ERR));
        CHECK(rig_info(s).at.position > before);
        before = rig_info(s).at.position;
        if (i == 20)
            CHECK_EQ(rig_commit(s).at.position, before);
    }
    OK(tarn_session_append_end(s, NULL, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK(rig_info(s).at.position - before <= 4);
    whole(t, TARN_ROLE_TOOL, text, "functions.read:0");
    CHECK(rig_same_logits(s, t));
    rig_commit(s);
    rig_commit(t);
    tarn_session_close(s);
    s = rig_session(&r, "s", NULL); /* and resumes so */
    CHECK(rig_same_logits(s, t));
    static rig_told told, cold;
    rig_answer(s, 5, &told);
    rig_answer(t, 5, &cold);
    CHECK_EQ(told.n_appended, 3); /* the header: the message is closed */
    CHECK_IDS(told.ids, cold.ids, 5);
    tarn_session_close(s);
    tarn_session_close(t);
    rig_close(&r);
}

CASE(what_an_open_message_refuses)
{
    rig r;
    tarn_message m = message(TARN_ROLE_USER, "x", NULL), bad = message(TARN_ROLE_TOOL, "x", NULL);
    open_f32(&r);
    tarn_session *s = rig_session(&r, "s", NULL);
    REFUSED(tarn_session_append_bytes(s, "x", 1, NULL, ERR), TARN_E_CONFLICT, "no message");
    REFUSED(tarn_session_append_end(s, NULL, ERR), TARN_E_CONFLICT, "no message");
    REFUSED(tarn_session_append_begin(s, &bad, ERR), TARN_E_INVALID, "id of its call");
    OK(tarn_session_append_begin(s, &m, ERR));
    REFUSED(tarn_session_append_begin(s, &m, ERR), TARN_E_CONFLICT, "end it first");
    REFUSED(tarn_session_append_message(s, &m, NULL, ERR), TARN_E_CONFLICT, "end it first");
    REFUSED(tarn_session_append_tools(s, "[]", 2, NULL, ERR), TARN_E_CONFLICT, "end it first");
    REFUSED(tarn_session_generate(s, NULL, ERR), TARN_E_CONFLICT, "end it first");
    REFUSED(tarn_session_append_bytes(s, NULL, 1, NULL, ERR), TARN_E_INVALID, "NULL");
    OK(tarn_session_run(s, NULL, NULL, ERR));
    tarn_session *f = rig_fork(s, "f"); /* without the message: inside its beginning */
    CHECK(!rig_info(f).appending);
    tarn_session_close(f);
    OK(tarn_session_append_end(s, NULL, ERR));
    OK(tarn_session_append_begin(s, &m, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    OK(tarn_session_rewind(s, "@t:0", NULL, ERR)); /* gives it up */
    CHECK(!rig_info(s).appending);
    REFUSED(tarn_session_append_end(s, NULL, ERR), TARN_E_CONFLICT, "no message");
    tarn_session_close(s);
    s = rig_session(&r, "u", NULL); /* closing while one is open */
    OK(tarn_session_append_begin(s, &m, ERR));
    tarn_session_close(s);
    rig_close(&r);
    rig tiny;
    rig_open(&tiny, RIG_TINY, NULL);
    s = rig_loose(&tiny, "s");
    REFUSED(tarn_session_append_begin(s, &m, ERR), TARN_E_UNSUPPORTED, "tokenizer");
    m.role = TARN_ROLE_TOKENS;
    REFUSED(tarn_session_append_begin(s, &m, ERR), TARN_E_UNSUPPORTED, "tokenizer");
    tarn_session_close(s);
    rig_close(&tiny);
}

/* F1, F2: at any moment, from anywhere; the next append is that of a session never cancelled. */
CASE(cancelled_while_it_streams)
{
    static const char text[] = "one two three four five six seven eight nine ten";
    rig r;
    open_f32(&r);
    for (int when = 0; when < 3; when++) {
        tarn_session *s = rig_session(&r, "s", NULL);
        whole(s, TARN_ROLE_USER, "Read the log.", NULL);
        uint64_t before = rig_commit(s).at.position;
        tarn_message m = message(TARN_ROLE_USER, NULL, NULL);
        OK(tarn_session_append_begin(s, &m, ERR));
        if (when > 0) {
            OK(tarn_session_append_bytes(s, text, 20, NULL, ERR));
            OK(tarn_session_run(s, NULL, NULL, ERR));
        }
        if (when > 1)
            OK(tarn_session_append_bytes(s, text + 20, 10, NULL, ERR));
        tarn_session_cancel(s);
        tarn_session_cancel(s);
        REFUSED(tarn_session_append_bytes(s, text, 1, NULL, ERR), TARN_E_CANCELLED, "cancelled");
        REFUSED(tarn_session_append_end(s, NULL, ERR), TARN_E_CANCELLED, "cancelled");
        CHECK_EQ(rig_info(s).tokens_waiting, 0);
        CHECK_EQ(rig_info(s).state, TARN_SESSION_IDLE);
        char where[32];
        snprintf(where, sizeof where, "@t:%u", (unsigned)before);
        OK(tarn_session_rewind(s, where, NULL, ERR));
        whole(s, TARN_ROLE_USER, text, NULL);
        tarn_session *t = rig_loose(&r, "t");
        whole(t, TARN_ROLE_USER, "Read the log.", NULL);
        whole(t, TARN_ROLE_USER, text, NULL);
        CHECK(rig_same_logits(s, t));
        tarn_session_close(t);
        tarn_session_close(s);
        OK(tarn_store_remove(r.store, "s", ERR));
    }
    rig_close(&r);
}

/* A piece that does not fit is not taken; the message can still be ended. */
CASE(the_context_ends_a_message)
{
    rig r;
    open_f32(&r);
    tarn_model_info info = {.size = sizeof info};
    OK(tarn_model_describe(r.model, TARN_NUMERICS_F32, &info, ERR));
    tarn_session *s = rig_loose(&r, "s");
    uint32_t *ids = calloc(info.context, sizeof *ids);
    for (uint32_t i = 0; i < info.context - 10; i++)
        ids[i] = 300;
    OK(tarn_session_append_tokens(s, ids, info.context - 10, ERR));
    tarn_message m = message(TARN_ROLE_USER, NULL, NULL);
    size_t n;
    OK(tarn_session_append_begin(s, &m, ERR));
    REFUSED(tarn_session_append_bytes(s, "7 7 7 7 7 7 7 7 7 7 7 7", 23, &n, ERR), TARN_E_LIMIT,
            "context");
    CHECK_EQ(rig_info(s).tokens_waiting, info.context - 10 + 3);
    OK(tarn_session_append_bytes(s, "7 7 ", 4, &n, ERR));
    OK(tarn_session_append_end(s, &n, ERR));
    CHECK(n <= 10);
    tarn_session_close(s);
    free(ids);
    rig_close(&r);
}

/* Every piece's tokens stay one segment, and the queue does not grow with the pieces. */
CASE(states_are_kept_inside_a_stream)
{
    rig r;
    rig_open(
        &r, RIG_RECALL,
        &(tarn_engine_options){.n_threads = 1, .numerics = TARN_NUMERICS_F32, .keep_every = 16});
    tarn_session *s = rig_session(&r, "s", NULL);
    tarn_message m = message(TARN_ROLE_USER, NULL, NULL);
    OK(tarn_session_append_begin(s, &m, ERR));
    for (int i = 0; i < 100; i++) {
        OK(tarn_session_append_bytes(s, "7 ", 2, NULL, ERR));
        OK(tarn_session_run(s, NULL, NULL, ERR));
    }
    OK(tarn_session_append_end(s, NULL, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    uint64_t end = rig_commit(s).at.position;
    for (uint64_t t = 0; t < end; t += 7) {
        char where[32];
        tarn_price price;
        tarn_at at;
        snprintf(where, sizeof where, "@t:%u", (unsigned)t);
        OK(tarn_store_price(r.store, "s", where, &at, &price, ERR));
        CHECK(price.replay_tokens < 16);
    }
    tarn_session_close(s);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(pieces_equal_the_whole), ENTRY(a_bare_text), ENTRY(computed_while_it_streams),
           ENTRY(what_an_open_message_refuses), ENTRY(cancelled_while_it_streams),
           ENTRY(the_context_ends_a_message), ENTRY(states_are_kept_inside_a_stream))
