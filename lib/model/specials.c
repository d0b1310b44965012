/* Special names.
 *
 * A slot the file does not name is called <|reserved_token_ID|>, as the family's tokenizer does.
 * Names are at most 255 bytes, so that looking for one from every byte of a text stays linear.
 *
 * The search walks a tree of bytes: 256 of the names begin with the same 17 bytes, and comparing
 * each of them at each '<' would make a text of '<' three hundred times slower than any other. */
#include "specials.h"
#include "jsonload.h"
#include "paths.h"
#include "readfile.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define CONFIG_BYTES_MAX  ((size_t)16 << 20)
#define CONFIG_VALUES_MAX (1u << 16)
#define NAME_BYTES_MAX    255

typedef struct tarni_trie_node {
    uint32_t child, sibling; /* 0: none */
    uint32_t slot;           /* of the name that ends here, or UINT32_MAX */
    uint8_t byte;
} trie_node;

static tarn_status read_names(tarni_specials *s, const char *path, const tarn_allocator *allocator,
                              tarn_error *err);
static tarn_status name_reserved(tarni_specials *s, const tarn_allocator *allocator,
                                 tarn_error *err);
static tarn_status refuse_twins(const tarni_specials *s, const char *file, tarn_error *err);
static tarn_status build_tree(tarni_specials *s, const tarn_allocator *allocator, tarn_error *err);

tarn_status tarni_specials_open(tarni_specials *s, const char *path, uint32_t first_id,
                                uint32_t n_found, const tarn_allocator *allocator, tarn_error *err)
{
    *s = (tarni_specials){.first_id = first_id, .n_found = n_found};
    tarn_status status;
    TARNI_TRY_GOTO(read_names(s, path, allocator, err));
    TARNI_TRY_GOTO(name_reserved(s, allocator, err));
    TARNI_TRY_GOTO(refuse_twins(s, tarni_path_tail(path), err));
    TARNI_TRY_GOTO(build_tree(s, allocator, err));
    return TARN_OK;
fail:
    tarni_specials_fini(s, allocator);
    return status;
}

void tarni_specials_fini(tarni_specials *s, const tarn_allocator *allocator)
{
    tarni_free(allocator, s->nodes);
    for (size_t i = 0; i < TARNI_SPECIAL_SLOTS; i++)
        tarni_free(allocator, s->names[i].text);
    *s = (tarni_specials){0};
}

/* "2304" and nothing else: no sign, no leading zero. */
static bool parse_id(const char *text, uint32_t *out)
{
    uint64_t value = 0;
    size_t n = strlen(text);
    if (n == 0 || n > 10 || (n > 1 && text[0] == '0'))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *out = (uint32_t)value;
    return value <= UINT32_MAX;
}

static tarn_status read_name(tarni_specials *s, const char *file, const char *key,
                             const json_t *entry, const tarn_allocator *allocator, tarn_error *err)
{
    uint32_t id;
    if (!parse_id(key, &id))
        return tarni_fail(err, TARN_E_FORMAT, "%s: added_tokens_decoder: \"%.40s\" is no token id",
                          file, key);
    if (id < s->first_id || id - s->first_id >= TARNI_SPECIAL_SLOTS)
        return tarni_fail(err, TARN_E_FORMAT,
                          "%s: added_tokens_decoder: id %u is outside the special slots %u to %u",
                          file, id, s->first_id, s->first_id + TARNI_SPECIAL_SLOTS - 1);
    const json_t *content = json_object_get(entry, "content");
    if (!json_is_string(content))
        return tarni_fail(err, TARN_E_FORMAT, "%s: added_tokens_decoder.%u.content is no string",
                          file, id);
    const char *text = json_string_value(content);
    size_t n_bytes = json_string_length(content);
    if (n_bytes == 0 || n_bytes > NAME_BYTES_MAX)
        return tarni_fail(err, TARN_E_FORMAT,
                          "%s: added_tokens_decoder.%u.content has %zu bytes, should be 1 to %d",
                          file, id, n_bytes, NAME_BYTES_MAX);
    if (memchr(text, '\0', n_bytes))
        return tarni_fail(err, TARN_E_FORMAT,
                          "%s: added_tokens_decoder.%u.content holds a NUL character", file, id);
    tarni_special_name *name = &s->names[id - s->first_id];
    TARNI_TRY(tarni_copy_text(allocator, text, n_bytes, &name->text, err));
    name->n_bytes = n_bytes;
    name->given = true;
    return TARN_OK;
}

static tarn_status read_object(tarni_specials *s, const char *file, json_t *config,
                               const tarn_allocator *allocator, tarn_error *err)
{
    json_t *entries = json_object_get(config, "added_tokens_decoder"), *entry;
    const char *key;
    if (!json_is_object(entries))
        return tarni_fail(err, TARN_E_FORMAT, "%s: added_tokens_decoder is %s", file,
                          entries ? "no object" : "missing");
    json_object_foreach(entries, key, entry) {
        TARNI_TRY(read_name(s, file, key, entry, allocator, err));
    }
    return TARN_OK;
}

static tarn_status read_names(tarni_specials *s, const char *path, const tarn_allocator *allocator,
                              tarn_error *err)
{
    char *text;
    size_t n_bytes;
    TARNI_TRY(tarni_read_file(path, CONFIG_BYTES_MAX, allocator, &text, &n_bytes, err));
    json_t *config;
    /* Numbers as reals: model_max_length is usually 1e30 written out, beyond any integer type. */
    tarn_status status = tarni_json_load(tarni_path_tail(path), text, n_bytes, CONFIG_VALUES_MAX,
                                         JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &config, err);
    tarni_free(allocator, text);
    if (status != TARN_OK)
        return status;
    status = read_object(s, tarni_path_tail(path), config, allocator, err);
    json_decref(config);
    return status;
}

static tarn_status name_reserved(tarni_specials *s, const tarn_allocator *allocator,
                                 tarn_error *err)
{
    for (uint32_t i = 0; i < TARNI_SPECIAL_SLOTS; i++) {
        tarni_special_name *name = &s->names[i];
        if (name->given)
            continue;
        char text[40];
        int n = snprintf(text, sizeof text, "<|reserved_token_%u|>", s->first_id + i);
        TARN_ASSERT(n > 0 && (size_t)n < sizeof text);
        TARNI_TRY(tarni_copy_text(allocator, text, (size_t)n, &name->text, err));
        name->n_bytes = (size_t)n;
    }
    return TARN_OK;
}

static tarn_status refuse_twins(const tarni_specials *s, const char *file, tarn_error *err)
{
    for (uint32_t i = 0; i < TARNI_SPECIAL_SLOTS; i++)
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(s->names[i].text, s->names[j].text) == 0)
                return tarni_fail(err, TARN_E_FORMAT,
                                  "%s: added_tokens_decoder: ids %u and %u have the same name",
                                  file, s->first_id + j, s->first_id + i);
    return TARN_OK;
}

/* The node for `byte` in the list at *link, added if it is not there. Node 0 stands for none. */
static uint32_t tree_step(tarni_specials *s, uint32_t *link, uint8_t byte)
{
    while (*link != 0 && s->nodes[*link].byte != byte)
        link = &s->nodes[*link].sibling;
    if (*link == 0) {
        *link = s->n_nodes++;
        s->nodes[*link] = (trie_node){.slot = UINT32_MAX, .byte = byte};
    }
    return *link;
}

static tarn_status build_tree(tarni_specials *s, const tarn_allocator *allocator, tarn_error *err)
{
    size_t n_max = 1;
    for (uint32_t i = 0; i < s->n_found; i++)
        n_max += s->names[i].n_bytes;
    TARNI_TRY(tarni_alloc(allocator, n_max, sizeof *s->nodes, &s->nodes, err));
    s->n_nodes = 1;
    for (uint32_t i = 0; i < s->n_found; i++) {
        const tarni_special_name *name = &s->names[i];
        uint32_t node = 0;
        for (size_t j = 0; j < name->n_bytes; j++) {
            uint8_t byte = (uint8_t)name->text[j];
            node = tree_step(s, j == 0 ? &s->roots[byte] : &s->nodes[node].child, byte);
        }
        s->nodes[node].slot = i;
    }
    return TARN_OK;
}

/* The slot of the longest name the text starts with, or UINT32_MAX. */
static uint32_t longest_here(const tarni_specials *s, const uint8_t *text, size_t text_bytes,
                             size_t *n_bytes)
{
    uint32_t slot = UINT32_MAX;
    size_t depth = 1;
    for (uint32_t node = s->roots[text[0]]; node != 0;) {
        const trie_node *n = &s->nodes[node];
        if (n->slot != UINT32_MAX) {
            slot = n->slot;
            *n_bytes = depth;
        }
        if (depth == text_bytes)
            break;
        for (node = n->child; node != 0 && s->nodes[node].byte != text[depth];)
            node = s->nodes[node].sibling;
        depth++;
    }
    return slot;
}

uint32_t tarni_specials_find(const tarni_specials *s, const uint8_t *text, size_t text_bytes,
                             size_t *at, size_t *n_bytes)
{
    for (size_t i = 0; i < text_bytes; i++) {
        if (s->roots[text[i]] == 0)
            continue;
        uint32_t slot = longest_here(s, text + i, text_bytes - i, n_bytes);
        if (slot != UINT32_MAX) {
            *at = i;
            return s->first_id + slot;
        }
    }
    return UINT32_MAX;
}
