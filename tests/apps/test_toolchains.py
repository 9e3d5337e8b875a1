"""git, compilers and language runtimes."""

from __future__ import annotations

import os
import shlex
import shutil

import pytest

import harness

GIT = (
    "export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' GIT_CONFIG_NOSYSTEM=1; "
    "git config --global user.name T; git config --global user.email t@example.org; git config --global init.defaultBranch main; "
)


def test_git(compare, needs) -> None:
    needs("git")
    compare(
        GIT + "git init -q r && cd r && seq 100 > a && mkdir d && echo b > d/b && git add . && git commit -qm first && "
        'for i in $(seq 10); do echo $i >> a; git commit -qam "change $i"; done && git log --oneline | cat && git status --short && '
        "cd .. && git clone -q r c && cd c && git log -1 --format=%H && git checkout -q -b other HEAD~3 && echo x > new && git add new && "
        "git commit -qm other && git merge -q -m merged origin/main && git log --graph --oneline | cat && cd ../r && git gc -q && "
        "git fsck 2>/dev/null; git diff HEAD~2 --stat | cat; git count-objects -v | grep -e packs -e in-pack; git stash list; git blame a -s | tail -1",
        timeout=60,
    )


@pytest.mark.sandbox
def test_git_in_a_folder_of_the_callers(caller: harness.Caller, needs) -> None:
    needs("git")
    with caller.workspace() as work:
        script = (
            GIT + "cd r && git log --format=%s && echo more >> a && git commit -qam second && git gc -q && git log --format=%s"
        )
        first = GIT + "git init -q r && cd r && echo a > a && git add a && git commit -qm first"
        assert caller.native(["sh", "-c", first], cwd=work).returncode == 0
        done = caller.do(["--rw", str(work)], ["sh", "-c", script], cwd=work)
        assert (done.returncode, done.stdout) == (0, "first\nsecond\nfirst\n"), done
        outside = caller.native(["git", "-C", str(work / "r"), "log", "--format=%s"], cwd=work)
        assert outside.stdout == "second\nfirst\n", outside


def test_gcc_and_make(compare, needs) -> None:
    needs("gcc", "make")
    compare(
        "cd c_project && make -j2 2>&1 | wc -l && ./tool | md5sum && touch list.c && make -j2 | wc -l && make | grep -c 'up to date' && make clean && ls | wc -l",
        files=["c_project"],
        timeout=90,
    )


def test_strace(compare, needs) -> None:
    """What is called does not differ by who answers it; addresses and the linker's own calls do."""
    needs("strace")
    compare(
        r"strace -f -qq -e trace=write,exit_group -e signal=none sh -c 'echo hi > f; cat f; exit 3' 2>&1 | sed 's/\[pid *[0-9]*\] //' | sort; "
        "sleep 1 & strace -qq -o t -p $! -e trace=exit_group; wait $!; echo $?; grep -c 'exit_group(0)' t; "
        "strace -c -f -o s sh -c 'true | cat'; grep -c execve s",
        timeout=60,
    )


DEBUGGED = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
int counter;
static void *work(void *p) { for (int i = 0; i < 3; i++) counter++; return p; }
static int add(int a, int b) { return a + b; }
int main(int argc, char **arguments) {
    pthread_t thread;
    pthread_create(&thread, 0, work, 0);
    pthread_join(thread, 0);
    if (argc == 2) sleep(arguments[1][0] - 48);
    printf("sum %d\n", add(counter, 4));
    return argc > 2 ? *(int *)(long)(argc - 3) : 0;
}
"""


def test_gdb(compare, needs) -> None:
    """Breakpoints, steps, watched memory, threads, attaching; a program that crashes."""
    needs("gcc", "gdb")
    compare(
        f"printf %s '{DEBUGGED}' > g.c; gcc -g -O0 -pthread -o g g.c; export DEBUGINFOD_URLS=; "
        "gdb -nx -batch -ex 'set print frame-arguments none' -ex 'break add' -ex run -ex bt -ex 'print counter' -ex delete -ex finish -ex stepi "
        "-ex 'watch counter' -ex 'set var counter = 9' -ex continue -ex delete -ex 'rwatch counter' -ex continue -ex 'set can-use-hw-watchpoints 0' "
        "-ex delete -ex 'watch counter' -ex continue -ex delete -ex continue g 2>&1 | "
        r"grep -e '^#' -e '^\$' -e '^sum' -e 'New value' -e Value -e atchpoint; "
        "./g 5 & sleep 0.7; gdb -nx -batch -p $! -ex bt 2>&1 | grep -c -e ' main ' ; kill $!; wait $! 2> /dev/null; "
        "gdb -nx -batch -ex run -ex bt --args ./g a b 2>&1 | grep -c -e SIGSEGV -e 'in main'",
        timeout=90,
    )


def test_gdb_less_debugging_and_linking(compare, needs) -> None:
    needs("gcc")
    compare(
        "echo 'int f(void){return 5;}' > l.c; echo 'int f(void); int main(void){return f();}' > m.c; "
        "gcc -shared -fPIC -o libl.so l.c && gcc -o m m.c -L. -ll && ./m 2>/dev/null; echo $?; LD_LIBRARY_PATH=. ./m; echo $?; "
        "gcc -static -o s m.c l.c && ./s; echo $?; LD_PRELOAD=./libl.so /bin/echo preloaded",
        timeout=90,
    )


def rust_environment() -> str:
    """rustup's shims look for their toolchains below the home of whoever installed them."""
    cargo = shutil.which("cargo", path=harness.tool_path() + f":{os.path.expanduser('~')}/.cargo/bin")
    if cargo is None:
        pytest.skip("not installed: cargo")
    home = os.path.expanduser("~")
    rustup = os.environ.get("RUSTUP_HOME", f"{home}/.rustup")
    return f"export PATH={shlex.quote(os.path.dirname(cargo))}:$PATH RUSTUP_HOME={shlex.quote(rustup)} CARGO_HOME=$PWD/cargo; "


def test_rust(compare_as_root) -> None:
    compare_as_root(
        rust_environment()
        + "cargo --version; echo 'fn main() { println!(\"hello {}\", (1..10).sum::<i32>()); }' > h.rs && rustc h.rs && ./h",
        timeout=120,
    )


@pytest.mark.slow
def test_cargo_build(compare_as_root) -> None:
    compare_as_root(
        rust_environment()
        + "cargo new --quiet --vcs none p && cd p && cargo build --quiet --offline && ./target/debug/p && cargo test --quiet --offline | grep result",
        normalise=lambda text: text.partition("finished in")[0],
        timeout=180,
    )


@pytest.mark.slow
def test_go(compare, needs) -> None:
    path = shutil.which("go", path=harness.tool_path())
    if path is None:
        pytest.skip("not installed: go")
    program = (
        'package main\nimport ("fmt"; "os/exec"; "sync"; "time"; "net")\nfunc main() {\n var wg sync.WaitGroup; c := make(chan int, 100)\n'
        " for i := 0; i < 50; i++ { wg.Add(1); go func(n int) { defer wg.Done(); time.Sleep(time.Millisecond); c <- n }(i) }\n"
        " wg.Wait(); close(c); s := 0; for n := range c { s += n }; fmt.Println(s)\n"
        ' l, _ := net.Listen("tcp", "127.0.0.1:0"); go func() { k, _ := l.Accept(); k.Write([]byte("tcp")); k.Close() }()\n'
        ' d, _ := net.Dial("tcp", l.Addr().String()); b := make([]byte, 10); n, _ := d.Read(b); fmt.Println(string(b[:n]))\n'
        ' out, err := exec.Command("echo", "child").Output(); fmt.Println(string(out), err)\n defer func() { fmt.Println(recover() != nil) }(); var p *int; *p = 1 }\n'
    )
    go = os.path.dirname(path)
    # The standard library is compiled once, here and for both runs: that part is the compiler's work, not the sandbox's.
    compare(
        f"export PATH={go}:$PATH GOPATH=$PWD/go GOCACHE=$PWD/cache GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local; cat > m.go <<'EOF'\n{program}EOF\n"
        "go version && go build -o m m.go && ./m",
        timeout=150,
    )


def test_java(compare, needs) -> None:
    needs("java", "javac")
    compare("javac Threads.java && java -Xmx128m -XX:+UseSerialGC Threads; echo $?", files=["Threads.java"], timeout=90)


def test_java_default_collector(compare_as_root, needs) -> None:
    needs("java", "javac")
    compare_as_root("javac Threads.java && java Threads; echo $?", files=["Threads.java"], timeout=90)


def test_node(compare, needs) -> None:
    needs("node")
    compare("node workers.js; echo $?", files=["workers.js"], timeout=60)


def test_perl(compare, needs) -> None:
    needs("perl")
    compare("perl perl_things.pl; echo $?", files=["perl_things.pl"])


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("program", "script"),
    [
        ("java", "java -version 2>&1 | grep -c version"),
        ("node", "node -e 'console.log(1)'"),
        ("python3", "/usr/bin/python3 -c 'print(1)'"),
        ("go", "go version | grep -c go"),
    ],
)
def test_starts_under_a_memory_limit(caller: harness.Caller, program: str, script: str) -> None:
    path = shutil.which(program, path=harness.tool_path())
    if path is None or not os.access(path, os.X_OK):
        pytest.skip(f"not installed: {program}")
    setting = "export PATH=$PATH:/usr/local/go/bin; " if program == "go" else ""
    done = caller.do(["--memory", "512m"], ["sh", "-c", setting + script])
    assert (done.returncode, done.stdout) == (0, "1\n"), done
