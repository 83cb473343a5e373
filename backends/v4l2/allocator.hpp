// CameraAllocator: a camera's own buffers, exported as dma-bufs.
//
// Each slot of the MMAP queue is exported once, when it is made: a second EXPBUF would create another dma-buf of the
// same memory. A SlotMark on the buffer records its slot. The queue may be closed while such buffers exist: they keep
// their memory, and from then on they are treated like any foreign buffer.
#pragma once

#include "agreed.hpp"

#include <dmaflow/attachment.hpp>

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

namespace dmaflow::v4l2 {

/// The buffers made between one REQBUFS of the queue and its close.
struct SlotSet {
  std::atomic<std::uint32_t> live{0};
};

/// Attached to each of the camera's own buffers.
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

  /// Sets the stream to allocate for; buffers made for an earlier one become foreign.
  Result<void> configure(const Agreed& agreed, const StreamConfig& config);
  /// Forgets the stream: allocate() fails until the next configure().
  void forget() noexcept { agreed_.reset(); }
  /// The slot of a buffer of the current queue; nullopt for any other buffer.
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
  std::shared_ptr<SlotSet> set_;  // of the current queue; null if it is not MMAP
  std::optional<Agreed> agreed_;
  StreamConfig config_;
};

}  // namespace dmaflow::v4l2
