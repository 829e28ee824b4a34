/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/talk.h - taking options of the handshake apart, and saying the answers.
 */
#ifndef ARCHIPELAGO_NBD_TALK_H
#define ARCHIPELAGO_NBD_TALK_H

#include "nbd/parts.h"

struct nbd_text { const uint8_t *data; uint32_t size; };

/* What is left of an option's data; `bad` once more was wanted than there is. */
struct nbd_reader { const uint8_t *at; uint32_t left; bool bad; };

uint32_t nbd_take16(struct nbd_reader *in);
uint32_t nbd_take32(struct nbd_reader *in);
/* 32 bits of length, then so many bytes, which stay where they are. */
struct nbd_text nbd_take_text(struct nbd_reader *in);

/* Adds to what is to be sent. */
void nbd_say(struct nbd_connection *conn, const void *data, uint32_t size);
void nbd_say16(struct nbd_connection *conn, uint32_t value);
void nbd_say32(struct nbd_connection *conn, uint32_t value);
void nbd_say64(struct nbd_connection *conn, uint64_t value);
/* The head of an answer to the present option; `size` bytes are to follow. */
void nbd_answer(struct nbd_connection *conn, uint32_t type, uint32_t size);
void nbd_accept(struct nbd_connection *conn);
void nbd_refuse(struct nbd_connection *conn, enum nbd_option_error error, const char *why);

/* Why no export can have that name; NULL: one may. */
const char *nbd_name_fault(struct nbd_text name);

/* Options that the mapper has a part in. Each returns false if it must be tried again. */
bool nbd_option_export_name(struct nbd_connection *conn, struct nbd_reader *in);
bool nbd_option_go(struct nbd_connection *conn, struct nbd_reader *in);
bool nbd_option_list(struct nbd_connection *conn, struct nbd_reader *in);
/* Asks for the id of a name, which is added to conn->found. False: no slot, or the answer is awaited. */
bool nbd_look_up(struct nbd_connection *conn, struct nbd_text name);
/* Asks for the next page of a list whose last page is sent. */
void nbd_list_more(struct nbd_connection *conn);

#endif
