/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/object_name.c - a libFuzzer target: what may stand where the name of an object is expected, in a folder
 * or in a listing of a pool.
 *
 * The first byte is the kind. What is taken for a name is written as it was read.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "objects/name.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char again[OBJECT_NAME_MAX], *text;
    struct xobj object;

    if (size < 1)
        return 0;
    text = malloc(size);            /* exactly as long as the name: every byte beyond is noticed */
    assert(text);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    memset(&object, 0, sizeof(object));
    if (object_name_parse(1 + data[0] % (XOBJ_KINDS - 1), text, &object)) {
        object_name_print(&object, again);
        assert(strcmp(again, text) == 0);
    }
    free(text);
    return 0;
}
