/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The 16-byte address: network order, IPv4 v4-mapped. Knows nothing of packets or sockets. */
#ifndef VIPBEE_ADDR_H
#define VIPBEE_ADDR_H

#include <bpf/bpf_endian.h>

#include "abi.h"

#define V4_MAPPED_WORD bpf_htonl(0x0000ffff)

static __always_inline struct address address_from_v4(__be32 ip)
{
	return (struct address){ .word = { 0, 0, V4_MAPPED_WORD, ip } };
}

static __always_inline int is_v4(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == V4_MAPPED_WORD;
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

/* :: or ::ffff:0.0.0.0, whichever has the family of `a`. */
static __always_inline struct address unspecified_like(const struct address *a)
{
	return (struct address){ .word = { 0, 0, is_v4(a) ? V4_MAPPED_WORD : 0, 0 } };
}

static __always_inline struct address loopback_like(const struct address *a)
{
	if (is_v4(a))
		return address_from_v4(bpf_htonl(0x7f000001));
	return (struct address){ .word = { 0, 0, 0, bpf_htonl(1) } };
}

#endif
