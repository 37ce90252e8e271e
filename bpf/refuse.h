/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers of our own: a RST for TCP, an ICMP error for everything else. The packet itself
 * becomes the answer and goes back by the device it came from.
 *
 * The source is the address that was dialled, because that is whom the client asked.
 */
#ifndef VIPBEE_REFUSE_H
#define VIPBEE_REFUSE_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "config.h"
#include "conntrack.h"
#include "count.h"
#include "maps.h"
#include "packet.h"
#include "rewrite.h"

#define ANSWER_HOPS 64
#define QUOTE_V4 68 /* the longest header and 8 bytes */
#define QUOTE_V6 96

/* linux/icmp.h drags in headers that do not compile for BPF. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest; /* MTU: all of it in ICMPv6, the second half in ICMP */
};

#define ICMP_UNREACHABLE 3
#define ICMP_PORT 3
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMP_EXCEEDED 11
#define ICMP6_UNREACHABLE 1
#define ICMP6_PORT 4
#define ICMP6_TOO_BIG 2
#define ICMP6_EXCEEDED 3

enum answer {
	ANSWER_PORT_UNREACHABLE,
	ANSWER_TOO_BIG,
	ANSWER_TIME_EXCEEDED,
};

static __always_inline int may_answer(void)
{
	__u32 key = 0, second = now_s();
	struct refusal_budget *budget = bpf_map_lookup_elem(&refusal_budgets, &key);

	if (!budget)
		return 0;
	if (budget->second != second) {
		budget->second = second;
		budget->sent = 0;
	}
	if (budget->sent >= config.refusals_per_second) {
		count_reason(REASON_REFUSAL_LIMITED);
		return 0;
	}
	budget->sent++;
	return 1;
}

/* Where it came from: out of the device, or into the stack if the node itself has asked. */
static __always_inline int send_back(struct __sk_buff *ctx, __u32 l2, int from_node)
{
	__u8 from[6], to[6];

	if (l2) {
		if (bpf_skb_load_bytes(ctx, 0, to, sizeof(to)) ||
		    bpf_skb_load_bytes(ctx, 6, from, sizeof(from)) ||
		    bpf_skb_store_bytes(ctx, 0, from, sizeof(from), 0) ||
		    bpf_skb_store_bytes(ctx, 6, to, sizeof(to), 0))
			return TC_ACT_SHOT;
	}
	return bpf_redirect(ctx->ifindex, from_node ? BPF_F_INGRESS : 0);
}

static __always_inline void answer_ipv4(struct iphdr *ip, const struct packet *p, __u8 protocol,
					__u32 length)
{
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(length);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = ANSWER_HOPS;
	ip->protocol = protocol;
	ip->saddr = p->tuple.destination.word[3];
	ip->daddr = p->tuple.source.word[3];
	ip->check = ~csum_fold16(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
}

static __always_inline void answer_ipv6(struct ipv6hdr *ip, const struct packet *p, __u8 protocol,
					__u32 length)
{
	ip->version = 6;
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = protocol;
	ip->hop_limit = ANSWER_HOPS;
	__builtin_memcpy(&ip->saddr, &p->tuple.destination, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &p->tuple.source, sizeof(ip->daddr));
}

/* Not folded. The order of the addresses does not matter to a sum. */
static __always_inline __u64 pseudo_header_sum(const struct packet *p, __u8 protocol, __u32 length)
{
	const struct address *a = &p->tuple.source, *b = &p->tuple.destination;
	__u64 sum = (__u64)a->word[3] + b->word[3] + bpf_htonl(length) + bpf_htonl(protocol);

	if (p->family == 6) {
		sum += (__u64)a->word[0] + a->word[1] + a->word[2];
		sum += (__u64)b->word[0] + b->word[1] + b->word[2];
	}
	return sum;
}

/*
 * With CHECKSUM_PARTIAL the field must hold the pseudo header's sum only. The one way to
 * see it: a replacement without BPF_F_PSEUDO_HDR then changes nothing.
 */
static __always_inline int checksum_is_partial(struct __sk_buff *ctx, __u32 offset)
{
	__be16 probe = 0;

	if (bpf_skb_store_bytes(ctx, offset, &probe, sizeof(probe), 0) ||
	    bpf_l4_csum_replace(ctx, offset, 0, bpf_htons(1), 2) ||
	    bpf_skb_load_bytes(ctx, offset, &probe, sizeof(probe)))
		return 0;
	return !probe;
}

/* RFC 9293, 3.10.7.1: the answer of a port where nothing listens. */
static __noinline int send_reset(struct __sk_buff *ctx, const struct packet *p)
{
	struct {
		union {
			struct ipv6hdr v6;
			struct {
				__u8 before[sizeof(struct ipv6hdr) - sizeof(struct iphdr)];
				struct iphdr v4;
			};
		};
		struct tcphdr tcp;
	} answer = {};
	__u32 header = p->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	__u32 payload = l4_length(p) - p->l4_header;
	__u32 l2 = p->l2;
	__u64 sum;

	if (p->tcp_flags & TCP_RST || !may_answer())
		return TC_ACT_SHOT;
	answer.tcp.source = p->tuple.destination_port;
	answer.tcp.dest = p->tuple.source_port;
	answer.tcp.doff = sizeof(answer.tcp) / 4;
	answer.tcp.rst = 1;
	if (p->tcp_flags & TCP_ACK) {
		answer.tcp.seq = bpf_htonl(p->acknowledged);
	} else {
		answer.tcp.ack = 1;
		answer.tcp.ack_seq = bpf_htonl(p->sequence + payload + !!(p->tcp_flags & TCP_SYN) +
					       !!(p->tcp_flags & TCP_FIN));
	}
	if (bpf_skb_change_tail(ctx, l2 + header + sizeof(answer.tcp), 0))
		return TC_ACT_SHOT;
	sum = pseudo_header_sum(p, IPPROTO_TCP, sizeof(answer.tcp));
	if (checksum_is_partial(ctx, l2 + header + TCP_CHECKSUM))
		answer.tcp.check = csum_fold16(sum);
	else
		answer.tcp.check =
			~csum_fold16(sum + (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&answer.tcp,
								sizeof(answer.tcp), 0));
	if (p->family == 4) {
		answer_ipv4(&answer.v4, p, IPPROTO_TCP, sizeof(answer.v4) + sizeof(answer.tcp));
		if (bpf_skb_store_bytes(ctx, l2, &answer.v4, sizeof(answer.v4) + sizeof(answer.tcp),
					0))
			return TC_ACT_SHOT;
	} else {
		answer_ipv6(&answer.v6, p, IPPROTO_TCP, sizeof(answer.tcp));
		if (bpf_skb_store_bytes(ctx, l2, &answer, sizeof(answer), 0))
			return TC_ACT_SHOT;
	}
	return send_back(ctx, l2, p->from_node);
}

static __noinline int send_icmp4(struct __sk_buff *ctx, const struct packet *p, enum answer kind,
				 __u32 mtu)
{
	struct {
		struct iphdr ip;
		struct icmp_header icmp;
		__u8 quote[QUOTE_V4];
	} answer = {};
	__u32 length = p->length, l2 = p->l2;

	if (p->fragment == LATER_FRAGMENT || !may_answer())
		return TC_ACT_SHOT;
	if (length > QUOTE_V4)
		length = QUOTE_V4;
	if (length < sizeof(struct iphdr) + 8 || bpf_skb_load_bytes(ctx, l2, answer.quote, length))
		return TC_ACT_SHOT;
	answer.icmp.type = kind == ANSWER_TIME_EXCEEDED ? ICMP_EXCEEDED : ICMP_UNREACHABLE;
	if (kind == ANSWER_PORT_UNREACHABLE)
		answer.icmp.code = ICMP_PORT;
	if (kind == ANSWER_TOO_BIG) {
		answer.icmp.code = ICMP_FRAGMENTATION_NEEDED;
		answer.icmp.rest = bpf_htonl(mtu & 0xffff);
	}
	answer.icmp.checksum = ~csum_fold16((__u32)bpf_csum_diff(
		NULL, 0, (__be32 *)&answer.icmp, sizeof(answer.icmp) + QUOTE_V4, 0));
	length += sizeof(answer.ip) + sizeof(answer.icmp);
	answer_ipv4(&answer.ip, p, IPPROTO_ICMP, length);
	if (bpf_skb_change_tail(ctx, l2 + length, 0) ||
	    bpf_skb_store_bytes(ctx, l2, &answer, length, 0))
		return TC_ACT_SHOT;
	return send_back(ctx, l2, p->from_node);
}

static __noinline int send_icmp6(struct __sk_buff *ctx, const struct packet *p, enum answer kind,
				 __u32 mtu)
{
	struct {
		struct ipv6hdr ip;
		struct icmp_header icmp;
		__u8 quote[QUOTE_V6];
	} answer = {};
	__u32 length = p->length, l2 = p->l2;
	__u64 sum;

	if (p->fragment == LATER_FRAGMENT || !may_answer())
		return TC_ACT_SHOT;
	if (length > QUOTE_V6)
		length = QUOTE_V6;
	if (length < sizeof(struct ipv6hdr) + 8 ||
	    bpf_skb_load_bytes(ctx, l2, answer.quote, length))
		return TC_ACT_SHOT;
	if (kind == ANSWER_PORT_UNREACHABLE) {
		answer.icmp.type = ICMP6_UNREACHABLE;
		answer.icmp.code = ICMP6_PORT;
	} else if (kind == ANSWER_TOO_BIG) {
		answer.icmp.type = ICMP6_TOO_BIG;
		answer.icmp.rest = bpf_htonl(mtu);
	} else {
		answer.icmp.type = ICMP6_EXCEEDED;
	}
	length += sizeof(answer.icmp);
	sum = pseudo_header_sum(p, IPPROTO_ICMPV6, length);
	answer.icmp.checksum =
		~csum_fold16(sum + (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&answer.icmp,
							sizeof(answer.icmp) + QUOTE_V6, 0));
	answer_ipv6(&answer.ip, p, IPPROTO_ICMPV6, length);
	length += sizeof(answer.ip);
	if (bpf_skb_change_tail(ctx, l2 + length, 0) ||
	    bpf_skb_store_bytes(ctx, l2, &answer, length, 0))
		return TC_ACT_SHOT;
	return send_back(ctx, l2, p->from_node);
}

/* Tell the sender. The caller has counted why. */
static __always_inline int send_error(struct __sk_buff *ctx, const struct packet *p,
				      enum answer kind, __u32 mtu)
{
	return p->family == 4 ? send_icmp4(ctx, p, kind, mtu) : send_icmp6(ctx, p, kind, mtu);
}

static __always_inline int refuse(struct __sk_buff *ctx, const struct packet *p)
{
	if (p->tuple.protocol == IPPROTO_TCP && p->fragment == NOT_FRAGMENTED)
		return send_reset(ctx, p);
	if (p->tcp_flags & TCP_RST) /* in part of one; RFC 1122, 4.2.3.9: no answer to a RST */
		return TC_ACT_SHOT;
	return send_error(ctx, p, ANSWER_PORT_UNREACHABLE, 0);
}

#endif
