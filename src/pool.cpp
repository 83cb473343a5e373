#include <dmaflow/pool.hpp>

#include <algorithm>
#include <cerrno>

namespace dmaflow {
namespace {

/// True once no fence is pending. A failed fence counts as done, because it will not change any more. So does one that
/// cannot be queried: it is not a sync_file and never will be.
bool all_done(std::span<Fence> fences) noexcept {
  return std::ranges::all_of(fences, [](const Fence& fence) {
    const auto ended = fence.has_ended();
    return !ended || *ended;
  });
}

}  // namespace

Pool::Pool(std::shared_ptr<HoldSet> holds)
    : holds_(std::move(holds)), size_(static_cast<std::uint32_t>(holds_->buffers().size())) {
  free_.reserve(HoldSet::max_buffers);
  pending_.reserve(HoldSet::max_buffers);
  for (std::uint32_t i = size_; i > 0; --i) free_.push_back(i - 1);
}

Result<Pool> Pool::create(std::vector<Buffer> buffers) {
  auto holds = HoldSet::create(std::move(buffers), HoldSet::max_buffers);
  if (!holds) return std::unexpected(holds.error());
  return Pool(std::move(*holds));
}

Result<Pool> Pool::create(Allocator& allocator, const Request& request) {
  auto buffers = allocator.allocate(request);
  if (!buffers) return std::unexpected(buffers.error());
  return create(std::move(*buffers));
}

Result<void> Pool::grow(const std::vector<Buffer>& buffers) {
  if (buffers.empty() || std::ranges::any_of(buffers, [](const Buffer& buffer) { return !buffer; })) {
    return std::unexpected(Error::os(EINVAL, "Pool::grow").detail("no buffers, or one of them is empty"));
  }
  collect();  // frees the slots of buffers that have left
  if (total() + buffers.size() > HoldSet::max_buffers) {
    return std::unexpected(
        Error::os(ENOSPC, "Pool::grow")
            .detail("%zu buffers and %zu more; a pool has %zu at most", total(), buffers.size(), HoldSet::max_buffers));
  }
  for (const Buffer& buffer : buffers) {
    const auto index = holds_->add(buffer);
    if (!index) return std::unexpected(index.error());  // cannot happen: there are free slots
    free_.push_back(*index);
    ++size_;
  }
  return {};
}

Result<void> Pool::shrink(std::uint32_t count) {
  if (count > size_) {
    return std::unexpected(Error::os(EINVAL, "Pool::shrink").detail("%u asked for, the pool has %u", count, size_));
  }
  collect();
  size_ -= count;
  for (; count > 0 && !free_.empty(); --count) {
    static_cast<void>(holds_->retire(free_.back()));  // cannot fail: it is free
    free_.pop_back();
  }
  const auto mark = [&](std::uint32_t index) {
    if (count == 0 || leaving_[index]) return;
    leaving_.set(index);
    --count;
  };
  std::ranges::for_each(pending_, mark);  // these become free first
  const auto buffers = holds_->buffers();
  for (std::uint32_t i = 0; i < buffers.size(); ++i) {
    if (buffers[i]) mark(i);  // none of them is free by now
  }
  return {};
}

/// Marks a buffer that is no longer held as free, or retires it if it was to be removed.
void Pool::put_back(std::uint32_t index) noexcept {
  if (!leaving_[index]) {
    free_.push_back(index);
    return;
  }
  leaving_.reset(index);
  static_cast<void>(holds_->retire(index));  // cannot fail: it was taken
}

void Pool::collect() noexcept {
  if (!pending_.empty()) [[unlikely]] {
    std::erase_if(pending_, [&](std::uint32_t index) {
      if (!all_done(holds_->fences(index))) return false;
      put_back(index);
      return true;
    });
  }
  while (const auto back = holds_->take_returned()) {
    if (all_done(back->fences)) {
      put_back(back->index);
    } else {
      pending_.push_back(back->index);
    }
  }
}

Result<Frame> Pool::acquire(const FrameInfo& info) noexcept {
  collect();
  if (free_.empty()) {
    ++stats_.starved;
    return std::unexpected(Error::os(EAGAIN, "Pool::acquire").detail("all %u buffers are held", size_));
  }
  const auto index = free_.back();
  free_.pop_back();
  ++stats_.acquired;
  return holds_->lend(index, info);
}

std::uint32_t Pool::held() noexcept {
  collect();
  return static_cast<std::uint32_t>(total() - free_.size());
}

}  // namespace dmaflow
