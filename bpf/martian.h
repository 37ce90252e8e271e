/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses that no packet from a device may carry.
 */
#ifndef VIPBEE_MARTIAN_H
#define VIPBEE_MARTIAN_H

#include <bpf/bpf_endian.h>

#include "abi.h"
#include "addr.h"
#include "service.h"

static __always_inline __u32 first_byte(const struct address *a)
{
	return bpf_ntohl(a->word[is_v4(a) ? 3 : 0]) >> 24;
}

static __always_inline int is_loopback(const struct address *a)
{
	if (is_v4(a))
		return first_byte(a) == 127;
	return !a->word[0] && !a->word[1] && !a->word[2] && a->word[3] == bpf_htonl(1);
}

/* A source nobody can answer to, or that only this node may use (D146, D150). */
static __always_inline int is_martian_source(const struct flow_tuple *tuple)
{
	const struct address *source = &tuple->source;
	__u32 byte = first_byte(source);

	if (is_v4(source) != is_v4(&tuple->destination)) /* v4-mapped, on a wire */
		return 1;
	if (is_v4(source)) {
		if (byte == 0 || byte >= 224)
			return 1;
	} else if (byte == 0xff ||
		   !(source->word[0] | source->word[1] | source->word[2] | source->word[3])) {
		return 1;
	}
	return is_loopback(source) || same_address(source, &tuple->destination) ||
	       find_address_flags(source) &
		       (ADDRESS_OWN | ADDRESS_SNAT | ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL);
}

#endif
