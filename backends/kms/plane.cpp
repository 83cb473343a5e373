// A plane as a sink: which frames it holds, and how they reach the output's commit.
#include "impl.hpp"

#include "sys/sys.hpp"

#include <dmaflow/cpu_access.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include <poll.h>

namespace dmaflow::kms {

Plane::Plane(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Plane::~Plane() { (void)stop(); }

std::string_view Plane::name() const noexcept { return impl_->name; }
bool Plane::is_waiting() const noexcept { return impl_->device().paused; }
std::uint64_t Plane::dropped() const noexcept { return impl_->dropped; }
bool Plane::take_changed() noexcept { return std::exchange(impl_->has_changed, false); }
std::uint32_t Plane::plane_id() const noexcept { return impl_->place ? impl_->place->plane->id : 0; }
Rect Plane::position() const noexcept { return impl_->place ? impl_->place->position : Rect{}; }

Allocator* Plane::input_allocator() noexcept {
  const DrmFile& file = impl_->file();
  return file.dumb && file.prime_export ? &impl_->device().dumb : nullptr;
}

std::vector<FormatModifier> Plane::formats() const {
  std::vector<FormatModifier> result;
  const auto add = [&](FormatModifier pair) {
    if (std::find(result.begin(), result.end(), pair) == result.end()) result.push_back(pair);
  };
  for (const PlaneObject* plane : impl_->candidates()) {
    if (plane->has_in_formats && impl_->file().modifiers) {
      for (const FormatModifier& pair : plane->pairs) add(pair);
    } else {
      for (const PixelFormat format : plane->formats) add({format, Modifier::linear()});
    }
  }
  return result;
}

Needs Plane::needs() const {
  Needs needs;
  needs.usage.scanout = true;
  if (impl_->file().fd < 0) return needs;
  needs.constraints.stride_alignment = impl_->device().find_pitch_alignment();
  for (const PlaneObject* plane : impl_->candidates()) {
    if (!plane->has_in_formats || !impl_->file().modifiers) continue;
    for (const FormatModifier& pair : plane->pairs) {
      const bool is_new = std::ranges::find(needs.modifiers, pair.modifier) == needs.modifiers.end();
      if (pair.format == impl_->config.layout.format && is_new) needs.modifiers.push_back(pair.modifier);
    }
  }
  return needs;
}

Result<void> Plane::check_input(const StreamConfig& config) {
  if (auto alive = impl_->device().check_alive("check"); !alive) return alive;
  auto place = impl_->find_place(config);
  if (!place) return std::unexpected(place.error());
  return {};
}

Result<void> Plane::set_input(const StreamConfig& config) {
  if (auto alive = impl_->device().check_alive("set_input"); !alive) return alive;
  Output::Impl& output = impl_->output;
  auto place = impl_->find_place(config);
  if (!place) return std::unexpected(place.error());
  const bool is_same_plane = impl_->place && impl_->place->plane == place->plane;
  if (impl_->is_lit() && !is_same_plane) {
    return std::unexpected(output.error(-EBUSY, "set_input").detail("another plane is needed: stop() first"));
  }
  const bool is_new_mode = !output.mode || !(output.mode->mode.size == place->mode.mode.size) ||
                           output.mode->info.clock != place->mode.info.clock ||
                           output.mode->info.flags != place->mode.info.flags;
  if (is_new_mode || output.mode_blob.id() == 0) {
    auto blob = Blob::create(impl_->file(), &place->mode.info, sizeof place->mode.info);
    if (!blob) return std::unexpected(Error(blob.error()).device(output.name));
    output.mode_blob = std::move(*blob);
    output.mode = place->mode;
    output.is_lit = false;
  }
  if (auto prepared = output.prepare(); !prepared) return prepared;
  impl_->drop_staged();
  impl_->is_on = false;
  impl_->place = *place;
  impl_->configured_position = place->position;
  impl_->part = {0, 0, config.layout.size.width, config.layout.size.height};
  impl_->config = config;
  impl_->configuration = ++impl_->device().configurations;
  return {};
}

Result<void> Plane::import(const Buffer& buffer) {
  if (auto alive = impl_->device().check_alive("import"); !alive) return alive;
  if (!impl_->place) {
    return std::unexpected(Error::os(EINVAL, "import", impl_->name).detail("set_input() comes first"));
  }
  const Layout& wanted = impl_->config.layout;
  const Layout& layout = buffer.layout();
  if (layout.size != wanted.size || layout.format != wanted.format || layout.modifier != wanted.modifier) {
    return std::unexpected(
        Error::os(EINVAL, "import", impl_->name)
            .detail("configured for %s, the buffer is %s", wanted.describe().c_str(), layout.describe().c_str()));
  }
  auto framebuffer = Framebuffer::of(impl_->file(), buffer);
  if (!framebuffer) return std::unexpected(Error(framebuffer.error()).device(impl_->name));
  if ((*framebuffer)->was_tried(impl_->configuration)) return {};
  const int result = impl_->try_place(*impl_->place, (*framebuffer)->id(), impl_->output.mode_blob.id());
  if (result < 0) {
    return std::unexpected(impl_->output.error(result, "DRM_IOCTL_MODE_ATOMIC")
                               .detail("%s", result == -EACCES ? "not master of the display: another program took it"
                                                               : "the driver refuses to show this buffer"));
  }
  (*framebuffer)->set_tried(impl_->configuration);
  if (!impl_->options.may_show_to_try || !impl_->device().dumb.is_to_be_tried(buffer)) return {};
  return impl_->find_whether_memory_moves(buffer, (*framebuffer)->id());
}

bool Plane::moves(const Buffer& /*buffer*/) const noexcept { return impl_->device().dumb.traits().moves; }

bool Plane::ready() const noexcept {
  return !impl_->staged.frame || (impl_->keeps_staged() && !impl_->following.frame);
}

[[gnu::flatten]] Result<Frame> Plane::accept(Frame frame) {
  if (auto alive = impl_->device().check_alive("accept"); !alive) return std::unexpected(alive.error());
  const auto* framebuffer = frame ? attachment_as<Framebuffer>(frame.buffer(), *impl_->file().domain) : nullptr;
  if (framebuffer == nullptr || !framebuffer->was_tried(impl_->configuration)) {
    return std::unexpected(Error::os(EINVAL, "accept", impl_->name)
                               .detail("a buffer that was not imported: pass every buffer to start()"));
  }
  return impl_->stage({.frame = std::move(frame), .framebuffer = framebuffer->id()});
}

// True if the output is in step with its source, or if the staged frame waits for a fence. The next frame may arrive
// before that fence signals. If it always displaced the staged one, nothing would ever be shown.
bool Plane::Impl::keeps_staged() const noexcept { return output.is_in_step || staged.wait == FenceWait::here; }

Frame Plane::Impl::stage(Held newest) noexcept {
  if (!staged.frame) {
    staged = std::move(newest);
    return {};
  }
  if (following.frame && staged.wait != FenceWait::here) {  // the display is slower than the source: drop the oldest
    Frame displaced = std::move(staged.frame);
    staged = std::exchange(following, std::move(newest));
    return displaced;
  }
  Held& spot = keeps_staged() ? following : staged;
  Frame displaced = std::move(spot.frame);
  spot = std::move(newest);
  return displaced;
}

Result<void> Plane::flush() { return impl_->output.commit(); }

std::size_t Plane::take_presented(std::span<Presentation> out) noexcept {
  std::size_t count = 0;
  while (count < out.size() && !impl_->presented.empty()) {
    out[count++] = impl_->presented.front();
    impl_->presented.pop();
  }
  return count;
}

std::chrono::nanoseconds Plane::lead_time() const noexcept { return impl_->output.refresh_period() / 2; }

Result<void> Plane::drain(Deadline deadline, const Cancel* cancel) { return impl_->output.drain(deadline, cancel); }

Result<void> Plane::stop() noexcept { return impl_->stop(); }

int Plane::poll_fd() const noexcept { return impl_->file().fd; }

short Plane::poll_events() const noexcept {
  const Output::Impl& output = impl_->output;
  const bool is_left = !impl_->device().left_on_screen.empty();
  return output.is_waiting() || (output.in_flight && output.is_slow) || is_left ? short{POLLIN} : short{0};
}

int Plane::waiting_fence() const noexcept { return impl_->waiting_fence(); }

std::optional<Deadline> Plane::wake_by() const noexcept { return impl_->output.wake_by(); }

Result<void> Plane::dispatch(short revents) { return impl_->device().dispatch(revents); }

namespace {

/// Whether reading a mapped byte caused a page fault. Not inlined, so that the code of the first call is that of the
/// second: executing code for the first time may fault as well.
[[gnu::noinline]] bool faults(const std::byte* mapped) noexcept {
  const long before = sys::minor_faults();
  static_cast<void>(*static_cast<const volatile std::byte*>(mapped));
  return sys::minor_faults() != before;
}

}  // namespace

// Memory that moves loses its mappings, so the next access causes a page fault. Only a real commit moves it, so one is
// made, once per device. Afterwards the screen is restored.
Result<void> Plane::Impl::find_whether_memory_moves(const Buffer& buffer, std::uint32_t framebuffer) {
  if (is_lit() || output.has_touched || device().paused) return {};
  const auto map = CpuMap::create(buffer, Access::read);
  if (!map) return {};  // this cannot be found out; the import itself succeeded
  const std::byte* const first = map->object(0).data();
  faults(first);  // maps the page; it stays mapped unless the memory moves
  const Outcome shown_once = output.commit_now(*this, framebuffer);
  if (shown_once.result < 0) {
    return std::unexpected(output.error(shown_once.result, "DRM_IOCTL_MODE_ATOMIC")
                               .detail("%s", shown_once.result == -ETIMEDOUT
                                                 ? "another program's frame is still on its way to this screen"
                                                 : "the driver refuses to show this buffer"));
  }
  device().dumb.set_moves(faults(first));
  if (output.restore().result == -ETIMEDOUT) {
    return std::unexpected(output.error(-ETIMEDOUT, "import").detail("the display does not finish showing a buffer"));
  }
  is_on = false;
  return {};
}

void Plane::Impl::drop_staged() noexcept {
  for (Held* held : {&staged, &following}) {
    if (held->frame) ++dropped;
    *held = {};
  }
}

// The display reads the shown frame until the pending flip ends. The frame of that flip then stays on the screen.
void Plane::Impl::leave_on_screen() noexcept {
  if (under_way.frame) device().leave_on_screen(output.number, output.commits, std::move(shown.frame));
  device().leave_on_screen(output.number, LeftOnScreen::until_restored, std::move(shown.frame));
  device().leave_on_screen(output.number, LeftOnScreen::until_restored, std::move(under_way.frame));
  let_go();
}

Error Plane::Impl::not_finished() const noexcept {
  Error result = output.error(-ETIMEDOUT, "stop");
  const Held* late = nullptr;
  for (const auto& plane : output.planes) {
    if (Inside::of(*plane).under_way.frame) late = &Inside::of(*plane).under_way;
  }
  if (under_way.frame) late = &under_way;
  if (late == nullptr) {
    result.detail("the display has not finished another program's frame; the screen is left as it is");
    return result;
  }
  const Fence& fence = late->merged.is_null() ? late->frame.ready() : late->merged;
  const auto state = fence.state();
  const bool is_waiting = !fence.is_null() && state && *state == Fence::State::active;
  result.detail("the display has not finished frame %llu%s; the screen is left as it is",
                static_cast<unsigned long long>(late->frame.info().sequence),
                is_waiting ? ": its fence has not signalled" : "");
  return result;
}

void Plane::Impl::let_go() noexcept {
  drop_staged();
  under_way = {};
  shown = {};
  is_on = false;
}

// Gives up after twice stop_time. The frames then stay held, because the display may still read them, and the next
// stop() tries again. It does not wait as long as the flip has not ended.
Result<void> Plane::Impl::stop() noexcept {
  drop_staged();
  if (!is_lit()) return {};
  const auto finished = output.finish_flips(output.is_stuck ? Deadline::immediate() : Deadline::after(stop_time));
  const bool is_last = std::none_of(output.planes.begin(), output.planes.end(), [&](const auto& plane) {
    return &Inside::of(*plane) != this && Inside::of(*plane).is_lit();
  });
  Outcome off;
  if (is_last) {
    off = output.restore();
  } else if (!device().paused) {
    const Deadline taken = Deadline::after(output.is_stuck ? std::chrono::seconds(0) : stop_time);
    output.request.clear();
    turn_off(output.request, *place->plane);
    off = output.commit_within(output.request, 0, *output.crtc, taken, Deadline::at(taken.time() + stop_time));
    if (off.result == -EACCES) {
      device().paused = true;
    } else if (off.result < 0 && off.result != -ETIMEDOUT) {  // still on the screen, so still held
      return std::unexpected(output.error(off.result, "DRM_IOCTL_MODE_ATOMIC").detail("turning the plane off"));
    }
  }
  if (off.result == -ETIMEDOUT || output.in_flight) {
    output.is_stuck = true;
    return std::unexpected(not_finished());
  }
  Result<void> result = finished;
  if (off.result == 0) result = {};  // the display accepted the commit, so the previous one is finished
  if (!off.unfinished.is_null()) {   // until it signals, the display may read the frame
    if (auto done = off.unfinished.dup()) shown.frame.release(std::move(*done));
    result = std::unexpected(
        output.error(-ETIMEDOUT, "stop").detail("the display takes long to put back what was on the screen"));
  }
  let_go();
  if (!is_last) (void)output.commit();  // the other planes' frames had to wait for the flips
  return result;
}

}  // namespace dmaflow::kms
