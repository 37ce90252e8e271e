/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The two halves of a connection, kept together: how it grows from the zone of unfinished
 * ones into the zone that no flood reaches, how it ends, and how one half is built again from
 * the other when the LRU has evicted it.
 */
#ifndef VIPBEE_CONNTRACK_HALVES_H
#define VIPBEE_CONNTRACK_HALVES_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "conntrack.h"
#include "count.h"
#include "maps.h"

/* Both halves of what has this tuple now; the reverse one only if it is its own. */
static __noinline int forget(enum zone zone, const struct flow_tuple *original)
{
	struct flow_tuple reply;
	struct conntrack *ct;
	struct nat *nat;
	int established;

	ct = find_conntrack(zone, original, &established);
	if (!ct)
		return 0;
	reply_of(ct, original->protocol, &reply);
	bpf_map_delete_elem(conntrack_map(zone, 1), original);
	bpf_map_delete_elem(conntrack_map(zone, 0), original);
	nat = find_nat(zone, &reply, &established);
	if (nat && same_tuple(&nat->original, original)) {
		bpf_map_delete_elem(nat_map(zone, 1), &reply);
		bpf_map_delete_elem(nat_map(zone, 0), &reply);
	}
	return 0;
}

/*
 * Move a confirmed connection to the zone that nothing evicts from. Inserted there before
 * it is deleted here, so a packet on another CPU finds it at every moment.
 */
static __noinline int promote(enum zone zone, const struct flow_tuple *original)
{
	struct conntrack *found = bpf_map_lookup_elem(conntrack_map(zone, 0), original);
	struct flow_tuple reply;
	struct nat nat;

	if (!found)
		return 0;
	reply_of(found, original->protocol, &reply);
	fill_nat(&nat, original, found);
	if (bpf_map_update_elem(nat_map(zone, 1), &reply, &nat, BPF_NOEXIST))
		goto full;
	if (bpf_map_update_elem(conntrack_map(zone, 1), original, found, BPF_NOEXIST)) {
		bpf_map_delete_elem(nat_map(zone, 1), &reply);
		goto full;
	}
	if (original->protocol == IPPROTO_TCP)
		count_opened(nat.service_id, nat.backend_id);
	bpf_map_delete_elem(conntrack_map(zone, 0), original);
	bpf_map_delete_elem(nat_map(zone, 0), &reply);
	return 0;
full:
	count_reason(REASON_ESTABLISHED_FULL);
	return 0;
}

/*
 * Once a second of the client's packets: is the reverse half still there, and ours? LRU
 * eviction can take either half alone. Returns 0 if another connection owns the reply
 * tuple by now: this one is over.
 */
static __noinline int keep_reverse(enum zone zone, const struct flow_tuple *original,
				   const struct conntrack *ct, int established)
{
	struct flow_tuple reply;
	struct nat fresh, *nat;
	int found;

	reply_of(ct, original->protocol, &reply);
	nat = find_nat(zone, &reply, &found);
	if (nat) {
		if (!same_tuple(&nat->original, original))
			return 0;
		nat->last_seen = ct->last_seen;
		return 1;
	}
	fill_nat(&fresh, original, ct);
	bpf_map_update_elem(nat_map(zone, established), &reply, &fresh, BPF_NOEXIST);
	count_reason(REASON_TWIN_REPAIRED);
	return 1;
}

/* The forward half was evicted, the reverse half has all that is needed to build it again. */
static __noinline int restore_forward(enum zone zone, const struct flow_tuple *reply,
				      const struct nat *nat, int established)
{
	struct flow_tuple original = nat->original;
	struct conntrack ct = {};

	ct.backend = reply->source;
	ct.source = reply->destination;
	ct.backend_port = reply->source_port;
	ct.source_port = reply->destination_port;
	ct.service_id = nat->service_id;
	ct.backend_id = nat->backend_id;
	ct.generation = nat->generation;
	ct.last_seen = now_s();
	ct.flags = nat->flags;
	ct.backend_seen = SEEN_PACKET | SEEN_SYN; /* it speaks, so it has agreed */
	if (established)
		ct.client_seen = SEEN_PACKET | SEEN_SYN;
	bpf_map_update_elem(conntrack_map(zone, established), &original, &ct, BPF_NOEXIST);
	count_reason(REASON_TWIN_REPAIRED);
	return 0;
}

/*
 * The tuple turns out to be that of a connection that bypasses us: it keeps it, and
 * claim_port() gives the next one through a VIP another port. Written where connections
 * begin, so it is evicted and reclaimed like one that nobody confirmed.
 */
static __noinline int leave_to_direct(enum zone zone, const struct flow_tuple *reply,
				      const struct nat *found)
{
	struct flow_tuple original = found->original;
	struct nat direct = {
		.original = {
			.source = reply->destination,
			.destination = reply->source,
			.source_port = reply->destination_port,
			.destination_port = reply->source_port,
			.protocol = reply->protocol,
		},
		.last_seen = now_s(),
		.flags = CONNTRACK_DIRECT,
	};

	forget(zone, &original);
	bpf_map_update_elem(nat_map(zone, 0), reply, &direct, BPF_NOEXIST);
	return 0;
}

#endif
