// Commits and waits that always end, whatever the display does.
//
// A blocking DRM_IOCTL_MODE_ATOMIC waits for the previous commit, and that one waits for its fences, without a time-out
// (drivers/gpu/drm/drm_atomic_helper.c: drm_atomic_helper_swap_state() with stall,
// drm_atomic_helper_wait_for_fences()). So every commit of this backend is nonblocking. It is refused with EBUSY while
// another commit is pending, and then tried again. Once it is accepted, its out fence signals when it is on the screen.
// Both waits have a deadline.
//
// The wait uses an out fence, not a flip event. An out fence belongs to one CRTC, but a commit that asks for an event
// gets one for each of its CRTCs. An out fence is refused only if its CRTC is off before and after the commit, and then
// there is nothing to wait for. Every atomic driver has OUT_FENCE_PTR (drivers/gpu/drm/drm_crtc.c,
// __drm_crtc_init_with_planes()).
#include "impl.hpp"

#include "log.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <drm_mode.h>
#include <poll.h>

namespace dmaflow::kms {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds first_pause{1};
constexpr milliseconds longest_pause{16};
/// Another program's last frame is on the screen within a few refresh periods.
constexpr std::chrono::seconds busy_time{5};
constexpr milliseconds busy_interval{4};

/// Repeats a nonblocking commit until the CRTC is free. -EBUSY if it is still busy at the deadline.
int commit_when_free(int fd, const AtomicRequest& request, std::uint32_t flags, Deadline deadline) noexcept {
  milliseconds pause = first_pause;
  while (true) {
    const int result = request.commit(fd, flags | DRM_MODE_ATOMIC_NONBLOCK);
    if (result != -EBUSY || deadline.remaining().count() == 0) return result;
    const Deadline next = Deadline::after(pause);
    const int slept = sys::wait(std::span<pollfd>{}, next.time() < deadline.time() ? next : deadline);
    if (slept < 0) return slept;
    pause = std::min(2 * pause, longest_pause);
  }
}

}  // namespace

Outcome Output::Impl::commit_within(AtomicRequest& wanted, std::uint32_t flags, const CrtcObject& on, Deadline taken,
                                    Deadline done) noexcept {
  std::int32_t out = -1;
  wanted.set(on.id, on.out_fence_property, address_of(&out));
  int result = commit_when_free(device.file.fd, wanted, flags, taken);
  const bool may_be_off = on.id != crtc->id || !is_lit;
  if (result == -EINVAL && may_be_off && on.out_fence_property != 0) {
    wanted.drop_last();
    result = commit_when_free(device.file.fd, wanted, flags, taken);
  }
  Fd made = Fd::adopt(result < 0 ? -1 : out);
  if (result < 0) return {.result = result == -EBUSY ? -ETIMEDOUT : result, .unfinished = {}};
  if (on.id == crtc->id && in_flight) completed();  // the previous one is done: otherwise this one would be refused
  if (!made) return {};
  const int ready = sys::wait(made.get(), POLLIN, done);
  if (ready > 0) return {};
  return {.result = 0, .unfinished = Fence::adopt_unchecked(std::move(made))};
}

Result<void> Output::Impl::finish_flips(Deadline deadline) noexcept {
  while (unread > 0) {
    const int ready = sys::wait(device.file.fd, POLLIN, deadline);
    if (ready < 0) return std::unexpected(error(ready, "poll"));
    if (ready == 0) return std::unexpected(error(-ETIMEDOUT, "stop"));
    if (auto read = device.read_events(); !read) return read;
  }
  return {};
}

Result<void> Output::Impl::blocked() noexcept {
  const auto now = Deadline::Clock::now();
  if (!is_blocked) give_up = now + busy_time;
  is_blocked = now < give_up;
  ask_again = now + busy_interval;
  if (is_blocked) return {};
  for (const auto& plane : planes) Inside::of(*plane).drop_staged();
  return std::unexpected(error(-ETIMEDOUT, "DRM_IOCTL_MODE_ATOMIC")
                             .detail("another program's frame has been on its way to this screen for %lld s: frames "
                                     "could not be shown",
                                     static_cast<long long>(busy_time.count())));
}

Outcome Output::Impl::restore() noexcept {
  const Deadline taken = Deadline::after(is_stuck ? std::chrono::seconds(0) : stop_time);
  const Deadline done = Deadline::at(taken.time() + stop_time);
  Outcome outcome;
  if (has_touched && saved && !device.paused) {
    outcome = detach_writeback(taken, done);
    if (outcome.result == -ETIMEDOUT) return outcome;
    for (const bool off : {false, true}) {
      outcome = commit_within(saved->request(used_planes, off), DRM_MODE_ATOMIC_ALLOW_MODESET, *crtc, taken, done);
      if (outcome.result == 0 || outcome.result == -ETIMEDOUT) break;
    }
    if (outcome.result == -ETIMEDOUT) return outcome;
    const bool is_done = outcome.result == 0 && outcome.unfinished.is_null();
    if (is_done) device.take_off_screen(number, LeftOnScreen::until_restored);
    if (outcome.result < 0) {
      detail::log(LogLevel::warning, "%s: the screen could not be put back: errno %d", name.c_str(), -outcome.result);
    }
  }
  used_planes.clear();
  // unread and in_flight stay: events may still arrive and are counted
  is_lit = has_touched = is_parked = is_in_step = is_blocked = must_relight = false;
  last_captured = {};
  return outcome;
}

void Device::Impl::leave_on_screen(std::uint16_t output, std::uint64_t commit, Frame frame) noexcept {
  if (frame) left_on_screen.push_back({.output = output, .commit = commit, .frame = std::move(frame)});
}

void Device::Impl::take_off_screen(std::uint16_t output, std::uint64_t commit) noexcept {
  std::erase_if(left_on_screen,
                [&](const LeftOnScreen& left) { return left.output == output && left.commit <= commit; });
}

}  // namespace dmaflow::kms
