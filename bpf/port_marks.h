/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Source ports from which packets of the node's own sockets have to be looked up: of UDP those
 * that SNAT has given out, of TCP those of connections that were moved to another (D106).
 *
 * A byte for each, so that two CPUs never write the same; 128 KiB, of which the node's packets
 * read one. Marks stay: one too many costs a lookup.
 */
#ifndef VIPBEE_PORT_MARKS_H
#define VIPBEE_PORT_MARKS_H

#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"

static __always_inline __u8 *mark_of(__u8 protocol, __be16 port_be)
{
	__u32 port = bpf_ntohs(port_be);
	__u32 index = (protocol == IPPROTO_UDP ? PORT_MARKS / 2 : 0) + port / MARKS_PER_WORD;
	struct port_marks *marks = bpf_map_lookup_elem(&port_marks, &index);

	return marks ? &marks->of[port % MARKS_PER_WORD] : NULL;
}

static __always_inline int is_marked(__u8 protocol, __be16 port_be)
{
	const __u8 *mark = mark_of(protocol, port_be);

	return mark && *mark;
}

static __always_inline void mark_port(__u8 protocol, __be16 port_be)
{
	__u8 *mark = mark_of(protocol, port_be);

	if (mark && !*mark)
		*mark = 1;
}

#endif
