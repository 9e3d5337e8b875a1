"""Servers and their clients over the sandbox's own loopback."""

from __future__ import annotations

import re

WAIT = 'wait_for() { for i in $(seq 200); do "$@" >/dev/null 2>&1 && return 0; sleep 0.05; done; echo "never ready: $*"; return 1; }; '


def requests_only(text: str) -> str:
    """redis-benchmark's figures differ; that each test finished does not."""
    return re.sub(r"\d+\.\d+", "N", text)


def test_redis(compare, needs) -> None:
    needs("redis-server", "redis-cli", "redis-benchmark")
    compare(
        WAIT + "redis-server --port 7379 --unixsocket $PWD/s --dir $PWD --save '' --appendonly yes --daemonize no > log 2>&1 & "
        "wait_for redis-cli -p 7379 ping; redis-cli -p 7379 set k v; redis-cli -s s get k; "
        "redis-benchmark -p 7379 -n 3000 -c 20 -t get,set -q | tr '\\r' '\\n' | grep -c 'requests per second, p50'; "
        "redis-benchmark -s s -n 3000 -c 20 -t lpush,incr -q | tr '\\r' '\\n' | grep -c 'requests per second, p50'; "
        "redis-cli -p 7379 incrby counter:__rand_int__ 0 > /dev/null; redis-cli -p 7379 bgsave; wait_for test -s dump.rdb; "
        "redis-cli -p 7379 shutdown nosave; wait; echo $?; ls -d appendonlydir dump.rdb",
        timeout=60,
    )


def test_sqlite(compare, needs) -> None:
    needs("sqlite3")
    compare(
        "sqlite3 f.db 'create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) "
        "insert into t select i, i * i from n; create index x on t(b); select sum(b) from t'; sqlite3 f.db .dump | md5sum; "
        "sqlite3 f.db 'pragma integrity_check; vacuum'; stat -c %s f.db; for i in 1 2 3 4; do sqlite3 -cmd '.timeout 20000' f.db "
        "\"insert into t values($i, 'p')\" & done; wait; sqlite3 f.db \"select count(*) from t where b = 'p'\""
    )


NGINX = """
worker_processes 2; daemon off; pid nginx.pid; error_log error.log;
events { worker_connections 64; }
http { access_log access.log; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s; sendfile on;
  server { listen 127.0.0.1:7380; root .; location /status { return 204; } location /proxy/ { proxy_pass http://127.0.0.1:7381/; } }
  server { listen 127.0.0.1:7381; root .; } }
"""


def test_nginx(compare, needs) -> None:
    needs("nginx", "curl")
    compare(
        WAIT + f"cat > nginx.conf <<'EOF'\n{NGINX}EOF\n"
        "chmod 755 .; seq 20000 > file; nginx -p $PWD -c nginx.conf > out 2>&1 & server=$!; wait_for curl -sf http://127.0.0.1:7380/file; "
        "curl -s http://127.0.0.1:7380/file | md5sum; curl -s http://127.0.0.1:7380/proxy/file | md5sum; "
        "curl -s -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:7380/missing http://127.0.0.1:7380/status; "
        "curl -s -r 5-20 http://127.0.0.1:7380/file | od -c | head -1; seq 30 | xargs -P8 -I{} curl -s http://127.0.0.1:7380/file -o got{}; "
        "cat got* | wc -c; kill -HUP $server; sleep 0.3; curl -s http://localhost:7380/file | wc -l; kill -QUIT $server; wait $server; echo $?; wc -l < access.log",
        timeout=60,
        normalise=lambda text: "\n".join(text.splitlines()[:-1]),
    )


def test_postgres(compare, needs, caller) -> None:
    """initdb refuses root, so there the `postgres` user runs it, inside as natively."""
    needs("initdb", "pg_ctl", "pgbench", "psql", "setpriv")
    become = "setpriv --reuid=postgres --regid=postgres --clear-groups " if caller.owner[0] == 0 else ""
    options = () if caller.owner[0] == 0 else ("--user", "caller")
    script = (
        "export PGHOST=$PWD PGPORT=7432 PGDATA=$PWD/data HOME=$PWD; initdb -A trust -U postgres --no-sync > log && "
        'pg_ctl -w -o "-k $PWD -c listen_addresses=127.0.0.1 -c shared_buffers=16MB -c fsync=off" -l server.log start > log2; echo $?; '
        "psql -U postgres -Atc 'create table t(a int); insert into t select generate_series(1, 1000); select sum(a) from t'; "
        "psql -U postgres -h 127.0.0.1 -Atc 'select 6 * 7'; createdb -U postgres bench && pgbench -U postgres -q -i -s 1 bench 2>/dev/null && "
        "pgbench -U postgres -c 4 -j 2 -t 50 bench 2>/dev/null | grep 'actually processed'; pg_ctl -m fast -w stop > log3; echo $?; tail -1 server.log | sed 's/.*LOG/LOG/'"
    )
    quoted = script.replace("'", "'\\''")
    setup = "mkdir p; " + ("chown postgres p; " if become else "") + "cd p; "
    compare(f"{setup}{become}sh -c '{quoted}'", options=options, timeout=90)


def test_netcat_style_traffic(compare, needs) -> None:
    """ip, ss and curl against a Python server: what netlink must answer."""
    needs("ip", "ss", "curl", "/usr/bin/python3")
    compare(
        WAIT
        + "ip -o addr show lo | grep -o 'inet 127.0.0.1/8'; ip route show > /dev/null; echo $?; ip -o link show lo | grep -o LOOPBACK; "
        "/usr/bin/python3 -m http.server 7383 --bind 127.0.0.1 > /dev/null 2>&1 & wait_for curl -s http://127.0.0.1:7383/; "
        "ss -Htln 'sport = 7383' | awk '{print $1, $4}'; getent hosts localhost | wc -l; kill $!; wait $! 2> /dev/null; echo $?"
    )
