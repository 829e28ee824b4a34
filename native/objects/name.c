/* SPDX-License-Identifier: Apache-2.0
 *
 * objects/name.c - names of objects to text and back.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "objects/name.h"

#define DIGEST_DIGITS 64
#define VOLUME_DIGITS 16
#define NUMBERED_LENGTH 42          /* volume_epoch_number */

const char *object_kind_name(uint32_t kind)
{
    static const char *const name[XOBJ_KINDS] = {
        [XOBJ_DATA] = "data", [XOBJ_CONTENT] = "content", [XOBJ_HEADER] = "header",
        [XOBJ_NAME] = "name", [XOBJ_PAGE] = "page", [XOBJ_JOURNAL] = "journal",
        [XOBJ_LOCK] = "lock",
    };

    assert(kind > XOBJ_NONE && kind < XOBJ_KINDS);
    return name[kind];
}

static void print_hex(char *text, uint64_t value, int digits)
{
    for (int i = digits; i-- > 0; value >>= 4)
        text[i] = "0123456789abcdef"[value & 15];
}

void object_name_print(const struct xobj *object, char text[OBJECT_NAME_MAX])
{
    if (object_has_digest(object->kind)) {
        for (int i = 0; i < 32; i++)
            print_hex(text + 2 * i, object->digest[i], 2);
        text[DIGEST_DIGITS] = 0;
        return;
    }
    print_hex(text, object->volume, VOLUME_DIGITS);
    text[VOLUME_DIGITS] = 0;
    if (object_has_volume_only(object->kind))
        return;
    text[16] = text[25] = '_';
    print_hex(text + 17, object->epoch, 8);
    print_hex(text + 26, object->index, 16);
    text[NUMBERED_LENGTH] = 0;
}

static bool parse_hex(const char *text, int digits, uint64_t *value)
{
    *value = 0;
    for (int i = 0; i < digits; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9')
            *value = *value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            *value = *value << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    return true;
}

static bool parse_digest(const char *text, struct xobj *object)
{
    uint64_t byte;

    if (strlen(text) != DIGEST_DIGITS)
        return false;
    for (int i = 0; i < 32; i++) {
        if (!parse_hex(text + 2 * i, 2, &byte))
            return false;
        object->digest[i] = (uint8_t)byte;
    }
    return true;
}

bool object_name_parse(uint32_t kind, const char *text, struct xobj *object)
{
    uint64_t volume, epoch = 0, index = 0;

    memset(object, 0, sizeof(*object));
    object->kind = kind;
    if (object_has_digest(kind))
        return parse_digest(text, object);
    if (strlen(text) != (object_has_volume_only(kind) ? VOLUME_DIGITS : NUMBERED_LENGTH)
        || !parse_hex(text, VOLUME_DIGITS, &volume))
        return false;
    if (!object_has_volume_only(kind)
        && (text[16] != '_' || text[25] != '_' || !parse_hex(text + 17, 8, &epoch)
            || !parse_hex(text + 26, 16, &index)))
        return false;
    object->volume = volume;
    object->epoch = (uint32_t)epoch;
    object->index = index;
    return true;
}
