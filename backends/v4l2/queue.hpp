// Queue: the kernel's buffer queue of one device (videobuf2), with a fixed pairing of slot and dma-bufs.
#pragma once

#include "device.hpp"
#include "stream_format.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dmaflow::v4l2 {

/// The result of DQBUF.
struct Dequeued {
  std::uint32_t slot = 0;
  std::uint32_t sequence = 0;
  std::uint32_t flags = 0;
  std::uint32_t field = 0;  ///< enum v4l2_field
  std::chrono::nanoseconds timestamp{0};
  std::array<std::uint32_t, max_planes> bytes_used{};  ///< per V4L2 plane
  std::array<std::uint32_t, max_planes> data_offset{};
};

/// The most slots a queue may have here; videobuf2 allows 32 (drivers may raise it from 6.9 on).
inline constexpr std::uint32_t max_slots = 64;

class Queue {
 public:
  explicit Queue(const Device& device) noexcept : device_(device) {}
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  ~Queue() { close(); }

  /// REQBUFS; returns the number of slots, which may be more or fewer than asked for. EBUSY if another open file owns
  /// the queue.
  Result<std::uint32_t> request(std::uint32_t memory, std::uint32_t count) noexcept;
  /// CREATE_BUFS: adds slots of the same kind; returns the first new one. @p count: how many to add, then how many were
  /// added.
  Result<std::uint32_t> extend(std::uint32_t& count, const v4l2_format& format) noexcept;
  /// STREAMOFF and REQBUFS 0. Exported buffers that are still held stay valid without the queue (4.20, "orphaned").
  Result<void> close() noexcept;

  /// Assigns the dma-bufs of a buffer to a slot until the queue is closed. The buffer still owns them.
  void pair(std::uint32_t slot, const Buffer& buffer, const StreamFormat& format) noexcept;
  /// QBUF. @p time: copied to output devices.
  Result<void> queue(std::uint32_t slot, std::chrono::nanoseconds time = {}) noexcept;
  /// DQBUF: false if no buffer is done. Errors: EPIPE (past the last buffer), EIO, ENODEV.
  Result<bool> dequeue(Dequeued& out) noexcept;
  Result<void> stream_on() noexcept;

  /// A descriptor for plane @p plane of an MMAP slot (EXPBUF).
  Result<Fd> export_plane(std::uint32_t slot, std::uint32_t plane) noexcept;

  [[nodiscard]] std::uint32_t memory() const noexcept { return memory_; }
  [[nodiscard]] std::uint32_t slots() const noexcept { return slots_; }
  [[nodiscard]] std::uint32_t queued() const noexcept { return queued_; }
  [[nodiscard]] bool is_streaming() const noexcept { return streaming_; }

 private:
  /// What is the same in every QBUF of a slot.
  struct Slot {
    std::array<int, max_planes> fds{-1, -1, -1, -1};
    std::array<std::uint32_t, max_planes> lengths{};
    std::array<std::uint32_t, max_planes> used{};  ///< bytes used, output devices only
    std::uint32_t planes = 1;
    bool queued = false;
  };

  [[nodiscard]] Error stream_error(int code, const char* operation) const noexcept;

  const Device& device_;
  std::array<Slot, max_slots> table_{};
  std::uint32_t memory_ = 0;  // V4L2_MEMORY_*, 0 = no slots
  std::uint32_t slots_ = 0;
  std::uint32_t queued_ = 0;
  bool streaming_ = false;
};

/// Adds to @p error why the driver did not take a foreign buffer; for EINVAL and others of the first QBUF.
Error explain_import(Error error, const Buffer& buffer) noexcept;

}  // namespace dmaflow::v4l2
