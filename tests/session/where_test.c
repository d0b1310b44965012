#include "where.h"

#include "check.h"

#include <string.h>

static tarn_status parse(const char *text, tarni_where *w)
{
    tarn_error err;
    tarn_status status = tarni_where_parse(text, w, &err);
    if (status != TARN_OK)
        CHECK_HAS(err.detail, "@n:ID, @t:POS, @turn:K or @before:CALL_ID");
    return status;
}

CASE(every_form)
{
    tarni_where w;
    CHECK_STATUS(parse(NULL, &w), TARN_OK);
    CHECK_EQ(w.kind, TARNI_WHERE_HEAD);
    CHECK_STATUS(parse("", &w), TARN_OK);
    CHECK_EQ(w.kind, TARNI_WHERE_HEAD);
    CHECK_STATUS(parse("@n:17", &w), TARN_OK);
    CHECK_EQ(w.kind, TARNI_WHERE_NODE);
    CHECK_EQ(w.node, 17);
    CHECK_STATUS(parse("@t:0", &w), TARN_OK);
    CHECK_EQ(w.kind, TARNI_WHERE_TOKEN);
    CHECK_EQ(w.token, 0);
    CHECK_STATUS(parse("@t:9223372036854775807", &w), TARN_OK);
    CHECK_EQ(w.token, INT64_MAX);
    CHECK_STATUS(parse("@turn:3", &w), TARN_OK);
    CHECK_EQ(w.kind, TARNI_WHERE_TURN);
    CHECK_EQ(w.turn, 3);
    CHECK_STATUS(parse("@turn:-2", &w), TARN_OK);
    CHECK_EQ(w.turn, -2);
    CHECK_STATUS(parse("@turn:-9223372036854775808", &w), TARN_OK);
    CHECK_STATUS(parse("@before:functions.grep:7", &w), TARN_OK);
    CHECK_EQ(w.kind, TARNI_WHERE_BEFORE);
    CHECK_TEXT(w.call_id, "functions.grep:7");
}

CASE(bad_forms)
{
    static const char *const bad[] = {"@",
                                      "17",
                                      "@x:1",
                                      "@n:",
                                      "@n:0",
                                      "@n:-1",
                                      "@n:x",
                                      "@n:1x",
                                      "@n: 1",
                                      "@n:+1",
                                      "@n:1 ",
                                      "@t:",
                                      "@t:-1",
                                      "@t:-0",
                                      "@t:\t5",
                                      "@t:\n5",
                                      "@t:0x10",
                                      "@t:1.5",
                                      "@t:--",
                                      "@turn:",
                                      "@turn:-",
                                      "@turn:- 1",
                                      "@turn:1-",
                                      "@before:",
                                      "@N:1",
                                      " @n:1",
                                      "n:1",
                                      "@t:9223372036854775808",
                                      "@turn:-9223372036854775809",
                                      "@n:18446744073709551617"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tarni_where w;
        if (parse(bad[i], &w) != TARN_E_INVALID)
            CHECK_FAIL("\"%s\" was taken for a place", bad[i]);
    }
    char *long_text = malloc(100001);
    REQUIRE(long_text != NULL);
    memset(long_text, '7', 100000);
    memcpy(long_text, "@t:", 3);
    long_text[100000] = 0;
    tarni_where w;
    CHECK_STATUS(parse(long_text, &w), TARN_E_INVALID);
    free(long_text);
}

/* ---- places in a chain ---- */

static char call_a[] = "functions.a:0", call_b[] = "functions.b:1";
static char *calls_ab[] = {call_a, call_b}, *calls_a[] = {call_a};

enum { CONTINUES = TARNP_SEGMENT_CONTINUES, CLOSED = TARNP_SEGMENT_CLOSED };

/* system 10 | user 5, assistant 4 .. | .. 6 (calls a, b), tool 7 | assistant 3 (calls a), tokens 2
 */
static tarnp_segment first[] = {{TARN_ROLE_SYSTEM, CLOSED, 10, 0, NULL}};
static tarnp_segment second[] = {{TARN_ROLE_USER, CLOSED, 5, 0, NULL},
                                 {TARN_ROLE_ASSISTANT, 0, 4, 0, NULL}};
static tarnp_segment third[] = {{TARN_ROLE_ASSISTANT, CONTINUES | CLOSED, 6, 2, calls_ab},
                                {TARN_ROLE_TOOL, CLOSED, 7, 1, calls_a}};
static tarnp_segment fourth[] = {{TARN_ROLE_ASSISTANT, CLOSED, 3, 1, calls_a},
                                 {TARN_ROLE_TOKENS, 0, 2, 0, NULL}};
static const tarnp_node nodes[] = {
    {.id = 1},
    {.id = 2, .position = 10, .n_segments = 1, .segments = first},
    {.id = 3, .position = 19, .n_segments = 2, .segments = second},
    {.id = 4, .position = 32, .n_segments = 2, .segments = third},
    {.id = 5, .position = 37, .n_segments = 2, .segments = fourth},
};

static tarn_status find(const char *text, size_t n_nodes, uint64_t *position, tarn_error *err)
{
    tarni_where w;
    tarni_chain chain = {"s", nodes, n_nodes, &tarni_heap};
    *position = UINT64_MAX;
    tarn_status status = tarni_where_parse(text, &w, err);
    return status == TARN_OK ? tarni_where_find(&w, &chain, position, err) : status;
}

CASE(places_in_a_chain)
{
    static const struct {
        const char *where;
        size_t n_nodes;
        uint64_t position;
    } places[] = {
        {NULL, 5, 37},
        {"@n:4", 4, 32},
        {"@t:0", 5, 0},
        {"@t:37", 5, 37},
        {"@t:21", 5, 21},
        {"@turn:0", 5, 0},
        {"@turn:1", 5, 25},
        {"@turn:2", 5, 35},
        {"@turn:-1", 5, 35},
        {"@turn:-2", 5, 25},
        {"@turn:1", 3, 19},
        {"@turn:-1", 3, 19},
        {"@turn:0", 1, 0},
        {"@before:functions.b:1", 5, 15},
        {"@before:functions.a:0", 4, 15},
        {"@before:functions.a:0", 5, 32}, /* the last one */
    };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        uint64_t position;
        tarn_error err;
        CHECK_STATUS(find(places[i].where, places[i].n_nodes, &position, &err), TARN_OK);
        CHECK_EQ(position, places[i].position);
    }
}

CASE(places_that_are_not_there)
{
    static const struct {
        const char *where, *words;
        size_t n_nodes;
    } places[] = {
        {"@t:38", "s ends at 37", 5},
        {"@turn:3", "2 turns", 5},
        {"@turn:-3", "2 turns", 5},
        {"@turn:-9223372036854775808", "2 turns", 5},
        {"@turn:-1", "0 turns", 2},
        {"@before:functions.c:0", "functions.c:0", 5},
        {"@before:functions.a:0", "no turn", 3},
    };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        uint64_t position;
        tarn_error err;
        CHECK_STATUS(find(places[i].where, places[i].n_nodes, &position, &err), TARN_E_NOT_FOUND);
        CHECK_HAS(err.detail, places[i].words);
    }
}

CHECK_MAIN(ENTRY(every_form), ENTRY(bad_forms), ENTRY(places_in_a_chain),
           ENTRY(places_that_are_not_there))
