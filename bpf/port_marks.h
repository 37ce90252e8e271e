/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From which source ports the packets of the node's own sockets have to be looked up: those that
 * a connection which bypasses the stack has, or had (D106). The others pay one read for knowing.
 *
 * A byte for each, so that two CPUs never write the same; 128 KiB. Marks stay: one too many costs
 * a lookup.
 */
#ifndef VIPBEE_PORT_MARKS_H
#define VIPBEE_PORT_MARKS_H

#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"

enum port_mark {
	PORT_GIVEN_OUT = 1, /* look up what may begin a connection: SYNs, datagrams */
	PORT_SHARED = 2, /* a connection of a socket was moved off it: look up every packet */
};

static __always_inline __u8 *mark_of(__u8 protocol, __be16 port_be)
{
	__u32 port = bpf_ntohs(port_be);
	__u32 index = (protocol == IPPROTO_UDP ? PORT_MARKS / 2 : 0) + port / MARKS_PER_WORD;
	struct port_marks *marks = bpf_map_lookup_elem(&port_marks, &index);

	return marks ? &marks->of[port % MARKS_PER_WORD] : NULL;
}

static __always_inline void mark_port(__u8 protocol, __be16 port_be, enum port_mark least)
{
	__u8 *mark = mark_of(protocol, port_be);

	if (mark && *mark < least)
		*mark = least;
}

#endif
