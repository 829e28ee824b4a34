/* SPDX-License-Identifier: Apache-2.0
 *
 * peers.c - the native peer types there are: one line each.
 */
#include "peer.h"

extern const struct peer_ops blocker_file_ops;
extern const struct peer_ops vlmc_ops;

const struct peer_ops *const native_peers[] = {
    &blocker_file_ops,
    &vlmc_ops,
    NULL,
};
