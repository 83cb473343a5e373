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
/// releasing the Frame (a sink does so when its display shows the next one) puts it back. O(1), no allocation, and no
/// system call except one for each pending release fence. The pool belongs to one thread; its frames may be released in
/// any. Frames may outlive the pool. Move-only; a moved-from pool may only be destroyed or assigned to.
///
/// A buffer is held from acquire() until every holder has released it and every fence that a holder passed to
/// Frame::release() has ended, successfully or not.
///
/// Frame::index() differs between the buffers in the pool, also after grow() and shrink(). It is below
/// HoldSet::max_buffers, and a buffer keeps it while it is in the pool. grow() reuses the indices of removed buffers.
class Pool {
 public:
  struct Stats {
    std::uint64_t acquired = 0;
    std::uint64_t starved = 0;  ///< acquire() found nothing free
  };

  /// From existing buffers: an allocator's, or those of a sink that owns its buffers. Errors: those of
  /// HoldSet::create().
  [[nodiscard]] static Result<Pool> create(std::vector<Buffer> buffers);
  /// From an allocator. Errors: the allocator's, and those of HoldSet::create().
  [[nodiscard]] static Result<Pool> create(Allocator& allocator, const Request& request);

  /// A free buffer. Errors: EAGAIN (all are held: starvation, which is counted; the held frames show who keeps them).
  [[nodiscard]] Result<Frame> acquire(const FrameInfo& info = {}) noexcept;
  /// Adds all the buffers, or none on an error. Call it between frames. Errors: EINVAL (none given, or one is empty),
  /// ENOSPC (the pool would have more than HoldSet::max_buffers; those that shrink() has marked and that are still held
  /// count).
  Result<void> grow(const std::vector<Buffer>& buffers);
  /// Removes @p count of the buffers that are in the pool now: free ones at once and, if those are too few, held ones
  /// as soon as each is no longer held. The buffers are chosen now, so buffers added later stay. The memory of buffers
  /// that were held is released by the next call of acquire(), held(), grow() or shrink(). Errors: EINVAL (the pool has
  /// fewer).
  Result<void> shrink(std::uint32_t count);

  /// Buffers in the pool, without those to be removed.
  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
  /// Buffers held now, including those to be removed. First processes the buffers that came back, as acquire() does.
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
