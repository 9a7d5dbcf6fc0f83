"""Attempts to outlive the run, or to make its end take for ever."""

from tests.sandboxes.hostile.attempt import Attempt

_DEAF = (
    "for s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
    "  except (OSError, ValueError): pass\n"
)
_WORK = {
    "a daemon": (
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    show(); time.sleep(600)\n"
        "  os._exit(0)\nos.wait(); time.sleep(0.05)"
    ),
    "a daemon that holds the output": (
        "if os.fork() == 0:\n  os.setsid(); show(); time.sleep(600)\ntime.sleep(0.05)"
    ),
    "a daemon that ignores every signal": (
        f"if os.fork() == 0:\n  os.setsid(); show()\n  {_DEAF.replace(chr(10), chr(10) + '  ')}\n"
        "  while True: time.sleep(600)\ntime.sleep(0.05)"
    ),
    "ten daemons": (
        "for _ in range(10):\n  if os.fork() == 0:\n    os.setsid(); show(); time.sleep(600)\n"
        "time.sleep(0.05)"
    ),
    "a chain of processes": (
        "if os.fork() == 0:\n  show()\n  while True:\n"
        "    if os.fork() > 0: os._exit(0)\n    time.sleep(0.001)\ntime.sleep(0.05)"
    ),
    "a stopped child": (
        "child = os.fork()\nif child == 0:\n  show(); os.kill(os.getpid(), 19); time.sleep(600)\n"
        "time.sleep(0.05)"
    ),
    "a child in vfork": (
        "child = os.fork()\nif child == 0:\n  show()\n"
        "  os.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 600'], {{}}); time.sleep(600)\n"
        "time.sleep(0.05)"
    ),
    "a thread that goes on after the main one": (
        "show()\ndef go():\n  while True: time.sleep(1)\n"
        "threading.Thread(target=go).start()\ncall(60, 0)"
    ),
    "closed streams": "os.close(0); os.close(1); os.close(2); show(); time.sleep(0.05)",
    "closed streams and a sleep": "os.close(0); os.close(1); os.close(2); show(); time.sleep(600)",
    "shared memory of the system": (
        "show(); i = libc.shmget({key}, 4096, 0o1666); libc.semget({key}, 1, 0o1666); "
        "libc.msgget({key}, 0o1666)"
    ),
    "files in shared folders": (
        "show()\nfor f in ('/tmp', '/dev/shm', '/var/tmp', '/run', '/dev/mqueue'):\n"
        "  tell(lambda: open(f + '/{marker}', 'w').write('left'))"
    ),
}

ATTEMPTS = [
    Attempt(name=name, kind="survivor", code=code, limits={"wall_seconds": 1.5})
    for name, code in _WORK.items()
]
