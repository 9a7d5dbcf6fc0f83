"""Attempts to use up the machine: processor, memory, processes, disk, output."""

from tests.sandboxes.hostile.attempt import Attempt

_SHORT = {"cpu_seconds": 0.4, "wall_seconds": 30.0}
_SLEEP = {"wall_seconds": 0.7}
_DEEP = {"cpu_seconds": 40.0, "wall_seconds": 100.0}  # it takes several seconds to fill memory
_CROWD = {"wall_seconds": 4.0}  # whose start alone takes a busy machine a while


def _bomb(name: str, code: str, *outcomes: str, **more: object) -> Attempt:
    return Attempt(name=name, kind="bomb", code=code, outcomes=outcomes, **more)  # type: ignore[arg-type]


ATTEMPTS = [
    _bomb("a loop", "show()\nwhile True: pass", "timed_out", limits=_SHORT),
    _bomb(
        "loops in eight processes",
        "show()\nfor _ in range(3): os.fork()\nwhile True: pass",
        "timed_out",
        limits=_SHORT,
    ),
    _bomb(
        "a loop that ignores every signal",
        "show()\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\nwhile True: pass",
        "timed_out",
        limits=_SHORT,
    ),
    _bomb(
        "loops in children that end",
        "show()\nwhile True:\n  if os.fork() == 0:\n"
        "    end = time.process_time() + 0.1\n    while time.process_time() < end: pass\n"
        "    os._exit(0)\n  os.wait()",
        "timed_out",
        limits=_SHORT,
    ),
    _bomb("a sleep", "time.sleep(600)", "timed_out", limits=_SLEEP),
    _bomb("a stop", "os.kill(os.getpid(), 19); time.sleep(600)", "timed_out", limits=_SLEEP),
    _bomb(
        "processes",
        "show()\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        "timed_out",
        limits=_SHORT,
    ),
    _bomb(
        "processes that double and sleep",
        "show()\nfor _ in range(10):\n  try: os.fork()\n  except OSError: pass\ntime.sleep(600)",
        "timed_out",
        limits=_CROWD,
    ),
    _bomb(
        "threads",
        "show()\ndef wait(): time.sleep(600)\ntry:\n  for _ in range(5000):\n"
        "    threading.Thread(target=wait, daemon=True).start()\n"
        "except RuntimeError: pass\ntime.sleep(600)",
        "timed_out",
        limits=_CROWD,
    ),
    _bomb(
        "memory in one process",
        "show()\nx = []\nwhile True: x.append(bytearray(b'x') * (1 << 24))",
        "out_of_memory",
        "exited",
    ),
    _bomb(
        "memory in many processes",
        "show()\nfor _ in range(3):\n  os.fork()\nx = bytearray(b'x') * (60 << 20)\ntime.sleep(5)",
        "out_of_memory",
        without_cgroup=("timed_out", "exited"),
        limits={"wall_seconds": 4.0},
    ),
    _bomb(
        "memory, hidden from the memory killer",
        "open('/proc/self/oom_score_adj', 'w').write('0'); show()\nx = []\n"
        "while True:\n  try:\n    if os.fork() == 0: x.append(bytearray(b'x') * (1 << 21))\n"
        "  except OSError: pass",
        "out_of_memory",
        "timed_out",
        limits=_SHORT | {"cpu_seconds": 1.0},
    ),
    _bomb(
        "memory that only maps",
        "import mmap\nx = []\ntry:\n  while len(x) < 4000:\n"
        "    x.append(mmap.mmap(-1, 1 << 30, flags=0x4022))\n"
        "except (OSError, ValueError): pass\nfor m in x:\n  m[0] = 1\nprint(len(x))",
        "exited",
        "out_of_memory",
    ),
    _bomb(
        "memory in files without a name",
        "show()\nx = []\nfor _ in range(8):\n  f = os.memfd_create('x'); x.append(f)\n"
        "  try:\n    for _ in range(512): os.write(f, bytes(1 << 20))\n  except OSError: pass",
        "exited",
        "out_of_memory",
        limits=_SHORT | {"cpu_seconds": 2.0},
    ),
    _bomb(
        "memory in pipes and sockets",
        "x = []\ntry:\n  while True:\n    a, b = socket.socketpair(); x += [a, b]\n"
        "    a.setblocking(False)\n    try:\n      while True: a.send(bytes(65536))\n"
        "    except BlockingIOError: pass\nexcept OSError: pass",
        "exited",
        "out_of_memory",
    ),
    _bomb("the disk", "tell(lambda: fill('/tmp/fill'))", "exited"),
    _bomb(
        "the disk, in many files",
        "try:\n  for n in range(4096): fill('/tmp/%d' % n, 1 << 20)\nexcept OSError: pass",
        "exited",
    ),
    _bomb("shared memory", "tell(lambda: fill('/dev/shm/fill'))", "exited"),
    _bomb(
        "disk and memory together",
        "tell(lambda: fill('/tmp/fill', 60 << 20)); tell(lambda: fill('/dev/shm/f', 60 << 20))\n"
        "x = []\nwhile True: x.append(bytearray(b'x') * (1 << 22))",
        "out_of_memory",
        "exited",
        limits={"tmp_bytes": float(64 << 20)},
    ),
    _bomb(
        "many files",
        "n = 0\ntry:\n  while n < 20000:\n    os.mkdir('/tmp/%d' % n); n += 1\n"
        "except OSError: pass\nprint(n)",
        "exited",
        "out_of_memory",
        "timed_out",
    ),
    _bomb(
        "a large hole",
        "f = os.open('/tmp/hole', 66)\ntell(lambda: os.ftruncate(f, 1 << 40))\n"
        "tell(lambda: os.posix_fallocate(f, 0, 1 << 33))",
        "exited",
    ),
    _bomb(
        "descriptors", "x = []\ntell(lambda: [x.append(os.pipe()) for _ in range(5000)])", "exited"
    ),
    _bomb("a flood of output", "while True: os.write(1, bytes(65536))", "output_limit"),
    _bomb("a flood of errors", "while True: os.write(2, bytes(65536))", "output_limit"),
    _bomb(
        "a flood from many processes",
        "for _ in range(3): os.fork()\nwhile True: os.write(1, bytes(4096))",
        "output_limit",
    ),
    _bomb(
        "deep recursion",
        "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "exited",
        "out_of_memory",
        limits=_DEEP,
    ),
    _bomb("a crash", "ctypes.string_at(8)", "exited"),
    _bomb(
        "a crash that dumps its memory",
        "import resource\ntell(lambda: resource.setrlimit(4, (-1, -1)))\n"
        "libc.prctl(4, 1, 0, 0, 0)\nx = b'{earlier}' * 1000\nos.abort()",
        "exited",
    ),
    _bomb(
        "timers and queues",
        "import ctypes\nx = []\nfor n in range(3000):\n"
        "  i = ctypes.c_int(); x.append(libc.timer_create(1, None, ctypes.byref(i)))\n"
        "  libc.syscall(240, b'q%d' % n, 66, 0o600, None)",
        "exited",
    ),
]
