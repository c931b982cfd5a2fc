"""What a computation takes is counted, and what a host has is read from where Linux says it."""

import pytest
import torch

from certtrain.certifiers.memory import ACCELERATOR_SHARE, HOST_SHARE, Peak, budget, host_memory

KIB, MIB = 2**10, 2**20


def test_the_peak_is_that_of_the_tensors_that_live_at_once():
    with Peak() as peak:
        a = torch.ones(MIB // 4)
        b = a * 2  # two
        del a
        c = b.view(2, -1).t() + 1  # two again: a view takes nothing
        del b
        c.add_(1)
        torch.exp(c, out=c)
        last = c[0]
        del c
        first, second = torch.ones(2, KIB).chunk(2)
    assert peak.most == 2 * MIB
    assert peak.now == MIB + 8 * KIB  # what a view keeps lives
    del last
    assert peak.now == 8 * KIB
    del first, second
    assert peak.now == 0


def test_the_peak_includes_gradients():
    x = torch.ones(KIB, requires_grad=True)
    with Peak() as peak:
        x.sin().sin().sum().backward()
    assert peak.most >= 3 * 4 * KIB


def host(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  99 kB\nMemFree:  1 kB\nMemAvailable:  64 kB\n"}
STAT = "anon 5\ninactive_file 1000\n"


def test_a_host_without_limits(tmp_path):
    root = host(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/user\n", "sys/fs/cgroup/user/memory.max": "max\n"})
    assert host_memory(root) == 64 * KIB
    assert budget(torch.device("cpu"), root) == HOST_SHARE * 64 * KIB


@pytest.mark.parametrize("place", ["", "job/", "job/step/"])
def test_the_tightest_control_group_around_the_process_counts_and_files_give_way(tmp_path, place):
    group = f"sys/fs/cgroup/{place}memory"
    files = {f"{group}.max": "30000\n", f"{group}.current": "20000\n", f"{group}.stat": STAT}
    root = host(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/job/step\n", **files})
    assert host_memory(root) == 11_000


def test_control_groups_of_the_first_version(tmp_path):
    group = "sys/fs/cgroup/memory/job/memory"
    files = {f"{group}.limit_in_bytes": "30000\n", f"{group}.usage_in_bytes": "20000\n"}
    files[f"{group}.stat"] = "total_inactive_file 500\n"
    cgroup = "9:name=systemd:/\n4:cpu,memory:/job\n0::/\n"
    assert host_memory(host(tmp_path, {**MEMINFO, "proc/self/cgroup": cgroup, **files})) == 10_500


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path):
    files = {"sys/fs/cgroup/memory.max": "10\n", "sys/fs/cgroup/memory.current": "20\n"}
    assert host_memory(host(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/\n", **files})) == 0


def test_another_system_says_nothing(tmp_path):
    assert host_memory(tmp_path) is None
    assert budget(torch.device("cpu"), tmp_path) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_has_a_share_of_its_own_memory():
    device = torch.device("cuda")
    assert 0 < budget(device) <= ACCELERATOR_SHARE * torch.cuda.mem_get_info(device)[1]
