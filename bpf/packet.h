/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a packet says, read once. parse_l3() is all that packets which are not ours cost;
 * parse_l4() reads ports and TCP's state. Neither changes anything.
 */
#ifndef VIPBEE_PACKET_H
#define VIPBEE_PACKET_H

#include <linux/in.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "addr.h"
#include "ctx_tc.h"

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV6_MORE_FRAGMENTS 0x0001
#define IPV6_FRAGMENT_OFFSET 0xfff8
#define MAX_EXTENSION_HEADERS 6

#define ICMP_HEADER 8

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

enum fragment_kind {
	NOT_FRAGMENTED,
	FIRST_FRAGMENT,
	LATER_FRAGMENT, /* has no ports of its own */
	OVERLAPPING_FRAGMENT, /* would replace a TCP header that was already judged (D27) */
};

struct packet {
	struct flow_tuple tuple;
	__u32 l4; /* offset of the transport header */
	__u32 length; /* from the network header, without Ethernet padding */
	__u32 fragment_id;
	__u32 sequence; /* TCP only, host order */
	__u32 acknowledged;
	__u32 address_flags; /* of the destination; enum address_flag */
	__u8 l2; /* bytes before the network header: 14, or 0 on a device without Ethernet */
	__u8 family; /* 4 or 6 */
	__u8 ttl;
	__u8 tos;
	__u8 fragment; /* enum fragment_kind */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 l4_header; /* TCP only: bytes of its header */
	__u8 replaces; /* zones in which an old connection has this tuple: 1 << enum zone */
	__u8 from_node; /* the client is a program of this node */
	__u8 foreign; /* a connection of a client elsewhere has this tuple */
	__u8 pad[1];
};

enum parsed {
	PARSED,
	PARSED_OTHER, /* not IP, or nothing we translate: pass */
	PARSED_ICMP,
	PARSED_MALFORMED,
	PARSED_TOO_MANY_HEADERS,
};

static __always_inline enum fragment_kind later_fragment(__u8 protocol, __u32 offset)
{
	if (protocol == IPPROTO_TCP && offset < sizeof(struct tcphdr))
		return OVERLAPPING_FRAGMENT;
	return LATER_FRAGMENT;
}

static __always_inline enum parsed parse_ipv4(struct __sk_buff *ctx, struct packet *p, __u32 l2)
{
	struct iphdr *ip = header_at(ctx, l2, sizeof(*ip));
	__u32 header_length;
	__u16 fragment;

	if (!ip || ip->version != 4)
		return PARSED_MALFORMED;
	header_length = ip->ihl * 4;
	p->length = bpf_ntohs(ip->tot_len);
	if (!p->length && ctx->gso_segs > 1)
		p->length = bytes_after(ctx, l2); /* BIG TCP (D13) */
	if (header_length < sizeof(*ip) || p->length < header_length ||
	    p->length > bytes_after(ctx, l2))
		return PARSED_MALFORMED;
	p->tuple.source = address_from_v4(ip->saddr);
	p->tuple.destination = address_from_v4(ip->daddr);
	p->tuple.protocol = ip->protocol;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->family = 4;
	p->l4 = l2 + header_length;
	fragment = bpf_ntohs(ip->frag_off);
	if (fragment & IPV4_FRAGMENT_OFFSET)
		p->fragment = later_fragment(ip->protocol, (fragment & IPV4_FRAGMENT_OFFSET) * 8);
	else if (fragment & IPV4_MORE_FRAGMENTS)
		p->fragment = FIRST_FRAGMENT;
	p->fragment_id = ip->id;
	return PARSED;
}

/* Follow the extension headers to the transport header (D10-D12). */
static __always_inline enum parsed skip_extensions(struct __sk_buff *ctx, struct packet *p,
						   __u8 next)
{
	struct {
		__u8 next;
		__u8 length;
		__be16 offset; /* fragment header only */
		__be32 id;
	} extension;
	int i;

	for (i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_AH && next != IPPROTO_FRAGMENT) {
			p->tuple.protocol = next;
			return PARSED;
		}
		if (load_bytes(ctx, p->l4, &extension, sizeof(extension)))
			return PARSED_MALFORMED;
		if (next == IPPROTO_FRAGMENT) {
			__u16 offset = bpf_ntohs(extension.offset);

			p->fragment_id = extension.id;
			if (offset & IPV6_FRAGMENT_OFFSET)
				p->fragment = later_fragment(extension.next,
							     offset & IPV6_FRAGMENT_OFFSET);
			else if (offset & IPV6_MORE_FRAGMENTS)
				p->fragment = FIRST_FRAGMENT; /* neither: atomic, RFC 6946 */
			p->l4 += 8;
		} else if (next == IPPROTO_AH) {
			p->l4 += (extension.length + 2) * 4;
		} else {
			p->l4 += (extension.length + 1) * 8;
		}
		next = extension.next;
		if (p->fragment >= LATER_FRAGMENT) {
			p->tuple.protocol = next;
			return PARSED;
		}
	}
	return PARSED_TOO_MANY_HEADERS;
}

static __always_inline enum parsed parse_ipv6(struct __sk_buff *ctx, struct packet *p, __u32 l2)
{
	struct ipv6hdr *ip = header_at(ctx, l2, sizeof(*ip));
	enum parsed result;
	__u8 next;

	if (!ip || ip->version != 6)
		return PARSED_MALFORMED;
	p->length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (p->length == sizeof(*ip) && ip->nexthdr == IPPROTO_HOPOPTS)
		p->length = bytes_after(ctx, l2); /* jumbogram (D13) */
	if (p->length > bytes_after(ctx, l2))
		return PARSED_MALFORMED;
	__builtin_memcpy(&p->tuple.source, &ip->saddr, sizeof(p->tuple.source));
	__builtin_memcpy(&p->tuple.destination, &ip->daddr, sizeof(p->tuple.destination));
	if (is_v4(&p->tuple.destination)) /* v4-mapped: in the tables that is IPv4's */
		return PARSED_OTHER;
	p->ttl = ip->hop_limit;
	p->tos = 0;
	p->family = 6;
	p->l4 = l2 + sizeof(*ip);
	next = ip->nexthdr;
	if (next == IPPROTO_TCP || next == IPPROTO_UDP || next == IPPROTO_ICMPV6) {
		p->tuple.protocol = next;
		return PARSED;
	}
	result = skip_extensions(ctx, p, next);
	if (result == PARSED && p->l4 > l2 + p->length)
		return PARSED_MALFORMED;
	return result;
}

/* Addresses, protocol, lengths, fragments. `p` must be zeroed. */
static __always_inline enum parsed parse_l3(struct __sk_buff *ctx, struct packet *p, __u32 l2)
{
	__u8 first;

	p->l2 = l2;
	if (l2) {
		if (is_vlan_tagged(ctx))
			return PARSED_OTHER;
		if (ctx->protocol == bpf_htons(ETH_P_IP))
			return parse_ipv4(ctx, p, l2);
		if (ctx->protocol == bpf_htons(ETH_P_IPV6))
			return parse_ipv6(ctx, p, l2);
		return PARSED_OTHER;
	}
	if (load_bytes(ctx, 0, &first, 1))
		return PARSED_OTHER;
	if (first >> 4 == 4)
		return parse_ipv4(ctx, p, 0);
	if (first >> 4 == 6)
		return parse_ipv6(ctx, p, 0);
	return PARSED_OTHER;
}

static __always_inline __u32 l4_length(const struct packet *p)
{
	return p->length + p->l2 - p->l4;
}

static __always_inline enum parsed parse_tcp(struct __sk_buff *ctx, struct packet *p)
{
	struct tcphdr tcp;
	__u8 offset;

	if (l4_length(p) < sizeof(tcp) || load_bytes(ctx, p->l4, &tcp, sizeof(tcp)))
		return PARSED_MALFORMED;
	offset = ((__u8 *)&tcp)[12] >> 4;
	if (offset < 5 || (p->fragment == NOT_FRAGMENTED && offset * 4 > l4_length(p)))
		return PARSED_MALFORMED;
	p->tuple.source_port = tcp.source;
	p->tuple.destination_port = tcp.dest;
	p->tcp_flags = ((__u8 *)&tcp)[13];
	p->l4_header = offset * 4;
	p->sequence = bpf_ntohl(tcp.seq);
	p->acknowledged = bpf_ntohl(tcp.ack_seq);
	return PARSED;
}

static __always_inline enum parsed parse_udp(struct __sk_buff *ctx, struct packet *p)
{
	struct udphdr udp;
	__u16 length;

	if (l4_length(p) < sizeof(udp) || load_bytes(ctx, p->l4, &udp, sizeof(udp)))
		return PARSED_MALFORMED;
	length = bpf_ntohs(udp.len);
	/* in a jumbogram it is zero; GSO and fragments say more than this packet holds */
	if (p->length <= 65535 && ctx->gso_segs <= 1 &&
	    (length < sizeof(udp) || (p->fragment == NOT_FRAGMENTED && length > l4_length(p))))
		return PARSED_MALFORMED;
	p->tuple.source_port = udp.source;
	p->tuple.destination_port = udp.dest;
	return PARSED;
}

/* Ports and TCP state, or the ICMP type, of a whole packet or a first fragment. */
static __always_inline enum parsed parse_l4(struct __sk_buff *ctx, struct packet *p)
{
	__u8 protocol = p->tuple.protocol;

	if (protocol == IPPROTO_TCP)
		return parse_tcp(ctx, p);
	if (protocol == IPPROTO_UDP)
		return parse_udp(ctx, p);
	if (protocol != (p->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return PARSED_OTHER;
	if (l4_length(p) < ICMP_HEADER || load_bytes(ctx, p->l4, &p->icmp_type, 1))
		return PARSED_MALFORMED;
	return PARSED_ICMP;
}

static __always_inline int is_clean_syn(const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

#endif
