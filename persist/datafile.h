/* datafile.h - data.mdb as a file: what is looked at without LMDB, which believes all it reads. */
#ifndef TARNP_DATAFILE_H
#define TARNP_DATAFILE_H

#include "memory.h"
#include "structure.h"

/* NULL, or the name of the network file system with this statfs type. */
const char *tarnp_network_filesystem(uint64_t type);
/* UNSUPPORTED where the folder lies on a network file system. */
tarn_status tarnp_datafile_place(const char *folder, tarn_error *err);

/* The meta pages, read and compared before LMDB sees the file. Another process may be writing one
 * of them meanwhile, so a doubtful answer is asked for again. CORRUPT, FORMAT. */
tarn_status tarnp_datafile_head(const char *path, const tarn_allocator *allocator, tarn_error *err);
/* The trees of a snapshot (structure.h), which a read transaction of the caller keeps in place. */
tarn_status tarnp_datafile_tree(const char *path, uint64_t txn_id, uint64_t pages_max,
                                const tarn_allocator *allocator, tarnp_structure_result *out,
                                tarn_error *err);

#endif
