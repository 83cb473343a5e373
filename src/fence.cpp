#include <dmaflow/fence.hpp>

#include "sys/sys.hpp"

#include <cerrno>

#include <linux/sync_file.h>

namespace dmaflow {
namespace {

/// The state of a sync_file as its driver reports it: 1 signalled, 0 active, negative errno failed.
/// include/uapi/linux/sync_file.h; num_fences = 0 asks for the state alone.
Result<int> file_status(int fd) noexcept {
  sync_file_info info{};
  if (const int result = sys::ioctl(fd, SYNC_IOC_FILE_INFO, &info); result < 0) {
    return std::unexpected(Error::os(-result, "SYNC_IOC_FILE_INFO").detail("descriptor %d", fd));
  }
  return info.status;
}

}  // namespace

Result<Fence> Fence::adopt(Fd& fd) noexcept {
  if (auto status = file_status(fd.get()); !status) {
    if (status.error().code() != ENOTTY) return std::unexpected(status.error());
    return std::unexpected(
        Error::os(EINVAL, "SYNC_IOC_FILE_INFO").detail("descriptor %d is not a sync_file", fd.get()));
  }
  return Fence(std::move(fd));
}

Result<Fence::Status> Fence::status() const noexcept {
  if (is_null()) return Status::signalled;
  const auto status = file_status(fd_.get());
  if (!status) return std::unexpected(status.error());
  if (*status == 0) return Status::active;
  return *status > 0 ? Status::signalled : Status::failed;
}

Result<void> Fence::wait(Deadline deadline) const noexcept {
  if (is_null()) return {};
  while (true) {
    const auto status = file_status(fd_.get());
    if (!status) return std::unexpected(status.error());
    if (*status > 0) return {};
    if (*status < 0) return std::unexpected(Error::os(-*status, "Fence::wait").detail("the fence ended with an error"));
    const int ready = sys::wait(fd_.get(), POLLIN, deadline);
    if (ready < 0) return std::unexpected(Error::os(-ready, "ppoll"));
    if (ready == 0) return std::unexpected(Error::os(ETIMEDOUT, "Fence::wait").detail("not signalled by the deadline"));
  }
}

}  // namespace dmaflow
