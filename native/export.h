/* SPDX-License-Identifier: Apache-2.0
 *
 * export.h - what Python needs beside the other headers: the inlines of segment/xseg.h as
 * functions, and calls that move a batch of requests at once, so that Python pays for a
 * batch and not for each request.
 */
#ifndef ARCHIPELAGO_EXPORT_H
#define ARCHIPELAGO_EXPORT_H

#include "segment/xseg.h"

/* Slot numbers + 1 of up to `room` requests and replies that have come in; how many. A
 * reply's number has EXPORT_REPLY set. */
#define EXPORT_REPLY 2147483648
uint32_t export_receive(struct port *port, uint32_t *slots, uint32_t room);
/* Gets up to `count` fresh requests; slot numbers + 1. How many there were. */
uint32_t export_get(struct port *port, uint32_t *slots, uint32_t count);
/* Sends `count` requests of one's own to a port, and rings. */
void export_send(struct port *port, const uint32_t *slots, uint32_t count, uint32_t dst);
/* Gives back `count` requests of one's own with their buffers. */
void export_put(struct port *port, const uint32_t *slots, uint32_t count);
/* Tries to put in order what an earlier incarnation left; 1: done, nothing it sent is under way. */
uint32_t export_recovered(struct port *port);
/* Where an edge leads now. */
uint32_t export_route(const struct xseg *seg, uint32_t route);
/* The types of native peers: name number i, or NULL after the last. */
const char *export_peer_type(uint32_t i);
/* The options of native peer type number `type`: name number i, or NULL after the last. */
const char *export_peer_option(uint32_t type, uint32_t i);
/* Counts, for each port, the requests that wait for it or that it serves: held[] must have
 * seg->port_count places. */
void export_in_flight(const struct xseg *seg, uint32_t *held);
/* Slot numbers + 1 of up to `room` requests that are not free, from slot number `from` on. */
uint32_t export_busy(const struct xseg *seg, uint32_t from, uint32_t *slots, uint32_t room);
/* How many buffers of a class are taken, and how many frames hold a leaf page. */
uint32_t export_buffers_used(const struct xseg *seg, uint32_t class);
uint32_t export_frames_used(const struct xseg *seg);
/* The slots of a port are [first, first + count): its first one, and how many. */
uint32_t export_first_slot(const struct xseg *seg, uint32_t port);
uint32_t export_slots_of(const struct xseg *seg, uint32_t port);
/* Tells all who look that the peer behind a port has finished its start (1) or not (0). */
void export_ready(struct port *port, uint32_t ready);
/* 1: the volume in place number `slot` has changes that are not on the store, or data that is not synced. */
uint32_t export_unsaved(const struct xseg *seg, uint32_t slot);
/* Sets (1) or ends (0) the header's `closing`, and rings everybody's bell. */
void export_closing(struct xseg *seg, uint32_t closing);
/* Whose turn it is to append to a volume's journal (enum xappend): told by the mapper, while it is its own. */
void export_append(struct xvolume *volume, uint32_t turn);
/* Takes the turn back, unless a record is on its way. Whose it is then. */
uint32_t export_append_take_back(struct xvolume *volume);
/* Number of the last durable record, and where at most the next one goes. */
uint64_t export_append_seen(const struct xvolume *volume, uint64_t *offset);
/* Publishes a volume's state: all that was written to it before is seen with it. */
void export_volume_state(struct xvolume *volume, uint32_t state);

#endif
