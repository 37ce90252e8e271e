/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs that do nothing, attached beside the real ones: what bpf_stats_enabled reports
 * for them is the price of looking, to be taken off what it reports for the real ones.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("cgroup/connect4")
int noop_connect4(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/sendmsg4")
int noop_sendmsg4(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/recvmsg4")
int noop_recvmsg4(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/sock_release")
int noop_sock_release(struct bpf_sock *ctx)
{
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
