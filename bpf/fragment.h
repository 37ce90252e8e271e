/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Later fragments have no ports. The first one of a packet that is ours leaves them here; for
 * one that comes before it see early_fragment.h.
 */
#ifndef VIPBEE_FRAGMENT_H
#define VIPBEE_FRAGMENT_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "config.h"
#include "conntrack.h"
#include "maps.h"
#include "packet.h"

static __always_inline struct fragment_key fragment_key(const struct packet *p)
{
	return (struct fragment_key){
		.source = p->tuple.source,
		.destination = p->tuple.destination,
		.id = p->fragment_id,
		.protocol = p->tuple.protocol,
	};
}

/* A reused id means another datagram: its ports replace the old ones (D26). */
static __noinline int remember_fragment(const struct packet *p)
{
	struct fragment_key key = fragment_key(p);
	struct fragment *known = bpf_map_lookup_elem(&fragments, &key);
	struct fragment fresh = {
		.source_port = p->tuple.source_port,
		.destination_port = p->tuple.destination_port,
		.last_seen = now_s(),
	};

	if (known)
		*known = fresh;
	else
		bpf_map_update_elem(&fragments, &key, &fresh, BPF_NOEXIST);
	return 0;
}

/* Give a later fragment the ports of its first one; 0: not known. */
static __noinline int recall_fragment(struct packet *p)
{
	struct fragment_key key = fragment_key(p);
	struct fragment *known = bpf_map_lookup_elem(&fragments, &key);

	if (!known || (__s32)(now_s() - known->last_seen) > (__s32)config.lifetime_fragment_s)
		return 0;
	p->tuple.source_port = known->source_port;
	p->tuple.destination_port = known->destination_port;
	return 1;
}

#endif
