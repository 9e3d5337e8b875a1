"""python3 and its standard library."""

from __future__ import annotations

import pytest

PYTHON = "/usr/bin/python3"


@pytest.fixture(autouse=True)
def _python(needs) -> None:
    needs(PYTHON)


@pytest.mark.parametrize("name", ["subprocess", "threading", "asyncio", "sqlite", "http", "system"])
def test_standard_library(compare, name: str) -> None:
    compare(f"{PYTHON} py_{name}.py", files=[f"py_{name}.py"])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(compare, method: str) -> None:
    compare(f"{PYTHON} py_multiprocessing.py {method}", files=["py_multiprocessing.py"])


def test_one_liners(compare) -> None:
    compare(
        f"echo 'print(1+1)' | {PYTHON}; {PYTHON} -c 'import sys; sys.exit(7)'; echo $?; {PYTHON} -c 'raise KeyError' 2>&1 | tail -1; "
        f"{PYTHON} -m json.tool <<< '{{\"a\": [1]}}'; {PYTHON} -c 'import os; os.abort()'; echo $?; echo x | {PYTHON} -c 'print(input())'",
        shell="bash",
    )


@pytest.mark.slow
def test_venv_and_pip_install_from_a_local_wheel(compare) -> None:
    """A wheel is a zip of files and records: the script makes one by hand, so that nothing is fetched."""
    make = """
import zipfile
with zipfile.ZipFile('tiny-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('tiny.py', 'def main():\\n    print("tiny runs")\\n')
    info = 'tiny-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'entry_points.txt', '[console_scripts]\\ntiny = tiny:main\\n')
    wheel.writestr(info + 'RECORD', 'tiny.py,,\\n' + ''.join(info + name + ',,\\n' for name in ('METADATA', 'WHEEL', 'entry_points.txt', 'RECORD')))
"""
    compare(
        f"{PYTHON} -m venv v && {PYTHON} - <<'EOF'\n{make}\nEOF\n"
        "v/bin/pip install --quiet --no-index --disable-pip-version-check ./tiny-1.0-py3-none-any.whl && v/bin/tiny && "
        "v/bin/python -c 'import sys; print(sys.prefix != sys.base_prefix)' && v/bin/pip list --disable-pip-version-check | grep tiny",
        timeout=120,
    )
