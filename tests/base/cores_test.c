#include "check.h"
#include "cores.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/tarn-cores-XXXXXX";

static void describe(int cpu, const char *siblings)
{
    char path[256];
    snprintf(path, sizeof path, "%s/cpu%d", root, cpu);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/cpu%d/topology", root, cpu);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/cpu%d/topology/thread_siblings_list", root, cpu);
    FILE *f = fopen(path, "w");
    if (f) {
        fputs(siblings, f);
        fclose(f);
    }
}

static void forget(int cpu)
{
    static const char *const parts[] = {"/topology/thread_siblings_list", "/topology", ""};
    char path[256];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/cpu%d%s", root, cpu, parts[i]);
        remove(path);
    }
}

static uint32_t count(const char *cpus)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (; *cpus; cpus++)
        CPU_SET((size_t)(*cpus - '0'), &set);
    return tarni_cores_count(&set, root);
}

CASE(siblings_are_one_core)
{
    REQUIRE(mkdtemp(root) != NULL);
    describe(0, "0,4\n");
    describe(4, "0,4\n");
    describe(1, "1-2\n");
    describe(2, "1-2\n");
    describe(3, "nonsense\n");
    describe(5, "99999999\n");
    CHECK_EQ(count("0412"), 2);
    CHECK_EQ(count("42"), 2); /* the first sibling need not be ours */
    CHECK_EQ(count("012345"), 4);
    CHECK_EQ(count("67"), 2); /* not described */
    CHECK_EQ(count(""), 1);
    for (int cpu = 0; cpu < 6; cpu++)
        forget(cpu);
    CHECK(rmdir(root) == 0);
}

CASE(this_process_has_a_core)
{
    cpu_set_t set;
    REQUIRE(sched_getaffinity(0, sizeof set, &set) == 0);
    CHECK(tarni_cores_usable() >= 1);
    CHECK(tarni_cores_usable() <= (uint32_t)CPU_COUNT(&set));
}

CHECK_MAIN(ENTRY(siblings_are_one_core), ENTRY(this_process_has_a_core))
