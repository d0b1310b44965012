/* resident.h - how much memory of the process is resident, and whether that says anything. */
#ifndef TARN_TESTS_SESSION_RESIDENT_H
#define TARN_TESTS_SESSION_RESIDENT_H

#include "sanitized.h"

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#define RSS_COUNTS (!SANITIZED)

static inline uint64_t rss_bytes(void)
{
    unsigned long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%lu %lu", &all, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

#endif
