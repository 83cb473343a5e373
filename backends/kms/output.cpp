// One CRTC: the frames that its planes have staged become one atomic commit.
//
// A nonblocking commit is refused with EBUSY until the previous one is on the screen. So an accepted commit proves that
// the previous one is done, without reading a flip event. A refused one waits for the event.
// Kernel: drivers/gpu/drm/drm_atomic_helper.c, drm_atomic_helper_setup_commit().
#include "impl.hpp"

#include "cancellable.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <drm_mode.h>

namespace dmaflow::kms {
namespace {

constexpr std::uint32_t nonblocking_flip = DRM_MODE_ATOMIC_NONBLOCK | DRM_MODE_PAGE_FLIP_EVENT;
/// If frames are further apart than this, the loop wakes up for their flip events.
constexpr std::chrono::milliseconds slow_interval{100};
constexpr std::size_t properties_per_plane = 20;
/// How many consecutive frames must find the display not done before the output counts as in step with its source.
constexpr std::uint32_t refusals_in_step = 3;

}  // namespace

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

Result<void> Output::want_out_fences(bool wanted) {
  if (wanted && impl_->crtc->out_fence_property == 0) {
    return std::unexpected(impl_->error(-EOPNOTSUPP, "OUT_FENCE_PTR").detail("the driver has no such property"));
  }
  impl_->wants_out_fences = wanted;
  if (!wanted) impl_->out_fence = Fence();
  return {};
}

Fence Output::take_out_fence() noexcept { return std::exchange(impl_->out_fence, {}); }

std::optional<Mode> Output::mode() const noexcept {
  if (!impl_->mode) return std::nullopt;
  return impl_->mode->mode;
}

Result<Plane*> Output::plane(const PlaneOptions& options) {
  if (auto alive = impl_->device.check_alive("plane"); !alive) return std::unexpected(alive.error());
  Device::Impl& device = impl_->device;
  std::size_t planes = 1;  // each may leave two frames on the screen
  for (const auto& output : device.outputs) planes += Inside::of(*output).planes.size();
  device.left_on_screen.reserve(device.left_on_screen.size() + 2 * planes);
  impl_->planes.push_back(std::unique_ptr<Plane>(new Plane(std::make_unique<Plane::Impl>(*impl_, options))));
  return impl_->planes.back().get();
}

void Output::remove(Plane* plane) noexcept {
  const auto found =
      std::find_if(impl_->planes.begin(), impl_->planes.end(), [&](const auto& owned) { return owned.get() == plane; });
  if (found == impl_->planes.end()) return;
  if (!plane->stop()) plane->impl_->leave_on_screen();
  impl_->planes.erase(found);
}

bool Output::Impl::has_staged() const noexcept {
  return std::any_of(planes.begin(), planes.end(),
                     [](const auto& plane) { return static_cast<bool>(Inside::of(*plane).staged.frame); });
}

bool Output::Impl::has_following() const noexcept {
  return std::any_of(planes.begin(), planes.end(),
                     [](const auto& plane) { return static_cast<bool>(Inside::of(*plane).following.frame); });
}

bool Output::Impl::has_committable() noexcept {
  bool found = false;
  for (const auto& plane : planes) found |= Inside::of(*plane).is_committable();
  return found;
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
  // This includes our planes: those that have a frame are set again later in the request, and the last value counts.
  for (const PlaneObject& plane : device.objects.planes) {
    if (plane.crtc_id != 0 && (plane.crtc_id == crtc->id || plane.crtc_id == left)) Plane::Impl::turn_off(to, plane);
  }
  to.set(connector->id, connector->crtc_property, crtc->id);
  for (const Neutral& one : connector->neutral) to.set(connector->id, one.property, one.value);
  to.set(crtc->id, crtc->mode_property, blob);
  to.set(crtc->id, crtc->active_property, 1);
  for (const Neutral& one : crtc->neutral) to.set(crtc->id, one.property, one.value);
}

int Output::Impl::submit(std::uint32_t flags) noexcept {
  out_fence_fd = -1;
  if (wants_out_fences) request.set(crtc->id, crtc->out_fence_property, address_of(&out_fence_fd));
  const int result = request.commit(device.file.fd, flags, next_user_data());
  if (result < 0) return result;
  if (wants_out_fences) out_fence = Fence::adopt_unchecked(Fd::adopt(out_fence_fd));
  committed();
  return result;
}

Outcome Output::Impl::commit_now(Plane::Impl& plane, std::uint32_t framebuffer) noexcept {
  request.clear();
  if (!is_lit) set_mode(request, mode_blob.id());
  plane.set_place(request, *plane.place, framebuffer);
  const Deadline deadline = Deadline::after(stop_time);
  Outcome outcome = commit_within(request, DRM_MODE_ATOMIC_ALLOW_MODESET, *crtc, deadline, deadline);
  if (outcome.result < 0) return outcome;
  is_lit = has_touched = plane.is_on = true;
  note_used(plane.place->plane->id);
  return outcome;
}

void Output::Impl::note_used(std::uint32_t plane) {
  if (std::find(used_planes.begin(), used_planes.end(), plane) == used_planes.end()) used_planes.push_back(plane);
}

int Output::Impl::free_connector() noexcept {
  const std::uint32_t other = connector->crtc_id;
  if (other == 0 || other == crtc->id) return 0;
  request.clear();
  for (const ConnectorObject& driven : device.objects.connectors) {
    if (driven.crtc_id == other) request.set(driven.id, driven.crtc_property, 0);
  }
  const CrtcObject* driver = crtc;
  for (const CrtcObject& left : device.objects.crtcs) {
    if (left.id != other) continue;
    driver = &left;
    request.set(left.id, left.mode_property, 0);
    request.set(left.id, left.active_property, 0);
  }
  for (const PlaneObject& plane : device.objects.planes) {
    if (plane.crtc_id == other) Plane::Impl::turn_off(request, plane);
  }
  // If that CRTC is busy, blocked() handles it. If turning it off takes longer, our own commit finds the connector
  // busy.
  const Outcome outcome =
      commit_within(request, DRM_MODE_ATOMIC_ALLOW_MODESET, *driver, Deadline::immediate(), Deadline::after(stop_time));
  if (outcome.result == 0) {
    has_touched = true;
    refresh_links(device.file, device.objects);
  }
  return outcome.result == -ETIMEDOUT ? -EBUSY : outcome.result;
}

int Output::Impl::commit_all() noexcept {
  if (const int result = free_connector(); result < 0) return result;
  request.clear();
  set_mode(request, mode_blob.id());
  for (const auto& plane : planes) {
    Plane::Impl& impl = Inside::of(*plane);
    if (impl.is_going()) impl.follow_visible_part();
    const Plane::Impl::Held& on = impl.under_way.frame ? impl.under_way : impl.shown;
    const Plane::Impl::Held& newest = impl.is_going() ? impl.staged : on;
    if (!newest.frame || !(impl.is_going() || impl.is_on)) continue;
    impl.set_place(request, *impl.place, newest.framebuffer);
    impl.set_fence(request);
  }
  return submit(nonblocking_flip | DRM_MODE_ATOMIC_ALLOW_MODESET);
}

int Output::Impl::commit_staged() noexcept {
  if (planes.size() != 1 || wants_out_fences) return commit_planes();
  Plane::Impl& impl = Inside::of(*planes.front());
  if (impl.is_going()) impl.follow_visible_part();
  if (impl.staged.wait != Plane::Impl::FenceWait::nobody || !impl.staged.frame || !impl.is_on || impl.has_moved) {
    return commit_planes();
  }
  const PlaneObject& plane = *impl.place->plane;
  const int result = AtomicRequest::commit_one(device.file.fd, nonblocking_flip, plane.id, plane.fb,
                                               impl.staged.framebuffer, next_user_data());
  if (result == 0) committed();
  return result;
}

int Output::Impl::commit_planes() noexcept {
  std::uint32_t flags = nonblocking_flip;
  request.clear();
  for (const auto& plane : planes) {
    Plane::Impl& impl = Inside::of(*plane);
    if (!impl.is_going()) continue;
    impl.follow_visible_part();
    if (impl.is_on && !impl.has_moved) {
      request.set(impl.place->plane->id, impl.place->plane->fb, impl.staged.framebuffer);
    } else {
      impl.set_place(request, *impl.place, impl.staged.framebuffer);
      flags |= impl.is_on ? 0U : DRM_MODE_ATOMIC_ALLOW_MODESET;
    }
    impl.set_fence(request);
  }
  return submit(flags);
}

// In step: the source runs at the display's rate, and its frames arrive just before a flip ends. Each frame would then
// find the display not done, and cost a refusal, a wait and an event. Whether it is committed right after that flip or
// when the next frame arrives, the same vertical blank shows it. So it waits for the next frame, which costs nothing.
bool Output::Impl::is_deferring() const noexcept {
  return is_in_step && in_flight && !has_following() && Deadline::Clock::now() < commit_by;
}

std::optional<Deadline> Output::Impl::wake_by() const noexcept {
  if (device.paused) return has_touched ? std::optional(Deadline::at(device.look_again)) : std::nullopt;
  if (is_blocked) return Deadline::at(ask_again);
  if (!is_in_step || is_parked || !has_staged()) return std::nullopt;
  return Deadline::at(commit_by);
}

void Output::Impl::refused() noexcept {
  refusals = commits == refused_after + 1 ? refusals + 1 : 1;
  refused_after = commits;
  is_in_step = !is_in_step && refusals >= refusals_in_step;
  is_parked = !is_in_step;
  if (is_in_step) keep_step();
}

std::chrono::nanoseconds Output::Impl::refresh_period() const noexcept {
  const std::uint64_t refresh = mode && mode->mode.refresh_mhz != 0 ? mode->mode.refresh_mhz : 60'000;
  return std::chrono::nanoseconds(1'000'000'000'000 / refresh);
}

void Output::Impl::keep_step() noexcept { commit_by = Deadline::Clock::now() + refresh_period() * 3 / 2; }

[[gnu::flatten]] Result<void> Output::Impl::commit() noexcept {
  if (is_parked || device.paused || is_deferring()) return {};
  if (is_blocked && Deadline::Clock::now() < ask_again) return {};
  if (!(has_committable() || must_relight)) {
    is_blocked = false;
    return {};
  }
  if (is_in_step && !has_following()) is_in_step = false;  // the source has fallen behind
  if (auto alive = device.check_alive("flush"); !alive) return alive;
  if (device.outstanding >= event_batch) {
    if (auto read = device.read_events(); !read) return read;
  }
  const int result = is_lit ? commit_staged() : commit_all();
  if (result == 0) [[likely]]
    return {};
  return settle(result);
}

Result<void> Output::Impl::relight() noexcept {
  is_parked = is_lit = is_in_step = is_blocked = false;
  must_relight = has_touched;
  return commit();
}

Result<void> Output::Impl::settle(int result) noexcept {
  if (result == -EBUSY && in_flight) {
    refused();
    return {};
  }
  if (result == -EBUSY) return blocked();
  is_blocked = false;
  if (result == -EACCES) {
    device.paused = true;
    is_in_step = false;
    return {};
  }
  if (hold_for_fences()) return {};
  for (const auto& plane : planes) Inside::of(*plane).drop_staged();
  return std::unexpected(error(result, "DRM_IOCTL_MODE_ATOMIC").detail("frames could not be shown"));
}

void Output::Impl::committed() noexcept {
  if (in_flight) completed();
  ++commits;
  is_slow = !is_lit;  // that flip's event carries no time of its own, so it is read as soon as it arrives
  if (!is_lit) lighting_commit = commits;
  ++unread;
  ++device.outstanding;
  in_flight = is_lit = has_touched = true;
  must_relight = is_blocked = false;
  if (is_in_step) keep_step();
  for (const auto& plane : planes) {
    Plane::Impl& impl = Inside::of(*plane);
    if (!impl.is_going()) continue;
    const FrameInfo& info = impl.staged.frame.info();
    if (last_captured.count() != 0 && info.timestamp - last_captured > slow_interval) is_slow = true;
    if (info.target.count() != 0) is_slow = true;  // someone evaluates its presentation time
    last_captured = info.timestamp;
    Plane::Impl::Submitted& submitted = impl.submitted.push();
    submitted.commit = commits;
    submitted.report = Presentation::of(info);
    impl.under_way = std::move(impl.staged);
    if (impl.following.frame) impl.staged = std::move(impl.following);
    if (!impl.is_on) note_used(impl.place->plane->id);
    impl.is_on = true;
    impl.has_moved = false;
  }
  // A frame that followed this one is now next, and would be refused until the flip. If no more frames arrive to try
  // again (a policy that waits for room), only the flip event lets it continue.
  if (!is_in_step && has_staged()) is_parked = true;
}

void Output::Impl::completed() noexcept {
  in_flight = is_parked = is_stuck = false;
  for (const auto& plane : planes) {
    Plane::Impl& impl = Inside::of(*plane);
    if (impl.under_way.frame) impl.shown = std::move(impl.under_way);
  }
}

void Output::Impl::on_flip(std::uint64_t commit, std::chrono::nanoseconds when) noexcept {
  if (unread > 0) --unread;
  // The flip that turns on the screen carries the time of the last vblank, which may be unset or long ago.
  if (commit == lighting_commit) when = std::chrono::steady_clock::now().time_since_epoch();
  for (const auto& plane : planes) {
    Plane::Impl& impl = Inside::of(*plane);
    while (!impl.submitted.empty() && impl.submitted.front().commit <= commit) {
      const Plane::Impl::Submitted& done = impl.submitted.front();
      if (done.commit == commit) {
        Presentation& report = impl.presented.push();
        report = done.report;
        report.presented = when;
      }
      impl.submitted.pop();
    }
  }
  if (in_flight && commit == commits) completed();
}

Result<void> Output::Impl::drain(Deadline deadline, const Cancel* cancel) noexcept {
  is_in_step = false;
  while (true) {
    const bool is_staged = has_staged() && !device.paused;
    if (unread == 0 && !is_staged) return {};
    if (unread == 0) {
      if (is_parked) is_parked = in_flight = false;  // no event will arrive for it: it is retried at intervals
      if (auto result = commit(); !result) return result;
      if (is_blocked) {
        const int slept = detail::wait(-1, 0, ask_again < deadline.time() ? Deadline::at(ask_again) : deadline, cancel);
        if (slept < 0) return std::unexpected(error(slept, "poll"));
        if (deadline.remaining().count() == 0) {
          return std::unexpected(
              error(-ETIMEDOUT, "drain").detail("another program's frame is still on its way to this screen"));
        }
        continue;
      }
      const int fence = unread == 0 ? waiting_fence() : -1;
      if (fence < 0) continue;
      const int ready = detail::wait(fence, POLLIN, deadline, cancel);
      if (ready < 0) return std::unexpected(error(ready, "poll"));
      if (ready == 0) return std::unexpected(error(-ETIMEDOUT, "drain").detail("a frame still waits for its fence"));
      continue;
    }
    const int ready = detail::wait(device.file.fd, POLLIN, deadline, cancel);
    if (ready < 0) return std::unexpected(error(ready, "poll"));
    if (ready == 0) {
      return std::unexpected(error(-ETIMEDOUT, "drain").detail("%u commits are not on the screen yet", unread));
    }
    if (auto read = device.read_events(); !read) return read;
    if (auto result = device.commit_waiting(); !result) return result;
  }
}

}  // namespace dmaflow::kms
