#include <dmaflow/frame.hpp>

#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <sys/eventfd.h>

namespace dmaflow {

namespace {

Error empty_frame(const char* operation) noexcept {
  return Error::os(EINVAL, operation).detail("the frame is empty: it was released, or moved from");
}

}  // namespace

const Frame::Empty& Frame::empty() noexcept {
  static const Empty none;
  return none;
}

Result<Frame> Frame::split() {
  if (hold_ == nullptr) return std::unexpected(empty_frame("Frame::split"));
  detail::Hold& hold = *hold_;
  auto made = hold.holds_made.load(std::memory_order_relaxed);
  do {
    if (made >= HoldSet::max_holders) {
      return std::unexpected(Error::os(EMFILE, "Frame::split")
                                 .detail("one image was split %u times, the most there is", HoldSet::max_holders));
    }
  } while (!hold.holds_made.compare_exchange_weak(made, made + 1, std::memory_order_relaxed));
  hold.holders.fetch_add(1, std::memory_order_relaxed);  // this frame's own hold keeps it above 0
  return Frame(hold);
}

bool Frame::is_sole() const noexcept { return hold_ != nullptr && hold_->holders.load(std::memory_order_acquire) == 1; }

Result<void> Frame::set_info(const FrameInfo& info, Fence&& ready) noexcept {
  if (!is_sole()) {
    if (hold_ == nullptr) return std::unexpected(empty_frame("Frame::set_info"));
    return std::unexpected(Error::os(EPERM, "Frame::set_info").detail("the frame was split: other holders read it"));
  }
  hold_->info = info;
  hold_->ready = std::move(ready);
  return {};
}

void Frame::release() noexcept {
  if (hold_ == nullptr) return;
  detail::Hold& hold = *std::exchange(hold_, nullptr);
  if (hold.holders.fetch_sub(1, std::memory_order_acq_rel) == 1) HoldSet::give_back(hold);
}

void Frame::release(Fence done) noexcept {
  // Each of at most max_holders holds adds at most one fence, so the array always has space.
  if (hold_ != nullptr && !done.is_null()) {
    hold_->fences[hold_->fence_count.fetch_add(1, std::memory_order_relaxed)] = std::move(done);
  }
  release();
}

HoldSet::HoldSet(std::vector<Buffer> buffers, std::size_t room, Fd wake)
    : room_(room),
      count_(buffers.size()),
      buffers_(std::make_unique<Buffer[]>(room)),
      holds_(std::make_unique<Hold[]>(room)),
      wake_(std::move(wake)) {
  std::ranges::move(buffers, buffers_.get());
  for (std::uint32_t i = 0; i < room; ++i) {
    holds_[i].index = i;
    holds_[i].buffer = &buffers_[i];
    holds_[i].is_free = i < count_;
  }
}

HoldSet::~HoldSet() = default;

Result<std::shared_ptr<HoldSet>> HoldSet::create(std::vector<Buffer> buffers, std::size_t room) {
  room = std::max(room, buffers.size());
  if (buffers.empty() || room > max_buffers) {
    return std::unexpected(
        Error::os(EINVAL, "HoldSet::create")
            .detail("%zu buffers with room for %zu; 1 to %zu are possible", buffers.size(), room, max_buffers));
  }
  if (std::ranges::any_of(buffers, [](const Buffer& buffer) { return !buffer; })) {
    return std::unexpected(Error::os(EINVAL, "HoldSet::create").detail("one of the buffers is empty"));
  }
  const int wake = sys::eventfd(EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) return std::unexpected(Error::os(-wake, "eventfd"));
  return std::shared_ptr<HoldSet>(new HoldSet(std::move(buffers), room, Fd::adopt(wake)));
}

void HoldSet::drop_fences(Hold& hold) noexcept {
  const auto count = hold.fence_count.exchange(0, std::memory_order_relaxed);
  for (Fence& fence : std::span(hold.fences).first(count)) fence = Fence();
}

Error HoldSet::not_free(const char* operation, std::uint32_t index) const noexcept {
  if (index >= count_) {
    return Error::os(EINVAL, operation).detail("there is no buffer %u, only 0 to %zu", index, count_ - 1);
  }
  if (!buffers_[index]) return Error::os(EINVAL, operation).detail("buffer %u was retired", index);
  if (holds_[index].holders.load(std::memory_order_acquire) != 0) {
    return Error::os(EBUSY, operation).detail("buffer %u is lent", index);
  }
  return Error::os(EBUSY, operation).detail("buffer %u came back, but take_returned() has not given it yet", index);
}

Result<Frame> HoldSet::lend(std::uint32_t index, const FrameInfo& info, Fence&& ready) noexcept {
  if (!is_free(index)) [[unlikely]]
    return std::unexpected(not_free("HoldSet::lend", index));
  auto& hold = holds_[index];
  hold.is_free = false;
  drop_fences(hold);
  hold.info = info;
  hold.ready = std::move(ready);
  hold.set = shared_from_this();
  hold.holds_made.store(1, std::memory_order_relaxed);
  hold.holders.store(1, std::memory_order_release);
  lent_.fetch_add(1, std::memory_order_relaxed);
  return Frame(hold);
}

Result<std::uint32_t> HoldSet::add(const Buffer& buffer) noexcept {
  if (!buffer) return std::unexpected(Error::os(EINVAL, "HoldSet::add").detail("the buffer is empty"));
  std::uint32_t index = 0;
  while (index < count_ && buffers_[index]) ++index;
  if (index == room_) {
    return std::unexpected(
        Error::os(ENOSPC, "HoldSet::add").detail("the set was created with room for %zu buffers", room_));
  }
  if (index == count_) ++count_;
  buffers_[index] = buffer;
  holds_[index].is_free = true;
  ++changes_;
  return index;
}

Result<void> HoldSet::retire(std::uint32_t index) noexcept {
  if (!is_free(index)) return std::unexpected(not_free("HoldSet::retire", index));
  holds_[index].is_free = false;
  drop_fences(holds_[index]);
  buffers_[index] = Buffer();
  ++changes_;
  return {};
}

// Pushes onto the stack of returned holds. The order relative to armed_ (both sequentially consistent) ensures that
// either the loop sees the hold before it sleeps, or this function sees that the loop is about to sleep.
void HoldSet::give_back(Hold& hold) noexcept {
  const auto set = std::move(hold.set);  // may be the last reference: the source may be gone
  hold.ready = Fence();
  set->lent_.fetch_sub(1, std::memory_order_release);
  hold.next = set->returned_.load();
  while (!set->returned_.compare_exchange_weak(hold.next, hold.index)) {
  }
  if (set->armed_.load() && set->armed_.exchange(false)) {
    const std::uint64_t one = 1;
    sys::write(set->wake_.get(), &one, sizeof one);  // cannot fail: the counter stays far below its maximum
  }
}

std::optional<HoldSet::Returned> HoldSet::take_returned() noexcept {
  if (in_order_ == none) {
    auto next = returned_.exchange(none, std::memory_order_acq_rel);
    while (next != none) {  // newest first: reverse the order
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
  hold.is_free = true;
  return Returned{index, fences(index)};
}

std::span<Fence> HoldSet::fences(std::uint32_t index) noexcept {
  if (!is_free(index)) return {};  // holders may still be adding fences
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
