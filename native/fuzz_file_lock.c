/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_file_lock.c - a libFuzzer target: what a lock's file on a file store may say.
 *
 * What is taken for a lock is written as it was read.
 */
#include "blocker_file_lock.c"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char owner[BF_OWNER_MAX], again[LOCK_HEAD], *text;
    uint64_t number;
    int length;

    if (size > LOCK_HEAD + BF_OWNER_MAX)
        return 0;
    text = malloc(size + 1);        /* exactly as long as what is read: every byte beyond is noticed */
    assert(text);
    memcpy(text, data, size);
    length = lock_parse(text, size, &number, owner);
    if (length >= 0) {
        size_t head = (size_t)snprintf(again, sizeof(again), LOCK_FORMAT, number);
        assert(length <= BF_OWNER_MAX && number + 1 > number && head + (size_t)length == size);
        assert(memcmp(again, data, head) == 0 && memcmp(owner, data + head, (size_t)length) == 0);
    }
    free(text);
    return 0;
}
