// Fences that a test signals at any time it chooses: those of sw_sync, and those of vgem on real dma-bufs. For the lab.
#pragma once

#include "support.hpp"

#include <dmaflow/buffer.hpp>
#include <dmaflow/fence.hpp>

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <drm.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace dmaflow::test {

/// A timeline of the kernel's sw_sync (debugfs sync/sw_sync): a counter, and fences that signal when it reaches their
/// value. Fences that are still active when it is destroyed fail with ENOENT.
class SwSync {
 public:
  SwSync() : timeline_(Fd::adopt(::open("/sys/kernel/debug/sync/sw_sync", O_RDWR | O_CLOEXEC))) {
    EXPECT_TRUE(timeline_) << "no sw_sync: run this in the lab, as root";
  }
  Fence fence(std::uint32_t value) {
    Fd fd = raw_fence(value);
    return must(Fence::adopt(fd), "sw_sync");
  }
  /// The raw descriptor; the library does not see this call.
  Fd raw_fence(std::uint32_t value) {
    struct {
      std::uint32_t value;
      char name[32];
      std::int32_t fence;
    } data{value, "test", -1};
    EXPECT_EQ(::ioctl(timeline_.get(), _IOWR('W', 0, decltype(data)), &data), 0);
    return Fd::adopt(data.fence);
  }
  void advance(std::uint32_t by = 1) { EXPECT_EQ(::ioctl(timeline_.get(), _IOW('W', 1, std::uint32_t), &by), 0); }
  /// The earliest deadline that was set on a fence, in nanoseconds of CLOCK_MONOTONIC; a negative errno if there was
  /// none.
  std::int64_t deadline_of(const Fence& fence) {
    struct {
      std::uint64_t deadline;
      std::uint32_t pad;
      std::int32_t fence;
    } data{0, 0, fence.poll_fd()};
    if (::ioctl(timeline_.get(), _IOWR('W', 2, decltype(data)), &data) != 0) return -errno;
    return static_cast<std::int64_t>(data.deadline);
  }
  /// Destroys the timeline: active fences fail with ENOENT.
  void fail() { timeline_.reset(); }

 private:
  Fd timeline_;
};

/// The only part of a fence, read by raw ioctl.
inline sync_fence_info part_of(int fence) {
  sync_fence_info part{};
  sync_file_info info{};
  info.num_fences = 1;
  info.sync_fence_info = reinterpret_cast<std::uintptr_t>(&part);
  EXPECT_EQ(::ioctl(fence, SYNC_IOC_FILE_INFO, &info), 0);
  return part;
}

/// The errno of fences whose sw_sync timeline was destroyed.
inline int error_of_sw_sync() {
  static const int error = [] {
    SwSync device;
    const Fd fence = device.raw_fence(1);
    device.fail();
    const int status = part_of(fence.get()).status;
    EXPECT_LT(status, 0) << "sw_sync gives no error";
    return -status;
  }();
  return error;
}

/// The vgem device: buffers whose implicit fences a test attaches and signals. The kernel itself signals them after ten
/// seconds.
class Vgem {
 public:
  Vgem() {
    for (int card = 0; card < 64 && !device_; ++card) {
      const std::string path = "/dev/dri/card" + std::to_string(card);
      Fd fd = Fd::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC));
      if (!fd) continue;
      std::array<char, 32> name{};
      drm_version version{};
      version.name = name.data();
      version.name_len = name.size() - 1;
      if (::ioctl(fd.get(), DRM_IOCTL_VERSION, &version) == 0 && std::string_view(name.data()) == "vgem") {
        device_ = std::move(fd);
      }
    }
    EXPECT_TRUE(device_) << "no vgem: run this in the lab";
  }

  /// A dma-buf of this many pages; its handle is stored in @p handle.
  Fd dma_buf(std::uint32_t pages, std::uint32_t& handle) {
    drm_mode_create_dumb dumb{};
    dumb.width = 1024;
    dumb.height = pages;
    dumb.bpp = 32;
    EXPECT_EQ(::ioctl(device_.get(), DRM_IOCTL_MODE_CREATE_DUMB, &dumb), 0);
    drm_prime_handle prime{};
    prime.handle = handle = dumb.handle;
    prime.flags = DRM_CLOEXEC | DRM_RDWR;
    EXPECT_EQ(::ioctl(device_.get(), DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime), 0);
    return Fd::adopt(prime.fd);
  }

  /// Attaches a fence to the dma-buf's reservation object, and returns the fence's number or a negative errno (EBUSY:
  /// there is a conflicting fence).
  int attach(std::uint32_t handle, bool writes) {
    struct {
      std::uint32_t handle;
      std::uint32_t flags;  // VGEM_FENCE_WRITE
      std::uint32_t out_fence;
      std::uint32_t pad;
    } data{handle, writes ? 1U : 0U, 0, 0};
    if (::ioctl(device_.get(), DRM_IOWR(DRM_COMMAND_BASE + 1, decltype(data)), &data) != 0) return -errno;
    return static_cast<int>(data.out_fence);
  }
  void signal(int fence) {
    struct {
      std::uint32_t fence;
      std::uint32_t flags;
    } data{static_cast<std::uint32_t>(fence), 0};
    EXPECT_EQ(::ioctl(device_.get(), DRM_IOW(DRM_COMMAND_BASE + 2, decltype(data)), &data), 0);
  }

 private:
  Fd device_;
};

/// A buffer in vgem's memory, for tests that attach fences to its dma-bufs.
struct VgemBuffer {
  std::array<std::uint32_t, 4> handles{};
  Buffer buffer;

  /// One dma-buf, or two with @p planar.
  static VgemBuffer create(Vgem& vgem, bool planar = false) {
    VgemBuffer result;
    std::vector<Fd> objects;
    objects.push_back(vgem.dma_buf(4, result.handles[0]));
    if (planar) objects.push_back(vgem.dma_buf(4, result.handles[1]));
    const auto layout = planar ? Layout::linear(formats::nv12, {64, 48}, {.separate_objects = true})
                               : Layout::linear(formats::xrgb8888, {64, 48});
    result.buffer = must(Buffer::create(must(layout), objects, {.origin = "vgem"}), "vgem");
    return result;
  }
};

}  // namespace dmaflow::test
