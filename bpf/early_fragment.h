/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Later fragments that come before their first one (D23, RFC 4787 REQ-14). A tc hook cannot
 * keep a packet, but its bytes: the first one, when it is translated, puts one of them into a
 * clone of itself and back in front of this device's hook. That one, known by then, does the
 * same for the next. Sending the packet itself round until the first one is there does not
 * do: the softirq would go on with it before it takes the next from the wire.
 *
 * A datagram's fragments lie in places that follow each other, from a hash of it on. Whoever
 * comes later takes the place: nothing is evicted or searched, a flood costs the copies, and
 * what was there is lost, as it would be without this. So is what two CPUs put into one place
 * at a time: to the receiver's checksum it is a broken packet.
 */
#ifndef VIPBEE_EARLY_FRAGMENT_H
#define VIPBEE_EARLY_FRAGMENT_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "config.h"
#include "conntrack.h"
#include "ctx_tc.h"
#include "fragment.h"
#include "maps.h"
#include "packet.h"

#define MAX_EARLY 64 /* of one datagram: 64 KiB in fragments of 1,280 bytes are 53 */

static __always_inline __u32 place_of(const struct fragment_key *datagram)
{
	__u32 hash = datagram->id * ADDRESS_FILTER_FACTOR;

	hash = (hash ^ datagram->source.word[3]) * ADDRESS_FILTER_FACTOR;
	hash = (hash ^ datagram->destination.word[3]) * ADDRESS_FILTER_FACTOR;
	return hash >> (32 - EARLY_FRAGMENT_BITS);
}

static __always_inline struct early_fragment *early_at(__u32 place)
{
	__u32 index = place & ((1 << EARLY_FRAGMENT_BITS) - 1);

	return bpf_map_lookup_elem(&early_fragments, &index);
}

static __always_inline int is_early_of(const struct early_fragment *early,
				       const struct fragment_key *datagram)
{
	return early->length && early->datagram.id == datagram->id &&
	       early->datagram.protocol == datagram->protocol &&
	       same_address(&early->datagram.source, &datagram->source) &&
	       same_address(&early->datagram.destination, &datagram->destination) &&
	       (__s32)(now_s() - early->last_seen) <= (__s32)config.lifetime_fragment_s;
}

/* `length`, which is 1 to EARLY_FRAGMENT_BYTES: as_length() in icmp.h says why. */
static __always_inline __u32 as_early_length(__u32 length)
{
	asm volatile("" : "+r"(length));
	return ((length - 1) & (EARLY_FRAGMENT_BYTES - 1)) + 1;
}

static __always_inline int take_bytes(struct __sk_buff *ctx, const struct packet *p,
				      struct early_fragment *to)
{
	__u32 length = bytes_after(ctx, p->l2);

	to->length = 0;
	if (!length || length > EARLY_FRAGMENT_BYTES)
		return -1;
	if (load_bytes(ctx, p->l2, to->bytes, as_early_length(length)))
		return -1;
	to->length = length;
	return 0;
}

/* In place of what the packet was. */
static __always_inline int put_bytes(struct __sk_buff *ctx, const struct packet *p,
				     const struct early_fragment *from)
{
	__u32 length = from->length;

	if (!length || length > EARLY_FRAGMENT_BYTES)
		return -1;
	if (bpf_skb_change_tail(ctx, p->l2 + length, 0))
		return -1;
	return bpf_skb_store_bytes(ctx, p->l2, from->bytes, as_early_length(length),
				   BPF_F_RECOMPUTE_CSUM);
}

/* Returns whether its bytes are kept for when the first one comes. */
static __noinline int hold_early(struct __sk_buff *ctx, const struct packet *p)
{
	struct fragment_key datagram = fragment_key(p);
	__u32 place = place_of(&datagram), further = 0;
	struct early_fragment *start = early_at(place), *early;

	if (!start)
		return 0;
	if (is_early_of(start, &datagram))
		further = start->further + 1;
	early = early_at(place + further);
	if (!early || further >= MAX_EARLY || take_bytes(ctx, p, early))
		return 0;
	early->datagram = datagram;
	early->last_seen = now_s();
	early->further = 0;
	if (further)
		start->further = further;
	return 1;
}

/*
 * One of those that wait for this packet's first one, or for this one itself, goes on. Not 0:
 * the packet is lost.
 */
static __noinline int release_early(struct __sk_buff *ctx, const struct packet *p)
{
	struct fragment_key datagram = fragment_key(p);
	__u32 place = place_of(&datagram), key = 0;
	struct early_fragment *start = early_at(place), *early, *own;

	if (!start || !is_early_of(start, &datagram))
		return 0;
	early = early_at(place + start->further);
	own = bpf_map_lookup_elem(&fragment_drafts, &key);
	if (!own || !early || take_bytes(ctx, p, own))
		return 0;
	if (is_early_of(early, &datagram) && !put_bytes(ctx, p, early) &&
	    is_early_of(early, &datagram)) /* still: nobody wrote to it meanwhile */
		bpf_clone_redirect(ctx, ctx->ifindex, BPF_F_INGRESS);
	early->length = 0;
	if (start->further)
		start->further--;
	return put_bytes(ctx, p, own);
}

#endif
