/* line.h - lines from whoever talks to us, and the interrupts they send. */
#ifndef TARN_COMMAND_LINE_H
#define TARN_COMMAND_LINE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct line_reader line_reader;

typedef enum line_kind { LINE_TEXT, LINE_INTERRUPTED, LINE_END } line_kind;

/* With a terminal lines are edited and remembered, without one they are read. NULL: no memory. */
line_reader *line_open(void);
void line_close(line_reader *r);
bool line_is_terminal(const line_reader *r);

/* One line without its newline, valid until the next call. A backslash at the end of a line goes on
 * with the next one. LINE_INTERRUPTED: the line was given up with ctrl-C. */
line_kind line_read(line_reader *r, const char *prompt, const char **text, size_t *n_bytes);

/* Has ctrl-C come since the last line_forget_interrupt? From line_open on it no longer ends the
 * process. */
bool line_interrupted(void);
void line_forget_interrupt(void);

#endif
