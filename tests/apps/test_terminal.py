"""`skerry do` on a terminal behaves as the program itself does: each test runs natively too."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from terminal import Screen, Terminal

import harness

PROMPT = r"ready> $"


class Place:
    """Where the program runs: on the host, or inside."""

    def __init__(self, caller: harness.Caller, inside: bool) -> None:
        self.caller, self.inside = caller, inside

    def words(self, *args: str, options: tuple[str, ...] = ()) -> list[str]:
        if self.inside:
            return [*self.caller.command, "do", *options, "--", *args]
        return [*self.caller.prefix, *args]

    def terminal(self, *args: str, options: tuple[str, ...] = (), **rest) -> Terminal:
        return Terminal(self.words(*args, options=options), environment=self.caller.environment(None), **rest)


@pytest.fixture(params=["native", pytest.param("inside", marks=pytest.mark.sandbox)])
def place(request: pytest.FixtureRequest, caller: harness.Caller) -> Place:
    return Place(caller, request.param == "inside")


def shell(place: Place, **rest) -> Terminal:
    terminal = place.terminal("bash", "--norc", "--noprofile", **rest)
    terminal.expect(r"[$#] ")
    terminal.send("PS1='ready'\\>' '; PROMPT_COMMAND=; bind 'set enable-bracketed-paste off'\r")
    terminal.expect(PROMPT)
    terminal.send("\r")
    terminal.expect(PROMPT)
    return terminal


def ask(terminal: Terminal, line: str) -> str:
    """Types a line and returns what was printed before the next prompt."""
    terminal.send(line + "\r")
    text = terminal.expect(r"\r\n(.*?)ready> $").group(1)
    return re.sub(r"\x1b\[\?2004[hl]\r?", "", text).replace("\r\n", "\n").strip("\n")


def test_it_is_a_terminal(place: Place) -> None:
    with shell(place) as terminal:
        assert ask(terminal, "test -t 0 && test -t 1 && test -t 2; echo $?") == "0"
        assert re.fullmatch(r"/dev/pts/\d+", ask(terminal, "tty"))
        assert ask(terminal, "stty -a | grep -o -w isig") == "isig"
        assert ask(terminal, "echo $TERM; ps -o tty= -p $$ | grep -c pts") == "xterm\n1"
        terminal.send("exit 6\r")
        assert terminal.wait() == 6


def test_line_editing(place: Place) -> None:
    with shell(place) as terminal:
        assert ask(terminal, "echo hellx\x7fo") == "hello"
        assert ask(terminal, "cho start\x01e\x05ed") == "started"
        assert ask(terminal, "echo one two three\x17\x17end") == "one end"
        assert ask(terminal, "echo gone\x15echo kept") == "kept"
        assert ask(terminal, "\x1b[A") == "kept"
        assert ask(terminal, "echo abc\x1b[D\x1b[DX") == "aXbc"
        assert ask(terminal, "ls /etc/passw\t") == "/etc/passwd"
        assert ask(terminal, "\x12hellx\x07echo after search") == "after search"
        terminal.send("cat\r")
        terminal.expect("cat\r\n")
        time.sleep(0.3)
        terminal.send("typed\r")
        terminal.expect("typed\r\ntyped\r\n")
        terminal.send("\x04")
        terminal.expect(PROMPT)
        terminal.send("\x04")
        assert terminal.wait() == 0


def test_control_c(place: Place) -> None:
    with shell(place) as terminal:
        terminal.send("sleep 100\r")
        time.sleep(0.5)
        terminal.send("\x03")
        terminal.expect(PROMPT)
        assert ask(terminal, "echo $?") == "130"
        terminal.send("half a line")
        terminal.expect("half a line")
        time.sleep(0.3)  # until readline waits: what comes right before that waits for the next key, natively too
        terminal.send("\x03")
        terminal.expect(PROMPT)
        terminal.send("while :; do :; done\r")
        time.sleep(0.3)
        terminal.send("\x03")
        terminal.expect(PROMPT)
        terminal.send("/usr/bin/python3 -c 'import time; time.sleep(100)' 2>&1 | tail -1\r")
        time.sleep(0.7)
        terminal.send("\x03")
        terminal.expect(PROMPT)
        terminal.send("sh -c 'trap \"echo caught\" QUIT; sleep 0.2; sleep 0.5; echo over'\r")
        time.sleep(0.4)
        terminal.send("\x1c")
        terminal.expect("caught")
        terminal.expect(PROMPT)


def test_job_control(place: Place) -> None:
    with shell(place) as terminal:
        terminal.send("sleep 3\r")
        time.sleep(0.5)
        terminal.send("\x1a")
        terminal.expect("Stopped")
        terminal.expect(PROMPT)
        assert "Stopped" in ask(terminal, "jobs")
        assert "sleep 3 &" in ask(terminal, "bg")
        assert "Running" in ask(terminal, "jobs")
        terminal.send("fg\r")
        terminal.expect("sleep 3\r\n")
        terminal.expect(PROMPT, timeout=30)
        assert ask(terminal, "echo $?") == "0"
        terminal.send("cat &\r")
        terminal.expect(PROMPT)
        time.sleep(0.3)
        assert "Stopped" in ask(terminal, "jobs")  # by SIGTTIN
        terminal.send("fg\r")
        terminal.expect("cat\r\n")
        time.sleep(0.3)
        terminal.send("line\r")
        terminal.expect("line\r\nline\r\n")
        terminal.send("\x1a")
        terminal.expect("Stopped")
        terminal.expect(PROMPT)
        ask(terminal, "kill -9 %1; sleep 0.2")
        ask(terminal, "jobs")
        assert ask(terminal, "jobs") == ""
        terminal.send("exit\r")
        terminal.wait()


def test_window_size(place: Place) -> None:
    with shell(place, rows=31, columns=97) as terminal:
        assert ask(terminal, "stty size") == "31 97"
        terminal.resize(40, 120)
        time.sleep(0.3)
        assert ask(terminal, "stty size") == "40 120"
        script = "trap 'stty size; exit' WINCH; echo waiting; while :; do sleep 0.1; done"
        terminal.send(f'bash -c "{script}"\r')
        terminal.expect("waiting\r\n")
        terminal.resize(20, 60)
        terminal.expect("20 60\r\n")
        terminal.expect(PROMPT)


def test_password_without_echo(place: Place) -> None:
    with shell(place) as terminal:
        terminal.send("read -s -p 'Secret: ' x; echo \" got $x\"\r")
        terminal.expect("Secret: $")
        terminal.send("hidden\r")
        assert "hidden" not in terminal.expect("(.*) got hidden").group(1)
        terminal.expect(PROMPT)
        terminal.send("/usr/bin/python3 -c 'import getpass; print(len(getpass.getpass(\"Word: \")))'\r")
        terminal.expect("Word: $")
        terminal.send("12345\r")
        terminal.expect("\r\n5\r\n")


def test_python_prompt(place: Place) -> None:
    with place.terminal("/usr/bin/python3", "-q", "-I") as terminal:
        terminal.expect(">>> $")
        terminal.send("6 * 7\r")
        terminal.expect("42\r\n")
        terminal.send("import time; time.sleep(60)\r")
        time.sleep(0.5)
        terminal.send("\x03")
        terminal.expect("KeyboardInterrupt")
        terminal.expect(">>> $")
        terminal.send("exit(3)\r")
        assert terminal.wait() == 3


@pytest.mark.sandbox
class TestOurEnd:
    """What only `skerry do` does with the caller's terminal."""

    @pytest.mark.parametrize("end", ["exit", "kill", "killed"])
    def test_the_terminal_is_restored(self, caller: harness.Caller, end: str) -> None:
        """A shell that is still there afterwards sees its own settings, however the command or skerry ended."""
        words = " ".join(map(str, caller.command))
        with Terminal(["sh"], environment=caller.environment(None) | {"PS1": "outer> "}) as outer:
            outer.expect("outer> $")
            before = outer.settings()
            outer.send(f"{words} do -- bash --norc --noprofile; echo status $?\r")
            outer.expect(r"bash.*[$#] $")
            assert harness.eventually(lambda: outer.settings() != before)
            if end == "exit":
                outer.send("exit 5\r")
                outer.expect("status 5\r\n")
            elif end == "kill":
                outer.send("kill -9 $$\r")
                outer.expect("status 137\r\n")
            else:
                children = [
                    pid
                    for pid in harness.descendants(outer.pid)
                    if b"do\0--\0bash" in Path(f"/proc/{pid}/cmdline").read_bytes()
                ]
                os.kill(children[0], signal.SIGTERM)
                outer.expect(r"status \d+\r\n|$")
                outer.send("exit\r")
                outer.expect(r"status \d+\r\n")
            outer.expect("outer> $")
            assert outer.settings() == before

    def test_no_terminal_when_asked_or_piped(self, caller: harness.Caller) -> None:
        with Terminal(
            [*caller.command, "do", "-T", "--", "sh", "-c", "test -t 0; echo $?"], environment=caller.environment(None)
        ) as t:
            assert t.expect(r"(\d)\r\n").group(1) in "01"
            assert t.wait() == 0
        assert caller.sandbox(["sh", "-c", "test -t 0 || test -t 1; echo $?"], input="x").stdout == "1\n"
        forced = caller.do(["-t"], ["sh", "-c", "test -t 0 && test -t 1; echo $?"], input="x\n")
        assert forced.stdout.splitlines()[-1] == "0", forced

    def test_hang_up(self, caller: harness.Caller) -> None:
        terminal = Terminal([*caller.command, "do", "--", "sleep", "1000"], environment=caller.environment(None))
        time.sleep(1)
        below = harness.descendants(terminal.pid)
        os.close(terminal.master)
        try:
            assert terminal._reap(20), "skerry lives on after its terminal is gone"
        finally:
            if not terminal._reap(0):
                os.kill(terminal.pid, signal.SIGKILL)
        assert harness.eventually(lambda: not any(harness.status_of(pid) for pid in below)), below


# What is drawn: the same screen as natively.


def draw(place: Place, work: Path, *args: str) -> Screen:
    for name in ("text.txt",):
        (work / name).write_text("".join(f"line {number} of the text\n" for number in range(1, 60)))
    options = ("--rw", str(work)) if place.inside else ()
    return Screen(place.words(*args, options=options), environment=place.caller.environment(None), cwd=work)


def test_vim(place: Place, needs) -> None:
    needs("vim", "tmux")
    with place.caller.workspace() as work:
        work.chmod(0o777)
        with draw(place, work, "vim", "-u", "NONE", "-N", "-n", "--cmd", "set noswapfile ruler", "text.txt") as screen:
            text = screen.expect("line 23 of the text")
            assert text.splitlines()[0] == "line 1 of the text"
            screen.send("G", "o", "added by hand", "Escape", "g", "g", "d", "d")
            screen.expect("^line 2 of the text")
            screen.send(":%s/of the/OF THE/", "Enter")
            screen.expect("OF THE")
            screen.send(":vsplit", "Enter")
            assert "|" in screen.settled()
            screen.resize(15, 60)
            text = screen.settled()
            assert len([line for line in text.splitlines() if line.strip()]) <= 15
            screen.send(":only", "Enter", "G")
            screen.expect("added by hand")
            (work / "text.txt").chmod(0o666)
            screen.send(":w! saved.txt", "Enter")
            screen.expect("written")
        saved = work / "saved.txt"
        lines = saved.read_text().splitlines()
        assert (lines[0], lines[-1], len(lines)) == ("line 2 OF THE text", "added by hand", 59)


def test_less(place: Place, needs) -> None:
    needs("less", "tmux")
    with place.caller.workspace() as work, draw(place, work, "less", "text.txt") as screen:
        assert screen.expect("line 23 of the text").startswith("line 1 of the text")
        screen.send("Space")
        screen.expect("^line 24 of the text")
        screen.send("/line 50", "Enter")
        screen.expect("^line (3[5-9]|50) of")
        screen.send("G")
        screen.expect("END")


def test_top(place: Place, needs) -> None:
    needs("top", "tmux")
    with place.caller.workspace() as work, draw(place, work, "top", "-d", "0.5") as screen:
        text = screen.expect(r"PID\s+USER.*COMMAND")
        assert re.match(r"top - \d\d:\d\d:\d\d up", text), text
        assert re.search(r"^Tasks:\s+\d+ total", text, re.MULTILINE), text
        assert re.search(r"^%Cpu", text, re.MULTILINE) and re.search(r"^.iB Mem", text, re.MULTILINE), text
        screen.expect(r"\d+ \w+.* (top|\w+)$")
        screen.resize(30, 100)
        screen.send("M")
        assert "COMMAND" in screen.settled(0.3)
        if place.inside:
            assert re.search(r" top\s*$", screen.text(), re.MULTILINE), screen.text()


def test_tmux_inside(place: Place, needs) -> None:
    """A program that makes terminals of its own, in a server process, over a socket with passed descriptors."""
    needs("tmux", "script")
    script = (
        "cd /tmp; export TERM=xterm SHELL=/bin/sh; tmux -S ./inner-$$ -f /dev/null new-session -d -x 40 -y 10 'echo in the pane; sleep 5'; sleep 0.5; "
        "tmux -S ./inner-$$ capture-pane -p | head -1; tmux -S ./inner-$$ kill-server; rm -f ./inner-$$; script -qec 'echo typescript; tty | cut -c1-9' /dev/null"
    )
    done = harness.run(place.words("sh", "-c", script), environment=place.caller.environment(None), cwd="/")
    assert done.stdout.replace("\r", "") == "in the pane\ntypescript\n/dev/pts/\n", done
