/* below.c - what stands below the store, counted and failed like the calls of disk.c: LMDB, the
 * start of a thread, the start of libsodium.
 *
 * A call on LMDB that fails has changed nothing, except that a commit ends its transaction either
 * way. What LMDB calls within itself is let through. */
#include "disk.h"

#include <dlfcn.h>
#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <sodium.h>
#include <string.h>

#define IN_FRONT __attribute__((visibility("default")))

static _Thread_local int depth; /* of calls on LMDB */

static void find(const char *name, void *to)
{
    void *found = dlsym(RTLD_NEXT, name);
    memcpy(to, &found, sizeof found);
}

/* Defines NAME in front of LMDB's, with PARAMETERS; REFUSE is done before it fails. */
#define FRONT(name, parameters, arguments, refuse)                                                 \
    IN_FRONT int name parameters                                                                   \
    {                                                                                              \
        static int(*real) parameters;                                                              \
        if (depth == 0 && disk_fails(DISK_TABLES)) {                                               \
            refuse;                                                                                \
            return errno;                                                                          \
        }                                                                                          \
        if (!real)                                                                                 \
            find(#name, &real);                                                                    \
        depth++;                                                                                   \
        int rc = real arguments;                                                                   \
        depth--;                                                                                   \
        return rc;                                                                                 \
    }

static void end_failed(MDB_txn *txn)
{
    int error = errno;
    mdb_txn_abort(txn);
    errno = error;
}

FRONT(mdb_env_create, (MDB_env * *env), (env), (void)0)
FRONT(mdb_env_set_maxdbs, (MDB_env * env, MDB_dbi n), (env, n), (void)0)
FRONT(mdb_env_set_mapsize, (MDB_env * env, size_t n), (env, n), (void)0)
FRONT(mdb_env_set_userctx, (MDB_env * env, void *user), (env, user), (void)0)
FRONT(mdb_env_set_assert, (MDB_env * env, MDB_assert_func *fn), (env, fn), (void)0)
FRONT(mdb_env_open, (MDB_env * env, const char *path, unsigned flags, mdb_mode_t mode),
      (env, path, flags, mode), (void)0)
FRONT(mdb_env_info, (MDB_env * env, MDB_envinfo *out), (env, out), (void)0)
FRONT(mdb_env_set_flags, (MDB_env * env, unsigned flags, int on), (env, flags, on), (void)0)
FRONT(mdb_env_sync, (MDB_env * env, int force), (env, force), (void)0)
FRONT(mdb_env_copy2, (MDB_env * env, const char *path, unsigned flags), (env, path, flags), (void)0)
FRONT(mdb_reader_check, (MDB_env * env, int *dead), (env, dead), (void)0)
FRONT(mdb_txn_begin, (MDB_env * env, MDB_txn *parent, unsigned flags, MDB_txn **txn),
      (env, parent, flags, txn), (void)0)
FRONT(mdb_txn_commit, (MDB_txn * txn), (txn), end_failed(txn))
FRONT(mdb_dbi_open, (MDB_txn * txn, const char *name, unsigned flags, MDB_dbi *dbi),
      (txn, name, flags, dbi), (void)0)
FRONT(mdb_get, (MDB_txn * txn, MDB_dbi dbi, MDB_val *key, MDB_val *data), (txn, dbi, key, data),
      (void)0)
FRONT(mdb_put, (MDB_txn * txn, MDB_dbi dbi, MDB_val *key, MDB_val *data, unsigned flags),
      (txn, dbi, key, data, flags), (void)0)
FRONT(mdb_del, (MDB_txn * txn, MDB_dbi dbi, MDB_val *key, MDB_val *data), (txn, dbi, key, data),
      (void)0)
FRONT(mdb_cursor_open, (MDB_txn * txn, MDB_dbi dbi, MDB_cursor **cursor), (txn, dbi, cursor),
      (void)0)
FRONT(mdb_cursor_get, (MDB_cursor * cursor, MDB_val *key, MDB_val *data, MDB_cursor_op op),
      (cursor, key, data, op), (void)0)

#if !SANITIZED
IN_FRONT int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                            void *(*run)(void *), void *user)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (disk_fails(DISK_START))
        return errno;
    if (!real)
        find("pthread_create", &real);
    return real(thread, attributes, run, user);
}
#endif

IN_FRONT int sodium_init(void)
{
    static int (*real)(void);
    if (disk_fails(DISK_START))
        return -1;
    if (!real)
        find("sodium_init", &real);
    return real();
}
