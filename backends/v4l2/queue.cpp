#include "queue.hpp"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>

namespace dmaflow::v4l2 {

// The ioctl number of VIDIOC_DQBUF contains the structure's size: in 32-bit programs _TIME_BITS selects one of two.
static_assert(sizeof(v4l2_buffer{}.timestamp) == 16);

Result<std::uint32_t> Queue::request(std::uint32_t memory, std::uint32_t count) noexcept {
  v4l2_requestbuffers request{};
  request.type = device_.buffer_type();
  request.memory = memory;
  request.count = count;
  const int result = device_.try_call(DMAFLOW_V4L2_OP(VIDIOC_REQBUFS), &request);
  if (result < 0) {
    Error error = device_.error(-result, "VIDIOC_REQBUFS");
    if (result == -EINVAL && memory == V4L2_MEMORY_DMABUF)
      error.detail("the driver refused (it may not import dma-bufs at all): try the camera's own buffers");
    if (result == -EINVAL && memory == V4L2_MEMORY_MMAP)
      error.detail("the driver refused (it may not make buffers of its own): try a heap");
    if (result == -ENOMEM) error.detail("no memory for %u buffers: fewer or smaller ones may do", count);
    return std::unexpected(error);
  }
  memory_ = memory;
  slots_ = std::min(request.count, max_slots);
  queued_ = 0;
  table_.fill({});
  return slots_;
}

Result<std::uint32_t> Queue::extend(std::uint32_t& count, const v4l2_format& format) noexcept {
  v4l2_create_buffers create{};
  create.count = count;
  create.memory = memory_;
  create.format = format;
  if (auto done = device_.call(DMAFLOW_V4L2_OP(VIDIOC_CREATE_BUFS), &create); !done)
    return std::unexpected(done.error());
  count = create.count;
  slots_ = std::min(create.index + create.count, max_slots);
  return create.index;
}

Result<void> Queue::close() noexcept {
  if (memory_ == 0) return {};
  Result<void> outcome;
  if (streaming_) {
    int type = static_cast<int>(device_.buffer_type());
    outcome = device_.call(DMAFLOW_V4L2_OP(VIDIOC_STREAMOFF), &type);
    streaming_ = false;
  }
  v4l2_requestbuffers request{};
  request.type = device_.buffer_type();
  request.memory = memory_;
  auto freed = device_.call(DMAFLOW_V4L2_OP(VIDIOC_REQBUFS), &request);
  memory_ = 0;
  slots_ = 0;
  queued_ = 0;
  // A device that is gone has already dropped its queue.
  const auto gone = [](const Result<void>& result) { return !result && result.error().code() == ENODEV; };
  if (!outcome && !gone(outcome)) return outcome;
  if (!freed && !gone(freed)) return freed;
  return {};
}

void Queue::pair(std::uint32_t index, const Buffer& buffer, const StreamFormat& format) noexcept {
  if (index >= max_slots) return;
  Slot& slot = table_[index];
  slot.planes = format.planes;
  for (std::uint32_t i = 0; i < format.planes; ++i) {
    const std::uint32_t object = format.object_of(buffer, i);
    slot.fds[i] = buffer.fd(object);
    slot.lengths[i] = static_cast<std::uint32_t>(std::min<std::uint64_t>(buffer.size(object), ~0U));
    slot.used[i] = format.size_image[i];
  }
}

Error Queue::not_queued(std::uint32_t index) const noexcept {
  return device_.error(EPROTO, "VIDIOC_DQBUF").detail("the driver gave buffer %u, which it did not have", index);
}

Error Queue::stream_error(int code, const char* operation) const noexcept {
  Error error = device_.error(code, operation);
  if (code == EPIPE) error.detail("the stream has ended");
  if (code == EIO) error.detail("the device reports a failure and has stopped: stop and start it again");
  return error;
}

Result<void> Queue::stream_on() noexcept {
  int type = static_cast<int>(device_.buffer_type());
  if (auto done = device_.call(DMAFLOW_V4L2_OP(VIDIOC_STREAMON), &type); !done) return done;
  streaming_ = true;
  return {};
}

Result<Fd> Queue::export_plane(std::uint32_t slot, std::uint32_t plane) noexcept {
  v4l2_exportbuffer exported{};
  exported.type = device_.buffer_type();
  exported.index = slot;
  exported.plane = plane;
  exported.flags = O_CLOEXEC | O_RDWR;
  if (auto done = device_.call(DMAFLOW_V4L2_OP(VIDIOC_EXPBUF), &exported); !done) {
    Error error = done.error();
    if (error.code() == ENOTTY || error.code() == EINVAL)
      error.detail("the driver does not export its buffers: use a heap's");
    return std::unexpected(error);
  }
  return Fd::adopt(exported.fd);
}

Error explain_import(Error error, const Buffer& buffer) noexcept {
  if (error.code() == EINVAL || error.code() == EFAULT || error.code() == ENOTSUP || error.code() == ENODEV) {
    error.detail(
        "the driver does not take this buffer%s%.*s: it may need physically contiguous memory, or memory its bus "
        "reaches; try a contiguous heap or the camera's own",
        buffer.origin().empty() ? "" : " from ", static_cast<int>(buffer.origin().size()), buffer.origin().data());
  }
  return error;
}

}  // namespace dmaflow::v4l2
