// A fence of sw_sync, the kernel's software fences for tests.
#pragma once

#include "operation.hpp"

#include <dmaflow/fd.hpp>

#include <cstdint>

#include <fcntl.h>
#include <sys/ioctl.h>

namespace bench {

/// A fence that is active or has signalled. Each has its own timeline, so that a merge keeps all of them.
class SwFence {
 public:
  SwFence() : SwFence(false) {}
  explicit SwFence(bool signalled)
      : timeline_(dmaflow::Fd::adopt(::open("/sys/kernel/debug/sync/sw_sync", O_RDWR | O_CLOEXEC))) {
    require(static_cast<bool>(timeline_), "no sw_sync (debugfs sync/sw_sync): run this in the lab, as root");
    struct {
      std::uint32_t value;
      char name[32];
      std::int32_t fence;
    } data{1, "bench", -1};
    require(::ioctl(timeline_.get(), _IOWR('W', 0, decltype(data)), &data) == 0, "SW_SYNC_IOC_CREATE_FENCE");
    fence_ = dmaflow::Fd::adopt(data.fence);
    std::uint32_t by = signalled ? 1 : 0;
    require(::ioctl(timeline_.get(), _IOW('W', 1, std::uint32_t), &by) == 0, "SW_SYNC_IOC_INC");
  }
  [[nodiscard]] int fd() const { return fence_.get(); }

 private:
  dmaflow::Fd timeline_;
  dmaflow::Fd fence_;
};

}  // namespace bench
