/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Give a packet other addresses and ports. Checksums change by the difference only, so
 * a wrong one stays wrong (D35) and work left to hardware stays left to it (D36).
 *
 * The transport checksum goes through bpf_l4_csum_replace(): a program cannot see
 * skb->ip_summed, and with CHECKSUM_PARTIAL the field holds the pseudo header only.
 * The IPv4 header is written directly: its checksum is always complete.
 */
#ifndef VIPBEE_REWRITE_H
#define VIPBEE_REWRITE_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "packet.h"

#define TCP_CHECKSUM 16
#define UDP_CHECKSUM 6
#define ICMP_CHECKSUM 2
#define IPV4_CHECKSUM 10

static __always_inline __u64 csum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

static __always_inline __u16 csum_fold16(__u64 sum)
{
	sum = csum_fold32(sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

static __always_inline __u64 csum_word(__be32 from, __be32 to)
{
	return (__u64)(__u32)~from + to;
}

/* What the sum over both addresses changes by, as a 32-bit ones' complement sum. */
static __always_inline __u32 csum_of_addresses(const struct flow_tuple *from,
					       const struct flow_tuple *to, int family)
{
	__u64 sum = csum_word(from->source.word[3], to->source.word[3]) +
		    csum_word(from->destination.word[3], to->destination.word[3]);

	if (family == 6) {
		sum += csum_word(from->source.word[0], to->source.word[0]);
		sum += csum_word(from->source.word[1], to->source.word[1]);
		sum += csum_word(from->source.word[2], to->source.word[2]);
		sum += csum_word(from->destination.word[0], to->destination.word[0]);
		sum += csum_word(from->destination.word[1], to->destination.word[1]);
		sum += csum_word(from->destination.word[2], to->destination.word[2]);
	}
	return (__u32)csum_fold32(sum);
}

static __always_inline __be32 both_ports(const struct flow_tuple *tuple)
{
	/* as the four bytes lie in the packet, on a little-endian machine */
	return (__u32)tuple->source_port | (__u32)tuple->destination_port << 16;
}

static __always_inline int rewrite_l4(struct __sk_buff *ctx, const struct packet *p,
				      const struct flow_tuple *to, __u32 addresses)
{
	int udp = p->tuple.protocol == IPPROTO_UDP;
	__u32 checksum = p->l4 + (udp ? UDP_CHECKSUM : TCP_CHECKSUM);
	/* an absent checksum stays absent, one that becomes 0 is written as 0xffff (D32, D33) */
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	__be32 from_ports = both_ports(&p->tuple);
	__be32 to_ports = both_ports(to);

	if (bpf_l4_csum_replace(ctx, checksum, 0, addresses, BPF_F_PSEUDO_HDR | flags))
		return -1;
	if (p->family == 6) /* see rewrite_ipv6() */
		bpf_csum_update(ctx, addresses);
	if (from_ports == to_ports)
		return 0;
	if (bpf_l4_csum_replace(ctx, checksum, from_ports, to_ports, 4 | flags))
		return -1;
	return bpf_skb_store_bytes(ctx, p->l4, &to_ports, sizeof(to_ports), 0);
}

/* Address changes cancel out against the header checksum in skb->csum. */
static __always_inline int rewrite_ipv4(struct __sk_buff *ctx, __u32 l2,
					const struct flow_tuple *to, __u32 addresses, int hops)
{
	struct iphdr *ip = header_at(ctx, l2, sizeof(*ip));
	__u64 sum;

	if (!ip)
		return -1;
	sum = (__u16)~ip->check;
	ip->saddr = to->source.word[3];
	ip->daddr = to->destination.word[3];
	if (hops) {
		ip->ttl -= 1;
		sum += (__u16)~bpf_htons(0x0100);
	}
	ip->check = ~csum_fold16(sum + addresses);
	return 0;
}

/*
 * Without a header checksum the transport checksum alone cancels the addresses in
 * skb->csum (CHECKSUM_COMPLETE), but BPF_F_PSEUDO_HDR has taken them off once more, as is
 * right for IPv4. Kernels before BPF_F_IPV6 have no flag for it, so rewrite_l4() puts them
 * back, and this the hop limit (D37).
 */
static __always_inline int rewrite_ipv6(struct __sk_buff *ctx, __u32 l2,
					const struct flow_tuple *to, int hops)
{
	struct ipv6hdr *ip = header_at(ctx, l2, sizeof(*ip));

	if (!ip)
		return -1;
	__builtin_memcpy(&ip->saddr, &to->source, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &to->destination, sizeof(ip->daddr));
	if (hops) {
		ip->hop_limit -= 1;
		bpf_csum_update(ctx, (__u16)~bpf_htons(1));
	}
	return 0;
}

static __always_inline int rewrite_at(struct __sk_buff *ctx, const struct packet *p, __u32 l2,
				      const struct flow_tuple *to, int hops)
{
	__u32 addresses = csum_of_addresses(&p->tuple, to, p->family);

	if (p->fragment == LATER_FRAGMENT) {
		if (p->family == 6) /* no checksum in this packet takes the difference up (D37) */
			bpf_csum_update(ctx, addresses);
	} else if (rewrite_l4(ctx, p, to, addresses)) {
		return -1;
	}
	if (p->family == 4)
		return rewrite_ipv4(ctx, l2, to, addresses, hops);
	return rewrite_ipv6(ctx, l2, to, hops);
}

/*
 * One for each kind of device, because `l2` has to be a constant in the code: clang 19 kept
 * an argument in half a stack slot over the calls, where the verifier forgets its value
 * ("R5 offset is outside of the packet").
 */
static __noinline int rewrite_ethernet(struct __sk_buff *ctx, const struct packet *p,
				       const struct flow_tuple *to, int hops)
{
	return rewrite_at(ctx, p, ETHERNET_HEADER, to, hops);
}

static __noinline int rewrite_l3(struct __sk_buff *ctx, const struct packet *p,
				 const struct flow_tuple *to, int hops)
{
	return rewrite_at(ctx, p, 0, to, hops);
}

/*
 * `to` replaces addresses and ports; `hops`: one hop less, which the caller has checked.
 * Invalidates packet pointers. After a failure the packet may be half written: drop it.
 */
static __always_inline int rewrite(struct __sk_buff *ctx, const struct packet *p, __u32 l2,
				   const struct flow_tuple *to, int hops)
{
	return l2 ? rewrite_ethernet(ctx, p, to, hops) : rewrite_l3(ctx, p, to, hops);
}

#endif
