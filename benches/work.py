"""What the rows of real work need: files to work on, and the scripts that are too long for a line."""

from __future__ import annotations

import random
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path


def once(directory: Path, name: str) -> Path | None:
    """Where to make `name`, unless it is there already."""
    path = directory / name
    return None if path.exists() else path


def library(directory: Path) -> None:
    """A copy of Python's standard library, without its tests."""
    if path := once(directory, "library"):
        ignore = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "site-packages", "dist-packages", "*.so")
        shutil.copytree(sysconfig.get_path("stdlib"), path, ignore=ignore, symlinks=True)


def numbers(directory: Path) -> None:
    """A million numbers in random order, the same ones each time."""
    if path := once(directory, "numbers"):
        order = list(range(1_000_000))
        random.Random(1).shuffle(order)
        path.write_text("\n".join(map(str, order)) + "\n")


def c_tree(directory: Path) -> None:
    """Sixty C files that include some of the system's headers, and a makefile."""
    if path := once(directory, "tree"):
        path.mkdir()
        for number in range(60):
            functions = "\n".join(
                f'int f{number}_{i}(int x) {{ char b[64]; snprintf(b, sizeof b, "%d", x + {i}); return atoi(b) * {number}; }}'
                for i in range(20)
            )
            (path / f"f{number}.c").write_text(
                f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n{functions}\n"
            )
        (path / "main.c").write_text("int f0_0(int);\nint main(void) { return f0_0(0); }\n")
        (path / "Makefile").write_text(
            "objects := main.o $(patsubst %.c,%.o,$(wildcard f*.c))\nprogram: $(objects)\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -O1 -c -o $@ $<\n"
        )


def repository(directory: Path) -> None:
    """A git repository with 5,000 files in 100 directories and ten commits."""
    if path := once(directory, "repository"):
        path.mkdir()

        def git(*words: str) -> None:
            identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
            subprocess.run(["git", *identity, *words], cwd=path, check=True, stdout=subprocess.DEVNULL)

        git("init", "-q")
        for commit in range(10):
            for number in range(commit * 500, commit * 500 + 500):
                file = path / f"d{number % 100}" / f"f{number}"
                file.parent.mkdir(exist_ok=True)
                file.write_text(f"file {number}\n" * (number % 100 + 1))
            git("add", ".")
            git("commit", "-q", "-m", f"commit {commit}")


def wheels(directory: Path) -> None:
    """Twenty wheels of fifty modules each."""
    if path := once(directory, "wheels"):
        path.mkdir()
        for number in range(20):
            name = f"bench{number}"
            with zipfile.ZipFile(path / f"{name}-1-py3-none-any.whl", "w") as wheel:
                for module in range(50):
                    wheel.writestr(f"{name}/m{module}.py", f"value = {module}\n" * 20)
                wheel.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
                wheel.writestr(
                    f"{name}-1.dist-info/WHEEL",
                    "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                )
                wheel.writestr(f"{name}-1.dist-info/RECORD", "")


def inserts(directory: Path) -> None:
    """A program that fills a table in transactions of a thousand rows."""
    (directory / "inserts.py").write_text(
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1])\n"
        "database.execute('create table t (id integer primary key, name text, value real)')\n"
        "for start in range(0, 100000, 1000):\n"
        "    with database:\n"
        "        database.executemany('insert into t values (?, ?, ?)', ((i, f'name {i}', i / 7) for i in range(start, start + 1000)))\n"
        "with database:\n"
        "    database.execute('create index n on t (name)')\n"
        "print(database.execute('select count(*) from t').fetchone()[0])\n"
    )


def redis(command: str, where: str, depth: int) -> str:
    """A script that runs redis-server and its benchmark beside it, and prints `COMMAND RATE`."""
    socket = "redis.$$.sock" if where == "unix" else ""
    server = f"--port 0 --unixsocket $PWD/{socket}" if socket else "--port 7397 --bind 127.0.0.1"
    client = f"-s $PWD/{socket}" if socket else "-p 7397"
    count = 20_000 * depth
    return f"""
redis-server {server} --save '' --appendonly no --dir "$PWD" > /dev/null & server=$!
trap 'kill $server; wait' EXIT
i=0; until redis-cli {client} ping > /dev/null 2>&1; do i=$((i+1)); [ $i -lt 200 ]; sleep 0.05; done
redis-benchmark {client} -t {command.lower()} -n {count} -c 20 -P {depth} --csv |
    awk -F'[",]+' '$2 == "{command}" {{ print "{command}", $3 }}'
"""


def nginx(directory: Path) -> None:
    """A page and a configuration."""
    (directory / "page.html").write_text("x" * 1000)
    (directory / "nginx.conf").write_text(
        "worker_processes 1; pid nginx.pid; error_log stderr crit; daemon off;\n"
        "events { worker_connections 256; }\n"
        "http { access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n"
        f"server {{ listen 127.0.0.1:7398; root {directory}; }} }}\n"
    )


NGINX = """
PATH=$PATH:/usr/sbin
nginx -p "$PWD" -c nginx.conf 2> /dev/null & server=$!
trap 'kill $server; wait' EXIT
sleep 0.5
wrk -t1 -c16 -d2 http://127.0.0.1:7398/page.html | awk '$1 == "Requests/sec:" { print "requests", $2 }'
"""
