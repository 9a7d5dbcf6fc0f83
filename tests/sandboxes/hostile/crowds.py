"""Attempts by number: descriptors in flight, odd names, odd families of processes, odd ends."""

from tests.sandboxes.hostile.attempt import Attempt


def _attempt(kind: str, name: str, code: str, *outcomes: str, **limits: float) -> Attempt:
    return Attempt(kind=kind, name=name, code=code, outcomes=outcomes, limits=limits)


BOMBS = [
    _attempt(
        "bomb",
        "descriptors in flight",
        "x=[]\ntry:\n  for _ in range(200):\n"
        "    p,q=socket.socketpair(); r=os.open('/dev/null',0); x+=[p,q]\n    try:\n"
        "      while True: socket.send_fds(p,[b'x'],[r]*200)\n    except OSError as e: pass\n"
        "    break\nexcept OSError: pass\nif os.fork()==0: time.sleep(2)\n",
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
        wall_seconds=4.0,
    ),
    _attempt(
        "bomb",
        "descriptors in flight from many processes",
        "for _ in range(3): os.fork()\n"
        "p,q=socket.socketpair(); r=os.open('/dev/null',0); p.setblocking(False)\n"
        "for _ in range(400):\n  try: socket.send_fds(p,[b'x'],[r]*250)\n"
        "  except OSError: pass\ntime.sleep(1)",
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
        wall_seconds=3.0,
    ),
    _attempt(
        "bomb",
        "watches and events",
        "import select\nx=[]\nfor _ in range(4000):\n  f=libc.inotify_init1(0)\n"
        "  if f<0: break\n  x.append(f)\nfor f in x[:8]:\n"
        "  for n in range(3000): libc.inotify_add_watch(f,b'/usr/bin',0xfff)\nprint(len(x))",
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
    ),
    _attempt(
        "bomb",
        "large pipes",
        "import fcntl\nx=[]\ntry:\n  while True:\n"
        "    p=os.pipe(); x.append(p); fcntl.fcntl(p[1],1031,1<<20); "
        "os.set_blocking(p[1],False); os.write(p[1],bytes(1<<20))\nexcept OSError: pass\n"
        "print(len(x))",
        "exited",
        "out_of_memory",
    ),
    _attempt(
        "bomb",
        "long and strange names",
        "for n in ('x'*255,'\\n\\033[2J','..\\\\..','-rf *',' ','\\udcff'):\n"
        "  try: open('/tmp/'+n,'w').write('x'); os.symlink('{secret}','/tmp/'+n+'l')\n"
        "  except OSError: pass\n"
        "os.mkfifo('/tmp/stdin'); os.symlink('/dev/zero','/tmp/out'); "
        "os.chmod('/tmp/stdin',0o6777)",
        "exited",
    ),
    _attempt(
        "bomb",
        "output that is no text",
        "for _ in range(200): os.write(1, bytes(range(256))*16); "
        "os.write(2,b'\\xff\\x00\\033]0;x\\007'*100)",
        "exited",
        "output_limit",
    ),
    _attempt(
        "bomb",
        "processors in grandchildren only",
        "if os.fork()==0:\n  os.setsid()\n  if os.fork()==0:\n    while True: pass\n"
        "  os._exit(0)\ntime.sleep(600)",
        "timed_out",
        cpu_seconds=0.4,
        wall_seconds=30.0,
    ),
    _attempt(
        "bomb",
        "zombies",
        "n=0\ntry:\n  while n<5000:\n    if os.fork()==0: os._exit(0)\n    n+=1\n"
        "except OSError: pass\ntime.sleep(0.1); print(n)",
        "exited",
        "timed_out",
        wall_seconds=6.0,
    ),
    _attempt(
        "bomb",
        "stop everything, children first",
        "for _ in range(5):\n  if os.fork()==0: time.sleep(600)\nos.kill(-1,19); time.sleep(600)",
        "timed_out",
        wall_seconds=4.0,
    ),
    _attempt(
        "bomb",
        "shared memory of the system, much",
        "import ctypes\nx=[]\nlibc.shmat.restype=ctypes.c_void_p\nfor n in range(100):\n"
        "  i=libc.shmget(0,8<<20,0o1600)\n  if i<0: break\n  p=libc.shmat(i,None,0)\n"
        "  if p in (None,2**64-1): break\n  ctypes.memset(p,1,8<<20)\nprint(n)",
        "exited",
        "out_of_memory",
    ),
    _attempt(
        "bomb",
        "signals in a queue",
        "signal.pthread_sigmask(0,range(1,65))\nfor _ in range(100000):\n"
        "  if libc.sigqueue(os.getpid(),40,None): break",
        "exited",
        "timed_out",
    ),
    _attempt(
        "bomb",
        "an exception that never ends to print",
        "class E(Exception):\n  def __str__(self): return 'x'*(1<<27)\nraise E",
        "exited",
        "output_limit",
        "out_of_memory",
    ),
    _attempt(
        "bomb",
        "loops that let all others go first",
        "show()\nos.nice(19); os.sched_setscheduler(0,5,os.sched_param(0))\n"
        "try: open('/proc/self/autogroup','w').write('19')\nexcept OSError: pass\n"
        "while True: pass",
        "timed_out",
        cpu_seconds=0.4,
        wall_seconds=30.0,
    ),
]

SURVIVORS = [
    _attempt(
        "survivor",
        "a child that changed its name and group",
        "if os.fork()==0:\n"
        "  os.setsid(); os.setpgid(0,0); show(); os.chdir('/'); "
        "os.closerange(0,64); time.sleep(600)\ntime.sleep(0.05)",
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
        wall_seconds=3.0,
    ),
    _attempt(
        "survivor",
        "an orphan of an orphan that is stopped",
        "if os.fork()==0:\n  if os.fork()==0:\n"
        "    show(); os.kill(os.getpid(),19); time.sleep(600)\n  os._exit(0)\n"
        "os.wait(); time.sleep(0.05)",
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
        wall_seconds=3.0,
    ),
    _attempt(
        "survivor",
        "a subreaper that keeps its orphans",
        "if os.fork()==0:\n  libc.prctl(36,1,0,0,0); os.setsid(); show()\n"
        "  for _ in range(3):\n    if os.fork()==0: time.sleep(600)\n  time.sleep(600)\n"
        "time.sleep(0.05)",
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
        wall_seconds=3.0,
    ),
    _attempt(
        "survivor",
        "a child without a parent-death signal",
        "if os.fork()==0:\n"
        "  libc.prctl(1,0,0,0,0); signal.signal(1,1); signal.signal(15,1); show(); "
        "time.sleep(600)\nos._exit(0)",
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
        wall_seconds=3.0,
    ),
    _attempt(
        "survivor",
        "a child that waits on a file",
        "os.mkfifo('/tmp/f')\nif os.fork()==0:\n  show(); open('/tmp/f').read()\ntime.sleep(0.05)",
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
        wall_seconds=3.0,
    ),
    _attempt(
        "survivor",
        "a shell that traps everything",
        "show()\n"
        "os.spawnv(1,'/bin/sh',['sh','-c',\"trap '' 1 2 3 15; (trap '' 1 15; sleep "
        '600) & sleep 600"]); time.sleep(0.05)',
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
        wall_seconds=3.0,
    ),
    _attempt(
        "survivor",
        "a thread group whose leader is gone",
        "show()\ndef go():\n  if os.fork()==0: time.sleep(600)\n  time.sleep(600)\n"
        "threading.Thread(target=go).start(); time.sleep(0.05)\ncall(60,0)",
        "exited",
        "timed_out",
        "out_of_memory",
        "output_limit",
        wall_seconds=3.0,
    ),
]

LIES = [
    _attempt(
        "protocol",
        "success told to every inherited socket",
        "for n in range(3,1024):\n  try:\n"
        "    s=socket.socket(fileno=os.dup(n)); s.send(b'ended 0')\n  except OSError: pass\n"
        "sys.exit(7)",
        "exited",
    ),
    _attempt(
        "protocol",
        "messages read from every inherited descriptor",
        "for n in range(3,256):\n  try:\n"
        "    os.set_blocking(n,False); print(n, os.read(n,4096), flush=True)\n"
        "  except OSError: pass\nsys.exit(7)",
        "exited",
    ),
    _attempt(
        "protocol",
        "a hook that leaves with success",
        "sys.excepthook=lambda *a: os._exit(3)\n1/0",
        "exited",
    ),
    _attempt(
        "protocol",
        "a leader that ends while a thread fails",
        "def go():\n  time.sleep(0.1); os._exit(7)\n"
        "threading.Thread(target=go).start(); call(60,0)",
        "exited",
    ),
    _attempt(
        "protocol",
        "killed by every signal that dumps",
        "for s in (3,4,5,6,7,8,11,24,25,31):\n  if os.fork()==0: os.kill(os.getpid(),s)\n"
        "  os.wait()\nos.kill(os.getpid(),11)",
        "exited",
    ),
    _attempt(
        "protocol",
        "the broken launcher's status and words",
        "os.write(2,b'sandbox: [Errno 12] Cannot allocate memory\\n'); os._exit(125)",
        "exited",
    ),
    _attempt(
        "protocol",
        "no more descriptors, then failure",
        "import resource\nx=[]\ntry:\n  while True: x.append(os.open('/dev/null',0))\n"
        "except OSError: pass\nsys.exit(7)",
        "exited",
    ),
    _attempt(
        "protocol",
        "a reader of its own output",
        "p='/proc/self/fd/1'\ntry: f=os.open(p,0); os.set_blocking(f,False); os.read(f,10)\n"
        "except OSError: pass\nos._exit(7)",
        "exited",
    ),
    _attempt(
        "protocol",
        "a pipe made small and unblocking",
        "import fcntl\nfor n in (1,2):\n"
        "  try: fcntl.fcntl(n,1031,4096); os.set_blocking(n,False)\n  except OSError: pass\n"
        "for _ in range(50):\n  try: os.write(1,bytes(4096))\n  except OSError: pass\n"
        "os._exit(7)",
        "exited",
    ),
]

ATTEMPTS = [*BOMBS, *SURVIVORS, *LIES]
