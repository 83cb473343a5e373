// Shared by the KMS tests: cards by driver, a screen with frames to show on it, and a hook that records the system
// calls.
#pragma once

#include "support.hpp"

#include <dmaflow/cpu_access.hpp>
#include <dmaflow/frame.hpp>
#include <dmaflow/kms.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <libdrm/drm.h>
#include <libdrm/drm_mode.h>
#include <poll.h>
#include <sys/ioctl.h>

namespace dmaflow::test {

/// The node of a card, by its driver. Fails the test if there is no such card.
inline std::string card_path(const std::string& driver) {
  for (const kms::Card& card : kms::list()) {
    if (card.driver == driver) return card.path;
  }
  ADD_FAILURE() << "no card of " << driver;
  return "/dev/dri/no-" + driver;
}

inline const std::vector<std::string>& displays() {
  static const std::vector<std::string> all = {"virtio_gpu", "bochs-drm", "vkms"};
  return all;
}

/// What a CRTC shows, as the kernel reports it; all zero if it is off.
struct Shown {
  std::uint32_t width = 0, height = 0, framebuffer = 0;
  friend bool operator==(const Shown&, const Shown&) = default;
};

inline Shown read_crtc(int fd, std::uint32_t id) {
  drm_mode_crtc crtc{};
  crtc.crtc_id = id;
  EXPECT_EQ(ioctl(fd, DRM_IOCTL_MODE_GETCRTC, &crtc), 0);
  if (crtc.mode_valid == 0) return {};
  return {crtc.mode.hdisplay, crtc.mode.vdisplay, crtc.fb_id};
}

inline StreamConfig stream_of(Size size, PixelFormat format = formats::xrgb8888) {
  StreamConfig config;
  auto layout = Layout::linear(format, size);
  if (layout) {
    config.layout = *layout;
  } else {  // a size that the table refuses: the display has to refuse it too
    config.layout.size = size;
    config.layout.format = format;
    config.layout.modifier = Modifier::linear();
  }
  return config;
}

/// drm_mode_closefb, which is missing in libdrm's headers.
inline constexpr unsigned long ioctl_closefb = _IOWR('d', 0xd0, std::uint64_t);

/// Whether the kernel can release a framebuffer that is still on a plane. The library lets the kernel wait for fences
/// only if it can.
inline bool has_closefb(const std::string& driver) {
  const Fd fd = Fd::adopt(::open(card_path(driver).c_str(), O_RDWR | O_CLOEXEC));
  std::uint64_t none = 0;
  return ::ioctl(fd.get(), ioctl_closefb, &none) != 0 && errno == ENOENT;
}

/// Records every call, and may make some fail.
class Recorder : public sys::Hook {
 public:
  struct Entry {
    std::string name;
    unsigned long request = 0;
    std::uint32_t value = 0;  ///< a handle or framebuffer that was released; a commit's flags
    std::uint64_t user_data = 0;
    std::vector<std::uint32_t> objects;  ///< of a commit
  };
  Recorder() { sys::set_hook(this); }
  ~Recorder() override { sys::set_hook(nullptr); }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  int before(const sys::Call& call) noexcept override {
    Entry entry{.name = call.name, .request = call.request, .value = 0, .user_data = 0, .objects = {}};
    if (call.request == DRM_IOCTL_GEM_CLOSE) entry.value = static_cast<const drm_gem_close*>(call.argument)->handle;
    if (call.request == DRM_IOCTL_MODE_RMFB || call.request == ioctl_closefb)
      entry.value = *static_cast<const unsigned*>(call.argument);
    if (call.request == DRM_IOCTL_MODE_ATOMIC) {
      const auto* atomic = static_cast<const drm_mode_atomic*>(call.argument);
      entry.value = atomic->flags;
      entry.user_data = atomic->user_data;
      const auto* first = reinterpret_cast<const std::uint32_t*>(atomic->objs_ptr);
      entry.objects.assign(first, first + atomic->count_objs);
    }
    entries_.push_back(entry);
    return fail ? fail(entries_.back()) : 0;
  }
  [[nodiscard]] std::size_t count(unsigned long request) const {
    return static_cast<std::size_t>(
        std::count_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.request == request; }));
  }
  /// Framebuffers that were released: by CLOSEFB, or by RMFB if the kernel has only that.
  [[nodiscard]] std::size_t count_framebuffers_ended() const {
    return static_cast<std::size_t>(
        std::count_if(entries_.begin(), entries_.end(), [](const Entry& e) { return ends_framebuffer(e); }));
  }
  static bool ends_framebuffer(const Entry& entry) {
    return entry.request == DRM_IOCTL_MODE_RMFB || (entry.request == ioctl_closefb && entry.value != 0);
  }
  [[nodiscard]] std::size_t count_named(const std::string& name) const {
    return static_cast<std::size_t>(
        std::count_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.name == name; }));
  }
  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }
  void clear() { entries_.clear(); }

  std::function<int(const Entry&)> fail;

 private:
  std::vector<Entry> entries_;
};

/// A device with one output and one plane, and frames in the display's own buffers.
struct Screen {
  std::unique_ptr<kms::Device> device;
  kms::Output* output = nullptr;
  kms::Plane* plane = nullptr;
  std::vector<Buffer> buffers;
  std::shared_ptr<HoldSet> holds;
  std::vector<std::uint32_t> free;
  std::uint64_t sequence = 0;

  static Result<Screen> open(const std::string& driver, Size size, const kms::PlaneOptions& options = {},
                             std::uint32_t count = 6) {
    auto device = kms::Device::open(card_path(driver));
    if (!device) return std::unexpected(device.error());
    auto output = (*device)->output();
    if (!output) return std::unexpected(output.error());
    auto screen = on(**output, size, options, count);
    if (screen) screen->device = std::move(*device);
    return screen;
  }
  /// Another plane of an output, with its own frames.
  static Result<Screen> on(kms::Output& output, Size size, const kms::PlaneOptions& options = {},
                           std::uint32_t count = 6) {
    Screen screen;
    screen.output = &output;
    auto plane = output.plane(options);
    if (!plane) return std::unexpected(plane.error());
    screen.plane = *plane;
    if (auto done = screen.plane->set_input(stream_of(size)); !done) return std::unexpected(done.error());
    auto buffers =
        screen.plane->input_allocator()->allocate({.size = size, .format = formats::xrgb8888, .count = count});
    if (!buffers) return std::unexpected(buffers.error());
    screen.buffers = *buffers;
    if (auto started = screen.plane->start(screen.buffers); !started) return std::unexpected(started.error());
    auto holds = HoldSet::create(screen.buffers);
    if (!holds) return std::unexpected(holds.error());
    screen.holds = *holds;
    for (std::uint32_t i = count; i > 0; --i) screen.free.push_back(i - 1);
    return screen;
  }
  /// The next frame; an empty one if all are held.
  Frame next() {
    while (auto back = holds->take_returned()) free.push_back(back->index);
    if (free.empty()) return {};
    const std::uint32_t index = free.back();
    free.pop_back();
    ++sequence;
    return must(holds->lend(index, {.sequence = sequence,
                                    .timestamp = std::chrono::milliseconds(10 * sequence),
                                    .clock = FrameInfo::Clock::monotonic}));
  }
  /// Shows one frame and waits until it is on the screen.
  Result<void> show() {
    auto displaced = plane->accept(next());
    if (!displaced) return std::unexpected(displaced.error());
    if (auto flushed = plane->flush(); !flushed) return flushed;
    return plane->drain(soon());
  }
  /// Accepts and flushes; if the display is not ready, waits for it.
  Result<void> stream() {
    auto displaced = plane->accept(next());
    if (!displaced) return std::unexpected(displaced.error());
    if (auto flushed = plane->flush(); !flushed) return flushed;
    while (plane->poll_events() != 0) {
      const int ready = sys::wait(plane->poll_fd(), plane->poll_events(), soon());
      if (ready <= 0) return std::unexpected(Error::os(ETIMEDOUT, "poll"));
      if (auto done = plane->dispatch(static_cast<short>(ready)); !done) return done;
    }
    return {};
  }
  static Deadline soon() { return Deadline::after(std::chrono::seconds(10)); }
};

/// Shows one frame filled with a pattern, waits until it is on the screen, and returns its buffer.
inline Buffer show_a_pattern(Screen& screen) {
  Frame frame = screen.next();
  {
    auto access = must(CpuAccess::begin(frame.buffer(), CpuAccess::Mode::write, Screen::soon()));
    const auto bytes = access.writable_object(0);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 / 4 % 251);
    must(access.end());
  }
  Buffer buffer = frame.buffer();
  must(screen.plane->accept(std::move(frame))).release();
  must(screen.plane->flush());
  must(screen.plane->drain(Screen::soon()));
  return buffer;
}

/// The number of bytes in which two XRGB8888 pictures of the same layout differ; X is left out.
inline std::size_t differing_bytes(const Buffer& one, const Buffer& other) {
  auto here = must(CpuAccess::begin(one, CpuAccess::Mode::read, Screen::soon()));
  auto there = must(CpuAccess::begin(other, CpuAccess::Mode::read, Screen::soon()));
  const Size size = one.layout().size;
  std::size_t different = 0;
  for (std::size_t i = 0; i < std::size_t{size.width} * size.height * 4; ++i) {
    different += i % 4 != 3 && here.object(0)[i] != there.object(0)[i] ? 1U : 0U;
  }
  return different;
}

}  // namespace dmaflow::test
