/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/rados_lock.c - a libFuzzer target: what a lock's object in RADOS may say.
 *
 * What is taken for a lock, and fits into a text again, is read from there as the same lock. With bit 0 of the
 * input's first byte set, a right first line comes before the rest.
 */
#include "blocker_rados/lock.c"

#include <assert.h>
#include <stdlib.h>

static int parse(char text[BR_TEXT_MAX], int length, struct lock *lock)
{
    uint64_t generation;

    memset(lock, 0, sizeof(*lock));
    length = br_text_parse(KIND, text, length, &generation);
    lock->generation = generation;
    return length < 0 ? length : lock_parse(text, length, lock);
}

static void check(const struct lock *lock)
{
    static struct lock again;
    char text[BR_TEXT_MAX], other[BR_TEXT_MAX];
    int length = lock_print(lock, text);

    assert(lock->registry_count <= BR_REGISTRIES_MAX && lock->owner_size <= BR_OWNER_MAX);
    if (length < 0)
        return;
    memcpy(other, text, (size_t)length);
    memcpy(other + length, lock->owner, lock->owner_size);
    assert(parse(other, length + (int)lock->owner_size, &again) == 0);
    again.generation = lock->generation;
    assert(lock_print(&again, other) == length && memcmp(other, text, (size_t)length) == 0);
    assert(again.owner_size == lock->owner_size && memcmp(again.owner, lock->owner, lock->owner_size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct lock lock;
    char *text;
    int length;

    if (size < 1 || size > BR_TEXT_MAX / 2)
        return 0;
    text = malloc(BR_TEXT_MAX);
    assert(text);
    length = data[0] & 1 ? br_text_begin(KIND, 1 + data[0], text) : 0;
    memcpy(text + length, data + 1, size - 1);
    if (parse(text, length + (int)size - 1, &lock) == 0)
        check(&lock);
    free(text);
    return 0;
}
