"""fastnn.cpus: the default number of threads from variable, affinity and cgroup quota."""

import os

import numpy as np
import pytest
from oracle import dense, generator

from fastnn import _core, cpus


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.delenv("FASTNN_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cpus, "_quota", lambda: None)
    monkeypatch.setattr(cpus, "_recent", (float("-inf"), None))


def test_affinity(eight_cpus):
    assert cpus.default_threads() == 8


def test_own_affinity(monkeypatch):
    monkeypatch.delenv("FASTNN_NUM_THREADS", raising=False)
    assert 1 <= cpus.default_threads() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "threads"), [(0.3, 1), (1.0, 1), (2.9, 2), (8.5, 8), (100, 8)])
def test_the_quota_is_rounded_down_to_at_least_one(eight_cpus, monkeypatch, quota, threads):
    monkeypatch.setattr(cpus, "_quota", lambda: quota)
    assert cpus.default_threads() == threads


def test_the_quota_is_read_once_a_second(eight_cpus, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(cpus.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cpus, "_quota", lambda: 5.0)
    assert cpus.default_threads() == 5
    monkeypatch.setattr(cpus, "_quota", lambda: 3.0)
    assert cpus.default_threads() == 5
    now[0] += 1.1
    assert cpus.default_threads() == 3


def test_a_cgroup_path_of_odd_bytes(tmp_path):
    proc = tmp_path / "cgroup"
    proc.write_bytes(b"0::/a\xff\x0c\x85:b\nno colons\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpus._quota(proc, tmp_path) == 1.5


@pytest.mark.parametrize("value", ["1", "3", "1024"])
def test_the_variable_wins(eight_cpus, monkeypatch, value):
    monkeypatch.setenv("FASTNN_NUM_THREADS", value)
    assert cpus.default_threads() == int(value)


@pytest.mark.parametrize("value", ["0", "1025", "-1", "two", "1.5", "²", " 2"])
def test_a_bad_variable_is_named(eight_cpus, monkeypatch, value):
    monkeypatch.setenv("FASTNN_NUM_THREADS", value)
    with pytest.raises(ValueError, match="FASTNN_NUM_THREADS: got .* want 1..1024"):
        cpus.default_threads()


def test_a_bad_variable_reaches_the_caller_of_a_large_call(monkeypatch):
    rng = generator(1)
    network = _core.Network([dense(rng, 300, 300)])
    monkeypatch.setenv("FASTNN_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="FASTNN_NUM_THREADS"):
        network.forward(np.ones((5000, 300), np.float32))
    network.forward(np.ones((5000, 300), np.float32), threads=1)


def tree(tmp_path, lines, files):
    proc = tmp_path / "cgroup"
    proc.write_text(lines)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpus._quota(proc, tmp_path / "fs")


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"a/b/cpu.max": "max 100000\n"}, None),
        ({"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ({"a/b/cpu.max": "800000 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"a/b/cpu.max": "nonsense\n"}, None),
        ({"a/b/cpu.max": "1 0\n"}, None),
    ],
)
def test_cgroup_2(tmp_path, files, quota):
    assert tree(tmp_path, "0::/a/b\n", files) == quota


@pytest.mark.parametrize(
    ("quota", "period", "n"), [("-1", "100000", None), ("250000", "100000", 2.5)]
)
def test_cgroup_1(tmp_path, quota, period, n):
    folder = "cpu,cpuacct/a"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}
    assert tree(tmp_path, "5:memory:/x\n4:cpu,cpuacct:/a\n", files) == n


def test_no_cgroups(tmp_path):
    assert cpus._quota(tmp_path / "absent", tmp_path) is None
