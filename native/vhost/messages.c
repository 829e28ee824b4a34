/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/messages.c - what each message does. See vhost/parts.h.
 *
 * A function does the message that is there as a whole: 0, or a negative errno, by which the session ends, but for
 * EAGAIN: it is tried again in a later turn, so a function that returns it must have done nothing. What is to be
 * answered is in `payload` then, `header.size` bytes of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost/parts.h"

#define NO_ANSWER UINT32_MAX

/* --- what is offered -------------------------------------------------------------------- */

#define BIT(n) (1ull << (n))

static uint64_t features(const struct vhost_session *session)
{
    return BIT(VHOST_F_VERSION_1) | BIT(VHOST_F_PROTOCOL) | BIT(VIRTIO_RING_F_EVENT_IDX)
         | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VHOST_F_LOG_ALL) | BIT(VIRTIO_BLK_F_SIZE_MAX)
         | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH)
         | BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_MQ)
         | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES)
         | (vhost_readonly(session->disk) ? BIT(VIRTIO_BLK_F_RO) : 0);
}

static const uint64_t protocol_features =
    BIT(VHOST_P_MQ) | BIT(VHOST_P_LOG_SHMFD) | BIT(VHOST_P_REPLY_ACK) | BIT(VHOST_P_BACKEND_REQ) | BIT(VHOST_P_CONFIG)
    | BIT(VHOST_P_INFLIGHT) | BIT(VHOST_P_RESET_DEVICE) | BIT(VHOST_P_MEM_SLOTS) | BIT(VHOST_P_STATUS);

static void fill_config(const struct vhost_session *session, struct virtio_blk_config *config)
{
    const struct vhost_disk *disk = session->disk;

    *config = (struct virtio_blk_config){
        .capacity = vhost_disk_size(disk) / VHOST_SECTOR, .size_max = XSEG_IO_MAX, .seg_max = 126,
        .blk_size = disk->block_size, .physical_block_exp = disk->block_size == VHOST_SECTOR ? 3 : 0,
        .min_io_size = (uint16_t)(4096 / disk->block_size), .wce = session->wce, .num_queues = (uint16_t)disk->queues,
        .max_discard_sectors = VHOST_SPAN_MAX / VHOST_SECTOR, .max_discard_seg = VHOST_RANGES_MAX,
        .discard_sector_alignment = 8, .max_write_zeroes_sectors = VHOST_SPAN_MAX / VHOST_SECTOR,
        .max_write_zeroes_seg = VHOST_RANGES_MAX, .write_zeroes_may_unmap = 1,
    };
}

/* --- helpers of the functions below --------------------------------------------------------- */

static int answer(struct vhost_session *session, const void *data, uint32_t size)
{
    memcpy(session->payload, data, size);
    session->header.size = size;
    return 0;
}

static int answer64(struct vhost_session *session, uint64_t number)
{
    return answer(session, &number, sizeof(number));
}

/* Nothing of its own: an acknowledgement is sent if that is wanted. */
static int accepted(struct vhost_session *session)
{
    session->header.size = NO_ANSWER;
    return 0;
}

static uint64_t number_in(const struct vhost_session *session)
{
    uint64_t number;

    memcpy(&number, session->payload, sizeof(number));
    return number;
}

/* The ring that a message is about; NULL: there is none of that number. */
static struct vhost_ring *ring_of(struct vhost_session *session, uint32_t index)
{
    return index < session->disk->queues ? &session->rings[index] : NULL;
}

/* The first descriptor is the caller's from now on. */
static int take_fd(struct vhost_session *session)
{
    int fd = session->fds[0];

    session->fd_count--;
    memmove(session->fds, session->fds + 1, session->fd_count * sizeof(session->fds[0]));
    return fd;
}

/* True if it is an eventfd, a pipe or a socket (user-mode Linux has these); it does not block from now on. */
static bool is_bell(int fd)
{
    char link[32], name[32];
    struct stat what;
    ssize_t length;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    length = readlink(link, name, sizeof(name) - 1);
    name[length < 0 ? 0 : length] = 0;
    if (fstat(fd, &what) < 0
        || (!S_ISFIFO(what.st_mode) && !S_ISSOCK(what.st_mode) && strcmp(name, "anon_inode:[eventfd]") != 0))
        return false;
    return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0;
}

/* --- features and the disk -------------------------------------------------------------------- */

static int get_features(struct vhost_session *session) { return answer64(session, features(session)); }
static int get_protocol(struct vhost_session *session) { return answer64(session, protocol_features); }
static int get_queues(struct vhost_session *session) { return answer64(session, session->disk->queues); }
static int get_slots(struct vhost_session *session) { return answer64(session, VHOST_REGIONS_MAX); }
static int get_status(struct vhost_session *session) { return answer64(session, session->status); }

static int set_features(struct vhost_session *session)
{
    if (number_in(session) & ~features(session))
        return -EOPNOTSUPP;
    session->features = number_in(session);
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX && !vhost_has(session, VHOST_F_PROTOCOL); i++)
        session->rings[i].enabled = true;
    return accepted(session);
}

static int set_protocol(struct vhost_session *session)
{
    if (number_in(session) & ~protocol_features)
        return -EOPNOTSUPP;
    session->protocol = number_in(session);
    return accepted(session);
}

static int reset_device(struct vhost_session *session)
{
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX; i++)
        vhost_session_reset(&session->rings[i]);
    session->features = 0;
    session->status = 0;
    session->wce = true;
    return accepted(session);
}

/* 0 says that the device is reset. QEMU says so before it stops the rings and asks where they are, as for a migration:
 * so they run on until then, and nothing they have taken is lost. */
static int set_status(struct vhost_session *session)
{
    session->status = (uint32_t)number_in(session) & 0xff;
    return accepted(session);
}

static int set_owner(struct vhost_session *session) { return accepted(session); }

/* A size beyond all bounds is answered with none. */
static int get_config(struct vhost_session *session)
{
    struct vhost_config asked;
    struct virtio_blk_config config;
    uint32_t head = offsetof(struct vhost_config, data), size = session->header.size;

    memset(&asked, 0, sizeof(asked));
    memcpy(&asked, session->payload, size < sizeof(asked) ? size : sizeof(asked));
    if (size < head || asked.size > sizeof(asked.data) || asked.offset > sizeof(asked.data)
        || size - head < asked.size) {
        session->header.size = 0;
        return 0;
    }
    fill_config(session, &config);
    session->told = vhost_disk_size(session->disk);
    memset(asked.data, 0, sizeof(asked.data));
    for (uint32_t i = 0; i < asked.size && asked.offset + i < sizeof(config); i++)
        asked.data[i] = ((const uint8_t *)&config)[asked.offset + i];
    return answer(session, &asked, head + asked.size);
}

static int set_config(struct vhost_session *session)
{
    struct vhost_config asked;
    uint32_t head = offsetof(struct vhost_config, data);

    if (session->header.size != head + 1)
        return -EINVAL;
    memcpy(&asked, session->payload, session->header.size);
    if (asked.offset != offsetof(struct virtio_blk_config, wce) || asked.size != 1 || asked.data[0] > 1)
        return -EINVAL;
    session->wce = asked.data[0];
    return accepted(session);
}

static int set_request_fd(struct vhost_session *session)
{
    int rc = session->fd_count == 1 ? vhost_keep_fd(session, "request", 0, session->fds[0]) : -EINVAL;

    if (rc)
        return rc;
    if (session->request_fd >= 0)
        close(session->request_fd);
    session->request_fd = take_fd(session);
    if (fcntl(session->request_fd, F_SETFL, fcntl(session->request_fd, F_GETFL) | O_NONBLOCK) < 0)
        return -errno;
    return accepted(session);
}

/* --- memory ------------------------------------------------------------------------------------- */

/* Rings that run are found anew. */
static void memory_changed(struct vhost_session *session)
{
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX; i++)
        if (session->rings[i].state == VHOST_RUNS || session->rings[i].state == VHOST_STOPPING)
            vhost_ring_translate(&session->rings[i]);
}

static int set_memory(struct vhost_session *session)
{
    const struct vhost_table *table = (const void *)session->payload;
    uint32_t head = sizeof(*table), count = session->header.size < head ? 0 : table->count;
    int rc = 0;

    if (count == 0 || count > VHOST_REGIONS_MAX || session->header.size < head + count * sizeof(table->area[0])
        || session->fd_count != count)
        return -EINVAL;
    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc = vhost_keep_fd(session, "mem", session->region_number + i, session->fds[i]);
    if (rc)
        return rc;
    vhost_memory_clear(session);
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        rc = vhost_memory_add(session, &table->area[i], session->region_number++, session->fds[0]);
        if (rc == 0)
            take_fd(session);
    }
    memory_changed(session);
    return rc ? rc == -EAGAIN ? -EINVAL : rc : accepted(session);
}

static int add_memory(struct vhost_session *session)
{
    const struct vhost_one_area *one = (const void *)session->payload;
    int rc = session->fd_count == 1 ? vhost_keep_fd(session, "mem", session->region_number, session->fds[0]) : -EINVAL;

    if (rc)
        return rc;
    rc = vhost_memory_add(session, &one->area, session->region_number++, session->fds[0]);
    if (rc)
        return rc == -EAGAIN ? -EINVAL : rc;
    take_fd(session);
    memory_changed(session);
    return accepted(session);
}

static int remove_memory(struct vhost_session *session)
{
    const struct vhost_one_area *one = (const void *)session->payload;

    for (uint32_t i = 0; i < session->region_count; i++) {
        const struct vhost_area *area = &session->regions[i].area;

        if (area->guest == one->area.guest && area->user == one->area.user && area->size == one->area.size) {
            vhost_memory_remove(session, i);
            memory_changed(session);
            return accepted(session);
        }
    }
    return -ENOENT;
}

/* The log has a bit for each page of all guest memory, or it is of no use. */
static int set_log(struct vhost_session *session)
{
    struct vhost_log log;
    uint64_t end = 0;
    int rc;

    memcpy(&log, session->payload, sizeof(log));
    for (uint32_t i = 0; i < session->region_count; i++) {
        const struct vhost_area *area = &session->regions[i].area;

        end = area->guest + area->size > end ? area->guest + area->size : end;
    }
    if (session->fd_count != 1 || log.size > UINT64_MAX - log.offset || log.size < (end >> 12) / 8)
        return -EINVAL;
    rc = vhost_keep_fd(session, "log", 0, session->fds[0]);
    if (rc)
        return rc;
    vhost_map_out(&session->log);
    if (session->log_fd >= 0)
        close(session->log_fd);
    session->log_fd = take_fd(session);
    session->log_size = log.size;
    session->log_offset = log.offset;
    rc = vhost_map_in(&session->log, session->log_fd, 0, log.offset + log.size);
    return rc ? rc == -EAGAIN ? -EINVAL : rc : answer64(session, 0);
}

static int set_log_fd(struct vhost_session *session) { return accepted(session); }

/* --- what is under way ------------------------------------------------------------------------------ */

static int get_inflight(struct vhost_session *session)
{
    struct vhost_inflight_fd asked;
    uint64_t stride;
    int fd, rc;

    memcpy(&asked, session->payload, sizeof(asked));
    if (asked.queues == 0 || asked.queues > VHOST_QUEUES_MAX || asked.queue_size == 0
        || asked.queue_size > VHOST_RING_MAX || vhost_session_runs(session))
        return -EINVAL;
    stride = vhost_ring_stride(asked.queue_size);
    asked.size = stride * asked.queues;
    asked.offset = 0;
    fd = memfd_create("vhost-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    rc = ftruncate(fd, (off_t)asked.size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0 ? -errno : 0;
    if (rc == 0)
        rc = vhost_keep_fd(session, "marks", 0, fd);
    if (rc == 0)
        rc = vhost_session_marks(session, fd, 0, asked.size, stride);
    if (rc) {
        close(fd);
        return rc;
    }
    return answer(session, &asked, sizeof(asked));
}

static int set_inflight(struct vhost_session *session)
{
    struct vhost_inflight_fd given;
    uint64_t stride;
    int rc;

    memcpy(&given, session->payload, sizeof(given));
    stride = vhost_ring_stride(given.queue_size);
    if (session->fd_count != 1 || given.queues == 0 || given.queues > VHOST_QUEUES_MAX
        || given.queue_size > VHOST_RING_MAX || given.size < stride * given.queues)
        return -EINVAL;
    rc = vhost_keep_fd(session, "marks", 0, session->fds[0]);
    if (rc == 0)
        rc = vhost_session_marks(session, session->fds[0], given.offset, given.size, stride);
    if (rc)
        return rc;
    take_fd(session);
    return accepted(session);
}

/* --- rings --------------------------------------------------------------------------------------------- */

static int set_num(struct vhost_session *session)
{
    const struct vhost_number *given = (const void *)session->payload;
    struct vhost_ring *ring = ring_of(session, given->index);

    if (!ring || ring->state != VHOST_IDLE || given->value == 0 || given->value > VHOST_RING_MAX
        || given->value & (given->value - 1))
        return -EINVAL;
    ring->num = given->value;
    return accepted(session);
}

static int set_base(struct vhost_session *session)
{
    const struct vhost_number *given = (const void *)session->payload;
    struct vhost_ring *ring = ring_of(session, given->index);

    if (!ring || ring->state != VHOST_IDLE || given->value > UINT16_MAX)
        return -EINVAL;
    ring->base = given->value;
    return accepted(session);
}

static int set_addresses(struct vhost_session *session)
{
    const struct vhost_addresses *given = (const void *)session->payload;
    struct vhost_ring *ring = ring_of(session, given->index);
    uint64_t num;

    if (!ring)
        return -EINVAL;
    if (ring->state != VHOST_IDLE && (given->desc != ring->where.desc || given->avail != ring->where.avail
                                      || given->used != ring->where.used))
        return -EBUSY;
    num = ring->num;
    if (given->desc % 16 || given->avail % 2 || given->used % 4
        || !vhost_memory_user(session, given->desc, num * sizeof(struct vring_desc))
        || !vhost_memory_user(session, given->avail, 6 + num * 2)
        || !vhost_memory_user(session, given->used, 6 + num * sizeof(struct vring_used_elem)))
        return -EFAULT;
    ring->where = *given;
    return accepted(session);
}

static int set_kick(struct vhost_session *session)
{
    uint64_t number = number_in(session);
    struct vhost_ring *ring = ring_of(session, number & VHOST_RING_NUMBER);
    bool none = number & VHOST_NO_DESCRIPTOR;
    int rc = 0;

    if (!ring || session->fd_count != (none ? 0u : 1u) || (!none && !is_bell(session->fds[0])))
        return -EINVAL;
    if (!none)
        rc = vhost_keep_fd(session, "kick", ring->index, session->fds[0]);
    if (rc)
        return rc;
    rc = vhost_session_kick(ring, none ? -1 : take_fd(session));
    if (rc)
        return rc;
    if (ring->state == VHOST_IDLE) {
        ring->polled = none;
        ring->kickable = true;
        vhost_session_want(ring);
    }
    return accepted(session);
}

static int set_bell(struct vhost_session *session, const char *kind, bool err)
{
    uint64_t number = number_in(session);
    struct vhost_ring *ring = ring_of(session, number & VHOST_RING_NUMBER);
    bool none = number & VHOST_NO_DESCRIPTOR;
    int rc = 0, *place;

    if (!ring || session->fd_count != (none ? 0u : 1u) || (!none && !is_bell(session->fds[0])))
        return -EINVAL;
    if (!none)
        rc = vhost_keep_fd(session, kind, ring->index, session->fds[0]);
    if (rc)
        return rc;
    place = err ? &ring->err : &ring->call;
    if (*place >= 0)
        close(*place);
    *place = none ? -1 : take_fd(session);
    return accepted(session);
}

static int set_call(struct vhost_session *session) { return set_bell(session, "call", false); }
static int set_err(struct vhost_session *session) { return set_bell(session, "err", true); }

static int enable(struct vhost_session *session)
{
    const struct vhost_number *given = (const void *)session->payload;
    struct vhost_ring *ring = ring_of(session, given->index);

    if (!ring || given->value > 1)
        return -EINVAL;
    ring->enabled = given->value;
    vhost_session_want(ring);
    vhost_dirty(session);
    return accepted(session);
}

/* Answered from vhost_talk_turn(), when the ring has stopped. */
static int get_base(struct vhost_session *session)
{
    const struct vhost_number *given = (const void *)session->payload;

    if (!ring_of(session, given->index))
        return -EINVAL;
    session->stop_ring = given->index + 1;
    session->stop_flags = session->header.flags;
    session->stop_ns = loop_now(session->vhost->peer->loop) + session->vhost->stop_s * 1000000000ull;
    vhost_dirty(session);
    return accepted(session);
}

/* --- all of them ------------------------------------------------------------------------------------------ */

static const struct vhost_rule rules[VHOST_MESSAGES] = {
    [VHOST_GET_FEATURES] = { get_features, 0, false, true },
    [VHOST_SET_FEATURES] = { set_features, 8, false, false },
    [VHOST_SET_OWNER] = { set_owner, 0, false, false },
    [VHOST_RESET_OWNER] = { reset_device, 0, false, false },
    [VHOST_SET_MEM_TABLE] = { set_memory, UINT32_MAX, true, false },
    [VHOST_SET_LOG_BASE] = { set_log, sizeof(struct vhost_log), true, true },
    [VHOST_SET_LOG_FD] = { set_log_fd, UINT32_MAX, true, false },
    [VHOST_SET_VRING_NUM] = { set_num, 8, false, false },
    [VHOST_SET_VRING_ADDR] = { set_addresses, sizeof(struct vhost_addresses), false, false },
    [VHOST_SET_VRING_BASE] = { set_base, 8, false, false },
    [VHOST_GET_VRING_BASE] = { get_base, 8, false, false },
    [VHOST_SET_VRING_KICK] = { set_kick, 8, true, false },
    [VHOST_SET_VRING_CALL] = { set_call, 8, true, false },
    [VHOST_SET_VRING_ERR] = { set_err, 8, true, false },
    [VHOST_GET_PROTOCOL_FEATURES] = { get_protocol, 0, false, true },
    [VHOST_SET_PROTOCOL_FEATURES] = { set_protocol, 8, false, false },
    [VHOST_GET_QUEUE_NUM] = { get_queues, 0, false, true },
    [VHOST_SET_VRING_ENABLE] = { enable, 8, false, false },
    [VHOST_SET_BACKEND_REQ_FD] = { set_request_fd, UINT32_MAX, true, false },
    [VHOST_GET_CONFIG] = { get_config, UINT32_MAX, false, true },
    [VHOST_SET_CONFIG] = { set_config, UINT32_MAX, false, false },
    [VHOST_GET_INFLIGHT_FD] = { get_inflight, sizeof(struct vhost_inflight_fd), false, true },
    [VHOST_SET_INFLIGHT_FD] = { set_inflight, sizeof(struct vhost_inflight_fd), true, false },
    [VHOST_RESET_DEVICE] = { reset_device, 0, false, false },
    [VHOST_GET_MAX_MEM_SLOTS] = { get_slots, 0, false, true },
    [VHOST_ADD_MEM_REG] = { add_memory, sizeof(struct vhost_one_area), true, false },
    [VHOST_REM_MEM_REG] = { remove_memory, sizeof(struct vhost_one_area), true, false },
    [VHOST_SET_STATUS] = { set_status, 8, false, false },
    [VHOST_GET_STATUS] = { get_status, 0, false, true },
};

const struct vhost_rule *vhost_message_rule(uint32_t request)
{
    return request < VHOST_MESSAGES && rules[request].function ? &rules[request] : NULL;
}
