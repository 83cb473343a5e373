// Shared by the V4L2 tests: finding vivid's devices, heap buffers by raw ioctl, capturing some frames.
#pragma once

#include "fence_support.hpp"
#include "support.hpp"

#include <dmaflow/v4l2.hpp>

#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace dmaflow::test {

enum class Kind : std::uint8_t { capture, output };

/// The node of a vivid device, skipping the first @p skip ones of that kind. Fails the test if there is none.
inline std::string vivid(Kind kind, bool multiplanar, std::size_t skip = 0) {
  for (const v4l2::DeviceInfo& info : v4l2::list()) {
    const bool fits = (kind == Kind::capture ? info.capture : info.output) && info.multiplanar == multiplanar;
    if (info.driver == "vivid" && fits && skip-- == 0) return info.path;
  }
  ADD_FAILURE() << "no vivid device: run this in the lab, with --cameras 2";
  std::abort();
}

/// Configures a stream with a request for this size and format.
inline void set_input(Producer& camera, Size size, PixelFormat format, bool separate_objects = false) {
  StreamRequest request;
  request.size = size;
  request.formats = {format};
  const auto offers = must(camera.offers(request), "offers");
  for (const StreamConfig& config : offers) {
    if (config.constraints.separate_objects != separate_objects) continue;
    must(camera.set_output(config), "set_output");
    return;
  }
  ADD_FAILURE() << "no such stream";
  std::abort();
}

inline std::vector<Buffer> own_buffers(Producer& camera, std::uint32_t count) {
  Request request;
  request.size = camera.output().layout.size;
  request.format = camera.output().layout.format;
  request.modifiers = {camera.output().layout.modifier};
  request.opaque_bytes = camera.output().layout.opaque_bytes;
  request.constraints = camera.output().constraints;
  request.count = count;
  return must(camera.output_allocator()->allocate(request), "allocate");
}

/// A dma-buf from the system heap, by raw ioctl: these tests do not depend on the heap backend.
inline Fd heap_dma_buf(std::uint64_t bytes) {
  const int heap = ::open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
  dma_heap_allocation_data data{};
  data.len = bytes;
  data.fd_flags = O_RDWR | O_CLOEXEC;
  const int result = ::ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data);
  ::close(heap);
  EXPECT_EQ(result, 0) << "no /dev/dma_heap/system";
  return Fd::adopt(static_cast<int>(data.fd));
}

inline Buffer heap_buffer(const StreamConfig& config) {
  std::vector<Fd> objects;
  for (std::uint32_t i = 0; i < config.layout.object_count(); ++i) {
    objects.push_back(heap_dma_buf(std::max<std::uint64_t>(config.constraints.min_object_size[i], 1)));
  }
  return must(Buffer::create(config.layout, objects, {.is_protected = false, .origin = "heap:system"}), "create");
}

inline std::vector<Buffer> heap_buffers(const StreamConfig& config, std::uint32_t count) {
  std::vector<Buffer> buffers;
  for (std::uint32_t i = 0; i < count; ++i) buffers.push_back(heap_buffer(config));
  return buffers;
}

/// The format of a capture device as the driver reports it, read by raw ioctl.
inline v4l2_format raw_format(const std::string& path, bool multiplanar) {
  const Fd fd = Fd::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  v4l2_format format{};
  format.type = multiplanar ? V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE : V4L2_BUF_TYPE_VIDEO_CAPTURE;
  EXPECT_EQ(::ioctl(fd.get(), VIDIOC_G_FMT, &format), 0) << path;
  return format;
}

/// Waits for the camera and dispatches once; false if nothing happened for twenty seconds.
inline bool turn(v4l2::Camera& camera, Result<void>* outcome = nullptr) {
  const short events = camera.poll_events();
  if (events == 0) return false;
  const int ready = sys::wait(camera.poll_fd(), events, Deadline::after(std::chrono::seconds(20)));
  if (ready <= 0) return false;
  auto done = camera.dispatch(static_cast<short>(ready));
  if (outcome != nullptr) *outcome = done;
  EXPECT_TRUE(outcome != nullptr || done) << done.error().message();
  return true;
}

/// Captures frames and releases each at once.
inline std::vector<FrameInfo> capture(v4l2::Camera& camera, std::size_t count) {
  std::vector<FrameInfo> frames;
  while (frames.size() < count && turn(camera)) {
    auto frame = camera.take();
    EXPECT_TRUE(frame) << frame.error().message();
    if (!frame) break;
    if (*frame) frames.push_back(frame->info());
  }
  return frames;
}

/// One frame, held.
inline Frame capture_one(v4l2::Camera& camera) {
  while (turn(camera)) {
    auto frame = camera.take();
    if (!frame) {
      ADD_FAILURE() << frame.error().message();
      break;
    }
    if (*frame) return std::move(*frame);
  }
  ADD_FAILURE() << "no frame came";
  return {};
}

}  // namespace dmaflow::test
