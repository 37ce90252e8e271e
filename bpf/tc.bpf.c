/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet hooks: clients that no socket hook sees. Included by vipbee.bpf.c.
 *
 *   uplink_in    from outside: translate, or restore the reply of a remote backend
 *   uplink_out   to outside: restore the reply of a local backend
 *   pod_in       from a pod: translate, or restore the reply of a pod to itself
 *   pod_out      to a pod: restore the reply of its backend
 *
 * parse -> decide -> apply -> count. What is not ours leaves with TC_ACT_UNSPEC, which is
 * TCX_NEXT: the programs of others run as if we were not there.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "conntrack.h"
#include "count.h"
#include "ctx_tc.h"
#include "fib.h"
#include "fragment.h"
#include "icmp.h"
#include "maps.h"
#include "packet.h"
#include "refuse.h"
#include "rewrite.h"
#include "service.h"
#include "verdict.h"

/* ---- apply --------------------------------------------------------------------- */

static __always_inline int dropped(enum reason reason)
{
	count_reason(reason);
	return TC_ACT_SHOT;
}

/* `route` is NULL if the packet goes on to the stack. */
static __always_inline int translate(struct __sk_buff *ctx, const struct packet *p, __u32 l2,
				     const struct flow_tuple *to, struct route *route)
{
	int result;

	if (p->fragment == FIRST_FRAGMENT)
		remember_fragment(p);
	if (rewrite(ctx, p, l2, to, !!route))
		return dropped(REASON_REWRITE_FAILED);
	if (!route)
		return TC_ACT_UNSPEC;
	result = send_by(ctx, l2, route);
	return result < 0 ? dropped(REASON_REWRITE_FAILED) : result;
}

/*
 * A copy in memory the verifier does not track: what is rare is verified once, not once
 * for each combination of family, protocol and headers that can lead there.
 */
static __always_inline const struct packet *set_aside(const struct packet *p)
{
	__u32 key = 0;
	struct draft *draft = bpf_map_lookup_elem(&drafts, &key);

	_Static_assert(sizeof(*p) <= sizeof(draft->packet), "struct draft has room");
	if (draft)
		__builtin_memcpy(draft->packet, p, sizeof(*p));
	return draft ? (const struct packet *)draft->packet : NULL;
}

static __always_inline int expired(struct __sk_buff *ctx, const struct packet *p)
{
	p = set_aside(p);
	count_reason(REASON_TTL_EXPIRED);
	if (!p)
		return TC_ACT_SHOT;
	return send_error(ctx, p, ANSWER_TIME_EXCEEDED, 0);
}

static __always_inline int too_big(struct __sk_buff *ctx, const struct packet *p,
				   const struct route *route)
{
	__u32 mtu = route->mtu;
	const struct device *device;

	if (!mtu) { /* kernels before 5.12 do not say */
		device = device_of(route->ifindex);
		mtu = device ? device->mtu : 0;
	}
	count_reason(REASON_TOO_BIG);
	p = set_aside(p);
	return mtu && p ? send_error(ctx, p, ANSWER_TOO_BIG, mtu) : TC_ACT_SHOT;
}

/* A packet of a known connection that bypasses the stack. */
static __always_inline int forward(struct __sk_buff *ctx, const struct packet *p, __u32 l2,
				   const struct flow_tuple *to)
{
	struct route route;

	if (p->ttl <= 1)
		return expired(ctx, p);
	switch (find_route(ctx, p, &to->source, &to->destination, &route)) {
	case ROUTE_FOUND:
		return translate(ctx, p, l2, to, &route);
	case ROUTE_TOO_BIG:
		return too_big(ctx, p, &route);
	default:
		return dropped(REASON_NO_ROUTE);
	}
}

/* ---- client to backend -------------------------------------------------------------- */

/* Returns 0 if there is no connection, or one that this packet ends: then `to` is not set. */
static __always_inline struct conntrack *follow_connection(struct packet *p, enum zone zone,
							   struct flow_tuple *to)
{
	struct conntrack *ct;
	__u32 now = now_s();
	int established;

	ct = find_conntrack(zone, &p->tuple, &established);
	if (!ct)
		return NULL;
	to->source = ct->source;
	to->destination = ct->backend;
	to->source_port = ct->source_port;
	to->destination_port = ct->backend_port;
	to->protocol = p->tuple.protocol;
	if (!is_live(ct, p->tuple.protocol, now))
		goto over;
	if (p->tuple.protocol == IPPROTO_TCP && is_clean_syn(p) &&
	    (is_reset(ct) || is_finished(ct)))
		goto over; /* the port is used again (D75) */
	if (!keeps_backend(ct, p)) {
		if (p->tuple.protocol == IPPROTO_TCP && !is_clean_syn(p))
			return NULL; /* too early for the client; the backend may still answer */
		goto over;
	}
	if (ct->last_seen != now) {
		ct->last_seen = now;
		if (!keep_reverse(zone, &p->tuple, ct, established))
			goto over;
	}
	if (note_client(ct, p, established) && !established)
		promote(zone, &p->tuple);
	return ct;
over:
	p->replaces = 1; /* by what open_connection() makes of this packet, if anything */
	return NULL;
}

static __always_inline int from_client(struct __sk_buff *ctx, struct packet *parsed, __u32 l2,
				       enum zone zone)
{
	struct route route = {};
	struct flow_tuple to;
	const struct packet *p = parsed;
	struct conntrack *ct;

	ct = follow_connection(parsed, zone, &to);
	if (ct)
		return ct->flags & CONNTRACK_REDIRECT ? forward(ctx, p, l2, &to)
						      : translate(ctx, p, l2, &to, NULL);
	p = set_aside(p);
	if (!p)
		return dropped(REASON_FLOW_NOT_STORED);
	if (p->fragment == LATER_FRAGMENT)
		return p->address_flags & (ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL) && has_frontend(p)
			       ? dropped(REASON_FRAGMENT_UNKNOWN)
			       : TC_ACT_UNSPEC;
	switch (open_connection(ctx, p, zone, &to, &route)) {
	case VERDICT_TRANSLATE:
		return translate(ctx, p, l2, &to, NULL);
	case VERDICT_REDIRECT:
		return translate(ctx, p, l2, &to, &route);
	case VERDICT_DROP:
		return TC_ACT_SHOT;
	case VERDICT_REFUSE:
		return refuse(ctx, p);
	case VERDICT_TOO_BIG:
		return too_big(ctx, p, &route);
	case VERDICT_EXPIRED:
		return expired(ctx, p);
	default:
		/* the later ones must pass as well (R40) */
		if (p->fragment && p->address_flags & ADDRESS_EXTERNAL)
			remember_fragment(p);
		return TC_ACT_UNSPEC;
	}
}

/* ---- backend to client --------------------------------------------------------------- */

/* `redirected`: which kind of connection is restored at this hook. */
static __always_inline int from_backend(struct __sk_buff *ctx, struct packet *p, __u32 l2,
					enum zone zone, int redirected)
{
	struct flow_tuple to;
	struct conntrack *ct;
	struct nat *nat;
	int established, where;
	__u32 now;

	nat = find_nat(zone, &p->tuple, &established);
	if (!nat || !(nat->flags & CONNTRACK_REDIRECT) != !redirected)
		return TC_ACT_UNSPEC;
	to.source = nat->original.destination;
	to.destination = nat->original.source;
	to.source_port = nat->original.destination_port;
	to.destination_port = nat->original.source_port;
	to.protocol = p->tuple.protocol;
	now = now_s();
	ct = find_conntrack(zone, &nat->original, &where);
	if (!ct) {
		restore_forward(zone, &p->tuple, nat, established);
	} else {
		if (!belongs_to(nat, ct) || !is_live(ct, p->tuple.protocol, now))
			return TC_ACT_UNSPEC;
		note_backend(ct, p, where);
		if (ct->last_seen != now)
			ct->last_seen = now;
	}
	return redirected ? forward(ctx, p, l2, &to) : translate(ctx, p, l2, &to, NULL);
}

/* ---- ICMP ------------------------------------------------------------------------------ */

static __always_inline int is_node_address(__u32 flags)
{
	return flags & (ADDRESS_NODE | ADDRESS_SNAT);
}

/* `entering`: coming in by a device, so that what is not known may be dropped. */
static __noinline int icmp_error(struct __sk_buff *ctx, const struct packet *p, enum zone zone,
				 int entering)
{
	struct icmp_translation *to;
	struct icmp_work *work;
	struct route route = {};
	struct draft *draft;
	__u32 key = 0;

	draft = bpf_map_lookup_elem(&drafts, &key);
	if (!draft)
		return TC_ACT_UNSPEC;
	_Static_assert(sizeof(*work) <= sizeof(draft->icmp), "struct draft has room");
	work = (struct icmp_work *)draft->icmp;
	__builtin_memset(work, 0, sizeof(*work));
	to = &work->to;
	if (read_quote(ctx, p, &work->quote)) {
		if (!entering || is_node_address(p->address_flags))
			return TC_ACT_UNSPEC;
		return dropped(REASON_ICMP_MALFORMED);
	}
	if (!find_quoted(p, zone, &work->quote, to, entering)) {
		if (!entering)
			return TC_ACT_UNSPEC;
		if (!is_node_address(p->address_flags))
			return dropped(REASON_ICMP_UNKNOWN);
		count_reason(REASON_ICMP_PASSED); /* about a socket of this node */
		return TC_ACT_UNSPEC;
	}
	if (!to->redirect)
		return rewrite_icmp_error(ctx, p, &work->quote, to, 0)
			       ? dropped(REASON_REWRITE_FAILED)
			       : TC_ACT_UNSPEC;
	if (!entering)
		return TC_ACT_UNSPEC;
	if (p->ttl <= 1)
		return dropped(REASON_TTL_EXPIRED); /* no error about an error */
	if (find_route(ctx, p, &to->source, &to->destination, &route) != ROUTE_FOUND)
		return dropped(REASON_NO_ROUTE);
	if (rewrite_icmp_error(ctx, p, &work->quote, to, 1))
		return dropped(REASON_REWRITE_FAILED);
	return send_by(ctx, p->l2, &route);
}

/* Echo is never delivered to a backend (R39) and never runs in circles (D64). */
static __always_inline int enter_icmp(struct __sk_buff *ctx, const struct packet *p, enum zone zone)
{
	__u32 flags = p->address_flags;

	if (!is_icmp_error(p) && !is_echo_request(p))
		return TC_ACT_UNSPEC;
	p = set_aside(p);
	if (!p)
		return TC_ACT_UNSPEC;
	if (is_icmp_error(p))
		return icmp_error(ctx, p, zone, 1);
	if (flags & ADDRESS_CLUSTER_IP)
		return dropped(REASON_ECHO_IGNORED);
	if (!(flags & ADDRESS_EXTERNAL) || is_node_address(flags) || p->fragment)
		return TC_ACT_UNSPEC;
	if (is_martian_source(&p->tuple))
		return dropped(REASON_MARTIAN);
	count_reason(REASON_ECHO_ANSWERED);
	return answer_echo(ctx, p);
}

/* ---- hooks ----------------------------------------------------------------------------- */

static __always_inline int enter(struct __sk_buff *ctx, enum zone zone, __u32 l2)
{
	struct packet p = {};
	enum parsed parsed;
	__u32 flags;

	parsed = parse_l3(ctx, &p, l2);
	if (parsed == PARSED_OTHER)
		return TC_ACT_UNSPEC;
	if (parsed == PARSED_MALFORMED)
		return dropped(REASON_MALFORMED);
	if (is_loopback(&p.tuple.destination))
		return dropped(REASON_MARTIAN);
	flags = p.address_flags = find_address_flags(&p.tuple.destination);
	if (!flags)
		return TC_ACT_UNSPEC;
	if (parsed == PARSED_TOO_MANY_HEADERS)
		return dropped(REASON_EXTENSION_HEADERS);
	if (p.fragment == OVERLAPPING_FRAGMENT)
		return dropped(REASON_FRAGMENT_TINY);
	if (p.fragment == LATER_FRAGMENT) {
		if (p.tuple.protocol != IPPROTO_TCP && p.tuple.protocol != IPPROTO_UDP)
			return flags & ADDRESS_CLUSTER_IP ? dropped(REASON_PROTOCOL)
							  : TC_ACT_UNSPEC;
		/* on an address of the node it may be the node's own */
		if (!recall_fragment(&p))
			return flags & (ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL)
				       ? dropped(REASON_FRAGMENT_UNKNOWN)
				       : TC_ACT_UNSPEC;
	} else {
		parsed = parse_l4(ctx, &p);
		if (parsed == PARSED_OTHER)
			return flags & ADDRESS_CLUSTER_IP ? dropped(REASON_PROTOCOL)
							  : TC_ACT_UNSPEC;
		if (parsed == PARSED_MALFORMED)
			return dropped(p.fragment ? REASON_FRAGMENT_TINY : REASON_MALFORMED);
		if (parsed == PARSED_ICMP)
			return enter_icmp(ctx, &p, zone);
	}
	if (flags & (ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL) ||
	    is_node_port_number(bpf_ntohs(p.tuple.destination_port)))
		return from_client(ctx, &p, l2, zone);
	if (is_snat_port(bpf_ntohs(p.tuple.destination_port)))
		return from_backend(ctx, &p, l2, zone, 1);
	return TC_ACT_UNSPEC;
}

static __always_inline int leave(struct __sk_buff *ctx, enum zone zone, __u32 l2)
{
	const struct packet *aside;
	struct packet p = {};
	enum parsed parsed;

	if (parse_l3(ctx, &p, l2) != PARSED || p.fragment == OVERLAPPING_FRAGMENT)
		return TC_ACT_UNSPEC;
	if (p.fragment == LATER_FRAGMENT)
		return recall_fragment(&p) ? from_backend(ctx, &p, l2, zone, 0) : TC_ACT_UNSPEC;
	parsed = parse_l4(ctx, &p);
	if (parsed == PARSED_ICMP && is_icmp_error(&p)) {
		aside = set_aside(&p);
		return aside ? icmp_error(ctx, aside, zone, 0) : TC_ACT_UNSPEC;
	}
	return parsed == PARSED ? from_backend(ctx, &p, l2, zone, 0) : TC_ACT_UNSPEC;
}

SEC("tc")
int vipbee_uplink_in(struct __sk_buff *ctx)
{
	return enter(ctx, ZONE_OUTSIDE, ETHERNET_HEADER);
}

SEC("tc")
int vipbee_uplink_out(struct __sk_buff *ctx)
{
	return leave(ctx, ZONE_OUTSIDE, ETHERNET_HEADER);
}

SEC("tc")
int vipbee_pod_in(struct __sk_buff *ctx)
{
	return enter(ctx, ZONE_POD, ETHERNET_HEADER);
}

SEC("tc")
int vipbee_pod_out(struct __sk_buff *ctx)
{
	return leave(ctx, ZONE_POD, ETHERNET_HEADER);
}

SEC("tc")
int vipbee_uplink_in_l3(struct __sk_buff *ctx)
{
	return enter(ctx, ZONE_OUTSIDE, 0);
}

SEC("tc")
int vipbee_uplink_out_l3(struct __sk_buff *ctx)
{
	return leave(ctx, ZONE_OUTSIDE, 0);
}

SEC("tc")
int vipbee_pod_in_l3(struct __sk_buff *ctx)
{
	return enter(ctx, ZONE_POD, 0);
}

SEC("tc")
int vipbee_pod_out_l3(struct __sk_buff *ctx)
{
	return leave(ctx, ZONE_POD, 0);
}
