/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Choosing a backend: a uniformly random slot of the frontend's run (R33), or the
 * one session affinity remembers (R61-R66).
 *
 * A reader may race with the agent: the frontend value it holds can be replaced, the
 * run and the backend ids given to another Service. Every backend names its Service,
 * so a mismatch is noticed here and the caller looks the frontend up again; no grace
 * period has to be right for correctness.
 */
#ifndef VIPBEE_BACKEND_H
#define VIPBEE_BACKEND_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "atomic.h"
#include "count.h"
#include "maps.h"

/* One chosen backend, copied out of the map. */
struct choice {
	struct address address;
	__be16 port;
	__u32 backend_id;
	__u32 generation;
};

static __always_inline const struct backend *find_backend(__u32 id, __u32 service_id, __u8 flags)
{
	const struct backend *backend = bpf_map_lookup_elem(&backends, &id);

	if (!backend || backend->service_id != service_id || (backend->flags & flags) != flags ||
	    !backend->flags)
		return NULL;
	return backend;
}

static __always_inline void copy_backend(const struct backend *backend, __u32 id,
					 struct choice *out)
{
	out->address = backend->address;
	out->port = backend->port;
	out->backend_id = id;
	out->generation = backend->generation;
}

/* Copy backend `id` if it is `service_id`'s and has all of `flags`; else `out` stays as it is. */
static __always_inline int take_backend(__u32 id, __u32 service_id, __u8 flags, struct choice *out)
{
	const struct backend *backend = find_backend(id, service_id, flags);

	if (!backend)
		return 0;
	copy_backend(backend, id, out);
	return 1;
}

/* The same, if the id was not given up since `generation` was noted. */
static __always_inline int take_known_backend(__u32 id, __u32 generation, __u32 service_id,
					      __u8 flags, struct choice *out)
{
	const struct backend *backend = find_backend(id, service_id, flags);

	if (!backend || backend->generation != generation)
		return 0;
	copy_backend(backend, id, out);
	return 1;
}

static __always_inline int pick_random(struct slot_range range, __u32 service_id,
				       struct choice *out)
{
	/* multiply-shift instead of modulo: as uniform for counts far below 2^32, no division */
	__u32 index = range.first + (__u32)(((__u64)bpf_get_prandom_u32() * range.count) >> 32);
	const __u32 *id = bpf_map_lookup_elem(&slots, &index);

	return id && take_backend(*id, service_id, 0, out);
}

/*
 * Sliding: each use re-arms the timeout (R63). `required` is the set the frontend
 * chooses from, so a backend that left it is not returned (R64, R66).
 */
static __always_inline int pick_remembered(struct affinity *entry, const struct frontend *frontend,
					   __u64 now_ns, __u8 required, struct choice *out)
{
	/* negative if another CPU used it since we read the clock: as fresh as can be */
	__s64 idle_ns = (__s64)(now_ns - entry->last_used_ns);

	if (idle_ns > (__s64)frontend->affinity_timeout_s * 1000000000LL)
		return 0;
	if (!take_known_backend(entry->backend_id, entry->generation, frontend->service_id,
				required, out))
		return 0;
	entry->last_used_ns = now_ns;
	return 1;
}

static __always_inline int pick_with_affinity(const struct affinity_key *key,
					      const struct frontend *frontend,
					      struct slot_range range, __u8 required,
					      struct choice *out)
{
	struct affinity *entry = bpf_map_lookup_elem(&affinity, key);
	__u64 now_ns = bpf_ktime_get_ns();
	struct affinity fresh = {};

	if (entry && pick_remembered(entry, frontend, now_ns, required, out)) {
		struct service_counters *counters = counters_of_service(frontend->service_id);

		if (counters)
			atomic_add64(&counters->affinity_hits, 1);
		return 1;
	}
	if (!pick_random(range, frontend->service_id, out))
		return 0;
	fresh.last_used_ns = now_ns;
	fresh.backend_id = out->backend_id;
	fresh.generation = out->generation;
	if (entry) {
		/* Through the pointer: update_elem on an existing key of a full LRU evicts others. */
		*entry = fresh;
		return 1;
	}
	if (!bpf_map_update_elem(&affinity, key, &fresh, BPF_NOEXIST))
		return 1;
	/* Another CPU was first (then follow it) or the map has no memory (then do without). */
	entry = bpf_map_lookup_elem(&affinity, key);
	if (entry)
		pick_remembered(entry, frontend, now_ns, required, out);
	return 1;
}

#endif
