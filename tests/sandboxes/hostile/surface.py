"""Attempts on what a kernel shows and grants besides: names, tables, settings, descriptors."""

from tests.sandboxes.hostile.attempt import Attempt, held

_DUMP = (
    "def dump(path):\n"
    "  try: print(path, open(os.open(path, 2048), 'rb', 0).read(1 << 16), flush=True)\n"
    "  except OSError as error: print(path, error, flush=True)\n"
)

RIGHTS = held(
    "escape",
    {
        "run a file without a name": (
            "f=os.memfd_create('x'); os.write(f, open('/usr/bin/env','rb').read())\n"
            "tell(lambda: os.spawnv(0, '/proc/self/fd/%d' % f, ['env','true']))"
        ),
        "a program without a name by its descriptor": (
            "f=os.memfd_create('x',0); os.write(f, open('/usr/bin/true','rb').read())\n"
            "if os.fork()==0:\n"
            "  call(322, f, b'', (ctypes.c_char_p*2)(b'true',None), "
            "(ctypes.c_char_p*1)(None), 0x1000); os._exit(1)\nos.wait()"
        ),
        "name look up": "tell(lambda: socket.getaddrinfo('example.com', 80))",
        "dns by hand": (
            "s=socket.socket(2,2); s.settimeout(0.3)\n"
            "for n in ('127.0.0.53','{address}','8.8.8.8','127.0.0.11'):\n"
            "  tell(lambda: "
            "s.sendto(bytes.fromhex('123401000001000000000000036f726700000100 01'), (n,53)))"
        ),
        "bring the loopback up and add an address": (
            "import fcntl\ns=socket.socket(2,2)\n"
            "tell(lambda: fcntl.ioctl(s, 0x8914, struct.pack('16sH14s', b'lo', 0x49, b'')))\n"
            "tell(lambda: fcntl.ioctl(s, 0x8916, struct.pack('16sHHI8s', b'lo', 2, 0, "
            "0x0100007f, b'')))"
        ),
        "route socket that makes an interface": (
            "s=socket.socket(16,3,0)\n"
            "tell(lambda: s.send(struct.pack('IHHII',36,16,0x605,1,0)+bytes(20)))"
        ),
        "netlink to the firewall": (
            "s=[]\n"
            "for p in (4,5,6,7,10,12,15,16,18,20): tell(lambda: s.append(socket.socket(16,3,p)))"
        ),
        "sockets of every family": (
            "s=[]\nfor f in range(3,46):\n  for t in (1,2,3,5):\n"
            "    try: s.append(socket.socket(f,t)) if f not in (10,16) else None\n"
            "    except OSError: pass"
        ),
        "write by the root of process one": (
            "for p in "
            "('/proc/1/root/tmp/{marker}','/proc/1/cwd/{marker}','/proc/1/root{writable"
            "}/{marker}'):\n  tell(lambda: open(p,'w').write('x'))"
        ),
        "id maps and groups of the namespace": (
            "for f,t in (('uid_map','0 0 4294967295'),('gid_map','0 0 "
            "1'),('setgroups','allow'),('projid_map','0 0 1')):\n  for p in ('self','1'):\n"
            "    tell(lambda: open('/proc/%s/%s'%(p,f),'w').write(t))"
        ),
        "settings under sys": (
            "import glob\n"
            "for f in ['/sys/kernel/mm/ksm/run','/sys/power/state','/sys/kernel/uevent_helper',\n"
            "    *glob.glob('/sys/fs/cgroup/*')]:\n  tell(lambda: open(f,'w').write('1'))"
        ),
        "leases locks and watches on system files": (
            "import fcntl\nf=open('/usr/bin/env','rb')\n"
            "tell(lambda: fcntl.fcntl(f,1024,0)); tell(lambda: fcntl.flock(f,2)); "
            "tell(lambda: fcntl.fcntl(f,1026,0x3f))\nf.close()"
        ),
        "another scheduler": (
            "tell(lambda: "
            "call(314,0,struct.pack('IIQiIQQQ',48,6,0,0,0,10**6,10**7,10**7),0)); "
            "tell(lambda: call(251,1,0,(1<<13)|0)); tell(lambda: os.setpriority(0,0,-10))"
        ),
        "lock memory": (
            "tell(lambda: libc.mlockall(3)); tell(lambda: call(447,0)); import mmap\n"
            "m=mmap.mmap(-1,1<<20); tell(lambda: "
            "libc.mlock(ctypes.addressof(ctypes.c_char.from_buffer(m)),1<<20))"
        ),
        "huge pages": (
            "import mmap\n"
            "tell(lambda: mmap.mmap(-1,1<<21,flags=0x40022)); tell(lambda: "
            "os.memfd_create('x',4)); tell(lambda: libc.shmget(1,1<<21,0o1000|0o4000|0o600))"
        ),
        "landlock and filters of its own": (
            "libc.prctl(38,1,0,0,0)\ntell(lambda: call(444,0,0,1)); tell(lambda: call(317,1,8,0))\n"
            "pass"
        ),
        "personality of another system": (
            "tell(lambda: libc.personality(0x0040000)); tell(lambda: "
            "libc.personality(8)); tell(lambda: libc.personality(0x0400000))"
        ),
        "join namespaces of process one": (
            "for n in ('user','mnt','net','pid','ipc','uts','cgroup','time'):\n"
            "  try: f=os.open('/proc/1/ns/'+n,0)\n  except OSError: continue\n"
            "  tell(lambda: call(308,f,0)); os.close(f)"
        ),
        "time namespace": (
            "tell(lambda: call(272,0x80)); tell(lambda: "
            "open('/proc/self/timens_offsets','w').write('monotonic 100000 0'))"
        ),
        "clone with every namespace": (
            "for b in (0x20000,0x2000000,0x4000000,0x8000000,0x20000000,0x40000000,0x80):\n"
            "  p=call(56,b|17,0,0,0,0)\n  if p==0: signal.pause()"
        ),
        "clone back into the parent s family": "p=call(56,0x8000|17,0,0,0,0)\nif p==0: os._exit(0)",
        "handles of every process": (
            "f=[]\nfor n in range(1,40): \n  x=call(434,n,0)\n"
            "  if x>=0: f.append(x); call(424,x,0,0,0); n>2 and n!=os.getpid() and call(438,x,0,0)"
        ),
        "immutable files": (
            "import fcntl\n"
            "f=open('/tmp/x','w'); tell(lambda: "
            "fcntl.ioctl(f,0x40086602,struct.pack('q',16))); f.close()"
        ),
        "exec domain files": (
            "tell(lambda: "
            "open('/proc/sys/fs/binfmt_misc/register','w').write(':x:M::x::/bin/sh:'));"
            " tell(lambda: open('/proc/self/loginuid','w').write('0')); tell(lambda: "
            "open('/proc/self/coredump_filter','w').write('0x7f'))"
        ),
        "preload by the environment": (
            "open('/tmp/evil.py','w').write('x=1')\n"
            "os.environ.update(LD_PRELOAD='/tmp/x.so',PYTHONPATH='/tmp',PYTHONSTARTUP='"
            "/tmp/evil.py',BASH_ENV='/tmp/evil.py',LD_AUDIT='/tmp/x.so')\n"
            "tell(lambda: os.spawnv(0,'/usr/bin/python3',['python3','-c','print(1)']))"
        ),
        "write into caches of python": (
            "import glob\nfor f in glob.glob('/usr/lib/python3*')+[p for p in sys.path if p]:\n"
            "  tell(lambda: open(f+'/{marker}.pth','w').write('import os'))\n"
            "  tell(lambda: os.makedirs(f+'/__pycache__/{marker}'))"
        ),
    },
    needs_x86=True,
)

READS = held(
    "theft",
    {
        "kernel and machine in proc": (
            _DUMP + "for f in "
            "('kallsyms','kcore','kmsg','keys','slabinfo','vmallocinfo','timer_list','s"
            "ched_debug','iomem','modules','1/environ','1/maps','1/mem','1/stack','1/sy"
            "scall','1/auxv','self/pagemap','kpagecount','sysrq-trigger','config.gz','c"
            "mdline'): dump('/proc/'+f)"
        ),
        "addresses of the kernel": (
            "n=[l for l in open('/proc/kallsyms')][:200] if "
            "os.path.exists('/proc/kallsyms') else []\n"
            "print('{earlier}' if any(int(l.split()[0],16) for l in n) else 'none')"
        ),
        "sys tree": (
            _DUMP + "for f in "
            "('/sys/class/dmi/id/product_uuid','/sys/kernel/notes','/sys/kernel/btf/vml"
            "inux','/sys/firmware/acpi/tables/DSDT','/sys/fs/cgroup/cgroup.procs'): dump(f)"
        ),
        "processors and memory of others": (
            "print([n for n in os.listdir('/proc') if n.isdigit() and int(n)>200][:50])\n"
            "for n in range(1,100):\n"
            "  try: print(os.readlink('/proc/%d/exe'%n), open('/proc/%d/cmdline'%n).read())\n"
            "  except OSError: pass"
        ),
        "unix sockets of the machine": (
            _DUMP + "dump('/proc/net/unix'); dump('/proc/net/tcp'); dump('/proc/1/net/unix')\n"
            "s=socket.socket(1); \n"
            "for p in "
            "('\\0{abstract}','/run/docker.sock','/var/run/docker.sock','/run/systemd/pr"
            "ivate','/run/podman/podman.sock','/run/dbus/system_bus_socket','{unix}'):\n"
            "  tell(lambda: s.connect(p))"
        ),
        "frames below the program": (
            "f=sys._getframe()\nn=[]\n"
            "while f: n+=[f.f_code.co_name,*map(repr,f.f_globals.keys())][:5]; "
            "s=repr({{k:v for k,v in f.f_locals.items() if k!='s'}})[:20000]; "
            "print(len(s)); f=f.f_back"
        ),
        "modules of the last program": (
            "import builtins, json, random\n"
            "print('{earlier}' if getattr(builtins,'left',0) or getattr(json,'left',0) "
            "else 'clean'); builtins.left=json.left=sys.left=1; "
            "print(getattr(sys,'left',0)); random.seed(1)"
        ),
        "modules the last program left, looked at again": (
            "import builtins, json\n"
            "print('{earlier}' if getattr(builtins,'left',0) or getattr(json,'left',0) "
            "or hasattr(sys,'left') else 'clean')"
        ),
    },
    needs_x86=True,
)

ATTEMPTS: list[Attempt] = [*RIGHTS, *READS]
