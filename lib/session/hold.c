#include "hold.h"

#include "log.h"

#include <time.h>

#define LEASE_MS_DEFAULT 60000

/* The store's clock: what is compared with ends_ms. */
static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint32_t duration(const tarn_session *s)
{
    return s->lease_ms ? s->lease_ms : LEASE_MS_DEFAULT;
}

static void warn(const tarn_session *s, const tarn_error *err)
{
    TARNI_LOG(&s->engine->pools.log, TARN_LOG_WARN, "session %s: no lease: %s", s->name,
              err->detail);
}

tarn_status tarni_hold_take(tarn_session *s, tarn_error *err)
{
    tarnp_store *store = tarni_desk_enter(s->desk);
    tarn_status status = tarnp_lease_take(store, s->store_id, duration(s), NULL, &s->lease, err);
    tarni_desk_leave(s->desk);
    if (status != TARN_E_NO_SPACE)
        return status;
    warn(s, err);
    return TARN_OK;
}

void tarni_hold_try(tarn_session *s)
{
    tarn_error err;
    if (tarni_hold_take(s, &err) != TARN_OK)
        warn(s, &err);
}

/* One that failed is tried again after an eighth of the time, not at every step. */
void tarni_hold_refresh(tarn_session *s)
{
    if (s->lease.session_id == 0)
        return;
    uint64_t now = now_ms();
    uint32_t ms = duration(s);
    bool ours = now >= s->lease.taken_ms && now - s->lease.taken_ms < ms / 2;
    if (ours || (now >= s->lease_tried_ms && now - s->lease_tried_ms < ms / 8))
        return;
    tarn_error err;
    if (!tarni_desk_try_enter(s->desk)) /* something is being encoded: there is time */
        return;
    s->lease_tried_ms = now;
    if (tarnp_lease_renew(s->store, &s->lease, ms, &err) != TARN_OK)
        warn(s, &err);
    tarni_desk_leave(s->desk);
}

void tarni_hold_release(tarn_session *s)
{
    tarn_error err;
    tarnp_store *store = tarni_desk_enter(s->desk);
    if (s->lease.session_id != 0 && tarnp_lease_release(store, &s->lease, &err) != TARN_OK)
        TARNI_LOG(&s->engine->pools.log, TARN_LOG_WARN,
                  "session %s: its lease stays until it ends: "
                  "%s",
                  s->name, err.detail);
    tarni_desk_leave(s->desk);
    s->lease = (tarnp_lease){0};
}
