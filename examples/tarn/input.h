/* input.h - texts and id lists from arguments, files and standard input. */
#ifndef TARN_COMMAND_INPUT_H
#define TARN_COMMAND_INPUT_H

#include "options.h"
#include "tarn.h"

typedef struct input {
    char *data; /* NUL-terminated; may hold NULs before */
    size_t n_bytes;
} input;

typedef struct id_list {
    uint32_t *ids;
    size_t n_ids;
} id_list;

/* Fills err with the status that fits errno, naming the file; returns false. */
bool input_fail(tarn_error *err, int errno_value, const char *path);

/* The whole file; "-" is standard input. Free with input_free. */
bool input_read(const char *path, input *out, tarn_error *err);
/* A copy of a text. */
bool input_copy(const char *text, input *out, tarn_error *err);
void input_free(input *in);

/* The text of a verb: `text` if there is one that is not "-", else --file, else standard input. */
bool input_text(const arguments *args, const char *text, input *out, tarn_error *err);

/* Opens where input_text would read from, if that is no `text`: a file descriptor, 0 for standard
 * input; *path names it. -1 with err filled where there is no such file. */
int input_open(const arguments *args, const char **path, tarn_error *err);

/* Ids separated by commas or white space; brackets around them are allowed. INVALID naming the
 * first thing that is no id. Free with input_free_ids. */
bool input_parse_ids(const input *in, const char *what, id_list *out, tarn_error *err);

/* The ids an option gives as "1,2,3" or "@FILE". Exit code: 0, 1 (file) or 2 (the list itself). */
int input_option_ids(const arguments *args, option_id id, const char *name, id_list *out);
void input_free_ids(id_list *list);

#endif
