/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections: what is remembered of each, how long, and how it grows from the zone of
 * unfinished ones into the zone that no flood reaches. abi.h says what the entries mean.
 *
 * Entries are written through the pointer a lookup gave: update_elem on a present key of a
 * full LRU evicts others. The two directions write different bytes, so plain stores do.
 */
#ifndef VIPBEE_CONNTRACK_H
#define VIPBEE_CONNTRACK_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "backend.h"
#include "config.h"
#include "count.h"
#include "maps.h"
#include "packet.h"

#define NANOSECONDS 1000000000ULL

enum zone {
	ZONE_OUTSIDE,
	ZONE_POD,
};

static __always_inline void *conntrack_map(enum zone zone, int established)
{
	if (zone == ZONE_OUTSIDE)
		return established ? (void *)&conntrack_outside : (void *)&conntrack_new_outside;
	return established ? (void *)&conntrack_pod : (void *)&conntrack_new_pod;
}

static __always_inline void *nat_map(enum zone zone, int established)
{
	if (zone == ZONE_OUTSIDE)
		return established ? (void *)&nat_outside : (void *)&nat_new_outside;
	return established ? (void *)&nat_pod : (void *)&nat_new_pod;
}

/* The clock of every lifetime. */
static __always_inline __u32 now_s(void)
{
	if (config.has_coarse_clock)
		return (__u32)(bpf_ktime_get_coarse_ns() / NANOSECONDS);
	return (__u32)(bpf_ktime_get_ns() / NANOSECONDS);
}

static __always_inline int is_reset(const struct conntrack *ct)
{
	return (ct->client_seen | ct->backend_seen) & SEEN_RST;
}

static __always_inline int is_finished(const struct conntrack *ct)
{
	return ct->client_seen & ct->backend_seen & SEEN_FIN;
}

static __always_inline __u32 lifetime(const struct conntrack *ct, __u8 protocol)
{
	if (protocol != IPPROTO_TCP)
		return config.lifetime_udp_s;
	if (is_reset(ct))
		return config.lifetime_reset_s;
	if (is_finished(ct) || !(ct->client_seen & SEEN_PACKET))
		return config.lifetime_transitory_s;
	return config.lifetime_established_s;
}

static __always_inline int is_live(const struct conntrack *ct, __u8 protocol, __u32 now)
{
	/* signed: the other CPU's clock may be a second ahead */
	return (__s32)(now - ct->last_seen) <= (__s32)lifetime(ct, protocol);
}

/* `established` says where it was found. */
static __always_inline struct conntrack *
find_conntrack(enum zone zone, const struct flow_tuple *tuple, int *established)
{
	struct conntrack *ct = bpf_map_lookup_elem(conntrack_map(zone, 1), tuple);

	*established = !!ct;
	return ct ? ct : bpf_map_lookup_elem(conntrack_map(zone, 0), tuple);
}

static __always_inline struct nat *find_nat(enum zone zone, const struct flow_tuple *reply,
					    int *established)
{
	struct nat *nat = bpf_map_lookup_elem(nat_map(zone, 1), reply);

	*established = !!nat;
	return nat ? nat : bpf_map_lookup_elem(nat_map(zone, 0), reply);
}

/* The packet the backend will answer with. */
static __always_inline void reply_of(const struct conntrack *ct, __u8 protocol,
				     struct flow_tuple *reply)
{
	reply->source = ct->backend;
	reply->destination = ct->source;
	reply->source_port = ct->backend_port;
	reply->destination_port = ct->source_port;
	reply->protocol = protocol;
	__builtin_memset(reply->pad, 0, sizeof(reply->pad));
}

static __always_inline void fill_nat(struct nat *nat, const struct flow_tuple *original,
				     const struct conntrack *ct)
{
	nat->original = *original;
	nat->service_id = ct->service_id;
	nat->backend_id = ct->backend_id;
	nat->generation = ct->generation;
	nat->last_seen = ct->last_seen;
	nat->flags = ct->flags;
	__builtin_memset(nat->pad, 0, sizeof(nat->pad));
}

static __always_inline int belongs_to(const struct nat *nat, const struct conntrack *ct)
{
	return nat->backend_id == ct->backend_id && nat->generation == ct->generation;
}

static __always_inline int same_tuple(const struct flow_tuple *a, const struct flow_tuple *b)
{
	return a->source_port == b->source_port && a->destination_port == b->destination_port &&
	       a->protocol == b->protocol && same_address(&a->source, &b->source) &&
	       same_address(&a->destination, &b->destination);
}

/* Both halves of what has this tuple now; the reverse one only if it is its own. */
static __noinline int forget(enum zone zone, const struct flow_tuple *original)
{
	struct flow_tuple reply;
	struct conntrack *ct;
	struct nat *nat;
	int established;

	ct = find_conntrack(zone, original, &established);
	if (!ct)
		return 0;
	reply_of(ct, original->protocol, &reply);
	bpf_map_delete_elem(conntrack_map(zone, 1), original);
	bpf_map_delete_elem(conntrack_map(zone, 0), original);
	nat = find_nat(zone, &reply, &established);
	if (nat && same_tuple(&nat->original, original)) {
		bpf_map_delete_elem(nat_map(zone, 1), &reply);
		bpf_map_delete_elem(nat_map(zone, 0), &reply);
	}
	return 0;
}

/*
 * Move a confirmed connection to the zone that nothing evicts from. Inserted there before
 * it is deleted here, so a packet on another CPU finds it at every moment.
 */
static __noinline int promote(enum zone zone, const struct flow_tuple *original)
{
	struct conntrack *found = bpf_map_lookup_elem(conntrack_map(zone, 0), original);
	struct flow_tuple reply;
	struct nat nat;

	if (!found)
		return 0;
	reply_of(found, original->protocol, &reply);
	fill_nat(&nat, original, found);
	if (bpf_map_update_elem(nat_map(zone, 1), &reply, &nat, BPF_NOEXIST))
		goto full;
	if (bpf_map_update_elem(conntrack_map(zone, 1), original, found, BPF_NOEXIST)) {
		bpf_map_delete_elem(nat_map(zone, 1), &reply);
		goto full;
	}
	if (original->protocol == IPPROTO_TCP)
		count_opened(nat.service_id, nat.backend_id);
	bpf_map_delete_elem(conntrack_map(zone, 0), original);
	bpf_map_delete_elem(nat_map(zone, 0), &reply);
	return 0;
full:
	count_reason(REASON_ESTABLISHED_FULL);
	return 0;
}

/*
 * Once a second of the client's packets: is the reverse half still there, and ours? LRU
 * eviction can take either half alone. Returns 0 if another connection owns the reply
 * tuple by now: this one is over.
 */
static __noinline int keep_reverse(enum zone zone, const struct flow_tuple *original,
				   const struct conntrack *ct, int established)
{
	struct flow_tuple reply;
	struct nat fresh, *nat;
	int found;

	reply_of(ct, original->protocol, &reply);
	nat = find_nat(zone, &reply, &found);
	if (nat) {
		if (!same_tuple(&nat->original, original))
			return 0;
		nat->last_seen = ct->last_seen;
		return 1;
	}
	fill_nat(&fresh, original, ct);
	bpf_map_update_elem(nat_map(zone, established), &reply, &fresh, BPF_NOEXIST);
	count_reason(REASON_TWIN_REPAIRED);
	return 1;
}

/* The forward half was evicted, the reverse half has all that is needed to build it again. */
static __noinline int restore_forward(enum zone zone, const struct flow_tuple *reply,
				      const struct nat *nat, int established)
{
	struct flow_tuple original = nat->original;
	struct conntrack ct = {};

	ct.backend = reply->source;
	ct.source = reply->destination;
	ct.backend_port = reply->source_port;
	ct.source_port = reply->destination_port;
	ct.service_id = nat->service_id;
	ct.backend_id = nat->backend_id;
	ct.generation = nat->generation;
	ct.last_seen = now_s();
	ct.flags = nat->flags;
	if (established) {
		ct.client_seen = SEEN_PACKET | SEEN_SYN;
		ct.backend_seen = SEEN_PACKET | SEEN_SYN;
	}
	bpf_map_update_elem(conntrack_map(zone, established), &original, &ct, BPF_NOEXIST);
	count_reason(REASON_TWIN_REPAIRED);
	return 0;
}

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
	return take_known_backend(ct->backend_id, ct->generation, ct->service_id,
				  tcp ? 0 : BACKEND_SERVING, &ignored);
}

#endif
