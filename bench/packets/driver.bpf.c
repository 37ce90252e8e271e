/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Makes one packet into many: BPF_PROG_TEST_RUN repeats a program on the packet that the
 * run before left translated. This one writes the packet anew, as the next flow's if so
 * wanted, and goes on to the program under test by tail call.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define WORDS 10
#define SOURCE 26 /* IPv4 without options behind Ethernet */
#define DESTINATION 30
#define PORTS 34

/* See bench/packets/driver.py. Checksums stay as they are: the programs do not look. */
struct drive {
	__u64 frame[WORDS]; /* the first 80 bytes */
	__u32 next; /* flow of the next packet */
	__u32 flows; /* 0: always the packet as it is */
	__u32 random; /* any flow, not the next one */
	__u32 stride; /* from one flow to the next */
	__u32 client; /* address of flow 0; host order, like all numbers here */
	__u32 client_shift; /* so many bits of flows share a client's address */
	__u32 port; /* source port of flow 0 */
	__u32 port_mask;
	__u32 server;
	__u32 servers; /* flow i goes to server + i % servers */
	__u32 is_reply; /* from server to client */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct drive);
} drives SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} program SEC(".maps");

SEC("tc")
int drive(struct __sk_buff *ctx)
{
	__u32 zero = 0, flow, client, server;
	struct drive *d = bpf_map_lookup_elem(&drives, &zero);
	void *data = (void *)(long)ctx->data;
	__u8 *frame = data;
	__u64 *words = data;
	int i;

	if (!d || data + WORDS * sizeof(__u64) > (void *)(long)ctx->data_end)
		return TC_ACT_SHOT;
#pragma unroll
	for (i = 0; i < WORDS; i++)
		words[i] = d->frame[i];
	if (d->flows) {
		flow = d->random ? (__u32)(((__u64)bpf_get_prandom_u32() * d->flows) >> 32)
				 : (__u32)(((__u64)d->next++ * d->stride) % d->flows);
		client = bpf_htonl(d->client + (flow >> (d->client_shift & 31)));
		server = bpf_htonl(d->server + flow % d->servers);
		*(__be32 *)(frame + SOURCE) = d->is_reply ? server : client;
		*(__be32 *)(frame + DESTINATION) = d->is_reply ? client : server;
		*(__be16 *)(frame + PORTS + (d->is_reply ? 2 : 0)) =
			bpf_htons(d->port + (flow & d->port_mask));
	}
	bpf_tail_call(ctx, &program, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int noop(struct __sk_buff *ctx)
{
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
