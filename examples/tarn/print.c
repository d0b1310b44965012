/* print.c - tables, times and bars for people. */
#include "print.h"

#include <inttypes.h>
#include <time.h>
#include <unistd.h>

const char *print_bytes(uint64_t n_bytes, char out[PRINT_TEXT_MAX])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)n_bytes;
    size_t unit = 0;
    for (; value >= 999.95 && unit < 6; unit++)
        value /= 1000;
    snprintf(out, PRINT_TEXT_MAX, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return out;
}

const char *print_time(uint64_t unix_ms, char out[PRINT_TEXT_MAX])
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm parts;
    if (!localtime_r(&seconds, &parts) ||
        strftime(out, PRINT_TEXT_MAX, "%Y-%m-%d %H:%M:%S", &parts) == 0)
        snprintf(out, PRINT_TEXT_MAX, "%" PRIu64 " ms", unix_ms);
    return out;
}

void print_ids(FILE *stream, const uint32_t *ids, size_t n_ids)
{
    for (size_t i = 0; i < n_ids; i++)
        fprintf(stream, "%s%" PRIu32, i ? "," : "", ids[i]);
    fputc('\n', stream);
}

void print_at(FILE *stream, const tarn_at *at)
{
    fprintf(stream, "%s@n:%" PRIu64 ", %" PRIu64 " tokens%s", at->session, at->node, at->position,
            at->bit_exact ? "" : " (not bit-exact)");
}

void print_reuse(FILE *stream, const tarn_reuse *reuse)
{
    char size[PRINT_TEXT_MAX];
    fprintf(stream, "%" PRIu64 " tokens reused, %" PRIu64 " replayed (%s), %s read",
            reuse->tokens_reused, reuse->tokens_replayed, tarn_reason_name(reuse->reason),
            print_bytes(reuse->bytes_read, size));
}

void print_price(FILE *stream, const tarn_price *price)
{
    char size[PRINT_TEXT_MAX];
    fprintf(stream, "next use replays %" PRIu64 " tokens and reads %s", price->replay_tokens,
            print_bytes(price->bytes_read, size));
}

void print_progress(const char *what, uint64_t done, uint64_t all)
{
    enum { WIDTH = 30 };
    static int shown = -1; /* per mille; a bar is drawn again only when it would change */
    if (all == 0 || !isatty(STDERR_FILENO))
        return;
    int part = (int)((double)done / (double)all * 1000);
    if (part == shown)
        return;
    shown = part;
    fprintf(stderr, "\r%s [", what);
    for (int i = 0; i < WIDTH; i++)
        fputc(i * 1000 < part * WIDTH ? '=' : ' ', stderr);
    fprintf(stderr, "] %3d %%", part / 10);
    if (done >= all) {
        fputc('\n', stderr);
        shown = -1;
    }
    fflush(stderr);
}
