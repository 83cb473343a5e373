// One CRTC: what its planes staged becomes one atomic commit.
//
// A nonblocking commit is refused with EBUSY until the one before is on the screen. So one that is taken proves the one
// before done, without a flip event having been read; and a refused one waits for the event.
// Kernel: drivers/gpu/drm/drm_atomic_helper.c, drm_atomic_helper_setup_commit().
#include "impl.hpp"

#include "log.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <drm_mode.h>

namespace dmaflow::kms {
namespace {

constexpr std::uint32_t nonblocking_flip = DRM_MODE_ATOMIC_NONBLOCK | DRM_MODE_PAGE_FLIP_EVENT;
/// Frames further apart than this are worth a wake-up for their flip event.
constexpr std::chrono::milliseconds slow_interval{100};
constexpr std::size_t properties_per_plane = 16;

}  // namespace

Plane::Impl& Inside::of(Plane& plane) noexcept { return *plane.impl_; }
const Plane::Impl& Inside::of(const Plane& plane) noexcept { return *plane.impl_; }
Output::Impl& Inside::of(Output& output) noexcept { return *output.impl_; }

Output::Output(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Output::~Output() {
  while (!impl_->planes.empty()) remove(impl_->planes.back().get());
}

std::string_view Output::name() const noexcept { return impl_->name; }
std::string_view Output::connector() const noexcept { return impl_->connector->name; }
std::uint32_t Output::crtc_id() const noexcept { return impl_->crtc->id; }
const std::vector<Mode>& Output::modes() const noexcept { return impl_->modes; }
bool Output::is_connected() const noexcept { return impl_->connector->connection == Connection::connected; }
bool Output::paused() const noexcept { return impl_->device.paused; }
std::uint64_t Output::commits() const noexcept { return impl_->commits; }

std::optional<Mode> Output::mode() const noexcept {
  if (!impl_->mode) return std::nullopt;
  return impl_->mode->mode;
}

Result<Plane*> Output::plane(const PlaneOptions& options) {
  if (auto alive = impl_->device.check_alive("plane"); !alive) return std::unexpected(alive.error());
  impl_->planes.push_back(std::unique_ptr<Plane>(new Plane(std::make_unique<Plane::Impl>(*impl_, options))));
  return impl_->planes.back().get();
}

void Output::remove(Plane* plane) noexcept {
  const auto found =
      std::find_if(impl_->planes.begin(), impl_->planes.end(), [&](const auto& owned) { return owned.get() == plane; });
  if (found == impl_->planes.end()) return;
  (void)plane->stop();
  impl_->planes.erase(found);
}

bool Output::Impl::has_staged() const noexcept {
  return std::any_of(planes.begin(), planes.end(),
                     [](const auto& plane) { return static_cast<bool>(Inside::of(*plane).staged.frame); });
}

bool Output::Impl::is_waiting() const noexcept { return is_parked && (has_staged() || must_relight); }

Result<void> Output::Impl::prepare() {
  if (has_touched) return {};
  auto state = SavedState::take(device.file, device.objects, *crtc, *connector);
  if (!state) return std::unexpected(Error(state.error()).device(name));
  saved = std::move(*state);
  const std::size_t objects = device.objects.connectors.size() + 2 + 2 * device.objects.planes.size();
  request.reserve(objects, 4 + objects * properties_per_plane);
  used_planes.reserve(device.objects.planes.size());
  return {};
}

void Output::Impl::set_mode(AtomicRequest& to, std::uint32_t blob) const {
  const std::uint32_t left = connector->crtc_id == crtc->id ? 0 : connector->crtc_id;
  for (const ConnectorObject& other : device.objects.connectors) {
    if (other.id != connector->id && other.crtc_id == crtc->id) to.set(other.id, other.crtc_property, 0);
  }
  for (const CrtcObject& other : device.objects.crtcs) {
    if (other.id != left) continue;
    to.set(other.id, other.mode_property, 0);
    to.set(other.id, other.active_property, 0);
  }
  // Also ours: those that have a frame are set again behind this, and the last value counts.
  for (const PlaneObject& plane : device.objects.planes) {
    if (plane.crtc_id != 0 && (plane.crtc_id == crtc->id || plane.crtc_id == left)) Plane::Impl::turn_off(to, plane);
  }
  to.set(connector->id, connector->crtc_property, crtc->id);
  to.set(crtc->id, crtc->mode_property, blob);
  to.set(crtc->id, crtc->active_property, 1);
}

int Output::Impl::submit(std::uint32_t flags) noexcept {
  const std::uint64_t user_data = std::uint64_t{number} << 48U | (commits + 1);
  int result = request.commit(device.file.fd, flags, user_data);
  // Not our own flip that is awaited, so no event of ours will come: another master's last one. Wait for it in the
  // kernel.
  if (result == -EBUSY && !in_flight) {
    result = request.commit(device.file.fd, flags & ~std::uint32_t{DRM_MODE_ATOMIC_NONBLOCK}, user_data);
  }
  if (result == 0) committed();
  return result;
}

int Output::Impl::commit_now(Plane::Impl& plane, std::uint32_t framebuffer) noexcept {
  request.clear();
  if (!is_lit) set_mode(request, mode_blob.id());
  plane.set_place(request, *plane.place, framebuffer);
  const int result = request.commit(device.file.fd, DRM_MODE_ATOMIC_ALLOW_MODESET);
  if (result < 0) return result;
  is_lit = has_touched = plane.is_on = true;
  note_used(plane.place->plane->id);
  return 0;
}

void Output::Impl::note_used(std::uint32_t plane) {
  if (std::find(used_planes.begin(), used_planes.end(), plane) == used_planes.end()) used_planes.push_back(plane);
}

int Output::Impl::commit_all() noexcept {
  request.clear();
  set_mode(request, mode_blob.id());
  for (const auto& plane : planes) {
    const Plane::Impl& impl = Inside::of(*plane);
    const Plane::Impl::Held& on = impl.under_way.frame ? impl.under_way : impl.shown;
    const Plane::Impl::Held& newest = impl.staged.frame ? impl.staged : on;
    if (!newest.frame || !(impl.staged.frame || impl.is_on)) continue;
    impl.set_place(request, *impl.place, newest.framebuffer);
    impl.set_fence(request);
  }
  return submit(nonblocking_flip | DRM_MODE_ATOMIC_ALLOW_MODESET);
}

int Output::Impl::commit_staged() noexcept {
  std::uint32_t flags = nonblocking_flip;
  request.clear();
  for (const auto& plane : planes) {
    const Plane::Impl& impl = Inside::of(*plane);
    if (!impl.staged.frame) continue;
    if (impl.is_on) {
      request.set(impl.place->plane->id, impl.place->plane->fb, impl.staged.framebuffer);
    } else {
      impl.set_place(request, *impl.place, impl.staged.framebuffer);
      flags |= DRM_MODE_ATOMIC_ALLOW_MODESET;
    }
    impl.set_fence(request);
  }
  return submit(flags);
}

Result<void> Output::Impl::commit() noexcept {
  if (is_parked || device.paused || !(has_staged() || must_relight)) return {};
  if (auto alive = device.check_alive("flush"); !alive) return alive;
  if (device.outstanding >= event_batch) {
    if (auto read = device.read_events(); !read) return read;
  }
  return settle(is_lit ? commit_staged() : commit_all());
}

Result<void> Output::Impl::relight() noexcept {
  is_parked = is_lit = false;
  must_relight = has_touched;
  return commit();
}

Result<void> Output::Impl::settle(int result) noexcept {
  if (result == 0) return {};
  if (result == -EBUSY && in_flight) {
    is_parked = true;
    return {};
  }
  if (result == -EACCES) {
    device.paused = true;
    return {};
  }
  for (const auto& plane : planes) Inside::of(*plane).staged = {};
  return std::unexpected(error(result, "DRM_IOCTL_MODE_ATOMIC").detail("frames could not be shown"));
}

void Output::Impl::committed() noexcept {
  if (in_flight) completed();
  ++commits;
  is_slow = !is_lit;  // that flip carries no time of its own, so its event is read as soon as it comes
  if (!is_lit) lighting_commit = commits;
  ++unread;
  ++device.outstanding;
  in_flight = is_lit = has_touched = true;
  must_relight = false;
  for (const auto& plane : planes) {
    Plane::Impl& impl = Inside::of(*plane);
    if (!impl.staged.frame) continue;
    const FrameInfo& info = impl.staged.frame.info();
    if (last_captured.count() != 0 && info.timestamp - last_captured > slow_interval) is_slow = true;
    last_captured = info.timestamp;
    impl.submitted.push({.commit = commits, .sequence = info.sequence, .captured = info.timestamp});
    impl.under_way = std::move(impl.staged);
    impl.is_on = true;
    note_used(impl.place->plane->id);
  }
}

void Output::Impl::completed() noexcept {
  in_flight = is_parked = false;
  for (const auto& plane : planes) {
    Plane::Impl& impl = Inside::of(*plane);
    if (impl.under_way.frame) impl.shown = std::move(impl.under_way);
  }
}

void Output::Impl::on_flip(std::uint64_t commit, std::chrono::nanoseconds when) noexcept {
  if (unread > 0) --unread;
  // The flip that lights the screen carries the time of the last vblank there was: none, or of long ago.
  if (commit == lighting_commit) when = std::chrono::steady_clock::now().time_since_epoch();
  for (const auto& plane : planes) {
    Plane::Impl& impl = Inside::of(*plane);
    while (!impl.submitted.empty() && impl.submitted.front().commit <= commit) {
      const Plane::Impl::Submitted& done = impl.submitted.front();
      if (done.commit == commit) {
        impl.presented.push({.sequence = done.sequence, .captured = done.captured, .presented = when});
      }
      impl.submitted.pop();
    }
  }
  if (in_flight && commit == commits) completed();
}

Result<void> Output::Impl::drain(Deadline deadline) noexcept {
  while (true) {
    const bool is_staged = has_staged() && !device.paused;
    if (unread == 0 && !is_staged) return {};
    if (unread == 0) {
      if (is_parked) is_parked = in_flight = false;  // no event will come for it: submit() waits in the kernel
      if (auto result = commit(); !result) return result;
      continue;
    }
    const int ready = sys::wait(device.file.fd, POLLIN, deadline);
    if (ready < 0) return std::unexpected(error(ready, "poll"));
    if (ready == 0) {
      return std::unexpected(error(-ETIMEDOUT, "drain").detail("%u commits are not on the screen yet", unread));
    }
    if (auto read = device.read_events(); !read) return read;
    if (auto result = device.commit_waiting(); !result) return result;
  }
}

void Output::Impl::restore() noexcept {
  if (has_touched && saved && !device.paused) {
    if (auto result = saved->restore(used_planes); !result) {
      detail::log(LogLevel::warning, "%s: the screen could not be put back: errno %d", name.c_str(),
                  result.error().code());
    }
  }
  used_planes.clear();
  is_lit = has_touched = in_flight = is_parked = must_relight =
      false;  // unread: events may still come, and are counted
  last_captured = {};
}

}  // namespace dmaflow::kms
