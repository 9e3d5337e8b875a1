import http.client
import http.server
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

open("page.txt", "w").write("a page\n" * 1000)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.end_headers()
        self.wfile.write(body[::-1])


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
thread = threading.Thread(target=server.serve_forever)
thread.start()
base = f"http://127.0.0.1:{server.server_port}"
print(len(urllib.request.urlopen(base + "/page.txt").read()))
print("page.txt" in urllib.request.urlopen(base).read().decode())
answer = urllib.request.urlopen(base, data=b"posted")
print(answer.status, answer.read())
try:
    urllib.request.urlopen(base + "/missing")
except urllib.error.HTTPError as error:
    print(error.code)
with ThreadPoolExecutor(8) as pool:
    print(sum(len(urllib.request.urlopen(base + "/page.txt").read()) for _ in pool.map(int, range(40))))
connection = http.client.HTTPConnection("localhost", server.server_port)
connection.request("HEAD", "/page.txt")
print(connection.getresponse().getheader("Content-Length"))
server.shutdown()
thread.join()
server.server_close()
try:
    urllib.request.urlopen(base, timeout=5)
except urllib.error.URLError as error:
    print(error.reason)
