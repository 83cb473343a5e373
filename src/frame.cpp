#include <dmaflow/frame.hpp>

#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>

#include <sys/eventfd.h>

namespace dmaflow {

Result<Frame> Frame::split() {
  auto& hold = set_->holds_[index_];
  auto made = hold.holds_made.load(std::memory_order_relaxed);
  do {
    if (made >= HoldSet::max_holders) {
      return std::unexpected(Error::os(EMFILE, "Frame::split")
                                 .detail("one image was split %u times, the most there is", HoldSet::max_holders));
    }
  } while (!hold.holds_made.compare_exchange_weak(made, made + 1, std::memory_order_relaxed));
  hold.holders.fetch_add(1, std::memory_order_relaxed);  // ours keeps it above 0
  return Frame(set_, index_);
}

bool Frame::is_sole() const noexcept { return set_->holds_[index_].holders.load(std::memory_order_acquire) == 1; }

Result<void> Frame::describe(const FrameInfo& info, Fence ready) noexcept {
  if (!is_sole()) {
    return std::unexpected(Error::os(EPERM, "Frame::describe").detail("the frame was split: other holders read it"));
  }
  auto& hold = set_->holds_[index_];
  hold.info = info;
  hold.ready = std::move(ready);
  return {};
}

void Frame::release() noexcept { release(Fence()); }

void Frame::release(Fence done) noexcept {
  if (!set_) return;
  auto& hold = set_->holds_[index_];
  // Each of at most max_holders holds adds one fence at most, so there is always room.
  if (!done.is_null()) hold.fences[hold.fence_count.fetch_add(1, std::memory_order_relaxed)] = std::move(done);
  const auto set = std::move(set_);
  if (hold.holders.fetch_sub(1, std::memory_order_acq_rel) == 1) set->give_back(index_);
}

HoldSet::HoldSet(std::vector<Buffer> buffers, Fd wake)
    : buffers_(std::move(buffers)), holds_(std::make_unique<Hold[]>(buffers_.size())), wake_(std::move(wake)) {}

HoldSet::~HoldSet() = default;

Result<std::shared_ptr<HoldSet>> HoldSet::create(std::vector<Buffer> buffers) {
  if (buffers.empty() || buffers.size() > max_buffers) {
    return std::unexpected(
        Error::os(EINVAL, "HoldSet::create").detail("%zu buffers; 1 to %zu are possible", buffers.size(), max_buffers));
  }
  if (std::ranges::any_of(buffers, [](const Buffer& buffer) { return !buffer; })) {
    return std::unexpected(Error::os(EINVAL, "HoldSet::create").detail("one of the buffers is none"));
  }
  const int wake = sys::eventfd(EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) return std::unexpected(Error::os(-wake, "eventfd"));
  return std::shared_ptr<HoldSet>(new HoldSet(std::move(buffers), Fd::adopt(wake)));
}

Frame HoldSet::lend(std::uint32_t index, const FrameInfo& info, Fence ready) noexcept {
  if (index >= buffers_.size() || !buffers_[index]) return {};
  auto& hold = holds_[index];
  if (hold.holders.load(std::memory_order_acquire) != 0) return {};
  for (Fence& fence : fences(index)) fence = Fence();
  hold.fence_count.store(0, std::memory_order_relaxed);
  hold.info = info;
  hold.ready = std::move(ready);
  hold.holds_made.store(1, std::memory_order_relaxed);
  hold.holders.store(1, std::memory_order_release);
  lent_.fetch_add(1, std::memory_order_relaxed);
  return Frame(shared_from_this(), index);
}

Result<void> HoldSet::retire(std::uint32_t index) noexcept {
  if (index >= buffers_.size() || holds_[index].holders.load(std::memory_order_acquire) != 0) {
    return std::unexpected(Error::os(EBUSY, "HoldSet::retire").detail("buffer %u is lent, or there is none", index));
  }
  buffers_[index] = Buffer();
  return {};
}

// Pushes onto the stack of returned holds. The order against armed_ (both sequentially consistent) makes sure that
// either the loop sees the hold before it sleeps, or we see that it is about to sleep.
void HoldSet::give_back(std::uint32_t index) noexcept {
  auto& hold = holds_[index];
  hold.ready = Fence();
  lent_.fetch_sub(1, std::memory_order_release);
  hold.next = returned_.load();
  while (!returned_.compare_exchange_weak(hold.next, index)) {
  }
  if (armed_.load() && armed_.exchange(false)) {
    const std::uint64_t one = 1;
    sys::write(wake_.get(), &one, sizeof one);  // cannot fail: the counter never comes near its end
  }
}

std::optional<HoldSet::Returned> HoldSet::take_returned() noexcept {
  if (in_order_ == none) {
    auto next = returned_.exchange(none, std::memory_order_acq_rel);
    while (next != none) {  // newest first: turn it round
      const auto after = holds_[next].next;
      holds_[next].next = in_order_;
      in_order_ = next;
      next = after;
    }
  }
  if (in_order_ == none) return std::nullopt;
  const auto index = in_order_;
  auto& hold = holds_[index];
  in_order_ = hold.next;
  return Returned{index, fences(index)};
}

std::span<Fence> HoldSet::fences(std::uint32_t index) noexcept {
  auto& hold = holds_[index];
  return std::span(hold.fences).first(hold.fence_count.load(std::memory_order_relaxed));
}

bool HoldSet::arm() noexcept {
  if (in_order_ != none) return false;
  armed_.store(true);
  if (returned_.load() == none) return true;
  disarm(false);
  return false;
}

void HoldSet::disarm(bool woken) noexcept {
  armed_.store(false);
  std::uint64_t count = 0;
  if (woken) sys::read(wake_.get(), &count, sizeof count);
}

}  // namespace dmaflow
