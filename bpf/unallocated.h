/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses that ClusterIPs are taken from and no Service of ours has: packets there would leave
 * the node and go round between it and its router (R38). Asked where they leave, when whoever
 * else serves Services on this node (service-proxy-name, R2) has had his turn; so neither
 * sockets nor what comes in pay for it.
 */
#ifndef VIPBEE_UNALLOCATED_H
#define VIPBEE_UNALLOCATED_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "service.h"

static __always_inline int is_within(const struct address *a, const struct service_cidr *cidr)
{
	return !(((a->word[3] ^ cidr->network.word[3]) & cidr->mask.word[3]) |
		 ((a->word[2] ^ cidr->network.word[2]) & cidr->mask.word[2]) |
		 ((a->word[1] ^ cidr->network.word[1]) & cidr->mask.word[1]) |
		 ((a->word[0] ^ cidr->network.word[0]) & cidr->mask.word[0]));
}

static __always_inline int in_service_cidr(const struct address *address)
{
	const struct service_cidrs *known;
	__u32 key = 0, i;

	known = bpf_map_lookup_elem(&service_cidrs, &key);
	if (!known || !known->count)
		return 0;
#pragma clang loop unroll(full)
	for (i = 0; i < MAX_SERVICE_CIDRS; i++)
		if (i < known->count && is_within(address, &known->cidr[i]))
			return 1;
	return 0;
}

static __always_inline int is_unallocated(const struct address *address)
{
	return in_service_cidr(address) && !find_address_flags(address);
}

#endif
