// The kernel's reports of monitors plugged in and out: uevents on a netlink socket, without libudev.
// Kernel: lib/kobject_uevent.c; a report is "change@/devices/...\0KEY=value\0KEY=value\0...".
#include "hotplug.hpp"

#include "impl.hpp"
#include "sys/sys.hpp"

#include <array>
#include <cerrno>
#include <cstring>

#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

namespace dmaflow::kms {

Uevent parse_uevent(std::string_view report) noexcept {
  Uevent result;
  while (!report.empty()) {
    const std::string_view line = report.substr(0, report.find('\0'));
    report.remove_prefix(std::min(report.size(), line.size() + 1));
    if (line == "SUBSYSTEM=drm") result.is_drm = true;
    if (line == "ACTION=change") result.is_change = true;
    if (line.starts_with("DEVNAME=")) result.device = line.substr(8);
  }
  return result;
}

struct Hotplug::Impl {
  Device::Impl& device;
  std::string node;  // "dri/card0"
  Fd socket;
};

Hotplug::Hotplug(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Hotplug::~Hotplug() = default;

int Hotplug::poll_fd() const noexcept { return impl_->socket.get(); }
short Hotplug::poll_events() const noexcept { return POLLIN; }

Result<void> Hotplug::dispatch(short revents) {
  if ((revents & (POLLIN | POLLERR)) == 0) return {};
  bool is_ours = false;
  std::array<char, 8192> report;  // NOLINT(cppcoreguidelines-pro-type-member-init): read() fills it
  while (true) {
    const ssize_t size = sys::read(impl_->socket.get(), report.data(), report.size());
    if (size == -EAGAIN || size == 0) break;
    if (size == -ENOBUFS) {  // reports were lost: check the connectors in any case
      is_ours = true;
      continue;
    }
    if (size < 0) return std::unexpected(impl_->device.file.error(static_cast<int>(size), "read").detail("uevents"));
    const Uevent event = parse_uevent({report.data(), static_cast<std::size_t>(size)});
    if (event.is_drm && event.is_change && event.device == impl_->node) is_ours = true;
  }
  if (is_ours && impl_->device.file.fd >= 0) impl_->device.look_at_connectors();
  return {};
}

Result<Hotplug*> Device::hotplug() {
  if (auto alive = impl_->check_alive("hotplug"); !alive) return std::unexpected(alive.error());
  if (impl_->hotplug) return impl_->hotplug.get();
  Fd socket = Fd::adopt(sys::socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  if (!socket) return std::unexpected(impl_->file.error(socket.get(), "socket").detail("NETLINK_KOBJECT_UEVENT"));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;  // the kernel's own reports; udev sends on 2
  if (const int result = sys::bind(socket.get(), &address, sizeof address); result < 0) {
    return std::unexpected(impl_->file.error(result, "bind").detail("NETLINK_KOBJECT_UEVENT"));
  }
  // The kernel's own name for the node: the file may have been opened through a link.
  struct stat status{};
  if (const int result = sys::fstat(impl_->file.fd, &status); result < 0) {
    return std::unexpected(impl_->file.error(result, "fstat"));
  }
  auto inside =
      std::make_unique<Hotplug::Impl>(*impl_, "dri/card" + std::to_string(minor(status.st_rdev)), std::move(socket));
  impl_->hotplug.reset(new Hotplug(std::move(inside)));
  return impl_->hotplug.get();
}

void Device::Impl::look_at_connectors() {
  struct Before {
    Output::Impl* output;
    Connection connection;
    std::vector<Mode> modes;
  };
  std::vector<Before> before;
  for (const auto& output : outputs) {
    Output::Impl& impl = Inside::of(*output);
    before.push_back({&impl, impl.connector->connection, impl.modes});
  }
  refresh_connectors(file, objects);
  const auto is_same = [](const Mode& a, const Mode& b) { return a.size == b.size && a.refresh_mhz == b.refresh_mhz; };
  for (Before& then : before) {
    Output::Impl& output = *then.output;
    output.modes = describe(*output.connector).modes;
    const bool is_unchanged =
        output.connector->connection == then.connection &&
        std::equal(output.modes.begin(), output.modes.end(), then.modes.begin(), then.modes.end(), is_same);
    if (is_unchanged) continue;
    for (const auto& plane : output.planes) Inside::of(*plane).has_changed = true;
  }
}

}  // namespace dmaflow::kms
