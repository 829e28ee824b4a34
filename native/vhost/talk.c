/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/talk.c - messages from and to a front-end, taken in, done and answered. See vhost/parts.h.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "segment/barrier.h"
#include "vhost/parts.h"

#define MESSAGES_MAX 64             /* of one wake-up */

union control { struct cmsghdr head; char space[CMSG_SPACE(VHOST_DESCRIPTORS_MAX * sizeof(int))]; };

static int say(struct vhost_session *session, uint32_t request, const void *data, uint32_t size, int fd)
{
    struct vhost_header header = { request, VHOST_VERSION | VHOST_REPLY, size };
    struct iovec parts[2] = { { &header, sizeof(header) }, { (void *)(uintptr_t)data, size } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = size ? 2 : 1 };
    union control control;

    if (fd >= 0) {
        memset(&control, 0, sizeof(control));
        control.head = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(sizeof(int));
    }
    return sendmsg(session->watch.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)(sizeof(header) + size)
           ? 0 : -EPIPE;                /* who does not take an answer is gone */
}

/* Answers what was done, or says that it was. */
static int acknowledge(struct vhost_session *session, const struct vhost_rule *rule, uint32_t flags)
{
    uint32_t request = session->header.request;
    uint64_t fine = 0;

    if (rule->answered)
        return say(session, request, session->payload, session->header.size,
                   request == VHOST_GET_INFLIGHT_FD ? session->marks_fd : -1);
    if (request == VHOST_GET_VRING_BASE || !(flags & VHOST_NEED_REPLY) || !vhost_speaks(session, VHOST_P_REPLY_ACK))
        return 0;
    return say(session, request, &fine, sizeof(fine), -1);
}

/* One that is not known is refused, if that can be said. */
static int refuse(struct vhost_session *session)
{
    uint64_t no = 1;

    if (!(session->header.flags & VHOST_NEED_REPLY) || !vhost_speaks(session, VHOST_P_REPLY_ACK))
        return -EOPNOTSUPP;
    return say(session, session->header.request, &no, sizeof(no), -1);
}

static int serve(struct vhost_session *session)
{
    const struct vhost_header *header = &session->header;
    const struct vhost_rule *rule = vhost_message_rule(header->request);
    uint32_t flags = header->flags;
    int rc;


    if (!rule)
        return refuse(session);
    if ((session->fd_count && !rule->fds) || (rule->size != UINT32_MAX && header->size != rule->size))
        return -EINVAL;
    rc = rule->function(session);
    if (rc == 0)
        vhost_keep_save(session);
    return rc ? rc : acknowledge(session, rule, flags);
}

/* What is left of a message. */
static void forget(struct vhost_session *session)
{
    while (session->fd_count)
        close(session->fds[--session->fd_count]);
    session->in_size = 0;
}

/* Takes descriptors that came. False: more than any message has. */
static bool collect(struct vhost_session *session, struct msghdr *message)
{
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        uint32_t count = (uint32_t)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        int fds[VHOST_DESCRIPTORS_MAX];

        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        assert(count <= VHOST_DESCRIPTORS_MAX);
        memcpy(fds, CMSG_DATA(head), count * sizeof(int));
        for (uint32_t i = 0; i < count; i++)
            if (session->fd_count < VHOST_DESCRIPTORS_MAX)
                session->fds[session->fd_count++] = fds[i];
            else
                close(fds[i]);
    }
    return !(message->msg_flags & MSG_CTRUNC);
}

/* Reads what lacks of a message. 1: it is whole; 0: there is no more now; a negative errno: it never will be. */
static int receive(struct vhost_session *session)
{
    uint32_t head = sizeof(session->header);

    for (;;) {
        bool in_head = session->in_size < head;
        uint32_t want = in_head ? head - session->in_size : session->header.size - (session->in_size - head);
        struct iovec part = { in_head ? (uint8_t *)&session->header + session->in_size
                                      : session->payload + (session->in_size - head), want };
        union control control;
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space,
                                  .msg_controllen = sizeof(control.space) };
        ssize_t length;

        if (want == 0)
            return 1;
        length = recvmsg(session->watch.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (length < 0)
            return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        if (length == 0)
            return session->in_size ? -EPROTO : -ENOTCONN;
        if (!collect(session, &message))
            return -E2BIG;
        session->in_size += (uint32_t)length;
        if (session->in_size == head
            && ((session->header.flags & VHOST_VERSION_MASK) != VHOST_VERSION || session->header.flags & VHOST_REPLY
                || session->header.size > VHOST_PAYLOAD_MAX))
            return -EPROTO;
    }
}

/* Does the message that is there. False: the session ends, or waits. */
static bool do_message(struct vhost_session *session)
{
    char why[96];
    int rc = serve(session);

    session->held = rc == -EAGAIN;
    if (session->held) {
        vhost_session_listen(session, false);
        return false;
    }
    if (rc) {
        snprintf(why, sizeof(why), "message %u: %s", session->header.request, strerror(-rc));
        vhost_session_drop(session, rc == -EPIPE ? NULL : why);
        return false;
    }
    forget(session);
    vhost_keep_busy(session, false);
    if (session->stop_ring)
        vhost_session_listen(session, false);
    return !session->stop_ring;
}

void vhost_talk_ready(struct watch *watch, uint32_t events)
{
    struct vhost_session *session = watch->arg;

    if (vhost_gone(session))
        return;
    if (!session->disk->known || session->held || session->stop_ring) {
        if (events & (EPOLLHUP | EPOLLERR))
            vhost_session_drop(session, NULL);
        vhost_session_listen(session, false);
        return;
    }
    for (uint32_t n = 0; n < MESSAGES_MAX; n++) {
        int rc;

        vhost_keep_busy(session, true);
        rc = receive(session);
        if (rc == 0) {
            vhost_keep_busy(session, session->in_size != 0);
            return;
        }
        if (rc < 0) {
            vhost_session_drop(session, rc == -ENOTCONN || rc == -ECONNRESET ? NULL : "it does not speak vhost-user");
            return;
        }
        if (!do_message(session))
            return;
    }
}

/* --- turns --------------------------------------------------------------------------------------------------- */

/* The ring has stopped, or has taken too long for that. */
static void answer_stop(struct vhost_session *session)
{
    struct vhost_ring *ring = &session->rings[session->stop_ring - 1];
    struct vhost_number number = { ring->index, 0 };

    vhost_session_stop(ring);
    if (ring->state != VHOST_IDLE) {
        if (loop_now(session->vhost->peer->loop) < session->stop_ns)
            return;
        ring->base = ring->last_avail;
        ring->state = VHOST_IDLE;
    }
    vhost_keep_busy(session, true);
    number.value = ring->base;
    session->stop_ring = 0;
    vhost_keep_save(session);
    if (say(session, VHOST_GET_VRING_BASE, &number, sizeof(number), -1) != 0) {
        vhost_session_drop(session, NULL);
        return;
    }
    vhost_keep_busy(session, false);
    vhost_session_listen(session, true);
}

/* The front-end is told that the disk's size is another. Some cannot answer, so none is asked to. */
static void tell_change(struct vhost_session *session)
{
    struct vhost_header header = { VHOST_CONFIG_CHANGED, VHOST_VERSION, 0 };

    session->changed = false;
    session->told = vhost_disk_size(session->disk);
    if (session->request_fd >= 0 && write(session->request_fd, &header, sizeof(header)) < 0 && errno == EAGAIN)
        session->changed = true;
}

void vhost_talk_turn(struct vhost_session *session)
{
    if (session->held && do_message(session))
        vhost_session_listen(session, true);
    if (vhost_gone(session))
        return;
    if (session->stop_ring)
        answer_stop(session);
    else if (!session->held && session->disk->known)
        vhost_session_listen(session, true);
    if (!vhost_gone(session) && session->changed)
        tell_change(session);
}
