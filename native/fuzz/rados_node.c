/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/rados_node.c - a libFuzzer target: what a node's object in RADOS may say, and a registry's file in the
 * run folder.
 *
 * With bit 0 of the input's first byte set, a right first line comes before the rest.
 */
#include "blocker_rados/registry.c"

#include <assert.h>
#include <stdlib.h>

static void check(const struct br_node *node, const char *text)
{
    char why[BR_ADDRESS_MAX];

    assert(node->count <= BR_CLIENTS_MAX && memchr(node->why, 0, sizeof(node->why)));
    for (uint32_t i = 0; i < node->count; i++) {
        const struct br_client *client = &node->clients[i];
        assert(client->role[0] && memchr(client->role, 0, sizeof(client->role)));
        assert(client->address[0] && memchr(client->address, 0, sizeof(client->address)));
    }
    assert(node->fenced == br_node_is_fenced(text, why));
}

static void check_registry(const char *text)
{
    struct br_registry registry;

    if (br_registry_parse(text, &registry))
        assert(memchr(registry.namespace, 0, sizeof(registry.namespace)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct br_node node;
    uint64_t generation;
    char *text;
    int length;

    if (size < 1 || size > BR_TEXT_MAX / 2)
        return 0;
    text = malloc(BR_TEXT_MAX);
    assert(text);
    length = data[0] & 1 ? br_text_begin(KIND, 1 + data[0], text) : 0;
    memcpy(text + length, data + 1, size - 1);
    length = br_text_parse(KIND, text, length + (int)size - 1, &generation);
    node = (struct br_node){ .generation = generation };
    if (length >= 0 && node_parse(text, &node) == 0)
        check(&node, text);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    check_registry(text);
    free(text);
    return 0;
}
