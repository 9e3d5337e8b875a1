"""`skerry surface`: filters are evaluated, events are counted, findings are drawn."""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree
from pathlib import Path

import pytest

import skerry
from skerry._surface import bpf, plot, sampling, subjects, tracing
from skerry.cli import surface

ALLOW, KILL, ERRNO, NOTIFY = 0x7FFF0000, 0x80000000, 0x00050001, 0x7FC00000
LOAD, EQUAL, GREATER, ANY, RETURN, JUMP, AND, STORE, RECALL = 0x20, 0x15, 0x25, 0x45, 0x06, 0x05, 0x54, 0x02, 0x60


def allowing(*numbers: int, otherwise: int = KILL) -> list[tuple[int, int, int, int]]:
    """For x86-64: these calls, and nothing else."""
    words = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, bpf.X86_64), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for number in numbers:
        words += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    return [*words, (RETURN, 0, 0, otherwise)]


def test_numbers_and_architectures_decide() -> None:
    program = allowing(1, 231, otherwise=ERRNO)
    assert bpf.reach([program], range(3)) == {0: "errno", 1: "allow", 2: "errno"}
    assert bpf.answers(program, 1, bpf.I386) == {"kill"}
    assert bpf.answers(program, 0x40000001) == {"errno"}


def test_arguments_leave_both_ways_open() -> None:
    program = [
        (LOAD, 0, 0, 0),
        (EQUAL, 0, 4, 1),
        (LOAD, 0, 0, 16),  # the first argument
        (AND, 0, 0, 0xFF),
        (EQUAL, 0, 1, 1),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, KILL),
    ]
    assert bpf.answers(program, 1) == {"allow", "kill"}
    assert bpf.answers(program, 2) == {"kill"}
    # Nothing of what is masked away can differ.
    program[3] = (AND, 0, 0, 0)
    assert bpf.answers(program, 1) == {"kill"}


def test_scratch_memory_and_jumps() -> None:
    program = [
        (LOAD, 0, 0, 0),
        (STORE, 0, 0, 3),
        (LOAD, 0, 0, 8),  # the instruction pointer
        (GREATER, 0, 0, 5),
        (RECALL, 0, 0, 3),
        (JUMP, 0, 0, 1),
        (RETURN, 0, 0, KILL),
        (ANY, 0, 1, 0x100),
        (RETURN, 0, 0, NOTIFY),
        (RETURN, 0, 0, ALLOW),
    ]
    assert bpf.answers(program, 0x101) == {"notify"}
    assert bpf.answers(program, 1) == {"allow"}
    # What is returned may be computed.
    assert bpf.answers([(0x00, 0, 0, ALLOW), (0x16, 0, 0, 0)], 1) == {"allow"}
    assert bpf.answers([(LOAD, 0, 0, 16), (0x16, 0, 0, 0)], 1) == set(bpf.ORDER)


def test_of_several_filters_the_strictest_holds() -> None:
    asking = [(RETURN, 0, 0, NOTIFY)]
    assert bpf.mildest([], 1) == "allow"
    assert bpf.mildest([allowing(1, 2), asking], 1) == "notify"
    assert bpf.mildest([allowing(1, 2), allowing(2, 3)], 1) == "kill"
    assert bpf.mildest([allowing(1, 2), allowing(2, 3)], 2) == "allow"


def test_many_rules_take_no_time() -> None:
    """As many ways as there are subsets of the rules; each place is looked at once."""
    program: list[tuple[int, int, int, int]] = []
    for number in range(400):
        program += [(LOAD, 0, 0, 16), (EQUAL, 0, 2, number), (LOAD, 0, 0, 24), (EQUAL, 0, 0, 1)]
    assert bpf.answers([*program, (RETURN, 0, 0, ALLOW)], 1) == {"allow"}


def test_what_is_no_program_is_an_error() -> None:
    for program in ([], [(JUMP, 0, 0, 5)], [(0x40, 0, 0, 0), (RETURN, 0, 0, ALLOW)], [(0xF4, 0, 0, 0)]):
        with pytest.raises(bpf.BadProgram):
            bpf.answers(program, 1)


# --- tracefs ---

CALLS = """# tracer: nop
            true-101     [000] ..... 22.000001: sys_enter: NR 12 (0, 7f, 3, 4, 5, 6)
            true-101     [000] ..... 22.000002: sys_enter: NR 12 (0, 7f, 3, 4, 5, 6)
  skerry-sentry-102     [001] ..... 22.000003: sys_enter: NR 1 (0, 7f, 3, 4, 5, 6)
         python3-7      [001] ..... 22.000004: sys_enter: NR 7 (0, 7f, 3, 4, 5, 6)
"""
FUNCTIONS = """# tracer: function
            true-101     [000] ..... 22.000001: ksys_read <-do_syscall_64
            true-101     [000] d.h1. 22.000002: timer_tick <-irq_exit
   tokio-worker-102     [001] .N... 22.000003: nf_hook [nf_tables] <-ip_rcv
         python3-7      [001] ..... 22.000004: ours <-do_syscall_64
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as tracefs has them, in which nothing happens by itself."""
    for folder in ("options", "events/raw_syscalls/sys_enter", "per_cpu/cpu0"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "per_cpu/cpu0/stats").write_text("entries: 4\noverrun: 0\ndropped events: 0\n")
    (tmp_path / "available_filter_functions").write_text("ksys_read\nnf_hook [nf_tables]\nlate\n")
    monkeypatch.setattr(tracing, "_instance", lambda top, size: contextlib.nullcontext(str(tmp_path)))
    return tmp_path


def test_calls_of_others_are_counted(instance: Path) -> None:
    (instance / "trace").write_text(CALLS)
    found = tracing.calls(str(instance), lambda: None, [102], lambda: [7])
    assert found.counts == {12: 2, 1: 1} and found.lost == 0
    assert (instance / "set_event_pid").read_text().split()[-1] == "102"


def test_functions_are_looked_for_until_nothing_is_lost(instance: Path) -> None:
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        lost = {1: 5, 2: 0}[runs]
        (instance / "per_cpu/cpu0/stats").write_text(f"overrun: {lost}\n")
        late = "            true-101     [000] ..... 22.000001: late <-do_syscall_64\n"
        (instance / "trace").write_text(FUNCTIONS if runs == 1 else late)

    found = tracing.functions(str(instance), run, [], lambda: [7])
    assert found.names == {"ksys_read", "nf_hook", "late"}
    assert (found.rounds, found.complete) == (2, True)


def test_a_tracer_that_cannot_be_kept_to_a_sandbox_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "available_tracers").write_text("nop\n")
    assert "no function tracer" in tracing.why_no_functions(str(tmp_path))
    (tmp_path / "available_tracers").write_text("function nop\n")
    assert "set_ftrace_pid: No such file" in tracing.why_no_functions(str(tmp_path))


# --- samples ---

SYMBOLS = sampling.Symbols(
    "ffffffff81000000 T do_syscall_64\nffffffff81000100 t ksys_read\nffffffff81000200 t vfs_read.cold\n"
    "ffffffff81000300 T perf_event_mmap\nffffffff81000400 D data\nffffffff81000500 T asm_sysvec_apic_timer_interrupt\n"
    "ffffffff81000600 T irq_exit\nffffffffc0000000 t nf_hook\t[nf_tables]\n0000000000000000 A nothing\n"
)
BASE = 0xFFFFFFFF81000000


def test_stacks_become_names_without_interrupts_and_without_ourselves() -> None:
    assert sampling.of_chain([BASE + 0x210, BASE + 0x150, BASE + 3], SYMBOLS) == {"vfs_read", "ksys_read", "do_syscall_64"}
    assert sampling.of_chain([BASE + 0x600, BASE + 0x500, BASE + 0x100], SYMBOLS) == {"ksys_read"}
    assert sampling.of_chain([BASE + 0x100, BASE + 0x300, BASE], SYMBOLS) == {"do_syscall_64"}
    assert sampling.of_chain([0xFFFFFFFFC0000010, 5], SYMBOLS) == {"nf_hook"}
    assert not sampling.Symbols("0000000000000000 T hidden\n")


def test_records_are_read_as_far_as_they_go() -> None:
    import struct

    chain = [2**64 - 128, BASE, BASE + 0x100, 2**64 - 512, 0x400000]
    sample = struct.pack("<IHHIIQ5Q", 9, 2, 24 + 40, 7, 8, 5, *chain)
    lost = struct.pack("<IHHQQ", 2, 0, 24, 1, 1)
    assert list(sampling._samples(lost + sample + sample[:30])) == [(8, [BASE, BASE + 0x100])]
    assert list(sampling._samples(struct.pack("<IHHIIQ", 9, 2, 24, 7, 8, 2**40) + sample[:3])) == [(8, [])]
    assert list(sampling._samples(bytes(64))) == []


def test_functions_are_sampled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what this host has: a shell that calls."""
    import subprocess

    if reason := sampling.why_not():
        pytest.skip(reason)
    monkeypatch.setattr(sampling, "RUNS", 5)
    words = ["sh", "-c", "i=0; while [ $i -lt 1000 ]; do i=$((i + 1)); : > /dev/null; done"]
    found = sampling.functions(lambda: subprocess.run(words, check=True) and None, [], list, samples=20)
    if not found.samples:
        pytest.skip("this host gives no samples")
    assert found.names and found.how == "sampled" and not found.complete


# --- what is shown ---


def finding(name: str, *numbers: int) -> subjects.Findings:
    found = subjects.Findings(name)
    found.application = subjects.Process("program", [[allowing(*numbers)]])
    found.calls = tracing.Calls()
    found.calls.counts = {1: 3, 231: 1}
    return found


def test_the_table_the_plot_and_the_json(tmp_path: Path) -> None:
    found = [finding("one", 1, 231), finding("<two>", *range(100)), subjects.Findings("three")]
    found[2].notes.append("nobody knows why")
    text = surface._table(found)
    assert [line.split()[:4] for line in text.splitlines()[1:4]] == [
        ["one", "2", "0", "2"], ["<two>", "100", "0", "2"], ["three", "-", "-", "-"],
    ]  # fmt: skip
    assert "one: the application can make write, exit_group" in text and "100 calls" in text and "nobody knows why" in text
    drawn = xml.etree.ElementTree.fromstring(plot.as_svg("a & b", found))  # our own
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "<two>" in texts and "not known" in texts and "a & b (shorter is better)" in texts
    assert found[0].as_dict()["made"] == {"distinct": 2, "total": 4, "lost": 0, "counts": {"write": 3, "exit_group": 1}}
    assert found[0].as_dict()["application"]["calls"] == {"allow": ["write", "exit_group"]}


def test_one_that_cannot_be_had_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(self: subjects.Subject, top: str | None, *, functions: bool) -> subjects.Findings:
        if self.name == "uml":
            raise skerry.EngineUnavailable("no such kernel")
        return finding(self.name, 1)

    monkeypatch.setattr(subjects.Subject, "look", look)
    assert surface.run(["--engines", "uml,rules", "--", "true"]) == 0
    shown = capsys.readouterr().out
    assert "no such kernel" in shown and "rules: the application can make write" in shown


def test_wrong_options_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from skerry.cli import main

    for words, message in (
        (["surface"], "there is no command"),
        (["surface", "--peer", "x", "true"], "write NAME="),
        (["surface", "--daemon", "x=y", "true"], "with the name of a peer"),
        (["surface", "--engines", "nosuch", "true"], "there is no engine 'nosuch'"),
        (["surface", "--svg", f"{tmp_path}/none/file", "true"], "no such directory"),
        (["surface", "--peer", "x=/nonexistent/program", "true"], "No such file"),
    ):
        assert main(words) == 2, words
        assert message in capsys.readouterr().err, words


def test_a_filter_is_read_back() -> None:
    """Of a child of ours, with one of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can read filters back")
    import ctypes
    import struct
    import time

    from skerry._surface import filters

    words = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, 317), (RETURN, 0, 0, ERRNO), (RETURN, 0, 0, ALLOW)]
    child = os.fork()
    if child == 0:
        code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *word) for word in words))
        program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(words), ctypes.addressof(code)))
        libc = ctypes.CDLL(None)
        libc.prctl(38, 1, 0, 0, 0)
        libc.syscall(ctypes.c_long(317), ctypes.c_long(1), ctypes.c_long(0), program)
        time.sleep(60)
        os._exit(0)
    try:
        for _ in range(500):
            if filters.mode(child) == 2:
                break
            time.sleep(0.01)
        try:
            found = filters.of_process(child)
        except OSError as error:
            pytest.skip(f"filters cannot be read here: {error.strerror}")  # under a filter ourselves, say
        assert found[0][0] == words
        assert subjects.Process("child", found).answers["seccomp"] == "errno"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
