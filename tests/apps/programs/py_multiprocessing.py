import multiprocessing
import os
import sys
from multiprocessing import shared_memory


def square(n):
    return n * n


def child(queue, connection, value, event):
    queue.put(("from child", os.getppid() > 0))
    connection.send(connection.recv() + 1)
    with value.get_lock():
        value.value += 5
    event.set()


def fill(name):
    block = shared_memory.SharedMemory(name=name)
    block.buf[:5] = b"hello"
    block.close()


def die():
    os.kill(os.getpid(), 9)


def main(method):
    context = multiprocessing.get_context(method)
    queue, event, value = context.Queue(), context.Event(), context.Value("i", 10)
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(queue, theirs, value, event))
    process.start()
    ours.send(41)
    print(method, queue.get(timeout=30), ours.recv(), event.wait(30))
    process.join()
    print(process.exitcode, value.value)
    with context.Pool(3) as pool:
        print(pool.map(square, range(50))[-1], sum(pool.imap_unordered(square, range(100), chunksize=7)))
        print(pool.apply_async(square, (9,)).get(30))
    block = shared_memory.SharedMemory(create=True, size=4096)
    process = context.Process(target=fill, args=(block.name,))
    process.start()
    process.join()
    print(bytes(block.buf[:5]))
    block.close()
    block.unlink()
    process = context.Process(target=die)
    process.start()
    process.join()
    print(process.exitcode)
    if method != "fork":
        return
    with context.Manager() as manager:
        table = manager.dict()
        table["a"] = 1
        print(dict(table))
    array = context.Array("d", 3)
    array[1] = 2.5
    print(list(array))
    lock = context.Lock()
    print(lock.acquire(), lock.acquire(timeout=0.05))


if __name__ == "__main__":
    main(sys.argv[1])
