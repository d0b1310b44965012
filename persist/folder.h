/* folder.h - what lies in a store's folder beside LMDB's two files.
 *
 *     reserve   disk space set aside, given back while a removal finds the disk full
 *     scratch   only in a scratch store: locked by everyone who has it open
 *     clean     only in a scratch store, while nobody has it open and everything is on disk */
#ifndef TARNP_FOLDER_H
#define TARNP_FOLDER_H

#include "handle.h"

#define TARNP_PATH_BYTES 4096 /* of a folder; names of files in it need 32 more */

/* The path without slashes at its end, so that a name beside it can be made. INVALID. */
tarn_status tarnp_path_clean(const char *path, char out[TARNP_PATH_BYTES], tarn_error *err);
/* A clean path from the root, so that it stays right when the host changes its working folder.
 * INVALID: too long. */
tarn_status tarnp_path_whole(const char *clean, char out[TARNP_PATH_BYTES], tarn_error *err);
tarn_status tarnp_folder_sync(const char *folder, tarn_error *err);
tarn_status tarnp_folder_sync_parent(const char *path, tarn_error *err);
/* Unlinks every file a store may consist of, and the folder. */
void tarnp_folder_remove(const char *folder);

/* In a process without standard streams the next files that are opened become them, and what it
 * prints would be written over the store. Between these two the descriptors 0 to 2 are taken, so
 * that no file which stays open gets one. */
#define TARNP_STREAMS 3
void tarnp_streams_take(int taken[TARNP_STREAMS]);
void tarnp_streams_release(const int taken[TARNP_STREAMS]);

/* The reserve. Without room for one there is none: no error. */
void tarnp_reserve_make(const char *folder);
/* Between these two a store that is full, of disk or map, has room to free something. No
 * transaction may be open. Where none can be had it stays full, and says so when it is tried. */
void tarnp_room_lend(tarnp_store *store);
void tarnp_room_return(tarnp_store *store);

bool tarnp_scratch_is(const char *folder);
/* The marks of a new scratch store in its folder. */
tarn_status tarnp_scratch_mark(const char *folder, tarn_error *err);
/* Locks a scratch store and fills *fd; *unclean says that no other process has it open and that it
 * was not closed cleanly: then it must be made anew, and tarnp_scratch_share called. INVALID where
 * `wanted` is not what the store is. *fd is -1 where it is none. */
tarn_status tarnp_scratch_lock(const char *folder, bool wanted, int *fd, bool *unclean,
                               tarn_error *err);
tarn_status tarnp_scratch_share(const char *folder, int fd, tarn_error *err);
/* Unlocks it; the last one out with everything `synced` leaves the mark. */
void tarnp_scratch_leave(const char *folder, int fd, bool synced);

#endif
