/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/claim.c - when a content was last claimed: its attribute "claimed", nanoseconds since 1970 as twenty
 * decimal digits. An OSD compares attributes as text, in one step with what depends on it, and such texts are in the
 * order of their numbers. An object without the attribute was never claimed.
 */
#include <inttypes.h>
#include <stdio.h>

#include "blocker_rados/parts.h"

#define ATTRIBUTE "claimed"
#define DIGITS 20

static void print(uint64_t ns, char text[DIGITS + 1]) { snprintf(text, DIGITS + 1, "%020" PRIu64, ns); }

void br_claim_write(rados_write_op_t write)
{
    char text[DIGITS + 1];

    print(clock_wall_ns(), text);
    rados.write_op_setxattr(write, ATTRIBUTE, text, DIGITS);
}

void br_claim_expect_none(rados_write_op_t write, uint64_t moment)
{
    char text[DIGITS + 1];

    print(moment, text);
    rados.write_op_cmpxattr(write, ATTRIBUTE, RADOS_XATTR_LESS, text, DIGITS);
}
