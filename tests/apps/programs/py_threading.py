import concurrent.futures
import queue
import threading
import time

lock, total = threading.Lock(), 0


def add():
    global total
    for _ in range(2000):
        with lock:
            total += 1


threads = [threading.Thread(target=add) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(total)
work, done = queue.Queue(), queue.Queue()


def worker():
    while (item := work.get()) is not None:
        done.put(item * item)


workers = [threading.Thread(target=worker) for _ in range(4)]
[thread.start() for thread in workers]
[work.put(n) for n in range(100)]
[work.put(None) for _ in workers]
[thread.join() for thread in workers]
print(sum(done.get() for _ in range(100)))
event, barrier = threading.Event(), threading.Barrier(3)
order = []


def meet(n):
    barrier.wait(10)
    event.wait(10)
    with lock:
        order.append(n)


threads = [threading.Thread(target=meet, args=(n,)) for n in range(3)]
[thread.start() for thread in threads]
time.sleep(0.05)
print(order)
event.set()
[thread.join() for thread in threads]
print(sorted(order))
print(event.wait(0.01), threading.Event().wait(0.05))
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(lambda n: n * 2, range(500))))
timer = threading.Timer(0.05, lambda: print("timer"))
timer.start()
timer.join()
start = time.monotonic()
print(
    threading.Lock().acquire(timeout=0.1),
    lock.acquire(timeout=0.1),
    lock.acquire(timeout=0.1),
    time.monotonic() - start >= 0.09,
)
