// One DRM file: opening and mastership, events, and the teardown of everything that belongs to it.
#include "drm_ioctl.hpp"
#include "find.hpp"
#include "impl.hpp"

#include "access_help.hpp"
#include "log.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>

#include <drm.h>
#include <drm_mode.h>
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <xf86drm.h>

namespace dmaflow::kms {
namespace {

/// How often a paused device checks whether it is master again.
constexpr std::chrono::milliseconds resume_interval{500};

constexpr const char* held_by_another =
    "another program, such as a desktop session, holds the display: stop it, or switch to a free VT (Ctrl+Alt+F3) and "
    "start there";

std::uint64_t capability(int fd, std::uint64_t name) noexcept {
  drm_get_cap request{.capability = name, .value = 0};
  return drm_ioctl(fd, DRM_IOCTL_GET_CAP, &request) < 0 ? 0 : request.value;
}

int set_client_capability(int fd, std::uint64_t name, std::uint64_t value) noexcept {
  drm_set_client_cap request{.capability = name, .value = value};
  return drm_ioctl(fd, DRM_IOCTL_SET_CLIENT_CAP, &request);
}

Error open_refused(int error, const std::string& path) {
  Error result = Error::os(-error, "open", path);
  if (error == -ENOENT) {
    std::string cards;
    for (const std::string& card : card_paths()) cards += (cards.empty() ? "" : ", ") + card;
    result.detail("no such card; this machine has %s", cards.empty() ? "none" : cards.c_str());
  } else if (error == -EACCES || error == -EPERM) {
    result.detail("%s", detail::access_help(path, R"(SUBSYSTEM=="drm", KERNEL=="card*")").c_str());
  }
  return result;
}

/// Refuses files other than a display's primary node, and enables atomic mode setting.
Result<void> check_kind(DrmFile& file) {
  struct stat status{};
  if (const int result = sys::fstat(file.fd, &status); result < 0) return std::unexpected(file.error(result, "fstat"));
  const bool is_drm = S_ISCHR(status.st_mode) && !driver_of(file.fd).empty();
  if (!is_drm) {
    return std::unexpected(file.error(-ENOTTY, "DRM_IOCTL_VERSION").detail("not a DRM device: use /dev/dri/cardN"));
  }
  if (minor(status.st_rdev) >> 6U == 2) {
    return std::unexpected(file.error(-ENODEV, "open").detail("a render node has no display: use /dev/dri/cardN"));
  }
  if (set_client_capability(file.fd, DRM_CLIENT_CAP_UNIVERSAL_PLANES, 1) < 0) {
    return std::unexpected(file.error(-ENODEV, "DRM_CLIENT_CAP_UNIVERSAL_PLANES").detail("a card without a display"));
  }
  if (const int result = set_client_capability(file.fd, DRM_CLIENT_CAP_ATOMIC, 1); result < 0) {
    return std::unexpected(
        file.error(-EOPNOTSUPP, "DRM_CLIENT_CAP_ATOMIC")
            .detail("the driver has no atomic mode setting, which dmaflow needs (errno %d)", -result));
  }
  return {};
}

/// Optional: without it writeback connectors stay hidden.
void show_writeback_connectors(const DrmFile& file) noexcept {
  set_client_capability(file.fd, DRM_CLIENT_CAP_WRITEBACK_CONNECTORS, 1);
}

/// Whether the kernel has CLOSEFB: if so, it returns ENOENT for framebuffer 0, which never exists.
bool has_closefb(int fd) noexcept {
  CloseFb request{.fb_id = 0, .pad = 0};
  return drm_ioctl(fd, ioctl_mode_closefb, &request) == -ENOENT;
}

void read_capabilities(DrmFile& file) noexcept {
  const std::uint64_t prime = capability(file.fd, DRM_CAP_PRIME);
  file.prime_import = (prime & DRM_PRIME_CAP_IMPORT) != 0;
  file.prime_export = (prime & DRM_PRIME_CAP_EXPORT) != 0;
  file.modifiers = capability(file.fd, DRM_CAP_ADDFB2_MODIFIERS) != 0;
  file.dumb = capability(file.fd, DRM_CAP_DUMB_BUFFER) != 0;
  file.monotonic = capability(file.fd, DRM_CAP_TIMESTAMP_MONOTONIC) != 0;
  file.closefb = has_closefb(file.fd);
}

/// When the flip happened, on CLOCK_MONOTONIC; the current time if the driver does not report it (another clock, or 0).
std::chrono::nanoseconds time_of(const drm_event_vblank& flip, bool is_monotonic) noexcept {
  const auto stated = std::chrono::seconds(flip.tv_sec) + std::chrono::microseconds(flip.tv_usec);
  if (is_monotonic && stated.count() != 0) return stated;
  return std::chrono::steady_clock::now().time_since_epoch();
}

}  // namespace

// Only a master may authenticate others; everyone else gets EACCES. Magic 0 is never valid, so nothing is changed.
bool DrmFile::is_master() const noexcept {
  drm_auth request{.magic = 0};
  return drm_ioctl(fd, DRM_IOCTL_AUTH_MAGIC, &request) != -EACCES;
}

Device::Device(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Device::~Device() = default;

Result<std::unique_ptr<Device>> Device::Impl::make(Fd& fd, std::string path) {
  auto impl = std::make_unique<Impl>();
  DrmFile& file = impl->file;
  file.fd = fd.get();
  file.gem = GemRegistry::create(fd.get());
  file.driver = driver_of(fd.get());
  file.name = file.driver.empty() ? path : path + " (" + file.driver + ")";
  const int flags = sys::fcntl(fd.get(), F_GETFL, 0);
  impl->is_nonblocking = flags >= 0 && (flags & O_NONBLOCK) != 0;
  if (auto checked = check_kind(file); !checked) return std::unexpected(checked.error());
  show_writeback_connectors(file);
  read_capabilities(file);
  if (!file.is_master()) {
    if (auto taken = impl->take_master(); !taken) return std::unexpected(taken.error());
    impl->took_master = true;
  }
  auto objects = read_objects(file);
  if (!objects) return std::unexpected(objects.error());
  impl->objects = std::move(*objects);
  impl->owned = std::move(fd);
  return std::unique_ptr<Device>(new Device(std::move(impl)));
}

Result<std::unique_ptr<Device>> Device::open(const std::string& path) {
  if (path.empty()) return open_first(list());
  Fd fd = Fd::adopt(sys::open(path.c_str(), O_RDWR | O_NONBLOCK));
  if (!fd) return std::unexpected(open_refused(fd.get(), path));
  return Impl::make(fd, path);
}

Result<std::unique_ptr<Device>> Device::adopt(Fd& fd) {
  const std::unique_ptr<char, decltype(&std::free)> node(drmGetDeviceNameFromFd2(fd.get()), &std::free);
  return Impl::make(fd, node ? node.get() : "adopted DRM file");
}

Result<void> Device::Impl::take_master() const noexcept {
  const int result = sys::ioctl_value(file.fd, DRM_IOCTL_SET_MASTER, 0);
  if (result == 0) return {};
  Error error = file.error(result, "DRM_IOCTL_SET_MASTER");
  if (result == -EACCES || result == -EBUSY || result == -EPERM) error.detail("%s", held_by_another);
  return std::unexpected(error);
}

// Planes wait for flips when they stop, and each flip event is passed to every output. So the planes are destroyed
// while the list of outputs is still complete.
void Device::Impl::end(Output& output) noexcept {
  auto& planes = Inside::of(output).planes;
  while (!planes.empty()) output.remove(planes.back().get());
}

void Device::Impl::detach() noexcept {
  if (file.fd < 0) return;
  for (const auto& output : outputs) end(*output);
  outputs.clear();
  hotplug.reset();
  file.domain->detach();
  if (took_master && !paused) sys::ioctl_value(file.fd, DRM_IOCTL_DROP_MASTER, 0);
  file.fd = -1;
  file.gem->detach();
  owned.reset();
  left_on_screen.clear();
}

std::uint32_t Device::Impl::find_pitch_alignment() noexcept {
  constexpr std::uint32_t pixel = 4;
  if (!pitch_alignment) {
    DumbHandle memory(file);
    const bool is_made = file.dumb && memory.create(1, 1, 8 * pixel) == 0;
    pitch_alignment = is_made && memory.stride() > pixel && std::has_single_bit(memory.stride()) ? memory.stride() : 0;
  }
  return *pitch_alignment;
}

void Device::detach() noexcept { impl_->detach(); }

std::string_view Device::name() const noexcept { return impl_->file.name; }
std::string_view Device::driver() const noexcept { return impl_->file.driver; }
int Device::fd() const noexcept { return impl_->file.fd; }
bool Device::takes_modifiers() const noexcept { return impl_->file.modifiers; }
bool Device::imports() const noexcept { return impl_->file.prime_import; }

Allocator* Device::allocator() noexcept {
  return impl_->file.dumb && impl_->file.prime_export ? &impl_->dumb : nullptr;
}

Result<std::vector<Connector>> Device::connectors() {
  if (auto alive = impl_->check_alive("connectors"); !alive) return std::unexpected(alive.error());
  impl_->look_at_connectors();
  std::vector<Connector> result;
  for (const ConnectorObject& connector : impl_->objects.connectors) {
    if (!connector.is_writeback) result.push_back(describe(connector));
  }
  return result;
}

namespace {

ConnectorObject* find_connector(Objects& objects, const std::string& name) {
  for (ConnectorObject& connector : objects.connectors) {
    const bool is_monitor = connector.connection == Connection::connected && !connector.is_writeback;
    const bool is_wanted = name.empty() ? is_monitor : connector.name == name;
    if (is_wanted) return &connector;
  }
  return nullptr;
}

std::string list_connectors(const Objects& objects) {
  std::string text;
  for (const ConnectorObject& connector : objects.connectors) {
    text += (text.empty() ? "" : ", ") + connector.name;
    if (connector.is_writeback) {
      text += " (memory)";
    } else if (connector.connection != Connection::connected) {
      text += " (disconnected)";
    }
  }
  return text;
}

const CrtcObject* find_crtc(const Objects& objects, const ConnectorObject& connector, std::uint32_t wanted,
                            const std::vector<std::uint32_t>& taken) {
  const auto is_possible = [&](const CrtcObject& crtc) {
    return (connector.possible_crtcs >> crtc.index & 1U) != 0 &&
           std::find(taken.begin(), taken.end(), crtc.id) == taken.end() && (wanted == 0 || crtc.id == wanted);
  };
  const CrtcObject* found = nullptr;
  for (const CrtcObject& crtc : objects.crtcs) {
    if (!is_possible(crtc)) continue;
    if (crtc.id == connector.crtc_id) return &crtc;
    const bool is_busy = std::any_of(objects.connectors.begin(), objects.connectors.end(),
                                     [&](const ConnectorObject& other) { return other.crtc_id == crtc.id; });
    if (found == nullptr && (!is_busy || wanted != 0)) found = &crtc;
  }
  return found;
}

}  // namespace

Result<Output*> Device::output(const OutputOptions& options) {
  if (auto alive = impl_->check_alive("output"); !alive) return std::unexpected(alive.error());
  const auto refuse = [&](int code) { return Error::os(code, "output", impl_->file.name); };
  Objects& objects = impl_->objects;
  refresh_links(impl_->file, objects);
  ConnectorObject* connector = find_connector(objects, options.connector);
  if (connector == nullptr) {
    return std::unexpected(refuse(ENODEV).detail(
        "no %s; there are: %s", options.connector.empty() ? "connected monitor" : options.connector.c_str(),
        list_connectors(objects).c_str()));
  }
  std::vector<std::uint32_t> taken;
  for (const auto& other : impl_->outputs) {
    taken.push_back(other->crtc_id());
    if (Inside::of(*other).connector == connector) {
      return std::unexpected(refuse(EBUSY).detail("%s has an output already", connector->name.c_str()));
    }
  }
  const CrtcObject* crtc = find_crtc(objects, *connector, options.crtc_id, taken);
  if (crtc == nullptr) return std::unexpected(refuse(ENOSPC).detail("no free CRTC for %s", connector->name.c_str()));
  auto inside = std::make_unique<Output::Impl>(*impl_, impl_->file.name + " " + connector->name);
  inside->number = impl_->next_output++;
  inside->options = options;
  inside->connector = connector;
  inside->crtc = crtc;
  inside->modes = describe(*connector).modes;
  impl_->outputs.push_back(std::unique_ptr<Output>(new Output(std::move(inside))));
  return impl_->outputs.back().get();
}

void Device::remove(Output* output) noexcept {
  const auto found = std::ranges::find_if(impl_->outputs, [&](const auto& owned) { return owned.get() == output; });
  if (found == impl_->outputs.end()) return;
  impl_->end(**found);
  impl_->outputs.erase(found);
}

int Device::poll_fd() const noexcept { return impl_->file.fd; }

short Device::poll_events() const noexcept {
  for (const auto& output : impl_->outputs) {
    const Output::Impl& inside = Inside::of(*output);
    if (inside.is_waiting() || (inside.in_flight && inside.is_slow)) return POLLIN;
  }
  return impl_->left_on_screen.empty() ? short{0} : short{POLLIN};
}

int Device::waiting_fence() const noexcept {
  for (const auto& output : impl_->outputs) {
    if (const int fence = Inside::of(*output).waiting_fence(); fence >= 0) return fence;
  }
  return -1;
}

std::optional<Deadline> Device::wake_by() const noexcept {
  std::optional<Deadline> earliest;
  for (const auto& output : impl_->outputs) {
    const auto by = Inside::of(*output).wake_by();
    if (by && (!earliest || by->time() < earliest->time())) earliest = by;
  }
  return earliest;
}

Result<void> Device::dispatch(short revents) { return impl_->dispatch(revents); }

Result<void> Device::Impl::dispatch(short revents) noexcept {
  if (auto alive = check_alive("dispatch"); !alive) return alive;
  if ((revents & POLLIN) != 0) {
    if (auto read = read_events(); !read) return read;
  }
  return commit_waiting();
}

Result<void> Device::Impl::commit_waiting() noexcept {
  // A session manager drops mastership through its own copy of the file and gives it back without notice.
  if (paused && Deadline::Clock::now() >= look_again) {
    look_again = Deadline::after(resume_interval).time();
    if (file.is_master()) return resume();
  }
  for (const auto& output : outputs) {
    if (auto result = Inside::of(*output).commit(); !result) return result;
  }
  return {};
}

Result<void> Device::Impl::read_events() noexcept {
  // Several planes share this file, and each is dispatched for the same wake-up. Only the first finds events.
  if (outstanding == 0) return {};
  if (!is_nonblocking && sys::wait(file.fd, POLLIN, Deadline::immediate()) <= 0) return {};
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): read() fills it
  alignas(drm_event) std::array<std::byte, 4096> events;
  const ssize_t size = sys::read(file.fd, events.data(), events.size());
  if (size == -EAGAIN) return {};
  if (size < 0) return std::unexpected(file.error(static_cast<int>(size), "read").detail("flip events"));
  std::size_t at = 0;
  const auto end = static_cast<std::size_t>(size);
  while (at + sizeof(drm_event) <= end) {
    drm_event header{};
    std::memcpy(&header, &events[at], sizeof header);
    if (header.length < sizeof header || header.length > end - at) break;
    if (header.type == DRM_EVENT_FLIP_COMPLETE && header.length >= sizeof(drm_event_vblank)) {
      drm_event_vblank flip{};
      std::memcpy(&flip, &events[at], sizeof flip);
      on_flip(flip.user_data, time_of(flip, file.monotonic));
    }
    at += header.length;
  }
  return {};
}

void Device::Impl::on_flip(std::uint64_t user_data, std::chrono::nanoseconds when) noexcept {
  if (outstanding > 0) --outstanding;
  for (const auto& output : outputs) {
    Output::Impl& inside = Inside::of(*output);
    if (inside.number == user_data >> 48U) inside.on_flip(user_data & 0xffff'ffff'ffffU, when);
  }
  if (!left_on_screen.empty()) {
    take_off_screen(static_cast<std::uint16_t>(user_data >> 48U), user_data & 0xffff'ffff'ffffU);
  }
}

bool Device::paused() const noexcept { return impl_->paused; }

Result<void> Device::pause() noexcept {
  if (auto alive = impl_->check_alive("pause"); !alive) return alive;
  if (impl_->paused) return {};
  if (const int result = sys::ioctl_value(impl_->file.fd, DRM_IOCTL_DROP_MASTER, 0); result < 0) {
    return std::unexpected(impl_->file.error(result, "DRM_IOCTL_DROP_MASTER"));
  }
  impl_->paused = true;
  return {};
}

Result<void> Device::resume() {
  if (auto alive = impl_->check_alive("resume"); !alive) return alive;
  if (auto taken = impl_->take_master(); !taken) return taken;
  return impl_->resume();
}

// Turns every output on again, even if another one fails.
Result<void> Device::Impl::resume() noexcept {
  paused = false;
  refresh_links(file, objects);  // another master may have left other planes and connectors on
  Result<void> first = read_events();
  for (const auto& output : outputs) {
    if (auto result = Inside::of(*output).relight(); !result && first) first = result;
  }
  return first;
}

std::shared_ptr<GemRegistry> Device::gem() const noexcept { return impl_->file.gem; }
void Device::keep_handle(std::uint32_t handle) { impl_->file.gem->keep(handle); }
void Device::forget_handle(std::uint32_t handle) noexcept { impl_->file.gem->forget(handle); }

}  // namespace dmaflow::kms
