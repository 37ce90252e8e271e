/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections: where they are kept, how long, and how their two halves name each other.
 * abi.h says what the entries mean.
 *
 * Entries are written through the pointer a lookup gave: update_elem on a present key of a
 * full LRU evicts others. The two directions write different bytes, so plain stores do.
 */
#ifndef VIPBEE_CONNTRACK_H
#define VIPBEE_CONNTRACK_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "config.h"
#include "maps.h"

#define NANOSECONDS 1000000000ULL

enum zone {
	ZONE_OUTSIDE,
	ZONE_POD,
};

static __always_inline enum zone other_zone(enum zone zone)
{
	return zone == ZONE_POD ? ZONE_OUTSIDE : ZONE_POD;
}

static __always_inline void *conntrack_map(enum zone zone, int established)
{
	if (zone == ZONE_OUTSIDE)
		return established ? (void *)&conntrack_outside : (void *)&conntrack_new_outside;
	return established ? (void *)&conntrack_pod : (void *)&conntrack_new_pod;
}

static __always_inline void *nat_map(enum zone zone, int established)
{
	if (zone == ZONE_OUTSIDE)
		return established ? (void *)&nat_outside : (void *)&nat_new_outside;
	return established ? (void *)&nat_pod : (void *)&nat_new_pod;
}

/* The clock of every lifetime. */
static __always_inline __u32 now_s(void)
{
	if (config.has_coarse_clock)
		return (__u32)(bpf_ktime_get_coarse_ns() / NANOSECONDS);
	return (__u32)(bpf_ktime_get_ns() / NANOSECONDS);
}

static __always_inline int is_reset(const struct conntrack *ct)
{
	return (ct->client_seen | ct->backend_seen) & SEEN_RST;
}

static __always_inline int is_finished(const struct conntrack *ct)
{
	return ct->client_seen & ct->backend_seen & SEEN_FIN;
}

static __always_inline __u32 lifetime(const struct conntrack *ct, __u8 protocol)
{
	if (protocol != IPPROTO_TCP)
		return config.lifetime_udp_s;
	if (is_reset(ct))
		return config.lifetime_reset_s;
	if (is_finished(ct) || !(ct->client_seen & SEEN_PACKET))
		return config.lifetime_transitory_s;
	return config.lifetime_established_s;
}

static __always_inline int is_live(const struct conntrack *ct, __u8 protocol, __u32 now)
{
	/* signed: the other CPU's clock may be a second ahead */
	return (__s32)(now - ct->last_seen) <= (__s32)lifetime(ct, protocol);
}

/* `established` says where it was found. */
static __always_inline struct conntrack *
find_conntrack(enum zone zone, const struct flow_tuple *tuple, int *established)
{
	struct conntrack *ct = bpf_map_lookup_elem(conntrack_map(zone, 1), tuple);

	*established = !!ct;
	return ct ? ct : bpf_map_lookup_elem(conntrack_map(zone, 0), tuple);
}

/*
 * Is it of a client that is met where this packet is? At a hook of its own zone `whose` is 0.
 * Whoever else sends with its addresses does not speak for it.
 */
static __always_inline int is_client_s(const struct conntrack *ct, __u8 whose)
{
	return (ct->flags & (CONNTRACK_NODE_CLIENT | CONNTRACK_CROSSING)) == whose;
}

static __always_inline struct nat *find_nat(enum zone zone, const struct flow_tuple *reply,
					    int *established)
{
	struct nat *nat = bpf_map_lookup_elem(nat_map(zone, 1), reply);

	*established = !!nat;
	return nat ? nat : bpf_map_lookup_elem(nat_map(zone, 0), reply);
}

/* The packet the backend will answer with. */
static __always_inline void reply_of(const struct conntrack *ct, __u8 protocol,
				     struct flow_tuple *reply)
{
	reply->source = ct->backend;
	reply->destination = ct->source;
	reply->source_port = ct->backend_port;
	reply->destination_port = ct->source_port;
	reply->protocol = protocol;
	__builtin_memset(reply->pad, 0, sizeof(reply->pad));
}

static __always_inline void fill_nat(struct nat *nat, const struct flow_tuple *original,
				     const struct conntrack *ct)
{
	nat->original = *original;
	nat->service_id = ct->service_id;
	nat->backend_id = ct->backend_id;
	nat->generation = ct->generation;
	nat->last_seen = ct->last_seen;
	nat->flags = ct->flags;
	__builtin_memset(nat->pad, 0, sizeof(nat->pad));
}

static __always_inline int belongs_to(const struct nat *nat, const struct conntrack *ct)
{
	return nat->backend_id == ct->backend_id && nat->generation == ct->generation;
}

static __always_inline int same_tuple(const struct flow_tuple *a, const struct flow_tuple *b)
{
	return a->source_port == b->source_port && a->destination_port == b->destination_port &&
	       a->protocol == b->protocol && same_address(&a->source, &b->source) &&
	       same_address(&a->destination, &b->destination);
}

#endif
