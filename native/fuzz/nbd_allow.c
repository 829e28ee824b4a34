/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/nbd_allow.c - a libFuzzer target: the rules of who may connect to what, as a person writes them.
 *
 * The input is the rules, and behind a NUL a name that is held against their patterns.
 */
#include "nbd/allow.c"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct nbd nbd;
    static struct peer peer;
    char *text = malloc(size + 2);
    const char *name;

    assert(text);
    memcpy(text, data, size);
    text[size] = text[size + 1] = 0;
    name = text + strlen(text) + 1;
    nbd.peer = &peer;
    nbd.rule_count = 0;
    if (nbd_allow_read(&nbd, text) == 0)
        for (uint32_t i = 0; i < nbd.rule_count; i++)
            matches(nbd.rules[i].pattern, name);
    assert(nbd.rule_count <= NBD_RULES_MAX);
    free(text);
    return 0;
}
