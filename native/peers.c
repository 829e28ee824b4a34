/* SPDX-License-Identifier: Apache-2.0
 *
 * peers.c - the native peer types there are: one line each.
 */
#include "peer.h"

const struct peer_ops *const native_peers[] = {
    NULL,
};
