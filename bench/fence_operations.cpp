#include "fence_operations.hpp"

#include "raw/fences.hpp"
#include "repeat.hpp"
#include "sw_fence.hpp"

#include <dmaflow/fence.hpp>
#include <dmaflow/heap.hpp>
#include <dmaflow/implicit_fences.hpp>
#include <dmaflow/timeline.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>

namespace bench {
namespace {

using dmaflow::Access;
using dmaflow::Buffer;
using dmaflow::Deadline;
using dmaflow::Fd;
using dmaflow::Fence;
using dmaflow::SyncobjDevice;
using dmaflow::Timeline;

/// A buffer to which any program may attach fences.
Buffer some_buffer() {
  const dmaflow::Request request{.size = {64, 64}, .format = dmaflow::formats::xrgb8888};
  auto heap = must(dmaflow::heap::Allocator::open("system"));
  return must(heap->allocate(request)).front();
}

Operation export_operation() {
  const auto writer = std::make_shared<SwFence>();
  const Buffer buffer = some_buffer();
  const int dma_buf = buffer.fd(0);
  require(raw::import_fence(dma_buf, writer->fd(), DMA_BUF_SYNC_WRITE) == 0, "DMA_BUF_IOCTL_IMPORT_SYNC_FILE");
  const auto ours = [buffer, writer] {
    const auto fence = dmaflow::export_fence(buffer, Access::read);
    require(fence && !fence->is_null(), "export_fence");
  };
  const auto same = [dma_buf] {
    const int fence = raw::export_fence(dma_buf, DMA_BUF_SYNC_READ);
    require(fence >= 0, "DMA_BUF_IOCTL_EXPORT_SYNC_FILE");
    ::close(fence);
  };
  return {.name = "export", .batch = 200, .ways = {{"dmaflow", repeat(ours)}, {"raw", repeat(same)}}};
}

Operation import_operation() {
  const auto writer = std::make_shared<SwFence>();
  const auto fence = std::make_shared<Fence>(must(Fence::dup_of(writer->fd())));
  const Buffer buffer = some_buffer();
  const int dma_buf = buffer.fd(0);
  const auto ours = [buffer, fence, writer] {
    require(dmaflow::import_fence(buffer, *fence, Access::write).has_value(), "import_fence");
  };
  const auto same = [dma_buf, fd = writer->fd()] {
    require(raw::import_fence(dma_buf, fd, DMA_BUF_SYNC_WRITE) == 0, "DMA_BUF_IOCTL_IMPORT_SYNC_FILE");
  };
  return {.name = "import", .batch = 200, .ways = {{"dmaflow", repeat(ours)}, {"raw", repeat(same)}}};
}

Operation wait_operation() {
  const auto signalled = std::make_shared<SwFence>(true);
  const auto fence = std::make_shared<Fence>(must(Fence::dup_of(signalled->fd())));
  const int fd = signalled->fd();
  const auto deadline = Deadline::after(std::chrono::hours(1));
  const auto ours = [fence, deadline, signalled] { require(fence->wait(deadline).has_value(), "Fence::wait"); };
  const auto same = [fd] { require(raw::wait(fd, 1000) == 0, "SYNC_IOC_FILE_INFO"); };
  const auto unchecked = [fd] { require(raw::wait_unchecked(fd, 1000) == 0, "poll"); };
  return {.name = "wait, signalled",
          .batch = 200,
          .ways = {{"dmaflow", repeat(ours)}, {"raw", repeat(same)}, {"raw, unchecked", repeat(unchecked)}}};
}

/// Active fences. A merge consumes a copy of each; every way takes its copies from here.
class MergeInputs {
 public:
  explicit MergeInputs(std::size_t count) : active_(count) {}

  void make_descriptors(int times) {
    for (next_ = 0; times > 0; --times) {
      for (const SwFence& fence : active_) {
        descriptors_.push_back(::fcntl(fence.fd(), F_DUPFD_CLOEXEC, 3));
        require(descriptors_.back() >= 0, "fcntl(F_DUPFD_CLOEXEC)");
      }
    }
  }
  void make_fences(int times) {
    fences_.clear();
    descriptors_.clear();
    make_descriptors(times);
    for (const int fd : descriptors_) fences_.push_back(Fence::adopt_unchecked(Fd::adopt(fd)));
  }
  void make_raw(int times) {
    descriptors_.clear();
    make_descriptors(times);
  }

  /// The copies that the next merge consumes.
  std::span<Fence> next_fences() { return std::span(fences_).subspan(advance(), active_.size()); }
  int* next_descriptors() { return descriptors_.data() + advance(); }
  [[nodiscard]] std::size_t count() const { return active_.size(); }

 private:
  std::size_t advance() { return std::exchange(next_, next_ + active_.size()); }

  std::vector<SwFence> active_;
  std::vector<Fence> fences_;
  std::vector<int> descriptors_;
  std::size_t next_ = 0;
};

Operation merge_operation(std::size_t count, int batch) {
  const auto inputs = std::make_shared<MergeInputs>(count);
  const auto ours = [inputs] {
    const auto merged = dmaflow::merge(inputs->next_fences());
    require(merged && !merged->is_null(), "merge");
  };
  const auto same = [inputs] {
    const int merged = raw::merge(inputs->next_descriptors(), inputs->count());
    require(merged >= 0, "SYNC_IOC_MERGE");
    ::close(merged);
  };
  const auto unchecked = [inputs] {
    const int merged = raw::merge_unchecked(inputs->next_descriptors(), inputs->count());
    require(merged >= 0, "SYNC_IOC_MERGE");
    ::close(merged);
  };
  const auto fences = [inputs](int times) { inputs->make_fences(times); };
  const auto descriptors = [inputs](int times) { inputs->make_raw(times); };
  return {.name = "merge of " + std::to_string(count),
          .batch = batch,
          .ways = {{"dmaflow", repeat(ours), fences},
                   {"raw", repeat(same), descriptors},
                   {"raw, unchecked", repeat(unchecked), descriptors}}};
}

SyncobjDevice timeline_device() {
  for (int number = 128; number < 192; ++number) {
    auto device = SyncobjDevice::open("/dev/dri/renderD" + std::to_string(number));
    if (device && device->has_timelines()) return std::move(*device);
  }
  give_up("no DRM device with timelines: in the lab, run this with --display virtio");
}

/// The library's timeline, and a raw syncobj on the same device.
struct Timelines {
  SyncobjDevice device = timeline_device();
  Timeline ours = must(Timeline::create(device));
  std::uint64_t ours_at = 0;
  std::uint32_t raw = 0;
  std::uint64_t raw_at = 0;

  Timelines() {
    const int handle = raw::create_syncobj(device.fd());
    require(handle > 0, "DRM_IOCTL_SYNCOBJ_CREATE");
    raw = static_cast<std::uint32_t>(handle);
  }
};

Operation signal_operation() {
  const auto timelines = std::make_shared<Timelines>();
  const auto ours = [timelines] {
    require(timelines->ours.signal(++timelines->ours_at).has_value(), "Timeline::signal");
  };
  const auto same = [timelines, drm = timelines->device.fd()] {
    require(raw::signal(drm, timelines->raw, ++timelines->raw_at) == 0, "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL");
  };
  return {.name = "timeline: signal", .batch = 200, .ways = {{"dmaflow", repeat(ours)}, {"raw", repeat(same)}}};
}

Operation point_wait_operation() {
  const auto timelines = std::make_shared<Timelines>();
  const int drm = timelines->device.fd();
  require(timelines->ours.signal(1).has_value(), "Timeline::signal");
  require(raw::signal(drm, timelines->raw, 1) == 0, "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL");
  const auto deadline = Deadline::after(std::chrono::hours(1));
  const auto nanoseconds = std::chrono::nanoseconds(deadline.time().time_since_epoch()).count();
  const auto ours = [timelines, deadline] { require(timelines->ours.wait(1, deadline).has_value(), "Timeline::wait"); };
  const auto same = [timelines, drm, nanoseconds] {
    require(raw::wait_for_point(drm, timelines->raw, 1, nanoseconds) == 0, "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT");
  };
  return {
      .name = "timeline: wait, signalled", .batch = 200, .ways = {{"dmaflow", repeat(ours)}, {"raw", repeat(same)}}};
}

/// Merges are prepared in batches, which need more descriptors than a process may have by default.
void allow_descriptors(rlim_t count) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::max(limit.rlim_cur, std::min(limit.rlim_max, count));
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

std::vector<Operation> fence_operations() {
  allow_descriptors(4096);
  std::vector<Operation> operations;
  operations.push_back(export_operation());
  operations.push_back(import_operation());
  operations.push_back(merge_operation(2, 200));
  operations.push_back(merge_operation(8, 50));
  operations.push_back(merge_operation(64, 5));
  operations.push_back(merge_operation(256, 2));
  operations.push_back(wait_operation());
  operations.push_back(signal_operation());
  operations.push_back(point_wait_operation());
  return operations;
}

}  // namespace bench
