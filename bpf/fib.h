/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a packet leaves, asked of the kernel's routing for each packet: multiple
 * interfaces, policy routing and next hops that change are right without our knowing.
 */
#ifndef VIPBEE_FIB_H
#define VIPBEE_FIB_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "config.h"
#include "maps.h"
#include "packet.h"

#define LOOPBACK_IFINDEX 1 /* in every namespace */
#define AF_INET_ 2
#define AF_INET6_ 10

struct route {
	struct bpf_redir_neigh next_hop;
	__u32 ifindex;
	__u32 mtu; /* valid for ROUTE_TOO_BIG; 0: unknown */
};

enum route_result {
	ROUTE_FOUND,
	ROUTE_LOCAL, /* this node itself, or nothing the kernel would forward */
	ROUTE_TOO_BIG,
	ROUTE_NONE,
};

#define JUMBO_OPTION 8 /* in front of an IPv6 super-packet beyond 64 kB, not of its segments */

/* What must fit into one frame: of a GSO packet that is one segment (D13, D43). */
static __always_inline __u32 frame_length(struct __sk_buff *ctx, const struct packet *p)
{
	__u32 headers = p->l4 - p->l2 + 20;

	if (!ctx->gso_size)
		return p->length;
	if (p->family == 6 && p->length > 65535)
		headers -= JUMBO_OPTION;
	return headers + ctx->gso_size;
}

static __always_inline const struct device *device_of(__u32 ifindex)
{
	return bpf_map_lookup_elem(&devices, &ifindex);
}

static __noinline enum route_result find_route(struct __sk_buff *ctx, const struct packet *p,
					       const struct address *source,
					       const struct address *destination,
					       struct route *route)
{
	struct bpf_fib_lookup fib = {};
	const struct device *device;
	long result;

	fib.ifindex = ctx->ifindex;
	fib.l4_protocol = p->tuple.protocol;
	if (config.has_fib_mtu)
		fib.tot_len = frame_length(ctx, p);
	if (p->family == 4) {
		fib.family = AF_INET_;
		fib.tos = p->tos;
		fib.ipv4_src = source->word[3];
		fib.ipv4_dst = destination->word[3];
	} else {
		fib.family = AF_INET6_;
		__builtin_memcpy(fib.ipv6_src, source, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, destination, sizeof(fib.ipv6_dst));
	}
	result = bpf_fib_lookup(ctx, &fib, sizeof(fib),
				config.has_fib_skip_neigh ? BPF_FIB_LOOKUP_SKIP_NEIGH : 0);
	/* without the flag a missing neighbour is no obstacle: bpf_redirect_neigh() resolves it */
	route->ifindex = fib.ifindex;
	route->mtu = 0;
	if (result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH) {
		if (!config.has_fib_mtu) {
			/* it would refuse before it says which device, and never say the MTU */
			device = device_of(fib.ifindex);
			if (device && device->mtu && frame_length(ctx, p) > device->mtu)
				return ROUTE_TOO_BIG;
		}
		route->next_hop.nh_family = fib.family;
		__builtin_memcpy(route->next_hop.ipv6_nh, fib.ipv6_dst,
				 sizeof(route->next_hop.ipv6_nh));
		return ROUTE_FOUND;
	}
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		if (config.has_fib_mtu)
			route->mtu = fib.mtu_result;
		return ROUTE_TOO_BIG;
	}
	return result == BPF_FIB_LKUP_RET_NOT_FWDED ? ROUTE_LOCAL : ROUTE_NONE;
}

static __always_inline const struct address *device_address(const struct device *device, int family)
{
	const struct address *address = family == 4 ? &device->v4 : &device->v6;

	return address->word[3] || address->word[0] ? address : NULL;
}

/*
 * Send by this route; the neighbour is resolved on the way, and the packet waits for it
 * (D153). From a device without Ethernet header the packet needs one first: the helper
 * takes it off again, unseen.
 */
static __always_inline int send_by(struct __sk_buff *ctx, __u32 l2, struct route *route)
{
	if (!l2 && bpf_skb_change_head(ctx, ETHERNET_HEADER, 0))
		return -1;
	return bpf_redirect_neigh(route->ifindex, &route->next_hop, sizeof(route->next_hop), 0);
}

#endif
