"""Free memory of the host, as containers limit it."""

import pytest

from jaxseg.data import memory


@pytest.mark.parametrize(
  "group, folder, limit, used, cache",
  [
    ("0::/job/step", "job", "memory.max", "memory.current", "inactive_file"),
    ("0::/", "", "memory.max", "memory.current", "inactive_file"),
    (
      "9:pids:/\n4:memory:/docker/1f", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
      "total_inactive_file",
    ),
  ],
)  # fmt: skip
def test_limits_of_containers(tmp_path, group, folder, limit, used, cache):
  assert memory.free_in_groups(tmp_path, tmp_path) == float("inf")
  folder = tmp_path / "fs/cgroup" / folder
  for path in (tmp_path / "self", folder / "step"):
    path.mkdir(parents=True)
  (tmp_path / "self/cgroup").write_text(group + "\n")
  (folder / "memory.stat").write_text(f"anon 5\n{cache} 300\n")
  (folder / used).write_text("700\n")
  (folder / limit).write_text("1000\n")
  (folder / "step" / limit).write_text("max\n")
  assert memory.free_in_groups(tmp_path, tmp_path) == 1000 - 700 + 300
