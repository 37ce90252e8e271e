/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a packet says about its connection: begun, confirmed by both sides, finished, reset;
 * and whether the connection may stay with its backend.
 */
#ifndef VIPBEE_CONNTRACK_SEEN_H
#define VIPBEE_CONNTRACK_SEEN_H

#include "abi.h"
#include "backend.h"
#include "conntrack.h"
#include "count.h"
#include "packet.h"

/*
 * A RST counts if its sequence number is near what the other side acknowledged last
 * (RFC 5961 asks for exactly there; windows make it a range). An attacker who guesses has
 * won ten seconds at most: the mark goes when the same side sends on (D70, D71).
 */
#define RST_WINDOW 65536

static __always_inline int rst_is_believable(const struct packet *p, __u32 expected, int known)
{
	return !known || p->sequence - expected < RST_WINDOW;
}

/* Store only what changed: the line stays shared between CPUs. */
static __always_inline void set_seen(__u8 *seen, __u8 now)
{
	if (*seen != now)
		*seen = now;
}

static __always_inline __u8 tcp_seen(__u8 seen, const struct packet *p, __u32 expected, int known)
{
	if (p->tcp_flags & TCP_RST) {
		if (rst_is_believable(p, expected, known))
			seen |= SEEN_RST;
		return seen;
	}
	seen &= ~SEEN_RST;
	if (p->tcp_flags & TCP_SYN)
		seen |= SEEN_SYN;
	if (p->tcp_flags & TCP_FIN)
		seen |= SEEN_FIN;
	return seen;
}

static __always_inline void close_once(struct conntrack *ct, int was_over)
{
	if (!was_over && (is_reset(ct) || is_finished(ct)))
		count_closed(ct->service_id, ct->backend_id, ct->generation);
}

/* Returns whether the connection is confirmed by both sides. */
static __always_inline int note_client(struct conntrack *ct, const struct packet *p,
				       int established)
{
	__u8 seen = ct->client_seen;
	int was_over;

	if (p->fragment == LATER_FRAGMENT)
		return 0;
	if (p->tuple.protocol != IPPROTO_TCP) {
		if (ct->backend_seen)
			set_seen(&ct->client_seen, seen | SEEN_PACKET);
		return ct->backend_seen & SEEN_PACKET;
	}
	was_over = is_reset(ct) || is_finished(ct);
	seen = tcp_seen(seen, p, ct->backend_ack, ct->backend_seen & SEEN_SYN);
	if (p->tcp_flags & TCP_ACK && !(p->tcp_flags & (TCP_SYN | TCP_RST))) {
		ct->client_ack = p->acknowledged;
		if (ct->backend_seen & SEEN_SYN)
			seen |= SEEN_PACKET;
	}
	set_seen(&ct->client_seen, seen);
	if (established)
		close_once(ct, was_over);
	return seen & SEEN_PACKET;
}

static __always_inline void note_backend(struct conntrack *ct, const struct packet *p,
					 int established)
{
	__u8 seen = ct->backend_seen | SEEN_PACKET;
	int was_over;

	if (p->fragment == LATER_FRAGMENT)
		return;
	if (p->tuple.protocol != IPPROTO_TCP) {
		set_seen(&ct->backend_seen, seen);
		return;
	}
	was_over = is_reset(ct) || is_finished(ct);
	seen = tcp_seen(seen, p, ct->client_ack, ct->client_seen & SEEN_PACKET);
	if (p->tcp_flags & TCP_ACK && !(p->tcp_flags & TCP_RST))
		ct->backend_ack = p->acknowledged;
	set_seen(&ct->backend_seen, seen);
	if (established)
		close_once(ct, was_over);
}

/*
 * With the source kept, a connection of the same client port straight to the backend has
 * the same reply tuple. Is this packet of that one? A SYN on a connection that is over is,
 * unless it repeats one we know; so is anything else from a backend that has not agreed
 * yet: it has that connection already, and answers our SYN for it (RFC 5961, 4).
 */
static __always_inline int is_of_direct_connection(const struct conntrack *ct,
						   const struct packet *p)
{
	int agreed = ct->backend_seen & SEEN_SYN;

	if (p->tuple.protocol != IPPROTO_TCP || p->fragment == LATER_FRAGMENT)
		return 0;
	if (p->tcp_flags & TCP_SYN)
		return (is_reset(ct) || is_finished(ct)) &&
		       !(agreed && p->acknowledged == ct->backend_ack);
	return !agreed && !(p->tcp_flags & TCP_RST);
}

/*
 * A connection may stay with its backend: TCP always, once the backend has agreed (R34);
 * before that while it exists (D77); UDP while it serves (R110-R113).
 */
static __always_inline int keeps_backend(const struct conntrack *ct, const struct packet *p)
{
	int tcp = p->tuple.protocol == IPPROTO_TCP;
	struct choice ignored;

	if (tcp &&
	    (ct->client_seen & SEEN_PACKET || (!is_clean_syn(p) && ct->backend_seen & SEEN_SYN)))
		return 1;
	if (!ct->service_id) /* the node's own, to no Service (D106) */
		return 1;
	return take_known_backend(ct->backend_id, ct->generation, ct->service_id,
				  tcp ? 0 : BACKEND_SERVING, &ignored);
}

#endif
