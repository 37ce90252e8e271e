/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors about connections of ours. The quoted packet says which one; it and the
 * error's own addresses are turned into what the receiver knows, so that path MTU
 * discovery, refusals and traceroute work through every frontend.
 *
 *   about what we sent to a backend   quote: source -> backend      to the client
 *   about a reply we sent to a client quote: frontend -> client     to the backend
 *
 * The connection is neither refreshed nor ended by them (RFC 5508, REQ-6).
 */
#ifndef VIPBEE_ICMP_H
#define VIPBEE_ICMP_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "conntrack.h"
#include "count.h"
#include "packet.h"
#include "refuse.h"
#include "rewrite.h"

#define CHECKED_BYTES 1536
#define CHECKED_AT_ONCE 128
#define IPV4_ADDRESSES 12
#define IPV6_ADDRESSES 8

/* The packet an error is about. `inner` is its offset. */
struct quote {
	struct flow_tuple tuple;
	__u32 inner;
	__u32 l4;
};

struct icmp_translation {
	struct flow_tuple quoted; /* what the quote must say */
	struct address source; /* and the error itself */
	struct address destination;
	__u8 redirect;
	__u8 to_node; /* whose program is the client */
};

/* Too large for the stack; lives in struct draft. */
struct icmp_work {
	struct quote quote;
	struct icmp_translation to;
};

static __always_inline int is_icmp_error(const struct packet *p)
{
	if (p->family == 4) /* unreachable, source quench, time exceeded, parameter problem */
		return p->icmp_type == 3 || p->icmp_type == 4 || p->icmp_type == 11 ||
		       p->icmp_type == 12;
	return p->icmp_type >= 1 && p->icmp_type <= 4;
}

static __noinline int read_quote(struct __sk_buff *ctx, const struct packet *p, struct quote *quote)
{
	__be16 ports[2];

	quote->inner = p->l4 + ICMP_HEADER;
	if (p->family == 4) {
		struct iphdr ip;

		if (load_bytes(ctx, quote->inner, &ip, sizeof(ip)) || ip.version != 4 ||
		    ip.ihl < 5 || ip.frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET))
			return -1; /* a later fragment has no ports: no guess (D31) */
		quote->tuple.source = address_from_v4(ip.saddr);
		quote->tuple.destination = address_from_v4(ip.daddr);
		quote->tuple.protocol = ip.protocol;
		quote->l4 = quote->inner + ip.ihl * 4;
	} else {
		struct ipv6hdr ip;

		if (load_bytes(ctx, quote->inner, &ip, sizeof(ip)) || ip.version != 6)
			return -1;
		__builtin_memcpy(&quote->tuple.source, &ip.saddr, sizeof(quote->tuple.source));
		__builtin_memcpy(&quote->tuple.destination, &ip.daddr,
				 sizeof(quote->tuple.destination));
		if (is_v4(&quote->tuple.source) || is_v4(&quote->tuple.destination))
			return -1;
		quote->tuple.protocol = ip.nexthdr;
		quote->l4 = quote->inner + sizeof(ip);
	}
	if (quote->tuple.protocol != IPPROTO_TCP && quote->tuple.protocol != IPPROTO_UDP)
		return -1;
	if (quote->l4 + ICMP_HEADER > p->l2 + p->length ||
	    load_bytes(ctx, quote->l4, ports, sizeof(ports)))
		return -1;
	quote->tuple.source_port = ports[0];
	quote->tuple.destination_port = ports[1];
	return 0;
}

static __always_inline void reverse(const struct flow_tuple *tuple, struct flow_tuple *out)
{
	out->source = tuple->destination;
	out->destination = tuple->source;
	out->source_port = tuple->destination_port;
	out->destination_port = tuple->source_port;
	out->protocol = tuple->protocol;
	__builtin_memset(out->pad, 0, sizeof(out->pad));
}

/*
 * `left`, which is 1 to CHECKED_AT_ONCE. Verifiers before 6.x do not conclude that from
 * comparisons ("invalid zero-sized read"), and clang removes the mask if it sees them.
 */
static __always_inline __u32 as_length(__u32 left)
{
	asm volatile("" : "+r"(left));
	return ((left - 1) & (CHECKED_AT_ONCE - 1)) + 1;
}

/*
 * RFC 5508, REQ-3: nobody may end a connection by an error that is broken. What is longer
 * than RFC 1812 and 4443 allow is believed: it stays as wrong as it is, for the receiver.
 */
static __noinline int checksum_is_wrong(struct __sk_buff *ctx, const struct packet *p)
{
	__u32 offset = p->l4, left = l4_length(p), turns = CHECKED_BYTES / CHECKED_AT_ONCE;
	__u8 bytes[CHECKED_AT_ONCE];
	__u64 sum = 0;

	if (left > CHECKED_BYTES)
		return 0;
	if (p->family == 6)
		sum = pseudo_header_sum(p, IPPROTO_ICMPV6, left);
	do {
		if (left < sizeof(bytes))
			break;
		if (bpf_skb_load_bytes(ctx, offset, bytes, sizeof(bytes)))
			return 1;
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)bytes, sizeof(bytes), 0);
		offset += sizeof(bytes);
		left -= sizeof(bytes);
	} while (--turns);
	if (left) {
		__builtin_memset(bytes, 0, sizeof(bytes));
		if (bpf_skb_load_bytes(ctx, offset, bytes, as_length(left)))
			return 1;
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)bytes, sizeof(bytes), 0);
	}
	return csum_fold16(sum) != 0xffff;
}

/* Which connection, and what each of its sides would say. 0: none. */
static __noinline int find_quoted(const struct packet *p, enum zone zone, const struct quote *quote,
				  struct icmp_translation *to, int entering)
{
	struct flow_tuple reversed;
	struct conntrack *ct;
	struct nat *nat;
	int ignored;

	reverse(&quote->tuple, &reversed);
	to->source = p->tuple.source;
	nat = find_nat(zone, &reversed, &ignored);
	if (nat) {
		if (nat->flags & CONNTRACK_DIRECT)
			return 0;
		to->quoted = nat->original;
		to->destination = nat->original.source;
		/* the backend itself speaks: as the frontend, the only address its client knows */
		if (same_address(&p->tuple.source, &quote->tuple.destination))
			to->source = nat->original.destination;
		to->redirect = nat->flags & CONNTRACK_REDIRECT;
		to->to_node = nat->flags & CONNTRACK_NODE_CLIENT;
		return 1;
	}
	if (!entering) /* about a reply: only the client's side says that */
		return 0;
	ct = find_conntrack(zone, &reversed, &ignored);
	if (!ct || !is_client_s(ct, 0)) {
		ct = find_conntrack(other_zone(zone), &reversed, &ignored);
		if (!ct || !is_client_s(ct, CONNTRACK_CROSSING))
			return 0;
	}
	reply_of(ct, reversed.protocol, &to->quoted);
	to->destination = ct->backend;
	to->redirect = ct->flags & CONNTRACK_REDIRECT;
	/* our address: the backend's network would not let the client's router through */
	if (to->redirect)
		to->source = ct->source;
	return 1;
}

/*
 * 16 bits of the quote become others; the difference goes on `sum`. What lies behind the
 * end of the packet is padding, not a checksum.
 */
static __always_inline int replace_checksum(struct __sk_buff *ctx, const struct packet *p,
					    __u32 offset, __u64 change, int zero_is_none,
					    __u64 *sum)
{
	__u16 from, to;

	if (offset + sizeof(from) > p->l2 + p->length ||
	    load_bytes(ctx, offset, &from, sizeof(from)))
		return 0; /* quote too short to have it: nothing to keep right */
	if (zero_is_none && !from)
		return 0;
	to = ~csum_fold16((__u16)~from + change);
	if (zero_is_none && !to)
		to = 0xffff;
	*sum += (__u64)(__u16)~from + to;
	return bpf_skb_store_bytes(ctx, offset, &to, sizeof(to), 0);
}

static __always_inline int rewrite_quote(struct __sk_buff *ctx, const struct packet *p,
					 const struct quote *quote, const struct flow_tuple *to,
					 __u64 *sum)
{
	__u32 addresses = csum_of_addresses(&quote->tuple, to, p->family);
	__be32 from_ports = both_ports(&quote->tuple), to_ports = both_ports(to);
	__u32 ports = (__u32)csum_fold32(csum_word(from_ports, to_ports));
	int udp = to->protocol == IPPROTO_UDP;
	__be32 pair[2];

	*sum = (__u64)addresses + ports;
	if (replace_checksum(ctx, p, quote->l4 + (udp ? UDP_CHECKSUM : TCP_CHECKSUM),
			     (__u64)addresses + ports, udp, sum))
		return -1;
	if (bpf_skb_store_bytes(ctx, quote->l4, &to_ports, sizeof(to_ports), 0))
		return -1;
	if (p->family == 6) {
		struct {
			struct address source, destination;
		} both = { to->source, to->destination };

		return bpf_skb_store_bytes(ctx, quote->inner + IPV6_ADDRESSES, &both, sizeof(both),
					   0);
	}
	if (replace_checksum(ctx, p, quote->inner + IPV4_CHECKSUM, addresses, 0, sum))
		return -1;
	pair[0] = to->source.word[3];
	pair[1] = to->destination.word[3];
	return bpf_skb_store_bytes(ctx, quote->inner + IPV4_ADDRESSES, pair, sizeof(pair), 0);
}

/* The quote, then the error's own checksum, then its addresses. */
static __noinline int rewrite_icmp_error(struct __sk_buff *ctx, const struct packet *p,
					 const struct quote *quote,
					 const struct icmp_translation *to, int hops)
{
	struct flow_tuple outer = {};
	__u32 addresses;
	__u64 sum = 0;

	if (rewrite_quote(ctx, p, quote, &to->quoted, &sum))
		return -1;
	outer.source = to->source;
	outer.destination = to->destination;
	if (bpf_l4_csum_replace(ctx, p->l4 + ICMP_CHECKSUM, 0, (__u32)csum_fold32(sum), 0))
		return -1;
	addresses = csum_of_addresses(&p->tuple, &outer, p->family);
	if (p->family == 4)
		return rewrite_ipv4(ctx, p->l2 ? ETHERNET_HEADER : 0, &outer, addresses, hops);
	if (bpf_l4_csum_replace(ctx, p->l4 + ICMP_CHECKSUM, 0, addresses, BPF_F_PSEUDO_HDR))
		return -1;
	bpf_csum_update(ctx, addresses);
	return rewrite_ipv6(ctx, p->l2 ? ETHERNET_HEADER : 0, &outer, hops);
}

#endif
