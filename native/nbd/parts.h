/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/parts.h - the NBD server: what its files share.
 *
 *   nbd/nbd.c        the peer: its options, turns, and the mapper's and vlmc's replies
 *   nbd/listen.c     sockets it is reached at
 *   nbd/drive.c      what a connection does next, from accept to its end
 *   nbd/request.c    from received bytes to pieces sent on to vlmc
 *   nbd/reply.c      from pieces that came back to bytes to be sent
 *   nbd/negotiate.c  the handshake, with nbd/talk.c, and nbd/export.c for what asks the mapper
 *   nbd/allow.c      who a client is, and which exports there are for him
 *   nbd/admit.c      how many connections there are, and whose
 *   nbd/order.c      what waits for a connection that has ended
 *   nbd/connection.c what all of these need: requests, the end of a connection, who waits for slots
 *   nbd/output.c     what is to be sent
 *
 * Calls go down this list. Who is below sets `stop`, or a bit in `dirty`, and flush() goes on from there.
 *
 * A connection
 * ------------
 * A connection in phase HELLO waits for the client's flags, in phase OPTIONS for options of the handshake, in
 * phase SERVE for commands. In phase GONE it has no socket any more. It stays until the requests that it has
 * `away` at other peers are back and its volume is closed. Bytes are taken in through a staging buffer, those of
 * many commands by one system call. Only the rest of a long write goes straight into its data buffer.
 *
 * A command is cut into pieces of XSEG_IO_MAX bytes at most, each a request of its own to
 * vlmc. At most one command of a connection, `current`, is being taken in. It may have to wait
 * for bytes from the client, for a slot or for a buffer, and nothing behind it is looked at
 * meanwhile. A connection that waits for a slot or buffer is "queued"; flush() gives the queued
 * ones their turns, round robin.
 *
 * Replies are gathered over a turn as parts of one sendmsg() and go out from flush(), the
 * data straight from the buffers it came back in; slot, buffer and command are free again
 * when their last byte is sent. So a client that does not read holds at most what the bounds
 * below allow it, and then nothing more is read from it. Of the buffers it has at most its share,
 * and those that are slow (NBD_SLOW_NS) have half of them at most, all together: segment/share.h.
 * While others are queued, a connection whose client has taken or given nothing for STALL_NS is
 * dropped.
 *
 * A client that is slower than the server has many answers in its socket that it has not taken
 * yet, and sends its next commands one by one, as it takes them. To serve each by itself would
 * cost both sides several system calls for it, so the loop naps for as long as the client is
 * sure to be busy (NBD_NAP_FROM and on), and then serves what has come together; where that is found to gain
 * something (TUNE_NAPS in loop/tune.h).
 *
 * Order
 * -----
 * A client whose connection has ended does not know what became of the commands that were not answered, and goes
 * on: on a new connection, on another that it has, after the endpoint's death on one to its successor. Nothing of
 * the old connection may take effect, or still be taken in, once the first command of the new one was begun. So
 * begin() waits (NBD_STOP_ORDER) while something that the last life had sent for its volume is not home, and
 * while an earlier connection of the volume has `ended` and is not over. It has ended when its client can send no
 * more: it was dropped, or the end of its bytes was read, or is seen to come. It is over when nothing of it is away
 * (nbd_retire()). One that stopped only sending still has its commands served, and so holds others until it has all
 * its answers, or takes none of them for STALL_NS. Of two that have ended, the first goes first.
 *
 * A client closes its old connection before it sends on another, but the loop might see the new bytes first. So
 * whenever bytes were read on one of several connections of a volume, the others are asked whether they ended, and
 * only then is a command begun: an end that came before a command was sent is known before that is begun. A socket
 * that is closed altogether (HUP) takes no answers: what lies unread in it is not done any more. For a volume with
 * one connection all this costs the look at a counter.
 *
 * Places
 * ------
 * There are `connections_max` places. One more connection of a user is taken while he has less than three times as
 * many as are free: alone he gets three quarters, and there is always room for somebody else's. If it is not taken,
 * or all places are, the handshake that has waited longest for its client is ended instead. A volume has
 * `volume_max` places of its own.
 *
 * Contexts
 * --------
 * Beside base:allocation a client may choose contexts that compare the export with another volume or snapshot:
 * "archipelago:diff:NAME" and "qemu:dirty-bitmap:NAME" are two names of the same answer, state 1 where bytes may
 * differ and 0 where they do not. NAME is looked up when it is chosen, and from then on its id is meant: if that is
 * removed, BLOCK_STATUS fails. Each context of a BLOCK_STATUS is a piece of its own, which vlmc answers, or the mapper.
 *
 * Reads
 * -----
 * With structured replies each piece is sent as a chunk when it comes back, in any order.
 * Without, the pieces wait in `pieces` until all are there, so that an error can be told. If the
 * connection is queued before that, the reply is begun at once, so that its buffers become free.
 * An error after that ends the connection, as the protocol wants it.
 */
#ifndef ARCHIPELAGO_NBD_H
#define ARCHIPELAGO_NBD_H

#include <sys/uio.h>

#include "loop/peer.h"
#include "nbd/proto.h"
#include "segment/share.h"

enum nbd_bound {
    NBD_STAGING = 65536,            /* bytes taken from a socket at once; longest option */
    NBD_TALK = 65536,               /* bytes of handshake waiting to be sent */
    NBD_COMMANDS = 128,             /* of one connection under way */
    NBD_RESUME = 64,                /* one that was held back is read again from here */
    NBD_BYTES = 32 << 20,           /* of data under way, from where nothing more is read */
    NBD_LENGTH_MAX = 32 << 20,      /* of one READ or WRITE */
    NBD_SKIP_MAX = 64 << 20,        /* of a refused WRITE whose data is still skipped */
    NBD_SKIP_OPTION_MAX = 1 << 20,  /* of a refused option */
    NBD_SPAN_MAX = 1 << 30,         /* of a piece that carries no data */
    NBD_PIECES = 33,                /* of one READ: an unaligned one has one more */
    NBD_OUT = 1024,                 /* parts waiting to be sent; IOV_MAX */
    NBD_STATUS_BUFFER = 4096,       /* bytes of extents asked for at once */
    NBD_NAMES_BUFFER = 32768,       /* bytes of names asked for at once */
    NBD_LIST_PAGES = 65536,         /* buffers of names in one list */
    NBD_PROTOCOL_NAME_MAX = 4096,   /* of an export, by the protocol */
    NBD_QUERIES_MAX = 64,           /* metadata contexts asked for at once, */
    NBD_DIFFS_MAX = 8,              /* and of these such as compare the export with another volume */
    NBD_CONNECTIONS_MAX = 16384,
    NBD_PLACES = NBD_CONNECTIONS_MAX + 1024,    /* with those that have ended and are not over */
    NBD_VOLUME_CONNECTIONS_MAX = 1024,
    NBD_BLOCK_PREFERRED = 4096,
    NBD_RULES_MAX = 64              /* of option allow: a bit each */
};

#define NBD_NOBODY UINT32_MAX       /* a uid or gid: not known, not to be changed */

#define NBD_NAP_NS 60000ull         /* at most, until a client that is behind has sent more; */
#define NBD_NAP_FROM 65536          /* from so many bytes on that it has not taken; */
#define NBD_NAP_STEP 512            /* so many ns for each KiB of them */
#define NBD_TICK_NS 100000000ull    /* between looks at who is too slow */
#define NBD_SLOW_NS 100000000ull    /* from there on a client is slow that has to take or give a buffer's bytes */
#define NBD_RETRY_NS 2000000ull     /* until a queued connection tries again by itself */
#define NBD_TELL_NS 1000000000ull   /* between sentences in the log about connections that are refused */
#define NBD_STALL_NS 10000000000ull /* without a byte, while others are queued */
#define NBD_LINGER_NS 1000000000ull /* without a byte, while the server ends */

enum nbd_target { NBD_TO_VLMC = 0, NBD_TO_MAPPER = 1 };

enum nbd_phase { NBD_HELLO, NBD_OPTIONS, NBD_SERVE, NBD_GONE };

enum nbd_stop {                     /* why no further command is begun */
    NBD_STOP_ROOM = 1,              /* its bounds are reached */
    NBD_STOP_QUEUE = 2,             /* no slot or buffer was to be had: it is queued */
    NBD_STOP_MAPPER = 4,            /* waits for the mapper's answer */
    NBD_STOP_END = 8,               /* the client or the operator has finished */
    NBD_STOP_ORDER = 16,            /* something earlier must be over first */
    NBD_STOP_SHARE = 32,            /* it has its share of the buffers */
    NBD_STOP_WAIT = NBD_STOP_ROOM | NBD_STOP_QUEUE | NBD_STOP_MAPPER | NBD_STOP_ORDER | NBD_STOP_SHARE
};

enum nbd_errand {                   /* what a request of ours is for */
    NBD_PIECE = 1, NBD_OPEN, NBD_CLOSE, NBD_DESCRIBE, NBD_LIST, NBD_CLOSE_REFUSED, NBD_LOOK_UP
};

struct nbd_note {                   /* scratch of a request of ours */
    uint32_t errand;                /* enum nbd_errand */
    uint32_t connection;            /* its index, */
    uint32_t serial;                /* and which one of that index */
    uint32_t command;               /* a piece: the command's number, */
    uint32_t piece;                 /* and its own in that */
};
XREQ_SENDER(nbd_note_of, struct nbd_note)

struct nbd_client {                 /* as the kernel noted him when he connected */
    int32_t pid;                    /* 0: he came over TCP; then the others are NBD_NOBODY */
    uint32_t uid, gid;
    uint64_t address;               /* of TCP: of IPv6 the first half; else 0 */
    uint64_t since_ns;              /* CLOCK_MONOTONIC */
};

struct nbd_rule {                   /* of option allow: for whom there are which exports */
    char who;                       /* 'u'ser or 'g'roup of that id, 't' who came over TCP, '*' everybody */
    uint32_t id;
    char pattern[XSEG_NAME_MAX + 1];
};

struct nbd_command {
    uint64_t cookie;                /* the client's */
    uint64_t offset;
    uint32_t length;
    uint32_t issued;                /* bytes that pieces were made for */
    uint16_t type;                  /* enum nbd_command_type */
    uint16_t flags;
    uint8_t pieces;                 /* it is cut into */
    uint8_t made;                   /* and of these sent on, */
    uint8_t arrived;                /* come back, */
    uint8_t pushed;                 /* and given out (READ by a simple reply) */
    bool used;
    bool begun;                     /* its simple reply's head is given out */
    bool streaming;                 /* pieces go out before all are there */
    int32_t error;                  /* first negative errno of a piece */
    uint8_t head[32];               /* of its reply */
};

struct nbd_part {                   /* what is free again when a part is sent */
    uint32_t slot;                  /* + 1 */
    uint32_t command;               /* + 1 */
};

struct nbd_connection {
    struct watch watch;             /* its socket */
    struct nbd *nbd;
    uint32_t index;                 /* in nbd->connections */
    uint32_t serial;                /* tells it from earlier ones of that index */
    struct nbd_client client;
    bool trusted;                   /* there are all exports for him */
    uint64_t rules;                 /* that are about him: a bit each */
    enum nbd_phase phase;
    uint32_t stop;                  /* enum nbd_stop */
    uint32_t events;                /* of epoll that are asked for */
    uint32_t away;                  /* requests at other peers */
    uint64_t since_ns;              /* accepted, or its last progress; CLOCK_MONOTONIC */
    bool eof;                       /* the client sends no more */
    bool full;                      /* its socket took less than there is to send */
    uint64_t full_ns;               /* since when; 0: it is not */
    size_t untaken;                 /* sent, and likely not taken by the client yet; bytes, at most */
    bool structured;                /* negotiated, as are the next two */
    bool no_zeroes;
    bool allocation;                /* base:allocation, and, as the next two, for the export `context` */
    uint32_t diff_count;            /* contexts that compare the export with others, */
    uint64_t diffs[NBD_DIFFS_MAX];  /* of these ids */
    uint32_t volume;                /* its handle; 0: none open */
    uint32_t generation;            /* of the place it has in the segment */
    struct share share;             /* of the buffers */
    struct nbd_connection *next, *previous;     /* of its volume, from SERVE until it is over */
    uint64_t ended;                 /* number of its end among those of all connections; 0: has not, or is over */

    /* handshake */
    uint32_t option;                /* that is being served */
    uint32_t informs;               /* bit per enum nbd_info wanted */
    uint32_t list_pages;
    struct xreq *list;              /* asks for the next page of names when this one's are sent */
    char name[XSEG_NAME_MAX + 1];
    char context[XSEG_NAME_MAX + 1];
    uint32_t lookups;               /* names that the mapper was asked for on behalf of the present option, */
    uint64_t found[NBD_DIFFS_MAX];  /* and the ids they have; 0: there is none for this client */
    uint32_t talk_start, talk_end;

    /* in */
    uint32_t in_start, in_end;
    uint64_t skip;                  /* bytes of refused data to come */
    struct nbd_command *current;    /* being taken in: not all of it is sent on, or skipped */
    struct xreq *fill;              /* piece of a WRITE that is being received */
    uint8_t *fill_data;
    uint32_t fill_at, fill_size;
    uint64_t fill_ns;               /* when it was begun */

    /* commands */
    uint64_t bytes;                 /* of data of those under way */
    uint32_t free_count;
    uint8_t free[NBD_COMMANDS];
    struct nbd_command commands[NBD_COMMANDS];
    uint32_t pieces[NBD_COMMANDS][NBD_PIECES];  /* slot + 1 of what waits its turn */

    /* out: [out_start, out_end) is to be sent */
    uint32_t out_start, out_end;
    struct iovec out[NBD_OUT];
    struct nbd_part parts[NBD_OUT];
    uint8_t talk[NBD_TALK];
    uint8_t in[NBD_STAGING];
};

struct nbd_listener {
    struct watch watch;
    bool watched;
    uint64_t dev, ino;              /* of a unix socket's file: it is removed if still that */
    bool tcp;
    char path[XSEG_PATH_MAX];       /* of a unix socket made here; empty else */
};

struct nbd_export {                 /* of a volume */
    struct nbd_connection *first;   /* of those that serve it, or have ended and are not over */
    uint32_t connections;           /* that serve it, */
    uint32_t ending;                /* and that have ended and are not over */
    struct share_group share;       /* what all of them hold */
};

struct nbd_set { uint64_t word[NBD_PLACES / 64]; };

struct nbd {
    struct peer *peer;
    /* options: see peers/nbd.py */
    const char *socket, *listen, *allow;
    int socket_fd, listen_fd;       /* the supervisor's, which listen already; -1: none */
    uint32_t socket_mode, socket_uid, socket_gid;   /* of a unix socket made here */
    uint32_t connections_max;
    uint32_t volume_max;            /* connections of one volume */
    uint64_t handshake_s;
    bool structured_replies;        /* they may be negotiated */
    /* all else */
    struct nbd_listener listeners[2];
    uint32_t listener_count;
    uint32_t connection_count;
    uint32_t live;                  /* of these: with a socket */
    uint32_t top;                   /* all places from here on are free, */
    uint32_t next_free;             /* and none below this one is */
    uint32_t untold;                /* refused, and not said in the log */
    uint64_t told_ns;               /* when the log last said so */
    uint32_t serial;
    uint64_t ends;                  /* connections that have ended */
    uint32_t orphans;               /* what the last life had sent and was away, when last looked at */
    bool waited;                    /* something that connections wait for (NBD_STOP_ORDER) may be over */
    uint32_t away;                  /* requests of no connection: CLOSE of what its client may not have */
    uint64_t tick_ns;               /* when slow ones are looked for again */
    uint64_t refused_until_ns;      /* no descriptors: nothing is accepted meanwhile */
    bool draining;                  /* no connection begins, those there are end */
    bool closing;                   /* so because the instance is being ended, which may be given up again */
    uint32_t queue_next;            /* whose turn it is */
    uint32_t queue_count;
    bool serving_queue;             /* those that are queued are being served */
    struct nbd_set dirty;           /* have something to send */
    bool limited;                   /* to what `rules` allow */
    uint32_t rule_count;
    struct nbd_rule rules[NBD_RULES_MAX];
    uint64_t nap_ns;                /* what was sent this turn can wait so long for more */
    struct nbd_set queued;
    struct share_group slow;        /* buffers of connections whose clients are slow */
    struct nbd_connection *connections[NBD_PLACES];
    struct nbd_export *exports;     /* by the volume's place in the segment */
};

static inline void nbd_set_add(struct nbd_set *set, uint32_t i)
{
    set->word[i / 64] |= 1ull << i % 64;
}
static inline void nbd_set_remove(struct nbd_set *set, uint32_t i)
{
    set->word[i / 64] &= ~(1ull << i % 64);
}
static inline bool nbd_set_has(const struct nbd_set *set, uint32_t i)
{
    return set->word[i / 64] >> i % 64 & 1;
}

/* --- nbd/listen.c: 0 or a negative errno with peer->error ---------------------- */

int nbd_listen_unix(struct nbd *nbd, const char *path);
int nbd_listen_tcp(struct nbd *nbd, const char *address);
/* A socket that somebody else has made, and will remove. EBADF: fd is none that listens. */
int nbd_listen_inherited(struct nbd *nbd, int fd);
int nbd_listen_watch(struct nbd *nbd);
/* Accepts nobody until nbd_listen_watch() is called again: who connects waits in the backlog. */
void nbd_listen_pause(struct nbd *nbd);
void nbd_listen_close(struct nbd *nbd);

/* --- pieces ------------------------------------------------------------------------ */

/* Puts back a piece, with its buffer. One that waits for its share goes on from flush(). */
static inline void nbd_put(struct nbd_connection *conn, struct xreq *req)
{
    if (req->buffer)
        share_put(&conn->share, req);
    xreq_put(conn->nbd->peer->port, req);
    if (conn->stop & NBD_STOP_SHARE)
        nbd_set_add(&conn->nbd->dirty, conn->index);
}

/* --- nbd/output.c: below all others -------------------------------------------------- */

/* Adds bytes to what is to be sent; when they are, `req` and `command`, if not NULL, are free again. */
void nbd_output_push(struct nbd_connection *conn, const void *base, size_t size, const struct xreq *req,
                     const struct nbd_command *command);
/* Piece `i` of a READ, if it is back and waits for others of its command; else NULL. */
struct xreq *nbd_output_piece(struct nbd_connection *conn, const struct nbd_command *command, uint32_t i);
/* Puts back all of a command that wait so. */
void nbd_output_forget_pieces(struct nbd_connection *conn, const struct nbd_command *command);
/* Puts back every slot that waits to be sent, or for others of its command. */
void nbd_output_forget(struct nbd_connection *conn);
/* Sends what the socket takes. A negative errno: it takes nothing any more. */
int nbd_output_send(struct nbd_connection *conn);
static inline bool nbd_has_output(const struct nbd_connection *conn)
{
    return conn->out_start < conn->out_end || conn->talk_start < conn->talk_end;
}

/* --- nbd/connection.c: what all others need ------------------------------------------ */

/* A request of ours that comes back to this connection. NULL: no slot. */
struct xreq *nbd_errand(struct nbd_connection *conn, enum nbd_errand errand, uint32_t op);
/* Sends it. */
void nbd_errand_send(struct nbd_connection *conn, struct xreq *req, enum nbd_target target);
static inline struct nbd_export *nbd_export_of(const struct nbd_connection *conn)
{
    return &conn->nbd->exports[conn->volume - 1];
}
static inline uint32_t nbd_staged(const struct nbd_connection *conn)
{
    return conn->in_end - conn->in_start;
}
/* Its client sends no more: see "Order". */
void nbd_end(struct nbd_connection *conn);
/* Closes the socket and gives back all that is not away. It is GONE then, but not freed. */
void nbd_drop(struct nbd_connection *conn);
/* From flush(): one that is GONE with nothing away closes its volume, then is freed. */
void nbd_retire(struct nbd_connection *conn);
/* It waits for a slot or buffer: nbd_serve_queue() lets it try again. */
void nbd_queue(struct nbd_connection *conn);
/* It does so no more. */
void nbd_unqueue(struct nbd_connection *conn);
/* True if those that are queued come first. */
static inline bool nbd_must_queue(const struct nbd_connection *conn)
{
    return conn->nbd->queue_count > 0 && !conn->nbd->serving_queue;
}

/* Which context (enum nbd_context) a piece of a BLOCK_STATUS is about. */
static inline uint32_t nbd_context_of(const struct nbd_connection *conn, uint32_t piece)
{
    return conn->allocation && piece == 0 ? NBD_CONTEXT_ALLOCATION : NBD_CONTEXT_DIFF + piece - conn->allocation;
}

/* --- nbd/drive.c: what a connection does next ------------------------------------------ */

/* Takes over the socket. */
void nbd_connect(struct nbd *nbd, int fd);
/* Goes on with what is staged. */
void nbd_parse(struct nbd_connection *conn);
/* Sends what it can, and goes on with what is staged if that was held back. */
void nbd_send(struct nbd_connection *conn);
/* Drops one that has finished: nothing more to take in, nothing under way or to send. */
void nbd_settle(struct nbd_connection *conn);
/* From flush(): gives each queued one a try. True if one got something. */
bool nbd_serve_queue(struct nbd *nbd);
/* From flush(): lets those go on that waited for something earlier to be over. True if there were some. */
bool nbd_go_on(struct nbd *nbd);
/* Drops those whose handshake lasts too long, and those that others wait for too long. */
void nbd_tick(struct nbd *nbd, uint64_t now_ns);

/* --- nbd/order.c: see "Order" ------------------------------------------------------ */

/* The handshake is over: commands on this volume come. */
void nbd_serve(struct nbd_connection *conn, uint32_t volume);
/* True if another connection of its volume ended before this one and is not over. */
bool nbd_others_ended(const struct nbd_connection *conn);
/* True if something is away that the last life had sent for its volume. */
static inline bool nbd_awaits_last_life(const struct nbd_connection *conn)
{
    const struct port *port = conn->nbd->peer->port;

    return port->recovering && port_awaits(port, conn->volume);
}
/* True if no command may be begun now: it stops, and goes on from nbd_go_on(). */
static inline bool nbd_must_wait(struct nbd_connection *conn)
{
    bool any_ended = nbd_export_of(conn)->ending > (conn->ended ? 1u : 0u);

    if (!nbd_awaits_last_life(conn) && !(any_ended && nbd_others_ended(conn)))
        return false;
    conn->stop |= NBD_STOP_ORDER;
    return true;
}
/* True if it has ended, is not over, and there are others on its volume. */
static inline bool nbd_holds_others(const struct nbd_connection *conn)
{
    return conn->ended && nbd_export_of(conn)->connections > 1;
}
/* After bytes came in, before a command in them is begun: which others of its volume have ended? */
void nbd_look_at_others(struct nbd_connection *conn);

/* --- nbd/admit.c: see "Places" ----------------------------------------------------------- */

/* Has the process open as many files as it may, and makes `connections_max` fit that. */
void nbd_admit_limit(struct nbd *nbd);
/* True if there is a place for one more of this client; a handshake may have lost it. */
bool nbd_admit(struct nbd *nbd, const struct nbd_client *client);
/* True if the volume may have one more. */
bool nbd_admit_to_volume(struct nbd_connection *conn, uint32_t handle);
/* Counts, and tells the log. */
void nbd_admit_refused(struct nbd *nbd, const struct nbd_client *client, const char *why);

/* --- nbd/allow.c ------------------------------------------------------------------ */

/* Takes option allow; NULL: there are all exports for everybody. EINVAL and peer->error. */
int nbd_allow_read(struct nbd *nbd, const char *text);
/* Learns who has connected. */
void nbd_allow_meet(struct nbd_connection *conn);
/* True if there is an export of this name, a volume's own, for the client. */
bool nbd_allowed(const struct nbd_connection *conn, const char *name);
/* The same before the mapper is asked. A name that holds an id is looked at when it is known whose. */
bool nbd_may_ask(const struct nbd_connection *conn, const char *name);
/* Answers XOP_INFO: a line of text for each client. */
int nbd_allow_tell(struct nbd *nbd, struct xreq *req);

/* --- nbd/negotiate.c, nbd/export.c -------------------------------------------------------------- */

void nbd_greet(struct nbd_connection *conn);
/* One step with what is staged. False: it must wait. */
bool nbd_hello(struct nbd_connection *conn);
bool nbd_options(struct nbd_connection *conn);
/* The mapper's answers. */
void nbd_described(struct nbd_connection *conn, struct xreq *req);
void nbd_opened(struct nbd_connection *conn, struct xreq *req);
void nbd_listed(struct nbd_connection *conn, struct xreq *req);
void nbd_looked_up(struct nbd_connection *conn, struct xreq *req);

/* --- nbd/request.c ------------------------------------------------------------------ */

/* One step each with what is staged: of the data of a refused command, of the command that is being taken in, of
 * the next one. False: it must wait. */
bool nbd_request_skip(struct nbd_connection *conn);
bool nbd_request_issue(struct nbd_connection *conn);
bool nbd_request_begin(struct nbd_connection *conn);

/* --- nbd/reply.c ---------------------------------------------------------------------- */

void nbd_piece_back(struct nbd_connection *conn, struct xreq *req);
void nbd_succeed(struct nbd_connection *conn, struct nbd_command *command);
/* error: a negative errno. message may be NULL. */
void nbd_fail(struct nbd_connection *conn, struct nbd_command *command, int error,
              const char *message);
/* A simple reply to a READ goes out piece by piece from now on. */
void nbd_read_stream(struct nbd_connection *conn, struct nbd_command *command);

#endif
