"""OpenMP's variables: set before torch is imported, never over the user's, and by the quota of either cgroup."""

import json
import os
import subprocess
import sys

import pytest

from spice_select import threads

NAMES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def control_groups(root, lines, files):
    for path, text in {"proc/self/cgroup": "".join(f"{line}\n" for line in lines), **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


V2, V1 = ["0::/a/b"], ["5:memory:/a", "4:cpu,cpuacct:/a", "0::/"]


def version_1(folder, quota):
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        (V2, {"sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        (V2, {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
        (V2, {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
        (V2, {"sys/fs/cgroup/cpu.max": "unreadable"}, None),
        (V1, version_1("sys/fs/cgroup/cpu/a", 200_000), 2.0),
        (V1, version_1("sys/fs/cgroup/cpu", -1), None),
        (["0::/../outside"], {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1.0),
        ([], {}, None),
    ],
)
def test_the_quota_of_a_control_group(tmp_path, lines, files, expected):
    assert threads.cpu_quota(control_groups(tmp_path, lines, files)) == expected


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert threads.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "cpus", "set_by_user", "expected"),
    [
        (None, 2, {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (1.5, 8, {}, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}),
        (4.0, 2, {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (0.5, 2, {"OMP_NUM_THREADS": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "7"}),
        (None, 2, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_variables_follow_the_quota_and_leave_the_users_own(monkeypatch, quota, cpus, set_by_user, expected):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in set_by_user.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(threads, "usable_cpus", lambda: cpus)
    threads.configure_threads()
    assert {name: os.environ[name] for name in NAMES if name in os.environ} == expected


def test_importing_the_package_sets_them_before_torch_but_not_after():
    show = f"import json, os; print(json.dumps([os.environ.get(name) for name in {NAMES!r}]))"
    bare = {name: value for name, value in os.environ.items() if name not in NAMES}
    found = []
    for first in ("import spice_select", "import sys; sys.modules['torch'] = None; import spice_select"):
        command = [sys.executable, "-c", f"{first}; {show}"]
        done = subprocess.run(command, env=bare, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout)[0])
    assert found == ["PASSIVE", None]


@pytest.mark.skipif(sys.platform != "linux", reason="affinity masks are Linux's")
def test_torch_keeps_to_the_affinity_mask():
    one = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); import spice_select"
    command = [sys.executable, "-c", f"{one}; import torch; print(torch.get_num_threads())"]
    bare = {name: value for name, value in os.environ.items() if name not in NAMES}
    assert subprocess.run(command, env=bare, capture_output=True, text=True, check=True).stdout == "1\n"
