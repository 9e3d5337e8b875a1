import asyncio
import signal
import os


async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def client(n):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i in range(20):
            writer.write(f"hello {n} {i}\n".encode())
            assert await reader.readline() == f"HELLO {n} {i}\n".encode()
        writer.close()
        await writer.wait_closed()
        return n

    print(sum(await asyncio.gather(*(client(n) for n in range(30)))))
    unix = await asyncio.start_unix_server(echo, "sock")
    reader, writer = await asyncio.open_unix_connection("sock")
    writer.write(b"unix\n")
    print(await reader.readline())
    writer.close()
    unix.close()
    server.close()

    process = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    print(await process.communicate(b"through cat"), process.returncode)
    processes = [await asyncio.create_subprocess_shell(f"sleep 0.1; exit {n}") for n in range(10)]
    print([await process.wait() for process in processes])
    process = await asyncio.create_subprocess_exec("sleep", "9")
    process.terminate()
    print(await process.wait())

    caught = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, caught.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(caught.wait(), 5)
    try:
        await asyncio.wait_for(asyncio.sleep(9), 0.1)
    except asyncio.TimeoutError:
        print("timeout")
    print(await asyncio.to_thread(sum, range(10)))
    print(len(await loop.getaddrinfo("127.0.0.1", 80)) > 0)

    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            self.transport.sendto(data[::-1], address)

    transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    answer = loop.create_future()

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            answer.set_result(data)

    client_transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=transport.get_extra_info("sockname"))
    client_transport.sendto(b"abc")
    print(await asyncio.wait_for(answer, 5))
    transport.close()
    client_transport.close()


asyncio.run(main())
