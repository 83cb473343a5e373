"""The command line of tests/lab/run: its help, its options, and the parser."""

import os
import sys

USAGE = """\
usage: tests/lab/run [options] -- COMMAND...

Runs COMMAND in a virtual machine that has virtual cameras and displays behind real kernel drivers. The checkout is there under the same
path, read and write; the working directory is the same; output is streamed; the exit status is the command's own (124: time-out,
125: the lab itself failed, and says why). COMMAND runs as root; `su user -c ...` is a user in the groups video and render.

  --kernel 6.12|backports|6.1   Debian 13's kernel (default), Debian 13's newest backport, Debian 12's kernel; or a release that the
                        archive still has, such as 6.12.107 (tests/lab/build-image --list)
  --display KIND                virtio (default), bochs, vkms, all (cards in that order), none
  --screen WxH                  the monitors' preferred size (default 1280x720)
  --screens N                   number of displays of this kind (default 1, up to 4; only virtio and bochs)
  --with LAYER                  more software: gstreamer (gst-launch-1.0 with v4l2src and kmssink), valgrind (its callgrind)
  --cameras N                   vivid cameras (default 1, up to 8): captures /dev/video0..N-1, outputs /dev/video10..; every second
                                camera has the multi-planar API (the first is single-planar); from the third on
                                they need physically contiguous memory
  --module "NAME [PARAM=...]"   load another module, or one of the lab's with other parameters; "-NAME": leave it out. Repeatable
  --timeout SECONDS             for the command, without boot (default 300)
  --screenshot FILE             a PNG of the screen, seen from outside: taken while COMMAND runs, after 1 s and then every 2 s, each replacing
                                the one before. COMMAND itself can take one at a chosen moment with: lab-screenshot FILE [DISPLAY]
  --kernel-log FILE             save the kernel's log
  --env NAME[=VALUE]            set it in the command's environment; without a value, this environment's. Repeatable
  --share DIR                   make another directory visible under the same path. Repeatable
  --icount                      guest time counts executed instructions: exactly repeatable, for benchmarks (one processor; slow)
  --smp N, --memory MIB         processors (default 2) and memory (default 2048)
  --accel auto|kvm|tcg          default auto: KVM where a stock kernel really boots under it, else emulation
  --verbose                     print each step with its time
"""

VALUED = ("--kernel", "--display", "--cameras", "--module", "--timeout", "--screenshot", "--kernel-log", "--env", "--share", "--smp",
          "--memory", "--accel", "--screen", "--screens", "--with")
SCREENS = {
    # The host keeps every buffer of the guest a second time.
    "virtio": "virtio-gpu-pci,max_hostmem=1G",
    # 4K XRGB needs 33 MB a frame, and a flip needs two.
    "bochs": "bochs-display,vgamem=128M",
}


class Options:
    def __init__(self):
        self.kernel = "6.12"
        self.display = "virtio"
        self.screen = "1280x720"
        self.screens = 1
        self.layer = None
        self.layer_file = None
        self.cameras = 1
        self.modules = []
        self.timeout = 300.0
        self.screenshot = None
        self.kernel_log = None
        self.env = []
        self.shares = []
        self.icount = False
        self.smp = 2
        self.memory = 2048
        self.accel = "auto"
        self.verbose = False
        self.command = []


def parse(arguments):
    options = Options()
    rest = list(arguments)

    def usage(problem):
        sys.stderr.write(f"error: {problem}\n\n{USAGE}")
        sys.exit(125)

    def number(text, kind, low, high, name):
        try:
            value = kind(text)
        except ValueError:
            usage(f"{name}: not a number: {text}")
        if not low <= value <= high:
            usage(f"{name}: must be from {low} to {high}: {text}")
        return value

    def choice(text, values, name):
        if text not in values:
            usage(f"{name}: must be one of {', '.join(values)}: {text}")
        return text

    while rest:
        name = rest.pop(0)
        if name == "--":
            break
        if name in ("-h", "--help"):
            sys.stdout.write(USAGE)
            sys.exit(0)
        if not name.startswith("-"):
            rest.insert(0, name)
            break
        if name in ("--icount", "--verbose"):
            setattr(options, name[2:], True)
            continue
        name, equals, value = name.partition("=")
        if name not in VALUED:
            usage(f"no such option: {name}")
        if not equals:
            if not rest:
                usage(f"{name} needs a value")
            value = rest.pop(0)
        if name == "--kernel":
            options.kernel = value  # build-image reports if it is invalid
        elif name == "--display":
            options.display = choice(value, ("virtio", "bochs", "vkms", "all", "none"), name)
        elif name == "--screen":
            width, times, height = value.partition("x")
            if not (times and width.isdigit() and height.isdigit() and 0 < int(width) <= 16384 and 0 < int(height) <= 16384):
                usage(f"--screen: such as 1280x720: {value}")
            options.screen = value
        elif name == "--screens":
            options.screens = number(value, int, 1, 4, name)
        elif name == "--with":
            options.layer = choice(value, ("gstreamer", "valgrind"), name)
        elif name == "--accel":
            options.accel = choice(value, ("auto", "kvm", "tcg"), name)
        elif name == "--cameras":
            options.cameras = number(value, int, 0, 8, name)
        elif name == "--timeout":
            options.timeout = number(value, float, 0.1, 1e6, name)
        elif name == "--smp":
            options.smp = number(value, int, 1, 64, name)
        elif name == "--memory":
            options.memory = number(value, int, 256, 1 << 20, name)
        elif name == "--screenshot":
            options.screenshot = os.path.abspath(value)
        elif name == "--kernel-log":
            options.kernel_log = os.path.abspath(value)
        elif name == "--module":
            if not value.split():
                usage("--module needs a name")
            options.modules.append(value.split())
            for parameter in value.split()[1:]:
                # vivid's other parameters are one per camera, so the lab must know the number of cameras.
                if value.split()[0] == "vivid" and parameter.startswith("n_devs="):
                    options.cameras = number(parameter[7:], int, 0, 8, "vivid n_devs")
        elif name == "--env":
            key, equals, text = value.partition("=")
            if not equals:
                text = os.environ.get(key, "")
            options.env.append((key, text))
        elif name == "--share":
            if not os.path.isdir(value):
                usage(f"--share: no such directory: {value}")
            options.shares.append(os.path.realpath(value))
    options.command = rest
    if not options.command:
        usage("no command")
    if options.screens > 1 and options.display not in SCREENS:
        usage("--screens: only with --display virtio or bochs")
    return options
