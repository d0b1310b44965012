#include "rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct kept {
    char metric[64];
    double value;
} kept;

struct rows {
    bool json;
    FILE *tsv, *peers;
    char device[128], commit[64], model[64], numerics[64];
    kept list[ROWS_MAX];
    size_t n;
};

double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median_of(double *samples, size_t n)
{
    qsort(samples, n, sizeof *samples, by_value);
    return n % 2 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
}

/* The first line of a file or of a command's output, without what would break JSON or a TSV. */
static void read_line(FILE *f, char *out, size_t n)
{
    snprintf(out, n, "unknown");
    if (f && fgets(out, (int)n, f))
        for (char *c = out; *c; c++)
            if (*c == '"' || *c == '\\' || *c == '\t')
                *c = ' ';
    out[strcspn(out, "\n")] = 0;
}

static void find_device(char *out, size_t n)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(out, n, "unknown");
    do {
        read_line(f, line, sizeof line);
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            snprintf(out, n, "%s", strchr(line, ':') + 2);
            break;
        }
    } while (f && !feof(f));
    if (f)
        fclose(f);
}

static void find_commit(const char *source, char *out, size_t n)
{
    char command[512];
    snprintf(command, sizeof command, "git -C '%s' rev-parse --short HEAD 2>/dev/null", source);
    FILE *f = popen(command, "r");
    read_line(f, out, n);
    if (f)
        pclose(f);
}

static FILE *open_file(const char *path, const char *mode)
{
    FILE *f = path ? fopen(path, mode) : NULL;
    if (path && !f) {
        perror(path);
        exit(1);
    }
    return f;
}

rows *rows_begin(bool json, const char *tsv, const char *peers, const char *source)
{
    rows *r = calloc(1, sizeof *r);
    if (!r)
        exit(1);
    r->json = json;
    r->tsv = open_file(tsv, "w");
    r->peers = open_file(peers, "r");
    find_device(r->device, sizeof r->device);
    find_commit(source, r->commit, sizeof r->commit);
    if (r->tsv)
        fprintf(r->tsv, "metric\tvalue\tunit\tfloor\tratio\tmodel\tnumerics\tthreads\tdevice\t"
                        "commit\n");
    return r;
}

void rows_set(rows *r, const char *model, const char *numerics)
{
    snprintf(r->model, sizeof r->model, "%s", model);
    snprintf(r->numerics, sizeof r->numerics, "%s", numerics);
}

void rows_add(rows *r, const char *metric, double value, const char *unit, double floor,
              unsigned threads)
{
    char bound[32] = "", share[32] = "";
    if (floor != 0) {
        snprintf(bound, sizeof bound, "%.6g", floor < 0 ? -floor : floor);
        snprintf(share, sizeof share, "%.4g", floor < 0 ? value / -floor : floor / value);
    }
    if (r->n < ROWS_MAX) {
        snprintf(r->list[r->n].metric, sizeof r->list[r->n].metric, "%s", metric);
        r->list[r->n++].value = value;
    }
    if (r->json)
        printf("{\"metric\":\"%s\",\"value\":%.6g,\"unit\":\"%s\",\"floor\":%s,\"ratio\":%s,"
               "\"model\":\"%s\",\"numerics\":\"%s\",\"threads\":%u,\"device\":\"%s\"}\n",
               metric, value, unit, *bound ? bound : "null", *share ? share : "null", r->model,
               r->numerics, threads, r->device);
    else
        printf("%-28s %12.4g %-6s  floor %10s  ratio %7s  threads %u\n", metric, value, unit,
               *bound ? bound : "-", *share ? share : "-", threads);
    fflush(stdout);
    if (r->tsv)
        fprintf(r->tsv, "%s\t%.6g\t%s\t%s\t%s\t%s\t%s\t%u\t%s\t%s\n", metric, value, unit, bound,
                share, r->model, r->numerics, threads, r->device, r->commit);
}

void rows_note(rows *r, const char *text)
{
    fprintf(r->json ? stderr : stdout, "%s\n", text);
}

void rows_compare(rows *r, const char *metric, const char *part)
{
    char line[512], name[256], unit[64];
    double theirs, ours = 0;
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->list[i].metric, metric) == 0) {
            ours = r->list[i].value;
            break;
        }
    if (!r->peers || ours <= 0)
        return;
    rewind(r->peers);
    while (fgets(line, sizeof line, r->peers)) {
        if (!strstr(line, part) ||
            sscanf(line, "%255[^\t]\t%lf\t%63[^\t\n]", name, &theirs, unit) != 3)
            continue;
        if (strcmp(unit, "bytes") == 0)
            theirs /= 1024.0 * 1024.0;
        fprintf(r->json ? stderr : stdout, "%-28s %12.4g         %s %.4g, %.2f times ours\n",
                metric, ours, name, theirs, theirs / ours);
    }
}

void rows_end(rows *r)
{
    if (r->tsv && fclose(r->tsv) != 0) {
        perror("tsv");
        exit(1);
    }
    if (r->peers)
        fclose(r->peers);
    free(r);
}
