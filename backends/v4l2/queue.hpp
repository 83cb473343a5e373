// Queue: the kernel's buffer queue of one device (videobuf2), with a fixed pairing of slot and dma-bufs.
#pragma once

#include "device.hpp"
#include "stream_format.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
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
  [[nodiscard]] Error not_queued(std::uint32_t index) const noexcept;

  const Device& device_;
  std::array<Slot, max_slots> table_{};
  std::uint32_t memory_ = 0;  // V4L2_MEMORY_*, 0 = no slots
  std::uint32_t slots_ = 0;
  std::uint32_t queued_ = 0;
  bool streaming_ = false;
};

// Inline, because every frame passes through these.

inline Result<void> Queue::queue(std::uint32_t index, std::chrono::nanoseconds time) noexcept {
  Slot& slot = table_[index];
  v4l2_plane planes[max_planes];
  v4l2_buffer buffer{};
  buffer.index = index;
  buffer.type = device_.buffer_type();
  buffer.memory = memory_;
  buffer.field = V4L2_FIELD_NONE;
  const bool is_import = memory_ == V4L2_MEMORY_DMABUF;
  const bool is_output = device_.direction() == Direction::output;
  if (is_output) {
    buffer.timestamp.tv_sec = static_cast<decltype(buffer.timestamp.tv_sec)>(time.count() / 1'000'000'000);
    buffer.timestamp.tv_usec = static_cast<decltype(buffer.timestamp.tv_usec)>(time.count() % 1'000'000'000 / 1000);
  }
  if (device_.multiplanar()) {
    buffer.m.planes = planes;
    buffer.length = slot.planes;
    for (std::uint32_t i = 0; i < slot.planes; ++i) {
      planes[i] = {};
      if (is_import) planes[i].m.fd = slot.fds[i];
      if (is_import) planes[i].length = slot.lengths[i];
      if (is_output) planes[i].bytesused = slot.used[i];
    }
  } else {
    if (is_import) buffer.m.fd = slot.fds[0];
    if (is_import) buffer.length = slot.lengths[0];
    if (is_output) buffer.bytesused = slot.used[0];
  }
  const int result = device_.try_call(DMAFLOW_V4L2_OP(VIDIOC_QBUF), &buffer);
  if (result < 0) return std::unexpected(stream_error(-result, "VIDIOC_QBUF"));
  slot.queued = true;
  ++queued_;
  return {};
}

inline Result<bool> Queue::dequeue(Dequeued& out) noexcept {
  v4l2_plane planes[VIDEO_MAX_PLANES];
  v4l2_buffer buffer{};
  buffer.type = device_.buffer_type();
  buffer.memory = memory_;
  if (device_.multiplanar()) {
    std::ranges::fill(planes, v4l2_plane{});
    buffer.m.planes = planes;
    buffer.length = VIDEO_MAX_PLANES;
  }
  const int result = device_.try_call(DMAFLOW_V4L2_OP(VIDIOC_DQBUF), &buffer);
  if (result == -EAGAIN) return false;
  if (result < 0) return std::unexpected(stream_error(-result, "VIDIOC_DQBUF"));
  if (buffer.index >= slots_ || !table_[buffer.index].queued) [[unlikely]]
    return std::unexpected(not_queued(buffer.index));
  table_[buffer.index].queued = false;
  --queued_;
  out.slot = buffer.index;
  out.sequence = buffer.sequence;
  out.flags = buffer.flags;
  out.field = buffer.field;
  out.timestamp = std::chrono::seconds(buffer.timestamp.tv_sec) + std::chrono::microseconds(buffer.timestamp.tv_usec);
  if (device_.multiplanar()) {
    for (std::uint32_t i = 0; i < table_[buffer.index].planes; ++i) {
      out.bytes_used[i] = planes[i].bytesused;
      out.data_offset[i] = planes[i].data_offset;
    }
  } else {
    out.bytes_used[0] = buffer.bytesused;
  }
  return true;
}

/// Adds to @p error why the driver did not take a foreign buffer; for EINVAL and others of the first QBUF.
Error explain_import(Error error, const Buffer& buffer) noexcept;

}  // namespace dmaflow::v4l2
