/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A source port under which the backend's reply is ours alone. Kept if it is free, else
 * hashed, then tried at random. The insert of the reply tuple is what makes it unique.
 */
#ifndef VIPBEE_SNAT_H
#define VIPBEE_SNAT_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "config.h"
#include "conntrack.h"
#include "maps.h"
#include "packet.h"
#include "port_marks.h"

/* 0.9^64: one in a thousand fails with nine tenths of the ports taken. */
#define PORT_ATTEMPTS 64
#define TCP_LISTEN_ 10
#define PRIVILEGED_PORTS 1024

/* Connections whose replies come to an address of this node. */
#define NEEDS_SNAT_PORT (CONNTRACK_SOURCE_NAT | CONNTRACK_NODE_CLIENT)

static __always_inline int is_node_port_number(__u16 port)
{
	return port >= config.node_port_first && port <= config.node_port_last;
}

/* May a source port of ours on a node's address be this? Replies are told apart by it. */
static __always_inline int is_snat_port(__u16 port)
{
	return port >= PRIVILEGED_PORTS && !is_node_port_number(port);
}

/*
 * The connection that owns a reply tuple is gone: take the tuple. Only one CPU gets 0 from
 * the delete, and nobody inserts into the established map but promote(), after a round
 * trip; so there the claim is exact. In `new` two could take one tuple within the same
 * microsecond: keep_reverse() of the one that lost finds out.
 */
static __always_inline int reclaim(enum zone zone, const struct flow_tuple *reply,
				   const struct nat *owner, int established, __u32 now)
{
	struct flow_tuple original = owner->original;
	struct conntrack *ct;
	int found;

	ct = find_conntrack(zone, &original, &found);
	if (ct && belongs_to(owner, ct) && is_live(ct, original.protocol, now))
		return 0;
	/* being made right now, or its forward half was evicted and may come back */
	if (!ct && (__s32)(now - owner->last_seen) <= (__s32)config.lifetime_transitory_s)
		return 0;
	return !bpf_map_delete_elem(nat_map(zone, established), reply);
}

static __always_inline int tuple_is_free(enum zone zone, const struct flow_tuple *reply, __u32 now)
{
	struct nat *owner;
	int established;

	owner = find_nat(zone, reply, &established);
	return !owner || reclaim(zone, reply, owner, established, now);
}

/* A socket of this node would get the replies as well (D105). */
static __always_inline int node_uses(struct __sk_buff *ctx, const struct packet *p,
				     const struct flow_tuple *reply)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sock;
	__u32 size;
	int used;

	if (p->family == 4) {
		size = sizeof(tuple.ipv4);
		tuple.ipv4.saddr = reply->source.word[3];
		tuple.ipv4.daddr = reply->destination.word[3];
		tuple.ipv4.sport = reply->source_port;
		tuple.ipv4.dport = reply->destination_port;
	} else {
		size = sizeof(tuple.ipv6);
		__builtin_memcpy(tuple.ipv6.saddr, &reply->source, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, &reply->destination, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = reply->source_port;
		tuple.ipv6.dport = reply->destination_port;
	}
	if (reply->protocol == IPPROTO_TCP) {
		sock = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (!sock)
			return 0;
		used = sock->state != TCP_LISTEN_; /* a listener does not expect these replies */
	} else {
		sock = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (!sock)
			return 0;
		used = 1;
	}
	bpf_sk_release(sock);
	return used;
}

static __always_inline __u16 port_in_range(__u32 random)
{
	__u32 count = (__u32)config.snat_port_last - config.snat_port_first + 1;

	return config.snat_port_first + (__u16)(((__u64)random * count) >> 32);
}

/* Spreads clients over the range without a sequence anybody could predict a port from. */
static __always_inline __u32 hash_of(const struct flow_tuple *tuple)
{
	__u32 hash = tuple->source.word[0] ^ tuple->source.word[1] ^ tuple->source.word[2];

	hash = (hash ^ tuple->source.word[3]) * 0x9e3779b1;
	hash = (hash ^ ((__u32)tuple->source_port | (__u32)tuple->destination_port << 16)) *
	       0x85ebca6b;
	hash = (hash ^ tuple->destination.word[3]) * 0xc2b2ae35;
	return hash ^ hash >> 15;
}

/* Reserve the reply tuple in `draft`, if nobody has it. */
static __noinline int try_port(struct __sk_buff *ctx, const struct packet *p, enum zone zone,
			       struct draft *draft)
{
	struct flow_tuple *reply = &draft->reply;

	if (!tuple_is_free(zone, reply, draft->nat.last_seen))
		return 0;
	/* with SNAT the source is an address of this node, whose sockets come first */
	if (draft->nat.flags & CONNTRACK_SOURCE_NAT && node_uses(ctx, p, reply))
		return 0;
	/* before it is taken: a socket that comes later looks at the mark first (D106) */
	if (draft->nat.flags & CONNTRACK_REDIRECT)
		mark_port(reply->protocol, reply->destination_port, PORT_GIVEN_OUT);
	return !bpf_map_update_elem(nat_map(zone, 0), reply, &draft->nat, BPF_NOEXIST);
}

static __always_inline int looks_alive(const struct nat *owner, __u32 now, __u32 lifetime_s)
{
	return owner && (__s32)(now - owner->last_seen) <= (__s32)lifetime_s;
}

/*
 * Leave a random port in `drafts` whose owner is gone by its age, or just a random one.
 * try_port() then looks closely; apart, because a verifier walks a loop once for each turn,
 * and not static, because then it does so for every call. 5.10 takes no pointer here.
 */
__noinline int search_port(enum zone zone)
{
	__u32 key = 0;
	struct draft *draft = bpf_map_lookup_elem(&drafts, &key);
	__u32 unfinished_s, established_s, now;
	int udp, left = PORT_ATTEMPTS;

	if (!draft)
		return 0;
	udp = draft->reply.protocol == IPPROTO_UDP;
	unfinished_s = udp ? config.lifetime_udp_s : config.lifetime_transitory_s;
	established_s = udp ? config.lifetime_udp_s : config.lifetime_established_s;
	now = draft->nat.last_seen;
	/* kernels before 6.2 accept a backward jump only if it is conditional: no `for` here */
	do {
		draft->reply.destination_port = bpf_htons(port_in_range(bpf_get_prandom_u32()));
		if (!looks_alive(bpf_map_lookup_elem(nat_map(zone, 0), &draft->reply), now,
				 unfinished_s) &&
		    !looks_alive(bpf_map_lookup_elem(nat_map(zone, 1), &draft->reply), now,
				 established_s))
			return 1;
	} while (--left);
	return 0;
}

/*
 * Reserve a reply tuple for the connection in `draft`, whose source port it then has; -1:
 * none was free.
 */
static __noinline int claim_port(struct __sk_buff *ctx, const struct packet *p, enum zone zone,
				 struct draft *draft)
{
	__be16 wanted = p->tuple.source_port;

	if (!(draft->nat.flags & NEEDS_SNAT_PORT) || is_snat_port(bpf_ntohs(wanted))) {
		draft->reply.destination_port = wanted;
		if (try_port(ctx, p, zone, draft))
			return 0;
	}
	draft->reply.destination_port = bpf_htons(port_in_range(hash_of(&p->tuple)));
	if (try_port(ctx, p, zone, draft))
		goto moved;
	search_port(zone);
	if (try_port(ctx, p, zone, draft))
		goto moved;
	search_port(zone); /* a socket of the node had it, or another CPU was faster */
	if (!try_port(ctx, p, zone, draft))
		return -1;
moved:
	count_reason(REASON_SNAT_MOVED);
	return 0;
}

#endif
