/* chat_fuzz.h - the tokenizer and chat format of tests/data/tokenizer. */
#ifndef TARN_TESTS_CHAT_FUZZ_H
#define TARN_TESTS_CHAT_FUZZ_H

#include "chat.h"
#include "fuzz.h"

#include <string.h>

static inline const tarni_chat *fuzz_chat(void)
{
    static tarni_tokenizer *t;
    static tarni_chat chat;
    tarn_error err = {TARN_OK, ""};
    if (!t) {
        MUST(tarni_tokenizer_open(TEST_DATA "/tokenizer", 0, &tarni_heap, &t, &err) == TARN_OK);
        MUST(tarni_chat_init(&chat, t, &err) == TARN_OK);
    }
    return &chat;
}

#endif
