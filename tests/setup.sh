# shellcheck shell=bash
# Sourced by every command that a person starts (examples/demo, tests/run, tests/lab/run). It provides two functions:
#   step "What is being done" command...   one line with the time it took; the command's output goes to a log
#   need_packages package...               installs those that are missing; fast if none is
# Nothing here asks a question, and nothing that is already there is installed.

DMAFLOW_CACHE=${DMAFLOW_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dmaflow}
DMAFLOW_LOGS=${DMAFLOW_LOGS:-$DMAFLOW_CACHE/logs}
export DMAFLOW_CACHE DMAFLOW_LOGS
# A Debian user's PATH lacks these directories, which contain depmod and others.
PATH=$PATH:/usr/sbin:/sbin

# Package groups. A script that needs one calls: need_packages "${PACKAGES_BUILD[@]}"
# shellcheck disable=SC2034  # used by the scripts that source this file
PACKAGES_BUILD=(g++ cmake ninja-build pkg-config git ca-certificates libdrm-dev libgbm-dev libvulkan-dev libgtest-dev
  libgmock-dev libbenchmark-dev libcli11-dev libfmt-dev nlohmann-json3-dev glslang-tools)
# shellcheck disable=SC2034  # the programs in examples/loops
PACKAGES_LOOPS=(libglib2.0-dev libuv1-dev libsystemd-dev)
# shellcheck disable=SC2034
PACKAGES_LINT=(clang-19 clang-tidy-19 clang-format-19 libclang-rt-19-dev)
# shellcheck disable=SC2034  # other compilers, libraries and machines; llvm-19 has the symbolizer of Clang's sanitizers
PACKAGES_PORTABILITY=(libc++-19-dev libc++abi-19-dev llvm-19 googletest libx11-dev g++-arm-linux-gnueabihf g++-aarch64-linux-gnu)
# shellcheck disable=SC2034  # the unit tests open with it what FileSink writes
PACKAGES_UNIT=(ffmpeg)
# shellcheck disable=SC2034  # the pictures in the demo's report
PACKAGES_REPORT=(gnuplot-nox)
# shellcheck disable=SC2034  # to run the lab; building its image needs the second group too, once
PACKAGES_LAB=(qemu-system-x86 python3-minimal libpython3-stdlib)
# shellcheck disable=SC2034
PACKAGES_LAB_IMAGE=(mmdebstrap erofs-utils kmod cpio zstd xz-utils ca-certificates debian-archive-keyring)

# kernel_line KERNEL: prints to which of the lab's three lines a kernel belongs: 6.1 (Debian 12's), 6.12 (Debian 13's) or backports
# (newer ones). KERNEL is one of these, or a release in Debian 13's archive: 6.12.107, 7.2.12+deb13. Fails for anything else.
kernel_line() {
  case $1 in
    6.1 | 6.12 | backports) echo "$1" ;;
    6.12.*) [[ $1 =~ ^6\.12\.[0-9]+(\+deb[0-9.]+)?$ ]] && echo 6.12 ;;
    *) [[ $1 =~ ^[0-9]+\.[0-9]+\.[0-9]+(\+deb[0-9.]+)?$ && $1 != 6.1.* ]] && echo backports ;;
  esac
}

# as_root command...: runs it as root, through sudo if necessary.
as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo --preserve-env=http_proxy,https_proxy,no_proxy -- "$@"
  else
    echo "error: this needs root, and there is no sudo: $*" >&2
    return 1
  fi
}

# Prints the time since a fixed point in tenths of a second, without starting a process.
_tenths() { local us=${EPOCHREALTIME/[.,]/}; echo $((us / 100000)); }

_step_line() { # tenths text [carriage return first]
  printf '%s[%4d.%ds] %s' "${3:-}" $(($1 / 10)) $(($1 % 10)) "$2" >&2
}

# step TEXT command...: prints TEXT and the time it took as one line on stderr, and writes the command's output to a log. On a
# terminal the time is updated while it runs. If the command fails, its last lines and the log's path are printed and its status is
# returned. The command runs in a subshell, so it cannot set variables of the caller.
step() {
  local text=$1 log start status=0 ticker='' keep_e=''
  shift
  mkdir -p "$DMAFLOW_LOGS"
  log=$DMAFLOW_LOGS/$(printf '%s' "$text" | tr -cs 'A-Za-z0-9.-' '-' | cut -c1-60)-$$.log
  start=$(_tenths)
  if [[ -t 2 ]]; then
    # Checks the pid of this shell, so that the ticker also ends if we are killed and cannot stop it.
    (
      sleep 2
      while kill -0 "$$" 2>/dev/null; do
        _step_line $(($(_tenths) - start)) "$text ..." $'\r'
        sleep 0.5
      done
    ) &
    ticker=$!
  fi
  # `if step ...` and `step || ...` disable set -e inside; the subshell enables it again for the command.
  [[ $- == *e* ]] && keep_e=1
  set +e
  (
    [[ -n $keep_e ]] && set -e
    # Nothing may wait for input from the terminal.
    "$@"
  ) >"$log" 2>&1 </dev/null
  status=$?
  [[ -n $keep_e ]] && set -e
  if [[ -n $ticker ]]; then
    kill "$ticker" 2>/dev/null
    wait "$ticker" 2>/dev/null || true
    printf '\r\033[K' >&2
  fi
  if ((status == 0)); then
    _step_line $(($(_tenths) - start)) "$text"$'\n'
    # Logs are deleted after a week.
    find "$DMAFLOW_LOGS" -name '*.log' -mtime +7 -delete 2>/dev/null || true
  else
    _step_line $(($(_tenths) - start)) "$text: failed (status $status). The end of $log:"$'\n'
    tail -n "${STEP_TAIL:-25}" "$log" | sed 's/^/    /' >&2
  fi
  return "$status"
}

# missing_packages package...: prints those that are not installed.
missing_packages() {
  local package state
  local -A installed=()
  while read -r package state; do
    # With several architectures a package is listed once for each of them.
    [[ $state == *installed && $state != *not-installed ]] && installed[$package]=1
  done < <(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
  for package; do
    [[ -n ${installed[$package]:-} ]] || printf '%s\n' "$package"
  done
}

_apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true \
    apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 "$@"
}

_install() {
  # The package lists may be missing (fresh machine) or so old that the mirror no longer has their versions. First try with them.
  _apt_get install --no-install-recommends "$@" || { _apt_get update && _apt_get install --no-install-recommends "$@"; }
}

# need_packages package...: installs those that are missing.
need_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]} == 0)) && return 0
  # Two commands that start at once would both install; apt's lock makes the second one wait, and it then finds
  # everything installed.
  step "Installing ${#missing[@]} packages (${missing[*]:0:4}$( ((${#missing[@]} > 4)) && echo ' ...'))" _install "${missing[@]}"
}
