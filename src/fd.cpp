#include <dmaflow/fd.hpp>

#include "sys/sys.hpp"

namespace dmaflow {

Result<Fd> Fd::dup_of(int fd) noexcept {
  const int copy = sys::dup(fd);
  if (copy < 0) return std::unexpected(Error::os(-copy, "fcntl(F_DUPFD_CLOEXEC)").detail("of descriptor %d", fd));
  return Fd(copy);
}

void Fd::reset() noexcept {
  if (const int fd = release(); fd >= 0) sys::close(fd);
}

}  // namespace dmaflow
