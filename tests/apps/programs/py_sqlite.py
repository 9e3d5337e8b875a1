import os
import sqlite3
import threading

database = sqlite3.connect("file.db")
print(database.execute("pragma journal_mode = wal").fetchone())
database.execute("create table t (k integer primary key, v text)")
with database:
    database.executemany("insert into t (v) values (?)", ((f"value {n}",) for n in range(5000)))
print(database.execute("select count(*), sum(length(v)) from t").fetchone())
pid = os.fork()
if pid == 0:
    other = sqlite3.connect("file.db", timeout=20)
    with other:
        other.execute("update t set v = 'child' where k <= 10")
    other.close()
    os._exit(0)
print(os.waitpid(pid, 0)[1])
print(database.execute("select count(*) from t where v = 'child'").fetchone())


def write(n):
    own = sqlite3.connect("file.db", timeout=30)
    for i in range(10):
        with own:
            own.execute("insert into t (v) values (?)", (f"thread {n} {i}",))
    own.close()


threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(database.execute("select count(*) from t where v like 'thread%'").fetchone())
try:
    blocker = sqlite3.connect("file.db", isolation_level=None)
    blocker.execute("begin immediate")
    sqlite3.connect("file.db", timeout=0.1).execute("insert into t (v) values ('x')")
except sqlite3.OperationalError as error:
    print(error)
blocker.execute("rollback")
print(database.execute("pragma integrity_check").fetchone())
database.execute("vacuum")
database.close()
print(sorted(name for name in os.listdir(".") if name.startswith("file.db")))
