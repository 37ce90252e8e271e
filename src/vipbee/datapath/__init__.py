# SPDX-License-Identifier: Apache-2.0
"""Making it true: loading programs, attaching them, reading and writing maps.

Knows the kernel and nothing else: no Kubernetes objects, no files with Services,
no decisions about who serves whom (that is `core`).
"""
