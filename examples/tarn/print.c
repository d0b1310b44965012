/* print.c - tables, times and bars for people. */
#include "print.h"

#include <inttypes.h>
#include <string.h>
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

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* "12.3 MB/s" or "250 tokens/s" */
static void print_rate(FILE *stream, double rate, const char *unit)
{
    char size[PRINT_TEXT_MAX];
    if (strcmp(unit, "B") == 0)
        fprintf(stream, "  %s/s", print_bytes((uint64_t)rate, size));
    else
        fprintf(stream, "  %.0f %s/s", rate, unit);
}

static void print_left(FILE *stream, double seconds)
{
    unsigned long left = (unsigned long)(seconds + 0.5);
    if (left >= 3600)
        fprintf(stream, "  %lu:%02lu:%02lu left", left / 3600, left / 60 % 60, left % 60);
    else
        fprintf(stream, "  %lu:%02lu left", left / 60, left % 60);
}

void print_progress(const char *what, const char *unit, uint64_t done, uint64_t all)
{
    enum { WIDTH = 30, DRAWS_PER_SECOND = 10 };
    static double began, drawn; /* of the bar that is shown; 0: none is */
    if (all == 0 || !isatty(STDERR_FILENO))
        return;
    double now = now_seconds();
    bool ends = done >= all;
    if (began <= 0)
        began = now;
    else if (!ends && now - drawn < 1.0 / DRAWS_PER_SECOND)
        return;
    drawn = now;
    double part = ends ? 1 : (double)done / (double)all, passed = now - began;
    fprintf(stderr, "\r\033[K%s [", what);
    for (int i = 0; i < WIDTH; i++)
        fputc(i < (int)(part * WIDTH) ? '=' : ' ', stderr);
    fprintf(stderr, "] %3d %%", (int)(part * 100));
    if (passed > 0 && done > 0)
        print_rate(stderr, (double)done / passed, unit);
    if (!ends && passed > 0.5 && done > 0)
        print_left(stderr, passed / part * (1 - part));
    if (ends) {
        fputc('\n', stderr);
        began = 0;
    }
    fflush(stderr);
}
