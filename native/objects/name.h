/* SPDX-License-Identifier: Apache-2.0
 *
 * objects/name.h - names of objects as text, as stores that people look into bear them.
 *
 *     kind                 name (lower-case hexadecimal digits)
 *     data page journal    volume (16), epoch (8), number (16), with "_" between
 *     header lock          volume (16)
 *     content name         digest (64)
 */
#ifndef ARCHIPELAGO_OBJECT_NAME_H
#define ARCHIPELAGO_OBJECT_NAME_H

#include "objects/object.h"

#define OBJECT_NAME_MAX 68          /* bytes of a name's text, with NUL */

/* "data", "content", ... of a kind from 1 to XOBJ_KINDS - 1. */
const char *object_kind_name(uint32_t kind);
/* The text of a name that object_name_ok(). */
void object_name_print(const struct xobj *object, char text[OBJECT_NAME_MAX]);
/* The other way: false if no object of the kind has that name. */
bool object_name_parse(uint32_t kind, const char *text, struct xobj *object);

#endif
