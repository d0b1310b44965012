/* The same job by SQLite: found at build time, or left out. */
#include "store_jobs.h"

#ifdef BENCH_SQLITE

#    include "rows.h"

#    include <sqlite3.h>
#    include <stdio.h>
#    include <stdlib.h>
#    include <string.h>
#    include <unistd.h>

#    define ROUNDS_KEPT 5

typedef struct sql_job {
    sqlite3 *db;
    sqlite3_stmt *put, *get, *drop;
    char path[340];
    sqlite3_int64 round;
} sql_job;

static void must(sql_job *s, int rc)
{
    if (rc != SQLITE_OK && rc != SQLITE_DONE && rc != SQLITE_ROW)
        bench_stop("sqlite", sqlite3_errmsg(s->db));
}

static void run(sql_job *s, const char *sql)
{
    must(s, sqlite3_exec(s->db, sql, NULL, NULL, NULL));
}

/* Drops the oldest state and writes the new one. */
static double save(job *j)
{
    sql_job *s = j->own;
    double start = now_ms();
    run(s, "begin immediate");
    s->round++;
    sqlite3_bind_int64(s->drop, 1, s->round - ROUNDS_KEPT);
    must(s, sqlite3_step(s->drop));
    must(s, sqlite3_reset(s->drop));
    for (int i = 0; i < CHUNKS; i++) {
        sqlite3_bind_int64(s->put, 1, s->round);
        sqlite3_bind_int(s->put, 2, i);
        sqlite3_bind_blob(s->put, 3, (const uint8_t *)j->state + (size_t)i * CHUNK_BYTES,
                          (int)CHUNK_BYTES, SQLITE_STATIC);
        must(s, sqlite3_step(s->put));
        must(s, sqlite3_reset(s->put));
    }
    run(s, "commit");
    j->stored_bytes = STATE_BYTES;
    return now_ms() - start;
}

static double load(job *j)
{
    sql_job *s = j->own;
    double start = now_ms();
    sqlite3_bind_int64(s->get, 1, s->round);
    size_t n = 0;
    while (sqlite3_step(s->get) == SQLITE_ROW && n < CHUNKS)
        memcpy((uint8_t *)j->back + n++ * CHUNK_BYTES, sqlite3_column_blob(s->get, 0), CHUNK_BYTES);
    must(s, sqlite3_reset(s->get));
    double ms = now_ms() - start;
    if (n != CHUNKS || memcmp(j->state, j->back, STATE_BYTES) != 0)
        bench_stop("sqlite", "read back something else");
    memset(j->back, 0, STATE_BYTES);
    return ms;
}

static void finish(job *j)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    sql_job *s = j->own;
    sqlite3_finalize(s->put);
    sqlite3_finalize(s->get);
    sqlite3_finalize(s->drop);
    sqlite3_close(s->db);
    for (size_t i = 0; i < 3; i++) {
        char path[360];
        snprintf(path, sizeof path, "%s%s", s->path, ends[i]);
        unlink(path);
    }
    free(s);
}

bool job_sqlite(job *j, const char *folder)
{
    sql_job *s = calloc(1, sizeof *s);
    if (!s)
        exit(1);
    snprintf(s->path, sizeof s->path, "%s/states.sqlite", folder);
    must(s, sqlite3_open(s->path, &s->db));
    run(s, "pragma page_size = 65536; pragma journal_mode = wal; pragma synchronous = full");
    run(s, "create table state (round integer, chunk integer, bytes blob, "
           "primary key (round, chunk))");
    must(s, sqlite3_prepare_v2(s->db, "insert into state values (?, ?, ?)", -1, &s->put, NULL));
    must(s, sqlite3_prepare_v2(s->db, "select bytes from state where round = ? order by chunk", -1,
                               &s->get, NULL));
    must(s, sqlite3_prepare_v2(s->db, "delete from state where round = ?", -1, &s->drop, NULL));
    j->prefix = "sqlite_";
    j->commit = save;
    j->resume = load;
    j->close = finish;
    j->own = s;
    return true;
}

#else

bool job_sqlite(job *j, const char *folder)
{
    (void)j;
    (void)folder;
    return false;
}

#endif
