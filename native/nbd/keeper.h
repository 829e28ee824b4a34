/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/keeper.h - keeps one NBD client connected while its server is restarted.
 *
 * nbdfuse does not connect again. So it talks to a keeper, which talks to the server:
 *
 *     nbdfuse <--socket pair--> keeper <--unix socket--> nbd
 *
 * The handshake is passed on and remembered, with the name of our export put in place of
 * the one the client asks for, and with the wish to be told the export's description: the
 * server's has the volume's id in it, and a server that does not tell the id we serve is none
 * of ours, at the beginning and whenever it is connected to again. So a device never comes to
 * stand on another volume, whichever has the name by then, and whoever listens at the socket.
 * A size that has become another one is the same volume's, resized: what lies within it is
 * served, the rest of the device fails. After that each request is kept until its reply has come
 * whole. When the connection to the server ends, the keeper makes another, says the same
 * handshake, and sends again what was not answered: the client sees a pause. Requests
 * may so be done twice; none is answered before it was done, so this is as in any other
 * client that connects again.
 *
 * Two threads: one carries requests, the caller's carries replies and connects again. A
 * third one sends what is sent again, so that replies are taken in meanwhile. `wire` is
 * held while something is written to the server, or it is replaced; `table` while slots
 * are looked at. `wire` is taken first. A slot's frame is freed by the second thread, when
 * its reply has come: never before it was written whole.
 *
 * A server whose socket is not there is waited for NBD_KEEP_ABSENT_S, one whose socket is
 * there NBD_KEEP_PATIENCE_S; then the client's connection ends.
 */
#ifndef ARCHIPELAGO_NBD_KEEPER_H
#define ARCHIPELAGO_NBD_KEEPER_H

enum nbd_keep_bound {
    NBD_KEEP_COMMANDS = 256,            /* under way; then the client waits */
    NBD_KEEP_TALK = 16384,              /* bytes of a client's handshake, or of one answer */
    NBD_KEEP_OPTIONS = 64,              /* in a handshake */
    NBD_KEEP_ANSWERS = 1024,            /* to an option */
    NBD_KEEP_FRAME_MAX = 67108864,      /* bytes of a request or reply */
    NBD_KEEP_ID_MAX = 64,
    NBD_KEEP_ABSENT_S = 10,
    NBD_KEEP_PATIENCE_S = 300,
    NBD_KEEP_POLL_US = 10000            /* between two tries to connect */
};

/* Serves the client at the socket `client` until its connection ends: 0. `path` is the server's
 * socket, `name` the export. -ECONNREFUSED, -ENOENT...: there is no server to begin with;
 * -ETIMEDOUT: it did not come back; -EPROTO: somebody does not speak NBD; -ESTALE: the server does
 * not tell `id` of it, which is a text of at most NBD_KEEP_ID_MAX bytes. */
int nbd_keep(int client, const char *path, const char *name, const char *id);

#endif
