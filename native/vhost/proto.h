/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/proto.h - the vhost-user protocol for block devices, as far as it is spoken: numbers and structures of
 * messages, and of the inflight region. What lies in a guest's rings the kernel's own headers say.
 *
 * A message is a header and `size` bytes; descriptors come with it as SCM_RIGHTS. All numbers have the byte order of
 * the machine, as both sides are on it, and virtio 1 says little-endian: so it is built for such machines only.
 */
#ifndef ARCHIPELAGO_VHOST_PROTO_H
#define ARCHIPELAGO_VHOST_PROTO_H

#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdint.h>

enum vhost_message {
    VHOST_GET_FEATURES = 1, VHOST_SET_FEATURES = 2, VHOST_SET_OWNER = 3, VHOST_RESET_OWNER = 4,
    VHOST_SET_MEM_TABLE = 5, VHOST_SET_LOG_BASE = 6, VHOST_SET_LOG_FD = 7, VHOST_SET_VRING_NUM = 8,
    VHOST_SET_VRING_ADDR = 9, VHOST_SET_VRING_BASE = 10, VHOST_GET_VRING_BASE = 11, VHOST_SET_VRING_KICK = 12,
    VHOST_SET_VRING_CALL = 13, VHOST_SET_VRING_ERR = 14, VHOST_GET_PROTOCOL_FEATURES = 15,
    VHOST_SET_PROTOCOL_FEATURES = 16, VHOST_GET_QUEUE_NUM = 17, VHOST_SET_VRING_ENABLE = 18,
    VHOST_SET_BACKEND_REQ_FD = 21, VHOST_GET_CONFIG = 24, VHOST_SET_CONFIG = 25, VHOST_GET_INFLIGHT_FD = 31,
    VHOST_SET_INFLIGHT_FD = 32, VHOST_RESET_DEVICE = 34, VHOST_GET_MAX_MEM_SLOTS = 36, VHOST_ADD_MEM_REG = 37,
    VHOST_REM_MEM_REG = 38, VHOST_SET_STATUS = 39, VHOST_GET_STATUS = 40, VHOST_MESSAGES = 41
};

enum vhost_backend_message { VHOST_CONFIG_CHANGED = 2 };       /* from us to the front-end */

enum vhost_flag { VHOST_VERSION = 1, VHOST_VERSION_MASK = 3, VHOST_REPLY = 4, VHOST_NEED_REPLY = 8 };

enum vhost_feature {                /* bit numbers; those of the disk are the kernel's */
    VHOST_F_LOG_ALL = 26, VHOST_F_PROTOCOL = 30, VHOST_F_VERSION_1 = 32
};

enum vhost_protocol_feature {       /* bit numbers */
    VHOST_P_MQ = 0, VHOST_P_LOG_SHMFD = 1, VHOST_P_REPLY_ACK = 3, VHOST_P_BACKEND_REQ = 5, VHOST_P_CONFIG = 9,
    VHOST_P_INFLIGHT = 12, VHOST_P_RESET_DEVICE = 13, VHOST_P_MEM_SLOTS = 15, VHOST_P_STATUS = 16
};

enum { VHOST_RING_LOGGED = 1, VHOST_NO_DESCRIPTOR = 256, VHOST_RING_NUMBER = 255 };

struct vhost_header { uint32_t request, flags, size; };

struct vhost_number { uint32_t index, value; };                /* of a ring */
struct vhost_addresses { uint32_t index, flags; uint64_t desc, used, avail, log; };
struct vhost_area { uint64_t guest, size, user, offset; };     /* of guest memory, in a descriptor */
struct vhost_table { uint32_t count, pad; struct vhost_area area[]; };
struct vhost_one_area { uint64_t pad; struct vhost_area area; };
struct vhost_log { uint64_t size, offset; };
struct vhost_inflight_fd { uint64_t size, offset; uint16_t queues, queue_size; uint32_t pad; };
struct vhost_config { uint32_t offset, size, flags; uint8_t data[256]; };

/* The inflight region: one such a ring, each at a multiple of 4096 bytes. See "What survives" in vhost/parts.h. */
struct vhost_mark { uint8_t inflight, pad[5]; uint16_t next; uint64_t counter; };
struct vhost_marks {
    uint64_t features;
    uint16_t version;               /* 0: nothing is noted yet */
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct vhost_mark mark[];
};

#endif
