#include "rows.h"

#include "result.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct peer_row {
    char name[160];
    double value;
} peer_row;

struct rows {
    const tarn_engine *engine;
    const rows_peer *peers;
    const char *model;
    int n_threads;
    bool is_brief; /* sizes are not those of the names */
    bool json;
    FILE *tsv;
    peer_row *known; /* the rows of --peers that are of this model and number of threads */
    size_t n_known;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double rows_median(double *values, size_t n)
{
    if (n == 0)
        return 0;
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* ---- peers ----------------------------------------------------------------------------------- */

/* Keeps NAME of "PEER.MODEL.TYPE.METRIC.tTHREADS <tab> value", without its ending. */
static bool keep_peer_row(rows *r, char *line)
{
    char model[128], ending[16];
    size_t n = (size_t)strcspn(line, "\t");
    char *at = line + n + (line[n] == '\t'), *end;
    double value = strtod(at, &end);
    const char *slash = strrchr(r->model, '/');
    snprintf(model, sizeof model, ".%s.", slash && slash[1] ? slash + 1 : r->model);
    size_t n_ending = (size_t)snprintf(ending, sizeof ending, ".t%d", r->n_threads);
    line[n] = 0;
    if (end == at || n <= n_ending || strcmp(line + n - n_ending, ending) != 0 ||
        !strstr(line, model) || n - n_ending >= sizeof r->known->name)
        return true;
    peer_row *more = realloc(r->known, (r->n_known + 1) * sizeof *more);
    if (!more)
        return false;
    r->known = more;
    memcpy(more[r->n_known].name, line, n - n_ending);
    more[r->n_known].name[n - n_ending] = 0;
    more[r->n_known++].value = value;
    return true;
}

static bool read_peers(rows *r, const char *path)
{
    char line[512];
    FILE *f = fopen(path, "r");
    if (!f) {
        perror(path);
        return false;
    }
    bool ok = true;
    while (ok && fgets(line, sizeof line, f))
        ok = keep_peer_row(r, line);
    ok = ok && !ferror(f);
    fclose(f);
    return ok;
}

/* The median of the rows "PREFIX.NAME"; false: there is none. */
static bool known_value(const rows *r, const char *prefix, size_t n_prefix, const char *name,
                        double *out)
{
    double values[32];
    size_t n = 0;
    for (size_t i = 0; i < r->n_known && n < sizeof values / sizeof values[0]; i++) {
        const char *have = r->known[i].name;
        if (strncmp(have, prefix, n_prefix) == 0 && have[n_prefix] == '.' &&
            strcmp(have + n_prefix + 1, name) == 0)
            values[n++] = r->known[i].value;
    }
    *out = rows_median(values, n);
    return n > 0;
}

/* What the peer of `prefix` needs, in the unit of the metric; 0: it has not all of the rows. */
static double peer_value(const rows *r, const rows_peer *p, const char *prefix, size_t n_prefix,
                         const char *unit)
{
    double sum = 0;
    for (size_t i = 0; i < ROWS_TERMS_MAX && p->terms[i].name; i++) {
        double value;
        if (!known_value(r, prefix, n_prefix, p->terms[i].name, &value) ||
            (p->terms[i].tokens > 0 && value <= 0))
            return 0;
        sum += p->terms[i].tokens > 0 ? 1e3 * p->terms[i].tokens / value : value;
    }
    return strcmp(unit, "us") == 0 ? sum * 1e3 : sum;
}

static void compare(const rows *r, const rows_peer *p, double value, const char *unit, bool is_rate)
{
    const char *first = p->terms[0].name;
    for (size_t i = 0; i < r->n_known; i++) {
        const char *name = r->known[i].name;
        size_t n = strlen(name), n_first = strlen(first), n_prefix = n - n_first - 1;
        bool seen = false;
        if (n <= n_first + 1 || name[n_prefix] != '.' || strcmp(name + n_prefix + 1, first) != 0)
            continue;
        for (size_t k = 0; k < i; k++)
            seen = seen || strcmp(r->known[k].name, name) == 0;
        double theirs = seen ? 0 : peer_value(r, p, name, n_prefix, unit);
        if (theirs <= 0)
            continue;
        double ratio = is_rate ? value / theirs : theirs / value;
        if (r->json)
            result_print(json_pack("{s:s, s:s#, s:f, s:f}", "metric", p->metric, "peer", name,
                                   (int)n_prefix, "value", theirs, "ratio", ratio),
                         0);
        else
            printf("    %.2f x %.*s (%.5g %s)\n", ratio, (int)n_prefix, name, theirs, unit);
    }
}

/* ---- rows ------------------------------------------------------------------------------------ */

static bool open_table(rows *r, const char *path)
{
    r->tsv = fopen(path, "a");
    if (!r->tsv) {
        perror(path);
        return false;
    }
    if (fseek(r->tsv, 0, SEEK_END) == 0 && ftell(r->tsv) == 0)
        fprintf(r->tsv, "metric\tvalue\tunit\tfloor\tratio\tmodel\tnumerics\tthreads\tdevice\t"
                        "commit\n");
    return true;
}

rows *rows_begin(const arguments *args, const tarn_engine *engine, const rows_peer *peers)
{
    const char *table = args->options[OPTION_TSV].text;
    const char *others = args->options[OPTION_PEERS].text;
    rows *r = calloc(1, sizeof *r);
    if (!r) {
        fprintf(stderr, "tarn: no memory for rows\n");
        return NULL;
    }
    r->engine = engine;
    r->peers = peers;
    r->model = args->options[given(args, OPTION_SHAPE) ? OPTION_SHAPE : OPTION_MODEL].text;
    r->n_threads = (int)tarn_engine_threads(engine);
    r->json = given(args, OPTION_JSON);
    r->is_brief = given(args, OPTION_QUICK) && strncmp(tarn_engine_device(engine), "cpu", 3) != 0;
    if ((others && !read_peers(r, others)) || (table && !open_table(r, table))) {
        rows_end(r, 1);
        return NULL;
    }
    return r;
}

void rows_add(rows *r, const char *metric, double value, const char *unit, double floor)
{
    const size_t n_unit = strlen(unit);
    const bool is_rate = n_unit > 2 && strcmp(unit + n_unit - 2, "/s") == 0;
    const double ratio = floor > 0 && value > 0 ? (is_rate ? value / floor : floor / value) : 0;
    const char *numerics = tarn_engine_numerics(r->engine);
    const char *device = tarn_engine_device(r->engine);
    char shown[64] = "\t", quick[64];
    if (r->is_brief) {
        snprintf(quick, sizeof quick, "quick_%s", metric);
        metric = quick;
    }
    if (floor > 0)
        snprintf(shown, sizeof shown, "%.6g\t%.4f", floor, ratio);
    if (r->json)
        result_print(json_pack("{s:s, s:f, s:s, s:o, s:o, s:s, s:s, s:i, s:s}", "metric", metric,
                               "value", value, "unit", unit, "floor",
                               floor > 0 ? json_real(floor) : json_null(), "ratio",
                               floor > 0 ? json_real(ratio) : json_null(), "model", r->model,
                               "numerics", numerics, "threads", r->n_threads, "device", device),
                     0);
    else if (floor > 0)
        printf("%-26s %11.5g %-8s floor %10.4g  %4.0f %%\n", metric, value, unit, floor,
               100 * ratio);
    else
        printf("%-26s %11.5g %s\n", metric, value, unit);
    for (const rows_peer *p = r->peers; p->metric && value > 0; p++)
        if (strcmp(p->metric, metric) == 0)
            compare(r, p, value, unit, is_rate);
    fflush(stdout);
    if (r->tsv)
        fprintf(r->tsv, "%s\t%.6g\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", metric, value, unit, shown,
                r->model, numerics, r->n_threads, device, TARN_COMMIT);
}

int rows_end(rows *r, int code)
{
    if (!r)
        return code;
    if (r->tsv && (ferror(r->tsv) | fclose(r->tsv)) != 0 && code == 0) {
        fprintf(stderr, "tarn: the rows could not be written\n");
        code = 1;
    }
    free(r->known);
    free(r);
    return code;
}
