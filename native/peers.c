/* SPDX-License-Identifier: Apache-2.0
 *
 * peers.c - the native peer types there are: one line each.
 */
#include "loop/peer.h"

extern const struct peer_ops blocker_file_ops;
extern const struct peer_ops blocker_rados_ops;
extern const struct peer_ops delay_ops;
extern const struct peer_ops error_ops;
extern const struct peer_ops log_ops;
extern const struct peer_ops memory_ops;
extern const struct peer_ops nbd_ops;
extern const struct peer_ops null_ops;
extern const struct peer_ops vhost_ops;
extern const struct peer_ops throttle_ops;
extern const struct peer_ops vlmc_ops;

const struct peer_ops *const native_peers[] = {
    &blocker_file_ops,
    &blocker_rados_ops,
    &delay_ops,
    &error_ops,
    &log_ops,
    &memory_ops,
    &nbd_ops,
    &null_ops,
    &vhost_ops,
    &throttle_ops,
    &vlmc_ops,
    NULL,
};
