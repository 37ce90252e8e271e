/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every iterator program gets; the members that are read, CO-RE finds their offsets. */
#ifndef VIPBEE_ITER_H
#define VIPBEE_ITER_H

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

#endif
