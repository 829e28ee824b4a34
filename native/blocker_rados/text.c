/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/text.c - small objects of text that change by compare-and-swap.
 *
 * The first line, "archipelago KIND 1 GENERATION" with 16 hexadecimal digits, differs between any
 * two contents that such an object ever has, so it alone is compared.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "blocker_rados/parts.h"

#define FIRST_LINE "archipelago %s 1 %016" PRIx64 "\n"
#define FIRST_LINE_MAX 64
#define GENERATION_DIGITS 16

int br_text_begin(const char *kind, uint64_t generation, char text[BR_TEXT_MAX])
{
    return snprintf(text, BR_TEXT_MAX, FIRST_LINE, kind, generation);
}

int br_text_add(char text[BR_TEXT_MAX], const char *format, ...)
{
    size_t used = strlen(text);
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text + used, BR_TEXT_MAX - used, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < BR_TEXT_MAX - used)
        return 0;
    text[used] = 0;
    return -EMSGSIZE;
}

int br_text_parse(const char *kind, char text[BR_TEXT_MAX], int length, uint64_t *generation)
{
    char first[FIRST_LINE_MAX], *end;
    size_t size;

    *generation = 0;
    if (length < 0 || length >= BR_TEXT_MAX)
        return length < 0 ? length : -EBADMSG;
    text[length] = 0;
    end = strchr(text, '\n');
    if (memchr(text, 0, (size_t)length))
        return -EBADMSG;
    if (!end || end - text < GENERATION_DIGITS || sscanf(end - GENERATION_DIGITS, "%16" SCNx64, generation) != 1
        || *generation == 0)
        return -EBADMSG;
    size = (size_t)snprintf(first, sizeof(first), FIRST_LINE, kind, *generation);
    return strncmp(text, first, size) == 0 ? length : -EBADMSG;
}

int br_text_read(rados_ioctx_t io, const char *name, const char *kind, char text[BR_TEXT_MAX],
                 uint64_t *generation)
{
    return br_text_parse(kind, text, rados.read(io, name, text, BR_TEXT_MAX, 0), generation);
}

rados_write_op_t br_text_swap(const char *kind, uint64_t generation)
{
    rados_write_op_t op = rados.create_write_op();
    char first[FIRST_LINE_MAX];

    if (generation == 0) {
        rados.write_op_create(op, RADOS_CREATE_EXCLUSIVE, NULL);
    } else {
        int length = snprintf(first, sizeof(first), FIRST_LINE, kind, generation);
        rados.write_op_assert_exists(op);
        rados.write_op_cmpext(op, first, (size_t)length, 0, NULL);
    }
    return op;
}

int br_text_operate(rados_write_op_t op, rados_ioctx_t io, const char *name)
{
    int rc = rados.write_op_operate(op, io, name, NULL, RADOS_FULL_FORCE);

    rados.release_write_op(op);
    return rc == -EEXIST || rc <= -RADOS_COMPARE_BASE ? -EAGAIN : rc;
}
