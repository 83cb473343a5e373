#include "epoll_set.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace dmaflow::detail {
namespace {

static_assert(EPOLLIN == POLLIN && EPOLLPRI == POLLPRI && EPOLLOUT == POLLOUT && EPOLLERR == POLLERR &&
              EPOLLHUP == POLLHUP);

constexpr std::uint32_t bits(short events) noexcept { return static_cast<std::uint16_t>(events); }

Result<Fd> opened(int number, const char* operation) {
  if (number < 0) return std::unexpected(Error::os(-number, operation));
  return Fd::adopt(number);
}

}  // namespace

Result<EpollSet> EpollSet::create() {
  EpollSet set;
  auto outer = opened(sys::epoll_create(), "epoll_create1");
  if (!outer) return std::unexpected(outer.error());
  auto timer = opened(sys::timerfd_create(), "timerfd_create");
  if (!timer) return std::unexpected(timer.error());
  if (const int result = sys::epoll_ctl(outer->get(), EPOLL_CTL_ADD, timer->get(), EPOLLIN, 0); result < 0)
    return std::unexpected(Error::os(-result, "epoll_ctl"));
  set.outer_ = std::move(*outer);
  set.timer_ = std::move(*timer);
  return set;
}

// The old one is closed here, and nobody else has it open, so the kernel removes it from the outer one.
Result<void> EpollSet::renew() {
  auto inner = opened(sys::epoll_create(), "epoll_create1");
  if (!inner) return std::unexpected(inner.error());
  if (const int result = sys::epoll_ctl(outer_.get(), EPOLL_CTL_ADD, inner->get(), EPOLLIN, 0); result < 0)
    return std::unexpected(Error::os(-result, "epoll_ctl"));
  inner_ = std::move(*inner);
  watched_.clear();
  is_stale_ = false;
  return {};
}

// The descriptor may already be closed; then there is nothing to remove.
void EpollSet::remove(int fd) const noexcept {
  static_cast<void>(sys::epoll_ctl(inner_.get(), EPOLL_CTL_DEL, fd, 0, 0));
}

Result<void> EpollSet::set(std::span<const Wanted> wanted, Time wake, bool at_once) {
  if (is_stale_) {
    if (auto renewed = renew(); !renewed) return renewed;
  }
  next_.clear();
  for (const Wanted& one : wanted) {
    const auto found = std::ranges::find(next_, one.fd, &Watched::fd);
    if (found == next_.end()) {
      next_.push_back({.fd = one.fd, .events = bits(one.events), .may_be_other = one.may_be_other});
    } else {
      found->events |= bits(one.events);
      found->may_be_other |= one.may_be_other;
    }
  }
  for (const Watched& old : watched_) {
    if (std::ranges::find(next_, old.fd, &Watched::fd) == next_.end()) remove(old.fd);
  }
  Result<void> result;
  for (auto one = next_.begin(); one != next_.end();) {
    const auto known = std::ranges::find(watched_, one->fd, &Watched::fd);
    if (known == watched_.end() || known->events != one->events) {
      const int operation = known == watched_.end() ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
      const int done =
          sys::epoll_ctl(inner_.get(), operation, one->fd, one->events, static_cast<std::uint64_t>(one->fd));
      if (done < 0) {
        if (result) result = std::unexpected(Error::os(-done, "epoll_ctl").detail("descriptor %d", one->fd));
        one = next_.erase(one);
        continue;
      }
    }
    ++one;
  }
  std::swap(watched_, next_);
  if (auto timed = set_timer(at_once ? Time::min() : wake); result && !timed) return timed;
  return result;
}

Result<void> EpollSet::look(std::span<pollfd> polls) {
  std::array<epoll_event, 32> events{};  // further events are reported the next time
  const int count = is_stale_ ? 0 : sys::epoll_look(inner_.get(), events);
  if (count < 0) return std::unexpected(Error::os(-count, "epoll_wait"));
  for (pollfd& poll : polls) poll.revents = 0;
  for (const epoll_event& event : std::span(events).first(static_cast<std::size_t>(count))) {
    for (pollfd& poll : polls) {
      if (static_cast<std::uint64_t>(poll.fd) != event.data.u64) continue;
      poll.revents = static_cast<short>(event.events & (bits(poll.events) | EPOLLERR | EPOLLHUP));
    }
  }
  for (const Watched& one : watched_) {
    if (one.may_be_other) remove(one.fd);
  }
  std::erase_if(watched_, [](const Watched& one) { return one.may_be_other; });
  return {};
}

Result<void> EpollSet::set_timer(Time at) {
  if (at == timer_at_) return {};
  const Deadline deadline = Deadline::at(at);
  const int result = sys::timerfd_set(timer_.get(), at == Time::max() ? nullptr : &deadline);
  if (result < 0) return std::unexpected(Error::os(-result, "timerfd_settime"));
  timer_at_ = at;
  return {};
}

}  // namespace dmaflow::detail
