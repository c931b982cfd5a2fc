"""Memory that is freed and allocated again costs page faults before, and none after."""

import platform
import subprocess
import sys

import pytest

from certtrain.system.allocator import keep_freed_memory

FAULTS = """
import ctypes, resource, sys
from certtrain.system.allocator import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else "left")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size = 64 << 20
for repetition in range(6):
    if repetition == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(size))
    libc.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode, **more):
    environment = {"PATH": "/usr/bin:/bin", **more}
    run = [sys.executable, "-c", FAULTS, mode]
    done, count = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout.split()
    return done, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_is_not_mapped_anew():
    assert faults("leave")[1] > 1000
    done, count = faults("keep")
    assert done == "True"
    assert count < 100


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_a_users_own_settings_are_left_alone(name):
    assert keep_freed_memory({name: "1"}) is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory({}) is False
