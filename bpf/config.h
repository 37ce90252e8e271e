/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Configuration: set by the loader before load, constant afterwards, so that the
 * verifier removes the branches that do not apply. No #ifdef anywhere else.
 */
#ifndef VIPBEE_CONFIG_H
#define VIPBEE_CONFIG_H

#include "abi.h"

const volatile struct config config = {
	.node_port_first = 30000,
	.node_port_last = 32767,
	.snat_port_first = 32768,
	.snat_port_last = 65535,
	.lifetime_established_s = 7440,
	.lifetime_transitory_s = 240,
	.lifetime_reset_s = 10,
	.lifetime_udp_s = 120,
	.lifetime_fragment_s = 30,
	.refusals_per_second = 1000,
};

#endif
