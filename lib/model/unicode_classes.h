/* unicode_classes.h - one letter for every code point: what the cutting pattern can tell apart.
 *
 *     h  Han letter          u  Lu, Lt            1  N, not Han        _  space
 *     n  Han number          a  Ll                b  CR, LF            q  apostrophe
 *     k  other Han           o  Lm, Lo, not Han   w  other White_Space .  everything else
 *                            c  M, not Han        f  U+001C..U+001F
 *
 * The letters of the English contractions stand for themselves, in both cases, and are no u or a:
 * s t r e v m l d, S T R E V M L D. U+017F (long s) folds to s and has its letter. U+001C..U+001F
 * are no White_Space, but count as space where long runs are cut. Unicode 16.0. */
#ifndef TARN_MODEL_UNICODE_CLASSES_H
#define TARN_MODEL_UNICODE_CLASSES_H

#include <stdint.h>

/* A page of 256 code points is stored once, however often it occurs. Page 0 is the first. */
extern const uint8_t tarni_class_pages[0x1100];
extern const char tarni_page_classes[][256];

/* For code points below 0x110000. */
static inline char tarni_unicode_class(uint32_t code_point)
{
    return tarni_page_classes[tarni_class_pages[code_point >> 8]][code_point & 0xff];
}

#endif
