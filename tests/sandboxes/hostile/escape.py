"""Attempts to get out: to the network, to files, to other processes, to more rights."""

from tests.sandboxes.hostile.attempt import held

_TCP = "tell(lambda: socket.create_connection(('{address}', {{port}}), 2).sendall(b'in'))"
_UDP = "tell(lambda: socket.socket(2, 2).sendto(b'in', ('{address}', {{udp_port}})))"

NETWORK = held(
    "escape",
    {
        "tcp to the machine's loopback": _TCP.format(address="127.0.0.1"),
        "tcp to the machine's address": _TCP.format(address="{address}"),
        "tcp to the machine's ipv6 loopback": (
            "tell(lambda: socket.create_connection(('::1', {port}), 2).sendall(b'in'))"
        ),
        "udp to the machine's loopback": _UDP.format(address="127.0.0.1"),
        "udp to the machine's address": _UDP.format(address="{address}"),
        "broadcast": (
            "s = socket.socket(2, 2); s.setsockopt(1, 6, 1)\n"
            "tell(lambda: s.sendto(b'in', ('255.255.255.255', {udp_port})))"
        ),
        "abstract unix socket": (
            "s = socket.socket(1); tell(lambda: (s.connect('\\0{abstract}'), s.send(b'in')))"
        ),
        "unix socket by its path": (
            "s = socket.socket(1); tell(lambda: (s.connect('{unix}'), s.send(b'in')))"
        ),
        "vsock to the hypervisor": (
            "def go():\n  global s\n  s = socket.socket(40, 1); s.settimeout(1)\n"
            "  s.connect((2, {port}))\ntell(go)"
        ),
        "vsock to the machine": (
            "def go():\n  global s\n  s = socket.socket(40, 1); s.settimeout(1)\n"
            "  s.connect((1, {vsock_port}))\ntell(go)"
        ),
        "packet socket": "s = []; tell(lambda: s.append(socket.socket(17, 3, 0x300)))",
        "raw socket": "s = []; tell(lambda: s.append(socket.socket(2, 3, 1)))",
        "crypto socket": "s = []; tell(lambda: s.append(socket.socket(38, 5)))",
        "bluetooth and can sockets": (
            "s = []\nfor family in (29, 31, 44, 16 + 100): tell(lambda: "
            "s.append(socket.socket(family, 3)))"
        ),
        "netlink to the audit log": "s = []; tell(lambda: s.append(socket.socket(16, 3, 9)))",
        "the machine's network namespace": (
            "for n in ('1', 'self', '{pid}'):\n  tell(lambda: call(308, "
            "os.open(f'/proc/{{n}}/ns/net', 0), 0x40000000))"
        ),
    },
)

FILES = held(
    "escape",
    {
        "write to system folders": (
            "for f in ('/', '/usr', '/usr/lib', '/usr/bin', '/etc', '/dev', '/bin'):\n"
            "  tell(lambda: open(f + '/{marker}', 'w').write('x'))"
        ),
        "write to a folder that all may write": (
            "tell(lambda: open('{writable}/{marker}', 'w').write('x'))"
        ),
        "replace a system program": "tell(lambda: open('/usr/bin/env', 'r+b').write(b'x'))",
        "remount read-write": (
            "for f in (b'/', b'/usr', b'/etc'): tell(lambda: call(165, b'', f, b'', 32 | 4096, 0))"
        ),
        "mount": "tell(lambda: call(165, b'none', b'/tmp', b'tmpfs', 0, 0))",
        "mount a new proc": "tell(lambda: call(165, b'proc', b'/tmp', b'proc', 0, 0))",
        "mount with the new calls": (
            "f = call(430, b'tmpfs', 0); tell(lambda: (f, call(431, f, 6, 0, 0, 0), "
            "call(432, f, 0, 0)))\nt = call(428, -100, b'/', 1); tell(lambda: t)"
        ),
        "unmount what covers": (
            "for f in (b'/proc', b'/tmp', b'/dev', b'/dev/shm', b'/mnt', b'/usr'):\n"
            "  tell(lambda: call(166, f, 2))"
        ),
        "pivot root": "tell(lambda: call(155, b'/tmp', b'/tmp'))",
        "chroot out": (
            "d = os.open('/', 0)\ntell(lambda: os.chroot('/tmp'))\n"
            "tell(lambda: (os.fchdir(d), [os.chdir('..') for _ in range(64)], os.chroot('.')))"
        ),
        "make a disk device": (
            "for n in ((8, 0), (254, 0), (259, 0)):\n"
            "  tell(lambda: os.mknod('/tmp/disk%d' % n[0], 0o60666, os.makedev(*n)))\n"
            "  tell(lambda: open('/tmp/disk%d' % n[0], 'rb').read(16))"
        ),
        "devices of the machine": (
            "o = []\nfor f in ('mem', 'kmsg', 'port', 'vda', 'sda', 'fuse', 'kvm', 'net/tun', "
            "'loop-control', 'mapper/control'):\n  tell(lambda: o.append(open('/dev/' + f, 'rb')))"
        ),
        "kernel settings": (
            "for f in ('kernel/hostname', 'kernel/core_pattern', 'vm/drop_caches', 'fs/file-max',\n"
            "    'user/max_user_namespaces', 'kernel/ns_last_pid'):\n"
            "  tell(lambda: open('/proc/sys/' + f, 'w').write('7'))"
        ),
        "magic system request": (
            "o = []; tell(lambda: o.append(open('/proc/sysrq-trigger', 'wb', 0)))"
        ),
        "file handles": (
            "h = struct.pack('=II8s', 8, 1, struct.pack('<II', 2, 0)) + bytes(120)\n"
            "d = os.open('/tmp', 0)\ntell(lambda: call(304, d, h, 0))\n"
            "tell(lambda: call(303, -100, b'/usr', ctypes.create_string_buffer(h), h, 0))"
        ),
        "other control group": (
            "import glob\nfor f in glob.glob('/sys/fs/cgroup/**/cgroup.procs', recursive=True):\n"
            "  tell(lambda: open(f, 'w').write('0'))\n"
            "tell(lambda: call(165, b'x', b'/tmp', b'cgroup2', 0, 0))"
        ),
    },
    needs_x86=True,
)

PROCESSES = held(
    "escape",
    {
        "kill a process of the machine": (
            "for s in (9, 15, 19, 1): tell(lambda: os.kill({pid}, s))"
        ),
        "kill every number": (
            "for n in list(range(2, 400)) + list(range({pid} - 64, {pid} + 64)):\n"
            "  if n not in (os.getpid(), os.getppid()):\n"
            "    try: os.kill(n, 9)\n    except OSError: pass"
        ),
        "signal the own group": (
            "signal.signal(15, signal.SIG_IGN); signal.signal(1, signal.SIG_IGN)\n"
            "tell(lambda: (os.kill(0, 15), os.killpg(0, 1), os.kill(0, 18)))"
        ),
        "debug a process of the machine": "tell(lambda: call(101, 16, {pid}, 0, 0))",
        "debug an own child": (
            "child = os.fork()\nif child == 0:\n  time.sleep(20); os._exit(0)\n"
            "tell(lambda: call(101, 0x4206, child, 0, 0))"
        ),
        "write to a process of the machine": (
            "b = ctypes.create_string_buffer(64); i = struct.pack('QQ', ctypes.addressof(b), 64)\n"
            "tell(lambda: call(311, {pid}, i, 1, struct.pack('QQ', {bystander_address}, 64), 1, 0))"
        ),
        "take a descriptor of process one": (
            "f = call(434, 1, 0); tell(lambda: [call(438, f, n, 0) for n in range(8)])"
        ),
        "slow a process of the machine": (
            "tell(lambda: os.setpriority(0, {pid}, 19)); tell(lambda: os.sched_setaffinity("
            "{pid}, {{0}}))"
        ),
        "raise the own priority": (
            "tell(lambda: os.nice(-20)); tell(lambda: os.sched_setscheduler(0, 1, "
            "os.sched_param(50)))"
        ),
    },
    needs_x86=True,
)

RIGHTS = held(
    "escape",
    {
        "become root": (
            "tell(lambda: os.setuid(0)); tell(lambda: os.setresuid(0, 0, 0)); "
            "tell(lambda: os.setgid(0)); tell(lambda: os.setgroups([0]))"
        ),
        "capabilities": (
            "h = struct.pack('Ii', 0x20080522, 0)\n"
            "tell(lambda: libc.capset(h, b'\\xff' * 24)); "
            "tell(lambda: [libc.prctl(47, 2, c, 0, 0) for c in range(41)])"
        ),
        "a program with the user bit": (
            "import shutil\ntell(lambda: shutil.copy('/usr/bin/env', '/tmp/env'))\n"
            "tell(lambda: os.chmod('/tmp/env', 0o6755)); tell(lambda: os.chown('/tmp/env', 0, 0))\n"
            "for f in ('/tmp/env', '/usr/bin/su', '/usr/bin/mount', '/usr/bin/newgrp'):\n"
            "  tell(lambda: os.spawnv(os.P_WAIT, f, [f, 'true']))"
        ),
        "user namespace": "tell(lambda: call(272, 0x10000000))",
        "user and mount namespace": "tell(lambda: call(272, 0x10020000))",
        "network namespace": "tell(lambda: call(272, 0x40000000))",
        "user namespace by clone": (
            "pid = call(56, 0x10000000 | 17, 0, 0, 0, 0)\nif pid > 0: signal.pause()"
        ),
        "user namespace by clone3": (
            "a = struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0)\n"
            "pid = call(435, a, len(a))\nif pid > 0: signal.pause()"
        ),
        "drop the filter": (
            "tell(lambda: libc.prctl(22, 0, 0, 0, 0)); tell(lambda: libc.prctl(38, 0, 0, 0, 0))\n"
            "tell(lambda: call(317, 0, 0, 0))"
        ),
        "the 32-bit table": ("tell(lambda: call(0x40000000 + 272, 0x10000000))"),
        "raise limits": (
            "import resource as r\nfor n in (r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_NOFILE,\n"
            "    r.RLIMIT_CORE, r.RLIMIT_AS, r.RLIMIT_NPROC, r.RLIMIT_MEMLOCK):\n"
            "  tell(lambda: r.setrlimit(n, (r.RLIM_INFINITY, r.RLIM_INFINITY)))\n"
            "  tell(lambda: r.prlimit(1, n, (r.RLIM_INFINITY, r.RLIM_INFINITY)))"
        ),
        "hide from the memory killer": (
            "for n in ('-1000', '-17', '0'): tell(lambda: "
            "open('/proc/self/oom_score_adj', 'w').write(n))"
        ),
    },
    needs_x86=True,
)

KERNEL = held(
    "escape",
    {
        "io_uring": "tell(lambda: call(425, 8, ctypes.create_string_buffer(256)))",
        "bpf map": "tell(lambda: call(321, 0, struct.pack('5I', 2, 4, 4, 1, 0) + bytes(100), 72))",
        "performance counters": (
            "tell(lambda: call(298, struct.pack('II', 1, 112) + bytes(104), 0, -1, -1, 0))"
        ),
        "page faults in user space": "tell(lambda: call(323, 0))",
        "keyring": (
            "tell(lambda: call(248, b'user', b'{marker}', b'left', 4, -3))\n"
            "tell(lambda: call(248, b'user', b'{marker}', b'left', 4, -4)); "
            "tell(lambda: call(250, 0, -3, 1))"
        ),
        "file events of the machine": "tell(lambda: call(300, 0, 0))",
        "load a module": (
            "tell(lambda: call(175, b'x' * 64, 64, b'')); tell(lambda: call(313, 0, b'', 0))"
        ),
        "another kernel": (
            "tell(lambda: call(246, 0, 0, 0, 0)); tell(lambda: call(169, 1, 2, 0, 0))"
        ),
        "the clock": (
            "tell(lambda: call(227, 0, struct.pack('qq', 946684800, 0))); "
            "tell(lambda: call(164, struct.pack('qq', 946684800, 0), 0))"
        ),
        "the host name": "tell(lambda: call(170, b'{marker}', 8))",
        "swap, accounting, quotas": (
            "tell(lambda: call(167, b'/tmp/x', 0)); tell(lambda: call(163, b'/tmp/x')); "
            "tell(lambda: call(179, 0, b'', 0, 0))"
        ),
        "type into the terminal": (
            "import fcntl\nfor n in (0, 1, 2): tell(lambda: fcntl.ioctl(n, 0x5412, b'x'))\n"
            "tell(lambda: fcntl.ioctl(os.open('/dev/tty', 2), 0x5412, b'x'))"
        ),
        "the kernel's log": (
            "b = ctypes.create_string_buffer(4096); tell(lambda: call(103, 3, b, 4096)); "
            "tell(lambda: call(103, 5, 0, 0))"
        ),
        "machine code of the other table": (
            "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
            "m.write(bytes.fromhex('b836010000bb00000010cd80c3'))\n"  # unshare by int 0x80
            "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
            "if os.fork() == 0:\n  f(); hold(); os._exit(0)\nos.wait()"
        ),
    },
    needs_x86=True,
)

ATTEMPTS = [*NETWORK, *FILES, *PROCESSES, *RIGHTS, *KERNEL]
