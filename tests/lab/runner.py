"""Starts the lab's virtual machine, runs one command in it and ends with the command's exit status. See tests/lab/README.md.

Uses only the standard library, and few modules of it, because this runs before every command in the lab.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from options import SCREENS, Options, parse

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
BOOT_SECONDS = 90  # A boot takes 4; more if the machine is busy with compilers.
# In emulation, the additional registers of newer processors are saved and restored at each switch. erofs needs SSE 4.2.
CPU = "Nehalem,+rdrand,+fsgsbase"
BUILT_IN = ("udmabuf",)  # Their parameters go on the kernel's command line.
DRM_MODULES = ("virtio_gpu", "bochs", "drm_shmem_helper", "vkms", "vgem")
DISPLAY_MODULES = {"virtio": "virtio_gpu", "bochs": "bochs", "vkms": "vkms"}


class LabError(Exception):
    """The lab cannot do what was asked; the message says why."""


class Interrupted(Exception):
    def __init__(self, signum):
        super().__init__(signum)
        self.signum = signum


def say(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


def quote(text):
    return "'" + text.replace("'", "'\\''") + "'"


def displays(options):
    if options.display == "none":
        return []
    if options.display == "all":
        return ["virtio", "bochs", "vkms"]
    return [options.display]


def screens(options):
    """The emulated monitors that can be seen from outside: the name that QEMU uses for each, and its device."""
    width, height = options.screen.split("x")
    return {
        name + (str(i) if i else ""): f"{SCREENS[name]},xres={width},yres={height}"
        for name in displays(options)
        if name in SCREENS
        for i in range(options.screens)
    }


def modules(options, available):
    """The modules to load in order, each with its parameters. The order decides the numbers of the DRM cards."""
    wanted = {}
    for display in displays(options):
        name = DISPLAY_MODULES[display]
        if name == "vkms":
            if not available("vkms"):
                if options.display == "all":
                    continue
                raise LabError(f"vkms is not there on kernel {options.kernel} (it could not be built for it)")
            # It depends on this module for its buffers, but does not declare that.
            wanted["drm_shmem_helper"] = []
            wanted["vkms"] = ["enable_overlay=1", "enable_writeback=1"]
        else:
            wanted[name] = []
    wanted["vgem"] = []
    if options.cameras:
        each = range(options.cameras)
        wanted["vivid"] = [
            f"n_devs={options.cameras}",
            # Capture and output only: the other kinds (VBI, radio, touch) cost time at boot.
            "node_types=" + ",".join("0x101" for _ in each),
            "vid_cap_nr=" + ",".join(str(i) for i in each),
            "vid_out_nr=" + ",".join(str(10 + i) for i in each),
            "multiplanar=" + ",".join(str(1 + i % 2) for i in each),
            # From the third on, cameras need physically contiguous memory, and refuse a system heap's.
            "allocators=" + ",".join("1" if i >= 2 else "0" for i in each),
        ]
    if available("sw_sync"):
        wanted["sw_sync"] = []
    for name, *parameters in options.modules:
        if name.startswith("-"):
            wanted.pop(name[1:].replace("-", "_"), None)
            continue
        name = name.replace("-", "_")
        # The given parameters replace those of the same name; the others keep the lab's values.
        given = {parameter.partition("=")[0] for parameter in parameters}
        kept = [p for p in wanted.get(name, []) if p.partition("=")[0] not in given]
        wanted[name] = kept + parameters
    return wanted


def cpio(entries):
    """A newc archive of (name, mode, content); the kernel unpacks it over the image's own initramfs."""
    out = bytearray()
    for inode, (name, mode, content) in enumerate(entries + [("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        out += b"\0" * (-len(out) % 4)
        out += content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def job_archive(options, wanted):
    """What this run adds to the initramfs: the guest's scripts and the job."""
    directory, script, plain = 0o040755, 0o100755, 0o100644
    entries = [(name, directory, b"") for name in ("lab", "lab/bin", "lab/job")]
    guest = os.path.join(HERE, "guest")
    for name, source in [("init", "init"), ("lab/main", "main")] + [
        (f"lab/bin/{tool}", f"bin/{tool}") for tool in sorted(os.listdir(os.path.join(guest, "bin")))
    ]:
        with open(os.path.join(guest, source), "rb") as file:
            entries.append((name, script, file.read()))
    cwd = os.getcwd()
    if os.path.commonpath([cwd, CHECKOUT]) != CHECKOUT and not any(os.path.commonpath([cwd, s]) == s for s in options.shares):
        cwd = CHECKOUT
    environment = [
        ("DMAFLOW_LAB", "1"),
        ("DMAFLOW_LAB_KERNEL", options.kernel),
        ("DMAFLOW_LAB_DISPLAY", options.display),
        ("DMAFLOW_LAB_CAMERAS", str(options.cameras)),
        ("VK_DRIVER_FILES", "/usr/share/vulkan/icd.d/lvp_icd.json"),
        ("XDG_RUNTIME_DIR", "/run/user/0"),
    ] + options.env
    run = "".join(f"export {name}={quote(value)}\n" for name, value in environment)
    run += f"cd {quote(cwd)} || exit 125\nexec {' '.join(quote(word) for word in options.command)}\n"
    config = {
        "LAB_SHARES": " ".join(f"share{i}" for i in range(1 + len(options.shares))),
        # Two lists that load in parallel; within each the order matters.
        "LAB_DRM_MODULES": " ".join(name for name in wanted if name in DRM_MODULES),
        "LAB_MODULES": " ".join(name for name in wanted if name not in BUILT_IN and name not in DRM_MODULES),
        "LAB_KERNEL_LOG": "1" if options.kernel_log else "",
        "LAB_CAMERAS": str(options.cameras),
        "LAB_MSIZE": os.environ.get("LAB_MSIZE", "512000"),
        "LAB_CACHE": os.environ.get("LAB_CACHE", "mmap"),
    }
    for i, share in enumerate([CHECKOUT] + options.shares):
        config[f"LAB_PATH_share{i}"] = share
    conf = "".join(f"options {name} {' '.join(parameters)}\n" for name, parameters in wanted.items() if parameters)
    entries += [
        ("lab/job/run", plain, run.encode()),
        ("lab/job/config", plain, "".join(f"{k}={quote(v)}\n" for k, v in config.items()).encode()),
        ("lab/job/modprobe.conf", plain, conf.encode()),
    ]
    return cpio(entries)


def die_with_parent():
    # QEMU ends when this process ends, in whatever way (PR_SET_PDEATHSIG, SIGKILL).
    LIBC.prctl(1, signal.SIGKILL)


LIBC = ctypes.CDLL(None)


class Machine:
    """One boot. Reports through run(): the command's exit status, or LabError."""

    PORTS = ("control", "out", "err", "screenshot", "log")

    def __init__(self, options, image, accel, directory):
        self.options = options
        self.image = image
        self.accel = accel
        self.directory = directory
        self.serial = os.path.join(directory, "serial")
        self.sockets = {}
        self.buffers = {}
        self.log = bytearray()
        self.process = None
        self.selector = selectors.DefaultSelector()
        self.state = "boot"
        self.status = None
        self.refused = False
        self.shot_at = None
        self.shot_file_made = False
        self.qmp_ready = False
        self.qmp_queue = []
        self.qmp_pending = {}
        self.qmp_number = 0
        self.started = time.monotonic()

    def trace(self, text):
        if self.options.verbose:
            say(f"{time.monotonic() - self.started:6.2f} s {text}")

    def command_line(self, fds, initrd, wanted):
        options = self.options
        kernel = os.path.join(self.image, options.kernel)
        append = (
            "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic panic_print=0x20 mitigations=off nokaslr init_on_alloc=0 "
            "nowatchdog audit=0 apparmor=0 selinux=0 rcupdate.rcu_expedited=1 cryptomgr.notests no_timer_check "
            "random.trust_cpu=on net.ifnames=0 drm_kms_helper.fbdev_emulation=0 rdinit=/init"
        )
        for name in BUILT_IN:
            append += "".join(f" {name}.{parameter}" for parameter in wanted.get(name, []))
        append += " " + os.environ.get("LAB_APPEND", "")
        if options.icount:
            accel = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
        else:
            accel = ["-accel", "kvm" if self.accel == "kvm" else "tcg,thread=multi", "-smp", str(options.smp)]
        line = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        line += ["-machine", os.environ.get("LAB_MACHINE", "q35,vmport=off,smbus=off,sata=off,usb=off")]
        line += ["-cpu", "host" if self.accel == "kvm" and not options.icount else os.environ.get("LAB_CPU", CPU)]
        line += accel + ["-m", str(options.memory)]
        line += ["-kernel", os.path.join(kernel, "vmlinux"), "-initrd", initrd, "-append", append]
        files = [os.path.join(self.image, "root.erofs"), os.path.join(kernel, "modules.erofs")]
        for i, file in enumerate(files + ([options.layer_file] if options.layer else [])):
            line += ["-drive", f"file={comma(file)},format=raw,if=none,id=disk{i},readonly=on,cache=unsafe"]
            line += ["-device", f"virtio-blk-pci,drive=disk{i}"]
        for i, share in enumerate([CHECKOUT] + options.shares):
            line += ["-fsdev", f"local,id=fs{i},path={comma(share)},security_model=none,multidevs=remap"]
            line += ["-device", f"virtio-9p-pci,fsdev=fs{i},mount_tag=share{i}"]
        line += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci,max_ports=8"]
        for name in self.PORTS:
            line += ["-chardev", f"socket,id={name},fd={fds[name]}"]
            line += ["-device", f"virtserialport,chardev={name},name={name}"]
        line += ["-chardev", f"socket,id=qmp,fd={fds['qmp']}", "-mon", "chardev=qmp,mode=control"]
        line += ["-chardev", f"file,id=serial,path={comma(self.serial)}", "-serial", "chardev:serial"]
        for name, device in screens(options).items():
            line += ["-device", f"{device},id={name}"]
        return line

    def start(self, wanted):
        initrd = os.path.join(self.directory, "initrd")
        with open(os.path.join(self.image, self.options.kernel, "initramfs.cpio"), "rb") as base, open(initrd, "wb") as out:
            out.write(base.read())
            out.write(job_archive(self.options, wanted))
        theirs = {}
        for name in self.PORTS + ("qmp",):
            ours, their = socket.socketpair()
            ours.setblocking(False)
            self.sockets[name] = ours
            self.buffers[name] = b""
            theirs[name] = their
            self.selector.register(ours, selectors.EVENT_READ, name)
        numbers = {name: their.fileno() for name, their in theirs.items()}
        with open(os.path.join(self.directory, "qemu"), "wb") as errors:
            self.process = subprocess.Popen(
                self.command_line(numbers, initrd, wanted),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=tuple(numbers.values()),
                # Ctrl-C is for this process, which ends the machine.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        for their in theirs.values():
            their.close()
        self.send_qmp({"execute": "qmp_capabilities"}, lambda _: None, first=True)
        self.trace("QEMU started")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for ours in self.sockets.values():
            ours.close()
        self.selector.close()

    # -- QMP -----------------------------------------------------------------------------------------------------------------------

    def send_qmp(self, message, done, first=False):
        if not self.qmp_ready and not first:
            self.qmp_queue.append((message, done))
            return
        self.qmp_number += 1
        self.qmp_pending[self.qmp_number] = done
        try:
            self.sockets["qmp"].send(json.dumps({**message, "id": self.qmp_number}).encode() + b"\n")
        except OSError:
            pass  # QEMU has ended; the main loop sees that.

    def on_qmp(self, line):
        message = json.loads(line)
        done = self.qmp_pending.pop(message.get("id"), None)
        if done is None:
            return
        if not self.qmp_ready:
            self.qmp_ready = True
            queue, self.qmp_queue = self.qmp_queue, []
            for item in queue:
                self.send_qmp(*item)
        error = message.get("error")
        done(error["desc"] if error else None)

    def screenshot(self, display, file, done):
        """Takes a screenshot and calls done(None or what went wrong). The file appears complete or not at all."""
        seen = list(screens(self.options))
        if display is None and seen:
            display = seen[0]
        if display not in seen:
            have = ", ".join(seen) if seen else "none"
            asked = f"no display {display}" if display else "no display"
            done(f"{asked} that can be seen from outside (there is: {have}; vkms is read through its writeback)")
            return
        directory, base = os.path.split(file)
        part = os.path.join(directory, f".{base}.part")

        def finished(problem):
            if problem is None:
                try:
                    os.replace(part, file)
                except OSError as error:
                    problem = str(error)
            done(problem)

        if not os.path.isdir(directory):
            done(f"no directory {directory} on the host")
            return
        arguments = {"filename": part, "format": "png", "device": display}
        self.send_qmp({"execute": "screendump", "arguments": arguments}, finished)

    def on_screenshot_request(self, line):
        tag, display, file = line.decode(errors="surrogateescape").split(" ", 2)

        def answer(problem):
            try:
                self.sockets["screenshot"].send(f"{tag} {problem or 'ok'}\n".encode())
            except OSError:
                pass

        # Only where the guest can write anyway.
        real = os.path.realpath(os.path.dirname(file))
        if not any(os.path.commonpath([real, share]) == share for share in [CHECKOUT] + self.options.shares):
            answer(f"{file} is not in the checkout")
            return
        self.screenshot(None if display == "-" else display, file, answer)

    def periodic_screenshot(self):
        def done(problem):
            if problem is None:
                self.shot_file_made = True
            elif self.shot_at is not None:
                say(f"no screenshot: {problem}")
                self.shot_at = None

        self.shot_at = time.monotonic() + 2
        self.screenshot(None, self.options.screenshot, done)

    # -- messages from the guest ---------------------------------------------------------------------------------------------------

    def on_control(self, line):
        word, _, rest = line.decode().partition(" ")
        self.trace(f"guest: {line.decode()}")
        if word == "running":
            self.state = "running"
            self.deadline = time.monotonic() + self.options.timeout
            if self.options.screenshot:
                self.shot_at = time.monotonic() + 1
        elif word == "ended":
            self.state = "ending"
            self.shot_at = None
            self.deadline = time.monotonic() + 20
        elif word == "failed":
            self.refused = True
            raise LabError(f"kernel {self.options.kernel}: {rest}")
        elif word == "exit":
            self.status = int(rest)

    def receive(self, name):
        """Receives what is available; returns false once the other end is closed."""
        try:
            data = self.sockets[name].recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        if name in ("out", "err"):
            write_all(1 if name == "out" else 2, data)
        elif name == "log":
            self.log += data
        else:
            lines = (self.buffers[name] + data).split(b"\n")
            self.buffers[name] = lines.pop()
            handler = {"control": self.on_control, "qmp": self.on_qmp, "screenshot": self.on_screenshot_request}[name]
            for line in lines:
                if line.strip():
                    handler(line)
        return True

    def drain(self):
        """Reads the rest after the guest's last message: everything that it sent before is in the sockets already."""
        for name in ("out", "err", "log"):
            sock = self.sockets[name]
            while True:
                try:
                    data = sock.recv(1 << 16)
                except OSError:
                    break
                if not data:
                    break
                if name == "log":
                    self.log += data
                else:
                    write_all(1 if name == "out" else 2, data)

    def run(self):
        """Runs until the command has ended. Returns its exit status."""
        self.deadline = self.started + BOOT_SECONDS * (3 if self.options.icount else 1)
        while self.status is None:
            now = time.monotonic()
            if self.shot_at is not None and now >= self.shot_at:
                self.periodic_screenshot()
            if now >= self.deadline:
                if self.state == "running":
                    self.drain()
                    say(f"the command took longer than {self.options.timeout:g} s and was ended")
                    return 124
                raise LabError("the machine did not start in time" if self.state == "boot" else "the machine did not finish in time")
            until = min(self.deadline, self.shot_at or self.deadline)
            for key, _ in self.selector.select(min(1.0, max(0.0, until - now))):
                if not self.receive(key.data):
                    self.selector.unregister(key.fileobj)
            if self.status is None and self.process.poll() is not None:
                self.drain()
                if self.receive("control") and self.status is not None:
                    break
                raise LabError("the machine ended by itself (a kernel panic?)")
        self.drain()
        self.trace(f"command ended with {self.status}")
        return self.status

    def explain(self):
        """Prints the last messages of the kernel and QEMU."""
        for name, path in (("QEMU", os.path.join(self.directory, "qemu")), ("the kernel", self.serial)):
            try:
                with open(path, "rb") as file:
                    lines = file.read().decode(errors="replace").splitlines()
            except OSError:
                continue
            # Frames that the kernel marks as unreliable are omitted; those around a panic are kept.
            lines = [line for line in lines if "]  ? " not in line]
            panics = [i for i, line in enumerate(lines) if "Kernel panic" in line]
            first = max(0, panics[-1] - 12) if panics else max(0, len(lines) - 40)
            if lines:
                say(f"the last that {name} said:")
                for line in lines[first : first + 50]:
                    print(f"    {line}", file=sys.stderr)

    def save_kernel_log(self):
        if not self.options.kernel_log:
            return
        data = bytes(self.log)
        if not data:
            with open(self.serial, "rb") as file:
                data = file.read()
        with open(self.options.kernel_log, "wb") as file:
            file.write(data)


def comma(path):
    # QEMU's escape for a comma inside a value.
    return path.replace(",", ",,")


def write_all(fd, data):
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Another process made our output non-blocking; wait for room.
            time.sleep(0.01)


PREFIX = "dmaflow-lab-"


@contextlib.contextmanager
def scratch():
    """A directory for this run's small files. Each run locks its own; those that a killed run left are unlocked, and are removed."""
    for name in os.listdir(tempfile.gettempdir()):
        if name.startswith(PREFIX):
            lock_and_remove(os.path.join(tempfile.gettempdir(), name))
    directory = tempfile.mkdtemp(prefix=PREFIX)
    held = os.open(directory, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(held)


def lock_and_remove(directory):
    try:
        held = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return  # Already removed, or owned by another user.
    try:
        # A run that is just starting does not have the lock yet.
        if time.time() - os.fstat(held).st_mtime > 60:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
    except OSError:
        pass
    finally:
        os.close(held)


def boot_and_run(options, image, wanted, accel):
    with scratch() as directory:
        machine = Machine(options, image, accel, directory)
        try:
            machine.start(wanted)
            status = machine.run()
            machine.save_kernel_log()
            if options.screenshot and not machine.shot_file_made:
                say("no screenshot was taken: the command ended within a second")
            return status
        except LabError as error:
            # Try again if the start hung or panicked, but not if it reported what is missing.
            error.again = machine.state == "boot" and not machine.refused
            say(str(error))
            if not machine.refused:
                machine.explain()
            machine.save_kernel_log()
            raise
        finally:
            machine.stop()


def machine_key():
    """Whether KVM works depends on the host and its kernel; a cache directory may be shared between hosts."""
    model = ""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{os.uname().nodename} {os.uname().release} {model}"


def choose_accel(options, image):
    if options.icount:
        return "tcg"
    if options.accel != "auto":
        return options.accel
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    file = os.path.join(os.path.dirname(image), "accel.json")
    try:
        with open(file, encoding="utf-8") as stream:
            known = json.load(stream)
    except (OSError, ValueError):
        known = {}
    key = machine_key()
    if key not in known:
        global BOOT_SECONDS
        probe = Options()
        probe.kernel, probe.display, probe.cameras, probe.command = options.kernel, "none", 0, ["true"]
        normal, BOOT_SECONDS = BOOT_SECONDS, 12
        say("trying once whether KVM works here")
        started = time.monotonic()
        with scratch() as directory:
            machine = Machine(probe, image, "kvm", directory)
            try:
                machine.start({})
                known[key] = "kvm" if machine.run() == 0 else "tcg"
            except LabError:
                known[key] = "tcg"
            finally:
                machine.stop()
        BOOT_SECONDS = normal
        took = time.monotonic() - started
        if known[key] == "kvm":
            say(f"KVM works here (tried in {took:.1f} s)")
        else:
            say(f"KVM is here, but a stock kernel does not boot under it (tried in {took:.1f} s): using emulation")
        remember(file, known)
    return known[key]


def remember(file, known):
    part = f"{file}.{os.getpid()}"
    with open(part, "w", encoding="utf-8") as stream:
        json.dump(known, stream)
    os.replace(part, file)


def release(image, kernel):
    """As uname -r prints it, e.g. "6.12.117+deb13-amd64": drivers differ even between two releases of one series."""
    with open(os.path.join(image, kernel, "release"), encoding="utf-8") as file:
        return file.read().strip()


def module_finder(image, kernel):
    try:
        with open(os.path.join(image, kernel, "extra-modules"), encoding="utf-8") as file:
            names = set(file.read().split())
    except OSError:
        names = set()
    return lambda name: name in names


def main():
    options = parse(sys.argv[1:])

    def on_signal(signum, _frame):
        raise Interrupted(signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, on_signal)
    try:
        built = subprocess.run([os.path.join(HERE, "build-image"), "--kernel", options.kernel], stdout=subprocess.PIPE, check=False)
        if built.returncode:
            raise LabError("the image could not be built")
        image = built.stdout.decode().strip().splitlines()[-1]
        try:
            os.utime(image)  # build-image removes images that were not used for long.
        except OSError:
            pass
        if options.layer:
            built = subprocess.run([os.path.join(HERE, "build-layer"), options.layer, image], stdout=subprocess.PIPE, check=False)
            if built.returncode:
                raise LabError(f"the layer {options.layer} could not be built")
            options.layer_file = built.stdout.decode().strip().splitlines()[-1]
        wanted = modules(options, module_finder(image, options.kernel))
        say(f"Linux {release(image, options.kernel)}")
        accel = choose_accel(options, image)
        try:
            return boot_and_run(options, image, wanted, accel)
        except LabError as error:
            if not error.again:
                return 125
            say("trying once more")
            return boot_and_run(options, image, wanted, "tcg" if options.accel == "auto" else accel)
    except LabError as error:
        if not hasattr(error, "again"):
            say(str(error))
        return 125
    except BrokenPipeError:
        return 141
    except Interrupted as interrupt:
        say(f"ended by {signal.Signals(interrupt.signum).name}")
        return 128 + interrupt.signum


if __name__ == "__main__":
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    # Nothing is left to clean up, and the interpreter's own exit takes time.
    os._exit(code)
