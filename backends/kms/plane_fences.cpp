// When a staged frame may be committed: the frame's own fences and the implicit fences of its buffer.
//
// They are waited for in this process: the frame stays staged, and the loop waits. A fence given to the kernel
// (IN_FENCE_FD) cannot be taken back. If it never signals, nothing ends the kernel's waits for it. These are RMFB,
// which the kernel also does for each framebuffer of a program that is killed (drivers/gpu/drm/drm_framebuffer.c,
// drm_fb_release()), and the kernel's own blocking commits for its console: when the last file of the card is closed
// (drm_file.c, drm_lastclose()) and on a switch to a VT with text. SIGKILL does not end the first (docs/kms.md says
// what was tried). So the kernel waits only if the user asks for it (PlaneOptions::fences_in_kernel), and only if it
// has CLOSEFB, which removes framebuffers without waiting.
#include "impl.hpp"

#include "log.hpp"
#include "sys/sys.hpp"

#include <dmaflow/implicit_fences.hpp>

#include <array>

#include <poll.h>

namespace dmaflow::kms {
namespace {

using FenceWait = Plane::Impl::FenceWait;

/// One fence for everything that a reader of the frame has to wait for; null if there is nothing besides its ready().
Result<Fence> with_implicit_fences(const Frame& frame) noexcept {
  auto implicit = export_fence(frame.buffer(), Access::read);
  if (!implicit) return implicit;
  auto own = frame.ready().dup();
  if (!own) return own;
  std::array<Fence, 2> both{std::move(*implicit), std::move(*own)};
  return merge(both);
}

}  // namespace

bool Plane::Impl::look_at_fences() noexcept {
  if (!staged.frame) return false;
  if (is_going()) return true;
  const bool is_implicit = staged.frame.info().has_implicit_fences;
  if (is_implicit && staged.merged.is_null()) {
    if (auto merged = with_implicit_fences(staged.frame)) {
      staged.merged = std::move(*merged);
    } else {
      // The implicit fences cannot be exported (kernels before 6.0), or ready() has failed, which is detected below.
      // The dma-buf itself can be waited for.
      staged.wait = FenceWait::here;
      if (!wait_idle(staged.frame.buffer(), Access::read, Deadline::immediate())) return false;
    }
  }
  const Fence& fence = staged_fence();
  if (fence.is_null()) {
    staged.wait = FenceWait::nobody;
    return true;
  }
  const auto state = fence.state();
  if (state && *state == Fence::State::active) {
    // Implicit fences are waited for here: the memory managers of some drivers see them too and would wait inside the
    // commit (bochs of 6.12: 15 s each time).
    const bool in_kernel = staged.wait == FenceWait::unknown && !is_implicit && options.fences_in_kernel &&
                           kernel_takes_fences && file().closefb && place->plane->in_fence != 0;
    staged.wait = in_kernel ? FenceWait::kernel : FenceWait::here;
    return in_kernel;
  }
  staged.wait = FenceWait::nobody;
  if (state && *state == Fence::State::signalled) return true;
  detail::log(LogLevel::warning, "%s: frame %llu is not shown: the work on it failed", name.c_str(),
              static_cast<unsigned long long>(staged.frame.info().sequence));
  // Other parts of the fence may still be active. Until they end, nobody may write to the buffer.
  auto rest = fence.dup();
  staged.frame.release(rest ? std::move(*rest) : Fence());
  staged = std::exchange(following, {});
  ++dropped;
  return is_committable();
}

int Plane::Impl::waiting_fence() const noexcept {
  if (!staged.frame || staged.wait != FenceWait::here || output.is_parked || output.device.paused) return -1;
  if (output.is_deferring()) return -1;  // it would not be committed now even without a fence
  const Fence& fence = staged_fence();
  if (!fence.is_null()) return fence.poll_fd();
  const Buffer& buffer = staged.frame.buffer();
  std::uint32_t object = 0;
  while (object + 1 < buffer.object_count() && sys::wait(buffer.fd(object), POLLIN, Deadline::immediate()) > 0)
    ++object;
  return buffer.fd(object);  // the first that is not idle yet
}

void Plane::Impl::set_fence(AtomicRequest& to) const {
  if (!staged.frame || staged.wait != FenceWait::kernel) return;
  to.set(place->plane->id, place->plane->in_fence, static_cast<std::uint64_t>(staged_fence().poll_fd()));
}

bool Output::Impl::hold_for_fences() noexcept {
  bool found = false;
  for (const auto& plane : planes) {
    Plane::Impl& impl = Inside::of(*plane);
    if (!impl.staged.frame || impl.staged.wait != FenceWait::kernel) continue;
    impl.staged.wait = FenceWait::here;
    impl.kernel_takes_fences = false;
    found = true;
  }
  return found;
}

int Output::Impl::waiting_fence() const noexcept {
  for (const auto& plane : planes) {
    if (const int fence = Inside::of(*plane).waiting_fence(); fence >= 0) return fence;
  }
  return -1;
}

}  // namespace dmaflow::kms
