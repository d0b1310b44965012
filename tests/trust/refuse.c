#include "refuse.h"

#include "disk.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

static bool refuses(purse *p)
{
    unsigned long long now = atomic_fetch_add(&p->n_calls, 1);
    return p->on && (now == p->at || (p->for_good && now > p->at));
}

static void *purse_resize(void *user, void *memory, size_t n)
{
    purse *p = user;
    if (refuses(p))
        return NULL;
    void *got = realloc(memory, n);
    atomic_fetch_add(&p->live, got && !memory);
    return got;
}

static void *purse_alloc(void *user, size_t n)
{
    return purse_resize(user, NULL, n);
}

static void purse_release(void *user, void *memory)
{
    atomic_fetch_sub(&((purse *)user)->live, memory != NULL);
    free(memory);
}

tarn_allocator refuse_allocator(purse *p)
{
    return (tarn_allocator){purse_alloc, purse_resize, purse_release, p};
}

const refusal refusals[N_REFUSALS] = {
    {"the allocator", 0, 0, false},
    {"malloc", DISK_MEMORY, ENOMEM, false},
    {"open", DISK_OPEN, EMFILE, false},
    {"read: EIO", DISK_READ, EIO, false},
    {"read: short", DISK_READ, EIO, true},
    {"write: EIO", DISK_WRITE, EIO, false},
    {"write: ENOSPC", DISK_WRITE, ENOSPC, false},
    {"write: short", DISK_WRITE, ENOSPC, true},
    {"sync", DISK_SYNC, EIO, false},
    {"mmap", DISK_MAP, ENOMEM, false},
    {"size", DISK_SIZE, ENOSPC, false},
    {"rename", DISK_NAME, EIO, false},
    {"stat", DISK_LOOK, EIO, false},
    {"LMDB", DISK_TABLES, ENOMEM, false},
    {"thread or libsodium", DISK_START, EAGAIN, false},
};

void refuse_begin(purse *p, const refusal *r, uint64_t at, bool for_good)
{
    atomic_store(&p->n_calls, 0);
    p->at = at;
    p->for_good = for_good;
    p->on = r->calls == 0;
    disk_fail((disk_fault){r->calls, at, for_good, r->is_short, r->error});
}

uint64_t refuse_end(purse *p, const refusal *r)
{
    uint64_t n = disk_fail_end();
    p->on = false;
    return r->calls ? n : atomic_load(&p->n_calls);
}

unsigned refuse_open_files(void)
{
    unsigned n = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder))
        n++;
    if (folder)
        closedir(folder);
    return n;
}
