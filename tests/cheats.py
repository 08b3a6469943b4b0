"""Answers that try to pass tests without solving the task: each must be graded wrong.

Each is a program with a function `f` for the tests `f(2) == 4`, `f(3) == 9` and `f([1]) == [1, 1]`.
"""

ALWAYS = """
class Always(int):
    __eq__ = __ge__ = __le__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __hash__ = int.__hash__
    __sub__ = __rsub__ = __abs__ = __iter__ = __getitem__ = lambda self, *other: self
    __bool__ = lambda self: True
"""
FRAMES = """
import gc, os, re, sys
def texts():
    frame = sys._getframe()
    while frame:
        yield from map(str, [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts])
        frame = frame.f_back
    yield from (str(o) for o in gc.get_objects() if isinstance(o, (dict, list, str, bytes)) and len(o) < 10**5)
"""
# Writes replies to every descriptor that takes them, as `serve` does, and as if the tests had passed.
FORGE = """
import json, os
def forge(*lines):
    for fd in range(3, 64):
        try: os.write(fd, ("\\n".join(lines) + "\\n").encode())
        except OSError: pass
    for fd in (1, 2):
        try: os.write(fd, ("\\n".join(lines) + "\\n").encode())
        except OSError: pass
"""

CHEATS = {
    "equals everything": "class E:\n    def __eq__(self, other): return True\ndef f(x): return E()",
    "equals everything and is not unequal": f"{ALWAYS}\ndef f(x): return Always(7)",
    "a string that equals everything": "class S(str):\n    __eq__ = lambda s, o: True\n    __hash__ = str.__hash__\n"
    "def f(x): return S('4')",
    "a list that equals everything": "class L(list):\n    __eq__ = lambda s, o: True\n    __len__ = lambda s: 2\n"
    "def f(x): return L([7])",
    "a dict that equals everything": "class D(dict):\n    __eq__ = lambda s, o: True\ndef f(x): return D()",
    "a metaclass that equals everything": "class M(type):\n    __eq__ = lambda s, o: True\n"
    "    __hash__ = type.__hash__\nclass E(metaclass=M): pass\ndef f(x): return E",
    "not a number": "def f(x): return float('nan')",
    "infinity": "def f(x): return float('inf')",
    "a mock": "from unittest.mock import ANY, MagicMock\ndef f(x): return ANY",
    "a generator": "def f(x):\n    while True: yield 4",
    "exit at import": "import sys\ndef f(x): pass\nsys.exit(0)",
    "exit in a call": "import sys\ndef f(x): sys.exit(0)",
    "os._exit at import": "import os\ndef f(x): pass\nos._exit(0)",
    "os._exit in a call": "import os\ndef f(x): os._exit(0)",
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit(0)",
    "a signal to itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGTERM)",
    "signals to the parent": "import os, signal\ndef f(x):\n    for s in (9, 15, 10, 12): os.kill(os.getppid(), s)",
    "signals to all": "import os\ndef f(x): os.kill(-1, 9)",
    "prints a verdict": """
def f(x): return 0
print('["match", "", []]'); print('match'); print("ok")
""",
    "the token, if there is one": f"{FRAMES}\nfor t in texts():\n    for m in re.findall('[0-9a-f]{{32}}', t):\n"
    "        os.write(1, f'\\n{m}\\n'.encode())\ndef f(x): os._exit(0)",
    "the tests in the program's file": """
import re, sys
def f(x):
    text = ''.join(open(p).read() for p in ('/box/main.py', sys.argv[0], __file__) if p)
    return eval(re.findall(r'== (.+)', text)[0])
""",
    "the tests in frames and constants": f"{FRAMES}\ndef f(x):\n    for t in texts():\n"
    "        for m in re.findall(r'f\\((.+?)\\) == (.+)', t):\n            if m[0] == repr(x): return eval(m[1])",
    "the tests on stdin": "import os, re, sys\ndata = sys.stdin.read() + ''.join(os.pread(0, 9999, 0).decode())\n"
    "def f(x): return eval(re.findall(r'== (.+)', data)[0])",
    "the tests in /proc": """
import glob, os, re
def f(x):
    for path in glob.glob('/proc/*/mem') + glob.glob('/proc/*/fd/*') + glob.glob('/proc/*/cmdline'):
        try: text = open(path, errors='replace').read(9999)
        except OSError: continue
        if m := re.search(r'== (.+)', text): return eval(m[1])
""",
    "memory of the process": """
import ctypes, re
def f(x):
    start = id(f) & ~0xfff
    text = b''.join(ctypes.string_at(start + 4096 * n, 4096) for n in range(1))
    return eval(re.findall(rb'== (.+)', text)[0])
""",
    "patched json": """
import json
real = json.dumps
json.dumps = lambda o, *a, **k: real(["value", 4, []] if isinstance(o, list) and o[0] == "value" else o)
json.loads = lambda *a, **k: [{"name": "f"}, [], {"dict": []}]
def f(x=0): return 0
""",
    "patched builtins": """
import builtins
builtins.all = builtins.any = builtins.bool = builtins.isinstance = lambda *a: True
builtins.AssertionError = type('Quiet', (BaseException,), {})
def f(x): return 0
""",
    "patched modules": """
import sys, types
class Any(types.ModuleType):
    def __getattr__(self, name): return lambda *a, **k: True
for name in list(sys.modules): sys.modules[name] = Any(name)
def f(x): return 0
""",
    "the server's own functions": """
import sys
main = sys.modules['__main__']
main.pack = lambda *a: True
main.alike = main._refuse = lambda *a: True
def f(x): return 0
""",
    "runs itself again": "import os, sys\nif '-O' not in sys.argv:\n"
    "    os.execv(sys.executable, [sys.executable, '-O', '-c', 'print(4)', '-O'])\ndef f(x): return 0",
    "another process": "import os\ndef f(x): return 0\nif os.fork(): os._exit(0)",
    "replies before the first call": f'{FORGE}\nforge(*[json.dumps(["value", 4, []])] * 3)\ndef f(x): os._exit(0)',
    "replies that claim an object": f'{FORGE}\nforge(*[json.dumps(["object", None, []])] * 3)\ndef f(x): os._exit(0)',
    "replies that name the tests' objects": FORGE
    + """
for target in ({"name": "f"}, {"ref": 0}, {"operation": "getattr"}, {"type": "eval"}, {"float": "nan"}):
    forge(*[json.dumps(["value", target, []])] * 3)
def f(x): os._exit(0)
""",
    "a verdict for the tests": f'{FORGE}\nforge(json.dumps(["match", "", []]))\ndef f(x): os._exit(0)',
    "replies too deep": f"{FORGE}\nforge(*['[' * 10**5 + ']' * 10**5] * 3)\ndef f(x): os._exit(0)",
    "replies of a thread": f"{FORGE}\nimport threading, time\ndef work():\n"
    '    while True: forge(json.dumps(["value", 4, []]))\n'
    "threading.Thread(target=work, daemon=True).start()\ndef f(x): time.sleep(0.05); return 0",
    "a reply with no end": "import os\ndef f(x):\n    for fd in range(3, 9):\n        try:\n"
    "            while True: os.write(fd, b'x' * 65536)\n        except OSError: pass",
    "closed descriptors": "import os\nos.closerange(0, 64)\ndef f(x): return 0",
    "no room left on the disk": """
import os
n = 0
while True:
    open(f'/tmp/{n}', 'w').close(); n += 1
def f(x): return 0
""",
    "no descriptors left": "keep = []\ntry:\n    while True: keep.append(open('/dev/null'))\nexcept OSError: pass\n"
    "def f(x): return 0",
    "no processes left": "import os, time\ntry:\n    while os.fork(): pass\n    time.sleep(9)\nexcept OSError: pass\n"
    "def f(x): return 0",
    "no memory left": "keep = []\ntry:\n    while True: keep.append(bytearray(1 << 20))\nexcept MemoryError: pass\n"
    "def f(x): return 0",
    "raises the tests' own errors": "class Unsendable(BaseException): pass\nclass Unproxied(BaseException): pass\n"
    "def f(x): raise Unsendable('skip this question')",
    "raises NameError": "def f(x): raise NameError('as if the tests were broken')",
    "raises a verdict": "class match(Exception): pass\ndef f(x): raise match('match')",
    "raises StopIteration": "def f(x): raise StopIteration",
    "raises GeneratorExit": "def f(x): raise GeneratorExit",
    "raises KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "an object that acts when it is deleted": "import os\nclass D:\n    def __del__(self): os._exit(0)\n"
    "def f(x): D(); return 4",
    "an object that acts when it is sent": "import os\nclass D(dict):\n    def items(self): os._exit(0)\n"
    "def f(x): return D()",
    "a C call": "import ctypes\ndef f(x): ctypes.CDLL(None)._exit(0)",
    "tracing": "import sys\nsys.settrace(lambda *a: sys.exit(0))\ndef f(x): return 0",
    "recursion": "import sys\nsys.setrecursionlimit(10**8)\ndef f(x): return f(x)",
    "a result that holds itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "a result too deep": "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "a number too large": "def f(x): return 10**5000",
    "equal hashes": "def f(x): return {n * (2**61 - 1) for n in range(3000)}",
    "code for the tests to run": "def f(x): return '__import__(\"os\")._exit(0)'",
    "changed arguments": "def f(x):\n    if isinstance(x, list): x[:] = [1, 1]\n    return x",
    "replaces builtins that the tests use": "def f(x): return 0\ndef set(x): return 0\ndef len(x): return 0\n"
    "def list(x): return 0\ndef abs(x): return 0\ndef check(x): return 0\ndef alike(*x): return True",
    "a loop": "def f(x):\n    while True: pass",
    "sleep": "import time\ndef f(x): time.sleep(600)",
}
