#include "where.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool parse_number(const char *text, int64_t least, int64_t *out)
{
    const char *digits = *text == '-' && least < 0 ? text + 1 : text;
    char *end;
    if (*digits < '0' || *digits > '9') /* strtoll would take spaces and a plus */
        return false;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno != 0 || *end != 0 || v < least)
        return false;
    *out = v;
    return true;
}

static const char *after(const char *text, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(text, prefix, n) == 0 ? text + n : NULL;
}

tarn_status tarni_where_parse(const char *text, tarni_where *out, tarn_error *err)
{
    *out = (tarni_where){.kind = TARNI_WHERE_HEAD};
    if (!text || *text == 0)
        return TARN_OK;
    const char *rest;
    int64_t v = 0;
    if ((rest = after(text, "@n:")) && parse_number(rest, 1, &v)) {
        out->kind = TARNI_WHERE_NODE;
        out->node = (uint64_t)v;
    } else if ((rest = after(text, "@t:")) && parse_number(rest, 0, &v)) {
        out->kind = TARNI_WHERE_TOKEN;
        out->token = (uint64_t)v;
    } else if ((rest = after(text, "@turn:")) && parse_number(rest, INT64_MIN, &v)) {
        out->kind = TARNI_WHERE_TURN;
        out->turn = v;
    } else if ((rest = after(text, "@before:")) && *rest) {
        out->kind = TARNI_WHERE_BEFORE;
        out->call_id = rest;
    } else {
        return tarni_fail(err, TARN_E_INVALID,
                          "place is \"%.100s\", must be @n:ID, @t:POS, @turn:K or @before:CALL_ID",
                          text);
    }
    return TARN_OK;
}

tarn_status tarni_chain_turns(const tarni_chain *chain, tarni_turns *out, tarn_error *err)
{
    *out = (tarni_turns){0};
    uint64_t at = 0;
    for (size_t i = 0; i < chain->n_nodes; i++) {
        for (size_t k = 0; k < chain->nodes[i].n_segments; k++) {
            const tarnp_segment *s = &chain->nodes[i].segments[k];
            at += s->n_tokens;
            if (s->role != TARN_ROLE_ASSISTANT)
                continue;
            if ((s->flags & TARNP_SEGMENT_CONTINUES) && out->n > 0) {
                out->ends[out->n - 1] = at;
                continue;
            }
            tarn_status status = tarni_grow(chain->allocator, &out->ends, &out->capacity,
                                            out->n + 1, sizeof *out->ends, err);
            if (status != TARN_OK) {
                tarni_free(chain->allocator, out->ends);
                *out = (tarni_turns){0};
                return status;
            }
            out->ends[out->n++] = at;
        }
    }
    return TARN_OK;
}

static tarn_status find_turn(const tarni_where *w, const tarni_chain *chain, uint64_t *position,
                             tarn_error *err)
{
    tarni_turns turns;
    TARNI_TRY(tarni_chain_turns(chain, &turns, err));
    int64_t n = (int64_t)turns.n, k = w->turn >= 0 ? w->turn : n + w->turn + 1;
    tarn_status status = TARN_OK;
    if (k < 0 || k > n || (w->turn < 0 && k == 0))
        status = tarni_fail(err, TARN_E_NOT_FOUND, "turn %lld: %s has %lld turns",
                            (long long)w->turn, chain->session, (long long)n);
    else
        *position = k == 0 ? 0 : turns.ends[k - 1];
    tarni_free(chain->allocator, turns.ends);
    return status;
}

static bool makes_call(const tarnp_segment *s, const char *call_id)
{
    for (size_t i = 0; s->role == TARN_ROLE_ASSISTANT && i < s->n_call_ids; i++)
        if (strcmp(s->call_ids[i], call_id) == 0)
            return true;
    return false;
}

/* The last turn that made the call: ids may come again in a long session. */
static tarn_status find_before(const tarni_where *w, const tarni_chain *chain, uint64_t *position,
                               tarn_error *err)
{
    uint64_t at = 0, begin = 0;
    bool found = false;
    for (size_t i = 0; i < chain->n_nodes; i++) {
        for (size_t k = 0; k < chain->nodes[i].n_segments; k++) {
            const tarnp_segment *s = &chain->nodes[i].segments[k];
            if (!(s->flags & TARNP_SEGMENT_CONTINUES))
                begin = at;
            at += s->n_tokens;
            if (makes_call(s, w->call_id)) {
                *position = begin;
                found = true;
            }
        }
    }
    if (!found)
        return tarni_fail(err, TARN_E_NOT_FOUND, "no turn of %s made a call \"%.100s\"",
                          chain->session, w->call_id);
    return TARN_OK;
}

tarn_status tarni_where_find(const tarni_where *w, const tarni_chain *chain, uint64_t *position,
                             tarn_error *err)
{
    uint64_t end = chain->nodes[chain->n_nodes - 1].position;
    switch (w->kind) {
    case TARNI_WHERE_HEAD:
    case TARNI_WHERE_NODE:
        *position = end;
        return TARN_OK;
    case TARNI_WHERE_TOKEN:
        if (w->token > end)
            return tarni_fail(err, TARN_E_NOT_FOUND, "position %llu: %s ends at %llu",
                              (unsigned long long)w->token, chain->session,
                              (unsigned long long)end);
        *position = w->token;
        return TARN_OK;
    case TARNI_WHERE_TURN:
        return find_turn(w, chain, position, err);
    default: /* before a call */
        return find_before(w, chain, position, err);
    }
}
