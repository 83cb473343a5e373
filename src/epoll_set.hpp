// EpollSet: one descriptor that reports what a poll() of many would, for a program that has a loop of its own.
#pragma once

#include "sys/sys.hpp"

#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace dmaflow::detail {

/// Makes a system call only where the set differs from the one before. The descriptor that users get holds a timer and
/// a second epoll descriptor, which holds those of the devices. That one is made anew after devices were
/// stopped: what a closed descriptor leaves registered, where its file lives on elsewhere, can be removed in no other
/// way (epoll(7), "Will closing a file descriptor cause it to be removed").
class EpollSet {
 public:
  using Time = Deadline::Clock::time_point;
  /// A descriptor to wait for.
  struct Wanted {
    int fd = -1;
    short events = 0;           ///< as for poll()
    bool may_be_other = false;  ///< its number may stand for another file the next time: a fence's
  };

  static Result<EpollSet> create();
  /// Readable while there is something to do. Constant.
  [[nodiscard]] int fd() const noexcept { return outer_.get(); }

  /// Waits for these from now on, and for @p wake. @p at_once: there is something to do already. A number may come
  /// several times. Errors: those of epoll_ctl(), e.g. EPERM for a descriptor that cannot be waited for.
  Result<void> set(std::span<const Wanted> wanted, Time wake, bool at_once);
  /// Fills in what is ready, as poll() would. It also removes those that may be closed, and their numbers used again,
  /// by the next set().
  Result<void> look(std::span<pollfd> polls);
  /// Devices were stopped: any descriptor may have been closed, and its number used again.
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
