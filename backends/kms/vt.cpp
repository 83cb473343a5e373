// Switching between VTs: the kernel asks before it switches away from ours, and reports when it switches back.
// Kernel: drivers/tty/vt/vt_ioctl.c, VT_PROCESS.
#include "sys/sys.hpp"

#include <dmaflow/kms.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <linux/kd.h>
#include <linux/vt.h>
#include <poll.h>
#include <sys/signalfd.h>

namespace dmaflow::kms {
namespace {

/// Real-time signals from the end of the range: programs rarely use them.
int leave_signal() noexcept { return SIGRTMAX - 1; }
int return_signal() noexcept { return SIGRTMAX - 2; }

std::atomic_flag is_in_use;  // signals belong to the process

Error not_a_vt(int error, const char* operation, const std::string& tty) {
  Error result = Error::os(-error, operation, tty);
  if (error == -ENOTTY || error == -EINVAL || error == -ENXIO) {
    result.detail("not a VT: in a terminal window or over ssh nothing is switched");
  }
  return result;
}

}  // namespace

struct VtSwitch::Impl {
  Device& device;
  std::string name;
  Fd tty{};
  Fd signals{};
  vt_mode mode_before{};
  int screen_before = KD_TEXT;

  Impl(Device& d, std::string n) : device(d), name(std::move(n)) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (tty) {
      sys::ioctl_value(tty.get(), KDSETMODE, static_cast<unsigned long>(screen_before));
      sys::ioctl(tty.get(), VT_SETMODE, &mode_before);
    }
    is_in_use.clear();
  }
  [[nodiscard]] Result<void> take();
};

VtSwitch::VtSwitch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
VtSwitch::~VtSwitch() = default;

Result<void> VtSwitch::Impl::take() {
  Fd opened = Fd::adopt(sys::open(name.c_str(), O_RDWR | O_NOCTTY));
  if (!opened) return std::unexpected(not_a_vt(opened.get(), "open", name));
  if (const int result = sys::ioctl(opened.get(), VT_GETMODE, &mode_before); result < 0) {
    return std::unexpected(not_a_vt(result, "VT_GETMODE", name));
  }
  if (const int result = sys::ioctl(opened.get(), KDGETMODE, &screen_before); result < 0) {
    return std::unexpected(not_a_vt(result, "KDGETMODE", name));
  }
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, leave_signal());
  sigaddset(&set, return_signal());
  signals = Fd::adopt(sys::signalfd(set));
  if (!signals) return std::unexpected(Error::os(-signals.get(), "signalfd", name));
  if (const int result = sys::block_signals(set); result < 0) {
    return std::unexpected(Error::os(-result, "pthread_sigmask", name));
  }
  vt_mode mode{};
  mode.mode = VT_PROCESS;
  mode.relsig = static_cast<short>(leave_signal());
  mode.acqsig = static_cast<short>(return_signal());
  if (const int result = sys::ioctl(opened.get(), VT_SETMODE, &mode); result < 0) {
    return std::unexpected(not_a_vt(result, "VT_SETMODE", name));
  }
  tty = std::move(opened);  // from now on there is something to restore
  // Otherwise the console draws its text over the picture.
  if (const int result = sys::ioctl_value(tty.get(), KDSETMODE, KD_GRAPHICS); result < 0) {
    return std::unexpected(not_a_vt(result, "KDSETMODE", name));
  }
  return {};
}

Result<std::unique_ptr<VtSwitch>> VtSwitch::open(Device& device, const std::string& tty) {
  if (is_in_use.test_and_set()) {
    return std::unexpected(Error::os(EBUSY, "VtSwitch::open", tty).detail("there is one in this process already"));
  }
  auto impl = std::make_unique<Impl>(device, tty.empty() ? "/dev/tty" : tty);
  if (auto taken = impl->take(); !taken) return std::unexpected(taken.error());
  return std::unique_ptr<VtSwitch>(new VtSwitch(std::move(impl)));
}

int VtSwitch::poll_fd() const noexcept { return impl_->signals.get(); }
short VtSwitch::poll_events() const noexcept { return POLLIN; }

Result<void> VtSwitch::dispatch(short revents) {
  if ((revents & POLLIN) == 0) return {};
  Result<void> first;
  std::array<signalfd_siginfo, 8> asked;  // NOLINT(cppcoreguidelines-pro-type-member-init): read() fills it
  const ssize_t size = sys::read(impl_->signals.get(), asked.data(), sizeof asked);
  if (size == -EAGAIN) return {};
  if (size < 0) return std::unexpected(Error::os(static_cast<int>(-size), "read", impl_->name).detail("signals"));
  for (const signalfd_siginfo& signal : std::span(asked).first(static_cast<std::size_t>(size) / sizeof asked[0])) {
    const bool leaves = static_cast<int>(signal.ssi_signo) == leave_signal();
    auto done = leaves ? impl_->device.pause() : Result<void>{};
    // Answer in any case: the user cannot leave a VT that is never released.
    sys::ioctl_value(impl_->tty.get(), VT_RELDISP, leaves ? 1 : VT_ACKACQ);
    if (!leaves) done = impl_->device.resume();
    if (!done && first) first = done;
  }
  return first;
}

}  // namespace dmaflow::kms
