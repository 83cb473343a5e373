// Pool: buffers waiting to be filled, for stages and for programs that draw their own frames.
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/frame.hpp>

#include <bitset>
#include <cstdint>
#include <memory>
#include <vector>

namespace dmaflow {

/// A set of equal buffers, HoldSet::max_buffers at most. acquire() gives the next free one as a Frame to be filled;
/// letting go of the Frame (a sink does when its display has moved on) puts it back. O(1), no allocation, and no system
/// call but one for each release fence that is pending. The pool belongs to one thread; its frames may end in any.
/// Frames outlive the pool safely. Move-only; a pool that was moved from may only be destroyed or assigned to.
///
/// A buffer is held from acquire() until every holder has let go and every fence that a holder left with
/// Frame::release() has ended, well or not.
///
/// Frame::index() differs between the buffers in the pool, also after grow() and shrink(). It is below
/// HoldSet::max_buffers, and a buffer keeps it while it is in the pool. grow() gives out the indices of buffers that
/// have left again.
class Pool {
 public:
  struct Stats {
    std::uint64_t acquired = 0;
    std::uint64_t starved = 0;  ///< acquire() found nothing free
  };

  /// From buffers somebody made: an allocator, or a sink that owns its own. Errors: those of HoldSet::create().
  [[nodiscard]] static Result<Pool> create(std::vector<Buffer> buffers);
  /// From an allocator. Errors: the allocator's, and those of HoldSet::create().
  [[nodiscard]] static Result<Pool> create(Allocator& allocator, const Request& request);

  /// A free buffer. Errors: EAGAIN (all are held: starvation, also counted; the frames held say who keeps them).
  [[nodiscard]] Result<Frame> acquire(const FrameInfo& info = {}) noexcept;
  /// Adds buffers, all or, on an error, none. Call it between frames. Errors: EINVAL (none given, or one is empty),
  /// ENOSPC (the pool would have more than HoldSet::max_buffers; those that shrink() has marked and that are still held
  /// count).
  Result<void> grow(const std::vector<Buffer>& buffers);
  /// Takes out @p count of the buffers that are in the pool now: free ones at once, and where those are too few, held
  /// ones, each when it is no longer held. Which ones is decided now, so buffers added later stay. The memory of those
  /// that left while held is let go by the next call of acquire(), held(), grow() or shrink(). Errors: EINVAL (the pool
  /// has fewer).
  Result<void> shrink(std::uint32_t count);

  /// Buffers in the pool, without those to be taken out.
  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
  /// Buffers now held, those to be taken out included. Looks at what came back first, as acquire() does.
  [[nodiscard]] std::uint32_t held() noexcept;
  [[nodiscard]] const Stats& stats() const noexcept { return stats_; }

 private:
  explicit Pool(std::shared_ptr<HoldSet> holds);
  void collect() noexcept;
  void put_back(std::uint32_t index) noexcept;
  [[nodiscard]] std::size_t total() const noexcept { return size_ + leaving_.count(); }

  std::shared_ptr<HoldSet> holds_;
  std::vector<std::uint32_t> free_;            // has capacity for all, so that frames come back without an allocation
  std::vector<std::uint32_t> pending_;         // back, but with a release fence not yet ended; the same
  std::bitset<HoldSet::max_buffers> leaving_;  // held now, and to be taken out
  std::uint32_t size_ = 0;
  Stats stats_;
};

}  // namespace dmaflow
