"""The agent as a program: it needs nothing of the host's files, so that it can be the init of a guest that has none of them."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

import harness
from skerry.engines.namespace import PROGRAM
from skerry.engines.sentry import find_beside

_PT_INTERP, _PT_DYNAMIC, _DT_NEEDED = 3, 2, 1


def test_the_agent_is_linked_statically(tmp_path: Path, native_only: bool) -> None:
    if native_only:
        pytest.skip("--native-only")
    program = Path(find_beside(PROGRAM))
    image = program.read_bytes()
    table, size, count = (*struct.unpack_from("<Q", image, 32), *struct.unpack_from("<HH", image, 54))
    segments = [struct.unpack_from("<IIQQQQQQ", image, table + size * index) for index in range(count)]
    assert _PT_INTERP not in {kind for kind, *_ in segments}
    for kind, _, offset, _, _, length, *_ in segments:
        if kind == _PT_DYNAMIC:
            tags = {struct.unpack_from("<q", image, offset + place)[0] for place in range(0, length, 16)}
            assert _DT_NEEDED not in tags
    if os.geteuid() == 0:
        (tmp_path / PROGRAM).write_bytes(image)
        (tmp_path / PROGRAM).chmod(0o755)
        alone = subprocess.run(["/usr/sbin/chroot", tmp_path, f"/{PROGRAM}", "--version"], capture_output=True, text=True)
        assert alone.stdout.startswith(PROGRAM), alone


@pytest.mark.parametrize("option", ["--ro", "--rw"])
def test_the_hosts_root_is_given_as_it_is(option: str, tmp_path: Path, native_only: bool) -> None:
    if native_only:
        pytest.skip("--native-only")
    if os.geteuid() != 0:
        pytest.skip("an ordinary user cannot mount over the root's own mounts")
    script = f"ls /proc/self/ns >/dev/null && test $(id -u) = 0 && touch {tmp_path}/written"
    words = [str(harness.beside_this_python()), "do", "--engine", "namespace", option, "/", "--", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode == 0) == (option == "--rw") == (tmp_path / "written").exists(), done
    assert option == "--rw" or "Read-only file system" in done.stderr
