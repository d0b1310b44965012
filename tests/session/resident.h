/* resident.h - how much memory of the process is resident, and whether that says anything. */
#ifndef TARN_TESTS_SESSION_RESIDENT_H
#define TARN_TESTS_SESSION_RESIDENT_H

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

/* A sanitizer keeps what was freed. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#    define RSS_COUNTS false
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#        define RSS_COUNTS false
#    endif
#endif
#ifndef RSS_COUNTS
#    define RSS_COUNTS true
#endif

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
