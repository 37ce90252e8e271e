/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Additions that no other CPU's gets lost in. Relaxed and without a result, because that is
 * the one form that every clang turns into the instruction all kernels have: of
 * __sync_fetch_and_add(), clang 21 and newer make a fetch-and-add, which 5.10 refuses
 * ("BPF_STX uses reserved fields").
 */
#ifndef VIPBEE_ATOMIC_H
#define VIPBEE_ATOMIC_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

static __always_inline void atomic_add64(__u64 *counter, __u64 value)
{
	__atomic_fetch_add(counter, value, __ATOMIC_RELAXED);
}

/* In program order with the reads and writes around it, as far as the compiler goes. */
static __always_inline void atomic_add32(__u32 *word, __u32 value)
{
	barrier();
	__atomic_fetch_add(word, value, __ATOMIC_RELAXED);
	barrier();
}

#endif
