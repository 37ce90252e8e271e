/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counters. Plain adds for per-CPU reasons; atomic adds without a result for the
 * shared arrays (the one form of atomic that 5.10 knows; see clang's XADD).
 */
#ifndef VIPBEE_COUNT_H
#define VIPBEE_COUNT_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "atomic.h"
#include "maps.h"

static __always_inline void count_reason(enum reason reason)
{
	__u32 key = reason;
	__u64 *counter = bpf_map_lookup_elem(&reasons, &key);

	if (counter)
		(*counter)++;
}

static __always_inline struct service_counters *counters_of_service(__u32 service_id)
{
	return bpf_map_lookup_elem(&service_counters, &service_id);
}

static __always_inline void count_opened(__u32 service_id, __u32 backend_id)
{
	struct service_counters *service = counters_of_service(service_id);
	struct backend_counters *backend = bpf_map_lookup_elem(&backend_counters, &backend_id);

	if (service)
		atomic_add64(&service->opened, 1);
	if (backend)
		atomic_add64(&backend->opened, 1);
}

static __always_inline void count_closed(__u32 service_id, __u32 backend_id, __u32 generation)
{
	struct service_counters *service = counters_of_service(service_id);
	struct backend *backend = bpf_map_lookup_elem(&backends, &backend_id);

	if (service)
		atomic_add64(&service->closed, 1);
	/* the id may belong to another backend by now, whose connections these are not */
	if (backend && backend->generation == generation) {
		struct backend_counters *counters =
			bpf_map_lookup_elem(&backend_counters, &backend_id);

		if (counters)
			atomic_add64(&counters->closed, 1);
	}
}

#endif
