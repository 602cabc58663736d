"""What benches/compare and benches/soak share: brokers, mq-bench, and what /proc tells."""

import atexit
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / "benches/.cache"
RUN = CACHE / "run"
STORE = RUN / "store"
VERSION = "5.5.0"
NAMESRV, LISTEN = "127.0.0.1:30876", "127.0.0.1:30911"
BENCH = ROOT / "target/release/mq-bench"

POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>compare</groupId><artifactId>compare</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-broker</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-namesrv</artifactId><version>{VERSION}</version></dependency>
  </dependencies>
</project>
"""


class Trouble(Exception):
    """A broker or a tool that did not do what a figure needs."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def need(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        say(f"{sys.argv[0]}: {', '.join(missing)} needed")
        sys.exit(2)
    if os.cpu_count() < 2:
        say(f"{sys.argv[0]}: two cores are needed, one for the load")
        sys.exit(2)


def prepare(build):
    """Builds what is measured. Many connections need many files; no broker is left behind."""
    if build:
        subprocess.run(["cargo", "build", "--release", "-q", "-p", "mq-broker", "-p", "mq-tools"],
                       cwd=ROOT, check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    shutil.rmtree(RUN, ignore_errors=True)
    (RUN / "home/conf").mkdir(parents=True)


def fetch(jars):
    if (jars / f"rocketmq-broker-{VERSION}.jar").exists():
        return
    say(f"fetching RocketMQ {VERSION}")
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "pom.xml").write_text(POM)
    subprocess.run(["mvn", "-q", "-f", CACHE / "pom.xml", "dependency:copy-dependencies",
                    "-DincludeScope=runtime", f"-DoutputDirectory={jars}"], check=True)


def now_ms():
    return time.monotonic() * 1000


class Broker:
    """A broker with its name server: `ours`, `java`, or `floor`, which is mq-bench's."""

    def __init__(self, kind, ours, jars):
        self.kind, self.ours, self.jars = kind, ours, jars
        self.processes = []
        # Bodies that a floor gives to pulls.
        self.floor_size = 128
        atexit.register(self.kill)

    def launch(self, name, command):
        with open(RUN / f"{self.kind}.{name}.log", "ab") as log:
            env = dict(os.environ, ROCKETMQ_HOME=str(RUN / "home"))
            process = subprocess.Popen(["taskset", "-c", "0", *map(str, command)], env=env,
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)

    def java(self, heap, main, *args):
        home = RUN / "home"
        return ["java", f"-Xms{heap}", f"-Xmx{heap}", f"-Duser.home={home}",
                f"-Drocketmq.log.root={home}/logs", "-cp", f"{self.jars}/*",
                f"org.apache.rocketmq.{main}", *args]

    def start(self, settings=(), fresh=True):
        """Starts it, and gives the milliseconds until the first message is in. A name server of
        its own that is still there is kept."""
        if fresh:
            shutil.rmtree(STORE, ignore_errors=True)
            os.sync()
        conf = {"brokerName": "compare", "brokerIP1": "127.0.0.1",
                "listenPort": LISTEN.split(":")[1], "storePathRootDir": STORE,
                "flushDiskType": "ASYNC_FLUSH", **dict(settings)}
        if self.kind == "java":
            conf["namesrvAddr"] = NAMESRV
        (RUN / "broker.conf").write_text("".join(f"{k}={v}\n" for k, v in conf.items()))
        (RUN / "namesrv.conf").write_text(f"listenPort={NAMESRV.split(':')[1]}\n")
        began = now_ms()
        if self.kind == "ours":
            self.launch("broker", [self.ours, "--store", STORE, "--listen", LISTEN,
                                   "--namesrv-listen", NAMESRV, "-c", RUN / "broker.conf"])
        elif self.kind == "java":
            if not self.processes:
                self.launch("namesrv", self.java("256m", "namesrv.NamesrvStartup",
                                                 "-c", RUN / "namesrv.conf"))
                self.wait_for_port(NAMESRV)
            self.launch("broker", self.java("2g", "broker.BrokerStartup",
                                            "-c", RUN / "broker.conf"))
        else:
            self.launch("broker", [BENCH, "floor", "--listen", LISTEN, "--size", self.floor_size])
        where = ["--broker", LISTEN] if self.kind == "floor" else ["--namesrv", NAMESRV]
        while True:
            try:
                # In short turns, so that a broker that is gone is seen.
                self.bench("send", "--topic", "first", "--count", 1, "--connections", 1,
                           "--wait", "2s", where=where)
                return now_ms() - began
            except Trouble:
                if not self.alive() or now_ms() - began > 120_000:
                    raise

    def wait_for_port(self, addr):
        import socket
        host, port = addr.split(":")
        until = time.monotonic() + 60
        while time.monotonic() < until and self.alive():
            try:
                socket.create_connection((host, int(port))).close()
                return
            except OSError:
                time.sleep(0.005)
        raise Trouble(f"{self.kind}: nothing listens on {addr}, see {RUN}")

    def alive(self):
        return bool(self.processes) and all(p.poll() is None for p in self.processes)

    @property
    def pid(self):
        """The broker's own process; a name server of its own comes before it."""
        return self.processes[-1].pid

    def bench(self, mode, *args, where=("--broker", LISTEN)):
        """Runs mq-bench against it, and gives what it tells."""
        line = ["taskset", "-c", "1", BENCH, mode, *where, "--pid", self.pid, "--json", *args]
        line = [str(word) for word in line]
        done = subprocess.run(line, capture_output=True, text=True)
        # Another process could hold the port.
        if not self.alive():
            raise Trouble(f"{self.kind} is gone, see {RUN}")
        if done.returncode > 1 or not done.stdout:
            raise Trouble(f"{self.kind}: mq-bench {mode}: {done.stderr.strip()}")
        told = json.loads(done.stdout)
        if done.returncode == 1:
            say(f"  {self.kind}: mq-bench {' '.join(line[5:])}: {told.get('errors')} "
                f"missing {told.get('missing', 0)}")
        return told

    def stop(self, keep_namesrv=False):
        """Asks the broker to end, then its name server; gives the milliseconds that it took."""
        began = now_ms()
        try:
            for process in reversed(self.processes[self.kept(keep_namesrv):]):
                process.terminate()
                process.wait(120)
        except subprocess.TimeoutExpired as e:
            raise Trouble(f"{self.kind} does not end") from e
        finally:
            took = now_ms() - began
            self.kill(keep_namesrv)
        return took

    def kill(self, keep_namesrv=False):
        kept = self.kept(keep_namesrv)
        for process in self.processes[kept:]:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        del self.processes[kept:]

    def kept(self, keep_namesrv):
        return len(self.processes) - 1 if keep_namesrv and self.processes else 0

    def memory(self):
        """MiB of broker and name server: resident, and of that what is no mapped file."""
        lines = [line.split() for p in self.processes
                 for line in pathlib.Path(f"/proc/{p.pid}/status").read_text().splitlines()]
        total = lambda name: sum(int(line[1]) for line in lines if line and line[0] == name)
        return total("VmRSS:") / 1024, total("RssAnon:") / 1024

    def cpu_ms(self):
        """CPU time of broker and name server so far, by the scheduler's clock."""
        tasks = [t for p in self.processes for t in pathlib.Path(f"/proc/{p.pid}/task").iterdir()]
        return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks) / 1e6


def disk_flushes():
    """Flushes that the disk below RUN has done since the machine was started."""
    device = os.stat(RUN).st_dev
    for line in pathlib.Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
            return int(fields[18]) if len(fields) > 18 else None
    return None


def disk(size, seconds):
    """What the disk below RUN does of writes of `size` bytes that are synced one by one."""
    line = [BENCH, "disk", "--dir", RUN, "--size", size, "--duration", f"{seconds}s", "--json"]
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True)
    if done.returncode:
        raise Trouble(f"mq-bench disk: {done.stderr.strip()}")
    return json.loads(done.stdout)


def meminfo(name):
    """MiB."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0


def fill_page_cache():
    """Leaves no memory free: pages of the next files come from old ones, as on a machine that
    has been up for a while. On a virtual machine a free page may be none: the host has it back,
    and the first touch waits for the host. A file that is one hole is read, which writes nothing
    and leaves pages that the kernel can drop at once."""
    filler = RUN / "filler"
    with open(filler, "wb") as file:
        file.truncate(int(meminfo("MemTotal")) << 20)
    buffer, enough = bytearray(4 << 20), meminfo("MemTotal") / 64
    with open(filler, "rb", buffering=0) as file:
        while meminfo("MemFree") > enough and file.readinto(buffer):
            pass
