/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet hooks: clients that no socket hook sees. Included by vipbee.bpf.c.
 *
 *   uplink_in    from outside: translate, or restore the reply of a remote backend
 *   uplink_out   to outside: restore the reply of a local backend
 *   pod_in       from a pod: translate
 *   pod_out      to a pod: restore the reply of its backend
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

SEC("tc")
int vipbee_uplink_in(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int vipbee_uplink_out(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int vipbee_pod_in(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int vipbee_pod_out(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int vipbee_uplink_in_l3(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int vipbee_uplink_out_l3(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int vipbee_pod_in_l3(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int vipbee_pod_out_l3(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}
