"""The asynchronous twin: the same things, awaited."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Coroutine
from typing import Any

import pytest

import skerry


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


def test_commands_files_and_the_rest(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with skerry.AsyncSandbox(timeout=20) as sandbox:
            result = await sandbox.run("echo $((6*7)); exit 3", shell=True, text=True)
            assert (result.returncode, result.stdout) == (3, "42\n")
            await sandbox.files.write(tmp_path / "a", b"x")
            assert await sandbox.files.read(tmp_path / "a") == b"x"
            assert [entry.name for entry in await sandbox.files.list(tmp_path)] == ["a"]
            assert (await sandbox.info()).layers == ["seccomp"]
            assert (await sandbox.usage()).system_calls == 7
            with pytest.raises(skerry.CommandNotFound):
                await sandbox.run("nosuch")
        assert sandbox.closed

    run(main())


def test_streams() -> None:
    async def main() -> None:
        async with skerry.AsyncSandbox() as sandbox:
            process = await sandbox.spawn(["cat"], text=True)
            assert process.stdin and process.stdout
            await process.stdin.write("a\nb\n")
            assert await process.stdout.readline() == "a\n"
            await process.stdin.close()
            assert [line async for line in process.stdout] == ["b\n"]
            assert await process.wait(5) == 0
            assert process.result().returncode == 0
            background = await sandbox.spawn(["sleep", "100"], background=True)
            assert [state.process for state in await sandbox.processes()] == [background.id]
            await sandbox.kill(await sandbox.connect(background.id))
            assert await background.wait(5) == 137
            await background.close()
            await process.close()

    run(main())


def test_many_at_once_are_not_limited_by_an_executor() -> None:
    async def main() -> None:
        async with skerry.AsyncSandbox() as sandbox:
            begin = time.monotonic()
            await asyncio.gather(*(sandbox.run(["sleep", "0.5"]) for _ in range(40)))
            assert time.monotonic() - begin < 10

    run(main())


def test_cancelling_ends_the_command() -> None:
    async def main() -> None:
        async with skerry.AsyncSandbox() as sandbox:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sandbox.run("echo a; sleep 100", shell=True), 0.3)
            for _ in range(100):
                if not await sandbox.processes():
                    break
                await asyncio.sleep(0.02)
            assert await sandbox.processes() == []

    run(main())
