#include "cores.h"

#include <stdio.h>
#include <string.h>

/* The lowest processor on the same core, as the kernel lists them ("0-1", "3,67"); the processor
 * itself where that cannot be read. */
static size_t first_sibling(size_t cpu, const char *root)
{
    char path[4096];
    size_t first = cpu;
    int n = snprintf(path, sizeof path, "%s/cpu%zu/topology/thread_siblings_list", root, cpu);
    FILE *stream = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
    if (!stream)
        return cpu;
    if (fscanf(stream, "%zu", &first) != 1 || first >= CPU_SETSIZE)
        first = cpu;
    fclose(stream);
    return first;
}

uint32_t tarni_cores_count(const cpu_set_t *set, const char *root)
{
    cpu_set_t seen;
    CPU_ZERO(&seen);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, set))
            CPU_SET(first_sibling(cpu, root), &seen);
    int n = CPU_COUNT(&seen);
    return n < 1 ? 1 : (uint32_t)n;
}

uint32_t tarni_cores_usable(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return tarni_cores_count(&set, "/sys/devices/system/cpu");
}
