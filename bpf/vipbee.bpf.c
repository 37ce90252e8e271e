/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one object: every hook file in one translation unit, so that all programs
 * share one set of maps and one configuration without a linking step.
 */
#include "sock.bpf.c"
#include "iter.bpf.c"
#include "tc.bpf.c"
#include "sweep.bpf.c"

/* Enums reach BTF only through something that has their type; tests compare abi.py. */
struct abi_enums {
	enum frontend_kind frontend_kind;
	enum frontend_flag frontend_flag;
	enum address_flag address_flag;
	enum backend_flag backend_flag;
	enum reason reason;
	enum socket_flow_flag socket_flow_flag;
	enum udp_flow_direction udp_flow_direction;
	enum affinity_client affinity_client;
	enum report_severity report_severity;
	enum device_flag device_flag;
	enum conntrack_flag conntrack_flag;
	enum conntrack_seen conntrack_seen;
	enum sweep_outcome sweep_outcome;
};

/* Never called, so never loaded: it only keeps the types that no map mentions. */
int vipbee_abi_types(const struct abi_enums *enums, const struct stale_socket *printed)
{
	return enums && printed;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
