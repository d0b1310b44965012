/* chat.h - conversations as token ids: the chat format of the Kimi family.
 *
 *     system     <|im_system|>NAME<|im_middle|>TEXT<|im_end|>             NAME default "system"
 *     user       <|im_user|>NAME<|im_middle|>TEXT<|im_end|>               "user"
 *     assistant  <|im_assistant|>NAME<|im_middle|>TEXT[CALLS]<|im_end|>   "assistant"
 *     tool       <|im_system|>NAME<|im_middle|>## Return of CALL_ID\nTEXT<|im_end|>   "tool"
 *     tools      <|im_system|>tool_declare<|im_middle|>JSON<|im_end|>
 *     CALLS <|tool_calls_section_begin|>(<|tool_call_begin|>CALL_ID<|tool_call_argument_begin|>
 *                ARGUMENTS<|tool_call_end|>)*<|tool_calls_section_end|>
 *
 * Markers are ids of the model's own special tokens; everything between two markers is one stretch
 * of plain text and can never become a marker, whatever it spells. */
#ifndef TARN_MODEL_CHAT_H
#define TARN_MODEL_CHAT_H

#include "encoder.h"

typedef struct tarni_tool_call {
    const char *id; /* "functions.NAME:INDEX" as the model writes it; kept verbatim */
    size_t id_bytes;
    const char *name; /* a part of id: what stands between "functions." and the last ':', or all */
    size_t name_bytes;
    const char *arguments; /* verbatim; JSON if the model behaved */
    size_t arguments_bytes;
    const char *problem; /* of a whole call that was parsed: a constant text, NULL if it is fine */
} tarni_tool_call;

/* Sets the name, a part of the id. */
void tarni_tool_call_name(tarni_tool_call *call);

typedef struct tarni_message {
    tarn_role role;   /* SYSTEM, USER, ASSISTANT, TOOL */
    const char *name; /* NULL: the role's default */
    const char *text; /* NULL is an empty text */
    size_t text_bytes;
    const char *call_id;          /* TOOL: the call it answers */
    const tarni_tool_call *calls; /* ASSISTANT */
    size_t n_calls;
} tarni_message;

typedef struct tarni_chat {
    const tarni_tokenizer *tokenizer; /* borrowed */
    uint32_t im_system, im_user, im_assistant, im_middle, im_end;
    bool has_calls;                  /* the five ids below exist */
    const char *missing_call_marker; /* the first that does not, or NULL */
    uint32_t calls_begin, calls_end, call_begin, call_argument_begin, call_end;
} tarni_chat;

/* Looks the markers up; UNSUPPORTED naming the first missing one of the five message markers.
 * Missing tool markers are refused only when a call is rendered. */
tarn_status tarni_chat_init(tarni_chat *chat, const tarni_tokenizer *t, tarn_error *err);

/* Appends one whole message, its end marker included; `out` is unchanged after an error. */
tarn_status tarni_chat_message(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                               tarn_error *err);
/* The same in parts, for a text that streams in: the header; then the text through an encoder, led
 * by what a tool's result says before it; then the calls and the end marker. */
tarn_status tarni_chat_begin(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                             tarn_error *err);
tarn_status tarni_chat_lead(const tarni_message *m, tarni_encoder *encoder, tarni_ids *out,
                            tarn_error *err);
tarn_status tarni_chat_end(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                           tarn_error *err);
/* Appends the declaration of tools: `json` is a list of function declarations; it is written with
 * keys sorted at every depth and no spaces. An empty list appends nothing. INVALID if not a list.
 */
tarn_status tarni_chat_tools(const tarni_chat *chat, const char *json, size_t n_bytes,
                             tarni_ids *out, tarn_error *err);
/* Appends the header an answer starts with: <|im_assistant|>assistant<|im_middle|>. */
tarn_status tarni_chat_assistant_header(const tarni_chat *chat, tarni_ids *out, tarn_error *err);

/* Appends a whole conversation given as one JSON object:
 *   {"messages":[{"role","content","name","tool_calls","tool_call_id"}..], "tools":[..]|null,
 *    "default_system":text|null, "add_generation_prompt":bool}
 * content: text, null, or a list of {"type":"text","text":..} that is joined. tool_calls: a list of
 * {"id","function":{"name","arguments"}}; arguments that are no string are written as JSON in given
 * key order with ", " and ": ", UTF-8 unescaped, floats in the shortest form that reads back.
 * The default system text is used only if there is a first message and it is no system message.
 * Other keys are ignored. INVALID, naming the field, for a value of a wrong type, a key given twice
 * in one object, or a number beyond 64 bits or beyond a double's range. */
tarn_status tarni_chat_conversation(const tarni_chat *chat, const char *json, size_t n_bytes,
                                    tarni_ids *out, tarn_error *err);

/* The calls an assistant made, found between the markers in its ids. */
typedef struct tarni_tool_calls {
    const tarn_allocator *allocator;
    tarni_tool_call *calls; /* owned, with their texts */
    size_t n_calls;
    char *text;     /* owned: the decoded bytes the calls point into */
    bool malformed; /* a marker out of place, text between calls, or a call or section cut off; the
                     * whole calls are still listed */
} tarni_tool_calls;

/* What one id meant for the calls of its turn. */
typedef struct tarni_call_news {
    bool began;          /* a call's id is whole: tarni_call_parser_current */
    bool ended;          /* a call is whole: the last of out.calls, its text at text_at */
    const char *problem; /* why what was read is no call, or the call that ended is none to make */
    size_t text_at;      /* in `text`: more arguments, or what was given up, until the next id */
    size_t text_bytes;
} tarni_call_news;

/* Calls while their ids come one at a time. */
typedef struct tarni_call_parser {
    const tarni_chat *chat; /* borrowed; it has calls */
    int at;                 /* a place of toolcalls.c */
    tarni_writer text;      /* ids and arguments of whole calls, then of the one being read */
    size_t start;           /* of the one being read */
    size_t id_bytes;        /* of it, once its arguments have begun */
    tarni_tool_calls out;   /* pointers are set by take: `text` moves while it grows */
    size_t calls_max;
    tarni_call_news news;
} tarni_call_parser;

void tarni_call_parser_init(tarni_call_parser *p, const tarni_chat *chat,
                            const tarn_allocator *allocator);
void tarni_call_parser_fini(tarni_call_parser *p); /* also of a zeroed one */
/* After an error the parser can only be finished. */
tarn_status tarni_call_parser_feed(tarni_call_parser *p, uint32_t id, tarn_error *err);
/* Inside a section of calls; inside a call's arguments. */
bool tarni_call_parser_inside(const tarni_call_parser *p);
bool tarni_call_parser_in_arguments(const tarni_call_parser *p);
/* The call being read, so far; borrowed until the next id. */
tarni_tool_call tarni_call_parser_current(const tarni_call_parser *p);
/* Everything that was found; the parser can only be finished then. */
void tarni_call_parser_take(tarni_call_parser *p, tarni_tool_calls *out);

/* The same for ids that are all there. */
tarn_status tarni_chat_parse_calls(const tarni_chat *chat, const uint32_t *ids, size_t n_ids,
                                   const tarn_allocator *allocator, tarni_tool_calls *out,
                                   tarn_error *err);
void tarni_tool_calls_fini(tarni_tool_calls *calls);

#endif
