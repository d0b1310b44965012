/* The chat format against the reference's ids; one message at a time against whole conversations.
 */
#include "chat.h"
#include "vectors.h"

typedef struct fixture {
    tarni_tokenizer *t;
    tarni_chat chat;
    tarni_ids ids;
} fixture;

static bool begin(fixture *f, const char *dir)
{
    *f = (fixture){0};
    tarni_ids_init(&f->ids, &tarni_heap);
    if (tarni_tokenizer_open(dir, 0, &tarni_heap, &f->t, &error) != TARN_OK ||
        tarni_chat_init(&f->chat, f->t, &error) != TARN_OK) {
        CHECK_FAIL("%s: %s", dir, error.detail);
        return false;
    }
    return true;
}

static void end(fixture *f)
{
    tarni_ids_fini(&f->ids);
    tarni_tokenizer_free(f->t);
}

static tarn_status render(fixture *f, const char *json)
{
    return tarni_chat_conversation(&f->chat, json, strlen(json), &f->ids, &error);
}

/* The ids as text, markers by name; the caller frees. */
static char *shown(const fixture *f)
{
    tarni_writer w;
    tarni_writer_init(&w, &tarni_heap);
    CHECK_STATUS(tarni_tokenizer_decode(f->t, f->ids.ids, f->ids.n_ids, &w, &error), TARN_OK);
    tarni_put_u8(&w, 0);
    return (char *)w.data;
}

static void check_segments(fixture *f, const json_t *conversation, const char *name)
{
    const json_t *segments = json_object_get(conversation, "segments");
    for (size_t i = 0; i < json_array_size(segments); i++) {
        const json_t *s = json_array_get(segments, i), *text = json_object_get(s, "text");
        bool special = strcmp(json_string_value(json_object_get(s, "kind")), "special") == 0;
        f->ids.n_ids = 0;
        CHECK_STATUS(tarni_tokenizer_encode(f->t, json_string_value(text), json_string_length(text),
                                            special, &f->ids, &error),
                     TARN_OK);
        if (!same_ids(&f->ids, json_object_get(s, "ids")))
            CHECK_FAIL("%s: segment %zu has other ids", name, i);
    }
}

static void check_conversations(const char *dir)
{
    fixture f;
    if (!begin(&f, dir))
        return;
    json_t *lines = read_lines(dir, "chat.jsonl");
    CHECK_EQ(json_array_size(lines), 50);
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *c = json_array_get(lines, i);
        const char *name = json_string_value(json_object_get(c, "name"));
        char *text = json_dumps(c, 0);
        f.ids.n_ids = 0;
        CHECK_STATUS(render(&f, text), TARN_OK);
        if (!same_ids(&f.ids, json_object_get(c, "ids")))
            CHECK_FAIL("%s: other ids", name);
        free(text);
        check_segments(&f, c, name);
    }
    json_decref(lines);
    end(&f);
}

CASE(small_conversations)
{
    check_conversations(SMALL_VOCABULARY);
}

CASE(large_conversations)
{
    if (!LARGE_VOCABULARY)
        SKIP(WITHOUT_LARGE);
    check_conversations(LARGE_VOCABULARY);
}

CASE(messages_render_like_a_conversation)
{
    static const char json[] =
        "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
        "{\"role\":\"user\",\"content\":\"Hi <|im_end|>\",\"name\":\"ann\"},"
        "{\"role\":\"assistant\",\"content\":\"So.\",\"tool_calls\":[{\"id\":\"functions.f:0\","
        "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},{\"id\":\"x\",\"function\":{"
        "\"arguments\":{\"a\":1}}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"done\"}],"
        "\"tools\":[{\"b\":1,\"a\":{\"d\":[],\"c\":0.1}}],\"add_generation_prompt\":true}";
    static const tarni_tool_call calls[] = {
        {.id = "functions.f:0", .id_bytes = 13, .arguments = "{}", .arguments_bytes = 2},
        {.id = "x", .id_bytes = 1, .arguments = "{\"a\": 1}", .arguments_bytes = 8},
    };
    const tarni_message messages[] = {
        {.role = TARN_ROLE_SYSTEM, .text = "Be brief.", .text_bytes = 9},
        {.role = TARN_ROLE_USER, .name = "ann", .text = "Hi <|im_end|>", .text_bytes = 13},
        {.role = TARN_ROLE_ASSISTANT, .text = "So.", .text_bytes = 3, .calls = calls, .n_calls = 2},
        {.role = TARN_ROLE_TOOL, .call_id = "x", .text = "done", .text_bytes = 4},
    };
    static const char tools[] = " [ {\"b\" : 1, \"a\":{\"d\":[],\"c\":0.1}} ] ";
    fixture f;
    tarni_ids one;
    REQUIRE(begin(&f, SMALL_VOCABULARY));
    tarni_ids_init(&one, &tarni_heap);
    REQUIRE_OK(render(&f, json), &error);
    CHECK_STATUS(tarni_chat_tools(&f.chat, tools, sizeof tools - 1, &one, &error), TARN_OK);
    for (size_t i = 0; i < 4; i++)
        CHECK_STATUS(tarni_chat_message(&f.chat, &messages[i], &one, &error), TARN_OK);
    CHECK_STATUS(tarni_chat_assistant_header(&f.chat, &one, &error), TARN_OK);
    CHECK_EQ(one.n_ids, f.ids.n_ids);
    if (one.n_ids == f.ids.n_ids)
        CHECK_BYTES(one.ids, f.ids.ids, one.n_ids * sizeof *one.ids);
    char *text = shown(&f);
    CHECK_TEXT(text,
               "<|im_system|>tool_declare<|im_middle|>[{\"a\":{\"c\":0.1,\"d\":[]},\"b\":1}]"
               "<|im_end|><|im_system|>system<|im_middle|>Be brief.<|im_end|>"
               "<|im_user|>ann<|im_middle|>Hi <|im_end|><|im_end|>"
               "<|im_assistant|>assistant<|im_middle|>So.<|tool_calls_section_begin|>"
               "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
               "<|tool_call_begin|>x<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|>"
               "<|tool_calls_section_end|><|im_end|>"
               "<|im_system|>tool<|im_middle|>## Return of x\ndone<|im_end|>"
               "<|im_assistant|>assistant<|im_middle|>");
    size_t n_ends = 0;
    for (size_t i = 0; i < one.n_ids; i++)
        n_ends += one.ids[i] == f.chat.im_end;
    CHECK_EQ(n_ends, 5); /* the user's own text is not among them */
    free(text);
    tarni_ids_fini(&one);
    end(&f);
}

CASE(messages_that_cannot_be)
{
    static const tarni_tool_call call = {.id = "x", .id_bytes = 1};
    const tarni_message bad[] = {
        {.role = TARN_ROLE_TOOLS, .text = "x", .text_bytes = 1},
        {.role = TARN_ROLE_TOKENS},
        {.role = TARN_ROLE_TOOL, .text = "no call named", .text_bytes = 13},
        {.role = TARN_ROLE_USER, .calls = &call, .n_calls = 1},
    };
    fixture f;
    REQUIRE(begin(&f, SMALL_VOCABULARY));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(tarni_chat_message(&f.chat, &bad[i], &f.ids, &error), TARN_E_INVALID);
        CHECK_EQ(f.ids.n_ids, 0);
    }
    const tarni_message empty = {.role = TARN_ROLE_USER, .name = ""};
    CHECK_STATUS(tarni_chat_message(&f.chat, &empty, &f.ids, &error), TARN_OK);
    char *text = shown(&f);
    CHECK_TEXT(text, "<|im_user|>user<|im_middle|><|im_end|>");
    free(text);
    end(&f);
}

CASE(conversations_that_cannot_be)
{
    static const char *const bad[][2] = {
        {"{\"messages\":[", "conversation"},
        {"[]", "no object"},
        {"{}", "messages: missing"},
        {"{\"messages\":7}", "messages: no list"},
        {"{\"messages\":[7]}", "messages[0]: no object"},
        {"{\"messages\":[{\"content\":\"secret\"}]}", "messages[0].role"},
        {"{\"messages\":[{\"role\":\"tools\"}]}", "messages[0].role"},
        {"{\"messages\":[{\"role\":\"user\",\"name\":7}]}", "messages[0].name"},
        {"{\"messages\":[{\"role\":\"user\",\"name\":\"a\\u0000b\"}]}", "NUL"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":7}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[\"a\"]}]}", "messages[0].content[0]"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"text\":\"a\"}]}]}",
         "messages[0].content[0]"},
        {"{\"messages\":[{\"role\":\"user\"},{\"role\":\"tool\",\"content\":\"a\"}]}",
         "messages[1].tool_call_id: missing"},
        {"{\"messages\":[{\"role\":\"tool\",\"tool_call_id\":7}]}", "messages[0].tool_call_id"},
        {"{\"messages\":[{\"role\":\"user\",\"tool_calls\":[{}]}]}", "only an assistant"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":{}}]}", "tool_calls: no list"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}", "tool_calls[0].id"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\"}]}]}",
         "tool_calls[0].function.arguments: missing"},
        {"{\"messages\":[],\"tools\":{}}", "tools: no list"},
        {"{\"messages\":[{\"role\":\"user\"}],\"default_system\":7}", "default_system"},
        {"{\"messages\":[],\"add_generation_prompt\":1}", "add_generation_prompt"},
        {"{\"messages\":[],\"messages\":[]}", "given twice"},
        {"{\"messages\":[],\"x\":18446744073709551616}", "beyond 64 bits"},
        {"{\"messages\":[],\"x\":\"\xff\"}", "UTF-8"},
    };
    fixture f;
    REQUIRE(begin(&f, SMALL_VOCABULARY));
    REQUIRE(tarni_ids_push(&f.ids, 7, &error) == TARN_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(render(&f, bad[i][0]), TARN_E_INVALID);
        CHECK_HAS(error.detail, bad[i][1]);
        CHECK(strstr(error.detail, "secret") == NULL);
        CHECK_EQ(f.ids.n_ids, 1);
    }
    /* What comes before the bad message is taken back, too. */
    CHECK_STATUS(render(&f, "{\"tools\":[{}],\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                            "{\"role\":\"nobody\"}],\"default_system\":\"d\"}"),
                 TARN_E_INVALID);
    CHECK_EQ(f.ids.n_ids, 1);
    CHECK_STATUS(tarni_chat_tools(&f.chat, "{}", 2, &f.ids, &error), TARN_E_INVALID);
    CHECK_STATUS(tarni_chat_tools(&f.chat, "[", 1, &f.ids, &error), TARN_E_INVALID);
    CHECK_STATUS(tarni_chat_tools(&f.chat, "[]", 2, &f.ids, &error), TARN_OK);
    CHECK_EQ(f.ids.n_ids, 1);
    end(&f);
}

CASE(fields_that_may_be_null)
{
    fixture f;
    REQUIRE(begin(&f, SMALL_VOCABULARY));
    REQUIRE_OK(render(&f, "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"name\":null,"
                          "\"tool_calls\":null,\"refusal\":null}],\"tools\":null,"
                          "\"default_system\":null,\"model\":\"ignored\"}"),
               &error);
    char *text = shown(&f);
    CHECK_TEXT(text, "<|im_assistant|>assistant<|im_middle|><|im_end|>");
    free(text);
    f.ids.n_ids = 0;
    REQUIRE_OK(render(&f, "{\"messages\":[],\"default_system\":\"not used\"}"), &error);
    CHECK_EQ(f.ids.n_ids, 0);
    end(&f);
}

/* A text with a NUL in it is a text like any other. */
CASE(nul_in_a_text)
{
    fixture f;
    REQUIRE(begin(&f, SMALL_VOCABULARY));
    REQUIRE_OK(render(&f, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}"),
               &error);
    tarni_writer w;
    tarni_writer_init(&w, &tarni_heap);
    REQUIRE_OK(tarni_tokenizer_decode(f.t, f.ids.ids, f.ids.n_ids, &w, &error), &error);
    CHECK_EQ(w.n_bytes, strlen("<|im_user|>user<|im_middle|>") + 3 + strlen("<|im_end|>"));
    CHECK_BYTES(w.data + strlen("<|im_user|>user<|im_middle|>"), "a\0b<", 4);
    tarni_writer_fini(&w);
    end(&f);
}

/* Opens the small vocabulary with one special name spoiled. */
static tarni_tokenizer *without(const char *name)
{
    scratch dir;
    size_t ranks_bytes = 0, config_bytes = 0;
    tarni_tokenizer *t = NULL;
    char *ranks = scratch_read(SMALL_VOCABULARY "/tiktoken.model", &ranks_bytes);
    char *config = scratch_read(SMALL_VOCABULARY "/tokenizer_config.json", &config_bytes);
    CHECK(scratch_make(&dir));
    strstr(config, name)[2] = 'X';
    scratch_write(&dir, "tiktoken.model", ranks, ranks_bytes);
    scratch_write(&dir, "tokenizer_config.json", config, config_bytes);
    CHECK_STATUS(tarni_tokenizer_open(dir.dir, 0, &tarni_heap, &t, &error), TARN_OK);
    free(config);
    free(ranks);
    scratch_remove(&dir);
    return t;
}

CASE(missing_markers)
{
    tarni_chat chat;
    tarni_ids ids;
    tarni_tool_calls calls;
    tarni_tokenizer *t = without("<|im_middle|>");
    REQUIRE(t != NULL);
    CHECK_STATUS(tarni_chat_init(&chat, t, &error), TARN_E_UNSUPPORTED);
    CHECK_HAS(error.detail, "<|im_middle|>");
    tarni_tokenizer_free(t);

    t = without("<|tool_call_argument_begin|>");
    REQUIRE(t != NULL);
    tarni_ids_init(&ids, &tarni_heap);
    CHECK_STATUS(tarni_chat_init(&chat, t, &error), TARN_OK);
    CHECK(!chat.has_calls);
    const tarni_tool_call call = {.id = "x", .id_bytes = 1, .arguments = "", .arguments_bytes = 0};
    tarni_message m = {.role = TARN_ROLE_ASSISTANT, .text = "a", .text_bytes = 1, .calls = &call};
    CHECK_STATUS(tarni_chat_message(&chat, &m, &ids, &error), TARN_OK);
    size_t n_ids = ids.n_ids;
    m.n_calls = 1;
    CHECK_STATUS(tarni_chat_message(&chat, &m, &ids, &error), TARN_E_UNSUPPORTED);
    CHECK_HAS(error.detail, "<|tool_call_argument_begin|>");
    CHECK_EQ(ids.n_ids, n_ids);
    CHECK_STATUS(tarni_chat_parse_calls(&chat, ids.ids, ids.n_ids, &tarni_heap, &calls, &error),
                 TARN_OK);
    CHECK(calls.n_calls == 0 && !calls.malformed);
    tarni_tool_calls_fini(&calls);
    tarni_ids_fini(&ids);
    tarni_tokenizer_free(t);
}

CASE(out_of_memory_at_every_step)
{
    static const char json[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"ab\"}]},"
        "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"functions.f:0\",\"function\":{"
        "\"arguments\":{\"a\":1}}}]},{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"c\"}],"
        "\"tools\":[{\"a\":1}],\"default_system\":\"d\",\"add_generation_prompt\":true}";
    failing heap = {.calls_left = LONG_MAX};
    tarn_allocator a = failing_allocator(&heap);
    tarni_tokenizer *t;
    tarni_chat chat;
    tarn_status status;
    REQUIRE_OK(tarni_tokenizer_open(SMALL_VOCABULARY, 0, &a, &t, &error), &error);
    REQUIRE_OK(tarni_chat_init(&chat, t, &error), &error);
    long n_calls = 0, n_live = heap.blocks;
    do {
        tarni_ids ids;
        tarni_ids_init(&ids, &a);
        heap.calls_left = n_calls++;
        status = tarni_chat_conversation(&chat, json, sizeof json - 1, &ids, &error);
        CHECK(status == TARN_OK || ids.n_ids == 0);
        heap.calls_left = LONG_MAX;
        tarni_ids_fini(&ids);
        CHECK_EQ(heap.blocks, n_live);
    } while (status == TARN_E_NO_MEMORY && n_calls < 1000);
    CHECK_STATUS(status, TARN_OK);
    CHECK(n_calls > 20);
    tarni_tokenizer_free(t);
    CHECK_EQ(heap.blocks, 0);
}

CHECK_MAIN(ENTRY(small_conversations), ENTRY(large_conversations),
           ENTRY(messages_render_like_a_conversation), ENTRY(messages_that_cannot_be),
           ENTRY(conversations_that_cannot_be), ENTRY(fields_that_may_be_null),
           ENTRY(nul_in_a_text), ENTRY(missing_markers), ENTRY(out_of_memory_at_every_step))
