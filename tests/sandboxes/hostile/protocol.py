"""Attempts to lie to the host about how the run went, or to make it count as our fault."""

from tests.sandboxes.hostile.attempt import Attempt


def _lie(name: str, code: str, *outcomes: str, **more: object) -> Attempt:
    return Attempt(name=name, kind="protocol", code=code, outcomes=outcomes, **more)  # type: ignore


ATTEMPTS = [
    _lie(
        "words of ours on every descriptor",
        "words = [b'ended 0', b'begun', b'go\\n', b'{{\"exit-code\": 0}}\\n', b'failed', b'1']\n"
        "for n in range(3, 256):\n  for w in words:\n    try: os.write(n, w)\n"
        "    except OSError: pass\nsys.exit(7)",
        "exited",
    ),
    _lie(
        "a report at the end of the output",
        "os.write(1, b'\\nended 0 1 0'.ljust(128)); os._exit(7)",
        "exited",
    ),
    _lie(
        "a report from a child that is faster",
        "if os.fork() == 0:\n"
        "  while True: os.write(1, b'ended 0 1 0'.ljust(64)); time.sleep(0.01)\nos._exit(7)",
        "exited",
    ),
    _lie(
        "the exit status of a launcher that failed",
        "sys.stderr.write('sandbox: setns: Operation not permitted\\nbwrap: failed\\n'); "
        "sys.exit(125)",
        "exited",
    ),
    _lie("a death by the killing signal", "os.kill(os.getpid(), 9)", "exited"),
    _lie(
        "a death in the middle of all children",
        "for _ in range(4):\n  if os.fork() == 0: time.sleep(600)\nos.kill(-1, 9); os._exit(7)",
        "exited",
        "timed_out",
        limits={"wall_seconds": 2.0},
    ),
    _lie(
        "kill process one",
        "for s in range(1, 65):\n  for p in (1, os.getppid()):\n    try: p and os.kill(p, s)\n"
        "    except OSError: pass\nsys.exit(7)",
        "exited",
    ),
    _lie(
        "stop the parent",
        "for p in (1, os.getppid()):\n  try: p and os.kill(p, 19)\n  except OSError: pass\n"
        "sys.exit(7)",
        "exited",
    ),
    _lie(
        "corrupt process one",
        "try:\n  for line in open('/proc/1/maps'):\n    if ' rw' in line:\n"
        "      a, b = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "      m = open('/proc/1/mem', 'r+b', 0); m.seek(a); m.write(bytes(b - a))\n"
        "except OSError: pass\nsys.exit(7)",
        "exited",
        "timed_out",
        limits={"wall_seconds": 2.0},
    ),
    _lie(
        "leave through a fork",
        "pid = os.fork()\nos._exit(7 if pid else 0)",
        "exited",
    ),
    _lie(
        "break the interpreter",
        "import atexit, builtins\nos._exit = sys.exit = lambda *a: None\n"
        "atexit._run_exitfuncs = lambda: 1 / 0\nbuiltins.compile = None\n"
        "signal.raise_signal(6)",
        "exited",
    ),
    _lie(
        "an exit that never comes",
        "import atexit\natexit.register(lambda: time.sleep(600))",
        "timed_out",
        limits={"wall_seconds": 0.7},
    ),
    _lie("a limit of time, told as an exit", "os.kill(os.getpid(), signal.SIGXCPU)", "timed_out"),
    _lie(
        "no memory left for our own",
        "try: fill('/tmp/fill')\nexcept OSError: pass\ntry: fill('/dev/shm/fill')\n"
        "except OSError: pass\nx = []\ntry:\n  while True: x.append(os.memfd_create('x')); "
        "os.write(x[-1], bytes(1 << 20))\nexcept OSError: pass\nos._exit(7)",
        "out_of_memory",
        "exited",
        limits={"tmp_bytes": float(64 << 20), "cpu_seconds": 3.0},
    ),
]
