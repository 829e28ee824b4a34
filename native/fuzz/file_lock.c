/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/file_lock.c - a libFuzzer target: what a lock's file on a file store may say.
 */
#include "blocker_file/lock.c"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct bf_holder holder;
    char *text;

    if (size > LOCK_MAX)
        return 0;
    text = malloc(size + 1);        /* exactly as long as what is read: every byte beyond is noticed */
    assert(text);
    memcpy(text, data, size);
    if (lock_parse(text, size, &holder) == 0) {
        assert(holder.number && holder.number + 1 > holder.number);
        assert(holder.life_count <= BF_STORES && holder.owner_size <= BF_OWNER_MAX);
        assert(memcmp(holder.owner, data + size - holder.owner_size, holder.owner_size) == 0);
        assert(!holder.held || memcmp(data + LOCK_STATE, "held", 4) == 0);
    }
    free(text);
    return 0;
}
