// Event: an eventfd with which one thread wakes the loop of another.
#pragma once

#include "sys/sys.hpp"

#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <cstdint>
#include <string_view>
#include <utility>

#include <sys/eventfd.h>

namespace dmaflow::detail {

/// signal() may be called from any thread, as long as the object lives.
class Event {
 public:
  /// @p owner: for the error. Errors: EMFILE, ENFILE, ENOMEM (eventfd(2)).
  [[nodiscard]] static Result<Event> create(std::string_view owner) {
    const int made = sys::eventfd(EFD_CLOEXEC | EFD_NONBLOCK);
    if (made < 0) return std::unexpected(Error::os(-made, "eventfd", owner));
    return Event(Fd::adopt(made));
  }

  /// Readable (POLLIN) from signal() to clear().
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  void signal() const noexcept {
    const std::uint64_t one = 1;
    static_cast<void>(sys::write(fd_.get(), &one, sizeof one));  // cannot fail: the counter stays far below its maximum
  }
  void clear() const noexcept {
    std::uint64_t count = 0;
    static_cast<void>(sys::read(fd_.get(), &count, sizeof count));
  }

 private:
  explicit Event(Fd fd) noexcept : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace dmaflow::detail
