/* sanitized.h - is this a build under a sanitizer? Its memory and threads are not the C library's
 * own, it keeps what was freed, maps terabytes of shadow, and takes ten times as long. */
#ifndef TARN_TESTS_SANITIZED_H
#define TARN_TESTS_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#    define SANITIZED 1
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#        define SANITIZED 1
#    endif
#endif
#ifndef SANITIZED
#    define SANITIZED 0
#endif

#endif
