/* names.h - what may be a tag. Names are checked by tarnp_name_check of store.h. */
#ifndef TARNP_NAMES_H
#define TARNP_NAMES_H

#include "store.h"

/* INVALID says which tag and why. */
tarn_status tarnp_tags_check(const tarnp_tag *tags, size_t n_tags, tarn_error *err);
/* Up to TARNP_GROUP_BYTES_MAX bytes of UTF-8 without control characters; "" is none. */
tarn_status tarnp_group_check(const char *group, tarn_error *err);

#endif
