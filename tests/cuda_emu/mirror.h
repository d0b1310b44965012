/* mirror.h - the CUDA table seen from the host: every pointer is host memory, as with a CPU table.
 *
 * Each op copies what it reads to the device, each block into an allocation of exactly its size,
 * runs the CUDA op, and copies back what it wrote. KDA states are turned on the way. So the tests
 * of the CPU tables serve the CUDA ones, on the emulator and on a device. An op returns an error,
 * with a line on standard output, if anything went wrong on the way or the emulator found a fault.
 */
#ifndef TARN_TESTS_MIRROR_H
#define TARN_TESTS_MIRROR_H

#include "cuda.h"

/* NULL where there is no device. native: see cuda.h; workspace_bytes of the device, 0 for a lot. */
const tarnk_ops *mirror_ops(bool native, size_t workspace_bytes);

/* The device of the table above, to lay hands on its fields between ops. */
tarnk_cuda *mirror_cuda(void);
const tarnk_context *mirror_context(void);

/* For ops outside of the table: a block on the device, freed at mirror_end, which also waits; its
 * result is that of the ops. */
void *mirror_up(const void *host, size_t n_bytes);
void mirror_down(void *host, size_t n_bytes); /* of a block that went up: comes back at the end */
int mirror_end(int error);

/* Which way the next kernels are scheduled; nothing on a device. */
void mirror_seed(uint64_t seed);

#endif
