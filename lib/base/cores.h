/* cores.h - how many threads are worth starting. */
#ifndef TARN_BASE_CORES_H
#define TARN_BASE_CORES_H

#include <sched.h>
#include <stdint.h>

/* Physical cores among the processors of `set`: siblings of one core share what our loops need, its
 * multipliers and its path to memory, so a second thread there adds nothing. `root` is the folder
 * that holds cpu0, cpu1, ... ("/sys/devices/system/cpu"); a processor it does not describe counts
 * as a core. At least 1. */
uint32_t tarni_cores_count(const cpu_set_t *set, const char *root);

/* The same of the processors this process may run on. */
uint32_t tarni_cores_usable(void);

#endif
