/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The only file of the packet layer that knows what a packet is made of here: an sk_buff
 * at a tc hook. Everything else sees offsets and values.
 */
#ifndef VIPBEE_CTX_TC_H
#define VIPBEE_CTX_TC_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETHERNET_HEADER 14
#define VLAN_ID_MASK 0x0fff

/*
 * Pointer to `length` bytes at `offset`, both constant; NULL if the packet is shorter.
 * Pulls headers that arrived in fragments into the linear part (D16).
 */
static __always_inline void *header_at(struct __sk_buff *ctx, __u32 offset, __u32 length)
{
	void *data = (void *)(long)ctx->data;

	if (data + offset + length > (void *)(long)ctx->data_end) {
		if (ctx->len < offset + length || bpf_skb_pull_data(ctx, offset + length))
			return NULL;
		data = (void *)(long)ctx->data;
		if (data + offset + length > (void *)(long)ctx->data_end)
			return NULL;
	}
	return data + offset;
}

/* 0 if `length` bytes at `offset` exist and were copied, wherever they are. */
static __always_inline int load_bytes(struct __sk_buff *ctx, __u32 offset, void *to, __u32 length)
{
	return bpf_skb_load_bytes(ctx, offset, to, length);
}

/* Bytes from the network header on, padding included. */
static __always_inline __u32 bytes_after(struct __sk_buff *ctx, __u32 l2)
{
	return ctx->len - l2;
}

/*
 * On a device without link header, as everything of an _l3 program expects. Below 5.14 most
 * tunnels leave the outer headers in front, and tc takes them for a link header.
 */
static __always_inline int begins_with_network_header(struct __sk_buff *ctx)
{
	__u64 first = 0, network = 0;

	return !bpf_skb_load_bytes(ctx, 0, &first, sizeof(first)) &&
	       !bpf_skb_load_bytes_relative(ctx, 0, &network, sizeof(network), BPF_HDR_START_NET) &&
	       first == network;
}

/* Belongs to a VLAN device above this one, which has hooks of its own (D158, D159). */
static __always_inline int is_vlan_tagged(struct __sk_buff *ctx)
{
	return ctx->vlan_present && ctx->vlan_tci & VLAN_ID_MASK;
}

#endif
