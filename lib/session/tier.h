/* tier.h - parked sessions whose memory is kept where it comes back from fastest.
 *
 * On a device that is not the host, parking copies state, logits and latents into pinned memory, as
 * long as there is room in one block that is taken when the engine is opened. What was used longest
 * ago goes first; such a session comes back from the store, as every parked one could.
 *
 * Nobody waits for such a copy. It goes beside the steps of others, on the stream of copies; until
 * it has passed it holds the session's slot and pages, and each step looks whether it has. Waited
 * for is it only by who cannot go on without: another session that needs just that memory, and the
 * session itself, which then has its memory back as it lay there.
 *
 *     keep -> on its way --reap, settle--> kept --restore, drop--> none
 *                  \--restore, drop, or it failed--> none */
#ifndef TARNI_TIER_H
#define TARNI_TIER_H

#include "device.h"

typedef struct tarni_tier {
    uint8_t *memory; /* pinned; NULL: there is none */
    uint64_t bytes_max, bytes;
    uint32_t n;       /* sessions kept */
    uint64_t n_begun; /* copies, ever */
} tarni_tier;

/* Of one session: its part of the block. */
typedef struct tarni_tier_place {
    uint64_t begin, n_bytes;      /* 0: none */
    struct tarni_tier_copy *copy; /* on its way there; NULL: it has passed */
} tarni_tier_place;

/* Takes the block. bytes_max 0, or on the host: none. NO_MEMORY. */
tarn_status tarni_tier_open(tarni_tier *t, tarni_device *d, uint64_t bytes_max, tarn_error *err);
void tarni_tier_close(tarni_tier *t, tarni_device *d);

struct tarn_session;
struct tarn_engine;
/* Begins to copy what is live, before the session gives it back. Keeps nothing where there is no
 * room, or the device fails. */
void tarni_tier_keep(struct tarn_session *s);
/* If its copy has passed, gives back what that held. Never waits. */
void tarni_tier_reap(struct tarn_session *s);
/* Does memory come when a copy has passed, which the step that is being planned does not wait for?
 */
bool tarni_tier_put_off(const struct tarn_engine *e);
/* Waits for the copy that was begun first, and gives that memory back; false: none is on its way.
 */
bool tarni_tier_settle(struct tarn_engine *e);
bool tarni_tier_has(const struct tarn_session *s);
/* Gives the session its memory again as it was, and lets go of the copy. LIMIT, DEVICE: nothing has
 * changed. */
tarn_status tarni_tier_restore(struct tarn_session *s, tarn_error *err);
void tarni_tier_drop(struct tarn_session *s); /* also where nothing is kept */

#endif
