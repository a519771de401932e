#!/usr/bin/env python3
"""Writes text-order.ld: where the functions of ferrun lie, and the variables that each start writes.

    text_order.py FERRUN

The linker lays the functions that the everyday commands use side by side, so that a start
touches few pages: first what the short ones use, last what only run, create and exec do, in
both what most of them use before the rest, and what is alike in the order of its first use.
FERRUN is built with its symbols (`make text-order` does that); it is traced through the life
of a container, as root. A name that no function has any more is passed over by the linker: an
old order costs speed only.
"""

import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORDER = ROOT / "text-order.ld"
PROFILE = ROOT / "seccomp" / "tests" / "data" / "docker-29.json"
SCRIPT = """\
/* The functions that everyday commands use, those of the short commands first, so that a start
   touches few pages. Written by `make text-order` (testbed/text_order.py); a name that no
   function has any more is passed over. */
SECTIONS
{{
  .text.ordered :
  {{
    /* What each command runs at its end. */
    KEEP(*(SORT_NONE(.fini)))
    /* Assembler, which has no section for each function. */
    *crt1.o(.text)
    *:memcpy.*(.text)
    *:memset.*(.text)
    *:memmove.*(.text)
    *:__set_thread_area.*(.text)
    *:syscall_cp.*(.text)
{}
  }}
}}
INSERT BEFORE .text;

/* The variables that each start writes, so that they share a page with the end of .data: those
   of the C library's start and exit, all small ones of Rust, and the head of the arena, which
   goes on from there. What comes after it is seldom touched. */
SECTIONS
{{
  .bss.first (NOLOAD) :
  {{
    *crtbegin*.o(SORT_BY_ALIGNMENT(.bss.*))
    *(.bss.builtin_tls .bss.main_tls COMMON)
    *(.bss.__environ .bss.__progname .bss.__progname_full)
    *(.bss.ofl_head .bss.ofl_lock .bss.dummy .bss.dummy_file)
    *(.bss._RNvN*)
    *(.bss._RNvC*)
  }}
}}
INSERT BEFORE .bss;
"""

# Commands that take most of the text.
LONG = {"run", "create", "exec"}

# ptrace(2), on x86_64.
TRACEME, PEEKUSER, POKEUSER, CONT, DETACH, SETOPTIONS = 0, 3, 6, 7, 17, 0x4200
BREAKPOINT = b"\xcc"
RIP = 16 * 8
FORK, VFORK, CLONE, EXEC = 1, 2, 3, 4
OPTIONS = sum(1 << event for event in (FORK, VFORK, CLONE, EXEC)) | 1 << 20  # and EXITKILL
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    functions = functions_of(binary)
    tracer = Tracer(functions)
    with tempfile.TemporaryDirectory() as directory:
        for verb, *arguments in lives(pathlib.Path(directory), binary):
            tracer.run([str(binary), "--root", f"{directory}/state", verb, *arguments], verb)
    # Sorting keeps what is alike in its order, which is that of the first use.
    order = sorted(tracer.users, key=lambda address: place(list(tracer.users[address])))
    names = (name for address in order for name in functions[address])
    lines = dict.fromkeys(section(pattern(name)) for name in names)
    ORDER.write_text(SCRIPT.format("\n".join(lines)))
    print(f"{ORDER.relative_to(ROOT)}: {len(lines)} functions")


def place(users):
    """Where a function lies: what a short command uses before all that only the long ones use,
    which go over most of the text anyway; then by how many commands use it."""
    return LONG.issuperset(users), -len(users), users


def functions_of(binary):
    """The names of a program's functions, by address. Some have several."""
    listed = subprocess.run(["nm", binary], check=True, capture_output=True, text=True).stdout
    functions = {}
    for address, name in re.findall(r"(?m)^([0-9a-f]+) [tTwW] (\S+)$", listed):
        functions.setdefault(int(address, 16), []).append(name)
    return functions


def section(pattern):
    """The line for a function: one that is marked as cold has a section of another name."""
    return f"    *(.text.{pattern} .text.unlikely.{pattern})"


def pattern(name):
    """A name as the linker's pattern. What changes with versions of crates and compilers, the
    hashes of crates and of instances, may be anything."""
    name = re.sub(r"(?<=Cs)[0-9A-Za-z]+_", "*_", name)
    name = re.sub(r"17h[0-9a-f]{16}E", "17h*E", name)
    return re.sub(r"\.llvm\.\d+$", "*", name)


def lives(directory, binary):
    """The verbs of a container's life, with their arguments."""
    bundle = directory / "bundle"
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", bundle / "rootfs" / "bin" / "busybox")
    ferrun = [str(binary), "--root", str(directory / "state")]

    def configure(args, **linux):
        (bundle / "config.json").unlink(missing_ok=True)
        subprocess.run([*ferrun, "spec", "--bundle", bundle], check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["process"].update(terminal=False, args=args)
        config["linux"].update(linux)
        (bundle / "config.json").write_text(json.dumps(config))

    for linux in ({}, {"seccomp": json.loads(PROFILE.read_text())}):
        configure(["/bin/busybox", "true"], **linux)
        yield ["run", "--bundle", str(bundle), "order"]
        configure(["/bin/busybox", "sleep", "100"], **linux)
        yield ["create", "--bundle", str(bundle), "order"]
        yield ["start", "order"]
        yield ["exec", "order", "/bin/busybox", "true"]
        yield ["state", "order"]
        yield ["list"]
        yield ["kill", "order", "KILL"]
        # Not before it is a zombie, or gone.
        while json.loads(subprocess.check_output([*ferrun, "state", "order"]))["status"] != "stopped":
            pass
        yield ["delete", "order"]


class Tracer:
    """Runs commands with a breakpoint on each function, until it is entered, in them and in the
    processes that they leave behind."""

    def __init__(self, functions):
        self.functions = functions
        self.users = {}  # by the addresses of those that were entered, the verbs that did, as a dict
        self.verbs = {}  # by process: an init is that of the verb that made it
        self.bytes = {}  # what the breakpoints lie upon

    def run(self, command, verb):
        """Runs a command to its end."""
        child = os.fork()
        if child == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            libc.ptrace(TRACEME, 0, None, None)
            os.execv(command[0], command)
        while True:
            pid, status = os.waitpid(-1, WALL)
            if os.WIFSTOPPED(status):
                self.handle(pid, os.WSTOPSIG(status), status >> 16, command[0], verb)
            elif pid == child:
                break
        if status:
            sys.exit(f"{' '.join(command)}: wait status {status:#x}")

    def handle(self, pid, number, event, binary, verb):
        """Lets a process go on that has stopped."""
        is_executed = event == EXEC
        if pid not in self.verbs:
            self.verbs[pid] = verb
            libc.ptrace(SETOPTIONS, pid, None, OPTIONS)
            is_executed |= number == signal.SIGTRAP
        if is_executed and not os.path.samefile(f"/proc/{pid}/exe", binary):
            # It goes on as another program, which is not looked at.
            libc.ptrace(DETACH, pid, None, None)
            return
        if is_executed:
            self.plant(pid)
        elif number == signal.SIGTRAP and not event:
            address = libc.ptrace(PEEKUSER, pid, RIP, None) - 1
            self.users.setdefault(address, {})[self.verbs[pid]] = True
            with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
                os.pwrite(memory.fileno(), self.bytes[address], address)
            libc.ptrace(POKEUSER, pid, RIP, address)
        is_own = number in (signal.SIGTRAP, signal.SIGSTOP)
        libc.ptrace(CONT, pid, None, 0 if is_own else number)

    def plant(self, pid):
        """Sets the breakpoints in a program that begins."""
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            for address in self.functions:
                self.bytes.setdefault(address, os.pread(memory.fileno(), 1, address))
                os.pwrite(memory.fileno(), BREAKPOINT, address)


if __name__ == "__main__":
    main()
