/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One bit for every hash of an address: clear if `addresses` cannot have it. Most of what
 * a node dials is no VIP, and this says so in one read of 128 KiB: connect4 then takes 10
 * to 16 ns in all on 6.18, where a cold hash lookup alone takes 54. A set bit says nothing.
 *
 * The agent sets bits before it adds addresses and clears some only when it knows all
 * (src/vipbee/datapath/address_filter.py, which has the same hash).
 */
#ifndef VIPBEE_ADDRESS_FILTER_H
#define VIPBEE_ADDRESS_FILTER_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"

/* Multiplication carries upwards only, so the best mixed bits are the uppermost ones. */
static __always_inline __u32 address_filter_bit(const struct address *address)
{
	__u32 hash = address->word[0] * ADDRESS_FILTER_FACTOR;

	hash = (hash ^ address->word[1]) * ADDRESS_FILTER_FACTOR;
	hash = (hash ^ address->word[2]) * ADDRESS_FILTER_FACTOR;
	hash = (hash ^ address->word[3]) * ADDRESS_FILTER_FACTOR;
	return hash >> (32 - ADDRESS_FILTER_BITS);
}

static __always_inline int may_be_known(const struct address *address)
{
	__u32 bit = address_filter_bit(address), index = bit / 64;
	const __u64 *word = bpf_map_lookup_elem(&address_filter, &index);

	return word && *word >> bit % 64 & 1;
}

#endif
