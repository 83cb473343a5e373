// CameraAllocator: a camera's own buffers, exported as dma-bufs.
//
// Each slot of the MMAP queue is exported once, when it is made: a second EXPBUF would be another dma-buf of the same
// memory. A SlotMark on the buffer tells its slot. The queue may be closed while such buffers live: they keep their
// memory and are from then on like anybody's.
#pragma once

#include "agreed.hpp"

#include <dmaflow/attachment.hpp>

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

namespace dmaflow::v4l2 {

/// The buffers made from one life of the queue.
struct SlotSet {
  std::atomic<std::uint32_t> live{0};
};

/// On each of the camera's own buffers.
class SlotMark final : public Attachment {
 public:
  SlotMark(std::shared_ptr<SlotSet> set, std::uint32_t slot) noexcept : set_(std::move(set)), slot_(slot) {
    ++set_->live;
  }
  void tear_down() noexcept override { --set_->live; }
  [[nodiscard]] const SlotSet* set() const noexcept { return set_.get(); }
  [[nodiscard]] std::uint32_t slot() const noexcept { return slot_; }

 private:
  std::shared_ptr<SlotSet> set_;
  std::uint32_t slot_;
};

class CameraAllocator final : public Allocator {
 public:
  CameraAllocator(const Device& device, Queue& queue);
  ~CameraAllocator() override;

  [[nodiscard]] std::string_view name() const noexcept override { return "camera"; }
  [[nodiscard]] MemoryTraits traits() const noexcept override { return {}; }
  [[nodiscard]] Result<std::vector<Buffer>> allocate(const Request& request) override;

  /// The stream to allocate for; what was made for an earlier one becomes foreign.
  Result<void> configure(const Agreed& agreed, const StreamConfig& config);
  /// No stream any more: allocate() fails until the next configure().
  void forget() noexcept { agreed_.reset(); }
  /// The slot of a buffer that is in the queue as it is now.
  [[nodiscard]] std::optional<std::uint32_t> slot_of(const Buffer& buffer) const noexcept;
  /// Closes the queue; the buffers made from it become foreign.
  Result<void> close() noexcept;

 private:
  Result<void> check(const Request& request) const;
  Result<std::uint32_t> reserve(std::uint32_t count);
  Result<Buffer> make(std::uint32_t slot);

  const Device& device_;
  Queue& queue_;
  std::shared_ptr<AttachmentDomain> domain_;
  std::shared_ptr<SlotSet> set_;  // of the queue as it is now; null where it is not MMAP
  std::optional<Agreed> agreed_;
  StreamConfig config_;
};

}  // namespace dmaflow::v4l2
