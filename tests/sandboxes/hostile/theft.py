"""Attempts to learn what the host knows: files, environment, descriptors, memory, other runs."""

from tests.sandboxes.hostile.attempt import Attempt, held

_DUMP = (
    "def dump(path):\n"
    "  try: print(path, open(os.open(path, 2048), 'rb', 0).read(1 << 20), flush=True)\n"
    "  except OSError as error: print(path, error, flush=True)\n"
)

READS = held(
    "theft",
    {
        "a file by its path": _DUMP + "dump('{secret}')",
        "a file by a link": _DUMP + "os.symlink('{secret}', '/tmp/link'); dump('/tmp/link')",
        "a file by a hard link": (
            _DUMP + "tell(lambda: os.link('{secret}', '/tmp/hard')); dump('/tmp/hard')"
        ),
        "a file by climbing": (
            _DUMP + "for up in ('../' * 32, '/proc/self/root/../..', '/proc/1/root', "
            "'/proc/1/cwd/../../..', '/proc/self/cwd/' + '../' * 16): dump(up + '{secret}')"
        ),
        "a file by a process of the machine": (
            _DUMP + "for f in ('root{secret}', 'cwd/x', 'environ', 'cmdline', 'maps'): "
            "dump('/proc/{pid}/' + f)"
        ),
        "password hashes": _DUMP + "dump('/etc/shadow'); dump('/etc/passwd'); dump('/etc/gshadow')",
        "homes and configuration": (
            "for f in ('/root', '/home', '/var', '/etc', '/srv', '/opt', '/run', '/mnt'):\n"
            "  for where, folders, files in os.walk(f):\n"
            "    for name in files:\n      try:\n"
            "        data = open(os.path.join(where, name), 'rb').read(1 << 16)\n"
            "      except OSError: continue\n"
            "      print(where, name, data[:2000])\n"
        ),
        "the environment": (
            _DUMP + "print(dict(os.environ)); dump('/proc/self/environ'); dump('/proc/1/environ')"
        ),
        "every process's words": (
            _DUMP + "for n in os.listdir('/proc'):\n"
            "  if n.isdigit():\n"
            "    for f in ('environ', 'cmdline', 'comm'): dump(f'/proc/{{n}}/{{f}}')"
        ),
        "open descriptors": (
            "for n in range(3, 1024):\n"
            "  try: print(n, os.readlink('/proc/self/fd/%d' % n), os.read(n, 4096), flush=True)\n"
            "  except OSError: pass"
        ),
        "descriptors of process one": (_DUMP + "for n in range(64): dump('/proc/1/fd/%d' % n)"),
        "memory of process one": (
            "def go():\n"
            "  for line in open('/proc/1/maps'):\n"
            "    if ' rw' in line:\n"
            "      a, b = (int(x, 16) for x in line.split()[0].split('-'))\n"
            "      m = open('/proc/1/mem', 'rb', 0); m.seek(a); d = m.read(b - a)\n"
            "      i = d.find(b'{needle}'[::-1])\n"
            "      if i >= 0: print(d[i:i + 64])\ntell(go)"
        ),
        "memory of a process of the machine": (
            "b = ctypes.create_string_buffer(64); i = struct.pack('QQ', ctypes.addressof(b), 64)\n"
            "r = struct.pack('QQ', {bystander_address}, 64)\n"
            "tell(lambda: call(310, {pid}, i, 1, r, 1, 0))\n"
            "print(b.raw)"
        ),
        "the kernel's addresses": (
            _DUMP + "dump('/proc/kcore'); dump('/proc/kpageflags'); dump('/proc/1/stack')"
        ),
        "what the last program left in files": (
            "for f in ('/tmp', '/dev/shm', '/dev/mqueue', '/var/tmp', '/run', '/workspace'):\n"
            "  for where, folders, files in os.walk(f):\n"
            "    for name in files: print(open(os.path.join(where, name), 'rb').read())"
        ),
        "what the last program left in memory": (
            "needle = b'{needle}'[::-1]\n"
            "for line in open('/proc/self/maps'):\n"
            "  if ' rw' in line and 'vvar' not in line:\n"
            "    a, b = (int(x, 16) for x in line.split()[0].split('-'))\n"
            "    try:\n"
            "      m = open('/proc/self/mem', 'rb', 0); m.seek(a); d = m.read(b - a)\n"
            "    except OSError: continue\n"
            "    i = d.find(needle)\n"
            "    if i >= 0: print(d[i:i + 64])"
        ),
    },
)

SHARED = [
    Attempt(
        name="leave a secret for the next program",
        kind="theft",
        code=(
            "left = '{earlier}'\n"
            "for f in ('/tmp/left', '/dev/shm/left'): open(f, 'w').write(left)\n"
            "i = libc.shmget(77, 4096, 0o1666); libc.shmat.restype = ctypes.c_void_p\n"
            "if i >= 0: ctypes.memmove(libc.shmat(i, None, 0), left.encode(), len(left))"
        ),
        outcomes=("exited",),
    ),
    Attempt(
        name="find the last program's shared memory",
        kind="theft",
        code=(
            "i = libc.shmget(77, 0, 0)\nlibc.shmat.restype = ctypes.c_void_p\n"
            "if i >= 0: print(ctypes.string_at(libc.shmat(i, None, 0), 64))"
        ),
        outcomes=("exited",),
    ),
]

ATTEMPTS = [*SHARED, *READS]
