/* line.c - libedit where there is a terminal, getline where there is none.
 *
 * Characters are read here and not by libedit: its own reading starts again after a signal, and
 * ctrl-C has to give a line up. The signal is let through only while we wait for a character, so
 * that none comes unnoticed just before. */
#include "line.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY_MAX = 1000 };

struct line_reader {
    EditLine *edit; /* NULL: no terminal */
    History *history;
    const char *prompt;
    char *text; /* the line so far */
    size_t n_text, text_max;
    char *piece; /* of getline */
    size_t piece_max;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

bool line_interrupted(void)
{
    return interrupted;
}

void line_forget_interrupt(void)
{
    interrupted = 0;
}

static char *give_prompt(EditLine *edit)
{
    line_reader *r = NULL;
    el_get(edit, EL_CLIENTDATA, &r);
    return (char *)(size_t)r->prompt; /* libedit only reads it */
}

static void block_interrupts(bool blocked)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigprocmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

/* False after an interrupt, or where waiting fails. */
static bool wait_for_input(void)
{
    struct pollfd wanted = {.fd = STDIN_FILENO, .events = POLLIN};
    sigset_t set;
    sigprocmask(SIG_BLOCK, NULL, &set);
    sigdelset(&set, SIGINT);
    int n = 0;
    while (!interrupted && n == 0) {
        n = ppoll(&wanted, 1, NULL, &set);
        if (n < 0 && errno == EINTR && !interrupted)
            n = 0; /* another signal: the window's size */
    }
    return n > 0 && !interrupted;
}

/* One character of the terminal; 0 at its end, -1 after an interrupt or an error. */
static int read_character(EditLine *edit, wchar_t *out)
{
    mbstate_t state = {0};
    (void)edit;
    for (;;) {
        char byte;
        if (!wait_for_input())
            return -1;
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n <= 0)
            return n == 0 ? 0 : -1;
        size_t used = mbrtowc(out, &byte, 1, &state);
        if (used == (size_t)-1) { /* no character: forget it */
            state = (mbstate_t){0};
            continue;
        }
        if (used != (size_t)-2)
            return 1;
    }
}

static bool open_editor(line_reader *r)
{
    HistEvent event;
    r->edit = el_init("tarn", stdin, stdout, stderr);
    r->history = history_init();
    if (!r->edit || !r->history)
        return false;
    history(r->history, &event, H_SETSIZE, HISTORY_MAX);
    history(r->history, &event, H_SETUNIQUE, 1);
    el_set(r->edit, EL_CLIENTDATA, r);
    el_set(r->edit, EL_PROMPT, give_prompt);
    el_set(r->edit, EL_EDITOR, "emacs");
    el_set(r->edit, EL_HIST, history, r->history);
    el_set(r->edit, EL_GETCFN, read_character);
    el_set(r->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(r->edit, NULL); /* the user's ~/.editrc */
    return true;
}

line_reader *line_open(void)
{
    line_reader *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    struct sigaction action = {.sa_handler = on_interrupt}; /* reading is to be interrupted */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    setlocale(LC_CTYPE, "");
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !open_editor(r)) {
        line_close(r);
        return NULL;
    }
    return r;
}

void line_close(line_reader *r)
{
    if (!r)
        return;
    if (r->edit)
        el_end(r->edit);
    if (r->history)
        history_end(r->history);
    free(r->text);
    free(r->piece);
    free(r);
}

bool line_is_terminal(const line_reader *r)
{
    return r->edit != NULL;
}

static bool add(line_reader *r, const char *text, size_t n_bytes)
{
    if (r->text_max - r->n_text < n_bytes + 1) {
        size_t larger = 2 * (r->n_text + n_bytes) + 256;
        char *moved = realloc(r->text, larger);
        if (!moved)
            return false;
        r->text = moved;
        r->text_max = larger;
    }
    memcpy(r->text + r->n_text, text, n_bytes);
    r->n_text += n_bytes;
    r->text[r->n_text] = '\0';
    return true;
}

/* The next line with its newline; NULL: none, *why says whether it was given up. */
static const char *next_piece(line_reader *r, size_t *n_bytes, line_kind *why)
{
    *why = LINE_END;
    if (r->edit) {
        int n = 0;
        block_interrupts(true);
        el_set(r->edit, EL_PREP_TERM, 1); /* before the prompt: who sees it may type any key */
        const char *line = el_gets(r->edit, &n);
        block_interrupts(false);
        *n_bytes = n > 0 ? (size_t)n : 0;
        if (line && n > 0)
            return line;
        if (interrupted) {
            el_reset(r->edit);
            *why = LINE_INTERRUPTED;
        }
        return NULL;
    }
    ssize_t n = getline(&r->piece, &r->piece_max, stdin);
    if (n < 0 && errno == EINTR && interrupted) {
        clearerr(stdin);
        *why = LINE_INTERRUPTED;
    }
    *n_bytes = n > 0 ? (size_t)n : 0;
    return n > 0 ? r->piece : NULL;
}

line_kind line_read(line_reader *r, const char *prompt, const char **text, size_t *n_bytes)
{
    bool goes_on = true;
    r->n_text = 0;
    r->prompt = prompt;
    while (goes_on) {
        size_t n;
        line_kind why;
        const char *piece = next_piece(r, &n, &why);
        if (!piece && (why == LINE_INTERRUPTED || r->n_text == 0)) {
            line_forget_interrupt();
            return why;
        }
        if (!piece)
            break;
        if (piece[n - 1] == '\n')
            n--;
        goes_on = n > 0 && piece[n - 1] == '\\';
        if (!add(r, piece, goes_on ? n - 1 : n) || (goes_on && !add(r, "\n", 1)))
            return LINE_END;
        r->prompt = "... ";
    }
    HistEvent event;
    if (r->edit && r->n_text > 0)
        history(r->history, &event, H_ENTER, r->text);
    *text = r->text;
    *n_bytes = r->n_text;
    return LINE_TEXT;
}
