// EpollSet: one descriptor that reports what poll() on many would report, for programs with their own loop.
#pragma once

#include "sys/sys.hpp"

#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace dmaflow::detail {

/// Makes system calls only for what differs from the previous set. The epoll descriptor that users get contains a timer
/// and a second epoll descriptor, which contains the descriptors of the devices. The second one is created anew after
/// devices were stopped: a closed descriptor stays registered if its file is still open elsewhere, and there is no
/// other way to remove it (epoll(7), "Will closing a file descriptor cause it to be removed").
class EpollSet {
 public:
  using Time = Deadline::Clock::time_point;
  /// A descriptor to wait for.
  struct Wanted {
    int fd = -1;
    short events = 0;           ///< as for poll()
    bool may_be_other = false;  ///< next time its number may refer to another file, as with fences
  };

  static Result<EpollSet> create();
  /// Readable while there is something to do. Constant.
  [[nodiscard]] int fd() const noexcept { return outer_.get(); }

  /// From now on waits for these descriptors and for the time @p wake. @p at_once: there is work already. A descriptor
  /// may occur several times. Errors: those of epoll_ctl(), e.g. EPERM for a descriptor that cannot be waited for.
  Result<void> set(std::span<const Wanted> wanted, Time wake, bool at_once);
  /// Fills in what is ready, as poll() would. It also removes the descriptors that may be closed, and their numbers
  /// reused, before the next set().
  Result<void> look(std::span<pollfd> polls);
  /// To be called after devices were stopped: any descriptor may have been closed and its number reused.
  void distrust() noexcept { is_stale_ = true; }

 private:
  struct Watched {
    int fd = -1;
    std::uint32_t events = 0;
    bool may_be_other = false;
  };
  Result<void> renew();
  void remove(int fd) const noexcept;
  Result<void> set_timer(Time at);

  Fd outer_;
  Fd inner_;
  Fd timer_;
  std::vector<Watched> watched_;
  std::vector<Watched> next_;
  Time timer_at_ = Time::max();  // max: off; min: at once
  bool is_stale_ = true;
};

}  // namespace dmaflow::detail
