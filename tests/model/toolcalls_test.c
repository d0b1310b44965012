/* Calls found between the markers of an assistant's ids. */
#include "chat.h"
#include "vectors.h"

static tarni_tokenizer *tokenizer;
static tarni_chat chat;

static bool begin(void)
{
    if (tarni_tokenizer_open(SMALL_VOCABULARY, 0, &tarni_heap, &tokenizer, &error) != TARN_OK ||
        tarni_chat_init(&chat, tokenizer, &error) != TARN_OK) {
        CHECK_FAIL("%s", error.detail);
        return false;
    }
    return true;
}

/* The form in which the tests write ids: S E are the section's markers, B A Z a call's, X another
 * special; "'" quotes text in which all of them are letters. */
static void parse(const char *form, tarni_tool_calls *calls)
{
    tarni_ids ids;
    tarni_ids_init(&ids, &tarni_heap);
    for (const char *at = form; *at; at++) {
        uint32_t id = *at == 'S'   ? chat.calls_begin
                      : *at == 'E' ? chat.calls_end
                      : *at == 'B' ? chat.call_begin
                      : *at == 'A' ? chat.call_argument_begin
                      : *at == 'Z' ? chat.call_end
                                   : chat.im_end;
        if (*at != '\'') {
            CHECK_STATUS(tarni_ids_push(&ids, id, &error), TARN_OK);
            continue;
        }
        const char *stop = strchr(at + 1, '\'');
        CHECK_STATUS(
            tarni_tokenizer_encode(tokenizer, at + 1, (size_t)(stop - at - 1), false, &ids, &error),
            TARN_OK);
        at = stop;
    }
    CHECK_STATUS(tarni_chat_parse_calls(&chat, ids.ids, ids.n_ids, &tarni_heap, calls, &error),
                 TARN_OK);
    tarni_ids_fini(&ids);
}

/* `want` lists id|name|arguments; of each call. */
static void check(const char *form, const char *want, bool malformed)
{
    tarni_tool_calls calls;
    char got[1024] = "";
    size_t n = 0;
    parse(form, &calls);
    for (size_t i = 0; i < calls.n_calls; i++) {
        const tarni_tool_call *c = &calls.calls[i];
        n += (size_t)snprintf(got + n, sizeof got - n, "%.*s|%.*s|%.*s;", (int)c->id_bytes, c->id,
                              (int)c->name_bytes, c->name, (int)c->arguments_bytes, c->arguments);
    }
    if (strcmp(got, want) != 0 || calls.malformed != malformed)
        CHECK_FAIL("%s gives %s%s", form, got, calls.malformed ? " (malformed)" : "");
    tarni_tool_calls_fini(&calls);
}

CASE(whole_calls)
{
    REQUIRE(begin());
    check("", "", false);
    check("'no call'", "", false);
    check("'no call'X", "", false);
    check("SE", "", false);
    check("'text'SB'functions.read_file:0'A'{\"path\": 1}'ZEX",
          "functions.read_file:0|read_file|{\"path\": 1};", false);
    check("SB'functions.a:0'A'{}'ZB'functions.b:1'A''ZEX", "functions.a:0|a|{};functions.b:1|b|;",
          false);
    check("SB'functions.a:0'A'1'ZES' 'B'functions.a:1'A'2'Z'\n'E",
          "functions.a:0|a|1;functions.a:1|a|2;", false);
    check("SBAZE", "||;", false);
    tarni_tokenizer_free(tokenizer);
}

CASE(names_within_ids)
{
    REQUIRE(begin());
    check("SB'call_9f:7'A''ZE", "call_9f:7|call_9f:7|;", false);
    check("SB'functions.a'A''ZE", "functions.a|functions.a|;", false);
    check("SB'functions.a:b:2'A''ZE", "functions.a:b:2|a:b|;", false);
    check("SB'functions.:2'A''ZE", "functions.:2|functions.:2|;", false);
    check("SB'functions.'A''ZE", "functions.|functions.|;", false);
    check("SB' functions.a:0 'A' {} 'ZE", " functions.a:0 | functions.a:0 | {} ;", false);
    tarni_tokenizer_free(tokenizer);
}

/* Only ids are markers: their names in a text are text. */
CASE(look_alikes_are_text)
{
    REQUIRE(begin());
    check("'<|tool_calls_section_begin|><|tool_call_begin|>a<|tool_call_argument_begin|>{}"
          "<|tool_call_end|>'",
          "", false);
    check("SB'a'A'<|tool_call_end|>'ZE", "a|a|<|tool_call_end|>;", false);
    tarni_tokenizer_free(tokenizer);
}

CASE(malformed_but_whole_calls_stay)
{
    REQUIRE(begin());
    check("S", "", true);
    check("SB'a'", "", true);
    check("SB'a'A'{'", "", true);
    check("SB'a'A'{'X", "", true);
    check("SB'a'A'{}'Z", "a|a|{};", true);
    check("SB'a'A'{}'ZX", "a|a|{};", true);
    check("SB'a'A'{}'ZB'b'A'{'", "a|a|{};", true);
    check("B'a'A'{}'Z", "a|a|{};", true);
    check("B'a'A'{}'ZE", "a|a|{};", true);
    check("SB'a'ZE", "", true);
    check("SB'a'AA'x'ZE", "", true);
    check("SB'a'B'b'A'1'ZE", "b|b|1;", true);
    check("SB'a'A'1'SB'b'A'2'ZE", "b|b|2;", true);
    check("SB'a'A'1'ESB'b'A'2'ZE", "b|b|2;", true);
    check("SSE", "", true);
    check("S'stray'B'a'A'1'ZE", "a|a|1;", true);
    check("SB'a'A'1'X'2'Z", "", true);
    check("E", "", true);
    check("A", "", true);
    check("Z", "", true);
    tarni_tokenizer_free(tokenizer);
}

CASE(bad_ids_and_no_memory)
{
    REQUIRE(begin());
    uint32_t bad[] = {chat.calls_begin, chat.call_begin, 99999};
    tarni_tool_calls calls;
    CHECK_STATUS(tarni_chat_parse_calls(&chat, bad, 3, &tarni_heap, &calls, &error),
                 TARN_E_INVALID);
    CHECK_HAS(error.detail, "99999");
    CHECK(calls.n_calls == 0 && calls.calls == NULL && calls.text == NULL);

    uint32_t good[] = {chat.calls_begin, chat.call_begin, 'a', chat.call_argument_begin, 'b',
                       chat.call_end,    chat.calls_end};
    failing heap = {0};
    long n_calls = 0;
    tarn_allocator a = failing_allocator(&heap);
    while (tarni_chat_parse_calls(&chat, good, 7, &a, &calls, &error) == TARN_E_NO_MEMORY) {
        CHECK_EQ(heap.blocks, 0);
        heap.calls_left = ++n_calls;
        REQUIRE(n_calls < 20);
    }
    CHECK(n_calls >= 2);
    CHECK_EQ(calls.n_calls, 1);
    tarni_tool_calls_fini(&calls);
    CHECK_EQ(heap.blocks, 0);
    tarni_tokenizer_free(tokenizer);
}

CHECK_MAIN(ENTRY(whole_calls), ENTRY(names_within_ids), ENTRY(look_alikes_are_text),
           ENTRY(malformed_but_whole_calls_stay), ENTRY(bad_ids_and_no_memory))
