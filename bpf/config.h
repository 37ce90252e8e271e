/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Configuration: set by the loader before load, constant afterwards, so that the
 * verifier removes the branches that do not apply. No #ifdef anywhere else.
 */
#ifndef VIPBEE_CONFIG_H
#define VIPBEE_CONFIG_H

#include "abi.h"

const volatile struct config config = {};

#endif
