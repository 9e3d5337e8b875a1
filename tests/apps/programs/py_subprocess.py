import os
import signal
import subprocess
import sys
import time

print(subprocess.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in", capture_output=True))
print(subprocess.check_output([sys.executable, "-c", "print(6 * 7)"], text=True))
try:
    subprocess.run(["sleep", "9"], timeout=0.2)
except subprocess.TimeoutExpired as error:
    print("timed out", round(error.timeout, 1))
try:
    subprocess.run(["/no/such"])
except FileNotFoundError as error:
    print(error)
process = subprocess.Popen(["sleep", "9"])
process.send_signal(signal.SIGTERM)
print(process.wait())
pipeline = subprocess.Popen(["seq", "1000"], stdout=subprocess.PIPE)
counted = subprocess.run(["wc", "-l"], stdin=pipeline.stdout, capture_output=True, text=True)
print(counted.stdout.strip(), pipeline.wait())
processes = [subprocess.Popen(["sh", "-c", f"exit {n}"], start_new_session=n % 2 == 0, close_fds=n % 3 == 0) for n in range(12)]
print([process.wait() for process in processes])
read, write = os.pipe()
os.set_inheritable(write, True)
subprocess.run(["sh", "-c", f"echo passed >&{write}"], pass_fds=[write])
print(os.read(read, 100))
print(subprocess.getstatusoutput("echo x; exit 9"))
pid = os.posix_spawn("/bin/echo", ["echo", "spawned"], os.environ)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
big = subprocess.run(["cat"], input=b"z" * 3_000_000, capture_output=True)
print(len(big.stdout))
start = time.monotonic()
with subprocess.Popen(["sleep", "0.2"]) as process:
    print(process.poll())
print(time.monotonic() - start >= 0.2)
