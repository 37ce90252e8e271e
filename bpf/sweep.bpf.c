/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Removes what is past its lifetime from the tables that evict nothing by themselves; for
 * the datapath it is absent already, so this frees room and decides nothing (F61, F62).
 *
 * Iterators over the elements of one map each. For every element one byte is printed
 * (enum sweep_outcome), so a read() of n bytes is a step of n elements, however many of
 * them go. bpf_for_each_map_elem() would need 5.13, and starts over each time.
 * What is removed while the iterator stands on it may make it skip others of that bucket:
 * the next sweep meets them. vipbee_sweep_* also walk the tables of unfinished connections,
 * if the node's addresses changed: there is no need otherwise, they are LRU.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "config.h"
#include "conntrack.h"
#include "count.h"
#include "iter.h"
#include "maps.h"
#include "service.h"

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
} __attribute__((preserve_access_index));

#define LONGEST_TICK 10000000ULL /* ns, at 100 Hz */

/*
 * Iterators may not read the coarse clock that packets go by; this is never ahead of it, so
 * nothing is removed that a packet would still find alive.
 */
static __always_inline __u32 sweep_now_s(void)
{
	return (__u32)((bpf_ktime_get_ns() - LONGEST_TICK) / NANOSECONDS);
}

/* The node gave up the address: the backend's replies go elsewhere (D113). */
static __always_inline int lost_its_source(const struct conntrack *ct)
{
	return ct->flags & CONNTRACK_REDIRECT && !(find_address_flags(&ct->source) & ADDRESS_SNAT);
}

static __always_inline int is_over(const struct conntrack *ct, __u8 protocol, __u32 now)
{
	return !is_live(ct, protocol, now) || lost_its_source(ct);
}

/*
 * Looked up again by its key: the element under an iterator may have been freed and used
 * anew. Returns enum sweep_outcome.
 */
static __noinline __u8 end_connection(enum zone zone, const struct flow_tuple *original, __u32 now)
{
	struct conntrack *ct;
	__u32 service_id, backend_id, generation;
	__u8 outcome = SWEEP_CONNECTION;
	int established, half, was_open;
	struct flow_tuple reply;
	struct nat *nat;

	ct = find_conntrack(zone, original, &established);
	if (!ct || !is_over(ct, original->protocol, now))
		return 0;
	reply_of(ct, original->protocol, &reply);
	service_id = ct->service_id;
	backend_id = ct->backend_id;
	generation = ct->generation;
	/* the others were counted when they were finished, UDP when it was opened */
	was_open = established && original->protocol == IPPROTO_TCP && !is_reset(ct) &&
		   !is_finished(ct);
	if (bpf_map_delete_elem(conntrack_map(zone, established), original))
		return 0; /* a packet was faster */
	if (was_open)
		count_closed(service_id, backend_id, generation);
	nat = find_nat(zone, &reply, &half);
	/* the tuple may be another connection's by now */
	if (nat && same_tuple(&nat->original, original) &&
	    !bpf_map_delete_elem(nat_map(zone, half), &reply))
		outcome |= SWEEP_REVERSE_HALF;
	return outcome;
}

static __always_inline int half_is_old(const struct nat *nat, __u8 protocol, __u32 now)
{
	__u32 limit =
		protocol == IPPROTO_TCP ? config.lifetime_established_s : config.lifetime_udp_s;

	return (__s32)(now - nat->last_seen) > (__s32)limit;
}

/* A reverse half whose connection is gone although it never was too old here. */
static __noinline __u8 end_orphan(enum zone zone, const struct flow_tuple *reply, __u32 now)
{
	struct nat *nat = bpf_map_lookup_elem(nat_map(zone, 1), reply);
	struct flow_tuple original;
	int established;

	if (!nat || !half_is_old(nat, reply->protocol, now))
		return 0;
	original = nat->original;
	if (find_conntrack(zone, &original, &established))
		return 0; /* only the backend speaks: it refreshes the connection, not this */
	return bpf_map_delete_elem(nat_map(zone, 1), reply) ? 0 : SWEEP_REVERSE_HALF;
}

static __always_inline int sweep_connection(struct bpf_iter__bpf_map_elem *ctx, enum zone zone)
{
	const struct conntrack *ct = ctx->value;
	const struct flow_tuple *key = ctx->key;
	struct flow_tuple original;
	__u8 outcome = 0;
	__u32 now;

	if (!key || !ct)
		return 0; /* after the last one */
	now = sweep_now_s();
	original = *key;
	if (!is_live(ct, original.protocol, now) || ct->flags & CONNTRACK_REDIRECT)
		outcome = end_connection(zone, &original, now);
	bpf_seq_write(ctx->meta->seq, &outcome, sizeof(outcome));
	return 0;
}

static __always_inline int sweep_half(struct bpf_iter__bpf_map_elem *ctx, enum zone zone)
{
	const struct flow_tuple *key = ctx->key;
	const struct nat *nat = ctx->value;
	struct flow_tuple reply;
	__u8 outcome = 0;
	__u32 now;

	if (!key || !nat)
		return 0;
	now = sweep_now_s();
	reply = *key;
	if (half_is_old(nat, reply.protocol, now))
		outcome = end_orphan(zone, &reply, now);
	bpf_seq_write(ctx->meta->seq, &outcome, sizeof(outcome));
	return 0;
}

SEC("iter/bpf_map_elem")
int vipbee_sweep_outside(struct bpf_iter__bpf_map_elem *ctx)
{
	return sweep_connection(ctx, ZONE_OUTSIDE);
}

SEC("iter/bpf_map_elem")
int vipbee_sweep_pod(struct bpf_iter__bpf_map_elem *ctx)
{
	return sweep_connection(ctx, ZONE_POD);
}

SEC("iter/bpf_map_elem")
int vipbee_orphans_outside(struct bpf_iter__bpf_map_elem *ctx)
{
	return sweep_half(ctx, ZONE_OUTSIDE);
}

SEC("iter/bpf_map_elem")
int vipbee_orphans_pod(struct bpf_iter__bpf_map_elem *ctx)
{
	return sweep_half(ctx, ZONE_POD);
}
