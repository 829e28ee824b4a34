/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/rados_past.c - a libFuzzer target: what a file ROLE.rados in the run folder may say of earlier segments.
 *
 * Of what is taken over there is no more than fits, and it is taken over again as it is.
 */
#include "blocker_rados/past.c"

#include <assert.h>

#define NODE 0x1234abcdull

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(BR_TEXT_MAX), *made = malloc(BR_TEXT_MAX), *again = malloc(BR_TEXT_MAX);
    int head;

    assert(text && made && again);
    if (size < BR_TEXT_MAX) {
        memcpy(text, data, size);
        text[size] = 0;
        head = snprintf(made, BR_TEXT_MAX, "%d %016" PRIx64 " %s\n", 7, (uint64_t)NODE, "");
        memcpy(again, made, (size_t)head + 1);
        copy_past(text, NODE, made);
        copy_past(made, NODE, again);
        assert(strlen(made) < BR_TEXT_MAX && strcmp(made, again) == 0);
    }
    free(text);
    free(made);
    free(again);
    return 0;
}
