/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/log.c - see segment/log.h.
 */
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "segment/log.h"

#define TEXT_MAX 512                /* bytes, with NUL */

void log_line(const char *role, const char *level, const char *format, ...)
{
    char text[TEXT_MAX], when[32];
    struct timespec now;
    struct tm local;
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &local);
    fprintf(stderr, "%s.%03ld %s %s %s\n", when, now.tv_nsec / 1000000, role, level, text);
}
