/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connected UDP sockets whose backend no longer serves. connect(2) chose for good, so
 * only releasing the socket makes the application choose again (R111-R113).
 *
 * vipbee_stale walks our socket storage, which spans all network namespaces, and
 * prints where such sockets are. vipbee_release then runs inside each namespace named
 * there, because the kernel's UDP iterator sees one namespace and holds the socket
 * lock that bpf_sock_destroy() (6.5) needs. Included by vipbee.bpf.c.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "iter.h"
#include "maps.h"

#define CONNECTED 1 /* TCP_ESTABLISHED, which connected UDP sockets have as well */
#define AF_INET 2
#define AF_INET6 10

/* The members of kernel structs that are read here; CO-RE finds their offsets. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr___vipbee {
	__be32 word[4];
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	int skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr___vipbee skc_v6_daddr;
	struct in6_addr___vipbee skc_v6_rcv_saddr;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
} __attribute__((preserve_access_index));

struct udp_sock;

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
} __attribute__((preserve_access_index));

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
} __attribute__((preserve_access_index));

extern int bpf_sock_destroy(struct sock_common *sk) __attribute__((weak))
__attribute__((section(".ksyms")));

static __always_inline int is_stale(const struct socket_flow *flow)
{
	__u32 id = flow->backend_id;
	const struct backend *backend;

	if (!flow->service_id || flow->protocol != IPPROTO_UDP || !(flow->flags & FLOW_CONNECTED))
		return 0;
	backend = bpf_map_lookup_elem(&backends, &id);
	return !backend || backend->service_id != flow->service_id ||
	       backend->generation != flow->generation || !(backend->flags & BACKEND_SERVING);
}

SEC("iter/bpf_sk_storage_map")
int vipbee_stale(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	const struct socket_flow *flow = ctx->value;
	struct stale_socket found = {};
	struct sock *sk = ctx->sk;
	struct net *net;

	/* disconnected by the application, or by an earlier release */
	if (!flow || !sk || sk->__sk_common.skc_state != CONNECTED || !is_stale(flow))
		return 0;
	net = sk->__sk_common.skc_net.net;
	found.netns_inode = net->ns.inum;
	found.ifindex = sk->__sk_common.skc_bound_dev_if;
	found.family = (__u8)sk->__sk_common.skc_family;
	found.protocol = IPPROTO_UDP;
	found.local_port = bpf_htons(sk->__sk_common.skc_num);
	found.remote_port = sk->__sk_common.skc_dport;
	if (found.family == AF_INET) {
		found.local_address = address_from_v4(sk->__sk_common.skc_rcv_saddr);
		found.remote_address = address_from_v4(sk->__sk_common.skc_daddr);
	} else {
		bpf_core_read(&found.local_address, sizeof(found.local_address),
			      &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(&found.remote_address, sizeof(found.remote_address),
			      &sk->__sk_common.skc_v6_daddr);
	}
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
	return 0;
}

SEC("iter/udp")
int vipbee_release(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;
	struct socket_flow *flow;
	__u32 one = 1;

	if (!udp || !bpf_sock_destroy || ((struct sock *)udp)->__sk_common.skc_state != CONNECTED)
		return 0;
	flow = bpf_sk_storage_get(&socket_flows, (void *)udp, NULL, 0);
	if (!flow || !is_stale(flow))
		return 0;
	if (!bpf_sock_destroy((struct sock_common *)udp))
		bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}
