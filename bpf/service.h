/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which frontend, if any, is meant by an address, port and protocol. Decides on
 * values only: no context, no counters.
 */
#ifndef VIPBEE_SERVICE_H
#define VIPBEE_SERVICE_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "maps.h"

static __always_inline __u32 current_epoch(void)
{
	__u32 key = 0;
	const __u32 *epoch = bpf_map_lookup_elem(&tables_epoch, &key);

	return epoch ? *epoch : 0;
}

static __always_inline const struct frontend *find_frontend(const struct frontend_key *dialled)
{
	return bpf_map_lookup_elem(&frontends, dialled);
}

/* What we know of an address besides its exact frontends; 0: it is not ours. */
static __always_inline __u32 find_address_flags(const struct address *address)
{
	const __u32 *flags = bpf_map_lookup_elem(&addresses, address);

	return flags ? *flags : 0;
}

/*
 * The NodePort served at this port of any node address. Ask only after an exact miss
 * (R92) and only for addresses marked ADDRESS_NODE (R90).
 */
static __always_inline const struct frontend *find_node_port(const struct frontend_key *dialled)
{
	struct frontend_key any = *dialled;

	any.address = unspecified_like(&dialled->address);
	return bpf_map_lookup_elem(&frontends, &any);
}

#endif
