# SPDX-License-Identifier: Apache-2.0
"""The few functions of the system's libbpf.so.1 (>= 1.1) that vipbee needs, typed.

libbpf opens, relocates and loads the object and reads its BTF. Links, pins, map
access and test runs go through bpf(2) directly (`syscall.py`): libbpf would add
nothing there, and its newer calls are missing from Debian 12's 1.1.2.
"""

from __future__ import annotations

import ctypes as c
from functools import cache

from vipbee.errors import EnvironmentUnusable

_PRINT = c.CFUNCTYPE(c.c_int, c.c_int, c.c_char_p, c.c_void_p)

# name: (result, arguments)
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "bpf_object__open_file": (c.c_void_p, [c.c_char_p, c.c_void_p]),
    "bpf_object__load": (c.c_int, [c.c_void_p]),
    "bpf_object__close": (None, [c.c_void_p]),
    "bpf_object__btf": (c.c_void_p, [c.c_void_p]),
    "bpf_object__btf_fd": (c.c_int, [c.c_void_p]),
    "bpf_object__next_map": (c.c_void_p, [c.c_void_p, c.c_void_p]),
    "bpf_object__next_program": (c.c_void_p, [c.c_void_p, c.c_void_p]),
    "bpf_map__name": (c.c_char_p, [c.c_void_p]),
    "bpf_map__fd": (c.c_int, [c.c_void_p]),
    "bpf_map__initial_value": (c.c_void_p, [c.c_void_p, c.POINTER(c.c_size_t)]),
    "bpf_map__set_max_entries": (c.c_int, [c.c_void_p, c.c_uint32]),
    "bpf_map__max_entries": (c.c_uint32, [c.c_void_p]),
    "bpf_map__type": (c.c_int, [c.c_void_p]),
    "bpf_map__key_size": (c.c_uint32, [c.c_void_p]),
    "bpf_map__value_size": (c.c_uint32, [c.c_void_p]),
    "bpf_map__map_flags": (c.c_uint32, [c.c_void_p]),
    "bpf_map__reuse_fd": (c.c_int, [c.c_void_p, c.c_int]),
    "bpf_map__set_autocreate": (c.c_int, [c.c_void_p, c.c_bool]),
    "bpf_program__name": (c.c_char_p, [c.c_void_p]),
    "bpf_program__fd": (c.c_int, [c.c_void_p]),
    "bpf_program__set_autoload": (c.c_int, [c.c_void_p, c.c_bool]),
    "bpf_program__set_log_buf": (c.c_int, [c.c_void_p, c.c_void_p, c.c_size_t]),
    "bpf_program__set_log_level": (c.c_int, [c.c_void_p, c.c_uint32]),
    "btf__parse": (c.c_void_p, [c.c_char_p, c.c_void_p]),
    "btf__free": (None, [c.c_void_p]),
    "btf__type_cnt": (c.c_uint32, [c.c_void_p]),
    "btf__type_by_id": (c.c_void_p, [c.c_void_p, c.c_uint32]),
    "btf__name_by_offset": (c.c_char_p, [c.c_void_p, c.c_uint32]),
    "libbpf_num_possible_cpus": (c.c_int, []),
}


class Libbpf:
    """The library, with argument types set. `log` holds what libbpf printed as warnings."""

    def __init__(self, dll: c.CDLL) -> None:
        self.log: list[str] = []
        self._dll = dll
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(dll, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        # va_list travels as a pointer on x86-64 and aarch64, so vsnprintf can read it
        self._vsnprintf = c.CDLL(None).vsnprintf
        self._vsnprintf.argtypes = [c.c_void_p, c.c_size_t, c.c_char_p, c.c_void_p]
        self._callback = _PRINT(self._on_print)
        dll.libbpf_set_print.argtypes = [c.c_void_p]
        dll.libbpf_set_print(c.cast(self._callback, c.c_void_p))

    def _on_print(self, level: int, template: bytes, arguments: int) -> int:
        if level == 0:  # LIBBPF_WARN
            buffer = c.create_string_buffer(65536)
            self._vsnprintf(buffer, len(buffer), template, arguments)
            self.log.append(buffer.value.decode(errors="replace"))
        return 0

    def __getattr__(self, name: str) -> c._NamedFuncPointer:
        # only reached for names not in _SIGNATURES: an untyped call would truncate pointers
        raise AttributeError(f"{name} is not declared in libbpf.py")


@cache
def libbpf() -> Libbpf:
    """Return the system's libbpf; raise EnvironmentUnusable if it is missing or too old."""
    try:
        return Libbpf(c.CDLL("libbpf.so.1", use_errno=True))
    except (OSError, AttributeError) as error:
        raise EnvironmentUnusable(
            f"libbpf 1.1 or newer cannot be used ({error})",
            remedy="install it, on Debian and Ubuntu with `apt install libbpf1`",
        ) from error
