#include <dmaflow/cancel.hpp>

#include "cancellable.hpp"

#include <array>
#include <cerrno>
#include <cstdint>

#include <sys/eventfd.h>

namespace dmaflow {

Result<Cancel> Cancel::create() noexcept {
  const int event = sys::eventfd(EFD_CLOEXEC | EFD_NONBLOCK);
  if (event < 0) return std::unexpected(Error::os(-event, "eventfd"));
  return Cancel(Fd::adopt(event));
}

void Cancel::cancel() const noexcept {
  const std::uint64_t one = 1;
  sys::write(event_.get(), &one, sizeof one);  // EAGAIN: its counter is full, so it is set
}

void Cancel::reset() const noexcept {
  std::uint64_t count = 0;
  sys::read(event_.get(), &count, sizeof count);  // EAGAIN: it was not set
}

bool Cancel::is_set() const noexcept { return sys::wait(event_.get(), POLLIN, Deadline::immediate()) > 0; }

namespace detail {

int wait(int fd, short events, Deadline deadline, const Cancel* cancel) noexcept {
  if (cancel == nullptr) return sys::wait(fd, events, deadline);
  std::array<pollfd, 2> fds{pollfd{.fd = fd, .events = events, .revents = 0},
                            pollfd{.fd = cancel->poll_fd(), .events = POLLIN, .revents = 0}};
  const int ready = sys::wait(fds, deadline);
  if (ready <= 0) return ready;
  return fds[0].revents != 0 ? fds[0].revents : -ECANCELED;
}

}  // namespace detail
}  // namespace dmaflow
