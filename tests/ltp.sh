#!/bin/sh
# Runs the Linux Test Project's system call tests inside Skerry.
# usage: tests/ltp.sh DIRECTORY [REGEX]
#   DIRECTORY: an installation of LTP (with testcases/bin and runtest/syscalls); REGEX: which tests (default: all).
# Prints one line per test and the sum; a test passes if it exits with 0. Without an installation it says so and skips.
set -u
directory=${1:-}
pattern=${2:-.}
if [ ! -d "$directory/testcases/bin" ] || [ ! -f "$directory/runtest/syscalls" ]; then
    echo "skipped: '$directory' is not an installation of LTP (no testcases/bin and runtest/syscalls in it)"
    exit 0
fi
directory=$(cd "$directory" && pwd)
passed=0
failed=0
while read -r tag command; do
    case $tag in '' | '#'*) continue ;; esac
    echo "$tag" | grep -Eq "$pattern" || continue
    if timeout -k 5 60 skerry do --env "LTPROOT=$directory" --env TMPDIR=/tmp \
        --env "PATH=$directory/testcases/bin:$PATH" -- sh -c "$command" < /dev/null > /dev/null 2>&1; then
        passed=$((passed + 1))
        echo "pass $tag"
    else
        status=$?
        failed=$((failed + 1))
        echo "FAIL $tag ($status)"
    fi
done < "$directory/runtest/syscalls"
echo "$passed passed, $failed failed"
