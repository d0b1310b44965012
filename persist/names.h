/* names.h - what may be a tag. Names are checked by tarnp_name_check of store.h. */
#ifndef TARNP_NAMES_H
#define TARNP_NAMES_H

#include "store.h"

/* INVALID says which tag and why. */
tarn_status tarnp_tags_check(const tarnp_tag *tags, size_t n_tags, tarn_error *err);

#endif
